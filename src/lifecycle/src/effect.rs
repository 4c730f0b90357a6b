//! What a state machine wants done.

use std::{sync::Arc, time::Duration};

use plimsoll_api::nodeclaim::NodeClaim;
use serde_json::Value;

/// One call to the Kubernetes API or the cloud. Effects of a pass are performed in order; the first that
/// fails ends the pass, and the next pass starts from what the objects say then.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    CreateClaim(Box<NodeClaim>),
    /// JSON merge patch. Carries a resourceVersion wherever a list is replaced.
    PatchClaim {
        name: String,
        patch: Value,
    },
    /// JSON merge patch of the status subresource.
    PatchClaimStatus {
        name: String,
        patch: Value,
    },
    /// `reason` is the label value of `nodeclaims_disrupted_total`.
    DeleteClaim {
        name: String,
        uid: String,
        reason: &'static str,
    },
    /// Ask the provider for the machine; the answer goes to [`crate::launched`].
    Launch(Arc<NodeClaim>),
    /// End the machine of this claim. Without a provider id the provider is asked what it launched for it.
    Terminate {
        claim: Arc<NodeClaim>,
        provider_id: Option<String>,
    },
    /// Find out whether the machine still exists; if not, its termination is over.
    Probe(Arc<NodeClaim>),
    /// List the pods on the claim's node from the API server; the answer goes to [`crate::drained`].
    ConfirmDrained(Arc<NodeClaim>),
    PatchNode {
        name: String,
        patch: Value,
    },
    /// Make our taint one that only keeps pods away. kube-controller-manager hears of nodes and of pods through two
    /// watches: were a Node opened while its taint still evicts, a pod could be bound before the taint is known to be
    /// gone, and be deleted. What comes after this waits until that is known.
    StopEvicting {
        name: String,
        uid: String,
        /// Where the taint is in `spec.taints`.
        taint: usize,
    },
    /// Take our taint off a Node that is in step with its claim otherwise. Unlike [`Effect::PatchNode`] it cannot
    /// conflict with what others write: while its pods are nominated and it is closed, every scheduling attempt
    /// undoes a nomination.
    OpenNode {
        name: String,
        uid: String,
        /// Where the taint is in `spec.taints`.
        taint: usize,
    },
    DeleteNode {
        name: String,
        uid: String,
    },
    /// Tell kube-scheduler where the pod was planned.
    Nominate {
        pod: Arc<str>,
        uid: Arc<str>,
        node: String,
        /// The node is open already, so kube-scheduler may have given the pod up until something changes: make it
        /// look again.
        look_again: bool,
    },
    /// Through the eviction API, with the UID as precondition.
    Evict {
        pod: Arc<str>,
        uid: Arc<str>,
        node: String,
    },
    /// Past the node's deadline: budgets no longer count.
    DeletePod {
        pod: Arc<str>,
        uid: Arc<str>,
        grace: Duration,
    },
    Event {
        subject: Subject,
        type_: EventType,
        reason: &'static str,
        note: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    Normal,
    Warning,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    NodeClaim {
        name: String,
        uid: String,
    },
    NodePool {
        name: String,
        uid: String,
    },
    Node {
        name: String,
    },
    /// Key is `namespace/name`.
    Pod {
        key: Arc<str>,
        uid: Arc<str>,
    },
}

/// The outcome of one pass over one object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pass {
    pub effects: Vec<Effect>,
    /// Look again after this long even if nothing changes. None: only when something changes.
    pub again: Option<Duration>,
}

impl Pass {
    pub(crate) fn again_in(&mut self, delay: Duration) {
        self.again = Some(self.again.map_or(delay, |known| known.min(delay)));
    }
}
