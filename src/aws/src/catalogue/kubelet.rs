//! The kubelet's reservations and eviction thresholds, as amounts.

use std::collections::BTreeMap;

use plimsoll_core::resources::{EPHEMERAL_STORAGE, MEMORY, Resources, amount};

const EVICTION_MEMORY_DEFAULT: i64 = 100 << 20;
const EVICTION_DISK_DEFAULT_PERCENT: f64 = 10.0;

/// Defaults, with what the user set in their place. What does not read as a quantity is left at its default: the schema
/// keeps it out, and a wrong value must not make a node look larger.
pub(crate) fn reserved(defaults: Resources, of_user: Option<&BTreeMap<String, String>>) -> Resources {
    let mut all = defaults;
    for (resource, text) in of_user.into_iter().flatten() {
        if let Ok(amount) = amount(resource, text) {
            all.insert(resource.as_str().into(), amount);
        }
    }
    all
}

/// What is kept free so that the kubelet does not evict.
pub(crate) fn eviction(capacity: &Resources, hard: Option<&BTreeMap<String, String>>) -> Resources {
    let threshold = |signal: &str, resource: &str, default: i64| {
        let of = capacity.get(resource).copied().unwrap_or(0);
        let kept = hard
            .and_then(|h| h.get(signal))
            .map_or(Some(default), |text| self::threshold(resource, of, text));
        (resource.into(), kept.unwrap_or(default))
    };
    let disk = capacity.get(EPHEMERAL_STORAGE).copied().unwrap_or(0);
    Resources::from([
        threshold("memory.available", MEMORY, EVICTION_MEMORY_DEFAULT),
        threshold(
            "nodefs.available",
            EPHEMERAL_STORAGE,
            share(disk, EVICTION_DISK_DEFAULT_PERCENT),
        ),
    ])
}

/// A quantity, or a share of the capacity; 100 % turns the signal off.
fn threshold(resource: &str, of: i64, text: &str) -> Option<i64> {
    let Some(percent) = text.strip_suffix('%') else {
        return amount(resource, text).ok();
    };
    let percent: f64 = percent.trim().parse().ok()?;
    if percent >= 100.0 {
        return Some(0);
    }
    Some(share(of, percent))
}

fn share(of: i64, percent: f64) -> i64 {
    (of as f64 * percent / 100.0).ceil() as i64
}
