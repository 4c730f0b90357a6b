//! Reports are tested on files as kubectl writes them: what is read, what is planned, and what each restraint costs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the makers of test objects are tests too"
)]

mod advice;
mod arm64;
mod files;
mod forms;
mod machines;
mod restraints;

use std::time::Duration;

use jiff::Timestamp;
use plimsoll_core::{
    catalog::MicroDollars,
    policy::{MinValuesPolicy, Policy, PreferencePolicy},
};
use plimsoll_report::{
    Arm64Images, Cluster, Colour, CsvTable, Prices, RestraintKind, SavingsReport, commands, csv,
    dump::{self, Dump, DumpError},
    html, report, report_status,
    savings::Action,
    snapshot, text,
};
use serde_json::{Value, json};

fn taken() -> Timestamp {
    "2026-01-02T00:00:00Z".parse().unwrap()
}

fn policy() -> Policy {
    Policy {
        preferences: PreferencePolicy::Respect,
        min_values: MinValuesPolicy::Strict,
        nomination: true,
        steps_max: 200,
        types_per_launch_max: 60,
        interruption_cost: MicroDollars(0),
    }
}

fn node(name: &str, instance_type: &str, zone: &str, patch: Value) -> Value {
    let mut node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name, "uid": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux",
            "node.kubernetes.io/instance-type": instance_type, "topology.kubernetes.io/zone": zone,
            "eks.amazonaws.com/nodegroup": "general", "eks.amazonaws.com/capacityType": "ON_DEMAND",
        } },
        "spec": { "providerID": format!("aws:///{zone}/i-{name}") },
        "status": {
            "capacity": { "cpu": "4", "memory": "16Gi", "pods": "58" },
            "allocatable": { "cpu": "3920m", "memory": "14800Mi", "pods": "58" },
            "conditions": [{ "type": "Ready", "status": "True", "lastHeartbeatTime": null, "lastTransitionTime": null }],
        },
    });
    merge(&mut node, patch);
    node
}

/// A pod of Deployment `app` with one core and 2 GiB.
fn pod(name: &str, app: &str, node: &str, patch: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "shop", "uid": name, "labels": { "app": app, "pod-template-hash": "5f" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app}-5f"), "uid": app, "controller": true }],
        },
        "spec": { "nodeName": node, "containers": [{ "name": "c", "resources": { "requests": { "cpu": "1", "memory": "2Gi" } } }] },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] },
    });
    merge(&mut pod, patch);
    pod
}

fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    target.remove(&key);
                } else {
                    merge(target.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (target, patch) => *target = patch,
    }
}

/// Six m5.xlarge, each with one pod of `web`: a third of them would do.
fn half_empty() -> Vec<Value> {
    let zones = ["us-east-1a", "us-east-1b", "us-east-1c"];
    let mut items = Vec::new();
    for i in 0..6 {
        let name = format!("n{i}");
        items.push(node(&name, "m5.xlarge", zones[i % 3], json!({})));
        items.push(pod(&format!("web-{i}"), "web", &name, json!({})));
    }
    items
}

fn read(items: &[Value]) -> Dump {
    let list = json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": items });
    dump::read(list.to_string().as_bytes()).unwrap()
}

fn report_of_dump(dump: &Dump) -> SavingsReport {
    report_with(dump, &Arm64Images::default())
}

fn report_with(dump: &Dump, images: &Arm64Images) -> SavingsReport {
    let cluster = Cluster::read(&dump.index, &Prices::Aws, taken());
    report(&cluster, &Prices::Aws, images, &policy())
}

fn report_of(items: &[Value]) -> SavingsReport {
    report_of_dump(&read(items))
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-6
}

/// The same six machines, bought by a NodePool.
fn of_a_node_pool() -> Vec<Value> {
    let mut items = half_empty();
    let of_pool = json!({ "metadata": { "labels": { "karpenter.sh/nodepool": "default", "karpenter.sh/capacity-type": "on-demand",
        "eks.amazonaws.com/nodegroup": null, "eks.amazonaws.com/capacityType": null } } });
    items
        .iter_mut()
        .filter(|item| item["kind"] == "Node")
        .for_each(|node| merge(node, of_pool.clone()));
    items.push(json!({
        "apiVersion": "karpenter.sh/v1", "kind": "NodePool", "metadata": { "name": "default", "uid": "pool" },
        "spec": { "disruption": { "consolidateAfter": "30s", "budgets": [{ "nodes": "100%" }] }, "template": { "spec": {
            "requirements": [{ "key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"] }],
            "nodeClassRef": { "group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default" } } } },
        "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "Ready", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z" }] },
    }));
    items
}
