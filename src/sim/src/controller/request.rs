//! What the controller may ask for, and what it may hear.

use std::fmt;

use k8s_openapi::api::core::v1::Node;
use plimsoll_api::nodeclaim::NodeClaim;
use plimsoll_lifecycle::Effect;
use plimsoll_provider::{Listing, Machine, ProviderError, Termination};
use plimsoll_state::Pod;
use serde_json::Value;

/// One call.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Effect(Effect),
    /// The call to the eviction API that an [`Effect::Evict`] leads to.
    Evict(Effect),
    PatchPool {
        name: String,
        patch: Value,
        status: bool,
    },
    /// A consistent list of all claims.
    ListClaims,
    /// A consistent list of the pods on a node, to confirm that it is empty or drained.
    LookAt {
        node: String,
    },
    ListMachines,
    /// Ends a machine that no claim stands for.
    EndMachine {
        provider_id: String,
    },
}

/// What comes back.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Done,
    Created(Box<NodeClaim>),
    /// As it is after a write.
    Claim(Box<NodeClaim>),
    Node(Box<Node>),
    Launched(Result<Machine, ProviderError>),
    Terminated(Termination),
    Machines(Listing),
    Claims(Vec<NodeClaim>),
    Pods(Vec<Pod>),
    Failed(Failure),
}

/// Why a call failed, as far as the caller has to tell failures apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Conflict,
    NotFound,
    /// A budget has no room.
    TooManyRequests,
    /// A time-out or a server error: it may have been performed.
    Unclear,
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
        use Effect::{OpenNode, PatchClaim, PatchClaimStatus, PatchNode, StopEvicting};
        matches!(self, Self::PatchPool { .. })
            || matches!(
                self,
                Self::Effect(
                    PatchClaim { .. }
                        | PatchClaimStatus { .. }
                        | PatchNode { .. }
                        | StopEvicting { .. }
                        | OpenNode { .. }
                )
            )
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |claim: &NodeClaim| claim.metadata.name.clone().unwrap_or_default();
        match self {
            Self::Effect(effect) | Self::Evict(effect) => match effect {
                Effect::CreateClaim(claim) => write!(f, "create claim {:?}", claim.spec.resources.requests),
                Effect::PatchClaim { name, patch } => write!(f, "patch claim {name} {patch}"),
                Effect::PatchClaimStatus { name, patch } => {
                    write!(f, "patch claim status {name} {}", Brief(patch))
                }
                Effect::DeleteClaim { name, reason, .. } => write!(f, "delete claim {name}: {reason}"),
                Effect::Launch(claim) => write!(f, "launch {}", name(claim)),
                Effect::Terminate { claim, .. } => write!(f, "terminate {}", name(claim)),
                Effect::Probe(claim) => write!(f, "probe {}", name(claim)),
                Effect::ConfirmDrained(claim) => write!(f, "look at the node of {}", name(claim)),
                Effect::PatchNode { name, patch } => write!(f, "patch node {name} {patch}"),
                Effect::StopEvicting { name, .. } => write!(f, "stop evicting from node {name}"),
                Effect::OpenNode { name, .. } => write!(f, "open node {name}"),
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
        let Some(conditions) = self.0["status"]["conditions"].as_array() else {
            return write!(f, "{}", self.0);
        };
        write!(f, "at {}:", self.0["metadata"]["resourceVersion"])?;
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        conditions
            .iter()
            .try_for_each(|c| write!(f, " {}={}", word(&c["type"]), word(&c["status"])))
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => write!(f, "done"),
            Self::Created(claim) => write!(
                f,
                "created {}",
                claim.metadata.name.as_deref().unwrap_or_default()
            ),
            Self::Claim(claim) => write!(f, "at {:?}", claim.metadata.resource_version),
            Self::Node(node) => write!(f, "at {:?}", node.metadata.resource_version),
            Self::Launched(Ok(machine)) => write!(f, "launched {}", machine.provider_id),
            Self::Launched(Err(error)) => write!(f, "not launched: {error}"),
            Self::Terminated(termination) => write!(f, "termination {termination:?}"),
            Self::Machines(listing) => write!(f, "{} machines", listing.machines.len()),
            Self::Claims(claims) => write!(f, "{} claims", claims.len()),
            Self::Pods(pods) => write!(f, "{} pods", pods.len()),
            Self::Failed(failure) => write!(f, "failed: {failure:?}"),
        }
    }
}
