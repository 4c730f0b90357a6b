//! Reason codes are provoked one by one, and the answers name the objects and numbers of the case.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the makers of test objects are tests too"
)]

use std::collections::BTreeSet;

use jiff::Timestamp;
use plimsoll_core::{
    catalog::MicroDollars,
    policy::{MinValuesPolicy, Policy, PreferencePolicy},
};
use plimsoll_report::{ExplainError, Prices, dump, explain, kinds, reasons, redact};
use plimsoll_state::Index;
use serde_json::{Value, json};

fn now() -> Timestamp {
    "2026-01-05T12:00:00Z".parse().unwrap()
}

fn ask(items: &[Value], subject: &str) -> Result<String, ExplainError> {
    ask_when(items, |_| (), subject)
}

/// The same, of a cluster to which something happened that no object shows.
fn ask_when(items: &[Value], happened: impl Fn(&mut Index), subject: &str) -> Result<String, ExplainError> {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    let mut dump = dump::read(list.to_string().as_bytes()).unwrap();
    assert_eq!(dump.unreadable, Vec::<String>::new());
    happened(&mut dump.index);
    let policy = Policy {
        preferences: PreferencePolicy::Respect,
        min_values: MinValuesPolicy::Strict,
        nomination: true,
        steps_max: 100,
        types_per_launch_max: 60,
        interruption_cost: MicroDollars(0),
    };
    explain(
        &dump.index,
        &Prices::Aws,
        &policy,
        now(),
        &subject.parse().unwrap(),
    )
}

fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch,
    }
}

fn changed(mut object: Value, patch: Value) -> Value {
    merge(&mut object, patch);
    object
}

fn pool(patch: Value) -> Value {
    let pool = json!({
        "apiVersion": "karpenter.sh/v1", "kind": "NodePool", "metadata": { "name": "default", "uid": "pool" },
        "spec": {
            "disruption": { "consolidateAfter": "30s", "budgets": [{ "nodes": "1" }] },
            "template": { "spec": {
                "requirements": [
                    { "key": "topology.kubernetes.io/zone", "operator": "In", "values": ["us-east-1a"] },
                    { "key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"] },
                    { "key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand"] },
                ],
                "nodeClassRef": { "group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default" },
            } },
        },
        "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "Ready", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z" }] },
    });
    changed(pool, patch)
}

fn waiting(patch: Value) -> Value {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "p", "namespace": "n", "uid": "p", "labels": { "app": "p" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "p", "uid": "o" }] },
        "spec": { "containers": [{ "resources": { "requests": { "cpu": "1", "memory": "2Gi" } } }] },
        "status": { "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable" }] },
    });
    changed(pod, patch)
}

/// An answer names the code, the numbers of the case, and what can be done.
fn check(code: &str, detail: &str, known: &[reasons::Code], answer: &str) {
    let known = known.iter().find(|c| c.name == code).unwrap();
    assert!(answer.contains(&format!(" {code}: ")), "{code}: {answer}");
    assert!(
        answer.contains(detail) && answer.contains(known.fix),
        "{code}: {answer}"
    );
}

/// Each code of the documentation has a case here.
fn check_complete(known: &[reasons::Code], provoked: BTreeSet<&str>) {
    assert_eq!(provoked, known.iter().map(|c| c.name).collect());
}

