//! What is known of the cluster, one method per thing a watch can say.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Node},
        policy::v1::PodDisruptionBudget,
        storage::v1::{CSINode, StorageClass, VolumeAttachment},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use plimsoll_api::{conditions, labels, nodeclaim::NodeClaim, nodepool::NodePool};
use plimsoll_core::snapshot::PodClass;
use rustc_hash::FxHashSet;

use crate::{
    lower::{self, shape},
    node::{accepts_pods, has_label, ready_since},
    pod::{self, PodState},
    promises::{Promise, Promises},
    slim,
    storage::Storage,
};

type SharedLabels = Arc<Vec<(Arc<str>, Arc<str>)>>;

/// A promise is forgotten this long after its machine became usable: if kube-scheduler has not followed it
/// by then it will not, and the pod must be planned anew. Upstream's nomination window.
pub const PROMISE_WINDOW: Duration = Duration::from_secs(20);

/// A promise is forgotten when kube-scheduler has refused the pod this often although its machine is in service and
/// has room. More than once, because an attempt may have begun before the machine opened.
const REFUSALS_MAX: u32 = 4;

/// A claim we created ourselves stays known for this long without the watch confirming it, so that a list
/// that is older than the creation cannot make us launch the same machine twice. Longer than a watch takes to
/// notice that its connection is dead and to list again.
const UNCONFIRMED_WINDOW: SignedDuration = SignedDuration::from_mins(2);

/// How long the UID of something that is gone is remembered; longer than any call may take.
const GONE_WINDOW: SignedDuration = SignedDuration::from_mins(5);

/// A way for a watch to tell what it saw. `reset` is a full list: what it lacks is gone.
pub trait Observe<K> {
    fn apply(&mut self, object: K, now: Timestamp);
    fn delete(&mut self, object: &K, now: Timestamp);
    fn reset(&mut self, objects: Vec<K>, now: Timestamp);
    /// The answer to one of our own writes, ahead of the watch.
    fn answered(&mut self, object: K, now: Timestamp) {
        self.apply(object, now);
    }
}

/// What changed since it was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// NodeClaims something relevant to which happened.
    pub claims: BTreeSet<String>,
    /// NodePools whose spec, machines or class changed.
    pub pools: bool,
    /// A pod began to wait for a machine.
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
    pub(crate) pods: BTreeMap<Arc<str>, Arc<PodState>>,
    pub(crate) pods_by_node: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    pub(crate) nodes: BTreeMap<String, Arc<Node>>,
    nodes_by_provider_id: BTreeMap<String, BTreeSet<String>>,
    claims: BTreeMap<String, ClaimEntry>,
    claims_by_provider_id: BTreeMap<String, String>,
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

/// One machine with everything around it.
#[derive(Clone, Debug)]
pub struct NodeView {
    pub claim: Arc<NodeClaim>,
    /// Nodes that carry the claim's provider id; more than one is an error the lifecycle reports.
    pub nodes: Vec<Arc<Node>>,
    /// Pods bound to the node, sorted by key.
    pub pods: Vec<Arc<PodState>>,
    /// Pods planned onto it that are not bound anywhere yet.
    pub promised: Vec<Arc<PodState>>,
    /// The other machines of its plan that are still closed.
    pub peers: Peers,
    /// Names of volume attachments of volumes its pods must wait for.
    pub attachments: Vec<String>,
    /// Last bind, finish or deletion of a pod there.
    pub last_pod_event: Option<Timestamp>,
}

/// Machines that were bought together, until they open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// Some are not ready for pods yet, or not even ordered.
    pub joining: bool,
    /// When the latest of the others became Ready.
    pub last_ready: Option<Timestamp>,
}

impl NodeView {
    /// The machine's Node, when there is exactly one.
    pub fn node(&self) -> Option<&Arc<Node>> {
        match self.nodes.as_slice() {
            [node] => Some(node),
            _ => None,
        }
    }
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

