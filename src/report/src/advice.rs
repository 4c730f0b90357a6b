//! What a person could approve now, as the spec of a Plan: one step, complete and small enough to be read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use plimsoll_api::{
    labels,
    nodepool::NodePool,
    plan::{BYTES_MAX, FILLINGS_MAX, Filling, MACHINES_MAX, PlanSpec, Purchase, Removal, Settings},
};
use plimsoll_core::{
    catalog::{Catalog, MicroDollars},
    disrupt::allowed_disruptions,
    plan::Plan,
    policy::Policy,
    provision::provision,
    snapshot::{DisruptionReason, Place, Snapshot},
};
use plimsoll_state::Index;
use sha2::{Digest as _, Sha256};

use crate::{
    cluster::{Cluster, Prices},
    commands::Script,
    fleet,
    money::{counted, dollars},
    moves,
    object::{decimal, money, prices_line, short},
    plans::{Arrangement, Planner, Spot},
    restraints,
    savings::{self, Cost, NewMachine, NodeRow, PriceBasis},
};

/// A Plan is good for this long, unless the cluster is looked at so seldom that this would be over before the next look.
pub const GOOD_FOR: Duration = Duration::from_hours(1);
/// Numbers of machines tried until a step is small enough.
const STEPS: [usize; 4] = [MACHINES_MAX, 8, 3, 1];
/// Of a name, how many digits of the digest.
const NAME_DIGITS: usize = 10;
/// Stands for the name of the Plan where its digest is made.
const UNNAMED: &str = "plan-0000000000";

/// All that advice is made from, as it stood at one moment.
#[derive(Debug)]
pub struct Basis {
    cluster: Cluster,
    /// As the controller plans for it: pods that wait included, and only the NodePools there are.
    waiting: Snapshot,
    catalog: Catalog,
    node_pools: BTreeMap<String, Arc<NodePool>>,
    /// Names of machines that take no new pods: somebody may be emptying them.
    closed: BTreeSet<String>,
    prices: PriceBasis,
}

impl Basis {
    pub fn read(index: &Index, prices: &Prices, taken: Timestamp) -> Self {
        let cluster = Cluster::read(index, prices, taken);
        let catalog = fleet::catalog(index, prices);
        let named = |pool: &Arc<NodePool>| Some((pool.metadata.name.clone()?, pool.clone()));
        let closed = index
            .nodes()
            .filter(|node| node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true)));
        Self {
            waiting: index.snapshot(&catalog, taken).snapshot,
            catalog,
            node_pools: index.node_pools().filter_map(named).collect(),
            closed: closed.filter_map(|node| node.metadata.name.clone()).collect(),
            prices: savings::basis(&cluster, prices),
            cluster,
        }
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Whether a machine takes no new pods.
    pub fn is_closed(&self, machine: &str) -> bool {
        self.closed.contains(machine)
    }

    /// Those of the named machines that the disruption budgets of their NodePools let go together now. The first of those
    /// with pods go, and the first of those without: how the two are mixed makes no difference. Machines that are closed
    /// already use the budgets up. As for the controller, what has no NodeClaim is bound by none, and a NodePool that is
    /// not ready lets nothing go.
    pub fn within_budgets<'n>(&self, machines: impl IntoIterator<Item = &'n str>) -> BTreeSet<&'n str> {
        let snapshot = &self.waiting;
        let nodes = snapshot.nodes.iter().enumerate();
        let by_name: BTreeMap<&str, usize> = nodes.map(|(at, node)| (&*node.name, at)).collect();
        let mut in_use = vec![false; snapshot.nodes.len()];
        for pod in snapshot.pods.iter().filter(|pod| !pod.daemon && !pod.terminating) {
            if let Place::Bound(node) | Place::Assigned(node) = pod.place {
                in_use[node.0 as usize] = true;
            }
        }
        let mut allowed: BTreeMap<(&str, bool), u32> = BTreeMap::new();
        let bound = |at: usize| {
            let node = &snapshot.nodes[at];
            node.claim.as_ref().and(node.pool.as_deref())
        };
        let mut gone: BTreeMap<&str, u32> = BTreeMap::new();
        for (at, node) in snapshot.nodes.iter().enumerate() {
            // Those that leave or are not ready are no longer among what is allowed.
            if let Some(pool) = bound(at).filter(|_| !node.leaving && !node.not_ready) {
                *gone.entry(pool).or_default() += u32::from(self.is_closed(&node.name));
            }
        }
        let mut allowance = |name: &'n str| {
            let at = by_name.get(name)?;
            let pool = bound(*at)?;
            let allowed = allowed.entry((pool, in_use[*at])).or_insert_with(|| {
                let reason = if in_use[*at] {
                    DisruptionReason::Underutilized
                } else {
                    DisruptionReason::Empty
                };
                let pool = snapshot.pools.iter().find(|p| &*p.name == pool);
                pool.map_or(0, |pool| {
                    allowed_disruptions(snapshot, pool, reason, self.cluster.taken)
                })
            });
            Some((*allowed, pool))
        };
        let mut machines: Vec<_> = machines.into_iter().map(|name| (allowance(name), name)).collect();
        // What one reason lets go counts for the others too, so whoever is allowed least comes first.
        machines.sort_by_key(|(allowance, _)| allowance.map(|(allowed, _)| allowed));
        machines.retain(|(allowance, _)| {
            let Some((allowed, pool)) = allowance else {
                return true;
            };
            let of_pool = gone.entry(pool).or_default();
            let goes = *of_pool < *allowed;
            *of_pool += u32::from(goes);
            goes
        });
        machines.into_iter().map(|(_, name)| name).collect()
    }
}

