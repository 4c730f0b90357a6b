//! The best plan of a small problem: every way to share the pods out over machines is tried, as far as the steps go.
//!
//! The other parts of the engine choose domains and machines one after the other and do not look back. Under tight
//! rules between pods that can leave some without a place although all could have one, and a handful of pods can cost
//! twice what it must. Most bursts are a handful of pods.

use std::collections::BTreeMap;

use fixedbitset::FixedBitSet;

use super::{
    compile::{Demand, Problem, attach},
    fit::{Part, add_part, excluded, host_limit, take, times},
    greedy::Scarce,
    place::{Placed, State},
    settle::{Stay, stuck},
    shapes::{Lot, undominated},
    topology::Rule,
};

/// Most pods that are shared out in every way.
const PODS_MAX: u32 = 9;
/// Most visits of a partial answer.
const VISITS_MAX: u64 = 40_000;

/// What is better, first things first: fewer pods left out (see [`weight`]), fewer preferences broken, fewer pods in pools of lower
/// weight, a lower price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    left: u32,
    broken: u32,
    lighter: u64,
    score: i64,
}

/// A machine with the pods that are tried on it.
#[derive(Clone, Debug)]
struct Machine {
    /// An existing node, or offers of one site.
    node: Option<u32>,
    /// Sum of requests.
    used: Vec<i64>,
    parts: Vec<Part>,
    attached: Vec<(u32, u32)>,
    /// (demand, pods).
    pods: Vec<(u32, u32)>,
    /// Of a new machine: offers whose labels suit all of them and that hold them, best first.
    offers: Vec<u32>,
}

impl Machine {
    fn new(problem: &Problem<'_>) -> Self {
        Self {
            node: None,
            used: vec![0; problem.n_res()],
            parts: Vec::new(),
            attached: Vec::new(),
            pods: Vec::new(),
            offers: Vec::new(),
        }
    }

    fn existing(problem: &Problem<'_>, node: u32) -> Self {
        Self {
            node: Some(node),
            parts: problem.node_parts[node as usize].clone(),
            attached: problem.volumes.attached[node as usize].clone(),
            ..Self::new(problem)
        }
    }
}

/// An answer.
#[derive(Clone, Debug)]
struct Answer {
    cost: Cost,
    machines: Vec<Placed>,
}

struct Search<'a> {
    problem: &'a Problem<'a>,
    soft_ignored: FixedBitSet,
    /// Offers that agree on the value of every topology key, best first.
    sites: Vec<Vec<u32>>,
    /// Rank of each offer's pool by weight, heaviest first.
    tier: Vec<u64>,
    /// One entry per pod, those of a demand together.
    pods: Vec<u32>,
    machines: Vec<Machine>,
    best: Option<Answer>,
    /// A spread over machines holds in whatever order pods come; otherwise some order is enough.
    strict: bool,
    /// What it counts that some pods cannot have a place at all.
    hopeless: u32,
    visits: u64,
}

/// Finds the best plan of a problem that is small enough to try everything, and replaces the state's if that is worse.
pub(super) fn improve(state: &mut State<'_>) {
    let problem = state.problem;
    let pods: u32 = problem.demands.iter().map(|d| d.pods.len() as u32).sum();
    if pods == 0 || pods > PODS_MAX {
        return;
    }
    let mut search = Search::new(problem);
    let start = state.machines();
    let counted = |(d, n): (usize, u32)| n * weight(problem, d as u32);
    let left = state.left.iter().copied().enumerate().map(counted).sum();
    let (cost, _) = search.cost(left, &start);
    let mut best = Answer {
        cost,
        machines: start,
    };
    search.best = Some(best.clone());
    search.visit(0, 0, 0);
    if left > 0 {
        // Pods that ignore a spread over machines may join what spreads, if they come later.
        search.strict = false;
        search.visits = 0;
        let demands = problem.demands.iter().enumerate();
        let hopeless = demands.filter(|(_, d)| !possible(problem, d));
        search.hopeless = hopeless.map(|(at, d)| counted((at, d.pods.len() as u32))).sum();
        search.visit(0, 0, 0);
    }
    state.budget.spend(search.visits / 100);
    if let Some(found) = search.best.take()
        && found.cost < best.cost
    {
        best = found;
        *state = state.rebuilt(best.machines);
    }
}

/// What it counts to leave out a pod: all buffers together are less than one pod of a user.
fn weight(problem: &Problem<'_>, demand: u32) -> u32 {
    if problem.is_buffer(demand) {
        1
    } else {
        PODS_MAX + 1
    }
}

