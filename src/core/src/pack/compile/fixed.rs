//! Pods that stay where they are.

use std::sync::Arc;

use fixedbitset::FixedBitSet;
use rustc_hash::FxHashMap;

use super::super::{keys::ABSENT, taints::ports_conflict, topology::Topology};
use super::{Compiler, rooms::Daemons, vector};
use crate::snapshot::{HostPort, Place, PodClass, PodId, Snapshot};

/// Pods that stay where they are.
pub(super) struct Fixed<'a> {
    snapshot: &'a Snapshot,
    /// Free room of each node.
    pub(super) room: Vec<i64>,
    /// (class, node) of pods that stay; with whether selectors count it.
    pub(super) stays: Vec<(u32, u32, bool)>,
    ports: Vec<Vec<HostPort>>,
}

impl<'a> Fixed<'a> {
    pub(super) fn new(compiler: &Compiler<'a>, resources: &[Arc<str>], daemons: &Daemons) -> Self {
        let snapshot = compiler.snapshot;
        let n_res = resources.len();
        let mut room = Vec::with_capacity(snapshot.nodes.len() * n_res);
        for node in &snapshot.nodes {
            room.extend(
                resources
                    .iter()
                    .map(|name| node.allocatable.get(name).copied().unwrap_or(0)),
            );
        }
        let requests: Vec<Vec<i64>> = snapshot
            .classes
            .iter()
            .map(|shape| vector(resources, &shape.requests))
            .collect();
        let mut missing = daemons.on_node.clone();
        let mut stays = Vec::new();
        let mut ports = daemons.ports_on_node.clone();
        for pod in &snapshot.pods {
            let Place::Bound(node) = pod.place else { continue };
            let at = node.0 as usize;
            let request = &requests[pod.class.0 as usize];
            for r in 0..n_res {
                room[at * n_res + r] -= request[r];
                if pod.daemon {
                    missing[at][r] -= request[r];
                }
            }
            stays.push((pod.class.0, node.0, !pod.terminating));
            ports[at].extend(snapshot.classes[pod.class.0 as usize].host_ports.iter().cloned());
        }
        for (at, missing) in missing.iter().enumerate() {
            for (r, amount) in missing.iter().enumerate() {
                let free = &mut room[at * n_res + r];
                *free = (*free - amount.max(&0)).max(0);
            }
        }
        Self {
            snapshot,
            room,
            stays,
            ports,
        }
    }

    /// Keeps assigned pods where they were promised a place, while they fit. Returns those that need one.
    pub(super) fn settle(&mut self, allowed: &[Option<FixedBitSet>], resources: &[Arc<str>]) -> Vec<PodId> {
        let n_res = resources.len();
        let mut waiting = Vec::new();
        let mut requests: FxHashMap<u32, Vec<i64>> = FxHashMap::default();
        for (idx, pod) in self.snapshot.pods.iter().enumerate() {
            if pod.daemon {
                continue;
            }
            match pod.place {
                Place::Bound(_) => {}
                Place::Pending | Place::Leaving(_) => waiting.push(PodId(idx as u32)),
                Place::Assigned(node) => {
                    let shape = &self.snapshot.classes[pod.class.0 as usize];
                    let request = requests
                        .entry(pod.class.0)
                        .or_insert_with(|| vector(resources, &shape.requests));
                    let at = node.0 as usize;
                    // Bits of nodes are the last ones.
                    let offset = allowed[pod.class.0 as usize]
                        .as_ref()
                        .map_or(0, |set| set.len() - self.snapshot.nodes.len());
                    let may = allowed[pod.class.0 as usize]
                        .as_ref()
                        .is_some_and(|s| s.contains(offset + at));
                    let room = &mut self.room[at * n_res..][..n_res];
                    let fits = request.iter().zip(room.iter()).all(|(want, have)| want <= have);
                    if may && fits && !self.snapshot.nodes[at].leaving {
                        room.iter_mut()
                            .zip(request.iter())
                            .for_each(|(have, want)| *have -= want);
                        self.stays.push((pod.class.0, node.0, !pod.terminating));
                        self.ports[at].extend(shape.host_ports.iter().cloned());
                    } else {
                        waiting.push(PodId(idx as u32));
                    }
                }
            }
        }
        waiting
    }

    /// Counts the pods that stay into the groups. Returns what host rules look at on each node.
    pub(super) fn count(&self, compiler: &Compiler<'_>, topology: &mut Topology) -> Vec<Vec<(u32, u32)>> {
        let n_offers = compiler.offers.offers.len();
        let mut parts: Vec<Vec<(u32, u32)>> = vec![Vec::new(); self.snapshot.nodes.len()];
        let mut beside = FixedBitSet::with_capacity(self.snapshot.classes.len());
        for rules in &topology.host_rules {
            rules.beside.iter().for_each(|b| beside.union_with(&b.members));
        }
        for (class, node, counts) in &self.stays {
            let place = n_offers + *node as usize;
            if *counts {
                for group in &topology.counted_in[*class as usize] {
                    let group = &mut topology.groups[*group as usize];
                    let value = compiler.keys.keys[group.key as usize].of_place[place];
                    if value != ABSENT && group.filter.as_ref().is_none_or(|f| f.contains(place)) {
                        group.counts[value as usize] += 1;
                    }
                }
            }
            let host = &topology.host_rules[*class as usize];
            if !host.groups.is_empty() || beside.contains(*class as usize) {
                let parts = &mut parts[*node as usize];
                match parts.iter_mut().find(|(c, _)| c == class) {
                    Some((_, n)) => *n += 1,
                    None => parts.push((*class, 1)),
                }
            }
        }
        parts
    }
}

/// Removes the places where a host port of the class is taken by a daemon or by a pod that stays.
pub(super) fn mask_ports(
    allowed: &mut FixedBitSet,
    shape: &PodClass,
    fixed: &Fixed<'_>,
    daemons: &Daemons,
    compiler: &Compiler<'_>,
    n_offers: usize,
) {
    if shape.host_ports.is_empty() {
        return;
    }
    let taken = |ports: &[HostPort]| {
        ports
            .iter()
            .any(|theirs| shape.host_ports.iter().any(|ours| ports_conflict(ours, theirs)))
    };
    for place in 0..compiler.n_places {
        let ports = match place.checked_sub(n_offers) {
            Some(node) => &fixed.ports[node],
            None => &daemons.ports[daemons.set_of_offer[place] as usize],
        };
        if taken(ports) {
            allowed.set(place, false);
        }
    }
}
