//! The global loops: provisioning, garbage collection, pool status.
//!
//! Each runs when something touched it or its period has passed, never twice at a time, and starts from the
//! index alone.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use plimsoll_core::{
    lint,
    plan::{Launch, Plan},
    provision::provision,
    snapshot::{NodeStage, Snapshot},
};
use plimsoll_lifecycle::{self as lifecycle, Effect};
use plimsoll_provider::NodeClassReadiness;
use plimsoll_state::pool_usage;

use super::{Call, Controller, Job, Planned, Request};

/// A pass follows what touched it after this long, so that what comes together is planned together.
const GATHER: SignedDuration = SignedDuration::from_millis(100);
/// Each loop's backup, should a hint have been missed.
const PERIOD: SignedDuration = SignedDuration::from_secs(10);
/// The least time between two disruption passes, and between two status passes.
const GAP: SignedDuration = SignedDuration::from_millis(500);
/// Upstream's period of garbage collection.
const GARBAGE_PERIOD: SignedDuration = SignedDuration::from_mins(2);

/// When each loop runs next; None while it runs.
#[derive(Debug)]
pub(super) struct Timers {
    provision: Option<Timestamp>,
    /// Claims that are being created.
    orders: usize,
    /// Claims must be read before the next plan.
    recount: Option<Timestamp>,
    recounting: bool,
    disrupt: Option<Timestamp>,
    disrupt_again: bool,
    disrupt_due: Option<Timestamp>,
    garbage: Option<Timestamp>,
    pools: Option<Timestamp>,
    pools_again: bool,
}

impl Timers {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            provision: Some(now),
            orders: 0,
            recount: None,
            recounting: false,
            disrupt: Some(now),
            disrupt_again: false,
            disrupt_due: None,
            garbage: Some(now),
            pools: Some(now),
            pools_again: false,
        }
    }

    pub(super) fn touched(&mut self, pools: bool, waiting: bool, capacity: bool, now: Timestamp) {
        if waiting {
            self.provision = self.provision.map(|at| at.min(now + GATHER));
        }
        if capacity {
            self.disrupt_again |= self.disrupt.is_none();
            self.disrupt = self.disrupt.map(|at| at.min(now + GAP));
        }
        if pools {
            self.pools_again |= self.pools.is_none();
            self.pools = self.pools.map(|at| at.min(now + GAP));
        }
    }

    pub(super) fn next_due(&self) -> impl Iterator<Item = Timestamp> {
        let recount = self.recount.filter(|_| !self.recounting);
        let provision = self.provision.filter(|_| self.may_plan());
        [provision, recount, self.disrupt, self.garbage, self.pools]
            .into_iter()
            .flatten()
    }

    fn may_plan(&self) -> bool {
        self.recount.is_none() && !self.recounting
    }

    pub(super) fn recount(&mut self, now: Timestamp) {
        self.recount = Some(now + GAP);
    }

    pub(super) fn recounted(&mut self) {
        self.recounting = false;
    }

    /// One claim was created, or was not. True for the last: pods that came meanwhile are looked at then.
    pub(super) fn ordered(&mut self, now: Timestamp) -> bool {
        self.orders -= 1;
        if self.orders == 0 {
            self.provision = Some(now + GATHER);
        }
        self.orders == 0
    }

    /// A pass over removals begins; the next machine becomes due at this time.
    pub(super) fn disrupting(&mut self, due: Option<Timestamp>) {
        self.disrupt = None;
        self.disrupt_due = due;
    }

    pub(super) fn disrupted(&mut self, now: Timestamp) {
        let again = std::mem::take(&mut self.disrupt_again);
        let due = self
            .disrupt_due
            .map_or(now + PERIOD, |at| at.clamp(now + GAP, now + PERIOD));
        self.disrupt = Some(if again { now + GAP } else { due });
    }

    pub(super) fn collected(&mut self, now: Timestamp) {
        self.garbage = Some(now + GARBAGE_PERIOD);
    }

    pub(super) fn pools_done(&mut self, now: Timestamp) {
        let again = std::mem::take(&mut self.pools_again);
        self.pools = Some(now + if again { GAP } else { PERIOD });
    }
}

