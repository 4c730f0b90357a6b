//! The steps by which a removal from a plan becomes a deleted claim, or does not.
//!
//! A plan is old by the time it is acted upon. So the node is closed first, then looked at again: what is
//! seen then cannot change any more in a way that matters.

use k8s_openapi::api::core::v1::Node;
use plimsoll_api::{nodeclaim::NodeClaim, taints};
use plimsoll_state::{NodeView, pod::PodState};
use serde_json::json;

use crate::{
    claim::{delete, event, node_name},
    effect::{Effect, EventType},
};

/// Closes the node of a removal. None when the machine is not what the plan saw: it has no single Node, it
/// is already leaving, or a pod was promised a place on it.
pub fn close(view: &NodeView) -> Option<Effect> {
    let node = view.node()?;
    let leaving =
        view.claim.metadata.deletion_timestamp.is_some() || node.metadata.deletion_timestamp.is_some();
    if leaving || view.awaited || !owns(&view.claim, node) {
        return None;
    }
    Some(Effect::PatchNode {
        name: node_name(node),
        patch: json!({
            "metadata": { "resourceVersion": node.metadata.resource_version },
            "spec": { "taints": crate::termination::with_disrupted(node) },
        }),
    })
}

/// Decides a removal for emptiness once the node is closed, from the pods the API server lists on it then.
/// Deletes the claim, or opens the node again when a pod came in between.
pub fn confirm_empty<'a>(
    claim: &NodeClaim,
    node: &Node,
    pods: impl IntoIterator<Item = &'a PodState>,
) -> Vec<Effect> {
    let busy = pods.into_iter().find(|p| p.is_reschedulable());
    match busy {
        None => vec![
            event(
                claim,
                EventType::Normal,
                "DisruptionTerminating",
                "Disrupting NodeClaim: Empty".into(),
            ),
            delete(claim, "empty"),
        ],
        Some(pod) => {
            let note = format!("pod {} was bound to the node while it was being closed", pod.key);
            vec![
                event(claim, EventType::Normal, "DisruptionBlocked", note),
                reopen(node),
            ]
        }
    }
}

/// Takes the disruption taint off a node that will stay: after a change of mind, or after a crash between
/// closing and deciding.
pub fn reopen(node: &Node) -> Effect {
    let left: Vec<_> = node
        .spec
        .iter()
        .flat_map(|s| s.taints.iter().flatten())
        .filter(|t| t.key != taints::DISRUPTED)
        .collect();
    Effect::PatchNode {
        name: node_name(node),
        patch: json!({
            "metadata": { "resourceVersion": node.metadata.resource_version },
            "spec": { "taints": left },
        }),
    }
}

/// Name and provider id agree: this Node is the claim's machine.
fn owns(claim: &NodeClaim, node: &Node) -> bool {
    let Some(status) = &claim.status else { return false };
    let node_provider_id = node.spec.as_ref().and_then(|s| s.provider_id.as_ref());
    status.provider_id.is_some()
        && status.provider_id.as_ref() == node_provider_id
        && status.node_name == node.metadata.name
}
