//! The objects that tests apply, as small as they can be. A test changes the fields it is about.

use serde_json::{Value, json};

/// A NodePool of the kwok provider that may buy any Linux machine on amd64, and consolidates without waiting.
pub fn node_pool(name: &str) -> Value {
    json!({
        "apiVersion": "karpenter.sh/v1", "kind": "NodePool",
        "metadata": {"name": name},
        "spec": {
            "template": {
                "metadata": {},
                "spec": {
                    "requirements": [
                        {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]},
                        {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]},
                        {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot", "on-demand"]},
                    ],
                    "nodeClassRef": {"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "default"},
                    "expireAfter": "Never",
                },
            },
            "disruption": {
                "consolidationPolicy": "WhenEmptyOrUnderutilized",
                "consolidateAfter": "0s",
                "budgets": [{"nodes": "100%"}],
            },
        },
    })
}

/// The node class that [`node_pool`] refers to.
pub fn node_class() -> Value {
    json!({
        "apiVersion": "karpenter.kwok.sh/v1alpha1", "kind": "KWOKNodeClass",
        "metadata": {"name": "default"}, "spec": {},
    })
}

/// A NodePool of the AWS provider that may buy any Linux machine on amd64, and consolidates without waiting.
pub fn aws_node_pool(name: &str) -> Value {
    let mut pool = node_pool(name);
    pool["spec"]["template"]["spec"]["nodeClassRef"] =
        json!({"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default"});
    pool
}

/// The class that [`aws_node_pool`] refers to: the seeded subnets and security groups, the latest AL2023.
pub fn ec2_node_class(cluster: &str, node_role: &str) -> Value {
    let discovered = json!([{"tags": {"karpenter.sh/discovery": cluster}}]);
    json!({
        "apiVersion": "karpenter.k8s.aws/v1", "kind": "EC2NodeClass",
        "metadata": {"name": "default"},
        "spec": {
            "amiSelectorTerms": [{"alias": "al2023@latest"}],
            "role": node_role,
            "subnetSelectorTerms": discovered,
            "securityGroupSelectorTerms": discovered,
        },
    })
}

/// A pod that asks for this much CPU and ends within a second of its deletion.
pub fn pod(name: &str, cpu: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}, "annotations": {}},
        "spec": pod_spec(cpu),
    })
}

/// A Deployment of such pods.
pub fn deployment(name: &str, replicas: usize, cpu: &str) -> Value {
    let mut deployment = pod_controller("Deployment", name, cpu);
    deployment["spec"]["replicas"] = replicas.into();
    deployment
}

/// A DaemonSet of such pods.
pub fn daemon_set(name: &str, cpu: &str) -> Value {
    pod_controller("DaemonSet", name, cpu)
}

fn pod_controller(kind: &str, name: &str, cpu: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}, "annotations": {}},
                "spec": pod_spec(cpu),
            },
        },
    })
}

fn pod_spec(cpu: &str) -> Value {
    json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "pause", "resources": {"requests": {"cpu": cpu}}}],
    })
}

/// A budget for the pods of the app `name` that keeps `min_available` of them.
pub fn disruption_budget(name: &str, min_available: u32) -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": name},
        "spec": {"minAvailable": min_available, "selector": {"matchLabels": {"app": name}}},
    })
}

/// Anti-affinity that keeps two pods of the app `name` off one machine.
pub fn one_per_machine(name: &str) -> Value {
    json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"app": name}},
    }]}})
}
