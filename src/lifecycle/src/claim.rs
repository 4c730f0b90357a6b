//! A NodeClaim from order to service: launch, registration, initialization, and its time-outs.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Node, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
};
use plimsoll_api::{
    conditions::{self, ConditionSet},
    labels,
    nodeclaim::{NodeClaim, NodeClaimStatus},
    taints,
};
use plimsoll_provider::{Drift, Machine, ProviderError};
use plimsoll_state::{
    NodeView,
    node::{accepts_pods, has_label, has_taint, is_ready, ready_since, taint_position},
};
use serde_json::{Map, Value, json};

use crate::{
    drift,
    effect::{Effect, EventType, Pass, Subject},
    termination,
};

/// No launch within this time: the claim is given up (upstream's launch timeout).
const LAUNCH_TIMEOUT: Duration = Duration::from_mins(5);
/// No node within this time: the claim is given up (upstream's registration timeout).
const REGISTRATION_TIMEOUT: Duration = Duration::from_mins(15);
/// How long a registered node is kept closed so that its planned pods can be nominated right before it
/// opens. Bounded, because a network plugin might need it open in order to become ready.
const OPENING_WINDOW: Duration = Duration::from_secs(15);
/// Machines of one plan open together while they keep becoming ready with pauses no longer than this: every opening
/// makes kube-scheduler try all waiting pods, and those whose own machine is still closed are tried in vain, or take
/// the place of others. (The times are whole seconds.)
const PEERS_PAUSE: Duration = Duration::from_secs(5);
/// The longest a ready node waits for the others of its plan.
const PEERS_WINDOW: Duration = Duration::from_secs(10);
/// Upstream's minimum gap between two writes of `status.lastPodEventTime`.
const POD_EVENT_GAP: Duration = Duration::from_secs(10);
/// Condition messages are cut here, as upstream's are.
const MESSAGE_CHARS_MAX: usize = 300;

/// Reason of a Registered condition that waits for nominations to make sense.
const AWAITING_READINESS: &str = "AwaitingNodeReadiness";

/// What the user decided that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Pods are told where they are planned, by `nominatedNodeName`.
    pub nominate: bool,
}

/// What a claim's pool says about it today.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pool {
    /// None: never, or there is no such pool.
    pub consolidate_after: Option<Duration>,
    /// As [`drift::judge`] found.
    pub drift: Drift,
}

/// One step for one claim at `now`.
pub fn reconcile(view: &NodeView, pool: Pool, settings: Settings, now: Timestamp) -> Pass {
    let claim = &view.claim;
    let mut pass = Pass::default();
    if claim.metadata.deletion_timestamp.is_some() {
        termination::finalize(view, now, &mut pass);
        return pass;
    }
    if !has_finalizer(claim) {
        let mut finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
        finalizers.push(labels::TERMINATION_FINALIZER.into());
        pass.effects.push(Effect::PatchClaim {
            name: name(claim),
            patch: locked(claim, json!({ "finalizers": finalizers })),
        });
        return pass;
    }
    if let Some(node) = view.node()
        && node.metadata.deletion_timestamp.is_some()
    {
        // Someone deleted the Node: the machine goes with it.
        pass.effects.push(delete(claim, "node_deleted"));
        return pass;
    }
    if let Some(left) = lifetime_left(claim, now) {
        if left.is_zero() {
            pass.effects.push(delete(claim, "expired"));
            return pass;
        }
        pass.again_in(left);
    }

    let mut status = claim.status.clone().unwrap_or_default();
    let launched = conditions::is_true(&status.conditions, conditions::LAUNCHED);
    if launched {
        register(view, settings, now, &mut status, &mut pass);
        initialize(view, now, &mut status, &mut pass);
        renew_nominations(view, settings, &mut pass);
        settle(view, pool.consolidate_after, now, &mut status, &mut pass);
        drift::mark(pool.drift, &mut edit(claim, &mut status, now));
        push_status(claim, &status, &mut pass);
        give_up(
            claim,
            &status,
            conditions::REGISTERED,
            REGISTRATION_TIMEOUT,
            "registration_timeout",
            now,
            &mut pass,
        );
    } else {
        edit(claim, &mut status, now);
        push_status(claim, &status, &mut pass);
        if !give_up(
            claim,
            &status,
            conditions::LAUNCHED,
            LAUNCH_TIMEOUT,
            "launch_timeout",
            now,
            &mut pass,
        ) {
            pass.effects.push(Effect::Launch(claim.clone()));
        }
    }
    pass
}

