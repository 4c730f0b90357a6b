//! Kubernetes events: said once, not over and over.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{Api, Client, api::PostParams};
use plimsoll_lifecycle::{EventType, Subject};
use tokio::{sync::mpsc, time::Instant};

/// Upstream's source component, which dashboards filter on.
const COMPONENT: &str = "karpenter";
/// The API's limit on a note.
const NOTE_BYTES_MAX: usize = 1024;
/// Waiting events; more are dropped and counted, because an event must never hold up an act.
const QUEUE_MAX: usize = 1000;
/// The same thing about the same object is not said again within this time (upstream's figures).
const REPEAT_AFTER: Duration = Duration::from_secs(120);
const REPEAT_SCHEDULING_AFTER: Duration = Duration::from_secs(300);
const REPEAT_UNCONSOLIDATABLE_AFTER: Duration = Duration::from_secs(900);
/// Nominations are many; upstream sends five a second, ten at once.
const NOMINATIONS_PER_SECOND: f64 = 5.0;
const NOMINATIONS_AT_ONCE: f64 = 10.0;
/// Reason of the event that names a pod's future machine.
pub(crate) const NOMINATED: &str = "Nominated";
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Remembered events; the memory is swept when it grows past this.
const SAID_MAX: usize = 10_000;

/// Hands events to a writer task.
#[derive(Debug)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Event>,
    identity: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    said: BTreeMap<(Subject, &'static str, String), Instant>,
    tokens: f64,
    refilled: Instant,
    serial: u64,
}

impl Recorder {
    /// The recorder and the task that writes what it is given.
    pub(crate) fn new(client: Client, identity: String) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, receiver) = mpsc::channel(QUEUE_MAX);
        let state = State {
            said: BTreeMap::new(),
            tokens: NOMINATIONS_AT_ONCE,
            refilled: Instant::now(),
            serial: 0,
        };
        (
            Self {
                queue,
                identity,
                state: Mutex::new(state),
            },
            write(client, receiver),
        )
    }

    pub(crate) fn publish(&self, subject: &Subject, type_: EventType, reason: &'static str, note: String) {
        let Some(serial) = self.admit(subject, reason, &note) else {
            return;
        };
        let event = self.event(subject, type_, reason, note, serial);
        if self.queue.try_send(event).is_err() {
            tracing::debug!(reason, "event dropped, the queue is full");
        }
    }

    /// A serial number when the event is news, None when it was said lately.
    fn admit(&self, subject: &Subject, reason: &'static str, note: &str) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let silence = match reason {
            "FailedScheduling" => REPEAT_SCHEDULING_AFTER,
            "Unconsolidatable" => REPEAT_UNCONSOLIDATABLE_AFTER,
            _ => REPEAT_AFTER,
        };
        let key = (subject.clone(), reason, note.to_owned());
        if state
            .said
            .get(&key)
            .is_some_and(|at| now.duration_since(*at) < silence)
        {
            return None;
        }
        if reason == NOMINATED {
            let elapsed = now.duration_since(state.refilled).as_secs_f64();
            state.tokens = (state.tokens + elapsed * NOMINATIONS_PER_SECOND).min(NOMINATIONS_AT_ONCE);
            state.refilled = now;
            if state.tokens < 1.0 {
                return None;
            }
            state.tokens -= 1.0;
        }
        if state.said.len() > SAID_MAX {
            state
                .said
                .retain(|_, at| now.duration_since(*at) < REPEAT_UNCONSOLIDATABLE_AFTER);
        }
        state.said.insert(key, now);
        state.serial += 1;
        Some(state.serial)
    }

    fn event(
        &self,
        subject: &Subject,
        type_: EventType,
        reason: &str,
        mut note: String,
        serial: u64,
    ) -> Event {
        let involved = reference(subject);
        while note.len() > NOTE_BYTES_MAX {
            note.pop();
        }
        let now = Timestamp::now();
        let name = involved.name.clone().unwrap_or_default();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}.{serial:x}", now.as_nanosecond())),
                // Events about cluster-scoped objects live in the default namespace, by convention.
                namespace: Some(involved.namespace.clone().unwrap_or_else(|| "default".into())),
                ..ObjectMeta::default()
            },
            // As upstream writes them: the core group is what its ClusterRole allows.
            source: Some(EventSource {
                component: Some(COMPONENT.into()),
                host: None,
            }),
            reporting_component: Some(COMPONENT.into()),
            reporting_instance: Some(self.identity.clone()),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            reason: Some(reason.into()),
            message: Some(note),
            involved_object: involved,
            type_: Some(
                match type_ {
                    EventType::Normal => "Normal",
                    EventType::Warning => "Warning",
                }
                .into(),
            ),
            ..Event::default()
        }
    }
}

fn reference(subject: &Subject) -> ObjectReference {
    let of = |api_version: &str, kind: &str, name: &str, uid: Option<&str>| ObjectReference {
        api_version: Some(api_version.into()),
        kind: Some(kind.into()),
        name: Some(name.into()),
        uid: uid.map(Into::into),
        ..ObjectReference::default()
    };
    match subject {
        Subject::NodeClaim { name, uid } => of("karpenter.sh/v1", "NodeClaim", name, Some(uid)),
        Subject::NodePool { name, uid } => of("karpenter.sh/v1", "NodePool", name, Some(uid)),
        // Events about nodes carry the node's name as UID, as the kubelet's do; kubectl looks them up so.
        Subject::Node { name } => of("v1", "Node", name, Some(name)),
        Subject::Pod { key, uid } => {
            let (namespace, name) = key.split_once('/').unwrap_or_default();
            ObjectReference {
                namespace: Some(namespace.into()),
                ..of("v1", "Pod", name, Some(uid))
            }
        }
    }
}

async fn write(client: Client, mut queue: mpsc::Receiver<Event>) {
    let mut told = false;
    while let Some(event) = queue.recv().await {
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api = Api::<Event>::namespaced(client.clone(), &namespace);
        match tokio::time::timeout(WRITE_TIMEOUT, api.create(&PostParams::default(), &event)).await {
            Ok(Ok(_)) => {}
            Ok(Err(kube::Error::Api(status))) if status.is_forbidden() && !told => {
                told = true;
                tracing::warn!(why = %status.message, "events are not written, a right is missing; not said again");
            }
            Ok(Err(error)) => tracing::debug!(%error, "event not written"),
            Err(_) => tracing::debug!("event not written in time"),
        }
    }
}
