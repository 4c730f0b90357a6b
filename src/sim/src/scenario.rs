//! What a run is about: pools, workloads, a script, and how much goes wrong.

use std::sync::Arc;

use jiff::SignedDuration;
use plimsoll_api::nodepool::NodePool;
use plimsoll_core::{
    catalog::{Catalog, InstanceType, MicroDollars, Offering},
    requirement::{Operator, Requirement},
};
use serde_json::{Value, json};

use crate::{faults::Rates, world::Workload};

/// A course of events, apart from chance.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub(crate) pools: Vec<NodePool>,
    pub(crate) workloads: Vec<Workload>,
    /// Objects that exist from the start: budgets, daemons, nodes of others.
    pub(crate) budgets: Vec<Value>,
    pub(crate) daemons: Vec<Value>,
    pub(crate) script: Vec<(SignedDuration, Action)>,
    pub(crate) rates: Rates,
    /// When faults end. The script must be through by then.
    pub(crate) trouble: SignedDuration,
    pub(crate) nominate: bool,
}

/// One line of a script.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Scale {
        workload: &'static str,
        replicas: u32,
    },
    /// A person deletes a NodeClaim.
    DeleteClaim,
    /// A person deletes a Node of ours.
    DeleteNode,
}

impl Scenario {
    /// Everything there is to run.
    pub fn all() -> Vec<Self> {
        vec![
            burst_with_limits(),
            scale_down_with_budgets(),
            crash_storm(),
            machines_fail(),
            deadlines(),
            late_watches(),
            churn(),
        ]
    }
}

/// Bursts against a pool with tight limits, with a dearer pool without limits behind it.
fn burst_with_limits() -> Scenario {
    let limited = pool(
        "limited",
        json!({ "limits": { "cpu": "26", "nodes": "6" }, "weight": 50 }),
    );
    Scenario {
        name: "burst-with-limits",
        pools: vec![limited, pool("rest", json!({}))],
        workloads: vec![workload("web", 20, "1", "2Gi"), workload("batch", 6, "3", "4Gi")],
        budgets: vec![],
        daemons: vec![daemon()],
        script: vec![
            (
                secs(60),
                Action::Scale {
                    workload: "batch",
                    replicas: 14,
                },
            ),
            (
                secs(180),
                Action::Scale {
                    workload: "web",
                    replicas: 5,
                },
            ),
            (
                secs(260),
                Action::Scale {
                    workload: "web",
                    replicas: 32,
                },
            ),
            (
                secs(400),
                Action::Scale {
                    workload: "batch",
                    replicas: 3,
                },
            ),
            (
                secs(480),
                Action::Scale {
                    workload: "batch",
                    replicas: 10,
                },
            ),
        ],
        rates: Rates::ROUGH,
        trouble: secs(600),
        nominate: true,
    }
}

/// Workloads that shrink under budgets while people delete nodes and claims.
fn scale_down_with_budgets() -> Scenario {
    let mut careful = workload("careful", 12, "1500m", "3Gi");
    careful.spec["terminationGracePeriodSeconds"] = json!(5);
    Scenario {
        name: "scale-down-with-budgets",
        pools: vec![pool(
            "default",
            json!({ "disruption": {
            "consolidateAfter": "20s", "consolidationPolicy": "WhenEmpty", "budgets": [{ "nodes": "30%" }],
        } }),
        )],
        workloads: vec![careful, workload("web", 16, "1", "2Gi")],
        budgets: vec![budget("careful", 10), budget("web", 4)],
        daemons: vec![daemon()],
        script: vec![
            (secs(150), Action::DeleteNode),
            (secs(200), Action::DeleteClaim),
            (
                secs(240),
                Action::Scale {
                    workload: "web",
                    replicas: 4,
                },
            ),
            (secs(300), Action::DeleteNode),
            (secs(330), Action::DeleteClaim),
            (
                secs(400),
                Action::Scale {
                    workload: "web",
                    replicas: 18,
                },
            ),
            (
                secs(500),
                Action::Scale {
                    workload: "web",
                    replicas: 6,
                },
            ),
        ],
        rates: Rates::ROUGH,
        trouble: secs(700),
        nominate: true,
    }
}

