//! Which offers are worth looking at: those that no other offer beats.

use fixedbitset::FixedBitSet;
use rustc_hash::FxHashMap;

use super::compile::Problem;

/// An offer worth considering for a set of lots.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) offer: u32,
    /// See [`super::offers::Offer::score`]; at least 1.
    pub(super) score: i64,
    /// A stock this is taken from.
    pub(super) reservation: Option<u32>,
}

/// Pods that are placed alike: one class, perhaps pinned to some domains.
#[derive(Clone, Debug)]
pub(super) struct Lot {
    /// Index into the problem's demands.
    pub(super) demand: u32,
    pub(super) class: u32,
    /// Offers it may run on, whatever their room.
    pub(super) allowed: FixedBitSet,
    /// Those that hold at least one pod of it.
    pub(super) offers: FixedBitSet,
    /// Pods still without a place.
    pub(super) left: u32,
}

/// The offers of `usable` that no other beats for these lots: an offer is beaten by one that is not dearer, admits
/// the same lots, has at least its room and, where `limits` count, uses up no more of one. Cheapest first.
pub(super) fn undominated(
    problem: &Problem<'_>,
    lots: &[Lot],
    usable: &FixedBitSet,
    limits: bool,
) -> Vec<Shape> {
    // Two independent words per offer identify the set of lots it admits.
    let mut admits: Vec<(u64, u64)> = vec![(0, 0); problem.n_offers()];
    for (idx, lot) in lots.iter().enumerate().filter(|(_, lot)| lot.left > 0) {
        let word = (mix(idx as u64 + 1), mix(!(idx as u64)));
        for offer in lot.allowed.ones() {
            admits[offer].0 ^= word.0;
            admits[offer].1 ^= word.1;
        }
    }
    let mut order: Vec<u32> = Vec::new();
    let mut any = FixedBitSet::with_capacity(problem.n_offers());
    lots.iter()
        .filter(|lot| lot.left > 0)
        .for_each(|lot| any.union_with(&lot.offers));
    order.extend(any.ones().filter(|o| usable.contains(*o)).map(|o| o as u32));
    let offers = &problem.offers.offers;
    // On equal prices the alphabetically later pool comes first, as upstream orders them.
    order.sort_by_key(|o| {
        let offer = &offers[*o as usize];
        (offer.score, std::cmp::Reverse(offer.pool), *o)
    });
    let mut kept: Vec<Shape> = Vec::new();
    let mut by_group: FxHashMap<((u64, u64), u32), Vec<u32>> = FxHashMap::default();
    for offer_idx in order {
        let offer = &offers[offer_idx as usize];
        let limited = limits && !problem.limits[offer.pool as usize].is_empty();
        let group = (
            admits[offer_idx as usize],
            if limited { offer.pool } else { u32::MAX },
        );
        let front = by_group.entry(group).or_default();
        let beaten = front.iter().any(|better| {
            let at_least = |b: &[i64], o: &[i64]| b.iter().zip(o).all(|(b, o)| b >= o);
            let (better, worse) = (*better as usize, offer_idx as usize);
            let roomy = at_least(problem.whole_room(better), problem.whole_room(worse))
                && at_least(problem.offer_room(better), problem.offer_room(worse));
            roomy && (!limited || at_least(problem.usage(worse), problem.usage(better)))
        });
        if beaten {
            continue;
        }
        if offer.reservation.is_none() {
            front.push(offer_idx);
        }
        kept.push(Shape {
            offer: offer_idx,
            score: offer.score.max(1),
            reservation: offer.reservation,
        });
    }
    kept
}

/// A fixed scrambling of 64 bits (the finaliser of splitmix64).
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
