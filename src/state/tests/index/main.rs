//! The index is tested by telling it what watches would tell it, and reading the snapshot.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::unnecessary_wraps,
    reason = "the makers of test objects are tests too"
)]

mod claims;
mod pods;
mod promises;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{core::v1::Node, policy::v1::PodDisruptionBudget};
use plimsoll_api::{nodeclaim::NodeClaim, nodepool::NodePool};
use plimsoll_core::{
    catalog::{Catalog, MicroDollars},
    policy::{MinValuesPolicy, Policy, PreferencePolicy},
    provision::provision,
    requirement::Operator,
    snapshot::{Blocker, BudgetNodes, NodeStage, Place, Snapshot},
};
use plimsoll_state::{
    Index, Lowered, Observe, PROMISE_MAX, PROMISE_WINDOW, PersistentVolume, PersistentVolumeClaim, Pod,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
const START: Timestamp = Timestamp::UNIX_EPOCH;

fn at(seconds: i64) -> Timestamp {
    START + SignedDuration::from_secs(seconds)
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// A pod kube-scheduler refused, changed by a merge patch.
fn pending(name: &str, patch: Value) -> Pod {
    let mut pod = json!({
        "metadata": { "name": name, "namespace": "default", "uid": format!("uid-{name}") },
        "spec": { "containers": [{ "name": "main", "resources": { "requests": { "cpu": "500m", "memory": "1Gi" } } }] },
        "status": {
            "phase": "Pending",
            "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable" }],
        },
    });
    merge(&mut pod, patch);
    object(pod)
}

fn bound(name: &str, node: &str, patch: Value) -> Pod {
    let mut all = json!({ "spec": { "nodeName": node }, "status": { "phase": "Running", "conditions": [] } });
    merge(&mut all, patch);
    pending(name, all)
}

/// RFC 7396, without deletions.
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

fn claim(name: &str, version: u64, patch: Value) -> NodeClaim {
    let mut claim = json!({
        "apiVersion": "karpenter.sh/v1", "kind": "NodeClaim",
        "metadata": {
            "name": name, "uid": format!("uid-{name}"), "resourceVersion": version.to_string(),
            "labels": { "karpenter.sh/nodepool": "pool" },
        },
        "spec": {
            "requirements": [{ "key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone-a"] }],
            "resources": { "requests": { "cpu": "2", "memory": "4Gi", "pods": "3" } },
            "nodeClassRef": { "group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "default" },
        },
    });
    merge(&mut claim, patch);
    object(claim)
}

/// Status of a claim whose machine is in service since a time.
fn in_service(name: &str, since: Timestamp) -> Value {
    let condition = |type_: &str| json!({ "type": type_, "status": "True", "reason": type_, "message": "", "lastTransitionTime": since.to_string() });
    json!({ "status": {
        "providerID": format!("test://{name}"), "nodeName": format!("node-{name}"),
        "conditions": [condition("Launched"), condition("Registered"), condition("Initialized")],
    } })
}

