//! What can be bought, with all labels decided.
//!
//! An *offer* is one offering of one type through one pool, with one choice for each custom label that the pool
//! leaves open and somebody looks at. Its labels are those of the node it would become, so whether a
//! class may run there is one bit.

use std::{collections::BTreeSet, sync::Arc};

use rustc_hash::FxHashMap;

use super::keys::{ABSENT, Keys, OTHER};
use crate::{
    catalog::{Catalog, InstanceType, Offering, TypeId},
    policy::Policy,
    requirement::{Operator, Requirement, Requirements, ValueSet, normalized_key},
    snapshot::{Pool, Snapshot},
};

pub(super) const HOSTNAME: &str = "kubernetes.io/hostname";
pub(super) const ZONE: &str = "topology.kubernetes.io/zone";
pub(super) const CAPACITY_TYPE: &str = "karpenter.sh/capacity-type";
pub(super) const INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";
const POOL: &str = "karpenter.sh/nodepool";
/// Labels every new node gets on its way; DaemonSets select them.
const LIFECYCLE: [&str; 2] = ["karpenter.sh/registered", "karpenter.sh/initialized"];
/// Hours of the month that interruption rates are counted in.
const HOURS_PER_MONTH: i64 = 730;

#[derive(Clone, Debug)]
pub(super) struct Offer {
    /// Index into the snapshot's pools.
    pub(super) pool: u32,
    /// Index into [`Offers::variants`].
    pub(super) variant: u32,
    pub(super) type_id: TypeId,
    /// Index into the type's offerings.
    pub(super) offering: u32,
    /// Index into [`Offers::zones`].
    pub(super) zone: u32,
    /// Index into [`Offers::capacity_types`].
    pub(super) capacity_type: u32,
    /// List price in micro-dollars.
    pub(super) price: i64,
    /// What candidates are compared by: price plus the cost of expected interruptions, in micro-dollars.
    pub(super) score: i64,
    /// Index into [`Offers::reservations`].
    pub(super) reservation: Option<u32>,
}

/// A finite stock of instances.
#[derive(Clone, Debug)]
pub(super) struct Stock {
    pub(super) remaining: u32,
}

#[derive(Debug, Default)]
pub(super) struct Offers {
    pub(super) offers: Vec<Offer>,
    /// Choices of open labels: (pool, what the launch must require for it).
    pub(super) variants: Vec<Vec<Requirement>>,
    pub(super) reservations: Vec<Stock>,
    pub(super) zones: Vec<Arc<str>>,
    pub(super) capacity_types: Vec<Arc<str>>,
}

/// The index of a name in a short list, new if need be.
fn intern(names: &mut Vec<Arc<str>>, name: &Arc<str>) -> u32 {
    let at = names.iter().position(|n| n == name).unwrap_or_else(|| {
        names.push(name.clone());
        names.len() - 1
    });
    at as u32
}

/// The keys that types and their offerings decide; any other key is the pool's.
pub(super) fn described_keys(catalog: &Catalog) -> BTreeSet<Arc<str>> {
    let mut keys: BTreeSet<Arc<str>> = [HOSTNAME, ZONE, CAPACITY_TYPE, INSTANCE_TYPE]
        .into_iter()
        .map(Arc::from)
        .collect();
    for it in &catalog.types {
        for requirement in it.requirements.iter() {
            if !keys.contains(&requirement.key) {
                keys.insert(normalized_key(&requirement.key));
            }
        }
        for (key, _) in it.offerings.iter().flat_map(|o| &o.labels) {
            if !keys.contains(key) {
                keys.insert(normalized_key(key));
            }
        }
    }
    keys
}

