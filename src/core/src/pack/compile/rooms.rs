//! What is left for pods on what can be bought: after its daemons, and with `minValues` in mind.

use std::sync::Arc;

use fixedbitset::FixedBitSet;
use rustc_hash::FxHashMap;

use super::super::{
    keys::ABSENT,
    offers::{Decided, Offer, offering_label, pool_requirements},
};
use super::{Compiler, vector};
use crate::{
    catalog::Catalog,
    resources::Resources,
    snapshot::{ClassId, HostPort, Snapshot},
};

/// A claim must leave so many values of one label possible.
#[derive(Debug)]
pub(in crate::pack) struct MinValues {
    pub(in crate::pack) key: Arc<str>,
    pub(in crate::pack) values: u32,
    /// Value id of the label for each type of the catalogue.
    pub(in crate::pack) value_of_type: Vec<u32>,
}

/// The `minValues` of each pool, over keys whose value the type decides.
pub(super) fn min_values(snapshot: &Snapshot, catalog: &Catalog) -> Vec<Vec<MinValues>> {
    let of_key = |(key, values): (&Arc<str>, u32)| {
        let mut ids: FxHashMap<Arc<str>, u32> = FxHashMap::default();
        let value_of_type = catalog
            .types
            .iter()
            .map(|it| {
                let value = it.offerings.first().map(|o| offering_label(it, o, key));
                let Some(Decided::Value(value)) = value else {
                    return ABSENT;
                };
                let next = ids.len() as u32 + 1;
                *ids.entry(value.clone()).or_insert(next)
            })
            .collect();
        MinValues {
            key: key.clone(),
            values,
            value_of_type,
        }
    };
    let of_pool = |pool: &crate::snapshot::Pool| {
        let requirements = pool_requirements(pool);
        let keys = requirements
            .iter()
            .filter_map(|(key, set)| Some((key, set.min_values()?)));
        keys.map(of_key).collect()
    };
    snapshot.pools.iter().map(of_pool).collect()
}

/// The room of each offer that it shares with enough others of its pool, zone and capacity type: what fits into all of them
/// leaves the choice between as many values as `minValues` asks for. Zero where there are not enough.
pub(super) fn flexible_room(
    offers: &[Offer],
    room: &[i64],
    n_res: usize,
    min_values: &[Vec<MinValues>],
) -> Vec<i64> {
    let of = |offer: usize| &room[offer * n_res..][..n_res];
    let mut alike: FxHashMap<(u32, u32, u32, u32), Vec<usize>> = FxHashMap::default();
    for (idx, o) in offers.iter().enumerate().filter(|(_, o)| o.reservation.is_none()) {
        alike
            .entry((o.pool, o.variant, o.zone, o.capacity_type))
            .or_default()
            .push(idx);
    }
    let mut out = Vec::with_capacity(room.len());
    for (idx, offer) in offers.iter().enumerate() {
        let mut shared = of(idx).to_vec();
        let wanted = &min_values[offer.pool as usize];
        if !wanted.is_empty() {
            let own = std::slice::from_ref(&idx);
            let key = (offer.pool, offer.variant, offer.zone, offer.capacity_type);
            let others = alike.get(&key).map_or(own, |all| &all[..]);
            // The share of this room, in thousandths, that the other one has at least.
            let overlap = |other: &usize| -> i64 {
                let shares = of(*other).iter().zip(&shared).filter(|(_, own)| **own > 0);
                shares
                    .map(|(have, own)| have.min(own) * 1000 / own)
                    .min()
                    .unwrap_or(0)
            };
            let mut order: Vec<(i64, usize)> = others.iter().map(|o| (-overlap(o), *o)).collect();
            order.sort_unstable();
            let mut seen: Vec<Vec<u32>> = vec![Vec::new(); wanted.len()];
            for other in std::iter::once(idx).chain(order.into_iter().map(|(_, o)| o)) {
                let mut brings = false;
                for (min, seen) in wanted.iter().zip(&mut seen) {
                    let value = min.value_of_type[offers[other].type_id.0 as usize];
                    let lacks = (seen.len() as u32) < min.values;
                    if lacks && value != ABSENT && !seen.contains(&value) {
                        seen.push(value);
                        brings = true;
                    }
                }
                if brings {
                    shared
                        .iter_mut()
                        .zip(of(other))
                        .for_each(|(have, theirs)| *have = (*have).min(*theirs));
                }
            }
            if wanted
                .iter()
                .zip(&seen)
                .any(|(min, seen)| (seen.len() as u32) < min.values)
            {
                shared.fill(0);
            }
        }
        out.extend(shared);
    }
    out
}

