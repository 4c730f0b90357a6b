//! Whether the pods of a plan can bind: is there an order in which the rules about domains admit each of them?
//!
//! The order in which pods were given to domains is one as long as none is taken back. Where some were, and wherever
//! places were chosen without regard to order, this module looks for one. Rules that do not depend on the order
//! (resources, host ports, what excludes each other on one machine) are not its business.

use std::collections::{BTreeMap, BTreeSet};

use fixedbitset::FixedBitSet;

use super::{
    compile::{Problem, selector_requirements},
    domains::{Counts, least},
    fit::{Part, add_part, times},
    keys::ABSENT,
    offers::HOSTNAME,
    taints::untolerated,
    topology::{Beside, Rule},
};
use crate::{
    requirement::Requirement,
    snapshot::{ClassId, SpreadConstraint},
};

/// Pods of one class on one machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stay {
    pub(super) class: u32,
    /// Any number that tells machines apart; existing nodes by their index.
    pub(super) machine: u32,
    /// Offer or node, as places are numbered.
    pub(super) place: usize,
    pub(super) n: u32,
}

/// Up to this many pods every order is tried before one counts as stuck.
const EVERY_ORDER_PODS_MAX: u32 = 12;
/// Times a search starts again with what got stuck at the front.
const RETRIES_MAX: usize = 12;

/// How many pods of each stay no order admits; all zero when an order for all of them was found.
/// `caps`: spread over machines is looked at too; otherwise it is known to hold in any order.
pub(super) fn stuck(problem: &Problem<'_>, stays: &[Stay], caps: bool) -> Vec<u32> {
    let mut stuck = vec![0; stays.len()];
    loop {
        let left: Vec<Stay> = stays
            .iter()
            .zip(&stuck)
            .map(|(stay, out)| Stay {
                n: stay.n - out,
                ..*stay
            })
            .collect();
        let replay = Replay::new(problem, &left, caps);
        let mut out = replay.search();
        if out.iter().all(|n| *n == 0) {
            out = replay.lonely();
        }
        if out.iter().all(|n| *n == 0) {
            return stuck;
        }
        // What goes may have been what others relied on.
        for (item, mut n) in replay.items.iter().zip(out) {
            for (stay, most) in item.origin.iter().rev() {
                let here = n.min(*most);
                stuck[*stay] += here;
                n -= here;
            }
        }
    }
}

/// Pods that count and are admitted alike.
struct Item {
    class: u32,
    /// `NO_MACHINE` unless a rule about what else is on the machine concerns the class.
    machine: u32,
    /// Where it counts: group and value.
    counted: Vec<(u32, u32)>,
    /// The value each domain rule of the class looks at.
    values: Vec<u32>,
    /// A hard rule decides when it may bind.
    ruled: bool,
    n: u32,
    /// Stays it is made of, with their pods.
    origin: Vec<(usize, u32)>,
}

const NO_MACHINE: u32 = u32::MAX;

/// The domains a spread counts as they will be.
struct Spread {
    domains: Vec<u32>,
    /// Fewer than asked for: the least count is taken as zero.
    too_few: bool,
}

struct Replay<'a> {
    problem: &'a Problem<'a>,
    items: Vec<Item>,
    /// Items level by level: the nth pod of a domain comes before the next one of any.
    by_level: Vec<usize>,
    /// By class and number of the rule.
    spreads: BTreeMap<(u32, usize), Spread>,
    /// Pods that stay and that somebody looks at, by machine.
    present: BTreeMap<u32, Vec<Part>>,
    /// By class, if spread over machines is looked at.
    caps: BTreeMap<u32, Vec<Cap>>,
}

/// A spread over machines.
struct Cap {
    members: FixedBitSet,
    max_skew: u32,
    counts_self: bool,
    /// Where no machine can be launched for the class: those that count for it, as the emptiest may hold pods already.
    machines: Option<Vec<u32>>,
}

/// What is bound so far.
#[derive(Clone)]
struct Bound {
    counts: Counts,
    present: BTreeMap<u32, Vec<Part>>,
    left: Vec<u32>,
}

fn hard(beside: &[Beside]) -> impl Iterator<Item = &Beside> {
    beside.iter().filter(|b| b.weight.is_none())
}

