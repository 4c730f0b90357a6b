//! Machines for a set of lots: the greedy packing, then, as far as the step budget goes, the one that prices drive.

use super::{
    columns::{Budget, Choice, generate},
    fit::{Part, add_part, host_limit, take, times},
    greedy::{Batch, Packing, Room, Scarce, Share, pack},
    knapsack::Knapsack,
    mix::{Mix, Slot},
    prices::Prices,
    round::{self, Whole},
    topology::HostGroup,
};

/// Items up to which the master problem is solved: its inverse has the square of that many entries.
const ITEMS_MAX: usize = 1200;
/// Host groups that count as resources.
const SLOTS_MAX: usize = 3;

/// Packs the lots of the room; takes what it buys from `scarce`.
pub(super) fn optimize(room: &Room<'_>, scarce: &mut Scarce, budget: &mut Budget) -> Packing {
    let left: Vec<u32> = room.lots.iter().map(|l| l.left).collect();
    let empty = |class: u32| host_limit(&room.problem.topology, room.soft_ignored, &[], class);
    let caps: Vec<u32> = room.lots.iter().map(|lot| empty(lot.class)).collect();
    let prices = room.shapes.iter().map(|s| s.score * 1000).collect();
    let mix = Mix::new(room.problem, room.lots, &caps, room.shapes, prices, &slots(room)).with_pots(
        room.problem,
        room.shapes,
        scarce,
    );
    let mut item_of = vec![u32::MAX; room.lots.len()];
    for (item, lots) in mix.lots.iter().enumerate() {
        lots.iter().for_each(|lot| item_of[*lot as usize] = item as u32);
    }
    // Two opinions on what a pod is worth: as its share of a machine of its own, and by the resources it takes.
    let by_item = Prices::of(&mix).values(&mix);
    let by_resources: Vec<i64> = item_of
        .iter()
        .map(|item| by_item.get(*item as usize).copied().unwrap_or(0))
        .collect();
    let mut best_scarce = scarce.clone();
    let mut best = pack(room, &left, &mut best_scarce, &room.lone_values());
    let mut other_scarce = scarce.clone();
    let other = pack(room, &left, &mut other_scarce, &by_resources);
    if better(&other, &best) {
        (best, best_scarce) = (other, other_scarce);
    }
    if budget.left > 0 && mix.n_items() <= ITEMS_MAX {
        let (other, other_scarce) =
            price_driven(room, &left, scarce, &mix, &item_of, &by_item, &best, budget);
        if better(&other, &best) {
            (best, best_scarce) = (other, other_scarce);
        }
    }
    *scarce = best_scarce;
    best
}

/// The host groups that forbid most: their members all carry them, so they work like a resource.
fn slots(room: &Room<'_>) -> Vec<Slot> {
    let mut pods: Vec<u64> = vec![0; room.problem.topology.hosts.len()];
    for lot in room.lots.iter().filter(|lot| lot.left > 0) {
        for group in &room.problem.topology.host_rules[lot.class as usize].groups {
            pods[*group as usize] += u64::from(lot.left);
        }
    }
    let mutual = |group: &HostGroup| {
        group.carriers == group.members
            && group.members.count_ones(..) > 1
            && !(group.soft
                && group
                    .carriers
                    .ones()
                    .any(|class| room.soft_ignored.contains(class)))
    };
    let hosts = &room.problem.topology.hosts;
    let mut order: Vec<usize> = (0..hosts.len())
        .filter(|g| pods[*g] > 0 && mutual(&hosts[*g]))
        .collect();
    order.sort_by_key(|g| (std::cmp::Reverse(pods[*g]), *g));
    order.truncate(SLOTS_MAX);
    let slot = |g: usize| Slot {
        members: hosts[g].members.clone(),
        room: hosts[g].cap.unwrap_or(1),
    };
    order.into_iter().map(slot).collect()
}

/// Fewer pods left out first, then cheaper.
fn better(a: &Packing, b: &Packing) -> bool {
    let left = |p: &Packing| p.left.iter().map(|n| u64::from(*n)).sum::<u64>();
    (left(a), a.score) < (left(b), b.score)
}

/// Column generation, rounding and local search.
fn price_driven(
    room: &Room<'_>,
    left: &[u32],
    scarce: &Scarce,
    mix: &Mix,
    item_of: &[u32],
    center: &[i64],
    greedy: &Packing,
    budget: &mut Budget,
) -> (Packing, Scarce) {
    let mut start = Whole {
        left: vec![0; mix.n_items()],
        ..Whole::default()
    };
    for (lot, n) in greedy.left.iter().enumerate().filter(|(_, n)| **n > 0) {
        start.left[item_of[lot] as usize] += n;
    }
    let mut known: Vec<Choice> = Vec::new();
    for batch in &greedy.batches {
        let mut pattern: Vec<Part> = Vec::new();
        batch
            .shares
            .iter()
            .for_each(|(lot, n)| add_part(&mut pattern, item_of[*lot as usize], *n));
        pattern.sort_unstable();
        let choice = (batch.shape, pattern);
        start.price += mix.prices[batch.shape as usize] * i64::from(batch.times);
        start
            .machines
            .extend(std::iter::repeat_n(choice.clone(), batch.times as usize));
        known.push(choice);
    }
    let mut knapsack = Knapsack::new(mix);
    let mut share = budget.part(25);
    let bought = round::buy_all(mix, &mut knapsack, center, &mut share);
    budget.spend(share.spent);
    known.extend(bought.machines.iter().cloned());
    if bought.better_than(&start) {
        start = bought;
    }
    let mut share = budget.part(60);
    let generated = generate(mix, &mut knapsack, &mix.counts, &known, center, &mut share);
    budget.spend(share.spent);
    let mut share = budget.part(60);
    let mut whole = round::round(mix, &mut knapsack, &generated, &mut share);
    budget.spend(share.spent);
    if start.better_than(&whole) {
        whole = start;
    }
    round::tighten(mix, &mut whole);
    round::search(mix, &mut knapsack, &generated.duals, &mut whole, budget);
    realize(room, left, scarce, mix, &whole)
}

/// Gives the items of each machine to lots, minding what pods of different classes think of each other; packs what
/// finds no place that way where it can.
fn realize(room: &Room<'_>, left: &[u32], scarce: &Scarce, mix: &Mix, whole: &Whole) -> (Packing, Scarce) {
    let mut out = Packing {
        left: left.to_vec(),
        ..Packing::default()
    };
    let mut scarce = scarce.clone();
    let mut machines = whole.machines.clone();
    machines.sort();
    let mut bins: Vec<Realized> = Vec::with_capacity(machines.len());
    for (shape, pattern) in &machines {
        let offer = room.shapes[*shape as usize].offer as usize;
        let mut bin = Realized::new(room, *shape);
        for (item, n) in pattern {
            let mut wanted = *n;
            for lot in &mix.lots[*item as usize] {
                if wanted == 0 {
                    break;
                }
                wanted -= bin.put(room, *lot, wanted, &mut out.left);
            }
        }
        if !bin.shares.is_empty() {
            scarce.buy(room.problem, offer, 1);
            bins.push(bin);
        }
    }
    for lot in 0..room.lots.len() as u32 {
        for bin in &mut bins {
            if out.left[lot as usize] == 0 {
                break;
            }
            let wanted = out.left[lot as usize];
            bin.put(room, lot, wanted, &mut out.left);
        }
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
        let rest = pack(room, &out.left.clone(), &mut scarce, &room.lone_values());
        out.batches.extend(rest.batches);
        out.left = rest.left;
        out.score += rest.score;
    }
    (out, scarce)
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
