//! The most valuable content of one machine, exact in the resources of which pods take few different amounts.
//!
//! Devices and slots come in ones, cores in coarse units: what a machine can have left of them are a few thousand
//! *cells*, and a table over these knows the best content of each. What other resources take is paid for at prices, so
//! that the table bounds what fits; where its content fits, it is the best one.

use std::collections::BTreeMap;

use super::{
    columns::worth_of,
    fit::{take, times},
    knapsack::{Entry, Found, Knapsack},
    mix::Pattern,
};

/// Cells of a table.
const CELLS_MAX: usize = 1 << 14;
/// The same of those over two resources of many amounts, and of the first of the two.
const TWO_MAX: [usize; 2] = [1 << 17, 1 << 20];
const FIRST_MAX: usize = 1 << 11;
/// Parts of the price of the second that are charged.
const CHARGED: [f64; 4] = [1.0, 0.6, 0.3, 0.0];
/// Amounts of a resource, and cells of the resources of few amounts together, that a table may have.
const FEW: usize = 17;
const FEW_CELLS_MAX: usize = 128;
/// Looks in a unit of work, see [`Knapsack::work`].
const LOOKS_PER_WORK: usize = 5;

/// A resource of which the machine holds `cells - 1` units. Pods take at least as much as their whole units.
struct Axis {
    resource: usize,
    unit: i64,
    cells: usize,
    /// Distance in the table between one unit more and one less.
    stride: usize,
}

/// A bound, and the content that no table rules out: its worth and `excess` make the bound.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubt {
    pub(super) upper: i64,
    pub(super) content: Pattern,
    pub(super) excess: i64,
    /// Whether it really fits.
    pub(super) fits: bool,
}

/// Pods that come together.
struct Move {
    units: Vec<usize>,
    worth: f64,
    entry: usize,
    n: u32,
    once: bool,
}

impl Axis {
    fn units(&self, request: &[i64]) -> usize {
        (request[self.resource] / self.unit) as usize
    }
}

fn greatest_common_divisor(a: i64, b: i64) -> i64 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

