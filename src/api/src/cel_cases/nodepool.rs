//! Cases of NodePool.

use serde_json::{Value, json};

use super::{Case, create, spec, update};

pub(super) fn base() -> Value {
    json!({
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": {},
        "spec": { "template": { "spec": {
            "nodeClassRef": { "group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default" },
            "requirements": [],
        } } },
    })
}

fn labels(value: Value) -> Value {
    spec("template.metadata.labels", value)
}

fn requirement(value: Value) -> Value {
    spec("template.spec.requirements", vec![value].into())
}

fn key(key: &str) -> Value {
    requirement(json!({ "key": key, "operator": "Exists" }))
}

fn budget(value: Value) -> Value {
    let mut disruption = json!({ "consolidateAfter": "0s" });
    disruption["budgets"] = vec![value].into();
    spec("disruption", disruption)
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = template_cases();
    cases.extend(requirement_cases());
    cases.extend(pool_cases());
    cases
}

fn template_cases() -> Vec<Case> {
    vec![
        create(
            "labels stay out of karpenter.sh",
            labels(json!({ "karpenter.sh/capacity-type": "spot", "notkarpenter.sh/x": "" })),
            labels(json!({ "karpenter.sh/custom": "x" })),
            "label domain \"karpenter.sh\" is restricted",
        ),
        create(
            "labels stay out of subdomains of karpenter.sh",
            labels(json!({ "example.com/team": "a" })),
            labels(json!({ "sub.karpenter.sh/custom": "x" })),
            "label domain \"karpenter.sh\" is restricted",
        ),
        create(
            "labels stay out of karpenter.k8s.aws",
            labels(json!({ "karpenter.k8s.aws/instance-family": "m7i" })),
            labels(json!({ "karpenter.k8s.aws/custom": "x" })),
            "label domain \"karpenter.k8s.aws\" is restricted",
        ),
        create(
            "labels stay out of karpenter.kwok.sh",
            labels(json!({ "karpenter.kwok.sh/instance-size": "4x" })),
            labels(json!({ "karpenter.kwok.sh/custom": "x" })),
            "label domain \"karpenter.kwok.sh\" is restricted",
        ),
        create(
            "labels do not name the pool",
            labels(json!({})),
            labels(json!({ "karpenter.sh/nodepool": "other" })),
            "label \"karpenter.sh/nodepool\" is restricted",
        ),
        create(
            "labels do not name a host",
            labels(json!({ "kubernetes.io/arch": "arm64" })),
            labels(json!({ "kubernetes.io/hostname": "host-1" })),
            "label \"kubernetes.io/hostname\" is restricted",
        ),
        create(
            "label values are label values",
            labels(json!({ "team": "a_B.c-1" })),
            labels(json!({ "team": "not a value" })),
            "spec.template.metadata.labels.team in body should match",
        ),
        create(
            "taint keys are qualified names",
            spec(
                "template.spec.taints",
                json!([{ "key": "example.com/gpu", "effect": "NoSchedule" }]),
            ),
            spec(
                "template.spec.taints",
                json!([{ "key": "example.com/", "effect": "NoSchedule" }]),
            ),
            "spec.template.spec.taints[0].key in body should match",
        ),
        create(
            "taint values are qualified names",
            spec(
                "template.spec.taints",
                json!([{ "key": "a", "value": "b", "effect": "PreferNoSchedule" }]),
            ),
            spec(
                "template.spec.taints",
                json!([{ "key": "a", "value": "b c", "effect": "PreferNoSchedule" }]),
            ),
            "spec.template.spec.taints[0].value in body should match",
        ),
        create(
            "startup taint keys are qualified names",
            spec(
                "template.spec.startupTaints",
                json!([{ "key": "init", "effect": "NoExecute" }]),
            ),
            spec(
                "template.spec.startupTaints",
                json!([{ "key": "in it", "effect": "NoExecute" }]),
            ),
            "spec.template.spec.startupTaints[0].key in body should match",
        ),
        create(
            "startup taint values are qualified names",
            spec(
                "template.spec.startupTaints",
                json!([{ "key": "a", "value": "b", "effect": "NoExecute" }]),
            ),
            spec(
                "template.spec.startupTaints",
                json!([{ "key": "a", "value": "b c", "effect": "NoExecute" }]),
            ),
            "spec.template.spec.startupTaints[0].value in body should match",
        ),
        create(
            "taint effects are Kubernetes' own",
            spec(
                "template.spec.taints",
                json!([{ "key": "a", "effect": "NoExecute" }]),
            ),
            spec("template.spec.taints", json!([{ "key": "a", "effect": "Never" }])),
            "Unsupported value: \"Never\"",
        ),
        create(
            "expireAfter is a duration or Never",
            spec("template.spec.expireAfter", json!("Never")),
            spec("template.spec.expireAfter", json!("30d")),
            "spec.template.spec.expireAfter in body should match",
        ),
        create(
            "terminationGracePeriod is a duration",
            spec("template.spec.terminationGracePeriod", json!("1h30m")),
            spec("template.spec.terminationGracePeriod", json!("Never")),
            "spec.template.spec.terminationGracePeriod in body should match",
        ),
        create(
            "nodeClassRef.group has no version",
            spec("template.spec.nodeClassRef.group", json!("karpenter.kwok.sh")),
            spec("template.spec.nodeClassRef.group", json!("karpenter.k8s.aws/v1")),
            "spec.template.spec.nodeClassRef.group in body should match",
        ),
        create(
            "nodeClassRef.group is there",
            json!({}),
            spec("template.spec.nodeClassRef.group", json!("")),
            "group may not be empty",
        ),
        create(
            "nodeClassRef.kind is there",
            json!({}),
            spec("template.spec.nodeClassRef.kind", json!("")),
            "kind may not be empty",
        ),
        create(
            "nodeClassRef.name is there",
            json!({}),
            spec("template.spec.nodeClassRef.name", json!("")),
            "name may not be empty",
        ),
        update(
            "nodeClassRef.group stays",
            json!({}),
            spec("template.spec.nodeClassRef.group", json!("karpenter.kwok.sh")),
            "nodeClassRef.group is immutable",
        ),
        update(
            "nodeClassRef.kind stays",
            json!({}),
            spec("template.spec.nodeClassRef.kind", json!("Other")),
            "nodeClassRef.kind is immutable",
        ),
    ]
}

