//! One run: events in order of virtual time until everything came and went, or an invariant broke.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use jiff::{SignedDuration, Timestamp};
use plimsoll_core::{
    catalog::{Catalog, MicroDollars},
    policy::{MinValuesPolicy, Policy, PreferencePolicy},
};
use plimsoll_lifecycle::{Effect, Settings};
use plimsoll_provider::{CloudProvider, ProviderError, fake::FakeCloud};
use serde_json::{Value, json};

use crate::{
    agenda::{Agenda, Event},
    api::{Kind, Server, text},
    check::Checks,
    controller::{Answer, Call, Config, Controller, Failure, Request, TaskId},
    faults::{self, Fate, Rates},
    perform::perform,
    rng::Rng,
    scenario::{Action, Scenario, catalog},
    trace::Trace,
    watch::Watches,
    world::World,
};

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    pub scenario: &'static str,
    /// Empty: every invariant held.
    pub violations: Vec<String>,
    /// Equal for equal runs.
    pub hash: u64,
    /// The last lines of the trace.
    pub tail: Vec<String>,
    pub stats: Stats,
}

/// How much happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub events: u64,
    pub calls: u64,
    pub plans: u64,
    pub launches: u64,
    pub evictions: u64,
    /// Claims deleted because they were empty.
    pub emptied: u64,
    pub crashes: u64,
    /// Machines that vanished.
    pub vanished: u64,
    pub virtual_seconds: i64,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Trouble,
    /// Faults are over: everything must come right.
    Recovering {
        since: Timestamp,
    },
    /// It has; now nothing may happen to it.
    Steady {
        since: Timestamp,
    },
    /// All workloads are at zero: nothing may be left.
    Emptying {
        since: Timestamp,
    },
    Done,
}

/// Time to recover: a machine that never joins is given up after 15 minutes, and so may be its successor's plan.
const RECOVERY_MAX: SignedDuration = SignedDuration::from_mins(45);
/// What happened last shows after this long: heartbeats are missed, unready nodes found out.
const AFTERMATH: SignedDuration = SignedDuration::from_mins(2);
const STEADY: SignedDuration = SignedDuration::from_mins(4);
const EMPTYING_MAX: SignedDuration = SignedDuration::from_mins(30);
const JUDGE_EVERY: SignedDuration = SignedDuration::from_secs(5);
const HOUSEKEEPING_EVERY: SignedDuration = SignedDuration::from_secs(10);
/// More than any run needs; a controller that spins is stopped here.
const EVENTS_MAX: u64 = 400_000;
/// An arbitrary beginning, with a fraction of a second, because real clocks have one.
const EPOCH_MS: i64 = 1_760_000_000_250;

/// Runs a scenario with the faults and delays of a seed. The same arguments give the same outcome.
pub fn sim(seed: u64, scenario: &Scenario) -> Outcome {
    let mut run = Run::new(seed, scenario);
    run.begin();
    while let Some(event) = run.agenda.advance() {
        run.stats.events += 1;
        run.handle(event);
        run.settle();
        if run.stats.events > EVENTS_MAX {
            run.violate("the run does not come to an end".to_owned());
        }
        if matches!(run.phase, Phase::Done) || !run.checks.violations.is_empty() {
            break;
        }
    }
    run.outcome()
}

struct Run<'a> {
    seed: u64,
    scenario: &'a Scenario,
    rng: Rng,
    agenda: Agenda,
    server: Server,
    cloud: FakeCloud,
    world: World,
    watches: Watches,
    controller: Option<Controller>,
    /// Counts processes of the controller.
    life: u64,
    wake: Option<Timestamp>,
    catalog: Arc<Catalog>,
    rates: Rates,
    phase: Phase,
    checks: Checks,
    trace: Trace,
    stats: Stats,
}

impl<'a> Run<'a> {
    fn new(seed: u64, scenario: &'a Scenario) -> Self {
        let now = Timestamp::from_millisecond(EPOCH_MS).expect("the epoch of the model is a time");
        let cloud = FakeCloud::new(catalog());
        let pools: Vec<_> = scenario.pools.iter().cloned().map(Arc::new).collect();
        let catalog = at_once(cloud.catalog(&pools)).expect("the scripted cloud has a catalogue");
        Self {
            seed,
            scenario,
            rng: Rng::new(seed),
            agenda: Agenda::new(now),
            server: Server::default(),
            cloud,
            world: World::new(scenario.workloads.clone()),
            watches: Watches::default(),
            controller: None,
            life: 0,
            wake: None,
            catalog: Arc::new(catalog),
            rates: scenario.rates,
            phase: Phase::Trouble,
            checks: Checks::new(scenario),
            trace: Trace::default(),
            stats: Stats::default(),
        }
    }