impl Knapsack<'_> {
    /// A bound on what the listed entries are worth on the shape, and the content that reaches it, if one does. None where
    /// the table would take more steps.
    pub(super) fn by_cells(
        &mut self,
        shape: usize,
        values: &[i64],
        counts: &[u32],
        steps_max: u64,
    ) -> Option<Found> {
        let mut prices = self.prices(shape);
        let axes = self.axes(shape, &prices, &[CELLS_MAX]);
        axes.iter().for_each(|axis| prices[axis.resource] = 0.0);
        let (upper, content) = self.table(shape, &axes, &prices, steps_max)?;
        let mut found = Found {
            upper,
            ..Found::default()
        };
        if self.fits(shape, &content, counts) {
            found.worth = worth_of(&content, values);
            found.pattern = content;
        }
        Some(found)
    }

    /// A bound over two resources of many amounts, and what speaks against one no higher than the floor. `upper` is a bound
    /// without tables, the entries being listed as it left them.
    pub(super) fn by_two(
        &mut self,
        shape: usize,
        values: &[i64],
        counts: &[u32],
        floor: i64,
        steps_max: u64,
    ) -> Doubt {
        let full = self.prices(shape);
        let cost = |amounts: &[i64]| -> f64 { amounts.iter().zip(&full).map(|(a, p)| *a as f64 * p).sum() };
        let mix = self.mix;
        let surplus = |e: &Entry| e.worth as f64 - cost(mix.request(e.item as usize));
        let paying = self
            .entries
            .iter()
            .map(|e| surplus(e).max(0.0) * f64::from(e.cap));
        let upper = cost(mix.room(shape)) + paying.sum::<f64>();
        // A content with a pod that costs more than this beyond its worth is worth no more than the floor.
        let slack = (upper - floor as f64) * (1.0 + 1e-6) + 1.0;
        self.entries.retain(|e| surplus(e) >= -slack);
        let mut least = Doubt {
            upper: i64::MAX,
            ..Doubt::default()
        };
        // The finer table is made for the charge that proves most with the coarser one.
        let mut charges = CHARGED.to_vec();
        for cells_max in TWO_MAX {
            let axes = self.axes(shape, &full, &[FIRST_MAX, cells_max]);
            for charged in std::mem::take(&mut charges) {
                let mut prices = full.clone();
                axes.iter().for_each(|axis| prices[axis.resource] = 0.0);
                if let Some(second) = axes.last() {
                    prices[second.resource] = full[second.resource] * charged;
                }
                let Some((upper, content)) = self.table(shape, &axes, &prices, steps_max) else {
                    return least;
                };
                if upper >= least.upper {
                    break;
                }
                charges = vec![charged];
                least = Doubt {
                    upper: upper.max(floor),
                    excess: upper - worth_of(&content, values),
                    fits: self.fits(shape, &content, counts),
                    content,
                };
                if least.upper <= floor {
                    return least;
                }
            }
        }
        least
    }

    /// A bound by a table over the axes, with what `prices` say for what else there is, rounding included; and the content
    /// that the table has in mind, which may not fit.
    fn table(
        &mut self,
        shape: usize,
        axes: &[Axis],
        prices: &[f64],
        steps_max: u64,
    ) -> Option<(i64, Pattern)> {
        let mix = self.mix;
        let cost = |amounts: &[i64]| -> f64 { amounts.iter().zip(prices).map(|(a, p)| *a as f64 * p).sum() };
        // Rounded so that the bound errs on the high side.
        let mut base = cost(mix.room(shape)) * (1.0 + 1e-12) + 1.0;
        let mut taken = vec![0_u32; self.entries.len()];
        // Of the entries that take the same units, and come as often as fit, only the best is of interest.
        let mut kinds: BTreeMap<Vec<usize>, (f64, usize)> = BTreeMap::new();
        let mut few: Vec<Move> = Vec::new();
        for (at, entry) in self.entries.iter().enumerate() {
            let request = mix.request(entry.item as usize);
            let rest = entry.worth as f64 - cost(request) * (1.0 - 1e-12);
            let units: Vec<usize> = axes.iter().map(|axis| axis.units(request)).collect();
            if rest <= 0.0 {
                continue;
            }
            let most = axes.iter().zip(&units).filter(|(_, n)| **n > 0);
            let most = most.map(|(axis, n)| (axis.cells - 1) / n).min();
            let Some(most) = most else {
                taken[at] = times(mix.room(shape), request).min(entry.cap);
                base += rest * f64::from(taken[at]);
                continue;
            };
            if self.closely && most > entry.cap as usize {
                // One, two, four and so on of it, each once.
                let (mut left, mut n) = (entry.cap, 1);
                while left > 0 {
                    let n_now = n.min(left);
                    few.push(Move {
                        units: units.iter().map(|u| u * n_now as usize).collect(),
                        worth: rest * f64::from(n_now),
                        entry: at,
                        n: n_now,
                        once: true,
                    });
                    left -= n_now;
                    n *= 2;
                }
            } else {
                let kind = kinds.entry(units).or_insert((rest, at));
                if rest > kind.0 {
                    *kind = (rest, at);
                }
            }
        }
        // First what comes in any number: only that can stand for others in any number.
        let plenty = kinds.into_iter().map(|(units, (worth, entry))| Move {
            units,
            worth,
            entry,
            n: 1,
            once: false,
        });
        let moves: Vec<Move> = plenty.chain(few).collect();
        let n_cells = axes.iter().map(|axis| axis.cells).product::<usize>();
        let work = |moves: usize| (n_cells * moves / LOOKS_PER_WORK + self.entries.len()) as u64;
        if work(moves.len()) > steps_max.saturating_mul(1000) {
            return None;
        }
        let mut table = vec![0.0_f64; n_cells];
        let mut last = vec![u32::MAX; n_cells];
        let mut spared = 0;
        for (at, it) in moves.iter().enumerate() {
            let cell = axes
                .iter()
                .zip(&it.units)
                .map(|(axis, n)| n * axis.stride)
                .sum::<usize>();
            // What others can stand for need not be entered.
            if self.closely && !it.once && table.get(cell).is_none_or(|known| *known >= it.worth) {
                spared += 1;
                continue;
            }
            enter(axes, it, at as u32, &mut table, &mut last);
        }
        self.work += work(moves.len() - spared);
        let mut cell = n_cells - 1;
        let upper = ((table[cell] + base) * (1.0 + 1e-9)) as i64 + 1;
        while table[cell] > 0.0 {
            let it = &moves[last[cell] as usize];
            cell -= axes
                .iter()
                .zip(&it.units)
                .map(|(axis, n)| n * axis.stride)
                .sum::<usize>();
            taken[it.entry] += it.n;
        }
        let taken = self.entries.iter().zip(&taken).filter(|(_, n)| **n > 0);
        let mut content: Pattern = taken.map(|(entry, n)| (entry.item, *n)).collect();
        content.sort_unstable();
        Some((upper, content))
    }

    fn fits(&self, shape: usize, content: &Pattern, counts: &[u32]) -> bool {
        let mix = self.mix;
        let mut room = mix.room(shape).to_vec();
        for (item, n) in content {
            take(&mut room, mix.request(*item as usize), *n);
        }
        let few = |(item, n): &(u32, u32)| *n <= mix.caps[*item as usize].min(counts[*item as usize]);
        room.iter().all(|left| *left >= 0) && content.iter().all(few)
    }

    /// The resources of few amounts, and of the others the one or two that cost most, in units coarse enough.
    fn axes(&self, shape: usize, prices: &[f64], cells_max: &[usize]) -> Vec<Axis> {
        let mix = self.mix;
        let mut all: Vec<Axis> = Vec::new();
        for resource in self.active(shape) {
            let amounts = self
                .entries
                .iter()
                .map(|e| mix.request(e.item as usize)[resource]);
            let unit = amounts.fold(0, greatest_common_divisor).max(1);
            let cells = usize::try_from(mix.room(shape)[resource] / unit).unwrap_or(usize::MAX);
            all.push(Axis {
                resource,
                unit,
                cells: cells.saturating_add(1),
                stride: 0,
            });
        }
        all.sort_by_key(|axis| (axis.cells, axis.resource));
        let (mut axes, mut n_cells, mut many) = (Vec::new(), 1, Vec::new());
        for axis in all {
            if axis.cells <= FEW && n_cells * axis.cells <= FEW_CELLS_MAX {
                n_cells *= axis.cells;
                axes.push(axis);
            } else {
                many.push(axis);
            }
        }
        let cost = |axis: &Axis| prices[axis.resource] * mix.room(shape)[axis.resource] as f64;
        many.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
        let mut many = many.split_off(many.len().saturating_sub(cells_max.len()));
        // The one of fewer amounts first, so that it may keep them all.
        many.sort_by_key(|axis| axis.cells);
        for (mut dearest, cells_max) in many.into_iter().zip(cells_max) {
            let cells_max = (cells_max / n_cells).max(2);
            if dearest.cells > cells_max {
                let room = mix.room(shape)[dearest.resource];
                dearest.unit = room / (cells_max as i64 - 1) + 1;
                dearest.cells = (room / dearest.unit) as usize + 1;
            }
            n_cells *= dearest.cells;
            axes.push(dearest);
        }
        // The one with most cells is next to itself in the table.
        let mut stride = 1;
        for axis in axes.iter_mut().rev() {
            axis.stride = stride;
            stride *= axis.cells;
        }
        axes
    }
}

