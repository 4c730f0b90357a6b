//! Whole-cluster plans: which machines could go, and what would have to be bought for their pods.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    panic,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use plimsoll_api::labels;
use plimsoll_core::{
    catalog::{Catalog, MicroDollars},
    plan::Plan,
    policy::Policy,
    provision::provision,
    repack,
    requirement::{Operator, Requirement},
    snapshot::{AffinityTerm, ClassId, Place, PodClass, Snapshot},
};
use rustc_hash::FxHashMap;

use crate::cluster::{Cluster, WorkloadId};

/// Plans keep machines whose pods are proven to be worth at least this share of the price, in percent; the last one
/// keeps none. The cheapest of them counts.
const KEEP_AT_PERCENT: [i128; 4] = [80, 93, 99, i128::MAX];
/// From so many pods on a cluster is large: only the plan that keeps nothing is made, because the others take as long each and
/// find little more, …
const LARGE_PODS: usize = 20_000;
/// … and it is searched for this part of the steps, each of which takes longer there and finds less.
const LARGE_STEPS_PART: u64 = 4;
/// A plan that costs at most this much more than the cheapest, in thousandths, is preferred when it moves fewer pods.
const CALM_PERMILLE: i64 = 10;
/// Rounds in which machines of pods that found no place are kept after all.
const ROUNDS_MAX: usize = 4;

/// Plans made at the same time: each holds the cluster once more.
const AT_ONCE: usize = 2;

/// The results of independent work, in the order of the jobs.
pub(crate) fn side_by_side<J: Sync, T: Send>(jobs: &[J], work: impl Fn(&J) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let take_turns = || {
        let mut done = Vec::new();
        while let at = next.fetch_add(1, Ordering::Relaxed)
            && let Some(job) = jobs.get(at)
        {
            done.push((at, work(job)));
        }
        done
    };
    let mut done = thread::scope(|scope| {
        let others: Vec<_> = (1..AT_ONCE).map(|_| scope.spawn(take_turns)).collect();
        let mut done = take_turns();
        for other in others {
            done.extend(other.join().unwrap_or_else(|why| panic::resume_unwind(why)));
        }
        done
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

pub(crate) fn is_large(cluster: &Cluster) -> bool {
    cluster.pods.len() >= LARGE_PODS
}

/// How long each plan of a cluster is searched.
pub(crate) fn steps(cluster: &Cluster, policy: &Policy) -> u64 {
    if is_large(cluster) {
        policy.steps_max / LARGE_STEPS_PART
    } else {
        policy.steps_max
    }
}

/// Which pods may run on spot machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spot {
    /// Those that do already.
    AsToday,
    /// Those and all that [`tolerates_spot`].
    WhereTolerated,
}

/// One way to arrange the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Arrangement {
    /// By node.
    pub(crate) gone: Vec<bool>,
    pub(crate) plan: Plan,
    /// All machines with a known price, afterwards.
    pub(crate) price: MicroDollars,
    /// What no arrangement in which the same machines are pinned can cost less than.
    pub(crate) floor: MicroDollars,
    pub(crate) pods_moved: u32,
}

/// The snapshot a family of plans starts from.
pub(crate) struct Planner<'a> {
    pub(crate) cluster: &'a Cluster,
    policy: Policy,
    base: Snapshot,
    catalog: Cow<'a, Catalog>,
}

/// Losing one pod of it at two minutes' notice goes unnoticed: at least two replicas made by a controller, neither
/// stateful nor critical, without local data, and nothing that forbids an eviction.
pub(crate) fn tolerates_spot(cluster: &Cluster, pod: usize) -> bool {
    let facts = &cluster.pods[pod];
    let restrained = facts.budget.is_some() || facts.do_not_disrupt.is_some() || facts.local_storage;
    !(restrained || facts.bare || facts.stateful || facts.critical)
        && cluster.replicas[facts.workload as usize] >= 2
}

/// A required anti-affinity over machines that keeps pods of the class apart.
pub(crate) fn keeps_apart(class: &PodClass, term: &AffinityTerm) -> bool {
    let own_namespace = term.namespaces.is_empty() && term.namespace_selector.is_none()
        || term.namespaces.contains(&class.namespace);
    let value = |key: &str| class.labels.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v);
    &*term.topology_key == labels::HOSTNAME
        && own_namespace
        && !term.selector.nothing
        && term
            .selector
            .requirements
            .iter()
            .all(|r| r.matches(value(&r.key)))
}