    fn begin(&mut self) {
        let now = self.agenda.now();
        let pools = self
            .scenario
            .pools
            .iter()
            .map(|pool| (Kind::NodePool, json!(pool)));
        let budgets = self
            .scenario
            .budgets
            .iter()
            .map(|b| (Kind::PodDisruptionBudget, b.clone()));
        let daemons = self.scenario.daemons.iter().map(|d| (Kind::DaemonSet, d.clone()));
        let objects = pools
            .chain(budgets)
            .chain(daemons)
            .chain([(Kind::Node, foreign_node())]);
        for (kind, object) in objects.collect::<Vec<_>>() {
            self.server
                .create(kind, object, now)
                .expect("the names of a scenario differ");
        }
        for (entry, (at, _)) in self.scenario.script.iter().enumerate() {
            self.agenda.after(*at, Event::Script { entry });
        }
        self.agenda.at(now, Event::Start);
        self.agenda.at(now, Event::Workloads);
        self.agenda.after(HOUSEKEEPING_EVERY, Event::Housekeeping);
        self.agenda.after(faults::TROUBLE_EVERY, Event::Trouble);
        self.agenda.after(self.scenario.trouble, Event::Calm);
        self.settle();
    }

    fn handle(&mut self, event: Event) {
        let now = self.agenda.now();
        self.cloud.set_time(now);
        match event {
            Event::Start => self.start(now),
            Event::Lead { life } if life == self.life => {
                self.trace
                    .line(now, format_args!("controller process {life} leads"));
                if let Some(controller) = &mut self.controller {
                    controller.lead();
                    self.poll(now);
                }
            }
            Event::Wake { life } if life == self.life && self.wake == Some(now) => {
                self.wake = None;
                self.poll(now);
            }
            Event::Perform { life, task, request } => self.perform(life, task, request, now),
            Event::Answer {
                life,
                task,
                request,
                answer,
            } if life == self.life => {
                self.trace
                    .line(now, format_args!("  {task}: {request} -> {answer}"));
                if let Some(controller) = &mut self.controller {
                    let calls = controller.answered(task, &request, *answer, now);
                    self.call(calls);
                    self.poll(now);
                }
            }
            Event::Watch { stream, change } if self.watches.is_current(change.kind, stream) => {
                let version = text(&change.object, "/metadata/resourceVersion").unwrap_or_default();
                let key = crate::api::key(&change.object);
                self.trace.line(
                    now,
                    format_args!(
                        "  watch {:?} {key} at {version}, deleted {}",
                        change.kind, change.deleted
                    ),
                );
                if let Some(controller) = &mut self.controller {
                    controller.observe(&change, now);
                    self.poll(now);
                }
            }
            Event::Relist { kind, stream } => {
                self.watches.relist(
                    kind,
                    stream,
                    &self.server,
                    &mut self.agenda,
                    &self.rates,
                    &mut self.rng,
                );
            }
            Event::Listed {
                kind,
                stream,
                objects,
            } if self.watches.is_current(kind, stream) => {
                self.trace
                    .line(now, format_args!("  list of {} {kind:?}", objects.len()));
                if let Some(controller) = &mut self.controller {
                    controller.list(kind, &objects, now);
                    self.poll(now);
                }
            }
            // Meant for a process or a connection that is no more; or woken earlier since.
            Event::Lead { .. }
            | Event::Wake { .. }
            | Event::Answer { .. }
            | Event::Watch { .. }
            | Event::Listed { .. } => {}
            Event::Trouble => self.trouble(now),
            Event::Script { entry } => self.script(entry, now),
            Event::Calm => {
                self.trace.line(now, format_args!("faults are over"));
                self.rates = Rates::NONE;
                self.phase = Phase::Recovering { since: now };
                self.agenda.after(JUDGE_EVERY, Event::Judge);
            }
            Event::Judge => self.judge(now),
            event => self.world_event(event, now),
        }
    }

