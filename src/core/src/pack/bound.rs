//! The lower bound and its certificate; see [`crate::plan::Bound`] for what is proven and how.

use fixedbitset::FixedBitSet;

use super::{
    compile::Problem,
    fit::times,
    offers::HOSTNAME,
    shapes::{Lot, Shape, undominated},
};
use crate::{
    catalog::MicroDollars,
    plan::Bound,
    snapshot::{ClassId, PodClass, Snapshot},
};

/// What the certificate is about: one lot for each demand of which pods are placed.
pub(super) struct Terms {
    pub(super) lots: Vec<Lot>,
    pub(super) shapes: Vec<Shape>,
    /// Most pods of each lot on one machine.
    pub(super) caps: Vec<u32>,
    soft_caps: Vec<(ClassId, u32)>,
}

/// The most pods of a class that one machine can hold by its own hard rules.
fn own_cap(snapshot: &Snapshot, problem: &Problem<'_>, class: ClassId, shape: &PodClass) -> u32 {
    let mut cap = if shape.host_ports.is_empty() { u32::MAX } else { 1 };
    for group in &problem.topology.host_rules[class.0 as usize].groups {
        let group = &problem.topology.hosts[*group as usize];
        let own = group.carriers.contains(class.0 as usize) && group.members.contains(class.0 as usize);
        if own && !group.soft {
            cap = cap.min(group.cap.unwrap_or(1));
        }
    }
    debug_assert!((class.0 as usize) < snapshot.classes.len());
    cap
}

/// Whether pool weights bind every class to the heaviest pool that takes it: see the *weights* rule of the certificate.
fn weights_bind(snapshot: &Snapshot) -> bool {
    !snapshot.classes.iter().any(|shape| {
        !shape.affinity.is_empty()
            || shape
                .spread
                .iter()
                .any(|s| s.hard && &*s.topology_key != HOSTNAME)
            || shape.anti_affinity.iter().any(|t| &*t.topology_key != HOSTNAME)
    })
}

/// Offers a demand may use by the rules of the certificate.
fn usable(problem: &Problem<'_>, offers: &FixedBitSet, weights_bind: bool) -> FixedBitSet {
    let mut set = offers.clone();
    let pools = &problem.snapshot.pools;
    let weight = |offer: usize| pools[problem.offers.offers[offer].pool as usize].weight;
    let unlimited = |offer: usize| {
        let it = &problem.offers.offers[offer];
        it.reservation.is_none() && pools[it.pool as usize].limits.is_empty()
    };
    if weights_bind && let Some(heaviest) = offers.ones().filter(|o| unlimited(*o)).map(weight).max() {
        let lighter: Vec<usize> = set.ones().filter(|o| weight(*o) < heaviest).collect();
        lighter.into_iter().for_each(|o| set.set(o, false));
    }
    set
}

impl Terms {
    /// `placed` is the number of placed pods of each demand; `kept` lists preferences that cap machines.
    pub(super) fn new(problem: &Problem<'_>, placed: &[u32], kept: Vec<(ClassId, u32)>) -> Self {
        let bind = weights_bind(problem.snapshot);
        let n_offers = problem.n_offers();
        let mut lots = Vec::new();
        let mut caps = Vec::new();
        for (idx, demand) in problem.demands.iter().enumerate() {
            let mut labels = FixedBitSet::with_capacity(n_offers);
            labels.extend(demand.allowed.ones().take_while(|p| *p < n_offers));
            let offers = usable(problem, &demand.offers, bind);
            if bind {
                let lighter: Vec<usize> = demand.offers.ones().filter(|o| !offers.contains(*o)).collect();
                lighter.into_iter().for_each(|o| labels.set(o, false));
            }
            let soft = kept
                .iter()
                .find(|(class, _)| *class == demand.class)
                .map_or(u32::MAX, |(_, cap)| *cap);
            let cap = own_cap(
                problem.snapshot,
                problem,
                demand.class,
                problem.shape(demand.class),
            );
            caps.push(cap.min(soft).min(placed[idx].max(1)));
            lots.push(Lot {
                demand: idx as u32,
                class: demand.class.0,
                allowed: labels,
                offers,
                left: placed[idx],
            });
        }
        let mut all = FixedBitSet::with_capacity(n_offers);
        all.insert_range(..);
        let shapes = undominated(problem, &lots, &all);
        Self {
            lots,
            shapes,
            caps,
            soft_caps: kept,
        }
    }

    fn request<'a>(&self, problem: &'a Problem<'_>, lot: usize) -> &'a [i64] {
        &problem.demands[self.lots[lot].demand as usize].request
    }

