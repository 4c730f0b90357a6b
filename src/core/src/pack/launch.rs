//! From a machine content to an order: the offer, and everything else that would do as well.

use std::{collections::BTreeMap, sync::Arc};

use fixedbitset::FixedBitSet;

use super::{
    compile::Problem,
    greedy::Scarce,
    offers::{CAPACITY_TYPE, Offer, ZONE},
    place::{Bin, State},
    shapes::Lot,
};
use crate::{
    catalog::{MicroDollars, Offering, TypeId},
    plan::{Launch, Offered},
    requirement::{Operator, Requirement, Requirements},
    resources::Resources,
};

const SPOT: &str = "spot";
const ON_DEMAND: &str = "on-demand";

impl Problem<'_> {
    pub(super) fn offering(&self, offer: &Offer) -> &Offering {
        &self.catalog.types[offer.type_id.0 as usize].offerings[offer.offering as usize]
    }

    fn offered(&self, offer: &Offer) -> Offered {
        let offering = self.offering(offer);
        Offered {
            instance_type: self.catalog.types[offer.type_id.0 as usize].name.clone(),
            zone: offering.zone.clone(),
            capacity_type: offering.capacity_type.clone(),
            price: MicroDollars(offer.price),
        }
    }
}

/// Offers whose labels suit every share of the bin and that have room for its pods.
pub(super) fn able(problem: &Problem<'_>, lots: &[Lot], bin: &Bin) -> FixedBitSet {
    let mut set = FixedBitSet::with_capacity(problem.n_offers());
    set.insert_range(..);
    let mut sum = vec![0; problem.n_res()];
    for (lot, n) in &bin.shares {
        let lot = &lots[*lot as usize];
        set.intersect_with(&lot.offers);
        let request = &problem.demands[lot.demand as usize].request;
        sum.iter_mut()
            .zip(request)
            .for_each(|(s, r)| *s += r * i64::from(*n));
    }
    let small: Vec<usize> = set
        .ones()
        .filter(|o| {
            problem
                .whole_room(*o)
                .iter()
                .zip(&sum)
                .any(|(have, want)| *want > 0 && want > have)
        })
        .collect();
    small.into_iter().for_each(|o| set.set(o, false));
    set
}

/// Moves each bin to the cheapest offer, of a pool of the same weight, that holds it.
pub(super) fn shrink(state: &mut State<'_>) {
    let problem = state.problem;
    let offers = &problem.offers.offers;
    let weight = |o: u32| problem.snapshot.pools[offers[o as usize].pool as usize].weight;
    let mut bins = std::mem::take(&mut state.bins);
    let mut known: BTreeMap<(u32, Vec<(u32, u32)>), Vec<u32>> = BTreeMap::new();
    for bin in &mut bins {
        let key = (bin.offer, bin.shares.clone());
        let cheaper = known.entry(key).or_insert_with(|| {
            let able = able(problem, &state.lots, bin);
            let score = |o: &u32| offers[*o as usize].score;
            let mut cheaper: Vec<u32> = able
                .ones()
                .map(|o| o as u32)
                .filter(|o| score(o) < score(&bin.offer) && weight(*o) == weight(bin.offer))
                .collect();
            cheaper.sort_by_key(|o| (score(o), std::cmp::Reverse(offers[*o as usize].pool), *o));
            cheaper
        });
        if cheaper.is_empty() {
            continue;
        }
        state.scarce.give_back(problem, bin.offer as usize);
        let best = cheaper
            .iter()
            .find(|o| state.scarce.most(problem, **o as usize) > 0);
        bin.offer = best.copied().unwrap_or(bin.offer);
        state.scarce.buy(problem, bin.offer as usize, 1);
    }
    state.bins = bins;
}

