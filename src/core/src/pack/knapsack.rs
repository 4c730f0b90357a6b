//! The most valuable content of one machine: a bounded knapsack in several resources.
//!
//! Branch and bound in the order of worth per *share*, the share being a weighted sum of the parts of each resource that
//! a pod takes. The weights are moved until they bound as tightly as they can; they stay for the next time.

use super::{
    fit::{take, times},
    mix::{Mix, Pattern},
};

/// Units into which each resource of a machine is divided.
const UNITS: i64 = 1 << 20;
/// Sum of the weights of all resources.
const WEIGHTS: i64 = 1 << 20;

/// The part of a fair share that is granted.
const FAIR: f64 = 0.999;
/// Rounds of moving the weights for a search.
const ROUNDS: usize = 4;
/// Pods times kinds of pods beyond which contents are not enumerated: they are too many, and cutting pods makes little
/// of a difference.
pub(super) const VARIETY_MAX: f64 = 8_000.0;
/// Times each resource in turn gets the price at which it is just used up.
const DESCENTS_MAX: usize = 4;

/// What was found for one machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) worth: i64,
    /// No content is worth more than this.
    pub(super) upper: i64,
    pub(super) pattern: Pattern,
}

/// A kind of pod as the search sees it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) item: u32,
    /// Position in the list of items the shape takes.
    at: u32,
    pub(super) cap: u32,
    pub(super) worth: i64,
    /// Weighted share of the machine.
    share: i64,
    /// Worth per share.
    density: f64,
}

/// The search over one mix; keeps what does not depend on the values.
#[derive(Debug)]
pub(super) struct Knapsack<'a> {
    pub(super) mix: &'a Mix,
    /// For each shape that was looked at, for each item it takes, the part of each resource in [`UNITS`], rounded down.
    parts: Vec<Vec<u32>>,
    /// For each shape the weight of each resource.
    weights: Vec<Vec<i64>>,
    pub(super) entries: Vec<Entry>,
    /// Pods of the best content if they could be cut, times the kinds of them.
    pub(super) variety: f64,
    /// Whether there are steps for tables over two resources, and for caps of kinds of pods in all tables.
    pub(super) closely: bool,
    /// Work done, in units of roughly ten nanoseconds; see [`Knapsack::steps`].
    pub(super) work: u64,
}

impl<'a> Knapsack<'a> {
    /// `unit_prices` of the resources tell which of them are scarce.
    pub(super) fn new(mix: &'a Mix, unit_prices: &[f64]) -> Self {
        Self {
            mix,
            parts: vec![Vec::new(); mix.n_shapes()],
            weights: (0..mix.n_shapes())
                .map(|s| weights(mix, unit_prices, s))
                .collect(),
            entries: Vec::new(),
            variety: 0.0,
            closely: false,
            work: 0,
        }
    }

    /// The work since the last call, in steps of roughly ten microseconds.
    pub(super) fn steps(&mut self) -> u64 {
        let steps = self.work / 1000;
        self.work %= 1000;
        steps
    }

    /// The best content of a shape for these values if it is worth more than `floor`, looking at no more than
    /// `nodes_max` contents. `counts` bounds each item besides its cap.
    pub(super) fn best(
        &mut self,
        shape: usize,
        values: &[i64],
        counts: &[u32],
        floor: i64,
        nodes_max: u32,
    ) -> Found {
        let upper = self.tighten(shape, values, counts, floor, ROUNDS);
        if upper <= floor {
            return Found {
                upper,
                ..Found::default()
            };
        }
        let (worth, taken, complete) = self.search(shape, floor, nodes_max);
        let mut pattern: Pattern = taken
            .iter()
            .enumerate()
            .filter(|(_, n)| **n > 0)
            .map(|(e, n)| (self.entries[e].item, *n))
            .collect();
        pattern.sort_unstable();
        Found {
            worth,
            upper: if complete { worth.max(floor) } else { upper },
            pattern,
        }
    }

