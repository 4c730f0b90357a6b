//! Room to spare for clusters in which kube-scheduler does not follow the plan.
//!
//! Where it does not honour nominations, kube-scheduler spreads pods by its own scores over whatever machines there are,
//! and a plan that fills each of them to the brim strands some pods. So what it would do is replayed, and machines are
//! added until every pod binds. The plan then is the replay's: its machines and its places.

use fixedbitset::FixedBitSet;

use super::{
    compile::Problem,
    domains::{Counts, admits},
    fit::{Part, add_part, host_limit, take, times},
    keys::ABSENT,
    place::{Placed, State},
};
use crate::{
    catalog::MicroDollars,
    plan::Padding,
    resources::{CPU, MEMORY, Resources},
    snapshot::PodId,
};

/// Times machines are added.
const ROUNDS_MAX: usize = 16;
/// The greatest score a plugin gives.
const SCORE_MAX: i64 = 100;
/// Weight of spreading like pods over machines and of preferred node affinity; the scores of resources have weight 1.
/// <https://kubernetes.io/docs/reference/scheduling/config/#scheduling-plugins>
const SOFT_WEIGHT: i64 = 2;

/// Adds machines to the state until a replay binds every pod it places; leaves it as it was when that does not help.
pub(super) fn pad(state: &mut State<'_>) -> Padding {
    let problem = state.problem;
    let price = |offers: &mut dyn Iterator<Item = u32>| -> i64 {
        offers.map(|o| problem.offers.offers[o as usize].price).sum()
    };
    let before = price(&mut state.bins.iter().map(|bin| bin.offer));
    let queue = queue(state);
    let mut offers: Vec<u32> = state.bins.iter().map(|bin| bin.offer).collect();
    let mut scarce = state.scarce.clone();
    let mut unbound = 0;
    for _ in 0..ROUNDS_MAX {
        let mut replay = Replay::new(problem, &offers);
        let stranded = replay.run(&queue);
        unbound = stranded.iter().sum();
        if unbound == 0 {
            *state = state.rebuilt(replay.placed());
            let after = price(&mut state.bins.iter().map(|bin| bin.offer));
            return Padding {
                price: MicroDollars(after - before),
                unbound,
            };
        }
        let more = state.more(stranded, scarce, replay.counts);
        if more.bins.is_empty() {
            break;
        }
        offers.extend(more.bins.iter().map(|bin| bin.offer));
        scarce = more.scarce;
    }
    Padding {
        price: MicroDollars(0),
        unbound,
    }
}

/// The demands of the pods that the state places, in the order in which kube-scheduler takes them: by priority, then as
/// they came.
fn queue(state: &State<'_>) -> Vec<u32> {
    let problem = state.problem;
    let mut all: Vec<(std::cmp::Reverse<i32>, PodId, u32)> = Vec::new();
    for (demand, (it, left)) in problem.demands.iter().zip(&state.left).enumerate() {
        let priority = std::cmp::Reverse(problem.shape(it.class).priority);
        let placed = &it.pods[..it.pods.len() - *left as usize];
        all.extend(placed.iter().map(|pod| (priority, *pod, demand as u32)));
    }
    all.sort_unstable();
    all.into_iter().map(|(.., demand)| demand).collect()
}

/// A machine as kube-scheduler sees it.
struct Machine {
    node: Option<u32>,
    offer: Option<u32>,
    place: usize,
    room: Vec<i64>,
    parts: Vec<Part>,
    /// What it has of cpu and of memory, and what of it is requested.
    scored: [(i64, i64); 2],
    attached: Vec<(u32, u32)>,
    pods: Vec<Part>,
}

struct Replay<'a> {
    problem: &'a Problem<'a>,
    machines: Vec<Machine>,
    counts: Counts,
    /// Index of cpu and of memory among the resources of the problem.
    scored: [Option<usize>; 2],
    no_preferences: FixedBitSet,
}

