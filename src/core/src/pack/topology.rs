//! Spread, affinity and anti-affinity as counters.
//!
//! Rules over a key other than the hostname look at counts per domain ([`Group`]). Rules over the hostname look
//! at what else is on the machine ([`HostGroup`]); host ports are one of them.

use std::{collections::BTreeSet, sync::Arc};

use fixedbitset::FixedBitSet;
use rustc_hash::FxHashMap;

use super::{
    keys::{ABSENT, Keys},
    offers::HOSTNAME,
    taints::ports_conflict,
};
use crate::snapshot::{AffinityTerm, HostPort, Labels, PodClass, Selector, Snapshot};

/// Pods counted by domain of one key.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) key: u32,
    /// Only pods on these places count; None: all.
    pub(super) filter: Option<Arc<FixedBitSet>>,
    /// Pods counted, by value id.
    pub(super) counts: Vec<i64>,
    /// The tightest hard spread that counts by this group: (max skew, eligible domains).
    pub(super) spread: Option<(i64, Arc<Vec<u32>>)>,
}

#[derive(Clone, Debug)]
pub(super) enum Rule {
    /// Counts of domains may differ by `max_skew` at most. `domains` are the eligible value ids.
    Spread {
        group: u32,
        max_skew: i64,
        min_domains: usize,
        counts_self: bool,
        domains: Arc<Vec<u32>>,
    },
    /// The domain must have a pod of the group, or the pod starts the group itself.
    Affinity { group: u32, counts_self: bool },
    /// The domain must have no pod of the group.
    Anti { group: u32 },
}

/// A rule of a class about domains. A rule with a weight is a preference.
#[derive(Clone, Debug)]
pub(super) struct DomainRule {
    pub(super) rule: Rule,
    pub(super) weight: Option<i32>,
}

impl DomainRule {
    pub(super) fn group(&self) -> u32 {
        match self.rule {
            Rule::Spread { group, .. } | Rule::Affinity { group, .. } | Rule::Anti { group } => group,
        }
    }
}

/// Classes that restrict each other on one machine.
#[derive(Clone, Debug)]
pub(super) struct HostGroup {
    /// Classes whose rule it is.
    pub(super) carriers: FixedBitSet,
    /// Classes the rule speaks of.
    pub(super) members: FixedBitSet,
    /// None: a carrier excludes every member (anti-affinity, host port). Some: with a carrier present, at most this
    /// many members (spread).
    pub(super) cap: Option<u32>,
    /// A preference of its carriers.
    pub(super) soft: bool,
}

/// What a class has to do with host groups.
#[derive(Clone, Debug, Default)]
pub(super) struct HostRules {
    /// Groups it carries or is a member of.
    pub(super) groups: Vec<u32>,
    /// Hostname affinity: (classes it must be beside, whether its own pods are among them, weight of a preference).
    pub(super) beside: Vec<Beside>,
}

#[derive(Clone, Debug)]
pub(super) struct Beside {
    pub(super) members: Arc<FixedBitSet>,
    pub(super) counts_self: bool,
    pub(super) weight: Option<i32>,
}

#[derive(Debug, Default)]
pub(super) struct Topology {
    pub(super) groups: Vec<Group>,
    /// Groups in which a pod of the class counts, by class.
    pub(super) counted_in: Vec<Vec<u32>>,
    /// By class.
    pub(super) rules: Vec<Vec<DomainRule>>,
    pub(super) hosts: Vec<HostGroup>,
    /// By class.
    pub(super) host_rules: Vec<HostRules>,
}

/// Resolves selectors to sets of classes.
struct Selection<'a> {
    snapshot: &'a Snapshot,
    by_label: FxHashMap<(&'a str, &'a str), Vec<u32>>,
    cache: FxHashMap<(Selector, Vec<Arc<str>>), Arc<FixedBitSet>>,
}

