//! Everything of a problem file that is not a waiting pod: types, pools, nodes, daemons and policy.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use crate::{
    catalog::{Catalog, InstanceType, MicroDollars, Offering, Reservation, TypeId},
    policy::{MinValuesPolicy, Policy, PreferencePolicy},
    requirement::{Operator, Requirement},
    resources::{CPU, MEMORY, PODS, Resources},
    snapshot::{Labels, Node, NodeStage, Pool},
};

use super::{
    MIB, PlainDaemon, PlainPlace, PlainPod, ProblemError, Strings,
    cursor::At,
    pod::{SHAPE, pairs, pool_requirement, shape, taints},
    quantity::amount,
};

pub(super) const TYPE_LABEL: &str = "node.kubernetes.io/instance-type";
pub(super) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
pub(super) const CAPACITY_TYPE_LABEL: &str = "karpenter.sh/capacity-type";
const ARCH_LABEL: &str = "kubernetes.io/arch";
const OS_LABEL: &str = "kubernetes.io/os";
const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";
const POOL_LABEL: &str = "karpenter.sh/nodepool";

fn equals(key: Arc<str>, mut values: Vec<Arc<str>>) -> Requirement {
    values.sort();
    values.dedup();
    Requirement {
        key,
        operator: Operator::In,
        values,
        min_values: None,
    }
}

pub(super) fn instance_type(at: &At, strings: &mut Strings) -> Result<InstanceType, ProblemError> {
    at.fields(&[
        "name",
        "cpu",
        "mem",
        "pods",
        "resources",
        "capacity",
        "labels",
        "offerings",
    ])?;
    let name = strings.keep(at.need("name")?.text()?);
    let mut allocatable = Resources::new();
    for (field, resource, unit) in [("cpu", CPU, 1), ("mem", MEMORY, MIB), ("pods", PODS, 1)] {
        allocatable.insert(strings.keep(resource), amount(&at.need(field)?, resource, unit)?);
    }
    for (resource, at) in at.entries("resources")? {
        if allocatable
            .insert(strings.keep(resource), amount(&at, resource, 1)?)
            .is_some()
        {
            return Err(at.error("this resource is given twice", "remove it here"));
        }
    }
    let mut capacity = allocatable.clone();
    for (resource, at) in at.entries("capacity")? {
        capacity.insert(strings.keep(resource), amount(&at, resource, 1)?);
    }
    let mut offerings = Vec::new();
    for at in at.need("offerings")?.list()? {
        offerings.push(offering(&at, &allocatable, strings)?);
    }
    if offerings.is_empty() {
        return Err(at.error("the type has no offering", "add one to offerings"));
    }
    offerings.sort_by(|a: &Offering, b| {
        let id = |o: &Offering| o.reservation.as_ref().map(|r| r.id.clone());
        (&a.zone, &a.capacity_type, id(a)).cmp(&(&b.zone, &b.capacity_type, id(b)))
    });

    let mut labels: BTreeMap<Arc<str>, Vec<Arc<str>>> = BTreeMap::new();
    labels.insert(strings.keep(ARCH_LABEL), vec![strings.keep("amd64")]);
    labels.insert(strings.keep(OS_LABEL), vec![strings.keep("linux")]);
    for (key, at) in at.entries("labels")? {
        let values = if at.value.is_array() {
            at.list()?
                .map(|at| Ok(strings.keep(at.text()?)))
                .collect::<Result<_, _>>()?
        } else {
            vec![strings.keep(at.text()?)]
        };
        labels.insert(strings.keep(key), values);
    }
    labels.insert(strings.keep(TYPE_LABEL), vec![name.clone()]);
    labels.insert(
        strings.keep(ZONE_LABEL),
        offerings.iter().map(|o| o.zone.clone()).collect(),
    );
    labels.insert(
        strings.keep(CAPACITY_TYPE_LABEL),
        offerings.iter().map(|o| o.capacity_type.clone()).collect(),
    );
    let requirements = labels
        .into_iter()
        .map(|(key, values)| equals(key, values))
        .collect();
    Ok(InstanceType {
        name,
        requirements,
        capacity,
        allocatable,
        offerings,
    })
}

