//! What the order of binding does not change: required anti-affinity, in both directions.

use std::{collections::BTreeMap, sync::Arc};

use crate::snapshot::{AffinityTerm, PodClass, PodId, Snapshot};

use super::{Rule, Violation, machines::Machine, matching::term_selects};

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
