//! What pods are worth when those on large machines may be cut.
//!
//! What a machine with a hundred pods holds at best is hard to prove, and hardly less than what it would hold if pods
//! could be cut. So a pod on a large machine is worth what it takes, at prices of resources at which no large machine is
//! worth more than it costs; for small machines whole contents count. One master problem knows both.

use rustc_hash::FxHashSet;

use super::{
    bound::ENOUGH,
    columns::{Budget, Choice, Searches},
    knapsack::{Knapsack, VARIETY_MAX},
    mix::Mix,
    prices::{Prices, distinct},
    simplex::{Column, Master},
};

/// Contents of small machines found after which the master problem has its turn again.
const COLUMNS_MAX: usize = 60;
/// Nodes of a search for a content.
const NODES_MAX: u32 = 400;
/// Steps for the best content of one machine.
const STEPS_EACH: u64 = 1500;
/// Rounds and steps of one solution of the master problem.
const ROUNDS_MAX: usize = 60;
const STEPS_MAX: u64 = 20_000;
/// Steps for a last look at what was not shown.
const LAST_PERCENT: u64 = 20;
/// What may be worth so many times its price is taken for a large machine.
const FAR_ABOVE: f64 = 1.02;
/// A best content worth so many times the price at most costs less to allow for than to cut pods.
const NEARLY: f64 = 1.001;
/// Contents worth this part of the price are hard to tell from those worth more than it.
const TIGHT: f64 = 0.98;
/// Rounds of moving the prices of resources to see that.
const TIGHT_ROUNDS: usize = 4;
/// Keeps sums of rounded products below the price of a machine.
const MARGIN: f64 = 1.0 - 1e-6;

/// Values of the items, and prices of resources that help to see that they hold.
pub(super) struct Cut {
    pub(super) values: Vec<i64>,
    /// Nano-dollars per unit of each resource: on large machines pods are worth no more than what they take at these.
    pub(super) unit_prices: Vec<Vec<f64>>,
}