    /// The pods that a shape holds at best times the kinds of pods it could hold: the more, the harder is it to look at
    /// all contents.
    pub(super) fn variety(&mut self, shape: usize, values: &[i64], counts: &[u32]) -> f64 {
        self.list(shape, values, counts);
        let mut usage = vec![0.0; self.mix.n_res];
        self.relaxed(shape, &mut usage);
        self.variety
    }

    /// Prices of a unit of each resource at which the best content of the shape is just paid for, could pods be cut, with
    /// the entries as they are listed.
    pub(super) fn prices(&self, shape: usize) -> Vec<f64> {
        let mut left = (UNITS * WEIGHTS) as f64;
        let full = self.entries.iter().find(|entry| {
            left -= f64::from(entry.cap) * entry.share as f64;
            left <= 0.0
        });
        let per_share = full.map_or(0.0, |entry| entry.density);
        let price =
            |(weight, room): (&i64, &i64)| per_share * *weight as f64 * UNITS as f64 / (*room).max(1) as f64;
        self.weights[shape]
            .iter()
            .zip(self.mix.room(shape))
            .map(price)
            .collect()
    }

    /// Lists the items by worth per share under the weights.
    fn list(&mut self, shape: usize, values: &[i64], counts: &[u32]) {
        let n_res = self.mix.n_res;
        self.entries.clear();
        if self.parts[shape].is_empty() {
            self.parts[shape] = parts(self.mix, shape);
        }
        let weights = &self.weights[shape];
        self.work += self.mix.takes[shape].len() as u64 / 10;
        for (at, item) in self.mix.takes[shape].iter().enumerate() {
            let count = counts[*item as usize];
            if count == 0 {
                continue;
            }
            let worth = values[*item as usize];
            let cap = self.mix.caps[*item as usize].min(count);
            if worth <= 0 || cap == 0 {
                continue;
            }
            let parts = &self.parts[shape][at * n_res..][..n_res];
            let share: i64 = parts.iter().zip(weights).map(|(p, w)| i64::from(*p) * w).sum();
            let density = worth as f64 / (share as f64).max(0.5);
            self.entries.push(Entry {
                item: *item,
                at: at as u32,
                cap,
                worth,
                share,
                density,
            });
        }
        self.entries
            .sort_by(|a, b| b.density.total_cmp(&a.density).then(a.item.cmp(&b.item)));
        self.work += 4 * self.entries.len() as u64;
    }

    /// The worth of the best content if pods could be cut and only the weighted share counted, rounded up; and the use
    /// of each resource by that content, in [`UNITS`].
    fn relaxed(&mut self, shape: usize, usage: &mut [f64]) -> i64 {
        usage.fill(0.0);
        let n_res = self.mix.n_res;
        let mut left = (UNITS * WEIGHTS) as f64;
        let mut worth = 0.0;
        let mut pods = 0.0;
        for entry in &self.entries {
            let wanted = f64::from(entry.cap);
            let n = if entry.share == 0 {
                wanted
            } else {
                wanted.min(left / entry.share as f64)
            };
            worth += n * entry.worth as f64;
            pods += n;
            left -= n * entry.share as f64;
            let parts = &self.parts[shape][entry.at as usize * n_res..][..n_res];
            usage
                .iter_mut()
                .zip(parts)
                .for_each(|(u, p)| *u += n * f64::from(*p));
            if left <= 0.5 {
                break;
            }
        }
        self.variety = pods * self.entries.len() as f64;
        // Rounding of doubles is far below a billionth; it must not make the bound too low.
        (worth * (1.0 + 1e-9)) as i64 + 1
    }