#[test]
fn a_waiting_pod_gets_its_reason_with_numbers_and_a_fix() {
    let plain = || vec![pool(json!({})), waiting(json!({}))];
    let answer = ask(&plain(), "pod/n/p").unwrap();
    assert!(
        answer.contains("NodePool default would buy ") && answer.contains("list of 2025-03-02"),
        "{answer}"
    );

    let of_pool = |requirements: Value| {
        pool(json!({ "spec": { "template": { "spec": { "requirements": requirements } } } }))
    };
    let on_type = |name: &str| {
        waiting(json!({ "spec": { "nodeSelector": { "node.kubernetes.io/instance-type": name } } }))
    };
    let zone =
        |name: &str| json!({ "key": "topology.kubernetes.io/zone", "operator": "In", "values": [name] });
    let tainted = json!({ "spec": { "template": { "spec": { "taints": [{ "key": "team", "value": "a", "effect": "NoSchedule" }] } } } });
    let mounted =
        json!({ "spec": { "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "data" } }] } });
    let volume = vec![
        pool(json!({})),
        waiting(mounted.clone()),
        json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data", "namespace": "n" }, "spec": { "volumeName": "pv" } }),
        json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "pv" }, "spec": { "csi": { "driver": "ebs", "volumeHandle": "v" },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": "topology.kubernetes.io/zone", "operator": "In", "values": ["us-east-1f"] }] }] } } } }),
    ];
    let affinity = json!({ "spec": { "affinity": { "podAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [
        { "topologyKey": "topology.kubernetes.io/zone", "labelSelector": { "matchLabels": { "app": "nobody" } } }] } } } });
    let families =
        json!({ "key": "karpenter.k8s.aws/instance-family", "operator": "Exists", "minValues": 500 });
    let requests = json!({ "requests": { "cpu": "1", "memory": "2Gi" } });
    let web = json!([{ "ports": [{ "containerPort": 80, "hostPort": 80 }], "resources": requests }]);
    let everywhere = json!({ "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "proxy", "namespace": "n" },
        "spec": { "selector": { "matchLabels": { "app": "proxy" } },
            "template": { "metadata": { "labels": { "app": "proxy" } }, "spec": { "containers": web } } } });
    let cases = [
        (
            "NoPools",
            "there is no NodePool that is ready",
            vec![waiting(json!({}))],
        ),
        (
            "NoPools",
            "there is no NodePool that is ready",
            vec![
                pool(json!({ "status": { "conditions": [] } })),
                waiting(json!({})),
            ],
        ),
        (
            "Unsupported",
            "persistentvolumeclaim n/data does not exist",
            vec![pool(json!({})), waiting(mounted)],
        ),
        (
            "Unsupported",
            "kubernetes.io/hostname",
            vec![
                pool(json!({})),
                waiting(json!({ "spec": { "nodeSelector": { "kubernetes.io/hostname": "a" } } })),
            ],
        ),
        (
            "Taint",
            "team=a:NoSchedule",
            vec![pool(tainted), waiting(json!({}))],
        ),
        (
            "Requirements",
            "kubernetes.io/arch",
            vec![
                pool(json!({})),
                waiting(json!({ "spec": { "nodeSelector": { "kubernetes.io/arch": "arm64" } } })),
            ],
        ),
        (
            "Resources",
            "cpu 9000",
            vec![
                pool(json!({})),
                waiting(
                    json!({ "spec": { "containers": [{ "resources": { "requests": { "cpu": "9000" } } }] } }),
                ),
            ],
        ),
        (
            "Offering",
            "c3.2xlarge",
            vec![of_pool(json!([zone("us-east-1d")])), on_type("c3.2xlarge")],
        ),
        (
            "Limit",
            "limit cpu 0",
            vec![
                pool(json!({ "spec": { "limits": { "cpu": "0" } } })),
                waiting(json!({})),
            ],
        ),
        (
            "Topology",
            "NodePool default",
            vec![pool(json!({})), waiting(affinity)],
        ),
        (
            "MinValues",
            "500 values of karpenter.k8s.aws/instance-family",
            vec![
                of_pool(json!([zone("us-east-1a"), families])),
                on_type("m5.xlarge"),
            ],
        ),
        (
            "HostPort",
            "80",
            vec![
                pool(json!({})),
                everywhere,
                waiting(json!({ "spec": { "containers": web } })),
            ],
        ),
        ("Volume", "us-east-1f", volume),
    ];
    for (code, detail, items) in &cases {
        check(code, detail, &reasons::OF_PODS, &ask(items, "pod/n/p").unwrap());
    }
    check_complete(&reasons::OF_PODS, cases.iter().map(|case| case.0).collect());

    let unseen = waiting(json!({ "status": { "conditions": [] } }));
    assert!(
        ask(&[pool(json!({})), unseen], "pod/n/p")
            .unwrap()
            .contains("has not refused it yet")
    );
}

fn claim(patch: Value) -> Value {
    let condition = |kind: &str| json!({ "type": kind, "status": "True", "reason": kind, "message": "", "lastTransitionTime": "2026-01-05T11:00:00Z" });
    let claim = json!({
        "apiVersion": "karpenter.sh/v1", "kind": "NodeClaim",
        "metadata": { "name": "c", "uid": "c", "labels": { "karpenter.sh/nodepool": "default" }, "creationTimestamp": "2026-01-05T11:00:00Z" },
        "spec": { "requirements": [], "nodeClassRef": { "group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default" } },
        "status": { "providerID": "aws:///us-east-1a/i-1", "conditions": [condition("Registered"), condition("Initialized")] },
    });
    changed(claim, patch)
}

fn node(patch: Value) -> Value {
    let amounts = json!({ "cpu": "4", "memory": "15Gi", "pods": "58" });
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": "a", "uid": "a", "labels": {
            "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", "node.kubernetes.io/instance-type": "m5.xlarge",
            "topology.kubernetes.io/zone": "us-east-1a", "karpenter.sh/capacity-type": "on-demand", "karpenter.sh/nodepool": "default" } },
        "spec": { "providerID": "aws:///us-east-1a/i-1" },
        "status": { "capacity": amounts, "allocatable": amounts, "conditions": [
            { "type": "Ready", "status": "True", "lastHeartbeatTime": null, "lastTransitionTime": null }] },
    });
    changed(node, patch)
}