impl Controller {
    pub(super) fn run_loops(&mut self, now: Timestamp, calls: &mut Vec<Call>) {
        let is_due = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
        if is_due(self.loops.recount) && !self.loops.recounting {
            self.loops.recount = None;
            self.loops.recounting = true;
            self.start(Job::Recount, VecDeque::from([Request::ListClaims]), now, calls);
        }
        if is_due(self.loops.provision) && self.loops.may_plan() {
            self.provision(now, calls);
        }
        if is_due(self.loops.disrupt) {
            self.disrupt(now, calls);
        }
        if is_due(self.loops.garbage) {
            self.loops.garbage = None;
            self.start(Job::Garbage, VecDeque::from([Request::ListMachines]), now, calls);
        }
        if is_due(self.loops.pools) {
            self.loops.pools = None;
            self.pools(now, calls);
        }
    }

    /// Plans for what waits, promises places on machines that exist, and orders the others.
    fn provision(&mut self, now: Timestamp, calls: &mut Vec<Call>) {
        self.loops.provision = Some(now + PERIOD);
        if self.index.overdue(now) {
            self.loops.recount(now);
            return;
        }
        self.index.expire(now);
        if self.index.waiting(now) == 0 {
            return;
        }
        let snapshot = self.index.snapshot(&self.catalog, now).snapshot;
        let (plan, _) = provision(&snapshot, &self.catalog, &self.config.policy);
        if lint::lint(&snapshot, &self.catalog, &plan).is_empty() {
            self.assign(&snapshot, &plan, now, calls);
            for launch in &plan.launches {
                self.order(&snapshot, &plan, launch, now, calls);
            }
        }
        self.planned.push(Planned {
            snapshot,
            catalog: self.catalog.clone(),
            plan,
        });
    }

    /// Remembers places on machines that exist or are coming, and tells kube-scheduler where they are open.
    fn assign(&mut self, snapshot: &Snapshot, plan: &Plan, now: Timestamp, calls: &mut Vec<Call>) {
        let mut nominations = VecDeque::new();
        for assignment in &plan.assignments {
            let pod = &snapshot.pods[assignment.pod.0 as usize];
            let node = &snapshot.nodes[assignment.node.0 as usize];
            self.index
                .promise(&pod.key, node.claim.as_ref().unwrap_or(&node.name), now);
            let waits = self
                .index
                .pod(&pod.key)
                .is_some_and(|p| p.uid == pod.uid && p.node.is_none());
            if node.stage == NodeStage::Initialized && waits && self.config.settings.nominate {
                let (pod, uid) = (pod.key.clone(), pod.uid.clone());
                let nominate = Effect::Nominate {
                    pod,
                    uid,
                    node: node.name.to_string(),
                    look_again: true,
                };
                nominations.push_back(Request::Effect(nominate));
            }
        }
        self.start(Job::Nominate, nominations, now, calls);
    }

    fn order(
        &mut self,
        snapshot: &Snapshot,
        plan: &Plan,
        launch: &Launch,
        now: Timestamp,
        calls: &mut Vec<Call>,
    ) {
        let Some(pool) = self.index.node_pool(&launch.pool) else {
            return;
        };
        let claim = lifecycle::order::claim(launch, pool, &self.catalog, &plan.id, BTreeMap::new());
        let pods: Vec<Arc<str>> = launch
            .pods
            .iter()
            .map(|pod| snapshot.pods[pod.0 as usize].key.clone())
            .collect();
        self.loops.provision = None;
        self.loops.orders += 1;
        self.index.ordering(Some(&plan.id));
        let create = Request::Effect(Effect::CreateClaim(Box::new(claim)));
        self.start(Job::Order { pods }, VecDeque::from([create]), now, calls);
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
                queue.push_back(Request::PatchPool {
                    name: name.clone(),
                    patch,
                    status,
                });
            }
        }
        self.start(Job::Pools, queue, now, calls);
    }
}
