//! A revised simplex for the master problem: buy patterns so that every item is covered, within the pots.
//!
//! Rows are items (covered at least) and pots (used at most). The inverse of the basis is kept dense: there are some
//! hundred rows. All arithmetic is in a fixed order, so the result does not depend on anything but the input.

/// Smaller numbers are noise.
const TINY: f64 = 1e-9;
/// How much less than nothing may be left of what a pivot uses up.
const SLACK: f64 = 1e-6;
const SMALLEST_PIVOT: f64 = 1e-6;
/// Pivots after which the inverse is computed anew, because errors add up.
const REBUILT_AFTER: u64 = 1000;
const DRIFT_MAX: f64 = 1e-3;
/// Columns beyond which only some of them are looked at for most pivots, and how many.
const COLUMNS_MANY: usize = 4000;
const CANDIDATES_MAX: usize = 300;
/// They are chosen anew when the best of them promises less than this part of what the best one did.
const PROMISE: f64 = 0.3;
/// Entries of the inverse below this are what rounding left of a zero.
const NOTHING: f64 = 1e-13;

/// A column: what a machine with this content costs and does.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) cost: f64,
    /// (row, amount); ascending rows.
    pub(super) entries: Vec<(u32, f64)>,
}

impl Column {
    /// About how far its amounts reach.
    fn size(&self) -> f64 {
        let squares = self.entries.iter().map(|(_, a)| a * a);
        (1.0 + squares.sum::<f64>()).sqrt()
    }
}

/// What stands in a basis position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Basic {
    Column(u32),
    /// Covers more than wanted (or uses less than there is).
    Surplus(u32),
    /// Leaves one pod of the row's item out, at a deterrent cost.
    Shortage(u32),
}

#[derive(Debug)]
pub(super) struct Master {
    pub(super) n_rows: usize,
    columns: Vec<Column>,
    basis: Vec<Basic>,
    in_basis: Vec<bool>,
    /// Row-major inverse of the basis.
    inverse: Vec<f64>,
    amounts: Vec<f64>,
    wanted: Vec<f64>,
    shortage_costs: Vec<f64>,
    pivots: u64,
    /// Columns to look at first, when there are many, and what the best one promised when they were chosen.
    candidates: Vec<u32>,
    promise: f64,
    /// Work done, in units of roughly a nanosecond; see [`Master::steps`].
    work: u64,
}

impl Master {
    /// `wanted` per row; a pot with amount `a` is a row that wants `-a` (its users have negative entries) and has no
    /// shortage. `shortage_costs` deter from leaving pods out.
    pub(super) fn new(wanted: Vec<f64>, shortage_costs: Vec<f64>) -> Self {
        let n = wanted.len();
        let mut inverse = vec![0.0; n * n];
        let mut basis = Vec::with_capacity(n);
        let mut amounts = Vec::with_capacity(n);
        for (row, want) in wanted.iter().enumerate() {
            let shortage = *want >= 0.0 && shortage_costs[row] > 0.0;
            inverse[row * n + row] = if shortage { 1.0 } else { -1.0 };
            basis.push(if shortage {
                Basic::Shortage(row as u32)
            } else {
                Basic::Surplus(row as u32)
            });
            amounts.push(want.abs());
        }
        Self {
            n_rows: n,
            columns: Vec::new(),
            basis,
            in_basis: Vec::new(),
            inverse,
            amounts,
            wanted,
            shortage_costs,
            pivots: 0,
            candidates: Vec::new(),
            promise: 0.0,
            work: 0,
        }
    }

    /// The work since the last call, in steps of roughly ten microseconds.
    pub(super) fn steps(&mut self) -> u64 {
        let steps = self.work / 10_000;
        self.work %= 10_000;
        steps
    }

    pub(super) fn add(&mut self, column: Column) -> u32 {
        self.columns.push(column);
        self.in_basis.push(false);
        self.columns.len() as u32 - 1
    }

    /// Gives a column another cost.
    pub(super) fn reprice(&mut self, column: u32, cost: f64) {
        self.columns[column as usize].cost = cost;
    }

    fn cost(&self, basic: Basic) -> f64 {
        match basic {
            Basic::Column(c) => self.columns[c as usize].cost,
            Basic::Surplus(_) => 0.0,
            Basic::Shortage(row) => self.shortage_costs[row as usize],
        }
    }

    /// The worth of one more unit of each row.
    pub(super) fn duals(&self) -> Vec<f64> {
        let n = self.n_rows;
        let mut duals = vec![0.0; n];
        for (at, basic) in self.basis.iter().enumerate() {
            let cost = self.cost(*basic);
            if cost != 0.0 {
                let row = &self.inverse[at * n..][..n];
                duals.iter_mut().zip(row).for_each(|(d, x)| *d += cost * x);
            }
        }
        duals
    }

