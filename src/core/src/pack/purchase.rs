//! The master problem of column generation: which of the patterns known so far to buy, and what pods are worth to it.

use rustc_hash::FxHashSet;

use super::{
    columns::{Budget, Choice, lone, worth_of},
    fit::{add_part, remove_part, take},
    mix::{Mix, Pattern},
    simplex::{Column, Master},
};

/// Leaving a pod out costs this many times its lone worth: more than any pattern that holds it.
const DETERRENT: f64 = 50.0;
/// A pattern must promise at least this share of its price, in millionths, to be worth a column.
const PROMISE: i64 = 100;
/// An amount of a column that is none, and how often what was exchanged may be exchanged again.
const AMOUNT_MIN: f64 = 1e-6;
const CHAINS_MAX: usize = 4;

/// Pods that may be had for the place of one pod of the item.
#[derive(Debug)]
struct Exchange {
    number: u32,
    item: u32,
    pattern: Pattern,
}

/// The master problem: its rows are the wanted items, then the pots.
pub(super) struct Purchase<'a> {
    mix: &'a Mix,
    /// The wanted items.
    pub(super) rows: Vec<u32>,
    row_of: Vec<u32>,
    /// What a machine of each shape takes from the pots, by row.
    pots_of_shape: Vec<Vec<(u32, f64)>>,
    master: Master,
    /// The master's prices, by row.
    prices: Vec<f64>,
    seen: FxHashSet<Choice>,
    pub(super) columns: Vec<Choice>,
    /// Number of each pattern among the master's columns.
    numbers: Vec<u32>,
    /// Exchanges among the master's columns, and the items that make room.
    exchanges: Vec<Exchange>,
    shortage: Vec<f64>,
}

impl<'a> Purchase<'a> {
    pub(super) fn new(mix: &'a Mix, counts: &[u32], known: &[Choice]) -> Self {
        let rows: Vec<u32> = (0..mix.n_items() as u32)
            .filter(|i| counts[*i as usize] > 0)
            .collect();
        let mut row_of = vec![u32::MAX; mix.n_items()];
        for (row, item) in rows.iter().enumerate() {
            row_of[*item as usize] = row as u32;
        }
        let lone = lone(mix, counts);
        let mut wanted: Vec<f64> = rows.iter().map(|i| f64::from(counts[*i as usize])).collect();
        let mut shortage: Vec<f64> = rows
            .iter()
            .map(|i| lone[*i as usize].map_or(0.0, |(_, _, w)| w as f64) * DETERRENT + 1.0)
            .collect();
        let mut pots_of_shape: Vec<Vec<(u32, f64)>> = vec![Vec::new(); mix.n_shapes()];
        for pot in &mix.pots {
            let row = wanted.len() as u32;
            // Amounts are scaled so that the largest user has entry 1.
            let scale = pot.usage.iter().map(|(_, used)| *used).max().unwrap_or(1).max(1) as f64;
            wanted.push(-(pot.amount as f64) / scale);
            shortage.push(0.0);
            for (shape, used) in &pot.usage {
                pots_of_shape[*shape as usize].push((row, -(*used as f64) / scale));
            }
        }
        let mut purchase = Self {
            mix,
            prices: vec![0.0; wanted.len()],
            master: Master::new(wanted, shortage.clone()),
            shortage,
            rows,
            row_of,
            pots_of_shape,
            seen: FxHashSet::default(),
            columns: Vec::new(),
            numbers: Vec::new(),
            exchanges: Vec::new(),
        };
        for item in purchase.rows.clone() {
            if let Some((shape, n, _)) = lone[item as usize] {
                purchase.add((shape, vec![(item, n)]));
            }
        }
        for choice in known {
            purchase.add(choice.clone());
        }
        purchase
    }

    /// Makes a pattern known. False if it is known or holds nothing that is wanted.
    pub(super) fn add(&mut self, choice: Choice) -> bool {
        let mut entries = self.entries(&choice.1);
        if entries.is_empty() || !self.seen.insert(choice.clone()) {
            return false;
        }
        entries.extend(&self.pots_of_shape[choice.0 as usize]);
        let cost = self.mix.prices[choice.0 as usize] as f64;
        self.numbers.push(self.master.add(Column { cost, entries }));
        self.columns.push(choice);
        true
    }

    /// Lets a content that may not fit be had at this cost: what cannot be ruled out has to be paid for. False if it is of no
    /// use at these prices.
    pub(super) fn suppose(&mut self, (shape, pattern): &Choice, cost: i64, duals: &[i64]) -> bool {
        let mut entries = self.entries(pattern);
        if worth_of(pattern, duals) <= cost {
            return false;
        }
        entries.extend(&self.pots_of_shape[*shape as usize]);
        let cost = cost as f64;
        self.master.add(Column { cost, entries });
        true
    }

    fn entries(&self, pattern: &[(u32, u32)]) -> Vec<(u32, f64)> {
        let wanted = pattern
            .iter()
            .filter(|(i, _)| self.row_of[*i as usize] != u32::MAX);
        wanted
            .map(|(i, n)| (self.row_of[*i as usize], f64::from(*n)))
            .collect()
    }

    /// Lets this content be had for the place of one pod of the item, which holds it. At the best prices a pod is worth at
    /// least what could stand in its place; knowing that, they are found with far fewer patterns.
    pub(super) fn exchange(&mut self, item: u32, pattern: Pattern) -> bool {
        let row = self.row_of[item as usize];
        let mut entries = self.entries(&pattern);
        // Patterns on shapes have the numbers of shapes.
        let choice = (self.mix.n_shapes() as u32 + item, pattern.clone());
        if row == u32::MAX || entries.is_empty() || !self.seen.insert(choice) {
            return false;
        }
        entries.push((row, -1.0));
        entries.sort_unstable_by_key(|(row, _)| *row);
        let number = self.master.add(Column { cost: 0.0, entries });
        self.exchanges.push(Exchange {
            number,
            item,
            pattern,
        });
        true
    }

