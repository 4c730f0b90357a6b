//! The rest of the cluster: kube-scheduler, kubelets, workload controllers, garbage collectors.
//!
//! They see the truth without delay, but act late, so that what they decided can meet a changed cluster.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Node, Taint},
    apimachinery::pkg::api::resource::Quantity,
};
use plimsoll_core::resources::{Resources, amount};
use plimsoll_provider::Machine;
use plimsoll_state::Pod;
use serde_json::{Value, json};

use crate::{
    agenda::{Agenda, Event},
    api::{Change, Kind, Server, text},
    controller::typed,
    rng::Rng,
};

mod kubelet;
mod scheduler;
mod workloads;

pub(crate) use workloads::Workload;

/// A pod with what the scheduler counts.
#[derive(Debug)]
struct Entry {
    pod: Pod,
    requests: Resources,
}

/// Everything around the API server that is neither the controller nor the cloud.
#[derive(Debug, Default)]
pub(crate) struct World {
    pods: BTreeMap<String, Entry>,
    nodes: BTreeMap<String, Node>,
    /// Decisions of the scheduler that have not reached the server: pod and node.
    assumed: BTreeMap<String, String>,
    workloads: Vec<Workload>,
    pods_made: u64,
    /// Provider ids of machines that run.
    alive: BTreeSet<String>,
    nodes_made: u64,
    /// Since when a pod's node has not existed.
    orphaned: BTreeMap<String, Timestamp>,
    /// Since when a node's heartbeats have been missing.
    lost: BTreeMap<String, Timestamp>,
    schedule_queued: bool,
    workloads_queued: bool,
}

/// Heartbeats may be missing for this long (`--node-monitor-grace-period`, rounded).
const HEARTBEAT_GRACE: SignedDuration = SignedDuration::from_secs(40);

impl World {
    pub(crate) fn new(workloads: Vec<Workload>) -> Self {
        Self {
            workloads,
            ..Self::default()
        }
    }

    /// Reacts to a change of an object.
    pub(crate) fn observe(&mut self, change: &Change, agenda: &mut Agenda, rng: &mut Rng) {
        match change.kind {
            Kind::Pod => self.observe_pod(change, agenda, rng),
            Kind::Node => self.observe_node(change, agenda, rng),
            Kind::DaemonSet => self.wake_workloads(agenda, rng),
            Kind::NodeClaim | Kind::NodePool | Kind::PodDisruptionBudget => {}
        }
    }

    fn observe_pod(&mut self, change: &Change, agenda: &mut Agenda, rng: &mut Rng) {
        let pod: Pod = typed(&change.object);
        let key = crate::api::key(&change.object);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let freed = change.deleted || pod.metadata.deletion_timestamp.is_some();
        let was_leaving = self
            .pods
            .get(&key)
            .is_some_and(|known| known.pod.metadata.deletion_timestamp.is_some());
        let mut only_nominated = false;
        if change.deleted {
            self.pods.remove(&key);
            self.orphaned.remove(&key);
        } else {
            if pod.spec.node_name.is_some() {
                self.assumed.remove(&key);
                let event = |pod| {
                    if freed {
                        Event::PodStopped { pod, uid }
                    } else {
                        Event::PodStarted { pod, uid }
                    }
                };
                if freed && !was_leaving {
                    let grace = pod
                        .spec
                        .termination_grace_period_seconds
                        .unwrap_or(30)
                        .clamp(1, 8) as u32;
                    agenda.after(rng.between(200, grace * 1000), event(key.clone()));
                } else if !freed && pod.status.phase.as_deref() == Some("Pending") {
                    agenda.after(rng.between(300, 3_000), event(key.clone()));
                }
            }
            let requests = requests(&pod);
            let nominated = pod.status.nominated_node_name.is_some();
            let old = self.pods.insert(key, Entry { pod, requests });
            let old = old.map(|entry| entry.pod.status.nominated_node_name.is_some());
            // A first nomination is no event that makes kube-scheduler try a pod again.
            only_nominated = nominated && old == Some(false);
        }
        if freed {
            self.wake_workloads(agenda, rng);
        }
        if !only_nominated {
            self.wake_scheduler(agenda, rng);
        }
    }

    fn observe_node(&mut self, change: &Change, agenda: &mut Agenda, rng: &mut Rng) {
        let node: Node = typed(&change.object);
        let name = node.metadata.name.clone().unwrap_or_default();
        if change.deleted {
            self.nodes.remove(&name);
            self.lost.remove(&name);
        } else {
            self.nodes.insert(name, node);
        }
        self.wake_scheduler(agenda, rng);
        self.wake_workloads(agenda, rng);
    }

    fn wake_scheduler(&mut self, agenda: &mut Agenda, rng: &mut Rng) {
        if !std::mem::replace(&mut self.schedule_queued, true) {
            agenda.after(rng.between(2, 80), Event::Schedule);
        }
    }

    fn wake_workloads(&mut self, agenda: &mut Agenda, rng: &mut Rng) {
        if !std::mem::replace(&mut self.workloads_queued, true) {
            agenda.after(rng.between(5, 200), Event::Workloads);
        }
    }

    /// Compares the machines with those known before: new ones will join, missing ones fall silent.
    pub(crate) fn machines(
        &mut self,
        machines: &[Machine],
        never_joins: u32,
        agenda: &mut Agenda,
        rng: &mut Rng,
    ) {
        let now: BTreeSet<String> = machines.iter().map(|m| m.provider_id.clone()).collect();
        for provider_id in now.difference(&self.alive) {
            if !rng.hits(never_joins) {
                agenda.after(
                    rng.between(4_000, 60_000),
                    Event::Join {
                        provider_id: provider_id.clone(),
                    },
                );
            }
        }
        for provider_id in self.alive.difference(&now) {
            for (name, _) in self
                .nodes
                .iter()
                .filter(|(_, node)| provider_id_of(node) == Some(provider_id))
            {
                agenda.after(HEARTBEAT_GRACE, Event::NodeLost { node: name.clone() });
            }
        }
        self.alive = now;
    }