impl<'a> Selection<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        let mut by_label: FxHashMap<(&str, &str), Vec<u32>> = FxHashMap::default();
        for (class, shape) in snapshot.classes.iter().enumerate() {
            for (key, value) in &shape.labels {
                by_label.entry((key, value)).or_default().push(class as u32);
            }
        }
        Self {
            snapshot,
            by_label,
            cache: FxHashMap::default(),
        }
    }

    fn members(&mut self, selector: &Selector, namespaces: Vec<Arc<str>>) -> Arc<FixedBitSet> {
        let key = (selector.clone(), namespaces);
        if let Some(set) = self.cache.get(&key) {
            return set.clone();
        }
        let (selector, namespaces) = &key;
        let classes = &self.snapshot.classes;
        let mut set = FixedBitSet::with_capacity(classes.len());
        let mut consider = |class: u32| {
            let shape = &classes[class as usize];
            if namespaces.binary_search(&shape.namespace).is_ok() && selects(selector, &shape.labels) {
                set.insert(class as usize);
            }
        };
        let listed = selector
            .requirements
            .iter()
            .find(|r| r.operator == crate::requirement::Operator::In);
        if let (Some(listed), false) = (listed, selector.nothing) {
            for value in &listed.values {
                let candidates = self.by_label.get(&(&*listed.key, &**value));
                candidates
                    .into_iter()
                    .flatten()
                    .for_each(|class| consider(*class));
            }
        } else {
            (0..classes.len() as u32).for_each(&mut consider);
        }
        let set = Arc::new(set);
        self.cache.insert(key, set.clone());
        set
    }

    fn of_term(&mut self, class: &PodClass, term: &AffinityTerm) -> Arc<FixedBitSet> {
        let mut namespaces: BTreeSet<Arc<str>> = term.namespaces.iter().cloned().collect();
        if let Some(selector) = &term.namespace_selector {
            let matched = self
                .snapshot
                .namespaces
                .iter()
                .filter(|(_, labels)| selects_map(selector, labels));
            namespaces.extend(matched.map(|(name, _)| name.clone()));
            // An empty selector means every namespace, also one whose labels are not known.
            if selector.requirements.is_empty() && !selector.nothing {
                namespaces.extend(self.snapshot.classes.iter().map(|c| c.namespace.clone()));
            }
        } else if namespaces.is_empty() {
            namespaces.insert(class.namespace.clone());
        }
        self.members(&term.selector, namespaces.into_iter().collect())
    }
}

fn selects(selector: &Selector, labels: &[(Arc<str>, Arc<str>)]) -> bool {
    let value = |key: &str| labels.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v);
    !selector.nothing && selector.requirements.iter().all(|r| r.matches(value(&r.key)))
}

fn selects_map(selector: &Selector, labels: &Labels) -> bool {
    !selector.nothing && crate::requirement::labels_match(labels, &selector.requirements)
}

/// What building needs to know of one class.
pub(super) struct Subject {
    /// Some pod of it needs a place.
    pub(super) waits: bool,
    /// Some pod of it exists at all.
    pub(super) exists: bool,
    /// Places that its spread constraints count by (see `nodeAffinityPolicy`): by selector and affinity.
    pub(super) by_affinity: Option<Arc<FixedBitSet>>,
    /// The same for `nodeTaintsPolicy`.
    pub(super) by_taints: Option<Arc<FixedBitSet>>,
}

/// Which counter: key, members, filter, and whether carriers are counted instead of members.
type GroupId = (u32, Arc<FixedBitSet>, Option<Arc<FixedBitSet>>, bool);

struct Builder<'a> {
    topology: Topology,
    keys: &'a Keys,
    /// Places that are or will be there: a domain of a machine that is leaving is none.
    staying: &'a FixedBitSet,
    ids: FxHashMap<GroupId, u32>,
    host_ids: FxHashMap<(Arc<FixedBitSet>, Option<u32>, bool), u32>,
    domains: FxHashMap<(u32, Option<Arc<FixedBitSet>>), Arc<Vec<u32>>>,
    n_classes: usize,
}

