//! From fractional purchases to whole machines, and the local search that follows.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{
    columns::{Aim, Budget, Choice, Generated, Searches, generate, worth_of},
    fit::{add_part, times},
    mix::{Mix, Pattern},
};

/// Items up to which the rest of a rounding is solved again and again; with more, it is only filled.
const DIVE_ITEMS_MAX: usize = 150;
/// Steps of those left for the next part of a rounding.
const DIVE_PERCENT: u64 = 20;
/// What a column's content must be worth of its price, in thousandths, to be of use in a rounding.
const PROMISING_PERMILLE: i128 = 970;
/// Columns bought so often, as a fraction, may be rounded up together.
const NEARLY_WHOLE: f64 = 0.6;
/// How often the values of the first plan are corrected, and items times shapes up to which that is quick.
const CORRECTIONS: usize = 3;
const CORRECTED_MAX: usize = 1_500_000;
/// Looks at pairs of machines that could be one, and at shapes for each.
const MERGE_LOOKS_MAX: usize = 1_000_000;
const MERGE_SHAPES: usize = 20;
/// Knapsack nodes when filling one machine for good.
const FILL_NODES_MAX: u32 = 500;
/// Shapes that are searched thoroughly when filling one machine: the best by a quick look.
const SEARCHED_MAX: usize = 12;

/// Whole machines.
#[derive(Clone, Debug, Default)]
pub(super) struct Whole {
    pub(super) machines: Vec<Choice>,
    /// Pods of each item that found no place.
    pub(super) left: Vec<u32>,
    /// Nano-dollars.
    pub(super) price: i64,
}

impl Whole {
    fn buy(&mut self, mix: &Mix, shape: u32, pattern: Pattern) {
        for (item, n) in &pattern {
            self.left[*item as usize] -= n;
        }
        self.price += mix.prices[shape as usize];
        self.machines.push((shape, pattern));
    }

    /// Fewer pods left out first, then cheaper.
    pub(super) fn better_than(&self, other: &Self) -> bool {
        let left = |w: &Self| w.left.iter().map(|n| u64::from(*n)).sum::<u64>();
        (left(self), self.price) < (left(other), other.price)
    }
}

/// What of a pattern is still wanted.
fn trimmed(pattern: &Pattern, left: &[u32]) -> Pattern {
    pattern
        .iter()
        .map(|(item, n)| (*item, (*n).min(left[*item as usize])))
        .filter(|(_, n)| *n > 0)
        .collect()
}

/// Amounts left in the pots.
#[derive(Clone, Debug)]
pub(super) struct Pots(Vec<i64>);

impl Pots {
    pub(super) fn of(mix: &Mix) -> Self {
        Self(mix.pots.iter().map(|p| p.amount).collect())
    }

    fn admit(&self, mix: &Mix, shape: u32) -> bool {
        mix.pots.iter().zip(&self.0).all(|(pot, left)| {
            pot.usage
                .binary_search_by_key(&shape, |(s, _)| *s)
                .map_or(true, |at| pot.usage[at].1 <= *left)
        })
    }

    fn change(&mut self, mix: &Mix, shape: u32, sign: i64) {
        for (pot, left) in mix.pots.iter().zip(&mut self.0) {
            if let Ok(at) = pot.usage.binary_search_by_key(&shape, |(s, _)| *s) {
                *left -= sign * pot.usage[at].1;
            }
        }
    }
}

