//! The best contents of all small machines at once.
//!
//! A table over two resources, those that cost most, holds for each amount of the two the greatest worth of pods that fit
//! into it. One table does for all machines of about the same size that take the same kinds of pods, and from it follows,
//! for each kind of pod, the best content that holds one of it: what a master problem with many rows needs.
//! Sizes are rounded to the table's units: what its contents really take is seen afterwards.

use std::{cell::RefCell, cmp::Reverse, collections::BTreeMap};

use super::{
    columns::worth_of,
    fit::{add_part, take, times},
    mix::{Mix, Pattern},
    quick::balanced,
};

/// Cells of a table along each of its resources.
const CELLS_MAX: i64 = 320;
/// Cells of a table.
const TABLE_MAX: i64 = 1 << 17;
/// Cells looked at in a unit of work, see [`super::knapsack::Knapsack::work`].
const CELLS_PER_WORK: u64 = 32;
/// Contents tried until one fits.
const TRIES_MAX: usize = 4;
/// Kinds of pods looked at in a unit of work.
const LOOKS_PER_WORK: u64 = 4;
/// Work of a look at one kind of pod on a large machine.
const WORK_PER_LOOK: u64 = 2;
/// A machine that holds more than so many pods of average size, by the mean of both resources, is a large one.
const PODS_MAX: i64 = 14;

/// A room to fill, of a machine or of a pod that could make place, and what its content must be worth.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Shape or item.
    pub(super) id: u32,
    pub(super) room: Vec<i64>,
    pub(super) floor: i64,
    /// What the resources that no table knows are worth of it, at the prices that the pods' net values pay for them.
    pub(super) base: i64,
}

/// A content found: where, what it holds, and what it is worth.
#[derive(Clone, Debug)]
pub(super) struct Filling {
    pub(super) id: u32,
    pub(super) pattern: Pattern,
    pub(super) worth: i64,
}

/// The two resources of the tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axes {
    resources: [usize; 2],
    /// What an average pod takes of them.
    means: [i64; 2],
}

impl Axes {
    /// Those on which most is spent at these prices of a unit.
    pub(super) fn of(mix: &Mix, unit_prices: &[f64]) -> Self {
        let all = |r: usize| -> i64 {
            let items = mix.counts.iter().enumerate();
            items
                .map(|(i, n)| mix.request(i)[r].saturating_mul(i64::from(*n)))
                .fold(0, i64::saturating_add)
        };
        let mut dearest: Vec<usize> = (0..mix.n_res - mix.n_slots).collect();
        dearest.sort_by_cached_key(|r| (Reverse((all(*r) as f64 * unit_prices[*r]) as i64), *r));
        let first = dearest.first().copied().unwrap_or(0);
        let resources = [first, dearest.get(1).copied().unwrap_or(first)];
        let pods: i64 = mix.counts.iter().map(|n| i64::from(*n)).sum();
        Self {
            resources,
            means: resources.map(|r| (all(r) / pods.max(1)).max(1)),
        }
    }

    /// The resources that the tables do not know.
    pub(super) fn others(self, n_res: usize) -> impl Iterator<Item = usize> {
        (0..n_res).filter(move |r| !self.resources.contains(r))
    }

    /// Whether a room holds so few pods that their sizes matter.
    pub(super) fn is_small(self, room: &[i64]) -> bool {
        let [first, second] = [0, 1].map(|axis| room[self.resources[axis]] / self.means[axis] + 1);
        first.saturating_mul(second) <= PODS_MAX * PODS_MAX
    }

    /// Rooms of the same class share a table: their sizes have the same number of binary digits.
    pub(super) fn class(self, room: &[i64]) -> [u32; 2] {
        // A machine of a power of two has a little less than that to offer.
        self.resources
            .map(|r| 64 - (room[r] + room[r] / 16).leading_zeros())
    }

