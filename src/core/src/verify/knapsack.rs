//! The most that a machine can be filled with, by integers alone.
//!
//! Maximise the worth of a multiset of items under several capacities. The bound is Lagrange's: for any
//! multipliers that are not negative, `λ·room + Σ max(0, worth − λ·size)·most` is at least the optimum, so
//! multipliers may be guessed; only the search below has to be exact.

use std::{cmp::Reverse, collections::BTreeMap};

use super::table;

/// One kind of thing that may be put in, at most `most` times.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) worth: i64,
    pub(super) size: Vec<i64>,
    pub(super) most: i64,
}

/// Multipliers are fractions with this denominator.
pub(super) const SCALE: i128 = 1 << 40;

/// How long to look for multipliers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effort {
    /// Not at all: only hints are tried.
    Hinted,
    Quick,
    Thorough,
}

/// Steps of the search for the multiplier of one resource while another follows: each drops a third of the
/// range, so that it ends at a hundred-thousandth of the greatest density.
const NARROWINGS_MAX: usize = 30;

/// Items near the least point among whose pairs the exact one is sought.
const CORNER_ITEMS: usize = 5;

/// Cells of the tables over two capacities: thousands of sizes of the second one, where there is time for that.
const CELLS_QUICK: usize = 1 << 17;
const CELLS_THOROUGH: usize = 1 << 20;

/// Nodes of the depth-first search before it gives up.
const NODES_MAX: u64 = 1_000_000;
/// Fillings of the breadth-first search before it gives up: a few seconds.
const FILLINGS_MAX: usize = 20_000_000;
/// Fillings up to which each is compared with all others.
const COMPARED_MAX: usize = 3_000;

/// Whether every filling is worth at most `limit`; None when the search gave up. `hints` are multipliers that may help,
/// times [`SCALE`].
pub(super) fn at_most(items: &[Item], room: &[i64], limit: i64, hints: &[Vec<i128>]) -> Option<bool> {
    for effort in [Effort::Hinted, Effort::Quick, Effort::Thorough] {
        let mut search = Search::new(items, room, effort, hints)?;
        if search.bound(0, room) <= i128::from(limit) {
            return Some(true);
        }
        let mut tables = search
            .multipliers
            .iter()
            .filter_map(|m| table::bound(&search.items, room, &m.lambda));
        if tables.any(|bound| bound <= i128::from(limit)) {
            return Some(true);
        }
        let cells_max = match effort {
            Effort::Hinted => None,
            Effort::Quick => Some(CELLS_QUICK),
            Effort::Thorough => Some(CELLS_THOROUGH),
        };
        if let Some(cells_max) = cells_max
            && let Some(best) = search.multipliers.first()
            && table::rules_out(&search.items, room, &best.lambda, i128::from(limit), cells_max)?
        {
            return Some(true);
        }
        if effort == Effort::Thorough {
            let exceeds = search.exceeds(0, room, 0, limit);
            return exceeds
                .or_else(|| search.exceeds_by_rooms(room, limit))
                .map(|exceeds| !exceeds);
        }
    }
    None
}

