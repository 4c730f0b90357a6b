//! Counts the soft constraints that the final state keeps.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::snapshot::{AffinityTerm, PodClass, PodId, Snapshot};

use super::{
    machines::Machine,
    matching::{certain, decided, discouraged, term_selects},
    order::SpreadGroup,
};

/// (kept, wanted by all pods that need a place).
pub(super) fn count(snapshot: &Snapshot, machines: &[Machine], wanted: &[PodId]) -> (usize, usize) {
    let all_taints: Vec<_> = snapshot.pools.iter().map(|pool| pool.taints.as_slice()).collect();
    let asked_away = |class: &PodClass| {
        all_taints.iter().any(|taints| discouraged(class, taints))
            || snapshot
                .nodes
                .iter()
                .any(|node| !node.leaving && discouraged(class, &node.taints))
    };
    let per_class: Vec<usize> = snapshot
        .classes
        .iter()
        .map(|class| {
            class.preferred_node_affinity.len()
                + class.preferred_affinity.len()
                + class.preferred_anti_affinity.len()
                + class.spread.iter().filter(|constraint| !constraint.hard).count()
                + usize::from(asked_away(class))
        })
        .collect();
    let total = wanted
        .iter()
        .map(|pod| per_class[snapshot.pods[pod.0 as usize].class.0 as usize])
        .sum();

    let mut neighbours = Neighbours {
        snapshot,
        machines,
        known: BTreeMap::new(),
    };
    let mut spreads: BTreeMap<(usize, usize), SpreadGroup> = BTreeMap::new();
    let wanted: BTreeSet<PodId> = wanted.iter().copied().collect();
    let mut kept = 0;
    for (at, machine) in machines.iter().enumerate() {
        for placed in machine.pods.iter().filter(|p| p.new && wanted.contains(&p.pod)) {
            if per_class[placed.class.0 as usize] == 0 {
                continue;
            }
            let class = &snapshot.classes[placed.class.0 as usize];
            // An empty preferred term matches every node.
            kept += class
                .preferred_node_affinity
                .iter()
                .filter(|(_, term)| term.iter().all(|r| certain(r, &machine.shape)))
                .count();
            for (terms, apart) in [
                (&class.preferred_affinity, false),
                (&class.preferred_anti_affinity, true),
            ] {
                for (_, term) in terms {
                    let others = neighbours.others(term, class, machine);
                    kept += usize::from(others.map_or(apart, |others| (others > 0) != apart));
                }
            }
            for (i, constraint) in class.spread.iter().enumerate().filter(|(_, c)| !c.hard) {
                let group = spreads.entry((placed.class.0 as usize, i)).or_insert_with(|| {
                    let mut group = SpreadGroup::new(snapshot, machines, class, constraint, &[]);
                    group.count_all(machines);
                    group
                });
                kept += usize::from(group.excess(at, 0, false).is_some_and(|excess| excess <= 0));
            }
            kept += usize::from(asked_away(class) && !discouraged(class, machine.taints));
        }
    }
    (kept, total)
}

/// A term as seen from a namespace, and the pods it selects in each domain.
type Selected<'a> = BTreeMap<(&'a Arc<str>, &'a AffinityTerm), BTreeMap<Arc<str>, u64>>;

struct Neighbours<'a> {
    snapshot: &'a Snapshot,
    machines: &'a [Machine<'a>],
    known: Selected<'a>,
}

impl<'a> Neighbours<'a> {
    /// How many other pods of the machine's domain the term selects; None without a domain.
    fn others(&mut self, term: &'a AffinityTerm, owner: &'a PodClass, machine: &Machine) -> Option<u64> {
        let domain = decided(&machine.shape, &term.topology_key)?;
        let selects =
            |class: &PodClass| term_selects(term, &owner.namespace, class, &self.snapshot.namespaces);
        let by_domain = self.known.entry((&owner.namespace, term)).or_insert_with(|| {
            let selected: Vec<bool> = self.snapshot.classes.iter().map(selects).collect();
            let mut by_domain: BTreeMap<Arc<str>, u64> = BTreeMap::new();
            for machine in self.machines {
                if let Some(domain) = decided(&machine.shape, &term.topology_key) {
                    let pods = machine
                        .pods
                        .iter()
                        .filter(|p| selected[p.class.0 as usize])
                        .count();
                    *by_domain.entry(domain.clone()).or_default() += pods as u64;
                }
            }
            by_domain
        });
        Some(by_domain[domain] - u64::from(selects(owner)))
    }
}
