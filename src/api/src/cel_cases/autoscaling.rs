//! Cases of the two small kinds, KWOKNodeClass and CapacityBuffer.

use serde_json::{Value, json};

use super::{Case, create, spec};

pub(super) fn kwoknodeclass() -> Value {
    json!({ "apiVersion": "karpenter.kwok.sh/v1alpha1", "kind": "KWOKNodeClass", "metadata": {}, "spec": {} })
}

pub(super) fn kwoknodeclass_cases() -> Vec<Case> {
    vec![create(
        "nodeRegistrationDelay is a duration",
        spec("nodeRegistrationDelay", json!("30s")),
        spec("nodeRegistrationDelay", json!("soon")),
        "spec.nodeRegistrationDelay in body should match",
    )]
}

pub(super) fn capacitybuffer() -> Value {
    json!({
        "apiVersion": "autoscaling.x-k8s.io/v1beta1",
        "kind": "CapacityBuffer",
        "metadata": { "namespace": "default" },
        "spec": {},
    })
}

pub(super) fn capacitybuffer_cases() -> Vec<Case> {
    let template = json!({ "name": "chunk" });
    let scalable = json!({ "apiGroup": "apps", "kind": "Deployment", "name": "web" });
    vec![
        create(
            "a template needs a size",
            spec("", json!({ "podTemplateRef": template, "replicas": 3 })),
            spec("", json!({ "podTemplateRef": template })),
            "podTemplateRef needs replicas or limits",
        ),
        create(
            "there is one shape",
            spec("", json!({ "scalableRef": scalable, "percentage": 20 })),
            spec(
                "",
                json!({ "scalableRef": scalable, "podTemplateRef": template, "replicas": 3 }),
            ),
            "podTemplateRef and scalableRef cannot both be set",
        ),
        create(
            "limits are quantities",
            spec(
                "",
                json!({ "podTemplateRef": template, "limits": { "cpu": "10", "memory": "64Gi" } }),
            ),
            spec(
                "",
                json!({ "podTemplateRef": template, "limits": { "cpu": "ten" } }),
            ),
            "spec.limits.cpu in body should match",
        ),
    ]
}
