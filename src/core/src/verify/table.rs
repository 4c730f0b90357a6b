//! A bound on what fits, exact in the capacities that come in few sizes.
//!
//! A table over what is left of those capacities knows the greatest worth for each; what the others take is paid for at
//! multipliers. A capacity of many sizes is divided into coarser parts, of which every item takes at least its whole ones;
//! a second one may also be paid for in part, so that what rounding takes away is not for nothing.

use std::cmp::Reverse;

use super::knapsack::{Item, SCALE};

/// Cells of the table with one capacity of many sizes, and of the first of two.
const CELLS_MAX: usize = 1 << 14;
const FIRST_MAX: usize = 1 << 11;
/// Tenths of the second one's multiplier that are tried.
const CHARGED: [i128; 4] = [10, 6, 3, 0];
/// Sizes of a capacity, and cells of capacities of few sizes together.
const FEW: i64 = 17;
const FEW_CELLS_MAX: usize = 128;
/// The table counts in parts of a unit of worth, rounded up.
const PARTS: i128 = 1 << 8;

/// (capacity, size of a part of it, parts there are).
type Axis = (usize, i64, usize);

/// An upper bound on the worth of every filling, rounded down; None when a number is too large. `lambda` is times
/// [`SCALE`].
pub(super) fn bound(items: &[Item], room: &[i64], lambda: &[i128]) -> Option<i128> {
    let axes = axes(items, room, lambda, &[CELLS_MAX]);
    let mut paid = lambda.to_vec();
    axes.iter().for_each(|(r, ..)| paid[*r] = 0);
    over(items, room, &axes, &paid)
}

/// Whether tables of so many cells over two capacities of many sizes show that no filling is worth more than the limit.
pub(super) fn rules_out(
    items: &[Item],
    room: &[i64],
    lambda: &[i128],
    limit: i128,
    cells_max: usize,
) -> Option<bool> {
    let priced =
        |amounts: &[i64]| -> i128 { amounts.iter().zip(lambda).map(|(a, l)| l * i128::from(*a)).sum() };
    let surplus = |item: &Item| i128::from(item.worth) * SCALE - priced(&item.size);
    let paying = items
        .iter()
        .map(|item| surplus(item).max(0) * i128::from(item.most));
    let all = priced(room) + paying.sum::<i128>();
    // With one of the others in it, a filling is worth no more than the limit: it costs too much for what it is worth.
    let relevant = items
        .iter()
        .filter(|item| all + surplus(item).min(0) >= (limit + 1) * SCALE);
    let items: Vec<Item> = relevant.cloned().collect();
    let mut axes = axes(&items, room, lambda, &[FIRST_MAX, cells_max]);
    let second = axes.last().map(|(second, ..)| *second);
    axes.sort_by_key(|(_, _, parts)| Reverse(*parts));
    for tenths in CHARGED {
        let mut paid = lambda.to_vec();
        axes.iter().for_each(|(r, ..)| paid[*r] = 0);
        if let Some(second) = second {
            paid[second] = lambda[second] * tenths / 10;
        }
        if over(&items, room, &axes, &paid)? <= limit {
            return Some(true);
        }
    }
    Some(false)
}

