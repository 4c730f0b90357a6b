//! Good contents of a machine by greed: for very many machines and kinds of pods in little time.
//!
//! Items are sorted by worth per share, the share being a weighted sum of what a pod takes, and a machine takes as
//! many of each as fit. The weightings are the same for all shapes, so that sorting is done once for a set of values;
//! a few of them, from one resource being all that counts to another one, do for lean and for rich machines.

use std::cmp::Reverse;

use fixedbitset::FixedBitSet;

use super::{
    fit::{take, times},
    mix::{Mix, Pattern},
};

/// How much more the resource in question counts than its price.
const ACCENTS: [f64; 2] = [3.0, 12.0];
/// Resources that are accented: those that cost most.
const ACCENTED: usize = 3;

#[derive(Debug)]
pub(super) struct Quick<'a> {
    mix: &'a Mix,
    /// Items of each shape.
    takes: Vec<FixedBitSet>,
    /// What each item takes, by weighting.
    shares: Vec<Vec<f64>>,
    /// Items by worth per share, by weighting.
    orders: Vec<Vec<u32>>,
    values: Vec<i64>,
    /// Least request of each resource among the items in the orders.
    least: Vec<i64>,
    room: Vec<i64>,
    content: Pattern,
    /// Items looked at since [`Quick::steps`].
    work: u64,
}

impl<'a> Quick<'a> {
    pub(super) fn new(mix: &'a Mix) -> Self {
        let takes = mix.takes.iter().map(|items| {
            let mut set = FixedBitSet::with_capacity(mix.n_items());
            set.extend(items.iter().map(|i| *i as usize));
            set
        });
        Self {
            takes: takes.collect(),
            shares: shares(mix),
            orders: Vec::new(),
            values: Vec::new(),
            least: Vec::new(),
            room: vec![0; mix.n_res],
            content: Pattern::new(),
            mix,
            work: 0,
        }
    }

    /// The work since the last call, in steps of roughly ten microseconds.
    pub(super) fn steps(&mut self) -> u64 {
        let steps = self.work / 1000;
        self.work %= 1000;
        steps
    }

    /// Sorts the wanted items for these values.
    pub(super) fn sort(&mut self, values: &[i64], counts: &[u32]) {
        let wanted: Vec<u32> = (0..self.mix.n_items() as u32)
            .filter(|i| counts[*i as usize] > 0 && values[*i as usize] > 0)
            .collect();
        self.values = values.to_vec();
        let order = |shares: &Vec<f64>| {
            let density = |i: &u32| values[*i as usize] as f64 / shares[*i as usize];
            let mut order = wanted.clone();
            order.sort_by(|a, b| density(b).total_cmp(&density(a)).then(a.cmp(b)));
            order
        };
        self.orders = self.shares.iter().map(order).collect();
        self.work += (wanted.len() * self.orders.len() * 10) as u64;
        let mix = self.mix;
        let least = |r: usize| wanted.iter().map(|i| mix.request(*i as usize)[r]).min();
        self.least = (0..mix.n_res).map(|r| least(r).unwrap_or(0)).collect();
    }

    /// Forgets items that are not wanted any more.
    pub(super) fn drop_exhausted(&mut self, counts: &[u32]) {
        for order in &mut self.orders {
            order.retain(|i| counts[*i as usize] > 0);
        }
    }

    /// The most valuable content of the shape that was found, and its worth.
    pub(super) fn best(&mut self, shape: usize, counts: &[u32]) -> (i64, Pattern) {
        let mix = self.mix;
        let mut best = (0, Pattern::new());
        for order in &self.orders {
            self.room.copy_from_slice(mix.room(shape));
            self.content.clear();
            let mut worth = 0;
            let mut looked = 0;
            for item in order {
                looked += 1;
                let at = *item as usize;
                let request = mix.request(at);
                if request.iter().zip(&self.room).any(|(want, have)| want > have)
                    || !self.takes[shape].contains(at)
                {
                    continue;
                }
                let n = times(&self.room, request).min(mix.caps[at]).min(counts[at]);
                if n > 0 {
                    worth += self.values[at] * i64::from(n);
                    self.content.push((*item, n));
                    take(&mut self.room, request, n);
                    if self
                        .room
                        .iter()
                        .zip(&self.least)
                        .any(|(have, least)| have < least)
                    {
                        break;
                    }
                }
            }
            self.work += 20 + looked;
            if worth > best.0 {
                best = (worth, self.content.clone());
            }
        }
        best.1.sort_unstable();
        best
    }
}