impl Builder<'_> {
    fn group(
        &mut self,
        key: u32,
        members: &Arc<FixedBitSet>,
        filter: Option<&Arc<FixedBitSet>>,
        of_carriers: bool,
    ) -> u32 {
        let next = self.topology.groups.len() as u32;
        let id = *self
            .ids
            .entry((key, members.clone(), filter.cloned(), of_carriers))
            .or_insert(next);
        if id == next {
            let n_values = self.keys.keys[key as usize].n_values();
            self.topology.groups.push(Group {
                key,
                filter: filter.cloned(),
                counts: vec![0; n_values],
                spread: None,
            });
            if !of_carriers {
                members
                    .ones()
                    .for_each(|class| self.topology.counted_in[class].push(id));
            }
        }
        id
    }

    fn rule(&mut self, class: usize, rule: Rule, weight: Option<i32>) {
        self.topology.rules[class].push(DomainRule { rule, weight });
    }

    fn anti(&mut self, class: usize, key: u32, members: &Arc<FixedBitSet>, weight: Option<i32>, waits: bool) {
        if waits {
            let group = self.group(key, members, None, false);
            self.rule(class, Rule::Anti { group }, weight);
        }
        if weight.is_none() {
            // The inverse: who is selected must stay away from the carriers.
            let carriers = self.group(key, members, None, true);
            if !self.topology.counted_in[class].contains(&carriers) {
                self.topology.counted_in[class].push(carriers);
            }
        }
    }

    fn host(&mut self, class: usize, members: &Arc<FixedBitSet>, cap: Option<u32>, soft: bool) {
        let next = self.topology.hosts.len() as u32;
        let id = *self.host_ids.entry((members.clone(), cap, soft)).or_insert(next);
        if id == next {
            let carriers = FixedBitSet::with_capacity(self.n_classes);
            self.topology.hosts.push(HostGroup {
                carriers,
                members: (**members).clone(),
                cap,
                soft,
            });
            for member in members.ones() {
                self.topology.host_rules[member].groups.push(id);
            }
        }
        self.topology.hosts[id as usize].carriers.insert(class);
        if !self.topology.host_rules[class].groups.contains(&id) {
            self.topology.host_rules[class].groups.push(id);
        }
    }

    /// Value ids of a key that some staying place within the filter has.
    fn domains(&mut self, key: u32, filter: Option<&Arc<FixedBitSet>>) -> Arc<Vec<u32>> {
        let (keys, staying) = (self.keys, self.staying);
        let compute = || {
            let mut values = BTreeSet::new();
            for place in staying.ones() {
                if filter.is_none_or(|f| f.contains(place)) {
                    values.insert(keys.keys[key as usize].of_place[place]);
                }
            }
            values.remove(&ABSENT);
            Arc::new(values.into_iter().collect::<Vec<u32>>())
        };
        self.domains
            .entry((key, filter.cloned()))
            .or_insert_with(compute)
            .clone()
    }
}