    /// Moves the weights towards what the relaxed content uses too much of; leaves `entries` sorted for the best
    /// weights and returns their bound. A bound that is no more than the floor is tight enough.
    pub(super) fn tighten(
        &mut self,
        shape: usize,
        values: &[i64],
        counts: &[u32],
        floor: i64,
        rounds: usize,
    ) -> i64 {
        self.list(shape, values, counts);
        if self.entries.is_empty() {
            return 0;
        }
        let n_res = self.mix.n_res;
        let mut usage = vec![0.0; n_res];
        let mut best = self.relaxed(shape, &mut usage);
        if best <= floor {
            return best;
        }
        let mut best_weights = self.weights[shape].clone();
        for _ in 0..DESCENTS_MAX {
            self.weights[shape] = self.descended(shape, &best_weights);
            self.list(shape, values, counts);
            let mut here = vec![0.0; n_res];
            let bound = self.relaxed(shape, &mut here);
            if bound >= best {
                self.weights[shape].clone_from(&best_weights);
                self.list(shape, values, counts);
                break;
            }
            let small = best - bound < best / 10_000;
            best = bound;
            best_weights.clone_from(&self.weights[shape]);
            usage = here;
            if best <= floor || small {
                break;
            }
        }
        if best <= floor {
            return best;
        }
        let mut step = WEIGHTS as f64 / 4.0;
        let mut improved = true;
        for _ in 0..rounds {
            // Nothing is used too much: the bound is what fits.
            let over = usage.iter().map(|u| u / UNITS as f64 - 1.0).fold(0.0, f64::max);
            if over < 1e-3 {
                break;
            }
            let mean = usage.iter().sum::<f64>() / n_res as f64;
            let moved: Vec<f64> = best_weights
                .iter()
                .zip(&usage)
                .map(|(w, u)| (*w as f64 + step * (u - mean) / UNITS as f64).max(0.0))
                .collect();
            let sum: f64 = moved.iter().sum::<f64>().max(1e-9);
            let mut weights: Vec<i64> = moved.iter().map(|w| (w / sum * WEIGHTS as f64) as i64).collect();
            let rest = WEIGHTS - weights.iter().sum::<i64>();
            let largest = (0..n_res).max_by_key(|r| (weights[*r], n_res - r)).unwrap_or(0);
            weights[largest] += rest;
            self.weights[shape].clone_from(&weights);
            self.list(shape, values, counts);
            let mut here = vec![0.0; n_res];
            let bound = self.relaxed(shape, &mut here);
            improved = bound < best;
            if improved {
                best = bound;
                best_weights = weights;
                usage = here;
                if best <= floor {
                    break;
                }
            } else {
                step /= 2.0;
            }
        }
        if !improved {
            self.weights[shape] = best_weights;
            self.list(shape, values, counts);
        }
        best
    }

    /// Weights in proportion to prices of the resources, found by giving one resource after the other the price at which
    /// the pods that still pay are just enough to use it up.
    fn descended(&mut self, shape: usize, weights: &[i64]) -> Vec<i64> {
        let n_res = self.mix.n_res;
        let parts = |entry: &Entry| &self.parts[shape][entry.at as usize * n_res..][..n_res];
        // What a weighted share costs when the machine is just full.
        let mut left = (UNITS * WEIGHTS) as f64;
        let mut per_share = 0.0;
        for entry in &self.entries {
            left -= f64::from(entry.cap) * entry.share as f64;
            if left <= 0.0 {
                per_share = entry.density;
                break;
            }
        }
        let mut prices: Vec<f64> = weights.iter().map(|w| *w as f64 * per_share).collect();
        let mut paying: Vec<(f64, f64)> = Vec::with_capacity(self.entries.len());
        for r in 0..n_res {
            paying.clear();
            for entry in &self.entries {
                let parts = parts(entry);
                if parts[r] == 0 {
                    continue;
                }
                let others = parts.iter().zip(&prices).enumerate().filter(|(at, _)| *at != r);
                let cost: f64 = others.map(|(_, (p, price))| f64::from(*p) * price).sum();
                let rest = entry.worth as f64 - cost;
                if rest > 0.0 {
                    let part = f64::from(parts[r]);
                    paying.push((rest / part, part * f64::from(entry.cap)));
                }
            }
            paying.sort_by(|a, b| b.0.total_cmp(&a.0));
            let mut used = 0.0;
            prices[r] = 0.0;
            for (price, amount) in &paying {
                used += amount;
                if used >= UNITS as f64 {
                    prices[r] = *price;
                    break;
                }
            }
        }
        self.work += (self.entries.len() * n_res) as u64;
        let sum: f64 = prices.iter().sum::<f64>().max(1e-300);
        let mut weights: Vec<i64> = prices.iter().map(|p| (p / sum * WEIGHTS as f64) as i64).collect();
        let rest = WEIGHTS - weights.iter().sum::<i64>();
        if let Some(largest) = (0..n_res).max_by_key(|r| (weights[*r], n_res - r)) {
            weights[largest] += rest;
        }
        weights
    }

