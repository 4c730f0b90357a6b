//! A NodePool as the planner sees it.

use std::{collections::BTreeMap, time::Duration};

use plimsoll_api::{labels, nodepool};
use plimsoll_core::{
    requirement::{Operator, Requirement},
    snapshot::{Budget, BudgetNodes, DisruptionReason, Labels, Pool},
};

use super::{resources, taint, typed_requirement};

/// None when the pool must not buy: not ready, going, or of fixed size.
pub(crate) fn pool(object: &nodepool::NodePool) -> Option<Pool> {
    let name = object.metadata.name.as_deref()?;
    let conditions = object
        .status
        .as_ref()
        .map(|s| s.conditions.as_slice())
        .unwrap_or_default();
    let ready = plimsoll_api::conditions::is_true(conditions, plimsoll_api::conditions::READY);
    if !ready || object.metadata.deletion_timestamp.is_some() || object.spec.replicas.is_some() {
        return None;
    }
    let template = &object.spec.template;
    let class = &template.spec.node_class_ref;
    let mut pool_labels: Labels = template
        .metadata
        .labels
        .iter()
        .flatten()
        .map(|(key, value)| (labels::normalize(key).into(), value.as_str().into()))
        .collect();
    pool_labels.insert(labels::NODEPOOL.into(), name.into());
    pool_labels.insert(
        labels::nodeclass_label(&class.group, &class.kind).into(),
        class.name.as_str().into(),
    );

    let mut requirements: Vec<Requirement> =
        template.spec.requirements.iter().map(typed_requirement).collect();
    requirements.extend(pool_labels.iter().map(|(key, value)| Requirement {
        key: key.clone(),
        operator: Operator::In,
        values: vec![value.clone()],
        min_values: None,
    }));
    requirements.sort();

    Some(Pool {
        name: name.into(),
        weight: object.spec.weight.unwrap_or(0),
        requirements,
        labels: pool_labels,
        taints: template.spec.taints.iter().flatten().filter_map(taint).collect(),
        startup_taints: template
            .spec
            .startup_taints
            .iter()
            .flatten()
            .filter_map(taint)
            .collect(),
        limits: object
            .spec
            .limits
            .as_ref()
            .map(|limits| resources(limits.iter()))
            .unwrap_or_default(),
        consolidate_after: object.spec.disruption.consolidate_after.as_duration(),
        budgets: object.spec.disruption.budgets.iter().map(budget).collect(),
    })
}

fn budget(budget: &nodepool::Budget) -> Budget {
    let nodes = match budget.nodes.strip_suffix('%') {
        Some(percent) => percent.parse().map_or(BudgetNodes::Invalid, BudgetNodes::Percent),
        None => budget
            .nodes
            .parse()
            .map_or(BudgetNodes::Invalid, BudgetNodes::Count),
    };
    let window = budget.schedule.as_deref().map(|schedule| {
        let duration = budget
            .duration
            .as_ref()
            .map_or(Duration::ZERO, plimsoll_api::duration::GoDuration::as_duration);
        (schedule.into(), duration)
    });
    let reasons = budget.reasons.iter().flatten().map(|reason| match reason {
        nodepool::DisruptionReason::Underutilized => DisruptionReason::Underutilized,
        nodepool::DisruptionReason::Empty => DisruptionReason::Empty,
        nodepool::DisruptionReason::Drifted => DisruptionReason::Drifted,
    });
    Budget {
        nodes,
        reasons: reasons.collect(),
        window,
    }
}

/// Capacity of a pool's machines, as `status.resources` reports it.
pub(crate) fn usage<'a>(
    nodes: impl IntoIterator<Item = &'a plimsoll_core::snapshot::Node>,
) -> (plimsoll_core::resources::Resources, u64) {
    let mut total: BTreeMap<_, i64> = plimsoll_core::resources::Resources::new();
    let mut count = 0;
    for node in nodes {
        count += 1;
        for (name, amount) in &node.capacity {
            *total.entry(name.clone()).or_default() += amount;
        }
    }
    (total, count)
}
