//! Cases of NodeOverlay.

use serde_json::{Value, json};

use super::{Case, create, spec};

pub(super) fn base() -> Value {
    json!({
        "apiVersion": "karpenter.sh/v1alpha1",
        "kind": "NodeOverlay",
        "metadata": {},
        "spec": { "requirements": [] },
    })
}

fn requirement(value: Value) -> Value {
    spec("requirements", vec![value].into())
}

fn key(key: &str) -> Value {
    requirement(json!({ "key": key, "operator": "Exists" }))
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        create(
            "keys are qualified names",
            key("example.com/team"),
            key(".example.com/team"),
            "spec.requirements[0].key in body should match",
        ),
        create(
            "keys stay out of karpenter.sh",
            key("karpenter.sh/nodepool"),
            key("karpenter.sh/custom"),
            "label domain \"karpenter.sh\" is restricted",
        ),
        create(
            "keys stay out of karpenter.k8s.aws",
            key("karpenter.k8s.aws/instance-family"),
            key("karpenter.k8s.aws/capacity-reservation-id"),
            "label domain \"karpenter.k8s.aws\" is restricted",
        ),
        create(
            "keys stay out of karpenter.kwok.sh",
            key("karpenter.kwok.sh/instance-family"),
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
            requirement(json!({ "key": "team", "operator": "In", "values": ["a/b"] })),
            "spec.requirements[0].values[0] in body should match",
        ),
        create(
            "In has values",
            requirement(json!({ "key": "team", "operator": "In", "values": ["a"] })),
            requirement(json!({ "key": "team", "operator": "In" })),
            "requirements with operator 'In' must have at least one value",
        ),
        create(
            "NotIn has values",
            requirement(json!({ "key": "team", "operator": "NotIn", "values": ["a"] })),
            requirement(json!({ "key": "team", "operator": "NotIn" })),
            "requirements with operator 'NotIn' must have at least one value",
        ),
        create(
            "comparisons have one integer",
            requirement(
                json!({ "key": "karpenter.k8s.aws/instance-cpu", "operator": "Lt", "values": ["4"] }),
            ),
            requirement(json!({ "key": "karpenter.k8s.aws/instance-cpu", "operator": "Lt", "values": [] })),
            "must have a single integer value of at least 0",
        ),
        create(
            "there is one price",
            spec("price", json!("0.25")),
            spec("", json!({ "price": "0.25", "priceAdjustment": "+10%" })),
            "'price' and 'priceAdjustment' cannot both be set",
        ),
        create(
            "price is a number",
            spec("price", json!("12")),
            spec("price", json!("-1")),
            "spec.price in body should match",
        ),
        create(
            "priceAdjustment leaves no price below zero",
            spec("priceAdjustment", json!("-100%")),
            spec("priceAdjustment", json!("-101%")),
            "spec.priceAdjustment in body should match",
        ),
        create(
            "priceAdjustment has a sign",
            spec("priceAdjustment", json!("-0.5")),
            spec("priceAdjustment", json!("0.5")),
            "spec.priceAdjustment in body should match",
        ),
        create(
            "capacity adds extended resources",
            spec("capacity", json!({ "example.com/gpu": 4 })),
            spec("capacity", json!({ "cpu": 4 })),
            "capacity may only add extended resources",
        ),
        create(
            "capacity is in quantities",
            spec("capacity", json!({ "smarter-devices/fuse": "1" })),
            spec("capacity", json!({ "smarter-devices/fuse": "one" })),
            "spec.capacity.smarter-devices/fuse in body should match",
        ),
    ]
}