    /// Worth of each lot's pod as its share of the cheapest machine for it alone, in nano-dollars.
    fn lone_values(&self, problem: &Problem<'_>) -> Vec<i64> {
        let value = |lot: usize| {
            if self.lots[lot].left == 0 {
                return 0;
            }
            let shares = self
                .shapes
                .iter()
                .filter(|s| self.lots[lot].offers.contains(s.offer as usize))
                .map(|s| {
                    let room = problem.offer_room(s.offer as usize);
                    let n = times(room, self.request(problem, lot)).min(self.caps[lot]).max(1);
                    list_price(problem, s.offer) / i64::from(n)
                });
            shares.min().unwrap_or(0)
        };
        (0..self.lots.len()).map(value).collect()
    }

    /// An upper bound of the worth of any content of a machine with this room: the least, over the resources, of what
    /// would fit if only that resource counted and pods could be cut.
    fn worth(
        &self,
        problem: &Problem<'_>,
        room: &[i64],
        takes: &dyn Fn(usize) -> bool,
        values: &[i64],
    ) -> i64 {
        let items: Vec<usize> = (0..self.lots.len())
            .filter(|l| values[*l] > 0 && takes(*l))
            .collect();
        let mut least = i64::MAX;
        for r in 0..room.len() {
            let mut order: Vec<usize> = items.clone();
            let weight = |l: &usize| self.request(problem, *l)[r];
            order.sort_by(|a, b| {
                let left = i128::from(values[*a]) * i128::from(weight(b));
                let right = i128::from(values[*b]) * i128::from(weight(a));
                right.cmp(&left).then(a.cmp(b))
            });
            let mut have = room[r];
            let mut sum: i64 = 0;
            for lot in order {
                let cap = i64::from(self.caps[lot]);
                let want = weight(&lot);
                let n = if want == 0 { cap } else { cap.min(have / want) };
                sum = sum.saturating_add(values[lot].saturating_mul(n));
                have -= n * want;
                if n < cap {
                    // The part of one more that fits, rounded up.
                    let part = (i128::from(values[lot]) * i128::from(have) + i128::from(want) - 1)
                        / i128::from(want);
                    sum = sum.saturating_add(part as i64);
                    break;
                }
            }
            least = least.min(sum);
        }
        if least == i64::MAX { 0 } else { least }
    }

    /// Scales values down until no offer without a reservation is worth more than its price.
    fn scale(&self, problem: &Problem<'_>, values: &mut [i64]) {
        let mut worst: Option<(i64, i64)> = None;
        for shape in self.shapes.iter().filter(|s| s.reservation.is_none()) {
            let offer = shape.offer as usize;
            let room = problem.offer_room(offer);
            let worth = self.worth(
                problem,
                room,
                &|lot| self.lots[lot].offers.contains(offer),
                values,
            );
            let price = list_price(problem, shape.offer);
            let worse = worst
                .is_none_or(|(w, p)| i128::from(worth) * i128::from(p) > i128::from(w) * i128::from(price));
            if worth > price && worse {
                worst = Some((worth, price));
            }
        }
        if let Some((worth, price)) = worst {
            for value in values {
                *value = (i128::from(*value) * i128::from(price) / i128::from(worth)) as i64;
            }
        }
    }

    /// The certificate for these values, which need not satisfy anything yet.
    pub(super) fn certify(&self, problem: &Problem<'_>, mut values: Vec<i64>) -> Bound {
        self.scale(problem, &mut values);
        let mut sum: i128 = self
            .lots
            .iter()
            .zip(&values)
            .map(|(lot, v)| i128::from(*v) * i128::from(lot.left))
            .sum();
        for (node, it) in problem.snapshot.nodes.iter().enumerate() {
            if !it.leaving {
                let place = problem.n_offers() + node;
                let takes = |lot: usize| {
                    problem.demands[self.lots[lot].demand as usize]
                        .allowed
                        .contains(place)
                };
                sum -= i128::from(self.worth(problem, problem.free_room(node), &takes, &values));
            }
        }
        for (stock, it) in problem.offers.reservations.iter().enumerate() {
            let shapes = self.shapes.iter().filter(|s| s.reservation == Some(stock as u32));
            let excess = shapes.map(|s| {
                let offer = s.offer as usize;
                let takes = |lot: usize| self.lots[lot].offers.contains(offer);
                self.worth(problem, problem.offer_room(offer), &takes, &values) - list_price(problem, s.offer)
            });
            sum -= i128::from(excess.max().unwrap_or(0).max(0)) * i128::from(it.remaining);
        }
        let duals: Vec<(ClassId, i64)> = self
            .lots
            .iter()
            .zip(&values)
            .filter(|(_, value)| **value > 0)
            .map(|(lot, value)| (ClassId(lot.class), *value))
            .collect();
        let price = MicroDollars((sum.max(0) / 1000) as i64);
        Bound {
            price,
            duals,
            caps: self.soft_caps.clone(),
        }
    }

    /// A bound that costs next to nothing to find.
    pub(super) fn quick(&self, problem: &Problem<'_>) -> Bound {
        self.certify(problem, self.lone_values(problem))
    }
}

/// Nano-dollars per hour.
fn list_price(problem: &Problem<'_>, offer: u32) -> i64 {
    problem.offers.offers[offer as usize].price * 1000
}
