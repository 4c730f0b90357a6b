//! Chooses a domain for each pod whose class cares about domains, or whose domain others care about.
//!
//! A *cell* is one combination of values of the topology keys a class looks at. Pods are given to cells one by one,
//! so that the counters hold after each of them, whatever order kube-scheduler binds them in.

use std::{collections::BTreeMap, rc::Rc};

use fixedbitset::FixedBitSet;

use super::{
    compile::Problem,
    keys::ABSENT,
    topology::{DomainRule, Rule},
};

/// Places that share the values of some keys.
#[derive(Debug)]
pub(super) struct Cell {
    /// One value id per key.
    pub(super) values: Vec<u32>,
    pub(super) places: FixedBitSet,
}

/// Cells by the keys they are made of.
#[derive(Debug, Default)]
pub(super) struct Cells {
    by_keys: BTreeMap<Vec<u32>, Rc<Vec<Cell>>>,
}

impl Cells {
    pub(super) fn of(&mut self, problem: &Problem<'_>, keys: &[u32]) -> Rc<Vec<Cell>> {
        if let Some(cells) = self.by_keys.get(keys) {
            return cells.clone();
        }
        let n_places = problem.n_offers() + problem.snapshot.nodes.len();
        let mut cells: BTreeMap<Vec<u32>, FixedBitSet> = BTreeMap::new();
        for place in 0..n_places {
            let values = keys
                .iter()
                .map(|k| problem.keys.keys[*k as usize].of_place[place])
                .collect();
            cells
                .entry(values)
                .or_insert_with(|| FixedBitSet::with_capacity(n_places))
                .insert(place);
        }
        let cells: Vec<Cell> = cells
            .into_iter()
            .map(|(values, places)| Cell { values, places })
            .collect();
        let cells = Rc::new(cells);
        self.by_keys.insert(keys.to_vec(), cells.clone());
        cells
    }
}

/// Keys whose values matter for pods of a class: those of its own rules and those it is counted by.
pub(super) fn keys_of(problem: &Problem<'_>, class: u32) -> Vec<u32> {
    let topology = &problem.topology;
    let own = topology.rules[class as usize].iter().map(DomainRule::group);
    let counted = topology.counted_in[class as usize].iter().copied();
    let mut keys: Vec<u32> = own
        .chain(counted)
        .map(|g| topology.groups[g as usize].key)
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// One broken preference is worse than any number of strained spreads.
const PREFERENCE: i64 = 1 << 20;

/// Pods counted so far, by group and value.
pub(super) type Counts = Vec<Vec<i64>>;

/// The value of a group's key in a cell.
pub(super) fn value_in(problem: &Problem<'_>, keys: &[u32], cell: &Cell, group: u32) -> u32 {
    let key = problem.topology.groups[group as usize].key;
    let at = keys
        .binary_search(&key)
        .expect("the keys of a class contain those of its groups");
    cell.values[at]
}

/// The count of the emptiest domain.
pub(super) fn least(domains: &[u32], counts: &[i64]) -> i64 {
    domains.iter().map(|d| counts[*d as usize]).min().unwrap_or(0)
}

/// Whether a rule admits one more pod of its class in a domain.
pub(super) fn admits(rule: &Rule, counts: &Counts, value: u32) -> bool {
    match rule {
        Rule::Spread {
            group,
            max_skew,
            min_domains,
            counts_self,
            domains,
        } => {
            let counts = &counts[*group as usize];
            let least = if domains.len() < *min_domains {
                0
            } else {
                least(domains, counts)
            };
            value != ABSENT && counts[value as usize] + i64::from(*counts_self) - least <= *max_skew
        }
        Rule::Affinity { group, counts_self } => {
            let counts = &counts[*group as usize];
            value != ABSENT
                && (counts[value as usize] > 0 || (*counts_self && counts.iter().all(|count| *count == 0)))
        }
        Rule::Anti { group } => value == ABSENT || counts[*group as usize][value as usize] == 0,
    }
}

/// Whether hard rules admit one more pod of the class in the cell, and how bad it would be there: first the weight of the
/// preferences it would break, then how many spreads of other classes would be strained.
pub(super) fn verdict(
    problem: &Problem<'_>,
    class: u32,
    keys: &[u32],
    cell: &Cell,
    counts: &Counts,
) -> Option<i64> {
    let mut broken = 0;
    for DomainRule { rule, weight } in &problem.topology.rules[class as usize] {
        let group = match rule {
            Rule::Spread { group, .. } | Rule::Affinity { group, .. } | Rule::Anti { group } => *group,
        };
        if !admits(rule, counts, value_in(problem, keys, cell, group)) {
            broken += (i64::from((*weight)?) + 1) * PREFERENCE;
        }
    }
    // A pod that no spread binds, but that one counts, could fill a domain before the pods that need it even come: kube-
    // scheduler binds in any order. So it keeps the balance too where it can.
    for group in &problem.topology.counted_in[class as usize] {
        if let Some((max_skew, domains)) = &problem.topology.groups[*group as usize].spread {
            let value = value_in(problem, keys, cell, *group);
            let counts = &counts[*group as usize];
            let least = least(domains, counts);
            broken += i64::from(value != ABSENT && counts[value as usize] + 1 - least > *max_skew);
        }
    }
    Some(broken)
}

/// Counts (or, with `n` negative, uncounts) pods of a class in a cell. `passes` tells which group filters they pass.
pub(super) fn count(
    problem: &Problem<'_>,
    class: u32,
    keys: &[u32],
    cell: &Cell,
    passes: impl Fn(&FixedBitSet) -> bool,
    n: i64,
    counts: &mut Counts,
) {
    for group in &problem.topology.counted_in[class as usize] {
        let value = value_in(problem, keys, cell, *group);
        let filter = &problem.topology.groups[*group as usize].filter;
        if value != ABSENT && filter.as_ref().is_none_or(|f| passes(f)) {
            counts[*group as usize][value as usize] += n;
        }
    }
}