/// The order for a bin, without its pods.
pub(super) fn order(problem: &Problem<'_>, lots: &[Lot], scarce: &Scarce, bin: &Bin) -> Launch {
    let offers = &problem.offers.offers;
    let chosen = &offers[bin.offer as usize];
    let pool = &problem.snapshot.pools[chosen.pool as usize];
    let able = able(problem, lots, bin);
    let scope = Scope::choose(problem, &able, bin.offer);

    let mut types: Vec<(i64, TypeId)> = scope
        .types
        .iter()
        .filter(|(id, _)| **id == chosen.type_id || within_limits(problem, chosen, **id))
        .map(|(id, score)| (*score, *id))
        .collect();
    types.sort_unstable_by_key(|(score, id)| (*id != chosen.type_id, *score, *id));
    let min_values_relaxed = truncate(problem, chosen, &mut types);

    let differs = |o: &Offer| {
        (o.type_id, o.zone, o.capacity_type) != (chosen.type_id, chosen.zone, chosen.capacity_type)
    };
    let runner_up = able
        .ones()
        .filter(|o| {
            differs(&offers[*o])
                && problem.snapshot.pools[offers[*o].pool as usize].weight == pool.weight
                && scarce.most(problem, *o) > 0
        })
        .min_by_key(|o| (offers[*o].score, *o))
        .map(|o| problem.offered(&offers[o]));

    let mut requests: Resources =
        problem.daemon_requests[problem.daemons_of_offer[bin.offer as usize] as usize].clone();
    for (lot, n) in &bin.shares {
        let class = problem.demands[lots[*lot as usize].demand as usize].class;
        for (name, amount) in &problem.shape(class).requests {
            *requests.entry(name.clone()).or_default() += amount * i64::from(*n);
        }
    }
    Launch {
        pool: pool.name.clone(),
        requirements: scope.requirements(problem, lots, bin),
        types: types.into_iter().map(|(_, id)| id).collect(),
        offering: problem.offered(chosen),
        requests,
        pods: Vec::new(),
        runner_up,
        min_values_relaxed,
        settled: false,
    }
}

/// Whether a type uses no more of what its pool limits than the one that was counted.
fn within_limits(problem: &Problem<'_>, chosen: &Offer, id: TypeId) -> bool {
    let usage = |id: TypeId, resource: &str| {
        problem.catalog.types[id.0 as usize]
            .capacity
            .get(resource)
            .copied()
            .unwrap_or(0)
    };
    let limits = &problem.limits[chosen.pool as usize];
    limits
        .iter()
        .all(|(resource, _)| usage(id, resource) <= usage(chosen.type_id, resource))
}

/// Cuts the list to the most types a claim may offer, keeping the cheapest and what `minValues` needs. True when
/// `minValues` had to be lowered.
fn truncate(problem: &Problem<'_>, chosen: &Offer, types: &mut Vec<(i64, TypeId)>) -> bool {
    let most = problem.policy.types_per_launch_max.max(1);
    let wanted = &problem.min_values[chosen.pool as usize];
    let mut kept: Vec<(i64, TypeId)> = Vec::new();
    let mut rest: Vec<(i64, TypeId)> = Vec::new();
    let mut seen: Vec<Vec<u32>> = vec![Vec::new(); wanted.len()];
    for (at, it) in types.iter().enumerate() {
        // A type that brings a value still needed comes before cheaper ones that do not.
        let mut needed = at == 0;
        for (min, seen) in wanted.iter().zip(&mut seen) {
            let value = min.value_of_type[it.1.0 as usize];
            if value != super::keys::ABSENT && (seen.len() as u32) < min.values && !seen.contains(&value) {
                seen.push(value);
                needed = true;
            }
        }
        if needed && kept.len() < most {
            kept.push(*it);
        } else {
            rest.push(*it);
        }
    }
    rest.truncate(most - kept.len());
    kept.extend(rest);
    kept.sort_unstable_by_key(|(score, id)| (*id != chosen.type_id, *score, *id));
    *types = kept;
    wanted
        .iter()
        .zip(&seen)
        .any(|(min, seen)| (seen.len() as u32) < min.values)
}

/// Zones and capacity types a launch may use, and the types that suit it in all of them.
struct Scope<'a> {
    chosen: &'a Offer,
    zones: Vec<u32>,
    capacity_types: Vec<u32>,
    /// With the least score each has within the scope.
    types: BTreeMap<TypeId, i64>,
}

