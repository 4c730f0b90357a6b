//! What a unit of each resource is worth, for groups of pods that may use the same machines.
//!
//! The coarsest relaxation of packing: pods may be cut, and each resource of a machine may go to a different group. Its
//! master problem has a row for each resource of each group and solves in no time; its prices give every pod a
//! worth that satisfies the certificate of the bound by construction.

use std::cmp::Ordering;

use super::{
    mix::Mix,
    simplex::{Column, Master},
};

/// Groups beyond this many share the last one.
const GROUPS_MAX: usize = 24;
/// Rounds of column generation.
const ROUNDS_MAX: usize = 60;
/// Keeps sums of rounded products below the price of a machine, clearly enough for whoever checks with prices of
/// resources of his own.
const MARGIN: f64 = 1.0 - 1e-6;

/// Resource prices by group.
#[derive(Debug)]
pub(super) struct Prices {
    /// Nano-dollars per unit, `n_res` per group.
    prices: Vec<f64>,
    n_res: usize,
    group_of_item: Vec<u32>,
    /// Groups with an item that the shape takes.
    groups_of_shape: Vec<Vec<u32>>,
}

impl Prices {
    pub(super) fn of(mix: &Mix) -> Self {
        let (group_of_item, n_groups) = groups(mix);
        let n_res = mix.n_res;
        let groups_of_shape: Vec<Vec<u32>> = mix
            .takes
            .iter()
            .map(|items| {
                let mut set: Vec<u32> = items.iter().map(|i| group_of_item[*i as usize]).collect();
                set.sort_unstable();
                set.dedup();
                set
            })
            .collect();
        let mut demand = vec![0.0; n_groups * n_res];
        for (item, count) in mix.counts.iter().enumerate() {
            let group = group_of_item[item] as usize;
            for (r, amount) in mix.request(item).iter().enumerate() {
                demand[group * n_res + r] += *amount as f64 * f64::from(*count);
            }
        }
        // Rows are scaled to a demand of one, so that bytes and cores weigh alike.
        let wanted: Vec<f64> = demand.iter().map(|d| if *d > 0.0 { 1.0 } else { 0.0 }).collect();
        let deterrent = mix.prices.iter().map(|p| *p as f64).sum::<f64>() * 1e3 + 1.0;
        let mut master = Master::new(wanted, vec![deterrent; demand.len()]);
        for _ in 0..ROUNDS_MAX {
            master.solve(20_000);
            let duals = master.duals();
            let mut found = false;
            for (shape, groups) in groups_of_shape.iter().enumerate() {
                let mut worth = 0.0;
                let mut entries: Vec<(u32, f64)> = Vec::new();
                for (r, room) in mix.room(shape).iter().enumerate() {
                    let best = groups
                        .iter()
                        .map(|g| *g as usize * n_res + r)
                        .filter(|row| demand[*row] > 0.0)
                        .map(|row| (duals[row].max(0.0) / demand[row], row))
                        .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
                    if let Some((price, row)) = best {
                        worth += price * *room as f64;
                        entries.push((row as u32, *room as f64 / demand[row]));
                    }
                }
                let cost = mix.prices[shape] as f64;
                if worth > cost * (1.0 + 1e-6) {
                    entries.sort_unstable_by_key(|(row, _)| *row);
                    master.add(Column { cost, entries });
                    found = true;
                }
            }
            if !found {
                break;
            }
        }
        let duals = master.duals();
        let prices = duals
            .iter()
            .zip(&demand)
            .map(|(dual, demand)| {
                if *demand > 0.0 {
                    dual.max(0.0) / demand
                } else {
                    0.0
                }
            })
            .collect();
        let mut out = Self {
            prices,
            n_res,
            group_of_item,
            groups_of_shape,
        };
        out.scale(mix);
        out
    }

    pub(super) fn n_groups(&self) -> usize {
        self.prices.len() / self.n_res.max(1)
    }

    pub(super) fn group(&self, item: usize) -> usize {
        self.group_of_item[item] as usize
    }

