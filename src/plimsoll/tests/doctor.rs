//! `plimsoll doctor` against an API server with an installation of the chart: what its tables say is found right, and
//! what differs from them is named.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the makers of test objects are tests too"
)]

mod stand_in;

use std::path::PathBuf;

use serde_json::{Value, json};

use stand_in::{Answer, ApiServer, Scratch, failure, plimsoll};

/// Rules for the whole cluster, as the chart gives them.
fn rules(file: &str) -> Vec<Value> {
    let rights =
        PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../../charts/plimsoll/rights");
    let text = std::fs::read_to_string(rights.join(format!("{file}.yaml"))).unwrap();
    let rules: Value = serde_saphyr::from_str(&text).unwrap();
    rules["cluster"].as_array().unwrap().clone()
}

/// A cluster with one installation.
#[derive(Clone)]
struct Cluster {
    environment: Vec<Value>,
    rules: Vec<Value>,
    /// Kinds that are served, by group.
    kinds: Vec<(&'static str, &'static str, Vec<&'static str>)>,
    /// A resource the account may do nothing with.
    denied: &'static str,
}

/// As `helm install --set mode=automate --set settings.provider=PROVIDER` leaves it.
fn automate(provider: &str, node_class: (&'static str, &'static str, &'static str)) -> Cluster {
    let (group, version, plural) = node_class;
    Cluster {
        environment: vec![
            json!({ "name": "MODE", "value": "automate" }),
            json!({ "name": "PROVIDER", "value": provider }),
            json!({ "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }),
        ],
        rules: [rules("automate"), rules(provider)].concat(),
        kinds: vec![
            ("karpenter.sh", "v1", vec!["nodepools", "nodeclaims"]),
            ("plimsoll.dev", "v1alpha1", vec!["reports"]),
            (group, version, vec![plural]),
        ],
        denied: "",
    }
}

fn on_aws() -> Cluster {
    automate("aws", ("karpenter.k8s.aws", "v1", "ec2nodeclasses"))
}

impl Cluster {
    fn answer(&self, method: &str, target: &str, body: &Value) -> Answer {
        let path = target.split('?').next().unwrap();
        let labels =
            json!({ "app.kubernetes.io/name": "plimsoll", "app.kubernetes.io/instance": "plimsoll" });
        let list = |api_version: &str, items: Value| {
            (
                200,
                json!({ "kind": "List", "apiVersion": api_version, "metadata": {}, "items": items }),
            )
        };
        match (method, path) {
            ("GET", "/version") => (
                200,
                json!({ "gitVersion": "v1.36.0", "major": "1", "minor": "36" }),
            ),
            ("GET", "/apis/apps/v1/deployments") => list(
                "apps/v1",
                json!([{
                    "metadata": { "name": "plimsoll", "namespace": "plimsoll", "labels": labels },
                    "spec": { "replicas": 2, "selector": {}, "template": {
                        "metadata": { "labels": labels },
                        "spec": { "containers": [{ "name": "controller", "env": self.environment }] } } },
                }]),
            ),
            ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles") => list(
                "rbac.authorization.k8s.io/v1",
                json!([{ "metadata": { "name": "plimsoll", "labels": labels }, "rules": self.rules }]),
            ),
            ("GET", "/apis/networking.k8s.io/v1/namespaces/plimsoll/networkpolicies") => list(
                "networking.k8s.io/v1",
                json!([{ "metadata": { "name": "plimsoll" }, "spec": { "podSelector": { "matchLabels": labels } } }]),
            ),
            ("GET", "/api/v1/pods") => list("v1", json!([])),
            ("GET", "/apis/karpenter.sh/v1/nodepools") => list("karpenter.sh/v1", json!([])),
            ("GET", "/apis") => {
                let groups = self.kinds.iter().map(|(group, version, _)| {
                    let version = json!({ "groupVersion": format!("{group}/{version}"), "version": version });
                    json!({ "name": group, "versions": [version], "preferredVersion": version })
                });
                let groups: Vec<Value> = groups.collect();
                (
                    200,
                    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }),
                )
            }
            ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews") => {
                let mut review = body.clone();
                review["status"] =
                    json!({ "allowed": body["spec"]["resourceAttributes"]["resource"] != self.denied });
                (201, review)
            }
            _ => {
                let group = |(group, version, _): &&(&str, &str, Vec<&str>)| {
                    path == format!("/apis/{group}/{version}")
                };
                let Some((group, version, plurals)) = self.kinds.iter().find(group) else {
                    return failure(404);
                };
                let resources: Vec<Value> = plurals
                    .iter()
                    .map(|name| json!({ "name": name, "singularName": "", "namespaced": false, "kind": "K", "verbs": [] }))
                    .collect();
                (
                    200,
                    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{group}/{version}"),
                        "resources": resources }),
                )
            }
        }
    }

    /// What the doctor says: whether nothing failed, and each finding as (verdict, sentence).
    fn doctor(&self, name: &str) -> (bool, Vec<(String, String)>) {
        let scratch = Scratch::new(name);
        let cluster = self.clone();
        let server = ApiServer::start(&scratch, move |method, target, body| {
            cluster.answer(method, target, body)
        });
        let output = plimsoll(Some(&server.kubeconfig), &["doctor", "--json"]);
        let asked = server.asked.lock().unwrap();
        let looks = |line: &String| line.starts_with("GET ") || line.ends_with("/selfsubjectaccessreviews?");
        assert!(asked.len() > 10 && asked.iter().all(looks), "{asked:#?}");
        let findings: Vec<Value> = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        let text = |finding: &Value, field: &str| finding[field].as_str().unwrap().to_owned();
        let findings = findings.iter().map(|f| (text(f, "verdict"), text(f, "says")));
        (output.status.success(), findings.collect())
    }
}

