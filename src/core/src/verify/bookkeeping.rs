//! Sums over the whole plan: prices, pool limits, flexibility and reservations.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    catalog::{Catalog, InstanceType, MicroDollars},
    plan::{Launch, Plan},
    requirement::{Operator, Requirement},
    resources::{NODES, Resources},
    snapshot::{NodeId, Pool, Snapshot},
};

use super::{
    Rule, Subject, Violation, going,
    matching::value_satisfies,
    offers::{Offers, TYPE_LABEL},
};

pub(super) fn check(
    snapshot: &Snapshot,
    catalog: &Catalog,
    plan: &Plan,
    removed: &BTreeSet<NodeId>,
    violations: &mut Vec<Violation>,
) {
    let sum: MicroDollars = plan.launches.iter().map(|launch| launch.offering.price).sum();
    if sum != plan.launch_price {
        let detail = format!(
            "the launches cost {}, the plan says {}",
            sum.dollars(),
            plan.launch_price.dollars()
        );
        violations.push(Violation {
            rule: Rule::Price,
            subject: Subject::Plan,
            pod: None,
            detail,
        });
    }
    for pool in &snapshot.pools {
        limits(snapshot, catalog, plan, removed, pool, violations);
        for (i, launch) in plan
            .launches
            .iter()
            .enumerate()
            .filter(|(_, l)| l.pool == pool.name)
        {
            min_values(catalog, pool, (i, launch), violations);
        }
    }
    reservations(snapshot, catalog, plan, violations);
}

/// The capacity of a pool's machines, nodes that leave excepted, stays within its limits.
fn limits(
    snapshot: &Snapshot,
    catalog: &Catalog,
    plan: &Plan,
    removed: &BTreeSet<NodeId>,
    pool: &Pool,
    violations: &mut Vec<Violation>,
) {
    let launches = || plan.launches.iter().filter(|launch| launch.pool == pool.name);
    if pool.limits.is_empty() || launches().next().is_none() {
        return;
    }
    let mut used = Resources::new();
    for (i, node) in snapshot.nodes.iter().enumerate() {
        if node.pool.as_ref() == Some(&pool.name) && !going(snapshot, removed, NodeId(i as u32)) {
            for (name, amount) in node.capacity.iter().filter(|(name, _)| &***name != NODES) {
                *used.entry(name.clone()).or_default() += amount;
            }
            *used.entry(NODES.into()).or_default() += 1;
        }
    }
    let capacity = |instance: &InstanceType, name: &Arc<str>| match &**name {
        NODES => 1,
        _ => instance.capacity.get(name).copied().unwrap_or(0),
    };
    for (name, limit) in &pool.limits {
        let before = used.get(name).copied().unwrap_or(0);
        let listed = |launch: &Launch| {
            launch
                .types
                .iter()
                .map(|id| capacity(&catalog.types[id.0 as usize], name))
                .max()
                .unwrap_or(0)
        };
        let expected = |launch: &Launch| {
            let of_it = catalog
                .types
                .iter()
                .find(|t| t.name == launch.offering.instance_type);
            of_it.map_or(0, |instance| capacity(instance, name))
        };
        let expected = before + launches().map(expected).sum::<i64>();
        let largest = before + launches().map(listed).sum::<i64>();
        let mut wrong = |rule, total: i64| {
            let detail = format!(
                "pool {}: {name} would be {total}, its limit is {limit}",
                pool.name
            );
            violations.push(Violation {
                rule,
                subject: Subject::Plan,
                pod: None,
                detail,
            });
        };
        if expected > *limit {
            wrong(Rule::PoolLimit, expected);
        } else if largest > *limit {
            wrong(Rule::PoolLimitFlexible, largest);
        }
    }
}

/// Distinct values of a key over the listed types, among those the pool allows.
fn min_values(
    catalog: &Catalog,
    pool: &Pool,
    (number, launch): (usize, &Launch),
    violations: &mut Vec<Violation>,
) {
    if launch.min_values_relaxed {
        return;
    }
    for wanted in &pool.requirements {
        let Some(needed) = wanted.min_values else { continue };
        let mut found: BTreeSet<&Arc<str>> = BTreeSet::new();
        for id in &launch.types {
            let instance = &catalog.types[id.0 as usize];
            if &*wanted.key == TYPE_LABEL {
                found.insert(&instance.name);
            }
            let defines = |r: &&Requirement| r.key == wanted.key && r.operator == Operator::In;
            found.extend(
                instance
                    .requirements
                    .iter()
                    .filter(defines)
                    .flat_map(|r| &r.values),
            );
        }
        let found = found
            .into_iter()
            .filter(|value| value_satisfies(wanted, value))
            .count();
        if found < needed as usize {
            violations.push(Violation {
                rule: Rule::MinValues,
                subject: Subject::Launch(number),
                pod: None,
                detail: format!("{} has {found} values, the pool wants {needed}", wanted.key),
            });
        }
    }
}

/// Every launch that expects reserved capacity finds a place in a reservation: a matching of launches to
/// places, by augmenting paths.
fn reservations(snapshot: &Snapshot, catalog: &Catalog, plan: &Plan, violations: &mut Vec<Violation>) {
    let mut offers = Offers::new(snapshot, catalog);
    let mut open: Vec<Vec<&str>> = Vec::new();
    let mut numbers = Vec::new();
    let mut remaining: BTreeMap<&str, usize> = BTreeMap::new();
    for (number, launch) in plan.launches.iter().enumerate() {
        let (Some(pool), Some(id)) = (
            snapshot.pools.iter().find(|pool| pool.name == launch.pool),
            launch
                .types
                .iter()
                .find(|id| catalog.types[id.0 as usize].name == launch.offering.instance_type),
        ) else {
            continue;
        };
        let mut ids = Vec::new();
        for machine in offers.of(pool, &launch.requirements, *id).iter() {
            let offering = machine.offering;
            let expected = offering.zone == launch.offering.zone
                && offering.capacity_type == launch.offering.capacity_type;
            if let (true, Some(reservation)) = (expected, &offering.reservation) {
                ids.push(&*reservation.id);
                let left = remaining
                    .entry(&reservation.id)
                    .or_insert(reservation.remaining as usize);
                *left = (*left).min(reservation.remaining as usize);
            }
        }
        if !ids.is_empty() {
            open.push(ids);
            numbers.push(number);
        }
    }
    let mut holders: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for launch in 0..open.len() {
        if !place(launch, &open, &remaining, &mut holders, &mut BTreeSet::new()) {
            violations.push(Violation {
                rule: Rule::Reservation,
                subject: Subject::Launch(numbers[launch]),
                pod: None,
                detail: format!("nothing is left of {}", open[launch].join(", ")),
            });
        }
    }
}

fn place<'a>(
    launch: usize,
    open: &[Vec<&'a str>],
    remaining: &BTreeMap<&'a str, usize>,
    holders: &mut BTreeMap<&'a str, Vec<usize>>,
    tried: &mut BTreeSet<&'a str>,
) -> bool {
    for id in &open[launch] {
        if !tried.insert(id) {
            continue;
        }
        let held = holders.entry(id).or_default().clone();
        if held.len() < remaining[id] {
            holders.entry(id).or_default().push(launch);
            return true;
        }
        for (slot, other) in held.into_iter().enumerate() {
            if place(other, open, remaining, holders, tried) {
                holders.entry(id).or_default()[slot] = launch;
                return true;
            }
        }
    }
    false
}
