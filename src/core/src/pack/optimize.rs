//! Machines for a set of lots: the first plan, then, as far as the step budget goes, the one that prices drive.

use std::collections::VecDeque;

use super::{
    columns::{Aim, Budget, Choice, Generated, Searches, generate, lone},
    fit::{Part, add_part, give, host_limit, remove_part, take, times},
    greedy::{Batch, Content, Hints, Packing, Room, Scarce, Share, pack},
    many,
    mix::{Mix, Slot},
    prices::Prices,
    round::{self, Whole},
    twins::Twins,
};

/// Items up to which the master problem is solved: its inverse has the square of that many entries.
const ITEMS_MAX: usize = 1200;
/// Steps for the shapes that are alike in all domains, where there are such.
const TWINS_PERCENT: u64 = 40;
/// Steps for finding contents to buy, and the same where there are hundreds of kinds of pods.
const GENERATE_PERCENT: u64 = 60;
const MANY_PERCENT: u64 = 95;
/// Looks at pods that could change places.
const EXCHANGE_LOOKS_MAX: u64 = 400_000;
/// Looks at machines when what is left is given to larger ones.
const GROW_LOOKS_MAX: u64 = 400_000;

/// Packs the lots of the room; takes what it buys from `scarce`.
pub(super) fn optimize(room: &Room<'_>, scarce: &mut Scarce, budget: &mut Budget) -> Packing {
    let empty = |class: u32| host_limit(&room.problem.topology, room.soft_ignored, &[], class);
    let caps: Vec<u32> = room.lots.iter().map(|lot| empty(lot.class)).collect();
    let prices = room.shapes.iter().map(|s| s.score * 1000).collect();
    let mix = Mix::new(room.problem, room.lots, &caps, room.shapes, prices, &slots(room)).with_pots(
        room.problem,
        room.shapes,
        scarce,
    );
    let (mut first, mut final_, mut hints) = (Vec::new(), Vec::new(), Hints::default());
    let mut items_left = mix.n_items() as u64;
    for component in mix.components() {
        let inner = &component.mix;
        // Two opinions on what a pod is worth: by the resources it takes, and as its share of a machine of its own.
        let prices = Prices::of(inner);
        let by_resources = prices.values(inner);
        let mut searches = Searches::new(inner, &prices.units());
        let alone = lone(inner, &inner.counts)
            .into_iter()
            .map(|it| it.map_or(0, |(_, _, worth)| worth))
            .collect();
        let driven = budget.left > 0 && inner.n_items() <= ITEMS_MAX;
        let start = round::first(inner, &mut searches, &[by_resources.clone(), alone]);
        // The first plan takes no steps.
        searches.steps();
        first.extend(start.machines.iter().map(|(s, p)| component.outer(*s, p)));
        let mut share = budget.share(inner.n_items() as u64, items_left);
        items_left -= inner.n_items() as u64;
        let whole = if driven {
            let (whole, generated) = price_driven(inner, &mut searches, &by_resources, start, &mut share);
            for (column, _) in &generated.solution {
                let (shape, pattern) = &generated.columns[*column as usize];
                let content = hint(room, &mix, component.outer(*shape, pattern));
                hints.contents.push(content);
            }
            for (item, worth) in component.items.iter().zip(&generated.worths) {
                for lot in &mix.lots[*item as usize] {
                    let lot = &room.lots[*lot as usize];
                    hints.worths.push((lot.demand, *worth, lot.left));
                }
            }
            whole
        } else {
            start
        };
        budget.spend(share.spent);
        final_.extend(whole.machines.iter().map(|(s, p)| component.outer(*s, p)));
    }
    let (mut best, mut best_scarce) = realize(room, scarce, &mix, &first);
    if first != final_ {
        let (other, other_scarce) = realize(room, scarce, &mix, &final_);
        if better(&other, &best) {
            (best, best_scarce) = (other, other_scarce);
        }
    }
    *scarce = best_scarce;
    best.hints = hints;
    best
}

/// A pattern as a content of an offer, by demand.
fn hint(room: &Room<'_>, mix: &Mix, (shape, pattern): Choice) -> Content {
    let mut parts = Vec::with_capacity(pattern.len());
    for (item, n) in &pattern {
        if let Some(lot) = mix.lots[*item as usize].first() {
            add_part(&mut parts, room.lots[*lot as usize].demand, *n);
        }
    }
    parts.sort_unstable();
    (room.shapes[shape as usize].offer, parts)
}

