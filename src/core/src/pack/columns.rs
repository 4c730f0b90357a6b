//! Column generation: which patterns a fractional shopper would buy, and what a pod is worth to him.
//!
//! The master problem ([`super::simplex`]) buys known patterns; a knapsack per shape looks for a pattern worth more than its
//! machine at the master's prices, until there is none.

use super::{
    fit::times,
    knapsack::Knapsack,
    many,
    mix::{Mix, Pattern},
    purchase::Purchase,
    quick::Quick,
};

/// Knapsack nodes per pricing: enough to be exact for machines of a dozen pods, a good guess for larger ones.
const NODES_MAX: u32 = 400;
/// The same times the number of items.
const NODES_TIMES_ITEMS: u32 = 60_000;
/// Items up to which the last patterns are sought by dynamic programming.
const PROVED_MAX: usize = 200;
/// Items times shapes up to which every look may be a thorough one.
const SMALL: usize = 20_000;
/// Shapes after which one look at them ends if it found anything.
const PASS_MAX: usize = 150;
/// Columns found after which the master problem has its turn again, unless it has very many rows.
const COLUMNS_MIN: usize = 60;
/// Steps of one thorough pricing.
pub(super) const PROOF_STEPS_MAX: u64 = 2000;
/// A center that proves more by this part is worth another look from there.
const FAR: i128 = 10_000;
/// Looks between two opinions that found nothing and moved neither, after which there are no more of them.
const MISSES_MAX: usize = 5;

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
        self.share(percent, 100)
    }

    /// The same as a fraction.
    pub(super) fn share(&self, part: u64, of: u64) -> Self {
        let of = of.max(1);
        Self::new(self.left / of * part + self.left % of * part / of)
    }
}

/// How thoroughly to look for a pattern.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Quick,
    Search,
    Prove,
}

/// What columns are generated for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// Patterns to buy.
    Buy,
    /// What pods are worth.
    Worths,
}

/// A pattern on a shape.
pub(super) type Choice = (u32, Pattern);

/// What column generation found.
#[derive(Clone, Debug, Default)]
pub(super) struct Generated {
    /// Worth of one pod of each item at the end, nano-dollars.
    pub(super) duals: Vec<i64>,
    /// The same as it is likely to prove most: where the steps ran out, what the looks between opinions led to.
    pub(super) worths: Vec<i64>,
    pub(super) columns: Vec<Choice>,
    /// (column, how often), fractional.
    pub(super) solution: Vec<(u32, f64)>,
}

impl Generated {
    /// Shapes of the columns, ascending.
    pub(super) fn shapes(&self) -> Vec<u32> {
        let mut shapes: Vec<u32> = self.columns.iter().map(|(shape, _)| *shape).collect();
        shapes.sort_unstable();
        shapes.dedup();
        shapes
    }
}

/// What the pods of a pattern are worth.
pub(super) fn worth_of(pattern: &[(u32, u32)], values: &[i64]) -> i64 {
    let worth = |(item, n): &(u32, u32)| values[*item as usize] * i64::from(*n);
    pattern.iter().map(worth).sum()
}

/// For each item the shape on which it alone is cheapest per pod, with the number it holds and its worth.
pub(super) fn lone(mix: &Mix, counts: &[u32]) -> Vec<Option<(u32, u32, i64)>> {
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

/// The searches for good contents of a machine, from quick to exact.
#[derive(Debug)]
pub(super) struct Searches<'a> {
    pub(super) quick: Quick<'a>,
    pub(super) knapsack: Knapsack<'a>,
    pub(super) unit_prices: Vec<f64>,
}

impl<'a> Searches<'a> {
    /// `unit_prices` of the resources tell which of them are scarce.
    pub(super) fn new(mix: &'a Mix, unit_prices: &[f64]) -> Self {
        Self {
            quick: Quick::new(mix),
            knapsack: Knapsack::new(mix, unit_prices),
            unit_prices: unit_prices.to_vec(),
        }
    }

    /// The work since the last call.
    pub(super) fn steps(&mut self) -> u64 {
        self.quick.steps() + self.knapsack.steps()
    }
}

/// Shapes in the order in which they are looked at: where the best content was worth most for its price last time,
/// those never looked at before all others.
struct Queue {
    ratios: Vec<f64>,
    order: Vec<u32>,
}

impl Queue {
    fn new(n_shapes: usize) -> Self {
        Self {
            ratios: vec![f64::INFINITY; n_shapes],
            order: (0..n_shapes as u32).collect(),
        }
    }

    fn sort(&mut self) {
        let ratios = &self.ratios;
        self.order
            .sort_by(|a, b| ratios[*b as usize].total_cmp(&ratios[*a as usize]).then(a.cmp(b)));
    }
}

