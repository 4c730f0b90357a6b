//! Why a pod has no place.

use std::sync::Arc;

use super::{
    compile::{Problem, selector_requirements},
    taints::untolerated,
};
use crate::{
    report::PodReason,
    requirement::Requirement,
    resources::format_amount,
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

/// The reasons why no pod of this demand could be placed any more; `limits` is what each pool may still use.
pub(super) fn reasons(problem: &Problem<'_>, demand: usize, limits: &[Vec<i64>]) -> Vec<PodReason> {
    if problem.snapshot.pools.is_empty() {
        return vec![PodReason::NoPools];
    }
    let of_pool = |(idx, pool): (usize, &Pool)| reason(problem, demand, idx, pool, &limits[idx]);
    problem.snapshot.pools.iter().enumerate().map(of_pool).collect()
}

fn reason(problem: &Problem<'_>, demand: usize, pool_idx: usize, pool: &Pool, limits: &[i64]) -> PodReason {
    let it = &problem.demands[demand];
    let shape = problem.shape(it.class);
    if let Some(taint) = untolerated(&shape.tolerations, &pool.taints, false) {
        return PodReason::Taint {
            pool: pool.name.clone(),
            taint: print_taint(taint),
        };
    }
    let offers = || {
        let all = problem.offers.offers.iter().enumerate();
        all.filter(move |(_, o)| o.pool as usize == pool_idx)
            .map(|(idx, _)| idx)
    };
    let allowed: Vec<usize> = offers().filter(|o| it.allowed.contains(*o)).collect();
    if allowed.is_empty() {
        return excluded(problem, shape, pool, &offers().collect::<Vec<_>>());
    }
    let fitting: Vec<usize> = allowed
        .iter()
        .copied()
        .filter(|o| it.offers.contains(*o))
        .collect();
    if fitting.is_empty() {
        for (r, name) in problem.resources.iter().enumerate() {
            let largest = allowed
                .iter()
                .map(|o| problem.offer_room(*o)[r])
                .max()
                .unwrap_or(0);
            if it.request[r] > largest {
                return PodReason::Resources {
                    pool: pool.name.clone(),
                    request: format!("{name} {}", format_amount(name, it.request[r])).into(),
                    largest: format!("{name} {}", format_amount(name, largest)).into(),
                };
            }
        }
        let all = problem
            .resources
            .iter()
            .zip(&it.request)
            .filter(|(_, amount)| **amount > 0);
        let request: Vec<String> = all
            .map(|(n, a)| format!("{n} {}", format_amount(n, *a)))
            .collect();
        return PodReason::Resources {
            pool: pool.name.clone(),
            request: request.join(", ").into(),
            largest: "no type has all of it".into(),
        };
    }
    for ((resource, _), left) in problem.limits[pool_idx].iter().zip(limits) {
        let least = fitting
            .iter()
            .map(|o| problem.usage(*o, resource))
            .min()
            .unwrap_or(0);
        if least > *left {
            let limit = pool.limits.get(resource).copied().unwrap_or(0);
            let used = limit - left;
            return PodReason::Limit {
                pool: pool.name.clone(),
                resource: resource.clone(),
                limit,
                used,
            };
        }
    }
    let constraint = "spread, affinity or anti-affinity".into();
    PodReason::Topology {
        pool: pool.name.clone(),
        constraint,
    }
}
