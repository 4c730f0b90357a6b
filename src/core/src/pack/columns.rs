//! Column generation: which patterns a fractional shopper would buy, and what a pod is worth to him.
//!
//! The master problem ([`super::simplex`]) buys known patterns; a knapsack per shape looks for a pattern worth more than its
//! machine at the master's prices, until there is none.

use std::collections::BTreeMap;

use rustc_hash::FxHashSet;

use super::{
    fit::times,
    knapsack::Knapsack,
    mix::{Mix, Pattern},
    simplex::{Column, Master},
};

/// Knapsack nodes per pricing: enough to be exact for machines of a dozen pods, a good guess for larger ones.
const NODES_MAX: u32 = 400;
/// Shapes that are all looked at.
const SHAPES_MAX: usize = 120;
/// Steps of one thorough pricing.
pub(super) const PROOF_STEPS_MAX: u64 = 2000;
/// Entries of the master's inverse that a pivot changes in a step.
const ENTRIES_PER_STEP: u64 = 20_000;
/// A pattern must promise at least this share of its price, in millionths, to be worth a column.
const PROMISE: i64 = 100;
/// Leaving a pod out costs this many times its lone worth: more than any pattern that holds it.
const DETERRENT: f64 = 50.0;

/// How much searching may still be done, in steps of roughly ten microseconds. They are counted, not timed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) left: u64,
    pub(super) spent: u64,
}

impl Budget {
    pub(super) fn new(steps_max: u64) -> Self {
        Self {
            left: steps_max,
            spent: 0,
        }
    }

    pub(super) fn spend(&mut self, steps: u64) {
        self.spent += steps;
        self.left = self.left.saturating_sub(steps);
    }

    /// A part of what is left, to be settled with [`Budget::spend`].
    pub(super) fn part(&self, percent: u64) -> Self {
        Self::new(self.left / 100 * percent + self.left % 100 * percent / 100)
    }
}

/// A pattern on a shape.
pub(super) type Choice = (u32, Pattern);

/// What column generation found.
#[derive(Clone, Debug, Default)]
pub(super) struct Generated {
    /// Worth of one pod of each item, nano-dollars.
    pub(super) duals: Vec<i64>,
    pub(super) columns: Vec<Choice>,
    /// (column, how often), fractional.
    pub(super) solution: Vec<(u32, f64)>,
}

/// For each item the shape on which it alone is cheapest per pod, with the number it holds and its worth.
fn lone(mix: &Mix, counts: &[u32]) -> Vec<Option<(u32, u32, i64)>> {
    let mut best: Vec<Option<(u32, u32, i64)>> = vec![None; mix.n_items()];
    for shape in 0..mix.n_shapes() {
        for item in &mix.takes[shape] {
            let at = *item as usize;
            let n = times(mix.room(shape), mix.request(at))
                .min(mix.caps[at])
                .min(counts[at]);
            if n > 0 {
                let worth = mix.prices[shape] / i64::from(n);
                if best[at].is_none_or(|(_, _, w)| worth < w) {
                    best[at] = Some((shape as u32, n, worth));
                }
            }
        }
    }
    best
}

/// Shapes to look for patterns on. Of very many that take the same kinds of pods, some prices far enough apart must do,
/// besides those that are known to be of use.
fn core(mix: &Mix, known: &[Choice]) -> Vec<usize> {
    if mix.n_shapes() <= SHAPES_MAX {
        return (0..mix.n_shapes()).collect();
    }
    let mut used = vec![false; mix.n_shapes()];
    for (shape, _) in known {
        used[*shape as usize] = true;
    }
    let mut order: Vec<usize> = (0..mix.n_shapes()).collect();
    order.sort_by_key(|s| (mix.prices[*s], *s));
    let mut last: BTreeMap<Vec<u32>, i64> = BTreeMap::new();
    for shape in order {
        let mut kinds: Vec<u32> = mix.takes[shape].iter().map(|i| mix.kinds[*i as usize]).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let price = mix.prices[shape];
        match last.get(&kinds) {
            Some(last) if price < last + last / 8 => {}
            _ => {
                used[shape] = true;
                last.insert(kinds, price);
            }
        }
    }
    (0..mix.n_shapes()).filter(|s| used[*s]).collect()
}