impl<'a> Planner<'a> {
    /// Every pod keeps the architecture it runs on.
    pub(crate) fn new(cluster: &'a Cluster, policy: &'a Policy, spot: Spot) -> Self {
        Self::with(cluster, policy, spot, |_| false)
    }

    fn with(
        cluster: &'a Cluster,
        policy: &'a Policy,
        spot: Spot,
        of_any_arch: impl Fn(usize) -> bool,
    ) -> Self {
        let on_spot = |pod: usize| {
            let node = cluster.node_of(pod).map(|n| &cluster.snapshot.nodes[n]);
            let capacity_type = node.and_then(|n| n.labels.get(labels::CAPACITY_TYPE));
            capacity_type.is_some_and(|t| &**t == labels::CAPACITY_SPOT)
        };
        let may = |pod: usize| on_spot(pod) || (spot == Spot::WhereTolerated && tolerates_spot(cluster, pod));
        let not_spot = |class: &mut PodClass| {
            require(
                class,
                labels::CAPACITY_TYPE,
                Operator::NotIn,
                labels::CAPACITY_SPOT,
            );
        };
        let mut base = changed(&cluster.snapshot, |pod| !may(pod), not_spot);
        let arches: BTreeSet<&str> = (0..cluster.nodes.len())
            .filter_map(|n| cluster.arch_of(n))
            .collect();
        for arch in arches {
            let stays = |pod: usize| {
                let today = cluster.node_of(pod).and_then(|n| cluster.arch_of(n));
                today == Some(arch) && !of_any_arch(pod)
            };
            base = changed(&base, stays, |class| {
                require(class, labels::ARCH, Operator::In, arch);
            });
        }
        Self {
            cluster,
            policy: Policy {
                steps_max: steps(cluster, policy),
                ..policy.clone()
            },
            base,
            catalog: Cow::Borrowed(&cluster.catalog),
        }
    }

    /// The same, had these workloads no rule that keeps their pods on machines apart.
    pub(crate) fn without_anti_affinity(&self, workloads: &BTreeSet<WorkloadId>) -> Self {
        let drop_rule = |class: &mut PodClass| {
            let kept = class.anti_affinity.iter().filter(|t| !keeps_apart(class, t));
            class.anti_affinity = kept.cloned().collect();
        };
        Self {
            cluster: self.cluster,
            policy: self.policy.clone(),
            base: changed(
                &self.base,
                |pod| workloads.contains(&self.cluster.pods[pod].workload),
                drop_rule,
            ),
            catalog: self.catalog.clone(),
        }
    }

    /// Every pool that buys amd64 machines buys arm64 too, for these pods.
    pub(crate) fn with_arm64(cluster: &'a Cluster, policy: &'a Policy, may: &[bool]) -> Self {
        let mut planner = Self::with(cluster, policy, Spot::AsToday, |pod| may[pod]);
        for pool in &mut planner.base.pools {
            let amd64_alone = |r: &Requirement| {
                let of = |arch| r.matches(Some(arch));
                &*r.key == labels::ARCH && of(labels::ARCH_AMD64) && !of(labels::ARCH_ARM64)
            };
            pool.requirements.retain(|r| !amd64_alone(r));
            pool.labels
                .retain(|key, value| &**key != labels::ARCH || &**value != labels::ARCH_AMD64);
        }
        let mut catalog = cluster.catalog.clone();
        for (pool, types) in &cluster.arm64_types {
            let of_pool = catalog.by_pool.entry(pool.clone()).or_default();
            of_pool.extend(types);
            of_pool.sort_unstable();
        }
        Self {
            catalog: Cow::Owned(catalog),
            ..planner
        }
    }

