//! Turns a snapshot and a catalogue into numbers: places, room, classes as bitsets.

use std::{collections::BTreeSet, sync::Arc};

use fixedbitset::FixedBitSet;
use rustc_hash::FxHashMap;

use super::{
    keys::{ABSENT, Keys},
    offers::{Decided, HOSTNAME, Offers, enumerate, offering_label, pool_requirements},
    taints::{ports_conflict, untolerated},
    topology::{self, Subject, Topology},
};
use crate::{
    catalog::Catalog,
    plan::Assignment,
    policy::{Policy, PreferencePolicy},
    requirement::{Operator, Requirement},
    resources::{NODES, Resources},
    snapshot::{ClassId, HostPort, NodeId, Place, PodClass, PodId, Snapshot},
};

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
    /// The same for each existing node.
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
    /// For each pool: the flexibility it demands.
    pub(super) min_values: Vec<Vec<MinValues>>,
    pub(super) volumes: Volumes,
}

/// A claim must leave so many values of one label possible.
#[derive(Debug)]
pub(super) struct MinValues {
    pub(super) values: u32,
    /// Value id of the label for each type of the catalogue.
    pub(super) value_of_type: Vec<u32>,
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

    pub(super) fn offer_room(&self, offer: usize) -> &[i64] {
        &self.room[offer * self.n_res()..][..self.n_res()]
    }

    pub(super) fn free_room(&self, node: usize) -> &[i64] {
        &self.node_room[node * self.n_res()..][..self.n_res()]
    }

    /// The class as the snapshot has it.
    pub(super) fn shape(&self, class: ClassId) -> &PodClass {
        &self.snapshot.classes[class.0 as usize]
    }

