//! The packing problem without names: kinds of pods, kinds of machines, numbers.
//!
//! Lots with equal requests, equal offers and equal caps are one *item*. Rules between different classes on one machine
//! are left to whoever realises a pattern; a pattern knows caps only.

use std::cmp::Reverse;

use fixedbitset::FixedBitSet;
use rustc_hash::FxHashMap;

use super::{
    compile::Problem,
    fit::times,
    greedy::Scarce,
    shapes::{Lot, Shape},
    topology::HostGroup,
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

/// Host groups that count as resources.
const SLOTS_MAX: usize = 3;

/// A rule of the hostname that all its members carry, as a resource: each machine has `room` of it, each member takes one.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) members: FixedBitSet,
    pub(super) room: u32,
}

impl Slot {
    /// The admitted host groups that force the most machines, as far as their members carry the rule themselves:
    /// whichever of those comes last would break it.
    pub(super) fn of(
        problem: &Problem<'_>,
        lots: &[Lot],
        admitted: impl Fn(&HostGroup) -> bool,
    ) -> Vec<Self> {
        let hosts = &problem.topology.hosts;
        let mut pods: Vec<u64> = vec![0; hosts.len()];
        let mut lots_in: Vec<u32> = vec![0; hosts.len()];
        for lot in lots.iter().filter(|lot| lot.left > 0) {
            let class = lot.class as usize;
            for group in problem.topology.host_rules[class]
                .groups
                .iter()
                .map(|g| *g as usize)
            {
                if hosts[group].carriers.contains(class) && hosts[group].members.contains(class) {
                    pods[group] += u64::from(lot.left);
                    lots_in[group] += 1;
                }
            }
        }
        let machines = |g: usize| pods[g] / u64::from(hosts[g].cap.unwrap_or(1).max(1));
        let mut order: Vec<usize> = (0..hosts.len())
            .filter(|g| lots_in[*g] > 1 && machines(*g) > 1 && admitted(&hosts[*g]))
            .collect();
        order.sort_by_key(|g| (Reverse(machines(*g)), *g));
        order.truncate(SLOTS_MAX);
        let slot = |g: usize| {
            let mut members = hosts[g].members.clone();
            members.intersect_with(&hosts[g].carriers);
            Self {
                members,
                room: hosts[g].cap.unwrap_or(1),
            }
        };
        order.into_iter().map(slot).collect()
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Mix {
    /// Resources and slots.
    pub(super) n_res: usize,
    /// How many of them, the last ones, are slots.
    pub(super) n_slots: usize,
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
            n_slots: slots.len(),
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
        // Most lots are like an earlier one, which is cheaper to see than what they have in common with the shapes.
        let mut seen: FxHashMap<(Vec<i64>, &FixedBitSet, &FixedBitSet, u32), (u32, u32)> =
            FxHashMap::default();
        for (idx, lot) in lots.iter().enumerate().filter(|(_, lot)| lot.left > 0) {
            let mut request = problem.demands[lot.demand as usize].request.clone();
            request.extend(
                slots
                    .iter()
                    .map(|slot| i64::from(slot.members.contains(lot.class as usize))),
            );
            let cap = if caps[idx] < lot.left { caps[idx] } else { u32::MAX };
            let like = (request, &lot.offers, &lot.allowed, cap);
            let (item, cap) = if let Some(known) = seen.get(&like) {
                *known
            } else {
                let request = &like.0;
                let mut on = FixedBitSet::with_capacity(shapes.len());
                on.extend((0..shapes.len()).filter(|s| lot.offers.contains(shapes[*s].offer as usize)));
                // A cap that nothing can reach says nothing and would only tell lots apart.
                let most = on.ones().map(|s| times(mix.room(s), request)).max().unwrap_or(0);
                let cap = if cap < most { cap } else { u32::MAX };
                let next = mix.counts.len() as u32;
                let item = *ids.entry((request.clone(), on, cap)).or_insert(next);
                if item == next {
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
                    for (shape, takes) in mix.takes.iter_mut().enumerate() {
                        if lot.offers.contains(shapes[shape].offer as usize) {
                            takes.push(next);
                        }
                    }
                }
                seen.insert(like, (item, cap));
                (item, cap)
            };
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
        for (pool, limits) in scarce.limits.iter().enumerate() {
            for (at, left) in limits.iter().enumerate() {
                let of_pool = shapes
                    .iter()
                    .enumerate()
                    .filter(|(_, s)| problem.offers.offers[s.offer as usize].pool as usize == pool);
                let usage = of_pool.map(|(s, it)| (s as u32, problem.usage(it.offer as usize)[at]));
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

    /// The parts of the mix that share no machine, no reservation and no limit: each can be solved by itself.
    pub(super) fn components(&self) -> Vec<Component> {
        let mut sets = Sets((0..self.n_items() as u32).collect());
        for items in &self.takes {
            items.windows(2).for_each(|pair| sets.join(pair[0], pair[1]));
        }
        for pot in &self.pots {
            let mut first = pot
                .usage
                .iter()
                .filter_map(|(shape, _)| self.takes[*shape as usize].first());
            if let Some(one) = first.next() {
                first.for_each(|other| sets.join(*one, *other));
            }
        }
        let mut at: Vec<u32> = vec![u32::MAX; self.n_items()];
        let mut out: Vec<Component> = Vec::new();
        for item in 0..self.n_items() as u32 {
            let root = sets.root(item) as usize;
            if at[root] == u32::MAX {
                at[root] = out.len() as u32;
                out.push(Component::default());
            }
            out[at[root] as usize].items.push(item);
        }
        for shape in 0..self.n_shapes() as u32 {
            if let Some(item) = self.takes[shape as usize].first() {
                out[at[sets.root(*item) as usize] as usize].shapes.push(shape);
            }
        }
        for component in &mut out {
            let requested = |r: &usize| component.items.iter().any(|i| self.request(*i as usize)[*r] > 0);
            component.resources = (0..self.n_res).filter(requested).collect();
            component.mix = self.part(&component.items, &component.shapes, &component.resources);
        }
        out
    }

    /// These items, shapes and resources alone.
    fn part(&self, items: &[u32], shapes: &[u32], resources: &[usize]) -> Self {
        let n_real = self.n_res - self.n_slots;
        let mut number = vec![u32::MAX; self.n_items()];
        items
            .iter()
            .enumerate()
            .for_each(|(n, item)| number[*item as usize] = n as u32);
        let pick = |amounts: &[i64]| -> Vec<i64> { resources.iter().map(|r| amounts[*r]).collect() };
        let of = |item: &u32| *item as usize;
        let pots = self.pots.iter().map(|pot| Pot {
            amount: pot.amount,
            usage: (0..shapes.len() as u32)
                .filter_map(|s| {
                    let at = pot
                        .usage
                        .binary_search_by_key(&shapes[s as usize], |(shape, _)| *shape);
                    at.ok().map(|at| (s, pot.usage[at].1))
                })
                .collect(),
        });
        Self {
            n_res: resources.len(),
            n_slots: resources.iter().filter(|r| **r >= n_real).count(),
            requests: items.iter().flat_map(|i| pick(self.request(of(i)))).collect(),
            counts: items.iter().map(|i| self.counts[of(i)]).collect(),
            caps: items.iter().map(|i| self.caps[of(i)]).collect(),
            kinds: items.iter().map(|i| self.kinds[of(i)]).collect(),
            lots: items.iter().map(|i| self.lots[of(i)].clone()).collect(),
            rooms: shapes.iter().flat_map(|s| pick(self.room(of(s)))).collect(),
            prices: shapes.iter().map(|s| self.prices[of(s)]).collect(),
            takes: shapes
                .iter()
                .map(|s| self.takes[of(s)].iter().map(|i| number[of(i)]).collect())
                .collect(),
            pots: pots.filter(|pot| !pot.usage.is_empty()).collect(),
        }
    }

    pub(super) fn n_items(&self) -> usize {
        self.counts.len()
    }

    pub(super) fn n_shapes(&self) -> usize {
        self.prices.len()
    }

    /// What all wanted pods are worth together.
    pub(super) fn worth(&self, values: &[i64]) -> i128 {
        let of = |(value, n): (&i64, &u32)| i128::from(*value) * i128::from(*n);
        values.iter().zip(&self.counts).map(of).sum()
    }

    pub(super) fn request(&self, item: usize) -> &[i64] {
        &self.requests[item * self.n_res..][..self.n_res]
    }

    pub(super) fn room(&self, shape: usize) -> &[i64] {
        &self.rooms[shape * self.n_res..][..self.n_res]
    }
}

/// A part of a mix that can be solved by itself, and the numbers of its items, shapes and resources in the whole.
#[derive(Clone, Debug, Default)]
pub(super) struct Component {
    pub(super) mix: Mix,
    pub(super) items: Vec<u32>,
    pub(super) shapes: Vec<u32>,
    /// Those that some item requests.
    pub(super) resources: Vec<usize>,
}

impl Component {
    /// A pattern of the whole in the numbers of the component.
    pub(super) fn inner(&self, shape: u32, pattern: &[(u32, u32)]) -> Option<(u32, Pattern)> {
        let shape = self.shapes.binary_search(&shape).ok()?;
        let part = |(item, n): &(u32, u32)| Some((self.items.binary_search(item).ok()? as u32, *n));
        Some((
            shape as u32,
            pattern.iter().map(part).collect::<Option<Pattern>>()?,
        ))
    }

    /// A pattern of the component in the numbers of the whole.
    pub(super) fn outer(&self, shape: u32, pattern: &[(u32, u32)]) -> (u32, Pattern) {
        let part = |(item, n): &(u32, u32)| (self.items[*item as usize], *n);
        (self.shapes[shape as usize], pattern.iter().map(part).collect())
    }
}

/// Disjoint sets by their parents.
struct Sets(Vec<u32>);

impl Sets {
    fn root(&mut self, mut at: u32) -> u32 {
        while self.0[at as usize] != at {
            let above = self.0[self.0[at as usize] as usize];
            self.0[at as usize] = above;
            at = above;
        }
        at
    }

    fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b) as usize] = a.min(b);
    }
}
