//! The course of a solve: free room of existing machines first, then domains, then machines to buy, pool weight by
//! pool weight; what finds no place gives up its preferences one by one and tries again.

use std::{collections::BTreeSet, rc::Rc};

use fixedbitset::FixedBitSet;

use super::{
    columns::Budget,
    compile::{Problem, attach},
    domains::{self, Cell, Cells, Counts},
    fit::{Part, add_part, host_limit, take, times},
    greedy::{Hints, Room, Scarce, Share},
    optimize::optimize,
    shapes::{Lot, undominated},
};

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
    counts: Counts,
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
    pub(super) budget: Budget,
    pub(super) hints: Hints,
}

impl<'a> State<'a> {
    pub(super) fn new(problem: &'a Problem<'a>) -> Self {
        let snapshot = problem.snapshot;
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
            budget: Budget::new(problem.policy.steps_max),
            hints: Hints::default(),
        }
    }

    /// Places what can be placed.
    pub(super) fn solve(&mut self) {
        let order = self.order();
        loop {
            let before = self.left.clone();
            let first_lot = self.lots.len();
            self.choose_domains(&order);
            self.top_up(first_lot);
            self.buy(first_lot);
            self.follow(first_lot);
            let blocked = self.give_back(first_lot);
            if self.left.iter().all(|n| *n == 0) {
                return;
            }
            if self.left == before && !blocked && !self.relax() {
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
        let depends = |d: &u32| {
            let class = self.problem.demands[*d as usize].class.0 as usize;
            let topology = &self.problem.topology;
            let hard = |w: &Option<i32>| w.is_none();
            topology.host_rules[class]
                .beside
                .iter()
                .any(|b| hard(&b.weight) && !b.counts_self)
                || topology.rules[class].iter().any(|r| {
                    hard(&r.weight)
                        && matches!(
                            r.rule,
                            super::topology::Rule::Affinity {
                                counts_self: false,
                                ..
                            }
                        )
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
        let mut labels = FixedBitSet::with_capacity(self.problem.n_offers());
        labels.extend(allowed.ones().take_while(|p| *p < self.problem.n_offers()));
        self.lots.push(Lot {
            demand,
            class: it.class.0,
            allowed: labels,
            offers,
            left: n,
        });
        self.lot_cells.push(cell);
    }

    /// Gives pods of a demand to cells, one by one: to existing machines where there is room, else to lots. Returns how many.
    fn give_cells(&mut self, demand: u32, keys: &Rc<Vec<u32>>, todo: u32, queued: &mut [u32]) -> u32 {
        let it = &self.problem.demands[demand as usize];
        let class = it.class.0;
        let cells = self.cells.of(self.problem, keys);
        let n_offers = self.problem.n_offers();
        let allowed = self.allowed(demand);
        let follows = self.follows(class);
        let mut options: Vec<CellOption> = Vec::new();
        for (idx, cell) in cells.iter().enumerate() {
            let mut places = allowed.clone();
            places.intersect_with(&cell.places);
            let mut nodes: Vec<u32> = places
                .ones()
                .skip_while(|p| *p < n_offers)
                .map(|p| (p - n_offers) as u32)
                .collect();
            nodes.sort_by_key(|n| {
                (
                    std::cmp::Reverse(self.problem.snapshot.nodes[*n as usize].stage),
                    *n,
                )
            });
            let buyable =
                !places.is_disjoint(&it.offers) && !self.blocked.contains(&(demand, domain_key(keys, cell)));
            if buyable || !nodes.is_empty() {
                let price = if buyable {
                    self.lone_price(demand, &places)
                } else {
                    i64::MAX
                };
                let mut offers = FixedBitSet::with_capacity(n_offers);
                offers.extend(places.ones().take_while(|p| *p < n_offers));
                options.push(CellOption {
                    cell: idx,
                    offers,
                    nodes,
                    next_node: 0,
                    buyable,
                    price,
                    queued: 0,
                });
            }
        }
        let mut given = 0;
        while given < todo {
            let mut best: Option<((i64, bool, i64, usize), usize)> = None;
            for (at, option) in options.iter_mut().enumerate() {
                let cell = &cells[option.cell];
                let Some(broken) = domains::verdict(self.problem, class, keys, cell, &self.counts) else {
                    continue;
                };
                let free = !follows && self.next_free(option, demand);
                if free || option.buyable {
                    let score = (broken, !free, option.price, option.cell);
                    if best.as_ref().is_none_or(|(b, _)| score < *b) {
                        best = Some((score, at));
                    }
                }
            }
            let Some(((_, must_buy, _, _), at)) = best else {
                break;
            };
            let option = &mut options[at];
            let cell = &cells[option.cell];
            if must_buy {
                let passes = |filter: &FixedBitSet| !filter.is_disjoint(&option.offers);
                domains::count(self.problem, class, keys, cell, passes, 1, &mut self.counts);
                option.queued += 1;
                queued[demand as usize] += 1;
            } else {
                let node = option.nodes[option.next_node] as usize;
                let passes = |filter: &FixedBitSet| filter.contains(n_offers + node);
                domains::count(self.problem, class, keys, cell, passes, 1, &mut self.counts);
                self.put(node, demand, 1);
            }
            given += 1;
        }
        for option in options.into_iter().filter(|o| o.queued > 0) {
            let cell = Some((keys.clone(), cells.clone(), option.cell));
            self.queue(demand, option.offers, option.queued, cell);
        }
        given
    }

    /// Moves to the first machine of the option that still takes a pod. One that took none will take none later.
    fn next_free(&self, option: &mut CellOption, demand: u32) -> bool {
        while let Some(node) = option.nodes.get(option.next_node) {
            if self.spot_takes(*node as usize, demand) > 0 {
                return true;
            }
            option.next_node += 1;
        }
        false
    }

    /// The price of a pod as its share of the cheapest machine, for choosing between domains.
    fn lone_price(&self, demand: u32, places: &FixedBitSet) -> i64 {
        let it = &self.problem.demands[demand as usize];
        let mut least = f64::INFINITY;
        for offer in places.ones().take_while(|p| *p < self.problem.n_offers()) {
            if it.offers.contains(offer) {
                let room = self.problem.offer_room(offer);
                let share = it
                    .request
                    .iter()
                    .zip(room)
                    .map(|(w, h)| *w as f64 / (*h).max(1) as f64)
                    .fold(0.0, f64::max);
                least = least.min(share * self.problem.offers.offers[offer].score as f64);
            }
        }
        if least.is_finite() {
            (least * 1000.0) as i64
        } else {
            i64::MAX
        }
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
        for tier in self.tiers() {
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
            let shapes = undominated(self.problem, &lots, &tier);
            if shapes.is_empty() {
                continue;
            }
            let room = Room {
                problem: self.problem,
                lots: &lots,
                shapes: &shapes,
                soft_ignored: &self.soft_ignored,
            };
            // The rest is for the proof.
            let mut share = self.budget.part(70);
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

    /// Places lots that must run beside others, on the machines those are on.
    fn follow(&mut self, first_lot: usize) {
        loop {
            let mut progress = false;
            for lot in first_lot..self.lots.len() {
                if self.lots[lot].left > 0 && self.follows(self.lots[lot].class) {
                    progress |= self.follow_one(lot);
                }
            }
            if !progress {
                return;
            }
        }
    }

    fn follow_one(&mut self, lot: usize) -> bool {
        let Lot {
            demand,
            class,
            left: before,
            ..
        } = self.lots[lot];
        let terms: Vec<super::topology::Beside> = self.problem.topology.host_rules[class as usize]
            .beside
            .iter()
            .filter(|b| b.weight.is_none())
            .cloned()
            .collect();
        let beside_all = |parts: &[Part]| {
            terms
                .iter()
                .all(|term| parts.iter().any(|(c, _)| term.members.contains(*c as usize)))
        };
        let cell_places = self.lot_cells[lot]
            .as_ref()
            .map(|(_, cells, at)| cells[*at].places.clone());
        let allowed = self.allowed(demand);
        let n_offers = self.problem.n_offers();
        for at in 0..self.spot_order.len() {
            let node = self.spot_order[at] as usize;
            let place = n_offers + node;
            let may = allowed.contains(place) && cell_places.as_ref().is_none_or(|c| c.contains(place));
            if may && beside_all(&self.spots[node].parts) {
                let n = self.spot_takes(node, demand).min(self.lots[lot].left);
                self.put(node, demand, n);
                self.lots[lot].left -= n;
            }
        }
        let request = &self.problem.demands[demand as usize].request;
        for bin in &mut self.bins {
            let left = self.lots[lot].left;
            if left > 0 && self.lots[lot].offers.contains(bin.offer as usize) && beside_all(&bin.parts) {
                let n = times(&bin.room, request)
                    .min(host_limit(
                        &self.problem.topology,
                        &self.soft_ignored,
                        &bin.parts,
                        class,
                    ))
                    .min(left);
                bin.add(lot as u32, class, request, n);
                self.lots[lot].left -= n;
                self.left[demand as usize] -= n;
            }
        }
        let left = self.lots[lot].left;
        let nowhere = |term: &super::topology::Beside| {
            let all = self
                .spots
                .iter()
                .map(|s| &s.parts)
                .chain(self.bins.iter().map(|b| &b.parts));
            !all.flatten().any(|(c, _)| term.members.contains(*c as usize))
        };
        if left > 0 && terms.iter().all(|term| term.counts_self && nowhere(term)) {
            self.start_together(lot);
        }
        self.lots[lot].left < before
    }

    /// Opens the one machine that pods with affinity to each other start on: the cheapest that holds all of them, or
    /// the one that holds most.
    fn start_together(&mut self, lot: usize) {
        let Lot {
            demand, class, left, ..
        } = self.lots[lot];
        let request = &self.problem.demands[demand as usize].request;
        let host = host_limit(&self.problem.topology, &self.soft_ignored, &[], class);
        for tier in self.tiers() {
            let offers = self.lots[lot].offers.ones().filter(|o| tier.contains(*o));
            let best = offers
                .filter(|o| self.scarce.most(self.problem, *o) > 0)
                .map(|o| {
                    let n = times(self.problem.offer_room(o), request).min(host).min(left);
                    (std::cmp::Reverse(n), self.problem.offers.offers[o].score, o)
                })
                .min();
            if let Some((std::cmp::Reverse(n), _, offer)) = best {
                self.scarce.buy(self.problem, offer, 1);
                let mut bin = Bin::new(self.problem, offer as u32);
                bin.add(lot as u32, class, request, n);
                self.bins.push(bin);
                self.lots[lot].left -= n;
                self.left[demand as usize] -= n;
                return;
            }
        }
    }

    /// Takes unplaced pods out of their cells again, and remembers that nothing can be bought there.
    fn give_back(&mut self, first_lot: usize) -> bool {
        let mut blocked = false;
        for lot in first_lot..self.lots.len() {
            let it = &mut self.lots[lot];
            let left = std::mem::take(&mut it.left);
            if left == 0 {
                continue;
            }
            let Some((keys, cells, at)) = &self.lot_cells[lot] else {
                continue;
            };
            let passes = |filter: &FixedBitSet| !filter.is_disjoint(&it.allowed);
            let n = -i64::from(left);
            domains::count(
                self.problem,
                it.class,
                keys,
                &cells[*at],
                passes,
                n,
                &mut self.counts,
            );
            blocked |= self.blocked.insert((it.demand, domain_key(keys, &cells[*at])));
        }
        blocked
    }

    /// Gives up one preference of each demand that has pods left. False when none had one.
    fn relax(&mut self) -> bool {
        let mut relaxed = false;
        for demand in 0..self.problem.demands.len() {
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

fn domain_key(keys: &[u32], cell: &Cell) -> Vec<u32> {
    keys.iter().copied().chain(cell.values.iter().copied()).collect()
}

/// A cell as a choice for a demand.
struct CellOption {
    cell: usize,
    /// Whatever their room.
    offers: FixedBitSet,
    nodes: Vec<u32>,
    next_node: usize,
    buyable: bool,
    price: i64,
    queued: u32,
}

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
