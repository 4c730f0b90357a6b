//! The packing problem without names: kinds of pods, kinds of machines, numbers.
//!
//! Lots with equal requests, equal offers and equal caps are one *item*. Rules between different classes on one machine
//! are left to whoever realises a pattern; a pattern knows caps only.

use fixedbitset::FixedBitSet;
use rustc_hash::FxHashMap;

use super::{
    compile::Problem,
    fit::times,
    greedy::Scarce,
    shapes::{Lot, Shape},
};

/// Counts of items on one machine; ascending items.
pub(super) type Pattern = Vec<(u32, u32)>;

/// Something all machines of some shapes use up together: a reservation or a limit.
#[derive(Clone, Debug)]
pub(super) struct Pot {
    pub(super) amount: i64,
    /// (shape, what one machine uses), ascending.
    pub(super) usage: Vec<(u32, i64)>,
}

/// A rule of the hostname that all its members carry, as a resource: each machine has `room` of it, each member takes one.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) members: FixedBitSet,
    pub(super) room: u32,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Mix {
    /// Resources and slots.
    pub(super) n_res: usize,
    /// Requests, `n_res` per item.
    pub(super) requests: Vec<i64>,
    /// Pods wanted of each item.
    pub(super) counts: Vec<u32>,
    /// Most pods of each item on one machine.
    pub(super) caps: Vec<u32>,
    /// Items of one kind may use the same shapes, were it not for their size.
    pub(super) kinds: Vec<u32>,
    /// The lots an item stands for.
    pub(super) lots: Vec<Vec<u32>>,
    /// Room, `n_res` per shape.
    pub(super) rooms: Vec<i64>,
    /// Nano-dollars per hour of each shape.
    pub(super) prices: Vec<i64>,
    /// Items that each shape takes, ascending.
    pub(super) takes: Vec<Vec<u32>>,
    pub(super) pots: Vec<Pot>,
}

impl Mix {
    /// `caps` is by lot; `prices` by shape, in nano-dollars; only lots with pods left become items.
    pub(super) fn new(
        problem: &Problem<'_>,
        lots: &[Lot],
        caps: &[u32],
        shapes: &[Shape],
        prices: Vec<i64>,
        slots: &[Slot],
    ) -> Self {
        let mut mix = Self {
            n_res: problem.n_res() + slots.len(),
            prices,
            ..Self::default()
        };
        for shape in shapes {
            mix.rooms.extend(problem.offer_room(shape.offer as usize));
            mix.rooms.extend(slots.iter().map(|slot| i64::from(slot.room)));
        }
        mix.takes = vec![Vec::new(); shapes.len()];
        let mut ids: FxHashMap<(Vec<i64>, FixedBitSet, u32), u32> = FxHashMap::default();
        let mut kinds: FxHashMap<FixedBitSet, u32> = FxHashMap::default();
        for (idx, lot) in lots.iter().enumerate().filter(|(_, lot)| lot.left > 0) {
            let mut request = problem.demands[lot.demand as usize].request.clone();
            request.extend(
                slots
                    .iter()
                    .map(|slot| i64::from(slot.members.contains(lot.class as usize))),
            );
            let mut on = FixedBitSet::with_capacity(shapes.len());
            on.extend((0..shapes.len()).filter(|s| lot.offers.contains(shapes[*s].offer as usize)));
            // A cap that no machine can reach says nothing and would only tell lots apart.
            let most = on.ones().map(|s| times(mix.room(s), &request)).max().unwrap_or(0);
            let cap = caps[idx].min(most);
            let cap = if cap == most { u32::MAX } else { cap };
            let next = mix.counts.len() as u32;
            let item = *ids
                .entry((request, on, cap))
                .or_insert_with_key(|(request, on, _)| {
                    mix.requests.extend(request);
                    mix.counts.push(0);
                    mix.caps.push(0);
                    mix.lots.push(Vec::new());
                    let mut allowed = FixedBitSet::with_capacity(shapes.len());
                    allowed.extend(
                        (0..shapes.len()).filter(|s| lot.allowed.contains(shapes[*s].offer as usize)),
                    );
                    let kind = kinds.len() as u32;
                    mix.kinds.push(*kinds.entry(allowed).or_insert(kind));
                    on.ones().for_each(|s| mix.takes[s].push(next));
                    next
                });
            mix.counts[item as usize] += lot.left;
            // Caps hold for each lot: a machine may take that many of every one of them.
            mix.caps[item as usize] = mix.caps[item as usize].saturating_add(cap);
            mix.lots[item as usize].push(idx as u32);
        }
        for item in 0..mix.counts.len() {
            mix.caps[item] = mix.caps[item].min(mix.counts[item]);
        }
        mix
    }

    /// Adds what is scarce: reservations and pool limits.
    pub(super) fn with_pots(mut self, problem: &Problem<'_>, shapes: &[Shape], scarce: &Scarce) -> Self {
        for (stock, left) in scarce.stock.iter().enumerate() {
            let from = shapes
                .iter()
                .enumerate()
                .filter(|(_, s)| s.reservation == Some(stock as u32));
            let usage: Vec<(u32, i64)> = from.map(|(s, _)| (s as u32, 1)).collect();
            self.pots.push(Pot {
                amount: i64::from(*left),
                usage,
            });
        }
        for (pool, limits) in problem.limits.iter().enumerate() {
            for ((resource, _), left) in limits.iter().zip(&scarce.limits[pool]) {
                let of_pool = shapes
                    .iter()
                    .enumerate()
                    .filter(|(_, s)| problem.offers.offers[s.offer as usize].pool as usize == pool);
                let usage = of_pool.map(|(s, it)| (s as u32, problem.usage(it.offer as usize, resource)));
                let usage = usage.filter(|(_, used)| *used > 0).collect();
                self.pots.push(Pot {
                    amount: (*left).max(0),
                    usage,
                });
            }
        }
        self.pots.retain(|pot| !pot.usage.is_empty());
        self
    }

    pub(super) fn n_items(&self) -> usize {
        self.counts.len()
    }

    pub(super) fn n_shapes(&self) -> usize {
        self.prices.len()
    }

    pub(super) fn request(&self, item: usize) -> &[i64] {
        &self.requests[item * self.n_res..][..self.n_res]
    }

    pub(super) fn room(&self, shape: usize) -> &[i64] {
        &self.rooms[shape * self.n_res..][..self.n_res]
    }
}
