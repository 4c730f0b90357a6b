//! The most valuable content of one machine, proven by dynamic programming.
//!
//! Branch and bound ([`super::knapsack`]) finds good contents quickly but, at prices where many contents are worth about
//! the same, cannot finish. Here contents that leave no more room and are worth no more than another one are dropped,
//! and so is whatever cannot exceed the floor.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use smallvec::SmallVec;

use super::{
    columns::worth_of,
    fit::times,
    knapsack::{Found, Knapsack, VARIETY_MAX},
};

/// States after which the proof stops and settles for a weaker bound.
const STATES_MAX: usize = 20_000;
/// Rounds of moving the weights before contents are enumerated.
const ROUNDS: usize = 16;
/// Pods times kinds of pods that whoever checks can enumerate the contents of, surely.
const CHECKED_VARIETY_MAX: f64 = 200.0;
/// Work of one state, see [`Knapsack::work`].
const WORK_PER_STATE: u64 = 30;

/// Contents considered so far, by what they leave.
#[derive(Clone, Debug)]
struct State {
    worth: i64,
    room: SmallVec<[i64; 6]>,
    /// What each line has left.
    left: SmallVec<[f64; 12]>,
    /// The last link of how it came about.
    trail: u32,
}

/// (link before, entry, how many of it).
type Link = (u32, u32, u32);