/// The part of what would fit of a kind of pod that is taken before the next look.
const GULP: u32 = 8;

/// A content of a large machine by greed that keeps the balance: the less is left of a resource, the more it costs.
/// `unit_prices` are those of the resources of the empty machine.
pub(super) fn balanced(
    mix: &Mix,
    shape: usize,
    values: &[i64],
    counts: &[u32],
    unit_prices: &[f64],
    enough: &[i64],
) -> (Pattern, Vec<i64>, u64) {
    let mut room = mix.room(shape).to_vec();
    let costs: Vec<f64> = mix
        .room(shape)
        .iter()
        .zip(unit_prices)
        .map(|(r, p)| *r as f64 * p)
        .collect();
    let mut taken = vec![0_u32; mix.takes[shape].len()];
    let mut open: Vec<usize> = (0..taken.len()).collect();
    let mut looks = 0;
    while room.iter().zip(enough).any(|(left, enough)| left > enough) {
        let weights: Vec<f64> = costs
            .iter()
            .zip(&room)
            .map(|(c, left)| c / (*left).max(1) as f64)
            .collect();
        let item = |at: usize| mix.takes[shape][at] as usize;
        let more = |at: usize, room: &[i64], taken: &[u32]| -> u32 {
            let most = mix.caps[item(at)].min(counts[item(at)]) - taken[at];
            times(room, mix.request(item(at))).min(most)
        };
        looks += open.len() as u64;
        open.retain(|at| values[item(*at)] > 0 && more(*at, &room, &taken) > 0);
        let density = |at: &usize| -> f64 {
            let share = mix
                .request(item(*at))
                .iter()
                .zip(&weights)
                .map(|(a, w)| *a as f64 * w);
            values[item(*at)] as f64 / share.sum::<f64>().max(1e-9)
        };
        let best = open.iter().map(|at| (density(at), *at));
        let Some((_, at)) = best.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))) else {
            break;
        };
        let fitting = more(at, &room, &taken);
        let n = (fitting / GULP).max(1);
        take(&mut room, mix.request(item(at)), n);
        taken[at] += n;
    }
    let content = mix.takes[shape].iter().zip(&taken).filter(|(_, n)| **n > 0);
    (content.map(|(item, n)| (*item, *n)).collect(), room, looks)
}

/// What each item takes, by weighting. Slots are left out: what they are worth is in the values.
fn shares(mix: &Mix) -> Vec<Vec<f64>> {
    let n_real = mix.n_res - mix.n_slots;
    // The price of a unit, as if a machine had nothing else.
    let price = |r: usize| -> f64 {
        let per_dollar = |s: usize| mix.room(s)[r] as f64 / mix.prices[s].max(1) as f64;
        let sum: f64 = (0..mix.n_shapes()).map(per_dollar).sum();
        mix.n_shapes() as f64 / sum.max(1e-12)
    };
    let prices: Vec<f64> = (0..n_real).map(price).collect();
    let spent = |r: usize| -> f64 {
        let items = 0..mix.n_items();
        items
            .map(|i| mix.request(i)[r] as f64 * f64::from(mix.counts[i]) * prices[r])
            .sum()
    };
    let mut dearest: Vec<usize> = (0..n_real).collect();
    dearest.sort_by_cached_key(|r| (Reverse(spent(*r) as i64), *r));
    dearest.truncate(ACCENTED);
    let mut weightings = vec![prices.clone()];
    if n_real > 1 {
        for r in dearest {
            for accent in ACCENTS {
                let mut weights = prices.clone();
                weights[r] *= accent;
                weightings.push(weights);
            }
        }
    }
    let share = |weights: &Vec<f64>, item: usize| -> f64 {
        let amounts = mix.request(item).iter().zip(weights);
        amounts.map(|(a, w)| *a as f64 * w).sum::<f64>().max(1e-9)
    };
    weightings
        .iter()
        .map(|weights| (0..mix.n_items()).map(|i| share(weights, i)).collect())
        .collect()
}
