//! The course of a solve: free room of existing machines first, then domains, then machines to buy, pool weight by
//! pool weight; what finds no place gives up its preferences one by one and tries again.

mod cells;
mod follow;
mod revise;

use std::{collections::BTreeSet, rc::Rc};

use fixedbitset::FixedBitSet;

use super::{
    columns::Budget,
    compile::{Demand, Problem, attach},
    domains::{self, Cell, Cells, Counts},
    fit::{Part, add_part, host_limit, take, times},
    greedy::{Hints, Room, Scarce, Share},
    launch, many,
    optimize::optimize,
    shapes::{Lot, undominated},
    topology::{DomainRule, Rule},
};

/// Times a solve goes on after pods were taken out of their places again.
const RESTARTS_MAX: usize = 4;
/// Steps for the proof of all.
const PROOF_PERCENT: u64 = 25;
/// The same where there are hundreds of kinds of pods.
const PROOF_OF_MANY_PERCENT: u64 = 45;
/// Steps for one round of purchases of what the proof leaves.
const ROUND_PERCENT: u64 = 90;

/// A machine to buy, and what goes on it.
#[derive(Clone, Debug)]
pub(super) struct Bin {
    pub(super) offer: u32,
    pub(super) room: Vec<i64>,
    pub(super) parts: Vec<Part>,
    pub(super) shares: Vec<Share>,
}

/// An existing machine and what is added to it.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    room: Vec<i64>,
    parts: Vec<Part>,
    attached: Vec<(u32, u32)>,
    /// (demand, pods).
    pub(super) taken: Vec<(u32, u32)>,
}

pub(super) struct State<'a> {
    pub(super) problem: &'a Problem<'a>,
    cells: Cells,
    pub(super) counts: Counts,
    pub(super) scarce: Scarce,
    pub(super) spots: Vec<Spot>,
    /// Destinations among the nodes: initialized first, then by name.
    spot_order: Vec<u32>,
    pub(super) bins: Vec<Bin>,
    pub(super) lots: Vec<Lot>,
    /// The cell of each lot, with its keys.
    lot_cells: Vec<Option<(Rc<Vec<u32>>, Rc<Vec<Cell>>, usize)>>,
    /// Classes whose hostname preferences are given up.
    pub(super) soft_ignored: FixedBitSet,
    /// Preferences each demand still keeps: how many of its wishes, from the front.
    wishes_kept: Vec<usize>,
    /// Pods of each demand without a place.
    pub(super) left: Vec<u32>,
    /// Cells in which no machine can be bought any more for a demand.
    blocked: BTreeSet<(u32, Vec<u32>)>,
    /// The order in which pods were given to domains may not be one in which they can bind: some were taken back, some
    /// must run beside others and come last, or it depends on the offer of their machine whether they count.
    doubtful: bool,
    pub(super) budget: Budget,
    /// Steps of it that are kept for the proof.
    proof_steps: u64,
    pub(super) hints: Hints,
}

impl<'a> State<'a> {
    pub(super) fn new(problem: &'a Problem<'a>) -> Self {
        let snapshot = problem.snapshot;
        let budget = Budget::new(problem.policy.steps_max);
        let proof_percent = if many::worthwhile(problem.demands.len(), &budget) {
            PROOF_OF_MANY_PERCENT
        } else {
            PROOF_PERCENT
        };
        let spots = (0..snapshot.nodes.len())
            .map(|node| Spot {
                room: problem.free_room(node).to_vec(),
                parts: problem.node_parts[node].clone(),
                attached: problem.volumes.attached[node].clone(),
                taken: Vec::new(),
            })
            .collect();
        let mut spot_order: Vec<u32> = (0..snapshot.nodes.len() as u32)
            .filter(|n| !snapshot.nodes[*n as usize].leaving)
            .collect();
        spot_order.sort_by_key(|n| (std::cmp::Reverse(snapshot.nodes[*n as usize].stage), *n));
        Self {
            problem,
            cells: Cells::default(),
            counts: problem.topology.groups.iter().map(|g| g.counts.clone()).collect(),
            scarce: Scarce::of(problem),
            spots,
            spot_order,
            bins: Vec::new(),
            lots: Vec::new(),
            lot_cells: Vec::new(),
            soft_ignored: FixedBitSet::with_capacity(snapshot.classes.len()),
            wishes_kept: problem.demands.iter().map(|d| d.wishes.len()).collect(),
            left: problem.demands.iter().map(|d| d.pods.len() as u32).collect(),
            blocked: BTreeSet::new(),
            doubtful: uncertain(problem),
            budget,
            proof_steps: budget.part(proof_percent).left,
            hints: Hints::default(),
        }
    }

