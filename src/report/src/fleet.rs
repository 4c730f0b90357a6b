//! Machines of any make, matched to a catalogue, and pools that could buy their like.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Node as KubeNode;
use plimsoll_api::labels;
use plimsoll_core::{
    catalog::{Catalog, InstanceType, TypeId},
    requirement::{Operator, Requirement},
    resources::{CPU, Resources},
    snapshot::{Labels, Node, NodeStage, Pool, Snapshot, Taint},
};
use plimsoll_state::Index;

use crate::{
    aws,
    cluster::{Fixed, NodeFacts, Prices},
};

/// Labels by which installers say how a node was bought: (key, value, capacity type).
const CAPACITY_TYPE_MARKS: [(&str, &str, &str); 6] = [
    ("eks.amazonaws.com/capacityType", "SPOT", labels::CAPACITY_SPOT),
    (
        "eks.amazonaws.com/capacityType",
        "ON_DEMAND",
        labels::CAPACITY_ON_DEMAND,
    ),
    (
        "eks.amazonaws.com/capacityType",
        "CAPACITY_BLOCK",
        labels::CAPACITY_RESERVED,
    ),
    (
        "node-role.kubernetes.io/spot-worker",
        "true",
        labels::CAPACITY_SPOT,
    ),
    ("node.kubernetes.io/lifecycle", "spot", labels::CAPACITY_SPOT),
    ("lifecycle", "Ec2Spot", labels::CAPACITY_SPOT),
];

/// Labels that name the group a node was made in, in the order in which they are believed.
const GROUP_LABELS: [&str; 4] = [
    labels::NODEPOOL,
    "eks.amazonaws.com/nodegroup",
    "alpha.eksctl.io/nodegroup-name",
    "kops.k8s.io/instancegroup",
];

const CONTROL_PLANE_LABELS: [&str; 2] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
];

/// Cluster Autoscaler's annotation on nodes.
const SCALE_DOWN_DISABLED: &str = "cluster-autoscaler.kubernetes.io/scale-down-disabled";

/// A report proposes no machine with more than this many times the vCPUs of the largest its group has now: sizes of a
/// family cost the same per vCPU, and a few giants are not what somebody who runs many small machines wants.
const GROWTH_MAX: i64 = 2;

/// What node-feature-discovery finds out about a machine: another type may not have it.
const FEATURES: &str = "feature.node.kubernetes.io/";

/// Group of the nodes that carry none of [`GROUP_LABELS`].
const UNGROUPED: &str = "nodes";

pub(crate) struct Fleet {
    pub(crate) catalog: Catalog,
    pub(crate) nodes: Vec<NodeFacts>,
    pub(crate) pools_made_up: Vec<Arc<str>>,
    pub(crate) arm64_types: BTreeMap<Arc<str>, Vec<TypeId>>,
    pub(crate) unpriced: BTreeMap<String, u32>,
    /// Machines of which no label says how they were bought.
    pub(crate) taken_as_on_demand: u32,
}

/// Gives every machine Karpenter's labels and a price, and makes up a pool for each group of machines without one.
pub(crate) fn matched(
    index: &Index,
    snapshot: &mut Snapshot,
    prices: &Prices,
    reprice: impl FnOnce(&mut Catalog),
) -> Fleet {
    let mut taken_as_on_demand = 0;
    for node in &mut snapshot.nodes {
        taken_as_on_demand += u32::from(translate(&mut node.labels) == Bought::NotSaid);
    }
    let offline = matches!(prices, Prices::Aws);
    let mut catalog = catalog(index, prices);
    reprice(&mut catalog);
    let objects: BTreeMap<&str, &KubeNode> = index
        .nodes()
        .filter_map(|n| Some((n.metadata.name.as_deref()?, &**n)))
        .collect();
    let mut unpriced = BTreeMap::new();
    let mut facts = Vec::with_capacity(snapshot.nodes.len());
    for node in &mut snapshot.nodes {
        match price(node, &catalog) {
            Ok(price) => node.price = Some(price),
            Err(why) => *unpriced.entry(why).or_default() += 1,
        }
        facts.push(node_facts(node, objects.get(&*node.name).copied()));
    }
    let arm64_types = make_up_pools(snapshot, &facts, &mut catalog, offline);
    Fleet {
        catalog,
        nodes: facts,
        pools_made_up: arm64_types.keys().cloned().collect(),
        arm64_types,
        unpriced,
        taken_as_on_demand,
    }
}