/// Buys the machine with the best worth per price, of those shapes or of any that holds all the rest, until nothing
/// is wanted. Gives up (false) once the price reaches `price_max`.
fn fill(
    mix: &Mix,
    searches: &mut Searches<'_>,
    shapes: &[u32],
    values: &[i64],
    pots: &mut Pots,
    whole: &mut Whole,
    price_max: i64,
    budget: &mut Budget,
) -> bool {
    searches.quick.sort(values, &whole.left);
    while whole.left.iter().any(|n| *n > 0) {
        if budget.left == 0 {
            return finish(mix, pots, whole, price_max);
        }
        let worth_left: i64 = whole
            .left
            .iter()
            .zip(values)
            .map(|(n, v)| i64::from(*n) * v)
            .sum::<i64>();
        if whole.price + worth_left / 100 * 97 >= price_max {
            return false;
        }
        let per_price = |worth: i64, shape: u32| worth as f64 / mix.prices[shape as usize].max(1) as f64;
        let enough = cheapest_enough(mix, &whole.left, pots);
        let mut best: (f64, u32, Pattern) = match enough {
            Some((_, shape)) => {
                let all = (0..mix.n_items() as u32).zip(whole.left.iter().copied());
                let pattern = all.filter(|(_, n)| *n > 0).collect();
                (per_price(worth_left, shape), shape, pattern)
            }
            None => (0.0, 0, Pattern::new()),
        };
        let mut ranked: Vec<(f64, u32)> = Vec::new();
        for shape in shapes {
            let dear = enough.is_some_and(|(price, _)| mix.prices[*shape as usize] > price);
            if dear || !pots.admit(mix, *shape) {
                continue;
            }
            let (worth, pattern) = searches.quick.best(*shape as usize, &whole.left);
            let ratio = per_price(worth, *shape);
            if worth > 0 {
                ranked.push((ratio, *shape));
            }
            if ratio > best.0 {
                best = (ratio, *shape, pattern);
            }
        }
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (_, shape) in ranked.iter().take(SEARCHED_MAX) {
            let floor = (best.0 * mix.prices[*shape as usize] as f64) as i64;
            let found = searches
                .knapsack
                .best(*shape as usize, values, &whole.left, floor, FILL_NODES_MAX);
            if found.worth > floor {
                best = (per_price(found.worth, *shape), *shape, found.pattern);
            }
        }
        budget.spend(searches.steps());
        let (_, shape, pattern) = best;
        if pattern.is_empty() {
            return true;
        }
        loop {
            pots.change(mix, shape, 1);
            whole.buy(mix, shape, pattern.clone());
            let again =
                pattern.iter().all(|(item, n)| whole.left[*item as usize] >= *n) && pots.admit(mix, shape);
            if !again || whole.price >= price_max {
                break;
            }
        }
        searches.quick.drop_exhausted(&whole.left);
    }
    whole.price < price_max
}

/// Buys by quick looks alone what has most worth for its price at these values, each content as often as it goes.
/// Does not ask for the budget: this is the first plan, or the end of a rounding.
pub(super) fn shop(
    mix: &Mix,
    searches: &mut Searches<'_>,
    values: &[i64],
    pots: &mut Pots,
    whole: &mut Whole,
) {
    let quick = &mut searches.quick;
    quick.sort(values, &whole.left);
    let ratio = |worth: i64, shape: u32| {
        (worth as f64 / mix.prices[shape as usize].max(1) as f64 * 1e9).min(1e18) as i64
    };
    let mut patterns: Vec<Pattern> = vec![Pattern::new(); mix.n_shapes()];
    let mut heap: BinaryHeap<(i64, Reverse<u32>)> = BinaryHeap::new();
    for shape in 0..mix.n_shapes() as u32 {
        let (worth, pattern) = quick.best(shape as usize, &whole.left);
        if worth > 0 {
            heap.push((ratio(worth, shape), Reverse(shape)));
            patterns[shape as usize] = pattern;
        }
    }
    while let Some((known, Reverse(shape))) = heap.pop() {
        let pattern = &mut patterns[shape as usize];
        if pattern.iter().any(|(item, n)| whole.left[*item as usize] < *n) {
            let (worth, again) = quick.best(shape as usize, &whole.left);
            if worth > 0 {
                // Less is wanted now, so another shape may be better: look again when it is this one's turn.
                *pattern = again;
                heap.push((ratio(worth, shape).min(known), Reverse(shape)));
            }
            continue;
        }
        let mut exhausted = false;
        while pots.admit(mix, shape) && pattern.iter().all(|(i, n)| whole.left[*i as usize] >= *n) {
            pots.change(mix, shape, 1);
            whole.buy(mix, shape, pattern.clone());
            exhausted |= pattern.iter().any(|(item, _)| whole.left[*item as usize] == 0);
        }
        if exhausted {
            quick.drop_exhausted(&whole.left);
        }
        if pots.admit(mix, shape) {
            heap.push((known, Reverse(shape)));
        }
    }
}