/// Labels of a pool's template as requirements, together with its own.
pub(super) fn pool_requirements(pool: &Pool) -> Requirements {
    let mut requirements = Requirements::of(&pool.requirements);
    for (key, value) in &pool.labels {
        requirements.add(&Requirement::new(key.clone(), Operator::In, [value.clone()]));
    }
    requirements.add(&Requirement::new(POOL, Operator::In, [pool.name.clone()]));
    for key in LIFECYCLE {
        requirements.add(&Requirement::new(key, Operator::In, ["true".into()]));
    }
    requirements
}

/// Whether an offering of a type satisfies what a pool requires of the keys they decide.
pub(super) fn offering_allowed(
    described: &[(Arc<str>, ValueSet)],
    it: &InstanceType,
    offering: &Offering,
) -> bool {
    described
        .iter()
        .all(|(key, set)| match offering_label(it, offering, key) {
            Decided::Value(value) => set.has(value),
            Decided::Absent => set.allows_absent(),
            Decided::Unique => !set.is_impossible(),
        })
}

/// The value of a described key on a node of this offering.
pub(super) enum Decided<'a> {
    Value(&'a Arc<str>),
    Absent,
    /// A value no other node has.
    Unique,
}

pub(super) fn offering_label<'a>(it: &'a InstanceType, offering: &'a Offering, key: &str) -> Decided<'a> {
    match key {
        HOSTNAME => return Decided::Unique,
        ZONE => return Decided::Value(&offering.zone),
        CAPACITY_TYPE => return Decided::Value(&offering.capacity_type),
        INSTANCE_TYPE => return Decided::Value(&it.name),
        _ => {}
    }
    if let Some((_, value)) = offering.labels.iter().find(|(k, _)| &*normalized_key(k) == key) {
        return Decided::Value(value);
    }
    type_label(it, key).map_or(Decided::Absent, Decided::Value)
}

/// The value of a key that the type alone decides. Several values that no offering decides count as absent: nobody
/// could rely on one of them.
fn type_label<'a>(it: &'a InstanceType, key: &str) -> Option<&'a Arc<str>> {
    let requirement = it
        .requirements
        .iter()
        .find(|r| &*r.key == key || &*normalized_key(&r.key) == key)?;
    match (requirement.operator, &requirement.values[..]) {
        (Operator::In, [value]) => Some(value),
        _ => None,
    }
}

/// Lists every offer and writes the labels of its node into `keys`.
pub(super) fn enumerate(snapshot: &Snapshot, catalog: &Catalog, policy: &Policy, keys: &mut Keys) -> Offers {
    let described = described_keys(catalog);
    let mut out = Offers::default();
    let mut stock: FxHashMap<Arc<str>, u32> = FxHashMap::default();
    let described_ids: Vec<usize> = (0..keys.keys.len())
        .filter(|k| described.contains(&keys.keys[*k].name))
        .collect();
    for (pool_idx, pool) in snapshot.pools.iter().enumerate() {
        let Some(types) = catalog.by_pool.get(&pool.name) else {
            continue;
        };
        let requirements = pool_requirements(pool);
        let of_offering: Vec<(Arc<str>, ValueSet)> = requirements
            .iter()
            .filter(|(key, _)| described.contains(*key))
            .map(|(key, set)| (key.clone(), set.clone()))
            .collect();
        let variants = variants(&requirements, &described, keys);
        let first_variant = out.variants.len() as u32;
        out.variants.extend(variants.iter().map(|v| v.requires.clone()));
        for type_id in types {
            let it = &catalog.types[type_id.0 as usize];
            for (offering_idx, offering) in it.offerings.iter().enumerate() {
                if !offering.available || !offering_allowed(&of_offering, it, offering) {
                    continue;
                }
                let reservation = offering.reservation.as_ref().map(|r| {
                    let n = out.reservations.len() as u32;
                    let at = *stock.entry(r.id.clone()).or_insert(n);
                    if at == n {
                        out.reservations.push(Stock {
                            remaining: r.remaining,
                        });
                    }
                    let stock = &mut out.reservations[at as usize];
                    // Those who see it differ: the lowest count is the one that cannot overshoot.
                    stock.remaining = stock.remaining.min(r.remaining);
                    at
                });
                let zone = intern(&mut out.zones, &offering.zone);
                let capacity_type = intern(&mut out.capacity_types, &offering.capacity_type);
                let interruptions =
                    policy.interruption_cost.0 * i64::from(offering.interruption_permille) / 1000;
                for (n, variant) in variants.iter().enumerate() {
                    out.offers.push(Offer {
                        pool: pool_idx as u32,
                        variant: first_variant + n as u32,
                        type_id: *type_id,
                        offering: offering_idx as u32,
                        zone,
                        capacity_type,
                        price: offering.price.0,
                        score: offering.price.0 + interruptions / HOURS_PER_MONTH,
                        reservation,
                    });
                    for k in &described_ids {
                        let key = &mut keys.keys[*k];
                        let value = match offering_label(it, offering, &key.name) {
                            Decided::Value(value) => key.intern(value),
                            Decided::Absent => ABSENT,
                            Decided::Unique => OTHER,
                        };
                        key.of_place.push(value);
                    }
                    for (k, value) in &variant.labels {
                        keys.keys[*k].of_place.push(*value);
                    }
                }
            }
        }
    }
    out
}

