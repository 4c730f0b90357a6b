//! Turns a snapshot and a catalogue into numbers: places, room, classes as bitsets.

mod fixed;
mod rooms;
mod volumes;

pub(super) use rooms::MinValues;
pub(super) use volumes::{Volumes, attach};

use std::{collections::BTreeSet, sync::Arc};

use fixedbitset::FixedBitSet;
use rustc_hash::FxHashMap;

use fixed::{Fixed, mask_ports};
use rooms::{Daemons, OfferRoom, flexible_room, min_values};

use super::{
    keys::{ABSENT, Keys},
    offers::{HOSTNAME, Offer, Offers, enumerate},
    taints::untolerated,
    topology::{self, Subject, Topology},
};
use crate::{
    catalog::Catalog,
    plan::Assignment,
    policy::{MinValuesPolicy, Policy, PreferencePolicy},
    requirement::{Operator, Requirement},
    resources::{NODES, Resources},
    snapshot::{ClassId, NodeId, Place, PodClass, PodId, Snapshot},
};

/// Priority of the virtual pods of a CapacityBuffer, as upstream sets it.
const BUFFER_PRIORITY: i32 = i32::MIN;

/// Everything the engine looks at while solving.
#[derive(Debug)]
pub(super) struct Problem<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) catalog: &'a Catalog,
    pub(super) policy: &'a Policy,
    /// The resources that some waiting class requests; amounts are vectors in this order.
    pub(super) resources: Vec<Arc<str>>,
    pub(super) offers: Offers,
    /// What is left for pods on each offer after its daemons: `n_res` amounts each.
    pub(super) room: Vec<i64>,
    /// What may be put on each offer so that its pool's `minValues` can be met; empty when that is all of its room.
    pub(super) flexible_room: Vec<i64>,
    /// What is left on each existing node.
    pub(super) node_room: Vec<i64>,
    /// Requests of the daemons on each offer, as indices of sets in `daemon_requests`.
    pub(super) daemons_of_offer: Vec<u32>,
    pub(super) daemon_requests: Vec<Resources>,
    pub(super) keys: Keys,
    /// Classes with pods that need a place, by class id.
    pub(super) demands: Vec<Demand>,
    pub(super) topology: Topology,
    /// Pods that stay on each node and that host rules look at: (class, count).
    pub(super) node_parts: Vec<Vec<(u32, u32)>>,
    /// For each pool: the resources its limits name, with what may still be used.
    pub(super) limits: Vec<Vec<(Arc<str>, i64)>>,
    /// For each offer what a machine of it uses of each of them.
    usage: Vec<Vec<i64>>,
    /// For each pool: the flexibility it demands.
    pub(super) min_values: Vec<Vec<MinValues>>,
    pub(super) volumes: Volumes,
}

/// A class with pods that need a place.
#[derive(Debug)]
pub(super) struct Demand {
    pub(super) class: ClassId,
    pub(super) request: Vec<i64>,
    /// Sorted.
    pub(super) pods: Vec<PodId>,
    /// Places where labels, taints, volumes and host ports let it run, whatever their room.
    pub(super) allowed: FixedBitSet,
    /// Offers among them that hold at least one pod of it.
    pub(super) offers: FixedBitSet,
    /// Narrowings that preferences ask for, most wanted first; `allowed` has none of them applied.
    pub(super) wishes: Vec<FixedBitSet>,
}

impl Problem<'_> {
    pub(super) fn n_res(&self) -> usize {
        self.resources.len()
    }

    pub(super) fn n_offers(&self) -> usize {
        self.offers.offers.len()
    }

    /// The offers among some places: they come before the nodes.
    pub(super) fn offers_among(&self, places: &FixedBitSet) -> FixedBitSet {
        let n_offers = self.n_offers();
        let mut set = FixedBitSet::with_capacity_and_blocks(n_offers, places.as_slice().iter().copied());
        let used = n_offers as u32 % usize::BITS;
        if let Some(last) = set.as_mut_slice().last_mut().filter(|_| used > 0) {
            *last &= (1 << used) - 1;
        }
        set
    }

    /// What is left for pods on the offer after its daemons.
    pub(super) fn whole_room(&self, offer: usize) -> &[i64] {
        &self.room[offer * self.n_res()..][..self.n_res()]
    }

    /// What of it packing may use.
    pub(super) fn offer_room(&self, offer: usize) -> &[i64] {
        let rooms = if self.flexible_room.is_empty() {
            &self.room
        } else {
            &self.flexible_room
        };
        &rooms[offer * self.n_res()..][..self.n_res()]
    }

    pub(super) fn free_room(&self, node: usize) -> &[i64] {
        &self.node_room[node * self.n_res()..][..self.n_res()]
    }

    /// Whether the pods of a demand only keep room free for others.
    pub(super) fn is_buffer(&self, demand: u32) -> bool {
        self.shape(self.demands[demand as usize].class).priority == BUFFER_PRIORITY
    }

    /// The class as the snapshot has it.
    pub(super) fn shape(&self, class: ClassId) -> &PodClass {
        &self.snapshot.classes[class.0 as usize]
    }

    /// What a machine of this offer adds to the use of what its pool limits, in the order of the limits.
    pub(super) fn usage(&self, offer: usize) -> &[i64] {
        &self.usage[offer]
    }
}

