//! Why a pod has no place.

use std::sync::Arc;

use fixedbitset::FixedBitSet;

use super::{
    compile::{Problem, selector_requirements},
    domains::Counts,
    fit::times,
    offers::{Decided, HOSTNAME, offering_label, pool_requirements},
    taints::untolerated,
    topology::Rule,
};
use crate::{
    report::PodReason,
    requirement::Requirement,
    resources::{Resources, format_amount},
    snapshot::{PodClass, Pool, TaintEffect},
};

fn print_taint(taint: &crate::snapshot::Taint) -> Arc<str> {
    let effect = match taint.effect {
        TaintEffect::NoSchedule => "NoSchedule",
        TaintEffect::PreferNoSchedule => "PreferNoSchedule",
        TaintEffect::NoExecute => "NoExecute",
    };
    format!("{}={}:{effect}", taint.key, taint.value).into()
}

fn print_requirement(requirement: &Requirement) -> String {
    let Requirement {
        key,
        operator,
        values,
        ..
    } = requirement;
    if values.is_empty() {
        format!("{key} {operator:?}")
    } else {
        format!("{key} {operator:?} [{}]", values.join(", "))
    }
}

fn print_all(requirements: &[Requirement]) -> String {
    requirements
        .iter()
        .map(print_requirement)
        .collect::<Vec<_>>()
        .join(" and ")
}

/// One thing a pod asks of a machine.
enum Ask<'a> {
    /// Index of the resource.
    Amount(usize),
    /// A volume that can be reached within one of these.
    Volume(&'a [Vec<Requirement>]),
    /// Required node affinity with several alternatives.
    Affinity(&'a [Vec<Requirement>]),
    Label(Requirement),
}

impl<'a> Ask<'a> {
    /// Everything the pods of a demand ask for. What a reason should rather do without comes first.
    fn all(shape: &'a PodClass, request: &[i64]) -> Vec<Self> {
        let wanted = request.iter().enumerate().filter(|(_, amount)| **amount > 0);
        let mut asks: Vec<Self> = wanted.map(|(r, _)| Self::Amount(r)).collect();
        let volumes = shape.volume_affinity.iter().filter(|any| !any.is_empty());
        asks.extend(volumes.map(|any| Self::Volume(any)));
        match &shape.node_affinity[..] {
            [] => {}
            [one] => asks.extend(one.iter().cloned().map(Self::Label)),
            several => asks.push(Self::Affinity(several)),
        }
        asks.extend(selector_requirements(shape).into_iter().map(Self::Label));
        asks
    }

    /// The offers that meet it.
    fn met(&self, problem: &Problem<'_>, request: &[i64]) -> FixedBitSet {
        let n_offers = problem.n_offers();
        let mut set = FixedBitSet::with_capacity(n_offers);
        match self {
            Self::Amount(r) => {
                set.extend((0..n_offers).filter(|o| request[*r] <= problem.whole_room(*o)[*r]));
            }
            Self::Label(requirement) => set = problem.keys.satisfying(requirement, n_offers),
            Self::Volume(any) | Self::Affinity(any) => {
                for all in *any {
                    let mut term = FixedBitSet::with_capacity(n_offers);
                    term.insert_range(..);
                    for requirement in all {
                        term.intersect_with(&problem.keys.satisfying(requirement, n_offers));
                    }
                    set.union_with(&term);
                }
            }
        }
        set
    }

    fn print(&self) -> Option<String> {
        match self {
            Self::Amount(_) => None,
            Self::Label(requirement) => Some(print_requirement(requirement)),
            Self::Volume(any) | Self::Affinity(any) => {
                let each: Vec<String> = any.iter().map(|all| print_all(all)).collect();
                Some(each.join(" or "))
            }
        }
    }
}

/// The reasons why no pod of this demand could be placed any more, one for each pool; `limits` is what each pool may
/// still use, `counts` the pods in each domain.
pub(super) fn reasons(
    problem: &Problem<'_>,
    demand: usize,
    limits: &[Vec<i64>],
    counts: &Counts,
) -> Vec<PodReason> {
    if problem.snapshot.pools.is_empty() {
        return vec![PodReason::NoPools];
    }
    let pools = problem.snapshot.pools.iter().enumerate();
    pools
        .map(|(idx, pool)| {
            Why {
                problem,
                demand,
                pool_idx: idx,
                pool,
            }
            .reason(&limits[idx], counts)
        })
        .collect()
}

/// One demand at one pool.
struct Why<'a> {
    problem: &'a Problem<'a>,
    demand: usize,
    pool_idx: usize,
    pool: &'a Pool,
}

