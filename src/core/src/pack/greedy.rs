//! What the rules between pods left without a place: the pattern with the best worth per price, as often as it goes,
//! again and again, with every rule of the hostname.

use std::{cmp::Reverse, collections::BinaryHeap};

use fixedbitset::FixedBitSet;

use super::{
    compile::Problem,
    fit::{Part, add_part, host_limit, take, times},
    shapes::{Lot, Shape},
};

/// Pods of a lot on one machine.
pub(super) type Share = (u32, u32);

/// A content of an offer, as pods of demands.
pub(super) type Content = (u32, Vec<Part>);

/// A machine content, several times.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    /// Index into the shapes.
    pub(super) shape: u32,
    pub(super) shares: Vec<Share>,
    pub(super) times: u32,
}

/// What is scarce, apart from pods.
#[derive(Clone, Debug)]
pub(super) struct Scarce {
    /// For each pool, in the order of [`Problem::limits`]: what may still be used.
    pub(super) limits: Vec<Vec<i64>>,
    /// Instances left in each reservation.
    pub(super) stock: Vec<u32>,
}

impl Scarce {
    pub(super) fn of(problem: &Problem<'_>) -> Self {
        Self {
            limits: problem
                .limits
                .iter()
                .map(|l| l.iter().map(|(_, left)| *left).collect())
                .collect(),
            stock: problem.offers.reservations.iter().map(|r| r.remaining).collect(),
        }
    }

    /// How many more machines of this offer may be bought.
    pub(super) fn most(&self, problem: &Problem<'_>, offer: usize) -> u32 {
        let it = &problem.offers.offers[offer];
        let mut most = it.reservation.map_or(u32::MAX, |r| self.stock[r as usize]);
        for ((resource, _), left) in problem.limits[it.pool as usize]
            .iter()
            .zip(&self.limits[it.pool as usize])
        {
            let usage = problem.usage(offer, resource);
            if usage > 0 {
                most = most.min((left / usage).clamp(0, i64::from(u32::MAX)) as u32);
            }
        }
        most
    }

    pub(super) fn buy(&mut self, problem: &Problem<'_>, offer: usize, n: u32) {
        let it = &problem.offers.offers[offer];
        if let Some(r) = it.reservation {
            self.stock[r as usize] -= n;
        }
        for ((resource, _), left) in problem.limits[it.pool as usize]
            .iter()
            .zip(&mut self.limits[it.pool as usize])
        {
            *left -= problem.usage(offer, resource) * i64::from(n);
        }
    }

    pub(super) fn give_back(&mut self, problem: &Problem<'_>, offer: usize) {
        let it = &problem.offers.offers[offer];
        if let Some(r) = it.reservation {
            self.stock[r as usize] += 1;
        }
        for ((resource, _), left) in problem.limits[it.pool as usize]
            .iter()
            .zip(&mut self.limits[it.pool as usize])
        {
            *left += problem.usage(offer, resource);
        }
    }
}

/// Lots, the shapes for them, and the rules: what packing works on.
pub(super) struct Room<'a> {
    pub(super) problem: &'a Problem<'a>,
    pub(super) lots: &'a [Lot],
    pub(super) shapes: &'a [Shape],
    pub(super) soft_ignored: &'a FixedBitSet,
}

impl Room<'_> {
    pub(super) fn request(&self, lot: u32) -> &[i64] {
        &self.problem.demands[self.lots[lot as usize].demand as usize].request
    }

    pub(super) fn shape_room(&self, shape: usize) -> &[i64] {
        self.problem.offer_room(self.shapes[shape].offer as usize)
    }

    /// Whether lots of this class care about what else is on the machine.
    pub(super) fn is_free(&self, class: u32) -> bool {
        self.problem.topology.host_rules[class as usize].groups.is_empty()
    }

    /// How free the class is: 0 where it restricts what else a machine holds, 1 where others do so, 2 where none does.
    pub(super) fn host_rank(&self, class: u32) -> u32 {
        let topology = &self.problem.topology;
        let groups = &topology.host_rules[class as usize].groups;
        let carries = |group: &u32| topology.hosts[*group as usize].carriers.contains(class as usize);
        if groups.iter().any(carries) {
            0
        } else {
            1 + u32::from(self.is_free(class))
        }
    }

    /// How many pods of the lot alone an empty machine of the shape takes.
    pub(super) fn alone(&self, shape: usize, lot: u32) -> u32 {
        if !self.lots[lot as usize]
            .offers
            .contains(self.shapes[shape].offer as usize)
        {
            return 0;
        }
        let class = self.lots[lot as usize].class;
        let limit = host_limit(&self.problem.topology, self.soft_ignored, &[], class);
        times(self.shape_room(shape), self.request(lot)).min(limit)
    }

    /// The worth of one pod of each lot, in nano-dollars: its share of the machine that would be cheapest per pod if it
    /// held nothing else.
    pub(super) fn lone_values(&self, left: &[u32]) -> Vec<i64> {
        (0..self.lots.len() as u32)
            .map(|lot| {
                let left = left[lot as usize];
                if left == 0 {
                    return 0;
                }
                let share = |s: usize| match self.alone(s, lot).min(left) {
                    0 => None,
                    n => Some(self.shapes[s].score * 1000 / i64::from(n)),
                };
                (0..self.shapes.len()).filter_map(share).min().unwrap_or(0)
            })
            .collect()
    }

    /// Lots that a shape can take, most worth per room first.
    pub(super) fn order(&self, shape: usize, left: &[u32], values: &[i64]) -> Vec<u32> {
        let room = self.shape_room(shape);
        let offer = self.shapes[shape].offer as usize;
        let mut order: Vec<(Reverse<i64>, u32)> = (0..self.lots.len() as u32)
            .filter(|lot| left[*lot as usize] > 0 && self.lots[*lot as usize].offers.contains(offer))
            .map(|lot| {
                // Share of the machine in millionths, summed over resources.
                let share: i64 = self
                    .request(lot)
                    .iter()
                    .zip(room)
                    .map(|(want, have)| (i128::from(*want) * 1_000_000 / i128::from((*have).max(1))) as i64)
                    .sum();
                let density = i128::from(values[lot as usize]) * 1000 / i128::from(share.max(1));
                (Reverse(density as i64), lot)
            })
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, lot)| lot).collect()
    }

    /// Fills a machine in the given order; what is left of each lot bounds its share.
    pub(super) fn fill(
        &self,
        room: &mut [i64],
        parts: &mut Vec<Part>,
        order: &[u32],
        left: &[u32],
        shares: &mut Vec<Share>,
    ) {
        for lot in order {
            let lot_left = left[*lot as usize];
            if lot_left == 0 {
                continue;
            }
            let request = self.request(*lot);
            let mut n = times(room, request).min(lot_left);
            if n == 0 {
                continue;
            }
            let class = self.lots[*lot as usize].class;
            if !self.is_free(class) {
                n = n.min(host_limit(
                    &self.problem.topology,
                    self.soft_ignored,
                    parts,
                    class,
                ));
                if n == 0 {
                    continue;
                }
            }
            add_part(parts, class, n);
            take(room, request, n);
            shares.push((*lot, n));
        }
    }
}