struct Variant {
    /// Value id for each key that the pool decides.
    labels: Vec<(usize, u32)>,
    /// What the launch must require so that the node gets these labels.
    requires: Vec<Requirement>,
}

/// Every choice of the custom labels a pool leaves open, as far as somebody looks at them.
fn variants(requirements: &Requirements, described: &BTreeSet<Arc<str>>, keys: &mut Keys) -> Vec<Variant> {
    let mut all = vec![Variant {
        labels: Vec::new(),
        requires: Vec::new(),
    }];
    for k in 0..keys.keys.len() {
        let key = &mut keys.keys[k];
        if described.contains(&key.name) {
            continue;
        }
        let choices: Vec<(u32, Option<Requirement>)> = match requirements.get(&key.name) {
            None => vec![(ABSENT, None)],
            Some(set) => choices(key, set),
        };
        all = all
            .iter()
            .flat_map(|variant| {
                choices.iter().map(move |(value, requires)| {
                    let mut labels = variant.labels.clone();
                    labels.push((k, *value));
                    let mut narrowed = variant.requires.clone();
                    narrowed.extend(requires.clone());
                    Variant {
                        labels,
                        requires: narrowed,
                    }
                })
            })
            .collect();
    }
    all
}

fn choices(key: &mut super::keys::Key, set: &ValueSet) -> Vec<(u32, Option<Requirement>)> {
    if let Some(value) = set.single() {
        return vec![(key.intern(&value.clone()), None)];
    }
    let name = key.name.clone();
    let pinned = |value: &Arc<str>| Some(Requirement::new(name.clone(), Operator::In, [value.clone()]));
    if let Some(listed) = set.listed() {
        let mentioned: BTreeSet<Arc<str>> = key.mentioned().iter().cloned().collect();
        let mut values: Vec<Arc<str>> = listed
            .iter()
            .filter(|v| key.topology || mentioned.contains(*v))
            .cloned()
            .collect();
        if !key.topology {
            // One that nobody mentions stands for all such: they are interchangeable.
            values.extend(listed.iter().find(|v| !mentioned.contains(*v)).cloned());
        }
        return values.iter().map(|v| (key.intern(v), pinned(v))).collect();
    }
    let mut out: Vec<(u32, Option<Requirement>)> = Vec::new();
    if set.allows_absent() {
        out.push((
            ABSENT,
            Some(Requirement::new(name.clone(), Operator::DoesNotExist, [])),
        ));
    } else if !set.is_impossible() {
        out.push((OTHER, None));
    }
    let named: Vec<Arc<str>> = key.mentioned().iter().filter(|v| set.has(v)).cloned().collect();
    out.extend(named.iter().map(|v| (key.intern(v), pinned(v))));
    out
}