/// The catalogue the NodePools of the cluster buy from.
pub fn catalog(index: &Index, prices: &Prices) -> Catalog {
    match prices {
        Prices::Catalog(catalog) => catalog.clone(),
        Prices::Aws => {
            let of_nodes = index.nodes().filter_map(|n| {
                let node_labels = n.metadata.labels.as_ref()?;
                let zone = node_labels
                    .iter()
                    .find(|(key, _)| labels::normalize(key) == labels::ZONE)?;
                Some(Arc::from(zone.1.as_str()))
            });
            let of_pools = index.node_pools().flat_map(|pool| {
                let requirements = &pool.spec.template.spec.requirements;
                let zones = requirements
                    .iter()
                    .filter(|r| labels::normalize(&r.key) == labels::ZONE);
                zones
                    .flat_map(|r| r.values.iter().map(|v| Arc::from(v.as_str())))
                    .collect::<Vec<_>>()
            });
            let mut catalog = aws::catalog(&of_nodes.chain(of_pools).collect());
            let all: Vec<TypeId> = (0..catalog.types.len() as u32).map(TypeId).collect();
            for pool in index.node_pools() {
                if let Some(name) = &pool.metadata.name {
                    catalog.by_pool.insert(name.as_str().into(), all.clone());
                }
            }
            catalog
        }
    }
}

/// The group a node was made in, as its labels say.
pub(crate) fn group(node_labels: &Labels) -> Option<&Arc<str>> {
    GROUP_LABELS.iter().find_map(|key| node_labels.get(*key))
}

/// Whether the labels of a machine tell its capacity type.
#[derive(PartialEq, Eq)]
enum Bought {
    Said,
    NotSaid,
}

/// Adds Karpenter's capacity type label, and the region, where another label says the same.
fn translate(node_labels: &mut Labels) -> Bought {
    let mut bought = Bought::Said;
    if !node_labels.contains_key(labels::CAPACITY_TYPE) {
        let of_mark = CAPACITY_TYPE_MARKS
            .iter()
            .find(|(key, value, _)| node_labels.get(*key).is_some_and(|v| &**v == *value));
        // AWS's default, and what kops and self-managed groups run without saying so.
        let capacity_type = of_mark.map_or(labels::CAPACITY_ON_DEMAND, |(_, _, t)| t);
        if of_mark.is_none() {
            bought = Bought::NotSaid;
        }
        node_labels.insert(labels::CAPACITY_TYPE.into(), capacity_type.into());
    }
    if !node_labels.contains_key(labels::REGION)
        && let Some(region) = node_labels.get(labels::ZONE).and_then(|z| aws::region_of(z))
    {
        let region = region.into();
        node_labels.insert(labels::REGION.into(), region);
    }
    bought
}

fn price(node: &Node, catalog: &Catalog) -> Result<plimsoll_core::catalog::MicroDollars, String> {
    let of = |key: &str| node.labels.get(key).map(|v| &**v);
    let Some(name) = of(labels::INSTANCE_TYPE) else {
        return Err(format!("no label {}", labels::INSTANCE_TYPE));
    };
    let Some(zone) = of(labels::ZONE) else {
        return Err(format!("{name}: no label {}", labels::ZONE));
    };
    let capacity_type = of(labels::CAPACITY_TYPE).unwrap_or_default();
    type_of(catalog, name)
        .and_then(|id| {
            let offerings = &catalog.types[id.0 as usize].offerings;
            let offering = offerings
                .iter()
                .find(|o| &*o.zone == zone && &*o.capacity_type == capacity_type)?;
            Some(offering.price)
        })
        .ok_or_else(|| format!("{name} in {zone}, {capacity_type}"))
}

fn type_of(catalog: &Catalog, name: &str) -> Option<TypeId> {
    let at = catalog.types.binary_search_by(|t| (*t.name).cmp(name)).ok()?;
    Some(TypeId(at as u32))
}

fn node_facts(node: &Node, object: Option<&KubeNode>) -> NodeFacts {
    let annotation = |key: &'static str| {
        let annotations = object?.metadata.annotations.as_ref()?;
        (annotations.get(key)? == "true").then_some(key)
    };
    let fixed = if CONTROL_PLANE_LABELS
        .iter()
        .any(|key| node.labels.contains_key(*key))
    {
        Some(Fixed::ControlPlane)
    } else if node.stage != NodeStage::Initialized {
        Some(Fixed::NotReadyYet)
    } else if node.price.is_none() {
        Some(Fixed::NoPrice)
    } else {
        None
    };
    let provider_id = object.and_then(|o| o.spec.as_ref()?.provider_id.as_deref());
    NodeFacts {
        fixed,
        instance: provider_id
            .and_then(|id| id.strip_prefix("aws://")?.rsplit('/').next())
            .filter(|id| is_instance(id))
            .map(str::to_owned),
        do_not_disrupt: annotation(labels::DO_NOT_DISRUPT).or_else(|| annotation(SCALE_DOWN_DISABLED)),
    }
}

