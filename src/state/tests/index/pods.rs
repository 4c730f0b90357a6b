//! What a pod means to a plan.

use super::*;

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

    assert_eq!(index.waiting(at(0)), 1);
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