    /// What a machine of this offer adds to the use of a limited resource.
    pub(super) fn usage(&self, offer: usize, resource: &str) -> i64 {
        if resource == NODES {
            return 1;
        }
        let it = &self.catalog.types[self.offers.offers[offer].type_id.0 as usize];
        it.capacity.get(resource).copied().unwrap_or(0)
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

    let room = daemons.offer_room(&compiler, &resources);
    let mut demands = Vec::new();
    for (class, pods) in pods_of_class.into_iter().enumerate() {
        if pods.is_empty() {
            continue;
        }
        let shape = &snapshot.classes[class];
        let mut allowed = allowed[class]
            .take()
            .expect("classes that may wait were evaluated above");
        for place in n_offers..n_places {
            allowed.set(place, allowed.contains(place) && staying.contains(place));
        }
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
    for demand in &mut demands {
        demand.offers = room.holding(&demand.request, &demand.allowed, n_offers);
    }
    let limits = limits(snapshot);
    let min_values = min_values(snapshot, catalog);
    let volumes = Volumes::new(snapshot, &fixed.stays);
    Problem {
        snapshot,
        catalog,
        policy,
        node_room: fixed.room,
        room: room.flat,
        daemons_of_offer: daemons.set_of_offer,
        daemon_requests: daemons.requests,
        resources,
        offers: compiler.offers,
        keys: compiler.keys,
        demands,
        topology,
        node_parts,
        limits,
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

/// The `minValues` of each pool, over keys whose value the type decides.
fn min_values(snapshot: &Snapshot, catalog: &Catalog) -> Vec<Vec<MinValues>> {
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

/// Volumes and how many of them nodes can attach, in numbers.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    /// By class: (driver, volume).
    pub(super) of_class: Vec<Vec<(u32, u32)>>,
    /// By node: (driver, most).
    pub(super) limits: Vec<Vec<(u32, u32)>>,
    /// By node: what is attached and stays.
    pub(super) attached: Vec<Vec<(u32, u32)>>,
}

impl Volumes {
    fn new(snapshot: &Snapshot, stays: &[(u32, u32, bool)]) -> Self {
        let mut names: FxHashMap<Arc<str>, u32> = FxHashMap::default();
        let mut id = |name: &Arc<str>| {
            let next = names.len() as u32;
            *names.entry(name.clone()).or_insert(next)
        };
        let mut out = Self::default();
        for shape in &snapshot.classes {
            out.of_class.push(
                shape
                    .volumes
                    .iter()
                    .map(|(driver, volume)| (id(driver), id(volume)))
                    .collect(),
            );
        }
        for node in &snapshot.nodes {
            out.limits.push(
                node.volume_limits
                    .iter()
                    .map(|(driver, most)| (id(driver), *most))
                    .collect(),
            );
        }
        out.attached = vec![Vec::new(); snapshot.nodes.len()];
        for (class, node, _) in stays {
            attach(&mut out.attached[*node as usize], &out.of_class[*class as usize]);
        }
        out
    }

    /// Whether a node with these volumes attached can attach those of the class too.
    pub(super) fn admit(&self, node: usize, attached: &[(u32, u32)], class: u32) -> bool {
        let volumes = &self.of_class[class as usize];
        volumes.is_empty()
            || self.limits[node].iter().all(|(driver, most)| {
                let held = attached.iter().filter(|(d, _)| d == driver).count();
                let new = volumes
                    .iter()
                    .filter(|v| v.0 == *driver && !attached.contains(v))
                    .count();
                new == 0 || held + new <= *most as usize
            })
    }
}

/// Adds the volumes that are not attached yet.
pub(super) fn attach(attached: &mut Vec<(u32, u32)>, volumes: &[(u32, u32)]) {
    for volume in volumes {
        if !attached.contains(volume) {
            attached.push(*volume);
        }
    }
}

/// Room of offers, shared by those with equal room.
struct OfferRoom {
    flat: Vec<i64>,
    distinct: Vec<Vec<i64>>,
    of_offer: Vec<u32>,
}

impl OfferRoom {
    fn holding(&self, request: &[i64], allowed: &FixedBitSet, n_offers: usize) -> FixedBitSet {
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
struct Daemons {
    /// Distinct sums of requests.
    requests: Vec<Resources>,
    set_of_offer: Vec<u32>,
    ports: Vec<Vec<HostPort>>,
    /// What daemons are expected to request on each node, in the order of the resources.
    on_node: Vec<Vec<i64>>,
    ports_on_node: Vec<Vec<HostPort>>,
}

impl Daemons {
    fn new(compiler: &mut Compiler<'_>, resources: &[Arc<str>]) -> Self {
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

    fn offer_room(&self, compiler: &Compiler<'_>, resources: &[Arc<str>]) -> OfferRoom {
        let mut out = OfferRoom {
            flat: Vec::new(),
            distinct: Vec::new(),
            of_offer: Vec::new(),
        };
        let mut ids: FxHashMap<Vec<i64>, u32> = FxHashMap::default();
        for (offer, daemons) in compiler.offers.offers.iter().zip(&self.set_of_offer) {
            let it = &compiler.catalog.types[offer.type_id.0 as usize];
            let offering = &it.offerings[offer.offering as usize];
            let allocatable = offering.allocatable.as_ref().unwrap_or(&it.allocatable);
            let taken = &self.requests[*daemons as usize];
            let amount = |of: &Resources, name: &Arc<str>| of.get(name).copied().unwrap_or(0);
            let room: Vec<i64> = resources
                .iter()
                .map(|name| (amount(allocatable, name) - amount(taken, name)).max(0))
                .collect();
            out.flat.extend(&room);
            let next = out.distinct.len() as u32;
            let id = *ids.entry(room).or_insert_with_key(|room| {
                out.distinct.push(room.clone());
                next
            });
            out.of_offer.push(id);
        }
        out
    }
}

/// Pods that stay where they are.
struct Fixed<'a> {
    snapshot: &'a Snapshot,
    /// Free room of each node.
    room: Vec<i64>,
    /// (class, node) of pods that stay; with whether selectors count it.
    stays: Vec<(u32, u32, bool)>,
    ports: Vec<Vec<HostPort>>,
}

impl<'a> Fixed<'a> {
    fn new(compiler: &Compiler<'a>, resources: &[Arc<str>], daemons: &Daemons) -> Self {
        let snapshot = compiler.snapshot;
        let n_res = resources.len();
        let mut room = Vec::with_capacity(snapshot.nodes.len() * n_res);
        for node in &snapshot.nodes {
            room.extend(
                resources
                    .iter()
                    .map(|name| node.allocatable.get(name).copied().unwrap_or(0)),
            );
        }
        let requests: Vec<Vec<i64>> = snapshot
            .classes
            .iter()
            .map(|shape| vector(resources, &shape.requests))
            .collect();
        let mut missing = daemons.on_node.clone();
        let mut stays = Vec::new();
        let mut ports = daemons.ports_on_node.clone();
        for pod in &snapshot.pods {
            let Place::Bound(node) = pod.place else { continue };
            let at = node.0 as usize;
            let request = &requests[pod.class.0 as usize];
            for r in 0..n_res {
                room[at * n_res + r] -= request[r];
                if pod.daemon {
                    missing[at][r] -= request[r];
                }
            }
            stays.push((pod.class.0, node.0, !pod.terminating));
            ports[at].extend(snapshot.classes[pod.class.0 as usize].host_ports.iter().cloned());
        }
        for (at, missing) in missing.iter().enumerate() {
            for (r, amount) in missing.iter().enumerate() {
                let free = &mut room[at * n_res + r];
                *free = (*free - amount.max(&0)).max(0);
            }
        }
        Self {
            snapshot,
            room,
            stays,
            ports,
        }
    }

    /// Keeps assigned pods where they were promised a place, while they fit. Returns those that need one.
    fn settle(&mut self, allowed: &[Option<FixedBitSet>], resources: &[Arc<str>]) -> Vec<PodId> {
        let n_res = resources.len();
        let mut waiting = Vec::new();
        let mut requests: FxHashMap<u32, Vec<i64>> = FxHashMap::default();
        for (idx, pod) in self.snapshot.pods.iter().enumerate() {
            if pod.daemon {
                continue;
            }
            match pod.place {
                Place::Bound(_) => {}
                Place::Pending | Place::Leaving(_) => waiting.push(PodId(idx as u32)),
                Place::Assigned(node) => {
                    let shape = &self.snapshot.classes[pod.class.0 as usize];
                    let request = requests
                        .entry(pod.class.0)
                        .or_insert_with(|| vector(resources, &shape.requests));
                    let at = node.0 as usize;
                    // Bits of nodes are the last ones.
                    let offset = allowed[pod.class.0 as usize]
                        .as_ref()
                        .map_or(0, |set| set.len() - self.snapshot.nodes.len());
                    let may = allowed[pod.class.0 as usize]
                        .as_ref()
                        .is_some_and(|s| s.contains(offset + at));
                    let room = &mut self.room[at * n_res..][..n_res];
                    let fits = request.iter().zip(room.iter()).all(|(want, have)| want <= have);
                    if may && fits && !self.snapshot.nodes[at].leaving {
                        room.iter_mut()
                            .zip(request.iter())
                            .for_each(|(have, want)| *have -= want);
                        self.stays.push((pod.class.0, node.0, !pod.terminating));
                        self.ports[at].extend(shape.host_ports.iter().cloned());
                    } else {
                        waiting.push(PodId(idx as u32));
                    }
                }
            }
        }
        waiting
    }

    /// Counts the pods that stay into the groups. Returns what host rules look at on each node.
    fn count(&self, compiler: &Compiler<'_>, topology: &mut Topology) -> Vec<Vec<(u32, u32)>> {
        let n_offers = compiler.offers.offers.len();
        let mut parts: Vec<Vec<(u32, u32)>> = vec![Vec::new(); self.snapshot.nodes.len()];
        let mut beside = FixedBitSet::with_capacity(self.snapshot.classes.len());
        for rules in &topology.host_rules {
            rules.beside.iter().for_each(|b| beside.union_with(&b.members));
        }
        for (class, node, counts) in &self.stays {
            let place = n_offers + *node as usize;
            if *counts {
                for group in &topology.counted_in[*class as usize] {
                    let group = &mut topology.groups[*group as usize];
                    let value = compiler.keys.keys[group.key as usize].of_place[place];
                    if value != ABSENT && group.filter.as_ref().is_none_or(|f| f.contains(place)) {
                        group.counts[value as usize] += 1;
                    }
                }
            }
            let host = &topology.host_rules[*class as usize];
            if !host.groups.is_empty() || beside.contains(*class as usize) {
                let parts = &mut parts[*node as usize];
                match parts.iter_mut().find(|(c, _)| c == class) {
                    Some((_, n)) => *n += 1,
                    None => parts.push((*class, 1)),
                }
            }
        }
        parts
    }
}

/// Removes the places where a host port of the class is taken by a daemon or by a pod that stays.
fn mask_ports(
    allowed: &mut FixedBitSet,
    shape: &PodClass,
    fixed: &Fixed<'_>,
    daemons: &Daemons,
    compiler: &Compiler<'_>,
    n_offers: usize,
) {
    if shape.host_ports.is_empty() {
        return;
    }
    let taken = |ports: &[HostPort]| {
        ports
            .iter()
            .any(|theirs| shape.host_ports.iter().any(|ours| ports_conflict(ours, theirs)))
    };
    for place in 0..compiler.n_places {
        let ports = match place.checked_sub(n_offers) {
            Some(node) => &fixed.ports[node],
            None => &daemons.ports[daemons.set_of_offer[place] as usize],
        };
        if taken(ports) {
            allowed.set(place, false);
        }
    }
}

/// Assignments in the order of pods.
pub(super) fn assignment(pod: PodId, node: usize) -> Assignment {
    Assignment {
        pod,
        node: NodeId(node as u32),
    }
}