    /// Pods of a workload that run and are ready.
    pub(crate) fn ready(&self, workload: &str) -> u32 {
        let counts = |entry: &&Entry| {
            workloads::owner(&entry.pod) == Some(("ReplicaSet", workload))
                && is_ready(&entry.pod)
                && entry.pod.metadata.deletion_timestamp.is_none()
        };
        self.pods.values().filter(counts).count() as u32
    }

    pub(crate) fn workloads(&self) -> &[Workload] {
        &self.workloads
    }

    /// Pods on a node that would miss it: not of a daemon, not finished, not leaving.
    pub(crate) fn users_of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Pod> {
        self.pods.values().map(|entry| &entry.pod).filter(move |pod| {
            pod.spec.node_name.as_deref() == Some(node)
                && workloads::owner(pod).is_none_or(|(kind, _)| kind != "DaemonSet")
                && pod.metadata.deletion_timestamp.is_none()
                && !matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed"))
        })
    }

    /// Whether a machine of this provider id runs.
    pub(crate) fn runs(&self, provider_id: &str) -> bool {
        self.alive.contains(provider_id)
    }

    /// The node of a machine, by name.
    pub(crate) fn node_of(&self, provider_id: &str) -> Option<&str> {
        let found = self
            .nodes
            .iter()
            .find(|(_, node)| provider_id_of(node) == Some(provider_id));
        found.map(|(name, _)| name.as_str())
    }

    /// Periodic collectors: pods whose node is gone, nodes whose machine or owner is gone.
    pub(crate) fn housekeeping(&mut self, server: &mut Server, now: Timestamp) {
        /// What the pod garbage collector waits before it believes that a node is gone.
        const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);
        /// The default toleration of `unreachable`.
        const UNREACHABLE_TOLERATION: SignedDuration = SignedDuration::from_secs(300);
        let mut gone = Vec::new();
        for (key, entry) in &self.pods {
            let Some(node) = &entry.pod.spec.node_name else {
                continue;
            };
            if self.nodes.contains_key(node) {
                self.orphaned.remove(key);
                if self
                    .lost
                    .get(node)
                    .is_some_and(|since| now.duration_since(*since) > UNREACHABLE_TOLERATION)
                    && entry.pod.metadata.deletion_timestamp.is_none()
                {
                    gone.push((key.clone(), entry.pod.metadata.uid.clone(), false));
                }
            } else {
                let since = *self.orphaned.entry(key.clone()).or_insert(now);
                if now.duration_since(since) >= QUARANTINE {
                    gone.push((key.clone(), entry.pod.metadata.uid.clone(), true));
                }
            }
        }
        for (key, uid, force) in gone {
            let uid = uid.unwrap_or_default();
            if force {
                server.remove_pod(&key, &uid);
            } else {
                server
                    .delete(Kind::Pod, &key, Some(&uid), None, now)
                    .expect("the pod was just seen");
            }
        }
        let claims: BTreeSet<String> = server
            .list(Kind::NodeClaim)
            .filter_map(|(_, claim)| text(claim, "/metadata/uid").map(str::to_owned))
            .collect();
        let ownerless = self.nodes.iter().filter(|(name, node)| {
            let owners = node.metadata.owner_references.iter().flatten();
            let orphan = owners
                .into_iter()
                .any(|o| o.kind == "NodeClaim" && !claims.contains(&o.uid));
            // The cloud's node controller looks only at nodes that have fallen silent.
            let dead = self.lost.contains_key(*name)
                && provider_id_of(node).is_some_and(|id| !self.alive.contains(id));
            (orphan || dead) && node.metadata.deletion_timestamp.is_none()
        });
        let ownerless: Vec<String> = ownerless.map(|(name, _)| name.clone()).collect();
        for name in ownerless {
            server
                .delete(Kind::Node, &name, None, None, now)
                .expect("the node was just seen");
        }
    }
}

fn provider_id_of(node: &Node) -> Option<&str> {
    node.spec.as_ref()?.provider_id.as_deref()
}

fn is_ready(pod: &Pod) -> bool {
    pod.status
        .conditions
        .iter()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

fn taints(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten())
}

/// Sum over the containers, plus one pod. The model's pods have no init containers.
fn requests(pod: &Pod) -> Resources {
    let mut total = Resources::from([("pods".into(), 1)]);
    for (name, quantity) in pod
        .spec
        .containers
        .iter()
        .flat_map(|c| c.resources.iter().flat_map(|r| &r.requests))
    {
        *total.entry(name.as_str().into()).or_default() += whole(name, quantity);
    }
    total
}

/// A quantity the model wrote itself.
pub(crate) fn whole(name: &str, quantity: &Quantity) -> i64 {
    amount(name, &quantity.0).expect("the model writes quantities that can be read")
}

/// Taints of a node as JSON, with one kind of them replaced.
fn with_taints(node: &Node, drop_key: &str, add: &[(&str, &str)]) -> Value {
    let kept = taints(node).filter(|t| t.key != drop_key).map(|t| json!(t));
    let added = add
        .iter()
        .map(|(key, effect)| json!({ "key": key, "effect": effect }));
    Value::Array(kept.chain(added).collect())
}
