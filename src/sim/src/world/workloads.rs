//! ReplicaSet and DaemonSet controllers: they make pods where pods are missing and take surplus ones away.

use std::collections::BTreeSet;

use jiff::Timestamp;
use plimsoll_api::taints as own;
use plimsoll_state::Pod;
use serde_json::{Value, json};

use super::{World, is_ready, taints};
use crate::api::{Kind, Server};

/// A ReplicaSet, as its controller sees it.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) replicas: u32,
    /// Pod spec.
    pub(crate) spec: Value,
}

const NAMESPACE: &str = "default";

impl World {
    /// Sets the scale of a workload.
    pub(crate) fn scale(&mut self, workload: &str, replicas: u32) {
        for known in self.workloads.iter_mut().filter(|w| w.name == workload) {
            known.replicas = replicas;
        }
    }

    /// Brings every workload to its scale.
    pub(crate) fn sync_workloads(&mut self, server: &mut Server, now: Timestamp) {
        self.workloads_queued = false;
        for at in 0..self.workloads.len() {
            let Workload { name, replicas, spec } = self.workloads[at].clone();
            // Surplus goes by the real controller's order, as far as the model has it: unbound, then not ready.
            let mut own: Vec<(bool, bool, String)> = self
                .pods
                .iter()
                .filter(|(_, e)| {
                    owner(&e.pod) == Some(("ReplicaSet", &name))
                        && e.pod.metadata.deletion_timestamp.is_none()
                })
                .map(|(key, e)| (e.pod.spec.node_name.is_some(), is_ready(&e.pod), key.clone()))
                .collect();
            own.sort();
            let surplus = own.len().saturating_sub(replicas as usize);
            for (_, _, key) in own.iter().take(surplus) {
                server
                    .delete(Kind::Pod, key, None, None, now)
                    .expect("the pod was just seen");
            }
            for _ in own.len()..replicas as usize {
                self.pods_made += 1;
                let pod_name = format!("{name}-{:05}", self.pods_made);
                server
                    .create(Kind::Pod, pod("ReplicaSet", &name, &pod_name, &spec), now)
                    .expect("pod names are counted");
            }
        }
        self.sync_daemons(server, now);
    }

    fn sync_daemons(&mut self, server: &mut Server, now: Timestamp) {
        let sets: Vec<(String, Value)> = server
            .list(Kind::DaemonSet)
            .map(|(_, set)| {
                (
                    set["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
                    set["spec"]["template"]["spec"].clone(),
                )
            })
            .collect();
        for (name, spec) in sets {
            let taken: BTreeSet<&String> = self
                .pods
                .values()
                .filter(|e| owner(&e.pod) == Some(("DaemonSet", &name)))
                .filter_map(|e| e.pod.spec.node_name.as_ref())
                .collect();
            let wanted = self.nodes.iter().filter(|(node, object)| {
                // The controller lets its pods on nodes that are not ready; this set tolerates nothing else.
                let keeps_off = |key: &str| key == own::UNREGISTERED || key == own::DISRUPTED;
                !taken.contains(node)
                    && object.metadata.deletion_timestamp.is_none()
                    && !taints(object).any(|taint| keeps_off(&taint.key))
            });
            let nodes: Vec<String> = wanted.map(|(node, _)| node.clone()).collect();
            for node in nodes {
                self.pods_made += 1;
                let mut daemon = pod(
                    "DaemonSet",
                    &name,
                    &format!("{name}-{:05}", self.pods_made),
                    &spec,
                );
                daemon["spec"]["nodeName"] = json!(node);
                server
                    .create(Kind::Pod, daemon, now)
                    .expect("pod names are counted");
            }
        }
    }
}

fn pod(kind: &str, owner: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": NAMESPACE, "name": name, "labels": { "app": owner },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": kind, "name": owner, "uid": format!("owner-{owner}") }],
        },
        "spec": spec,
        "status": { "phase": "Pending", "conditions": [] },
    })
}

/// Kind and name of what made a pod.
pub(super) fn owner(pod: &Pod) -> Option<(&str, &str)> {
    let owner = pod.metadata.owner_references.as_ref()?.first()?;
    Some((&owner.kind, &owner.name))
}
