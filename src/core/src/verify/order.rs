//! Looks for an order in which kube-scheduler admits every placed pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    catalog::Catalog,
    requirement::Requirement,
    snapshot::{AffinityTerm, ClassId, PodClass, PodId, Snapshot, SpreadConstraint, Toleration},
};

use super::{
    Rule, Violation,
    machines::{Machine, launchable_domains},
    matching::{certain, decided, node_affinity_allows, repelled, selects, term_selects},
    offers::{HOSTNAME_LABEL, Offers, ZONE_LABEL},
};

/// The pods one spread constraint counts, by domain.
/// <https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/>
#[derive(Clone)]
pub(super) struct SpreadGroup {
    max_skew: i64,
    min_domains: usize,
    /// Classes whose pods it counts.
    selected: Vec<bool>,
    /// Domain of each machine that counts: it has the keys of all the pod's constraints and passes the
    /// inclusion policies.
    domain_of: Vec<Option<usize>>,
    names: BTreeSet<Arc<str>>,
    counts: Vec<i64>,
    /// How many domains stand at each count.
    levels: BTreeMap<i64, usize>,
}

impl SpreadGroup {
    /// The group of `constraint` as pods of `owner` see it, with no pod counted yet. `keys` are the
    /// topology keys of all constraints checked together with it.
    pub(super) fn new(
        snapshot: &Snapshot,
        machines: &[Machine],
        owner: &PodClass,
        constraint: &SpreadConstraint,
        keys: &[&str],
    ) -> Self {
        let selected: Vec<bool> = snapshot
            .classes
            .iter()
            .map(|class| class.namespace == owner.namespace && selects(&constraint.selector, &class.labels))
            .collect();
        let mut index: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        let domain_of: Vec<Option<usize>> = machines
            .iter()
            .map(|machine| {
                let has_pods = || machine.pods.iter().any(|p| selected[p.class.0 as usize]);
                let counts = keys.iter().all(|key| machine.shape.contains_key(*key))
                    && (!constraint.honor_node_affinity
                        || node_affinity_allows(owner, &machine.shape, certain))
                    && (!constraint.honor_node_taints || repelled(owner, machine.taints).is_none())
                    && (machine.stays || has_pods());
                let domain = decided(&machine.shape, &constraint.topology_key).filter(|_| counts)?;
                let next = index.len();
                Some(*index.entry(domain.clone()).or_insert(next))
            })
            .collect();
        Self {
            max_skew: i64::from(constraint.max_skew),
            min_domains: constraint.min_domains.unwrap_or(1) as usize,
            selected,
            domain_of,
            counts: vec![0; index.len()],
            levels: BTreeMap::from([(0, index.len())]),
            names: index.into_keys().collect(),
        }
    }

    pub(super) fn count_all(&mut self, machines: &[Machine]) {
        for (at, machine) in machines.iter().enumerate() {
            for placed in &machine.pods {
                self.bind(placed.class, at);
            }
        }
    }

    fn bind(&mut self, class: ClassId, at: usize) {
        if let (true, Some(domain)) = (self.selected[class.0 as usize], self.domain_of[at]) {
            let old = self.counts[domain];
            self.counts[domain] += 1;
            *self.levels.entry(old + 1).or_default() += 1;
            if let Some(left) = self.levels.get_mut(&old) {
                *left -= 1;
                if *left == 0 {
                    self.levels.remove(&old);
                }
            }
        }
    }

    fn lowest(&self) -> i64 {
        self.levels.first_key_value().map_or(0, |(count, _)| *count)
    }

    /// By how much `more` pods on the machine would break the constraint; not above zero when they keep
    /// it, None when the machine has no domain. `empty_domain`: one that does not exist yet counts as 0.
    pub(super) fn excess(&self, at: usize, more: i64, empty_domain: bool) -> Option<i64> {
        let lowest = if empty_domain || self.names.len() < self.min_domains {
            0
        } else {
            self.lowest()
        };
        Some(self.counts[self.domain_of[at]?] + more - lowest - self.max_skew)
    }

    /// How far above the lowest domain the machine's stands.
    fn height(&self, at: usize) -> i64 {
        self.domain_of[at].map_or(0, |domain| self.counts[domain] - self.lowest())
    }
}