/// The name of the Plan with this digest.
pub fn name(digest: &str) -> String {
    format!("plan-{}", digest.get(..NAME_DIGITS).unwrap_or(digest))
}

/// SHA-256 of what a Plan says, but for the digest itself and the times.
pub fn digest(spec: &PlanSpec) -> String {
    let timeless = PlanSpec {
        digest: String::new(),
        made_at: Time(Timestamp::UNIX_EPOCH),
        good_until: Time(Timestamp::UNIX_EPOCH),
        commands: if spec.digest.is_empty() {
            spec.commands.clone()
        } else {
            spec.commands.replace(&name(&spec.digest), UNNAMED)
        },
        ..spec.clone()
    };
    let text = serde_json::to_vec(&timeless).expect("texts and numbers can be written as JSON");
    hex::encode(Sha256::digest(&text))
}

/// The step to take now; none when there is nothing to do, or when even one machine is more than a Plan can hold.
///
/// Pods that wait come first: machines are bought for them. Only when nothing is to be bought for any pod it says which
/// machines could go, because that is planned around the pods that run.
pub fn advise(basis: &Basis, policy: &Policy, good_for: Duration) -> Option<PlanSpec> {
    let (purchase, _) = provision(&basis.waiting, &basis.catalog, policy);
    let step = Step {
        basis,
        policy,
        good_for,
    };
    if purchase.launches.is_empty() {
        step.saving()
    } else {
        step.purchase(&purchase)
    }
}

struct Step<'a> {
    basis: &'a Basis,
    policy: &'a Policy,
    good_for: Duration,
}

/// What differs between steps.
struct Content {
    after: MicroDollars,
    bound: Option<MicroDollars>,
    buy: Vec<NewMachine>,
    /// Why each of them is bought.
    why: fn(u32) -> String,
    fill: Vec<NodeRow>,
    /// With the number of pods that have to move.
    remove: Vec<(NodeRow, u32)>,
    notes: Vec<String>,
}

