//! A cluster as reports look at it: the planner's snapshot, and beside it what only people care about.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use plimsoll_core::{
    catalog::{Catalog, MicroDollars, TypeId},
    resources::{CPU, MEMORY},
    snapshot::{DaemonSet, Place, PodClass, Snapshot},
};
use plimsoll_state::{
    Index,
    pdb::BlockingBudget,
    pod::{Owner, PodState},
};
use rustc_hash::FxHashMap;

use crate::fleet;

/// Where prices come from.
#[derive(Clone, Debug)]
pub enum Prices {
    /// The list that is part of this program, see [`crate::aws`].
    Aws,
    /// A provider's catalogue, which knows what each pool may buy.
    Catalog(Catalog),
}

/// Index of a workload in [`Cluster::workloads`].
pub type WorkloadId = u32;

/// What a pod belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Workload {
    pub namespace: Arc<str>,
    /// `Kind/name`; `Pod/name` for one that nobody owns.
    pub name: Arc<str>,
}

/// What a report knows of a pod beyond the snapshot.
#[derive(Clone, Debug)]
pub struct PodFacts {
    pub workload: WorkloadId,
    /// The budget that forbids evicting it now.
    pub budget: Option<BlockingBudget>,
    /// The annotation by which it asks not to be evicted.
    pub do_not_disrupt: Option<&'static str>,
    /// Nobody would make it again.
    pub bare: bool,
    pub stateful: bool,
    pub critical: bool,
    pub local_storage: bool,
    /// It requests no CPU or no memory.
    pub without_requests: bool,
    /// Its containers run and say they are ready.
    pub ready: bool,
    pub images: Arc<Vec<Arc<str>>>,
    /// `namespace/name` of the DaemonSet that owns it.
    pub daemon_set: Option<Arc<str>>,
}

/// What a report knows of a machine beyond the snapshot.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// Why no plan of a report touches it, whatever its pods.
    pub fixed: Option<Fixed>,
    /// It carries an annotation against being removed.
    pub do_not_disrupt: Option<&'static str>,
    /// EC2's id of the machine.
    pub instance: Option<String>,
}

/// Why a machine is outside of what reports plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fixed {
    /// Its price is not known.
    NoPrice,
    ControlPlane,
    /// Ordered or starting.
    NotReadyYet,
}

#[derive(Debug)]
pub struct Cluster {
    /// The moment it is a picture of.
    pub taken: Timestamp,
    /// Pods that wait are not in it. Machines are priced and have Karpenter's labels whatever made them; pools that
    /// stand for machines without a NodePool are made up.
    pub snapshot: Snapshot,
    pub catalog: Catalog,
    /// By pod of the snapshot.
    pub pods: Vec<PodFacts>,
    /// By node of the snapshot.
    pub nodes: Vec<NodeFacts>,
    /// Sorted.
    pub workloads: Vec<Workload>,
    /// Active pods of each workload.
    pub replicas: Vec<u32>,
    /// Keys of pods that wait for a place.
    pub waiting: Vec<Arc<str>>,
    /// Names of pools that were made up.
    pub pools_made_up: Vec<Arc<str>>,
    /// By pool that was made up, what else it could buy if its pods ran on arm64.
    pub arm64_types: BTreeMap<Arc<str>, Vec<TypeId>>,
    /// What kept machines from being priced, and how many of them.
    pub unpriced: BTreeMap<String, u32>,
    /// Machines of which no label says how they were bought.
    pub(crate) taken_as_on_demand: u32,
}

impl Cluster {
    /// Reads an index as it stood at `taken`.
    pub fn read(index: &Index, prices: &Prices, taken: Timestamp) -> Self {
        Self::read_at(index, prices, |_| (), taken)
    }

    /// The same at other prices.
    pub fn read_at(
        index: &Index,
        prices: &Prices,
        reprice: impl FnOnce(&mut Catalog),
        taken: Timestamp,
    ) -> Self {
        let mut lowered = index.snapshot(&Catalog::default(), taken).snapshot;
        let waits = |place| place == Place::Pending;
        let waiting = lowered.pods.iter().filter(|p| waits(p.place));
        let waiting = waiting.map(|p| p.key.clone()).collect();
        lowered.pods.retain(|p| !waits(p.place));

        let states: Vec<&PodState> = lowered
            .pods
            .iter()
            .map(|p| &**index.pod(&p.key).expect("a snapshot's pods are the index's"))
            .collect();
        for (pod, state) in lowered.pods.iter_mut().zip(&states) {
            // A static pod comes and goes with its machine, like a daemon's.
            pod.daemon |= state.is_mirror();
        }
        let (workloads, of_pod, replicas) = workloads(&states);
        let budgets = index.blocking_budgets(states.iter().copied());
        let pods = lowered
            .pods
            .iter()
            .zip(&states)
            .zip(of_pod.into_iter().zip(budgets))
            .map(|((pod, state), (workload, budget))| {
                let class = &lowered.classes[pod.class.0 as usize];
                facts(class, state, workload, budget, taken)
            })
            .collect();
        complete_daemon_sets(&mut lowered, &states);
        let fleet = fleet::matched(index, &mut lowered, prices, reprice);
        Self {
            taken,
            snapshot: lowered,
            catalog: fleet.catalog,
            pods,
            nodes: fleet.nodes,
            workloads,
            replicas,
            waiting,
            pools_made_up: fleet.pools_made_up,
            arm64_types: fleet.arm64_types,
            unpriced: fleet.unpriced,
            taken_as_on_demand: fleet.taken_as_on_demand,
        }
    }