    /// Places what can be placed.
    pub(super) fn solve(&mut self) {
        // Buffers take what the pods of users leave.
        let (users, buffers): (Vec<u32>, Vec<u32>) = self
            .order()
            .into_iter()
            .partition(|d| !self.problem.is_buffer(*d));
        for order in [users, buffers] {
            for _ in 0..RESTARTS_MAX {
                self.rounds(&order);
                launch::shrink(self);
                if !self.doubtful || !self.unsettle() {
                    break;
                }
            }
        }
    }

    /// Places what can be placed on new machines only.
    pub(super) fn solve_new(&mut self) {
        for spot in &mut self.spots {
            spot.room.fill(0);
        }
        let order = self.order();
        self.rounds(&order);
    }

    fn rounds(&mut self, order: &[u32]) {
        loop {
            let before = self.left.clone();
            let first_lot = self.lots.len();
            self.choose_domains(order);
            self.top_up(first_lot);
            self.buy(first_lot);
            self.follow(first_lot);
            let blocked = self.give_back(first_lot);
            if order.iter().all(|d| self.left[*d as usize] == 0) {
                return;
            }
            if self.left == before && !blocked && !self.relax(order) {
                return;
            }
        }
    }

    /// Demands by how hard they are to place: those that wait for others' domains last, large before small.
    fn order(&self) -> Vec<u32> {
        let n_res = self.problem.n_res();
        let mut largest = vec![1; n_res];
        for demand in &self.problem.demands {
            for (most, amount) in largest.iter_mut().zip(&demand.request) {
                *most = (*amount).max(*most);
            }
        }
        let size = |d: &u32| -> i64 {
            let request = &self.problem.demands[*d as usize].request;
            request
                .iter()
                .zip(&largest)
                .map(|(amount, most)| amount * 1000 / most)
                .sum()
        };
        // Whether pods that wait count in the group of a class and do not seek it themselves.
        let strangers = |group: u32| {
            self.problem.demands.iter().any(|other| {
                let other = other.class.0 as usize;
                let seeks = |r: &DomainRule| r.weight.is_none() && r.group() == group;
                self.problem.topology.counted_in[other].contains(&group)
                    && !self.problem.topology.rules[other]
                        .iter()
                        .any(|r| seeks(r) && matches!(r.rule, Rule::Affinity { .. }))
            })
        };
        let depends = |d: &u32| {
            let class = self.problem.demands[*d as usize].class.0 as usize;
            let topology = &self.problem.topology;
            let hard = |w: &Option<i32>| w.is_none();
            topology.host_rules[class]
                .beside
                .iter()
                .any(|b| hard(&b.weight) && !b.counts_self)
                || topology.rules[class].iter().any(|r| {
                    // Whoever could start a domain waits for those it wants to be near, wherever they go.
                    hard(&r.weight)
                        && matches!(r.rule, Rule::Affinity { group, counts_self }
                            if !counts_self || strangers(group))
                })
        };
        let mut order: Vec<u32> = (0..self.problem.demands.len() as u32).collect();
        order.sort_by_cached_key(|d| (depends(d), std::cmp::Reverse(size(d)), *d));
        order
    }

    /// Places of a demand under the preferences it still keeps. A wish that would leave nothing is passed over.
    fn allowed(&self, demand: u32) -> FixedBitSet {
        let it = &self.problem.demands[demand as usize];
        let mut set = it.allowed.clone();
        for wish in &it.wishes[..self.wishes_kept[demand as usize]] {
            let mut narrowed = set.clone();
            narrowed.intersect_with(wish);
            let buyable = !narrowed.is_disjoint(&it.offers);
            let n_offers = self.problem.n_offers();
            let free = || {
                narrowed
                    .ones()
                    .skip_while(|p| *p < n_offers)
                    .any(|p| times(&self.spots[p - n_offers].room, &it.request) > 0)
            };
            if buyable || free() {
                set = narrowed;
            }
        }
        set
    }

    /// Whether the class must run beside others on the same machine.
    fn follows(&self, class: u32) -> bool {
        self.problem.topology.host_rules[class as usize]
            .beside
            .iter()
            .any(|b| b.weight.is_none())
    }