fn levels(problem: &Problem<'_>, items: &[Item]) -> Vec<usize> {
    let mut pods: BTreeMap<(u32, u32), u32> = BTreeMap::new();
    let mut level = |item: &Item| {
        let rules = problem.topology.rules[item.class as usize]
            .iter()
            .zip(&item.values);
        let mut spreads = rules.filter(|(r, _)| r.weight.is_none() && matches!(r.rule, Rule::Spread { .. }));
        let Some((rule, value)) = spreads.next() else {
            return 0;
        };
        let before = pods.entry((rule.group(), *value)).or_default();
        *before += item.n;
        *before - item.n
    };
    let levels: Vec<u32> = items.iter().map(&mut level).collect();
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|at| (levels[*at], *at));
    order
}

/// The hard spreads of a class over machines.
fn machine_spreads(problem: &Problem<'_>, class: u32, stays: &[Stay]) -> Vec<Cap> {
    let shape = problem.shape(ClassId(class));
    let of_hosts = |s: &&SpreadConstraint| s.hard && &*s.topology_key == HOSTNAME;
    let launchable = || {
        let demand = problem.demands.iter().find(|d| d.class.0 == class);
        demand.is_some_and(|d| {
            let offers = d.allowed.ones().take_while(|o| *o < problem.n_offers());
            offers
                .into_iter()
                .any(|o| times(problem.whole_room(o), &d.request) > 0)
        })
    };
    let counts = |spread: &SpreadConstraint, place: usize| {
        let met = |r: &Requirement| problem.keys.satisfied_at(r, place);
        let affinity =
            shape.node_affinity.is_empty() || shape.node_affinity.iter().any(|all| all.iter().all(met));
        let taints = match place.checked_sub(problem.n_offers()) {
            Some(node) => &problem.snapshot.nodes[node].taints,
            None => &problem.snapshot.pools[problem.offers.offers[place].pool as usize].taints,
        };
        (!spread.honor_node_affinity || (affinity && selector_requirements(shape).iter().all(met)))
            && (!spread.honor_node_taints || untolerated(&shape.tolerations, taints, false).is_none())
    };
    let mut all = Vec::new();
    for spread in shape.spread.iter().filter(of_hosts) {
        let groups = problem.topology.host_rules[class as usize].groups.iter();
        let groups = groups
            .map(|g| &problem.topology.hosts[*g as usize])
            .filter(|g| !g.soft && g.cap == Some(spread.max_skew) && g.carriers.contains(class as usize));
        for group in groups {
            let machines = (!launchable()).then(|| {
                let nodes = problem.snapshot.nodes.iter().enumerate();
                let staying = nodes.filter(|(_, node)| !node.leaving);
                let there = staying.map(|(n, _)| (n as u32, problem.n_offers() + n));
                let new = stays.iter().filter(|s| s.place < problem.n_offers() && s.n > 0);
                let all = there.chain(new.map(|s| (s.machine, s.place)));
                let mut all: Vec<u32> = all
                    .filter(|(_, place)| counts(spread, *place))
                    .map(|(m, _)| m)
                    .collect();
                all.sort_unstable();
                all.dedup();
                all
            });
            let too_few = |m: &Vec<u32>| m.len() < spread.min_domains.unwrap_or(1) as usize;
            all.push(Cap {
                members: group.members.clone(),
                max_skew: spread.max_skew,
                counts_self: group.members.contains(class as usize),
                machines: machines.filter(|m| !too_few(m)),
            });
        }
    }
    all
}