/// The greatest worth of a filling; None when the search gave up.
pub(super) fn greatest(items: &[Item], room: &[i64], hints: &[Vec<i128>]) -> Option<i64> {
    let mut low = 0;
    let mut high = i64::try_from(Search::new(items, room, Effort::Quick, hints)?.bound(0, room)).ok()?;
    while low < high {
        let middle = low + (high - low) / 2;
        if at_most(items, room, middle, hints)? {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Some(low)
}

/// A bound on what the items from some index on are worth, one for each set of multipliers.
struct Multipliers {
    lambda: Vec<i128>,
    /// `Σ max(0, worth − λ·size)·most` over the items from each index on, times [`SCALE`].
    rest: Vec<i128>,
}

struct Search {
    /// Most worth for their size first.
    items: Vec<Item>,
    multipliers: Vec<Multipliers>,
    nodes: u64,
}

impl Search {
    /// None when a number is too large to reason about.
    fn new(items: &[Item], room: &[i64], effort: Effort, hints: &[Vec<i128>]) -> Option<Self> {
        if room.iter().any(|r| *r > 1 << 55) || items.iter().any(|i| i.worth > 1 << 55 || i.most > 1 << 30) {
            return None;
        }
        let fits = |item: &Item| item.size.iter().zip(room).all(|(size, room)| size <= room);
        let most = |size: &[i64]| {
            let by_room = size
                .iter()
                .zip(room)
                .filter(|(size, _)| **size > 0)
                .map(|(s, r)| r / s);
            by_room.min().unwrap_or(i64::MAX)
        };
        // Things of the same worth and size are one kind.
        let mut kinds: BTreeMap<(i64, &[i64]), i64> = BTreeMap::new();
        for item in items
            .iter()
            .filter(|item| item.worth > 0 && item.most > 0 && fits(item))
        {
            let most = kinds.entry((item.worth, &item.size)).or_default();
            *most = most.saturating_add(item.most).min(1 << 30);
        }
        let mut items: Vec<Item> = kinds
            .into_iter()
            .map(|((worth, size), count)| Item {
                worth,
                most: most(size).min(count),
                size: size.to_vec(),
            })
            .collect();
        let hints = hints.iter().filter(|hint| usable(hint, &items, room)).cloned();
        let candidates = hints.chain(candidates(&items, room, effort));
        let value = |lambda: &Vec<i128>| dot(lambda, room) + rest(&items, lambda)[0];
        let mut ranked: Vec<(i128, Vec<i128>)> = candidates.map(|lambda| (value(&lambda), lambda)).collect();
        ranked.sort();
        ranked.dedup();
        ranked.truncate(4);
        if let Some((_, best)) = ranked.first() {
            // Cheapest for its worth first; any order is right, a good one is quick.
            items.sort_by_cached_key(|item| {
                let price = dot(best, &item.size) / i128::from(item.worth);
                (price, Reverse(item.size.clone()))
            });
        }
        let multipliers = ranked
            .into_iter()
            .map(|(_, lambda)| Multipliers {
                rest: rest(&items, &lambda),
                lambda,
            })
            .collect();
        Some(Self {
            items,
            multipliers,
            nodes: 0,
        })
    }

    /// The least of the bounds, rounded down: worths are integers.
    fn bound(&self, from: usize, room: &[i64]) -> i128 {
        let bounds = self
            .multipliers
            .iter()
            .map(|m| (dot(&m.lambda, room) + m.rest[from]) / SCALE);
        bounds.min().unwrap_or(0)
    }

    /// Whether some filling with items from `from` on, beside those worth `so_far`, exceeds the limit.
    fn exceeds(&mut self, from: usize, room: &[i64], so_far: i64, limit: i64) -> Option<bool> {
        if so_far > limit {
            return Some(true);
        }
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return None;
        }
        if from == self.items.len() || i128::from(so_far) + self.bound(from, room) <= i128::from(limit) {
            return Some(false);
        }
        let Item { worth, size, most } = self.items[from].clone();
        let fits = size
            .iter()
            .zip(room.iter())
            .filter(|(s, _)| **s > 0)
            .map(|(s, r)| r / s)
            .min();
        let times = fits.unwrap_or(most).min(most);
        for taken in (0..=times).rev() {
            let left: Vec<i64> = room.iter().zip(&size).map(|(r, s)| r - s * taken).collect();
            if self.exceeds(from + 1, &left, so_far + worth * taken, limit)? {
                return Some(true);
            }
        }
        Some(false)
    }

    /// The same, item by item: of the fillings that leave the same room only the best goes on.
    fn exceeds_by_rooms(&self, room: &[i64], limit: i64) -> Option<bool> {
        let mut fillings: BTreeMap<Vec<i64>, i64> = BTreeMap::from([(room.to_vec(), 0)]);
        let mut seen = 0;
        for (at, Item { worth, size, most }) in self.items.iter().enumerate() {
            let mut next: BTreeMap<Vec<i64>, i64> = BTreeMap::new();
            for (room, so_far) in fillings {
                let fits = size
                    .iter()
                    .zip(&room)
                    .filter(|(s, _)| **s > 0)
                    .map(|(s, r)| r / s)
                    .min();
                for taken in 0..=fits.unwrap_or(*most).min(*most) {
                    let so_far = so_far + worth * taken;
                    if so_far > limit {
                        return Some(true);
                    }
                    let left: Vec<i64> = room.iter().zip(size).map(|(r, s)| r - s * taken).collect();
                    if i128::from(so_far) + self.bound(at + 1, &left) > i128::from(limit) {
                        let best = next.entry(left).or_insert(so_far);
                        *best = (*best).max(so_far);
                    }
                }
            }
            seen += next.len();
            if seen > FILLINGS_MAX {
                return None;
            }
            fillings = undominated(next);
        }
        Some(false)
    }
}

/// Of fillings (room left, worth) that leave no more room than another one and are worth no more, only the other.
fn undominated(fillings: BTreeMap<Vec<i64>, i64>) -> BTreeMap<Vec<i64>, i64> {
    if fillings.len() > COMPARED_MAX {
        return fillings;
    }
    let mut order: Vec<(Vec<i64>, i64)> = fillings.into_iter().collect();
    order.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| b.0.cmp(&a.0)));
    let mut kept: Vec<(Vec<i64>, i64)> = Vec::with_capacity(order.len());
    for (room, worth) in order {
        let beaten = kept
            .iter()
            .any(|(more, _)| more.iter().zip(&room).all(|(m, r)| m >= r));
        if !beaten {
            kept.push((room, worth));
        }
    }
    kept.into_iter().collect()
}

