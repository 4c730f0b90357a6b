use plimsoll_api::duration::GoDuration;
use serde_json::{Value, json};

use super::*;

struct Given {
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
    dns: Vec<String>,
    kubelet: KubeletConfiguration,
}

impl Given {
    fn new() -> Self {
        let text = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
        };
        Self {
            labels: text(&[
                ("karpenter.sh/nodepool", "general"),
                ("karpenter.sh/capacity-type", "spot"),
                ("topology.kubernetes.io/zone", "us-east-1a"),
                ("node-role.kubernetes.io/x", "y"),
                ("team", "a"),
            ]),
            taints: vec![Taint {
                key: "dedicated".into(),
                value: Some("gpu".into()),
                effect: "NoSchedule".into(),
                time_added: None,
            }],
            dns: vec!["172.20.0.10".into()],
            kubelet: KubeletConfiguration {
                kube_reserved: Some(text(&[("memory", "1Gi"), ("cpu", "100m")])),
                eviction_soft: Some(text(&[("memory.available", "5%")])),
                eviction_soft_grace_period: Some(
                    [(
                        "memory.available".to_owned(),
                        "1m0s".parse::<GoDuration>().unwrap(),
                    )]
                    .into(),
                ),
                cpu_cfs_quota: Some(true),
                ..KubeletConfiguration::default()
            },
        }
    }

    fn bootstrap<'a>(&'a self, family: AMIFamily, custom: Option<&'a str>) -> Bootstrap<'a> {
        Bootstrap {
            family,
            cluster_name: "prod",
            endpoint: "https://api.example",
            ca_bundle: "Q0E=",
            service_cidr: Some("172.20.0.0/16"),
            cluster_dns: &self.dns,
            labels: &self.labels,
            taints: &self.taints,
            kubelet: Some(&self.kubelet),
            max_pods: 29,
            raid0: true,
            custom,
        }
    }
}

fn made(family: AMIFamily, custom: Option<&str>) -> String {
    user_data(&Given::new().bootstrap(family, custom)).unwrap()
}

/// The body of the last part.
fn last_body(text: &str) -> String {
    let parts = mime::parts(text).unwrap();
    parts
        .last()
        .unwrap()
        .text
        .split_once("\n\n")
        .unwrap()
        .1
        .to_owned()
}

const LABELS: &str = "karpenter.sh/capacity-type=spot,karpenter.sh/do-not-sync-taints=true,karpenter.sh/nodepool=general,team=a";

#[test]
fn al2023_gets_a_node_config() {
    let config: Value = serde_saphyr::from_str(&last_body(&made(AMIFamily::AL2023, None))).unwrap();
    assert_eq!(config["apiVersion"], "node.eks.aws/v1alpha1");
    let spec = &config["spec"];
    let cluster = json!({
        "name": "prod", "apiServerEndpoint": "https://api.example",
        "certificateAuthority": "Q0E=", "cidr": "172.20.0.0/16",
    });
    assert_eq!(spec["cluster"], cluster);
    assert_eq!(
        spec["kubelet"]["flags"],
        json!([format!("--node-labels={LABELS}")])
    );
    let kubelet = json!({
        "maxPods": 29, "clusterDNS": ["172.20.0.10"], "cpuCFSQuota": true,
        "kubeReserved": { "memory": "1Gi", "cpu": "100m" },
        "evictionSoft": { "memory.available": "5%" },
        "evictionSoftGracePeriod": { "memory.available": "1m0s" },
        "registerWithTaints": [
            { "key": "dedicated", "value": "gpu", "effect": "NoSchedule" },
            { "key": "karpenter.sh/unregistered", "effect": "NoExecute" },
        ],
    });
    assert_eq!(spec["kubelet"]["config"], kubelet);
    assert_eq!(spec["instance"]["localStorage"]["strategy"], "RAID0");
}

#[test]
fn the_users_part_comes_before_ours_in_its_own_form() {
    let config = "apiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig\nspec: {}\n";
    let multipart = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"B\"\n\n--B\nContent-Type: text/plain\n\none\n--B\nContent-Type: text/x\n\ntwo\n--B--\n";
    for (custom, types) in [
        ("#!/bin/sh\necho hello", vec!["text/x-shellscript"]),
        (config, vec!["application/node.eks.aws"]),
        (multipart, vec!["text/plain", "text/x"]),
    ] {
        let parts = mime::parts(&made(AMIFamily::AL2023, Some(custom))).unwrap();
        assert_eq!(parts.len(), types.len() + 1, "{custom}");
        for (part, of_type) in parts.iter().zip(types) {
            assert!(
                part.text.starts_with(&format!("Content-Type: {of_type}")),
                "{}",
                part.text
            );
        }
        assert!(parts.last().unwrap().text.contains("apiServerEndpoint"));
    }
    let broken = "MIME-Version: 1.0\nContent-Type: multipart/mixed\n\n--B\n";
    let given = Given::new();
    let error = user_data(&given.bootstrap(AMIFamily::AL2023, Some(broken))).unwrap_err();
    assert!(matches!(error, UserDataError::Mime(_)), "{error}");
}