    fn world_event(&mut self, event: Event, now: Timestamp) {
        let Self {
            world,
            server,
            agenda,
            rng,
            trace,
            cloud,
            ..
        } = self;
        match event {
            Event::Schedule => world.schedule(server, agenda, rng),
            Event::Bind { pod, uid, node } => {
                trace.line(now, format_args!("bind {pod} to {node}"));
                world.bind(server, agenda, rng, &pod, &uid, &node);
            }
            Event::PodStarted { pod, uid } => world.pod_started(&pod, &uid, server, agenda, rng),
            Event::PodStopped { pod, uid } => world.pod_stopped(&pod, &uid, server),
            Event::Join { provider_id } => {
                let machine = cloud
                    .machines()
                    .into_iter()
                    .find(|m| m.provider_id == provider_id);
                if let Some(machine) = machine {
                    trace.line(now, format_args!("{provider_id} joins"));
                    world.join(&machine, server, agenda, rng);
                }
            }
            Event::NodeReady { node } => world.node_ready(&node, server),
            Event::NodeLost { node } => {
                trace.line(now, format_args!("{node} is lost"));
                world.node_lost(&node, server, now);
            }
            Event::Workloads => world.sync_workloads(server, now),
            Event::Housekeeping => {
                world.housekeeping(server, now);
                agenda.after(HOUSEKEEPING_EVERY, Event::Housekeeping);
            }
            _ => {}
        }
    }

    /// What an event changed goes to the watches, the world and the checkers.
    fn settle(&mut self) {
        self.server.sync_budgets();
        for change in self.server.take_changes() {
            self.checks.changed(&change);
            self.world.observe(&change, &mut self.agenda, &mut self.rng);
            self.watches
                .send(change, &mut self.agenda, &self.rates, &mut self.rng);
        }
        if let Some(controller) = &mut self.controller {
            for planned in std::mem::take(&mut controller.planned) {
                self.stats.plans += 1;
                self.checks.planned(&planned, self.agenda.now());
            }
        }
    }

    fn start(&mut self, now: Timestamp) {
        self.life += 1;
        self.wake = None;
        self.trace
            .line(now, format_args!("controller process {} starts", self.life));
        let config = Config {
            settings: Settings {
                nominate: self.scenario.nominate,
            },
            policy: Policy {
                preferences: PreferencePolicy::Respect,
                min_values: MinValuesPolicy::Strict,
                nomination: true,
                steps_max: 0,
                types_per_launch_max: 60,
                interruption_cost: MicroDollars(0),
            },
        };
        self.controller = Some(Controller::new(config, self.catalog.clone(), now));
        // It reads while it waits for the lease, and leads when the calls of its predecessor have arrived.
        let lease = self.rng.between(4_000, 20_000);
        self.agenda.after(lease, Event::Lead { life: self.life });
        for kind in Kind::ALL {
            self.watches
                .reconnect(kind, &mut self.agenda, &self.rates, &mut self.rng);
        }
    }

    /// The process dies: what it knew is gone, what it sent may still arrive.
    fn crash(&mut self, now: Timestamp) {
        if self.controller.take().is_none() {
            return;
        }
        self.stats.crashes += 1;
        self.life += 1;
        self.watches.close();
        self.trace.line(now, format_args!("controller dies"));
        let delay = self.rng.between(100, 2_000);
        self.agenda.after(delay, Event::Start);
    }

    fn poll(&mut self, now: Timestamp) {
        let Some(controller) = &mut self.controller else {
            return;
        };
        let calls = controller.poll(now);
        let next = controller
            .next_due()
            .map(|at| at.max(now + SignedDuration::from_millis(1)));
        if let Some(at) = next.filter(|at| self.wake.is_none_or(|known| *at < known)) {
            self.wake = Some(at);
            self.agenda.at(at, Event::Wake { life: self.life });
        }
        self.call(calls);
    }

    fn call(&mut self, calls: Vec<Call>) {
        for Call { task, request, delay } in calls {
            let delay = delay + faults::latency(&self.rates, &mut self.rng);
            let request = Box::new(request);
            self.agenda.after(
                delay,
                Event::Perform {
                    life: self.life,
                    task,
                    request,
                },
            );
        }
    }