impl Knapsack<'_> {
    /// The best content of a shape if it is worth more than the floor, with an upper bound that is exact unless there are
    /// too many states or the steps run out.
    pub(super) fn prove(
        &mut self,
        shape: usize,
        values: &[i64],
        counts: &[u32],
        floor: i64,
        steps_max: u64,
    ) -> Found {
        self.seek(shape, values, counts, floor, i64::MAX, steps_max)
    }

    /// The same, but a content worth more than `enough` will do.
    pub(super) fn seek(
        &mut self,
        shape: usize,
        values: &[i64],
        counts: &[u32],
        floor: i64,
        enough: i64,
        steps_max: u64,
    ) -> Found {
        let mut upper = self.tighten(shape, values, counts, floor, ROUNDS);
        let mut table = Found::default();
        if upper > floor
            && let Some(found) = self.by_cells(shape, values, counts, steps_max)
        {
            table = found;
            upper = upper.min(table.upper);
        }
        // Whoever checks has tables too, but cannot look at as many contents.
        let variety_max = if self.closely {
            CHECKED_VARIETY_MAX
        } else {
            VARIETY_MAX
        };
        if self.closely && upper > floor && table.worth <= enough && self.variety > variety_max {
            upper = upper.min(self.by_two(shape, values, counts, floor, steps_max).upper);
        }
        if upper <= floor || table.worth > enough || self.variety > variety_max {
            return Found { upper, ..table };
        }
        // What takes a slot comes last: until then all contents leave the same slots.
        let mix = self.mix;
        let slots = mix.n_res - mix.n_slots..mix.n_res;
        self.entries
            .sort_by_key(|e| mix.request(e.item as usize)[slots.clone()].iter().any(|n| *n > 0));
        let lines = self.lines(shape);
        let hope = |at: usize, state: &State| -> i64 {
            let bounds = lines
                .iter()
                .zip(&state.left)
                .map(|(line, left)| left * line.density[at]);
            (bounds.fold(f64::INFINITY, f64::min) * (1.0 + 1e-9)) as i64 + 1
        };
        let active = self.active(shape);
        let mut goal = floor.max(table.worth);
        let mut best = 0;
        let mut links: Vec<Link> = vec![(0, 0, 0)];
        let start = State {
            trail: 0,
            worth: 0,
            room: self.mix.room(shape).into(),
            left: lines.iter().map(|line| line.room).collect(),
        };
        let mut states = vec![start];
        let work_max = self.work.saturating_add(steps_max.saturating_mul(1000));
        for (at, entry) in self.entries.iter().enumerate() {
            let request = self.mix.request(entry.item as usize);
            let mut next: Vec<State> = Vec::with_capacity(states.len() * 2);
            for (seen, state) in states.iter().enumerate() {
                let most = times(&state.room, request).min(entry.cap);
                self.work += WORK_PER_STATE * (1 + u64::from(most));
                if self.work > work_max {
                    let unseen = states[seen..].iter().map(|s| s.worth + hope(at, s));
                    let rest = unseen.chain(next.iter().map(|s| s.worth + hope(at + 1, s))).max();
                    return self.found(
                        table,
                        best,
                        &links,
                        values,
                        rest.unwrap_or(0).max(goal).min(upper),
                    );
                }
                for n in 0..=most {
                    let mut more = State {
                        trail: state.trail,
                        worth: state.worth + entry.worth * i64::from(n),
                        room: state
                            .room
                            .iter()
                            .zip(request)
                            .map(|(h, w)| h - w * i64::from(n))
                            .collect(),
                        left: state
                            .left
                            .iter()
                            .zip(&lines)
                            .map(|(l, line)| l - line.share[at] * f64::from(n))
                            .collect(),
                    };
                    let better = more.worth > goal;
                    let may_grow = at + 1 < self.entries.len()
                        && more.worth + hope(at + 1, &more) > goal.max(more.worth);
                    if n > 0 && (better || may_grow) {
                        links.push((state.trail, at as u32, n));
                        more.trail = links.len() as u32 - 1;
                    }
                    if better {
                        goal = more.worth;
                        best = more.trail;
                    }
                    if may_grow {
                        next.push(more);
                    }
                }
            }
            next.retain(|state| state.worth + hope(at + 1, state) > goal);
            states = undominated(next, &active);
            if states.len() > STATES_MAX {
                let rest = states
                    .iter()
                    .map(|s| s.worth + hope(at + 1, s))
                    .max()
                    .unwrap_or(0);
                return self.found(table, best, &links, values, rest.max(goal).min(upper));
            }
            if states.is_empty() {
                break;
            }
        }
        self.found(table, best, &links, values, goal.min(upper))
    }

    /// The content at the end of a trail, or the one of the table where that led to none better.
    fn found(&self, table: Found, mut trail: u32, links: &[Link], values: &[i64], upper: i64) -> Found {
        if trail == 0 {
            return Found { upper, ..table };
        }
        let mut pattern = Vec::new();
        while trail != 0 {
            let (before, entry, n) = links[trail as usize];
            pattern.push((self.entries[entry as usize].item, n));
            trail = before;
        }
        pattern.sort_unstable();
        Found {
            worth: worth_of(&pattern, values),
            upper,
            pattern,
        }
    }

    /// Resources that can run out before the others make it impossible.
    pub(super) fn active(&self, shape: usize) -> Vec<usize> {
        let room = self.mix.room(shape);
        let request = |entry: usize, r: usize| self.mix.request(self.entries[entry].item as usize)[r];
        // By the other resources alone, no more pods than this fit.
        let least = |r: usize| (0..self.entries.len()).map(|e| request(e, r)).min().unwrap_or(0);
        let most_by = |r: usize| {
            if least(r) > 0 {
                room[r] / least(r)
            } else {
                i64::MAX
            }
        };
        let mut active: Vec<usize> = (0..self.mix.n_res).collect();
        for (r, room) in room.iter().enumerate() {
            let largest = (0..self.entries.len()).map(|e| request(e, r)).max().unwrap_or(0);
            // One that is left out no longer keeps another from running out.
            let others = active.iter().copied().filter(|o| *o != r);
            let most = others.map(most_by).min().unwrap_or(i64::MAX);
            let runs_out = largest > 0 && most.checked_mul(largest).is_none_or(|all| all > *room);
            active.retain(|o| *o != r || runs_out);
        }
        active
    }
}