/// Buys the cheapest machine per pod for whatever is left, without looking for better: the steps are spent.
fn finish(mix: &Mix, pots: &mut Pots, whole: &mut Whole, price_max: i64) -> bool {
    for item in 0..mix.n_items() {
        while whole.left[item] > 0 {
            let wanted = whole.left[item].min(mix.caps[item]);
            let best = (0..mix.n_shapes() as u32)
                .filter(|s| pots.admit(mix, *s))
                .filter_map(
                    |s| match times(mix.room(s as usize), mix.request(item)).min(wanted) {
                        n if n > 0 && mix.takes[s as usize].binary_search(&(item as u32)).is_ok() => {
                            Some((mix.prices[s as usize] / i64::from(n), s, n))
                        }
                        _ => None,
                    },
                )
                .min();
            let Some((_, shape, n)) = best else { break };
            pots.change(mix, shape, 1);
            whole.buy(mix, shape, vec![(item as u32, n)]);
        }
    }
    whole.price < price_max
}

/// The cheapest machine that would hold all that is left, with its price: no dearer one need be looked at.
fn cheapest_enough(mix: &Mix, left: &[u32], pots: &Pots) -> Option<(i64, u32)> {
    let wanted: Vec<u32> = (0..mix.n_items() as u32)
        .filter(|i| left[*i as usize] > 0)
        .collect();
    if wanted.iter().any(|i| left[*i as usize] > mix.caps[*i as usize]) {
        return None;
    }
    let mut sum = vec![0_i64; mix.n_res];
    for item in &wanted {
        for (s, r) in sum.iter_mut().zip(mix.request(*item as usize)) {
            *s += r * i64::from(left[*item as usize]);
        }
    }
    let holds = |shape: &u32| {
        let at = *shape as usize;
        mix.room(at).iter().zip(&sum).all(|(have, want)| want <= have)
            && wanted.iter().all(|i| mix.takes[at].binary_search(i).is_ok())
            && pots.admit(mix, *shape)
    };
    (0..mix.n_shapes() as u32)
        .filter(holds)
        .map(|s| (mix.prices[s as usize], s))
        .min()
}

/// The first plan: machines bought at opinions on what a pod is worth.
pub(super) fn first(mix: &Mix, searches: &mut Searches<'_>, opinions: &[Vec<i64>]) -> Whole {
    let nothing = Whole {
        left: mix.counts.clone(),
        ..Whole::default()
    };
    let mut best = shopped(mix, searches, &nothing, &Pots::of(mix), opinions);
    tighten(mix, &mut best);
    merge(mix, &mut best);
    best
}

/// Buys what is left at each of the opinions on what a pod is worth, and then at corrected ones: what had to go on a
/// wasteful machine is worth more than it seemed, and is served earlier. The cheapest outcome.
fn shopped(
    mix: &Mix,
    searches: &mut Searches<'_>,
    before: &Whole,
    pots: &Pots,
    opinions: &[Vec<i64>],
) -> Whole {
    let buy = |values: &[i64], searches: &mut Searches<'_>| {
        let mut whole = before.clone();
        let values: Vec<i64> = values.iter().map(|v| (*v).max(1)).collect();
        shop(mix, searches, &values, &mut pots.clone(), &mut whole);
        whole
    };
    let mut best: Option<(Whole, &Vec<i64>)> = None;
    for values in opinions {
        let whole = buy(values, searches);
        if best.as_ref().is_none_or(|(b, _)| whole.better_than(b)) {
            best = Some((whole, values));
        }
    }
    let Some((mut best, values)) = best else {
        return before.clone();
    };
    let (mut values, mut last) = (values.clone(), best.clone());
    if mix.n_items() * mix.n_shapes() <= CORRECTED_MAX {
        for _ in 0..CORRECTIONS {
            let bought = &last.machines[before.machines.len()..];
            values = corrected(mix, &values, bought, &before.left);
            last = buy(&values, searches);
            if last.better_than(&best) {
                best = last.clone();
            }
        }
    }
    best
}