/// Enters a kind of pod into the table, each cell from those before it: from those that have it already where it may come
/// several times.
fn enter(axes: &[Axis], it: &Move, at: u32, table: &mut [f64], last: &mut [u32]) {
    let (Some((inner, outer)), Some((n_inner, n_outer))) = (axes.split_last(), it.units.split_last()) else {
        return;
    };
    if axes.iter().zip(&it.units).any(|(axis, n)| *n >= axis.cells) {
        return;
    }
    let back: usize = axes.iter().zip(&it.units).map(|(axis, n)| n * axis.stride).sum();
    let mut rows = Vec::new();
    let mut counter = n_outer.to_vec();
    loop {
        let counts = outer.iter().zip(&counter);
        rows.push(counts.map(|(axis, n)| n * axis.stride).sum::<usize>());
        // The next row, as an odometer counts.
        let Some(turn) = (0..counter.len())
            .rev()
            .find(|i| counter[*i] + 1 < outer[*i].cells)
        else {
            break;
        };
        counter[turn] += 1;
        counter[turn + 1..].copy_from_slice(&n_outer[turn + 1..]);
    }
    if it.once {
        rows.reverse();
    }
    for row in rows {
        let (from, to) = (row + n_inner, row + inner.cells);
        if back >= inner.cells {
            // From another row, whatever the order.
            let (before, rest) = table.split_at_mut(from);
            let source = &before[from - back..to - back];
            for ((cell, last), source) in rest.iter_mut().zip(&mut last[from..to]).zip(source) {
                let more = source + it.worth;
                let better = more > *cell;
                *cell = if better { more } else { *cell };
                *last = if better { at } else { *last };
            }
            continue;
        }
        let mut improve = |cell: usize| {
            let more = table[cell - back] + it.worth;
            if more > table[cell] {
                table[cell] = more;
                last[cell] = at;
            }
        };
        if it.once {
            (from..to).rev().for_each(&mut improve);
        } else {
            (from..to).for_each(&mut improve);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{pack::mix::Mix, random::draws};

    /// Tries everything.
    fn exhaustive(mix: &Mix, values: &[i64], from: usize, room: &[i64]) -> i64 {
        if from == mix.n_items() {
            return 0;
        }
        let worth = |n: u32| {
            let mut left = room.to_vec();
            take(&mut left, mix.request(from), n);
            values[from] * i64::from(n) + exhaustive(mix, values, from + 1, &left)
        };
        let most = times(room, mix.request(from)).min(mix.caps[from]);
        (0..=most).map(worth).max().unwrap_or(0)
    }

    #[test]
    fn no_content_is_worth_more_than_the_table_says() {
        let mut next = draws(11);
        let mut reached = 0;
        for _ in 0..500 {
            let n_items = 1 + next(4) as usize;
            let counts: Vec<u32> = (0..n_items).map(|_| 1 + next(4) as u32).collect();
            let mix = Mix {
                n_res: 3,
                // The second comes in more amounts than a table has cells.
                requests: (0..n_items)
                    .flat_map(|_| [next(9) * 50, 1 + next(1 << 20), next(2)])
                    .collect(),
                caps: counts.clone(),
                rooms: vec![next(40) * 50, next(4 << 20), next(5)],
                prices: vec![1],
                takes: vec![(0..n_items as u32).collect()],
                counts,
                ..Mix::default()
            };
            let values: Vec<i64> = (0..n_items).map(|_| 1 + next(1000)).collect();
            let best = exhaustive(&mix, &values, 0, mix.room(0));
            let mut knapsack = Knapsack::new(&mix, &[1.0, 1e-3, 1.0]);
            if knapsack.tighten(0, &values, &mix.counts, 0, 4) == 0 {
                continue;
            }
            let found = knapsack.by_cells(0, &values, &mix.counts, 1000).unwrap();
            assert!(
                found.upper >= best,
                "{found:?} but {best} with {mix:?} at {values:?}"
            );
            assert!(
                found.worth <= best,
                "{found:?} but {best} with {mix:?} at {values:?}"
            );
            knapsack.closely = true;
            let two = knapsack.by_two(0, &values, &mix.counts, 0, 100_000).upper;
            assert!(two >= best, "{two} but {best} with {mix:?} at {values:?}");
            reached += usize::from(found.worth == best);
            let proven = knapsack.prove(0, &values, &mix.counts, 0, 1000);
            assert_eq!(proven.worth, best, "{mix:?} at {values:?}");
        }
        assert!(
            reached > 200,
            "the table's content was the best one only {reached} times"
        );
    }
}