    /// The cheapest arrangement found in which the pinned machines stay; never dearer than leaving all as it is.
    pub(crate) fn cheapest(&self, pinned: &[bool]) -> Arrangement {
        let all: Vec<bool> = self
            .cluster
            .nodes
            .iter()
            .zip(pinned)
            .map(|(facts, pinned)| facts.fixed.is_none() && !pinned)
            .collect();
        let mut found = vec![self.as_it_is()];
        if !all.contains(&true) {
            return found.remove(0);
        }
        let (rebuilt, floor) = self.rebuilt(all.clone());
        if let Some(rebuilt) = &rebuilt
            && !is_large(self.cluster)
        {
            let worth = self.worth(&rebuilt.plan);
            let mut tried = vec![rebuilt.gone.clone()];
            for percent in KEEP_AT_PERCENT.into_iter().filter(|p| *p < i128::MAX) {
                let poor = |node: usize| {
                    let price = self.base.nodes[node].price.map_or(0, |p| i128::from(p.0) * 1000);
                    worth[node] * 100 < price * percent
                };
                let gone: Vec<bool> = all.iter().enumerate().map(|(n, gone)| *gone && poor(n)).collect();
                if gone.contains(&true) && !tried.contains(&gone) {
                    found.extend(self.rebuilt(gone.clone()).0);
                    tried.push(gone);
                }
            }
        }
        found.extend(rebuilt);
        let least = found.iter().map(|a| a.price).min().unwrap_or_default();
        let near = least.0 + least.0 * CALM_PERMILLE / 1000;
        found.retain(|a| a.price.0 <= near);
        found.sort_by_key(|a| (a.pods_moved, a.price));
        Arrangement {
            floor,
            ..found.remove(0)
        }
    }

    /// No machine goes but those that are leaving already.
    fn as_it_is(&self) -> Arrangement {
        let gone: Vec<bool> = self.base.nodes.iter().map(|_| false).collect();
        let price = self.cluster.price();
        Arrangement {
            price,
            floor: price,
            gone,
            plan: Plan::default(),
            pods_moved: 0,
        }
    }

    fn kept_price(&self, gone: &[bool]) -> MicroDollars {
        let kept = self
            .base
            .nodes
            .iter()
            .zip(gone)
            .filter(|(n, gone)| !**gone && !n.leaving);
        kept.filter_map(|(n, _)| n.price).sum()
    }

    /// The machines marked go and what is needed for their pods is bought; no arrangement when some pod would find no
    /// place. The price is what keeping the others and placing the pods cannot cost less than.
    fn rebuilt(&self, mut gone: Vec<bool>) -> (Option<Arrangement>, MicroDollars) {
        let mut floor = None;
        for _ in 0..ROUNDS_MAX {
            let left = repack::without(&self.base, &gone);
            let (plan, report) = provision(&left, &self.catalog, &self.policy);
            // The first bound counts the pods that found a place when most were free to move; more cost no less.
            let floor = *floor.get_or_insert(self.kept_price(&gone) + plan.lower_bound);
            if report.unplaced.is_empty() {
                let moved = left.pods.iter().filter(|p| p.place == Place::Pending).count();
                let arrangement = Arrangement {
                    price: self.kept_price(&gone) + plan.launch_price,
                    floor,
                    gone,
                    plan,
                    pods_moved: moved as u32,
                };
                return (Some(arrangement), floor);
            }
            for unplaced in &report.unplaced {
                if let Some(node) = self.cluster.node_of(unplaced.pod.0 as usize) {
                    gone[node] = false;
                }
            }
        }
        (None, floor.unwrap_or_default())
    }

    /// What the pods on each machine are proven to be worth, in nano-dollars per hour.
    fn worth(&self, plan: &Plan) -> Vec<i128> {
        let duals = &plan.bound.duals;
        let mut worth = vec![0; self.base.nodes.len()];
        for (at, pod) in self.base.pods.iter().enumerate() {
            if let (Some(node), Ok(dual)) = (
                self.cluster.node_of(at),
                duals.binary_search_by_key(&pod.class, |(class, _)| *class),
            ) && !pod.daemon
            {
                worth[node] += i128::from(duals[dual].1);
            }
        }
        worth
    }
}

fn require(class: &mut PodClass, label: &str, operator: Operator, value: &str) {
    if class.node_affinity.is_empty() {
        class.node_affinity.push(Vec::new());
    }
    let requirement = Requirement::new(label, operator, [Arc::from(value)]);
    for alternative in &mut class.node_affinity {
        alternative.push(requirement.clone());
    }
}

/// The snapshot with the class of the chosen pods changed. Classes of others stay as they are.
fn changed(snapshot: &Snapshot, chosen: impl Fn(usize) -> bool, change: impl Fn(&mut PodClass)) -> Snapshot {
    let mut new = snapshot.clone();
    let mut twins: FxHashMap<ClassId, ClassId> = FxHashMap::default();
    for (at, pod) in new.pods.iter_mut().enumerate() {
        if pod.daemon || !chosen(at) {
            continue;
        }
        let next = ClassId(new.classes.len() as u32);
        pod.class = *twins.entry(pod.class).or_insert_with_key(|class| {
            let mut twin = snapshot.classes[class.0 as usize].clone();
            change(&mut twin);
            new.classes.push(twin);
            next
        });
    }
    new
}