/// Each value moved halfway to what pods of the item cost, sharing each machine's price by worth.
fn corrected(mix: &Mix, values: &[i64], bought: &[Choice], counts: &[u32]) -> Vec<i64> {
    let mut costs: Vec<f64> = vec![0.0; values.len()];
    for (shape, pattern) in bought {
        let worth = worth_of(pattern, values).max(1) as f64;
        let ratio = mix.prices[*shape as usize] as f64 / worth;
        for (item, n) in pattern {
            costs[*item as usize] += ratio * f64::from(*n) / f64::from(counts[*item as usize].max(1));
        }
    }
    let moved = |(value, ratio): (&i64, &f64)| (*value as f64 * (1.0 + ratio) / 2.0) as i64;
    values.iter().zip(&costs).map(moved).collect()
}

/// Puts the contents of two machines on one that costs less than both; or just as much, if one of them has what keeps
/// pods apart and must stand anyway, and the other has nothing of it.
pub(super) fn merge(mix: &Mix, whole: &mut Whole) {
    let mut pots = Pots::of(mix);
    whole
        .machines
        .iter()
        .for_each(|(shape, _)| pots.change(mix, *shape, 1));
    let mut order: Vec<u32> = (0..mix.n_shapes() as u32).collect();
    order.sort_by_key(|s| (mix.prices[*s as usize], *s));
    let sum_of = |pattern: &Pattern| -> Vec<i64> {
        let mut sum = vec![0; mix.n_res];
        for (item, n) in pattern {
            sum.iter_mut()
                .zip(mix.request(*item as usize))
                .for_each(|(s, r)| *s += r * i64::from(*n));
        }
        sum
    };
    let slots = mix.n_res - mix.n_slots..mix.n_res;
    whole.machines.sort_unstable();
    let machines = std::mem::take(&mut whole.machines);
    let mut sums: Vec<Vec<i64>> = machines.iter().map(|(_, pattern)| sum_of(pattern)).collect();
    let mut machines: Vec<Option<Choice>> = machines.into_iter().map(Some).collect();
    let mut looks = MERGE_LOOKS_MAX;
    for at in 0..machines.len() {
        let mut other = at + 1;
        while other < machines.len() && looks > 0 {
            let (Some((a, first)), Some((b, second))) = (&machines[at], &machines[other]) else {
                other += 1;
                if machines[at].is_none() {
                    break;
                }
                continue;
            };
            looks -= 1;
            // No machine has more of a slot than this one has.
            let room = mix.room(*a as usize);
            let clash = slots.clone().any(|r| sums[at][r] + sums[other][r] > room[r]);
            let saves_one = slots.clone().any(|r| (sums[at][r] > 0) != (sums[other][r] > 0));
            let price = mix.prices[*a as usize] + mix.prices[*b as usize];
            let limit = price - i64::from(!saves_one);
            if clash {
                other += 1;
                continue;
            }
            let sum: Vec<i64> = sums[at].iter().zip(&sums[other]).map(|(x, y)| x + y).collect();
            let mut both = first.clone();
            let holds = |shape: u32, both: &Pattern| {
                let room = mix.room(shape as usize);
                let takes = &mix.takes[shape as usize];
                sum.iter().zip(room).all(|(want, have)| want <= have)
                    && both.iter().all(|(i, _)| takes.binary_search(i).is_ok())
                    && pots.admit(mix, shape)
            };
            let dearest = order.partition_point(|s| mix.prices[*s as usize] <= limit);
            let mut best = None;
            second.iter().for_each(|(item, n)| add_part(&mut both, *item, *n));
            both.sort_unstable();
            let capped = both.iter().all(|(i, n)| *n <= mix.caps[*i as usize]);
            let mut near = order[..dearest].iter().rev().take(MERGE_SHAPES);
            if capped && near.any(|s| holds(*s, &both)) {
                best = order[..dearest].iter().copied().find(|s| holds(*s, &both));
            }
            looks = looks.saturating_sub(MERGE_SHAPES);
            if let Some(shape) = best {
                pots.change(mix, *a, -1);
                pots.change(mix, *b, -1);
                pots.change(mix, shape, 1);
                whole.price += mix.prices[shape as usize] - price;
                sums[at] = sum;
                machines[at] = Some((shape, both));
                machines[other] = None;
            }
            other += 1;
        }
    }
    whole.machines = machines.into_iter().flatten().collect();
}