fn requirement_cases() -> Vec<Case> {
    vec![
        create(
            "requirement keys are qualified names",
            key("example.com/team"),
            key("example.com/team/a"),
            "spec.template.spec.requirements[0].key in body should match",
        ),
        create(
            "requirement keys stay out of karpenter.sh",
            key("karpenter.sh/capacity-type"),
            key("karpenter.sh/registered"),
            "label domain \"karpenter.sh\" is restricted",
        ),
        create(
            "requirement keys stay out of karpenter.k8s.aws",
            key("karpenter.k8s.aws/instance-tenancy"),
            key("karpenter.k8s.aws/custom"),
            "label domain \"karpenter.k8s.aws\" is restricted",
        ),
        create(
            "requirement keys stay out of karpenter.kwok.sh",
            key("karpenter.kwok.sh/instance-cpu"),
            key("karpenter.kwok.sh/custom"),
            "label domain \"karpenter.kwok.sh\" is restricted",
        ),
        create(
            "requirement keys do not name the pool",
            key("topology.kubernetes.io/zone"),
            key("karpenter.sh/nodepool"),
            "label \"karpenter.sh/nodepool\" is restricted",
        ),
        create(
            "requirement keys do not name a host",
            key("node.kubernetes.io/instance-type"),
            key("kubernetes.io/hostname"),
            "label \"kubernetes.io/hostname\" is restricted",
        ),
        create(
            "requirement values are label values",
            requirement(json!({ "key": "team", "operator": "NotIn", "values": ["a"] })),
            requirement(json!({ "key": "team", "operator": "NotIn", "values": ["a b"] })),
            "spec.template.spec.requirements[0].values[0] in body should match",
        ),
        create(
            "operators are known",
            requirement(json!({ "key": "team", "operator": "DoesNotExist" })),
            requirement(json!({ "key": "team", "operator": "Like", "values": ["a"] })),
            "Unsupported value: \"Like\"",
        ),
        create(
            "In has values",
            requirement(json!({ "key": "team", "operator": "In", "values": ["a"] })),
            requirement(json!({ "key": "team", "operator": "In", "values": [] })),
            "requirements with operator 'In' must have at least one value",
        ),
        create(
            "In has the list of values",
            requirement(json!({ "key": "team", "operator": "Exists" })),
            requirement(json!({ "key": "team", "operator": "In" })),
            "requirements with operator 'In' must have at least one value",
        ),
        create(
            "Gt has one value",
            requirement(
                json!({ "key": "karpenter.k8s.aws/instance-cpu", "operator": "Gt", "values": ["4"] }),
            ),
            requirement(
                json!({ "key": "karpenter.k8s.aws/instance-cpu", "operator": "Gt", "values": ["4", "8"] }),
            ),
            "must have a single integer value of at least 0",
        ),
        create(
            "Lt has an integer",
            requirement(
                json!({ "key": "karpenter.k8s.aws/instance-cpu", "operator": "Lt", "values": ["0"] }),
            ),
            requirement(
                json!({ "key": "karpenter.k8s.aws/instance-cpu", "operator": "Lt", "values": ["four"] }),
            ),
            "must have a single integer value of at least 0",
        ),
        create(
            "Gte has a whole number",
            requirement(
                json!({ "key": "karpenter.k8s.aws/instance-cpu", "operator": "Gte", "values": ["16"] }),
            ),
            requirement(
                json!({ "key": "karpenter.k8s.aws/instance-cpu", "operator": "Gte", "values": ["1.5"] }),
            ),
            "must have a single integer value of at least 0",
        ),
        create(
            "Lte has a value",
            requirement(
                json!({ "key": "karpenter.k8s.aws/instance-cpu", "operator": "Lte", "values": ["64"] }),
            ),
            requirement(json!({ "key": "karpenter.k8s.aws/instance-cpu", "operator": "Lte" })),
            "must have a single integer value of at least 0",
        ),
        create(
            "minValues can be met",
            requirement(json!({ "key": "team", "operator": "In", "values": ["a", "b"], "minValues": 2 })),
            requirement(json!({ "key": "team", "operator": "In", "values": ["a"], "minValues": 2 })),
            "requirements with operator 'In' and 'minValues' must have at least that many values",
        ),
        create(
            "minValues has a bound",
            requirement(
                json!({ "key": "node.kubernetes.io/instance-type", "operator": "Exists", "minValues": 50 }),
            ),
            requirement(
                json!({ "key": "node.kubernetes.io/instance-type", "operator": "Exists", "minValues": 51 }),
            ),
            "should be less than or equal to 50",
        ),
    ]
}