    fn choose_domains(&mut self, order: &[u32]) {
        let mut waiting: Vec<u32> = order
            .iter()
            .copied()
            .filter(|d| self.left[*d as usize] > 0)
            .collect();
        let mut queued = vec![0; self.problem.demands.len()];
        // A class with affinity to another one may find its domain only after that one got its own.
        loop {
            let mut progress = false;
            let mut still = Vec::new();
            for demand in waiting {
                let class = self.problem.demands[demand as usize].class.0;
                let keys = domains::keys_of(self.problem, class);
                let todo = self.left[demand as usize] - queued[demand as usize];
                let given = if keys.is_empty() {
                    self.fill_spots(demand);
                    self.queue_plain(demand);
                    todo
                } else {
                    self.give_cells(demand, &Rc::new(keys), todo, &mut queued)
                };
                progress |= given > 0;
                if given < todo {
                    still.push(demand);
                }
            }
            waiting = still;
            if !progress || waiting.is_empty() {
                return;
            }
        }
    }

    /// Puts pods of a demand that does not care about domains on existing machines.
    fn fill_spots(&mut self, demand: u32) {
        let class = self.problem.demands[demand as usize].class.0;
        if self.follows(class) {
            return;
        }
        let allowed = self.allowed(demand);
        let n_offers = self.problem.n_offers();
        for at in 0..self.spot_order.len() {
            let node = self.spot_order[at] as usize;
            if self.left[demand as usize] == 0 {
                return;
            }
            if allowed.contains(n_offers + node) {
                let n = self.spot_takes(node, demand).min(self.left[demand as usize]);
                self.put(node, demand, n);
            }
        }
    }

    fn spot_takes(&self, node: usize, demand: u32) -> u32 {
        let it = &self.problem.demands[demand as usize];
        let spot = &self.spots[node];
        match times(&spot.room, &it.request) {
            0 => 0,
            _ if !self.problem.volumes.admit(node, &spot.attached, it.class.0) => 0,
            n => n.min(host_limit(
                &self.problem.topology,
                &self.soft_ignored,
                &spot.parts,
                it.class.0,
            )),
        }
    }

    fn put(&mut self, node: usize, demand: u32, n: u32) {
        if n == 0 {
            return;
        }
        let it = &self.problem.demands[demand as usize];
        let spot = &mut self.spots[node];
        take(&mut spot.room, &it.request, n);
        add_part(&mut spot.parts, it.class.0, n);
        add_part(&mut spot.taken, demand, n);
        attach(
            &mut spot.attached,
            &self.problem.volumes.of_class[it.class.0 as usize],
        );
        self.left[demand as usize] -= n;
    }

    fn queue_plain(&mut self, demand: u32) {
        let left = self.left[demand as usize];
        if left > 0 {
            let allowed = self.allowed(demand);
            self.queue(demand, allowed, left, None);
        }
    }

    fn queue(
        &mut self,
        demand: u32,
        allowed: FixedBitSet,
        n: u32,
        cell: Option<(Rc<Vec<u32>>, Rc<Vec<Cell>>, usize)>,
    ) {
        let it = &self.problem.demands[demand as usize];
        let mut offers = it.offers.clone();
        offers.intersect_with(&allowed);
        self.lots.push(Lot {
            demand,
            class: it.class.0,
            allowed: self.problem.offers_among(&allowed),
            offers,
            left: n,
        });
        self.lot_cells.push(cell);
    }

    /// Uses room on machines bought in earlier rounds.
    fn top_up(&mut self, first_lot: usize) {
        for lot in first_lot..self.lots.len() {
            let (demand, class) = (self.lots[lot].demand, self.lots[lot].class);
            if self.follows(class) {
                continue;
            }
            let request = &self.problem.demands[demand as usize].request;
            for bin in &mut self.bins {
                if self.lots[lot].left == 0 {
                    break;
                }
                if self.lots[lot].offers.contains(bin.offer as usize) {
                    let n = times(&bin.room, request)
                        .min(host_limit(
                            &self.problem.topology,
                            &self.soft_ignored,
                            &bin.parts,
                            class,
                        ))
                        .min(self.lots[lot].left);
                    self.lots[lot].left -= n;
                    self.left[demand as usize] -= n;
                    bin.add(lot as u32, class, request, n);
                }
            }
        }
    }

