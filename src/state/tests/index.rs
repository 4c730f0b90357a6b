//! The index is tested by telling it what watches would tell it, and reading the snapshot.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::unnecessary_wraps,
    reason = "the makers of test objects are tests too"
)]

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{core::v1::Node, policy::v1::PodDisruptionBudget};
use plimsoll_api::{nodeclaim::NodeClaim, nodepool::NodePool};
use plimsoll_core::{
    catalog::{Catalog, MicroDollars},
    policy::{MinValuesPolicy, Policy, PreferencePolicy},
    provision::provision,
    requirement::Operator,
    snapshot::{Blocker, BudgetNodes, NodeStage, Place, Snapshot},
};
use plimsoll_state::{Index, Lowered, Observe, PROMISE_WINDOW, PersistentVolume, PersistentVolumeClaim, Pod};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const START: Timestamp = Timestamp::UNIX_EPOCH;

fn at(seconds: i64) -> Timestamp {
    START + SignedDuration::from_secs(seconds)
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// A pod kube-scheduler refused, changed by a merge patch.
fn pending(name: &str, patch: Value) -> Pod {
    let mut pod = json!({
        "metadata": { "name": name, "namespace": "default", "uid": format!("uid-{name}") },
        "spec": { "containers": [{ "name": "main", "resources": { "requests": { "cpu": "500m", "memory": "1Gi" } } }] },
        "status": {
            "phase": "Pending",
            "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable" }],
        },
    });
    merge(&mut pod, patch);
    object(pod)
}

fn bound(name: &str, node: &str, patch: Value) -> Pod {
    let mut all = json!({ "spec": { "nodeName": node }, "status": { "phase": "Running", "conditions": [] } });
    merge(&mut all, patch);
    pending(name, all)
}

/// RFC 7396, without deletions.
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

fn claim(name: &str, version: u64, patch: Value) -> NodeClaim {
    let mut claim = json!({
        "apiVersion": "karpenter.sh/v1", "kind": "NodeClaim",
        "metadata": {
            "name": name, "uid": format!("uid-{name}"), "resourceVersion": version.to_string(),
            "labels": { "karpenter.sh/nodepool": "pool" },
        },
        "spec": {
            "requirements": [{ "key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone-a"] }],
            "resources": { "requests": { "cpu": "2", "memory": "4Gi", "pods": "3" } },
            "nodeClassRef": { "group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "default" },
        },
    });
    merge(&mut claim, patch);
    object(claim)
}

/// Status of a claim whose machine is in service since a time.
fn in_service(name: &str, since: Timestamp) -> Value {
    let condition = |type_: &str| json!({ "type": type_, "status": "True", "reason": type_, "message": "", "lastTransitionTime": since.to_string() });
    json!({ "status": {
        "providerID": format!("test://{name}"), "nodeName": format!("node-{name}"),
        "conditions": [condition("Launched"), condition("Registered"), condition("Initialized")],
    } })
}

