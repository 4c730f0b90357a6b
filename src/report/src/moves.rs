//! Which pod goes where.
//!
//! A plan gives out pods that mean the same in any order. Here each stays in its zone where it can: whoever has to be even
//! over zones stays so while it moves.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use plimsoll_api::labels;
use plimsoll_core::snapshot::{ClassId, PodId};

use crate::{cluster::Cluster, plans::Arrangement};

/// The pods that move, by the machine they move to.
pub(crate) struct Moves {
    /// By launch of the plan.
    pub(crate) to_new: Vec<Vec<PodId>>,
    /// By node.
    pub(crate) to_kept: Vec<Vec<PodId>>,
}

/// What tells pods of one kind from those that a plan may not put in their place: spot is only for those on spot.
type Kind = (ClassId, bool);

pub(crate) fn moves(cluster: &Cluster, arrangement: &Arrangement) -> Moves {
    let plan = &arrangement.plan;
    let label = |node: usize, key: &str| cluster.snapshot.nodes[node].labels.get(key);
    let kind = |pod: PodId| -> Kind {
        let at = pod.0 as usize;
        let capacity_type = cluster.node_of(at).and_then(|n| label(n, labels::CAPACITY_TYPE));
        let on_spot = capacity_type.is_some_and(|t| &**t == labels::CAPACITY_SPOT);
        (cluster.snapshot.pods[at].class, on_spot)
    };
    // Places in the order of the plan: (zone, index of the machine, new ones first).
    let n_new = plan.launches.len();
    let places_new = plan.launches.iter().enumerate().flat_map(|(at, launch)| {
        let zone = Some(&launch.offering.zone);
        launch.pods.iter().map(move |pod| (*pod, zone, at))
    });
    let places_kept = plan.assignments.iter().map(|it| {
        let node = it.node.0 as usize;
        (it.pod, label(node, labels::ZONE), n_new + node)
    });
    let mut waiting: BTreeMap<(Kind, Option<&Arc<str>>), VecDeque<PodId>> = BTreeMap::new();
    let mut places: BTreeMap<Kind, Vec<(Option<&Arc<str>>, usize)>> = BTreeMap::new();
    for (pod, zone, machine) in places_new.chain(places_kept) {
        let from = cluster
            .node_of(pod.0 as usize)
            .and_then(|n| label(n, labels::ZONE));
        waiting.entry((kind(pod), from)).or_default().push_back(pod);
        places.entry(kind(pod)).or_default().push((zone, machine));
    }
    let mut to: Vec<Vec<PodId>> = vec![Vec::new(); n_new + cluster.nodes.len()];
    for (kind, places) in places {
        let mut others = Vec::new();
        for (zone, machine) in places {
            match waiting.get_mut(&(kind, zone)).and_then(VecDeque::pop_front) {
                Some(pod) => to[machine].push(pod),
                None => others.push(machine),
            }
        }
        let rest = waiting
            .range_mut((kind, None)..)
            .take_while(|((of, _), _)| *of == kind)
            .flat_map(|(_, pods)| pods.drain(..));
        for (machine, pod) in others.into_iter().zip(rest) {
            to[machine].push(pod);
        }
    }
    let to_kept = to.split_off(n_new);
    Moves { to_new: to, to_kept }
}