impl<'a> Replay<'a> {
    fn new(problem: &'a Problem<'a>, stays: &[Stay], caps: bool) -> Self {
        let topology = &problem.topology;
        let mut wanted_beside = FixedBitSet::with_capacity(problem.snapshot.classes.len());
        for rules in &topology.host_rules {
            hard(&rules.beside).for_each(|b| wanted_beside.union_with(&b.members));
        }
        let mut caps_of: BTreeMap<u32, Vec<Cap>> = BTreeMap::new();
        for stay in stays.iter().filter(|stay| caps && stay.n > 0) {
            let of_class = caps_of
                .entry(stay.class)
                .or_insert_with(|| machine_spreads(problem, stay.class, stays));
            of_class
                .iter()
                .for_each(|cap| wanted_beside.union_with(&cap.members));
        }
        caps_of.retain(|_, caps| !caps.is_empty());
        let mut index: BTreeMap<(u32, u32, Vec<(u32, u32)>, Vec<u32>), usize> = BTreeMap::new();
        let mut items: Vec<Item> = Vec::new();
        for (at, stay) in stays.iter().enumerate().filter(|(_, stay)| stay.n > 0) {
            let class = stay.class as usize;
            let value = |group: u32| {
                let key = topology.groups[group as usize].key;
                problem.keys.keys[key as usize].of_place[stay.place]
            };
            let passes = |group: &u32| {
                let filter = &topology.groups[*group as usize].filter;
                filter.as_ref().is_none_or(|f| f.contains(stay.place))
            };
            let counted: Vec<(u32, u32)> = topology.counted_in[class]
                .iter()
                .filter(|g| passes(g) && value(**g) != ABSENT)
                .map(|g| (*g, value(*g)))
                .collect();
            let values: Vec<u32> = topology.rules[class].iter().map(|r| value(r.group())).collect();
            let follows = hard(&topology.host_rules[class].beside).next().is_some()
                || caps_of.contains_key(&stay.class);
            let ruled = follows || topology.rules[class].iter().any(|r| r.weight.is_none());
            let by_machine = follows || wanted_beside.contains(class);
            if !ruled && counted.is_empty() && !by_machine {
                continue;
            }
            let machine = if by_machine { stay.machine } else { NO_MACHINE };
            let item = *index
                .entry((stay.class, machine, counted, values))
                .or_insert_with_key(|(class, machine, counted, values)| {
                    items.push(Item {
                        class: *class,
                        machine: *machine,
                        counted: counted.clone(),
                        values: values.clone(),
                        ruled,
                        n: 0,
                        origin: Vec::new(),
                    });
                    items.len() - 1
                });
            items[item].n += stay.n;
            items[item].origin.push((at, stay.n));
        }
        let mut present: BTreeMap<u32, Vec<Part>> = BTreeMap::new();
        for (node, parts) in problem.node_parts.iter().enumerate() {
            let parts: Vec<Part> = parts
                .iter()
                .copied()
                .filter(|(class, _)| wanted_beside.contains(*class as usize))
                .collect();
            if !parts.is_empty() {
                present.insert(node as u32, parts);
            }
        }
        let mut replay = Self {
            problem,
            by_level: levels(problem, &items),
            items,
            spreads: BTreeMap::new(),
            present,
            caps: caps_of,
        };
        let mut places: Vec<usize> = stays.iter().filter(|s| s.n > 0).map(|s| s.place).collect();
        places.sort_unstable();
        places.dedup();
        replay.find_domains(&places);
        replay
    }

    /// The domains of every hard spread: those of machines there are and will be, and those that could be launched
    /// for a pod of the class.
    fn find_domains(&mut self, places: &[usize]) {
        let problem = self.problem;
        let n_offers = problem.n_offers();
        let nodes = problem.snapshot.nodes.iter().enumerate();
        let staying = nodes.filter(|(_, node)| !node.leaving).map(|(n, _)| n_offers + n);
        let there: Vec<usize> = staying
            .chain(places.iter().copied().filter(|p| *p < n_offers))
            .collect();
        for item in &self.items {
            let rules = problem.topology.rules[item.class as usize].iter().enumerate();
            for (number, rule) in rules.filter(|(_, rule)| rule.weight.is_none()) {
                let Rule::Spread {
                    group, min_domains, ..
                } = &rule.rule
                else {
                    continue;
                };
                if self.spreads.contains_key(&(item.class, number)) {
                    continue;
                }
                let group = &problem.topology.groups[*group as usize];
                let key = &problem.keys.keys[group.key as usize];
                let mut domains: BTreeSet<u32> = there
                    .iter()
                    .filter(|place| group.filter.as_ref().is_none_or(|f| f.contains(**place)))
                    .map(|place| key.of_place[*place])
                    .collect();
                domains.remove(&ABSENT);
                let too_few = domains.len() < *min_domains;
                if let Ok(demand) = problem.demands.binary_search_by_key(&item.class, |d| d.class.0) {
                    let demand = &problem.demands[demand];
                    for offer in demand.allowed.ones().take_while(|o| *o < n_offers) {
                        let value = key.of_place[offer];
                        if value != ABSENT
                            && !domains.contains(&value)
                            && times(problem.whole_room(offer), &demand.request) > 0
                        {
                            domains.insert(value);
                        }
                    }
                }
                let domains = domains.into_iter().collect();
                self.spreads
                    .insert((item.class, number), Spread { domains, too_few });
            }
        }
    }

    fn start(&self) -> Bound {
        Bound {
            counts: self
                .problem
                .topology
                .groups
                .iter()
                .map(|g| g.counts.clone())
                .collect(),
            present: self.present.clone(),
            left: self.items.iter().map(|item| item.n).collect(),
        }
    }

