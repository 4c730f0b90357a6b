//! What will happen, in order of time.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::{
    api::{Change, Kind},
    controller::{Answer, Request, TaskId},
};

/// Something that happens at one moment.
#[derive(Debug)]
pub(crate) enum Event {
    /// The controller's process starts.
    Start,
    /// It acquires the lease.
    Lead { life: u64 },
    /// The controller asked to be called at this time.
    Wake { life: u64 },
    /// A call of the controller reaches the server or the cloud.
    Perform {
        life: u64,
        task: TaskId,
        request: Box<Request>,
    },
    /// The answer reaches the controller.
    Answer {
        life: u64,
        task: TaskId,
        request: Box<Request>,
        answer: Box<Answer>,
    },
    /// A change reaches the controller's watch.
    Watch { stream: u64, change: Change },
    /// A broken watch lists again.
    Relist { kind: Kind, stream: u64 },
    /// That list reaches the controller.
    Listed {
        kind: Kind,
        stream: u64,
        objects: Vec<Arc<Value>>,
    },
    /// kube-scheduler looks at what waits.
    Schedule,
    /// A decision of kube-scheduler reaches the server.
    Bind { pod: String, uid: String, node: String },
    /// A kubelet has started a pod's containers.
    PodStarted { pod: String, uid: String },
    /// A kubelet has stopped them.
    PodStopped { pod: String, uid: String },
    /// A machine's kubelet makes its Node.
    Join { provider_id: String },
    /// It says that the node is ready.
    NodeReady { node: String },
    /// Heartbeats have been missing for too long.
    NodeLost { node: String },
    /// Workload and daemon controllers look at their pods.
    Workloads,
    /// Periodic work of the node, pod and owner garbage collectors.
    Housekeeping,
    /// The next entry of the scenario's script.
    Script { entry: usize },
    /// Chance to break something.
    Trouble,
    /// Faults end.
    Calm,
    /// Has the run got where it should?
    Judge,
}

/// The future. Events of one moment happen in the order in which they were put in.
#[derive(Debug)]
pub(crate) struct Agenda {
    now: Timestamp,
    number: u64,
    events: BTreeMap<(Timestamp, u64), Event>,
}

impl Agenda {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            now,
            number: 0,
            events: BTreeMap::new(),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    pub(crate) fn at(&mut self, when: Timestamp, event: Event) {
        self.number += 1;
        self.events.insert((when.max(self.now), self.number), event);
    }

    pub(crate) fn after(&mut self, delay: SignedDuration, event: Event) {
        self.at(self.now + delay, event);
    }

    /// Moves to the next event.
    pub(crate) fn advance(&mut self) -> Option<Event> {
        let ((when, _), event) = self.events.pop_first()?;
        self.now = when;
        Some(event)
    }
}
