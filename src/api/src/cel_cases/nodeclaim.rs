//! Cases of NodeClaim.

use serde_json::{Value, json};

use super::{Case, create, spec, update};

pub(super) fn base() -> Value {
    json!({
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodeClaim",
        "metadata": {},
        "spec": {
            "nodeClassRef": { "group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default" },
            "requirements": [
                { "key": "karpenter.sh/nodepool", "operator": "In", "values": ["default"] },
                { "key": "karpenter.k8s.aws/ec2nodeclass", "operator": "In", "values": ["default"] },
            ],
        },
    })
}

fn requirement(value: Value) -> Value {
    spec("requirements", vec![value].into())
}

fn key(key: &str) -> Value {
    requirement(json!({ "key": key, "operator": "Exists" }))
}

fn taint(list: &str, key: &str, value: &str) -> Value {
    spec(
        list,
        json!([{ "key": key, "value": value, "effect": "NoSchedule" }]),
    )
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        create(
            "keys are qualified names",
            key("example.com/team"),
            key("example.com/team/a"),
            "spec.requirements[0].key in body should match",
        ),
        create(
            "keys stay out of karpenter.sh",
            key("karpenter.sh/nodepool"),
            key("karpenter.sh/initialized"),
            "label domain \"karpenter.sh\" is restricted",
        ),
        create(
            "keys stay out of karpenter.k8s.aws",
            key("karpenter.k8s.aws/capacity-reservation-id"),
            key("karpenter.k8s.aws/custom"),
            "label domain \"karpenter.k8s.aws\" is restricted",
        ),
        create(
            "keys stay out of karpenter.kwok.sh",
            key("karpenter.kwok.sh/kwoknodeclass"),
            key("karpenter.kwok.sh/custom"),
            "label domain \"karpenter.kwok.sh\" is restricted",
        ),
        create(
            "keys do not name a host",
            key("kubernetes.io/os"),
            key("kubernetes.io/hostname"),
            "label \"kubernetes.io/hostname\" is restricted",
        ),
        create(
            "values are label values",
            requirement(json!({ "key": "team", "operator": "In", "values": ["a"] })),
            requirement(json!({ "key": "team", "operator": "In", "values": ["-a"] })),
            "spec.requirements[0].values[0] in body should match",
        ),
        create(
            "In has values",
            requirement(json!({ "key": "team", "operator": "In", "values": ["a"] })),
            requirement(json!({ "key": "team", "operator": "In" })),
            "requirements with operator 'In' must have at least one value",
        ),
        create(
            "comparisons have one integer",
            requirement(
                json!({ "key": "karpenter.k8s.aws/instance-cpu", "operator": "Gte", "values": ["4"] }),
            ),
            requirement(
                json!({ "key": "karpenter.k8s.aws/instance-cpu", "operator": "Gte", "values": ["a"] }),
            ),
            "must have a single integer value of at least 0",
        ),
        create(
            "minValues can be met",
            requirement(json!({ "key": "team", "operator": "In", "values": ["a", "b"], "minValues": 2 })),
            requirement(json!({ "key": "team", "operator": "In", "values": ["a", "b"], "minValues": 3 })),
            "requirements with operator 'In' and 'minValues' must have at least that many values",
        ),
        create(
            "taint keys are qualified names",
            taint("taints", "a", "b"),
            taint("taints", "a/", "b"),
            "spec.taints[0].key in body should match",
        ),
        create(
            "taint values are qualified names",
            taint("taints", "example.com/a", "b"),
            taint("taints", "example.com/a", "b c"),
            "spec.taints[0].value in body should match",
        ),
        create(
            "startup taint keys are qualified names",
            taint("startupTaints", "a", "b"),
            taint("startupTaints", "a/", "b"),
            "spec.startupTaints[0].key in body should match",
        ),
        create(
            "startup taint values are qualified names",
            taint("startupTaints", "example.com/a", "b"),
            taint("startupTaints", "example.com/a", "b c"),
            "spec.startupTaints[0].value in body should match",
        ),
        create(
            "requests are quantities",
            spec("resources.requests", json!({ "cpu": "1500m", "pods": 5 })),
            spec("resources.requests", json!({ "cpu": "1500mm" })),
            "spec.resources.requests.cpu in body should match",
        ),
        create(
            "expireAfter is a duration or Never",
            spec("expireAfter", json!("24h")),
            spec("expireAfter", json!("never")),
            "spec.expireAfter in body should match",
        ),
        create(
            "terminationGracePeriod is a duration",
            spec("terminationGracePeriod", json!("30s")),
            spec("terminationGracePeriod", json!("30")),
            "spec.terminationGracePeriod in body should match",
        ),
        create(
            "nodeClassRef.group has no version",
            json!({}),
            spec("nodeClassRef.group", json!("karpenter.k8s.aws/v1")),
            "spec.nodeClassRef.group in body should match",
        ),
        create(
            "nodeClassRef.group is there",
            json!({}),
            spec("nodeClassRef.group", json!("")),
            "group may not be empty",
        ),
        create(
            "nodeClassRef.kind is there",
            json!({}),
            spec("nodeClassRef.kind", json!("")),
            "kind may not be empty",
        ),
        create(
            "nodeClassRef.name is there",
            json!({}),
            spec("nodeClassRef.name", json!("")),
            "name may not be empty",
        ),
        update(
            "the spec stays",
            json!({}),
            spec("expireAfter", json!("1h")),
            "spec is immutable",
        ),
    ]
}
