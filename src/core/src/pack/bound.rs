//! The lower bound and its certificate; see [`crate::plan::Bound`] for what is proven and how.

use std::{cmp::Reverse, collections::BTreeMap};

use fixedbitset::FixedBitSet;

use super::{
    columns::{Aim, Budget, Choice, PROOF_STEPS_MAX, Searches, generate},
    compile::{Demand, Problem},
    cut::{self, Cut},
    fit::{Part, add_part, times},
    greedy::{Content, Hints, Scarce},
    knapsack::Knapsack,
    many,
    mix::{Component, Mix, Slot},
    offers::HOSTNAME,
    prices::Prices,
    shapes::{Lot, Shape, undominated},
};
use crate::{
    catalog::MicroDollars,
    plan::{Bound, UnitPrices},
    snapshot::{ClassId, Snapshot},
};

/// Items up to which column generation looks for values.
const ITEMS_MAX: usize = 1200;
/// A machine may use the steps of so many, as others need none.
const STEPS_LENT: u64 = 8;
/// The same where tables over two resources are made.
const STEPS_LENT_CLOSELY: u64 = 32;
/// An excess of less than this part of the price is not worth a closer look.
pub(super) const ENOUGH: i64 = 4000;
/// A proof that reaches this share of what it set out from, in thousandths, is not worth a second one.
const NEAR_PERMILLE: i128 = 999;

/// What the certificate is about: one lot for each demand of which pods are placed.
pub(super) struct Terms {
    pub(super) lots: Vec<Lot>,
    pub(super) shapes: Vec<Shape>,
    /// Most pods of each lot on one machine.
    pub(super) caps: Vec<u32>,
    soft_caps: Vec<(ClassId, u32)>,
    /// Classes of which one machine holds only so many pods together.
    slots: Vec<Slot>,
}

/// The most pods of a class that one machine can hold by its own hard rules.
fn own_cap(problem: &Problem<'_>, class: ClassId) -> u32 {
    let ports = (!problem.shape(class).host_ports.is_empty()).then_some(1);
    ports
        .into_iter()
        .chain(caps(problem, class, false))
        .min()
        .unwrap_or(u32::MAX)
}

/// The same by what it prefers, if it does.
pub(super) fn soft_cap(problem: &Problem<'_>, class: ClassId) -> Option<u32> {
    caps(problem, class, true).min()
}