fn offering(at: &At, base: &Resources, strings: &mut Strings) -> Result<Offering, ProblemError> {
    at.fields(&[
        "zone",
        "ct",
        "price",
        "available",
        "labels",
        "reservation",
        "resources",
        "interruptionsPerMonth",
    ])?;
    let allocatable = match at.entries("resources")? {
        entries if entries.is_empty() => None,
        entries => {
            let mut changed = base.clone();
            for (resource, at) in entries {
                changed.insert(strings.keep(resource), amount(&at, resource, 1)?);
            }
            Some(changed)
        }
    };
    let price_at = at.need("price")?;
    let price = MicroDollars::from_dollars(price_at.number()?);
    if price.0 > 1_000_000_000_000 {
        return Err(price_at.error(
            "no machine costs a million dollars an hour",
            "write dollars per hour",
        ));
    }
    Ok(Offering {
        zone: strings.keep(at.need("zone")?.text()?),
        capacity_type: {
            let words = ["on-demand", "spot", "reserved"].map(|word| (word, word));
            strings.keep(at.need("ct")?.word(&words)?)
        },
        price,
        available: match at.get("available") {
            Some(at) => at.flag()?,
            None => true,
        },
        labels: pairs(at, "labels", strings)?,
        reservation: match at.get("reservation") {
            None => None,
            Some(at) => {
                at.fields(&["id", "remaining"])?;
                let remaining = at.need("remaining")?.whole(0, i64::from(u32::MAX))? as u32;
                Some(Reservation {
                    id: strings.keep(at.need("id")?.text()?),
                    remaining,
                })
            }
        },
        allocatable,
        interruption_permille: match at.get("interruptionsPerMonth") {
            Some(at) => (at.number()? * 1000.0).round() as u32,
            None => 0,
        },
    })
}

/// A pool and the types it may buy.
pub(super) fn pool(
    at: &At,
    catalog: &Catalog,
    strings: &mut Strings,
) -> Result<(Pool, Vec<TypeId>), ProblemError> {
    at.fields(&[
        "name",
        "weight",
        "limits",
        "labels",
        "requirements",
        "taints",
        "startupTaints",
        "types",
    ])?;
    let name = strings.keep(at.need("name")?.text()?);
    let mut labels: Labels = pairs(at, "labels", strings)?.into_iter().collect();
    labels.insert(strings.keep(POOL_LABEL), name.clone());
    let mut requirements: Vec<Requirement> = labels
        .iter()
        .map(|(key, value)| equals(key.clone(), vec![value.clone()]))
        .collect();
    for at in at.each("requirements")? {
        requirements.push(pool_requirement(&at, strings)?);
    }
    requirements.sort();
    let mut limits = Resources::new();
    for (resource, at) in at.entries("limits")? {
        limits.insert(strings.keep(resource), amount(&at, resource, 1)?);
    }
    let mut types: Vec<TypeId> = Vec::new();
    match at.get("types") {
        None => types.extend((0..catalog.types.len() as u32).map(TypeId)),
        Some(at) => {
            for at in at.list()? {
                types.push(type_id(&at, catalog)?);
            }
        }
    }
    types.sort_unstable();
    types.dedup();
    let pool = Pool {
        name,
        weight: match at.get("weight") {
            Some(at) => at.whole(0, 100)? as i32,
            None => 0,
        },
        requirements,
        labels,
        taints: taints(at, "taints", strings)?,
        startup_taints: taints(at, "startupTaints", strings)?,
        limits,
        consolidate_after: None,
        budgets: Vec::new(),
    };
    Ok((pool, types))
}

fn type_id(at: &At, catalog: &Catalog) -> Result<TypeId, ProblemError> {
    let name = at.text()?;
    let index = catalog.types.binary_search_by(|known| (*known.name).cmp(name));
    index
        .map(|index| TypeId(index as u32))
        .map_err(|_| at.error(format!("there is no type {name:?}"), "use a name from types"))
}

