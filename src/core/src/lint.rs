//! A cheap look at every plan before anybody acts on it.
//!
//! It catches plans that contradict themselves or the snapshot: work is proportional to the plan, plus one
//! look at each node for the limits of pools. It does not replace [`crate::verify`], which judges what
//! kube-scheduler would do and is too slow for every pass.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use thiserror::Error;

use crate::{
    catalog::{Catalog, InstanceType, MicroDollars},
    plan::{Launch, Plan},
    resources::{NODES, Resources},
    snapshot::{NodeId, Place, PodId, Pool, Snapshot},
};

/// What is wrong with a plan. Each is a defect of whoever made it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Finding {
    #[error("made from revision {plan}, the snapshot is {snapshot}")]
    Revision { plan: u64, snapshot: u64 },
    #[error("{what} {id} does not exist")]
    Unknown { what: &'static str, id: Arc<str> },
    #[error("pod {0} is placed twice")]
    PlacedTwice(Arc<str>),
    #[error("pod {0} has a place and needs no other")]
    HasPlace(Arc<str>),
    #[error("launch {0} has no pods")]
    EmptyLaunch(usize),
    #[error(
        "launch {launch}: its expected offering is not among its types, not for sale, or priced differently"
    )]
    Offering { launch: usize },
    #[error("launch {launch} requests less {resource} than its pods")]
    Requests { launch: usize, resource: Arc<str> },
    #[error("pods are assigned to node {0}, which leaves")]
    AssignedToLeaving(Arc<str>),
    #[error("node {0} belongs to no claim and must not be removed")]
    NotOwned(Arc<str>),
    #[error("node {node} must not be removed: {blocker}")]
    Blocked { node: Arc<str>, blocker: Arc<str> },
    #[error("node {0} is removed twice")]
    RemovedTwice(Arc<str>),
    #[error("pool {pool}: {resource} would be {total}, its limit is {limit}")]
    Limit {
        pool: Arc<str>,
        resource: Arc<str>,
        total: i64,
        limit: i64,
    },
    #[error("the launches cost {sum} micro-dollars, the plan says {stated}")]
    Price { sum: i64, stated: i64 },
    #[error("the plan costs {price} micro-dollars, less than its lower bound {bound}")]
    Bound { price: i64, bound: i64 },
}

impl Finding {
    /// Whether acting on the plan could do harm. A wrong bound is a wrong statement about a plan that may be
    /// carried out all the same.
    pub fn forbids_acting(&self) -> bool {
        !matches!(self, Self::Bound { .. })
    }
}

/// Everything that is wrong with the plan on the face of it; empty for a sound one.
pub fn lint(snapshot: &Snapshot, catalog: &Catalog, plan: &Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    if plan.revision != snapshot.revision {
        findings.push(Finding::Revision {
            plan: plan.revision,
            snapshot: snapshot.revision,
        });
    }
    let removed = removals(snapshot, plan, &mut findings);
    places(snapshot, plan, &removed, &mut findings);
    for (number, launch) in plan.launches.iter().enumerate() {
        check_launch(snapshot, catalog, (number, launch), &mut findings);
    }
    limits(snapshot, catalog, plan, &removed, &mut findings);
    let sum: MicroDollars = plan.launches.iter().map(|launch| launch.offering.price).sum();
    if sum != plan.launch_price {
        findings.push(Finding::Price {
            sum: sum.0,
            stated: plan.launch_price.0,
        });
    }
    if plan.lower_bound > plan.launch_price {
        findings.push(Finding::Bound {
            price: plan.launch_price.0,
            bound: plan.lower_bound.0,
        });
    }
    findings
}

fn unknown(what: &'static str, id: &dyn ToString) -> Finding {
    Finding::Unknown {
        what,
        id: id.to_string().into(),
    }
}

fn removals(snapshot: &Snapshot, plan: &Plan, findings: &mut Vec<Finding>) -> BTreeSet<NodeId> {
    let mut removed = BTreeSet::new();
    for removal in &plan.removals {
        let Some(node) = snapshot.nodes.get(removal.node.0 as usize) else {
            findings.push(unknown("node", &removal.node.0));
            continue;
        };
        if !removed.insert(removal.node) {
            findings.push(Finding::RemovedTwice(node.name.clone()));
        }
        if node.claim.is_none() {
            findings.push(Finding::NotOwned(node.name.clone()));
        }
        if let Some(blocker) = &node.disruption_blocker {
            let blocker = format!("{blocker:?}").into();
            findings.push(Finding::Blocked {
                node: node.name.clone(),
                blocker,
            });
        }
    }
    removed
}