/// What follows from the provider's answer to [`Effect::Launch`].
pub fn launched(claim: &NodeClaim, answer: &Result<Machine, ProviderError>, now: Timestamp) -> Vec<Effect> {
    let mut pass = Pass::default();
    match answer {
        Ok(machine) => {
            // Labels the claim already carries win over what the provider says.
            let known = claim.metadata.labels.clone().unwrap_or_default();
            let new: Map<String, Value> = machine
                .labels
                .iter()
                .filter(|(key, _)| !known.contains_key(*key))
                .map(|(key, value)| (key.clone(), json!(value)))
                .collect();
            if !new.is_empty() || !machine.annotations.is_empty() {
                pass.effects.push(Effect::PatchClaim {
                    name: name(claim),
                    patch: json!({ "metadata": { "labels": new, "annotations": machine.annotations } }),
                });
            }
            let mut status = claim.status.clone().unwrap_or_default();
            status.provider_id = Some(machine.provider_id.clone());
            status.image_id.clone_from(&machine.image_id);
            status.capacity.clone_from(&machine.capacity);
            status.allocatable.clone_from(&machine.allocatable);
            edit(claim, &mut status, now).set_true(conditions::LAUNCHED);
            // The label patch may have moved the resourceVersion on; nothing else writes this status.
            pass.effects.push(Effect::PatchClaimStatus {
                name: name(claim),
                patch: json!({ "status": status }),
            });
        }
        Err(error @ (ProviderError::InsufficientCapacity(_) | ProviderError::NodeClassNotReady(_))) => {
            let (reason, metric) = match error {
                ProviderError::InsufficientCapacity(_) => {
                    ("InsufficientCapacityError", "insufficient_capacity")
                }
                _ => ("NodeClassNotReady", "nodeclass_not_ready"),
            };
            pass.effects
                .push(event(claim, EventType::Warning, reason, error.to_string()));
            pass.effects.push(delete(claim, metric));
        }
        Err(error) => {
            let mut status = claim.status.clone().unwrap_or_default();
            let message: String = error.to_string().chars().take(MESSAGE_CHARS_MAX).collect();
            edit(claim, &mut status, now).set_unknown(conditions::LAUNCHED, error.category(), &message);
            push_status(claim, &status, &mut pass);
        }
    }
    pass.effects
}