    fn peers(&self, claim: &NodeClaim) -> Peers {
        let Some(plan) = plan_of(claim).filter(|_| is_closed(claim)) else {
            return Peers::default();
        };
        let mut peers = Peers {
            joining: self.ordering.as_deref() == Some(plan),
            last_ready: None,
        };
        let others = self.closed_machines(plan);
        for other in others.filter(|other| other.metadata.name != claim.metadata.name) {
            match self.sole_node(other).filter(|node| accepts_pods(node)) {
                Some(node) => peers.last_ready = peers.last_ready.max(ready_since(node)),
                None => peers.joining = true,
            }
        }
        peers
    }

    /// Tells that claims of a plan are being created from now on; None: that is over.
    pub fn ordering(&mut self, plan: Option<&str>) {
        let before = std::mem::replace(&mut self.ordering, plan.map(Into::into));
        let ordered: Vec<String> = self
            .claims()
            .filter(|claim| before.is_some() && plan_of(claim) == before.as_deref())
            .filter_map(|claim| claim.metadata.name.clone())
            .collect();
        ordered.iter().for_each(|claim| self.touch_claim(claim));
    }

    /// The claims of a plan whose machines are not open yet.
    fn closed_machines(&self, plan: &str) -> impl Iterator<Item = &Arc<NodeClaim>> {
        self.claims()
            .filter(move |claim| plan_of(claim) == Some(plan) && is_closed(claim))
    }

    /// The Node of a claim, when there is exactly one.
    fn sole_node(&self, claim: &NodeClaim) -> Option<&Arc<Node>> {
        let provider_id = claim.status.as_ref()?.provider_id.as_deref()?;
        let names = self.nodes_by_provider_id.get(provider_id)?;
        let name = names.first().filter(|_| names.len() == 1)?;
        self.nodes.get(name)
    }