    /// A call arrives, whole or not.
    fn perform(&mut self, life: u64, task: TaskId, request: Box<Request>, now: Timestamp) {
        self.stats.calls += 1;
        if life != self.life {
            // Its sender is dead. Perhaps it was on the wire already.
            if self.rng.hits(5_000) {
                self.trace
                    .line(now, format_args!("late call of a dead process: {request}"));
                self.carry_out(&request, now);
            }
            return;
        }
        let answer = match faults::fate(&self.rates, &request, &mut self.rng) {
            Fate::Performed => self.carry_out(&request, now),
            Fate::Refused(failure) => refused(&request, failure),
            Fate::Cloud(error) if request.is_launch() => Answer::Launched(Err(error)),
            Fate::Cloud(_) => Answer::Failed(Failure::Unclear),
            Fate::AnswerLost => {
                self.trace
                    .line(now, format_args!("answer will be lost: {request}"));
                self.carry_out(&request, now);
                refused(&request, Failure::Unclear)
            }
            Fate::CrashBefore => {
                self.trace.line(now, format_args!("dies before: {request}"));
                return self.crash(now);
            }
            Fate::CrashAfter => {
                self.trace.line(now, format_args!("dies after: {request}"));
                self.carry_out(&request, now);
                return self.crash(now);
            }
        };
        let delay = faults::latency(&self.rates, &mut self.rng);
        let answer = Box::new(answer);
        self.agenda.after(
            delay,
            Event::Answer {
                life,
                task,
                request,
                answer,
            },
        );
    }

    fn carry_out(&mut self, request: &Request, now: Timestamp) -> Answer {
        self.checks.before(request, &self.server, &self.world, now);
        let evicted = match request {
            Request::Evict(Effect::Evict { pod, .. }) => self.server.get(Kind::Pod, pod).cloned(),
            _ => None,
        };
        let answer = perform(request, &mut self.server, &self.cloud, now);
        if let Some(before) = evicted {
            let leaving = |pod: &Value| text(pod, "/metadata/deletionTimestamp").is_some();
            let after = self.server.get(Kind::Pod, &crate::api::key(&before));
            if !leaving(&before) && after.is_none_or(|pod| leaving(pod)) {
                self.checks.evicted(&before, &self.server, now);
            }
        }
        if request.is_cloud() {
            self.look_at_cloud(now);
        }
        answer
    }

    fn look_at_cloud(&mut self, now: Timestamp) {
        let machines = self.cloud.machines();
        self.world
            .machines(&machines, self.rates.never_joins, &mut self.agenda, &mut self.rng);
        let launches = self.cloud.launches();
        self.stats.launches = launches.len() as u64;
        self.checks.machines(&machines, &launches, now);
    }

    fn trouble(&mut self, now: Timestamp) {
        if self.rng.hits(self.rates.disconnect)
            && self.controller.is_some()
            && let Some(kind) = self.rng.pick(&Kind::ALL).copied()
        {
            self.trace.line(now, format_args!("watch of {kind:?} breaks"));
            self.watches
                .reconnect(kind, &mut self.agenda, &self.rates, &mut self.rng);
        }
        if self.rng.hits(self.rates.vanish) {
            let machines = self.cloud.machines();
            if let Some(machine) = self.rng.pick(&machines) {
                self.trace
                    .line(now, format_args!("{} vanishes", machine.provider_id));
                self.stats.vanished += 1;
                self.cloud.lose(&machine.provider_id);
                self.look_at_cloud(now);
            }
        }
        if matches!(self.phase, Phase::Trouble) {
            self.agenda.after(faults::TROUBLE_EVERY, Event::Trouble);
        }
    }

    fn script(&mut self, entry: usize, now: Timestamp) {
        let (_, action) = &self.scenario.script[entry];
        self.trace.line(now, format_args!("script: {action:?}"));
        match action {
            Action::Scale { workload, replicas } => {
                self.world.scale(workload, *replicas);
                self.agenda.at(now, Event::Workloads);
            }
            Action::DeleteClaim => self.delete_one(Kind::NodeClaim, "/metadata/name", now),
            Action::DeleteNode => self.delete_one(Kind::Node, "/spec/providerID", now),
        }
    }