    /// For each item the best content with one of it, on the place where that is worth most for the floor: those worth at
    /// least `part` of it, in thousandths. `items` are those that any of the places may take; `net` is what their values
    /// leave when resources that the table does not know are paid for.
    pub(super) fn fill(
        self,
        mix: &Mix,
        items: &[u32],
        places: &[Place],
        values: &[i64],
        net: &[i64],
        part: i64,
        work: &mut u64,
    ) -> Vec<Filling> {
        let table = Table::new(mix, self, items, places, net, work);
        let enough =
            |worth: i64, floor: i64| i128::from(worth) * 1000 >= i128::from(floor) * i128::from(part);
        let more = |a: (i64, i64), b: (i64, i64)| {
            i128::from(a.0) * i128::from(b.1) > i128::from(b.0) * i128::from(a.1)
        };
        let mut best: BTreeMap<u32, ((i64, i64), usize)> = BTreeMap::new();
        let mut found = Vec::new();
        for (nth, place) in places.iter().enumerate() {
            let cell = table.cell(&place.room);
            let worth = table.best[table.at(cell)] as i64 + place.base;
            if !enough(worth, place.floor) {
                continue;
            }
            *work += items.len() as u64 / LOOKS_PER_WORK;
            for entry in &table.entries {
                let Some(rest) = less(cell, entry.cells) else {
                    continue;
                };
                let worth = (table.best[table.at(rest)] + entry.worth) as i64 + place.base;
                let ratio = (worth, place.floor);
                let known = best.entry(entry.item).or_insert(((0, 1), nth));
                if enough(ratio.0, ratio.1) && more(ratio, known.0) {
                    *known = (ratio, nth);
                }
            }
        }
        for (item, (ratio, nth)) in best {
            let place = &places[nth];
            if ratio.0 == 0 {
                continue;
            }
            found.push(table.filling(mix, place, Some(item), values, work));
        }
        found
    }

    /// What is left of a large machine when a table takes over.
    fn rest(self, mix: &Mix, items: &[u32]) -> Vec<i64> {
        let mut rest = vec![i64::MAX; mix.n_res];
        for (r, mean) in self.resources.iter().zip(self.means) {
            let requests = items.iter().map(|i| mix.request(*i as usize)[*r]);
            let exact = requests.fold(0, gcd) * CELLS_MAX;
            let most = mean * PODS_MAX;
            rest[*r] = if exact >= most / 2 { exact.min(most) } else { most };
        }
        rest
    }

    /// A good content of each large place: by greed until what is left is as small as a table.
    pub(super) fn large(
        self,
        mix: &Mix,
        items: &[u32],
        places: &[(Place, Vec<f64>)],
        counts: &[u32],
        values: &[i64],
        net: &[i64],
        work: &mut u64,
    ) -> Vec<Filling> {
        let rest = self.rest(mix, items);
        let whole = Place {
            id: 0,
            room: rest.clone(),
            floor: 0,
            base: 0,
        };
        let table = Table::new(mix, self, items, &[whole], net, work);
        let one = |(place, prices): &(Place, Vec<f64>)| {
            let (mut pattern, left, looks) = balanced(mix, place.id as usize, values, counts, prices, &rest);
            *work += looks * WORK_PER_LOOK;
            let room = left
                .iter()
                .zip(&rest)
                .map(|(left, most)| *left.min(most))
                .collect();
            let small = Place {
                room,
                ..place.clone()
            };
            for (item, n) in table.filling(mix, &small, None, values, work).pattern {
                add_part(&mut pattern, item, n);
            }
            for (item, n) in &mut pattern {
                *n = (*n).min(mix.caps[*item as usize]).min(counts[*item as usize]);
            }
            pattern.sort_unstable();
            Filling {
                id: place.id,
                worth: worth_of(&pattern, values),
                pattern,
            }
        };
        places.iter().map(one).collect()
    }

    /// The best content of each place.
    pub(super) fn best(
        self,
        mix: &Mix,
        items: &[u32],
        places: &[Place],
        values: &[i64],
        work: &mut u64,
    ) -> Vec<Filling> {
        let table = Table::new(mix, self, items, places, values, work);
        let better = |place: &&Place| table.best[table.at(table.cell(&place.room))] as i64 > place.floor;
        let better = places.iter().filter(better);
        let mut looks = 0;
        let found = better
            .map(|place| table.filling(mix, place, None, values, &mut looks))
            .collect();
        *work += looks;
        found
    }
}