    /// The most that a pod of each listed item may be worth so that no content of the shape is worth more than `price`,
    /// by the weights alone: (item, worth). Contents take no more than the whole room, so shares of it at its price do.
    /// A little less, because whoever checks has to find such weights again.
    pub(super) fn fair(&self, price: i64) -> impl Iterator<Item = (u32, i64)> {
        let per_share = price as f64 / (UNITS * WEIGHTS) as f64 * FAIR;
        self.entries
            .iter()
            .map(move |entry| (entry.item, (entry.share as f64 * per_share) as i64))
    }

    /// Depth first, most of the densest first. Returns the worth (0 when nothing exceeds the floor), how many of each
    /// entry, and whether nothing better can exist.
    fn search(&mut self, shape: usize, floor: i64, nodes_max: u32) -> (i64, Vec<u32>, bool) {
        let entries = &self.entries;
        let mut work = 10 * entries.len() as u64;
        let lines = self.lines(shape);
        let mut room = self.mix.room(shape).to_vec();
        let mut left: Vec<f64> = lines.iter().map(|line| line.room).collect();
        let mut taken = vec![0; entries.len()];
        let mut worth = 0;
        let mut best = (0, Vec::new());
        let mut goal = floor;
        let mut nodes = 0;
        let mut from = 0;
        // The most that entries from `at` on can still add.
        let hope = |at: usize, left: &[f64]| -> i64 {
            let bounds = lines.iter().zip(left).map(|(line, left)| left * line.density[at]);
            (bounds.fold(f64::INFINITY, f64::min) * (1.0 + 1e-9)) as i64 + 1
        };
        loop {
            // Down: take as many as fit of each.
            let mut pruned = false;
            for at in from..entries.len() {
                work += 1;
                if worth + hope(at, &left) <= goal {
                    pruned = true;
                    break;
                }
                let entry = &entries[at];
                let request = self.mix.request(entry.item as usize);
                let n = times(&room, request).min(entry.cap);
                if n > 0 {
                    taken[at] = n;
                    take(&mut room, request, n);
                    left.iter_mut()
                        .zip(&lines)
                        .for_each(|(l, line)| *l -= line.share[at] * f64::from(n));
                    worth += entry.worth * i64::from(n);
                }
            }
            if !pruned && worth > goal {
                goal = worth;
                best = (worth, taken.clone());
            }
            nodes += 1;
            if nodes >= nodes_max {
                self.work += work;
                return (best.0, best.1, false);
            }
            // Up: one less of the last that can still lead to something better.
            loop {
                work += 2;
                let Some(at) = taken.iter().rposition(|n| *n > 0) else {
                    self.work += work;
                    return (best.0, best.1, true);
                };
                let entry = &entries[at];
                let request = self.mix.request(entry.item as usize);
                taken[at] -= 1;
                room.iter_mut()
                    .zip(request)
                    .for_each(|(have, want)| *have += want);
                left.iter_mut()
                    .zip(&lines)
                    .for_each(|(l, line)| *l += line.share[at]);
                worth -= entry.worth;
                if at + 1 < entries.len() && worth + hope(at + 1, &left) > goal {
                    from = at + 1;
                    break;
                }
            }
        }
    }