fn pool_cases() -> Vec<Case> {
    vec![
        create(
            "consolidateAfter is a duration or Never",
            spec("disruption", json!({ "consolidateAfter": "Never" })),
            spec("disruption", json!({ "consolidateAfter": "1.5h" })),
            "spec.disruption.consolidateAfter in body should match",
        ),
        create(
            "consolidationPolicy is known",
            spec(
                "disruption",
                json!({ "consolidateAfter": "30s", "consolidationPolicy": "Balanced" }),
            ),
            spec(
                "disruption",
                json!({ "consolidateAfter": "30s", "consolidationPolicy": "Always" }),
            ),
            "Unsupported value: \"Always\"",
        ),
        create(
            "budget nodes are a number or a percentage",
            budget(json!({ "nodes": "100%" })),
            budget(json!({ "nodes": "101%" })),
            "spec.disruption.budgets[0].nodes in body should match",
        ),
        create(
            "budget schedule is a cron expression",
            budget(json!({ "nodes": "0", "schedule": "0 9 * * mon-fri", "duration": "8h" })),
            budget(json!({ "nodes": "0", "schedule": "every monday", "duration": "8h" })),
            "spec.disruption.budgets[0].schedule in body should match",
        ),
        create(
            "budget duration has no seconds",
            budget(json!({ "nodes": "0", "schedule": "@daily", "duration": "1h30m0s" })),
            budget(json!({ "nodes": "0", "schedule": "@daily", "duration": "90s" })),
            "spec.disruption.budgets[0].duration in body should match",
        ),
        create(
            "budget schedule and duration go together",
            budget(json!({ "nodes": "5" })),
            budget(json!({ "nodes": "5", "schedule": "@daily" })),
            "a budget must have both 'schedule' and 'duration', or neither",
        ),
        create(
            "budget reasons are known",
            budget(json!({ "nodes": "5", "reasons": ["Empty", "Drifted", "Underutilized"] })),
            budget(json!({ "nodes": "5", "reasons": ["Expired"] })),
            "Unsupported value: \"Expired\"",
        ),
        create(
            "budget reasons are a set",
            budget(json!({ "nodes": "5", "reasons": ["Empty"] })),
            budget(json!({ "nodes": "5", "reasons": ["Empty", "Empty"] })),
            "Duplicate value: \"Empty\"",
        ),
        create(
            "limits are quantities",
            spec(
                "limits",
                json!({ "cpu": 1000, "memory": "1.5Ti", "nodes": "10", "example.com/gpu": "8" }),
            ),
            spec("limits", json!({ "cpu": "a lot" })),
            "spec.limits.cpu in body should match",
        ),
        create(
            "weight has a bound",
            spec("weight", json!(100)),
            spec("weight", json!(101)),
            "should be less than or equal to 100",
        ),
        create(
            "replicas are not negative",
            spec("replicas", json!(0)),
            spec("replicas", json!(-1)),
            "should be greater than or equal to 0",
        ),
        create(
            "replicas go with a limit on nodes only",
            spec("", json!({ "replicas": 3, "limits": { "nodes": 5 } })),
            spec("", json!({ "replicas": 3, "limits": { "nodes": 5, "cpu": 10 } })),
            "only 'limits.nodes' is supported on a NodePool with replicas",
        ),
        create(
            "replicas go without weight",
            spec("replicas", json!(3)),
            spec("", json!({ "replicas": 3, "weight": 1 })),
            "'weight' is not supported on a NodePool with replicas",
        ),
        update(
            "a dynamic pool stays dynamic",
            json!({}),
            spec("replicas", json!(3)),
            "replicas can be neither added nor removed",
        ),
        update(
            "a static pool stays static",
            spec("replicas", json!(3)),
            json!({}),
            "replicas can be neither added nor removed",
        ),
    ]
}
