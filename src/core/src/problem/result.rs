//! What `plimsoll pack --json` prints.

use serde_json::{Value, json};

use crate::{
    plan::Plan,
    snapshot::{PodId, Snapshot},
    verify::Verdict,
};

/// How long the caller measured, from plain pods on.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Until a first complete plan was there.
    pub seconds_first_plan: f64,
    /// Until the plan in question was there.
    pub seconds: f64,
}

/// The result of one problem: how much was placed where and at what price. `verified` says that
/// [`crate::verify::verify`] found nothing. Prices are dollars per hour.
pub fn result_json(snapshot: &Snapshot, plan: &Plan, verdict: &Verdict, timing: Timing) -> Value {
    let key = |pod: &PodId| snapshot.pods[pod.0 as usize].key.as_ref();
    let launched = plan.launches.iter().enumerate().map(|(i, launch)| {
        json!({
            "machine": format!("{}-{i:05}", launch.pool),
            "pool": &*launch.pool,
            "type": &*launch.offering.instance_type,
            "zone": &*launch.offering.zone,
            "ct": &*launch.offering.capacity_type,
            "price": launch.offering.price.dollars(),
            "pods": launch.pods.iter().map(key).collect::<Vec<_>>(),
        })
    });
    let mut assignments = plan.assignments.clone();
    assignments.sort_by_key(|a| (a.node, a.pod));
    let reused = assignments.chunk_by(|a, b| a.node == b.node).map(|chunk| {
        json!({
            "machine": &*snapshot.nodes[chunk[0].node.0 as usize].name,
            "pods": chunk.iter().map(|a| key(&a.pod)).collect::<Vec<_>>(),
        })
    });
    let mut result = json!({
        "pods": verdict.wanted,
        "placed": verdict.placed,
        "nodes": plan.launches.len(),
        "price_per_hour": plan.launch_price.dollars(),
        "lower_bound_per_hour": plan.lower_bound.dollars(),
        "seconds_first_plan": timing.seconds_first_plan,
        "seconds": timing.seconds,
        "verified": verdict.violations.is_empty(),
        "placements": launched.chain(reused).collect::<Vec<_>>(),
    });
    if let Some(padding) = plan.padding {
        result["padding_price_per_hour"] = json!(padding.price.dollars());
        result["unbound"] = json!(padding.unbound);
    }
    result
}
