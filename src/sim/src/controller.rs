//! The controller's wiring: the same decisions that run in production, called by virtual time.
//!
//! It holds what a process holds in memory and nothing else: dropping it is a crash. It acts only by handing
//! out [`Request`]s and learns only from [`Answer`]s and watch events.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{core::v1::Node, policy::v1::PodDisruptionBudget};
use plimsoll_api::{nodeclaim::NodeClaim, nodepool::NodePool};
use plimsoll_core::{catalog::Catalog, plan::Plan, policy::Policy, snapshot::Snapshot};
use plimsoll_lifecycle::{self as lifecycle, Effect, Settings};
use plimsoll_provider::{Machine, ProviderError, Termination};
use plimsoll_state::{DaemonSet, Index, Observe, Pod, Touched};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::{Change, Kind};

mod loops;

pub(crate) type TaskId = u64;

/// One call, or one thing that several calls would make up.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Effect(Effect),
    PatchPool { name: String, patch: Value, status: bool },
    /// A consistent list of all claims.
    ListClaims,
    /// A consistent look at a node and the pods on it.
    LookAt { node: String },
    ListMachines,
    /// Ends a machine that no claim stands for.
    EndMachine { provider_id: String },
}

impl Request {
    pub(crate) fn is_launch(&self) -> bool {
        matches!(self, Self::Effect(Effect::Launch(_)))
    }

    pub(crate) fn is_cloud(&self) -> bool {
        self.is_launch()
            || matches!(self, Self::Effect(Effect::Terminate { .. } | Effect::Probe(_)))
            || matches!(self, Self::ListMachines | Self::EndMachine { .. })
    }

    pub(crate) fn is_patch(&self) -> bool {
        matches!(
            self,
            Self::PatchPool { .. }
                | Self::Effect(
                    Effect::PatchClaim { .. } | Effect::PatchClaimStatus { .. } | Effect::PatchNode { .. }
                )
        )
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |claim: &NodeClaim| claim.metadata.name.clone().unwrap_or_default();
        match self {
            Self::Effect(effect) => match effect {
                Effect::CreateClaim(claim) => write!(f, "create claim {:?}", claim.spec.resources.requests),
                Effect::PatchClaim { name, patch } => write!(f, "patch claim {name} {patch}"),
                Effect::PatchClaimStatus { name, patch } => write!(f, "patch claim status {name} {}", Brief(patch)),
                Effect::DeleteClaim { name, reason, .. } => write!(f, "delete claim {name}: {reason}"),
                Effect::Launch(claim) => write!(f, "launch {}", name(claim)),
                Effect::Terminate { claim, .. } => write!(f, "terminate {}", name(claim)),
                Effect::Probe(claim) => write!(f, "probe {}", name(claim)),
                Effect::PatchNode { name, patch } => write!(f, "patch node {name} {patch}"),
                Effect::DeleteNode { name, .. } => write!(f, "delete node {name}"),
                Effect::Nominate { pod, node, .. } => write!(f, "nominate {pod} to {node:?}"),
                Effect::Evict { pod, node, .. } => write!(f, "evict {pod} from {node}"),
                Effect::DeletePod { pod, grace, .. } => write!(f, "delete pod {pod} within {grace:?}"),
                Effect::Event { reason, note, .. } => write!(f, "event {reason}: {note}"),
            },
            Self::PatchPool { name, patch, .. } => write!(f, "patch pool {name} {}", Brief(patch)),
            Self::ListClaims => write!(f, "list claims"),
            Self::LookAt { node } => write!(f, "look at {node}"),
            Self::ListMachines => write!(f, "list machines"),
            Self::EndMachine { provider_id } => write!(f, "end {provider_id}"),
        }
    }
}

/// A status patch for the trace: its version and its conditions.
struct Brief<'a>(&'a Value);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(conditions) = self.0["status"]["conditions"].as_array() else { return write!(f, "{}", self.0) };
        write!(f, "at {}:", self.0["metadata"]["resourceVersion"])?;
        let word = |value: &'_ Value| value.as_str().unwrap_or_default().to_owned();
        conditions.iter().try_for_each(|c| write!(f, " {}={}", word(&c["type"]), word(&c["status"])))
    }
}

/// What comes back.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Done,
    Created(Box<NodeClaim>),
    Launched(Result<Machine, ProviderError>),
    Terminated(Termination),
    Machines(Vec<Machine>),
    Claims(Vec<NodeClaim>),
    Seen { node: Option<Box<Node>>, pods: Vec<Pod> },
    Failed(Failure),
}

/// Why a call failed, as far as the caller has to tell failures apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Conflict,
    NotFound,
    /// A time-out or a server error: it may have been performed.
    Unclear,
}