/// The finding that says this.
fn saying<'a>(findings: &'a [(String, String)], part: &str) -> &'a (String, String) {
    let found = findings.iter().find(|(_, says)| says.contains(part));
    found.unwrap_or_else(|| panic!("nothing says {part:?}: {findings:#?}"))
}

#[test]
fn an_installation_with_the_rights_of_its_provider_passes() {
    let on_kwok = automate("kwok", ("karpenter.kwok.sh", "v1alpha1", "kwoknodeclasses"));
    for (provider, node_class, cluster) in [
        ("aws", "ec2nodeclasses.karpenter.k8s.aws v1", on_aws()),
        ("kwok", "kwoknodeclasses.karpenter.kwok.sh v1alpha1", on_kwok),
    ] {
        let (healthy, findings) = cluster.doctor(&format!("doctor-{provider}"));
        assert!(healthy, "{provider}: {findings:#?}");
        assert!(
            findings.iter().all(|(verdict, _)| verdict != "fail"),
            "{findings:#?}"
        );
        for passes in [
            "3. plimsoll: mode automate",
            "7. plimsoll: its ClusterRole holds nothing beyond",
            node_class,
        ] {
            assert_eq!(saying(&findings, passes).0, "pass", "{provider}: {passes}");
        }
    }
}

#[test]
fn an_adviser_is_held_against_the_table_of_its_mode() {
    let mut cluster = on_aws();
    cluster.environment = vec![json!({ "name": "MODE", "value": "advise" })];
    cluster.rules = rules("advise");
    cluster.kinds[1] = ("plimsoll.dev", "v1alpha1", vec!["reports", "plans"]);
    let (healthy, findings) = cluster.doctor("doctor-advise");
    assert!(healthy, "{findings:#?}");
    for passes in [
        "rights of mode advise",
        "3. plimsoll: mode advise",
        "7. plimsoll: its ClusterRole holds nothing beyond",
        "plans.plimsoll.dev v1alpha1",
    ] {
        assert_eq!(saying(&findings, passes).0, "pass", "{passes}");
    }
    cluster.denied = "plans";
    let (healthy, findings) = cluster.doctor("doctor-advise-denied");
    assert!(!healthy);
    assert_eq!(saying(&findings, "mode advise: may not create plans").0, "fail");
}

#[test]
fn rights_beyond_those_of_the_provider_are_named() {
    let mut cluster = on_aws();
    cluster
        .rules
        .push(json!({ "apiGroups": [""], "resources": ["secrets"], "verbs": ["list"] }));
    let (healthy, findings) = cluster.doctor("doctor-beyond");
    assert!(!healthy);
    let (verdict, says) = saying(&findings, "7. plimsoll");
    assert_eq!(verdict, "fail");
    assert!(says.ends_with("table of its mode: list secrets"), "{says}");
}

#[test]
fn rights_of_the_provider_that_are_missing_fail() {
    let mut cluster = on_aws();
    cluster.denied = "ec2nodeclasses";
    let (healthy, findings) = cluster.doctor("doctor-denied");
    assert!(!healthy);
    let (verdict, _) = saying(
        &findings,
        "mode automate: may not patch ec2nodeclasses (karpenter.k8s.aws)",
    );
    assert_eq!(verdict, "fail");
}

#[test]
fn a_node_class_that_is_not_installed_fails() {
    let mut cluster = on_aws();
    cluster.kinds.retain(|(group, ..)| *group != "karpenter.k8s.aws");
    let (healthy, findings) = cluster.doctor("doctor-class");
    assert!(!healthy);
    assert_eq!(
        saying(&findings, "ec2nodeclasses.karpenter.k8s.aws is not installed").0,
        "fail"
    );
}

#[test]
fn secrets_of_the_deployment_are_told_by_where_they_stand() {
    let mut cluster = on_aws();
    cluster
        .environment
        .push(json!({ "name": "AWS_SECRET_ACCESS_KEY", "value": "x" }));
    let (_, findings) = cluster.doctor("doctor-literal");
    let (verdict, says) = saying(&findings, "8. plimsoll");
    assert_eq!(verdict, "fail");
    assert!(
        says.ends_with("the chart's values: AWS_SECRET_ACCESS_KEY"),
        "{says}"
    );

    let mut cluster = on_aws();
    cluster.environment.push(
        json!({ "name": "AWS_SECRET_ACCESS_KEY", "valueFrom": { "secretKeyRef": { "name": "keys", "key": "k" } } }),
    );
    let (_, findings) = cluster.doctor("doctor-reference");
    // It is a key that does not expire, wherever it comes from.
    assert_eq!(saying(&findings, "1. plimsoll").0, "fail");
    let (verdict, says) = saying(&findings, "8. plimsoll");
    assert_eq!(verdict, "pass");
    assert!(
        says.ends_with("from Secrets come AWS_SECRET_ACCESS_KEY"),
        "{says}"
    );
}