/// All required affinity terms of a pod. A pod counts for them when every term selects it; when none does
/// anywhere, a pod that selects itself may start a domain.
/// <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity>
#[derive(Clone)]
struct AffinityGroup {
    selected: Vec<bool>,
    /// For each term the domain of each machine.
    domain_of: Vec<Vec<Option<Arc<str>>>>,
    counts: Vec<BTreeMap<Arc<str>, u64>>,
    anywhere: bool,
}

impl AffinityGroup {
    fn new(snapshot: &Snapshot, machines: &[Machine], namespace: &str, terms: &[AffinityTerm]) -> Self {
        let selects_all = |class: &PodClass| {
            terms
                .iter()
                .all(|term| term_selects(term, namespace, class, &snapshot.namespaces))
        };
        let domains = |term: &AffinityTerm| {
            machines
                .iter()
                .map(|m| decided(&m.shape, &term.topology_key).cloned())
                .collect()
        };
        Self {
            selected: snapshot.classes.iter().map(selects_all).collect(),
            domain_of: terms.iter().map(domains).collect(),
            counts: vec![BTreeMap::new(); terms.len()],
            anywhere: false,
        }
    }

    fn bind(&mut self, class: ClassId, at: usize) {
        if self.selected[class.0 as usize] {
            for (domains, counts) in self.domain_of.iter().zip(&mut self.counts) {
                if let Some(domain) = &domains[at] {
                    *counts.entry(domain.clone()).or_default() += 1;
                    self.anywhere = true;
                }
            }
        }
    }

    fn admits(&self, class: ClassId, at: usize) -> bool {
        let mut terms = self.domain_of.iter().zip(&self.counts);
        let has_keys = self.domain_of.iter().all(|domains| domains[at].is_some());
        let near = terms.all(|(domains, counts)| {
            domains[at]
                .as_ref()
                .is_some_and(|domain| counts.get(domain).is_some_and(|n| *n > 0))
        });
        has_keys && (near || (!self.anywhere && self.selected[class.0 as usize]))
    }
}

/// A pod that waits to be bound to the machine the plan gave it.
#[derive(Clone, Copy)]
struct Waiting {
    pod: PodId,
    class: ClassId,
    at: usize,
}

/// Everything that depends on the order.
#[derive(Clone)]
struct Topology {
    spreads: Vec<SpreadGroup>,
    affinities: Vec<AffinityGroup>,
    /// By class: its own constraints, and whether a domain its pods could have does not exist yet.
    own_spreads: Vec<Vec<(usize, bool)>>,
    own_affinity: Vec<Option<usize>>,
    /// By class: the spread groups that count its pods.
    counted_by: Vec<Vec<usize>>,
    aimed_at_by: Vec<Vec<usize>>,
}

impl Topology {
    fn bind(&mut self, class: ClassId, at: usize) {
        for group in &self.counted_by[class.0 as usize] {
            self.spreads[*group].bind(class, at);
        }
        for group in &self.aimed_at_by[class.0 as usize] {
            self.affinities[*group].bind(class, at);
        }
    }

    fn broken(&self, waiting: Waiting, launchable: bool) -> Option<Rule> {
        let class = waiting.class.0 as usize;
        let spread = self.own_spreads[class].iter().all(|(group, empty_domain)| {
            let group = &self.spreads[*group];
            let more = i64::from(group.selected[class]);
            group
                .excess(waiting.at, more, *empty_domain && launchable)
                .is_some_and(|excess| excess <= 0)
        });
        if !spread {
            return Some(Rule::Spread);
        }
        let near = self.own_affinity[class]
            .is_none_or(|group| self.affinities[group].admits(waiting.class, waiting.at));
        (!near).then_some(Rule::Affinity)
    }

    /// How uneven binding the pod would make the groups that count it.
    fn height(&self, waiting: Waiting) -> i64 {
        let groups = &self.counted_by[waiting.class.0 as usize];
        groups
            .iter()
            .map(|group| self.spreads[*group].height(waiting.at))
            .max()
            .unwrap_or(0)
    }
}