/// Brings the Node in step with the claim and opens it for pods.
fn register(
    view: &NodeView,
    settings: Settings,
    now: Timestamp,
    status: &mut NodeClaimStatus,
    pass: &mut Pass,
) {
    let claim = &view.claim;
    let mut set = edit(claim, status, now);
    if set.is_true(conditions::REGISTERED) {
        return;
    }
    let node = match view.nodes.as_slice() {
        [] => {
            set.set_unknown(
                conditions::REGISTERED,
                "NodeNotFound",
                "Node not registered with cluster",
            );
            return;
        }
        [node] => node,
        _ => {
            let message = "Invariant violated, matched multiple nodes for the provider id of the claim";
            set.set_false(conditions::REGISTERED, "MultipleNodesFound", message);
            return;
        }
    };
    let closed = has_taint(node, taints::UNREGISTERED);
    if !closed && !has_label(node, labels::REGISTERED) {
        let note =
            "the node joined without the karpenter.sh/unregistered taint; fix its startup configuration";
        pass.effects.push(event(
            claim,
            EventType::Warning,
            "UnregisteredTaintMissing",
            note.into(),
        ));
        set.set_unknown(conditions::REGISTERED, "UnregisteredTaintNotFound", note);
        return;
    }

    let waited = node
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(Duration::ZERO, |t| since(t.0, now));
    let can_nominate = settings.nominate && !view.promised.is_empty();
    let late = waited >= OPENING_WINDOW;
    let peers_wait = if can_nominate && closed {
        wait_for_peers(view, node, now)
    } else {
        None
    };
    let ready = !can_nominate || !closed || (accepts_pods(node) && peers_wait.is_none()) || late;
    let catching_up = node_patch(claim, node);
    let in_step = catching_up.is_none() || late;
    pass.effects.extend(catching_up);
    if ready && in_step {
        // Not sooner: Karpenter, should it take over meanwhile, knows the taint only as it is while it evicts.
        if let Some(taint) = evicting_taint(node) {
            pass.effects.push(Effect::StopEvicting {
                name: node_name(node),
                uid: node.metadata.uid.clone().unwrap_or_default(),
                taint,
            });
        }
        if can_nominate {
            nominate(view, node, false, pass);
        }
        if let Some(taint) = taint_position(node, taints::UNREGISTERED) {
            pass.effects.push(Effect::OpenNode {
                name: node_name(node),
                uid: node.metadata.uid.clone().unwrap_or_default(),
                taint,
            });
        }
        // Should it be there with several effects, the next pass takes the next one off.
        if count_taints(node, taints::UNREGISTERED) <= 1 {
            set.set_true(conditions::REGISTERED);
            status.node_name.clone_from(&node.metadata.name);
        }
        return;
    }
    set.set_unknown(
        conditions::REGISTERED,
        AWAITING_READINESS,
        "Node is kept closed until it, and the machines bought with it, are ready for their pods",
    );
    if !late {
        pass.again_in(OPENING_WINDOW.saturating_sub(waited));
    }
    if let Some(wait) = peers_wait {
        pass.again_in(wait);
    }
}

/// Where our taint is, while it still evicts. Beside one that does not evict it may stay until it is taken off.
fn evicting_taint(node: &Node) -> Option<usize> {
    let at = taint_position(node, taints::UNREGISTERED)?;
    let evicts = node.spec.as_ref()?.taints.as_ref()?[at].effect == taints::unregistered().effect;
    (evicts && count_taints(node, taints::UNREGISTERED) == 1).then_some(at)
}

/// How long a ready node may still wait for other machines of its plan; None: no longer.
fn wait_for_peers(view: &NodeView, node: &Node, now: Timestamp) -> Option<Duration> {
    if !view.peers.joining {
        return None;
    }
    let own = ready_since(node)?;
    let latest = view.peers.last_ready.map_or(own, |other| other.max(own));
    let pause = PEERS_PAUSE.saturating_sub(since(latest, now));
    let window = PEERS_WINDOW.saturating_sub(since(own, now));
    Some(pause.min(window)).filter(|wait| !wait.is_zero())
}

