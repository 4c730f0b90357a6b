//! Why a pod has no place.

use std::sync::Arc;

use super::{compile::Problem, taints::untolerated};
use crate::{
    report::PodReason,
    resources::format_amount,
    snapshot::{Pool, TaintEffect},
};

fn print_taint(taint: &crate::snapshot::Taint) -> Arc<str> {
    let effect = match taint.effect {
        TaintEffect::NoSchedule => "NoSchedule",
        TaintEffect::PreferNoSchedule => "PreferNoSchedule",
        TaintEffect::NoExecute => "NoExecute",
    };
    format!("{}={}:{effect}", taint.key, taint.value).into()
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
        let requirement = "node selector and node affinity".into();
        return PodReason::Requirements {
            pool: pool.name.clone(),
            requirement,
        };
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
