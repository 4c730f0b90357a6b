//! What the order of binding does not change: required anti-affinity, in both directions, and that required
//! affinity still holds when all is done.

use std::{collections::BTreeMap, sync::Arc};

use crate::snapshot::{AffinityTerm, PodClass, PodId, Snapshot};

use super::{
    Rule, Violation,
    machines::Machine,
    matching::{decided, term_selects},
};

/// Owners and targets of one term in one domain, old and new.
#[derive(Default)]
struct Tally {
    owners: [u64; 2],
    targets: [u64; 2],
    /// Pods that are both: a pod does not exclude itself.
    both: [u64; 2],
    example: Option<(usize, PodId)>,
}

impl Tally {
    /// Pairs of an owner and another target, counting pods that were there before, or all.
    fn pairs(&self, with_new: bool) -> u64 {
        let upto = |counts: [u64; 2]| counts[0] + if with_new { counts[1] } else { 0 };
        upto(self.owners) * upto(self.targets) - upto(self.both)
    }
}

/// No pod may share a domain with a pod that its required anti-affinity selects. A machine that may come
/// up in several domains counts in each. Pairs of pods that both ran before are not the plan's doing.
pub(super) fn anti_affinity(snapshot: &Snapshot, machines: &[Machine], violations: &mut Vec<Violation>) {
    let mut terms: BTreeMap<(&Arc<str>, &AffinityTerm), Vec<bool>> = BTreeMap::new();
    for (i, class) in snapshot.classes.iter().enumerate() {
        for term in &class.anti_affinity {
            let owners = terms.entry((&class.namespace, term));
            owners.or_insert_with(|| vec![false; snapshot.classes.len()])[i] = true;
        }
    }
    for ((namespace, term), owns) in terms {
        let targeted: Vec<bool> = snapshot
            .classes
            .iter()
            .map(|class| selects(snapshot, namespace, term, class))
            .collect();
        let mut by_domain: BTreeMap<Arc<str>, Tally> = BTreeMap::new();
        for (at, machine) in machines.iter().enumerate() {
            let concerned =
                |p: &&super::machines::Placed| owns[p.class.0 as usize] || targeted[p.class.0 as usize];
            if !machine.pods.iter().any(|p| concerned(&p)) {
                continue;
            }
            for domain in machine.domains(&term.topology_key) {
                let tally = by_domain.entry(domain).or_default();
                for placed in machine.pods.iter().filter(concerned) {
                    let (class, age) = (placed.class.0 as usize, usize::from(placed.new));
                    tally.owners[age] += u64::from(owns[class]);
                    tally.targets[age] += u64::from(targeted[class]);
                    tally.both[age] += u64::from(owns[class] && targeted[class]);
                    if placed.new {
                        tally.example = Some((at, placed.pod));
                    }
                }
            }
        }
        for (domain, tally) in by_domain {
            if let (true, Some((at, pod))) = (tally.pairs(true) > tally.pairs(false), tally.example) {
                violations.push(Violation {
                    rule: Rule::AntiAffinity,
                    subject: machines[at].subject,
                    pod: Some(pod),
                    detail: format!(
                        "{} {domain} holds pods that exclude each other",
                        term.topology_key
                    ),
                });
            }
        }
    }
}

fn selects(snapshot: &Snapshot, namespace: &str, term: &AffinityTerm, class: &PodClass) -> bool {
    term_selects(term, namespace, class, &snapshot.namespaces)
}

/// A placed pod shares each domain of its required affinity with another pod that all its terms select; only
/// when there is no other anywhere may it be alone. Without this an order could be found in which a pod starts
/// a domain of its own before those come that it wants to be near.
pub(super) fn affinity(snapshot: &Snapshot, machines: &[Machine], violations: &mut Vec<Violation>) {
    let mut groups: BTreeMap<(&Arc<str>, &[AffinityTerm]), Vec<bool>> = BTreeMap::new();
    for (i, class) in snapshot
        .classes
        .iter()
        .enumerate()
        .filter(|(_, class)| !class.affinity.is_empty())
    {
        let owners = groups.entry((&class.namespace, &class.affinity));
        owners.or_insert_with(|| vec![false; snapshot.classes.len()])[i] = true;
    }
    for ((namespace, terms), owns) in groups {
        let targeted: Vec<bool> = snapshot
            .classes
            .iter()
            .map(|class| terms.iter().all(|term| selects(snapshot, namespace, term, class)))
            .collect();
        let mut total = 0;
        let mut by_domain: Vec<BTreeMap<&Arc<str>, u64>> = vec![BTreeMap::new(); terms.len()];
        for machine in machines {
            let targets = machine
                .pods
                .iter()
                .filter(|p| targeted[p.class.0 as usize])
                .count() as u64;
            total += targets;
            for (term, counts) in terms.iter().zip(&mut by_domain) {
                if let Some(domain) = decided(&machine.shape, &term.topology_key) {
                    *counts.entry(domain).or_default() += targets;
                }
            }
        }
        for machine in machines {
            for placed in machine.pods.iter().filter(|p| p.new && owns[p.class.0 as usize]) {
                let own = u64::from(targeted[placed.class.0 as usize]);
                let near = terms.iter().zip(&by_domain).all(|(term, counts)| {
                    decided(&machine.shape, &term.topology_key).is_some_and(|domain| counts[domain] > own)
                });
                if !near && (total > own || own == 0) {
                    violations.push(Violation {
                        rule: Rule::Affinity,
                        subject: machine.subject,
                        pod: Some(placed.pod),
                        detail: "no other pod that its affinity selects shares its domain".to_owned(),
                    });
                }
            }
        }
    }
}