#[test]
fn a_boundary_never_occurs_in_a_part() {
    let tricky = "echo '--//'\n--//\necho done";
    let parts = mime::parts(&made(AMIFamily::AL2023, Some(tricky))).unwrap();
    assert_eq!(parts.len(), 2);
    assert!(parts[0].text.contains("echo done"));
}

#[test]
fn al2_calls_the_bootstrap_script() {
    let script = last_body(&made(AMIFamily::AL2, None));
    for expected in [
        "/etc/eks/bootstrap.sh 'prod' --apiserver-endpoint 'https://api.example' --b64-cluster-ca 'Q0E='",
        "--dns-cluster-ip '172.20.0.10'",
        "--use-max-pods false",
        "--local-disks raid0",
        &format!("--node-labels=\"{LABELS}\""),
        "--register-with-taints=\"dedicated=gpu:NoSchedule,karpenter.sh/unregistered=:NoExecute\"",
        "--max-pods=29",
        "--kube-reserved=\"cpu=100m,memory=1Gi\"",
        "--eviction-soft=\"memory.available<5%\"",
        "--eviction-soft-grace-period=\"memory.available=1m0s\"",
        "--cpu-cfs-quota=true",
    ] {
        assert!(script.contains(expected), "{expected} is not in {script}");
    }
    assert!(!script.contains("ip-family"));
}

#[test]
fn bottlerocket_keeps_the_users_settings_under_ours() {
    let custom = "[settings.kubernetes]\napi-server = \"forged\"\nserver-tls-bootstrap = false\n\
                  [settings.kubernetes.node-labels]\nmine = \"kept\"\n[settings.host-containers.admin]\nenabled = true\n";
    let document: toml::Table = toml::from_str(&made(AMIFamily::Bottlerocket, Some(custom))).unwrap();
    let settings = document["settings"].as_table().unwrap();
    assert_eq!(
        settings["host-containers"]["admin"]["enabled"].as_bool(),
        Some(true)
    );
    let kubernetes = &settings["kubernetes"];
    assert_eq!(kubernetes["api-server"].as_str(), Some("https://api.example"));
    assert_eq!(kubernetes["server-tls-bootstrap"].as_bool(), Some(false));
    assert_eq!(kubernetes["node-labels"]["mine"].as_str(), Some("kept"));
    assert_eq!(kubernetes["node-labels"]["team"].as_str(), Some("a"));
    assert_eq!(kubernetes["max-pods"].as_integer(), Some(29));
    assert_eq!(kubernetes["cluster-dns-ip"].as_str(), Some("172.20.0.10"));
    assert_eq!(kubernetes["kube-reserved"]["cpu"].as_str(), Some("100m"));
    assert_eq!(
        kubernetes["node-taints"]["dedicated"].as_array().unwrap()[0].as_str(),
        Some("gpu:NoSchedule")
    );
    assert_eq!(
        kubernetes["node-taints"]["karpenter.sh/unregistered"]
            .as_array()
            .unwrap()[0]
            .as_str(),
        Some(":NoExecute")
    );
    let command = &settings["bootstrap-commands"]["000-mount-instance-storage"];
    assert_eq!(command["mode"].as_str(), Some("always"));
    let given = Given::new();
    let error = user_data(&given.bootstrap(AMIFamily::Bottlerocket, Some("not toml"))).unwrap_err();
    assert!(matches!(error, UserDataError::Toml(_)), "{error}");
}

#[test]
fn custom_is_taken_as_it_is_and_limits_hold() {
    assert_eq!(
        made(AMIFamily::Custom, Some("#!/bin/sh\r\ntrue")),
        "#!/bin/sh\ntrue"
    );
    let given = Given::new();
    let long = "x".repeat(BYTES_MAX + 1);
    let error = user_data(&given.bootstrap(AMIFamily::Custom, Some(&long))).unwrap_err();
    assert!(error.to_string().contains("16385 bytes"), "{error}");
    assert!(user_data(&given.bootstrap(AMIFamily::Windows2022, None)).is_err());
    let without_cidr = Bootstrap {
        service_cidr: None,
        ..given.bootstrap(AMIFamily::AL2023, None)
    };
    assert!(matches!(
        user_data(&without_cidr),
        Err(UserDataError::NoServiceCidr)
    ));
}

#[test]
fn the_same_settings_give_the_same_bytes() {
    for family in [AMIFamily::AL2023, AMIFamily::AL2, AMIFamily::Bottlerocket] {
        assert_eq!(made(family, None), made(family, None));
    }
}