    /// Pods planned onto a claim's machine that are not bound anywhere yet.
    fn promised(&self, claim: &str) -> impl Iterator<Item = &Arc<PodState>> {
        let pods = self.promises.on(claim).filter_map(|key| self.pods.get(key));
        pods.filter(|pod| pod.node.is_none() && pod.is_active())
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

    /// A machine with its pods and promises.
    pub fn view(&self, claim: &str) -> Option<NodeView> {
        let object = self.claim(claim)?.clone();
        let provider_id = object.status.as_ref().and_then(|s| s.provider_id.as_deref());
        let nodes = provider_id
            .map(|id| self.nodes_of_provider_id(id))
            .unwrap_or_default();
        let node_name = nodes.first().and_then(|n| n.metadata.name.as_deref());
        let pods: Vec<_> = node_name
            .into_iter()
            .flat_map(|n| self.pods_on(n))
            .cloned()
            .collect();
        let promised = self.promised(claim).cloned().collect();
        let attachments = node_name
            .map(|n| self.storage.attachments_of(n, &pods))
            .unwrap_or_default();
        let last_pod_event = node_name.and_then(|n| self.last_pod_event.get(n)).copied();
        let peers = self.peers(&object);
        Some(NodeView {
            claim: object,
            nodes,
            pods,
            promised,
            peers,
            attachments,
            last_pod_event,
        })
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

    /// How often a pod began to wait for a machine.
    pub fn arrivals(&self) -> u64 {
        self.arrivals
    }

    /// How often a pod lost its place in a plan and waits again.
    pub fn broken_promises(&self) -> u64 {
        self.broken_promises
    }

    /// Pods that wait for a machine and have no place in any plan.
    pub fn waiting(&self) -> usize {
        self.pods
            .values()
            .filter(|p| p.is_provisionable() && self.promises.get(&p.key).is_none())
            .count()
    }

    /// Remembers that a plan put the pod on the machine of this claim (or on this Node).
    pub fn promise(&mut self, pod_key: &Arc<str>, target: &str, now: Timestamp) {
        self.promises.make(pod_key, target.into(), now);
        if self.claims.contains_key(target) {
            self.touch_claim(target);
        }
        self.revision += 1;
    }

    /// Where a plan put the pod, while that promise stands.
    pub fn promised_target(&self, pod_key: &str) -> Option<&Arc<str>> {
        self.promises.get(pod_key).map(|p| &p.target)
    }

    /// Pods that are not bound yet and have a place in a plan.
    pub fn promised_pods(&self) -> usize {
        self.promises.len()
    }

    /// Machines some pod was promised a place on.
    pub(crate) fn promised_targets(&self) -> FxHashSet<&str> {
        self.promises.targets().map(|target| &**target).collect()
    }

    pub(crate) fn last_pod_event(&self, node: &str) -> Option<Timestamp> {
        self.last_pod_event.get(node).copied()
    }

    /// A pod that still needs the place it was promised: it waits, or its present machine is leaving.
    fn needs_promise(&self, key: &str) -> bool {
        let Some(pod) = self.pods.get(key).filter(|p| p.is_active()) else {
            return false;
        };
        let Some(node) = &pod.node else { return true };
        let Some(node) = self.nodes.get(&**node) else {
            return false;
        };
        let claim = self.claim_of_node(node).and_then(|name| self.claim(name));
        node.metadata.deletion_timestamp.is_some()
            || claim.is_some_and(|c| c.metadata.deletion_timestamp.is_some())
    }

    /// Drops promises that will not be kept: their machine is gone or leaving, or has been usable for
    /// [`PROMISE_WINDOW`]. Claims that no watch ever confirmed go too. The pods count as waiting again.
    pub fn expire(&mut self, now: Timestamp) {
        let window = SignedDuration::try_from(PROMISE_WINDOW).unwrap_or_default();
        let broken: Vec<Arc<str>> = self
            .promises
            .iter()
            .filter(|(key, promise)| {
                !self.needs_promise(key)
                    || now.duration_since(self.usable_since(promise).unwrap_or(now)) > window
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in broken {
            self.promises.end(&key);
            if let Some(pod) = self.pods.get(&key).cloned() {
                self.waits_again(&pod);
            }
        }
        self.gone.retain(|_, at| now.duration_since(*at) <= GONE_WINDOW);
        let lost: Vec<String> = self
            .claims
            .iter()
            .filter(|(_, entry)| {
                entry
                    .unconfirmed_since
                    .is_some_and(|since| now.duration_since(since) > UNCONFIRMED_WINDOW)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in lost {
            self.forget_claim(&name);
        }
    }

    /// Since when kube-scheduler could have kept the promise. None: not yet. The distant past: never will.
    fn usable_since(&self, promise: &Promise) -> Option<Timestamp> {
        let Some(claim) = self.claim(&promise.target) else {
            let exists = self.nodes.contains_key(&*promise.target);
            return Some(if exists { promise.made } else { Timestamp::MIN });
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return Some(Timestamp::MIN);
        }
        let initialized = claim
            .status
            .as_ref()
            .and_then(|s| conditions::find(&s.conditions, conditions::INITIALIZED))
            .filter(|c| c.status == "True")
            .map(|c| c.last_transition_time.0);
        initialized.map(|since| since.max(promise.made))
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

    /// Machines of a plan wait for the last of them: was it the last?
    fn touch_peers(&mut self, plan: &str) {
        let accepts = |peer: &NodeClaim| self.sole_node(peer).is_some_and(|node| accepts_pods(node));
        let peers: Vec<&Arc<NodeClaim>> = self.closed_machines(plan).collect();
        if peers.iter().any(|peer| !accepts(peer)) {
            return;
        }
        let names: Vec<String> = peers
            .iter()
            .filter_map(|peer| peer.metadata.name.clone())
            .collect();
        names.iter().for_each(|peer| self.touch_claim(peer));
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
        self.touched.capacity = true;
        self.touched.pools = true;
        self.revision += 1;
    }

    fn forget_claim(&mut self, name: &str) {
        if let Some(entry) = self.claims.remove(name) {
            if let Some(id) = entry.object.status.as_ref().and_then(|s| s.provider_id.as_ref()) {
                self.claims_by_provider_id.remove(id);
            }
            self.touch_claim(name);
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

    /// Shapes and label sets nobody uses any more.
    fn sweep_interned(&mut self) {
        self.shapes.retain(|shape| Arc::strong_count(shape) > 1);
        self.label_sets.retain(|labels| Arc::strong_count(labels) > 1);
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

    /// A failed scheduling attempt clears a nomination; the lifecycle renews it as long as the promise stands.
    fn nomination_changed(&mut self, before: &PodState, pod: &PodState) {
        let Some(promise) = self.promises.get_mut(&pod.key) else {
            return;
        };
        let target = promise.target.clone();
        let node = before.nominated_node.as_ref().and_then(|n| self.nodes.get(&**n));
        let in_service = node.filter(|n| has_label(n, labels::INITIALIZED));
        if let (Some(node), None) = (in_service, &pod.nominated_node) {
            promise.refusals += 1;
            if promise.refusals >= REFUSALS_MAX || !self.has_room(node, pod) {
                self.promises.end(&pod.key);
                self.waits_again(pod);
            }
        }
        if pod.nominated_node.is_none() && self.claims.contains_key(&*target) {
            self.touch_claim(&target);
        }
    }

    /// Whether what is bound to the node leaves room for the pod.
    fn has_room(&self, node: &Node, pod: &PodState) -> bool {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
        let mut free = lower::resources(allocatable.into_iter().flatten());
        for other in self.pods_on(name).filter(|other| !other.terminal) {
            for (resource, amount) in &other.shape.requests {
                *free.entry(resource.clone()).or_default() -= amount;
            }
        }
        let mut requests = pod.shape.requests.iter();
        requests.all(|(resource, amount)| free.get(resource).copied().unwrap_or(0) >= *amount)
    }

    /// A pod has lost its place in a plan.
    fn waits_again(&mut self, pod: &PodState) {
        if pod.is_provisionable() {
            self.touched.waiting_pods += 1;
            self.arrivals += 1;
            self.broken_promises += 1;
            self.revision += 1;
        }
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

/// Neither open for pods yet nor leaving.
fn is_closed(claim: &NodeClaim) -> bool {
    let conditions = claim.status.as_ref().map(|s| s.conditions.as_slice());
    let opened = conditions::is_true(conditions.unwrap_or_default(), conditions::REGISTERED);
    !opened && claim.metadata.deletion_timestamp.is_none()
}

fn plan_of(claim: &NodeClaim) -> Option<&str> {
    claim
        .metadata
        .annotations
        .as_ref()?
        .get(labels::PLAN)
        .map(String::as_str)
}

/// Answers to our own writes reach the index ahead of the watch, which then repeats what is already past.
fn is_older(new: &ObjectMeta, known: &ObjectMeta) -> bool {
    let version = |meta: &ObjectMeta| meta.resource_version.as_ref().and_then(|v| v.parse::<u64>().ok());
    new.uid == known.uid && version(new) < version(known)
}

fn object_key(meta: &ObjectMeta) -> String {
    match (&meta.namespace, &meta.name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        (None, Some(name)) => name.clone(),
        (_, None) => String::new(),
    }
}

impl Observe<slim::Pod> for Index {
    fn apply(&mut self, object: slim::Pod, now: Timestamp) {
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        let no_labels = BTreeMap::new();
        let pod_labels = object.metadata.labels.as_ref().unwrap_or(&no_labels);
        let shape = self.intern_shape(shape::shape(namespace, pod_labels, &object.spec));
        let labels = self.intern_labels(object.metadata.labels.as_ref());
        let pod = pod::from_slim(&object, shape, labels);
        let key = pod.key.clone();
        let before = self.pods.get(&key).cloned();
        if before.as_deref() == Some(&pod) {
            return;
        }
        if let Some(old) = before.as_ref().filter(|old| old.uid != pod.uid) {
            // The name was reused: the old pod's deletion was not seen.
            self.remove_pod(&old.key, now);
        }
        let before = before.filter(|old| old.uid == pod.uid);
        let was_on = before.as_ref().and_then(|p| p.node.clone());
        if let Some(node) = &pod.node
            && was_on.is_none()
        {
            self.pods_by_node
                .entry(node.clone())
                .or_default()
                .insert(key.clone());
            if let Some(promise) = self.promises.end(&key) {
                let claim = self.nodes.get(&**node).and_then(|n| self.claim_of_node(n));
                if claim.unwrap_or(node) == &*promise.target {
                    self.bindings.as_planned += 1;
                } else {
                    self.bindings.elsewhere += 1;
                }
            }
            self.pod_event(&pod, node, now);
        }
        if let (Some(old), Some(node)) = (&before, &pod.node)
            && (old.terminal != pod.terminal || old.deletion.is_some() != pod.deletion.is_some())
        {
            self.pod_event(&pod, node, now);
        }
        if let Some(node) = &pod.node {
            self.touch_claim_of_node(node);
        } else if let Some(before) = &before
            && before.nominated_node != pod.nominated_node
        {
            self.nomination_changed(before, &pod);
        }
        let waited = before.as_ref().is_some_and(|p| p.is_provisionable());
        if pod.is_provisionable() && !waited {
            self.touched.waiting_pods += 1;
            self.arrivals += 1;
        }
        self.touched.capacity |= before
            .as_ref()
            .is_none_or(|old| old.node != pod.node || old.is_active() != pod.is_active());
        self.pods.insert(key, Arc::new(pod));
        self.revision += 1;
        if self.shapes.len() > INTERNED_SWEEP_EVERY + 2 * self.pods.len() {
            self.sweep_interned();
        }
    }

    fn delete(&mut self, object: &slim::Pod, now: Timestamp) {
        self.remove_pod(&object_key(&object.metadata).into(), now);
    }

    fn reset(&mut self, objects: Vec<slim::Pod>, now: Timestamp) {
        let listed: BTreeSet<Arc<str>> = objects.iter().map(|o| object_key(&o.metadata).into()).collect();
        let gone: Vec<_> = self
            .pods
            .keys()
            .filter(|key| !listed.contains(*key))
            .cloned()
            .collect();
        for key in gone {
            self.remove_pod(&key, now);
        }
        for object in objects {
            self.apply(object, now);
        }
        self.sweep_interned();
    }
}

impl Observe<Node> for Index {
    fn apply(&mut self, mut object: Node, _now: Timestamp) {
        // Never read, and the larger half of a Node.
        object.metadata.managed_fields = None;
        if let Some(status) = &mut object.status {
            status.images = None;
        }
        let Some(name) = object.metadata.name.clone() else {
            return;
        };
        if self.is_gone(&object.metadata)
            || self
                .nodes
                .get(&name)
                .is_some_and(|old| is_older(&object.metadata, &old.metadata))
        {
            return;
        }
        if self
            .nodes
            .get(&name)
            .is_some_and(|old| is_heartbeat(old, &object))
        {
            // Only the version moves on; patches need it.
            self.nodes.insert(name, Arc::new(object));
            return;
        }
        if let Some(id) = object.spec.as_ref().and_then(|s| s.provider_id.clone()) {
            self.nodes_by_provider_id
                .entry(id)
                .or_default()
                .insert(name.clone());
        }
        let shared: Arc<str> = name.as_str().into();
        let became_ready =
            accepts_pods(&object) && self.nodes.get(&name).is_none_or(|old| !accepts_pods(old));
        self.nodes.insert(name, Arc::new(object));
        self.touch_claim_of_node(&shared);
        if became_ready {
            let claim = self.nodes.get(&*shared).and_then(|n| self.claim_of_node(n));
            let claim = claim.and_then(|name| self.claim(name)).cloned();
            if let Some(plan) = claim.as_deref().and_then(plan_of) {
                self.touch_peers(plan);
            }
        }
        self.touched.capacity = true;
        self.touched.pools = true;
        self.revision += 1;
    }

    fn delete(&mut self, object: &Node, now: Timestamp) {
        self.bury(&object.metadata, now);
        let Some(name) = object.metadata.name.as_deref() else {
            return;
        };
        self.touch_claim_of_node(name);
        let Some(old) = self.nodes.remove(name) else {
            return;
        };
        if let Some(id) = old.spec.as_ref().and_then(|s| s.provider_id.as_ref())
            && let Some(names) = self.nodes_by_provider_id.get_mut(id)
        {
            names.remove(name);
            if names.is_empty() {
                self.nodes_by_provider_id.remove(id);
            }
        }
        self.last_pod_event.remove(name);
        self.touched.capacity = true;
        self.touched.pools = true;
        self.revision += 1;
    }

    fn reset(&mut self, objects: Vec<Node>, now: Timestamp) {
        let listed: BTreeSet<_> = objects.iter().filter_map(|o| o.metadata.name.clone()).collect();
        let gone: Vec<_> = self
            .nodes
            .values()
            .filter(|n| !listed.contains(&object_key(&n.metadata)))
            .cloned()
            .collect();
        for node in gone {
            self.delete(&*node, now);
        }
        for object in objects {
            self.apply(object, now);
        }
    }
}

/// A Node update that changes nothing anyone looks at but heartbeat times.
fn is_heartbeat(old: &Node, new: &Node) -> bool {
    let conditions = |node: &Node| {
        let list = node.status.as_ref().and_then(|s| s.conditions.as_ref());
        list.map(|l| {
            l.iter()
                .map(|c| (c.type_.clone(), c.status.clone()))
                .collect::<Vec<_>>()
        })
    };
    let amounts = |node: &Node| {
        node.status
            .as_ref()
            .map(|s| (s.capacity.clone(), s.allocatable.clone()))
    };
    old.spec == new.spec
        && old.metadata.labels == new.metadata.labels
        && old.metadata.annotations == new.metadata.annotations
        && old.metadata.finalizers == new.metadata.finalizers
        && old.metadata.owner_references == new.metadata.owner_references
        && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        && old.metadata.uid == new.metadata.uid
        && conditions(old) == conditions(new)
        && amounts(old) == amounts(new)
}

impl Observe<NodeClaim> for Index {
    fn apply(&mut self, object: NodeClaim, _now: Timestamp) {
        self.store_claim(object, None);
    }

    /// An answer does not stand for the watch: the claim stays unconfirmed if it was, and one that the index
    /// does not have (any more) is not brought back.
    fn answered(&mut self, object: NodeClaim, _now: Timestamp) {
        let known = object
            .metadata
            .name
            .as_ref()
            .and_then(|name| self.claims.get(name));
        if let Some(entry) = known.filter(|entry| entry.object.metadata.uid == object.metadata.uid) {
            let unconfirmed_since = entry.unconfirmed_since;
            self.store_claim(object, unconfirmed_since);
        }
    }

    fn delete(&mut self, object: &NodeClaim, now: Timestamp) {
        self.bury(&object.metadata, now);
        self.forget_claim(&object_key(&object.metadata));
    }

    fn reset(&mut self, objects: Vec<NodeClaim>, now: Timestamp) {
        let listed: BTreeSet<_> = objects.iter().map(|o| object_key(&o.metadata)).collect();
        let gone: Vec<_> = self
            .claims
            .iter()
            .filter(|(name, entry)| entry.unconfirmed_since.is_none() && !listed.contains(*name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            let meta = self.claims[&name].object.metadata.clone();
            self.bury(&meta, now);
            self.forget_claim(&name);
        }
        for object in objects {
            self.apply(object, now);
        }
    }
}

impl Observe<slim::DaemonSet> for Index {
    fn apply(&mut self, object: slim::DaemonSet, _now: Timestamp) {
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        let no_labels = BTreeMap::new();
        let template = &object.spec.template;
        let pod_labels = template.metadata.labels.as_ref().unwrap_or(&no_labels);
        let mut shape = shape::shape(namespace, pod_labels, &template.spec);
        shape.labels = pod_labels
            .iter()
            .map(|(k, v)| (Arc::from(k.as_str()), Arc::from(v.as_str())))
            .collect();
        self.daemon_sets
            .insert(object_key(&object.metadata).into(), Arc::new(shape));
        self.revision += 1;
    }

    fn delete(&mut self, object: &slim::DaemonSet, _now: Timestamp) {
        self.daemon_sets.remove(object_key(&object.metadata).as_str());
        self.revision += 1;
    }

    fn reset(&mut self, objects: Vec<slim::DaemonSet>, now: Timestamp) {
        self.daemon_sets.clear();
        for object in objects {
            self.apply(object, now);
        }
    }
}

impl Observe<Namespace> for Index {
    fn apply(&mut self, object: Namespace, _now: Timestamp) {
        let labels = object.metadata.labels.iter().flatten();
        let labels = labels
            .map(|(k, v)| (Arc::from(k.as_str()), Arc::from(v.as_str())))
            .collect();
        self.namespaces
            .insert(object_key(&object.metadata).into(), labels);
        self.revision += 1;
    }

    fn delete(&mut self, object: &Namespace, _now: Timestamp) {
        self.namespaces.remove(object_key(&object.metadata).as_str());
    }

    fn reset(&mut self, objects: Vec<Namespace>, now: Timestamp) {
        self.namespaces.clear();
        for object in objects {
            self.apply(object, now);
        }
    }
}

/// Kinds that are stored as they are, by key.
macro_rules! observe_stored {
    ($kind:ty, $($field:ident).+, $touched:ident) => {
        impl Observe<$kind> for Index {
            fn apply(&mut self, mut object: $kind, _now: Timestamp) {
                object.metadata.managed_fields = None;
                self.$($field).+.insert(object_key(&object.metadata), Arc::new(object));
                self.touched.$touched = true;
                self.revision += 1;
            }

            fn delete(&mut self, object: &$kind, _now: Timestamp) {
                self.$($field).+.remove(&object_key(&object.metadata));
                self.touched.$touched = true;
                self.revision += 1;
            }

            fn reset(&mut self, objects: Vec<$kind>, now: Timestamp) {
                self.$($field).+.clear();
                self.touched.$touched = true;
                for object in objects {
                    self.apply(object, now);
                }
            }
        }
    };
}

observe_stored!(NodePool, node_pools, pools);
observe_stored!(PodDisruptionBudget, pdbs, capacity);
observe_stored!(slim::PersistentVolumeClaim, storage.claims, capacity);
observe_stored!(slim::PersistentVolume, storage.volumes, capacity);
observe_stored!(StorageClass, storage.classes, capacity);
observe_stored!(CSINode, storage.csi_nodes, capacity);

impl Observe<VolumeAttachment> for Index {
    fn apply(&mut self, object: VolumeAttachment, _now: Timestamp) {
        let node = object.spec.node_name.clone();
        self.storage
            .attachments
            .insert(object_key(&object.metadata), Arc::new(object));
        self.touch_claim_of_node(&node);
    }

    fn delete(&mut self, object: &VolumeAttachment, _now: Timestamp) {
        self.storage.attachments.remove(&object_key(&object.metadata));
        self.touch_claim_of_node(&object.spec.node_name);
    }

    fn reset(&mut self, objects: Vec<VolumeAttachment>, now: Timestamp) {
        let old = std::mem::take(&mut self.storage.attachments);
        for attachment in old.values() {
            self.touch_claim_of_node(&attachment.spec.node_name);
        }
        for object in objects {
            self.apply(object, now);
        }
    }
}
