//! The whole picture.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use plimsoll_api::labels;
use plimsoll_core::{
    catalog::Catalog,
    requirement::{Operator, Requirement},
    snapshot::{ClassId, DaemonSet, NodeId, Place, Pod, PodClass, Selector, Snapshot},
};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{node::Context, pool};
use crate::{
    index::Index,
    pdb::Budgets,
    pod::{Owner, PodState},
};

/// A snapshot and the pods that could not be taken into it.
#[derive(Debug)]
pub struct Lowered {
    pub snapshot: Snapshot,
    /// Waiting pods (by key) that cannot be planned, and why. They get an event.
    pub refused: Vec<(Arc<str>, String)>,
    /// Waiting pods that opted out of provisioning.
    pub ignored: usize,
}

impl Index {
    /// The cluster as the planner sees it at `now`.
    pub fn snapshot(&self, catalog: &Catalog, now: Timestamp) -> Lowered {
        let budgets = Budgets::new(self.pdbs.values());
        let context = Context {
            index: self,
            catalog,
            budgets: &budgets,
            now,
        };
        let promised = self.promised_targets();
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for claim in self.claims() {
            let provider_id = claim.status.as_ref().and_then(|s| s.provider_id.as_deref());
            let node = provider_id
                .map(|id| self.nodes_of_provider_id(id))
                .unwrap_or_default()
                .into_iter()
                .next();
            let promised = promised.contains(claim.metadata.name.as_deref().unwrap_or_default());
            nodes.push(context.claimed(claim, node.as_deref(), promised));
        }
        nodes.extend(
            self.nodes()
                .filter(|n| self.claim_of_node(n).is_none())
                .map(|n| context.bare(n)),
        );
        nodes.sort_by(|a, b| a.name.cmp(&b.name));

        let mut by_name: FxHashMap<Arc<str>, NodeId> = FxHashMap::default();
        for (idx, node) in nodes.iter().enumerate() {
            by_name.insert(node.name.clone(), NodeId(idx as u32));
        }
        for (idx, node) in nodes.iter().enumerate() {
            if let Some(claim) = &node.claim {
                by_name.entry(claim.clone()).or_insert(NodeId(idx as u32));
            }
        }

        let mut lowered = Lowered {
            snapshot: Snapshot {
                revision: self.revision(),
                nodes,
                namespaces: self.namespaces.clone(),
                ..Snapshot::default()
            },
            refused: Vec::new(),
            ignored: 0,
        };
        let mut classes = Classes::new(self);
        for pod in self.pods().filter(|p| !p.terminal) {
            let Some(place) = self.place(pod, &lowered.snapshot, &by_name, &budgets, now) else {
                continue;
            };
            match self.class(pod, place, &mut classes) {
                Ok(class) => lowered.snapshot.pods.push(Pod {
                    key: pod.key.clone(),
                    uid: pod.uid.clone(),
                    class,
                    place,
                    daemon: pod.owner == Owner::DaemonSet,
                    terminating: pod.deletion.is_some(),
                }),
                Err(Refusal::OptedOut) => lowered.ignored += 1,
                Err(Refusal::Because(why)) => lowered.refused.push((pod.key.clone(), why)),
            }
        }
        lowered.snapshot.daemon_sets = self.lower_daemon_sets(&mut classes);
        lowered.snapshot.pools = self.node_pools().filter_map(|p| pool::pool(p)).collect();
        lowered.snapshot.classes = classes.list;
        lowered
    }

    /// Where a pod stands; None for one that plays no part (not tried yet, gated, or on an unknown node).
    fn place(
        &self,
        pod: &PodState,
        snapshot: &Snapshot,
        by_name: &FxHashMap<Arc<str>, NodeId>,
        budgets: &Budgets<'_>,
        now: Timestamp,
    ) -> Option<Place> {
        let promised = || {
            let node = *by_name.get(self.promised_target(&pod.key)?)?;
            (!snapshot.nodes[node.0 as usize].leaving).then_some(node)
        };
        if let Some(name) = &pod.node {
            let node = *by_name.get(name)?;
            let moves = snapshot.nodes[node.0 as usize].leaving && self.moves(pod, budgets, now);
            return Some(match (moves, promised()) {
                (false, _) => Place::Bound(node),
                (true, Some(next)) => Place::Assigned(next),
                (true, None) => Place::Leaving(node),
            });
        }
        if !pod.is_provisionable() {
            return None;
        }
        if let Some(node) = promised() {
            return Some(Place::Assigned(node));
        }
        // A nomination we did not make, or made before a restart.
        let nominated = pod.nominated_node.as_ref().and_then(|name| by_name.get(name));
        match nominated {
            Some(node) if !snapshot.nodes[node.0 as usize].leaving => Some(Place::Assigned(*node)),
            _ => Some(Place::Pending),
        }
    }

    fn class(&self, pod: &PodState, place: Place, classes: &mut Classes) -> Result<ClassId, Refusal> {
        // Only a pod that wants a machine has to make sense to us; the others are facts.
        if place == Place::Pending {
            refuse(&pod.shape)?;
        }
        let (volume_affinity, volumes) = if pod.claims.is_empty() {
            Default::default()
        } else {
            match self.storage.volumes_of(pod) {
                Ok(volumes) => volumes,
                Err(why) if place == Place::Pending => return Err(Refusal::Because(why)),
                Err(_) => Default::default(),
            }
        };
        Ok(classes.id(&pod.shape, &pod.labels, volume_affinity, volumes))
    }

