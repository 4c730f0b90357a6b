//! A NodeClaim on its way out: drain, detach, terminate, let go.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use plimsoll_api::{conditions, labels, nodeclaim::NodeClaim, taints};
use plimsoll_provider::Termination;
use plimsoll_state::{
    NodeView,
    node::{has_label, has_taint, is_ready},
    pod::PodState,
};
use serde_json::{Map, Value, json};

use crate::{
    claim::{edit, event, has_finalizer, locked, name, node_name, push_status},
    drain,
    effect::{Effect, EventType, Pass},
};

/// How often the provider is asked whether the machine is gone (upstream's interval).
const TERMINATION_POLL: Duration = Duration::from_secs(5);

/// Should a confirmed drain not have been written down, it is confirmed again after this long.
const CONFIRM_POLL: Duration = Duration::from_secs(1);

/// One step of a claim that is being deleted.
pub(crate) fn finalize(view: &NodeView, now: Timestamp, pass: &mut Pass) {
    let claim = &view.claim;
    if !has_finalizer(claim) {
        return;
    }
    let deadline = match deadline(claim) {
        Deadline::None => None,
        Deadline::At(at) => Some(at),
        Deadline::Unwritten(at) => {
            let annotations = json!({ "annotations": { labels::TERMINATION_TIMESTAMP: at.to_string() } });
            pass.effects.push(Effect::PatchClaim {
                name: name(claim),
                patch: locked(claim, annotations),
            });
            return;
        }
        Deadline::Unreadable(text) => {
            let note = format!(
                "annotation {} is {text:?}, not an RFC 3339 time; the drain is not bounded until it is corrected",
                labels::TERMINATION_TIMESTAMP
            );
            pass.effects.push(event(
                claim,
                EventType::Warning,
                "TerminationGracePeriodExpiring",
                note,
            ));
            None
        }
    };

    let mut status = claim.status.clone().unwrap_or_default();
    let registered = conditions::is_true(&status.conditions, conditions::REGISTERED);
    // A node is opened before its claim says so: it may have pods.
    let opened = |node: &&Arc<Node>| registered || has_label(node, labels::REGISTERED);
    if let Some(node) = view.nodes.first().filter(opened) {
        if let Some(patch) = close_patch(node) {
            pass.effects.push(Effect::PatchNode {
                name: node_name(node),
                patch,
            });
            // Pods are looked at once the node is closed, or one bound meanwhile would be missed.
            pass.again_in(Duration::from_secs(1));
            return;
        }
        if node.metadata.deletion_timestamp.is_none() {
            let uid = node.metadata.uid.clone().unwrap_or_default();
            pass.effects.push(Effect::DeleteNode {
                name: node_name(node),
                uid,
            });
        }
        if !is_ready(node) {
            // Nobody may be left to stop the pods; if the machine is gone there is nothing to drain.
            pass.effects.push(Effect::Probe(claim.clone()));
        }
        let mut set = edit(claim, &mut status, now);
        if !set.is_true(conditions::DRAINED) {
            if drain::step(view, node, deadline, now, pass) == drain::Progress::Draining {
                set.set_unknown(conditions::DRAINED, "Draining", "Draining");
                push_status(claim, &status, pass);
            } else {
                // The index may be behind: only the API server knows whether a pod was bound meanwhile.
                pass.effects.push(Effect::ConfirmDrained(claim.clone()));
                pass.again_in(CONFIRM_POLL);
            }
            return;
        }
        if !set.is_true(conditions::VOLUMES_DETACHED) {
            let expired = deadline.is_some_and(|at| now >= at);
            if view.attachments.is_empty() {
                set.set_true(conditions::VOLUMES_DETACHED);
            } else if expired {
                let message = "the termination grace period has elapsed";
                set.set_false(
                    conditions::VOLUMES_DETACHED,
                    "TerminationGracePeriodElapsed",
                    message,
                );
            } else {
                let message = format!(
                    "waiting for {} volume attachment(s) to go",
                    view.attachments.len()
                );
                set.set_unknown(conditions::VOLUMES_DETACHED, "AwaitingVolumeDetachment", &message);
                pass.again_in(TERMINATION_POLL);
                push_status(claim, &status, pass);
                return;
            }
        }
    }
    push_status(claim, &status, pass);
    pass.effects.push(Effect::Terminate {
        claim: claim.clone(),
        provider_id: claim.status.as_ref().and_then(|s| s.provider_id.clone()),
    });
    pass.again_in(TERMINATION_POLL);
}