/// What a packing made of the lots.
#[derive(Clone, Debug, Default)]
pub(super) struct Packing {
    pub(super) batches: Vec<Batch>,
    /// Pods of each lot that found no place.
    pub(super) left: Vec<u32>,
    /// Sum of scores.
    pub(super) score: i64,
    pub(super) hints: Hints,
}

/// What is worth knowing for the proof.
#[derive(Clone, Debug, Default)]
pub(super) struct Hints {
    pub(super) contents: Vec<Content>,
    /// (demand, worth of a pod, pods)
    pub(super) worths: Vec<(u32, i64, u32)>,
}

struct Candidate {
    shares: Vec<Share>,
    order: Vec<u32>,
}

/// Packs what is `left` of the lots by pattern greed with the given worth per pod.
pub(super) fn pack(room: &Room<'_>, left: &[u32], scarce: &mut Scarce, values: &[i64]) -> Packing {
    let mut out = Packing {
        left: left.to_vec(),
        ..Packing::default()
    };
    let mut parts: Vec<Part> = Vec::new();
    let mut free: Vec<i64> = Vec::new();
    let mut build = |shape: usize, order: &[u32], left: &[u32], shares: &mut Vec<Share>| -> i64 {
        shares.clear();
        parts.clear();
        free.clear();
        free.extend(room.shape_room(shape));
        room.fill(&mut free, &mut parts, order, left, shares);
        let worth: i128 = shares
            .iter()
            .map(|(lot, n)| i128::from(values[*lot as usize].max(1)) * i128::from(*n))
            .sum();
        // Worth per price, in millionths.
        (worth * 1000 / i128::from(room.shapes[shape].score)) as i64
    };
    let mut candidates: Vec<Candidate> = Vec::with_capacity(room.shapes.len());
    let mut heap: BinaryHeap<(i64, Reverse<usize>)> = BinaryHeap::new();
    for shape in 0..room.shapes.len() {
        let order = room.order(shape, left, values);
        let mut shares = Vec::new();
        let ratio = build(shape, &order, &out.left, &mut shares);
        if ratio > 0 {
            heap.push((ratio, Reverse(shape)));
        }
        candidates.push(Candidate { shares, order });
    }
    while let Some((known, Reverse(shape))) = heap.pop() {
        let candidate = &mut candidates[shape];
        let stale = candidate
            .shares
            .iter()
            .any(|(lot, n)| out.left[*lot as usize] < *n);
        if stale {
            candidate.order.retain(|lot| out.left[*lot as usize] > 0);
            let ratio = build(shape, &candidate.order, &out.left, &mut candidate.shares);
            // Demand only shrinks, so another candidate may be better now: look again later.
            if ratio > 0 && heap.peek().is_some_and(|(next, _)| *next > ratio) {
                heap.push((ratio, Reverse(shape)));
                continue;
            }
            if ratio == 0 {
                continue;
            }
        }
        let offer = room.shapes[shape].offer as usize;
        let fits = candidate
            .shares
            .iter()
            .map(|(lot, n)| out.left[*lot as usize] / n)
            .min()
            .unwrap_or(0);
        let n = fits.min(scarce.most(room.problem, offer));
        if n == 0 {
            // A limit or a reservation is used up.
            continue;
        }
        scarce.buy(room.problem, offer, n);
        for (lot, share) in &candidate.shares {
            out.left[*lot as usize] -= share * n;
        }
        out.score += room.shapes[shape].score * i64::from(n);
        out.batches.push(Batch {
            shape: shape as u32,
            shares: candidate.shares.clone(),
            times: n,
        });
        heap.push((known, Reverse(shape)));
    }
    out
}
