//! Pods and types shaped like those of the peer's own scheduling benchmark.

use serde_json::{Value, json};

use super::{HOSTNAME, ZONE};
use crate::random::Random;

const TYPES: u64 = 400;
const LABEL_VALUES: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

/// Types of 1 to 400 cores with 2 GiB each, at a price by the core and the gigabyte, the same in all zones.
fn types() -> Value {
    let of_size = |cores: u64| {
        let bytes = cores * 2 * (1 << 30);
        let price = 0.1 * cores as f64 + 0.1 * bytes as f64 / 1e9;
        let offering = |zone: &str, ct: &str| json!({ "zone": zone, "ct": ct, "price": price });
        json!({
            "name": format!("fake-it-{}", cores - 1),
            "cpu": cores * 1_000 - 100,
            "mem": cores * 2_048 - 10,
            "pods": cores * 10,
            "capacity": { "cpu": cores.to_string(), "memory": format!("{}Gi", cores * 2) },
            "offerings": [
                offering("test-zone-1", "spot"),
                offering("test-zone-2", "spot"),
                offering("test-zone-1", "on-demand"),
                offering("test-zone-2", "on-demand"),
                offering("test-zone-3", "on-demand"),
            ],
        })
    };
    (1..=TYPES).map(of_size).collect()
}

fn problem(pods: Vec<Value>) -> Value {
    json!({
        "source": "made up: by the core and the gigabyte",
        "types": types(),
        "pools": [{ "name": "default", "limits": { "cpu": "10000000", "memory": "10000000Gi" } }],
        "pods": pods,
    })
}

fn sized(random: &mut Random) -> Value {
    json!({
        "cpu": random.pick(&[100, 250, 500, 1_000, 1_500]),
        "mem": random.pick(&[100, 256, 512, 1_024, 2_048, 4_096]),
    })
}

fn label(random: &mut Random) -> &'static str {
    LABEL_VALUES[random.below(LABEL_VALUES.len() as u64) as usize]
}

fn spread(key: &str, random: &mut Random) -> Value {
    json!([{ "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
             "labelSelector": { "matchLabels": { "my-label": label(random) } } }])
}

fn required(kind: &str, key: &str, labels: &Value) -> Value {
    json!({ kind: { "requiredDuringSchedulingIgnoredDuringExecution": [
        { "topologyKey": key, "labelSelector": { "matchLabels": labels } }] } })
}

/// A fifth each: plain, spread over zones, spread over hosts, zone affinity to their like, one per host.
pub(super) fn mixed(count: usize) -> Value {
    let mut random = Random::new(42);
    let mut pods = Vec::new();
    for kind in 0..5 {
        for _ in 0..count / 5 {
            let mut pod = sized(&mut random);
            pod["labels"] = json!({ "my-label": label(&mut random) });
            match kind {
                1 => pod["topologySpreadConstraints"] = spread(ZONE, &mut random),
                2 => pod["topologySpreadConstraints"] = spread(HOSTNAME, &mut random),
                3 => {
                    pod["labels"] = json!({ "my-affinity": label(&mut random) });
                    pod["affinity"] = required("podAffinity", ZONE, &pod["labels"]);
                }
                4 => {
                    pod["labels"] = json!({ "app": "nginx" });
                    pod["affinity"] = required("podAntiAffinity", HOSTNAME, &pod["labels"]);
                }
                _ => {}
            }
            pods.push(pod);
        }
    }
    problem(pods)
}

/// Equal pods that prefer a zone (possible), no neighbour in their zone (impossible), none on their host (possible).
pub(super) fn preferences(count: usize) -> Value {
    let mut random = Random::new(42);
    let mut pod = sized(&mut random);
    pod["count"] = json!(count);
    pod["labels"] = json!({ "app": "nginx" });
    let apart = |weight: u32, key: &str| {
        json!({ "weight": weight, "podAffinityTerm":
            { "topologyKey": key, "labelSelector": { "matchLabels": { "app": "nginx" } } } })
    };
    pod["affinity"] = json!({
        "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
            { "weight": 1, "preference": { "matchExpressions": [
                { "key": ZONE, "operator": "In", "values": ["test-zone-1"] }] } }] },
        "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
            apart(10, ZONE), apart(1, HOSTNAME)] },
    });
    problem(vec![pod])
}