/// Where a class may run by its node selector and required node affinity.
pub(super) fn selector_requirements(shape: &PodClass) -> Vec<Requirement> {
    shape
        .node_selector
        .iter()
        .map(|(k, v)| Requirement::new(k.clone(), Operator::In, [v.clone()]))
        .collect()
}

fn vector(resources: &[Arc<str>], amounts: &[(Arc<str>, i64)]) -> Vec<i64> {
    let amount = |name: &Arc<str>| amounts.iter().find(|(n, _)| n == name).map_or(0, |(_, a)| *a);
    resources.iter().map(amount).collect()
}

fn mention_all(snapshot: &Snapshot, keys: &mut Keys) {
    for shape in &snapshot.classes {
        let required = shape
            .node_affinity
            .iter()
            .chain(shape.volume_affinity.iter().flatten());
        let preferred = shape.preferred_node_affinity.iter().map(|(_, term)| term);
        for requirement in required.chain(preferred).flatten() {
            keys.mention_requirement(requirement);
        }
        for requirement in selector_requirements(shape) {
            keys.mention_requirement(&requirement);
        }
        let terms = shape.affinity.iter().chain(&shape.anti_affinity);
        let soft = shape
            .preferred_affinity
            .iter()
            .chain(&shape.preferred_anti_affinity)
            .map(|(_, term)| term);
        let by_term = terms.chain(soft).map(|term| &term.topology_key);
        for key in by_term.chain(shape.spread.iter().map(|s| &s.topology_key)) {
            if &**key != HOSTNAME {
                keys.mention_topology(key);
            }
        }
    }
    keys.close_mentions();
}

struct Compiler<'a> {
    snapshot: &'a Snapshot,
    catalog: &'a Catalog,
    keys: Keys,
    offers: Offers,
    n_places: usize,
    /// Places of each pool, by index.
    pool_places: Vec<FixedBitSet>,
    /// Nodes by distinct list of taints.
    node_taints: Vec<(usize, FixedBitSet)>,
    tolerated: FxHashMap<(Vec<crate::snapshot::Toleration>, bool), FixedBitSet>,
}

impl Compiler<'_> {
    fn full(&self) -> FixedBitSet {
        let mut set = FixedBitSet::with_capacity(self.n_places);
        set.insert_range(..);
        set
    }

    /// Places without a taint of the kind that the class does not tolerate.
    fn tolerated(&mut self, shape: &PodClass, soft: bool) -> FixedBitSet {
        let key = (shape.tolerations.clone(), soft);
        if let Some(set) = self.tolerated.get(&key) {
            return set.clone();
        }
        let mut set = self.full();
        for (pool, places) in self.snapshot.pools.iter().zip(&self.pool_places) {
            if untolerated(&shape.tolerations, &pool.taints, soft).is_some() {
                set.difference_with(places);
            }
        }
        for (node, places) in &self.node_taints {
            if untolerated(&shape.tolerations, &self.snapshot.nodes[*node].taints, soft).is_some() {
                set.difference_with(places);
            }
        }
        self.tolerated.insert(key, set.clone());
        set
    }

    /// Places by node selector and required node affinity; None when the class asks for nothing.
    fn selected(&mut self, shape: &PodClass) -> Option<FixedBitSet> {
        if shape.node_selector.is_empty() && shape.node_affinity.is_empty() {
            return None;
        }
        let mut set = self.keys.conjunction(&selector_requirements(shape));
        if !shape.node_affinity.is_empty() {
            set.intersect_with(&self.keys.alternatives(&shape.node_affinity));
        }
        Some(set)
    }

    fn allowed(&mut self, shape: &PodClass) -> FixedBitSet {
        let mut set = self.tolerated(shape, false);
        if let Some(selected) = self.selected(shape) {
            set.intersect_with(&selected);
        }
        for volume in shape
            .volume_affinity
            .iter()
            .filter(|alternatives| !alternatives.is_empty())
        {
            set.intersect_with(&self.keys.alternatives(volume));
        }
        set
    }
}