fn running(name: &str, patch: Value) -> Value {
    let on_a = json!({ "metadata": { "name": name, "uid": name }, "spec": { "nodeName": "a" }, "status": { "phase": "Running", "conditions": [] } });
    changed(changed(waiting(json!({})), on_a), patch)
}

#[test]
fn a_machine_that_stays_says_why() {
    let quiet = |at: &str| json!({ "status": { "conditions": [{ "type": "Initialized", "status": "True", "reason": "x", "message": "", "lastTransitionTime": at }] } });
    let never = json!({ "spec": { "disruption": { "consolidateAfter": "Never" } } });
    let not_ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "False", "reason": "x", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z" }] } });
    let closed = json!({ "spec": { "disruption": { "budgets": [{ "nodes": "0" }] } } });
    let annotated = json!({ "metadata": { "annotations": { "karpenter.sh/do-not-disrupt": "true" } } });
    let machine = || vec![claim(json!({})), node(json!({}))];
    let with = |mut items: Vec<Value>, more: Value| {
        items.push(more);
        items
    };
    let of_daemon = json!({ "metadata": { "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d" }] } });
    let daemon = || running("d", of_daemon.clone());
    let budget = json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "b", "namespace": "n" },
        "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "p" } } }, "status": { "disruptionsAllowed": 0,
            "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1 } });
    let nothing: fn(&mut Index) = |_| ();
    // kube-scheduler is trying the pod for which the machine was bought.
    let promised: fn(&mut Index) = |index| index.promise(&"n/p".into(), "c", now());
    let unseen = waiting(json!({ "status": { "conditions": [] } }));
    let cases = [
        (
            "InUse",
            "1 pod other than daemons runs there",
            nothing,
            with(with(machine(), pool(json!({}))), running("q", json!({}))),
        ),
        (
            "NotQuietYet",
            "in 20 s",
            nothing,
            vec![
                claim(quiet("2026-01-05T11:59:50Z")),
                node(json!({})),
                pool(json!({})),
            ],
        ),
        (
            "NeverConsolidated",
            "Never",
            nothing,
            with(machine(), pool(never)),
        ),
        (
            "PoolNotReady",
            "no NodePool that is ready",
            nothing,
            with(machine(), pool(not_ready)),
        ),
        ("Budget", "allows 0", nothing, with(machine(), pool(closed))),
        (
            "NotInitialized",
            "not initialized",
            nothing,
            vec![
                claim(json!({ "status": { "conditions": [] } })),
                node(json!({})),
                pool(json!({})),
            ],
        ),
        (
            "Nominated",
            "Node is nominated for a pending pod",
            promised,
            with(with(machine(), pool(json!({}))), unseen),
        ),
        (
            "NodeDoNotDisrupt",
            "do-not-disrupt",
            nothing,
            vec![claim(json!({})), node(annotated.clone()), pool(json!({}))],
        ),
        (
            "PodDoNotDisrupt",
            "n/d",
            nothing,
            with(
                with(machine(), pool(json!({}))),
                changed(daemon(), annotated.clone()),
            ),
        ),
        (
            "PodDisruptionBudget",
            "n/b",
            nothing,
            with(with(with(machine(), pool(json!({}))), daemon()), budget),
        ),
    ];
    for (code, detail, happened, items) in &cases {
        let answer = ask_when(items, happened, "node/a").unwrap();
        check(code, detail, &reasons::OF_NODES, &answer);
    }
    check_complete(&reasons::OF_NODES, cases.iter().map(|case| case.0).collect());
    let answer = ask(&with(machine(), pool(json!({}))), "node/a").unwrap();
    assert!(
        answer.contains("would remove it now") && answer.contains("$0.1920/h"),
        "{answer}"
    );
}

