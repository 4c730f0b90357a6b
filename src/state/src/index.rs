//! What is known of the cluster.

mod machines;
mod observe;
mod promises;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{core::v1::Node, policy::v1::PodDisruptionBudget},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use plimsoll_api::{labels, nodeclaim::NodeClaim, nodepool::NodePool};
use plimsoll_core::snapshot::PodClass;
use rustc_hash::FxHashSet;

use self::{machines::plan_of, promises::Promises};
pub use self::{
    machines::{NodeView, Peers},
    observe::Observe,
    promises::{PROMISE_MAX, PROMISE_WINDOW},
};
use crate::{
    node::accepts_pods,
    pod::{self, PodState},
    storage::Storage,
};

type SharedLabels = Arc<Vec<(Arc<str>, Arc<str>)>>;

/// A claim we created ourselves is not asked about for this long although the watch has not confirmed it. Longer than
/// a watch takes to notice that its connection is dead and to list again.
const UNCONFIRMED_WINDOW: SignedDuration = SignedDuration::from_mins(2);

/// How long the UID of something that is gone is remembered; longer than any call may take.
const GONE_WINDOW: SignedDuration = SignedDuration::from_mins(5);

/// What changed since it was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// NodeClaims something relevant to which happened.
    pub claims: BTreeSet<String>,
    /// NodePools whose spec, machines or class changed.
    pub pools: bool,
    /// A pod began to wait for a machine, or its machine began to leave.
    pub waiting_pods: usize,
    /// Something that can make a machine removable, or let a waiting pod be planned differently.
    pub capacity: bool,
}

#[derive(Debug)]
struct ClaimEntry {
    object: Arc<NodeClaim>,
    /// Set when we stored it from a create call's answer and no watch has said it yet.
    unconfirmed_since: Option<Timestamp>,
}

impl ClaimEntry {
    fn is_overdue(&self, now: Timestamp) -> bool {
        let since = self.unconfirmed_since;
        since.is_some_and(|since| now.duration_since(since) > UNCONFIRMED_WINDOW)
    }
}

/// How pods that had a place in a plan were bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bindings {
    pub as_planned: u64,
    pub elsewhere: u64,
}

#[derive(Debug, Default)]
pub struct Index {
    revision: u64,
    touched: Touched,
    shapes: FxHashSet<Arc<PodClass>>,
    label_sets: FxHashSet<SharedLabels>,
    image_sets: FxHashSet<Arc<Vec<Arc<str>>>>,
    pub(crate) pods: BTreeMap<Arc<str>, Arc<PodState>>,
    pub(crate) pods_by_node: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    pub(crate) nodes: BTreeMap<String, Arc<Node>>,
    nodes_by_provider_id: BTreeMap<String, BTreeSet<String>>,
    claims: BTreeMap<String, ClaimEntry>,
    claims_by_provider_id: BTreeMap<String, String>,
    /// Names of claims that exist and that this version cannot read.
    unreadable_claims: BTreeSet<String>,
    pub(crate) node_pools: BTreeMap<String, Arc<NodePool>>,
    /// Shape of each DaemonSet's template, by key.
    pub(crate) daemon_sets: BTreeMap<Arc<str>, Arc<PodClass>>,
    pub(crate) pdbs: BTreeMap<String, Arc<PodDisruptionBudget>>,
    pub(crate) namespaces: BTreeMap<Arc<str>, plimsoll_core::snapshot::Labels>,
    pub(crate) storage: Storage,
    promises: Promises,
    /// The plan whose machines are being ordered.
    ordering: Option<Arc<str>>,
    last_pod_event: BTreeMap<Arc<str>, Timestamp>,
    bindings: Bindings,
    arrivals: u64,
    broken_promises: u64,
    /// UIDs of claims and nodes that a watch said are gone, and when: an answer to one of our own writes may
    /// be slower than the watch and must not bring them back.
    gone: BTreeMap<String, Timestamp>,
}

