//! Why a pod has no place.

use std::sync::Arc;

use fixedbitset::FixedBitSet;

use super::{
    compile::{Problem, selector_requirements},
    fit::times,
    offers::{Decided, offering_label, pool_requirements},
    taints::untolerated,
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

/// What of the pod's selectors none of these offers satisfies: one requirement where one alone excludes them.
fn excluded(problem: &Problem<'_>, shape: &PodClass, pool: &Pool, offers: &[usize]) -> PodReason {
    let pool = pool.name.clone();
    if offers.is_empty() {
        let requirement = "its own requirements".into();
        return PodReason::Requirements { pool, requirement };
    }
    let met = |r: &Requirement, o: usize| problem.keys.satisfied_at(r, o);
    let impossible = |r: &&Requirement| !offers.iter().any(|o| met(r, *o));
    // Alternatives exclude the pool when each has something impossible.
    let exclude = |alternatives: &[Vec<Requirement>]| {
        let one = |all: &Vec<Requirement>| all.iter().find(impossible).map(print_requirement);
        let each: Option<Vec<String>> = alternatives.iter().map(one).collect();
        each.filter(|each| !each.is_empty()).map(|each| each.join(" or "))
    };
    let selector = selector_requirements(shape);
    if let Some(text) = selector
        .iter()
        .find(impossible)
        .map(print_requirement)
        .or_else(|| exclude(&shape.node_affinity))
    {
        return PodReason::Requirements {
            pool,
            requirement: text.into(),
        };
    }
    if let Some(text) = shape
        .volume_affinity
        .iter()
        .find_map(|alternatives| exclude(alternatives))
    {
        return PodReason::Volume {
            pool,
            requirement: text.into(),
        };
    }
    // Each is possible for itself.
    let affinity: Vec<String> = shape.node_affinity.iter().map(|all| print_all(all)).collect();
    let volumes = shape.volume_affinity.iter().flatten().map(|all| print_all(all));
    let selector = selector.iter().map(print_requirement);
    let together: Vec<String> = selector
        .chain([affinity.join(" or ")])
        .chain(volumes)
        .filter(|t| !t.is_empty())
        .collect();
    PodReason::Requirements {
        pool,
        requirement: format!("{} together", together.join(", ")).into(),
    }
}

/// The reasons why no pod of this demand could be placed any more, one for each pool; `limits` is what each pool may
/// still use.
pub(super) fn reasons(problem: &Problem<'_>, demand: usize, limits: &[Vec<i64>]) -> Vec<PodReason> {
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
            .reason(&limits[idx])
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
    fn reason(&self, limits: &[i64]) -> PodReason {
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
            return excluded(self.problem, shape, self.pool, &self.offers().collect::<Vec<_>>());
        }
        let holds = |o: &&usize| times(self.problem.whole_room(**o), &it.request) > 0;
        if !allowed.iter().any(|o| holds(&o)) {
            if self.would_match(shape, false, true) {
                return PodReason::Offering {
                    pool: pool(),
                    requirement: "any offering that is large enough".into(),
                };
            }
            return self.too_small(&allowed);
        }
        let fitting: Vec<usize> = allowed
            .iter()
            .copied()
            .filter(|o| it.offers.contains(*o))
            .collect();
        if fitting.is_empty() {
            return self.too_few(&allowed);
        }
        for ((resource, _), left) in self.problem.limits[self.pool_idx].iter().zip(limits) {
            let least = fitting
                .iter()
                .map(|o| self.problem.usage(*o, resource))
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
            constraint: self.constraint(shape),
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

    fn too_small(&self, allowed: &[usize]) -> PodReason {
        let pool = self.pool.name.clone();
        let it = &self.problem.demands[self.demand];
        for (r, name) in self.problem.resources.iter().enumerate() {
            let largest = allowed
                .iter()
                .map(|o| self.problem.whole_room(*o)[r])
                .max()
                .unwrap_or(0);
            if it.request[r] > largest {
                return PodReason::Resources {
                    pool,
                    request: format!("{name} {}", format_amount(name, it.request[r])).into(),
                    largest: format!("{name} {}", format_amount(name, largest)).into(),
                };
            }
        }
        let all = self
            .problem
            .resources
            .iter()
            .zip(&it.request)
            .filter(|(_, amount)| **amount > 0);
        let request: Vec<String> = all
            .map(|(n, a)| format!("{n} {}", format_amount(n, *a)))
            .collect();
        PodReason::Resources {
            pool,
            request: request.join(", ").into(),
            largest: "no type has all of it".into(),
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

    /// The kinds of topology rules the pod has.
    fn constraint(&self, shape: &PodClass) -> Arc<str> {
        let mut all: Vec<String> = Vec::new();
        all.extend(
            shape
                .spread
                .iter()
                .filter(|s| s.hard)
                .map(|s| format!("spread over {}", s.topology_key)),
        );
        all.extend(
            shape
                .affinity
                .iter()
                .map(|t| format!("affinity within {}", t.topology_key)),
        );
        all.extend(
            shape
                .anti_affinity
                .iter()
                .map(|t| format!("anti-affinity within {}", t.topology_key)),
        );
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
