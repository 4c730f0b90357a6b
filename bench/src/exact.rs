//! The cheapest plan of a tiny problem, by trying every way to share its pods out.

use std::{collections::BTreeMap, sync::Arc};

use plimsoll_core::{
    catalog::{Catalog, MicroDollars, Offering, TypeId},
    plan::{Assignment, Launch, Offered, Plan},
    requirement::{Operator, Requirement},
    resources::Resources,
    snapshot::{NodeId, PodId, Snapshot},
    verify::{Rule, verify},
};

/// More pods than this take too long when pods constrain each other: Bell's numbers grow fast.
pub const PODS_MAX_TOGETHER: usize = 6;
/// And otherwise, by dynamic programming over subsets.
pub const PODS_MAX: usize = 12;

/// One launch that may exist: a set of pods, by bits, in one offering.
struct Machine {
    launch: Launch,
    price: i64,
}

/// The cheapest plan without violations that places all of `pods`; None when there is none. Weights of pools are not
/// looked at, and of limits only the number of nodes is searched for exactly.
pub fn optimum(snapshot: &Snapshot, catalog: &Catalog, pods: &[PodId]) -> Option<Plan> {
    let together = snapshot.classes.iter().any(|class| {
        !class.spread.is_empty()
            || !class.affinity.is_empty()
            || !class.anti_affinity.is_empty()
            || !class.host_ports.is_empty()
    }) || snapshot.pools.iter().any(|pool| !pool.limits.is_empty());
    assert!(
        pods.len() <= if together { PODS_MAX_TOGETHER } else { PODS_MAX },
        "too many pods to try everything"
    );
    let search = Search::new(snapshot, catalog, pods, together);
    if together {
        search.by_partitions()
    } else {
        search.by_subsets()
    }
}

struct Search<'a> {
    snapshot: &'a Snapshot,
    catalog: &'a Catalog,
    pods: &'a [PodId],
    /// Pool, type and offering, cheapest first.
    for_sale: Vec<(usize, TypeId, &'a Offering)>,
    /// For each set of pods the machines worth trying: the cheapest for each pool and zone, or overall.
    machines: Vec<Vec<Machine>>,
    /// For each node that exists and each set of pods, whether the node takes it.
    takes: Vec<Vec<bool>>,
}

impl<'a> Search<'a> {
    fn new(snapshot: &'a Snapshot, catalog: &'a Catalog, pods: &'a [PodId], together: bool) -> Self {
        let mut for_sale = Vec::new();
        for (p, pool) in snapshot.pools.iter().enumerate() {
            for id in catalog.by_pool.get(&pool.name).into_iter().flatten() {
                let offerings = catalog.types[id.0 as usize]
                    .offerings
                    .iter()
                    .filter(|o| o.available);
                for_sale.extend(offerings.map(|offering| (p, *id, offering)));
            }
        }
        for_sale.sort_by_key(|(.., offering)| offering.price);
        let mut search = Self {
            snapshot,
            catalog,
            pods,
            for_sale,
            machines: Vec::new(),
            takes: Vec::new(),
        };
        search.machines = (0..1 << pods.len())
            .map(|set| search.machines_for(set, together))
            .collect();
        search.takes = (0..snapshot.nodes.len() as u32)
            .map(|node| {
                (0..1 << pods.len())
                    .map(|set| search.node_takes(NodeId(node), set))
                    .collect()
            })
            .collect();
        search
    }

    fn members(&self, set: usize) -> Vec<PodId> {
        self.pods
            .iter()
            .enumerate()
            .filter(|(i, _)| set >> i & 1 == 1)
            .map(|(_, pod)| *pod)
            .collect()
    }

    /// Whether a plan of this alone breaks no rule that pods elsewhere could not still satisfy.
    fn holds(&self, plan: &Plan) -> bool {
        verify(self.snapshot, self.catalog, plan)
            .violations
            .iter()
            .all(|violation| {
                matches!(
                    violation.rule,
                    Rule::Spread | Rule::SpreadUniverse | Rule::Affinity
                )
            })
    }

    fn machines_for(&self, set: usize, together: bool) -> Vec<Machine> {
        if set == 0 {
            return Vec::new();
        }
        let pods = self.members(set);
        let mut requests = Resources::new();
        for pod in &pods {
            let class = self.snapshot.pods[pod.0 as usize].class;
            for (name, amount) in &self.snapshot.classes[class.0 as usize].requests {
                *requests.entry(name.clone()).or_default() += amount;
            }
        }
        let mut cheapest: BTreeMap<(usize, &str), Machine> = BTreeMap::new();
        for (p, id, offering) in &self.for_sale {
            let key = if together { (*p, &*offering.zone) } else { (0, "") };
            let allocatable = &self.catalog.types[id.0 as usize].allocatable;
            // The judge would say no as well, after a longer look.
            let fits = requests
                .iter()
                .all(|(name, amount)| allocatable.get(name).unwrap_or(&0) >= amount);
            if !fits || cheapest.contains_key(&key) {
                continue;
            }
            let launch = self.launch(
                &self.snapshot.pools[*p].name,
                *id,
                offering,
                pods.clone(),
                requests.clone(),
            );
            if self.holds(&plan_of(vec![launch.clone()], Vec::new())) {
                cheapest.insert(
                    key,
                    Machine {
                        launch,
                        price: offering.price.0,
                    },
                );
            }
        }
        cheapest.into_values().collect()
    }

