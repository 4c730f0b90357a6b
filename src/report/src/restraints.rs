//! What keeps machines from going, and what each of it costs.

use std::collections::{BTreeMap, BTreeSet};

use plimsoll_core::catalog::MicroDollars;
use serde::Serialize;

use crate::{
    cluster::{Cluster, WorkloadId},
    plans::{Arrangement, Planner, is_large, keeps_apart, side_by_side},
    savings::{Cost, KindOfRestraint, RestraintRow},
};

/// Restraints of which the price is planned one by one, those that hold the most expensive machines first. Each takes a
/// plan of the whole cluster.
const PRICED_MAX: usize = 12;
/// The same for clusters too large to plan often.
const PRICED_MAX_LARGE: usize = 2;

/// Why a pod holds its machine in place, or its like apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum RestraintKind {
    /// A PodDisruptionBudget allows no eviction.
    PodDisruptionBudget,
    /// A pod's annotation forbids it.
    DoNotDisrupt,
    /// A node's annotation forbids it.
    NodeDoNotDisrupt,
    /// A pod without a controller would not come back.
    NoController,
    /// A required anti-affinity puts each pod on a machine of its own.
    AntiAffinity,
    /// The only pod of its workload: it is away while it moves.
    SingleReplica,
    /// Data in `emptyDir` or `hostPath` stays behind.
    LocalStorage,
    /// It requests no CPU or no memory, so nobody knows what it needs.
    MissingRequests,
}

impl RestraintKind {
    /// Plans obey it; what it costs is what lifting it would save. The others are not obeyed; what they cost is
    /// what obeying them would take from the savings.
    pub fn is_obeyed(self) -> bool {
        !matches!(
            self,
            Self::SingleReplica | Self::LocalStorage | Self::MissingRequests
        )
    }

    /// What its owner can do.
    pub fn fix(self) -> &'static str {
        match self {
            Self::PodDisruptionBudget => {
                "let the budget allow one eviction: maxUnavailable 1, or one replica more"
            }
            Self::DoNotDisrupt => "take the annotation off, or give it a duration instead of true",
            Self::NodeDoNotDisrupt => "take the annotation off the node",
            Self::NoController => "run it under a Deployment, StatefulSet or Job",
            Self::AntiAffinity => "prefer separate machines instead of requiring them, or spread over zones",
            Self::SingleReplica => "run two replicas, or accept seconds of absence",
            Self::LocalStorage => "move the data to a volume, or accept its loss as any restart does",
            Self::MissingRequests => "request what it uses",
        }
    }
}

/// One thing to talk about with its owner.
#[derive(Clone, Debug)]
pub(crate) struct Restraint {
    pub(crate) kind: RestraintKind,
    /// `namespace/name` of a budget, `namespace/Kind/name` of a workload, or a node's name.
    pub(crate) subject: String,
    /// Whom to ask.
    pub(crate) owners: BTreeSet<WorkloadId>,
    pub(crate) for_ever: bool,
    pub(crate) pods: u32,
    /// Machines it holds; for anti-affinity those its pods run on.
    pub(crate) nodes: BTreeSet<usize>,
}

/// All restraints, sorted by kind and subject.
pub(crate) fn all(cluster: &Cluster) -> Vec<Restraint> {
    let mut found: BTreeMap<(RestraintKind, String), Restraint> = BTreeMap::new();
    let mut add = |kind, subject: String, owner: Option<WorkloadId>, for_ever, node: Option<usize>| {
        let restraint = found.entry((kind, subject.clone())).or_insert(Restraint {
            kind,
            subject,
            owners: BTreeSet::new(),
            for_ever,
            pods: 0,
            nodes: BTreeSet::new(),
        });
        restraint.owners.extend(owner);
        restraint.for_ever |= for_ever;
        restraint.pods += u32::from(owner.is_some());
        restraint.nodes.extend(node);
    };
    let movable = |pod: &plimsoll_core::snapshot::Pod| !pod.daemon && !pod.terminating;
    let apart: Vec<bool> = cluster
        .snapshot
        .classes
        .iter()
        .map(|class| class.anti_affinity.iter().any(|term| keeps_apart(class, term)))
        .collect();
    for (at, pod) in cluster
        .snapshot
        .pods
        .iter()
        .enumerate()
        .filter(|(_, p)| movable(p))
    {
        let facts = &cluster.pods[at];
        let node = cluster.node_of(at);
        let owner = Some(facts.workload);
        let subject = || cluster.workload_of(at).to_string();
        let replicas = cluster.replicas[facts.workload as usize];
        if let Some(budget) = &facts.budget {
            let kind = RestraintKind::PodDisruptionBudget;
            add(kind, budget.key.to_string(), owner, budget.for_ever, node);
        }
        let per_workload = [
            (RestraintKind::DoNotDisrupt, facts.do_not_disrupt.is_some()),
            (RestraintKind::NoController, facts.bare),
            (
                RestraintKind::AntiAffinity,
                replicas >= 2 && apart[pod.class.0 as usize],
            ),
            (RestraintKind::SingleReplica, replicas == 1 && !facts.bare),
            (RestraintKind::LocalStorage, facts.local_storage),
            (RestraintKind::MissingRequests, facts.without_requests),
        ];
        for (kind, _) in per_workload.into_iter().filter(|(_, holds)| *holds) {
            add(kind, subject(), owner, true, node);
        }
    }
    for (at, facts) in cluster.nodes.iter().enumerate() {
        if facts.do_not_disrupt.is_some() {
            let name = cluster.snapshot.nodes[at].name.to_string();
            add(RestraintKind::NodeDoNotDisrupt, name, None, true, Some(at));
        }
    }
    found.into_values().collect()
}

