//! The judge of a plan: slow, obvious, and written apart from the planner.
//!
//! [`verify`] asks what kube-scheduler would say about the cluster that the plan leads to, from the rules
//! in the Kubernetes documentation. It shares no matching, counting or arithmetic with the planner, so
//! that a mistake there cannot hide here.
//!
//! Two choices are worth knowing:
//! * **Order.** kube-scheduler checks spread constraints and required affinity when a pod binds, so a
//!   final state alone does not say whether its pods can bind. An order is searched in which every
//!   pod is admitted: constrained pods first and level by level, pods nobody restricts last, or earlier
//!   when they lift a minimum that others wait for. Finding one proves it exists; for a single constraint
//!   whose pods select themselves the search is complete. Anti-affinity, ports and resources do not depend
//!   on the order; affinity must hold in the final state as well.
//! * **Domains.** kube-scheduler knows the domains of nodes that exist. Users mean the domains they could
//!   have, so a spread constraint is judged over both: breaking it on the nodes of the final state is
//!   [`Rule::Spread`], breaking it only by leaving out a domain that could be launched is
//!   [`Rule::SpreadUniverse`].

use std::collections::BTreeSet;

use crate::{
    catalog::Catalog,
    plan::Plan,
    report::Report,
    snapshot::{NodeId, Place, Pod, PodId, Snapshot},
};

mod bookkeeping;
mod final_state;
mod knapsack;
mod machines;
mod matching;
mod offers;
mod order;
mod preferences;
mod reprice;
mod table;

pub use reprice::{CertificateError, reprice};

/// What [`verify`] found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub violations: Vec<Violation>,
    /// Pods that need a place.
    pub wanted: usize,
    /// Of those, the ones the plan gives a place.
    pub placed: usize,
    /// The rest, ascending.
    pub unplaced: Vec<PodId>,
    /// Preferences of placed pods that the final state keeps: preferred node affinity terms, preferred
    /// affinity and anti-affinity terms, `ScheduleAnyway` constraints, and for each pod that some
    /// `PreferNoSchedule` taint of the cluster asks away, staying away from such machines.
    pub preferences_kept: usize,
    /// The same over all wanted pods.
    pub preferences_total: usize,
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    pub rule: Rule,
    pub subject: Subject,
    pub pod: Option<PodId>,
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    Plan,
    /// Index in [`Plan::launches`].
    Launch(usize),
    Node(NodeId),
}

/// The rules a plan must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Ids are in range, and a pod gets one place, only if it needs one.
    Identity,
    /// Types belong to the pool, appear once, cheapest first.
    Types,
    /// The expected offering, and at least one offering of every listed type, is for sale and satisfies the
    /// requirements of pool and launch.
    Offering,
    /// `nodeSelector`, required node affinity and volume reach hold on every machine that may come up.
    Requirements,
    Taint,
    /// Requests of pods and daemons fit every listed type.
    Resources,
    HostPort,
    VolumeLimit,
    /// A machine that carries pods bound to a topology domain may come up in several.
    Undecided,
    Spread,
    SpreadUniverse,
    Affinity,
    AntiAffinity,
    /// With the expected types.
    PoolLimit,
    /// With the largest of the listed types.
    PoolLimitFlexible,
    MinValues,
    /// More launches than a reservation has left.
    Reservation,
    /// Prices are the catalogue's and add up.
    Price,
}