fn dot(lambda: &[i128], amounts: &[i64]) -> i128 {
    lambda.iter().zip(amounts).map(|(l, a)| l * i128::from(*a)).sum()
}

fn rest(items: &[Item], lambda: &[i128]) -> Vec<i128> {
    let mut sums = vec![0; items.len() + 1];
    for (i, item) in items.iter().enumerate().rev() {
        let surplus = (i128::from(item.worth) * SCALE - dot(lambda, &item.size)).max(0);
        sums[i] = sums[i + 1] + surplus * i128::from(item.most);
    }
    sums
}

/// Whether no sum over these multipliers can overflow, and none is negative.
fn usable(lambda: &[i128], items: &[Item], room: &[i64]) -> bool {
    let small = |amounts: &[i64]| {
        let product = |(l, a): (&i128, &i64)| l.checked_mul(i128::from(*a));
        let products = lambda.iter().zip(amounts).map(product);
        products.into_iter().all(|p| p.is_some_and(|p| p <= 1 << 95))
    };
    lambda.len() == room.len()
        && lambda.iter().all(|l| *l >= 0)
        && small(room)
        && items.iter().all(|item| small(&item.size))
}

/// Multipliers to try: for each resource alone the density at which it is full, and from each of these a
/// descent along one resource at a time. With thorough effort also the least bound over each pair of resources.
fn candidates(items: &[Item], room: &[i64], effort: Effort) -> Vec<Vec<i128>> {
    let used: Vec<usize> = (0..room.len())
        .filter(|r| items.iter().any(|item| item.size[*r] > 0))
        .collect();
    let nothing = vec![0; room.len()];
    let mut found = vec![nothing.clone()];
    if effort == Effort::Hinted {
        return found;
    }
    for &r in &used {
        let mut lambda = improve(items, room, r, &nothing);
        found.push(lambda.clone());
        for _ in 0..4 {
            for &other in &used {
                lambda = improve(items, room, other, &lambda);
            }
        }
        found.push(lambda);
    }
    if effort == Effort::Thorough {
        for (x, &r) in used.iter().enumerate() {
            for &s in &used[x + 1..] {
                found.push(pair(items, room, r, s));
            }
        }
    }
    found
}

/// The bound is convex in the multiplier of `s` when that of `r` follows as its best, so that thirds of a range
/// can be dropped until its least point is found.
fn pair(items: &[Item], room: &[i64], r: usize, s: usize) -> Vec<i128> {
    let follow = |at: i128| {
        let mut lambda = vec![0; room.len()];
        lambda[s] = at;
        improve(items, room, r, &lambda)
    };
    let value = |lambda: &[i128]| dot(lambda, room) + rest(items, lambda)[0];
    let densities = items
        .iter()
        .filter(|i| i.size[s] > 0)
        .map(|i| i128::from(i.worth) * SCALE / i128::from(i.size[s]));
    let (mut low, mut high) = (0, densities.max().unwrap_or(0) + 1);
    for _ in 0..NARROWINGS_MAX {
        let third = (high - low) / 3;
        let (left, right) = (low + third, high - third);
        if value(&follow(left)) <= value(&follow(right)) {
            high = right;
        } else {
            low = left;
        }
    }
    let near = [follow(low), follow(high)];
    let exact = near.iter().flat_map(|lambda| corners(items, room, r, s, lambda));
    let mut all: Vec<Vec<i128>> = exact.collect();
    all.extend(near.iter().cloned());
    all.into_iter()
        .min_by_key(|lambda| value(lambda))
        .unwrap_or_default()
}

/// The least point is one where two items are exactly paid for: those of the items that are nearly so.
fn corners(items: &[Item], room: &[i64], r: usize, s: usize, lambda: &[i128]) -> Vec<Vec<i128>> {
    let mut nearly: Vec<&Item> = items.iter().collect();
    nearly.sort_by_cached_key(|item| {
        let off = i128::from(item.worth) * SCALE - dot(lambda, &item.size);
        off.abs() / i128::from(item.worth.max(1))
    });
    nearly.truncate(CORNER_ITEMS);
    let mut found = Vec::new();
    for (i, a) in nearly.iter().enumerate() {
        for b in &nearly[i + 1..] {
            found.extend(paying(a, b, r, s, room.len()));
        }
    }
    found
}