/// A controller that dies every few calls.
fn crash_storm() -> Scenario {
    Scenario {
        name: "crash-storm",
        pools: vec![pool("default", json!({ "limits": { "cpu": "80" } }))],
        workloads: vec![
            workload("web", 24, "1", "2Gi"),
            workload("batch", 6, "3500m", "7Gi"),
        ],
        budgets: vec![budget("web", 2)],
        daemons: vec![],
        script: vec![
            (
                secs(200),
                Action::Scale {
                    workload: "web",
                    replicas: 4,
                },
            ),
            (secs(320), Action::DeleteNode),
            (
                secs(400),
                Action::Scale {
                    workload: "web",
                    replicas: 30,
                },
            ),
            (
                secs(550),
                Action::Scale {
                    workload: "batch",
                    replicas: 0,
                },
            ),
        ],
        rates: Rates {
            crash: 400,
            ..Rates::ROUGH
        },
        trouble: secs(800),
        nominate: false,
    }
}

/// Machines that vanish or never become nodes.
fn machines_fail() -> Scenario {
    Scenario {
        name: "machines-fail",
        pools: vec![pool("default", json!({}))],
        workloads: vec![workload("web", 20, "1", "2Gi"), workload("batch", 5, "3", "6Gi")],
        budgets: vec![budget("web", 10)],
        daemons: vec![daemon()],
        script: vec![
            (
                secs(300),
                Action::Scale {
                    workload: "batch",
                    replicas: 9,
                },
            ),
            (
                secs(600),
                Action::Scale {
                    workload: "web",
                    replicas: 8,
                },
            ),
            (
                secs(800),
                Action::Scale {
                    workload: "web",
                    replicas: 24,
                },
            ),
        ],
        rates: Rates {
            never_joins: 2_500,
            vanish: 300,
            ..Rates::ROUGH
        },
        trouble: secs(1_100),
        nominate: true,
    }
}

/// Drains that budgets forbid and a termination grace period ends.
fn deadlines() -> Scenario {
    let template = json!({ "template": { "spec": { "terminationGracePeriod": "90s" } } });
    let mut slow = workload("slow", 10, "1", "2Gi");
    slow.spec["terminationGracePeriodSeconds"] = json!(20);
    Scenario {
        name: "deadlines",
        pools: vec![pool("default", template)],
        workloads: vec![slow, workload("web", 8, "1", "2Gi")],
        budgets: vec![budget("slow", 10)],
        daemons: vec![daemon()],
        script: vec![
            (secs(150), Action::DeleteNode),
            (secs(300), Action::DeleteClaim),
            (secs(450), Action::DeleteNode),
        ],
        rates: Rates::ROUGH,
        trouble: secs(600),
        nominate: true,
    }
}

/// Watches that break often and deliver late, lists above all.
fn late_watches() -> Scenario {
    Scenario {
        name: "late-watches",
        pools: vec![pool("default", json!({ "limits": { "cpu": "64" } }))],
        workloads: vec![workload("web", 16, "1", "2Gi"), workload("batch", 4, "3", "6Gi")],
        budgets: vec![budget("web", 6)],
        daemons: vec![daemon()],
        script: vec![
            (
                secs(120),
                Action::Scale {
                    workload: "web",
                    replicas: 24,
                },
            ),
            (
                secs(240),
                Action::Scale {
                    workload: "batch",
                    replicas: 8,
                },
            ),
            (secs(330), Action::DeleteNode),
            (
                secs(420),
                Action::Scale {
                    workload: "web",
                    replicas: 8,
                },
            ),
            (
                secs(500),
                Action::Scale {
                    workload: "batch",
                    replicas: 2,
                },
            ),
            (
                secs(600),
                Action::Scale {
                    workload: "web",
                    replicas: 20,
                },
            ),
        ],
        rates: Rates {
            stale_watch: 800,
            disconnect: 3_000,
            crash: 20,
            ..Rates::ROUGH
        },
        trouble: secs(800),
        nominate: true,
    }
}

/// Pods come while machines that have just become empty are given back.
fn churn() -> Scenario {
    let steps = (0..70).map(|step| {
        let replicas = if step % 2 == 0 { 2 } else { 12 };
        (
            secs(120 + step * 7),
            Action::Scale {
                workload: "web",
                replicas,
            },
        )
    });
    let mut web = workload("web", 12, "1500m", "3Gi");
    web.spec["terminationGracePeriodSeconds"] = json!(1);
    Scenario {
        name: "churn",
        pools: vec![pool(
            "default",
            json!({ "disruption": { "consolidateAfter": "0s" } }),
        )],
        workloads: vec![web],
        budgets: vec![],
        daemons: vec![],
        script: steps.collect(),
        rates: Rates::ROUGH,
        trouble: secs(640),
        nominate: false,
    }
}