impl<'a> Scope<'a> {
    /// As wide as the cloud may choose freely in; just the zone and capacity type of the offer when that would let in
    /// something that does not suit.
    fn choose(problem: &'a Problem<'_>, able: &FixedBitSet, offer: u32) -> Self {
        let offers = &problem.offers.offers;
        let chosen = &offers[offer as usize];
        let narrow = || (vec![chosen.zone], vec![chosen.capacity_type]);
        if chosen.reservation.is_some() {
            let (zones, capacity_types) = narrow();
            let types = able
                .ones()
                .map(|o| &offers[o])
                .filter(|o| o.pool == chosen.pool && o.variant == chosen.variant)
                .filter(|o| o.reservation == chosen.reservation && o.zone == chosen.zone)
                .map(|o| (o.type_id, o.score))
                .collect();
            return Self {
                chosen,
                zones,
                capacity_types,
                types,
            };
        }
        let siblings: Vec<&Offer> = able
            .ones()
            .map(|o| &offers[o])
            .filter(|o| o.pool == chosen.pool && o.variant == chosen.variant && o.reservation.is_none())
            .collect();
        let mut capacity_types = vec![chosen.capacity_type];
        let names = &problem.offers.capacity_types;
        // Spot falls back to on-demand; the other way round would buy what was found to be the worse choice.
        if &*names[chosen.capacity_type as usize] == SPOT {
            let on_demand = siblings
                .iter()
                .find(|o| &*names[o.capacity_type as usize] == ON_DEMAND);
            capacity_types.extend(on_demand.map(|o| o.capacity_type));
        }
        let mut zones: Vec<u32> = siblings
            .iter()
            .filter(|o| capacity_types.contains(&o.capacity_type))
            .map(|o| o.zone)
            .collect();
        zones.sort_unstable();
        zones.dedup();
        let types = suitable(problem, able, chosen, &zones, &capacity_types);
        if types.contains_key(&chosen.type_id) {
            return Self {
                chosen,
                zones,
                capacity_types,
                types,
            };
        }
        let (zones, capacity_types) = narrow();
        let types = suitable(problem, able, chosen, &zones, &capacity_types);
        Self {
            chosen,
            zones,
            capacity_types,
            types,
        }
    }

    /// What the claim requires beyond its pool.
    fn requirements(&self, problem: &Problem<'_>, lots: &[Lot], bin: &Bin) -> Vec<Requirement> {
        let named = |ids: &[u32], names: &[Arc<str>]| -> Vec<Arc<str>> {
            ids.iter().map(|id| names[*id as usize].clone()).collect()
        };
        let zones = named(&self.zones, &problem.offers.zones);
        let capacity_types = named(&self.capacity_types, &problem.offers.capacity_types);
        let mut all = Requirements::default();
        all.add(&Requirement::new(ZONE, Operator::In, zones));
        all.add(&Requirement::new(CAPACITY_TYPE, Operator::In, capacity_types));
        if let Some(reservation) = &problem.offering(self.chosen).reservation {
            let labels = &problem.offering(self.chosen).labels;
            for (key, value) in labels.iter().filter(|(_, value)| *value == reservation.id) {
                all.add(&Requirement::new(key.clone(), Operator::In, [value.clone()]));
            }
        }
        for requirement in &problem.offers.variants[self.chosen.variant as usize] {
            all.add(requirement);
        }
        for (lot, _) in &bin.shares {
            let shape = problem.shape(problem.demands[lots[*lot as usize].demand as usize].class);
            let only = if let [term] = &shape.node_affinity[..] {
                &term[..]
            } else {
                &[]
            };
            let selected = super::compile::selector_requirements(shape);
            for requirement in selected.iter().chain(only) {
                if !matches!(
                    &*requirement.key,
                    super::offers::HOSTNAME | super::offers::INSTANCE_TYPE
                ) {
                    all.add(requirement);
                }
            }
        }
        all.requirements()
    }
}

/// Types that suit at every offering within the zones and capacity types.
fn suitable(
    problem: &Problem<'_>,
    able: &FixedBitSet,
    chosen: &Offer,
    zones: &[u32],
    capacity_types: &[u32],
) -> BTreeMap<TypeId, i64> {
    let mut types: BTreeMap<TypeId, i64> = BTreeMap::new();
    let mut unsuitable = Vec::new();
    // Offers of a pool lie together, those of a type next to each other.
    let offers = problem.offers.offers.iter().enumerate();
    let of_pool = offers
        .skip_while(|(_, o)| o.pool != chosen.pool)
        .take_while(|(_, o)| o.pool == chosen.pool);
    for (idx, offer) in of_pool {
        if offer.variant != chosen.variant
            || offer.reservation.is_some()
            || !zones.contains(&offer.zone)
            || !capacity_types.contains(&offer.capacity_type)
        {
            continue;
        }
        if able.contains(idx) {
            let least = types.entry(offer.type_id).or_insert(offer.score);
            *least = offer.score.min(*least);
        } else {
            unsuitable.push(offer.type_id);
        }
    }
    for id in &unsuitable {
        types.remove(id);
    }
    types
}