pub(super) fn check(
    snapshot: &Snapshot,
    catalog: &Catalog,
    machines: &[Machine],
    violations: &mut Vec<Violation>,
) {
    undecided(snapshot, machines, violations);
    let mut topology = topology(snapshot, catalog, machines);
    let (mut bound, mut free) = (Vec::new(), Vec::new());
    for (at, machine) in machines.iter().enumerate() {
        for placed in &machine.pods {
            let class = placed.class.0 as usize;
            let waiting = Waiting {
                pod: placed.pod,
                class: placed.class,
                at,
            };
            let counted = !topology.counted_by[class].is_empty() || !topology.aimed_at_by[class].is_empty();
            if !placed.new {
                topology.bind(placed.class, at);
            } else if !topology.own_spreads[class].is_empty() || topology.own_affinity[class].is_some() {
                bound.push(waiting);
            } else if counted {
                free.push(waiting);
            }
        }
    }
    let stuck = search(&topology, &bound, &free, true);
    if stuck.is_empty() {
        return;
    }
    // Told apart: what breaks on the nodes there are, and what breaks only when domains that could be
    // launched count too.
    let stuck_on_nodes = search(&topology, &bound, &free, false);
    let on_nodes: BTreeSet<PodId> = stuck_on_nodes.iter().map(|(w, _)| w.pod).collect();
    let only_universe = stuck.into_iter().filter(|(w, _)| !on_nodes.contains(&w.pod));
    let only_universe = only_universe.map(|(w, _)| (w, Rule::SpreadUniverse));
    for (waiting, rule) in stuck_on_nodes.into_iter().chain(only_universe) {
        violations.push(Violation {
            rule,
            subject: machines[waiting.at].subject,
            pod: Some(waiting.pod),
            detail: "no order of binding found in which it is admitted there".to_owned(),
        });
    }
}

/// Up to this many pods every order is tried: what is bound decides what is admitted, not in which order it
/// came, so that subsets are enough.
const EVERY_ORDER_PODS_MAX: usize = 14;

/// Times a greedy search starts again, with the pods that got stuck at the front.
const RETRIES_MAX: usize = 40;

/// The pods that are left over by the best order found, with the rule that keeps each away.
fn search(
    topology: &Topology,
    bound: &[Waiting],
    free: &[Waiting],
    launchable: bool,
) -> Vec<(Waiting, Rule)> {
    // Level by level: the nth pod of a domain comes before the next one of any.
    let mut nth: BTreeMap<(usize, Option<usize>), usize> = BTreeMap::new();
    let ranks: BTreeMap<PodId, usize> = bound
        .iter()
        .map(|w| {
            let group = topology.own_spreads[w.class.0 as usize]
                .first()
                .map(|(group, _)| *group);
            let domain = group.map_or((usize::MAX, None), |g| (g, topology.spreads[g].domain_of[w.at]));
            let rank = nth.entry(domain).or_default();
            *rank += 1;
            (w.pod, *rank)
        })
        .collect();
    let class = |w: &Waiting| w.class.0 as usize;
    // Groups that count the pod though they do not restrict it: binding it early can only hurt others.
    let foreign = |w: &Waiting| {
        let own = &topology.own_spreads[class(w)];
        topology.counted_by[class(w)]
            .iter()
            .filter(|g| own.iter().all(|(o, _)| o != *g))
            .count()
    };
    let by_rank = |w: &Waiting| (0, ranks[&w.pod]);
    let starters_first = |w: &Waiting| {
        (
            usize::from(topology.own_affinity[class(w)].is_none()),
            ranks[&w.pod],
        )
    };
    let harmless_first = |w: &Waiting| (foreign(w), ranks[&w.pod]);
    let priorities: [&dyn Fn(&Waiting) -> (usize, usize); 3] = [&by_rank, &starters_first, &harmless_first];
    let mut best: Option<Vec<(Waiting, Rule)>> = None;
    for priority in priorities {
        let mut sorted = bound.to_vec();
        sorted.sort_by_cached_key(priority);
        // What got stuck goes first the next time.
        let mut urgent: BTreeSet<PodId> = BTreeSet::new();
        for _ in 0..RETRIES_MAX {
            let stuck = greedy(topology.clone(), &sorted, &urgent, free.to_vec(), launchable);
            let before = urgent.len();
            urgent.extend(stuck.iter().map(|(w, _)| w.pod));
            if best.as_ref().is_none_or(|best| stuck.len() < best.len()) {
                best = Some(stuck);
            }
            if urgent.len() == before || best.as_ref().is_some_and(Vec::is_empty) {
                break;
            }
        }
        if best.as_ref().is_some_and(Vec::is_empty) {
            break;
        }
    }
    let best = best.unwrap_or_default();
    let all: Vec<Waiting> = bound.iter().chain(free).copied().collect();
    if !best.is_empty() && all.len() <= EVERY_ORDER_PODS_MAX && every_order(topology, &all, launchable) {
        return Vec::new();
    }
    best
}