/// An existing node and the pods on it. `index` is the node's place in the file.
pub(super) fn node(
    at: &At,
    index: usize,
    catalog: &Catalog,
    strings: &mut Strings,
) -> Result<(Node, Vec<PlainPod>), ProblemError> {
    at.fields(&[
        "name",
        "type",
        "zone",
        "ct",
        "pool",
        "labels",
        "taints",
        "stage",
        "leaving",
        "resources",
        "volumeLimits",
        "pods",
    ])?;
    let name = strings.keep(at.need("name")?.text()?);
    let instance = &catalog.types[type_id(&at.need("type")?, catalog)?.0 as usize];
    let zone = strings.keep(at.need("zone")?.text()?);
    let capacity_type = strings.keep(at.need("ct")?.text()?);
    let offering = instance
        .offerings
        .iter()
        .find(|o| o.zone == zone && o.capacity_type == capacity_type);
    let pool = match at.get("pool") {
        Some(at) => Some(strings.keep(at.text()?)),
        None => None,
    };

    let mut labels: Labels = instance
        .requirements
        .iter()
        .filter_map(|r| match r.values.as_slice() {
            [only] if r.operator == Operator::In => Some((r.key.clone(), only.clone())),
            _ => None,
        })
        .collect();
    labels.extend(offering.into_iter().flat_map(|o| o.labels.iter().cloned()));
    labels.insert(strings.keep(ZONE_LABEL), zone);
    labels.insert(strings.keep(CAPACITY_TYPE_LABEL), capacity_type);
    labels.insert(strings.keep(HOSTNAME_LABEL), name.clone());
    if let Some(pool) = &pool {
        labels.insert(strings.keep(POOL_LABEL), pool.clone());
    }
    labels.extend(pairs(at, "labels", strings)?);

    let mut allocatable = offering
        .and_then(|o| o.allocatable.as_ref())
        .unwrap_or(&instance.allocatable)
        .clone();
    for (resource, at) in at.entries("resources")? {
        allocatable.insert(strings.keep(resource), amount(&at, resource, 1)?);
    }
    let mut volume_limits = BTreeMap::new();
    for (driver, at) in at.entries("volumeLimits")? {
        volume_limits.insert(strings.keep(driver), at.whole(0, i64::from(u32::MAX))? as u32);
    }
    let leaving = match at.get("leaving") {
        Some(at) => at.flag()?,
        None => false,
    };
    let mut pods = Vec::new();
    for (i, at) in at.each("pods")?.iter().enumerate() {
        let mut known = SHAPE.to_vec();
        known.extend(["count", "daemon", "terminating"]);
        at.fields(&known)?;
        let flag = |key: &str| at.get(key).map_or(Ok(false), |at| at.flag());
        let (daemon, terminating) = (flag("daemon")?, flag("terminating")?);
        let place = if leaving && !daemon && !terminating {
            PlainPlace::Leaving(index)
        } else {
            PlainPlace::Bound(index)
        };
        for mut pod in plain_pods(at, &format!("{name}-{i}"), place, strings)? {
            (pod.daemon, pod.terminating) = (daemon, terminating);
            pods.push(pod);
        }
    }
    let node = Node {
        claim: pool.as_ref().map(|_| name.clone()),
        pool,
        stage: match at.get("stage") {
            Some(at) => at.word(&[
                ("InFlight", NodeStage::InFlight),
                ("Registered", NodeStage::Registered),
                ("Initialized", NodeStage::Initialized),
            ])?,
            None => NodeStage::Initialized,
        },
        leaving,
        not_ready: false,
        labels,
        taints: taints(at, "taints", strings)?,
        capacity: instance.capacity.clone(),
        allocatable,
        price: offering.map(|o| o.price),
        volume_limits,
        created: Timestamp::UNIX_EPOCH,
        quiet_since: None,
        disruption_blocker: None,
        name,
    };
    Ok((node, pods))
}

