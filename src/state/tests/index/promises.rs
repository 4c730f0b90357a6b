//! Places promised to pods.

use super::*;

#[test]
fn promises_hold_a_place_and_are_counted_when_kept() {
    let mut index = Index::default();
    with_machine(&mut index, "a");
    with_machine(&mut index, "b");
    for name in ["kept", "broken"] {
        index.apply(pending(name, json!({})), at(0));
        index.promise(&format!("default/{name}").into(), "a", at(0));
    }
    assert_eq!(index.waiting(at(0)), 0);
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
        (index.waiting(at(0)), index.take_touched().claims.contains("a"))
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

/// The pods `a` and `b` have places on one machine in service.
fn two_promised() -> Index {
    let mut index = Index::default();
    with_machine(&mut index, "open");
    for pod in ["a", "b"] {
        index.apply(pending(pod, json!({})), at(0));
        index.promise(&format!("default/{pod}").into(), "open", at(0));
    }
    index
}

#[test]
fn a_promise_stands_while_kube_scheduler_gets_through_the_pods_of_plans() {
    let long = i64::try_from(PROMISE_WINDOW.as_secs()).unwrap() + 1;
    let mut index = two_promised();
    index.apply(bound("a", "node-open", json!({})), at(long - 2));
    index.expire(at(long));
    assert_eq!(index.waiting(at(0)), 0);
    index.expire(at(2 * long));
    assert_eq!(index.waiting(at(0)), 1);
}

#[test]
fn a_promise_does_not_stand_for_ever_because_others_are_kept() {
    let longest = i64::try_from(PROMISE_MAX.as_secs()).unwrap();
    let mut index = two_promised();
    index.apply(bound("a", "node-open", json!({})), at(longest - 1));
    index.expire(at(longest));
    assert_eq!(index.waiting(at(0)), 0);
    index.expire(at(longest + 1));
    assert_eq!(index.waiting(at(0)), 1);
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
        index.waiting(at(0)),
        1,
        "a target that does not exist promises nothing"
    );
    index.expire(at(long));
    assert_eq!(
        index.waiting(at(0)),
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
    assert_eq!(index.waiting(at(0)), 3);
}

fn owned_by(kind: &str) -> Value {
    let owner = json!({ "apiVersion": "apps/v1", "kind": kind, "name": "a", "uid": "a" });
    json!({ "metadata": { "ownerReferences": [owner] } })
}

/// A machine `old` that leaves, with one pod `a` on it, of a ReplicaSet unless the patch says otherwise.
fn leaving(pod_patch: Value) -> Index {
    let mut index = Index::default();
    with_machine(&mut index, "old");
    let mut pod = owned_by("ReplicaSet");
    merge(&mut pod, pod_patch);
    index.apply(bound("a", "node-old", pod), at(0));
    index.take_touched();
    leave(&mut index, "old");
    index
}

fn leave(index: &mut Index, name: &str) {
    let mut leaves = in_service(name, at(0));
    merge(
        &mut leaves,
        json!({ "metadata": { "deletionTimestamp": at(1).to_string() } }),
    );
    index.apply(claim(name, 2, leaves), at(1));
}

fn on_new_machine(index: &mut Index) {
    with_machine(index, "new");
    index.promise(&"default/a".into(), "new", at(1));
    index.take_touched();
}

#[test]
fn pods_of_a_machine_that_leaves_wait_for_their_next_place() {
    let mut index = leaving(json!({}));
    assert_eq!((index.waiting(at(1)), index.take_touched().waiting_pods), (1, 1));
    index.promise(&"default/a".into(), "new", at(1));
    index.expire(at(1));
    assert_eq!(index.waiting(at(1)), 1, "no such machine");
    on_new_machine(&mut index);
    let later = i64::try_from(PROMISE_MAX.as_secs()).unwrap() + 2;
    index.expire(at(later));
    assert_eq!(
        index.waiting(at(later)),
        0,
        "kube-scheduler has had no chance yet"
    );
    assert!(
        index.view("new").unwrap().awaited,
        "and nobody removes it as empty"
    );
    assert!(index.view("old").unwrap().replaced.contains("default/a"));
}

#[test]
fn no_place_is_looked_for_where_nobody_makes_the_pod_anew() {
    let mut index = leaving(json!({ "metadata": { "ownerReferences": [] } }));
    assert_eq!((index.waiting(at(1)), index.take_touched().waiting_pods), (0, 0));
}

#[test]
fn the_next_place_of_a_pod_is_looked_for_anew_when_it_is_lost() {
    let mut gone = leaving(json!({}));
    on_new_machine(&mut gone);
    leave(&mut gone, "new");
    assert_eq!(gone.take_touched().waiting_pods, 1, "the planner wakes");
    gone.expire(at(2));
    assert_eq!(gone.waiting(at(2)), 1);

    let mut taken = leaving(json!({}));
    on_new_machine(&mut taken);
    let thief = json!({ "spec": { "containers": [{ "name": "main", "resources": { "requests": { "cpu": "3500m" } } }] } });
    taken.apply(bound("thief", "node-new", thief), at(2));
    taken.expire(at(2));
    assert_eq!(taken.waiting(at(2)), 1, "3.9 CPUs, 3.5 taken, 0.5 wanted");
}

#[test]
fn a_pod_that_cannot_be_evicted_is_moved_only_if_its_machine_ends() {
    let keeps = json!({ "metadata": { "annotations": { "karpenter.sh/do-not-disrupt": "true" } } });
    let mut index = leaving(keeps);
    assert_eq!(index.waiting(at(1)), 0);
    let mut ends_at = |seconds: i64| {
        let mut ends = in_service("old", at(0));
        let metadata = json!({ "metadata": {
            "deletionTimestamp": at(1).to_string(),
            "annotations": { "plimsoll.dev/ends-at": at(seconds).to_string() },
        } });
        merge(&mut ends, metadata);
        index.apply(claim("old", 3, ends), at(1));
        [index.waiting(at(1)), index.waiting(at(seconds - 120))]
    };
    let week = 7 * 24 * 3600;
    assert_eq!(
        ends_at(week),
        [0, 1],
        "no machine is to stand empty for it for a week"
    );
    assert_eq!(ends_at(120), [1, 1]);
}

#[test]
fn the_place_of_a_stateful_pod_is_kept_while_it_shuts_down() {
    let stateful = owned_by("StatefulSet");
    let mut index = leaving(stateful.clone());
    on_new_machine(&mut index);
    let mut evicted = stateful;
    merge(
        &mut evicted,
        json!({ "metadata": { "deletionTimestamp": at(32).to_string() } }),
    );
    index.apply(bound("a", "node-old", evicted), at(2));
    index.expire(at(30));
    assert!(index.view("new").unwrap().awaited);
}