    /// Makes contents of what was exchanged, as far as that fits, and the exchanges too dear to be of use.
    pub(super) fn close_exchanges(&mut self) {
        let mut contents: Vec<(Choice, f64)> = Vec::new();
        let mut open: Vec<(u32, f64)> = Vec::new();
        for (column, amount) in self.master.solution() {
            if let Ok(at) = self.numbers.binary_search(&column) {
                contents.push((self.columns[at].clone(), amount));
            } else if let Ok(at) = self.exchanges.binary_search_by_key(&column, |it| it.number) {
                open.push((at as u32, amount));
            }
        }
        // What comes by one exchange may leave by another.
        for _ in 0..CHAINS_MAX {
            for (at, wanted) in &mut open {
                let Exchange { item, pattern, .. } = &self.exchanges[*at as usize];
                let mut from = 0;
                while *wanted > AMOUNT_MIN && from < contents.len() {
                    let ((shape, content), amount) = &contents[from];
                    if *amount > AMOUNT_MIN
                        && let Some(other) = exchanged(self.mix, *shape, content, *item, pattern)
                    {
                        let part = wanted.min(*amount);
                        let choice = (*shape, other);
                        contents[from].1 -= part;
                        *wanted -= part;
                        contents.push((choice, part));
                    }
                    from += 1;
                }
            }
            open.retain(|(_, wanted)| *wanted > AMOUNT_MIN);
        }
        for (choice, amount) in contents {
            if amount > AMOUNT_MIN {
                self.add(choice);
            }
        }
        for exchange in std::mem::take(&mut self.exchanges) {
            let row = self.row_of[exchange.item as usize];
            self.master.reprice(exchange.number, self.shortage[row as usize]);
        }
    }

    /// Solves the master problem within the budget; returns what a pod of each item is worth to it.
    pub(super) fn solve(&mut self, budget: &mut Budget) -> Vec<i64> {
        self.master.solve(1 + budget.left);
        budget.spend(self.master.steps());
        self.prices = self.master.duals();
        let mut duals = vec![0; self.mix.n_items()];
        for (item, price) in self.rows.iter().zip(&self.prices) {
            duals[*item as usize] = price.max(0.0) as i64;
        }
        duals
    }

    /// What a pattern must be worth on each shape to be of use: the price of the shape, and of what it takes from the pots.
    pub(super) fn floors(&self) -> Vec<i64> {
        let floor = |shape: usize| {
            let pots = self.pots_of_shape[shape].iter();
            let pots = pots.map(|(row, a)| -a * self.prices[*row as usize].max(0.0));
            let price = self.mix.prices[shape] + pots.sum::<f64>() as i64;
            price + price / 1_000_000 * PROMISE
        };
        (0..self.mix.n_shapes()).map(floor).collect()
    }

    /// The patterns, and how often each is bought.
    pub(super) fn outcome(self) -> (Vec<Choice>, Vec<(u32, f64)>) {
        let solution = self.master.solution().into_iter();
        let number = |column: u32| self.numbers.binary_search(&column).ok();
        let solution = solution.filter_map(|(column, amount)| Some((number(column)? as u32, amount)));
        let solution = solution.collect();
        (self.columns, solution)
    }
}

/// The content with these pods instead of one of the item, if the shape holds it.
fn exchanged(mix: &Mix, shape: u32, content: &Pattern, item: u32, others: &Pattern) -> Option<Pattern> {
    content.iter().find(|(i, _)| *i == item)?;
    let mut all = content.clone();
    remove_part(&mut all, item, 1);
    others.iter().for_each(|(i, n)| add_part(&mut all, *i, *n));
    all.sort_unstable();
    let mut room = mix.room(shape as usize).to_vec();
    all.iter()
        .for_each(|(i, n)| take(&mut room, mix.request(*i as usize), *n));
    let takes = &mix.takes[shape as usize];
    let admits = |(i, n): &(u32, u32)| *n <= mix.caps[*i as usize] && takes.binary_search(i).is_ok();
    (room.iter().all(|left| *left >= 0) && all.iter().all(admits)).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_exchanged_becomes_a_content_where_it_fits() {
        // Machines of ten cores and three pods; pods of six, three and two cores.
        let mix = Mix {
            n_res: 2,
            requests: vec![6, 1, 3, 1, 2, 1],
            counts: vec![10, 10, 10],
            caps: vec![10, 10, 1],
            rooms: vec![10, 3],
            prices: vec![100],
            takes: vec![vec![0, 1, 2]],
            ..Mix::default()
        };
        let both = vec![(0, 1), (1, 1)];
        let one = |others: &[(u32, u32)]| exchanged(&mix, 0, &both, 0, &others.to_vec());
        assert_eq!(one(&[(1, 2)]), Some(vec![(1, 3)]));
        assert_eq!(one(&[(1, 1), (2, 1)]), Some(vec![(1, 2), (2, 1)]));
        assert_eq!(one(&[(1, 3)]), None, "four pods in the place of three");
        assert_eq!(one(&[(2, 2)]), None, "more than the cap");
        assert_eq!(
            exchanged(&mix, 0, &both, 2, &vec![(1, 1)]),
            None,
            "there is none to exchange"
        );
    }
}