/// Whole machines near a fractional solution.
pub(super) fn round(
    mix: &Mix,
    searches: &mut Searches<'_>,
    generated: &Generated,
    budget: &mut Budget,
) -> Whole {
    let mut whole = Whole {
        left: mix.counts.clone(),
        ..Whole::default()
    };
    let mut pots = Pots::of(mix);
    buy_whole(mix, generated, &mut whole, &mut pots);
    let values: Vec<i64> = generated.duals.iter().map(|v| (*v).max(1)).collect();
    let opinions = std::slice::from_ref(&values);
    let mut best = shopped(mix, searches, &whole, &pots, opinions);
    budget.spend(searches.steps());
    if budget.left > 0 {
        let (mut rounded, mut left) = (whole.clone(), pots.clone());
        buy_parts(mix, generated, &mut rounded, &mut left);
        let rounded = shopped(mix, searches, &rounded, &left, opinions);
        budget.spend(searches.steps());
        if rounded.better_than(&best) {
            best = rounded;
        }
    }
    let active = whole.left.iter().filter(|n| **n > 0).count();
    if active > DIVE_ITEMS_MAX || active == 0 {
        return best;
    }
    let mut filled = whole.clone();
    let shapes = generated.shapes();
    fill(
        mix,
        searches,
        &shapes,
        &values,
        &mut pots.clone(),
        &mut filled,
        i64::MAX,
        budget,
    );
    if filled.better_than(&best) {
        best = filled;
    }
    dive(mix, searches, generated, whole, pots, &mut best, budget);
    best
}

/// Buys the whole part of every column.
fn buy_whole(mix: &Mix, generated: &Generated, whole: &mut Whole, pots: &mut Pots) {
    for (column, amount) in &generated.solution {
        let (shape, pattern) = &generated.columns[*column as usize];
        for _ in 0..(amount + 1e-6) as u32 {
            let wanted = trimmed(pattern, &whole.left);
            if wanted != *pattern || !pots.admit(mix, *shape) {
                break;
            }
            pots.change(mix, *shape, 1);
            whole.buy(mix, *shape, wanted);
        }
    }
}

/// Buys a whole machine for the part of each column that was not bought, the largest parts first, as long as all its pods
/// are still wanted.
fn buy_parts(mix: &Mix, generated: &Generated, whole: &mut Whole, pots: &mut Pots) {
    let parts = generated.solution.iter();
    let mut parts: Vec<(f64, u32)> = parts.map(|(c, amount)| ((amount + 1e-6).fract(), *c)).collect();
    parts.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    for (_, column) in parts {
        let (shape, pattern) = &generated.columns[column as usize];
        if trimmed(pattern, &whole.left) == *pattern && pots.admit(mix, *shape) {
            pots.change(mix, *shape, 1);
            whole.buy(mix, *shape, pattern.clone());
        }
    }
}