impl Index {
    /// Grows with every change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What changed since the last call.
    pub fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.touched)
    }

    pub fn bindings(&self) -> Bindings {
        self.bindings
    }

    pub fn node_pools(&self) -> impl Iterator<Item = &Arc<NodePool>> {
        self.node_pools.values()
    }

    pub fn node_pool(&self, name: &str) -> Option<&Arc<NodePool>> {
        self.node_pools.get(name)
    }

    pub fn claims(&self) -> impl Iterator<Item = &Arc<NodeClaim>> {
        self.claims.values().map(|entry| &entry.object)
    }

    /// Names of claims that exist and that this version cannot read. Their machines are theirs all the same.
    pub fn unreadable_claims(&self) -> &BTreeSet<String> {
        &self.unreadable_claims
    }

    pub fn claim(&self, name: &str) -> Option<&Arc<NodeClaim>> {
        self.claims.get(name).map(|entry| &entry.object)
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    pub fn pods(&self) -> impl Iterator<Item = &Arc<PodState>> {
        self.pods.values()
    }

    pub fn pod(&self, key: &str) -> Option<&Arc<PodState>> {
        self.pods.get(key)
    }

    /// Whether there is a PodDisruptionBudget of this `namespace/name`.
    pub fn has_budget(&self, key: &str) -> bool {
        self.pdbs.contains_key(key)
    }

    /// Whether there is a DaemonSet of this `namespace/name`.
    pub fn has_daemon_set(&self, key: &str) -> bool {
        self.daemon_sets.contains_key(key)
    }

    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Arc<PodState>> {
        self.pods_by_node
            .get(node)
            .into_iter()
            .flatten()
            .filter_map(|key| self.pods.get(key))
    }

    /// Nodes that carry a provider id.
    pub fn nodes_of_provider_id(&self, provider_id: &str) -> Vec<Arc<Node>> {
        let names = self.nodes_by_provider_id.get(provider_id).into_iter().flatten();
        names.filter_map(|name| self.nodes.get(name)).cloned().collect()
    }

    /// Name of the NodeClaim that owns a Node.
    pub fn claim_of_node(&self, node: &Node) -> Option<&str> {
        let provider_id = node.spec.as_ref()?.provider_id.as_ref()?;
        self.claims_by_provider_id.get(provider_id).map(String::as_str)
    }

    /// Takes in a claim that a create call just returned, before any watch has seen it.
    pub fn created_claim(&mut self, claim: NodeClaim, now: Timestamp) {
        let Some(name) = claim.metadata.name.clone() else {
            return;
        };
        if self.claims.contains_key(&name) || self.is_gone(&claim.metadata) {
            return;
        }
        self.touch_claim(&name);
        self.claims.insert(
            name,
            ClaimEntry {
                object: Arc::new(claim),
                unconfirmed_since: Some(now),
            },
        );
        self.revision += 1;
    }

    /// How often a pod began to wait for a machine, or to lose the one it has.
    pub fn arrivals(&self) -> u64 {
        self.arrivals
    }

    /// How often a pod lost its place in a plan and waits again.
    pub fn broken_promises(&self) -> u64 {
        self.broken_promises
    }

    pub(crate) fn last_pod_event(&self, node: &str) -> Option<Timestamp> {
        self.last_pod_event.get(node).copied()
    }

    /// Drops promises that will not be kept: their machine is gone or leaving, or has been usable for too
    /// long. The pods count as waiting again.
    pub fn expire(&mut self, now: Timestamp) {
        self.break_promises(now);
        self.gone.retain(|_, at| now.duration_since(*at) <= GONE_WINDOW);
    }

    /// Whether a claim we created has not been confirmed by the watch in time. Then only the API server knows: list all
    /// claims and tell [`Index::counted`] before the next plan.
    pub fn overdue(&self, now: Timestamp) -> bool {
        self.claims.values().any(|entry| entry.is_overdue(now))
    }

    /// Takes in all claims the API server has, by a list that was asked for just now. It may hold some whose creation
    /// was never answered, and lack some that were created and have gone again.
    pub fn counted(&mut self, claims: Vec<NodeClaim>, now: Timestamp) {
        let listed: BTreeSet<Option<String>> = claims.iter().map(|c| c.metadata.uid.clone()).collect();
        let overdue = self.claims.iter().filter(|(_, entry)| entry.is_overdue(now));
        let gone: Vec<String> = overdue
            .filter(|(_, entry)| !listed.contains(&entry.object.metadata.uid))
            .map(|(name, _)| name.clone())
            .collect();
        gone.iter().for_each(|name| self.forget_claim(name));
        for entry in self.claims.values_mut() {
            entry.unconfirmed_since = entry.unconfirmed_since.map(|_| now);
        }
        for claim in claims {
            self.created_claim(claim, now);
        }
    }

    /// The pool a claim was made for, by its label.
    pub fn pool_of(&self, claim: &NodeClaim) -> Option<&Arc<NodePool>> {
        self.node_pool(claim.metadata.labels.as_ref()?.get(labels::NODEPOOL)?)
    }

    fn bury(&mut self, meta: &ObjectMeta, now: Timestamp) {
        if let Some(uid) = &meta.uid {
            self.gone.insert(uid.clone(), now);
        }
    }

    fn is_gone(&self, meta: &ObjectMeta) -> bool {
        meta.uid.as_ref().is_some_and(|uid| self.gone.contains_key(uid))
    }

    fn touch_claim(&mut self, name: &str) {
        if !self.touched.claims.contains(name) {
            self.touched.claims.insert(name.to_owned());
        }
    }

    fn touch_claim_of_node(&mut self, node: &str) {
        let claim = self
            .nodes
            .get(node)
            .and_then(|n| self.claim_of_node(n))
            .map(str::to_owned);
        if let Some(claim) = claim {
            self.touch_claim(&claim);
        }
    }

    /// Takes in a claim unless something newer is known. None: a watch says it exists.
    fn store_claim(&mut self, mut object: NodeClaim, unconfirmed_since: Option<Timestamp>) {
        object.metadata.managed_fields = None;
        let Some(name) = object.metadata.name.clone() else {
            return;
        };
        if self.is_gone(&object.metadata) {
            return;
        }
        if let Some(known) = self.claims.get_mut(&name) {
            if is_older(&object.metadata, &known.object.metadata) {
                known.unconfirmed_since = known.unconfirmed_since.and(unconfirmed_since);
                return;
            }
            if known.unconfirmed_since == unconfirmed_since && *known.object == object {
                return;
            }
        }
        if let Some(id) = object.status.as_ref().and_then(|s| s.provider_id.clone()) {
            self.claims_by_provider_id.insert(id, name.clone());
        }
        self.touch_claim(&name);
        let object = Arc::new(object);
        let entry = ClaimEntry {
            object: object.clone(),
            unconfirmed_since,
        };
        let before = self.claims.insert(name, entry).map(|entry| entry.object);
        // The machine may have been ready before its claim named it; or it will never be.
        let named = |claim: &NodeClaim| claim.status.as_ref().and_then(|s| s.provider_id.clone());
        let joined = before.as_deref().and_then(named) != named(&object)
            && self.sole_node(&object).is_some_and(|node| accepts_pods(node));
        let leaves = object.metadata.deletion_timestamp.is_some()
            && before.is_some_and(|before| before.metadata.deletion_timestamp.is_none());
        if let Some(plan) = plan_of(&object).filter(|_| joined || leaves) {
            self.touch_peers(plan);
        }
        if leaves {
            self.machine_is_lost(&object);
        }
        self.touched.capacity = true;
        self.touched.pools = true;
        self.revision += 1;
    }

    /// Its pods, and those that have a place on it, are planned anew before they are evicted.
    fn machine_is_lost(&mut self, claim: &NodeClaim) {
        let node = self.sole_node(claim).and_then(|node| node.metadata.name.clone());
        let pods = self.pods_on(node.as_deref().unwrap_or_default());
        let moving = pods.filter(|pod| pod.is_recreated()).count();
        let coming = self
            .promises
            .on(claim.metadata.name.as_deref().unwrap_or_default());
        let lost = moving + coming.count();
        self.touched.waiting_pods += lost;
        self.arrivals += lost as u64;
    }

    fn forget_claim(&mut self, name: &str) {
        if let Some(entry) = self.claims.remove(name) {
            if let Some(id) = entry.object.status.as_ref().and_then(|s| s.provider_id.as_ref()) {
                self.claims_by_provider_id.remove(id);
            }
            self.touch_claim(name);
            self.machine_is_lost(&entry.object);
            if let Some(plan) = plan_of(&entry.object) {
                self.touch_peers(plan);
            }
            self.touched.capacity = true;
            self.touched.pools = true;
            self.revision += 1;
        }
    }

    fn intern_shape(&mut self, shape: PodClass) -> Arc<PodClass> {
        intern(&mut self.shapes, shape)
    }

    fn intern_labels(&mut self, labels: Option<&BTreeMap<String, String>>) -> SharedLabels {
        let labels = labels
            .into_iter()
            .flatten()
            .map(|(key, value)| (Arc::from(key.as_str()), Arc::from(value.as_str())))
            .collect();
        intern(&mut self.label_sets, labels)
    }

    fn intern_images(&mut self, images: Vec<Arc<str>>) -> Arc<Vec<Arc<str>>> {
        intern(&mut self.image_sets, images)
    }

    /// What is shared and nobody uses any more.
    fn sweep_interned(&mut self) {
        self.shapes.retain(|shape| Arc::strong_count(shape) > 1);
        self.label_sets.retain(|labels| Arc::strong_count(labels) > 1);
        self.image_sets.retain(|images| Arc::strong_count(images) > 1);
    }

    fn remove_pod(&mut self, key: &Arc<str>, now: Timestamp) {
        let Some(pod) = self.pods.remove(key) else { return };
        self.promises.end(key);
        if let Some(node) = &pod.node {
            self.unplace(key, node);
            self.pod_event(&pod, node, now);
        }
        self.touched.capacity = true;
        self.revision += 1;
    }

    fn unplace(&mut self, key: &Arc<str>, node: &Arc<str>) {
        if let Some(keys) = self.pods_by_node.get_mut(node) {
            keys.remove(key);
            if keys.is_empty() {
                self.pods_by_node.remove(node);
            }
        }
    }

    /// Daemons follow their node; only other pods make it busy.
    fn pod_event(&mut self, pod: &PodState, node: &Arc<str>, now: Timestamp) {
        if pod.owner != pod::Owner::DaemonSet {
            self.last_pod_event.insert(node.clone(), now);
        }
        self.touch_claim_of_node(node);
    }
}

/// Sharing pays as long as sets stay small compared to what they index.
const INTERNED_SWEEP_EVERY: usize = 1024;

fn intern<T: Eq + std::hash::Hash>(set: &mut FxHashSet<Arc<T>>, value: T) -> Arc<T> {
    if let Some(known) = set.get(&value) {
        return known.clone();
    }
    let shared = Arc::new(value);
    set.insert(shared.clone());
    shared
}

/// Answers to our own writes reach the index ahead of the watch, which then repeats what is already past.
fn is_older(new: &ObjectMeta, known: &ObjectMeta) -> bool {
    let version = |meta: &ObjectMeta| meta.resource_version.as_ref().and_then(|v| v.parse::<u64>().ok());
    new.uid == known.uid && version(new) < version(known)
}