/// What follows from the pods that the API server lists on the node once its drain looks finished: the drain
/// goes on with them, or it is over.
pub fn drained(view: &NodeView, pods: Vec<PodState>, now: Timestamp) -> Vec<Effect> {
    let claim = &view.claim;
    let mut pass = Pass::default();
    let Some(node) = view.nodes.first() else {
        return pass.effects;
    };
    let deadline = match deadline(claim) {
        Deadline::At(at) => Some(at),
        Deadline::None | Deadline::Unwritten(_) | Deadline::Unreadable(_) => None,
    };
    let seen = NodeView {
        pods: pods.into_iter().map(Arc::new).collect(),
        ..view.clone()
    };
    let mut status = claim.status.clone().unwrap_or_default();
    let mut set = edit(claim, &mut status, now);
    match drain::step(&seen, node, deadline, now, &mut pass) {
        drain::Progress::Draining => set.set_unknown(conditions::DRAINED, "Draining", "Draining"),
        drain::Progress::Done => set.set_true(conditions::DRAINED),
    };
    push_status(claim, &status, &mut pass);
    pass.effects
}

/// What follows from the provider's answer to [`Effect::Terminate`] or [`Effect::Probe`].
pub fn terminated(view: &NodeView, answer: Termination, now: Timestamp) -> Vec<Effect> {
    let claim = &view.claim;
    let mut pass = Pass::default();
    match answer {
        Termination::Started => {
            let mut status = claim.status.clone().unwrap_or_default();
            edit(claim, &mut status, now).set_true(conditions::INSTANCE_TERMINATING);
            if claim.status.as_ref() != Some(&status) {
                // The pass that asked for the termination may just have written this status.
                pass.effects.push(Effect::PatchClaimStatus {
                    name: name(claim),
                    patch: json!({ "status": status }),
                });
            }
        }
        Termination::Gone => {
            pass.effects
                .extend(view.nodes.iter().filter_map(|node| release_node(node)));
            let left: Vec<&String> = claim
                .metadata
                .finalizers
                .iter()
                .flatten()
                .filter(|f| *f != labels::TERMINATION_FINALIZER)
                .collect();
            // A list is replaced whole: somebody else's new entry must not be lost.
            pass.effects.push(Effect::PatchClaim {
                name: name(claim),
                patch: locked(claim, json!({ "finalizers": left })),
            });
        }
    }
    pass.effects
}

/// Takes our finalizer off a Node. None when it is not there.
pub fn release_node(node: &Node) -> Option<Effect> {
    let finalizers = node.metadata.finalizers.as_ref()?;
    let left: Vec<&String> = finalizers
        .iter()
        .filter(|f| *f != labels::TERMINATION_FINALIZER)
        .collect();
    (left.len() < finalizers.len()).then(|| Effect::PatchNode {
        name: node_name(node),
        patch: json!({ "metadata": { "finalizers": left, "resourceVersion": node.metadata.resource_version } }),
    })
}

enum Deadline {
    None,
    At(Timestamp),
    /// Follows from terminationGracePeriod and is not on the object yet.
    Unwritten(Timestamp),
    Unreadable(String),
}

fn deadline(claim: &NodeClaim) -> Deadline {
    let annotation = claim
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(labels::TERMINATION_TIMESTAMP));
    if let Some(text) = annotation {
        return text
            .parse()
            .map_or_else(|_| Deadline::Unreadable(text.clone()), Deadline::At);
    }
    let grace = claim
        .spec
        .termination_grace_period
        .as_ref()
        .map(plimsoll_api::duration::GoDuration::as_duration);
    let deleted = claim.metadata.deletion_timestamp.as_ref().map(|t| t.0);
    match (grace, deleted) {
        (Some(grace), Some(deleted)) => deleted
            .checked_add(grace)
            .map_or(Deadline::None, Deadline::Unwritten),
        _ => Deadline::None,
    }
}

/// Keeps new pods and load balancers away from the node. None when that is done.
fn close_patch(node: &Node) -> Option<Value> {
    let mut metadata = Map::new();
    let node_labels = node.metadata.labels.as_ref();
    if node_labels
        .and_then(|l| l.get(labels::EXCLUDE_FROM_EXTERNAL_LB))
        .is_none()
    {
        metadata.insert(
            "labels".into(),
            json!({ labels::EXCLUDE_FROM_EXTERNAL_LB: "karpenter" }),
        );
    }
    let mut patch = Map::new();
    if !has_taint(node, taints::DISRUPTED) {
        patch.insert("spec".into(), json!({ "taints": with_disrupted(node) }));
    }
    if metadata.is_empty() && patch.is_empty() {
        return None;
    }
    metadata.insert("resourceVersion".into(), json!(node.metadata.resource_version));
    patch.insert("metadata".into(), Value::Object(metadata));
    Some(Value::Object(patch))
}

pub(crate) fn with_disrupted(node: &Node) -> Vec<k8s_openapi::api::core::v1::Taint> {
    let mut all = node
        .spec
        .as_ref()
        .and_then(|s| s.taints.clone())
        .unwrap_or_default();
    if !has_taint(node, taints::DISRUPTED) {
        all.push(taints::disrupted());
    }
    all
}