/// Rounds some columns up, solves for the rest, and so on; after each step also tries to just fill.
fn dive(
    mix: &Mix,
    searches: &mut Searches<'_>,
    start: &Generated,
    mut whole: Whole,
    mut pots: Pots,
    best: &mut Whole,
    budget: &mut Budget,
) {
    // Columns that are hardly ever bought would only cost time.
    let promising = |(shape, pattern): &&Choice| {
        let worth = i128::from(worth_of(pattern, &start.duals));
        worth * 1000 >= i128::from(mix.prices[*shape as usize]) * PROMISING_PERMILLE
    };
    let mut columns: Vec<Choice> = start.columns.iter().filter(promising).cloned().collect();
    while whole.left.iter().any(|n| *n > 0) && budget.left > 0 {
        let mut rest = budget.part(DIVE_PERCENT);
        let generated = generate(mix, searches, &whole.left, &columns, &[], Aim::Buy, &mut rest);
        budget.spend(rest.spent);
        columns.clone_from(&generated.columns);
        let bought = whole.machines.len();
        buy_whole(mix, &generated, &mut whole, &mut pots);
        if whole.machines.len() == bought {
            // Columns closest to a whole machine; among equals the one that does most.
            let worth = |c: u32| -> i64 {
                let wanted = trimmed(&columns[c as usize].1, &whole.left);
                worth_of(&wanted, &generated.duals)
            };
            let mut next: Vec<(u32, f64, i64)> = generated
                .solution
                .iter()
                .map(|(c, a)| (*c, *a, worth(*c)))
                .collect();
            next.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.2.cmp(&a.2)).then(a.0.cmp(&b.0)));
            for (column, amount, _) in next {
                let (shape, pattern) = &columns[column as usize];
                let wanted = trimmed(pattern, &whole.left);
                let first = whole.machines.len() == bought;
                if !first && (amount < NEARLY_WHOLE || wanted != *pattern) {
                    continue;
                }
                if !wanted.is_empty() && pots.admit(mix, *shape) {
                    pots.change(mix, *shape, 1);
                    whole.buy(mix, *shape, wanted);
                }
            }
            if whole.machines.len() == bought {
                return;
            }
        }
        let mut filled = whole.clone();
        let price_max = best.price;
        let values: Vec<i64> = generated.duals.iter().map(|v| (*v).max(1)).collect();
        if fill(
            mix,
            searches,
            &generated.shapes(),
            &values,
            &mut pots.clone(),
            &mut filled,
            price_max,
            budget,
        ) && filled.better_than(best)
        {
            *best = filled;
        }
    }
    if whole.better_than(best) {
        *best = whole;
    }
}

/// A small deterministic generator (xorshift) for the choices of the search.
#[derive(Clone, Debug)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

/// Takes some machines away and packs their pods again, as long as steps are left; keeps what is cheaper.
pub(super) fn search(
    mix: &Mix,
    searches: &mut Searches<'_>,
    generated: &Generated,
    whole: &mut Whole,
    budget: &mut Budget,
) {
    /// Machines taken away at once.
    const MOST: usize = 6;
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let mut pots = Pots::of(mix);
    whole
        .machines
        .iter()
        .for_each(|(shape, _)| pots.change(mix, *shape, 1));
    let duals = &generated.duals;
    let shapes = generated.shapes();
    let waste = |(shape, pattern): &Choice| -> i64 {
        let worth = worth_of(pattern, duals);
        (mix.prices[*shape as usize] - worth) * 1_000_000 / mix.prices[*shape as usize].max(1)
    };
    let mut idle = 0;
    let mut sorted = false;
    while budget.left > 0 && whole.machines.len() > 1 && idle < 4000 {
        if !sorted {
            whole.machines.sort_by_cached_key(|m| std::cmp::Reverse(waste(m)));
            sorted = true;
        }
        let n = whole.machines.len();
        let take = 2 + dice.below(MOST - 1);
        let mut picked: Vec<usize> = Vec::new();
        for _ in 0..take.min(n) {
            // The most wasteful are picked most.
            let reach = 1 + dice.below(n);
            let at = dice.below(reach);
            if !picked.contains(&at) {
                picked.push(at);
            }
        }
        picked.sort_unstable();
        let mut part = Whole {
            left: vec![0; mix.n_items()],
            ..Whole::default()
        };
        let mut old_price = 0;
        for at in &picked {
            let (shape, pattern) = &whole.machines[*at];
            old_price += mix.prices[*shape as usize];
            pattern
                .iter()
                .for_each(|(item, n)| part.left[*item as usize] += n);
        }
        let values: Vec<i64> = duals
            .iter()
            .map(|d| (i128::from(*d) * (950 + dice.below(101) as i128) / 1000) as i64 + 1)
            .collect();
        let mut free = pots.clone();
        picked
            .iter()
            .for_each(|at| free.change(mix, whole.machines[*at].0, -1));
        let cheaper = fill(
            mix, searches, &shapes, &values, &mut free, &mut part, old_price, budget,
        ) && part.left.iter().all(|n| *n == 0);
        budget.spend(1);
        if !cheaper {
            idle += 1;
            continue;
        }
        idle = 0;
        sorted = false;
        pots = free;
        for at in picked.iter().rev() {
            whole.machines.swap_remove(*at);
        }
        whole.price += part.price - old_price;
        whole.machines.extend(part.machines);
    }
}