fn secs(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

/// A NodePool; `spec` is merged over the defaults of the model.
fn pool(name: &str, spec: Value) -> NodePool {
    let mut object = json!({
        "apiVersion": "karpenter.sh/v1", "kind": "NodePool",
        "metadata": { "name": name },
        "spec": {
            "template": { "spec": {
                "requirements": [],
                "nodeClassRef": { "group": "sim.plimsoll.dev", "kind": "SimNodeClass", "name": "default" },
            } },
            "disruption": {
                "consolidateAfter": "30s", "consolidationPolicy": "WhenEmpty", "budgets": [{ "nodes": "100%" }],
            },
        },
    });
    crate::api::merge(&mut object, &json!({ "spec": spec }));
    serde_json::from_value(object).expect("the scenarios' pools are well-formed")
}

fn workload(name: &str, replicas: u32, cpu: &str, memory: &str) -> Workload {
    let spec = json!({
        "containers": [{ "name": "main", "resources": { "requests": { "cpu": cpu, "memory": memory } } }],
    });
    Workload {
        name: name.to_owned(),
        replicas,
        spec,
    }
}

fn budget(workload: &str, min_available: u32) -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": { "namespace": "default", "name": workload },
        "spec": { "minAvailable": min_available, "selector": { "matchLabels": { "app": workload } } },
    })
}

/// A small daemon on every node, which tolerates nothing special.
fn daemon() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": { "namespace": "default", "name": "agent" },
        "spec": {
            "selector": { "matchLabels": { "app": "agent" } },
            "template": {
                "metadata": { "labels": { "app": "agent" } },
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{ "name": "main", "resources": { "requests": { "cpu": "100m", "memory": "64Mi" } } }],
                },
            },
        },
    })
}

/// Five sizes in two zones, on demand and as spot.
pub(crate) fn catalog() -> Catalog {
    let mut types: Vec<InstanceType> = [2, 4, 8, 16, 32].into_iter().map(instance_type).collect();
    types.sort_by(|a, b| a.name.cmp(&b.name));
    Catalog {
        revision: 1,
        types,
        price_source: "the model's own".into(),
        ..Catalog::default()
    }
}

fn instance_type(cpus: i64) -> InstanceType {
    let name: Arc<str> = format!("m{cpus}").into();
    let one_of = |key: &str, values: &[&str]| Requirement {
        key: key.into(),
        operator: Operator::In,
        values: values.iter().map(|v| (*v).into()).collect(),
        min_values: None,
    };
    let amounts = |cpu: i64, memory: i64| {
        [
            ("cpu", cpu),
            ("memory", memory),
            ("pods", 60),
            ("ephemeral-storage", 20 << 30),
        ]
        .into_iter()
        .map(|(name, amount)| (name.into(), amount))
        .collect()
    };
    let offering = |zone: &str, capacity_type: &str, percent: i64| Offering {
        zone: zone.into(),
        capacity_type: capacity_type.into(),
        price: MicroDollars(cpus * 480 * percent),
        available: true,
        labels: Vec::new(),
        reservation: None,
        allocatable: None,
        interruption_permille: 0,
    };
    InstanceType {
        requirements: [
            one_of("karpenter.sh/capacity-type", &["on-demand", "spot"]),
            one_of("kubernetes.io/arch", &["amd64"]),
            one_of("kubernetes.io/os", &["linux"]),
            one_of("node.kubernetes.io/instance-type", &[&name]),
            one_of("topology.kubernetes.io/zone", &["a", "b"]),
        ]
        .into(),
        name,
        capacity: amounts(cpus * 1000, cpus << 32),
        allocatable: amounts(cpus * 1000 - 80, (cpus << 32) - (200 << 20)),
        offerings: vec![
            offering("a", "on-demand", 100),
            offering("a", "spot", 60),
            offering("b", "on-demand", 101),
            offering("b", "spot", 55),
        ],
    }
}