impl Step<'_> {
    fn purchase(&self, plan: &Plan) -> Option<PlanSpec> {
        let now = self.basis.cluster.price();
        STEPS.into_iter().find_map(|most| {
            let launches = &plan.launches[..most.min(plan.launches.len())];
            let left = plan.launches.len() - launches.len();
            let pods = |launch: &plimsoll_core::plan::Launch| -> Vec<String> {
                let key = |pod: &plimsoll_core::snapshot::PodId| {
                    self.basis.waiting.pods[pod.0 as usize].key.to_string()
                };
                launch.pods.iter().map(key).collect()
            };
            let content = Content {
                after: now + launches.iter().map(|l| l.offering.price).sum(),
                bound: (left == 0).then(|| now + plan.lower_bound),
                buy: launches
                    .iter()
                    .map(|launch| NewMachine {
                        pool: launch.pool.to_string(),
                        of_node_pool: true,
                        instance_type: launch.offering.instance_type.to_string(),
                        zone: launch.offering.zone.to_string(),
                        capacity_type: launch.offering.capacity_type.to_string(),
                        per_hour: launch.offering.price.dollars(),
                        pods: launch.pods.len() as u32,
                        filled: Vec::new(),
                        takes: pods(launch),
                    })
                    .collect(),
                why: |pods| format!("{} no machine has room for", waits(pods)),
                fill: Vec::new(),
                remove: Vec::new(),
                notes: if left == 0 {
                    Vec::new()
                } else {
                    vec![format!(
                        "{} more are for the next plan",
                        counted(left as u32, "machine")
                    )]
                },
            };
            self.spec(content)
        })
    }

    fn saving(&self) -> Option<PlanSpec> {
        let cluster = &self.basis.cluster;
        let restraints = restraints::all(cluster);
        let never = |_: usize| false;
        let mut pinned = restraints::pins(cluster, &restraints, never, never);
        for (pinned, node) in pinned.iter_mut().zip(&cluster.snapshot.nodes) {
            *pinned |= self.basis.is_closed(&node.name);
        }
        let planner = Planner::new(cluster, self.policy, Spot::AsToday);
        let whole = planner.cheapest(&pinned);
        let mut gone: Vec<usize> = marked(&whole).collect();
        let all = gone.len();
        let name = |node: &usize| &*cluster.snapshot.nodes[*node].name;
        let may_go = self.basis.within_budgets(gone.iter().map(name)).len();
        if all > MACHINES_MAX || may_go < all {
            let moves = moves::moves(cluster, &whole);
            let rows = savings::nodes(cluster, &restraints, &whole, &moves.to_kept);
            // Stable, so that equals keep their order.
            gone.sort_by(|a, b| idle(&rows[*b]).total_cmp(&idle(&rows[*a])));
            let may_go = self.basis.within_budgets(gone.iter().map(name));
            gone.retain(|node| may_go.contains(name(node)));
        }
        if gone.is_empty() {
            return None;
        }
        STEPS.into_iter().find_map(|most| {
            if all <= most && gone.len() == all {
                return self.moved(&restraints, &whole, None);
            }
            let chosen = &gone[..most.min(gone.len())];
            let kept: Vec<bool> = (0..pinned.len()).map(|node| !chosen.contains(&node)).collect();
            let part = planner.cheapest(&kept);
            let left = counted((all - marked(&part).count()) as u32, "machine");
            let why = if gone.len() < all {
                ": the disruption budgets of their NodePools let no more go at once"
            } else {
                ""
            };
            let left = format!("{left} that could go are left for plans that follow{why}");
            self.moved(&restraints, &part, Some(left))
        })
    }

    fn moved(
        &self,
        restraints: &[restraints::Restraint],
        arrangement: &Arrangement,
        left: Option<String>,
    ) -> Option<PlanSpec> {
        let cluster = &self.basis.cluster;
        let moves = moves::moves(cluster, arrangement);
        let rows = savings::nodes(cluster, restraints, arrangement, &moves.to_kept);
        let movable = movable(cluster);
        let mut notes = vec!["what pods request counts, not what they use".to_owned()];
        notes.extend(disturbed(cluster, arrangement));
        if !cluster.waiting.is_empty() {
            let waiting = counted(cluster.waiting.len() as u32, "pod");
            notes.push(format!(
                "{waiting} wait for a place that nothing can be bought for"
            ));
        }
        notes.extend(left);
        if !self.basis.closed.is_empty() {
            let closed = counted(self.basis.closed.len() as u32, "machine");
            notes.push(format!(
                "{closed} closed to new pods: left to whoever has closed them"
            ));
        }
        let unclaimed = marked(arrangement)
            .filter(|node| rows[*node].node_claim.is_none())
            .count();
        if unclaimed > 0 {
            notes.push(format!(
                "{} without NodeClaim: ended with the aws command line where its id is known, else by hand",
                counted(unclaimed as u32, "machine")
            ));
        }
        self.spec(Content {
            after: arrangement.price,
            bound: Some(arrangement.floor),
            buy: savings::new_machines(cluster, arrangement, &moves.to_new),
            why: |pods| format!("takes {} of machines that go", counted(pods, "pod")),
            fill: rows.iter().filter(|row| !row.takes.is_empty()).cloned().collect(),
            remove: marked(arrangement)
                .map(|node| (rows[node].clone(), movable[node]))
                .collect(),
            notes,
        })
    }

    /// None when it says nothing, or too much.
    fn spec(&self, content: Content) -> Option<PlanSpec> {
        let Content { after, bound, .. } = content;
        let before = self.basis.cluster.price();
        let empty = content.buy.is_empty() && content.remove.is_empty();
        let large =
            content.buy.len().max(content.remove.len()) > MACHINES_MAX || content.fill.len() > FILLINGS_MAX;
        if empty || large {
            return None;
        }
        let taken = self.basis.cluster.taken;
        let pods = content.buy.iter().map(|m| m.takes.len()).sum::<usize>()
            + content.fill.iter().map(|n| n.takes.len()).sum::<usize>();
        let mut spec = PlanSpec {
            digest: String::new(),
            made_at: Time(taken),
            good_until: Time(taken + self.good_for),
            prices: prices_line(&self.basis.prices),
            settings: Settings {
                preference_policy: format!("{:?}", self.policy.preferences),
                min_values_policy: format!("{:?}", self.policy.min_values),
                steps: i64::try_from(self.policy.steps_max).unwrap_or(i64::MAX),
            },
            before: money(before.into()),
            after: money(after.into()),
            saves: money((before - after).into()),
            bound: bound.map(|bound| money(bound.into())),
            gap_percent: bound.filter(|bound| bound.0 > 0).map(|bound| {
                let gap = (after - bound).0 as f64 / bound.0 as f64 * 100.0;
                format!("{gap:.1}")
            }),
            machines_bought: content.buy.len() as i32,
            machines_removed: content.remove.len() as i32,
            pods: pods as i32,
            buy: content.buy.iter().map(|m| purchase(m, content.why)).collect(),
            fill: content.fill.iter().map(filling).collect(),
            remove: content
                .remove
                .iter()
                .map(|(row, pods)| removal(row, *pods))
                .collect(),
            commands: self.commands(&content, before - after, UNNAMED),
            notes: content.notes.clone(),
        };
        let of_spot = spec.buy.iter().map(|m| &m.capacity_type);
        let mut of_spot = of_spot.chain(spec.remove.iter().map(|m| &m.capacity_type));
        if let Some(rule) = &self.basis.prices.spot_rule
            && of_spot.any(|t| t == labels::CAPACITY_SPOT)
        {
            spec.notes.push(format!("spot prices are {rule}"));
        }
        spec.digest = digest(&spec);
        spec.commands = self.commands(&content, before - after, &name(&spec.digest));
        let fits = serde_json::to_vec(&spec).is_ok_and(|text| text.len() <= BYTES_MAX);
        fits.then_some(spec)
    }

    fn commands(&self, content: &Content, saves: MicroDollars, run: &str) -> String {
        let saves = Cost::from(saves).per_month;
        let worth = if saves < 0.0 { "costs" } else { "saves" };
        let script = Script {
            context: None,
            head: format!(
                "# {run}: {} nodes go, {} are bought; {worth} {} a month.",
                content.remove.len(),
                content.buy.len(),
                dollars(saves.abs()),
            ),
            run,
            buy: content.buy.iter().collect(),
            fill: content.fill.iter().collect(),
            remove: content.remove.iter().map(|(row, _)| row).collect(),
        };
        script.text(|pool| self.basis.node_pools.get(pool).map(|pool| &**pool))
    }
}

