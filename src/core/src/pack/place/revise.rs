//! Takes pods out of their places again, and builds states anew.

use super::super::{
    compile::{Problem, attach},
    domains,
    fit::{add_part, give, remove_part},
    keys::ABSENT,
    settle::{self, Stay},
    shapes::Lot,
};
use super::{Bin, Placed, Spot, State};

impl State<'_> {
    /// Takes out the pods that no order of binding admits. True when there were any.
    pub(super) fn unsettle(&mut self) -> bool {
        let (stays, sources) = self.stays();
        let stuck = settle::stuck(self.problem, &stays, false);
        if stuck.iter().all(|n| *n == 0) {
            return false;
        }
        for (source, n) in sources.into_iter().zip(stuck).filter(|(_, n)| *n > 0) {
            let demand = match source {
                Source::Spot(node, demand) => {
                    self.spots[node].remove(self.problem, node, demand, n);
                    demand
                }
                Source::Bin(bin, lot) => {
                    let Lot { demand, class, .. } = self.lots[lot as usize];
                    self.bins[bin].remove(lot, class, &self.problem.demands[demand as usize].request, n);
                    demand
                }
            };
            self.left[demand as usize] += n;
        }
        for bin in self.bins.iter().filter(|bin| bin.shares.is_empty()) {
            self.scarce.give_back(self.problem, bin.offer as usize);
        }
        self.bins.retain(|bin| !bin.shares.is_empty());
        self.recount();
        true
    }

    /// Every pod placed so far, with where it is.
    fn stays(&self) -> (Vec<Stay>, Vec<Source>) {
        let problem = self.problem;
        let (mut stays, mut sources) = (Vec::new(), Vec::new());
        for (node, spot) in self.spots.iter().enumerate() {
            for (demand, n) in &spot.taken {
                stays.push(Stay {
                    class: problem.demands[*demand as usize].class.0,
                    machine: node as u32,
                    place: problem.n_offers() + node,
                    n: *n,
                });
                sources.push(Source::Spot(node, *demand));
            }
        }
        for (at, bin) in self.bins.iter().enumerate() {
            for (lot, n) in &bin.shares {
                stays.push(Stay {
                    class: self.lots[*lot as usize].class,
                    machine: (self.spots.len() + at) as u32,
                    place: bin.offer as usize,
                    n: *n,
                });
                sources.push(Source::Bin(at, *lot));
            }
        }
        (stays, sources)
    }

    /// Counts what is placed anew.
    fn recount(&mut self) {
        let topology = &self.problem.topology;
        self.counts = topology.groups.iter().map(|g| g.counts.clone()).collect();
        for stay in self.stays().0 {
            for group in &topology.counted_in[stay.class as usize] {
                let it = &topology.groups[*group as usize];
                let value = self.problem.keys.keys[it.key as usize].of_place[stay.place];
                if value != ABSENT && it.filter.as_ref().is_none_or(|f| f.contains(stay.place)) {
                    self.counts[*group as usize][value as usize] += i64::from(stay.n);
                }
            }
        }
    }

    /// The machines that get pods.
    pub(in super::super) fn machines(&self) -> Vec<Placed> {
        let spots = self.spots.iter().enumerate().filter(|(_, s)| !s.taken.is_empty());
        let spots = spots.map(|(node, spot)| (Some(node as u32), None, spot.taken.clone()));
        let bins = self.bins.iter().map(|bin| {
            let mut pods = Vec::new();
            for (lot, n) in &bin.shares {
                add_part(&mut pods, self.lots[*lot as usize].demand, *n);
            }
            (None, Some(bin.offer), pods)
        });
        spots.chain(bins).collect()
    }

    /// A state with just these pods placed.
    pub(in super::super) fn rebuilt(&self, machines: Vec<Placed>) -> Self {
        let problem = self.problem;
        let mut state = Self::new(problem);
        state.budget = self.budget;
        state.hints.clone_from(&self.hints);
        // Which preferences still hold is not known.
        state.soft_ignored.insert_range(..);
        for (node, offer, pods) in machines {
            if let Some(node) = node {
                for (demand, n) in pods {
                    state.put(node as usize, demand, n);
                }
            } else if let Some(offer) = offer {
                state.scarce.buy(problem, offer as usize, 1);
                let mut bin = Bin::new(problem, offer);
                for (demand, n) in pods {
                    let lot = state.lots.len() as u32;
                    state.queue_like(demand, offer as usize);
                    let it = &problem.demands[demand as usize];
                    bin.add(lot, it.class.0, &it.request, n);
                    state.left[demand as usize] -= n;
                }
                state.bins.push(bin);
            }
        }
        state.recount();
        state
    }

    /// Adds an empty lot for pods of the demand that may move to any offer that is in the same domains as this one and
    /// satisfies the same wishes.
    fn queue_like(&mut self, demand: u32, offer: usize) {
        let it = &self.problem.demands[demand as usize];
        let mut allowed = it.allowed.clone();
        let keys = domains::keys_of(self.problem, it.class.0);
        let cells = self.cells.of(self.problem, &keys);
        if let Some(cell) = cells.iter().find(|cell| cell.places.contains(offer)) {
            allowed.intersect_with(&cell.places);
        }
        for wish in it.wishes.iter().filter(|wish| wish.contains(offer)) {
            allowed.intersect_with(wish);
        }
        self.queue(demand, allowed, 0, None);
    }
}

/// Where a pod is.
enum Source {
    /// Node and demand.
    Spot(usize, u32),
    /// Bin and lot.
    Bin(usize, u32),
}

impl Spot {
    fn remove(&mut self, problem: &Problem<'_>, node: usize, demand: u32, n: u32) {
        let it = &problem.demands[demand as usize];
        give(&mut self.room, &it.request, n);
        remove_part(&mut self.parts, it.class.0, n);
        remove_part(&mut self.taken, demand, n);
        self.attached.clone_from(&problem.volumes.attached[node]);
        for (demand, _) in &self.taken {
            let class = problem.demands[*demand as usize].class.0;
            attach(&mut self.attached, &problem.volumes.of_class[class as usize]);
        }
    }
}

impl Bin {
    fn remove(&mut self, lot: u32, class: u32, request: &[i64], n: u32) {
        give(&mut self.room, request, n);
        remove_part(&mut self.parts, class, n);
        remove_part(&mut self.shares, lot, n);
    }
}