/// The caps that host groups of a class, hard or soft ones, set for its own pods.
fn caps(problem: &Problem<'_>, class: ClassId, soft: bool) -> impl Iterator<Item = u32> {
    let at = class.0 as usize;
    let groups = problem.topology.host_rules[at].groups.iter();
    groups
        .map(|group| &problem.topology.hosts[*group as usize])
        .filter(move |group| group.soft == soft && group.carriers.contains(at) && group.members.contains(at))
        .map(|group| group.cap.unwrap_or(1))
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
        it.reservation.is_none()
            && pools[it.pool as usize].limits.is_empty()
            && problem.min_values[it.pool as usize].is_empty()
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
            let mut labels = problem.offers_among(&demand.allowed);
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
            // A pod that no offering can take adds nothing to what machines must cost. Nor do its caps hold: where no
            // machine can be launched for it, the emptiest of those there are sets the least count of a spread.
            let left = if fitting.is_clear() { 0 } else { placed[idx] };
            caps.push(own_cap(problem, demand.class).min(soft));
            lots.push(Lot {
                demand: idx as u32,
                class: demand.class.0,
                allowed: labels,
                offers,
                left,
            });
        }
        let mut all = FixedBitSet::with_capacity(n_offers);
        all.insert_range(..);
        let shapes = undominated(problem, &lots, &all, false);
        Self {
            slots: Slot::of(problem, &lots, |group| !group.soft),
            lots,
            shapes,
            caps,
            soft_caps: kept,
        }
    }

    /// The certificate, with values found within the budget.
    pub(super) fn certify(&self, problem: &Problem<'_>, hints: &Hints, budget: &mut Budget) -> Bound {
        let prices = self.shapes.iter().map(|s| list_price(problem, s.offer)).collect();
        let mut mix = Mix::new(problem, &self.lots, &self.caps, &self.shapes, prices, &self.slots);
        // What `minValues` keeps packing from using is room all the same.
        for (shape, room) in self.shapes.iter().zip(mix.rooms.chunks_mut(mix.n_res.max(1))) {
            let whole = problem.whole_room(shape.offer as usize);
            room[..whole.len()].copy_from_slice(whole);
        }
        // Limits are no part of the certificate; reservations are.
        let scarce = Scarce {
            limits: vec![Vec::new(); problem.limits.len()],
            stock: problem.offers.reservations.iter().map(|r| r.remaining).collect(),
        };
        let with_stock = mix.clone().with_pots(problem, &self.shapes, &scarce);
        let mut item_of = vec![u32::MAX; self.lots.len()];
        for (item, lots) in mix.lots.iter().enumerate() {
            lots.iter().for_each(|lot| item_of[*lot as usize] = item as u32);
        }
        let known = known(&mix, &item_of, &self.shapes, &hints.contents);
        let worths = worths(&mix, &item_of, hints);
        let mut values = vec![0; mix.n_items()];
        let mut unit_prices = Vec::new();
        let mut items_left = mix.n_items() as u64;
        for component in with_stock.components() {
            let n_items = component.mix.n_items() as u64;
            let mut share = budget.share(n_items, items_left);
            items_left -= n_items;
            let inner = self.values_of(&component, &known, &worths, &mut share);
            budget.spend(share.spent);
            for (item, value) in component.items.iter().zip(inner.values) {
                values[*item as usize] = value;
            }
            let of_component = |prices: Vec<f64>| self.hint(problem, &component.resources, &prices);
            unit_prices.extend(inner.unit_prices.into_iter().map(of_component));
        }
        let found = self.write(problem, &mix, &values, unit_prices, budget);
        if budget.left == 0 || !problem.snapshot.nodes.is_empty() || !problem.offers.reservations.is_empty() {
            let plain = self.by_prices(problem, &mix);
            if plain.price > found.price {
                return plain;
            }
        }
        found
    }

    /// Values of the items of a component that satisfy the first condition of the certificate.
    fn values_of(&self, component: &Component, known: &[Choice], worths: &[i64], budget: &mut Budget) -> Cut {
        let mix = &component.mix;
        let prices = Prices::of(mix);
        let mut best = Cut {
            values: prices.values(mix),
            unit_prices: prices.of_shapes(),
        };
        if budget.left == 0 || mix.n_items() > ITEMS_MAX {
            return best;
        }
        let better = |values: Vec<i64>, best: &mut Cut| {
            if mix.worth(&values) > mix.worth(&best.values) {
                best.values = values;
            }
        };
        let mut searches = Searches::new(mix, &prices.units());
        let reserved: Vec<bool> = component
            .shapes
            .iter()
            .map(|s| self.shapes[*s as usize].reservation.is_some())
            .collect();
        // What the purchase found pods to be worth: it had nearly the same question.
        let hinted: Vec<i64> = component.items.iter().map(|i| worths[*i as usize]).collect();
        let known: Vec<Choice> = known
            .iter()
            .filter_map(|(shape, pattern)| component.inner(*shape, pattern))
            .collect();
        let aim = mix.worth(&hinted);
        let near = |best: &Cut| aim > 0 && mix.worth(&best.values) >= aim / 1000 * NEAR_PERMILLE;
        let variety: Vec<f64> = (0..mix.n_shapes())
            .map(|shape| searches.knapsack.variety(shape, &hinted, &mix.counts))
            .collect();
        if many::worthwhile(mix.n_items(), budget) {
            searches.knapsack.closely = true;
            // Most for finding values, the rest for proving them.
            let mut share = budget.part(75);
            let center = if aim > 0 { &hinted } else { &best.values };
            let found = generate(
                mix,
                &mut searches,
                &mix.counts,
                &known,
                center,
                Aim::Worths,
                &mut share,
            );
            budget.spend(share.spent);
            // Only some machines are in doubt: it costs less to lower what those hold than all.
            let values = lowered(mix, &mut searches, &reserved, found.worths, budget);
            better(values, &mut best);
            best.unit_prices
                .extend(cut::tight(&mut searches.knapsack, &reserved, &best.values));
            return best;
        }
        let mut share = budget.part(20);
        let found = lowered(mix, &mut searches, &reserved, hinted.clone(), &mut share);
        budget.spend(share.spent);
        better(found, &mut best);
        let mut share = budget.part(25);
        let found = scaled(mix, &mut searches, &reserved, hinted, &mut share);
        budget.spend(share.spent);
        better(found, &mut best);
        if !near(&best) {
            let mut share = budget.part(50);
            let cut = cut::values(&mut searches, &prices, &variety, &reserved, &known, &mut share);
            budget.spend(share.spent);
            if mix.worth(&cut.values) > mix.worth(&best.values) {
                best = cut;
            }
            // Most for finding values, the rest for proving them.
            let mut share = budget.part(70);
            let generated = generate(
                mix,
                &mut searches,
                &mix.counts,
                &known,
                &best.values,
                Aim::Worths,
                &mut share,
            );
            budget.spend(share.spent);
            let found = lowered(mix, &mut searches, &reserved, generated.worths, budget);
            better(found, &mut best);
        }
        best.unit_prices
            .extend(cut::tight(&mut searches.knapsack, &reserved, &best.values));
        best
    }

    /// Prices of the listed resources and slots as whoever checks takes them.
    fn hint(&self, problem: &Problem<'_>, resources: &[usize], prices: &[f64]) -> UnitPrices {
        let mut out = UnitPrices {
            resources: Vec::new(),
            groups: vec![0; self.slots.len()],
        };
        for (resource, price) in resources.iter().zip(prices) {
            let scaled = (price * (1_i64 << 40) as f64).ceil() as i128;
            if let Some(name) = problem.resources.get(*resource) {
                out.resources.push((name.clone(), scaled));
            } else {
                out.groups[resource - problem.n_res()] = scaled;
            }
        }
        out
    }

    /// The certificate of resource prices, which satisfy its first condition as they are.
    fn by_prices(&self, problem: &Problem<'_>, mix: &Mix) -> Bound {
        let prices = Prices::of(mix);
        let values = prices.values(mix);
        let mut sum = mix.worth(&values);
        for ((room, items), n) in self.nodes_alike(problem, mix) {
            sum -= i128::from(prices.room(&room, &items)) * n;
        }
        for (stock, it) in problem.offers.reservations.iter().enumerate() {
            let from = (0..mix.n_shapes()).filter(|s| self.shapes[*s].reservation == Some(stock as u32));
            let excess = from
                .map(|s| prices.room(mix.room(s), &mix.takes[s]) - mix.prices[s])
                .max();
            sum -= i128::from(excess.unwrap_or(0).max(0)) * i128::from(it.remaining);
        }
        let resources: Vec<usize> = (0..mix.n_res).collect();
        let hints = prices.of_shapes().into_iter();
        let hints = hints.map(|hint| self.hint(problem, &resources, &hint)).collect();
        self.bound(mix, &values, sum, hints)
    }

    fn bound(&self, mix: &Mix, values: &[i64], sum: i128, hints: Vec<UnitPrices>) -> Bound {
        let mut duals: Vec<(ClassId, i64)> = Vec::new();
        for (item, lots) in mix.lots.iter().enumerate().filter(|(item, _)| values[*item] > 0) {
            duals.extend(
                lots.iter()
                    .map(|lot| (ClassId(self.lots[*lot as usize].class), values[item])),
            );
        }
        duals.sort_unstable();
        let price = MicroDollars((sum.max(0) / 1000) as i64);
        let group = |slot: &Slot| {
            let classes = duals.iter().map(|(class, _)| *class);
            let members = classes.filter(|c| slot.members.contains(c.0 as usize));
            (members.collect(), slot.room)
        };
        Bound {
            price,
            groups: self.slots.iter().map(group).collect(),
            caps: self.soft_caps.clone(),
            duals,
            hints,
        }
    }

    /// What values that satisfy the first condition of the certificate prove.
    fn write(
        &self,
        problem: &Problem<'_>,
        mix: &Mix,
        values: &[i64],
        hints: Vec<UnitPrices>,
        budget: &mut Budget,
    ) -> Bound {
        let mut sum = mix.worth(values);
        sum -= self.worth_of_nodes(problem, mix, values, budget);
        let mut knapsack = Knapsack::new(mix, &Prices::of(mix).units());
        for (stock, it) in problem.offers.reservations.iter().enumerate() {
            let mut excess = 0;
            for shape in (0..mix.n_shapes()).filter(|s| self.shapes[*s].reservation == Some(stock as u32)) {
                let floor = mix.prices[shape];
                let steps = budget.left.min(PROOF_STEPS_MAX);
                let worth = knapsack.prove(shape, values, &mix.counts, floor, steps).upper;
                excess = excess.max(worth - mix.prices[shape]);
            }
            sum -= i128::from(excess) * i128::from(it.remaining);
        }
        self.bound(mix, values, sum, hints)
    }

    /// Existing machines by free room, slots included, and the items they admit, with how many there are of each.
    fn nodes_alike(&self, problem: &Problem<'_>, mix: &Mix) -> BTreeMap<(Vec<i64>, Vec<u32>), i128> {
        let mut alike: BTreeMap<(Vec<i64>, Vec<u32>), i128> = BTreeMap::new();
        for node in (0..problem.snapshot.nodes.len()).filter(|n| !problem.snapshot.nodes[*n].leaving) {
            let place = problem.n_offers() + node;
            let mut room = problem.free_room(node).to_vec();
            room.extend(self.slots.iter().map(|slot| i64::from(slot.room)));
            let admits = |item: &u32| {
                let lots = &mix.lots[*item as usize];
                times(&room, mix.request(*item as usize)) > 0
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
        let mut knapsack = Knapsack::new(&nodes, &[]);
        let n_shapes = alike.len();
        let worth = |(shape, n): (usize, &i128)| {
            let steps = (budget.left / (n_shapes - shape) as u64 * STEPS_LENT).min(budget.left);
            let steps = steps.min(PROOF_STEPS_MAX);
            let proven = knapsack.prove(shape, values, &mix.counts, 0, steps);
            budget.spend(knapsack.steps());
            i128::from(proven.upper) * n
        };
        alike.values().enumerate().map(worth).sum()
    }
}

/// The contents in terms of the mix, on the cheapest shape that holds each.
fn known(mix: &Mix, item_of: &[u32], shapes: &[Shape], contents: &[Content]) -> Vec<Choice> {
    let shape_of: BTreeMap<u32, u32> = (0_u32..)
        .zip(shapes)
        .map(|(shape, it)| (it.offer, shape))
        .collect();
    let mut out: Vec<Choice> = Vec::with_capacity(contents.len());
    for (offer, parts) in contents {
        let mut pattern: Vec<Part> = Vec::new();
        for (demand, n) in parts {
            let item = item_of[*demand as usize];
            if item != u32::MAX {
                add_part(&mut pattern, item, *n);
            }
        }
        pattern.sort_unstable();
        let mut sum = vec![0; mix.n_res];
        for (item, n) in &pattern {
            sum.iter_mut()
                .zip(mix.request(*item as usize))
                .for_each(|(s, r)| *s += r * i64::from(*n));
        }
        let holds = |shape: &u32| {
            let takes = &mix.takes[*shape as usize];
            sum.iter()
                .zip(mix.room(*shape as usize))
                .all(|(want, have)| want <= have)
                && pattern.iter().all(|(i, _)| takes.binary_search(i).is_ok())
        };
        // Shapes are in the order of their price.
        let shape = shape_of.get(offer).copied();
        if let Some(shape) = shape.or_else(|| (0..mix.n_shapes() as u32).find(holds)) {
            out.push((shape, pattern));
        }
    }
    out.sort_unstable();
    out.dedup();
    out
}

/// What a pod of each item was found to be worth, on average.
fn worths(mix: &Mix, item_of: &[u32], hints: &Hints) -> Vec<i64> {
    let mut sums: Vec<(i128, i128)> = vec![(0, 0); mix.n_items()];
    for (demand, worth, pods) in &hints.worths {
        if let Some(sum) = sums.get_mut(item_of[*demand as usize] as usize) {
            sum.0 += i128::from(*worth) * i128::from(*pods);
            sum.1 += i128::from(*pods);
        }
    }
    sums.iter()
        .map(|(worth, pods)| (worth / (*pods).max(1)) as i64)
        .collect()
}

/// These values of the items, all lowered by the same part until no machine holds pods worth more than its price.
fn scaled(
    mix: &Mix,
    searches: &mut Searches<'_>,
    reserved: &[bool],
    mut values: Vec<i64>,
    budget: &mut Budget,
) -> Vec<i64> {
    let mut worst: (i128, i128) = (i128::from(ENOUGH) + 1, i128::from(ENOUGH));
    let order: Vec<usize> = (0..mix.n_shapes()).filter(|s| !reserved[*s]).collect();
    let n_shapes = order.len() as u64;
    for (at, shape) in order.into_iter().enumerate() {
        let price = mix.prices[shape];
        // What is worth this much at the worst excess so far needs no closer look.
        let floor = (i128::from(price) * worst.0 / worst.1) as i64;
        let steps = (budget.left / (n_shapes - at as u64) * STEPS_LENT).min(budget.left);
        let proven = searches.knapsack.prove(shape, &values, &mix.counts, floor, steps);
        budget.spend(searches.steps());
        if i128::from(proven.upper) * worst.1 > worst.0 * i128::from(price) {
            worst = (i128::from(proven.upper), i128::from(price));
        }
    }
    for value in &mut values {
        *value = (i128::from(*value) * worst.1 / worst.0) as i64;
    }
    values
}

/// These values of the items, lowered until no machine holds pods worth more than its price. What holds for a machine
/// still holds when values fall, so one machine after the other is made to satisfy it, the largest first: pods that may
/// be cut say most about those.
fn lowered(
    mix: &Mix,
    searches: &mut Searches<'_>,
    reserved: &[bool],
    mut values: Vec<i64>,
    budget: &mut Budget,
) -> Vec<i64> {
    let mut worst: (i128, i128) = (1, 1);
    let mut order: Vec<usize> = (0..mix.n_shapes()).filter(|s| !reserved[*s]).collect();
    order.sort_by_key(|s| (Reverse(mix.prices[*s]), *s));
    let n_shapes = order.len() as u64;
    for (at, shape) in order.into_iter().enumerate() {
        let price = mix.prices[shape];
        let floor = price + price / ENOUGH;
        let lent = if searches.knapsack.closely {
            STEPS_LENT_CLOSELY
        } else {
            STEPS_LENT
        };
        let steps = (budget.left / (n_shapes - at as u64) * lent).min(budget.left);
        let proven = searches.knapsack.prove(shape, &values, &mix.counts, floor, steps);
        budget.spend(searches.steps());
        if proven.upper <= floor {
            // So small an excess is taken off all values in the end.
            if i128::from(proven.upper) * worst.1 > worst.0 * i128::from(price) {
                worst = (i128::from(proven.upper), i128::from(price));
            }
            continue;
        }
        // Either all its pods are worth less in proportion, or none more than its fair share of the machine.
        let scale = |value: i64| (i128::from(value) * i128::from(price) / i128::from(proven.upper)) as i64;
        let scaled: Vec<(u32, i64)> = mix.takes[shape]
            .iter()
            .map(|item| (*item, scale(values[*item as usize])))
            .collect();
        let fair: Vec<(u32, i64)> = searches
            .knapsack
            .fair(price)
            .map(|(item, worth)| (item, worth.min(values[item as usize])))
            .collect();
        let loss = |lower: &[(u32, i64)]| -> i128 {
            let of = |(item, value): &(u32, i64)| {
                i128::from(values[*item as usize] - value) * i128::from(mix.counts[*item as usize])
            };
            lower.iter().map(of).sum()
        };
        let lower = if loss(&fair) < loss(&scaled) { fair } else { scaled };
        for (item, value) in lower {
            values[item as usize] = value;
        }
    }
    for value in &mut values {
        *value = (i128::from(*value) * worst.1 / worst.0) as i64;
    }
    values
}

/// Nano-dollars per hour.
fn list_price(problem: &Problem<'_>, offer: u32) -> i64 {
    problem.offers.offers[offer as usize].price * 1000
}
