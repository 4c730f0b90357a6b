//! Problems made to hurt: shapes that fit badly, many pools, limits that bind, volumes that pin.

use serde_json::{Value, json};

use super::{
    Named, ZONE,
    catalogue::{self, Purchase, Type},
    named,
};
use crate::random::Random;

const ZONES: [&str; 3] = ["us-east-1a", "us-east-1b", "us-east-1c"];

pub(super) fn all() -> Vec<Named> {
    vec![
        named(
            "f-tall-thin-2000",
            "half all memory, half all cores: they fit only together",
            false,
            tall_thin(),
        ),
        named(
            "f-memory-heavy-2000",
            "memory from 1 to 240 GiB beside one core",
            false,
            memory_heavy(),
        ),
        named(
            "f-many-pools-1500",
            "50 small pools with taints and types of their own",
            false,
            many_pools(),
        ),
        named(
            "f-tight-limits-1000",
            "three pools whose limits together barely hold the pods",
            false,
            tight_limits(),
        ),
        named(
            "f-zonal-volumes-1500",
            "every pod has a volume in one zone",
            false,
            zonal_volumes(),
        ),
    ]
}

fn cmr() -> Value {
    catalogue::types(Purchase::OnDemand, Type::is_current_cmr_amd64)
}

fn tall_thin() -> Value {
    let mut random = Random::new(0xf1);
    let pods: Vec<Value> = (0..40)
        .map(|i| match i % 2 {
            0 => json!({ "count": 50, "cpu": 100, "mem": 8_192 + 1_024 * random.below(24) }),
            _ => json!({ "count": 50, "cpu": 2_000 + 250 * random.below(24), "mem": 128 }),
        })
        .collect();
    json!({ "source": catalogue::source(), "types": cmr(), "pods": pods })
}

fn memory_heavy() -> Value {
    let mut random = Random::new(0xf2);
    let pods: Vec<Value> = (0..100)
        .map(|_| {
            let gib = *random.pick(&[1, 2, 3, 5, 7, 11, 15, 23, 31, 47, 61, 90, 120, 240]);
            json!({ "count": 20, "cpu": 1_000, "mem": gib * 1_024 - random.below(512) })
        })
        .collect();
    json!({ "source": catalogue::source(), "types": cmr(), "pods": pods })
}

fn many_pools() -> Value {
    let mut random = Random::new(0xf3);
    let families = ["c5", "c6i", "c7i", "m5", "m6i", "m7i", "r5", "r6i", "r7i", "m6a"];
    let (mut pools, mut pods) = (Vec::new(), Vec::new());
    for i in 0..50 {
        let team = format!("team-{i:02}");
        pools.push(json!({
            "name": team,
            "labels": { "team": team },
            "taints": [{ "key": "team", "value": team, "effect": "NoSchedule" }],
            "requirements": [{ "key": "karpenter.k8s.aws/instance-family", "operator": "In",
                "values": [random.pick(&families), random.pick(&families)] }],
        }));
        for _ in 0..3 {
            pods.push(json!({
                "count": 10,
                "cpu": 250 * (1 + random.below(16)),
                "mem": 512 * (1 + random.below(32)),
                "tolerations": [{ "key": "team", "value": team, "effect": "NoSchedule" }],
                "nodeSelector": { "team": team },
            }));
        }
    }
    json!({ "source": catalogue::source(), "types": cmr(), "pools": pools, "pods": pods })
}

/// 1,000 pods of 1,750 cores and 7,000 GiB; the pools allow 2,100 cores and 8,600 GiB.
fn tight_limits() -> Value {
    let pool = |name: &str, weight: u32, cores: u32, gib: u32| {
        json!({ "name": name, "weight": weight,
                "limits": { "cpu": cores.to_string(), "memory": format!("{gib}Gi") } })
    };
    json!({
        "source": catalogue::source(),
        "types": cmr(),
        "pools": [pool("first", 30, 600, 2_400), pool("second", 20, 700, 3_000), pool("third", 10, 800, 3_200)],
        "pods": [
            { "count": 500, "cpu": 500, "mem": 2_048 },
            { "count": 300, "cpu": 2_000, "mem": 8_192 },
            { "count": 200, "cpu": 4_500, "mem": 18_432 },
        ],
    })
}

fn zonal_volumes() -> Value {
    let mut random = Random::new(0xf5);
    let pods: Vec<Value> = (0..1_500)
        .map(|i| {
            json!({
                "name": format!("data-{i:04}"),
                "cpu": random.pick(&[500, 1_000, 2_000, 4_000]),
                "mem": random.pick(&[2_048, 4_096, 8_192, 16_384]),
                "volumes": [{ "driver": "ebs.csi.aws.com", "id": format!("vol-{i:04}"), "nodeSelectorTerms": [
                    { "matchExpressions": [{ "key": ZONE, "operator": "In", "values": [random.pick(&ZONES)] }] }] }],
            })
        })
        .collect();
    json!({ "source": catalogue::source(), "types": cmr(), "pods": pods })
}