/// Whether this is an EC2 instance id: nodes write their provider id themselves, and it gets into commands.
fn is_instance(id: &str) -> bool {
    let digits = id.strip_prefix("i-").unwrap_or_default();
    (8..=17).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

/// One pool for each group of machines that no pool of the snapshot owns: with the labels and taints all of them have,
/// and the types of [`aws::is_ordinary`] (or, from a provider, all) of its architecture beside those the group runs on
/// now. The answer holds, by pool, the arm64 types of that kind which are not among them.
fn make_up_pools(
    snapshot: &mut Snapshot,
    facts: &[NodeFacts],
    catalog: &mut Catalog,
    offline: bool,
) -> BTreeMap<Arc<str>, Vec<TypeId>> {
    let mut groups: BTreeMap<Arc<str>, Vec<usize>> = BTreeMap::new();
    for (at, node) in snapshot.nodes.iter().enumerate() {
        let owned = node
            .pool
            .as_ref()
            .or_else(|| node.labels.get(labels::NODEPOOL))
            .is_some_and(|name| snapshot.pools.iter().any(|p| p.name == *name));
        if facts[at].fixed.is_none() && !owned {
            groups
                .entry(group(&node.labels).cloned().unwrap_or_else(|| UNGROUPED.into()))
                .or_default()
                .push(at);
        }
    }
    let mut arm64_types = BTreeMap::new();
    for (name, members) in groups {
        let nodes: Vec<&Node> = members.iter().map(|at| &snapshot.nodes[*at]).collect();
        let in_use: BTreeSet<&Arc<str>> = values(&nodes, labels::INSTANCE_TYPE);
        let arches = values(&nodes, labels::ARCH);
        let cpu = |amounts: &Resources| amounts.get(CPU).copied().unwrap_or(0);
        let cpu_max = GROWTH_MAX * nodes.iter().map(|n| cpu(&n.capacity)).max().unwrap_or(0);
        let is_of = |t: &InstanceType, arch: &str| {
            let mut of_arch = t.requirements.iter().filter(|r| &*r.key == labels::ARCH);
            of_arch.all(|r| r.matches(Some(arch)))
        };
        let fits = |t: &InstanceType| cpu(&t.capacity) <= cpu_max && (!offline || aws::is_ordinary(&t.name));
        let (mut types, mut arm64) = (Vec::new(), Vec::new());
        for (at, t) in catalog.types.iter().enumerate() {
            if in_use.contains(&t.name) || (fits(t) && arches.iter().any(|a| is_of(t, a))) {
                types.push(TypeId(at as u32));
            } else if fits(t) && is_of(t, labels::ARCH_ARM64) {
                arm64.push(TypeId(at as u32));
            }
        }
        let pool = pool_of(&name, &nodes, &catalog.types);
        // A NodePool that exists and is not ready keeps its name; nothing else in the catalogue has it.
        catalog.by_pool.insert(name.clone(), types);
        snapshot.pools.push(pool);
        arm64_types.insert(name, arm64);
    }
    snapshot.pools.sort_by(|a, b| a.name.cmp(&b.name));
    arm64_types
}

fn values<'a>(nodes: &[&'a Node], key: &str) -> BTreeSet<&'a Arc<str>> {
    nodes.iter().filter_map(|n| n.labels.get(key)).collect()
}

fn pool_of(name: &Arc<str>, nodes: &[&Node], types: &[InstanceType]) -> Pool {
    // What the type or the offering decides differs from machine to machine.
    let decided: BTreeSet<&str> = types
        .iter()
        .flat_map(|t| {
            let of_offers = t.offerings.iter().flat_map(|o| &o.labels).map(|(key, _)| &**key);
            t.requirements.iter().map(|r| &*r.key).chain(of_offers)
        })
        .chain([
            labels::ZONE,
            labels::CAPACITY_TYPE,
            labels::HOSTNAME,
            labels::INSTANCE_TYPE,
        ])
        .collect();
    let first = nodes.first().expect("a group has a machine");
    let common_labels: Labels = first
        .labels
        .iter()
        .filter(|(key, _)| !decided.contains(&***key) && !key.starts_with(FEATURES))
        .filter(|(key, value)| nodes.iter().all(|n| n.labels.get(*key) == Some(*value)))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let taints: Vec<Taint> = first
        .taints
        .iter()
        // The node lifecycle's own taints (cordoned, not ready, under pressure) are states, not properties.
        .filter(|t| !t.key.starts_with("node.kubernetes.io/"))
        .filter(|t| nodes.iter().all(|n| n.taints.contains(t)))
        .cloned()
        .collect();
    let mut requirements: Vec<Requirement> = common_labels
        .iter()
        .map(|(key, value)| Requirement::new(key.clone(), Operator::In, [value.clone()]))
        .collect();
    requirements.sort();
    Pool {
        name: name.clone(),
        weight: 0,
        requirements,
        labels: common_labels,
        taints,
        startup_taints: Vec::new(),
        limits: Resources::new(),
        consolidate_after: None,
        budgets: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::is_instance;

    #[test]
    fn only_an_instance_id_gets_into_commands() {
        assert!(is_instance("i-0a1b2c3d") && is_instance("i-0123456789abcdef0"));
        for id in [
            "",
            "i-",
            "i-0a1b2c3",
            "i-0123456789abcdef01",
            "i-0a1b2c3d;true",
            "i-$(true)ab",
            "0a1b2c3d",
        ] {
            assert!(!is_instance(id), "{id}");
        }
    }
}