fn node(claim: &str, patch: Value) -> Node {
    let mut node = json!({
        "metadata": { "name": format!("node-{claim}"), "uid": format!("uid-node-{claim}"), "resourceVersion": "1" },
        "spec": { "providerID": format!("test://{claim}") },
        "status": {
            "allocatable": { "cpu": "3900m", "memory": "8Gi", "pods": "110" },
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    });
    merge(&mut node, patch);
    object(node)
}

/// A machine in service for a claim.
fn with_machine(index: &mut Index, name: &str) {
    index.apply(claim(name, 1, in_service(name, at(0))), at(0));
    index.apply(node(name, json!({})), at(0));
}

fn lowered(index: &Index, now: Timestamp) -> Lowered {
    index.snapshot(&Catalog::default(), now)
}

fn place_of(snapshot: &Snapshot, pod: &str) -> Option<Place> {
    snapshot
        .pods
        .iter()
        .find(|p| *p.key == format!("default/{pod}"))
        .map(|p| p.place)
}

#[test]
fn only_refused_pods_wait() {
    let mut index = Index::default();
    index.apply(pending("refused", json!({})), at(0));
    index.apply(
        pending("untried", json!({ "status": { "conditions": [] } })),
        at(0),
    );
    index.apply(pending("gated", json!({ "status": { "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "SchedulingGated" }] } })), at(0));
    index.apply(
        pending("done", json!({ "status": { "phase": "Succeeded" } })),
        at(0),
    );
    let daemon = json!({ "metadata": { "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d" }] } });
    index.apply(pending("daemon", daemon), at(0));

    assert_eq!(index.waiting(), 1);
    assert_eq!(index.arrivals(), 1);
    let snapshot = lowered(&index, at(0)).snapshot;
    assert_eq!(snapshot.pods.len(), 1);
    assert_eq!(place_of(&snapshot, "refused"), Some(Place::Pending));
}

#[test]
fn a_class_is_a_scheduling_meaning_and_only_labels_somebody_looks_at_count() {
    let labelled = |name: &str, app: &str| {
        pending(
            name,
            json!({ "metadata": { "labels": { "app": app, "pod-template-hash": name } } }),
        )
    };
    let mut index = Index::default();
    index.apply(labelled("a", "web"), at(0));
    index.apply(labelled("b", "api"), at(0));
    assert_eq!(
        lowered(&index, at(0)).snapshot.classes.len(),
        1,
        "nobody looks at these labels"
    );

    let spread = json!({ "spec": { "topologySpreadConstraints": [{
        "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": { "matchLabels": { "app": "web" } },
    }] } });
    index.apply(pending("c", spread), at(0));
    let snapshot = lowered(&index, at(0)).snapshot;
    assert_eq!(snapshot.classes.len(), 3, "now app=web and app=api differ");
    assert!(
        snapshot
            .classes
            .iter()
            .all(|c| c.labels.iter().all(|(key, _)| &**key == "app"))
    );
}

#[test]
fn match_label_keys_become_part_of_the_selector() {
    let mut index = Index::default();
    let patch = json!({
        "metadata": { "labels": { "app": "web", "pod-template-hash": "abc" } },
        "spec": { "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": { "matchLabels": { "app": "web" } }, "matchLabelKeys": ["pod-template-hash", "absent"],
        }] },
    });
    index.apply(pending("a", patch), at(0));
    let snapshot = lowered(&index, at(0)).snapshot;
    let requirements = &snapshot.classes[0].spread[0].selector.requirements;
    let keys: Vec<&str> = requirements.iter().map(|r| &*r.key).collect();
    assert_eq!(keys, ["app", "pod-template-hash"]);
    assert!(requirements.iter().all(|r| r.operator == Operator::In));
}

#[test]
fn requests_count_sidecars_init_steps_pod_level_amounts_and_overhead() {
    let check = |spec: Value, cpu: i64, memory: i64| {
        let mut index = Index::default();
        index.apply(pending("a", json!({ "spec": spec })), at(0));
        let snapshot = lowered(&index, at(0)).snapshot;
        let of = |name: &str| {
            snapshot.classes[0]
                .requests
                .iter()
                .find(|(n, _)| &**n == name)
                .map_or(0, |(_, a)| *a)
        };
        assert_eq!((of("cpu"), of("memory"), of("pods")), (cpu, memory, 1), "{spec}");
    };
    let uses =
        |cpu: &str, memory: &str| json!({ "resources": { "requests": { "cpu": cpu, "memory": memory } } });
    let sidecar = |cpu: &str, memory: &str| {
        let mut container = uses(cpu, memory);
        container["restartPolicy"] = json!("Always");
        container
    };
    check(
        json!({ "containers": [uses("1", "100"), uses("500m", "50")] }),
        1500,
        150,
    );
    check(
        json!({ "containers": [uses("1", "100")], "initContainers": [uses("3", "10")] }),
        3000,
        100,
    );
    check(
        json!({ "containers": [uses("1", "100")], "initContainers": [sidecar("2", "10"), uses("3", "5")] }),
        5000,
        110,
    );
    check(
        json!({ "containers": [uses("1", "100")], "initContainers": [uses("3", "5"), sidecar("2", "10")] }),
        3000,
        110,
    );
    check(
        json!({ "containers": [uses("1", "100")], "overhead": { "cpu": "250m" } }),
        1250,
        100,
    );
    check(
        json!({ "containers": [uses("1", "100")], "resources": { "requests": { "cpu": "4" } } }),
        4000,
        100,
    );
}

#[test]
fn what_nobody_looks_at_never_enters_memory() {
    let secret = "CANARY";
    let pod: Pod = pending(
        "a",
        json!({
            "metadata": {
                "annotations": { "kubectl.kubernetes.io/last-applied-configuration": secret, "karpenter.sh/do-not-disrupt": "true" },
                "managedFields": [{ "manager": secret }],
            },
            "spec": {
                "containers": [{ "name": "main", "image": "shop/web:1", "command": [secret], "args": [secret],
                    "env": [{ "name": "PASSWORD", "value": secret }], "envFrom": [{ "secretRef": { "name": secret } }] }],
                "initContainers": [{ "name": "init", "env": [{ "name": "TOKEN", "value": secret }] }],
                "volumes": [{ "name": "v", "secret": { "secretName": secret } }],
            },
            "status": { "message": secret },
        }),
    );
    assert!(!format!("{pod:?}").contains(secret));
    let mut index = Index::default();
    index.apply(pod, at(0));
    assert!(!format!("{index:?}").contains(secret));
    assert!(
        index.pods().all(|p| p.do_not_disrupt_now(at(0))),
        "listed annotations are read"
    );
}

#[test]
fn a_created_claim_is_forgotten_only_when_the_api_server_does_not_have_it() {
    let mut index = Index::default();
    index.created_claim(claim("a", 5, json!({})), at(0));
    index.created_claim(claim("b", 6, json!({})), at(0));
    index.reset(Vec::<NodeClaim>::new(), at(1));
    assert_eq!(
        index.claims().count(),
        2,
        "the list may be older than the creation"
    );
    assert!(!index.overdue(at(120)));
    index.expire(at(121));
    assert!(index.overdue(at(121)));
    assert_eq!(index.claims().count(), 2, "silence of the watch proves nothing");

    index.counted(vec![claim("b", 6, json!({})), claim("c", 7, json!({}))], at(121));
    let names: Vec<_> = index.claims().map(|c| c.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["b", "c"]);
    assert!(!index.overdue(at(122)), "it was just asked");
    assert!(index.overdue(at(242)), "no watch has said anything yet");
}

#[test]
fn a_list_asked_for_another_reason_takes_no_young_claim_away() {
    let mut index = Index::default();
    index.created_claim(claim("a", 5, json!({})), at(0));
    index.counted(Vec::new(), at(1));
    assert!(
        index.claim("a").is_some(),
        "it may have been created after the list was made"
    );
}

#[test]
fn a_claim_that_cannot_be_read_is_known_by_name_until_it_is_gone_or_mended() {
    let mut index = Index::default();
    let meta = |name: &str| claim(name, 1, json!({})).metadata;
    let unreadable =
        |index: &mut Index, name: &str| Observe::<NodeClaim>::unreadable(index, &meta(name), true);
    unreadable(&mut index, "a");
    unreadable(&mut index, "b");
    index.apply(claim("a", 2, json!({})), at(0));
    assert_eq!(index.unreadable_claims().iter().collect::<Vec<_>>(), ["b"]);
    unreadable(&mut index, "c");
    Observe::<NodeClaim>::unreadable(&mut index, &meta("c"), false);
    assert_eq!(index.unreadable_claims().iter().collect::<Vec<_>>(), ["b"]);
    index.reset(Vec::<NodeClaim>::new(), at(1));
    assert!(index.unreadable_claims().is_empty());
}

#[test]
fn a_node_whose_name_was_reused_belongs_to_its_new_claim_only() {
    let mut index = Index::default();
    with_machine(&mut index, "a");
    assert_eq!(index.nodes_of_provider_id("test://a").len(), 1);
    let successor = node(
        "a",
        json!({
            "metadata": { "uid": "another" },
            "spec": { "providerID": "test://b" },
        }),
    );
    index.reset(vec![successor], at(9));
    assert!(index.nodes_of_provider_id("test://a").is_empty());
    assert_eq!(index.nodes_of_provider_id("test://b").len(), 1);
}

#[test]
fn absurd_requests_neither_overflow_nor_stop_a_plan() {
    let mut index = Index::default();
    with_machine(&mut index, "a");
    let absurd = json!({ "spec": { "containers": [
        { "name": "main", "resources": { "requests": { "cpu": "9E", "memory": "8Ei", "ephemeral-storage": "7Ei" } } },
        { "name": "more", "resources": { "requests": { "cpu": "9E", "memory": "8Ei" } } },
    ] } });
    for n in 0..2000 {
        index.apply(pending(&format!("waits-{n}"), absurd.clone()), at(0));
    }
    for n in 0..3 {
        index.apply(bound(&format!("there-{n}"), "a", absurd.clone()), at(0));
        let daemon = json!({
            "metadata": { "name": format!("daemon-{n}"), "namespace": "default", "uid": format!("daemon-{n}") },
            "spec": {
                "selector": {},
                "template": { "metadata": {}, "spec": { "containers": absurd["spec"]["containers"] } },
            },
        });
        index.apply(object::<plimsoll_state::DaemonSet>(daemon), at(0));
    }
    let lowered = lowered(&index, at(1));
    let policy = Policy {
        preferences: PreferencePolicy::Respect,
        min_values: MinValuesPolicy::Strict,
        nomination: true,
        steps_max: 100,
        types_per_launch_max: 60,
        interruption_cost: MicroDollars(0),
    };
    let (plan, report) = provision(&lowered.snapshot, &Catalog::default(), &policy);
    assert!(plan.launches.is_empty());
    assert_eq!(report.unplaced.len(), 2000);
}

#[test]
fn the_answer_to_our_own_write_does_not_stand_for_the_watch() {
    let mut index = Index::default();
    index.created_claim(claim("a", 5, json!({})), at(0));
    index.answered(
        claim("a", 6, json!({ "status": { "providerID": "test://a" } })),
        at(1),
    );
    index.reset(Vec::<NodeClaim>::new(), at(2));
    assert!(
        index.claim("a").is_some(),
        "the list may be older than the creation"
    );

    // What the watch says late still says that it exists, and takes nothing back.
    index.apply(claim("a", 5, json!({})), at(3));
    assert!(index.claim("a").unwrap().status.is_some());
    index.reset(Vec::<NodeClaim>::new(), at(4));
    assert!(
        index.claim("a").is_none(),
        "it was confirmed, so the list is newer"
    );
    index.answered(claim("a", 7, json!({})), at(5));
    assert!(index.claim("a").is_none());
}

#[test]
fn a_confirmed_claim_goes_with_the_list_that_lacks_it() {
    let mut index = Index::default();
    index.created_claim(claim("a", 5, json!({})), at(0));
    index.apply(claim("a", 5, json!({})), at(1));
    index.reset(Vec::<NodeClaim>::new(), at(2));
    assert!(index.claim("a").is_none());
}

#[test]
fn late_answers_bring_back_neither_old_versions_nor_the_dead() {
    let mut index = Index::default();
    index.apply(claim("a", 7, json!({ "status": { "nodeName": "new" } })), at(0));
    index.apply(claim("a", 6, json!({ "status": { "nodeName": "old" } })), at(0));
    assert_eq!(
        index
            .claim("a")
            .unwrap()
            .status
            .as_ref()
            .unwrap()
            .node_name
            .as_deref(),
        Some("new")
    );

    index.delete(&claim("a", 8, json!({})), at(1));
    index.apply(claim("a", 9, json!({})), at(1));
    index.created_claim(claim("a", 9, json!({})), at(1));
    assert!(index.claim("a").is_none());

    with_machine(&mut index, "b");
    index.delete(&node("b", json!({})), at(1));
    index.apply(
        node("b", json!({ "metadata": { "resourceVersion": "9" } })),
        at(2),
    );
    assert_eq!(index.nodes().count(), 0);
}

#[test]
fn a_coming_machine_shows_what_was_asked_until_the_cloud_says_more() {
    let mut index = Index::default();
    index.created_claim(claim("a", 1, json!({})), at(0));
    let snapshot = lowered(&index, at(0)).snapshot;
    let machine = &snapshot.nodes[0];
    assert_eq!(machine.stage, NodeStage::InFlight);
    assert_eq!(machine.allocatable["cpu"], 2000);
    assert_eq!(&*machine.labels["topology.kubernetes.io/zone"], "zone-a");
    assert_eq!(machine.disruption_blocker, Some(Blocker::NotInitialized));

    index.apply(
        claim(
            "a",
            2,
            json!({ "status": { "providerID": "test://a", "allocatable": { "cpu": "3900m" } } }),
        ),
        at(1),
    );
    assert_eq!(lowered(&index, at(1)).snapshot.nodes[0].allocatable["cpu"], 3900);
}

#[test]
fn a_registered_node_is_seen_without_the_taints_that_will_go() {
    let mut index = Index::default();
    let mut status = in_service("a", at(0));
    status["status"]["conditions"].as_array_mut().unwrap().pop();
    status["spec"] = json!({ "startupTaints": [{ "key": "cni", "effect": "NoSchedule" }] });
    index.apply(claim("a", 1, status.clone()), at(0));
    let taints = json!({ "spec": { "taints": [
        { "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" },
        { "key": "cni", "effect": "NoSchedule" },
        { "key": "team", "value": "a", "effect": "NoSchedule" },
    ] } });
    index.apply(node("a", taints), at(0));
    let seen = |index: &Index| {
        let snapshot = lowered(index, at(0)).snapshot;
        (
            snapshot.nodes[0].stage,
            snapshot.nodes[0]
                .taints
                .iter()
                .map(|t| t.key.to_string())
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(seen(&index), (NodeStage::Registered, vec!["team".to_owned()]));

    merge(&mut status, in_service("a", at(0)));
    index.apply(claim("a", 2, status), at(0));
    assert_eq!(seen(&index).0, NodeStage::Initialized);
    assert_eq!(
        seen(&index).1.len(),
        3,
        "an initialized node's taints are all real"
    );
}

#[test]
fn promises_hold_a_place_and_are_counted_when_kept() {
    let mut index = Index::default();
    with_machine(&mut index, "a");
    with_machine(&mut index, "b");
    for name in ["kept", "broken"] {
        index.apply(pending(name, json!({})), at(0));
        index.promise(&format!("default/{name}").into(), "a", at(0));
    }
    assert_eq!(index.waiting(), 0);
    let snapshot = lowered(&index, at(0)).snapshot;
    let Some(Place::Assigned(target)) = place_of(&snapshot, "kept") else {
        panic!("assigned")
    };
    assert_eq!(&*snapshot.nodes[target.0 as usize].name, "node-a");
    assert_eq!(
        snapshot.nodes[target.0 as usize].disruption_blocker,
        Some(Blocker::Nominated)
    );

    index.apply(bound("kept", "node-a", json!({})), at(1));
    index.apply(bound("broken", "node-b", json!({})), at(1));
    assert_eq!((index.bindings().as_planned, index.bindings().elsewhere), (1, 1));
}

#[test]
fn a_promise_ends_when_its_pod_is_refused_without_room_or_too_often() {
    let nominated = |pod: &str, node: Value| pending(pod, json!({ "status": { "nominatedNodeName": node } }));
    let refuse = |index: &mut Index, pod: &str| {
        index.apply(nominated(pod, json!("node-a")), at(1));
        index.take_touched();
        index.apply(nominated(pod, Value::Null), at(1));
        (index.waiting(), index.take_touched().claims.contains("a"))
    };
    let promised = |closed: bool| {
        let mut index = Index::default();
        with_machine(&mut index, "a");
        let initialized = if closed { "" } else { "true" };
        let labels = json!({ "karpenter.sh/initialized": initialized });
        let patch = json!({ "metadata": { "resourceVersion": "2", "labels": labels } });
        index.apply(node("a", patch), at(0));
        index.apply(pending("p", json!({})), at(0));
        index.promise(&"default/p".into(), "a", at(0));
        index
    };

    let mut open = promised(false);
    let heard: Vec<_> = (0..4).map(|_| refuse(&mut open, "p")).collect();
    assert_eq!(heard, [(0, true), (0, true), (0, true), (1, true)]);
    assert_eq!(open.broken_promises(), 1);

    let mut closed = promised(true);
    let heard: Vec<_> = (0..8).map(|_| refuse(&mut closed, "p")).collect();
    assert_eq!(
        heard,
        [(0, true); 8],
        "no machine that is closed can keep a promise"
    );

    let mut taken = promised(false);
    let thief = json!({ "spec": { "containers": [{ "name": "main", "resources": { "requests": { "cpu": "3500m" } } }] } });
    taken.apply(bound("thief", "node-a", thief), at(1));
    assert_eq!(
        refuse(&mut taken, "p"),
        (1, true),
        "3.9 CPUs, 3.5 taken, 0.5 wanted"
    );
}

#[test]
fn a_promise_ends_when_its_machine_has_been_usable_for_long_or_leaves() {
    let long = i64::try_from(PROMISE_WINDOW.as_secs()).unwrap() + 1;
    let mut index = Index::default();
    index.created_claim(claim("coming", 1, json!({})), at(0));
    index.apply(claim("coming", 1, json!({})), at(0));
    with_machine(&mut index, "open");
    for (pod, target) in [("a", "coming"), ("b", "open"), ("c", "nowhere")] {
        index.apply(pending(pod, json!({})), at(0));
        index.promise(&format!("default/{pod}").into(), target, at(0));
    }
    index.take_touched();
    index.expire(at(1));
    assert_eq!(
        index.waiting(),
        1,
        "a target that does not exist promises nothing"
    );
    index.expire(at(long));
    assert_eq!(
        index.waiting(),
        2,
        "the open machine had its chance, the coming one has not"
    );
    assert_eq!(index.take_touched().waiting_pods, 2);

    index.apply(
        claim(
            "coming",
            2,
            json!({ "metadata": { "deletionTimestamp": at(long).to_string() } }),
        ),
        at(long),
    );
    index.expire(at(long));
    assert_eq!(index.waiting(), 3);
}

#[test]
fn pods_of_a_leaving_machine_need_a_place_unless_they_cannot_move() {
    let mut index = Index::default();
    with_machine(&mut index, "a");
    let owner = |kind: &str, api: &str| json!({ "metadata": { "ownerReferences": [{ "apiVersion": api, "kind": kind, "name": "o", "uid": "o" }] } });
    index.apply(bound("moves", "node-a", owner("ReplicaSet", "apps/v1")), at(0));
    index.apply(bound("daemon", "node-a", owner("DaemonSet", "apps/v1")), at(0));
    index.apply(
        bound(
            "stays",
            "node-a",
            json!({ "metadata": { "annotations": { "karpenter.sh/do-not-disrupt": "true" } } }),
        ),
        at(0),
    );
    index.apply(
        bound(
            "ending",
            "node-a",
            json!({ "metadata": { "deletionTimestamp": at(30).to_string() } }),
        ),
        at(0),
    );
    let mut stateful = owner("StatefulSet", "apps/v1");
    merge(
        &mut stateful,
        json!({ "metadata": { "deletionTimestamp": at(30).to_string() } }),
    );
    index.apply(bound("stateful", "node-a", stateful), at(0));
    let places = |index: &Index| {
        let snapshot = lowered(index, at(0)).snapshot;
        ["moves", "daemon", "stays", "ending", "stateful"]
            .map(|pod| matches!(place_of(&snapshot, pod), Some(Place::Leaving(_))))
    };
    assert_eq!(places(&index), [false; 5]);
    let mut leaving = in_service("a", at(0));
    merge(
        &mut leaving,
        json!({ "metadata": { "deletionTimestamp": at(0).to_string() } }),
    );
    index.apply(claim("a", 2, leaving), at(0));
    assert_eq!(places(&index), [true, false, false, false, true]);
}

#[test]
fn the_first_reason_not_to_disrupt_is_named() {
    let mut index = Index::default();
    with_machine(&mut index, "a");
    let blocker = |index: &Index, now| lowered(index, now).snapshot.nodes[0].disruption_blocker.clone();
    assert_eq!(blocker(&index, at(0)), None);

    index.apply(
        bound(
            "a",
            "node-a",
            json!({ "metadata": { "labels": { "app": "web" } } }),
        ),
        at(0),
    );
    let budget = |allowed: i32| -> PodDisruptionBudget {
        object(json!({
            "metadata": { "name": "web", "namespace": "default" },
            "spec": { "selector": { "matchLabels": { "app": "web" } } },
            "status": { "disruptionsAllowed": allowed },
        }))
    };
    index.apply(budget(0), at(0));
    let blocked = Blocker::PodDisruptionBudget {
        pdb: "default/web".into(),
        pod: "default/a".into(),
    };
    assert_eq!(blocker(&index, at(0)), Some(blocked));
    index.apply(budget(1), at(0));
    assert_eq!(blocker(&index, at(0)), None);

    let guarded = json!({
        "metadata": { "annotations": { "karpenter.sh/do-not-disrupt": "1m" } },
        "status": { "startTime": at(0).to_string() },
    });
    index.apply(bound("b", "node-a", guarded), at(0));
    assert_eq!(
        blocker(&index, at(59)),
        Some(Blocker::PodDoNotDisrupt {
            pod: "default/b".into()
        })
    );
    assert_eq!(blocker(&index, at(60)), None, "its minute is over");
}

#[test]
fn consolidation_counts_from_the_last_pod_event_and_daemons_are_none() {
    let mut index = Index::default();
    with_machine(&mut index, "a");
    let quiet = |index: &Index| lowered(index, at(100)).snapshot.nodes[0].quiet_since;
    assert_eq!(quiet(&index), Some(at(0)));
    let daemon = json!({ "metadata": { "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d" }] } });
    index.apply(bound("d", "node-a", daemon), at(10));
    assert_eq!(quiet(&index), Some(at(0)));
    index.apply(bound("p", "node-a", json!({})), at(20));
    assert_eq!(quiet(&index), Some(at(20)));
    index.delete(&bound("p", "node-a", json!({})), at(30));
    assert_eq!(quiet(&index), Some(at(30)));
}

#[test]
fn heartbeats_touch_nothing_but_the_version() {
    let mut index = Index::default();
    with_machine(&mut index, "a");
    index.take_touched();
    let revision = index.revision();
    let beat = json!({
        "metadata": { "resourceVersion": "2" },
        "status": { "conditions": [{ "type": "Ready", "status": "True", "lastHeartbeatTime": at(5).to_string() }] },
    });
    index.apply(node("a", beat), at(5));
    assert_eq!(
        (index.revision(), index.take_touched()),
        (revision, plimsoll_state::Touched::default())
    );
    assert_eq!(
        index.nodes().next().unwrap().metadata.resource_version.as_deref(),
        Some("2")
    );
}

#[test]
fn volumes_bind_pods_to_places_or_keep_them_waiting_with_a_reason() {
    let mut index = Index::default();
    let mounts = json!({ "spec": { "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }] } });
    index.apply(pending("a", mounts), at(0));
    let refused = |index: &Index| lowered(index, at(0)).refused.first().map(|(_, why)| why.clone());
    assert_eq!(
        refused(&index).as_deref(),
        Some("persistentvolumeclaim default/data does not exist")
    );

    let pvc: PersistentVolumeClaim = object(
        json!({ "metadata": { "name": "data", "namespace": "default" }, "spec": { "volumeName": "pv" } }),
    );
    index.apply(pvc, at(0));
    assert_eq!(
        refused(&index).as_deref(),
        Some("persistentvolume pv of claim default/data does not exist")
    );

    let pv: PersistentVolume = object(json!({
        "metadata": { "name": "pv" },
        "spec": {
            "csi": { "driver": "ebs.csi.aws.com", "volumeHandle": "vol-1" },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone-b"] },
            ] }] } },
        },
    }));
    index.apply(pv, at(0));
    let found = lowered(&index, at(0));
    assert!(found.refused.is_empty());
    let class = &found.snapshot.classes[found.snapshot.pods[0].class.0 as usize];
    assert_eq!(&*class.volume_affinity[0][0][0].values[0], "zone-b");
    assert_eq!(class.volumes, [("ebs.csi.aws.com".into(), "vol-1".into())]);
}