/// Multipliers of resources `r` and `s` under which both items cost what they are worth, or a hair more.
fn paying(a: &Item, b: &Item, r: usize, s: usize, resources: usize) -> Option<Vec<i128>> {
    let [ar, as_, br, bs] = [a.size[r], a.size[s], b.size[r], b.size[s]].map(i128::from);
    let [aw, bw] = [a.worth, b.worth].map(i128::from);
    let determinant = ar.checked_mul(bs)?.checked_sub(as_.checked_mul(br)?)?;
    if determinant == 0 {
        return None;
    }
    let times = |x: i128, y: i128, z: i128, w: i128| x.checked_mul(y)?.checked_sub(z.checked_mul(w)?);
    let lambda_r = times(aw, bs, as_, bw)?.checked_mul(SCALE)? / determinant;
    let lambda_s = times(ar, bw, aw, br)?.checked_mul(SCALE)? / determinant;
    if lambda_r < 0 || lambda_s < 0 {
        return None;
    }
    let mut lambda = vec![0; resources];
    (lambda[r], lambda[s]) = (lambda_r + 1, lambda_s + 1);
    Some(lambda)
}

/// The multiplier of `r` that makes the bound least while the others stay: the bound falls while items that
/// still pay would overfill the resource.
fn improve(items: &[Item], room: &[i64], r: usize, lambda: &[i128]) -> Vec<i128> {
    let mut others = lambda.to_vec();
    others[r] = 0;
    let mut steps: Vec<(i128, i128)> = items
        .iter()
        .filter(|item| item.size[r] > 0)
        .map(|item| {
            let left = i128::from(item.worth) * SCALE - dot(&others, &item.size);
            let size = i128::from(item.size[r]);
            (left.div_euclid(size), size * i128::from(item.most))
        })
        .filter(|(at, _)| *at > 0)
        .collect();
    steps.sort_by(|a, b| b.cmp(a));
    let mut filled = 0;
    for (at, amount) in steps {
        filled += amount;
        if filled >= i128::from(room[r]) {
            others[r] = at;
            break;
        }
    }
    others
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::draws;

    /// Tries everything.
    fn exhaustive(items: &[Item], room: &[i64]) -> i64 {
        let Some((first, others)) = items.split_first() else {
            return 0;
        };
        (0..=first.most)
            .map_while(|taken| {
                let left: Vec<i64> = room.iter().zip(&first.size).map(|(r, s)| r - s * taken).collect();
                left.iter()
                    .all(|l| *l >= 0)
                    .then(|| first.worth * taken + exhaustive(others, &left))
            })
            .max()
            .unwrap_or(0)
    }

    #[test]
    fn agrees_with_trying_everything() {
        let mut next = draws(7);
        for _ in 0..500 {
            let room = vec![next(40), next(40), next(6)];
            let items: Vec<Item> = (0..=next(5))
                .map(|_| Item {
                    worth: next(30),
                    size: vec![next(12), next(12), next(2)],
                    most: next(5),
                })
                .collect();
            let expected = exhaustive(&items, &room);
            assert_eq!(
                greatest(&items, &room, &[]),
                Some(expected),
                "{items:?} in {room:?}"
            );
            // Hints may be good, useless or absurd: they change nothing but the time it takes.
            let hints = [
                (0..3).map(|_| i128::from(next(9)) * SCALE).collect(),
                vec![0; 3],
                vec![-SCALE; 3],
                vec![i128::MAX; 3],
                vec![SCALE; 2],
            ];
            assert_eq!(
                greatest(&items, &room, &hints),
                Some(expected),
                "{items:?} in {room:?}"
            );
            assert_eq!(at_most(&items, &room, expected, &[]), Some(true));
            let lambda: Vec<i128> = (0..3).map(|_| i128::from(next(9)) * SCALE / 4).collect();
            let table = table::bound(&items, &room, &lambda).unwrap();
            assert!(
                table >= i128::from(expected),
                "{table} of {items:?} in {room:?} at {lambda:?}"
            );
            // Coarse tables and good ones, at multipliers that are any or good.
            for limit in 0..expected {
                let search = Search::new(&items, &room, Effort::Quick, &[]).unwrap();
                for lambda in search.multipliers.iter().map(|m| &m.lambda).chain([&lambda]) {
                    for cells_max in [8, 64, 1 << 12] {
                        let limit = i128::from(limit);
                        assert_eq!(
                            table::rules_out(&items, &room, lambda, limit, cells_max),
                            Some(false),
                            "{items:?} in {room:?} at {lambda:?}"
                        );
                    }
                }
            }
            let by_rooms = |limit: i64| {
                let search = Search::new(&items, &room, Effort::Thorough, &[])?;
                search.exceeds_by_rooms(&room, limit)
            };
            assert_eq!(by_rooms(expected), Some(false), "{items:?} in {room:?}");
            if expected > 0 {
                assert_eq!(at_most(&items, &room, expected - 1, &[]), Some(false));
                assert_eq!(by_rooms(expected - 1), Some(true));
            }
        }
    }
}