impl Why<'_> {
    fn reason(&self, limits: &[i64], counts: &Counts) -> PodReason {
        let pool = || self.pool.name.clone();
        let it = &self.problem.demands[self.demand];
        let shape = self.problem.shape(it.class);
        if let Some(taint) = untolerated(&shape.tolerations, &self.pool.taints, false) {
            return PodReason::Taint {
                pool: pool(),
                taint: print_taint(taint),
            };
        }
        let allowed: Vec<usize> = self.offers().filter(|o| it.allowed.contains(*o)).collect();
        if allowed.is_empty() {
            if let Some(port) = shape.host_ports.first()
                && self.would_match(shape, true, true)
            {
                return PodReason::HostPort { port: port.port };
            }
            if self.would_match(shape, false, false) {
                let requirement = self.wanted(shape);
                return PodReason::Offering {
                    pool: pool(),
                    requirement,
                };
            }
            return self.impossible();
        }
        let holds = |o: &&usize| times(self.problem.whole_room(**o), &it.request) > 0;
        if !allowed.iter().any(|o| holds(&o)) {
            if self.would_match(shape, false, true) {
                return PodReason::Offering {
                    pool: pool(),
                    requirement: "any offering that is large enough".into(),
                };
            }
            return self.impossible();
        }
        let fitting: Vec<usize> = allowed
            .iter()
            .copied()
            .filter(|o| it.offers.contains(*o))
            .collect();
        if fitting.is_empty() {
            return self.too_few(&allowed);
        }
        for (at, ((resource, _), left)) in self.problem.limits[self.pool_idx].iter().zip(limits).enumerate() {
            let least = fitting
                .iter()
                .map(|o| self.problem.usage(*o)[at])
                .min()
                .unwrap_or(0);
            if least > *left {
                let limit = self.pool.limits.get(resource).copied().unwrap_or(0);
                return PodReason::Limit {
                    pool: pool(),
                    resource: resource.clone(),
                    limit,
                    used: limit - left,
                };
            }
        }
        PodReason::Topology {
            pool: pool(),
            constraint: self.constraint(it.class.0, shape, counts),
        }
    }

    fn offers(&self) -> impl Iterator<Item = usize> {
        let of_pool = self.problem.offers.offers.iter().enumerate();
        of_pool
            .filter(|(_, o)| o.pool as usize == self.pool_idx)
            .map(|(idx, _)| idx)
    }

    /// All that the pod selects by, in one text.
    fn wanted(&self, shape: &PodClass) -> Arc<str> {
        let selector = print_all(&selector_requirements(shape));
        let affinity: Vec<String> = shape.node_affinity.iter().map(|all| print_all(all)).collect();
        let all: Vec<String> = [selector, affinity.join(" or ")]
            .into_iter()
            .filter(|t| !t.is_empty())
            .collect();
        let any = format!("any offering of pool {}", self.pool.name);
        if all.is_empty() {
            any.into()
        } else {
            all.join(" and ").into()
        }
    }

    /// Whether an offering of the pool that is for sale (or one that is not) satisfies the labels, and holds the requests.
    fn would_match(&self, shape: &PodClass, for_sale: bool, large_enough: bool) -> bool {
        let own = pool_requirements(self.pool);
        let types = self.problem.catalog.by_pool.get(&self.pool.name);
        types.into_iter().flatten().any(|id| {
            let it = &self.problem.catalog.types[id.0 as usize];
            it.offerings
                .iter()
                .filter(|o| o.available == for_sale)
                .any(|offering| {
                    let satisfied = |r: &Requirement| match offering_label(it, offering, &r.key) {
                        Decided::Value(value) => {
                            r.matches(Some(&**value)) && own.get(&r.key).is_none_or(|s| s.has(value))
                        }
                        Decided::Unique => r.matches(Some("\u{0}")),
                        Decided::Absent => match own.get(&r.key) {
                            Some(set) => !set
                                .intersection(&crate::requirement::ValueSet::of(r))
                                .is_impossible(),
                            None => r.matches(None),
                        },
                    };
                    let any = |alternatives: &[Vec<Requirement>]| {
                        alternatives.is_empty() || alternatives.iter().any(|all| all.iter().all(satisfied))
                    };
                    let allocatable = offering.allocatable.as_ref().unwrap_or(&it.allocatable);
                    let of_pool =
                        own.requirements()
                            .iter()
                            .all(|r| match offering_label(it, offering, &r.key) {
                                Decided::Value(value) => r.matches(Some(&**value)),
                                Decided::Absent | Decided::Unique => true,
                            });
                    of_pool
                        && selector_requirements(shape).iter().all(satisfied)
                        && any(&shape.node_affinity)
                        && shape.volume_affinity.iter().all(|volume| any(volume))
                        && (!large_enough || holds(allocatable, shape))
                })
        })
    }

    /// The smallest part of what the pod asks for that no offer of the pool meets: leave out any of it, and one does.
    fn impossible(&self) -> PodReason {
        let (problem, pool) = (self.problem, self.pool.name.clone());
        let it = &problem.demands[self.demand];
        let mut of_pool = FixedBitSet::with_capacity(problem.n_offers());
        of_pool.extend(self.offers());
        if of_pool.is_clear() {
            let requirement = "its own requirements".into();
            return PodReason::Requirements { pool, requirement };
        }
        let mut asks: Vec<(Ask<'_>, FixedBitSet)> = Ask::all(problem.shape(it.class), &it.request)
            .into_iter()
            .map(|ask| {
                let met = ask.met(problem, &it.request);
                (ask, met)
            })
            .collect();
        let meet = |asks: &[(Ask<'_>, FixedBitSet)], without: Option<usize>| {
            let mut set = of_pool.clone();
            let kept = asks.iter().enumerate().filter(|(at, _)| Some(*at) != without);
            kept.for_each(|(_, (_, met))| set.intersect_with(met));
            set
        };
        let mut at = 0;
        while at < asks.len() {
            if meet(&asks, Some(at)).is_clear() {
                asks.remove(at);
            } else {
                at += 1;
            }
        }
        let labels: Vec<String> = asks.iter().filter_map(|(ask, _)| ask.print()).collect();
        let labels = labels.join(" and ");
        let amounts: Vec<usize> = asks
            .iter()
            .filter_map(|(ask, _)| match ask {
                Ask::Amount(r) => Some(*r),
                _ => None,
            })
            .collect();
        let print = |r: usize, amount: i64| {
            let name = &problem.resources[r];
            format!("{name} {}", format_amount(name, amount))
        };
        let request: Vec<String> = amounts.iter().map(|r| print(*r, it.request[*r])).collect();
        let largest = if let [r] = amounts[..] {
            asks.retain(|(ask, _)| !matches!(ask, Ask::Amount(_)));
            let offers = meet(&asks, None);
            let most = offers.ones().map(|o| problem.whole_room(o)[r]).max();
            print(r, most.unwrap_or(0))
        } else {
            "no type has all of it".to_owned()
        };
        if !amounts.is_empty() {
            return PodReason::Resources {
                pool,
                within: labels.into(),
                request: request.join(", ").into(),
                largest: largest.into(),
            };
        }
        let requirement = labels.into();
        if asks.iter().any(|(ask, _)| matches!(ask, Ask::Volume(_))) {
            PodReason::Volume { pool, requirement }
        } else {
            PodReason::Requirements { pool, requirement }
        }
    }

    /// Types hold the pod, but not as many different ones as `minValues` asks for.
    fn too_few(&self, allowed: &[usize]) -> PodReason {
        let it = &self.problem.demands[self.demand];
        let holding: FixedBitSet = allowed
            .iter()
            .copied()
            .filter(|o| times(self.problem.whole_room(*o), &it.request) > 0)
            .collect();
        let found = |min: &super::compile::MinValues| {
            let mut values: Vec<u32> = holding
                .ones()
                .map(|o| min.value_of_type[self.problem.offers.offers[o].type_id.0 as usize])
                .filter(|value| *value != super::keys::ABSENT)
                .collect();
            values.sort_unstable();
            values.dedup();
            values.len() as u32
        };
        let mins = &self.problem.min_values[self.pool_idx];
        let worst = mins.iter().find(|min| found(min) < min.values).or(mins.first());
        let (key, needed, found) =
            worst.map_or(("".into(), 0, 0), |min| (min.key.clone(), min.values, found(min)));
        PodReason::MinValues {
            pool: self.pool.name.clone(),
            key,
            needed,
            found,
        }
    }

    /// The rules that leave no place, with what they count.
    fn constraint(&self, class: u32, shape: &PodClass, counts: &Counts) -> Arc<str> {
        /// Domains that a reason lists.
        const DOMAINS_MAX: usize = 6;
        let problem = self.problem;
        let mut all: Vec<String> = Vec::new();
        let rules = problem.topology.rules[class as usize].iter();
        for rule in rules.filter(|r| r.weight.is_none()) {
            let Rule::Spread {
                group,
                max_skew,
                domains,
                ..
            } = &rule.rule
            else {
                continue;
            };
            let key = &problem.keys.keys[problem.topology.groups[*group as usize].key as usize];
            let listed: Vec<String> = domains
                .iter()
                .take(DOMAINS_MAX)
                .map(|d| {
                    let name = key.value(*d).map_or("other", |v| &**v);
                    format!("{name} has {}", counts[*group as usize][*d as usize])
                })
                .collect();
            let listed = listed.join(", ");
            all.push(format!(
                "spread over {} with maxSkew {max_skew} ({listed})",
                key.name
            ));
        }
        let hosts = shape
            .spread
            .iter()
            .filter(|s| s.hard && &*s.topology_key == HOSTNAME);
        all.extend(hosts.map(|s| format!("spread over {HOSTNAME} with maxSkew {}", s.max_skew)));
        let affinity = shape.affinity.iter();
        all.extend(affinity.map(|t| format!("affinity within {}", t.topology_key)));
        let anti = shape.anti_affinity.iter();
        all.extend(anti.map(|t| format!("anti-affinity within {}", t.topology_key)));
        if all.is_empty() {
            "anti-affinity of other pods".into()
        } else {
            all.join(", ").into()
        }
    }
}

fn holds(allocatable: &Resources, shape: &PodClass) -> bool {
    shape
        .requests
        .iter()
        .all(|(name, amount)| allocatable.get(name).copied().unwrap_or(0) >= *amount)
}
