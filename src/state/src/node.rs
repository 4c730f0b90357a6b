//! What a Node says about itself.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use plimsoll_api::taints;

/// A Node whose kubelet says it is Ready.
pub fn is_ready(node: &Node) -> bool {
    ready_condition(node).is_some_and(|c| c.status == "True")
}

/// When its Ready condition last changed.
pub fn ready_since(node: &Node) -> Option<Timestamp> {
    Some(ready_condition(node)?.last_transition_time.as_ref()?.0)
}

fn ready_condition(node: &Node) -> Option<&NodeCondition> {
    let list = node.status.as_ref()?.conditions.as_ref()?;
    list.iter().find(|c| c.type_ == "Ready")
}

pub fn has_taint(node: &Node, key: &str) -> bool {
    taint_position(node, key).is_some()
}

/// Where a taint is in the Node's list.
pub fn taint_position(node: &Node, key: &str) -> Option<usize> {
    let taints = node.spec.as_ref()?.taints.as_ref()?;
    taints.iter().position(|t| t.key == key)
}

/// Ready, and nothing but our own taint keeps pods away for the time being.
pub fn accepts_pods(node: &Node) -> bool {
    let mut node_taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    is_ready(node) && node_taints.all(|t| t.key == taints::UNREGISTERED || !taints::is_ephemeral(t))
}

/// A label that is set to "true".
pub fn has_label(node: &Node, key: &str) -> bool {
    let value = node.metadata.labels.as_ref().and_then(|l| l.get(key));
    value.is_some_and(|v| v == "true")
}