/// Host groups that no class in them has given up.
fn slots(room: &Room<'_>) -> Vec<Slot> {
    Slot::of(room.problem, room.lots, |group| {
        !group.soft || group.carriers.is_disjoint(room.soft_ignored)
    })
}

/// Fewer pods left out first, then cheaper.
fn better(a: &Packing, b: &Packing) -> bool {
    let left = |p: &Packing| p.left.iter().map(|n| u64::from(*n)).sum::<u64>();
    (left(a), a.score) < (left(b), b.score)
}

/// Column generation, rounding and local search; also the fractional solution.
fn price_driven(
    mix: &Mix,
    searches: &mut Searches<'_>,
    center: &[i64],
    start: Whole,
    budget: &mut Budget,
) -> (Whole, Generated) {
    let mut known = start.machines.clone();
    let mut center = center.to_vec();
    if let Some(twins) = Twins::of(mix) {
        let prices = Prices::of(&twins.mix);
        let mut searches = Searches::new(&twins.mix, &prices.units());
        let mut share = budget.part(TWINS_PERCENT);
        let (counts, values) = (&twins.mix.counts, prices.values(&twins.mix));
        let mut merged: Vec<Choice> = known.iter().map(|choice| twins.merged(choice)).collect();
        merged.sort_unstable();
        merged.dedup();
        let found = generate(
            &twins.mix,
            &mut searches,
            counts,
            &merged,
            &values,
            Aim::Buy,
            &mut share,
        );
        budget.spend(share.spent);
        center = twins.spread(mix, &found.worths);
        for (column, _) in &found.solution {
            known.extend(twins.everywhere(mix, &found.columns[*column as usize]));
        }
    }
    known.sort_unstable();
    known.dedup();
    let percent = if many::worthwhile(mix.n_items(), budget) {
        MANY_PERCENT
    } else {
        GENERATE_PERCENT
    };
    let mut share = budget.part(percent);
    let generated = generate(mix, searches, &mix.counts, &known, &center, Aim::Buy, &mut share);
    budget.spend(share.spent);
    let mut share = budget.part(60);
    let mut whole = round::round(mix, searches, &generated, &mut share);
    budget.spend(share.spent);
    if start.better_than(&whole) {
        whole = start;
    }
    round::tighten(mix, &mut whole);
    round::search(mix, searches, &generated, &mut whole, budget);
    round::merge(mix, &mut whole);
    (whole, generated)
}

/// Gives the items of each machine to lots, minding what pods of different classes think of each other; packs what
/// finds no place that way where it can.
fn realize(room: &Room<'_>, scarce: &Scarce, mix: &Mix, machines: &[Choice]) -> (Packing, Scarce) {
    let mut out = Packing {
        left: room.lots.iter().map(|l| l.left).collect(),
        ..Packing::default()
    };
    let mut scarce = scarce.clone();
    let mut machines = machines.to_vec();
    machines.sort_unstable();
    // Lots with rules go first, while there is a choice of machines, and small ones.
    let mut lots_of_item: Vec<VecDeque<u32>> = Vec::with_capacity(mix.n_items());
    for lots in &mix.lots {
        let mut lots = lots.clone();
        lots.sort_by_cached_key(|lot| (room.host_rank(room.lots[*lot as usize].class), *lot));
        lots_of_item.push(lots.into());
    }
    // What stands for many lots goes last: one of them will get on with the others.
    for (_, pattern) in &mut machines {
        pattern.sort_by_key(|(item, _)| (mix.lots[*item as usize].len(), *item));
    }
    let mut bins: Vec<Realized> = Vec::with_capacity(machines.len());
    let mut holes: Vec<Hole> = Vec::new();
    for (shape, pattern) in &machines {
        let offer = room.shapes[*shape as usize].offer as usize;
        let mut bin = Realized::new(room, *shape);
        for (item, n) in pattern {
            let mut wanted = *n;
            let lots = &mut lots_of_item[*item as usize];
            while lots.front().is_some_and(|lot| out.left[*lot as usize] == 0) {
                lots.pop_front();
            }
            for lot in lots.iter() {
                if wanted == 0 {
                    break;
                }
                wanted -= bin.put(room, *lot, wanted, &mut out.left);
            }
            if wanted > 0 {
                holes.push((bins.len(), *item, wanted));
            }
        }
        if bin.shares.is_empty() {
            holes.retain(|(at, ..)| *at < bins.len());
        } else {
            scarce.buy(room.problem, offer, 1);
            bins.push(bin);
        }
    }
    exchange(room, mix, &mut bins, &holes, &mut out.left);
    for lot in (0..room.lots.len() as u32).filter(|lot| room.lots[*lot as usize].left > 0) {
        for bin in &mut bins {
            let wanted = out.left[lot as usize];
            if wanted == 0 {
                break;
            }
            bin.put(room, lot, wanted, &mut out.left);
        }
    }
    grow(room, &mut bins, &mut out.left, &mut scarce);
    for (at, ..) in &holes {
        bins[*at].shrink(room, &mut scarce);
    }
    for bin in bins {
        out.score += room.shapes[bin.shape as usize].score;
        match out.batches.last_mut() {
            Some(last) if last.shape == bin.shape && last.shares == bin.shares => last.times += 1,
            _ => out.batches.push(Batch {
                shape: bin.shape,
                shares: bin.shares,
                times: 1,
            }),
        }
    }
    if out.left.iter().any(|n| *n > 0) {
        let rest = pack(room, &out.left.clone(), &mut scarce, &room.lone_values(&out.left));
        out.batches.extend(rest.batches);
        out.left = rest.left;
        out.score += rest.score;
    }
    (out, scarce)
}

