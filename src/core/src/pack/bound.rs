//! The lower bound and its certificate; see [`crate::plan::Bound`] for what is proven and how.

use std::collections::BTreeMap;

use fixedbitset::FixedBitSet;

use super::{
    columns::{Budget, PROOF_STEPS_MAX, generate},
    compile::{Demand, Problem},
    fit::times,
    greedy::Scarce,
    knapsack::Knapsack,
    mix::Mix,
    offers::HOSTNAME,
    prices::Prices,
    shapes::{Lot, Shape, undominated},
};
use crate::{
    catalog::MicroDollars,
    plan::Bound,
    snapshot::{ClassId, PodClass, Snapshot},
};

/// Items up to which column generation looks for values.
const ITEMS_MAX: usize = 1200;

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

/// Offers that hold a pod of the demand, whatever `minValues` allows packing to use of their room.
fn fitting(problem: &Problem<'_>, demand: &Demand) -> FixedBitSet {
    if problem.flexible_room.is_empty() {
        return demand.offers.clone();
    }
    let n_offers = problem.n_offers();
    let mut set = FixedBitSet::with_capacity(n_offers);
    let holds = |o: &usize| times(problem.whole_room(*o), &demand.request) > 0;
    set.extend(demand.allowed.ones().take_while(|o| *o < n_offers).filter(holds));
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
            let fitting = fitting(problem, demand);
            let offers = usable(problem, &fitting, bind);
            if bind {
                let lighter: Vec<usize> = fitting.ones().filter(|o| !offers.contains(*o)).collect();
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

    /// The certificate, with values found within the budget.
    pub(super) fn certify(&self, problem: &Problem<'_>, budget: &mut Budget) -> Bound {
        let prices = self.shapes.iter().map(|s| list_price(problem, s.offer)).collect();
        let scarce = Scarce {
            limits: problem.limits.iter().map(|l| vec![i64::MAX; l.len()]).collect(),
            stock: problem.offers.reservations.iter().map(|r| r.remaining).collect(),
        };
        let mut mix = Mix::new(problem, &self.lots, &self.caps, &self.shapes, prices, &[]);
        // What `minValues` keeps packing from using is room all the same.
        for (shape, room) in self.shapes.iter().zip(mix.rooms.chunks_mut(mix.n_res.max(1))) {
            let whole = problem.whole_room(shape.offer as usize);
            room[..whole.len()].copy_from_slice(whole);
        }
        let center = Prices::of(&mix).values(&mix);
        let mut best = self.by_prices(problem, &mix);
        if budget.left > 0 && mix.n_items() <= ITEMS_MAX {
            // Limits are no part of the certificate; reservations are.
            let mix_with_stock = Mix {
                pots: Vec::new(),
                ..mix.clone()
            }
            .with_pots(problem, &self.shapes, &scarce);
            let mut pricing = Knapsack::new(&mix_with_stock);
            let mut knapsack = Knapsack::new(&mix);
            // Half for finding values, half for proving them.
            let mut share = budget.part(50);
            let generated = generate(
                &mix_with_stock,
                &mut pricing,
                &mix.counts,
                &[],
                &center,
                &mut share,
            );
            budget.spend(share.spent);
            let other = self.evaluate(problem, &mix, &mut knapsack, generated.duals, budget);
            if other.price > best.price {
                best = other;
            }
        }
        best
    }

    /// The certificate of resource prices, which satisfy its first condition as they are.
    fn by_prices(&self, problem: &Problem<'_>, mix: &Mix) -> Bound {
        let prices = Prices::of(mix);
        let values = prices.values(mix);
        let total: i128 = mix
            .counts
            .iter()
            .zip(&values)
            .map(|(n, v)| i128::from(*v) * i128::from(*n))
            .sum();
        let mut sum = total;
        for ((room, items), n) in self.nodes_alike(problem, mix) {
            sum -= i128::from(prices.room(room, &items)) * n;
        }
        for (stock, it) in problem.offers.reservations.iter().enumerate() {
            let from = (0..mix.n_shapes()).filter(|s| self.shapes[*s].reservation == Some(stock as u32));
            let excess = from
                .map(|s| prices.room(mix.room(s), &mix.takes[s]) - mix.prices[s])
                .max();
            sum -= i128::from(excess.unwrap_or(0).max(0)) * i128::from(it.remaining);
        }
        self.write(mix, &values, sum)
    }

    fn write(&self, mix: &Mix, values: &[i64], sum: i128) -> Bound {
        let mut duals: Vec<(ClassId, i64)> = Vec::new();
        for (item, lots) in mix.lots.iter().enumerate().filter(|(item, _)| values[*item] > 0) {
            duals.extend(
                lots.iter()
                    .map(|lot| (ClassId(self.lots[*lot as usize].class), values[item])),
            );
        }
        duals.sort_unstable();
        let price = MicroDollars((sum.max(0) / 1000) as i64);
        Bound {
            price,
            duals,
            caps: self.soft_caps.clone(),
        }
    }

    /// What these values of the items prove once they are scaled down to satisfy the certificate.
    fn evaluate(
        &self,
        problem: &Problem<'_>,
        mix: &Mix,
        knapsack: &mut Knapsack<'_>,
        mut values: Vec<i64>,
        budget: &mut Budget,
    ) -> Bound {
        let mut worst: Option<(i64, i64)> = None;
        for shape in (0..mix.n_shapes()).filter(|s| self.shapes[*s].reservation.is_none()) {
            budget.spend(knapsack.steps());
            let price = mix.prices[shape];
            let floor = price + price / 2000;
            let worth = knapsack
                .prove(
                    shape,
                    &values,
                    &mix.counts,
                    floor,
                    budget.left.min(PROOF_STEPS_MAX),
                )
                .upper;
            let worse = worst
                .is_none_or(|(w, p)| i128::from(worth) * i128::from(p) > i128::from(w) * i128::from(price));
            if worth > price && worse {
                worst = Some((worth, price));
            }
        }
        if let Some((worth, price)) = worst {
            for value in &mut values {
                *value = (i128::from(*value) * i128::from(price) / i128::from(worth)) as i64;
            }
        }
        let mut sum: i128 = mix
            .counts
            .iter()
            .zip(&values)
            .map(|(n, v)| i128::from(*v) * i128::from(*n))
            .sum();
        sum -= self.worth_of_nodes(problem, mix, &values, budget);
        for (stock, it) in problem.offers.reservations.iter().enumerate() {
            let mut excess = 0;
            for shape in (0..mix.n_shapes()).filter(|s| self.shapes[*s].reservation == Some(stock as u32)) {
                let floor = mix.prices[shape];
                let worth = knapsack
                    .prove(
                        shape,
                        &values,
                        &mix.counts,
                        floor,
                        budget.left.min(PROOF_STEPS_MAX),
                    )
                    .upper;
                excess = excess.max(worth - mix.prices[shape]);
            }
            sum -= i128::from(excess) * i128::from(it.remaining);
        }
        self.write(mix, &values, sum)
    }

    /// Existing machines by free room and the items they admit, with how many there are of each.
    fn nodes_alike<'a>(&self, problem: &'a Problem<'_>, mix: &Mix) -> BTreeMap<(&'a [i64], Vec<u32>), i128> {
        let mut alike: BTreeMap<(&[i64], Vec<u32>), i128> = BTreeMap::new();
        for node in (0..problem.snapshot.nodes.len()).filter(|n| !problem.snapshot.nodes[*n].leaving) {
            let place = problem.n_offers() + node;
            let room = problem.free_room(node);
            let admits = |item: &u32| {
                let lots = &mix.lots[*item as usize];
                times(room, mix.request(*item as usize)) > 0
                    && lots.iter().any(|lot| {
                        problem.demands[self.lots[*lot as usize].demand as usize]
                            .allowed
                            .contains(place)
                    })
            };
            let items: Vec<u32> = (0..mix.n_items() as u32).filter(admits).collect();
            if !items.is_empty() {
                *alike.entry((room, items)).or_default() += 1;
            }
        }
        alike
    }

    /// The most that the free room of existing machines can be worth.
    fn worth_of_nodes(&self, problem: &Problem<'_>, mix: &Mix, values: &[i64], budget: &mut Budget) -> i128 {
        let alike = self.nodes_alike(problem, mix);
        let nodes = Mix {
            prices: vec![0; alike.len()],
            rooms: alike.keys().flat_map(|(room, _)| room.iter().copied()).collect(),
            takes: alike.keys().map(|(_, items)| items.clone()).collect(),
            pots: Vec::new(),
            ..mix.clone()
        };
        let mut knapsack = Knapsack::new(&nodes);
        let worth = |(shape, n): (usize, &i128)| {
            i128::from(
                knapsack
                    .prove(shape, values, &mix.counts, 0, budget.left.min(PROOF_STEPS_MAX))
                    .upper,
            ) * n
        };
        alike.values().enumerate().map(worth).sum()
    }
}

/// Nano-dollars per hour.
fn list_price(problem: &Problem<'_>, offer: u32) -> i64 {
    problem.offers.offers[offer as usize].price * 1000
}