/// What a task is for.
#[derive(Debug)]
enum Job {
    /// One claim's state machine.
    Claim(String),
    /// Creates claims; for each in turn, the pods it is meant for.
    Provision { pods: VecDeque<Vec<Arc<str>>> },
    /// Reads the claims after a creation whose outcome is not known.
    Recount,
    /// Closes one empty node, looks again, deletes.
    Removal { claim: Arc<NodeClaim>, node: String },
    /// Opens nodes that a predecessor closed and did not decide about.
    Reopen,
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

/// First wait after a failure; it doubles up to [`BACKOFF_MAX`].
const BACKOFF: SignedDuration = SignedDuration::from_millis(500);
const BACKOFF_MAX: SignedDuration = SignedDuration::from_secs(30);
/// Between closing a node and looking at it again: longer than kube-scheduler takes to carry out what it
/// decided when the node was still open.
const CLOSE_SETTLE: SignedDuration = SignedDuration::from_secs(1);

/// One process.
#[derive(Debug)]
pub(crate) struct Controller {
    index: Index,
    config: Config,
    /// What the cloud sells; refreshed by the shell.
    catalog: Arc<Catalog>,
    listed: BTreeSet<Kind>,
    tasks: BTreeMap<TaskId, Task>,
    next_task: TaskId,
    /// When to look at a claim.
    due: BTreeMap<String, Timestamp>,
    failures: BTreeMap<String, u32>,
    busy: BTreeSet<String>,
    /// Nodes this process has closed, until the index shows what became of them.
    closing: BTreeMap<String, Timestamp>,
    loops: loops::Timers,
    /// Plans that nobody has judged yet.
    pub(crate) planned: Vec<Planned>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => write!(f, "done"),
            Self::Created(claim) => write!(f, "created {}", claim.metadata.name.as_deref().unwrap_or_default()),
            Self::Launched(Ok(machine)) => write!(f, "launched {}", machine.provider_id),
            Self::Launched(Err(error)) => write!(f, "not launched: {error}"),
            Self::Terminated(termination) => write!(f, "termination {termination:?}"),
            Self::Machines(machines) => write!(f, "{} machines", machines.len()),
            Self::Claims(claims) => write!(f, "{} claims", claims.len()),
            Self::Seen { node, pods } => write!(f, "node {}, {} pods", node.is_some(), pods.len()),
            Self::Failed(failure) => write!(f, "failed: {failure:?}"),
        }
    }
}

impl Controller {
    pub(crate) fn new(config: Config, catalog: Arc<Catalog>, now: Timestamp) -> Self {
        Self {
            index: Index::default(),
            config,
            catalog,
            listed: BTreeSet::new(),
            tasks: BTreeMap::new(),
            next_task: 0,
            due: BTreeMap::new(),
            failures: BTreeMap::new(),
            busy: BTreeSet::new(),
            closing: BTreeMap::new(),
            loops: loops::Timers::new(now),
            planned: Vec::new(),
        }
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
        self.index.reset(objects.iter().map(|object| typed(object)).collect::<Vec<K>>(), now);
    }

    /// Does what is due and says which calls to make. Nothing before every watch has listed once.
    pub(crate) fn poll(&mut self, now: Timestamp) -> Vec<Call> {
        let mut calls = Vec::new();
        if self.listed.len() < Kind::ALL.len() {
            return calls;
        }
        let Touched { claims, pools, waiting_pods, capacity } = self.index.take_touched();
        for claim in claims {
            self.due.insert(claim, now);
        }
        self.loops.touched(pools, waiting_pods > 0, capacity, now);
        let ready: Vec<String> =
            self.due.iter().filter(|(name, at)| **at <= now && !self.busy.contains(*name)).map(|(n, _)| n.clone()).collect();
        for name in ready {
            self.due.remove(&name);
            self.start_claim(name, now, &mut calls);
        }
        self.run_loops(now, &mut calls);
        calls
    }