#[test]
fn a_pool_plans_only_while_it_is_ready_and_its_budgets_are_read() {
    let pool = |ready: &str, replicas: Value| -> NodePool {
        object(json!({
            "apiVersion": "karpenter.sh/v1", "kind": "NodePool", "metadata": { "name": "pool" },
            "spec": {
                "replicas": replicas, "weight": 7, "limits": { "cpu": "10", "nodes": "3" },
                "template": {
                    "metadata": { "labels": { "team": "a" } },
                    "spec": {
                        "requirements": [{ "key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"] }],
                        "nodeClassRef": { "group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "default" },
                    },
                },
                "disruption": {
                    "consolidateAfter": "30s",
                    "budgets": [{ "nodes": "20%" }, { "nodes": "0", "schedule": "0 9 * * *", "duration": "8h" }, { "nodes": "x%" }],
                },
            },
            "status": { "conditions": [{ "type": "Ready", "status": ready, "reason": "x", "message": "", "lastTransitionTime": at(0).to_string() }] },
        }))
    };
    let mut index = Index::default();
    for unready in [pool("False", Value::Null), pool("True", json!(2))] {
        index.apply(unready, at(0));
        assert!(lowered(&index, at(0)).snapshot.pools.is_empty());
    }
    index.apply(pool("True", Value::Null), at(0));
    let snapshot = lowered(&index, at(0)).snapshot;
    let lowered = &snapshot.pools[0];
    assert_eq!(
        (lowered.weight, lowered.limits["cpu"], lowered.limits["nodes"]),
        (7, 10_000, 3)
    );
    assert_eq!(&*lowered.labels["karpenter.kwok.sh/kwoknodeclass"], "default");
    assert_eq!(lowered.consolidate_after, Some(Duration::from_secs(30)));
    assert_eq!(lowered.budgets[0].nodes, BudgetNodes::Percent(20));
    assert_eq!(
        lowered.budgets[1].window,
        Some(("0 9 * * *".into(), Duration::from_secs(8 * 3600)))
    );
    assert_eq!(lowered.budgets[2].nodes, BudgetNodes::Invalid);
}

#[test]
fn opting_out_is_silent_and_restricted_labels_are_an_error() {
    let needs = |key: &str, operator: &str| {
        json!({ "spec": { "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{ "matchExpressions": [{ "key": key, "operator": operator }] }],
        } } } } })
    };
    let mut index = Index::default();
    index.apply(
        pending("out", needs("karpenter.sh/nodepool", "DoesNotExist")),
        at(0),
    );
    index.apply(pending("wrong", needs("kubernetes.io/hostname", "Exists")), at(0));
    let found = lowered(&index, at(0));
    assert_eq!((found.ignored, found.snapshot.pods.len()), (1, 0));
    assert_eq!(&*found.refused[0].0, "default/wrong");
    assert!(
        found.refused[0].1.contains("kubernetes.io/hostname"),
        "{}",
        found.refused[0].1
    );
}