/// Checks every constraint of every pod on the machines the plan leads to.
pub fn verify(snapshot: &Snapshot, catalog: &Catalog, plan: &Plan) -> Verdict {
    let mut violations = identities(snapshot, catalog, plan);
    if !violations.is_empty() {
        return Verdict {
            violations,
            ..Verdict::default()
        };
    }
    let removed: BTreeSet<NodeId> = plan.removals.iter().map(|r| r.node).collect();
    let placed: BTreeSet<PodId> = placements(plan).map(|(_, pod)| pod).collect();
    for (subject, pod) in placements(plan) {
        if !may_be_placed(snapshot, &removed, &snapshot.pods[pod.0 as usize]) {
            let detail = "the pod has a place and needs no other".to_owned();
            violations.push(Violation {
                rule: Rule::Identity,
                subject,
                pod: Some(pod),
                detail,
            });
        }
    }
    let wanted: Vec<PodId> = (0..snapshot.pods.len() as u32)
        .map(PodId)
        .filter(|id| needs_place(snapshot, &removed, &snapshot.pods[id.0 as usize]))
        .collect();

    let machines = machines::check(snapshot, catalog, plan, &removed, &mut violations);
    bookkeeping::check(snapshot, catalog, plan, &removed, &mut violations);
    final_state::anti_affinity(snapshot, &machines, &mut violations);
    final_state::affinity(snapshot, &machines, &mut violations);
    order::check(snapshot, catalog, &machines, &mut violations);
    let (preferences_kept, preferences_total) = preferences::count(snapshot, &machines, &wanted);

    violations.sort();
    violations.dedup();
    let unplaced: Vec<PodId> = wanted.iter().copied().filter(|id| !placed.contains(id)).collect();
    Verdict {
        violations,
        wanted: wanted.len(),
        placed: wanted.len() - unplaced.len(),
        unplaced,
        preferences_kept,
        preferences_total,
    }
}

/// Pods without a place that the report does not explain: the planner lost them.
pub fn forgotten(verdict: &Verdict, report: &Report) -> Vec<PodId> {
    let explained: BTreeSet<PodId> = report
        .unplaced
        .iter()
        .filter(|u| !u.reasons.is_empty())
        .map(|u| u.pod)
        .collect();
    verdict
        .unplaced
        .iter()
        .copied()
        .filter(|pod| !explained.contains(pod))
        .collect()
}

/// Every place the plan gives, in its own order.
fn placements(plan: &Plan) -> impl Iterator<Item = (Subject, PodId)> + '_ {
    let launched = plan
        .launches
        .iter()
        .enumerate()
        .flat_map(|(i, launch)| launch.pods.iter().map(move |pod| (Subject::Launch(i), *pod)));
    launched.chain(plan.assignments.iter().map(|a| (Subject::Node(a.node), a.pod)))
}

/// Ids out of range and pods placed twice. Nothing else can be judged while there are any.
fn identities(snapshot: &Snapshot, catalog: &Catalog, plan: &Plan) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut wrong = |subject, pod, detail: &str| {
        violations.push(Violation {
            rule: Rule::Identity,
            subject,
            pod,
            detail: detail.to_owned(),
        });
    };
    let mut seen = BTreeSet::new();
    for (subject, pod) in placements(plan) {
        if pod.0 as usize >= snapshot.pods.len() {
            wrong(subject, None, "there is no such pod");
        } else if !seen.insert(pod) {
            wrong(subject, Some(pod), "the pod is placed twice");
        }
    }
    for (i, launch) in plan.launches.iter().enumerate() {
        if launch.types.iter().any(|id| id.0 as usize >= catalog.types.len()) {
            wrong(Subject::Launch(i), None, "there is no such type");
        }
        if !snapshot.pools.iter().any(|pool| pool.name == launch.pool) {
            wrong(Subject::Launch(i), None, "there is no such pool");
        }
    }
    let nodes = plan
        .assignments
        .iter()
        .map(|a| a.node)
        .chain(plan.removals.iter().map(|r| r.node));
    for node in nodes {
        if node.0 as usize >= snapshot.nodes.len() {
            wrong(Subject::Plan, None, "there is no such node");
        }
    }
    violations
}

/// Whether the node will not be there.
fn going(snapshot: &Snapshot, removed: &BTreeSet<NodeId>, node: NodeId) -> bool {
    removed.contains(&node) || snapshot.nodes[node.0 as usize].leaving
}

fn needs_place(snapshot: &Snapshot, removed: &BTreeSet<NodeId>, pod: &Pod) -> bool {
    !pod.daemon
        && !pod.terminating
        && match pod.place {
            Place::Pending | Place::Leaving(_) => true,
            Place::Assigned(node) => going(snapshot, removed, node),
            // A bound pod on a leaving node that needs another place is marked so in the snapshot.
            Place::Bound(node) => removed.contains(&node),
        }
}

fn may_be_placed(snapshot: &Snapshot, removed: &BTreeSet<NodeId>, pod: &Pod) -> bool {
    needs_place(snapshot, removed, pod) || (!pod.daemon && matches!(pod.place, Place::Assigned(_)))
}

#[cfg(test)]
mod tests;