/// Moves every machine to the cheapest shape that holds its pods.
pub(super) fn tighten(mix: &Mix, whole: &mut Whole) {
    let mut pots = Pots::of(mix);
    whole
        .machines
        .iter()
        .for_each(|(shape, _)| pots.change(mix, *shape, 1));
    let mut order: Vec<u32> = (0..mix.n_shapes() as u32).collect();
    order.sort_by_key(|s| (mix.prices[*s as usize], *s));
    for (shape, pattern) in &mut whole.machines {
        let mut sum = vec![0; mix.n_res];
        for (item, n) in pattern.iter() {
            sum.iter_mut()
                .zip(mix.request(*item as usize))
                .for_each(|(s, r)| *s += r * i64::from(*n));
        }
        let fits = |s: u32| {
            times(mix.room(s as usize), &sum) > 0
                && pattern
                    .iter()
                    .all(|(item, _)| mix.takes[s as usize].binary_search(item).is_ok())
        };
        let cheaper = order
            .iter()
            .take_while(|s| mix.prices[**s as usize] < mix.prices[*shape as usize])
            .find(|s| fits(**s) && pots.admit(mix, **s));
        if let Some(better) = cheaper {
            pots.change(mix, *shape, -1);
            pots.change(mix, *better, 1);
            whole.price += mix.prices[*better as usize] - mix.prices[*shape as usize];
            *shape = *better;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_column_is_bought_once_and_only_whole() {
        let mix = Mix {
            n_res: 1,
            requests: vec![1, 1],
            counts: vec![7, 3],
            caps: vec![7, 3],
            rooms: vec![2],
            prices: vec![10],
            takes: vec![vec![0, 1]],
            ..Mix::default()
        };
        let generated = Generated {
            columns: vec![(0, vec![(0, 2)]), (0, vec![(1, 2)])],
            // The first is four machines but for what rounding took, of which the pods fill three.
            solution: vec![(0, 3.999_999_9), (1, 1.5)],
            ..Generated::default()
        };
        let mut whole = Whole {
            left: mix.counts.clone(),
            ..Whole::default()
        };
        let mut pots = Pots::of(&mix);
        buy_whole(&mix, &generated, &mut whole, &mut pots);
        assert_eq!((whole.machines.len(), &whole.left[..]), (4, &[1, 1][..]));
        buy_parts(&mix, &generated, &mut whole, &mut pots);
        assert_eq!(
            (whole.machines.len(), &whole.left[..]),
            (4, &[1, 1][..]),
            "one pod fills no content of two"
        );
        whole.left = vec![3, 3];
        buy_parts(&mix, &generated, &mut whole, &mut pots);
        assert_eq!(whole.left, vec![1, 1], "each column once");
    }
}