/// Compiles; also returns the index of each class's demand.
pub(super) fn compile<'a>(snapshot: &'a Snapshot, catalog: &'a Catalog, policy: &'a Policy) -> Problem<'a> {
    let mut keys = Keys::default();
    mention_all(snapshot, &mut keys);
    let offers = enumerate(snapshot, catalog, policy, &mut keys);
    let n_offers = offers.offers.len();
    let n_places = n_offers + snapshot.nodes.len();
    for key in &mut keys.keys {
        for node in &snapshot.nodes {
            let name = key.name.clone();
            let value = node
                .labels
                .get(&name)
                .or((&*name == HOSTNAME).then_some(&node.name));
            let id = value.map_or(ABSENT, |v| key.intern(v));
            key.of_place.push(id);
        }
    }
    keys.index();

    let mut pool_places = vec![FixedBitSet::with_capacity(n_places); snapshot.pools.len()];
    for (idx, offer) in offers.offers.iter().enumerate() {
        pool_places[offer.pool as usize].insert(idx);
    }
    let mut by_taints: FxHashMap<&[crate::snapshot::Taint], usize> = FxHashMap::default();
    let mut node_taints: Vec<(usize, FixedBitSet)> = Vec::new();
    let mut staying = FixedBitSet::with_capacity(n_places);
    staying.insert_range(..n_offers);
    for (idx, node) in snapshot.nodes.iter().enumerate() {
        let next = node_taints.len();
        let at = *by_taints.entry(&node.taints).or_insert(next);
        if at == next {
            node_taints.push((idx, FixedBitSet::with_capacity(n_places)));
        }
        node_taints[at].1.insert(n_offers + idx);
        staying.set(n_offers + idx, !node.leaving);
    }
    let mut compiler = Compiler {
        snapshot,
        catalog,
        keys,
        offers,
        n_places,
        pool_places,
        node_taints,
        tolerated: FxHashMap::default(),
    };
    let respect = policy.preferences == PreferencePolicy::Respect;

    // Who waits, who exists.
    let n_classes = snapshot.classes.len();
    let mut may_wait = vec![false; n_classes];
    let mut exists = vec![false; n_classes];
    for pod in &snapshot.pods {
        let class = pod.class.0 as usize;
        exists[class] = true;
        may_wait[class] |= !pod.daemon && !matches!(pod.place, Place::Bound(_));
    }
    let mut allowed: Vec<Option<FixedBitSet>> = Vec::with_capacity(n_classes);
    for (shape, waits) in snapshot.classes.iter().zip(&may_wait) {
        allowed.push(waits.then(|| compiler.allowed(shape)));
    }

    let resources = requested_resources(snapshot, &may_wait);
    let daemons = Daemons::new(&mut compiler, &resources);
    let mut fixed = Fixed::new(&compiler, &resources, &daemons);
    let waiting = fixed.settle(&allowed, &resources);

    let mut pods_of_class: Vec<Vec<PodId>> = vec![Vec::new(); n_classes];
    for pod in &waiting {
        pods_of_class[snapshot.pods[pod.0 as usize].class.0 as usize].push(*pod);
    }
    let subjects: Vec<Subject> = (0..n_classes)
        .map(|class| {
            let shape = &snapshot.classes[class];
            let waits = !pods_of_class[class].is_empty();
            let spreads = waits && shape.spread.iter().any(|s| &*s.topology_key != HOSTNAME);
            let by_affinity = (spreads && shape.spread.iter().any(|s| s.honor_node_affinity))
                .then(|| compiler.selected(shape))
                .flatten();
            let by_taints = (spreads && shape.spread.iter().any(|s| s.honor_node_taints))
                .then(|| compiler.tolerated(shape, false));
            Subject {
                waits,
                exists: exists[class],
                by_affinity: by_affinity.map(Arc::new),
                by_taints: by_taints.map(Arc::new),
            }
        })
        .collect();
    let mut topology = topology::build(snapshot, &compiler.keys, &subjects, &staying, respect);
    let node_parts = fixed.count(&compiler, &mut topology);

    let true_room = daemons.offer_room(&compiler, &resources);
    let room = OfferRoom::of(true_room.clone(), resources.len(), n_offers);
    let mut demands = Vec::new();
    for (class, pods) in pods_of_class.into_iter().enumerate() {
        if pods.is_empty() {
            continue;
        }
        let shape = &snapshot.classes[class];
        let mut allowed = allowed[class]
            .take()
            .expect("classes that may wait were evaluated above");
        allowed.intersect_with(&staying);
        mask_ports(&mut allowed, shape, &fixed, &daemons, &compiler, n_offers);
        let wishes = if respect {
            wishes(&mut compiler, shape)
        } else {
            Vec::new()
        };
        demands.push(Demand {
            class: ClassId(class as u32),
            request: vector(&resources, &shape.requests),
            pods,
            allowed,
            offers: FixedBitSet::with_capacity(n_offers),
            wishes,
        });
    }
    let min_values = min_values(snapshot, catalog);
    let strict = policy.min_values == MinValuesPolicy::Strict && min_values.iter().any(|m| !m.is_empty());
    let flexible_room = if strict {
        flexible_room(&compiler.offers.offers, &true_room, resources.len(), &min_values)
    } else {
        Vec::new()
    };
    let room = if strict {
        OfferRoom::of(flexible_room.clone(), resources.len(), n_offers)
    } else {
        room
    };
    for demand in &mut demands {
        demand.offers = room.holding(&demand.request, &demand.allowed, n_offers);
    }
    let limits = limits(snapshot);
    let usage = compiler
        .offers
        .offers
        .iter()
        .map(|it| usage(catalog, &limits, it))
        .collect();
    let volumes = Volumes::new(snapshot, &fixed.stays);
    Problem {
        snapshot,
        catalog,
        policy,
        node_room: fixed.room,
        room: true_room,
        flexible_room,
        daemons_of_offer: daemons.set_of_offer,
        daemon_requests: daemons.requests,
        resources,
        offers: compiler.offers,
        keys: compiler.keys,
        demands,
        topology,
        node_parts,
        limits,
        usage,
        min_values,
        volumes,
    }
}

