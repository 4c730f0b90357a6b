//! Which waiting pod has a place on which machine, and when that stops being true.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use plimsoll_api::{conditions, labels, taints};
use rustc_hash::FxHashSet;

use super::Index;
use crate::{
    lower,
    node::{has_label, has_taint},
    pdb::Budgets,
    pod::PodState,
};

/// A promise is forgotten this long after its machine became usable, and after kube-scheduler last bound a pod that has a
/// place in a plan: if it has not followed it by then it will not, and the pod must be planned anew. Upstream's nomination
/// window; but thousands of pods can take longer than that, one after the other.
pub const PROMISE_WINDOW: Duration = Duration::from_secs(20);

/// A promise is forgotten this long after its machine became usable, whatever else kube-scheduler binds: on a cluster where
/// pods of plans come all the time, one that it does not try would wait for ever.
pub const PROMISE_MAX: Duration = Duration::from_secs(120);

/// What cannot be evicted from a machine gets its next place this long before it must go: time for another machine to
/// join, and not for it to stand empty for days.
const REPLACED_BEFORE: Duration = Duration::from_mins(10);

/// A promise is forgotten when kube-scheduler has refused the pod this often although its machine is in service and
/// has room. More than once, because an attempt may have begun before the machine opened.
const REFUSALS_MAX: u32 = 4;

#[derive(Clone, Debug)]
pub(super) struct Promise {
    /// NodeClaim name, or Node name for a machine without claim.
    pub(super) target: Arc<str>,
    pub(super) made: Timestamp,
    /// How often kube-scheduler tried the pod on the open machine and could not place it.
    pub(super) refusals: u32,
}

#[derive(Debug, Default)]
pub(super) struct Promises {
    by_pod: BTreeMap<Arc<str>, Promise>,
    by_target: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// When a pod with a promise was last bound.
    last_bound: Option<Timestamp>,
}

impl Promises {
    pub(super) fn make(&mut self, pod: &Arc<str>, target: Arc<str>, made: Timestamp) {
        self.end(pod);
        self.by_target
            .entry(target.clone())
            .or_default()
            .insert(pod.clone());
        let refusals = 0;
        let promise = Promise {
            target,
            made,
            refusals,
        };
        self.by_pod.insert(pod.clone(), promise);
    }

    pub(super) fn end(&mut self, pod: &str) -> Option<Promise> {
        let promise = self.by_pod.remove(pod)?;
        if let Some(pods) = self.by_target.get_mut(&promise.target) {
            pods.remove(pod);
            if pods.is_empty() {
                self.by_target.remove(&promise.target);
            }
        }
        Some(promise)
    }

    /// Ends the promise to a pod that was bound.
    pub(super) fn bound(&mut self, pod: &str, now: Timestamp) -> Option<Promise> {
        let promise = self.end(pod)?;
        self.last_bound = Some(now);
        Some(promise)
    }

    pub(super) fn len(&self) -> usize {
        self.by_pod.len()
    }

    pub(super) fn get(&self, pod: &str) -> Option<&Promise> {
        self.by_pod.get(pod)
    }

    pub(super) fn get_mut(&mut self, pod: &str) -> Option<&mut Promise> {
        self.by_pod.get_mut(pod)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Promise)> {
        self.by_pod.iter()
    }

    /// Pods with a place on this machine, sorted.
    pub(super) fn on(&self, target: &str) -> impl Iterator<Item = &Arc<str>> {
        self.by_target.get(target).into_iter().flatten()
    }

    /// Machines some pod has a place on.
    pub(super) fn targets(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_target.keys()
    }
}

impl Index {
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

    /// Pods planned onto a claim's machine that are not bound anywhere yet.
    pub(super) fn promised(&self, claim: &str) -> impl Iterator<Item = &Arc<PodState>> {
        let pods = self.promises.on(claim).filter_map(|key| self.pods.get(key));
        pods.filter(|pod| pod.node.is_none() && pod.is_active())
    }

    /// Whether some pod was promised a place on this machine that it has not taken yet.
    pub(super) fn is_awaited(&self, target: &str) -> bool {
        self.promises.on(target).next().is_some()
    }

    /// Whether the pod's next place is on a machine in service, and not one that is just being closed.
    pub(super) fn is_replaced(&self, pod_key: &str) -> bool {
        self.promises.get(pod_key).is_some_and(|promise| {
            let usable = self.usable_since(promise);
            let node = self.node_of_target(&promise.target);
            let is_open = node.is_some_and(|node| !has_taint(node, taints::DISRUPTED));
            is_open && usable.is_some_and(|since| since > Timestamp::MIN)
        })
    }

