//! Shapes that differ in their domain alone, seen as one.
//!
//! A spread pins pods to zones, which makes an item of each size in each zone and a shape of each type in each zone.
//! Where the zones have the same prices, what fits well in one of them fits well in all: the good contents are found
//! with a fraction of the items and of the shapes, and then tried in each zone.

use std::cmp::Reverse;

use rustc_hash::FxHashMap;

use super::{
    columns::Choice,
    fit::add_part,
    mix::{Mix, Pattern, Pot},
};

/// Room, price and what is used of each pot.
type Looks<'a> = (&'a [i64], i64, Vec<i64>);

#[derive(Debug)]
pub(super) struct Twins {
    /// The mix with one of all alike.
    pub(super) mix: Mix,
    /// Items of the whole mix by item of this one, the most wanted first.
    items: Vec<Vec<u32>>,
    /// The same for shapes.
    shapes: Vec<Vec<u32>>,
    /// Item of this mix by item of the whole.
    item_of: Vec<u32>,
    shape_of: Vec<u32>,
}

impl Twins {
    /// None where hardly any shapes are alike.
    pub(super) fn of(whole: &Mix) -> Option<Self> {
        let mut used: Vec<Vec<i64>> = vec![vec![0; whole.pots.len()]; whole.n_shapes()];
        for (at, pot) in whole.pots.iter().enumerate() {
            for (shape, amount) in &pot.usage {
                used[*shape as usize][at] = *amount;
            }
        }
        let mut ids: FxHashMap<Looks<'_>, u32> = FxHashMap::default();
        let mut shapes: Vec<Vec<u32>> = Vec::new();
        let mut one_of = vec![0; whole.n_shapes()];
        for (shape, used) in used.iter().enumerate() {
            let looks = (whole.room(shape), whole.prices[shape], used.clone());
            let id = *ids.entry(looks).or_insert(shapes.len() as u32);
            if id as usize == shapes.len() {
                shapes.push(Vec::new());
            }
            shapes[id as usize].push(shape as u32);
            one_of[shape] = id;
        }
        if shapes.len() * 3 > whole.n_shapes() * 2 {
            return None;
        }
        let mut on: Vec<Vec<u32>> = vec![Vec::new(); whole.n_items()];
        for (shape, items) in whole.takes.iter().enumerate() {
            items.iter().for_each(|i| on[*i as usize].push(shape as u32));
        }
        let mut ids: FxHashMap<(&[i64], Vec<u32>, bool), u32> = FxHashMap::default();
        let mut items: Vec<Vec<u32>> = Vec::new();
        for (item, on) in on.iter().enumerate() {
            let mut on: Vec<u32> = on.iter().map(|s| one_of[*s as usize]).collect();
            on.sort_unstable();
            on.dedup();
            let capped = whole.caps[item] < whole.counts[item];
            let id = *ids
                .entry((whole.request(item), on, capped))
                .or_insert(items.len() as u32);
            if id as usize == items.len() {
                items.push(Vec::new());
            }
            items[id as usize].push(item as u32);
        }
        if items.len() * 3 > whole.n_items() * 2 {
            return None;
        }
        for members in &mut items {
            members.sort_by_key(|i| (Reverse(whole.counts[*i as usize]), *i));
        }
        let mix = merged(whole, &items, &shapes, &one_of, &on);
        let mut item_of = vec![0; whole.n_items()];
        for (id, members) in items.iter().enumerate() {
            members.iter().for_each(|i| item_of[*i as usize] = id as u32);
        }
        Some(Self {
            mix,
            items,
            shapes,
            item_of,
            shape_of: one_of,
        })
    }

    /// A content of the whole mix as one of this.
    pub(super) fn merged(&self, (shape, pattern): &Choice) -> Choice {
        let mut merged = Pattern::new();
        for (item, n) in pattern {
            add_part(&mut merged, self.item_of[*item as usize], *n);
        }
        merged.sort_unstable();
        (self.shape_of[*shape as usize], merged)
    }

    /// A content in each of the domains where there is such a shape.
    pub(super) fn everywhere<'a>(
        &'a self,
        whole: &'a Mix,
        choice: &'a Choice,
    ) -> impl Iterator<Item = Choice> + 'a {
        let (shape, pattern) = choice;
        self.shapes[*shape as usize].iter().filter_map(move |shape| {
            let mut here = Pattern::new();
            for (item, n) in pattern {
                let mut wanted = *n;
                for member in &self.items[*item as usize] {
                    let n = wanted.min(whole.caps[*member as usize]);
                    if n > 0 && whole.takes[*shape as usize].binary_search(member).is_ok() {
                        here.push((*member, n));
                        wanted -= n;
                    }
                }
            }
            here.sort_unstable();
            (!here.is_empty()).then_some((*shape, here))
        })
    }

    /// What pods are worth here, for the items of the whole mix.
    pub(super) fn spread(&self, whole: &Mix, worths: &[i64]) -> Vec<i64> {
        let mut out = vec![0; whole.n_items()];
        for (members, worth) in self.items.iter().zip(worths) {
            members.iter().for_each(|i| out[*i as usize] = *worth);
        }
        out
    }
}

/// `on`: the shapes that take each item of the whole.
fn merged(whole: &Mix, items: &[Vec<u32>], shapes: &[Vec<u32>], one_of: &[u32], on: &[Vec<u32>]) -> Mix {
    let mut takes: Vec<Vec<u32>> = vec![Vec::new(); shapes.len()];
    let mut caps = Vec::with_capacity(items.len());
    let mut at_once = vec![0_u32; whole.n_shapes()];
    for (id, members) in items.iter().enumerate() {
        at_once.fill(0);
        for item in members {
            for shape in &on[*item as usize] {
                let sum = &mut at_once[*shape as usize];
                *sum = sum.saturating_add(whole.caps[*item as usize]);
                let list = &mut takes[one_of[*shape as usize] as usize];
                if list.last() != Some(&(id as u32)) {
                    list.push(id as u32);
                }
            }
        }
        caps.push(at_once.iter().copied().max().unwrap_or(0));
    }
    let first = |ids: &Vec<u32>| ids[0] as usize;
    Mix {
        n_res: whole.n_res,
        n_slots: whole.n_slots,
        requests: items
            .iter()
            .flat_map(|m| whole.request(first(m)).to_vec())
            .collect(),
        counts: items
            .iter()
            .map(|m| m.iter().map(|i| whole.counts[*i as usize]).sum())
            .collect(),
        caps,
        kinds: items.iter().map(|m| whole.kinds[first(m)]).collect(),
        lots: vec![Vec::new(); items.len()],
        rooms: shapes
            .iter()
            .flat_map(|m| whole.room(first(m)).to_vec())
            .collect(),
        prices: shapes.iter().map(|m| whole.prices[first(m)]).collect(),
        takes,
        pots: whole
            .pots
            .iter()
            .map(|pot| {
                let usage = pot.usage.iter().map(|(s, used)| (one_of[*s as usize], *used));
                let mut usage: Vec<(u32, i64)> = usage.collect();
                usage.sort_unstable();
                usage.dedup();
                Pot {
                    amount: pot.amount,
                    usage,
                }
            })
            .collect(),
    }
}