    /// How often each column is bought.
    pub(super) fn solution(&self) -> Vec<(u32, f64)> {
        let mut all: Vec<(u32, f64)> = self
            .basis
            .iter()
            .zip(&self.amounts)
            .filter_map(|(basic, amount)| match basic {
                Basic::Column(c) if *amount > TINY => Some((*c, *amount)),
                _ => None,
            })
            .collect();
        all.sort_unstable_by_key(|(c, _)| *c);
        all
    }

    /// The inverse times a column.
    fn direction(&self, entering: Basic) -> Vec<f64> {
        let n = self.n_rows;
        let mut out = vec![0.0; n];
        for (row, amount) in self.entries(entering) {
            for (at, x) in out.iter_mut().enumerate() {
                *x += self.inverse[at * n + row as usize] * amount;
            }
        }
        out
    }

    /// Pivots until no known column helps, or the steps are used up.
    pub(super) fn solve(&mut self, steps_max: u64) {
        let stop = self.work.saturating_add(steps_max.saturating_mul(10_000));
        if self.drift() > DRIFT_MAX {
            self.rebuild();
        }
        let mut duals = self.duals();
        let scale = self.shortage_costs.iter().fold(1.0, |m: f64, c| m.max(*c));
        self.candidates.clear();
        while self.work < stop {
            let Some((reduced, entering)) = self.entering(&duals, scale) else {
                return;
            };
            let direction = self.direction(entering);
            let Some(at) = self.leaving(&direction) else {
                return;
            };
            let ratio = self.amounts[at].max(0.0) / direction[at];
            let changed = self.pivot(entering, at, ratio, &direction);
            self.pivots += 1;
            if self.pivots.is_multiple_of(REBUILT_AFTER) {
                self.rebuild();
                duals = self.duals();
                continue;
            }
            let row = &self.inverse[at * self.n_rows..][..self.n_rows];
            for col in changed {
                duals[col as usize] += reduced * row[col as usize];
            }
        }
    }

    /// The position that runs out first. Of those that do so at about the same time the one with the largest pivot: a
    /// small one would spoil the inverse.
    fn leaving(&self, direction: &[f64]) -> Option<usize> {
        let rows = || direction.iter().enumerate().filter(|(_, d)| **d > SMALLEST_PIVOT);
        let most = rows()
            .map(|(at, d)| (self.amounts[at].max(0.0) + SLACK) / d)
            .fold(f64::INFINITY, f64::min);
        let mut best: Option<(f64, usize)> = None;
        for (at, d) in rows() {
            if self.amounts[at].max(0.0) / d <= most && best.is_none_or(|(pivot, _)| *d > pivot) {
                best = Some((*d, at));
            }
        }
        best.map(|(_, at)| at)
    }

    /// By how much what is bought misses what is wanted.
    fn drift(&self) -> f64 {
        let mut missing = self.wanted.clone();
        for (basic, amount) in self.basis.iter().zip(&self.amounts) {
            for (row, a) in self.entries(*basic) {
                missing[row as usize] -= a * amount;
            }
        }
        missing.iter().fold(0.0, |most, m| most.max(m.abs()))
    }

    /// Computes the inverse and the amounts anew from the columns in the basis.
    fn rebuild(&mut self) {
        let n = self.n_rows;
        let fresh = Self::new(self.wanted.clone(), self.shortage_costs.clone());
        let columns: Vec<Basic> = std::mem::replace(&mut self.basis, fresh.basis);
        (self.inverse, self.amounts) = (fresh.inverse, fresh.amounts);
        self.in_basis.fill(false);
        let mut settled = vec![false; n];
        for basic in columns {
            if let Some(at) = self.basis.iter().position(|b| *b == basic) {
                settled[at] = true;
                continue;
            }
            let direction = self.direction(basic);
            let rows = (0..n).filter(|at| !settled[*at]);
            let at = rows.max_by(|a, b| direction[*a].abs().total_cmp(&direction[*b].abs()).then(b.cmp(a)));
            // A column that the others make up for stays out.
            if let Some(at) = at.filter(|at| direction[*at].abs() > SMALLEST_PIVOT) {
                let ratio = self.amounts[at] / direction[at];
                self.pivot(basic, at, ratio, &direction);
                settled[at] = true;
            }
        }
    }

    fn entries(&self, basic: Basic) -> Vec<(u32, f64)> {
        match basic {
            Basic::Column(c) => self.columns[c as usize].entries.clone(),
            Basic::Surplus(row) => vec![(row, -1.0)],
            Basic::Shortage(row) => vec![(row, 1.0)],
        }
    }