/// Whether a pod of the demand fits anywhere, were it alone.
fn possible(problem: &Problem<'_>, demand: &Demand) -> bool {
    let n_offers = problem.n_offers();
    let node = |place: usize| times(problem.free_room(place - n_offers), &demand.request) > 0;
    !demand.offers.is_clear() || demand.allowed.ones().skip_while(|p| *p < n_offers).any(node)
}

/// The offers of each site that can be of use, best first. A site is a choice of values for all topology keys.
fn sites(problem: &Problem<'_>, tier: &[u64]) -> Vec<Vec<u32>> {
    let offers = &problem.offers.offers;
    let mut keys: Vec<u32> = problem.topology.groups.iter().map(|g| g.key).collect();
    keys.sort_unstable();
    keys.dedup();
    let n_offers = problem.n_offers();
    let mut by_values: BTreeMap<Vec<u32>, FixedBitSet> = BTreeMap::new();
    for offer in (0..n_offers).filter(|o| problem.demands.iter().any(|d| d.offers.contains(*o))) {
        let values = keys
            .iter()
            .map(|k| problem.keys.keys[*k as usize].of_place[offer]);
        by_values
            .entry(values.collect())
            .or_insert_with(|| FixedBitSet::with_capacity(n_offers))
            .insert(offer);
    }
    // One offer beats another only when nobody could tell them apart.
    let alike = problem.topology.groups.iter().all(|g| g.filter.is_none())
        && problem.demands.iter().all(|d| d.wishes.is_empty());
    let lots: Vec<Lot> = problem
        .demands
        .iter()
        .enumerate()
        .map(|(demand, d)| Lot {
            demand: demand as u32,
            class: d.class.0,
            allowed: problem.offers_among(&d.allowed),
            offers: d.offers.clone(),
            left: d.pods.len() as u32,
        })
        .collect();
    let useful = |site: FixedBitSet| -> Vec<u32> {
        let mut site: Vec<u32> = if alike {
            undominated(problem, &lots, &site, true)
                .iter()
                .map(|s| s.offer)
                .collect()
        } else {
            site.ones().map(|o| o as u32).collect()
        };
        site.sort_by_key(|o| (tier[*o as usize], offers[*o as usize].score, *o));
        site
    };
    by_values.into_values().map(useful).collect()
}

impl<'a> Search<'a> {
    fn new(problem: &'a Problem<'a>) -> Self {
        let pools = &problem.snapshot.pools;
        let mut weights: Vec<i32> = pools.iter().map(|p| p.weight).collect();
        weights.sort_unstable_by_key(|w| std::cmp::Reverse(*w));
        weights.dedup();
        let offers = problem.offers.offers.iter();
        let tier: Vec<u64> = offers
            .map(|o| {
                let weight = pools[o.pool as usize].weight;
                weights.iter().position(|w| *w == weight).unwrap_or(0) as u64
            })
            .collect();
        let sites = sites(problem, &tier);
        let mut order: Vec<u32> = (0..problem.demands.len() as u32).collect();
        let size = |d: &u32| {
            let demand = &problem.demands[*d as usize];
            demand.request.iter().copied().map(i128::from).product::<i128>()
        };
        order.sort_by_key(|d| (std::cmp::Reverse(size(d)), *d));
        let pods = order
            .iter()
            .flat_map(|d| std::iter::repeat_n(*d, problem.demands[*d as usize].pods.len()))
            .collect();
        let nodes = problem.snapshot.nodes.iter().enumerate();
        let machines = nodes
            .filter(|(_, node)| !node.leaving)
            .map(|(node, _)| Machine::existing(problem, node as u32))
            .collect();
        // Hostname preferences are counted, not obeyed.
        let mut soft_ignored = FixedBitSet::with_capacity(problem.snapshot.classes.len());
        soft_ignored.insert_range(..);
        Self {
            problem,
            soft_ignored,
            sites,
            tier,
            pods,
            machines,
            best: None,
            strict: true,
            hopeless: 0,
            visits: 0,
        }
    }

