//! The controller's wiring: the same decisions that run in production, called by virtual time.
//!
//! It holds what a process holds in memory and nothing else: dropping it is a crash. It acts only by handing
//! out [`Call`]s and learns only from [`Answer`]s and watch events. What calls follow from which answer is kept
//! as in `plimsoll-controller`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{core::v1::Node, policy::v1::PodDisruptionBudget};
use plimsoll_api::{nodeclaim::NodeClaim, nodepool::NodePool};
use plimsoll_core::{catalog::Catalog, plan::Plan, policy::Policy, snapshot::Snapshot};
use plimsoll_lifecycle::{self as lifecycle, Effect, Settings};
use plimsoll_provider::Drift;
use plimsoll_state::{DaemonSet, Index, Observe, Pod, Touched, pod::PodState};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::{Change, Kind};

mod disrupt;
mod loops;
mod queue;
mod request;

use queue::Queue;
pub(crate) use request::{Answer, Failure, Request};

pub(crate) type TaskId = u64;

/// What a task is for.
#[derive(Debug)]
enum Job {
    /// One pass over one claim; `again` when it asked to be looked at later.
    Claim {
        name: String,
        again: Option<Duration>,
    },
    /// Creates the claim of one launch for these pods.
    Order {
        pods: Vec<Arc<str>>,
    },
    /// Tells the scheduler about places on open nodes.
    Nominate,
    /// Reads the claims after a creation whose outcome is not known.
    Recount,
    /// Evicts the pod of this UID.
    Evict {
        uid: String,
    },
    Disrupt(disrupt::Round),
    Garbage,
    Pools,
}

#[derive(Debug)]
struct Task {
    job: Job,
    queue: VecDeque<Request>,
    failed: bool,
}

/// A call to make, after a while.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) task: TaskId,
    pub(crate) request: Request,
    pub(crate) delay: SignedDuration,
}

/// A plan and what it was made from, for the judges.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) snapshot: Snapshot,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) plan: Plan,
}

/// What the user decided.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) settings: Settings,
    pub(crate) policy: Policy,
}

/// One process.
#[derive(Debug)]
pub(crate) struct Controller {
    index: Index,
    config: Config,
    catalog: Arc<Catalog>,
    /// It holds the lease.
    leads: bool,
    listed: BTreeSet<Kind>,
    tasks: BTreeMap<TaskId, Task>,
    next_task: TaskId,
    claims: Queue,
    /// By UID of the pod; `evicting` has pod and node.
    evictions: Queue,
    evicting: BTreeMap<String, Effect>,
    /// Claims this process decided to delete.
    decided: BTreeSet<String>,
    loops: loops::Timers,
    /// Plans that nobody has judged yet.
    pub(crate) planned: Vec<Planned>,
}

impl Controller {
    pub(crate) fn new(config: Config, catalog: Arc<Catalog>, now: Timestamp) -> Self {
        Self {
            index: Index::default(),
            config,
            catalog,
            leads: false,
            listed: BTreeSet::new(),
            tasks: BTreeMap::new(),
            next_task: 0,
            claims: Queue::default(),
            evictions: Queue::default(),
            evicting: BTreeMap::new(),
            decided: BTreeSet::new(),
            loops: loops::Timers::new(now),
            planned: Vec::new(),
        }
    }

    /// The lease is its own from now on.
    pub(crate) fn lead(&mut self) {
        self.leads = true;
    }

    /// A watch event.
    pub(crate) fn observe(&mut self, change: &Change, now: Timestamp) {
        let (object, deleted) = (&*change.object, change.deleted);
        match change.kind {
            Kind::Pod => self.observe_as::<Pod>(object, deleted, now),
            Kind::Node => self.observe_as::<Node>(object, deleted, now),
            Kind::NodeClaim => self.observe_as::<NodeClaim>(object, deleted, now),
            Kind::NodePool => self.observe_as::<NodePool>(object, deleted, now),
            Kind::PodDisruptionBudget => self.observe_as::<PodDisruptionBudget>(object, deleted, now),
            Kind::DaemonSet => self.observe_as::<DaemonSet>(object, deleted, now),
        }
    }

    fn observe_as<K: DeserializeOwned>(&mut self, object: &Value, deleted: bool, now: Timestamp)
    where
        Index: Observe<K>,
    {
        let object: K = typed(object);
        if deleted {
            self.index.delete(&object, now);
        } else {
            self.index.apply(object, now);
        }
    }

    /// The first list of a watch, or one after a break.
    pub(crate) fn list(&mut self, kind: Kind, objects: &[Arc<Value>], now: Timestamp) {
        match kind {
            Kind::Pod => self.list_as::<Pod>(objects, now),
            Kind::Node => self.list_as::<Node>(objects, now),
            Kind::NodeClaim => self.list_as::<NodeClaim>(objects, now),
            Kind::NodePool => self.list_as::<NodePool>(objects, now),
            Kind::PodDisruptionBudget => self.list_as::<PodDisruptionBudget>(objects, now),
            Kind::DaemonSet => self.list_as::<DaemonSet>(objects, now),
        }
        self.listed.insert(kind);
    }

