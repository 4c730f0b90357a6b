//! A bound on what fits, exact in the capacities that come in few sizes.
//!
//! A table over what is left of those capacities knows the greatest worth for each; what the others take is paid for at
//! multipliers. A capacity of many sizes is divided into coarser parts, of which every item takes at least its whole ones.

use super::knapsack::{Item, SCALE};

/// Cells of the table.
const CELLS_MAX: usize = 1 << 14;
/// Sizes of a capacity, and cells of capacities of few sizes together.
const FEW: i64 = 17;
const FEW_CELLS_MAX: usize = 128;
/// The table counts in parts of a unit of worth, rounded up.
const PARTS: i128 = 1 << 8;

/// (capacity, size of a part of it, parts there are).
type Axis = (usize, i64, usize);

/// An upper bound on the worth of every filling, rounded down; None when a number is too large. `lambda` is times
/// [`SCALE`]. How many there are of an item is not looked at where the table tells how many fit.
pub(super) fn bound(items: &[Item], room: &[i64], lambda: &[i128]) -> Option<i128> {
    let axes = axes(items, room, lambda);
    let priced = |amounts: &[i64]| -> i128 {
        let off = amounts.iter().zip(lambda).enumerate();
        off.filter(|(r, _)| axes.iter().all(|(axis, ..)| axis != r))
            .map(|(_, (amount, l))| l * i128::from(*amount))
            .sum()
    };
    let part = SCALE / PARTS;
    let mut base = priced(room);
    let strides: Vec<usize> = axes
        .iter()
        .scan(1, |stride, (_, _, parts)| {
            let own = *stride;
            *stride *= parts + 1;
            Some(own)
        })
        .collect();
    let n_cells: usize = axes.iter().map(|(_, _, parts)| parts + 1).product();
    let mut best = vec![0_i64; n_cells];
    for item in items {
        let surplus = i128::from(item.worth) * SCALE - priced(&item.size);
        if surplus <= 0 {
            continue;
        }
        let takes: Vec<usize> = axes
            .iter()
            .map(|(r, size, _)| (item.size[*r] / size) as usize)
            .collect();
        if takes.iter().all(|n| *n == 0) {
            base += surplus * i128::from(item.most);
            continue;
        }
        let worth = i64::try_from(surplus / part + 1)
            .ok()
            .filter(|worth| *worth < 1 << 48)?;
        let back: usize = takes.iter().zip(&strides).map(|(n, stride)| n * stride).sum();
        for cell in back..n_cells {
            let fits =
                |((_, _, parts), (n, stride)): (&Axis, (&usize, &usize))| cell / stride % (parts + 1) >= *n;
            if axes.iter().zip(takes.iter().zip(&strides)).all(fits) {
                best[cell] = best[cell].max(best[cell - back] + worth);
            }
        }
    }
    let most = i128::from(best.last().copied().unwrap_or(0));
    Some((most * part + base) / SCALE)
}

fn axes(items: &[Item], room: &[i64], lambda: &[i128]) -> Vec<Axis> {
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
    let dearest = many
        .into_iter()
        .max_by_key(|(r, ..)| lambda[*r] * i128::from(room[*r]));
    if let Some((r, size, _)) = dearest {
        let size = size.max(room[r] / (CELLS_MAX / n_cells - 1) as i64 + 1);
        few.push((r, size, (room[r] / size) as usize));
    }
    few
}

fn common(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { common(b, a % b) }
}