    /// Tries every place for the pod `at` and all after it. Pods of one demand go to machines in ascending order, from
    /// `first` on; `left` pods have no place so far.
    fn visit(&mut self, at: usize, first: usize, left: u32) {
        self.visits += 1;
        if self.visits > VISITS_MAX || !self.promising(left) {
            return;
        }
        let Some(demand) = self.pods.get(at).copied() else {
            return self.judge(left);
        };
        let same_next = self.pods.get(at + 1) == Some(&demand);
        let opened = self.machines.len();
        for machine in first..opened {
            let before = self.machines[machine].clone();
            if self.put(machine, demand) {
                self.visit(at + 1, if same_next { machine } else { 0 }, left);
            }
            self.machines[machine] = before;
        }
        for site in 0..self.sites.len() {
            self.machines.push(Machine {
                offers: self.sites[site].clone(),
                ..Machine::new(self.problem)
            });
            if self.put(opened, demand) {
                self.visit(at + 1, if same_next { opened } else { 0 }, left);
            }
            self.machines.truncate(opened);
        }
        // The other pods of the demand have no place then either: they are alike.
        let alike = self.pods[at..].iter().take_while(|d| **d == demand).count();
        let left_out = alike as u32 * weight(self.problem, demand);
        self.visit(at + alike, 0, left + left_out);
    }

    /// Whether an answer that leaves out `left` pods and has the machines opened so far could be the best.
    fn promising(&self, left: u32) -> bool {
        let Some(best) = &self.best else {
            return true;
        };
        // What places all that can be placed is as good as it gets, but for its price.
        if !self.strict && (best.cost.left <= self.hopeless || left >= best.cost.left) {
            return false;
        }
        let offers = &self.problem.offers.offers;
        let new = self.machines.iter().filter(|m| m.node.is_none());
        let score = new
            .filter_map(|m| m.offers.iter().map(|o| offers[*o as usize].score).min())
            .sum();
        let at_best = Cost {
            left,
            broken: 0,
            lighter: 0,
            score,
        };
        at_best < best.cost
    }

    /// Puts a pod on the machine when the rules of the machine allow it.
    fn put(&mut self, machine: usize, demand: u32) -> bool {
        let problem = self.problem;
        let it = &problem.demands[demand as usize];
        let class = it.class.0;
        let machine = &mut self.machines[machine];
        let refused = if self.strict {
            host_limit(&problem.topology, &self.soft_ignored, &machine.parts, class) == 0
        } else {
            excluded(&problem.topology, &machine.parts, class)
        };
        if refused {
            return false;
        }
        take(&mut machine.used, &it.request, 1);
        // `take` subtracts: what is used is held negative.
        let fits = |room: &[i64]| {
            room.iter()
                .zip(&machine.used)
                .all(|(have, used)| have + used >= 0)
        };
        if let Some(node) = machine.node {
            let node = node as usize;
            let room = problem.free_room(node);
            if !it.allowed.contains(problem.n_offers() + node)
                || !fits(room)
                || !problem.volumes.admit(node, &machine.attached, class)
            {
                return false;
            }
            attach(&mut machine.attached, &problem.volumes.of_class[class as usize]);
        } else {
            let offers = std::mem::take(&mut machine.offers);
            self.visits += offers.len() as u64 / 64;
            let able = |o: &u32| it.offers.contains(*o as usize) && fits(problem.offer_room(*o as usize));
            machine.offers = offers.into_iter().filter(able).collect();
            if machine.offers.is_empty() {
                return false;
            }
        }
        add_part(&mut machine.parts, class, 1);
        add_part(&mut machine.pods, demand, 1);
        true
    }

    /// Keeps the answer if it is the best so far and its pods can bind.
    fn judge(&mut self, left: u32) {
        let mut chosen: Vec<Option<u32>> = vec![None; self.machines.len()];
        let mut scarce = Scarce::of(self.problem);
        if !self.choose(0, &mut scarce, &mut chosen) {
            return;
        }
        let machines: Vec<Placed> = self
            .machines
            .iter()
            .zip(chosen)
            .filter(|(machine, _)| !machine.pods.is_empty())
            .map(|(machine, offer)| (machine.node, offer, machine.pods.clone()))
            .collect();
        let (cost, stays) = self.cost(left, &machines);
        if self.best.as_ref().is_some_and(|best| best.cost <= cost)
            || stuck(self.problem, &stays, !self.strict).iter().any(|n| *n > 0)
        {
            return;
        }
        self.best = Some(Answer { cost, machines });
    }