    fn node_takes(&self, node: NodeId, set: usize) -> bool {
        let assignments: Vec<Assignment> = self
            .members(set)
            .into_iter()
            .map(|pod| Assignment { pod, node })
            .collect();
        set == 0 || self.holds(&plan_of(Vec::new(), assignments))
    }

    fn launch(
        &self,
        pool: &Arc<str>,
        id: TypeId,
        offering: &Offering,
        pods: Vec<PodId>,
        requests: Resources,
    ) -> Launch {
        let is = |key: &str, value: &Arc<str>| Requirement {
            key: key.into(),
            operator: Operator::In,
            values: vec![value.clone()],
            min_values: None,
        };
        Launch {
            pool: pool.clone(),
            requirements: vec![
                is("karpenter.sh/capacity-type", &offering.capacity_type),
                is("topology.kubernetes.io/zone", &offering.zone),
            ],
            types: vec![id],
            offering: Offered {
                instance_type: self.catalog.types[id.0 as usize].name.clone(),
                zone: offering.zone.clone(),
                capacity_type: offering.capacity_type.clone(),
                price: offering.price,
            },
            requests,
            pods,
            runner_up: None,
            min_values_relaxed: false,
            settled: false,
        }
    }

    /// Nodes that exist take what they take; the cheapest way to buy for the rest, subset by subset.
    fn by_subsets(&self) -> Option<Plan> {
        let all = (1_usize << self.pods.len()) - 1;
        let price = |set: usize| self.machines[set].first().map(|machine| machine.price);
        // Least price of buying for each set, and the set of the last machine.
        let mut bought: Vec<Option<(i64, usize)>> = vec![None; all + 1];
        bought[0] = Some((0, 0));
        for set in 1..=all {
            let lowest = set & set.wrapping_neg();
            let mut part = set;
            while part > 0 {
                if part & lowest > 0
                    && let (Some(own), Some((rest, _))) = (price(part), bought[set & !part])
                    && bought[set].is_none_or(|(known, _)| own + rest < known)
                {
                    bought[set] = Some((own + rest, part));
                }
                part = (part - 1) & set;
            }
        }
        let mut best: Option<(i64, usize, Vec<Assignment>)> = None;
        self.reuse(0, all, &mut Vec::new(), &mut |left, assignments| {
            if let Some((price, _)) = bought[left]
                && best.as_ref().is_none_or(|(known, ..)| price < *known)
            {
                best = Some((price, left, assignments.to_vec()));
            }
        });
        let (_, mut left, assignments) = best?;
        let mut launches = Vec::new();
        while left > 0 {
            let (_, part) = bought[left]?;
            launches.push(self.machines[part].first()?.launch.clone());
            left &= !part;
        }
        Some(plan_of(launches, assignments))
    }

    /// Every way to put pods of `left` on the nodes from `node` on.
    fn reuse(
        &self,
        node: usize,
        left: usize,
        assignments: &mut Vec<Assignment>,
        found: &mut dyn FnMut(usize, &[Assignment]),
    ) {
        let Some(takes) = self.takes.get(node) else {
            return found(left, assignments);
        };
        let mut part = left;
        loop {
            if takes[part] {
                let before = assignments.len();
                let node_id = NodeId(node as u32);
                assignments.extend(
                    self.members(part)
                        .into_iter()
                        .map(|pod| Assignment { pod, node: node_id }),
                );
                self.reuse(node + 1, left & !part, assignments, found);
                assignments.truncate(before);
            }
            if part == 0 {
                break;
            }
            part = (part - 1) & left;
        }
    }

    /// Every partition with every choice of machines, cheapest first, until one breaks no rule.
    fn by_partitions(&self) -> Option<Plan> {
        let all = (1_usize << self.pods.len()) - 1;
        let mut candidates: Vec<(i64, Vec<(usize, usize)>, Vec<Assignment>)> = Vec::new();
        self.reuse(0, all, &mut Vec::new(), &mut |left, assignments| {
            self.partitions(left, 0, &mut Vec::new(), &mut |price, machines| {
                candidates.push((price, machines.to_vec(), assignments.to_vec()));
            });
        });
        candidates.sort_by_key(|(price, ..)| *price);
        candidates.into_iter().find_map(|(_, machines, assignments)| {
            let launches = machines
                .iter()
                .map(|(set, i)| self.machines[*set][*i].launch.clone())
                .collect();
            let plan = plan_of(launches, assignments);
            verify(self.snapshot, self.catalog, &plan)
                .violations
                .is_empty()
                .then_some(plan)
        })
    }

    fn partitions(
        &self,
        left: usize,
        price: i64,
        chosen: &mut Vec<(usize, usize)>,
        found: &mut dyn FnMut(i64, &[(usize, usize)]),
    ) {
        if left == 0 {
            return found(price, chosen);
        }
        let lowest = left & left.wrapping_neg();
        let mut part = left;
        while part > 0 {
            if part & lowest > 0 {
                for (i, machine) in self.machines[part].iter().enumerate() {
                    chosen.push((part, i));
                    self.partitions(left & !part, price + machine.price, chosen, found);
                    chosen.pop();
                }
            }
            part = (part - 1) & left;
        }
    }
}

fn plan_of(launches: Vec<Launch>, assignments: Vec<Assignment>) -> Plan {
    let launch_price: MicroDollars = launches.iter().map(|launch| launch.offering.price).sum();
    Plan {
        revision: 1,
        launches,
        assignments,
        launch_price,
        ..Plan::default()
    }
}