/// Machines held by restraints that plans obey, less those that only `lifted` ones hold, and with those that `obeyed`
/// ones would hold.
pub(crate) fn pins(
    cluster: &Cluster,
    restraints: &[Restraint],
    lifted: impl Fn(usize) -> bool,
    obeyed: impl Fn(usize) -> bool,
) -> Vec<bool> {
    let mut pinned = vec![false; cluster.nodes.len()];
    for (at, restraint) in restraints.iter().enumerate() {
        let holds = match restraint.kind {
            RestraintKind::AntiAffinity => false,
            kind if kind.is_obeyed() => !lifted(at),
            _ => obeyed(at),
        };
        if holds {
            for node in &restraint.nodes {
                pinned[*node] = true;
            }
        }
    }
    pinned
}

/// Difference that a set of restraints makes to the price of the plan: what lifting those that are obeyed would save,
/// or what obeying the others would cost.
pub(crate) fn difference(
    planner: &Planner<'_>,
    restraints: &[Restraint],
    chosen: &[usize],
    reachable: &Arrangement,
) -> MicroDollars {
    let Some(first) = chosen.first() else {
        return MicroDollars(0);
    };
    let kind = restraints[*first].kind;
    let is_chosen = |at: usize| chosen.contains(&at);
    let never = |_: usize| false;
    let today = pins(planner.cluster, restraints, never, never);
    if kind == RestraintKind::AntiAffinity {
        let workloads = chosen
            .iter()
            .flat_map(|at| &restraints[*at].owners)
            .copied()
            .collect();
        let price = planner.without_anti_affinity(&workloads).cheapest(&today).price;
        return MicroDollars((reachable.price - price).0.max(0));
    }
    let pinned = if kind.is_obeyed() {
        pins(planner.cluster, restraints, is_chosen, never)
    } else {
        pins(planner.cluster, restraints, never, is_chosen)
    };
    if pinned == today {
        // Others hold the same machines: `reachable` is the plan.
        return MicroDollars(0);
    }
    let price = planner.cheapest(&pinned).price;
    let more = if kind.is_obeyed() {
        reachable.price - price
    } else {
        price - reachable.price
    };
    MicroDollars(more.0.max(0))
}

/// What each costs, summed up by kind and one by one.
pub(crate) fn priced(
    planner: &Planner<'_>,
    restraints: &[Restraint],
    reachable: &Arrangement,
) -> (Vec<KindOfRestraint>, Vec<RestraintRow>) {
    let cluster = planner.cluster;
    let held = |r: &Restraint| -> i64 {
        let prices = r.nodes.iter().filter_map(|n| cluster.snapshot.nodes[*n].price);
        prices.map(|p| p.0).sum()
    };
    let mut order: Vec<usize> = (0..restraints.len()).collect();
    order.sort_by_key(|at| {
        let r = &restraints[*at];
        (!r.kind.is_obeyed(), std::cmp::Reverse(held(r)), *at)
    });
    let most = if is_large(cluster) {
        PRICED_MAX_LARGE
    } else {
        PRICED_MAX
    };
    let mut kinds: BTreeMap<RestraintKind, Vec<usize>> = BTreeMap::new();
    for (at, restraint) in restraints.iter().enumerate() {
        kinds.entry(restraint.kind).or_default().push(at);
    }
    let mut sets: Vec<Vec<usize>> = order.iter().take(most).map(|at| vec![*at]).collect();
    // The whole of a kind is often one alone.
    let wholes: Vec<Vec<usize>> = kinds
        .values()
        .filter(|all| !sets.contains(all))
        .cloned()
        .collect();
    sets.extend(wholes);
    let months = side_by_side(&sets, |set| {
        Cost::from(difference(planner, restraints, set, reachable)).per_month
    });
    let month = |set: &[usize]| sets.iter().position(|s| s == set).map(|at| months[at]);
    let kind_row = |(kind, members): (&RestraintKind, &Vec<usize>)| {
        let of = |at: &usize| &restraints[*at];
        let nodes: BTreeSet<usize> = members
            .iter()
            .flat_map(|at| of(at).nodes.iter().copied())
            .collect();
        KindOfRestraint {
            kind: *kind,
            obeyed: kind.is_obeyed(),
            subjects: members.len() as u32,
            pods: members.iter().map(|at| of(at).pods).sum(),
            nodes: nodes.len() as u32,
            per_month: month(members).unwrap_or_default(),
            fix: kind.fix(),
        }
    };
    let summary = kinds.iter().map(kind_row).collect();
    order.sort_by(|a, b| {
        let kind = |at: &usize| restraints[*at].kind;
        let price = |at: &usize| month(&[*at]).unwrap_or(-1.0);
        // Stable, so that the others keep their order.
        kind(a).cmp(&kind(b)).then(price(b).total_cmp(&price(a)))
    });
    let row = |at: &usize| {
        let r = &restraints[*at];
        RestraintRow {
            kind: r.kind,
            subject: r.subject.clone(),
            owners: r
                .owners
                .iter()
                .map(|w| cluster.workloads[*w as usize].to_string())
                .collect(),
            for_ever: r.for_ever,
            pods: r.pods,
            nodes: r.nodes.len() as u32,
            per_month: month(&[*at]),
        }
    };
    (summary, order.iter().map(row).collect())
}