fn places(snapshot: &Snapshot, plan: &Plan, removed: &BTreeSet<NodeId>, findings: &mut Vec<Finding>) {
    let launched = plan.launches.iter().flat_map(|launch| &launch.pods);
    let assigned = plan.assignments.iter().map(|a| &a.pod);
    let mut seen: BTreeSet<PodId> = BTreeSet::new();
    for id in launched.chain(assigned) {
        let Some(pod) = snapshot.pods.get(id.0 as usize) else {
            findings.push(unknown("pod", &id.0));
            continue;
        };
        if !seen.insert(*id) {
            findings.push(Finding::PlacedTwice(pod.key.clone()));
        }
        let free = match pod.place {
            Place::Pending | Place::Leaving(_) | Place::Assigned(_) => true,
            Place::Bound(node) => removed.contains(&node),
        };
        if !free || pod.daemon {
            findings.push(Finding::HasPlace(pod.key.clone()));
        }
    }
    for assignment in &plan.assignments {
        match snapshot.nodes.get(assignment.node.0 as usize) {
            None => findings.push(unknown("node", &assignment.node.0)),
            Some(node) if node.leaving || removed.contains(&assignment.node) => {
                findings.push(Finding::AssignedToLeaving(node.name.clone()));
            }
            Some(_) => {}
        }
    }
}

fn type_named<'a>(catalog: &'a Catalog, name: &str) -> Option<&'a InstanceType> {
    let index = catalog
        .types
        .binary_search_by(|known| (*known.name).cmp(name))
        .ok()?;
    catalog.types.get(index)
}

fn pool_named<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a Pool> {
    let index = snapshot
        .pools
        .binary_search_by(|known| (*known.name).cmp(name))
        .ok()?;
    snapshot.pools.get(index)
}

fn check_launch(
    snapshot: &Snapshot,
    catalog: &Catalog,
    (number, launch): (usize, &Launch),
    findings: &mut Vec<Finding>,
) {
    if pool_named(snapshot, &launch.pool).is_none() {
        findings.push(unknown("pool", &launch.pool));
    }
    if launch.pods.is_empty() {
        findings.push(Finding::EmptyLaunch(number));
    }
    for id in launch
        .types
        .iter()
        .filter(|id| id.0 as usize >= catalog.types.len())
    {
        findings.push(unknown("type", &id.0));
    }
    let named = |name: &Arc<str>| {
        launch
            .types
            .iter()
            .filter_map(|id| catalog.types.get(id.0 as usize))
            .find(|t| t.name == *name)
    };
    let for_sale = named(&launch.offering.instance_type).is_some_and(|instance| {
        instance.offerings.iter().any(|o| {
            o.available
                && o.zone == launch.offering.zone
                && o.capacity_type == launch.offering.capacity_type
                && o.price == launch.offering.price
        })
    });
    if !for_sale {
        findings.push(Finding::Offering { launch: number });
    }
    let mut requests = Resources::new();
    for pod in launch
        .pods
        .iter()
        .filter_map(|id| snapshot.pods.get(id.0 as usize))
    {
        for (name, amount) in &snapshot.classes[pod.class.0 as usize].requests {
            *requests.entry(name.clone()).or_default() += amount;
        }
    }
    let short = requests
        .iter()
        .find(|(name, amount)| launch.requests.get(*name).unwrap_or(&0) < amount);
    if let Some((resource, _)) = short {
        findings.push(Finding::Requests {
            launch: number,
            resource: resource.clone(),
        });
    }
}

/// Capacity of the nodes that stay and of the expected launches, against the limits of the pools that buy.
fn limits(
    snapshot: &Snapshot,
    catalog: &Catalog,
    plan: &Plan,
    removed: &BTreeSet<NodeId>,
    findings: &mut Vec<Finding>,
) {
    let mut totals: BTreeMap<&Arc<str>, Resources> = BTreeMap::new();
    let add = |total: &mut Resources, capacity: &Resources| {
        for (name, amount) in capacity.iter().filter(|(name, _)| &***name != NODES) {
            *total.entry(name.clone()).or_default() += amount;
        }
        *total.entry(NODES.into()).or_default() += 1;
    };
    for launch in &plan.launches {
        if let Some(instance) = type_named(catalog, &launch.offering.instance_type) {
            add(totals.entry(&launch.pool).or_default(), &instance.capacity);
        }
    }
    for (i, node) in snapshot.nodes.iter().enumerate() {
        let stays = !node.leaving && !removed.contains(&NodeId(i as u32));
        if let (true, Some(total)) = (stays, node.pool.as_ref().and_then(|pool| totals.get_mut(pool))) {
            add(total, &node.capacity);
        }
    }
    for (name, total) in totals {
        let Some(pool) = pool_named(snapshot, name) else {
            continue;
        };
        for (resource, limit) in &pool.limits {
            let total = total.get(resource).copied().unwrap_or(0);
            if total > *limit {
                let (pool, resource) = (pool.name.clone(), resource.clone());
                findings.push(Finding::Limit {
                    pool,
                    resource,
                    total,
                    limit: *limit,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
