//! Real machine types, from the list that `bench/catalogue.py` makes.

use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Value, json};

use super::ARCH;
use crate::random::Random;

#[derive(Deserialize)]
struct List {
    source: String,
    zones: Vec<String>,
    types: Vec<Type>,
}

/// A row; the order of the fields is that of the columns.
#[derive(Deserialize)]
pub(super) struct Type(
    String,
    u64,
    u64,
    u64,
    u64,
    u64,
    String,
    u64,
    f64,
    #[allow(
        dead_code,
        reason = "the mark of an estimated price is for readers of the list"
    )]
    u8,
    Vec<usize>,
);

static LIST: LazyLock<List> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../data/aws-us-east-1.json")).expect("catalogue.py wrote this list")
});

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purchase {
    OnDemand,
    OnDemandAndSpot,
}

impl Type {
    pub(super) fn is_amd64(&self) -> bool {
        self.6 == "amd64"
    }

    /// Families c, m and r from the fifth generation on, without bare metal: what most clusters buy.
    pub(super) fn is_current_cmr_amd64(&self) -> bool {
        let mut letters = self.0.chars();
        let series = letters.next().is_some_and(|c| matches!(c, 'c' | 'm' | 'r'));
        let generation = letters
            .next()
            .and_then(|c| c.to_digit(10))
            .is_some_and(|g| g >= 5);
        series && generation && self.is_amd64() && !self.0.contains("metal")
    }
}

pub(super) fn source() -> &'static str {
    &LIST.source
}

/// The types that `wanted` takes. There are no public records of spot prices to take from offline: they are made up, 30
/// to 60 % of on-demand, different for every type and zone.
pub(super) fn types(purchase: Purchase, wanted: impl Fn(&Type) -> bool) -> Value {
    LIST.types
        .iter()
        .enumerate()
        .filter(|(_, t)| wanted(t))
        .map(|(i, t)| entry(i, t, purchase))
        .collect()
}

fn entry(
    index: usize,
    Type(name, cpu, free_cpu, mem, free_mem, pods, arch, gpus, price, _, zones): &Type,
    purchase: Purchase,
) -> Value {
    let mut offerings = Vec::new();
    for zone in zones {
        let name = &LIST.zones[*zone];
        offerings.push(json!({ "zone": name, "ct": "on-demand", "price": price }));
        if purchase == Purchase::OnDemandAndSpot {
            let share = 0.3 + Random::new((index * 8 + zone) as u64).below(3_001) as f64 / 10_000.0;
            let spot = (price * share * 1e5).round() / 1e5;
            offerings.push(json!({ "zone": name, "ct": "spot", "price": spot }));
        }
    }
    let mut entry = json!({
        "name": name,
        "cpu": free_cpu,
        "mem": free_mem,
        "pods": pods,
        "capacity": { "cpu": format!("{cpu}m"), "memory": format!("{mem}Mi") },
        "labels": { ARCH: arch, "karpenter.k8s.aws/instance-family": name.split('.').next() },
        "offerings": offerings,
    });
    if *gpus > 0 {
        entry["resources"] = json!({ "nvidia.com/gpu": gpus });
    }
    entry
}