fn node(claim: &str, patch: Value) -> Node {
    let mut node = json!({
        "metadata": { "name": format!("node-{claim}"), "uid": format!("uid-node-{claim}"), "resourceVersion": "1" },
        "spec": { "providerID": format!("test://{claim}") },
        "status": {
            "allocatable": { "cpu": "3900m", "memory": "8Gi", "pods": "110" },
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    });
    merge(&mut node, patch);
    object(node)
}

/// A machine in service for a claim.
fn with_machine(index: &mut Index, name: &str) {
    index.apply(claim(name, 1, in_service(name, at(0))), at(0));
    index.apply(node(name, json!({})), at(0));
}

fn lowered(index: &Index, now: Timestamp) -> Lowered {
    index.snapshot(&Catalog::default(), now)
}

fn place_of(snapshot: &Snapshot, pod: &str) -> Option<Place> {
    snapshot
        .pods
        .iter()
        .find(|p| *p.key == format!("default/{pod}"))
        .map(|p| p.place)
}

#[test]
fn a_coming_machine_shows_what_was_asked_until_the_cloud_says_more() {
    let mut index = Index::default();
    index.created_claim(claim("a", 1, json!({})), at(0));
    let snapshot = lowered(&index, at(0)).snapshot;
    let machine = &snapshot.nodes[0];
    assert_eq!(machine.stage, NodeStage::InFlight);
    assert_eq!(machine.allocatable["cpu"], 2000);
    assert_eq!(&*machine.labels["topology.kubernetes.io/zone"], "zone-a");
    assert_eq!(machine.disruption_blocker, Some(Blocker::NotInitialized));

    index.apply(
        claim(
            "a",
            2,
            json!({ "status": { "providerID": "test://a", "allocatable": { "cpu": "3900m" } } }),
        ),
        at(1),
    );
    assert_eq!(lowered(&index, at(1)).snapshot.nodes[0].allocatable["cpu"], 3900);
}

#[test]
fn a_registered_node_is_seen_without_the_taints_that_will_go() {
    let mut index = Index::default();
    let mut status = in_service("a", at(0));
    status["status"]["conditions"].as_array_mut().unwrap().pop();
    status["spec"] = json!({ "startupTaints": [{ "key": "cni", "effect": "NoSchedule" }] });
    index.apply(claim("a", 1, status.clone()), at(0));
    let taints = json!({ "spec": { "taints": [
        { "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" },
        { "key": "cni", "effect": "NoSchedule" },
        { "key": "team", "value": "a", "effect": "NoSchedule" },
    ] } });
    index.apply(node("a", taints), at(0));
    let seen = |index: &Index| {
        let snapshot = lowered(index, at(0)).snapshot;
        (
            snapshot.nodes[0].stage,
            snapshot.nodes[0]
                .taints
                .iter()
                .map(|t| t.key.to_string())
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(seen(&index), (NodeStage::Registered, vec!["team".to_owned()]));

    merge(&mut status, in_service("a", at(0)));
    index.apply(claim("a", 2, status), at(0));
    assert_eq!(seen(&index).0, NodeStage::Initialized);
    assert_eq!(
        seen(&index).1.len(),
        3,
        "an initialized node's taints are all real"
    );
}

#[test]
fn the_first_reason_not_to_disrupt_is_named() {
    let mut index = Index::default();
    with_machine(&mut index, "a");
    let blocker = |index: &Index, now| lowered(index, now).snapshot.nodes[0].disruption_blocker.clone();
    assert_eq!(blocker(&index, at(0)), None);

    index.apply(
        bound(
            "a",
            "node-a",
            json!({ "metadata": { "labels": { "app": "web" } } }),
        ),
        at(0),
    );
    let budget = |allowed: i32| -> PodDisruptionBudget {
        object(json!({
            "metadata": { "name": "web", "namespace": "default" },
            "spec": { "selector": { "matchLabels": { "app": "web" } } },
            "status": { "disruptionsAllowed": allowed },
        }))
    };
    index.apply(budget(0), at(0));
    let blocked = Blocker::PodDisruptionBudget {
        pdb: "default/web".into(),
        pod: "default/a".into(),
    };
    assert_eq!(blocker(&index, at(0)), Some(blocked));
    index.apply(budget(1), at(0));
    assert_eq!(blocker(&index, at(0)), None);

    let guarded = json!({
        "metadata": { "annotations": { "karpenter.sh/do-not-disrupt": "1m" } },
        "status": { "startTime": at(0).to_string() },
    });
    index.apply(bound("b", "node-a", guarded), at(0));
    assert_eq!(
        blocker(&index, at(59)),
        Some(Blocker::PodDoNotDisrupt {
            pod: "default/b".into()
        })
    );
    assert_eq!(blocker(&index, at(60)), None, "its minute is over");
}

#[test]
fn consolidation_counts_from_the_last_pod_event_and_daemons_are_none() {
    let mut index = Index::default();
    with_machine(&mut index, "a");
    let quiet = |index: &Index| lowered(index, at(100)).snapshot.nodes[0].quiet_since;
    assert_eq!(quiet(&index), Some(at(0)));
    let daemon = json!({ "metadata": { "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d" }] } });
    index.apply(bound("d", "node-a", daemon), at(10));
    assert_eq!(quiet(&index), Some(at(0)));
    index.apply(bound("p", "node-a", json!({})), at(20));
    assert_eq!(quiet(&index), Some(at(20)));
    index.delete(&bound("p", "node-a", json!({})), at(30));
    assert_eq!(quiet(&index), Some(at(30)));
}

#[test]
fn heartbeats_touch_nothing_but_the_version() {
    let mut index = Index::default();
    with_machine(&mut index, "a");
    index.take_touched();
    let revision = index.revision();
    let beat = json!({
        "metadata": { "resourceVersion": "2" },
        "status": { "conditions": [{ "type": "Ready", "status": "True", "lastHeartbeatTime": at(5).to_string() }] },
    });
    index.apply(node("a", beat), at(5));
    assert_eq!(
        (index.revision(), index.take_touched()),
        (revision, plimsoll_state::Touched::default())
    );
    assert_eq!(
        index.nodes().next().unwrap().metadata.resource_version.as_deref(),
        Some("2")
    );
}

#[test]
fn a_pool_plans_only_while_it_is_ready_and_its_budgets_are_read() {
    let pool = |ready: &str, replicas: Value| -> NodePool {
        object(json!({
            "apiVersion": "karpenter.sh/v1", "kind": "NodePool", "metadata": { "name": "pool" },
            "spec": {
                "replicas": replicas, "weight": 7, "limits": { "cpu": "10", "nodes": "3" },
                "template": {
                    "metadata": { "labels": { "team": "a" } },
                    "spec": {
                        "requirements": [{ "key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"] }],
                        "nodeClassRef": { "group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "default" },
                    },
                },
                "disruption": {
                    "consolidateAfter": "30s",
                    "budgets": [{ "nodes": "20%" }, { "nodes": "0", "schedule": "0 9 * * *", "duration": "8h" }, { "nodes": "x%" }],
                },
            },
            "status": { "conditions": [{ "type": "Ready", "status": ready, "reason": "x", "message": "", "lastTransitionTime": at(0).to_string() }] },
        }))
    };
    let mut index = Index::default();
    for unready in [pool("False", Value::Null), pool("True", json!(2))] {
        index.apply(unready, at(0));
        assert!(lowered(&index, at(0)).snapshot.pools.is_empty());
    }
    index.apply(pool("True", Value::Null), at(0));
    let snapshot = lowered(&index, at(0)).snapshot;
    let lowered = &snapshot.pools[0];
    assert_eq!(
        (lowered.weight, lowered.limits["cpu"], lowered.limits["nodes"]),
        (7, 10_000, 3)
    );
    assert_eq!(&*lowered.labels["karpenter.kwok.sh/kwoknodeclass"], "default");
    assert_eq!(lowered.consolidate_after, Some(Duration::from_secs(30)));
    assert_eq!(lowered.budgets[0].nodes, BudgetNodes::Percent(20));
    assert_eq!(
        lowered.budgets[1].window,
        Some(("0 9 * * *".into(), Duration::from_secs(8 * 3600)))
    );
    assert_eq!(lowered.budgets[2].nodes, BudgetNodes::Invalid);
}

#[test]
fn opting_out_is_silent_and_restricted_labels_are_an_error() {
    let needs = |key: &str, operator: &str| {
        json!({ "spec": { "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{ "matchExpressions": [{ "key": key, "operator": operator }] }],
        } } } } })
    };
    let mut index = Index::default();
    index.apply(
        pending("out", needs("karpenter.sh/nodepool", "DoesNotExist")),
        at(0),
    );
    index.apply(pending("wrong", needs("kubernetes.io/hostname", "Exists")), at(0));
    let found = lowered(&index, at(0));
    assert_eq!((found.ignored, found.snapshot.pods.len()), (1, 0));
    assert_eq!(&*found.refused[0].0, "default/wrong");
    assert!(
        found.refused[0].1.contains("kubernetes.io/hostname"),
        "{}",
        found.refused[0].1
    );
}
