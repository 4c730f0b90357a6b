//! kube-scheduler, reduced: resources, taints and node selectors; a nominated node first, then the emptiest.

use std::{cmp::Reverse, collections::BTreeMap};

use k8s_openapi::api::core::v1::{Node, Taint, Toleration};
use plimsoll_core::resources::Resources;
use plimsoll_state::Pod;
use serde_json::{Value, json};

use super::{Entry, World, taints, whole};
use crate::{
    agenda::{Agenda, Event},
    api::{Kind, Part, Server, set_condition},
    rng::Rng,
};

impl World {
    /// One look at everything that waits. A decision is carried out later, whatever happens in between.
    pub(crate) fn schedule(&mut self, server: &mut Server, agenda: &mut Agenda, rng: &mut Rng) {
        self.schedule_queued = false;
        let mut free = self.free();
        let waiting: Vec<String> = self
            .pods
            .iter()
            .filter(|(key, entry)| waits(&entry.pod) && !self.assumed.contains_key(*key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in waiting {
            let entry = &self.pods[&key];
            let Some(node) = self.choose(entry, &free) else {
                refuse(server, &key);
                continue;
            };
            let room = free.get_mut(&node).expect("a node was chosen among these");
            for (name, amount) in &entry.requests {
                *room.entry(name.clone()).or_default() -= amount;
            }
            // A binding takes milliseconds; a permit plugin or a slow server makes it longer.
            let delay = if rng.hits(300) {
                rng.between(100, 600)
            } else {
                rng.between(2, 60)
            };
            let uid = entry.pod.metadata.uid.clone().unwrap_or_default();
            agenda.after(
                delay,
                Event::Bind {
                    pod: key.clone(),
                    uid,
                    node: node.clone(),
                },
            );
            self.assumed.insert(key, node);
        }
    }

    /// A binding reaches the server.
    pub(crate) fn bind(
        &mut self,
        server: &mut Server,
        agenda: &mut Agenda,
        rng: &mut Rng,
        pod: &str,
        uid: &str,
        node: &str,
    ) {
        self.assumed.remove(pod);
        if server.bind(pod, uid, node).is_err() {
            self.wake_scheduler(agenda, rng);
        }
    }

    /// Allocatable of every node, less what bound and assumed pods request.
    fn free(&self) -> BTreeMap<String, Resources> {
        let mut free: BTreeMap<String, Resources> = self
            .nodes
            .iter()
            .map(|(name, node)| {
                let allocatable = node.status.iter().flat_map(|s| s.allocatable.iter().flatten());
                (
                    name.clone(),
                    allocatable
                        .map(|(name, q)| (name.as_str().into(), whole(name, q)))
                        .collect(),
                )
            })
            .collect();
        for (key, entry) in &self.pods {
            let node = entry
                .pod
                .spec
                .node_name
                .as_ref()
                .or_else(|| self.assumed.get(key));
            if let Some(room) = node.and_then(|node| free.get_mut(node)) {
                for (name, amount) in &entry.requests {
                    *room.entry(name.clone()).or_default() -= amount;
                }
            }
        }
        free
    }

    fn choose(&self, entry: &Entry, free: &BTreeMap<String, Resources>) -> Option<String> {
        let fits = |name: &String| {
            let node = self.nodes.get(name)?;
            let room = free.get(name)?;
            let holds = entry
                .requests
                .iter()
                .all(|(name, amount)| room.get(name).copied().unwrap_or(0) >= *amount);
            (holds && accepts(node, &entry.pod)).then_some(room)
        };
        if let Some(nominated) = entry
            .pod
            .status
            .nominated_node_name
            .as_ref()
            .filter(|n| fits(n).is_some())
        {
            return Some(nominated.clone());
        }
        let score = |room: &Resources| (room.get("cpu").copied(), room.get("memory").copied());
        let feasible = free
            .keys()
            .filter_map(|name| Some((score(fits(name)?), Reverse(name))));
        feasible.max().map(|(_, Reverse(name))| name.clone())
    }
}

fn waits(pod: &Pod) -> bool {
    pod.spec.node_name.is_none() && pod.metadata.deletion_timestamp.is_none()
}

/// A failed attempt marks the pod and clears its nomination.
fn refuse(server: &mut Server, key: &str) {
    let Some(pod) = server.get(Kind::Pod, key) else {
        return;
    };
    let mut new = Value::clone(pod);
    set_condition(&mut new, "PodScheduled", "False", Some("Unschedulable"));
    let status =
        json!({ "status": { "conditions": new["status"]["conditions"], "nominatedNodeName": null } });
    server
        .patch(Kind::Pod, key, &status, Part::Status)
        .expect("the pod was just read");
}

fn accepts(node: &Node, pod: &Pod) -> bool {
    let no_labels = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&no_labels);
    pod.spec
        .node_selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
        && node.spec.as_ref().is_none_or(|s| s.unschedulable != Some(true))
        && taints(node).all(|taint| tolerates(&pod.spec.tolerations, taint))
}

/// Whether one of the tolerations covers a taint that keeps pods away.
fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    taint.effect == "PreferNoSchedule"
        || tolerations.iter().any(|t| {
            let key = t
                .key
                .as_deref()
                .is_none_or(|key| key.is_empty() || key == taint.key);
            let effect = t
                .effect
                .as_deref()
                .is_none_or(|effect| effect.is_empty() || effect == taint.effect);
            let value = t.operator.as_deref() == Some("Exists")
                || t.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
            key && effect && value
        })
}