/// Takes pods out until the content fits: by caps, and by the resources that the table does not know.
fn trim(mix: &Mix, values: &[i64], room: &[i64], pattern: &mut Pattern) {
    let mut left = room.to_vec();
    for (item, n) in pattern.iter_mut() {
        *n = (*n).min(mix.caps[*item as usize]);
    }
    // What is worth most finds a place first.
    pattern.sort_by_key(|(item, _)| (Reverse(values[*item as usize]), *item));
    for (item, n) in pattern.iter_mut() {
        let request = mix.request(*item as usize);
        *n = times(&left, request).min(*n);
        take(&mut left, request, *n);
    }
    pattern.retain(|(_, n)| *n > 0);
    pattern.sort_unstable();
}

/// A kind of pod in the units of a table.
struct Entry {
    item: u32,
    cells: [usize; 2],
    worth: f32,
    /// Most of it in one place, where that is fewer than fit.
    cap: u32,
}

struct Table {
    axes: Axes,
    units: [i64; 2],
    /// Cells along the second resource.
    width: usize,
    entries: Vec<Entry>,
    /// The greatest worth within each room, row by row.
    best: Vec<f32>,
    /// For each room that was looked at, one more than the entry that comes first of its best content; zero for others.
    first: RefCell<Vec<u16>>,
}

impl Table {
    fn new(mix: &Mix, axes: Axes, items: &[u32], places: &[Place], values: &[i64], work: &mut u64) -> Self {
        let most = axes
            .resources
            .map(|r| places.iter().map(|p| p.room[r]).max().unwrap_or(0));
        let unit = |axis: usize, cells_max: i64| {
            let requests = items
                .iter()
                .map(|i| mix.request(*i as usize)[axes.resources[axis]]);
            requests.fold(0, gcd).max(most[axis] / cells_max + 1).max(1)
        };
        let first = unit(0, CELLS_MAX);
        let units = [first, unit(1, TABLE_MAX / (most[0] / first + 1))];
        // The common divisor is exact; where it is too fine, any unit does.
        let cells = |amounts: [i64; 2]| -> [usize; 2] {
            [0, 1].map(|axis| ((amounts[axis] + units[axis] / 2) / units[axis]) as usize)
        };
        let rows = (most[0] / units[0]) as usize + 1;
        let width = (most[1] / units[1]) as usize + 1;
        let mut table = Self {
            axes,
            units,
            width,
            entries: Vec::with_capacity(items.len()),
            best: vec![0.0; rows * width],
            first: RefCell::new(vec![0; rows * width]),
        };
        let mut order: Vec<([usize; 2], u32)> = items
            .iter()
            .map(|i| (cells(axes.resources.map(|r| mix.request(*i as usize)[r])), *i))
            .filter(|(cells, _)| cells[0] < rows && cells[1] < width)
            .collect();
        // Small ones first: what others can stand for is no news.
        order.sort_unstable_by_key(|(cells, item)| (cells[0] * width + cells[1] * rows, *item));
        for (cells, item) in order {
            let worth = values[item as usize] as f32;
            if worth <= 0.0 || cells == [0, 0] {
                continue;
            }
            let [down, right] = cells;
            let by_size = |n: usize, of: usize| (of - 1).checked_div(n).unwrap_or(usize::MAX);
            let most = by_size(down, rows).min(by_size(right, width));
            let cap = mix.caps[item as usize];
            let fits = (cap as usize) < most;
            table.entries.push(Entry {
                item,
                cells,
                worth,
                cap: if fits { cap } else { u32::MAX },
            });
            if table.best[down * width + right] >= worth {
                continue;
            }
            *work += ((rows - down) * (width - right)) as u64 / CELLS_PER_WORK;
            if !fits {
                table.enter(cells, worth, false);
                continue;
            }
            // One, two, four and so on of it, until all are there.
            let (mut left, mut times) = (cap as usize, 1);
            while left > 0 {
                let n = times.min(left);
                table.enter([n * down, n * right], n as f32 * worth, true);
                left -= n;
                times *= 2;
            }
        }
        table
    }

