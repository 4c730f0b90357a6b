//! The global loops: provisioning, emptiness, garbage collection, pool status.
//!
//! Each runs when something touched it or its period has passed, never twice at a time, and starts from the
//! index alone.

use std::{collections::VecDeque, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use plimsoll_api::{nodeclaim::NodeClaim, taints};
use plimsoll_core::{
    disrupt,
    provision::provision,
    snapshot::{NodeId, Place, Snapshot},
};
use plimsoll_lifecycle::{self as lifecycle, Effect};
use plimsoll_provider::NodeClassReadiness;
use plimsoll_state::pool_usage;

use super::{Call, Controller, Job, Planned, Request};

/// A pass follows what touched it after this long, so that what comes together is planned together.
const GATHER: SignedDuration = SignedDuration::from_millis(100);
/// Each loop's backup, should a hint have been missed.
const PERIOD: SignedDuration = SignedDuration::from_secs(10);
/// Upstream's period of garbage collection.
const GARBAGE_PERIOD: SignedDuration = SignedDuration::from_mins(2);
/// After this the index must have shown what became of a node that was closed.
const CLOSING_MAX: SignedDuration = SignedDuration::from_secs(60);

/// When each loop runs next; None while it runs.
#[derive(Debug)]
pub(super) struct Timers {
    provision: Option<Timestamp>,
    /// Set when the claims must be read before the next plan.
    recount: Option<Timestamp>,
    recounting: bool,
    empty: Timestamp,
    reopening: bool,
    garbage: Option<Timestamp>,
    pools: Option<Timestamp>,
    pools_again: bool,
}

impl Timers {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            provision: Some(now),
            recount: None,
            recounting: false,
            empty: now + PERIOD,
            reopening: false,
            garbage: Some(now + GARBAGE_PERIOD),
            pools: Some(now),
            pools_again: false,
        }
    }

    pub(super) fn touched(&mut self, pools: bool, waiting: bool, capacity: bool, now: Timestamp) {
        let soon = now + GATHER;
        if waiting || capacity {
            self.provision = self.provision.map(|at| at.min(soon));
        }
        if capacity {
            self.empty = self.empty.min(soon);
        }
        if pools {
            self.pools_again |= self.pools.is_none();
            self.pools = self.pools.map(|at| at.min(soon));
        }
    }

    pub(super) fn next_due(&self) -> impl Iterator<Item = Timestamp> {
        let recount = self.recount.filter(|_| !self.recounting);
        let provision = self.provision.filter(|_| self.recount.is_none() && !self.recounting);
        [provision, recount, Some(self.empty), self.garbage, self.pools].into_iter().flatten()
    }

    pub(super) fn recount(&mut self, at: Timestamp) {
        self.recount = Some(at);
    }

    pub(super) fn provisioned(&mut self, now: Timestamp) {
        // Pods that came meanwhile are looked at right away.
        self.provision = Some(now + GATHER);
    }

    pub(super) fn recounted(&mut self) {
        self.recounting = false;
    }

    pub(super) fn reopened(&mut self) {
        self.reopening = false;
    }

    pub(super) fn collected(&mut self, now: Timestamp) {
        self.garbage = Some(now + GARBAGE_PERIOD);
    }

    pub(super) fn pools_done(&mut self, now: Timestamp) {
        let again = std::mem::take(&mut self.pools_again);
        self.pools = Some(now + if again { GATHER } else { PERIOD });
    }
}

impl Controller {
    pub(super) fn run_loops(&mut self, now: Timestamp, calls: &mut Vec<Call>) {
        if self.loops.recount.is_some_and(|at| at <= now) && !self.loops.recounting {
            self.loops.recount = None;
            self.loops.recounting = true;
            self.start(Job::Recount, VecDeque::from([Request::ListClaims]), now, calls);
        }
        let counted = self.loops.recount.is_none() && !self.loops.recounting;
        if counted && self.loops.provision.is_some_and(|at| at <= now) {
            self.provision(now, calls);
        }
        if self.loops.empty <= now {
            self.loops.empty = now + PERIOD;
            self.reopen(now, calls);
            self.emptiness(now, calls);
        }
        if self.loops.garbage.is_some_and(|at| at <= now) {
            self.loops.garbage = None;
            self.start(Job::Garbage, VecDeque::from([Request::ListMachines]), now, calls);
        }
        if self.loops.pools.is_some_and(|at| at <= now) {
            self.loops.pools = None;
            self.pools(now, calls);
        }
    }

