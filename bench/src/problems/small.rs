//! Problems small enough to be solved exactly.

use serde_json::{Value, json};

use super::{HOSTNAME, ZONE, near, spread};
use crate::random::Random;

const ZONES: [&str; 2] = ["zone-a", "zone-b"];

/// A problem of a few pods and types. The first half of the seeds modulo 4 has no constraint between pods, so that up to
/// nine pods can be solved exactly; the rest has up to five pods with constraints of every kind.
pub fn small(seed: u64) -> Value {
    let mut random = Random::new(seed ^ 0x5ea1);
    let together = seed % 4 >= 2;
    let types: Vec<Value> = (0..=random.below(4))
        .map(|i| instance_type(&mut random, i))
        .collect();
    let entries = 1 + random.below(if together { 3 } else { 5 });
    let mut left = if together {
        2 + random.below(4)
    } else {
        3 + random.below(7)
    };
    let mut pods = Vec::new();
    for i in 0..entries {
        let count = if i + 1 == entries {
            left
        } else {
            (1 + random.below(3)).min(left)
        };
        if count > 0 {
            pods.push(pod(&mut random, i, count, together));
            left -= count;
        }
    }
    let mut problem = json!({ "source": "made up", "types": types, "pods": pods });
    if random.percent(25) {
        problem["pools"] = json!([{ "name": "plain" }, { "name": "tainted", "labels": { "team": "x" },
            "taints": [{ "key": "team", "value": "x", "effect": "NoSchedule" }] }]);
    }
    if random.percent(20) {
        problem["daemonSets"] = json!([{ "name": "agent", "cpu": 100 + 50 * random.below(4), "mem": 128 }]);
    }
    if random.percent(30) {
        problem["nodes"] = json!([{
            "name": "old", "type": "type-0", "zone": random.pick(&ZONES), "ct": "on-demand", "pool": "default",
            "labels": { "disk": "ssd" },
            "pods": [{ "name": "running", "cpu": 300 * random.below(4), "mem": 256,
                       "labels": { "app": random.pick(&["app-0", "app-1", "other"]) } }],
        }]);
    }
    problem
}

fn instance_type(random: &mut Random, index: u64) -> Value {
    let cores = 1 + random.below(8);
    let gib = cores * random.pick(&[1, 2, 4, 8]);
    // Around a price by size, so that no shape wins always.
    let price = (0.03 * cores as f64 + 0.005 * gib as f64) * (0.7 + random.below(60) as f64 / 100.0);
    let price = (price * 1e4).round() / 1e4;
    let mut offerings = Vec::new();
    for zone in ZONES {
        let dearer = if random.percent(30) { 1.1 } else { 1.0 };
        offerings.push(json!({ "zone": zone, "ct": "on-demand", "price": price * dearer }));
        if random.percent(40) {
            let available = random.percent(80);
            offerings
                .push(json!({ "zone": zone, "ct": "spot", "price": price * 0.5, "available": available }));
        }
    }
    json!({
        "name": format!("type-{index}"),
        "cpu": cores * 1_000 - 80,
        "mem": gib * 1_024 - 200,
        "pods": 3 + random.below(8),
        "capacity": { "cpu": cores.to_string(), "memory": format!("{gib}Gi") },
        "labels": { "disk": random.pick(&["ssd", "hdd"]) },
        "offerings": offerings,
    })
}

fn pod(random: &mut Random, index: u64, count: u64, together: bool) -> Value {
    let app = format!("app-{}", random.below(2));
    let mut pod = json!({
        "name": format!("entry-{index}"),
        "count": count,
        "cpu": 100 * (1 + random.below(25)),
        "mem": 256 * (1 + random.below(16)),
        "labels": { "app": app },
    });
    match random.below(8) {
        0 => pod["nodeSelector"] = json!({ ZONE: random.pick(&ZONES) }),
        1 => pod["nodeSelector"] = json!({ "disk": "ssd" }),
        2 => pod["nodeSelector"] = json!({ "karpenter.sh/capacity-type": "on-demand" }),
        _ => {}
    }
    if random.percent(25) {
        pod["tolerations"] = json!([{ "key": "team", "operator": "Exists" }]);
    }
    if together {
        let aim = if random.percent(80) {
            app
        } else {
            format!("app-{}", random.below(2))
        };
        match random.below(7) {
            0 => pod["topologySpreadConstraints"] = spread(ZONE, &aim, 1 + random.below(2) as u32),
            1 => pod["topologySpreadConstraints"] = spread(HOSTNAME, &aim, 1 + random.below(2) as u32),
            2 => pod["affinity"] = near("podAffinity", ZONE, &aim),
            3 => pod["affinity"] = near("podAffinity", HOSTNAME, &aim),
            4 => pod["affinity"] = near("podAntiAffinity", HOSTNAME, &aim),
            5 => pod["affinity"] = near("podAntiAffinity", ZONE, &aim),
            _ => pod["hostPorts"] = json!([{ "hostPort": 8080 }]),
        }
    }
    pod
}