    /// The machine a pod is on.
    pub fn node_of(&self, pod: usize) -> Option<usize> {
        match self.snapshot.pods[pod].place {
            Place::Bound(node) | Place::Assigned(node) | Place::Leaving(node) => Some(node.0 as usize),
            Place::Pending => None,
        }
    }

    /// The architecture of a machine, as its label says.
    pub fn arch_of(&self, node: usize) -> Option<&str> {
        let arch = self.snapshot.nodes[node].labels.get(plimsoll_api::labels::ARCH)?;
        Some(arch)
    }

    /// What all machines with a known price cost per hour.
    pub fn price(&self) -> MicroDollars {
        self.snapshot.nodes.iter().filter_map(|n| n.price).sum()
    }

    pub fn class_of(&self, pod: usize) -> &PodClass {
        &self.snapshot.classes[self.snapshot.pods[pod].class.0 as usize]
    }

    pub fn workload_of(&self, pod: usize) -> &Workload {
        &self.workloads[self.pods[pod].workload as usize]
    }
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What a class requests of a resource, zero when nothing.
pub(crate) fn request(class: &PodClass, resource: &str) -> i64 {
    let found = class.requests.iter().find(|(name, _)| &**name == resource);
    found.map_or(0, |(_, amount)| *amount)
}

/// All workloads, which one each pod belongs to, and how many active pods each has.
fn workloads(states: &[&PodState]) -> (Vec<Workload>, Vec<WorkloadId>, Vec<u32>) {
    let mut ids: FxHashMap<(&str, Arc<str>), WorkloadId> = FxHashMap::default();
    let mut of_pod: Vec<WorkloadId> = Vec::with_capacity(states.len());
    for state in states {
        let alone = || format!("Pod/{}", state.name()).into();
        let name = state.workload.clone().unwrap_or_else(alone);
        let next = ids.len() as WorkloadId;
        of_pod.push(*ids.entry((state.namespace(), name)).or_insert(next));
    }
    let mut sorted: Vec<_> = ids.into_iter().collect();
    sorted.sort_unstable();
    let mut rank = vec![0; sorted.len()];
    for (at, (_, id)) in sorted.iter().enumerate() {
        rank[*id as usize] = at as WorkloadId;
    }
    let mut replicas = vec![0; sorted.len()];
    for (state, id) in states.iter().zip(&mut of_pod) {
        *id = rank[*id as usize];
        replicas[*id as usize] += u32::from(state.is_active());
    }
    let workload = |((namespace, name), _): ((&str, Arc<str>), WorkloadId)| Workload {
        namespace: namespace.into(),
        name,
    };
    (sorted.into_iter().map(workload).collect(), of_pod, replicas)
}

fn facts(
    class: &PodClass,
    state: &PodState,
    workload: WorkloadId,
    budget: Option<BlockingBudget>,
    now: Timestamp,
) -> PodFacts {
    let moves = state.is_active() && state.is_reschedulable();
    let annotation = if state.do_not_disrupt_now(now) {
        Some(plimsoll_api::labels::DO_NOT_DISRUPT)
    } else {
        state
            .not_safe_to_evict
            .then_some("cluster-autoscaler.kubernetes.io/safe-to-evict")
    };
    PodFacts {
        workload,
        budget: budget.filter(|_| moves),
        do_not_disrupt: annotation.filter(|_| moves),
        bare: moves && state.owner == Owner::None,
        stateful: state.owner == Owner::StatefulSet,
        critical: state.critical,
        local_storage: moves && state.local_storage,
        without_requests: moves && (request(class, CPU) == 0 || request(class, MEMORY) == 0),
        ready: state.ready,
        images: state.images.clone(),
        daemon_set: state.daemon_set.clone(),
    }
}

/// A dump may hold a DaemonSet's pods and not the DaemonSet; new machines get its pod all the same.
fn complete_daemon_sets(snapshot: &mut Snapshot, states: &[&PodState]) {
    let mut missing: BTreeMap<Arc<str>, PodClass> = BTreeMap::new();
    for (pod, state) in snapshot.pods.iter().zip(states) {
        let Some(key) = &state.daemon_set else { continue };
        let known = snapshot.daemon_sets.binary_search_by(|d| d.key.cmp(key)).is_ok();
        if !known && !missing.contains_key(key) {
            let mut class = snapshot.classes[pod.class.0 as usize].clone();
            // The DaemonSet controller pins each pod to its node by name.
            for alternative in &mut class.node_affinity {
                alternative.retain(|r| &*r.key != plimsoll_api::labels::HOSTNAME);
            }
            class.node_affinity.retain(|alternative| !alternative.is_empty());
            missing.insert(key.clone(), class);
        }
    }
    let mut ids: FxHashMap<PodClass, _> = FxHashMap::default();
    for (key, class) in missing {
        let next = plimsoll_core::snapshot::ClassId(snapshot.classes.len() as u32);
        let id = *ids.entry(class).or_insert_with_key(|class| {
            snapshot.classes.push(class.clone());
            next
        });
        snapshot.daemon_sets.push(DaemonSet { key, class: id });
    }
    snapshot.daemon_sets.sort_by(|a, b| a.key.cmp(&b.key));
}
