//! The state machines, one step at a time: objects in, effects out.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::unnecessary_wraps,
    reason = "the makers of test objects are tests too"
)]

mod joining;
mod leaving;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{core::v1::Node, storage::v1::VolumeAttachment};
use plimsoll_api::{conditions, nodeclaim::NodeClaim, nodepool::NodeClassReference};
use plimsoll_lifecycle::{
    Effect, Pass, Pool, Settings, disruption, drained, garbage, launched, reconcile, terminated,
};
use plimsoll_provider::{Listing, Machine, ProviderError, Termination};
use plimsoll_state::{Index, NodeView, Observe, Pod, pod::PodState};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
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

/// A claim of ours that has reached the given conditions, changed by a merge patch.
fn claim(reached: &[&str], patch: Value) -> NodeClaim {
    let conditions: Vec<Value> = reached
        .iter()
        .map(|type_| json!({ "type": type_, "status": "True", "reason": type_, "message": "", "lastTransitionTime": at(0).to_string() }))
        .collect();
    let mut claim = json!({
        "apiVersion": "karpenter.sh/v1", "kind": "NodeClaim",
        "metadata": {
            "name": "a", "uid": "uid-a", "resourceVersion": "1", "generation": 1, "creationTimestamp": at(0).to_string(),
            "labels": { "karpenter.sh/nodepool": "pool" }, "finalizers": ["karpenter.sh/termination"],
        },
        "spec": {
            "requirements": [], "resources": { "requests": { "cpu": "1", "example.com/gpu": "1" } },
            "expireAfter": "Never",
            "nodeClassRef": { "group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "default" },
        },
        "status": { "conditions": conditions },
    });
    if !reached.is_empty() {
        merge(
            &mut claim,
            json!({ "status": { "providerID": "test://a", "nodeName": "node-a" } }),
        );
    }
    merge(&mut claim, patch);
    object(claim)
}

const LAUNCHED: &[&str] = &["Launched"];

const IN_SERVICE: &[&str] = &["Launched", "Registered", "Initialized"];

/// The claim's node as its kubelet registers it: ready, and closed by our taint.
fn node(patch: Value) -> Node {
    let mut node = json!({
        "metadata": { "name": "node-a", "uid": "uid-node", "resourceVersion": "1", "creationTimestamp": at(0).to_string() },
        "spec": { "providerID": "test://a", "taints": [{ "key": "karpenter.sh/unregistered", "effect": "NoExecute" }] },
        "status": {
            "conditions": [{ "type": "Ready", "status": "True" }],
            "allocatable": { "cpu": "4", "memory": "8Gi", "example.com/gpu": "1" },
        },
    });
    merge(&mut node, patch);
    object(node)
}

/// The node of a machine in service: open, labelled, ours.
fn open_node(patch: Value) -> Node {
    let mut all = json!({
        "metadata": {
            "labels": { "karpenter.sh/registered": "true", "karpenter.sh/initialized": "true", "karpenter.sh/nodepool": "pool" },
            "finalizers": ["karpenter.sh/termination"],
            "ownerReferences": [{ "apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "name": "a", "uid": "uid-a" }],
        },
        "spec": { "taints": [] },
    });
    merge(&mut all, patch);
    node(all)
}

/// The node of a machine on its way out, closed and deleted.
fn leaving_node() -> Node {
    open_node(json!({
        "metadata": {
            "deletionTimestamp": at(0).to_string(),
            "labels": { "node.kubernetes.io/exclude-from-external-load-balancers": "karpenter" },
        },
        "spec": { "taints": [{ "key": "karpenter.sh/disrupted", "effect": "NoSchedule" }] },
    }))
}

fn deleted(patch: Value) -> NodeClaim {
    let mut all = json!({ "metadata": { "deletionTimestamp": at(0).to_string() } });
    merge(&mut all, patch);
    claim(IN_SERVICE, all)
}

fn pod(name: &str, patch: Value) -> Pod {
    let mut pod = json!({
        "metadata": { "name": name, "namespace": "default", "uid": format!("uid-{name}"),
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r" }] },
        "spec": { "nodeName": "node-a", "terminationGracePeriodSeconds": 30 },
        "status": { "phase": "Running" },
    });
    merge(&mut pod, patch);
    object(pod)
}

fn pending(name: &str) -> Pod {
    pod(
        name,
        json!({ "spec": { "nodeName": "" }, "status": { "phase": "Pending", "conditions": [
        { "type": "PodScheduled", "status": "False", "reason": "Unschedulable" },
    ] } }),
    )
}

fn index(
    claim: NodeClaim,
    nodes: impl IntoIterator<Item = Node>,
    pods: impl IntoIterator<Item = Pod>,
) -> Index {
    let mut index = Index::default();
    index.apply(claim, at(0));
    for node in nodes {
        index.apply(node, at(0));
    }
    for pod in pods {
        index.apply(pod, at(0));
    }
    index
}

fn view(index: &Index) -> NodeView {
    index.view("a").unwrap()
}

fn step(index: &Index, now: Timestamp) -> Pass {
    reconcile(&view(index), Pool::default(), Settings { nominate: true }, now)
}

/// Effects by name, with what tells them apart.
fn names(effects: &[Effect]) -> Vec<String> {
    effects
        .iter()
        .map(|effect| match effect {
            Effect::CreateClaim(_) => "create claim".into(),
            Effect::PatchClaim { patch, .. } => format!("patch claim {}", keys(&patch["metadata"])),
            Effect::PatchClaimStatus { .. } => "status".into(),
            Effect::DeleteClaim { reason, .. } => format!("delete claim {reason}"),
            Effect::Launch(_) => "launch".into(),
            Effect::Terminate { provider_id, .. } => {
                format!("terminate {}", provider_id.as_deref().unwrap_or("?"))
            }
            Effect::Probe(_) => "probe".into(),
            Effect::ConfirmDrained(_) => "confirm drained".into(),
            Effect::PatchNode { patch, .. } => {
                format!("patch node {} {}", keys(&patch["metadata"]), keys(&patch["spec"]))
            }
            Effect::StopEvicting { taint, .. } => format!("stop evicting, taint {taint}"),
            Effect::OpenNode { taint, .. } => format!("open node, taint {taint}"),
            Effect::DeleteNode { .. } => "delete node".into(),
            Effect::Nominate { pod, .. } => format!("nominate {pod}"),
            Effect::Evict { pod, .. } => format!("evict {pod}"),
            Effect::DeletePod { pod, grace, .. } => format!("delete {pod} {}", grace.as_secs()),
            Effect::Event { reason, .. } => format!("event {reason}"),
        })
        .collect()
}

fn keys(value: &Value) -> String {
    let map = value.as_object().cloned().unwrap_or_default();
    map.keys()
        .filter(|k| *k != "resourceVersion")
        .cloned()
        .collect::<Vec<_>>()
        .join(",")
}

/// (status, reason) of a condition in the status an effect writes.
fn written(effects: &[Effect], condition: &str) -> Option<(String, String)> {
    let status = effects.iter().find_map(|effect| match effect {
        Effect::PatchClaimStatus { patch, .. } => Some(&patch["status"]),
        _ => None,
    })?;
    let list = status["conditions"].as_array()?;
    let found = list.iter().find(|c| c["type"] == condition)?;
    Some((found["status"].as_str()?.into(), found["reason"].as_str()?.into()))
}

fn is(status: &str, reason: &str) -> Option<(String, String)> {
    Some((status.into(), reason.into()))
}