    fn list_as<K: DeserializeOwned>(&mut self, objects: &[Arc<Value>], now: Timestamp)
    where
        Index: Observe<K>,
    {
        self.index.reset(
            objects.iter().map(|object| typed(object)).collect::<Vec<K>>(),
            now,
        );
    }

    fn acts(&self) -> bool {
        self.leads && self.listed.len() == Kind::ALL.len()
    }

    /// Does what is due and says which calls to make. Nothing before it leads and every watch has listed once.
    pub(crate) fn poll(&mut self, now: Timestamp) -> Vec<Call> {
        let mut calls = Vec::new();
        if !self.acts() {
            return calls;
        }
        let Touched {
            claims,
            pools,
            waiting_pods,
            capacity,
        } = self.index.take_touched();
        for claim in claims {
            self.claims.at(claim, now);
        }
        self.loops.touched(pools, waiting_pods > 0, capacity, now);
        while let Some(name) = self.claims.next(now) {
            self.start_claim(name, now, &mut calls);
        }
        while let Some(uid) = self.evictions.next(now) {
            self.start_eviction(uid, now, &mut calls);
        }
        self.run_loops(now, &mut calls);
        calls
    }

    /// When to poll again if nothing happens before.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        if !self.acts() {
            return None;
        }
        self.loops
            .next_due()
            .chain(self.claims.due())
            .chain(self.evictions.due())
            .min()
    }

    /// Takes in the answer to a task's call and says what to call next.
    pub(crate) fn answered(
        &mut self,
        id: TaskId,
        request: &Request,
        answer: Answer,
        now: Timestamp,
    ) -> Vec<Call> {
        let mut calls = Vec::new();
        let Some(mut task) = self.tasks.remove(&id) else {
            return calls;
        };
        match answer {
            Answer::Failed(failure) => self.call_failed(&mut task, request, failure, now),
            answer => self.call_succeeded(&mut task, request, answer, now),
        }
        self.proceed(id, task, now, &mut calls);
        calls
    }

    fn call_succeeded(&mut self, task: &mut Task, request: &Request, answer: Answer, now: Timestamp) {
        let more = match (&mut task.job, answer) {
            // Our own writes reach the index ahead of the watch.
            (_, Answer::Claim(claim)) => {
                self.index.answered(*claim, now);
                return;
            }
            (Job::Disrupt(round), Answer::Node(node)) => {
                self.index.answered(*node, now);
                round.written();
                return;
            }
            (_, Answer::Node(node)) => {
                self.index.answered(*node, now);
                return;
            }
            (Job::Order { pods }, Answer::Created(claim)) => {
                let name = claim.metadata.name.clone().unwrap_or_default();
                self.index.created_claim(*claim, now);
                for pod in pods.iter() {
                    self.index.promise(pod, &name, now);
                }
                return;
            }
            (Job::Recount, Answer::Claims(claims)) => {
                self.index.counted(claims, now);
                return;
            }
            (Job::Claim { .. }, Answer::Launched(answer)) => {
                let Request::Effect(Effect::Launch(claim)) = request else {
                    return;
                };
                task.failed |= answer.is_err();
                lifecycle::launched(claim, &answer, now)
            }
            (Job::Claim { name, .. }, Answer::Terminated(answer)) => self
                .index
                .view(name)
                .map(|view| lifecycle::terminated(&view, answer, now))
                .unwrap_or_default(),
            (Job::Claim { name, .. }, Answer::Pods(pods)) => {
                let pods = pods.iter().map(PodState::from_pod).collect();
                self.index
                    .view(name)
                    .map(|view| lifecycle::drained(&view, pods, now))
                    .unwrap_or_default()
            }
            (Job::Disrupt(round), Answer::Pods(pods)) => {
                let pods: Vec<PodState> = pods.iter().map(PodState::from_pod).collect();
                round.confirm(&self.index, &pods, &mut self.decided)
            }
            (Job::Garbage, Answer::Machines(listing)) => {
                let found = lifecycle::garbage::collect(&self.index, &listing, now);
                task.queue.extend(
                    found
                        .leaked
                        .into_iter()
                        .map(|provider_id| Request::EndMachine { provider_id }),
                );
                task.queue.extend(found.effects.into_iter().map(Request::Effect));
                return;
            }
            _ => return,
        };
        for effect in more.into_iter().rev() {
            task.queue.push_front(Request::Effect(effect));
        }
    }

    /// The first call that fails ends a pass. A delete of what is gone has not failed.
    fn call_failed(&mut self, task: &mut Task, request: &Request, failure: Failure, now: Timestamp) {
        match &mut task.job {
            Job::Evict { .. } => task.failed = !matches!(failure, Failure::NotFound | Failure::Conflict),
            _ if failure == Failure::NotFound && !request.is_patch() => {}
            Job::Claim { .. } => {
                task.queue.clear();
                task.failed = true;
            }
            Job::Disrupt(round) => {
                round.abandon(request, failure, &mut self.decided);
                task.queue.clear();
            }
            Job::Order { .. } | Job::Recount => {
                if failure == Failure::Unclear {
                    // A claim may exist that no record here knows; planning without it could buy twice.
                    self.loops.recount(now);
                }
            }
            Job::Nominate | Job::Garbage | Job::Pools => {}
        }
    }

    fn finished(&mut self, task: Task, now: Timestamp) {
        match task.job {
            Job::Claim { name, again } => match (task.failed, again) {
                (true, _) => self.claims.retry(&name, now),
                (false, again) => {
                    self.claims.succeeded(&name);
                    if let Some(delay) = again {
                        self.claims.at(
                            name,
                            now + SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX),
                        );
                    }
                }
            },
            Job::Evict { uid } => {
                if task.failed {
                    self.evictions.retry(&uid, now);
                } else {
                    self.evicting.remove(&uid);
                    self.evictions.succeeded(&uid);
                }
            }
            Job::Order { .. } => {
                if self.loops.ordered(now) {
                    self.index.ordering(None);
                }
            }
            Job::Nominate => {}
            Job::Recount => self.loops.recounted(),
            Job::Disrupt(_) => self.loops.disrupted(now),
            Job::Garbage => self.loops.collected(now),
            Job::Pools => self.loops.pools_done(now),
        }
    }

    fn start_claim(&mut self, name: String, now: Timestamp, calls: &mut Vec<Call>) {
        let Some(view) = self.index.view(&name) else {
            self.claims.succeeded(&name);
            return;
        };
        let pool = self.index.pool_of(&view.claim);
        let pool = pool.map_or_else(lifecycle::Pool::default, |pool| lifecycle::Pool {
            consolidate_after: pool.spec.disruption.consolidate_after.as_duration(),
            drift: lifecycle::drift::judge(&view.claim, pool, Drift::Absent),
        });
        let pass = lifecycle::reconcile(&view, pool, self.config.settings, now);
        let queue = pass.effects.into_iter().map(Request::Effect).collect();
        self.start(
            Job::Claim {
                name,
                again: pass.again,
            },
            queue,
            now,
            calls,
        );
    }

    /// Unless the pod went by itself.
    fn start_eviction(&mut self, uid: String, now: Timestamp, calls: &mut Vec<Call>) {
        let Some(Effect::Evict { pod, .. }) = self.evicting.get(&uid) else {
            return;
        };
        let live = self.index.pod(pod);
        if live.is_some_and(|p| *p.uid == *uid && p.deletion.is_none() && p.node.is_some()) {
            let queue = VecDeque::from([Request::Evict(self.evicting[&uid].clone())]);
            self.start(Job::Evict { uid }, queue, now, calls);
        } else {
            self.evicting.remove(&uid);
            self.evictions.succeeded(&uid);
        }
    }

    fn start(&mut self, job: Job, queue: VecDeque<Request>, now: Timestamp, calls: &mut Vec<Call>) {
        self.next_task += 1;
        self.proceed(
            self.next_task,
            Task {
                job,
                queue,
                failed: false,
            },
            now,
            calls,
        );
    }

    /// Makes the next call of a task, or ends it.
    fn proceed(&mut self, id: TaskId, mut task: Task, now: Timestamp, calls: &mut Vec<Call>) {
        loop {
            let next = task.queue.pop_front().or_else(|| match &mut task.job {
                Job::Disrupt(round) => round.next(&self.index),
                _ => None,
            });
            match next {
                None => return self.finished(task, now),
                // Nobody waits for events.
                Some(Request::Effect(Effect::Event { .. })) => {}
                Some(Request::Effect(Effect::ConfirmDrained(claim))) => {
                    let view = self
                        .index
                        .view(claim.metadata.name.as_deref().unwrap_or_default());
                    if let Some(node) = view.as_ref().and_then(|view| view.nodes.first()) {
                        let node = node.metadata.name.clone().unwrap_or_default();
                        task.queue.push_front(Request::LookAt { node });
                    }
                }
                // A drain asks again on every pass; evictions have a pace of their own.
                Some(Request::Effect(effect @ Effect::Evict { .. })) => {
                    let Effect::Evict { uid, .. } = &effect else {
                        return;
                    };
                    let uid = uid.to_string();
                    if self.evicting.insert(uid.clone(), effect).is_none() {
                        self.evictions.at(uid, now);
                    }
                }
                Some(request) => {
                    let settles = matches!((&task.job, &request), (Job::Disrupt(_), Request::LookAt { .. }));
                    let delay = if settles {
                        disrupt::SETTLE
                    } else {
                        SignedDuration::ZERO
                    };
                    calls.push(Call {
                        task: id,
                        request,
                        delay,
                    });
                    self.tasks.insert(id, task);
                    return;
                }
            }
        }
    }
}

/// Reads an object as the controller's client would.
pub(crate) fn typed<K: DeserializeOwned>(object: &Value) -> K {
    K::deserialize(object).expect("the model server only holds objects that their types can read")
}
