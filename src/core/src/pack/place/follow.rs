//! Places pods that must run beside others, on the machines those are on.

use super::super::{
    fit::{Part, host_limit, times},
    shapes::Lot,
    topology::Beside,
};
use super::{Bin, State};

impl State<'_> {
    /// Places lots that must run beside others, on the machines those are on.
    pub(super) fn follow(&mut self, first_lot: usize) {
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
        let terms: Vec<Beside> = self.problem.topology.host_rules[class as usize]
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
        let nowhere = |term: &Beside| {
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
        if self.lots[lot].left > 0 {
            self.grow(lot, &terms);
        }
        self.lots[lot].left < before
    }

    /// Exchanges a machine with pods that the lot must run beside for one that holds the lot's pods too.
    fn grow(&mut self, lot: usize, terms: &[Beside]) {
        let Lot { demand, class, .. } = self.lots[lot];
        let problem = self.problem;
        let request = &problem.demands[demand as usize].request;
        let offers = &problem.offers.offers;
        let weight = |o: u32| problem.snapshot.pools[offers[o as usize].pool as usize].weight;
        for at in 0..self.bins.len() {
            let left = self.lots[lot].left;
            let bin = &self.bins[at];
            let beside = |t: &Beside| bin.parts.iter().any(|(c, _)| t.members.contains(*c as usize));
            let most = host_limit(&problem.topology, &self.soft_ignored, &bin.parts, class).min(left);
            if most == 0 || !terms.iter().all(beside) {
                continue;
            }
            let used: Vec<i64> = problem
                .offer_room(bin.offer as usize)
                .iter()
                .zip(&bin.room)
                .map(|(all, free)| all - free)
                .collect();
            let mut common = self.lots[lot].offers.clone();
            bin.shares
                .iter()
                .for_each(|(other, _)| common.intersect_with(&self.lots[*other as usize].offers));
            let best = common
                .ones()
                .map(|o| o as u32)
                .filter(|o| weight(*o) == weight(bin.offer))
                .filter_map(|o| {
                    let room = problem.offer_room(o as usize).iter().zip(&used);
                    let free: Vec<i64> = room.map(|(all, used)| all - used).collect();
                    let n = if free.iter().any(|f| *f < 0) {
                        0
                    } else {
                        times(&free, request).min(most)
                    };
                    (n > 0).then_some(((std::cmp::Reverse(n), offers[o as usize].score, o), free))
                })
                .min();
            let Some(((std::cmp::Reverse(n), _, offer), free)) = best else {
                continue;
            };
            let old = bin.offer;
            self.scarce.give_back(problem, old as usize);
            if self.scarce.most(problem, offer as usize) == 0 {
                self.scarce.buy(problem, old as usize, 1);
                continue;
            }
            self.scarce.buy(problem, offer as usize, 1);
            let bin = &mut self.bins[at];
            bin.offer = offer;
            bin.room = free;
            bin.add(lot as u32, class, request, n);
            self.lots[lot].left -= n;
            self.left[demand as usize] -= n;
            if self.lots[lot].left == 0 {
                return;
            }
        }
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
}