/// The pods of one entry: as many as `count` says, each with a specification of its own.
pub(super) fn plain_pods(
    at: &At,
    default_name: &str,
    place: PlainPlace,
    strings: &mut Strings,
) -> Result<Vec<PlainPod>, ProblemError> {
    let spec = shape(at, strings)?;
    let name = match at.get("name") {
        Some(at) => at.text()?,
        None => default_name,
    };
    let count = match at.get("count") {
        Some(at) => Some(at.whole(1, 10_000_000)?),
        None => None,
    };
    let pod = |key: String| PlainPod {
        key: key.into(),
        spec: spec.clone(),
        place,
        daemon: false,
        terminating: false,
    };
    Ok(match count {
        None => vec![pod(format!("{}/{name}", spec.namespace))],
        Some(count) => (0..count)
            .map(|i| pod(format!("{}/{name}-{i:07}", spec.namespace)))
            .collect(),
    })
}

pub(super) fn daemon(at: &At, index: usize, strings: &mut Strings) -> Result<PlainDaemon, ProblemError> {
    at.fields(&SHAPE)?;
    let spec = shape(at, strings)?;
    let name = match at.get("name") {
        Some(at) => at.text()?.to_owned(),
        None => format!("daemon-{index:07}"),
    };
    Ok(PlainDaemon {
        key: format!("{}/{name}", spec.namespace).into(),
        spec,
    })
}

/// Search steps for a problem that says nothing of them: the more there is to buy, the more a search is worth; and what
/// the placing of many pods takes of a second, the search for few of them may take too.
const STEPS_MAX: u64 = 15_000;
const STEPS_PER_POD: u64 = 7;
const STEPS_OF_SOME_MAX: u64 = 55_000;
const PODS_PER_STEP: u64 = 2;
const STEPS_OF_FEW: u64 = 80_000_000;
const FEW: u64 = 1_000;
/// The same where there are hundreds of kinds of very many pods each: then the price per pod is what counts.
const PODS_PER_KIND: u64 = 200;
const KINDS_MANY: u64 = 200;
const STEPS_PER_KIND: u64 = 24_000;

fn steps_max(entries: u64, pods: u64) -> u64 {
    let of_some = (STEPS_PER_POD * pods).min(STEPS_OF_SOME_MAX);
    let kinds = entries.min(pods / PODS_PER_KIND);
    let of_kinds = kinds.saturating_sub(KINDS_MANY) * STEPS_PER_KIND;
    STEPS_MAX + of_some + pods / PODS_PER_STEP + STEPS_OF_FEW / FEW.max(pods) + of_kinds
}

/// The policy at `at` for so many entries of so many pods; the values that stand in for absent fields are documented in
/// `bench/FORMAT.md`.
pub(super) fn policy(at: Option<&At>, entries: usize, pods: usize) -> Result<Policy, ProblemError> {
    let mut policy = Policy {
        preferences: PreferencePolicy::Respect,
        min_values: MinValuesPolicy::Strict,
        nomination: true,
        steps_max: steps_max(entries as u64, pods as u64),
        types_per_launch_max: 60,
        interruption_cost: MicroDollars(0),
    };
    let Some(at) = at else { return Ok(policy) };
    at.fields(&[
        "preferences",
        "minValues",
        "stepsMax",
        "typesPerLaunchMax",
        "interruptionCost",
        "nomination",
    ])?;
    if let Some(at) = at.get("nomination") {
        policy.nomination = at.word(&[("On", true), ("Off", false)])?;
    }
    if let Some(at) = at.get("preferences") {
        policy.preferences = at.word(&[
            ("Respect", PreferencePolicy::Respect),
            ("Ignore", PreferencePolicy::Ignore),
        ])?;
    }
    if let Some(at) = at.get("minValues") {
        policy.min_values = at.word(&[
            ("Strict", MinValuesPolicy::Strict),
            ("BestEffort", MinValuesPolicy::BestEffort),
        ])?;
    }
    if let Some(at) = at.get("stepsMax") {
        policy.steps_max = at.whole(0, i64::MAX)? as u64;
    }
    if let Some(at) = at.get("typesPerLaunchMax") {
        policy.types_per_launch_max = at.whole(1, 10_000)? as usize;
    }
    if let Some(at) = at.get("interruptionCost") {
        policy.interruption_cost = MicroDollars::from_dollars(at.number()?);
    }
    Ok(policy)
}