    /// A person deletes one of ours.
    fn delete_one(&mut self, kind: Kind, name: &str, now: Timestamp) {
        let ours = |object: &Value| {
            text(object, name).is_some_and(|id| kind != Kind::Node || id.starts_with("fake:///"))
        };
        let keys: Vec<String> = self
            .server
            .list(kind)
            .filter(|(_, object)| ours(object))
            .map(|(key, _)| key.clone())
            .collect();
        if let Some(key) = self.rng.pick(&keys) {
            self.trace
                .line(now, format_args!("a person deletes {kind:?} {key}"));
            self.server
                .delete(kind, key, None, None, now)
                .expect("the object was just listed");
        }
    }

    fn judge(&mut self, now: Timestamp) {
        self.agenda.after(JUDGE_EVERY, Event::Judge);
        let missing: Vec<String> = self
            .world
            .workloads()
            .iter()
            .map(|w| (w, self.world.ready(&w.name)))
            .filter(|(w, ready)| *ready != w.replicas)
            .map(|(w, ready)| format!("{} has {ready} of {} pods", w.name, w.replicas))
            .collect();
        let leaving = |claim: &Value| text(claim, "/metadata/deletionTimestamp").is_some();
        let unsettled = self.server.list(Kind::NodeClaim).any(|(_, claim)| leaving(claim));
        match self.phase {
            Phase::Recovering { since }
                if missing.is_empty() && !unsettled && now.duration_since(since) > AFTERMATH =>
            {
                self.phase = Phase::Steady { since: now };
            }
            Phase::Recovering { since } if now.duration_since(since) > RECOVERY_MAX => {
                self.violate(format!(
                    "no recovery: {}, claims are leaving: {unsettled}",
                    missing.join(", ")
                ));
            }
            Phase::Steady { .. } if !missing.is_empty() => {
                self.violate(format!("pods were disturbed for nothing: {}", missing.join(", ")));
            }
            Phase::Steady { since } if now.duration_since(since) > STEADY => {
                self.trace.line(now, format_args!("everything scales to zero"));
                for workload in &self.scenario.workloads {
                    self.world.scale(&workload.name, 0);
                }
                self.agenda.at(now, Event::Workloads);
                self.phase = Phase::Emptying { since: now };
            }
            Phase::Emptying { since } => {
                let left = Checks::leftovers(&self.server, &self.cloud.machines());
                if left.is_empty() && missing.is_empty() {
                    self.phase = Phase::Done;
                } else if now.duration_since(since) > EMPTYING_MAX {
                    self.violate(format!(
                        "left behind: {}; {}",
                        left.join(", "),
                        missing.join(", ")
                    ));
                }
            }
            Phase::Trouble | Phase::Recovering { .. } | Phase::Steady { .. } | Phase::Done => {}
        }
    }

    fn violate(&mut self, what: String) {
        self.checks
            .violations
            .push(format!("{} {what}", self.agenda.now()));
    }

    fn outcome(self) -> Outcome {
        let began = Timestamp::from_millisecond(EPOCH_MS).expect("the epoch of the model is a time");
        Outcome {
            seed: self.seed,
            scenario: self.scenario.name,
            hash: self.trace.hash(),
            stats: Stats {
                evictions: self.checks.evictions,
                emptied: self.checks.emptied,
                virtual_seconds: self.agenda.now().duration_since(began).as_secs(),
                ..self.stats
            },
            violations: self.checks.violations,
            tail: self.trace.into_tail(),
        }
    }
}

/// How a call that was not performed, or not heard of, looks to its caller.
fn refused(request: &Request, failure: Failure) -> Answer {
    if request.is_launch() {
        return Answer::Launched(Err(ProviderError::Transient("no answer".into())));
    }
    Answer::Failed(failure)
}

/// A node that no pool owns: pods may use it, the controller must leave it alone.
fn foreign_node() -> Value {
    let amounts = json!({ "cpu": "2", "memory": "4Gi", "pods": "20" });
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": "static-1", "labels": { "kubernetes.io/hostname": "static-1" } },
        "spec": { "providerID": "other:///static-1" },
        "status": {
            "capacity": amounts, "allocatable": amounts, "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}

/// The answer of a future that never waits.
pub(crate) fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
    .expect("the scripted cloud answers without waiting")
}
