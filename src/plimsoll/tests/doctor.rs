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
    /// Bindings besides the chart's: for the cluster, and of namespaces.
    bindings: [Vec<Value>; 2],
    /// Whether there is an installation at all.
    installed: bool,
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
        bindings: [Vec::new(), Vec::new()],
        installed: true,
        kinds: vec![
            ("karpenter.sh", "v1", vec!["nodepools", "nodeclaims"]),
            ("plimsoll.dev", "v1alpha1", vec!["reports"]),
            (group, version, vec![plural]),
        ],
        denied: "",
    }
}

/// Of a ClusterRole to a service account of the namespace plimsoll.
fn binding(name: &str, role: &str, account: &str) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "plimsoll" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [{ "kind": "ServiceAccount", "namespace": "plimsoll", "name": account }],
    })
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
                if self.installed {
                    json!([{
                        "metadata": { "name": "plimsoll", "namespace": "plimsoll", "labels": labels },
                        "spec": { "replicas": 2, "selector": {}, "template": {
                            "metadata": { "labels": labels },
                            "spec": { "serviceAccountName": "plimsoll",
                                "containers": [{ "name": "controller", "env": self.environment }] } } },
                    }])
                } else {
                    json!([])
                },
            ),
            ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings") => list(
                "rbac.authorization.k8s.io/v1",
                json!([&[binding("plimsoll", "plimsoll", "plimsoll")], &*self.bindings[0]].concat()),
            ),
            ("GET", "/apis/rbac.authorization.k8s.io/v1/rolebindings") => {
                list("rbac.authorization.k8s.io/v1", json!(self.bindings[1]))
            }
            ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/plimsoll") => (
                200,
                json!({ "metadata": { "name": "plimsoll" }, "rules": self.rules }),
            ),
            ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin") => (
                200,
                json!({ "metadata": { "name": "cluster-admin" }, "rules": [
                    { "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] },
                    { "nonResourceURLs": ["*"], "verbs": ["*"] }] }),
            ),
            ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/reader-of-secrets") => (
                200,
                json!({ "metadata": { "name": "reader-of-secrets" }, "rules": [
                    { "apiGroups": [""], "resources": ["secrets"], "verbs": ["get"] },
                    { "apiGroups": [""], "resources": ["pods"], "verbs": ["list"] }] }),
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
            "7. plimsoll: its account is granted nothing beyond",
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
        "7. plimsoll: its account is granted nothing beyond",
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
    assert!(
        says.ends_with(
            "table of its mode: list secrets (by ClusterRoleBinding plimsoll, ClusterRole plimsoll)"
        ),
        "{says}"
    );
}

#[test]
fn what_other_bindings_grant_the_account_is_named() {
    let mut cluster = on_aws();
    // One of somebody else, and one that every cluster is made with.
    let mut everybody = binding("system:basic-user", "cluster-admin", "");
    everybody["metadata"]["labels"] = json!({ "kubernetes.io/bootstrapping": "rbac-defaults" });
    everybody["subjects"] = json!([{ "kind": "Group", "name": "system:authenticated" }]);
    let other = binding("plimsoll-approvers", "cluster-admin", "somebody");
    cluster.bindings[0] = vec![everybody.clone(), other];
    let (healthy, findings) = cluster.doctor("doctor-others");
    assert!(healthy, "{findings:#?}");

    let mut labelled = binding("helper", "cluster-admin", "plimsoll");
    labelled["metadata"]["labels"] = everybody["metadata"]["labels"].take();
    for (test, at, more, named) in [
        (
            "admin",
            0,
            binding("helper", "cluster-admin", "plimsoll"),
            "* * (*), path * (by ClusterRoleBinding helper, ClusterRole cluster-admin)",
        ),
        (
            "labelled",
            0,
            labelled,
            "* * (*), path * (by ClusterRoleBinding helper, ClusterRole cluster-admin)",
        ),
        (
            "everybody",
            0,
            everybody,
            "* * (*), path * (by ClusterRoleBinding system:basic-user, ClusterRole cluster-admin)",
        ),
        (
            "secrets",
            1,
            binding("helper", "reader-of-secrets", "plimsoll"),
            "get secrets (by RoleBinding plimsoll/helper, ClusterRole reader-of-secrets)",
        ),
    ] {
        let mut cluster = on_aws();
        cluster.bindings[at].push(more);
        let (healthy, findings) = cluster.doctor(&format!("doctor-{test}"));
        assert!(!healthy);
        assert_eq!(saying(&findings, "3. plimsoll").0, "fail", "{test}");
        let (verdict, says) = saying(&findings, "7. plimsoll");
        assert_eq!(verdict, "fail", "{test}");
        assert!(says.ends_with(&format!("table of its mode: {named}")), "{says}");
    }
}

#[test]
fn who_has_installed_nothing_needs_the_rights_of_reports_alone() {
    let mut cluster = on_aws();
    cluster.installed = false;
    cluster.denied = "leases";
    let (healthy, findings) = cluster.doctor("doctor-reader");
    assert!(healthy, "{findings:#?}");
    assert_eq!(saying(&findings, "has all 12 rights of reports").0, "pass");

    cluster.denied = "poddisruptionbudgets";
    let (healthy, findings) = cluster.doctor("doctor-no-budgets");
    assert!(healthy, "{findings:#?}");
    assert_eq!(saying(&findings, "may not list poddisruptionbudgets").0, "warn");

    cluster.denied = "nodes";
    let (healthy, findings) = cluster.doctor("doctor-no-nodes");
    assert!(!healthy);
    assert_eq!(saying(&findings, "may not list nodes").0, "fail");
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