/// Pods of an item that a machine was to hold and does not: (machine, item, pods).
type Hole = (usize, u32, u32);

/// Gives a machine the pod it lacks from one that can do with another pod of the same item, one that found no place
/// because of its neighbours.
fn exchange(room: &Room<'_>, mix: &Mix, bins: &mut [Realized], holes: &[Hole], left: &mut [u32]) {
    let mut item_of = vec![u32::MAX; room.lots.len()];
    for (item, lots) in mix.lots.iter().enumerate() {
        lots.iter().for_each(|lot| item_of[*lot as usize] = item as u32);
    }
    let mut holders: Vec<Vec<usize>> = vec![Vec::new(); mix.n_items()];
    for (at, bin) in bins.iter().enumerate() {
        for (lot, _) in &bin.shares {
            let holders = &mut holders[item_of[*lot as usize] as usize];
            if holders.last() != Some(&at) {
                holders.push(at);
            }
        }
    }
    let mut looks = EXCHANGE_LOOKS_MAX;
    for (hole, item, missing) in holes {
        for _ in 0..*missing {
            let lots = mix.lots[*item as usize].iter().copied();
            let homeless = lots.filter(|lot| left[*lot as usize] > 0);
            let find = || {
                for lot in homeless {
                    for at in holders[*item as usize].iter().filter(|at| *at != hole) {
                        let others = bins[*at].shares.iter().map(|(other, _)| *other);
                        for other in others.filter(|o| *o != lot && item_of[*o as usize] == *item) {
                            looks = looks.checked_sub(1)?;
                            if bins[*hole].admits(room, other, None)
                                && bins[*at].admits(room, lot, Some(other))
                            {
                                return Some((lot, *at, other));
                            }
                        }
                    }
                }
                None
            };
            let Some((lot, at, other)) = find() else { break };
            bins[at].remove(room, other, left);
            bins[at].put(room, lot, 1, left);
            bins[*hole].put(room, other, 1, left);
        }
    }
}

/// Exchanges machines for slightly larger ones that take what is left, where that costs less than a machine for it.
fn grow(room: &Room<'_>, bins: &mut [Realized], left: &mut [u32], scarce: &mut Scarce) {
    let alone = room.lone_values(left);
    let mut looks = GROW_LOOKS_MAX;
    for lot in 0..room.lots.len() as u32 {
        while left[lot as usize] > 0 {
            let mut best: Option<(i64, usize, u32)> = None;
            for (at, bin) in bins.iter().enumerate() {
                if looks == 0 {
                    return;
                }
                looks -= 1;
                let extra = best.map_or(alone[lot as usize] / 1000, |(extra, ..)| extra);
                if let Some((extra, shape)) = bin.larger(room, lot, extra, scarce) {
                    best = Some((extra, at, shape));
                }
            }
            let Some((_, at, shape)) = best else { break };
            let bin = &mut bins[at];
            scarce.give_back(room.problem, room.shapes[bin.shape as usize].offer as usize);
            scarce.buy(room.problem, room.shapes[shape as usize].offer as usize, 1);
            bin.become_shape(room, shape);
            if bin.put(room, lot, 1, left) == 0 {
                break;
            }
        }
    }
}

/// A machine being filled with lots.
struct Realized {
    shape: u32,
    room: Vec<i64>,
    parts: Vec<Part>,
    shares: Vec<Share>,
}

impl Realized {
    fn new(room: &Room<'_>, shape: u32) -> Self {
        let free = room.shape_room(shape as usize).to_vec();
        Self {
            shape,
            room: free,
            parts: Vec::new(),
            shares: Vec::new(),
        }
    }