    /// Pods that wait for a machine, or whose machine is leaving, and that have no place in any plan.
    pub fn waiting(&self, now: Timestamp) -> usize {
        let has_no_place = |pod: &&Arc<PodState>| self.promises.get(&pod.key).is_none();
        let waiting = self.pods.values().filter(|p| p.is_provisionable());
        let mut count = waiting.filter(has_no_place).count();
        let leaving: Vec<_> = self.nodes.values().filter(|node| self.is_leaving(node)).collect();
        if !leaving.is_empty() {
            let budgets = Budgets::new(self.pdbs.values());
            let pods = leaving
                .into_iter()
                .filter_map(|node| node.metadata.name.as_deref())
                .flat_map(|name| self.pods_on(name));
            let to_move = pods.filter(|pod| self.moves(pod, &budgets, now));
            count += to_move.filter(has_no_place).count();
        }
        count
    }

    /// Whether a pod of a leaving machine needs another place: it can be evicted, or its machine ends soon whatever protects
    /// it.
    pub(crate) fn moves(&self, pod: &PodState, budgets: &Budgets<'_>, now: Timestamp) -> bool {
        let ends_soon = || {
            let node = pod.node.as_ref().and_then(|name| self.nodes.get(&**name));
            let claim = node.and_then(|node| self.claim(self.claim_of_node(node)?));
            let annotations = claim.and_then(|claim| claim.metadata.annotations.as_ref());
            let ends = [labels::ENDS_AT, labels::TERMINATION_TIMESTAMP];
            let ends = ends.iter().filter_map(|key| annotations?.get(*key)?.parse().ok());
            let needs = REPLACED_BEFORE.saturating_add(pod.grace_period);
            let needs = SignedDuration::try_from(needs).unwrap_or(SignedDuration::MAX);
            ends.min()
                .is_some_and(|ends: Timestamp| ends.duration_since(now) <= needs)
        };
        pod.is_recreated() && (budgets.allow_moving(pod, now) || ends_soon())
    }

    fn node_of_target(&self, target: &str) -> Option<&Arc<Node>> {
        match self.claim(target) {
            Some(claim) => self.sole_node(claim),
            None => self.nodes.get(target),
        }
    }

    /// Drops promises that will not be kept; their pods count as waiting again.
    pub(super) fn break_promises(&mut self, now: Timestamp) {
        let signed = |duration| SignedDuration::try_from(duration).unwrap_or_default();
        let (window, at_most) = (signed(PROMISE_WINDOW), signed(PROMISE_MAX));
        let budgets = Budgets::new(self.pdbs.values());
        let is_broken = |key: &str, promise: &Promise| {
            let Some(pod) = self.pods.get(key) else {
                return true;
            };
            let needed = match &pod.node {
                None => pod.is_active(),
                Some(node) => {
                    let node = self.nodes.get(&**node);
                    node.is_some_and(|node| self.is_leaving(node)) && self.moves(pod, &budgets, now)
                }
            };
            !needed
                || self.usable_since(promise).is_some_and(|since| {
                    let tried = self.promises.last_bound.unwrap_or(since).max(since);
                    let is_late = now.duration_since(tried) > window || now.duration_since(since) > at_most;
                    // Kube-scheduler does not try a pod that still runs on its last machine: it has not missed its chance.
                    // But others may have taken its room meanwhile.
                    let has_room = || {
                        let node = self.node_of_target(&promise.target);
                        node.is_some_and(|node| self.has_room(node, pod))
                    };
                    since == Timestamp::MIN || if pod.node.is_some() { !has_room() } else { is_late }
                })
        };
        let broken = self
            .promises
            .iter()
            .filter(|(key, promise)| is_broken(key, promise));
        let broken: Vec<Arc<str>> = broken.map(|(key, _)| key.clone()).collect();
        for key in broken {
            self.promises.end(&key);
            if let Some(pod) = self.pods.get(&key).cloned() {
                self.waits_again(&pod);
            }
        }
    }

    /// Its deletion, or that of its claim, has begun.
    fn is_leaving(&self, node: &Node) -> bool {
        let claim = self.claim_of_node(node).and_then(|name| self.claim(name));
        node.metadata.deletion_timestamp.is_some()
            || claim.is_some_and(|c| c.metadata.deletion_timestamp.is_some())
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

    /// A failed scheduling attempt clears a nomination; the lifecycle renews it as long as the promise stands.
    pub(super) fn nomination_changed(&mut self, before: &PodState, pod: &PodState) {
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
        if pod.is_provisionable() || pod.node.is_some() {
            self.touched.waiting_pods += 1;
            self.arrivals += 1;
            self.broken_promises += 1;
            self.revision += 1;
        }
    }
}