/// A node is in service once it is ready, has lost its start-up taints and shows what was asked for.
fn initialize(view: &NodeView, now: Timestamp, status: &mut NodeClaimStatus, pass: &mut Pass) {
    let claim = &view.claim;
    let mut set = edit(claim, status, now);
    if set.is_true(conditions::INITIALIZED) || !set.is_true(conditions::REGISTERED) {
        return;
    }
    let Some(node) = view.node() else {
        set.set_unknown(
            conditions::INITIALIZED,
            "NodeNotFound",
            "Node not registered with cluster",
        );
        return;
    };
    let node_taints = node
        .spec
        .as_ref()
        .and_then(|s| s.taints.as_deref())
        .unwrap_or_default();
    let startup = claim.spec.startup_taints.iter().flatten();
    let unmet = if !is_ready(node) {
        Some(("NodeNotReady", "Node status is NotReady".to_owned()))
    } else if let Some(taint) = startup
        .into_iter()
        .find(|s| node_taints.iter().any(|t| same_taint(t, s)))
    {
        Some((
            "StartupTaintsExist",
            format!("StartupTaint {:?} still exists", taint_text(taint)),
        ))
    } else if let Some(taint) = node_taints.iter().find(|t| taints::is_ephemeral(t)) {
        Some((
            "KnownEphemeralTaintsExist",
            format!("KnownEphemeralTaint {:?} still exists", taint_text(taint)),
        ))
    } else {
        missing_resource(claim, node).map(|resource| {
            (
                "ResourceNotRegistered",
                format!("Resource {resource:?} was requested but not registered"),
            )
        })
    };
    if let Some((reason, message)) = unmet {
        set.set_unknown(conditions::INITIALIZED, reason, &message);
        return;
    }
    if !has_label(node, labels::INITIALIZED) {
        let patch = json!({ "metadata": { "labels": { labels::INITIALIZED: "true" } } });
        pass.effects.push(Effect::PatchNode {
            name: node_name(node),
            patch,
        });
    }
    set.set_true(conditions::INITIALIZED);
}

/// Keeps what consolidation looks at: the last pod event and whether the node has been quiet long enough.
fn settle(
    view: &NodeView,
    consolidate_after: Option<Duration>,
    now: Timestamp,
    status: &mut NodeClaimStatus,
    pass: &mut Pass,
) {
    if let Some(event) = view.last_pod_event {
        let written = status.last_pod_event_time.as_ref().map(|t| t.0);
        let gap = written.map_or(POD_EVENT_GAP, |at| since(at, event));
        if gap >= POD_EVENT_GAP {
            // The API keeps whole seconds; rounding up never shortens the quiet time.
            status.last_pod_event_time = Some(Time(whole_second_after(event)));
        } else if written.is_some_and(|at| event > at) {
            pass.again_in(POD_EVENT_GAP.saturating_sub(gap));
        }
    }
    let last_event = status
        .last_pod_event_time
        .as_ref()
        .map(|t| t.0)
        .max(view.last_pod_event);
    let initialized_at = conditions::find(&status.conditions, conditions::INITIALIZED)
        .filter(|c| c.status == "True")
        .map(|c| c.last_transition_time.0);
    let quiet_since = initialized_at.map(|at| last_event.map_or(at, |event| event.max(at)));
    let mut set = edit(&view.claim, status, now);
    match (consolidate_after, quiet_since) {
        (Some(after), Some(quiet)) if since(quiet, now) >= after => {
            set.set_true(conditions::CONSOLIDATABLE);
        }
        (Some(after), Some(quiet)) => {
            pass.again_in(after - since(quiet, now));
            set.clear(conditions::CONSOLIDATABLE);
        }
        _ => {
            set.clear(conditions::CONSOLIDATABLE);
        }
    }
}

/// Deletes a claim whose condition has been waiting too long. True when it did.
fn give_up(
    claim: &NodeClaim,
    status: &NodeClaimStatus,
    condition: &'static str,
    limit: Duration,
    reason: &'static str,
    now: Timestamp,
    pass: &mut Pass,
) -> bool {
    let Some(waiting) = conditions::find(&status.conditions, condition).filter(|c| c.status != "True") else {
        return false;
    };
    let waited = since(waiting.last_transition_time.0, now);
    if waited >= limit {
        pass.effects.push(delete(claim, reason));
        return true;
    }
    pass.again_in(limit - waited);
    false
}

/// Nominates again what a failed scheduling attempt has cleared, as long as the promise stands.
fn renew_nominations(view: &NodeView, settings: Settings, pass: &mut Pass) {
    let status = view.claim.status.as_ref();
    let has = |condition| status.is_some_and(|s| conditions::is_true(&s.conditions, condition));
    if let Some(node) = view.node()
        && settings.nominate
        && has(conditions::REGISTERED)
        && !has_taint(node, taints::UNREGISTERED)
    {
        // Until the node is in service, what keeps its pods away is on the node, and its going makes kube-scheduler
        // look again.
        nominate(view, node, has(conditions::INITIALIZED), pass);
    }
}