#[test]
fn a_running_pod_says_what_holds_it_and_a_pool_what_it_may_still_do() {
    let held = running(
        "q",
        json!({ "metadata": { "annotations": { "karpenter.sh/do-not-disrupt": "true" } } }),
    );
    let items = [
        claim(json!({})),
        node(json!({})),
        pool(json!({ "spec": { "limits": { "cpu": "4" } } })),
        held,
    ];
    let answer = ask(&items, "pod/n/q").unwrap();
    assert!(
        answer.contains("runs on a") && answer.contains("held by pod do-not-disrupt n/StatefulSet/p"),
        "{answer}"
    );
    let answer = ask(&items, "nodepool/default").unwrap();
    assert!(
        answer.contains("  1 machine, $0.1920/h") && answer.contains("limit cpu: 4 of 4 in use, Limit"),
        "{answer}"
    );
    assert!(
        answer.contains("now 1 machine may be disrupted as Empty"),
        "{answer}"
    );
    for (missing, says) in [
        (
            "pod/n/none",
            "there is no pod n/none; `kubectl get pods -n n` lists their names",
        ),
        (
            "pod/other/q",
            "there is no pod other/q; `kubectl get pods -n other` lists their names",
        ),
        (
            "pod/n/r",
            "there is no pod n/r; alike are n/q; `kubectl get pods -n n` lists all",
        ),
        (
            "node/none",
            "there is no node none; `kubectl get nodes` lists their names",
        ),
        (
            "nodepool/defaults",
            "there is no NodePool defaults; alike are default; `kubectl get nodepools` lists all",
        ),
    ] {
        let error = ask(&items, missing).unwrap_err();
        assert!(matches!(error, ExplainError::NotFound { .. }), "{missing}");
        assert_eq!(error.to_string(), says);
    }
    let error = ask(&items[1..2], "nodepool/default").unwrap_err().to_string();
    assert!(
        error.contains("what was read holds no NodePool at all"),
        "{error}"
    );
}

#[test]
fn machines_without_a_claim_are_their_pools_by_label() {
    let spare =
        json!({ "metadata": { "name": "b", "uid": "b" }, "spec": { "providerID": "aws:///us-east-1a/i-2" } });
    let limited = pool(json!({ "spec": { "limits": { "cpu": "4" } } }));
    let items = [node(json!({})), node(spare), limited];
    let answer = ask(&items, "nodepool/default").unwrap();
    assert!(answer.contains("  2 machines, $0.3840/h"), "{answer}");
    assert!(
        answer.contains("2 of them only by label") && answer.contains("limit cpu: 0 of 4 in use, left"),
        "{answer}"
    );
    // Another pool's machines are not counted.
    let foreign = node(json!({ "metadata": { "labels": { "karpenter.sh/nodepool": "other" } } }));
    let answer = ask(&[foreign, pool(json!({}))], "nodepool/default").unwrap();
    assert!(
        answer.contains("  0 machines, $0.0000/h") && !answer.contains("by label"),
        "{answer}"
    );
}

#[test]
fn a_pod_of_a_daemon_set_is_not_said_to_go_to_spot_machines() {
    let owner = json!([{ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d", "controller": true }]);
    let of_daemon = running("q", json!({ "metadata": { "ownerReferences": owner } }));
    let answer = ask(&[node(json!({})), of_daemon], "pod/n/q").unwrap();
    assert!(
        answer.contains("come and go with the machines") && !answer.contains("spot"),
        "{answer}"
    );
    let plain = ask(&[node(json!({})), running("q", json!({}))], "pod/n/q").unwrap();
    assert!(plain.contains("spot machines"), "{plain}");
}

#[test]
fn one_is_not_counted_as_many() {
    let items = [
        claim(json!({})),
        node(json!({})),
        pool(json!({})),
        running("q", json!({})),
    ];
    let answer = ask(&items, "node/a").unwrap();
    assert!(
        answer.contains("  1 pod request") && answer.contains("1 machine ("),
        "{answer}"
    );
    assert!(
        !answer.contains("1 pods") && !answer.contains("1 machines"),
        "{answer}"
    );
}

/// Links between pages lead somewhere, and commands name what the program has.
#[test]
fn links_of_the_documentation_lead_somewhere() {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let docs = std::fs::read_dir(root.join("docs"))
        .unwrap()
        .map(|e| e.unwrap().path());
    let top = ["README.md", "ARCHITECTURE.md", "SECURITY.md", "SAFETY.md"].map(|name| root.join(name));
    let mut links = 0;
    for page in docs
        .chain(top)
        .filter(|p| p.extension().is_some_and(|e| e == "md"))
    {
        let text = std::fs::read_to_string(&page).unwrap();
        for (at, _) in text.match_indices("](") {
            let rest = &text[at + 2..];
            let target = rest[..rest.find(')').unwrap()].split('#').next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            links += 1;
            let found = page.parent().unwrap().join(target);
            assert!(
                found.exists(),
                "{} links to {target}, which is not there",
                page.display()
            );
        }
    }
    assert!(links > 5, "{links} links were looked at");
}

/// Pages of the documentation that the program knows better. `PLIMSOLL_BLESS=1` rewrites them.
#[test]
fn generated_pages_are_up_to_date() {
    let docs = std::path::Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../../docs");
    for (name, text) in [
        ("reason-codes.md", reasons::page()),
        ("snapshot.md", redact::page()),
        ("reader-role.yaml", kinds::reader_role()),
    ] {
        let path = docs.join(name);
        if std::env::var_os("PLIMSOLL_BLESS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == text,
            "docs/{name} differs from the program; run the tests with PLIMSOLL_BLESS=1"
        );
    }
}