/// Values that no shape exceeds but the `skipped` ones. Contents of shapes of more `variety` than [`VARIETY_MAX`], and of
/// those whose best one is not found within the budget, may be cut. What has little variety is looked at first.
pub(super) fn values(
    searches: &mut Searches<'_>,
    groups: &Prices,
    variety: &[f64],
    skipped: &[bool],
    known: &[Choice],
    budget: &mut Budget,
) -> Cut {
    let mix = searches.knapsack.mix;
    let n_items = mix.n_items();
    let rows = Rows::new(mix, groups);
    let mut wanted: Vec<f64> = mix.counts.iter().map(|n| f64::from(*n)).collect();
    let deterrent = mix.prices.iter().map(|p| *p as f64).fold(0.0, f64::max) * 10.0 + 1.0;
    let mut shortage = vec![deterrent; n_items];
    wanted.resize(n_items + rows.scales.len(), 0.0);
    shortage.resize(wanted.len(), 0.0);
    let mut master = Master::new(wanted, shortage);
    for item in 0..n_items {
        master.add(rows.cut_pod(mix, groups, item));
    }
    let mut seen: FxHashSet<Choice> = FxHashSet::default();
    let mut add = |choice: Choice, master: &mut Master| -> bool {
        let entries = choice.1.iter().map(|(item, n)| (*item, f64::from(*n))).collect();
        let cost = mix.prices[choice.0 as usize] as f64;
        let fresh = seen.insert(choice);
        if fresh {
            master.add(Column { cost, entries });
        }
        fresh
    };
    for choice in known.iter().filter(|(shape, _)| !skipped[*shape as usize]) {
        add(choice.clone(), &mut master);
    }
    let mut large: Vec<bool> = variety.iter().map(|v| *v > VARIETY_MAX).collect();
    let shapes = |large: &[bool], which: bool| -> Vec<usize> {
        let wanted = |s: &usize| !skipped[*s] && large[*s] == which;
        (0..mix.n_shapes()).filter(wanted).collect()
    };
    // Part of its price that the best content of a shape is worth at most.
    let mut ratios = vec![f64::INFINITY; mix.n_shapes()];
    let mut shown = vec![false; mix.n_shapes()];
    let mut last = budget.part(LAST_PERCENT);
    let mut search = Budget::new(budget.left - last.left);
    let (mut duals, mut values) = rows.priced(mix, groups, &mut master, &shapes(&large, true), &mut search);
    while search.left > 0 {
        let (mut found, mut unproven) = (0, Vec::new());
        for exact in [false, true] {
            if found > 0 {
                break;
            }
            shown.fill(false);
            let mut small = shapes(&large, false);
            let dearest = |a: &usize, b: &usize| ratios[*b].total_cmp(&ratios[*a]).then(a.cmp(b));
            // What is soon shown comes first, should the budget not do for all.
            let easiest = |a: &usize, b: &usize| variety[*a].total_cmp(&variety[*b]).then(a.cmp(b));
            small.sort_by(|a, b| if exact { easiest(a, b) } else { dearest(a, b) });
            for shape in small {
                if search.left == 0 || found >= COLUMNS_MAX {
                    break;
                }
                let price = mix.prices[shape];
                let floor = price + price / ENOUGH;
                let knapsack = &mut searches.knapsack;
                let best = if exact {
                    let steps = search.left.min(STEPS_EACH);
                    knapsack.seek(shape, &values, &mix.counts, floor, floor, steps)
                } else {
                    knapsack.best(shape, &values, &mix.counts, floor, NODES_MAX)
                };
                search.spend(searches.steps());
                ratios[shape] = best.upper as f64 / price as f64;
                shown[shape] = best.upper <= floor;
                if best.worth > floor && add((shape as u32, best.pattern), &mut master) {
                    found += 1;
                } else if exact && ratios[shape] > FAR_ABOVE {
                    unproven.push(shape);
                    found += 1;
                }
            }
        }
        if found == 0 || search.left == 0 {
            break;
        }
        unproven.into_iter().for_each(|shape| large[shape] = true);
        (duals, values) = rows.priced(mix, groups, &mut master, &shapes(&large, true), &mut search);
        shown.fill(false);
    }
    budget.spend(search.spent);
    // What is not shown may still be nearly so.
    let unshown: Vec<usize> = shapes(&large, false).into_iter().filter(|s| !shown[*s]).collect();
    for (at, shape) in unshown.iter().enumerate() {
        let price = mix.prices[*shape];
        let steps = last.share(1, (unshown.len() - at) as u64).left;
        let knapsack = &mut searches.knapsack;
        let best = knapsack.prove(*shape, &values, &mix.counts, price + price / ENOUGH, steps);
        last.spend(searches.steps());
        ratios[*shape] = best.upper as f64 / price as f64;
    }
    budget.spend(last.spent);
    let settle = |duals: &[f64], values: &[i64], large: &[bool]| {
        let (small, large) = (shapes(large, false), shapes(large, true));
        let most = small.iter().map(|shape| ratios[*shape]).fold(1.0, f64::max);
        rows.settled(mix, groups, duals, values, &large, most)
    };
    let scaled = settle(&duals, &values, &large);
    let far: Vec<usize> = unshown
        .into_iter()
        .filter(|shape| ratios[*shape] > NEARLY)
        .collect();
    if far.is_empty() {
        return scaled;
    }
    // What was shown still holds when no value rises.
    far.iter().for_each(|shape| large[*shape] = true);
    let (duals, lower) = rows.priced(mix, groups, &mut master, &shapes(&large, true), budget);
    values.iter_mut().zip(lower).for_each(|(v, l)| *v = l.min(*v));
    let cut = settle(&duals, &values, &large);
    if mix.worth(&cut.values) > mix.worth(&scaled.values) {
        cut
    } else {
        scaled
    }
}

/// Prices of resources for each shape, but the `skipped` ones, whose best content may be worth nearly its price.
pub(super) fn tight(knapsack: &mut Knapsack<'_>, skipped: &[bool], values: &[i64]) -> Vec<Vec<f64>> {
    let mix = knapsack.mix;
    let mut all = Vec::new();
    for shape in (0..mix.n_shapes()).filter(|shape| !skipped[*shape]) {
        let floor = (mix.prices[shape] as f64 * TIGHT) as i64;
        if knapsack.tighten(shape, values, &mix.counts, floor, TIGHT_ROUNDS) > floor {
            all.push(knapsack.prices(shape));
        }
    }
    distinct(all)
}

fn dot(prices: &[f64], amounts: &[i64]) -> f64 {
    prices.iter().zip(amounts).map(|(p, a)| p * *a as f64).sum()
}

/// Rows of the master problem beside those of the items: each resource for each group of pods.
struct Rows {
    first: usize,
    n_res: usize,
    /// What all pods of the group take: amounts are parts of it.
    scales: Vec<f64>,
}

impl Rows {
    fn new(mix: &Mix, groups: &Prices) -> Self {
        let mut scales = vec![0.0; groups.n_groups() * mix.n_res];
        for (item, count) in mix.counts.iter().enumerate() {
            for (r, amount) in mix.request(item).iter().enumerate() {
                scales[groups.group(item) * mix.n_res + r] += *amount as f64 * f64::from(*count);
            }
        }
        Self {
            first: mix.n_items(),
            n_res: mix.n_res,
            scales,
        }
    }

