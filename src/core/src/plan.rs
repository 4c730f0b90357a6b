//! The vocabulary of decisions.

use std::sync::Arc;

use crate::{
    catalog::{MicroDollars, TypeId},
    requirement::Requirement,
    resources::Resources,
    snapshot::{ClassId, DisruptionReason, NodeId, PodId},
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
    /// What it costs that kube-scheduler chooses places by itself; None where it follows the plan.
    pub padding: Option<Padding>,
    /// Sum of the launches' prices.
    pub launch_price: MicroDollars,
    /// No set of machines that places the same pods under the same snapshot can cost less.
    pub lower_bound: MicroDollars,
    /// The proof of `lower_bound`.
    pub bound: Bound,
    /// Search steps spent.
    pub steps: u64,
}

/// A certificate that no plan can be cheaper, checkable with integers only.
///
/// Everything here is in **nano-dollars** (thousandths of a [`MicroDollars`]) per hour, except `price`.
///
/// # Terms
/// * `n(c)`: how many pods of class `c` the plan places, in `launches` and in `assignments` together.
/// * `w(c)`: the worth of one pod of class `c`, from `duals`; zero for a class that is not listed. Never
///   negative.
/// * An *offering* is one entry of `InstanceType::offerings` with `available`, of a type that
///   `Catalog::by_pool` lists for a pool of the snapshot, bought through that pool; its labels satisfy
///   the pool's requirements. The same entry bought through two pools counts as two offerings.
/// * Class `c` *may use* an offering when all of these hold:
///   - it tolerates every `NoSchedule` and `NoExecute` taint of the pool (startup taints do not count);
///   - some assignment of the labels that the pool leaves open (custom keys with several values) makes the
///     node's labels satisfy the class's node selector, at least one of its required node affinity
///     alternatives, and at least one alternative of each of its volumes;
///   - one pod of it alone fits into the room of the offering;
///   - *weights*: no pool of higher weight with empty `limits` and without `minValues` has an available offering without a
///     reservation that the class may use by the rules above. This rule is left out altogether when a
///     class of the snapshot has a required pod affinity, or a hard spread or required anti-affinity over a
///     key other than `kubernetes.io/hostname`, because such a pod may be forced out of a heavier pool.
/// * The *room* of an offering is its allocatable less the requests of those DaemonSets that certainly run
///   on it (they tolerate the pool's taints and match its labels under every assignment of open labels).
/// * The *room* of a node that exists (`leaving` is false) is its allocatable less the requests of the
///   pods on it that the plan leaves there (`Bound` and `Assigned` ones, daemons included); missing daemons
///   may be left out of account.
/// * `cap(c)`: most pods of `c` that one machine can hold: `n(c)`; 1 if the class has a host port, or a
///   required anti-affinity over `kubernetes.io/hostname` that selects its own pods; the `max_skew` of each
///   hard spread over `kubernetes.io/hostname` that selects its own pods (an empty node may always stand
///   beside, so the least count is zero); and the entry of `caps`, if any.
/// * A *group* is an entry of `groups`: classes of which one machine can hold only so many pods together. Either it
///   is one, and every two pods of its classes keep each other away (a host port of theirs clashes, or one has a
///   required anti-affinity over `kubernetes.io/hostname` that selects the other); or every class of it has a hard
///   spread over `kubernetes.io/hostname` with that `max_skew` or less which selects all of them.
/// * A *pattern* of a place is a count `x(c)` for each class that may use it, `0 ≤ x(c) ≤ cap(c)`, with no more
///   pods of a group than it allows, whose requests together fit into its room. `K(place)` is the greatest `Σ w(c)·x(c)` over its patterns, or
///   anything above it: any upper bound on `K` proves as well, only less.
///
/// # What has to hold
/// 1. For every offering without a reservation: `K(offering) ≤ 1000 · price`.
/// 2. `1000 · bound.price ≤ Σ_c w(c)·n(c) − Σ_nodes K(node) − Σ_reservations remaining · excess`, where
///    `excess = max(0, K(offering) − 1000 · price)`, the greatest over the offerings that share the
///    reservation id, and `remaining` is the greatest they name. A right side below zero counts as zero.
///
/// # Why that is a proof
/// Each pod counted in `n` is on a node that exists, in a reserved machine, or in another new machine. The
/// pods on one machine are a pattern of it, so their worth is at most `K`. Summed over all new machines
/// without reservation, the worth is at most their price by 1; the rest can hold at most what 2 subtracts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// What is proven; equal to [`Plan::lower_bound`].
    pub price: MicroDollars,
    /// Worth of one pod of each class, in nano-dollars per hour; ascending, positive entries only.
    pub duals: Vec<(ClassId, i64)>,
    /// Preferences that the plan keeps for every pod it places of a class and that limit how many of them share a
    /// machine: preferred anti-affinity (1) or `ScheduleAnyway` spread (`max_skew`) over
    /// `kubernetes.io/hostname`, selecting the class's own pods. The bound then speaks of plans that keep
    /// them too. Ascending.
    pub caps: Vec<(ClassId, u32)>,
    /// Classes, ascending, and how many pods of them all one machine can hold at most.
    pub groups: Vec<(Vec<ClassId>, u32)>,
    /// They claim nothing: they help to see that 1 holds for machines whose contents are too many to enumerate.
    pub hints: Vec<UnitPrices>,
}

/// Prices of resources at which the pods that a machine may hold are worth no more than what they take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitPrices {
    /// 2^-40 nano-dollars per hour and unit; by name.
    pub resources: Vec<(Arc<str>, i128)>,
    /// The same for a place in each of the bound's `groups`.
    pub groups: Vec<i128>,
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

/// Machines beyond what the pods need, so that they all bind wherever kube-scheduler puts each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Padding {
    /// Part of [`Plan::launch_price`].
    pub price: MicroDollars,
    /// Pods that a replay of the padded plan left pending. Above zero only when no padding helped; the plan is then
    /// the unpadded one.
    pub unbound: u32,
}

/// One machine to give back.
#[derive(Clone, Debug)]
pub struct Removal {
    pub node: NodeId,
    pub reason: DisruptionReason,
    /// What it costs today, where known.
    pub saves: Option<MicroDollars>,
}