/// Whether some order binds all.
fn every_order(topology: &Topology, all: &[Waiting], launchable: bool) -> bool {
    let full = (1_usize << all.len()) - 1;
    let mut reached = BTreeSet::from([0_usize]);
    while let Some(set) = reached.pop_last() {
        if set == full {
            return true;
        }
        let mut here = topology.clone();
        let members = |i: &usize| set >> i & 1 == 1;
        (0..all.len())
            .filter(members)
            .for_each(|i| here.bind(all[i].class, all[i].at));
        let next = (0..all.len()).filter(|i| !members(i) && here.broken(all[*i], launchable).is_none());
        reached.extend(next.map(|i| set | 1 << i));
    }
    false
}

/// Binds pods while any is admitted and returns the rest, with the rule that keeps each away. Urgent pods come
/// as soon as they are admitted, then pods that raise a domain least; a free pod is bound only where it lifts a
/// minimum or is a target that a pod waits for.
fn greedy(
    mut topology: Topology,
    bound: &[Waiting],
    urgent: &BTreeSet<PodId>,
    mut free: Vec<Waiting>,
    launchable: bool,
) -> Vec<(Waiting, Rule)> {
    let (mut first, mut bound): (Vec<Waiting>, Vec<Waiting>) =
        bound.iter().copied().partition(|w| urgent.contains(&w.pod));
    let mut height = 0;
    while !bound.is_empty() || !first.is_empty() {
        let before = first.len() + bound.len() + free.len();
        // The least height at which more would be admitted.
        let mut next = i64::MAX;
        first.retain(|w| {
            let admitted = topology.broken(*w, launchable).is_none();
            if admitted {
                topology.bind(w.class, w.at);
            }
            !admitted
        });
        let mut rebound = false;
        bound.retain(|w| {
            // An urgent pod may be admitted now: it must not wait for the rest of the round.
            if rebound || topology.broken(*w, launchable).is_some() {
                return true;
            }
            let own = topology.height(*w);
            if own > height {
                next = next.min(own);
                return true;
            }
            topology.bind(w.class, w.at);
            rebound = first.iter().any(|u| topology.broken(*u, launchable).is_none());
            false
        });
        if first.len() + bound.len() + free.len() == before {
            let mut spreads = BTreeSet::new();
            let mut affinities = BTreeSet::new();
            for w in first.iter().chain(&bound) {
                spreads.extend(
                    topology.own_spreads[w.class.0 as usize]
                        .iter()
                        .map(|(group, _)| *group),
                );
                affinities.extend(topology.own_affinity[w.class.0 as usize]);
            }
            let mut lifted = BTreeSet::new();
            free.retain(|w| {
                let class = w.class.0 as usize;
                let lifts = topology.counted_by[class].iter().find(|group| {
                    let domain = topology.spreads[**group].domain_of[w.at];
                    spreads.contains(*group)
                        && domain.is_some()
                        && topology.spreads[**group].height(w.at) == 0
                        && !lifted.contains(&(**group, domain))
                });
                let lifts = lifts.map(|group| (*group, topology.spreads[*group].domain_of[w.at]));
                let target = topology.aimed_at_by[class]
                    .iter()
                    .any(|group| affinities.contains(group));
                if !target && lifts.is_none() {
                    return true;
                }
                let own = topology.height(*w);
                if own > height {
                    next = next.min(own);
                    return true;
                }
                lifted.extend(lifts);
                topology.bind(w.class, w.at);
                false
            });
        }
        if first.len() + bound.len() + free.len() < before {
            height = 0;
        } else if next < i64::MAX {
            height = next;
        } else {
            break;
        }
    }
    let rule = |w: Waiting| topology.broken(w, launchable).unwrap_or(Rule::Spread);
    first.into_iter().chain(bound).map(|w| (w, rule(w))).collect()
}

/// What tells spread groups apart: the constraint, who is counted, and which machines count.
type SpreadKey<'a> = (
    &'a Arc<str>,
    &'a SpreadConstraint,
    Option<(&'a [(Arc<str>, Arc<str>)], &'a [Vec<Requirement>])>,
    Option<&'a [Toleration]>,
    Vec<&'a str>,
);