/// Room of offers, shared by those with equal room.
pub(super) struct OfferRoom {
    distinct: Vec<Vec<i64>>,
    of_offer: Vec<u32>,
}

impl OfferRoom {
    pub(super) fn of(flat: Vec<i64>, n_res: usize, n_offers: usize) -> Self {
        let mut out = Self {
            distinct: Vec::new(),
            of_offer: Vec::with_capacity(n_offers),
        };
        let mut ids: FxHashMap<&[i64], u32> = FxHashMap::default();
        for offer in 0..n_offers {
            let room = &flat[offer * n_res..][..n_res];
            let next = out.distinct.len() as u32;
            let id = *ids.entry(room).or_insert(next);
            if id == next {
                out.distinct.push(room.to_vec());
            }
            out.of_offer.push(id);
        }
        out
    }

    pub(super) fn holding(&self, request: &[i64], allowed: &FixedBitSet, n_offers: usize) -> FixedBitSet {
        let fits: Vec<bool> = self
            .distinct
            .iter()
            .map(|room| room.iter().zip(request).all(|(have, want)| want <= have))
            .collect();
        let mut set = FixedBitSet::with_capacity(n_offers);
        for offer in allowed.ones().take_while(|o| *o < n_offers) {
            if fits[self.of_offer[offer] as usize] {
                set.insert(offer);
            }
        }
        set
    }
}

/// DaemonSets and what they take.
pub(super) struct Daemons {
    /// Distinct sums of requests.
    pub(super) requests: Vec<Resources>,
    pub(super) set_of_offer: Vec<u32>,
    pub(super) ports: Vec<Vec<HostPort>>,
    /// What daemons are expected to request on each node, in the order of the resources.
    pub(super) on_node: Vec<Vec<i64>>,
    pub(super) ports_on_node: Vec<Vec<HostPort>>,
}

impl Daemons {
    pub(super) fn new(compiler: &mut Compiler<'_>, resources: &[Arc<str>]) -> Self {
        let snapshot = compiler.snapshot;
        let n_offers = compiler.offers.offers.len();
        let places: Vec<(ClassId, FixedBitSet)> = snapshot
            .daemon_sets
            .iter()
            .map(|ds| (ds.class, compiler.allowed(&snapshot.classes[ds.class.0 as usize])))
            .collect();
        let mut ids: FxHashMap<Vec<ClassId>, u32> = FxHashMap::default();
        let mut out = Self {
            requests: Vec::new(),
            set_of_offer: Vec::with_capacity(n_offers),
            ports: Vec::new(),
            on_node: Vec::new(),
            ports_on_node: Vec::new(),
        };
        let mut here = Vec::new();
        for place in 0..compiler.n_places {
            here.clear();
            here.extend(
                places
                    .iter()
                    .filter(|(_, set)| set.contains(place))
                    .map(|(class, _)| *class),
            );
            let shapes = || here.iter().map(|c| &snapshot.classes[c.0 as usize]);
            let ports = || {
                shapes()
                    .flat_map(|s| s.host_ports.iter().cloned())
                    .collect::<Vec<_>>()
            };
            if place >= n_offers {
                let mut sum = vec![0; resources.len()];
                for shape in shapes() {
                    sum.iter_mut()
                        .zip(vector(resources, &shape.requests))
                        .for_each(|(s, a)| *s += a);
                }
                out.on_node.push(sum);
                out.ports_on_node.push(ports());
                continue;
            }
            let next = out.requests.len() as u32;
            let id = if let Some(id) = ids.get(&here) {
                *id
            } else {
                ids.insert(here.clone(), next);
                let mut sum = Resources::new();
                for (name, amount) in shapes().flat_map(|s| &s.requests) {
                    *sum.entry(name.clone()).or_default() += amount;
                }
                out.requests.push(sum);
                out.ports.push(ports());
                next
            };
            out.set_of_offer.push(id);
        }
        out
    }

    pub(super) fn offer_room(&self, compiler: &Compiler<'_>, resources: &[Arc<str>]) -> Vec<i64> {
        let mut flat = Vec::with_capacity(self.set_of_offer.len() * resources.len());
        let amount = |of: &Resources, name: &Arc<str>| of.get(name).copied().unwrap_or(0);
        for (offer, daemons) in compiler.offers.offers.iter().zip(&self.set_of_offer) {
            let it = &compiler.catalog.types[offer.type_id.0 as usize];
            let offering = &it.offerings[offer.offering as usize];
            let allocatable = offering.allocatable.as_ref().unwrap_or(&it.allocatable);
            let taken = &self.requests[*daemons as usize];
            let left = |name: &Arc<str>| (amount(allocatable, name) - amount(taken, name)).max(0);
            flat.extend(resources.iter().map(left));
        }
        flat
    }
}