impl<'a> Replay<'a> {
    fn new(problem: &'a Problem<'a>, offers: &[u32]) -> Self {
        let index = |name: &str| problem.resources.iter().position(|r| &**r == name);
        let scored = [index(CPU), index(MEMORY)];
        let score = |allocatable: &Resources, room: &[i64]| {
            let of = |name: &str, at: Option<usize>| {
                let all = allocatable.get(name).copied().unwrap_or(0);
                (all, all - at.map_or(all, |at| room[at]))
            };
            [of(CPU, scored[0]), of(MEMORY, scored[1])]
        };
        let mut machines = Vec::new();
        for (node, it) in problem
            .snapshot
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, n)| !n.leaving)
        {
            let room = problem.free_room(node).to_vec();
            machines.push(Machine {
                node: Some(node as u32),
                offer: None,
                place: problem.n_offers() + node,
                scored: score(&it.allocatable, &room),
                room,
                parts: problem.node_parts[node].clone(),
                attached: problem.volumes.attached[node].clone(),
                pods: Vec::new(),
            });
        }
        for offer in offers {
            let room = problem.offer_room(*offer as usize).to_vec();
            let it = &problem.offers.offers[*offer as usize];
            let of_type = &problem.catalog.types[it.type_id.0 as usize].allocatable;
            let allocatable = problem.offering(it).allocatable.as_ref().unwrap_or(of_type);
            machines.push(Machine {
                node: None,
                offer: Some(*offer),
                place: *offer as usize,
                scored: score(allocatable, &room),
                room,
                parts: Vec::new(),
                attached: Vec::new(),
                pods: Vec::new(),
            });
        }
        let mut no_preferences = FixedBitSet::with_capacity(problem.snapshot.classes.len());
        no_preferences.insert_range(..);
        Self {
            problem,
            machines,
            counts: problem.topology.groups.iter().map(|g| g.counts.clone()).collect(),
            scored,
            no_preferences,
        }
    }

    /// Binds the pods of the queue one by one where the scores are best, again and again while some bind. Returns how
    /// many of each demand stay pending.
    fn run(&mut self, queue: &[u32]) -> Vec<u32> {
        let mut pending = queue.to_vec();
        loop {
            let before = pending.len();
            let mut hopeless: FixedBitSet = FixedBitSet::with_capacity(self.problem.demands.len());
            pending.retain(|demand| {
                // Room only shrinks, so what does not fit now fits later at most because of who came in between.
                let stays = hopeless.contains(*demand as usize) || !self.bind(*demand);
                hopeless.set(*demand as usize, stays);
                stays
            });
            if pending.len() == before || pending.is_empty() {
                break;
            }
        }
        let mut stranded = vec![0; self.problem.demands.len()];
        pending.iter().for_each(|demand| stranded[*demand as usize] += 1);
        stranded
    }

    fn bind(&mut self, demand: u32) -> bool {
        let it = &self.problem.demands[demand as usize];
        let class = it.class.0;
        let feasible: Vec<usize> = (0..self.machines.len())
            .filter(|m| self.admits(&self.machines[*m], demand))
            .collect();
        let like = |m: usize| {
            let parts = self.machines[m].pods.iter();
            parts.filter(|(d, _)| *d == demand).map(|(_, n)| *n).sum::<u32>()
        };
        let most = feasible.iter().map(|m| like(*m)).max().unwrap_or(0);
        let best = feasible.into_iter().max_by_key(|m| {
            let spread = match most {
                0 => SCORE_MAX,
                most => SCORE_MAX * i64::from(most - like(*m)) / i64::from(most),
            };
            let kept = it.wishes.iter().filter(|w| w.contains(self.machines[*m].place));
            let wishes = SCORE_MAX * kept.count() as i64 / it.wishes.len().max(1) as i64;
            let score = self.resources(&self.machines[*m], &it.request) + SOFT_WEIGHT * (spread + wishes);
            (score, std::cmp::Reverse(*m))
        });
        let Some(best) = best else { return false };
        let machine = &mut self.machines[best];
        take(&mut machine.room, &it.request, 1);
        for (at, (_, used)) in self.scored.iter().zip(&mut machine.scored) {
            *used += at.map_or(0, |at| it.request[at]);
        }
        add_part(&mut machine.parts, class, 1);
        add_part(&mut machine.pods, demand, 1);
        super::compile::attach(
            &mut machine.attached,
            &self.problem.volumes.of_class[class as usize],
        );
        let place = machine.place;
        for group in &self.problem.topology.counted_in[class as usize] {
            let filter = &self.problem.topology.groups[*group as usize].filter;
            let value = self.value(*group, place);
            if value != ABSENT && filter.as_ref().is_none_or(|f| f.contains(place)) {
                self.counts[*group as usize][value as usize] += 1;
            }
        }
        true
    }

    fn value(&self, group: u32, place: usize) -> u32 {
        let key = self.problem.topology.groups[group as usize].key;
        self.problem.keys.keys[key as usize].of_place[place]
    }

    /// What kube-scheduler's filters say.
    fn admits(&self, machine: &Machine, demand: u32) -> bool {
        let problem = self.problem;
        let it = &problem.demands[demand as usize];
        let class = it.class.0;
        if times(&machine.room, &it.request) == 0
            || !it.allowed.contains(machine.place)
            || host_limit(&problem.topology, &self.no_preferences, &machine.parts, class) == 0
            || machine
                .node
                .is_some_and(|node| !problem.volumes.admit(node as usize, &machine.attached, class))
        {
            return false;
        }
        let mut rules = problem.topology.rules[class as usize]
            .iter()
            .filter(|r| r.weight.is_none());
        if !rules.all(|r| admits(&r.rule, &self.counts, self.value(r.group(), machine.place))) {
            return false;
        }
        let beside = &problem.topology.host_rules[class as usize].beside;
        let mut hard = beside.iter().filter(|b| b.weight.is_none());
        let has = |parts: &[Part], members: &FixedBitSet| {
            parts.iter().any(|(c, n)| *n > 0 && members.contains(*c as usize))
        };
        hard.all(|term| {
            has(&machine.parts, &term.members)
                || (term.counts_self && !self.machines.iter().any(|m| has(&m.parts, &term.members)))
        })
    }

    /// `LeastAllocated` and `NodeResourcesBalancedAllocation`, as the machine would be with the pod.
    fn resources(&self, machine: &Machine, request: &[i64]) -> i64 {
        let mut free = 0;
        let mut parts = [0; 2];
        for (i, (all, used)) in machine.scored.iter().enumerate() {
            let used = used + self.scored[i].map_or(0, |at| request[at]);
            free += SCORE_MAX * (all - used).max(0) / (*all).max(1);
            parts[i] = SCORE_MAX * used.min(*all) / (*all).max(1);
        }
        // The deviation of two numbers is half of what they differ by.
        free / 2 + SCORE_MAX - (parts[0] - parts[1]).abs() / 2
    }

    /// The machines that got pods.
    fn placed(&self) -> Vec<Placed> {
        let used = self.machines.iter().filter(|m| !m.pods.is_empty());
        used.map(|m| (m.node, m.offer, m.pods.clone())).collect()
    }
}

impl State<'_> {
    /// New machines for these pods of each demand, beside all that is placed already.
    fn more(&self, left: Vec<u32>, scarce: super::greedy::Scarce, counts: Counts) -> Self {
        let mut state = Self::new(self.problem);
        state.left = left;
        state.scarce = scarce;
        state.counts = counts;
        state.budget = super::columns::Budget::new(0);
        state.solve_new();
        state
    }
}