fn marked(arrangement: &Arrangement) -> impl Iterator<Item = usize> + '_ {
    let marks = arrangement.gone.iter().enumerate();
    marks.filter(|(_, gone)| **gone).map(|(node, _)| node)
}

/// Dollars an hour for the part of a machine that nobody requests.
fn idle(row: &NodeRow) -> f64 {
    let share = |requested: i64, allocatable: i64| requested as f64 / allocatable.max(1) as f64;
    let used = share(row.cpu_requested_milli, row.cpu_allocatable_milli)
        .max(share(row.memory_requested_bytes, row.memory_allocatable_bytes));
    row.per_hour.unwrap_or(0.0) * (1.0 - used.min(1.0))
}

/// What moving does to pods beyond a restart elsewhere.
fn disturbed(cluster: &Cluster, arrangement: &Arrangement) -> Vec<String> {
    let (mut alone, mut with_data) = (0, 0);
    for (at, facts) in cluster.pods.iter().enumerate() {
        let pod = &cluster.snapshot.pods[at];
        let moves = cluster.node_of(at).is_some_and(|node| arrangement.gone[node]);
        if moves && !pod.daemon && !pod.terminating {
            alone += u32::from(cluster.replicas[facts.workload as usize] == 1);
            with_data += u32::from(facts.local_storage);
        }
    }
    let of = |count: u32, what: &str| (count > 0).then(|| format!("{} {what}", counted(count, "pod")));
    let alone = of(alone, "without another of its workload: away while it moves");
    let with_data = of(with_data, "with data in emptyDir or hostPath, which stays behind");
    alone.into_iter().chain(with_data).collect()
}

