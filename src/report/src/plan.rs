//! Plans as people and programs read them. One printer for every command that makes a plan.

use std::fmt::Write as _;

use plimsoll_core::{
    catalog::Catalog,
    plan::{Launch, Plan},
    report::{Report, Unplaced},
    snapshot::{Place, Snapshot},
};
use serde_json::{Value, json};

use crate::{
    money::counted,
    table::{Align, Table},
};

/// Machines to buy and pods without a place; or why nothing is to be done.
pub fn plan_text(snapshot: &Snapshot, plan: &Plan, report: &Report) -> String {
    let mut out = String::new();
    let mut table = Table::new([
        ("LAUNCH", Align::Left),
        ("ZONE", Align::Left),
        ("BOUGHT AS", Align::Left),
        ("$/H", Align::Right),
        ("PODS", Align::Right),
        ("POOL", Align::Left),
    ]);
    for launch in &plan.launches {
        let offered = &launch.offering;
        table.row([
            offered.instance_type.to_string(),
            offered.zone.to_string(),
            offered.capacity_type.to_string(),
            format!("{:.4}", offered.price.dollars()),
            launch.pods.len().to_string(),
            launch.pool.to_string(),
        ]);
    }
    if !table.is_empty() {
        table.print(&mut out);
    }
    for unplaced in &report.unplaced {
        let _ = writeln!(
            out,
            "no place for {}: {}",
            snapshot.pods[unplaced.pod.0 as usize].key,
            reasons(unplaced).join("; ")
        );
    }
    if plan.launches.is_empty() && report.unplaced.is_empty() {
        let count = |wanted: fn(Place) -> bool| {
            let found = snapshot.pods.iter().filter(|p| wanted(p.place));
            found.count() as u32
        };
        let waiting = count(|place| place == Place::Pending);
        let promised = count(|place| matches!(place, Place::Assigned(_)));
        let why = match (waiting, promised) {
            (0, 0) => "no pod waits for a place".to_owned(),
            (0, _) => format!("machines on their way have room for {}", counted(promised, "pod")),
            _ => format!(
                "machines that exist have room for {}",
                counted(waiting, "waiting pod")
            ),
        };
        let _ = writeln!(out, "nothing to buy: {why}");
        if snapshot.pools.is_empty() {
            out.push_str("there is no NodePool that is ready, so nothing could be bought\n");
        }
    }
    out
}

/// The plan in one line.
pub fn plan_summary(plan: &Plan, price_source: &str) -> String {
    let source = if price_source.is_empty() {
        String::new()
    } else {
        format!(" ({price_source})")
    };
    let padding = plan.padding.map_or_else(String::new, |p| {
        let dollars = p.price.dollars();
        match p.unbound {
            0 => format!(", of it ${dollars:.4}/h so that pods bind wherever kube-scheduler puts them"),
            pods => format!(
                ", at which {pods} pods may stay pending, because kube-scheduler chooses their places"
            ),
        }
    });
    format!(
        "plan {}: {} machines, ${:.4}/h{padding}; no plan can cost less than ${:.4}/h{source}",
        plan.id,
        plan.launches.len(),
        plan.launch_price.dollars(),
        plan.lower_bound.dollars(),
    )
}

/// Everything about a plan.
pub fn plan_json(snapshot: &Snapshot, catalog: &Catalog, plan: &Plan, report: &Report) -> Value {
    let key = |pod: plimsoll_core::snapshot::PodId| &snapshot.pods[pod.0 as usize].key;
    let launches: Vec<_> = plan
        .launches
        .iter()
        .map(|l| launch_json(l, snapshot, catalog))
        .collect();
    let unplaced: Vec<_> = report
        .unplaced
        .iter()
        .map(|u| json!({ "pod": key(u.pod), "reasons": reasons(u) }))
        .collect();
    let removals: Vec<_> = plan
        .removals
        .iter()
        .map(|r| {
            json!({
                "node": snapshot.nodes[r.node.0 as usize].name,
                "reason": format!("{:?}", r.reason),
                "saves_per_hour": r.saves.map(plimsoll_core::catalog::MicroDollars::dollars),
            })
        })
        .collect();
    json!({
        "plan": plan.id,
        "price_per_hour": plan.launch_price.dollars(),
        "lower_bound_per_hour": plan.lower_bound.dollars(),
        "padding_per_hour": plan.padding.map(|p| p.price.dollars()),
        "price_source": catalog.price_source,
        "launches": launches,
        "assignments": plan.assignments.len(),
        "removals": removals,
        "unplaced": unplaced,
    })
}

fn launch_json(launch: &Launch, snapshot: &Snapshot, catalog: &Catalog) -> Value {
    let pods: Vec<_> = launch
        .pods
        .iter()
        .map(|id| &snapshot.pods[id.0 as usize].key)
        .collect();
    json!({
        "pool": launch.pool,
        "instance_type": launch.offering.instance_type,
        "zone": launch.offering.zone,
        "capacity_type": launch.offering.capacity_type,
        "price_per_hour": launch.offering.price.dollars(),
        "types": launch.types.iter().map(|id| &catalog.types[id.0 as usize].name).collect::<Vec<_>>(),
        "runner_up": launch.runner_up.as_ref().map(|r| json!({
            "instance_type": r.instance_type, "price_per_hour": r.price.dollars(),
        })),
        "pods": pods,
    })
}

/// Why a pod has no place, one text per reason.
pub(crate) fn reasons(unplaced: &Unplaced) -> Vec<String> {
    unplaced.reasons.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use plimsoll_core::{catalog::MicroDollars, plan::Padding};

    use super::*;

    #[test]
    fn what_padding_costs_is_said() {
        let said = |padding| {
            let plan = Plan {
                launch_price: MicroDollars(3_000_000),
                padding,
                ..Plan::default()
            };
            plan_summary(&plan, "")
        };
        let (price, none) = (MicroDollars(500_000), said(None));
        assert!(none.contains("$3.0000/h; no plan"), "{none}");
        let padded = said(Some(Padding { price, unbound: 0 }));
        assert!(
            padded.contains("$3.0000/h, of it $0.5000/h so that pods bind"),
            "{padded}"
        );
        let in_vain = said(Some(Padding { price, unbound: 12 }));
        assert!(in_vain.contains("12 pods may stay pending"), "{in_vain}");
    }
}