    /// Pool weights, heaviest first.
    fn tiers(&self) -> Vec<FixedBitSet> {
        let pools = &self.problem.snapshot.pools;
        let weights: BTreeSet<i32> = pools.iter().map(|p| p.weight).collect();
        weights
            .into_iter()
            .rev()
            .map(|weight| {
                let mut set = FixedBitSet::with_capacity(self.problem.n_offers());
                let offers = self.problem.offers.offers.iter().enumerate();
                set.extend(
                    offers
                        .filter(|(_, o)| pools[o.pool as usize].weight == weight)
                        .map(|(i, _)| i),
                );
                set
            })
            .collect()
    }

    /// Buys machines for the lots from `first_lot` on, in each tier for what heavier pools did not take.
    fn buy(&mut self, first_lot: usize) {
        let tiers = self.tiers();
        let n_tiers = tiers.len() as u64;
        for (nth, tier) in (0..).zip(tiers) {
            let lots: Vec<Lot> = self
                .lots
                .iter()
                .enumerate()
                .map(|(idx, lot)| {
                    let mut lot = lot.clone();
                    if idx < first_lot || self.follows(lot.class) {
                        lot.left = 0;
                    }
                    lot
                })
                .collect();
            let shapes = undominated(self.problem, &lots, &tier, true);
            if shapes.is_empty() {
                continue;
            }
            let room = Room {
                problem: self.problem,
                lots: &lots,
                shapes: &shapes,
                soft_ignored: &self.soft_ignored,
            };
            let spare = Budget::new(self.budget.left.saturating_sub(self.proof_steps));
            let mut share = spare.share(ROUND_PERCENT, 100 * (n_tiers - nth));
            let packing = optimize(&room, &mut self.scarce, &mut share);
            self.budget.spend(share.spent);
            self.hints.contents.extend(packing.hints.contents);
            self.hints.worths.extend(packing.hints.worths);
            for batch in &packing.batches {
                for _ in 0..batch.times {
                    let mut bin = Bin::new(self.problem, shapes[batch.shape as usize].offer);
                    for (lot, n) in &batch.shares {
                        let it = &lots[*lot as usize];
                        bin.add(
                            *lot,
                            it.class,
                            &self.problem.demands[it.demand as usize].request,
                            *n,
                        );
                    }
                    self.bins.push(bin);
                }
            }
            for (lot, left) in packing.left.iter().enumerate() {
                if lots[lot].left > 0 {
                    let placed = lots[lot].left - left;
                    self.left[lots[lot].demand as usize] -= placed;
                    self.lots[lot].left = *left;
                }
            }
        }
    }

    /// Gives up one preference of each demand that has pods left. False when none had one.
    fn relax(&mut self, order: &[u32]) -> bool {
        let mut relaxed = false;
        let mut demands: Vec<usize> = order.iter().map(|d| *d as usize).collect();
        demands.sort_unstable();
        for demand in demands {
            if self.left[demand] == 0 {
                continue;
            }
            let class = self.problem.demands[demand].class.0 as usize;
            let groups = &self.problem.topology.host_rules[class].groups;
            let soft = groups
                .iter()
                .any(|g| self.problem.topology.hosts[*g as usize].soft);
            if soft && !self.soft_ignored.contains(class) {
                self.soft_ignored.insert(class);
                relaxed = true;
            } else if self.wishes_kept[demand] > 0 {
                self.wishes_kept[demand] -= 1;
                relaxed = true;
            }
            if relaxed {
                self.blocked.retain(|(d, _)| *d as usize != demand);
            }
        }
        relaxed
    }
}

/// Whether it takes more than the order of choice to say that pods can bind.
fn uncertain(problem: &Problem<'_>) -> bool {
    let topology = &problem.topology;
    let follows = |d: &Demand| {
        let beside = &topology.host_rules[d.class.0 as usize].beside;
        beside.iter().any(|b| b.weight.is_none())
    };
    topology.groups.iter().any(|g| g.filter.is_some()) || problem.demands.iter().any(follows)
}

/// Pods on one machine, by demand: an existing node, or the offer of a new machine.
pub(super) type Placed = (Option<u32>, Option<u32>, Vec<Part>);

impl Bin {
    fn new(problem: &Problem<'_>, offer: u32) -> Self {
        Self {
            offer,
            room: problem.offer_room(offer as usize).to_vec(),
            parts: Vec::new(),
            shares: Vec::new(),
        }
    }

    fn add(&mut self, lot: u32, class: u32, request: &[i64], n: u32) {
        if n > 0 {
            take(&mut self.room, request, n);
            add_part(&mut self.parts, class, n);
            add_part(&mut self.shares, lot, n);
        }
    }
}