    /// Whatever there is room for beside this, once or any number of times.
    fn enter(&mut self, [down, right]: [usize; 2], worth: f32, once: bool) {
        let width = self.width;
        let rows = self.best.len() / width;
        if down == 0 {
            for line in self.best.chunks_exact_mut(width) {
                if once {
                    for cell in (right..width).rev() {
                        line[cell] = greater(line[cell], line[cell - right] + worth);
                    }
                } else {
                    for cell in right..width {
                        line[cell] = greater(line[cell], line[cell - right] + worth);
                    }
                }
            }
            return;
        }
        let mut row = |row: usize| {
            let (before, rest) = self.best.split_at_mut(row * width);
            let source = &before[(row - down) * width..][..width - right];
            for (to, from) in rest[right..width].iter_mut().zip(source) {
                *to = greater(*to, from + worth);
            }
        };
        // From below, so that what is there already may come again; from above, so that it may not.
        if once {
            (down..rows).rev().for_each(&mut row);
        } else {
            (down..rows).for_each(&mut row);
        }
    }

    fn cell(&self, room: &[i64]) -> [usize; 2] {
        [0, 1].map(|axis| (room[self.axes.resources[axis]] / self.units[axis]) as usize)
    }

    fn at(&self, cell: [usize; 2]) -> usize {
        cell[0] * self.width + cell[1]
    }

    /// The best content of the place, with at least one pod of the item, if any.
    fn filling(
        &self,
        mix: &Mix,
        place: &Place,
        with: Option<u32>,
        values: &[i64],
        work: &mut u64,
    ) -> Filling {
        let mut cell = self.cell(&place.room);
        let own = self.entries.iter().find(|entry| Some(entry.item) == with);
        cell = own.and_then(|entry| less(cell, entry.cells)).unwrap_or(cell);
        let mut pattern = Pattern::new();
        for _ in 0..TRIES_MAX {
            pattern = self.content(cell, with, work);
            // Sizes are rounded, so that contents may be a little too large.
            let mut smaller = cell;
            for (axis, r) in self.axes.resources.iter().enumerate() {
                let sizes = pattern
                    .iter()
                    .map(|(item, n)| mix.request(*item as usize)[*r] * i64::from(*n));
                let over = (sizes.sum::<i64>() - place.room[*r]).max(0) as usize;
                smaller[axis] = cell[axis].saturating_sub(over.div_ceil(self.units[axis] as usize));
            }
            if smaller == cell {
                break;
            }
            cell = smaller;
        }
        trim(mix, values, &place.room, &mut pattern);
        Filling {
            id: place.id,
            worth: worth_of(&pattern, values),
            pattern,
        }
    }

    /// What makes a cell worth what it is, and a pod of the item beside it.
    fn content(&self, mut cell: [usize; 2], with: Option<u32>, work: &mut u64) -> Pattern {
        let mut pattern: BTreeMap<u32, u32> = with.map(|item| (item, 1)).into_iter().collect();
        let mut known = self.first.borrow_mut();
        while self.best[self.at(cell)] > 0.0 {
            let at = self.at(cell);
            let here = self.best[at];
            let admits = |entry: &&Entry| pattern.get(&entry.item).is_none_or(|n| *n < entry.cap);
            let before = usize::from(known[at]).checked_sub(1).map(|at| &self.entries[at]);
            let entry = before.filter(admits).or_else(|| {
                *work += self.entries.len() as u64 / LOOKS_PER_WORK;
                // The one whose worth explains the cell's, but for what rounding makes of it.
                let off = |(nth, entry): (usize, &Entry)| -> Option<(f32, usize)> {
                    let rest = less(cell, entry.cells).filter(|_| admits(&entry))?;
                    Some(((self.best[self.at(rest)] + entry.worth - here).abs(), nth))
                };
                let off = self.entries.iter().enumerate().filter_map(off);
                let (_, nth) = off.min_by(|a, b| a.0.total_cmp(&b.0))?;
                known[at] = u16::try_from(nth + 1).unwrap_or_default();
                Some(&self.entries[nth])
            });
            let Some(entry) = entry else { break };
            let Some(rest) = less(cell, entry.cells) else {
                break;
            };
            *pattern.entry(entry.item).or_default() += 1;
            cell = rest;
        }
        pattern.into_iter().collect()
    }
}

/// Of two numbers the greater one. `f32::max` also minds what is not a number, which takes twice as long.
fn greater(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

fn less(cell: [usize; 2], other: [usize; 2]) -> Option<[usize; 2]> {
    Some([cell[0].checked_sub(other[0])?, cell[1].checked_sub(other[1])?])
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