/// By node, how many of its pods would have to move.
fn movable(cluster: &Cluster) -> Vec<u32> {
    let mut counts = vec![0; cluster.nodes.len()];
    for (at, pod) in cluster.snapshot.pods.iter().enumerate() {
        if let (Some(node), false) = (cluster.node_of(at), pod.daemon || pod.terminating) {
            counts[node] += 1;
        }
    }
    counts
}

fn waits(pods: u32) -> String {
    let verb = if pods == 1 { "waits" } else { "wait" };
    format!("{} {verb} that", counted(pods, "pod"))
}

fn purchase(machine: &NewMachine, why: fn(u32) -> String) -> Purchase {
    Purchase {
        pool: short(&machine.pool),
        instance_type: short(&machine.instance_type),
        zone: short(&machine.zone),
        capacity_type: short(&machine.capacity_type),
        per_hour: decimal(machine.per_hour),
        by_hand: !machine.of_node_pool,
        reason: why(machine.takes.len() as u32),
        pods: machine.takes.clone(),
    }
}

fn filling(row: &NodeRow) -> Filling {
    Filling {
        node: row.name.clone(),
        pods: row.takes.clone(),
    }
}

fn removal(row: &NodeRow, pods: u32) -> Removal {
    Removal {
        node: row.name.clone(),
        node_claim: row.node_claim.clone(),
        pool: short(&row.pool),
        instance_type: short(&row.instance_type),
        zone: short(&row.zone),
        capacity_type: short(&row.capacity_type),
        per_hour: row.per_hour.map(decimal),
        reason: if pods == 0 {
            "no pods but daemons".to_owned()
        } else {
            format!("its {} cost less elsewhere", counted(pods, "pod"))
        },
    }
}