    /// Plans for what waits, promises places on machines that exist, and orders the others.
    fn provision(&mut self, now: Timestamp, calls: &mut Vec<Call>) {
        self.index.expire(now);
        self.loops.provision = Some(now + PERIOD);
        let snapshot = self.index.snapshot(&self.catalog, now).snapshot;
        let waits = |place| matches!(place, Place::Pending | Place::Leaving(_));
        if !snapshot.pods.iter().any(|pod| waits(pod.place)) {
            return;
        }
        let (plan, _) = provision(&snapshot, &self.catalog, &self.config.policy);
        for assignment in &plan.assignments {
            let pod = &snapshot.pods[assignment.pod.0 as usize].key;
            self.index.promise(pod, target(&snapshot, assignment.node), now);
        }
        let mut queue = VecDeque::new();
        let mut pods = VecDeque::new();
        for launch in &plan.launches {
            let Some(pool) = self.index.node_pool(&launch.pool) else { continue };
            let claim = lifecycle::order::claim(launch, pool, &self.catalog, &plan.id);
            queue.push_back(Request::Effect(Effect::CreateClaim(Box::new(claim))));
            pods.push_back(launch.pods.iter().map(|pod| snapshot.pods[pod.0 as usize].key.clone()).collect());
        }
        self.planned.push(Planned { snapshot, catalog: self.catalog.clone(), plan });
        if !queue.is_empty() {
            self.loops.provision = None;
            self.start(Job::Provision { pods }, queue, now, calls);
        }
    }

    /// Gives back machines that only daemons use.
    fn emptiness(&mut self, now: Timestamp, calls: &mut Vec<Call>) {
        let decided = |node: &String, since: &Timestamp| {
            let claim = self.index.nodes().find(|n| n.metadata.name.as_ref() == Some(node));
            let claim = claim.and_then(|n| self.index.claim(self.index.claim_of_node(n)?));
            claim.is_none_or(is_deleting) || now.duration_since(*since) > CLOSING_MAX
        };
        let undecided: Vec<_> = self.closing.iter().filter(|(n, at)| !decided(n, at)).map(|(n, at)| (n.clone(), *at)).collect();
        self.closing = undecided.into_iter().collect();
        if !self.closing.is_empty() {
            // The budget was spent on these; what is left of it shows when they are through.
            return;
        }
        let snapshot = self.index.snapshot(&self.catalog, now).snapshot;
        let (plan, _) = disrupt::emptiness(&snapshot, now);
        for removal in &plan.removals {
            let claim = snapshot.nodes[removal.node.0 as usize].claim.as_deref();
            let Some(view) = claim.and_then(|name| self.index.view(name)) else { continue };
            let Some(close) = lifecycle::disruption::close(&view) else { continue };
            let Effect::PatchNode { name: node, .. } = &close else { continue };
            let node = node.clone();
            self.closing.insert(node.clone(), now);
            let queue = VecDeque::from([Request::Effect(close), Request::LookAt { node: node.clone() }]);
            self.start(Job::Removal { claim: view.claim, node }, queue, now, calls);
        }
        if let Some(due) = disrupt::next_due(&snapshot).filter(|due| *due > now) {
            self.loops.empty = self.loops.empty.min(due);
        }
    }

    /// Opens nodes that someone closed without deleting their claim, a process that died in between above all.
    fn reopen(&mut self, now: Timestamp, calls: &mut Vec<Call>) {
        if self.loops.reopening {
            return;
        }
        let forgotten = self.index.nodes().filter(|node| {
            let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
            let claim = self.index.claim_of_node(node).and_then(|name| self.index.claim(name));
            let name = node.metadata.name.as_deref().unwrap_or_default();
            taints.into_iter().any(|t| t.key == taints::DISRUPTED)
                && node.metadata.deletion_timestamp.is_none()
                && claim.is_some_and(|claim| !is_deleting(claim))
                && !self.closing.contains_key(name)
        });
        let queue: VecDeque<_> =
            forgotten.map(|node| Request::Effect(lifecycle::disruption::reopen(node))).collect();
        if !queue.is_empty() {
            self.loops.reopening = true;
            self.start(Job::Reopen, queue, now, calls);
        }
    }

    fn pools(&mut self, now: Timestamp, calls: &mut Vec<Call>) {
        let usage = pool_usage(&self.index.snapshot(&self.catalog, now).snapshot);
        let class = (NodeClassReadiness::Ready, Some(1));
        let mut queue = VecDeque::new();
        for pool in self.index.node_pools() {
            let name = pool.metadata.name.clone().unwrap_or_default();
            let patches = lifecycle::nodepool::reconcile(pool, &class, usage.get(name.as_str()), now);
            let metadata = patches.metadata.map(|patch| (patch, false));
            let status = patches.status.map(|patch| (patch, true));
            for (patch, status) in metadata.into_iter().chain(status) {
                queue.push_back(Request::PatchPool { name: name.clone(), patch, status });
            }
        }
        self.start(Job::Pools, queue, now, calls);
    }
}

/// What a promise names: the claim, or the node where there is none.
fn target(snapshot: &Snapshot, node: NodeId) -> &Arc<str> {
    let node = &snapshot.nodes[node.0 as usize];
    node.claim.as_ref().unwrap_or(&node.name)
}

fn is_deleting(claim: &Arc<NodeClaim>) -> bool {
    claim.metadata.deletion_timestamp.is_some()
}