fn nominate(view: &NodeView, node: &Node, look_again: bool, pass: &mut Pass) {
    let target = node_name(node);
    for pod in &view.promised {
        if pod.nominated_node.as_deref() != Some(&target) {
            pass.effects.push(Effect::Nominate {
                pod: pod.key.clone(),
                uid: pod.uid.clone(),
                node: target.clone(),
                look_again,
            });
        }
    }
}

/// Brings labels, annotations, taints, finalizer and owner of the Node to what the claim wants. None: in step.
fn node_patch(claim: &NodeClaim, node: &Node) -> Option<Effect> {
    let mut metadata = Map::new();
    let wanted_labels = claim.metadata.labels.clone().unwrap_or_default();
    let wanted_annotations = claim.metadata.annotations.clone().unwrap_or_default();
    for (field, wanted, has) in [
        ("labels", wanted_labels, &node.metadata.labels),
        ("annotations", wanted_annotations, &node.metadata.annotations),
    ] {
        let missing: Map<String, Value> = wanted
            .into_iter()
            .filter(|(key, value)| has.as_ref().and_then(|h| h.get(key)) != Some(value))
            .map(|(key, value)| (key, json!(value)))
            .collect();
        if !missing.is_empty() {
            metadata.insert(field.into(), Value::Object(missing));
        }
    }
    let finalizers = node.metadata.finalizers.as_deref().unwrap_or_default();
    if !finalizers.iter().any(|f| f == labels::TERMINATION_FINALIZER) {
        let all: Vec<&str> = finalizers
            .iter()
            .map(String::as_str)
            .chain([labels::TERMINATION_FINALIZER])
            .collect();
        metadata.insert("finalizers".into(), json!(all));
    }
    let owners = node.metadata.owner_references.as_deref().unwrap_or_default();
    let first = !owners.iter().any(|o| o.kind == "NodeClaim");
    if first {
        let owner = json!({
            "apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "name": name(claim),
            "uid": claim.metadata.uid, "blockOwnerDeletion": true,
        });
        let all: Vec<Value> = owners.iter().map(|o| json!(o)).chain([owner]).collect();
        metadata.insert("ownerReferences".into(), json!(all));
    }

    let has: Vec<Taint> = node
        .spec
        .as_ref()
        .and_then(|s| s.taints.clone())
        .unwrap_or_default();
    let mut wanted = has.clone();
    // Once only: an agent may have taken its start-up taint off a node that is still closed.
    if first && !has_label(node, labels::DO_NOT_SYNC_TAINTS) && !has_label(node, labels::REGISTERED) {
        for taint in claim
            .spec
            .taints
            .iter()
            .flatten()
            .chain(claim.spec.startup_taints.iter().flatten())
        {
            if !wanted.iter().any(|t| same_taint(t, taint)) {
                wanted.push(taint.clone());
            }
        }
    }
    let mut patch = Map::new();
    if wanted != has {
        patch.insert("spec".into(), json!({ "taints": wanted }));
    }
    if metadata.is_empty() && patch.is_empty() {
        return None;
    }
    metadata.insert("resourceVersion".into(), json!(node.metadata.resource_version));
    patch.insert("metadata".into(), Value::Object(metadata));
    Some(Effect::PatchNode {
        name: node_name(node),
        patch: Value::Object(patch),
    })
}

