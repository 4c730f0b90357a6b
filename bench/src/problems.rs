//! The problems of the bench, as JSON in the format of `bench/FORMAT.md`.
//!
//! Each is a function of a fixed seed. The letters are those of the table in `bench/RESULTS.md`.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::random::Random;

mod adversarial;
mod catalogue;
mod openb;
mod small;
mod upstream;

pub use small::small;

/// One problem of the bench.
#[derive(Debug)]
pub struct Named {
    pub name: String,
    pub about: &'static str,
    pub json: Value,
    /// The peer needs more than a few seconds for it.
    pub slow_for_peer: bool,
}

fn named(name: impl Into<String>, about: &'static str, slow_for_peer: bool, json: Value) -> Named {
    Named {
        name: name.into(),
        about,
        json,
        slow_for_peer,
    }
}

/// All problems whose letter is in `only`. Those of the OpenB trace need the folder it is in.
pub fn all(only: &[char], openb: Option<&Path>) -> Result<Vec<Named>> {
    let wanted = |letter| only.is_empty() || only.contains(&letter);
    let mut problems = Vec::new();
    if wanted('a') {
        for (count, slow) in [(100, false), (1_000, false), (5_000, true), (20_000, true)] {
            let about = "the shape of the peer's own benchmark: five equal kinds, 400 types";
            problems.push(named(
                format!("a-mixed-{count}"),
                about,
                slow,
                upstream::mixed(count),
            ));
        }
    }
    if wanted('b') {
        let about = "4,000 equal pods with three preferences each, of which one cannot be kept";
        problems.push(named(
            "b-preferences-4000",
            about,
            true,
            upstream::preferences(4_000),
        ));
    }
    if wanted('c')
        && let Some(folder) = openb
    {
        for kind in ["ondemand", "spot"] {
            let path = folder.join(format!("openb-1000-{kind}.json"));
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            let about = "1,000 CPU pods of the OpenB trace, 304 AWS types";
            problems.push(named(
                format!("c-openb-1000-{kind}"),
                about,
                false,
                serde_json::from_str(&text)?,
            ));
        }
        let about = "all 8,152 pods of the OpenB trace, whole GPUs, all amd64 AWS types";
        problems.push(named("c-openb-all", about, true, openb::all(folder)?));
    }
    if wanted('d') {
        let about = "500 pods of 900m/3100Mi and 500 of 3500m/28Gi";
        problems.push(named("d-basic-1000", about, false, basic()));
    }
    if wanted('e') {
        let about = "100,000 pods in 500 classes, all AWS types of us-east-1, 3 zones, on-demand and spot";
        problems.push(named("e-large-100000", about, true, large(100_000, 500)));
    }
    if wanted('f') {
        problems.extend(adversarial::all());
    }
    if wanted('h') {
        let about = "5,000 pods of 5,000 shapes with spread, affinity and anti-affinity";
        problems.push(named("h-distinct-5000", about, true, distinct(5_000)));
    }
    Ok(problems)
}

const ZONE: &str = "topology.kubernetes.io/zone";
const HOSTNAME: &str = "kubernetes.io/hostname";
const ARCH: &str = "kubernetes.io/arch";
const CAPACITY_TYPE: &str = "karpenter.sh/capacity-type";

fn labels(app: &str) -> Value {
    json!({ "app": app })
}

fn spread(key: &str, app: &str, max_skew: u32) -> Value {
    json!([{ "maxSkew": max_skew, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
             "labelSelector": { "matchLabels": { "app": app } } }])
}

/// Required affinity or anti-affinity (`kind`) to pods of the app.
fn near(kind: &str, key: &str, app: &str) -> Value {
    json!({ kind: { "requiredDuringSchedulingIgnoredDuringExecution": [
        { "topologyKey": key, "labelSelector": { "matchLabels": { "app": app } } }] } })
}

fn basic() -> Value {
    json!({
        "source": catalogue::source(),
        "types": catalogue::types(catalogue::Purchase::OnDemand, catalogue::Type::is_current_cmr_amd64),
        "pods": [
            { "name": "small", "count": 500, "cpu": 900, "mem": 3_100 },
            { "name": "large", "count": 500, "cpu": 3_500, "mem": 28 * 1_024 },
        ],
    })
}

/// A cluster's worth of Deployments: most unconstrained, some bound to an architecture, zone or capacity type, some
/// spread or kept apart.
pub fn large(pods: usize, classes: usize) -> Value {
    let mut random = Random::new(0xe);
    let mut entries = Vec::new();
    for class in 0..classes {
        let app = format!("app-{class:04}");
        let cpu = *random.pick(&[
            50, 100, 200, 250, 500, 750, 1_000, 1_500, 2_000, 3_000, 4_000, 8_000,
        ]);
        let gib_per_core = *random.pick(&[1_u64, 2, 2, 4, 4, 4, 8, 8]);
        let mem = (cpu * gib_per_core * 1_024 / 1_000 + random.below(8) * 32).max(64);
        let count = pods / classes + usize::from(class < pods % classes);
        let mut entry =
            json!({ "name": app, "count": count, "cpu": cpu, "mem": mem, "labels": labels(&app) });
        match random.below(20) {
            0 | 1 => entry["nodeSelector"] = json!({ ARCH: "arm64" }),
            2 | 3 => entry["nodeSelector"] = json!({ ARCH: "amd64" }),
            4 => entry["nodeSelector"] = json!({ CAPACITY_TYPE: "on-demand" }),
            5 => {
                let zone = *random.pick(&["us-east-1a", "us-east-1b", "us-east-1c"]);
                entry["nodeSelector"] = json!({ ZONE: zone });
            }
            6..=8 => entry["topologySpreadConstraints"] = spread(ZONE, &app, 1),
            9 => entry["topologySpreadConstraints"] = spread(HOSTNAME, &app, 4),
            10 => entry["affinity"] = near("podAffinity", ZONE, &app),
            _ => {}
        }
        entries.push(entry);
    }
    json!({
        "source": catalogue::source(),
        "types": catalogue::types(catalogue::Purchase::OnDemandAndSpot, |_| true),
        "pods": entries,
    })
}

/// No two pods alike, so that nothing is gained by grouping them.
fn distinct(count: u64) -> Value {
    let mut random = Random::new(0x48);
    let mut entries = Vec::new();
    for i in 0..count {
        // Both amounts together differ for every pod.
        let cpu = 100 + 5 * (i % 800) + random.below(5);
        let mem = 128 + 64 * (i / 100) + random.below(64);
        let app = format!("app-{:02}", random.below(40));
        let mut entry =
            json!({ "name": format!("pod-{i:05}"), "cpu": cpu, "mem": mem, "labels": labels(&app) });
        match i % 5 {
            1 => entry["topologySpreadConstraints"] = spread(ZONE, &app, 1),
            2 => entry["topologySpreadConstraints"] = spread(HOSTNAME, &app, 2),
            3 => {
                // Groups of their own, since one app cannot be both spread over zones and kept in one.
                let group = format!("group-{:02}", random.below(40));
                entry["labels"] = labels(&group);
                entry["affinity"] = near("podAffinity", ZONE, &group);
            }
            4 => {
                let group = format!("apart-{:02}", random.below(40));
                entry["labels"] = labels(&group);
                entry["affinity"] = near("podAntiAffinity", HOSTNAME, &group);
            }
            _ => {}
        }
        entries.push(entry);
    }
    json!({
        "source": catalogue::source(),
        "types": catalogue::types(catalogue::Purchase::OnDemand, catalogue::Type::is_current_cmr_amd64),
        "pods": entries,
    })
}