/// Generates columns for `counts` pods of the items, starting from known choices. `center` is a first opinion on what a pod
/// of each item is worth: the master's prices swing wildly at first, so patterns are sought between the two.
pub(super) fn generate(
    mix: &Mix,
    knapsack: &mut Knapsack<'_>,
    counts: &[u32],
    known: &[Choice],
    center: &[i64],
    budget: &mut Budget,
) -> Generated {
    // Only wanted items are rows.
    let rows: Vec<u32> = (0..mix.n_items() as u32)
        .filter(|i| counts[*i as usize] > 0)
        .collect();
    let mut row_of = vec![u32::MAX; mix.n_items()];
    for (row, item) in rows.iter().enumerate() {
        row_of[*item as usize] = row as u32;
    }
    let lone = lone(mix, counts);
    let mut wanted: Vec<f64> = rows.iter().map(|i| f64::from(counts[*i as usize])).collect();
    let mut shortage: Vec<f64> = rows
        .iter()
        .map(|i| lone[*i as usize].map_or(0.0, |(_, _, w)| w as f64) * DETERRENT + 1.0)
        .collect();
    let mut pots_of_shape: Vec<Vec<(u32, f64)>> = vec![Vec::new(); mix.n_shapes()];
    for pot in &mix.pots {
        let row = wanted.len() as u32;
        // Amounts are scaled so that the largest user has entry 1.
        let scale = pot.usage.iter().map(|(_, used)| *used).max().unwrap_or(1).max(1) as f64;
        wanted.push(-(pot.amount as f64) / scale);
        shortage.push(0.0);
        for (shape, used) in &pot.usage {
            pots_of_shape[*shape as usize].push((row, -(*used as f64) / scale));
        }
    }
    let mut master = Master::new(wanted, shortage);
    let mut out = Generated::default();
    let mut seen: FxHashSet<Choice> = FxHashSet::default();
    let mut add = |choice: Choice, master: &mut Master, columns: &mut Vec<Choice>| -> bool {
        let mut entries: Vec<(u32, f64)> = choice
            .1
            .iter()
            .filter(|(item, _)| row_of[*item as usize] != u32::MAX)
            .map(|(item, n)| (row_of[*item as usize], f64::from(*n)))
            .collect();
        if entries.is_empty() || !seen.insert(choice.clone()) {
            return false;
        }
        entries.extend(&pots_of_shape[choice.0 as usize]);
        master.add(Column {
            cost: mix.prices[choice.0 as usize] as f64,
            entries,
        });
        columns.push(choice);
        true
    };
    for item in &rows {
        if let Some((shape, n, _)) = lone[*item as usize] {
            add((shape, vec![(*item, n)]), &mut master, &mut out.columns);
        }
    }
    for choice in known {
        add(choice.clone(), &mut master, &mut out.columns);
    }
    let core = core(mix, known);
    let mut center = center.to_vec();
    let mut smooth = !center.is_empty();
    loop {
        let before = master.pivots;
        let n_rows = master.n_rows as u64;
        master.solve(1 + budget.left / (1 + n_rows * n_rows / ENTRIES_PER_STEP));
        budget.spend((master.pivots - before) * (1 + n_rows * n_rows / ENTRIES_PER_STEP));
        let duals = master.duals();
        out.duals = vec![0; mix.n_items()];
        for (row, item) in rows.iter().enumerate() {
            out.duals[*item as usize] = duals[row].max(0.0) as i64;
        }
        if budget.left == 0 {
            break;
        }
        let floors: Vec<i64> = (0..mix.n_shapes())
            .map(|shape| {
                let pots = pots_of_shape[shape]
                    .iter()
                    .map(|(row, a)| -a * duals[*row as usize].max(0.0));
                let price = mix.prices[shape] + pots.sum::<f64>() as i64;
                price + price / 1_000_000 * PROMISE
            })
            .collect();
        let mut found = false;
        if smooth {
            let between: Vec<i64> = center
                .iter()
                .zip(&out.duals)
                .map(|(c, d)| c / 10 * 6 + d / 10 * 4)
                .collect();
            let mut worst = (1, 1);
            for shape in core.iter().copied() {
                if budget.left == 0 {
                    break;
                }
                let best = knapsack.best(shape, &between, counts, floors[shape], NODES_MAX);
                budget.spend(knapsack.steps());
                if i128::from(best.worth) * worst.1 > worst.0 * i128::from(floors[shape]) {
                    worst = (i128::from(best.worth), i128::from(floors[shape]));
                }
                let worth: i64 = best
                    .pattern
                    .iter()
                    .map(|(i, n)| out.duals[*i as usize] * i64::from(*n))
                    .sum();
                if worth > floors[shape] {
                    found |= add((shape as u32, best.pattern), &mut master, &mut out.columns);
                }
            }
            // What the opinion in between would prove; the better proof is the next center.
            let proof = |values: &[i64], worst: (i128, i128)| -> i128 {
                let sum: i128 = values
                    .iter()
                    .zip(counts)
                    .map(|(v, n)| i128::from(*v) * i128::from(*n))
                    .sum();
                sum * worst.1 / worst.0.max(1)
            };
            if proof(&between, worst) > proof(&center, (1, 1)) {
                center = between
                    .iter()
                    .map(|v| (i128::from(*v) * worst.1 / worst.0) as i64)
                    .collect();
            }
            smooth = found;
        }
        // A quick look at every shape first; when that finds nothing, a thorough one.
        for thorough in [false, true] {
            if found {
                break;
            }
            for shape in core.iter().copied() {
                if budget.left == 0 {
                    break;
                }
                let floor = floors[shape];
                let best = if thorough {
                    knapsack.prove(shape, &out.duals, counts, floor, budget.left.min(PROOF_STEPS_MAX))
                } else {
                    knapsack.best(shape, &out.duals, counts, floor, NODES_MAX)
                };
                budget.spend(knapsack.steps());
                if best.worth > floor {
                    found |= add((shape as u32, best.pattern), &mut master, &mut out.columns);
                }
            }
        }
        if !found {
            break;
        }
    }
    out.solution = master.solution();
    out
}