/// Narrowings that preferred node affinity and soft taints ask for, most wanted first.
fn wishes(compiler: &mut Compiler<'_>, shape: &PodClass) -> Vec<FixedBitSet> {
    let mut terms: Vec<&(i32, Vec<Requirement>)> = shape.preferred_node_affinity.iter().collect();
    terms.sort_by_key(|(weight, _)| -weight);
    let mut all: Vec<FixedBitSet> = terms
        .iter()
        .map(|(_, term)| compiler.keys.conjunction(term))
        .collect();
    let without_soft_taints = compiler.tolerated(shape, true);
    if without_soft_taints.count_ones(..) < compiler.n_places {
        all.push(without_soft_taints);
    }
    all
}

fn requested_resources(snapshot: &Snapshot, may_wait: &[bool]) -> Vec<Arc<str>> {
    let mut names = BTreeSet::new();
    for (shape, _) in snapshot.classes.iter().zip(may_wait).filter(|(_, waits)| **waits) {
        names.extend(
            shape
                .requests
                .iter()
                .filter(|(_, amount)| *amount > 0)
                .map(|(name, _)| name.clone()),
        );
    }
    names.into_iter().collect()
}

/// What each pool may still use of each resource its limits name.
fn limits(snapshot: &Snapshot) -> Vec<Vec<(Arc<str>, i64)>> {
    let left = |pool: &crate::snapshot::Pool| {
        let nodes = || {
            snapshot
                .nodes
                .iter()
                .filter(|n| n.pool.as_ref() == Some(&pool.name))
        };
        let used = |resource: &str| -> i64 {
            if resource == NODES {
                nodes().count() as i64
            } else {
                nodes()
                    .map(|n| n.capacity.get(resource).copied().unwrap_or(0))
                    .sum()
            }
        };
        pool.limits
            .iter()
            .map(|(resource, limit)| (resource.clone(), limit - used(resource)))
            .collect()
    };
    snapshot.pools.iter().map(left).collect()
}

fn usage(catalog: &Catalog, limits: &[Vec<(Arc<str>, i64)>], offer: &Offer) -> Vec<i64> {
    let capacity = &catalog.types[offer.type_id.0 as usize].capacity;
    let of = |(resource, _): &(Arc<str>, i64)| match &**resource {
        NODES => 1,
        resource => capacity.get(resource).copied().unwrap_or(0),
    };
    limits[offer.pool as usize].iter().map(of).collect()
}

/// Assignments in the order of pods.
pub(super) fn assignment(pod: PodId, node: usize) -> Assignment {
    Assignment {
        pod,
        node: NodeId(node as u32),
    }
}