    /// When to poll again if nothing happens before.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        if self.listed.len() < Kind::ALL.len() {
            return None;
        }
        let claims = self.due.iter().filter(|(name, _)| !self.busy.contains(*name)).map(|(_, at)| *at);
        claims.chain(self.loops.next_due()).min()
    }

    /// Takes in the answer to a task's call and says what to call next.
    pub(crate) fn answered(&mut self, id: TaskId, request: &Request, answer: Answer, now: Timestamp) -> Vec<Call> {
        let mut calls = Vec::new();
        let Some(mut task) = self.tasks.remove(&id) else { return calls };
        match answer {
            Answer::Failed(failure) => self.call_failed(&mut task, request, failure, now),
            answer => self.call_succeeded(&mut task, request, answer, now),
        }
        match task.queue.pop_front() {
            Some(request) => {
                let settle = matches!(request, Request::LookAt { .. });
                let delay = if settle { CLOSE_SETTLE } else { SignedDuration::ZERO };
                calls.push(Call { task: id, request, delay });
                self.tasks.insert(id, task);
            }
            None => self.finished(task, now),
        }
        calls
    }

    fn call_succeeded(&mut self, task: &mut Task, request: &Request, answer: Answer, now: Timestamp) {
        let more = match (&mut task.job, answer) {
            (Job::Provision { pods }, Answer::Created(claim)) => {
                let name = claim.metadata.name.clone().unwrap_or_default();
                self.index.created_claim(*claim, now);
                for pod in pods.pop_front().unwrap_or_default() {
                    self.index.promise(&pod, &name, now);
                }
                return;
            }
            (Job::Recount, Answer::Claims(claims)) => {
                for claim in claims {
                    self.index.created_claim(claim, now);
                }
                return;
            }
            (Job::Claim(_), Answer::Launched(answer)) => {
                let Request::Effect(Effect::Launch(claim)) = request else { return };
                task.failed |= answer.is_err();
                lifecycle::launched(claim, &answer, now)
            }
            (Job::Claim(name), Answer::Terminated(answer)) => {
                self.index.view(name).map(|view| lifecycle::terminated(&view, answer, now)).unwrap_or_default()
            }
            (Job::Removal { claim, .. }, Answer::Seen { node, pods }) => {
                let Some(node) = node else { return };
                let mut fresh = Index::default();
                fresh.reset(pods, now);
                lifecycle::disruption::confirm_empty(claim, &node, fresh.pods().map(|pod| &**pod))
            }
            (Job::Garbage, Answer::Machines(machines)) => {
                let found = lifecycle::garbage::collect(&self.index, &machines, now);
                let leaked = found.leaked.into_iter().map(|provider_id| Request::EndMachine { provider_id });
                task.queue.extend(leaked);
                found.effects
            }
            _ => return,
        };
        for effect in more.into_iter().rev() {
            task.queue.push_front(Request::Effect(effect));
        }
    }

    /// The first call that fails ends a pass; the next one starts from what the objects say then. A delete
    /// that finds nothing to delete has not failed.
    fn call_failed(&mut self, task: &mut Task, request: &Request, failure: Failure, now: Timestamp) {
        let is_delete = matches!(
            request,
            Request::Effect(
                Effect::DeleteClaim { .. } | Effect::DeleteNode { .. } | Effect::DeletePod { .. } | Effect::Evict { .. }
            )
        );
        if is_delete && failure != Failure::Unclear {
            return;
        }
        task.queue.clear();
        task.failed = true;
        if matches!(task.job, Job::Provision { .. } | Job::Recount) && failure == Failure::Unclear {
            // A claim may exist that no record here knows; planning without it could buy twice.
            self.loops.recount(now + BACKOFF);
        }
    }

    fn finished(&mut self, task: Task, now: Timestamp) {
        match task.job {
            Job::Claim(name) => {
                self.busy.remove(&name);
                if task.failed {
                    let failures = self.failures.entry(name.clone()).or_default();
                    let wait = (BACKOFF * 2_i32.pow((*failures).min(6))).min(BACKOFF_MAX);
                    *failures += 1;
                    let again = now + wait;
                    let known = self.due.entry(name).or_insert(again);
                    *known = (*known).min(again);
                } else {
                    self.failures.remove(&name);
                }
            }
            Job::Removal { node, .. } => {
                if task.failed {
                    self.closing.remove(&node);
                }
            }
            Job::Provision { .. } => self.loops.provisioned(now),
            Job::Recount => self.loops.recounted(),
            Job::Reopen => self.loops.reopened(),
            Job::Garbage => self.loops.collected(now),
            Job::Pools => self.loops.pools_done(now),
        }
    }

    fn start_claim(&mut self, name: String, now: Timestamp, calls: &mut Vec<Call>) {
        let Some(view) = self.index.view(&name) else {
            self.failures.remove(&name);
            return;
        };
        let pass = lifecycle::reconcile(&view, self.consolidate_after(&view.claim), self.config.settings, now);
        if let Some(again) = pass.again {
            let again = now + SignedDuration::try_from(again).unwrap_or(SignedDuration::MAX);
            self.due.insert(name.clone(), again);
        }
        self.busy.insert(name.clone());
        let queue = pass.effects.into_iter().map(Request::Effect).collect();
        self.start(Job::Claim(name), queue, now, calls);
    }

    fn consolidate_after(&self, claim: &NodeClaim) -> Option<Duration> {
        let pool = claim.metadata.labels.as_ref()?.get(plimsoll_api::labels::NODEPOOL)?;
        self.index.node_pool(pool)?.spec.disruption.consolidate_after.as_duration()
    }

    fn start(&mut self, job: Job, mut queue: VecDeque<Request>, now: Timestamp, calls: &mut Vec<Call>) {
        self.next_task += 1;
        let first = queue.pop_front();
        let task = Task { job, queue, failed: false };
        match first {
            Some(request) => {
                calls.push(Call { task: self.next_task, request, delay: SignedDuration::ZERO });
                self.tasks.insert(self.next_task, task);
            }
            None => self.finished(task, now),
        }
    }
}

/// Reads an object as the controller's client would.
pub(crate) fn typed<K: DeserializeOwned>(object: &Value) -> K {
    K::deserialize(object).expect("the model server only holds objects that their types can read")
}