fn missing_resource<'a>(claim: &'a NodeClaim, node: &Node) -> Option<&'a str> {
    let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    let present = |resource: &str| {
        let quantity = allocatable
            .and_then(|a| a.get(resource))
            .map(|q| q.0.as_str())
            .unwrap_or_default();
        plimsoll_core::resources::amount(resource, quantity).is_ok_and(|amount| amount > 0)
    };
    let asked = |resource: &str, quantity: &str| {
        plimsoll_core::resources::amount(resource, quantity).is_ok_and(|amount| amount > 0)
    };
    claim
        .spec
        .resources
        .requests
        .iter()
        .find(|(resource, quantity)| asked(resource, &quantity.0) && !present(resource))
        .map(|(resource, _)| resource.as_str())
}

/// Time until `expireAfter`, zero when it has passed, None when the claim never expires.
fn lifetime_left(claim: &NodeClaim, now: Timestamp) -> Option<Duration> {
    let limit = claim.spec.expire_after.as_duration()?;
    let created = claim.metadata.creation_timestamp.as_ref()?.0;
    Some(limit.saturating_sub(since(created, now)))
}

/// Non-negative time from `earlier` to `now`.
pub(crate) fn since(earlier: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(earlier)
        .max(SignedDuration::ZERO)
        .unsigned_abs()
}

fn whole_second_after(at: Timestamp) -> Timestamp {
    let up = i64::from(at.subsec_nanosecond() > 0);
    Timestamp::from_second(at.as_second() + up).unwrap_or(at)
}

pub(crate) fn edit<'a>(
    claim: &NodeClaim,
    status: &'a mut NodeClaimStatus,
    now: Timestamp,
) -> ConditionSet<'a> {
    let created = claim.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    let generation = claim.metadata.generation.unwrap_or(0);
    ConditionSet::new(
        &conditions::NODECLAIM,
        &mut status.conditions,
        generation,
        created,
        now,
    )
    .terminating(claim.metadata.deletion_timestamp.is_some())
}

/// Writes the status when it changed, under the version it was computed from.
pub(crate) fn push_status(claim: &NodeClaim, status: &NodeClaimStatus, pass: &mut Pass) {
    if claim.status.as_ref() != Some(status) {
        let version = &claim.metadata.resource_version;
        let patch = json!({ "metadata": { "resourceVersion": version }, "status": status });
        pass.effects.push(Effect::PatchClaimStatus {
            name: name(claim),
            patch,
        });
    }
}

pub(crate) fn delete(claim: &NodeClaim, reason: &'static str) -> Effect {
    Effect::DeleteClaim {
        name: name(claim),
        uid: claim.metadata.uid.clone().unwrap_or_default(),
        reason,
    }
}

pub(crate) fn event(claim: &NodeClaim, type_: EventType, reason: &'static str, note: String) -> Effect {
    let uid = claim.metadata.uid.clone().unwrap_or_default();
    Effect::Event {
        subject: Subject::NodeClaim {
            name: name(claim),
            uid,
        },
        type_,
        reason,
        note,
    }
}

pub(crate) fn name(claim: &NodeClaim) -> String {
    claim.metadata.name.clone().unwrap_or_default()
}

pub(crate) fn node_name(node: &Node) -> String {
    node.metadata.name.clone().unwrap_or_default()
}

/// A metadata patch that fails when the claim has changed meanwhile.
pub(crate) fn locked(claim: &NodeClaim, mut metadata: Value) -> Value {
    metadata["resourceVersion"] = json!(claim.metadata.resource_version);
    json!({ "metadata": metadata })
}

pub(crate) fn has_finalizer(claim: &NodeClaim) -> bool {
    claim
        .metadata
        .finalizers
        .iter()
        .flatten()
        .any(|f| f == labels::TERMINATION_FINALIZER)
}

fn count_taints(node: &Node, key: &str) -> usize {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints.filter(|t| t.key == key).count()
}

fn same_taint(a: &Taint, b: &Taint) -> bool {
    a.key == b.key && a.effect == b.effect
}

fn taint_text(taint: &Taint) -> String {
    match taint.value.as_deref() {
        Some(value) if !value.is_empty() => format!("{}={value}:{}", taint.key, taint.effect),
        _ => format!("{}:{}", taint.key, taint.effect),
    }
}