/// The bound of a table over the axes when every item pays what `paid` says for all that it takes.
fn over(items: &[Item], room: &[i64], axes: &[Axis], paid: &[i128]) -> Option<i128> {
    let priced =
        |amounts: &[i64]| -> i128 { amounts.iter().zip(paid).map(|(a, l)| l * i128::from(*a)).sum() };
    let part = SCALE / PARTS;
    let mut base = priced(room);
    let n_cells: usize = axes.iter().map(|(_, _, parts)| parts + 1).product();
    let mut best = vec![0_i64; n_cells];
    // (parts of each axis, worth, most of it)
    let mut plenty: Vec<(Vec<usize>, i64)> = Vec::new();
    let mut few: Vec<(Vec<usize>, i64, usize)> = Vec::new();
    for item in items {
        let surplus = i128::from(item.worth) * SCALE - priced(&item.size);
        if surplus <= 0 {
            continue;
        }
        let takes: Vec<usize> = axes
            .iter()
            .map(|(r, size, _)| (item.size[*r] / size) as usize)
            .collect();
        let fitting = axes.iter().zip(&takes).filter(|(_, n)| **n > 0);
        let Some(fitting) = fitting.map(|((_, _, parts), n)| parts / n).min() else {
            base += surplus * i128::from(item.most);
            continue;
        };
        let worth = i64::try_from(surplus / part + 1)
            .ok()
            .filter(|worth| *worth < 1 << 48)?;
        if fitting == 0 {
            continue;
        }
        if item.most >= fitting as i64 {
            plenty.push((takes, worth));
        } else {
            few.push((takes, worth, item.most as usize));
        }
    }
    // Small ones first: what they can stand for, in any number, need not be entered.
    plenty.sort_by_key(|(takes, worth)| (takes.iter().sum::<usize>(), *worth));
    for (takes, worth) in plenty {
        if best[cell(axes, &takes)] < worth {
            enter(axes, &mut best, &takes, worth, true);
        }
    }
    for (takes, worth, most) in few {
        // One, two, four and so on of it, until as many as there are.
        let (mut left, mut times) = (most, 1);
        while left > 0 {
            let now = times.min(left);
            let takes: Vec<usize> = takes.iter().map(|n| n * now).collect();
            enter(axes, &mut best, &takes, worth * now as i64, false);
            left -= now;
            times *= 2;
        }
    }
    let most = i128::from(best.last().copied().unwrap_or(0));
    Some((most * part + base) / SCALE)
}

/// The cell that is so many parts of each axis large.
fn cell(axes: &[Axis], parts: &[usize]) -> usize {
    let each = axes.iter().zip(parts).rev();
    each.fold(0, |cell, ((_, _, most), n)| cell * (most + 1) + n)
}

/// Improves every cell by what takes so many parts of each axis: by any number of it, or by one.
fn enter(axes: &[Axis], best: &mut [i64], takes: &[usize], worth: i64, again: bool) {
    let Some(((_, _, parts), outer)) = axes.split_first() else {
        return;
    };
    let width = parts + 1;
    let back = cell(axes, takes);
    let holds = |row: usize| {
        let mut row = row;
        outer.iter().zip(&takes[1..]).all(|((_, _, most), n)| {
            let own = row % (most + 1);
            row /= most + 1;
            own >= *n
        })
    };
    let n_rows = best.len() / width;
    let rows = (0..n_rows).filter(|row| takes[0] < width && holds(*row));
    // Upwards, what a cell is improved by may be in the one before it already.
    let rows: Vec<usize> = if again {
        rows.collect()
    } else {
        rows.rev().collect()
    };
    for row in rows {
        let (from, to) = (row * width + takes[0], (row + 1) * width);
        if back >= width {
            // From another row, whatever the order.
            let (before, rest) = best.split_at_mut(from);
            for (cell, source) in rest.iter_mut().zip(&before[from - back..to - back]) {
                *cell = (*cell).max(source + worth);
            }
            continue;
        }
        let mut improve = |cell: usize| best[cell] = best[cell].max(best[cell - back] + worth);
        if again {
            (from..to).for_each(&mut improve);
        } else {
            (from..to).rev().for_each(&mut improve);
        }
    }
}

fn axes(items: &[Item], room: &[i64], lambda: &[i128], cells_max: &[usize]) -> Vec<Axis> {
    let mut few: Vec<Axis> = Vec::new();
    let mut many: Vec<Axis> = Vec::new();
    let mut n_cells = 1;
    for (r, amount) in room.iter().enumerate() {
        let size = items.iter().map(|item| item.size[r]).fold(0, common);
        if size == 0 {
            continue;
        }
        let parts = amount / size;
        if parts < FEW && n_cells * (parts as usize + 1) <= FEW_CELLS_MAX {
            n_cells *= parts as usize + 1;
            few.push((r, size, parts as usize));
        } else {
            many.push((r, size, 0));
        }
    }
    many.sort_by_key(|(r, ..)| lambda[*r] * i128::from(room[*r]));
    let mut many = many.split_off(many.len().saturating_sub(cells_max.len()));
    // The one of fewer sizes first, so that it may keep them all.
    many.sort_by_key(|(r, size, _)| room[*r] / size);
    for ((r, size, _), cells_max) in many.into_iter().zip(cells_max) {
        let size = size.max(room[r] / ((cells_max / n_cells).max(2) - 1) as i64 + 1);
        let parts = (room[r] / size) as usize;
        n_cells *= parts + 1;
        few.push((r, size, parts));
    }
    few
}

fn common(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { common(b, a % b) }
}