fn topology(snapshot: &Snapshot, catalog: &Catalog, machines: &[Machine]) -> Topology {
    let classes = snapshot.classes.len();
    let mut placed = vec![false; classes];
    for machine in machines {
        machine
            .pods
            .iter()
            .filter(|p| p.new)
            .for_each(|p| placed[p.class.0 as usize] = true);
    }
    let mut spread_ids: BTreeMap<SpreadKey, usize> = BTreeMap::new();
    let mut affinity_ids: BTreeMap<(&Arc<str>, &[AffinityTerm]), usize> = BTreeMap::new();
    let mut offers = Offers::new(snapshot, catalog);
    let mut found = Topology {
        spreads: Vec::new(),
        affinities: Vec::new(),
        own_spreads: vec![Vec::new(); classes],
        own_affinity: vec![None; classes],
        counted_by: vec![Vec::new(); classes],
        aimed_at_by: vec![Vec::new(); classes],
    };
    let mut sold: BTreeMap<&str, BTreeSet<Arc<str>>> = BTreeMap::new();
    for (i, class) in snapshot.classes.iter().enumerate().filter(|(i, _)| placed[*i]) {
        let hard: Vec<&SpreadConstraint> = class.spread.iter().filter(|c| c.hard).collect();
        let keys: Vec<&str> = hard.iter().map(|c| &*c.topology_key).collect();
        for constraint in hard {
            let key: SpreadKey = (
                &class.namespace,
                constraint,
                constraint
                    .honor_node_affinity
                    .then_some((&class.node_selector, &class.node_affinity)),
                constraint.honor_node_taints.then_some(&class.tolerations),
                keys.clone(),
            );
            let id = *spread_ids.entry(key).or_insert_with(|| {
                found
                    .spreads
                    .push(SpreadGroup::new(snapshot, machines, class, constraint, &keys));
                found.spreads.len() - 1
            });
            let topology_key: &str = &constraint.topology_key;
            let names = &found.spreads[id].names;
            let is_missing = |domains: &BTreeSet<Arc<str>>| !domains.is_subset(names);
            // What nobody can launch for any pod need not be asked for this one. Another node of its own can
            // always be launched for a pod that some pool takes.
            let missing = if topology_key == HOSTNAME_LABEL {
                !launchable_domains(snapshot, catalog, &mut offers, class, ZONE_LABEL).is_empty()
            } else {
                is_missing(sold.entry(topology_key).or_insert_with(|| {
                    let any = PodClass {
                        tolerations: vec![tolerate_all()],
                        ..PodClass::default()
                    };
                    launchable_domains(snapshot, catalog, &mut offers, &any, topology_key)
                })) && is_missing(&launchable_domains(
                    snapshot,
                    catalog,
                    &mut offers,
                    class,
                    topology_key,
                ))
            };
            found.own_spreads[i].push((id, missing));
        }
        if !class.affinity.is_empty() {
            let id = *affinity_ids
                .entry((&class.namespace, &class.affinity))
                .or_insert_with(|| {
                    let group = AffinityGroup::new(snapshot, machines, &class.namespace, &class.affinity);
                    found.affinities.push(group);
                    found.affinities.len() - 1
                });
            found.own_affinity[i] = Some(id);
        }
    }
    for (id, group) in found.spreads.iter().enumerate() {
        (0..classes)
            .filter(|i| group.selected[*i])
            .for_each(|i| found.counted_by[i].push(id));
    }
    for (id, group) in found.affinities.iter().enumerate() {
        (0..classes)
            .filter(|i| group.selected[*i])
            .for_each(|i| found.aimed_at_by[i].push(id));
    }
    found
}

fn tolerate_all() -> Toleration {
    Toleration {
        key: None,
        operator: crate::snapshot::TolerationOperator::Exists,
        value: "".into(),
        effect: None,
    }
}

/// A launch whose pods are bound to a domain must come up in one domain.
fn undecided(snapshot: &Snapshot, machines: &[Machine], violations: &mut Vec<Violation>) {
    for machine in machines {
        let mut seen = BTreeSet::new();
        for placed in machine.pods.iter().filter(|p| p.new) {
            if !seen.insert(placed.class) {
                continue;
            }
            let class = &snapshot.classes[placed.class.0 as usize];
            let spreads = class.spread.iter().filter(|c| c.hard).map(|c| &c.topology_key);
            for key in spreads.chain(class.affinity.iter().map(|term| &term.topology_key)) {
                let domains = machine.domains(key);
                if domains.len() > 1 {
                    violations.push(Violation {
                        rule: Rule::Undecided,
                        subject: machine.subject,
                        pod: Some(placed.pod),
                        detail: format!("{key} may become any of {} domains", domains.len()),
                    });
                }
            }
        }
    }
}