    /// The column with the most negative reduced cost, and that cost; where there are many columns, a good one for its size.
    fn entering(&mut self, duals: &[f64], scale: f64) -> Option<(f64, Basic)> {
        self.work += 4 * self.n_rows as u64;
        let least = -1e-10 * scale;
        let surplus = (0_u32..).zip(duals).filter(|(_, dual)| **dual < least);
        let surplus = surplus.map(|(row, dual)| (*dual, Basic::Surplus(row)));
        let surplus = surplus.min_by(|a, b| a.0.total_cmp(&b.0));
        if self.columns.len() <= COLUMNS_MANY {
            self.work += 4 * self.columns.len() as u64;
            let all = 0..self.columns.len() as u32;
            let best = all.filter_map(|column| Some((self.reduced(column, duals, least)?, column)));
            let best = best.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let best = best.map(|(reduced, column)| (reduced, Basic::Column(column)));
            return best.into_iter().chain(surplus).min_by(|a, b| a.0.total_cmp(&b.0));
        }
        if surplus.is_some() {
            return surplus;
        }
        let promises = |columns: &mut dyn Iterator<Item = u32>| -> Vec<(f64, f64, u32)> {
            let promise = |column| {
                let reduced = self.reduced(column, duals, least)?;
                Some((reduced / self.columns[column as usize].size(), reduced, column))
            };
            columns.filter_map(promise).collect()
        };
        let order = |a: &(f64, f64, u32), b: &(f64, f64, u32)| a.0.total_cmp(&b.0).then(a.2.cmp(&b.2));
        let known = promises(&mut self.candidates.iter().copied());
        let mut work = 8 * self.candidates.len();
        let mut best = known.into_iter().min_by(order);
        if best.is_none_or(|best| best.0 > self.promise * PROMISE) {
            let mut all = promises(&mut (0..self.columns.len() as u32));
            work += 8 * self.columns.len();
            if all.len() > CANDIDATES_MAX {
                all.select_nth_unstable_by(CANDIDATES_MAX, order);
                all.truncate(CANDIDATES_MAX);
            }
            best = all.iter().copied().min_by(order);
            self.promise = best.map_or(0.0, |best| best.0);
            self.candidates = all.into_iter().map(|it| it.2).collect();
        }
        self.work += work as u64;
        best.map(|(_, reduced, column)| (reduced, Basic::Column(column)))
    }

    /// The reduced cost of a column that may come into the basis, if that is of use.
    fn reduced(&self, at: u32, duals: &[f64], least: f64) -> Option<f64> {
        let column = &self.columns[at as usize];
        if self.in_basis[at as usize] {
            return None;
        }
        let worth: f64 = column
            .entries
            .iter()
            .map(|(row, a)| duals[*row as usize] * a)
            .sum();
        let reduced = column.cost - worth;
        (reduced < least && reduced < -1e-9 * column.cost).then_some(reduced)
    }

    /// Puts a column into the basis; returns the entries of the new row of the inverse that are not zero. Patterns
    /// hold few kinds of pods, so that these are few too.
    fn pivot(&mut self, entering: Basic, at: usize, ratio: f64, direction: &[f64]) -> Vec<u32> {
        let n = self.n_rows;
        for (row, d) in direction.iter().enumerate() {
            if row != at {
                self.amounts[row] -= ratio * d;
                if self.amounts[row].abs() < TINY {
                    self.amounts[row] = 0.0;
                }
            }
        }
        self.amounts[at] = ratio;
        let pivot = direction[at];
        let (before, rest) = self.inverse.split_at_mut(at * n);
        let (pivot_row, after) = rest.split_at_mut(n);
        let mut filled: Vec<u32> = Vec::new();
        for (col, x) in pivot_row.iter_mut().enumerate() {
            *x /= pivot;
            if x.abs() < NOTHING {
                *x = 0.0;
            } else {
                filled.push(col as u32);
            }
        }
        let sparse = filled.len() < n / 4;
        let mut touched = 0;
        let rows = before.chunks_exact_mut(n).chain(after.chunks_exact_mut(n));
        let factors = direction[..at].iter().chain(&direction[at + 1..]);
        for (row, factor) in rows.zip(factors) {
            if factor.abs() < NOTHING {
                continue;
            }
            touched += 1;
            if sparse {
                for col in &filled {
                    row[*col as usize] -= factor * pivot_row[*col as usize];
                }
            } else {
                row.iter_mut()
                    .zip(&*pivot_row)
                    .for_each(|(x, p)| *x -= factor * p);
            }
        }
        self.work += (touched * if sparse { filled.len() } else { n / 4 } + 4 * n) as u64;
        if let Basic::Column(old) = self.basis[at] {
            self.in_basis[old as usize] = false;
        }
        if let Basic::Column(new) = entering {
            self.in_basis[new as usize] = true;
        }
        self.basis[at] = entering;
        filled
    }
}