/// Drops states that another one beats in worth and in every active resource.
fn undominated(mut states: Vec<State>, active: &[usize]) -> Vec<State> {
    /// Groups that a state is compared with: its own and those that leave next more.
    const COMPARED_MAX: usize = 64;
    let amounts = |r: &usize| -> BTreeSet<i64> { states.iter().map(|s| s.room[*r]).collect() };
    let differ = |r: &usize| states.windows(2).any(|pair| pair[0].room[*r] != pair[1].room[*r]);
    let mut active: Vec<usize> = active.iter().copied().filter(differ).collect();
    if active.len() > 2 {
        active.sort_by_cached_key(|r| amounts(r).len());
    }
    // Residual rooms of better states are staircases over the two resources of most amounts, one for each group of
    // states that leave the same of the others.
    let (keyed, stairs) = active.split_at(active.len().saturating_sub(2));
    let left = |state: &State, at: usize| stairs.get(at).map_or(0, |r| state.room[*r]);
    let key_of = |state: &State| -> SmallVec<[i64; 4]> { keyed.iter().map(|r| state.room[*r]).collect() };
    states.sort_by_cached_key(|s| Reverse((s.worth, left(s, 0), left(s, 1), key_of(s))));
    let mut groups: BTreeMap<SmallVec<[i64; 4]>, BTreeMap<i64, i64>> = BTreeMap::new();
    states.retain(|state| {
        let key = key_of(state);
        let (first, second) = (left(state, 0), left(state, 1));
        let beats = |(other, stairs): (&SmallVec<[i64; 4]>, &BTreeMap<i64, i64>)| {
            other.iter().zip(&key).all(|(more, less)| more >= less)
                && stairs
                    .range(first..)
                    .next()
                    .is_some_and(|(_, other)| *other >= second)
        };
        if groups.range(key.clone()..).take(COMPARED_MAX).any(beats) {
            return false;
        }
        let stairs = groups.entry(key).or_default();
        let covered = stairs.range(..=first).rev();
        let covered: SmallVec<[i64; 8]> = covered
            .take_while(|(_, other)| **other <= second)
            .map(|(k, _)| *k)
            .collect();
        covered.iter().for_each(|k| {
            stairs.remove(k);
        });
        stairs.insert(first, second);
        true
    });
    states
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::draws;

    fn state(worth: i64, room: &[i64]) -> State {
        State {
            worth,
            room: room.into(),
            left: SmallVec::new(),
            trail: 0,
        }
    }

    fn beats(a: &State, b: &State, active: &[usize]) -> bool {
        a.worth >= b.worth && active.iter().all(|r| a.room[*r] >= b.room[*r])
    }

    #[test]
    fn what_is_dropped_is_beaten_by_what_is_kept() {
        let mut next = draws(5);
        let mut dropped = 0;
        for (active, amounts) in [
            (&[0_usize][..], [9, 9, 1, 1]),
            (&[0, 1], [9, 9, 1, 1]),
            (&[0, 1, 2], [30, 30, 5, 1]),
            // More groups than a state is compared with.
            (&[0, 1, 2, 3], [12, 12, 12, 12]),
        ] {
            for _ in 0..50 {
                let states: Vec<State> = (0..200)
                    .map(|_| state(next(20), &amounts.map(&mut next)))
                    .collect();
                let kept = undominated(states.clone(), active);
                for lost in &states {
                    let covered = kept.iter().any(|k| beats(k, lost, active));
                    assert!(covered, "{lost:?} is gone and nothing kept is as good");
                }
                if active.len() < 4 {
                    for (at, a) in kept.iter().enumerate() {
                        let others = kept.iter().enumerate().filter(|(other, _)| *other != at);
                        let beaten = others.into_iter().any(|(_, b)| beats(b, a, active));
                        assert!(!beaten, "{a:?} is kept beside one as good");
                    }
                }
                dropped += states.len() - kept.len();
            }
        }
        assert!(dropped > 10_000, "only {dropped} states were dropped");
    }
}