    /// What these machines cost, and where their pods are.
    fn cost(&self, left: u32, machines: &[Placed]) -> (Cost, Vec<Stay>) {
        let problem = self.problem;
        let mut stays = Vec::new();
        let mut cost = Cost {
            left,
            broken: 0,
            lighter: 0,
            score: 0,
        };
        for (at, (node, offer, pods)) in machines.iter().enumerate() {
            let place = match (node, offer) {
                (Some(node), _) => problem.n_offers() + *node as usize,
                (None, Some(offer)) => *offer as usize,
                (None, None) => continue,
            };
            if place < problem.n_offers() {
                let all: u32 = pods.iter().map(|(_, n)| n).sum();
                cost.lighter += self.tier[place] * u64::from(all);
                cost.score += problem.offers.offers[place].score;
            }
            // Nodes keep their index as the number of the machine; new ones get the numbers after.
            let machine = node.unwrap_or((problem.snapshot.nodes.len() + at) as u32);
            stays.extend(pods.iter().map(|(demand, n)| Stay {
                class: problem.demands[*demand as usize].class.0,
                machine,
                place,
                n: *n,
            }));
        }
        cost.broken = self.broken(machines, &stays);
        (cost, stays)
    }

    /// Gives each new machine the best of its offers, as far as limits and reservations go round.
    fn choose(&mut self, at: usize, scarce: &mut Scarce, chosen: &mut [Option<u32>]) -> bool {
        let Some(machine) = self.machines.get(at) else {
            return true;
        };
        if machine.node.is_some() {
            return self.choose(at + 1, scarce, chosen);
        }
        let mut order: Vec<(u32, u64, i64, u32)> = machine
            .offers
            .iter()
            .map(|o| {
                let broken = machine.pods.iter().map(|(demand, n)| {
                    let wishes = &self.problem.demands[*demand as usize].wishes;
                    n * wishes.iter().filter(|w| !w.contains(*o as usize)).count() as u32
                });
                let score = self.problem.offers.offers[*o as usize].score;
                (broken.sum(), self.tier[*o as usize], score, *o)
            })
            .collect();
        order.sort_unstable();
        for (.., offer) in order {
            self.visits += 1;
            if scarce.most(self.problem, offer as usize) == 0 {
                continue;
            }
            scarce.buy(self.problem, offer as usize, 1);
            chosen[at] = Some(offer);
            if self.choose(at + 1, scarce, chosen) {
                return true;
            }
            scarce.give_back(self.problem, offer as usize);
            chosen[at] = None;
            if self.visits > VISITS_MAX {
                return false;
            }
        }
        false
    }

    /// Preferences that these places break.
    fn broken(&self, machines: &[Placed], stays: &[Stay]) -> u32 {
        let problem = self.problem;
        let topology = &problem.topology;
        let mut counts: Vec<Vec<i64>> = topology.groups.iter().map(|g| g.counts.clone()).collect();
        let value = |group: u32, place: usize| {
            let key = topology.groups[group as usize].key;
            problem.keys.keys[key as usize].of_place[place] as usize
        };
        for stay in stays {
            for group in &topology.counted_in[stay.class as usize] {
                let filter = &topology.groups[*group as usize].filter;
                if filter.as_ref().is_none_or(|f| f.contains(stay.place)) {
                    counts[*group as usize][value(*group, stay.place)] += i64::from(stay.n);
                }
            }
        }
        let mut broken = 0;
        for stay in stays {
            if let Ok(demand) = problem.demands.binary_search_by_key(&stay.class, |d| d.class.0) {
                let wishes = &problem.demands[demand].wishes;
                broken += stay.n * wishes.iter().filter(|w| !w.contains(stay.place)).count() as u32;
            }
            for rule in topology.rules[stay.class as usize]
                .iter()
                .filter(|r| r.weight.is_some())
            {
                let counts = &counts[rule.group() as usize];
                let here = counts[value(rule.group(), stay.place)];
                let own = i64::from(topology.counted_in[stay.class as usize].contains(&rule.group()));
                let kept = match &rule.rule {
                    Rule::Spread {
                        max_skew, domains, ..
                    } => here - super::domains::least(domains, counts) <= *max_skew,
                    Rule::Affinity { .. } => here > own,
                    Rule::Anti { .. } => here <= own,
                };
                broken += if kept { 0 } else { stay.n };
            }
        }
        // The hostname: what would not be allowed on the machine if its preferences were rules.
        let none = FixedBitSet::with_capacity(problem.snapshot.classes.len());
        for (node, _, pods) in machines {
            let mut parts = match node {
                Some(node) => problem.node_parts[*node as usize].clone(),
                None => Vec::new(),
            };
            for (demand, n) in pods {
                let class = problem.demands[*demand as usize].class.0;
                for _ in 0..*n {
                    broken += u32::from(host_limit(topology, &none, &parts, class) == 0);
                    add_part(&mut parts, class, 1);
                }
            }
        }
        broken
    }
}
