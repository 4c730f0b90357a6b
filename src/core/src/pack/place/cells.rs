//! Gives pods of classes that care about domains to cells.

use std::rc::Rc;

use fixedbitset::FixedBitSet;

use super::super::domains::{self, Cell};
use super::State;

impl State<'_> {
    /// Gives pods of a demand to cells, one by one: to existing machines where there is room, else to lots. Returns how many.
    pub(super) fn give_cells(
        &mut self,
        demand: u32,
        keys: &Rc<Vec<u32>>,
        todo: u32,
        queued: &mut [u32],
    ) -> u32 {
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
                options.push(CellOption {
                    cell: idx,
                    offers: self.problem.offers_among(&places),
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

    /// Takes unplaced pods out of their cells again, and remembers that nothing can be bought there.
    pub(super) fn give_back(&mut self, first_lot: usize) -> bool {
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
            self.doubtful = true;
            blocked |= self.blocked.insert((it.demand, domain_key(keys, &cells[*at])));
        }
        blocked
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
