//! The savings report: plain data, made once and rendered in many ways.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use plimsoll_api::labels;
use plimsoll_core::{
    catalog::MicroDollars,
    policy::Policy,
    resources::{CPU, MEMORY},
    snapshot::PodId,
};
use serde::Serialize;

use crate::{
    arm64::{self, Arm64, Arm64Images},
    aws,
    cluster::{Cluster, Fixed, Prices, request},
    moves,
    plans::{Arrangement, Planner, Spot, side_by_side, steps},
    restraints::{self, Restraint, RestraintKind},
    spending::{self, Spend},
};

/// Version of the JSON form; grows when a field changes its meaning or goes away.
pub const VERSION: u32 = 1;

/// Hours of a month, as AWS's own calculator counts them.
pub const HOURS_PER_MONTH: f64 = 730.0;

/// An amount of money per time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Dollars.
    pub per_hour: f64,
    /// Dollars, at 730 hours.
    pub per_month: f64,
}

impl From<MicroDollars> for Cost {
    fn from(price: MicroDollars) -> Self {
        Self {
            per_hour: price.dollars(),
            per_month: price.dollars() * HOURS_PER_MONTH,
        }
    }
}

/// What a cluster costs, what it could cost and what is in the way.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SavingsReport {
    pub version: u32,
    /// The moment the cluster was looked at.
    pub taken: Timestamp,
    pub prices: PriceBasis,
    pub totals: Totals,
    /// All machines with a known price.
    pub now: Cost,
    /// The part of `now` that no plan here touches: control planes and machines that are starting.
    pub fixed: Cost,
    /// What can be had while every restraint is obeyed, every pod stays on the architecture it runs on, and spot is bought
    /// only for pods that run on spot already.
    pub reachable: Outcome,
    /// The same, with spot for every pod that tolerates it.
    pub reachable_with_spot: Outcome,
    /// As `reachable`, with arm64 machines for every pod that is known to run on them.
    pub reachable_with_arm64: Outcome,
    pub arm64: Arm64,
    /// What could be had if nothing forbade evictions; spot and architectures as today.
    pub unblocked: Outcome,
    /// No arrangement of the same pods on the machines considered can cost less, whatever is evicted; spot
    /// and architectures as today.
    pub bound: Cost,
    /// One entry per kind of restraint, in the order of [`RestraintKind`].
    pub restraint_kinds: Vec<KindOfRestraint>,
    /// Within a kind those that cost most first, then those not planned alone, dearest machines first.
    pub restraints: Vec<RestraintRow>,
    /// By name.
    pub nodes: Vec<NodeRow>,
    /// Machines to buy for `reachable`, dearest first.
    pub new_machines: Vec<NewMachine>,
    pub namespaces: Vec<Spend>,
    pub workloads: Vec<Spend>,
    /// What is paid for and nobody requests.
    pub idle: Idle,
    /// Machines whose price is not known, by what the catalogue lacks.
    pub unpriced: Vec<Unpriced>,
    pub notes: Vec<String>,
}

/// Where prices come from and how old they are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PriceBasis {
    pub source: String,
    /// Day of the list, where there is one.
    pub date: Option<String>,
    pub age_days: Option<i64>,
    /// How spot prices were made up, when they were.
    pub spot_rule: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Totals {
    pub nodes: u32,
    pub nodes_unpriced: u32,
    pub pods: u32,
    pub pods_waiting: u32,
    pub pods_without_requests: u32,
    pub cpu_requested_milli: i64,
    pub cpu_allocatable_milli: i64,
    pub memory_requested_bytes: i64,
    pub memory_allocatable_bytes: i64,
}