/// Builds all groups and rules. `respect` includes preferences. `subjects` is by class.
pub(super) fn build(
    snapshot: &Snapshot,
    keys: &Keys,
    subjects: &[Subject],
    staying: &FixedBitSet,
    respect: bool,
) -> Topology {
    let n_classes = snapshot.classes.len();
    let mut selection = Selection::new(snapshot);
    let mut builder = Builder {
        topology: Topology {
            counted_in: vec![Vec::new(); n_classes],
            rules: vec![Vec::new(); n_classes],
            host_rules: vec![HostRules::default(); n_classes],
            ..Topology::default()
        },
        keys,
        staying,
        ids: FxHashMap::default(),
        host_ids: FxHashMap::default(),
        domains: FxHashMap::default(),
        n_classes,
    };
    let mut inverse: Vec<(u32, Arc<FixedBitSet>)> = Vec::new();
    for (class, (shape, subject)) in snapshot.classes.iter().zip(subjects).enumerate() {
        if !subject.exists {
            continue;
        }
        let soft = |list: &[(i32, AffinityTerm)]| -> Vec<(Option<i32>, AffinityTerm)> {
            let list = if respect { list } else { &[] };
            list.iter()
                .map(|(weight, term)| (Some(*weight), term.clone()))
                .collect()
        };
        let hard = |list: &[AffinityTerm]| -> Vec<(Option<i32>, AffinityTerm)> {
            list.iter().map(|term| (None, term.clone())).collect()
        };
        for (weight, term) in hard(&shape.anti_affinity)
            .into_iter()
            .chain(soft(&shape.preferred_anti_affinity))
        {
            let members = selection.of_term(shape, &term);
            if &*term.topology_key == HOSTNAME {
                builder.host(class, &members, None, weight.is_some());
            } else {
                let Some(key) = keys.id(&term.topology_key) else {
                    continue;
                };
                builder.anti(class, key, &members, weight, subject.waits);
                if weight.is_none() {
                    inverse.push((key, members));
                }
            }
        }
        if !subject.waits {
            continue;
        }
        for (weight, term) in hard(&shape.affinity)
            .into_iter()
            .chain(soft(&shape.preferred_affinity))
        {
            // kube-scheduler counts a pod for required terms only when all of them select it.
            let members = match weight {
                None => selected_by_all(&mut selection, shape),
                Some(_) => selection.of_term(shape, &term),
            };
            let counts_self = members.contains(class);
            if &*term.topology_key == HOSTNAME {
                builder.topology.host_rules[class].beside.push(Beside {
                    members,
                    counts_self,
                    weight,
                });
            } else {
                let Some(key) = keys.id(&term.topology_key) else {
                    continue;
                };
                let group = builder.group(key, &members, None, false);
                builder.rule(class, Rule::Affinity { group, counts_self }, weight);
            }
        }
        for spread in shape.spread.iter().filter(|s| s.hard || respect) {
            let weight = (!spread.hard).then_some(0);
            let members = selection.members(&spread.selector, vec![shape.namespace.clone()]);
            if &*spread.topology_key == HOSTNAME {
                // An empty machine may always stand beside, so the least count is zero.
                builder.host(class, &members, Some(spread.max_skew), weight.is_some());
                continue;
            }
            let Some(key) = keys.id(&spread.topology_key) else {
                continue;
            };
            let filter = match (
                subject
                    .by_affinity
                    .as_ref()
                    .filter(|_| spread.honor_node_affinity),
                subject.by_taints.as_ref().filter(|_| spread.honor_node_taints),
            ) {
                (Some(a), Some(b)) => {
                    let mut both = (**a).clone();
                    both.intersect_with(b);
                    Some(Arc::new(both))
                }
                (a, b) => a.or(b).cloned(),
            };
            let group = builder.group(key, &members, filter.as_ref(), false);
            let domains = builder.domains(key, filter.as_ref());
            if spread.hard {
                let tightest = &mut builder.topology.groups[group as usize].spread;
                let skew = i64::from(spread.max_skew);
                if tightest.as_ref().is_none_or(|(least, _)| skew < *least) {
                    *tightest = Some((skew, domains.clone()));
                }
            }
            let rule = Rule::Spread {
                group,
                max_skew: i64::from(spread.max_skew),
                min_domains: spread.min_domains.unwrap_or(1) as usize,
                counts_self: members.contains(class),
                domains,
            };
            builder.rule(class, rule, weight);
        }
    }
    inverse.sort_by_key(|a| (a.0, a.1.ones().collect::<Vec<_>>()));
    inverse.dedup();
    for (key, members) in inverse {
        let carriers = builder.group(key, &members, None, true);
        for member in members.ones().filter(|m| subjects[*m].waits) {
            builder.rule(member, Rule::Anti { group: carriers }, None);
        }
    }
    ports(snapshot, subjects, &mut builder);
    builder.topology
}

/// Classes that every required affinity term of a class selects.
fn selected_by_all(selection: &mut Selection<'_>, shape: &PodClass) -> Arc<FixedBitSet> {
    let mut terms = shape.affinity.iter();
    let Some(first) = terms.next() else {
        return Arc::new(FixedBitSet::new());
    };
    let first = selection.of_term(shape, first);
    if shape.affinity.len() == 1 {
        return first;
    }
    let mut all = (*first).clone();
    for term in terms {
        all.intersect_with(&selection.of_term(shape, term));
    }
    Arc::new(all)
}

/// Host ports of waiting classes exclude each other as anti-affinity does. (Those of pods that stay where they are
/// are masked out of the places of a class.)
fn ports(snapshot: &Snapshot, subjects: &[Subject], builder: &mut Builder<'_>) {
    let mut carriers: FxHashMap<&HostPort, Vec<usize>> = FxHashMap::default();
    let mut ports: BTreeSet<&HostPort> = BTreeSet::new();
    for (class, (shape, subject)) in snapshot.classes.iter().zip(subjects).enumerate() {
        if subject.waits {
            for port in &shape.host_ports {
                carriers.entry(port).or_default().push(class);
                ports.insert(port);
            }
        }
    }
    for port in &ports {
        let mut members = FixedBitSet::with_capacity(builder.n_classes);
        for other in ports.iter().filter(|other| ports_conflict(port, other)) {
            members.extend(carriers[*other].iter().copied());
        }
        let members = Arc::new(members);
        for class in &carriers[*port] {
            builder.host(*class, &members, None, false);
        }
    }
}