    /// Ways to bound what fits: the weights found best, each resource alone, and mixtures of both.
    pub(super) fn lines(&self, shape: usize) -> Vec<Line> {
        let n_res = self.mix.n_res;
        let weights: Vec<f64> = self.weights[shape]
            .iter()
            .map(|w| *w as f64 / WEIGHTS as f64)
            .collect();
        let mut all = vec![weights.clone()];
        for r in 0..n_res {
            let unused = |e: &Entry| self.parts[shape][e.at as usize * n_res + r] == 0;
            if self.entries.iter().all(unused) {
                continue;
            }
            for part in [1.0, 0.3] {
                let mixed = weights.iter().map(|w| w * (1.0 - part)).enumerate();
                all.push(mixed.map(|(at, w)| if at == r { w + part } else { w }).collect());
            }
        }
        let line = |weights: Vec<f64>| {
            let share: Vec<f64> = self
                .entries
                .iter()
                .map(|entry| {
                    let parts = &self.parts[shape][entry.at as usize * n_res..][..n_res];
                    // Doubles hold these products exactly enough; a hair less keeps the bound above the truth.
                    parts
                        .iter()
                        .zip(&weights)
                        .map(|(p, w)| f64::from(*p) * w)
                        .sum::<f64>()
                        * (1.0 - 1e-12)
                })
                .collect();
            let mut density: Vec<f64> = self
                .entries
                .iter()
                .zip(&share)
                .map(|(e, s)| e.worth as f64 / s.max(1e-3))
                .collect();
            for at in (0..density.len().saturating_sub(1)).rev() {
                density[at] = density[at].max(density[at + 1]);
            }
            Line {
                share,
                density,
                room: UNITS as f64,
            }
        };
        all.into_iter().map(line).collect()
    }
}

/// Weights in proportion to what each resource of the shape costs at these prices; even where they say nothing.
fn weights(mix: &Mix, unit_prices: &[f64], shape: usize) -> Vec<i64> {
    let price = |r: usize| unit_prices.get(r).copied().unwrap_or(0.0);
    let costs = mix.room(shape).iter().enumerate();
    let costs: Vec<f64> = costs.map(|(r, room)| (*room).max(0) as f64 * price(r)).collect();
    let sum: f64 = costs.iter().sum();
    let even = 1.0 / mix.n_res.max(1) as f64;
    let part = |cost: &f64| if sum > 0.0 { cost / sum } else { even };
    let mut weights: Vec<i64> = costs.iter().map(|c| (part(c) * WEIGHTS as f64) as i64).collect();
    let rest = WEIGHTS - weights.iter().sum::<i64>();
    let largest = (0..mix.n_res).max_by_key(|r| (weights[*r], mix.n_res - r));
    if let Some(largest) = largest {
        weights[largest] += rest;
    }
    weights
}

/// The part of each resource of the shape, in [`UNITS`], that each item it takes would use; a hair less, because the
/// bounds rest on it.
fn parts(mix: &Mix, shape: usize) -> Vec<u32> {
    let room = mix.room(shape);
    let part = |(want, have): (&i64, &i64)| {
        let exact = *want as f64 * UNITS as f64 / (*have).max(1) as f64;
        (exact - 1e-6).max(0.0) as u32
    };
    let items = mix.takes[shape].iter();
    items
        .flat_map(|item| mix.request(*item as usize).iter().zip(room).map(part))
        .collect()
}

/// One weighting of the resources.
pub(super) struct Line {
    /// Weighted share of each entry.
    pub(super) share: Vec<f64>,
    /// Greatest worth per share from each entry on.
    pub(super) density: Vec<f64>,
    pub(super) room: f64,
}