/// A way to arrange the cluster, in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    pub cost: Cost,
    pub saves: Cost,
    /// Of what all machines with a known price cost now.
    pub saves_percent: f64,
    pub nodes_kept: u32,
    pub nodes_removed: u32,
    pub nodes_bought: u32,
    pub pods_moved: u32,
    /// What is left after it: equal machines together, dearest first.
    pub machines: Vec<MachineGroup>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MachineGroup {
    pub count: u32,
    pub instance_type: String,
    pub zone: String,
    pub capacity_type: String,
    pub pool: String,
    /// Dollars an hour for one; none when unknown.
    pub per_hour: Option<f64>,
    /// Of `count`, how many are new.
    pub bought: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KindOfRestraint {
    pub kind: RestraintKind,
    /// Plans obey it. Then `per_month` is what lifting all of the kind would save; otherwise it is what obeying them
    /// would take from the savings.
    pub obeyed: bool,
    pub subjects: u32,
    pub pods: u32,
    pub nodes: u32,
    pub per_month: f64,
    pub fix: &'static str,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RestraintRow {
    pub kind: RestraintKind,
    /// `namespace/name` of a budget, `namespace/Kind/name` of a workload, or a node's name.
    pub subject: String,
    /// Workloads concerned.
    pub owners: Vec<String>,
    /// It will hold tomorrow as well, as far as can be seen.
    pub for_ever: bool,
    pub pods: u32,
    pub nodes: u32,
    /// As in [`KindOfRestraint`], for this one alone. None: not planned, because too many others hold dearer machines.
    pub per_month: Option<f64>,
}

impl RestraintRow {
    /// Whom to ask, where the subject does not say it itself.
    pub(crate) fn owner(&self) -> Option<String> {
        let (first, rest) = self.owners.split_first()?;
        match rest.len() {
            0 if *first == self.subject => None,
            0 => Some(first.clone()),
            more => Some(format!("{first} and {more} more")),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeRow {
    pub name: String,
    /// The NodeClaim that owns it.
    pub node_claim: Option<String>,
    /// EC2's id of the machine.
    pub instance: Option<String>,
    pub instance_type: String,
    pub zone: String,
    pub capacity_type: String,
    /// NodePool or node group.
    pub pool: String,
    pub per_hour: Option<f64>,
    pub pods: u32,
    pub cpu_requested_milli: i64,
    pub cpu_allocatable_milli: i64,
    pub memory_requested_bytes: i64,
    pub memory_allocatable_bytes: i64,
    /// What `reachable` does with it.
    pub action: Action,
    /// Why it stays, when something holds it.
    pub held_by: Option<String>,
    /// Its pods by namespace, those that take most first.
    pub filled: Vec<Part>,
    /// Pods that `reachable` moves onto it, as `namespace/name`.
    pub takes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Action {
    Keep,
    Remove,
}

/// Pods of a namespace on a machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    pub namespace: String,
    pub pods: u32,
    /// Their share, in thousandths, of what the machine has less of: CPU or memory.
    pub permille: u32,
}

/// A machine to buy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NewMachine {
    pub pool: String,
    /// A NodePool that exists can buy it.
    pub of_node_pool: bool,
    pub instance_type: String,
    pub zone: String,
    pub capacity_type: String,
    pub per_hour: f64,
    pub pods: u32,
    pub filled: Vec<Part>,
    /// Pods that `reachable` moves onto it, as `namespace/name`.
    pub takes: Vec<String>,
}

/// What is paid for and not requested by any pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Idle {
    pub cpu: Cost,
    pub memory: Cost,
    /// Requested by daemons: not idle, and grows with the number of machines.
    pub daemons: Cost,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Unpriced {
    pub what: String,
    pub nodes: u32,
}

/// Works everything out. The same arguments give the same report.
pub fn report(cluster: &Cluster, prices: &Prices, images: &Arm64Images, policy: &Policy) -> SavingsReport {
    let restraints = restraints::all(cluster);
    let (none, all) = (|_: usize| false, |_: usize| true);
    let planner = Planner::new(cluster, policy, Spot::AsToday);
    let pinned = restraints::pins(cluster, &restraints, none, none);
    let free = restraints::pins(cluster, &restraints, all, none);
    let on_arm64 = arm64::known(cluster, images);
    let of_spot = Planner::new(cluster, policy, Spot::WhereTolerated);
    let of_arm64 = on_arm64
        .any()
        .then(|| Planner::with_arm64(cluster, policy, &on_arm64.pods));
    // Where a question is the same as the first, so is the answer.
    let questions = [
        Some((&planner, &pinned)),
        (free != pinned).then_some((&planner, &free)),
        Some((&of_spot, &pinned)),
        of_arm64.as_ref().map(|planner| (planner, &pinned)),
    ];
    let mut answers = side_by_side(&questions, |question| {
        question.map(|(planner, pinned)| planner.cheapest(pinned))
    })
    .into_iter();
    let reachable = answers.next().flatten().expect("the first is always asked");
    let mut next = || match answers.next().flatten() {
        Some(found) => cheaper(found, &reachable),
        None => reachable.clone(),
    };
    let (unblocked, with_spot, with_arm64) = (next(), next(), next());
    let moves = moves::moves(cluster, &reachable);
    let (restraint_kinds, rows) = restraints::priced(&planner, &restraints, &reachable);
    let now = cluster.price();
    let (namespaces, workloads, idle) = spending::spending(cluster);
    SavingsReport {
        version: VERSION,
        taken: cluster.taken,
        prices: basis(cluster, prices),
        totals: totals(cluster),
        now: now.into(),
        fixed: fixed(cluster).into(),
        bound: unblocked.floor.into(),
        nodes: nodes(cluster, &restraints, &reachable, &moves.to_kept),
        new_machines: new_machines(cluster, &reachable, &moves.to_new),
        reachable: outcome(cluster, &reachable, now),
        reachable_with_spot: outcome(cluster, &with_spot, now),
        reachable_with_arm64: outcome(cluster, &with_arm64, now),
        arm64: on_arm64.basis,
        unblocked: outcome(cluster, &unblocked, now),
        restraint_kinds,
        restraints: rows,
        namespaces,
        workloads,
        idle,
        unpriced: cluster
            .unpriced
            .iter()
            .map(|(what, nodes)| Unpriced {
                what: what.clone(),
                nodes: *nodes,
            })
            .collect(),
        notes: notes(cluster, policy),
    }
}

/// `reachable` of the report alone.
pub fn reachable(cluster: &Cluster, policy: &Policy) -> MicroDollars {
    let nothing = |_: usize| false;
    let pinned = restraints::pins(cluster, &restraints::all(cluster), nothing, nothing);
    Planner::new(cluster, policy, Spot::AsToday)
        .cheapest(&pinned)
        .price
}

/// What is allowed in the second is allowed in the first too.
fn cheaper(found: Arrangement, allowed: &Arrangement) -> Arrangement {
    if allowed.price < found.price {
        Arrangement {
            floor: found.floor.min(allowed.floor),
            ..allowed.clone()
        }
    } else {
        found
    }
}

pub(crate) fn basis(cluster: &Cluster, prices: &Prices) -> PriceBasis {
    match prices {
        Prices::Catalog(catalog) => PriceBasis {
            source: catalog.price_source.to_string(),
            date: None,
            age_days: None,
            spot_rule: None,
        },
        Prices::Aws => {
            let date = aws::date();
            let today = cluster.taken.to_zoned(jiff::tz::TimeZone::UTC).date();
            PriceBasis {
                source: aws::source().into(),
                date: Some(date.to_string()),
                age_days: Some(i64::from((today - date).get_days())),
                spot_rule: Some(format!(
                    "assumed {} % below on-demand everywhere; real spot prices vary by type, zone and hour",
                    (1000 - aws::SPOT_PERMILLE) / 10
                )),
            }
        }
    }
}

fn totals(cluster: &Cluster) -> Totals {
    let snapshot = &cluster.snapshot;
    let mut totals = Totals {
        nodes: snapshot.nodes.len() as u32,
        nodes_unpriced: snapshot.nodes.iter().filter(|n| n.price.is_none()).count() as u32,
        pods: snapshot.pods.len() as u32,
        pods_waiting: cluster.waiting.len() as u32,
        pods_without_requests: cluster.pods.iter().filter(|p| p.without_requests).count() as u32,
        ..Totals::default()
    };
    for pod in &snapshot.pods {
        let class = &snapshot.classes[pod.class.0 as usize];
        totals.cpu_requested_milli += request(class, CPU);
        totals.memory_requested_bytes += request(class, MEMORY);
    }
    for node in &snapshot.nodes {
        totals.cpu_allocatable_milli += amount(&node.allocatable, CPU);
        totals.memory_allocatable_bytes += amount(&node.allocatable, MEMORY);
    }
    totals
}

pub(crate) fn amount(resources: &plimsoll_core::resources::Resources, name: &str) -> i64 {
    resources.get(name).copied().unwrap_or(0)
}

fn fixed(cluster: &Cluster) -> MicroDollars {
    let nodes = cluster.snapshot.nodes.iter().zip(&cluster.nodes);
    nodes
        .filter(|(_, f)| f.fixed.is_some())
        .filter_map(|(n, _)| n.price)
        .sum()
}

fn outcome(cluster: &Cluster, arrangement: &Arrangement, now: MicroDollars) -> Outcome {
    let mut groups: BTreeMap<(String, String, String, String), MachineGroup> = BTreeMap::new();
    let mut add = |machine: MachineGroup| {
        let key = (
            machine.instance_type.clone(),
            machine.zone.clone(),
            machine.capacity_type.clone(),
            machine.pool.clone(),
        );
        let group = groups.entry(key).or_insert(MachineGroup {
            count: 0,
            bought: 0,
            ..machine.clone()
        });
        group.count += 1;
        group.bought += machine.bought;
    };
    let nothing_changes = arrangement.plan.launches.is_empty() && !arrangement.gone.contains(&true);
    let stays = |at: usize| nothing_changes || (!arrangement.gone[at] && !cluster.snapshot.nodes[at].leaving);
    let mut kept = 0;
    for (at, node) in cluster
        .snapshot
        .nodes
        .iter()
        .enumerate()
        .filter(|(at, _)| stays(*at))
    {
        kept += 1;
        let label = |key: &str| node.labels.get(key).map(ToString::to_string).unwrap_or_default();
        add(MachineGroup {
            count: 1,
            instance_type: label(labels::INSTANCE_TYPE),
            zone: label(labels::ZONE),
            capacity_type: label(labels::CAPACITY_TYPE),
            pool: pool_name(cluster, at),
            per_hour: node.price.map(MicroDollars::dollars),
            bought: 0,
        });
    }
    for launch in &arrangement.plan.launches {
        let offered = &launch.offering;
        add(MachineGroup {
            count: 1,
            instance_type: offered.instance_type.to_string(),
            zone: offered.zone.to_string(),
            capacity_type: offered.capacity_type.to_string(),
            pool: launch.pool.to_string(),
            per_hour: Some(offered.price.dollars()),
            bought: 1,
        });
    }
    let mut machines: Vec<MachineGroup> = groups.into_values().collect();
    let total = |m: &MachineGroup| m.per_hour.unwrap_or(0.0) * f64::from(m.count);
    machines.sort_by(|a, b| total(b).total_cmp(&total(a)));
    let saves = now - arrangement.price;
    Outcome {
        cost: arrangement.price.into(),
        saves: saves.into(),
        saves_percent: if now.0 == 0 {
            0.0
        } else {
            saves.0 as f64 / now.0 as f64 * 100.0
        },
        nodes_kept: kept,
        nodes_removed: cluster.snapshot.nodes.len() as u32 - kept,
        nodes_bought: arrangement.plan.launches.len() as u32,
        pods_moved: arrangement.pods_moved,
        machines,
    }
}

/// The pool or group a machine belongs to; empty when it names none.
pub(crate) fn pool_name(cluster: &Cluster, node: usize) -> String {
    let node = &cluster.snapshot.nodes[node];
    let of_label = || crate::fleet::group(&node.labels).cloned();
    node.pool
        .clone()
        .or_else(of_label)
        .map(|n| n.to_string())
        .unwrap_or_default()
}

pub(crate) fn nodes(
    cluster: &Cluster,
    restraints: &[Restraint],
    reachable: &Arrangement,
    to_kept: &[Vec<PodId>],
) -> Vec<NodeRow> {
    let snapshot = &cluster.snapshot;
    let mut on: Vec<Vec<usize>> = vec![Vec::new(); snapshot.nodes.len()];
    for at in 0..snapshot.pods.len() {
        if let Some(node) = cluster.node_of(at) {
            on[node].push(at);
        }
    }
    let mut held: BTreeMap<usize, String> = BTreeMap::new();
    let obeyed = |r: &&Restraint| r.kind.is_obeyed() && r.kind != RestraintKind::AntiAffinity;
    for restraint in restraints.iter().filter(obeyed) {
        for node in &restraint.nodes {
            held.entry(*node)
                .or_insert_with(|| format!("{:?} {}", restraint.kind, restraint.subject));
        }
    }
    let mut row = |(at, node): (usize, &plimsoll_core::snapshot::Node)| {
        let label = |key: &str| node.labels.get(key).map(ToString::to_string).unwrap_or_default();
        let sum = |resource: &str| {
            on[at]
                .iter()
                .map(|p| request(cluster.class_of(*p), resource))
                .sum()
        };
        NodeRow {
            name: node.name.to_string(),
            node_claim: node.claim.as_ref().map(ToString::to_string),
            instance: cluster.nodes[at].instance.clone(),
            instance_type: label(labels::INSTANCE_TYPE),
            zone: label(labels::ZONE),
            capacity_type: label(labels::CAPACITY_TYPE),
            pool: pool_name(cluster, at),
            per_hour: node.price.map(MicroDollars::dollars),
            pods: on[at].len() as u32,
            cpu_requested_milli: sum(CPU),
            cpu_allocatable_milli: amount(&node.allocatable, CPU),
            memory_requested_bytes: sum(MEMORY),
            memory_allocatable_bytes: amount(&node.allocatable, MEMORY),
            action: if reachable.gone[at] || node.leaving {
                Action::Remove
            } else {
                Action::Keep
            },
            held_by: match cluster.nodes[at].fixed {
                Some(Fixed::ControlPlane) => Some("control plane".into()),
                Some(Fixed::NoPrice) => Some("price not known".into()),
                Some(Fixed::NotReadyYet) => Some("still starting".into()),
                None => held.remove(&at),
            },
            filled: filled(cluster, &on[at], &node.allocatable),
            takes: keys(cluster, &to_kept[at]),
        }
    };
    snapshot.nodes.iter().enumerate().map(&mut row).collect()
}

fn keys(cluster: &Cluster, pods: &[PodId]) -> Vec<String> {
    let key = |pod: &PodId| cluster.snapshot.pods[pod.0 as usize].key.to_string();
    pods.iter().map(key).collect()
}

/// Pods by namespace, as shares of a machine.
fn filled(cluster: &Cluster, pods: &[usize], allocatable: &plimsoll_core::resources::Resources) -> Vec<Part> {
    let mut by_namespace: BTreeMap<&Arc<str>, (u32, i64, i64)> = BTreeMap::new();
    for pod in pods {
        let class = cluster.class_of(*pod);
        let entry = by_namespace
            .entry(&cluster.workload_of(*pod).namespace)
            .or_default();
        entry.0 += 1;
        entry.1 += request(class, CPU);
        entry.2 += request(class, MEMORY);
    }
    let whole = (
        amount(allocatable, CPU).max(1),
        amount(allocatable, MEMORY).max(1),
    );
    let permille = |used: i64, whole: i64| (i128::from(used) * 1000 / i128::from(whole)) as u32;
    let total = by_namespace
        .values()
        .fold((0, 0), |sum, (_, cpu, memory)| (sum.0 + cpu, sum.1 + memory));
    let by_cpu = permille(total.0, whole.0) >= permille(total.1, whole.1);
    let mut parts: Vec<Part> = by_namespace
        .into_iter()
        .map(|(namespace, (pods, cpu, memory))| Part {
            namespace: namespace.to_string(),
            pods,
            permille: if by_cpu {
                permille(cpu, whole.0)
            } else {
                permille(memory, whole.1)
            },
        })
        .collect();
    parts.sort_by(|a, b| b.permille.cmp(&a.permille).then(a.namespace.cmp(&b.namespace)));
    parts
}

pub(crate) fn new_machines(
    cluster: &Cluster,
    reachable: &Arrangement,
    to_new: &[Vec<PodId>],
) -> Vec<NewMachine> {
    let machine = |(launch, pods): (&plimsoll_core::plan::Launch, &Vec<PodId>)| {
        let at: Vec<usize> = pods.iter().map(|p| p.0 as usize).collect();
        let allocatable = launch
            .types
            .first()
            .map(|id| cluster.catalog.types[id.0 as usize].allocatable.clone())
            .unwrap_or_default();
        NewMachine {
            pool: launch.pool.to_string(),
            of_node_pool: !cluster.pools_made_up.contains(&launch.pool),
            instance_type: launch.offering.instance_type.to_string(),
            zone: launch.offering.zone.to_string(),
            capacity_type: launch.offering.capacity_type.to_string(),
            per_hour: launch.offering.price.dollars(),
            pods: launch.pods.len() as u32,
            filled: filled(cluster, &at, &allocatable),
            takes: keys(cluster, pods),
        }
    };
    let mut all: Vec<NewMachine> = reachable.plan.launches.iter().zip(to_new).map(machine).collect();
    all.sort_by(|a, b| {
        b.per_hour
            .total_cmp(&a.per_hour)
            .then_with(|| (&a.instance_type, &a.zone).cmp(&(&b.instance_type, &b.zone)))
    });
    all
}

fn notes(cluster: &Cluster, policy: &Policy) -> Vec<String> {
    let mut notes = Vec::new();
    if cluster.nodes.is_empty() {
        notes.push("there are no nodes; a file is made with `kubectl get nodes,pods,… -A -o json`".into());
    }
    if !cluster.waiting.is_empty() {
        notes.push(format!(
            "{} pods wait for a place; they are left out, because what they need is not being paid yet",
            cluster.waiting.len()
        ));
    }
    if cluster.taken_as_on_demand > 0 {
        notes.push(format!(
            "{} of {} machines carry no label that says how they were bought; they are taken as on-demand, and cost less \
             than shown where they are spot",
            cluster.taken_as_on_demand,
            cluster.nodes.len()
        ));
    }
    if !cluster.pools_made_up.is_empty() {
        notes.push(format!(
            "machines without a NodePool ({}) are planned as if each group could buy its own types and current \
             general, compute and memory types of the same architecture, up to twice as large; with more arm64, as if \
             beside each group there were one of that architecture",
            cluster.pools_made_up.join(", ")
        ));
    }
    notes.push("pods are kept spread over zones only where they ask for it".into());
    notes.push(format!(
        "plans were searched for {} steps; what was not found may still be there, down to the bound",
        steps(cluster, policy)
    ));
    notes
}