    /// The cheapest larger shape that holds one pod of the lot too for less than `extra` more.
    fn larger(&self, room: &Room<'_>, lot: u32, extra: i64, scarce: &Scarce) -> Option<(i64, u32)> {
        let it = &room.lots[lot as usize];
        let topology = &room.problem.topology;
        if !room.is_free(it.class) && host_limit(topology, room.soft_ignored, &self.parts, it.class) == 0 {
            return None;
        }
        let (request, own) = (room.request(lot), room.shape_room(self.shape as usize));
        let score = room.shapes[self.shape as usize].score;
        // Shapes are in the order of their score.
        for (shape, larger) in room.shapes.iter().enumerate().skip(self.shape as usize + 1) {
            if larger.score - score >= extra {
                return None;
            }
            let amounts = room
                .shape_room(shape)
                .iter()
                .zip(own)
                .zip(&self.room)
                .zip(request);
            let holds = amounts
                .into_iter()
                .all(|(((new, old), free), want)| new - old + free >= *want);
            let offer = larger.offer as usize;
            let admits = |lot: u32| room.lots[lot as usize].offers.contains(offer);
            if holds
                && admits(lot)
                && self.shares.iter().all(|(lot, _)| admits(*lot))
                && scarce.most(room.problem, offer) > 0
            {
                return Some((larger.score - score, shape as u32));
            }
        }
        None
    }

    /// Whether one pod of the lot may come, perhaps in the place of one of another lot.
    fn admits(&self, room: &Room<'_>, lot: u32, instead_of: Option<u32>) -> bool {
        let it = &room.lots[lot as usize];
        let mut free = self.room.clone();
        let mut parts = self.parts.clone();
        if let Some(other) = instead_of {
            give(&mut free, room.request(other), 1);
            remove_part(&mut parts, room.lots[other as usize].class, 1);
        }
        times(&free, room.request(lot)) > 0
            && it
                .offers
                .contains(room.shapes[self.shape as usize].offer as usize)
            && (room.is_free(it.class)
                || host_limit(&room.problem.topology, room.soft_ignored, &parts, it.class) > 0)
    }

    fn remove(&mut self, room: &Room<'_>, lot: u32, left: &mut [u32]) {
        give(&mut self.room, room.request(lot), 1);
        remove_part(&mut self.parts, room.lots[lot as usize].class, 1);
        remove_part(&mut self.shares, lot, 1);
        left[lot as usize] += 1;
    }

    /// Moves to the cheapest shape that holds the same.
    fn shrink(&mut self, room: &Room<'_>, scarce: &mut Scarce) {
        let own = room.shape_room(self.shape as usize);
        for (shape, smaller) in room.shapes.iter().enumerate().take(self.shape as usize) {
            let offer = smaller.offer as usize;
            let mut amounts = room.shape_room(shape).iter().zip(own).zip(&self.room);
            let holds = amounts.all(|((new, old), free)| new - old + free >= 0);
            if holds
                && self
                    .shares
                    .iter()
                    .all(|(lot, _)| room.lots[*lot as usize].offers.contains(offer))
                && scarce.most(room.problem, offer) > 0
            {
                scarce.give_back(room.problem, room.shapes[self.shape as usize].offer as usize);
                scarce.buy(room.problem, offer, 1);
                self.become_shape(room, shape as u32);
                return;
            }
        }
    }

    fn become_shape(&mut self, room: &Room<'_>, shape: u32) {
        let (old, new) = (
            room.shape_room(self.shape as usize),
            room.shape_room(shape as usize),
        );
        for (free, (old, new)) in self.room.iter_mut().zip(old.iter().zip(new)) {
            *free += new - old;
        }
        self.shape = shape;
    }

    fn put(&mut self, room: &Room<'_>, lot: u32, wanted: u32, left: &mut [u32]) -> u32 {
        let it = &room.lots[lot as usize];
        if left[lot as usize] == 0
            || !it
                .offers
                .contains(room.shapes[self.shape as usize].offer as usize)
        {
            return 0;
        }
        let request = room.request(lot);
        let mut n = times(&self.room, request).min(wanted).min(left[lot as usize]);
        if n > 0 && !room.is_free(it.class) {
            n = n.min(host_limit(
                &room.problem.topology,
                room.soft_ignored,
                &self.parts,
                it.class,
            ));
        }
        if n > 0 {
            take(&mut self.room, request, n);
            add_part(&mut self.parts, it.class, n);
            add_part(&mut self.shares, lot, n);
            left[lot as usize] -= n;
        }
        n
    }
}
