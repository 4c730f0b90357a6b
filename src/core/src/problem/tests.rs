use crate::snapshot::{ClassId, Place};

use super::{Problem, ProblemError};

fn wrong(json: &str) -> String {
    match Problem::read(json) {
        Err(error @ ProblemError::Field { .. }) => error.to_string(),
        other => panic!("expected a field error, got {other:?}"),
    }
}

/// A problem of one type with extra fields at the root and in the only pod.
fn with(pod: &str, root: &str) -> String {
    format!(
        r#"{{"types": [{{"name": "m", "cpu": 4000, "mem": 8192, "pods": 10, "offerings":
            [{{"zone": "a", "ct": "on-demand", "price": 0.1}}]}}],
            "pods": [{{"cpu": 100, "mem": 128{pod}}}]{root}}}"#
    )
}

#[test]
fn errors_name_the_path_and_the_fix() {
    let cases = [
        (
            with(r#", "cpus": 1"#, ""),
            "pods[0].cpus: this field is not known; remove it or use one of: ",
        ),
        (
            with(r#", "tolerations": [{"value": "x"}]"#, ""),
            "pods[0].tolerations[0]: a toleration without key",
        ),
        (
            with(
                r#", "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchFields": []}]}}}"#,
                "",
            ),
            "pods[0].affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution\
             .nodeSelectorTerms[0].matchFields: this field is not known",
        ),
        (
            with(r#", "resources": {"example.com/gpu": "x"}"#, ""),
            "pods[0].resources[\"example.com/gpu\"]: this is not a quantity",
        ),
        (
            with(
                "",
                r#", "nodes": [{"name": "n", "type": "q", "zone": "a", "ct": "spot"}]"#,
            ),
            "nodes[0].type: there is no type \"q\"",
        ),
        (
            with("", r#", "pools": [{"name": "p"}, {"name": "p"}]"#),
            "pools: the name \"p\" appears twice",
        ),
        (
            with("", r#", "policy": {"preferences": "Maybe"}"#),
            "policy.preferences: \"Maybe\" is not known here; use one of: Respect, Ignore",
        ),
        (
            r#"{"types": []}"#.to_owned(),
            "pods: this field is required; add \"pods\"",
        ),
        (
            with(
                r#", "topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]"#,
                "",
            ),
            "pods[0].topologySpreadConstraints[0].maxSkew: expected a whole number; write a number from 1",
        ),
    ];
    for (json, expected) in cases {
        let found = wrong(&json);
        assert!(found.starts_with(expected), "{found}\nexpected {expected}");
    }
    assert!(matches!(Problem::read("{"), Err(ProblemError::Syntax(_))));
}

#[test]
fn pods_of_one_meaning_become_one_class() {
    let problem = Problem::read(&with(r#", "count": 3, "labels": {"app": "x"}"#, "")).unwrap();
    let snapshot = problem.snapshot();
    assert_eq!(snapshot.pods.len(), 3);
    assert_eq!(snapshot.classes.len(), 1);
    assert_eq!(&*snapshot.pods[2].key, "default/pod-0000000-0000002");
    assert!(
        snapshot
            .pods
            .iter()
            .all(|p| p.class == ClassId(0) && p.place == Place::Pending)
    );
    let requests: Vec<(&str, i64)> = snapshot.classes[0]
        .requests
        .iter()
        .map(|(k, v)| (&**k, *v))
        .collect();
    assert_eq!(requests, [("cpu", 100), ("memory", 128 << 20), ("pods", 1)]);
}

#[test]
fn nodes_are_sorted_and_their_pods_follow() {
    let nodes = r#", "nodes": [
        {"name": "b", "type": "m", "zone": "a", "ct": "on-demand", "leaving": true, "pods": [{"cpu": 1}]},
        {"name": "a", "type": "m", "zone": "a", "ct": "on-demand", "pods": [{"cpu": 2}]}]"#;
    let snapshot = Problem::read(&with("", nodes)).unwrap().snapshot();
    let names: Vec<&str> = snapshot.nodes.iter().map(|n| &*n.name).collect();
    assert_eq!(names, ["a", "b"]);
    let places: Vec<(&str, Place)> = snapshot.pods.iter().map(|p| (&*p.key, p.place)).collect();
    let node = crate::snapshot::NodeId;
    assert_eq!(
        places,
        [
            ("default/a-0", Place::Bound(node(0))),
            ("default/b-0", Place::Leaving(node(1))),
            ("default/pod-0000000", Place::Pending),
        ]
    );
    assert_eq!(
        snapshot.nodes[0].labels["topology.kubernetes.io/zone"].as_ref(),
        "a"
    );
    assert_eq!(snapshot.nodes[0].price.map(|p| p.0), Some(100_000));
}

#[test]
fn label_keys_of_the_pod_itself_are_folded_into_selectors() {
    let pod = r#", "labels": {"app": "x", "hash": "7"}, "topologySpreadConstraints": [{
        "maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "x"}}, "matchLabelKeys": ["hash", "absent"]}]"#;
    let snapshot = Problem::read(&with(pod, "")).unwrap().snapshot();
    let selector = &snapshot.classes[0].spread[0].selector;
    let keys: Vec<&str> = selector.requirements.iter().map(|r| &*r.key).collect();
    assert_eq!(keys, ["app", "hash"]);
}