/// Generates columns for `counts` pods of the items, starting from known choices. `center` is a first opinion on what a pod
/// of each item is worth: the master's prices swing wildly at first, so patterns are sought between the two.
pub(super) fn generate(
    mix: &Mix,
    searches: &mut Searches<'_>,
    counts: &[u32],
    known: &[Choice],
    center: &[i64],
    aim: Aim,
    budget: &mut Budget,
) -> Generated {
    if !center.is_empty() && many::worthwhile(counts.iter().filter(|n| **n > 0).count(), budget) {
        return many::generate(mix, searches, counts, known, center, aim, budget);
    }
    let mut out = Generated::default();
    let mut purchase = Purchase::new(mix, counts, known);
    let rows = purchase.rows.len();
    let mut queue = Queue::new(mix.n_shapes());
    let small = rows * mix.n_shapes() <= SMALL;
    let columns_max = COLUMNS_MIN.max(rows / 4);
    let first_center = center;
    let mut center = center.to_vec();
    let mut smooth = !center.is_empty();
    let mut misses = 0;
    let mut trusted = false;
    // What values prove when some machine holds pods worth `worst` times its price.
    let proof = |values: &[i64], worst: (i128, i128)| -> i128 {
        let worth = |(v, n): (&i64, &u32)| i128::from(*v) * i128::from(*n);
        values.iter().zip(counts).map(worth).sum::<i128>() * worst.1 / worst.0.max(1)
    };
    loop {
        out.duals = purchase.solve(budget);
        if budget.left == 0 {
            break;
        }
        if small && !center.is_empty() && proof(&center, (1, 1)) > proof(&out.duals, (1, 1)) {
            // It would prove more than the known contents cost: a better content was overlooked.
            center.copy_from_slice(first_center);
            trusted = false;
            smooth = misses < MISSES_MAX;
        }
        let floors = purchase.floors();
        let mut found = 0;
        if smooth {
            let between: Vec<i64> = center
                .iter()
                .zip(&out.duals)
                .map(|(c, d)| c / 10 * 6 + d / 10 * 4)
                .collect();
            let mut worst = (1, 1);
            if !small {
                searches.quick.sort(&between, counts);
            }
            queue.sort();
            for (looked, shape) in queue.order.iter().map(|s| *s as usize).enumerate() {
                if budget.left == 0 || found >= columns_max || found > 0 && looked >= PASS_MAX {
                    break;
                }
                let (worth, pattern) = if small {
                    // What is worth less than its price between the two may be worth more at the master's prices.
                    let floor = floors[shape] / 10 * 9;
                    let best = searches.knapsack.best(shape, &between, counts, floor, NODES_MAX);
                    (best.worth, best.pattern)
                } else {
                    searches.quick.best(shape, counts)
                };
                budget.spend(searches.steps());
                queue.ratios[shape] = worth as f64 / floors[shape] as f64;
                if i128::from(worth) * worst.1 > worst.0 * i128::from(floors[shape]) {
                    worst = (i128::from(worth), i128::from(floors[shape]));
                }
                if worth_of(&pattern, &out.duals) > floors[shape] {
                    found += usize::from(purchase.add((shape as u32, pattern)));
                }
            }
            // The opinion that would prove most is the next center.
            let all_seen = queue.ratios.iter().all(|ratio| ratio.is_finite());
            let before = proof(&center, (1, 1));
            let moved = all_seen && found < columns_max && proof(&between, worst) > before;
            trusted |= moved;
            if moved {
                center = between
                    .iter()
                    .map(|v| (i128::from(*v) * worst.1 / worst.0) as i64)
                    .collect();
                if small && found == 0 && proof(&center, (1, 1)) - before > before / FAR {
                    continue;
                }
            }
            misses += usize::from(found == 0 && !moved);
            // Quick looks overlook too much to go by what they do not find.
            smooth = found > 0 || small && misses < MISSES_MAX;
        }
        // A quick look at every shape first; when that finds nothing, a thorough one.
        for depth in [Depth::Quick, Depth::Search, Depth::Prove] {
            if small && depth == Depth::Quick {
                continue;
            }
            let enough = if depth == Depth::Quick { columns_max / 8 } else { 0 };
            if found > enough || depth == Depth::Prove && rows > PROVED_MAX {
                break;
            }
            if depth == Depth::Quick {
                searches.quick.sort(&out.duals, counts);
            }
            queue.sort();
            let nodes_max = (NODES_TIMES_ITEMS / rows.max(1) as u32).clamp(20, NODES_MAX);
            for (looked, shape) in queue.order.iter().map(|s| *s as usize).enumerate() {
                let passed = found > enough && looked >= PASS_MAX;
                if budget.left == 0 || found >= columns_max || passed {
                    break;
                }
                let floor = floors[shape];
                let (worth, pattern) = match depth {
                    Depth::Quick => {
                        let best = searches.quick.best(shape, counts);
                        queue.ratios[shape] = best.0 as f64 / floor as f64;
                        budget.spend(searches.steps());
                        best
                    }
                    Depth::Search => {
                        let best = searches
                            .knapsack
                            .best(shape, &out.duals, counts, floor, nodes_max);
                        budget.spend(searches.knapsack.steps());
                        (best.worth, best.pattern)
                    }
                    Depth::Prove => {
                        let steps = budget.left.min(PROOF_STEPS_MAX);
                        let best = searches.knapsack.prove(shape, &out.duals, counts, floor, steps);
                        budget.spend(searches.knapsack.steps());
                        (best.worth, best.pattern)
                    }
                };
                if worth > floor {
                    found += usize::from(purchase.add((shape as u32, pattern)));
                }
            }
        }
        if found == 0 {
            // Nothing is worth more than its price any more, so these prove themselves.
            center.clone_from(&out.duals);
            trusted = true;
            break;
        }
    }
    let overlooked = small && proof(&center, (1, 1)) > proof(&out.duals, (1, 1));
    out.worths = if trusted && !overlooked {
        center
    } else {
        out.duals.clone()
    };
    (out.columns, out.solution) = purchase.outcome();
    out
}
