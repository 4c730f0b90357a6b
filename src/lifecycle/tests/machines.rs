//! The state machines, one step at a time: objects in, effects out.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::unnecessary_wraps,
    reason = "the makers of test objects are tests too"
)]

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{core::v1::Node, storage::v1::VolumeAttachment};
use plimsoll_api::{conditions, nodeclaim::NodeClaim};
use plimsoll_lifecycle::{
    Effect, Pass, Pool, Settings, disruption, drained, garbage, launched, reconcile, terminated,
};
use plimsoll_provider::{Machine, ProviderError, Termination};
use plimsoll_state::{Index, NodeView, Observe, Pod, pod::PodState};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch,
    }
}

/// A claim of ours that has reached the given conditions, changed by a merge patch.
fn claim(reached: &[&str], patch: Value) -> NodeClaim {
    let conditions: Vec<Value> = reached
        .iter()
        .map(|type_| json!({ "type": type_, "status": "True", "reason": type_, "message": "", "lastTransitionTime": at(0).to_string() }))
        .collect();
    let mut claim = json!({
        "apiVersion": "karpenter.sh/v1", "kind": "NodeClaim",
        "metadata": {
            "name": "a", "uid": "uid-a", "resourceVersion": "1", "generation": 1, "creationTimestamp": at(0).to_string(),
            "labels": { "karpenter.sh/nodepool": "pool" }, "finalizers": ["karpenter.sh/termination"],
        },
        "spec": {
            "requirements": [], "resources": { "requests": { "cpu": "1", "example.com/gpu": "1" } },
            "expireAfter": "Never",
            "nodeClassRef": { "group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "default" },
        },
        "status": { "conditions": conditions },
    });
    if !reached.is_empty() {
        merge(
            &mut claim,
            json!({ "status": { "providerID": "test://a", "nodeName": "node-a" } }),
        );
    }
    merge(&mut claim, patch);
    object(claim)
}

const LAUNCHED: &[&str] = &["Launched"];
const IN_SERVICE: &[&str] = &["Launched", "Registered", "Initialized"];

/// The claim's node as its kubelet registers it: ready, and closed by our taint.
fn node(patch: Value) -> Node {
    let mut node = json!({
        "metadata": { "name": "node-a", "uid": "uid-node", "resourceVersion": "1", "creationTimestamp": at(0).to_string() },
        "spec": { "providerID": "test://a", "taints": [{ "key": "karpenter.sh/unregistered", "effect": "NoExecute" }] },
        "status": {
            "conditions": [{ "type": "Ready", "status": "True" }],
            "allocatable": { "cpu": "4", "memory": "8Gi", "example.com/gpu": "1" },
        },
    });
    merge(&mut node, patch);
    object(node)
}

/// The node of a machine in service: open, labelled, ours.
fn open_node(patch: Value) -> Node {
    let mut all = json!({
        "metadata": {
            "labels": { "karpenter.sh/registered": "true", "karpenter.sh/initialized": "true", "karpenter.sh/nodepool": "pool" },
            "finalizers": ["karpenter.sh/termination"],
            "ownerReferences": [{ "apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "name": "a", "uid": "uid-a" }],
        },
        "spec": { "taints": [] },
    });
    merge(&mut all, patch);
    node(all)
}

/// The node of a machine on its way out, closed and deleted.
fn leaving_node() -> Node {
    open_node(json!({
        "metadata": {
            "deletionTimestamp": at(0).to_string(),
            "labels": { "node.kubernetes.io/exclude-from-external-load-balancers": "karpenter" },
        },
        "spec": { "taints": [{ "key": "karpenter.sh/disrupted", "effect": "NoSchedule" }] },
    }))
}

fn deleted(patch: Value) -> NodeClaim {
    let mut all = json!({ "metadata": { "deletionTimestamp": at(0).to_string() } });
    merge(&mut all, patch);
    claim(IN_SERVICE, all)
}

fn pod(name: &str, patch: Value) -> Pod {
    let mut pod = json!({
        "metadata": { "name": name, "namespace": "default", "uid": format!("uid-{name}"),
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r" }] },
        "spec": { "nodeName": "node-a", "terminationGracePeriodSeconds": 30 },
        "status": { "phase": "Running" },
    });
    merge(&mut pod, patch);
    object(pod)
}

fn pending(name: &str) -> Pod {
    pod(
        name,
        json!({ "spec": { "nodeName": "" }, "status": { "phase": "Pending", "conditions": [
        { "type": "PodScheduled", "status": "False", "reason": "Unschedulable" },
    ] } }),
    )
}

fn index(
    claim: NodeClaim,
    nodes: impl IntoIterator<Item = Node>,
    pods: impl IntoIterator<Item = Pod>,
) -> Index {
    let mut index = Index::default();
    index.apply(claim, at(0));
    for node in nodes {
        index.apply(node, at(0));
    }
    for pod in pods {
        index.apply(pod, at(0));
    }
    index
}

fn view(index: &Index) -> NodeView {
    index.view("a").unwrap()
}

fn step(index: &Index, now: Timestamp) -> Pass {
    reconcile(&view(index), Pool::default(), Settings { nominate: true }, now)
}

/// Effects by name, with what tells them apart.
fn names(effects: &[Effect]) -> Vec<String> {
    effects
        .iter()
        .map(|effect| match effect {
            Effect::CreateClaim(_) => "create claim".into(),
            Effect::PatchClaim { patch, .. } => format!("patch claim {}", keys(&patch["metadata"])),
            Effect::PatchClaimStatus { .. } => "status".into(),
            Effect::DeleteClaim { reason, .. } => format!("delete claim {reason}"),
            Effect::Launch(_) => "launch".into(),
            Effect::Terminate { provider_id, .. } => {
                format!("terminate {}", provider_id.as_deref().unwrap_or("?"))
            }
            Effect::Probe(_) => "probe".into(),
            Effect::ConfirmDrained(_) => "confirm drained".into(),
            Effect::PatchNode { patch, .. } => {
                format!("patch node {} {}", keys(&patch["metadata"]), keys(&patch["spec"]))
            }
            Effect::StopEvicting { taint, .. } => format!("stop evicting, taint {taint}"),
            Effect::OpenNode { taint, .. } => format!("open node, taint {taint}"),
            Effect::DeleteNode { .. } => "delete node".into(),
            Effect::Nominate { pod, .. } => format!("nominate {pod}"),
            Effect::Evict { pod, .. } => format!("evict {pod}"),
            Effect::DeletePod { pod, grace, .. } => format!("delete {pod} {}", grace.as_secs()),
            Effect::Event { reason, .. } => format!("event {reason}"),
        })
        .collect()
}

fn keys(value: &Value) -> String {
    let map = value.as_object().cloned().unwrap_or_default();
    map.keys()
        .filter(|k| *k != "resourceVersion")
        .cloned()
        .collect::<Vec<_>>()
        .join(",")
}

/// (status, reason) of a condition in the status an effect writes.
fn written(effects: &[Effect], condition: &str) -> Option<(String, String)> {
    let status = effects.iter().find_map(|effect| match effect {
        Effect::PatchClaimStatus { patch, .. } => Some(&patch["status"]),
        _ => None,
    })?;
    let list = status["conditions"].as_array()?;
    let found = list.iter().find(|c| c["type"] == condition)?;
    Some((found["status"].as_str()?.into(), found["reason"].as_str()?.into()))
}

fn is(status: &str, reason: &str) -> Option<(String, String)> {
    Some((status.into(), reason.into()))
}

#[test]
fn a_claim_without_our_finalizer_gets_it_before_anything_is_bought() {
    let bare = claim(&[], json!({ "metadata": { "finalizers": ["someone/else"] } }));
    assert_eq!(
        names(&step(&index(bare, [], []), at(0)).effects),
        ["patch claim finalizers"]
    );
}

#[test]
fn a_new_claim_is_launched_and_given_up_after_five_minutes() {
    let new = index(claim(&[], json!({})), [], []);
    let pass = step(&new, at(1));
    assert_eq!(names(&pass.effects), ["status", "launch"]);
    assert_eq!(
        written(&pass.effects, "Launched"),
        is("Unknown", "AwaitingReconciliation")
    );
    assert_eq!(names(&step(&new, at(299)).effects), ["status", "launch"]);
    assert_eq!(
        names(&step(&new, at(300)).effects),
        ["status", "delete claim launch_timeout"]
    );
}

#[test]
fn the_clouds_answer_decides_what_becomes_of_the_claim() {
    let claim = claim(&[], json!({}));
    let machine = Machine {
        provider_id: "test://a".into(),
        image_id: None,
        annotations: [("class-hash".into(), "1".into())].into(),
        labels: [
            ("zone".into(), "b".into()),
            ("karpenter.sh/nodepool".into(), "other".into()),
        ]
        .into(),
        capacity: Default::default(),
        allocatable: Default::default(),
        claim: "a".into(),
        launched: at(0),
    };
    let effects = launched(&claim, &Ok(machine), at(0));
    assert_eq!(names(&effects), ["patch claim annotations,labels", "status"]);
    assert_eq!(written(&effects, "Launched"), is("True", "Launched"));
    let Effect::PatchClaim { patch, .. } = &effects[0] else {
        panic!()
    };
    assert_eq!(patch["metadata"]["annotations"], json!({ "class-hash": "1" }));
    assert_eq!(
        patch["metadata"]["labels"],
        json!({ "zone": "b" }),
        "the claim's own labels win"
    );

    let effects = launched(
        &claim,
        &Err(ProviderError::InsufficientCapacity("none".into())),
        at(0),
    );
    assert_eq!(
        names(&effects),
        [
            "event InsufficientCapacityError",
            "delete claim insufficient_capacity"
        ]
    );

    let effects = launched(&claim, &Err(ProviderError::Throttled("slow".into())), at(0));
    assert_eq!(
        written(&effects, "Launched"),
        is("Unknown", "RequestLimitExceeded")
    );
}

#[test]
fn registration_wants_exactly_one_node_that_joined_closed() {
    let registered = |index: &Index| written(&step(index, at(1)).effects, "Registered");
    assert_eq!(
        registered(&index(claim(LAUNCHED, json!({})), [], [])),
        is("Unknown", "NodeNotFound")
    );

    let twin = node(json!({ "metadata": { "name": "twin", "uid": "twin" } }));
    let two = index(claim(LAUNCHED, json!({})), [node(json!({})), twin], []);
    assert_eq!(registered(&two), is("False", "MultipleNodesFound"));

    let joined_open = index(
        claim(LAUNCHED, json!({})),
        [node(json!({ "spec": { "taints": [] } }))],
        [],
    );
    let pass = step(&joined_open, at(1));
    assert_eq!(names(&pass.effects), ["event UnregisteredTaintMissing", "status"]);

    let nothing = index(claim(LAUNCHED, json!({})), [], []);
    assert_eq!(
        names(&step(&nothing, at(900)).effects),
        ["status", "delete claim registration_timeout"]
    );
}

#[test]
fn a_node_opens_once_it_is_ready_and_its_pods_are_nominated() {
    let closed =
        |ready: &str| node(json!({ "status": { "conditions": [{ "type": "Ready", "status": ready }] } }));
    let with_promise = |node: Node| {
        let mut index = index(claim(LAUNCHED, json!({})), [node], [pending("p")]);
        index.promise(&"default/p".into(), "a", at(0));
        index
    };
    let waiting = with_promise(closed("False"));
    let pass = step(&waiting, at(1));
    assert_eq!(
        names(&pass.effects),
        [
            "patch node annotations,finalizers,labels,ownerReferences ",
            "status"
        ]
        .map(|s| s.replace("annotations,", ""))
    );
    assert_eq!(
        written(&pass.effects, "Registered"),
        is("Unknown", "AwaitingNodeReadiness")
    );
    assert_eq!(
        pass.again.map(|d| d.as_secs()),
        Some(14),
        "it is not kept closed for ever"
    );

    let behind = with_promise(closed("True"));
    let effects = step(&behind, at(1)).effects;
    assert_eq!(
        names(&effects),
        ["patch node finalizers,labels,ownerReferences ", "status"],
        "in step with its claim first"
    );

    let in_step = |ready: &str| {
        let taints = json!([{ "key": "other", "effect": "NoSchedule" }, { "key": "karpenter.sh/unregistered", "effect": "NoExecute" }]);
        open_node(json!({
            "metadata": { "labels": { "karpenter.sh/registered": "", "karpenter.sh/initialized": "" } },
            "spec": { "taints": taints },
            "status": { "conditions": [{ "type": "Ready", "status": ready, "lastTransitionTime": at(0).to_string() }] },
        }))
    };
    let effects = step(&with_promise(in_step("True")), at(1)).effects;
    assert_eq!(
        names(&effects)[..3],
        [
            "stop evicting, taint 1",
            "nominate default/p",
            "open node, taint 1"
        ],
        "opened after the nomination"
    );
    let not_yet = step(&with_promise(in_step("False")), at(1)).effects;
    assert_eq!(
        names(&not_yet),
        ["status"],
        "not sooner: Karpenter could not open it"
    );
    let harmless = |mut node: Node| {
        node.spec.as_mut().unwrap().taints.as_mut().unwrap()[1].effect = "NoSchedule".into();
        with_promise(node)
    };
    assert_eq!(
        names(&step(&harmless(in_step("True")), at(1)).effects)[..2],
        ["nominate default/p", "open node, taint 1"],
        "once is enough"
    );
    assert_eq!(written(&effects, "Registered"), is("True", "Registered"));

    let late = step(&with_promise(in_step("False")), at(15)).effects;
    assert_eq!(
        names(&late)[..3],
        [
            "stop evicting, taint 1",
            "nominate default/p",
            "open node, taint 1"
        ],
        "the window is over: opened although not ready"
    );
}

#[test]
fn machines_of_one_plan_wait_for_each_other_for_a_while() {
    let planned = json!({ "metadata": { "annotations": { "plimsoll.dev/plan": "7" } } });
    let mut second =
        json!({ "metadata": { "name": "b", "uid": "uid-b" }, "status": { "providerID": "test://b" } });
    merge(&mut second, planned.clone());
    let ready = |since: i64| json!({ "type": "Ready", "status": "True", "lastTransitionTime": at(since).to_string() });
    let own = open_node(json!({
        "metadata": { "labels": { "karpenter.sh/registered": "" }, "annotations": { "plimsoll.dev/plan": "7" } },
        "spec": { "taints": [{ "key": "karpenter.sh/unregistered", "effect": "NoExecute" }] },
        "status": { "conditions": [ready(4)] },
    }));
    let mut index = index(claim(LAUNCHED, planned), [own], [pending("p")]);
    index.promise(&"default/p".into(), "a", at(0));
    let opens = |index: &Index, now: i64| {
        let pass = step(index, at(now));
        let opens = names(&pass.effects)
            .iter()
            .any(|name| name.starts_with("open node"));
        (opens, pass.again.map(|d| d.as_secs()))
    };
    assert_eq!(opens(&index, 5), (true, None), "it is alone");

    index.ordering(Some("7"));
    assert_eq!(opens(&index, 5), (false, Some(4)), "more are being ordered");
    index.ordering(None);
    index.apply(claim(LAUNCHED, second), at(5));
    assert_eq!(opens(&index, 5), (false, Some(4)), "the other has no node yet");
    assert_eq!(opens(&index, 9), (true, None), "and none came for too long");

    let other = |status: Value| {
        let patch = json!({
            "metadata": { "name": "node-b", "uid": "uid-node-b", "resourceVersion": "2" },
            "spec": { "providerID": "test://b" }, "status": { "conditions": [status] },
        });
        node(patch)
    };
    index.take_touched();
    index.apply(other(json!({ "type": "Ready", "status": "False" })), at(5));
    assert!(!index.take_touched().claims.contains("a"));
    index.apply(other(ready(6)), at(6));
    assert!(
        index.take_touched().claims.contains("a"),
        "the last one wakes the others"
    );
    assert_eq!(opens(&index, 6), (true, None));
}

#[test]
fn registration_brings_the_claims_taints_and_keeps_foreign_ones() {
    let tainted = claim(
        LAUNCHED,
        json!({ "spec": {
        "taints": [{ "key": "team", "value": "a", "effect": "NoSchedule" }],
        "startupTaints": [{ "key": "cni", "effect": "NoSchedule" }],
    } }),
    );
    let foreign = node(json!({ "spec": { "taints": [
        { "key": "karpenter.sh/unregistered", "effect": "NoExecute" }, { "key": "other", "effect": "NoSchedule" },
    ] } }));
    let effects = step(&index(tainted, [foreign], []), at(1)).effects;
    let Effect::PatchNode { patch, .. } = &effects[0] else {
        panic!("{effects:?}")
    };
    let keys: Vec<_> = patch["spec"]["taints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["key"].as_str().unwrap())
        .collect();
    assert_eq!(keys, ["karpenter.sh/unregistered", "other", "team", "cni"]);
    assert_eq!(
        patch["metadata"]["resourceVersion"], "1",
        "a list is never replaced blindly"
    );
}

#[test]
fn initialization_names_what_it_waits_for() {
    let registered = &["Launched", "Registered"][..];
    let check = |claim_patch: Value, node_patch: Value, reason: &str| {
        let index = index(claim(registered, claim_patch), [open_node(node_patch)], []);
        assert_eq!(
            written(&step(&index, at(1)).effects, "Initialized"),
            is("Unknown", reason)
        );
    };
    check(
        json!({}),
        json!({ "status": { "conditions": [] } }),
        "NodeNotReady",
    );
    let startup = json!({ "spec": { "startupTaints": [{ "key": "cni", "effect": "NoSchedule" }] } });
    check(
        startup,
        json!({ "spec": { "taints": [{ "key": "cni", "effect": "NoSchedule" }] } }),
        "StartupTaintsExist",
    );
    let not_ready =
        json!({ "spec": { "taints": [{ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" }] } });
    check(json!({}), not_ready, "KnownEphemeralTaintsExist");
    check(
        json!({}),
        json!({ "status": { "allocatable": { "example.com/gpu": "0" } } }),
        "ResourceNotRegistered",
    );

    let node = open_node(json!({ "metadata": { "labels": { "karpenter.sh/initialized": "" } } }));
    let effects = step(&index(claim(registered, json!({})), [node], []), at(1)).effects;
    assert_eq!(names(&effects), ["patch node labels ", "status"]);
    assert_eq!(written(&effects, "Initialized"), is("True", "Initialized"));
}

#[test]
fn a_cleared_nomination_is_renewed_while_the_promise_stands() {
    let looks_again = |reached: &[&str], status: Value| {
        let mut index = index(
            claim(reached, json!({})),
            [open_node(json!({ "status": status }))],
            [pending("p")],
        );
        index.promise(&"default/p".into(), "a", at(0));
        step(&index, at(1))
            .effects
            .into_iter()
            .find_map(|effect| match effect {
                Effect::Nominate { look_again, .. } => Some(look_again),
                _ => None,
            })
    };
    assert_eq!(
        looks_again(&["Launched", "Registered"], json!({ "conditions": [] })),
        Some(false),
        "what keeps pods away will go, and that is an event"
    );
    assert_eq!(
        looks_again(IN_SERVICE, json!({})),
        Some(true),
        "nothing else would make kube-scheduler try again"
    );
}

#[test]
fn an_expired_claim_goes_and_a_deleted_node_takes_its_claim_along() {
    let old = claim(IN_SERVICE, json!({ "spec": { "expireAfter": "1h" } }));
    let index_of = |claim, node| index(claim, [node], []);
    assert_eq!(
        names(&step(&index_of(old, open_node(json!({}))), at(3600)).effects),
        ["delete claim expired"]
    );
    let gone = open_node(json!({ "metadata": { "deletionTimestamp": at(0).to_string() } }));
    assert_eq!(
        names(&step(&index_of(claim(IN_SERVICE, json!({})), gone), at(1)).effects),
        ["delete claim node_deleted"]
    );
}

#[test]
fn a_leaving_machine_is_closed_before_its_pods_are_looked_at() {
    let effects = step(
        &index(deleted(json!({})), [open_node(json!({}))], [pod("p", json!({}))]),
        at(1),
    )
    .effects;
    assert_eq!(names(&effects), ["patch node labels taints"]);
}

#[test]
fn pods_leave_in_tiers_and_only_through_eviction() {
    let critical = json!({ "spec": { "priorityClassName": "system-cluster-critical" } });
    let daemon = json!({ "metadata": { "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d" }] } });
    let mut critical_daemon = critical.clone();
    merge(&mut critical_daemon, daemon.clone());
    let mut pods = vec![
        pod("plain", json!({})),
        pod("daemon", daemon),
        pod("critical", critical),
        pod("critical-daemon", critical_daemon),
    ];
    let tolerant = json!({ "spec": { "tolerations": [{ "operator": "Exists" }] } });
    let mut order = Vec::new();
    while !pods.is_empty() {
        let mut all = pods.clone();
        all.push(pod("tolerates-everything", tolerant.clone()));
        let index = index(deleted(json!({})), [leaving_node()], all);
        let evicted = names(&step(&index, at(1)).effects)
            .into_iter()
            .filter(|n| n.starts_with("evict"))
            .collect::<Vec<_>>();
        assert_eq!(evicted.len(), 1, "one tier at a time: {evicted:?}");
        let name = evicted[0].rsplit('/').next().unwrap().to_owned();
        pods.retain(|p| p.metadata.name.as_deref() != Some(&name));
        order.push(name);
    }
    assert_eq!(order, ["plain", "daemon", "critical", "critical-daemon"]);
}

#[test]
fn a_protected_pod_stalls_the_drain_until_the_deadline() {
    let protected = json!({ "metadata": { "annotations": { "karpenter.sh/do-not-disrupt": "true" } } });
    let drain = |patch: Value, now| {
        names(
            &step(
                &index(deleted(patch), [leaving_node()], [pod("p", protected.clone())]),
                at(now),
            )
            .effects,
        )
    };
    assert_eq!(drain(json!({}), 100_000), ["status"]);

    let bounded = json!({ "spec": { "terminationGracePeriod": "5m" } });
    assert_eq!(
        drain(bounded.clone(), 1),
        ["patch claim annotations"],
        "the deadline is written down first"
    );
    let mut dated = bounded;
    merge(
        &mut dated,
        json!({ "metadata": { "annotations": { "karpenter.sh/nodeclaim-termination-timestamp": at(300).to_string() } } }),
    );
    assert_eq!(drain(dated.clone(), 269), ["status"]);
    assert_eq!(
        drain(dated.clone(), 270),
        [
            "event TerminationGracePeriodExpiring",
            "delete default/p 30",
            "status"
        ]
    );
    assert_eq!(drain(dated, 400)[1], "delete default/p 1");
}

#[test]
fn only_the_api_server_can_say_that_a_node_is_drained() {
    let index = index(deleted(json!({})), [leaving_node()], []);
    assert_eq!(
        names(&step(&index, at(4)).effects),
        ["status"],
        "a pod bound at the last moment must show up first"
    );
    assert_eq!(names(&step(&index, at(6)).effects), ["confirm drained"]);

    let decide = |pods: &[Pod]| {
        drained(
            &view(&index),
            pods.iter().map(PodState::from_pod).collect(),
            at(6),
        )
    };
    let unseen = decide(&[pod("unseen", json!({}))]);
    assert_eq!(names(&unseen), ["evict default/unseen", "status"]);
    assert_eq!(written(&unseen, conditions::DRAINED), is("Unknown", "Draining"));
    let nobody = decide(&[]);
    assert_eq!(names(&nobody), ["status"]);
    assert_eq!(written(&nobody, conditions::DRAINED), is("True", "Drained"));
}

#[test]
fn a_drained_machine_is_terminated_after_its_volumes_have_gone() {
    let drained = claim(
        &["Launched", "Registered", "Initialized", "Drained"],
        json!({ "metadata": { "deletionTimestamp": at(0).to_string() } }),
    );
    let mut index = index(drained, [leaving_node()], []);
    let attachment: VolumeAttachment = object(json!({
        "metadata": { "name": "va" },
        "spec": { "attacher": "csi", "nodeName": "node-a", "source": { "persistentVolumeName": "pv" } },
    }));
    index.apply(attachment.clone(), at(0));
    let effects = step(&index, at(6)).effects;
    assert_eq!(names(&effects), ["status"]);
    assert_eq!(
        written(&effects, "VolumesDetached"),
        is("Unknown", "AwaitingVolumeDetachment")
    );
    index.delete(&attachment, at(7));
    assert_eq!(
        names(&step(&index, at(8)).effects),
        ["status", "terminate test://a"]
    );
}

#[test]
fn a_claim_that_never_got_a_node_is_terminated_by_whatever_was_launched_for_it() {
    let unlaunched = claim(
        &[],
        json!({ "metadata": { "deletionTimestamp": at(0).to_string() } }),
    );
    assert_eq!(
        names(&step(&index(unlaunched, [], []), at(1)).effects)
            .last()
            .unwrap(),
        "terminate ?"
    );
}

#[test]
fn finalizers_go_only_when_the_machine_is_gone() {
    let index = index(
        deleted(json!({ "metadata": { "finalizers": ["karpenter.sh/termination", "other"] } })),
        [leaving_node()],
        [],
    );
    let started = terminated(&view(&index), Termination::Started, at(1));
    assert_eq!(names(&started), ["status"]);
    assert_eq!(
        written(&started, conditions::INSTANCE_TERMINATING),
        is("True", "InstanceTerminating")
    );
    let gone = terminated(&view(&index), Termination::Gone, at(1));
    assert_eq!(names(&gone), ["patch node finalizers ", "patch claim finalizers"]);
    let Effect::PatchClaim { patch, .. } = &gone[1] else {
        panic!()
    };
    assert_eq!(patch["metadata"]["finalizers"], json!(["other"]));
}

#[test]
fn a_removal_is_dropped_when_the_machine_is_not_what_the_plan_saw() {
    let close = |index: &Index| disruption::close(&view(index)).is_some();
    assert!(close(&index(
        claim(IN_SERVICE, json!({})),
        [open_node(json!({}))],
        []
    )));
    assert!(
        !close(&index(deleted(json!({})), [open_node(json!({}))], [])),
        "already leaving"
    );
    let impostor = open_node(json!({ "metadata": { "name": "another" } }));
    assert!(
        !close(&index(claim(IN_SERVICE, json!({})), [impostor], [])),
        "name and provider id disagree"
    );
    let mut promised = index(
        claim(IN_SERVICE, json!({})),
        [open_node(json!({}))],
        [pending("p")],
    );
    promised.promise(&"default/p".into(), "a", at(0));
    assert!(!close(&promised), "a pod was promised a place there");
}

#[test]
fn what_the_api_server_says_after_closing_decides() {
    let (claim, node) = (claim(IN_SERVICE, json!({})), leaving_node());
    let decide = |pods: &[Pod]| {
        let pods: Vec<PodState> = pods.iter().map(PodState::from_pod).collect();
        names(&disruption::confirm_empty(&claim, &node, &pods))
    };
    assert_eq!(decide(&[]), ["event DisruptionTerminating", "delete claim empty"]);
    assert_eq!(
        decide(&[pod("p", json!({}))]),
        ["event DisruptionBlocked", "patch node  taints"]
    );
    let daemon = json!({ "metadata": { "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d" }] } });
    assert_eq!(
        decide(&[pod("d", daemon)]),
        ["event DisruptionTerminating", "delete claim empty"]
    );
}

#[test]
fn garbage_is_what_has_lost_its_other_half() {
    let machine = |claim: &str, provider_id: &str, launched| Machine {
        provider_id: provider_id.into(),
        image_id: None,
        annotations: std::collections::BTreeMap::new(),
        labels: Default::default(),
        capacity: Default::default(),
        allocatable: Default::default(),
        claim: claim.into(),
        launched,
    };
    let unready = open_node(json!({ "status": { "conditions": [] } }));
    let all = index(claim(IN_SERVICE, json!({})), [unready], []);
    let found = garbage::collect(
        &all,
        &[machine("a", "test://a", at(0)), machine("x", "test://x", at(0))],
        at(60),
    );
    assert_eq!(
        (found.leaked, found.effects),
        (vec!["test://x".to_owned()], vec![])
    );
    let second = [
        machine("a", "test://a", at(0)),
        machine("a", "test://other", at(0)),
    ];
    assert_eq!(
        garbage::collect(&all, &second, at(60)).leaked,
        ["test://other"],
        "a claim stands for the machine it has recorded and for no other of its name"
    );
    let mut newer = index(claim(IN_SERVICE, json!({})), [], []);
    let x = claim(IN_SERVICE, json!({ "metadata": { "name": "x" } })).metadata;
    Observe::<NodeClaim>::unreadable(&mut newer, &x, true);
    let unread = garbage::collect(
        &newer,
        &[machine("a", "test://a", at(0)), machine("x", "test://x", at(0))],
        at(60),
    );
    assert_eq!(
        unread,
        garbage::Found::default(),
        "its claim exists, it cannot be read"
    );
    let young = garbage::collect(
        &all,
        &[machine("a", "test://a", at(0)), machine("x", "test://x", at(31))],
        at(60),
    );
    assert_eq!(
        young.leaked,
        Vec::<String>::new(),
        "its claim may still be on its way"
    );
    assert_eq!(
        names(&garbage::collect(&all, &[], at(60)).effects),
        ["delete claim garbage_collected"]
    );

    let well = index(claim(IN_SERVICE, json!({})), [open_node(json!({}))], []);
    assert_eq!(
        garbage::collect(&well, &[], at(60)).effects,
        [],
        "a ready node contradicts the list"
    );
}
