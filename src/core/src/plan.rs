//! The vocabulary of decisions.

use std::sync::Arc;

use crate::{
    catalog::{MicroDollars, TypeId},
    requirement::Requirement,
    resources::Resources,
    snapshot::{DisruptionReason, NodeId, PodId},
};

/// What should be done about one snapshot. Specific enough that whoever carries it out has no choice left.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Hash of the content, in hexadecimal: equal plans have equal ids.
    pub id: Arc<str>,
    /// [`crate::snapshot::Snapshot::revision`] it was made from.
    pub revision: u64,
    pub launches: Vec<Launch>,
    /// Pods that were waiting and get a place on a machine that exists or was ordered.
    pub assignments: Vec<Assignment>,
    pub removals: Vec<Removal>,
    /// Sum of the launches' prices.
    pub launch_price: MicroDollars,
    /// No set of machines that places the same pods under the same snapshot can cost less.
    pub lower_bound: MicroDollars,
    /// Search steps spent.
    pub steps: u64,
}

/// One machine to buy.
#[derive(Clone, Debug)]
pub struct Launch {
    pub pool: Arc<str>,
    /// Requirements of the NodeClaim beyond the pool's own: capacity type, zone, and what the pods narrow.
    /// Sorted by key. Does not contain the instance type.
    pub requirements: Vec<Requirement>,
    /// Every type that can hold its pods at some offering that satisfies `requirements`, cheapest first.
    pub types: Vec<TypeId>,
    /// The offering it is expected to become.
    pub offering: Offered,
    /// Requests of its pods and of the daemons expected on it.
    pub requests: Resources,
    /// Sorted.
    pub pods: Vec<PodId>,
    /// The next best offering that would have held the same pods, if any: the price difference says how
    /// close the choice was.
    pub runner_up: Option<Offered>,
    /// `minValues` had to be lowered for it.
    pub min_values_relaxed: bool,
    /// True when pods that may still come could hardly make this machine a regret: its price is within
    /// reach of the proven bound for what it holds. Used to buy early during a burst.
    pub settled: bool,
}

/// An offering by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    pub instance_type: Arc<str>,
    pub zone: Arc<str>,
    pub capacity_type: Arc<str>,
    pub price: MicroDollars,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Assignment {
    pub pod: PodId,
    pub node: NodeId,
}

/// One machine to give back.
#[derive(Clone, Debug)]
pub struct Removal {
    pub node: NodeId,
    pub reason: DisruptionReason,
    /// What it costs today, where known.
    pub saves: Option<MicroDollars>,
}
