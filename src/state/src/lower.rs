//! From Kubernetes' words to the planner's.

pub(crate) mod node;
pub(crate) mod pool;
pub(crate) mod shape;
pub(crate) mod snapshot;

use std::sync::Arc;

use k8s_openapi::api::core::v1 as k8s;
use plimsoll_api::{
    labels,
    nodeclaim::NodeClaim,
    nodepool::{self, NodeSelectorRequirementWithMinValues},
};
use plimsoll_core::{
    requirement::{Operator, Requirement},
    resources::Resources,
    snapshot::{Taint, TaintEffect},
};

/// Amounts of a resource map. An entry that cannot be read counts as the error it is: it is left out and
/// reported by name, never guessed.
pub(crate) fn resources<'a>(
    quantities: impl IntoIterator<
        Item = (
            &'a String,
            &'a k8s_openapi::apimachinery::pkg::api::resource::Quantity,
        ),
    >,
) -> Resources {
    let mut amounts = Resources::new();
    for (name, quantity) in quantities {
        match plimsoll_core::resources::amount(name, &quantity.0) {
            Ok(amount) => {
                amounts.insert(name.as_str().into(), amount);
            }
            Err(error) => {
                tracing::warn!(resource = %name, quantity = %quantity.0, %error, "unreadable quantity");
            }
        }
    }
    amounts
}

/// One requirement; None when the operator is not one Kubernetes knows.
pub fn requirement<'a>(
    key: &str,
    operator: &str,
    values: impl IntoIterator<Item = &'a String>,
) -> Option<Requirement> {
    let operator = match operator {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::Gt,
        "Lt" => Operator::Lt,
        _ => return None,
    };
    Some(build(key, operator, values, None))
}

/// What a claim asks of its machine: the conjunction of its requirements, and the amounts it must hold.
pub fn terms(claim: &NodeClaim) -> (Vec<Requirement>, Resources) {
    let requirements = claim.spec.requirements.iter().map(typed_requirement).collect();
    (requirements, resources(&claim.spec.resources.requests))
}

/// A requirement of a NodePool or NodeClaim.
pub fn typed_requirement(requirement: &NodeSelectorRequirementWithMinValues) -> Requirement {
    let operator = match requirement.operator {
        nodepool::Operator::In => Operator::In,
        nodepool::Operator::NotIn => Operator::NotIn,
        nodepool::Operator::Exists => Operator::Exists,
        nodepool::Operator::DoesNotExist => Operator::DoesNotExist,
        nodepool::Operator::Gt => Operator::Gt,
        nodepool::Operator::Lt => Operator::Lt,
        nodepool::Operator::Gte => Operator::Gte,
        nodepool::Operator::Lte => Operator::Lte,
    };
    build(
        &requirement.key,
        operator,
        &requirement.values,
        requirement.min_values,
    )
}

fn build<'a>(
    key: &str,
    operator: Operator,
    values: impl IntoIterator<Item = &'a String>,
    min_values: Option<i32>,
) -> Requirement {
    let mut values: Vec<Arc<str>> = values.into_iter().map(|v| v.as_str().into()).collect();
    values.sort();
    values.dedup();
    Requirement {
        key: labels::normalize(key).into(),
        operator,
        values,
        min_values: min_values.and_then(|n| u32::try_from(n).ok()),
    }
}

pub(crate) fn taint(taint: &k8s::Taint) -> Option<Taint> {
    Some(Taint {
        key: taint.key.as_str().into(),
        value: taint.value.as_deref().unwrap_or_default().into(),
        effect: effect(&taint.effect)?,
    })
}

pub(crate) fn effect(effect: &str) -> Option<TaintEffect> {
    match effect {
        "NoSchedule" => Some(TaintEffect::NoSchedule),
        "PreferNoSchedule" => Some(TaintEffect::PreferNoSchedule),
        "NoExecute" => Some(TaintEffect::NoExecute),
        _ => None,
    }
}