    /// A live pod has been through admission, so its shape says more than the template.
    fn lower_daemon_sets(&self, classes: &mut Classes) -> Vec<DaemonSet> {
        let mut newest: FxHashMap<&Arc<str>, &Arc<PodState>> = FxHashMap::default();
        for pod in self.pods() {
            if let Some(daemon_set) = &pod.daemon_set {
                let known = newest.entry(daemon_set).or_insert(pod);
                if known.created < pod.created {
                    *known = pod;
                }
            }
        }
        self.daemon_sets
            .iter()
            .map(|(key, template)| {
                let mut class = PodClass::clone(newest.get(key).map_or(template, |pod| &pod.shape));
                // The DaemonSet controller pins each pod to its node; the template says where they may go.
                class.node_affinity.clone_from(&template.node_affinity);
                class.labels = classes.project(&template.labels);
                DaemonSet {
                    key: key.clone(),
                    class: classes.insert(class),
                }
            })
            .collect()
    }
}

enum Refusal {
    OptedOut,
    Because(String),
}

/// Constraints that cannot be planned for, in the words of the pod.
fn refuse(shape: &PodClass) -> Result<(), Refusal> {
    let affinity = shape.node_affinity.iter().flatten();
    if affinity
        .clone()
        .any(|r| &*r.key == labels::NODEPOOL && r.operator == Operator::DoesNotExist)
    {
        return Err(Refusal::OptedOut);
    }
    let keys = shape
        .node_selector
        .iter()
        .map(|(key, _)| key)
        .chain(affinity.map(|r| &r.key));
    for key in keys {
        if let Some(why) = labels::restricted(key) {
            return Err(Refusal::Because(format!(
                "node selector or affinity uses label {key}: {why}"
            )));
        }
    }
    Ok(())
}

/// Hands out class ids; two pods with the same shape and the same relevant labels get the same one.
struct Classes {
    list: Vec<PodClass>,
    /// Label keys some selector looks at.
    relevant: FxHashSet<Arc<str>>,
    by_address: FxHashMap<(usize, usize), ClassId>,
    by_content: FxHashMap<PodClass, ClassId>,
}

impl Classes {
    fn new(index: &Index) -> Self {
        let mut relevant = FxHashSet::default();
        let mut seen = FxHashSet::default();
        let shapes = index.pods().map(|p| &p.shape).chain(index.daemon_sets.values());
        for shape in shapes {
            if seen.insert(Arc::as_ptr(shape)) {
                for selector in selectors(shape) {
                    relevant.extend(selector.requirements.iter().map(|r: &Requirement| r.key.clone()));
                }
            }
        }
        Self {
            list: Vec::new(),
            relevant,
            by_address: FxHashMap::default(),
            by_content: FxHashMap::default(),
        }
    }

    fn id(
        &mut self,
        shape: &Arc<PodClass>,
        pod_labels: &Arc<Vec<(Arc<str>, Arc<str>)>>,
        volume_affinity: Vec<Vec<Vec<Requirement>>>,
        volumes: Vec<(Arc<str>, Arc<str>)>,
    ) -> ClassId {
        let address = (Arc::as_ptr(shape) as usize, Arc::as_ptr(pod_labels) as usize);
        let plain = volumes.is_empty() && volume_affinity.is_empty();
        if plain && let Some(id) = self.by_address.get(&address) {
            return *id;
        }
        let mut class = PodClass::clone(shape);
        class.labels = self.project(pod_labels);
        class.volume_affinity = volume_affinity;
        class.volumes = volumes;
        let id = self.insert(class);
        if plain {
            self.by_address.insert(address, id);
        }
        id
    }

    fn project(&self, pod_labels: &[(Arc<str>, Arc<str>)]) -> Vec<(Arc<str>, Arc<str>)> {
        pod_labels
            .iter()
            .filter(|(key, _)| self.relevant.contains(key))
            .cloned()
            .collect()
    }

    fn insert(&mut self, class: PodClass) -> ClassId {
        let next = ClassId(self.list.len() as u32);
        *self.by_content.entry(class).or_insert_with_key(|class| {
            self.list.push(class.clone());
            next
        })
    }
}

fn selectors(shape: &PodClass) -> impl Iterator<Item = &Selector> {
    let preferred = shape
        .preferred_affinity
        .iter()
        .chain(&shape.preferred_anti_affinity)
        .map(|(_, term)| term);
    let terms = shape.affinity.iter().chain(&shape.anti_affinity).chain(preferred);
    shape
        .spread
        .iter()
        .map(|s| &s.selector)
        .chain(terms.map(|t| &t.selector))
}

/// Capacity in use by pool: what `NodePool.status.resources` and `status.nodes` report.
pub fn pool_usage(snapshot: &Snapshot) -> BTreeMap<Arc<str>, (plimsoll_core::resources::Resources, u64)> {
    let mut pools: Vec<&Arc<str>> = snapshot.nodes.iter().filter_map(|n| n.pool.as_ref()).collect();
    pools.sort();
    pools.dedup();
    pools
        .into_iter()
        .map(|name| {
            let nodes = snapshot
                .nodes
                .iter()
                .filter(|n| n.pool.as_ref() == Some(name) && !n.leaving);
            (name.clone(), pool::usage(nodes))
        })
        .collect()
}