    fn bind(&self, bound: &mut Bound, at: usize, n: u32) {
        let item = &self.items[at];
        bound.left[at] -= n;
        for (group, value) in &item.counted {
            bound.counts[*group as usize][*value as usize] += i64::from(n);
        }
        if item.machine != NO_MACHINE {
            add_part(bound.present.entry(item.machine).or_default(), item.class, n);
        }
    }

    fn admits(&self, bound: &Bound, at: usize) -> bool {
        let item = &self.items[at];
        let topology = &self.problem.topology;
        let rules = topology.rules[item.class as usize].iter().enumerate();
        let domains = rules
            .filter(|(_, rule)| rule.weight.is_none())
            .all(|(number, rule)| {
                let value = item.values[number];
                let count = |group: u32| bound.counts[group as usize][value as usize];
                match &rule.rule {
                    Rule::Spread {
                        group,
                        max_skew,
                        counts_self,
                        ..
                    } => {
                        let spread = &self.spreads[&(item.class, number)];
                        let least = if spread.too_few {
                            0
                        } else {
                            least(&spread.domains, &bound.counts[*group as usize])
                        };
                        value != ABSENT && count(*group) + i64::from(*counts_self) - least <= *max_skew
                    }
                    Rule::Affinity { group, counts_self } => {
                        let nowhere = || bound.counts[*group as usize].iter().all(|n| *n == 0);
                        value != ABSENT && (count(*group) > 0 || (*counts_self && nowhere()))
                    }
                    Rule::Anti { group } => value == ABSENT || count(*group) == 0,
                }
            });
        let beside = &topology.host_rules[item.class as usize].beside;
        let members = |machine: u32, cap: &Cap| -> u32 {
            let parts = bound.present.get(&machine).into_iter().flatten();
            parts
                .filter(|(c, _)| cap.members.contains(*c as usize))
                .map(|(_, n)| n)
                .sum()
        };
        let mut caps = self.caps.get(&item.class).into_iter().flatten();
        let spread = caps.all(|cap| {
            let all = cap.machines.iter().flatten();
            let least = all.map(|m| members(*m, cap)).min().unwrap_or(0);
            members(item.machine, cap) + u32::from(cap.counts_self) <= cap.max_skew + least
        });
        domains
            && spread
            && (hard(beside).all(|term| Self::is_beside(bound, item.machine, term))
                || hard(beside).all(|term| term.counts_self && Self::total(bound, term) == 0))
    }

    fn is_beside(bound: &Bound, machine: u32, term: &Beside) -> bool {
        let parts = bound.present.get(&machine);
        parts.is_some_and(|parts| {
            parts
                .iter()
                .any(|(c, n)| *n > 0 && term.members.contains(*c as usize))
        })
    }

    fn total(bound: &Bound, term: &Beside) -> u32 {
        let all = bound.present.values().flatten();
        all.filter(|(c, _)| term.members.contains(*c as usize))
            .map(|(_, n)| *n)
            .sum()
    }

    /// What the best order found leaves over of each item.
    fn search(&self) -> Vec<u32> {
        let mut urgent: Vec<usize> = Vec::new();
        let mut best: Option<Vec<u32>> = None;
        let sum = |left: &[u32]| left.iter().sum::<u32>();
        for _ in 0..RETRIES_MAX {
            let left = self.greedy(&urgent);
            let before = urgent.len();
            for at in (0..left.len()).filter(|at| left[*at] > 0) {
                if !urgent.contains(&at) {
                    urgent.push(at);
                }
            }
            if best.as_ref().is_none_or(|best| sum(&left) < sum(best)) {
                best = Some(left);
            }
            if urgent.len() == before || best.as_ref().is_some_and(|best| sum(best) == 0) {
                break;
            }
        }
        let best = best.unwrap_or_default();
        let pods: u32 = self.items.iter().map(|item| item.n).sum();
        if sum(&best) > 0 && pods <= EVERY_ORDER_PODS_MAX && self.every_order() {
            return vec![0; best.len()];
        }
        best
    }