    /// The master's prices, and what pods are worth by them, when no large machine is worth more than it costs.
    fn priced(
        &self,
        mix: &Mix,
        groups: &Prices,
        master: &mut Master,
        large: &[usize],
        budget: &mut Budget,
    ) -> (Vec<f64>, Vec<i64>) {
        for _ in 0..ROUNDS_MAX {
            master.solve(STEPS_MAX.min(1 + budget.left));
            budget.spend(master.steps() + 1);
            let duals = master.duals();
            let mut found = false;
            for shape in large {
                let (worth, column) = self.machine(mix, groups, &duals, *shape);
                if worth > column.cost * (1.0 + 1e-6) {
                    master.add(column);
                    found = true;
                }
            }
            if !found || budget.left == 0 {
                break;
            }
        }
        let duals = master.duals();
        let values = duals[..mix.n_items()].iter().map(|d| d.max(0.0) as i64).collect();
        (duals, values)
    }

    /// A pod that takes resources of a large machine.
    fn cut_pod(&self, mix: &Mix, groups: &Prices, item: usize) -> Column {
        let mut entries = vec![(item as u32, 1.0)];
        for (r, amount) in mix.request(item).iter().enumerate().filter(|(_, a)| **a > 0) {
            let row = groups.group(item) * self.n_res + r;
            entries.push(((self.first + row) as u32, -(*amount as f64) / self.scales[row]));
        }
        Column { cost: 0.0, entries }
    }

    /// A large machine, each resource to the group that pays most; and what that is worth.
    fn machine(&self, mix: &Mix, groups: &Prices, duals: &[f64], shape: usize) -> (f64, Column) {
        let mut worth = 0.0;
        let mut entries = Vec::new();
        for (r, room) in mix.room(shape).iter().enumerate() {
            let rows = groups.groups(shape).iter().map(|g| *g as usize * self.n_res + r);
            let best = rows
                .filter(|row| self.scales[*row] > 0.0)
                .map(|row| (duals[self.first + row].max(0.0) / self.scales[row], row))
                .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
            if let Some((price, row)) = best {
                worth += price * *room as f64;
                entries.push(((self.first + row) as u32, *room as f64 / self.scales[row]));
            }
        }
        entries.sort_unstable_by_key(|(row, _)| *row);
        let cost = mix.prices[shape] as f64;
        (worth, Column { cost, entries })
    }

    /// Values that hold for sure: the best content of a small machine is worth up to `most` times its price before.
    fn settled(
        &self,
        mix: &Mix,
        groups: &Prices,
        duals: &[f64],
        values: &[i64],
        large: &[usize],
        most: f64,
    ) -> Cut {
        let mut unit_prices = self.unit_prices(duals);
        unit_prices.iter_mut().for_each(|price| *price /= most);
        let worth = |shape: usize| dot(&self.highest(mix, groups, &unit_prices, shape), mix.room(shape));
        let ratios = large
            .iter()
            .map(|shape| worth(*shape) / mix.prices[*shape] as f64);
        let excess = ratios.fold(1.0, f64::max);
        unit_prices.iter_mut().for_each(|price| *price *= MARGIN / excess);
        let value = |(item, value): (usize, &i64)| {
            let of_group = &unit_prices[groups.group(item) * mix.n_res..][..mix.n_res];
            let cut = dot(of_group, mix.request(item)) * MARGIN;
            (f64::min(*value as f64 / most * MARGIN, cut) as i64 - 1).max(0)
        };
        let values = values.iter().enumerate().map(value).collect();
        let highest = large
            .iter()
            .map(|shape| self.highest(mix, groups, &unit_prices, *shape));
        Cut {
            values,
            unit_prices: distinct(highest.collect()),
        }
    }

    /// Nano-dollars per unit, by group and resource.
    fn unit_prices(&self, duals: &[f64]) -> Vec<f64> {
        let price = |(dual, scale): (&f64, &f64)| if *scale > 0.0 { dual.max(0.0) / scale } else { 0.0 };
        duals[self.first..].iter().zip(&self.scales).map(price).collect()
    }

    /// The same at their highest among the groups on a shape.
    fn highest(&self, mix: &Mix, groups: &Prices, unit_prices: &[f64], shape: usize) -> Vec<f64> {
        let of = |r: usize| {
            let of_groups = groups
                .groups(shape)
                .iter()
                .map(|g| unit_prices[*g as usize * self.n_res + r]);
            of_groups.fold(0.0, f64::max)
        };
        (0..mix.n_res).map(of).collect()
    }
}