    /// Groups with an item that the shape takes.
    pub(super) fn groups(&self, shape: usize) -> &[u32] {
        &self.groups_of_shape[shape]
    }

    /// Scales down until no machine's room is worth more than the machine.
    fn scale(&mut self, mix: &Mix) {
        let ratio = |shape: usize| {
            let worth = self.worth_of_room(mix.room(shape), &self.groups_of_shape[shape]);
            if worth > 0.0 {
                mix.prices[shape] as f64 / worth
            } else {
                f64::INFINITY
            }
        };
        let least = (0..mix.n_shapes()).map(ratio).fold(1.0, f64::min);
        self.prices.iter_mut().for_each(|p| *p *= least * MARGIN);
    }

    fn worth_of_room(&self, room: &[i64], groups: &[u32]) -> f64 {
        room.iter()
            .enumerate()
            .map(|(r, room)| {
                let dearest = groups
                    .iter()
                    .map(|g| self.prices[*g as usize * self.n_res + r])
                    .fold(0.0, f64::max);
                dearest * *room as f64
            })
            .sum()
    }

    /// The price of a unit of each resource to the group that pays most.
    pub(super) fn units(&self) -> Vec<f64> {
        let groups = self.prices.chunks_exact(self.n_res.max(1));
        groups.fold(vec![0.0; self.n_res], |most, prices| {
            most.iter().zip(prices).map(|(m, p)| f64::max(*m, *p)).collect()
        })
    }

    /// For each shape, the price of a unit of each resource to that of its groups that pays most. Those that differ.
    pub(super) fn of_shapes(&self) -> Vec<Vec<f64>> {
        let highest = |groups: &Vec<u32>| -> Vec<f64> {
            let of = |r: usize| {
                groups
                    .iter()
                    .map(move |g| self.prices[*g as usize * self.n_res + r])
            };
            (0..self.n_res).map(|r| of(r).fold(0.0, f64::max)).collect()
        };
        distinct(self.groups_of_shape.iter().map(highest).collect())
    }

    /// Worth of one pod of each item, in nano-dollars, rounded down.
    pub(super) fn values(&self, mix: &Mix) -> Vec<i64> {
        (0..mix.n_items())
            .map(|item| {
                let prices = &self.prices[self.group_of_item[item] as usize * self.n_res..][..self.n_res];
                let worth: f64 = mix
                    .request(item)
                    .iter()
                    .zip(prices)
                    .map(|(a, p)| *a as f64 * p)
                    .sum();
                (worth * MARGIN) as i64
            })
            .collect()
    }

    /// An upper bound on the worth of pods of these items within a room, rounded up.
    pub(super) fn room(&self, room: &[i64], items: &[u32]) -> i64 {
        let mut groups: Vec<u32> = items.iter().map(|i| self.group_of_item[*i as usize]).collect();
        groups.sort_unstable();
        groups.dedup();
        (self.worth_of_room(room, &groups) / MARGIN) as i64 + 1
    }
}

/// Prices of the resources, each set of them once.
pub(super) fn distinct(mut all: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    all.sort_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
    all.dedup();
    all
}

/// The group of each item: its kind, kinds of many pods first, the rest together.
fn groups(mix: &Mix) -> (Vec<u32>, usize) {
    let n_kinds = mix.kinds.iter().max().map_or(0, |k| *k as usize + 1);
    let mut pods = vec![0; n_kinds];
    for (kind, count) in mix.kinds.iter().zip(&mix.counts) {
        pods[*kind as usize] += u64::from(*count);
    }
    let mut order: Vec<u32> = (0..n_kinds as u32).collect();
    order.sort_by_key(|kind| (std::cmp::Reverse(pods[*kind as usize]), *kind));
    let mut rank = vec![0; n_kinds];
    for (at, kind) in order.iter().enumerate() {
        rank[*kind as usize] = at.min(GROUPS_MAX - 1) as u32;
    }
    (
        mix.kinds.iter().map(|kind| rank[*kind as usize]).collect(),
        n_kinds.min(GROUPS_MAX),
    )
}