    /// Binds pods one by one while any is admitted, urgent items first; one that no rule holds back only when others
    /// wait for it.
    fn greedy(&self, urgent: &[usize]) -> Vec<u32> {
        let mut bound = self.start();
        let ruled = |at: &usize| self.items[*at].ruled;
        let rest = self.by_level.iter().copied();
        let rest = rest.filter(|at| ruled(at) && !urgent.contains(at));
        let order: Vec<usize> = urgent.iter().copied().chain(rest).collect();
        let free: Vec<usize> = (0..self.items.len()).filter(|at| !ruled(at)).collect();
        loop {
            let mut progress = false;
            for at in &order {
                if bound.left[*at] > 0 && self.admits(&bound, *at) {
                    self.bind(&mut bound, *at, 1);
                    progress = true;
                }
            }
            if progress {
                continue;
            }
            let waiting: Vec<usize> = order.iter().copied().filter(|at| bound.left[*at] > 0).collect();
            let helper = free
                .iter()
                .find(|at| bound.left[**at] > 0 && self.helps(&bound, **at, &waiting));
            match helper {
                Some(at) => self.bind(&mut bound, *at, 1),
                None => break,
            }
        }
        free.into_iter().for_each(|at| bound.left[at] = 0);
        bound.left
    }

    /// Whether binding a pod of the item could let one of those that wait bind.
    fn helps(&self, bound: &Bound, at: usize, waiting: &[usize]) -> bool {
        let item = &self.items[at];
        waiting.iter().any(|other| {
            let other = &self.items[*other];
            let rules = self.problem.topology.rules[other.class as usize]
                .iter()
                .enumerate();
            let domain = rules
                .filter(|(_, rule)| rule.weight.is_none())
                .any(|(number, rule)| {
                    item.counted.iter().any(|(group, value)| {
                        *group == rule.group()
                            && match &rule.rule {
                                Rule::Spread { .. } => {
                                    let counts = &bound.counts[*group as usize];
                                    let domains = &self.spreads[&(other.class, number)].domains;
                                    counts[*value as usize] == least(domains, counts)
                                }
                                Rule::Affinity { .. } => true,
                                Rule::Anti { .. } => false,
                            }
                    })
                });
            let rules = &self.problem.topology.host_rules[other.class as usize];
            domain
                || (other.machine == item.machine
                    && hard(&rules.beside).any(|b| b.members.contains(item.class as usize)))
        })
    }

    /// Whether some order binds all: what is bound decides what is admitted, not in which order it came.
    fn every_order(&self) -> bool {
        let all: Vec<u32> = self.items.iter().map(|item| item.n).collect();
        let mut reached = BTreeSet::from([vec![0; all.len()]]);
        while let Some(done) = reached.pop_last() {
            if done == all {
                return true;
            }
            let mut bound = self.start();
            done.iter()
                .enumerate()
                .for_each(|(at, n)| self.bind(&mut bound, at, *n));
            for at in 0..all.len() {
                if done[at] < all[at] && self.admits(&bound, at) {
                    let mut next = done.clone();
                    next[at] += 1;
                    reached.insert(next);
                }
            }
        }
        false
    }

    /// Pods with affinity that ended up alone while what they want to be near is elsewhere: an order may admit them,
    /// as the first of their kind, but nobody could mean it.
    fn lonely(&self) -> Vec<u32> {
        let mut bound = self.start();
        for at in 0..self.items.len() {
            self.bind(&mut bound, at, self.items[at].n);
        }
        let mut out = vec![0; self.items.len()];
        for (at, item) in self.items.iter().enumerate() {
            // (pods near, pods anywhere, whether it is one of them), by term.
            let mut terms: Vec<(i64, i64, bool)> = Vec::new();
            let rules = self.problem.topology.rules[item.class as usize].iter();
            for (rule, value) in rules.zip(&item.values) {
                if let (Rule::Affinity { group, counts_self }, None) = (&rule.rule, rule.weight) {
                    let counts = &bound.counts[*group as usize];
                    terms.push((counts[*value as usize], counts.iter().sum(), *counts_self));
                }
            }
            for term in hard(&self.problem.topology.host_rules[item.class as usize].beside) {
                let parts = bound.present.get(&item.machine).into_iter().flatten();
                let near: u32 = parts
                    .filter(|(c, _)| term.members.contains(*c as usize))
                    .map(|(_, n)| *n)
                    .sum();
                let total = Self::total(&bound, term);
                terms.push((i64::from(near), i64::from(total), term.counts_self));
            }
            let near = terms.iter().all(|(near, _, own)| *near > i64::from(*own));
            let could = terms
                .iter()
                .any(|(_, total, own)| *total > i64::from(*own) || !own);
            if !near && could {
                out[at] = item.n;
            }
        }
        out
    }
}
