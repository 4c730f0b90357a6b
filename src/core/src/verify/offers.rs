//! What a launch may turn into: the offerings that satisfy its requirements, and the labels of each.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use crate::{
    catalog::{Catalog, Offering, TypeId},
    requirement::{Operator, Requirement},
    resources::Resources,
    snapshot::{ClassId, Pool, Snapshot},
};

use super::matching::{
    Shape, Value, absent_satisfies, node_affinity_allows, possible, repelled, value_satisfies, volumes_allow,
};

pub(super) const TYPE_LABEL: &str = "node.kubernetes.io/instance-type";
pub(super) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
pub(super) const CAPACITY_TYPE_LABEL: &str = "karpenter.sh/capacity-type";
pub(super) const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

/// One machine that may come up.
#[derive(Debug)]
pub(super) struct Alternative<'a> {
    pub(super) type_id: TypeId,
    pub(super) offering: &'a Offering,
    pub(super) allocatable: &'a Resources,
    pub(super) shape: Shape,
    /// DaemonSets, by index, that would run there.
    pub(super) daemons: Vec<usize>,
}

/// Pool, requirements of the claim, and type.
type Asked<'a> = (&'a str, &'a [Requirement], TypeId);

/// Computes alternatives and remembers them, since many launches share pool and requirements.
pub(super) struct Offers<'a> {
    snapshot: &'a Snapshot,
    catalog: &'a Catalog,
    /// Label keys that some type or offering defines: absent on a type means absent on its nodes. Other
    /// keys become labels by the requirements of pool and claim alone.
    typed: BTreeSet<&'a str>,
    known: BTreeMap<Asked<'a>, Rc<Vec<Alternative<'a>>>>,
}

impl<'a> Offers<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, catalog: &'a Catalog) -> Self {
        let mut typed = BTreeSet::from([TYPE_LABEL, ZONE_LABEL, CAPACITY_TYPE_LABEL]);
        for instance in &catalog.types {
            typed.extend(instance.requirements.iter().map(|r| &*r.key));
            typed.extend(
                instance
                    .offerings
                    .iter()
                    .flat_map(|o| o.labels.iter().map(|(key, _)| &**key)),
            );
        }
        Self {
            snapshot,
            catalog,
            typed,
            known: BTreeMap::new(),
        }
    }

    /// The machines of one type that `pool` may launch under `requirements`; only what is for sale.
    pub(super) fn of(
        &mut self,
        pool: &'a Pool,
        requirements: &'a [Requirement],
        type_id: TypeId,
    ) -> Rc<Vec<Alternative<'a>>> {
        let key = (&*pool.name, requirements, type_id);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let instance = &self.catalog.types[type_id.0 as usize];
        let alternatives = instance
            .offerings
            .iter()
            .filter(|o| o.available)
            .filter_map(|offering| {
                let shape = self.shape(pool, requirements, type_id, offering)?;
                let daemons = self.daemons(pool, &shape);
                let allocatable = offering.allocatable.as_ref().unwrap_or(&instance.allocatable);
                Some(Alternative {
                    type_id,
                    offering,
                    allocatable,
                    shape,
                    daemons,
                })
            });
        let alternatives = Rc::new(alternatives.collect::<Vec<_>>());
        self.known.insert(key, alternatives.clone());
        alternatives
    }

    /// Labels of the machine, or None when type and offering do not satisfy the requirements.
    fn shape(
        &self,
        pool: &Pool,
        requirements: &[Requirement],
        type_id: TypeId,
        offering: &Offering,
    ) -> Option<Shape> {
        let instance = &self.catalog.types[type_id.0 as usize];
        let mut shape = Shape::new();
        for r in instance.requirements.iter() {
            match r.operator {
                Operator::In => shape.insert(r.key.clone(), Value::OneOf(r.values.clone())),
                Operator::DoesNotExist => None,
                _ => shape.insert(r.key.clone(), Value::Some(vec![r.clone()])),
            };
        }
        let mut set = |key: &str, value: &Arc<str>| {
            shape.insert(key.into(), Value::OneOf(vec![value.clone()]));
        };
        set(TYPE_LABEL, &instance.name);
        set(ZONE_LABEL, &offering.zone);
        set(CAPACITY_TYPE_LABEL, &offering.capacity_type);
        offering.labels.iter().for_each(|(key, value)| set(key, value));

        let mut asked: BTreeMap<&str, Vec<Requirement>> = BTreeMap::new();
        for (key, value) in &pool.labels {
            asked.entry(key).or_default().push(Requirement {
                key: key.clone(),
                operator: Operator::In,
                values: vec![value.clone()],
                min_values: None,
            });
        }
        for r in pool.requirements.iter().chain(requirements) {
            asked.entry(&r.key).or_default().push(r.clone());
        }
        for (key, asked) in asked {
            match shape.get_mut(key) {
                Some(Value::OneOf(values)) => {
                    values.retain(|value| asked.iter().all(|r| value_satisfies(r, value)));
                    if values.is_empty() {
                        return None;
                    }
                }
                Some(Value::Some(known)) => known.extend(asked),
                None if self.typed.contains(key) => {
                    if !asked.iter().all(absent_satisfies) {
                        return None;
                    }
                }
                None => match from_requirements(&asked) {
                    FromRequirements::Contradiction => return None,
                    FromRequirements::Absent => {}
                    FromRequirements::Label(value) => drop(shape.insert(key.into(), value)),
                },
            }
        }
        Some(shape)
    }

    /// DaemonSets that tolerate the pool's taints and whose node affinity may match the machine.
    fn daemons(&self, pool: &Pool, shape: &Shape) -> Vec<usize> {
        let runs = |class: ClassId| {
            let class = &self.snapshot.classes[class.0 as usize];
            repelled(class, &pool.taints).is_none()
                && node_affinity_allows(class, shape, possible)
                && volumes_allow(class, shape, possible)
        };
        let sets = self.snapshot.daemon_sets.iter().enumerate();
        sets.filter(|(_, set)| runs(set.class)).map(|(i, _)| i).collect()
    }
}

/// What requirements alone say about a label.
enum FromRequirements {
    Contradiction,
    Absent,
    Label(Value),
}

fn from_requirements(asked: &[Requirement]) -> FromRequirements {
    if asked.iter().any(|r| r.operator == Operator::DoesNotExist) {
        let agreed = asked.iter().all(absent_satisfies);
        return if agreed {
            FromRequirements::Absent
        } else {
            FromRequirements::Contradiction
        };
    }
    let Some(listed) = asked.iter().find(|r| r.operator == Operator::In) else {
        return FromRequirements::Label(Value::Some(asked.to_vec()));
    };
    let allowed = |value: &&Arc<str>| asked.iter().all(|r| value_satisfies(r, value));
    let values: Vec<Arc<str>> = listed.values.iter().filter(allowed).cloned().collect();
    if values.is_empty() {
        FromRequirements::Contradiction
    } else {
        FromRequirements::Label(Value::OneOf(values))
    }
}
