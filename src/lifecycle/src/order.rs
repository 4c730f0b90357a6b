//! From a planned launch to a NodeClaim.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::{
    api::resource::Quantity,
    apis::meta::v1::{ObjectMeta, OwnerReference},
};
use plimsoll_api::{
    hash, labels,
    nodeclaim::{NodeClaim, NodeClaimSpec, ResourceRequirements},
    nodepool::{self, NodePool, NodeSelectorRequirementWithMinValues},
};
use plimsoll_core::{
    catalog::Catalog,
    plan::Launch,
    requirement::{Operator, Requirement},
    resources::format_amount,
};

/// The NodeClaim of a launch. Its name is left to the API server (`generateName`).
pub fn claim(launch: &Launch, pool: &NodePool, catalog: &Catalog, plan_id: &str) -> NodeClaim {
    let template = &pool.spec.template;
    let class = &template.spec.node_class_ref;
    let pool_name = pool.metadata.name.clone().unwrap_or_default();

    let mut claim_labels = template.metadata.labels.clone().unwrap_or_default();
    claim_labels.insert(labels::NODEPOOL.into(), pool_name.clone());
    claim_labels.insert(
        labels::nodeclass_label(&class.group, &class.kind),
        class.name.clone(),
    );
    // A custom key the launch has narrowed to one value becomes a label of the node.
    for requirement in &launch.requirements {
        if let (Operator::In, [only]) = (requirement.operator, requirement.values.as_slice())
            && !labels::is_well_known(&requirement.key)
            && labels::restricted(&requirement.key).is_none()
        {
            claim_labels.insert(requirement.key.to_string(), only.to_string());
        }
    }

    let mut annotations = template.metadata.annotations.clone().unwrap_or_default();
    annotations.insert(labels::NODEPOOL_HASH.into(), hash::nodepool_hash(pool));
    annotations.insert(
        labels::NODEPOOL_HASH_VERSION.into(),
        hash::NODEPOOL_HASH_VERSION.into(),
    );
    annotations.insert(
        labels::MIN_VALUES_RELAXED.into(),
        launch.min_values_relaxed.to_string(),
    );
    annotations.insert(labels::PLAN.into(), plan_id.into());

    NodeClaim {
        metadata: ObjectMeta {
            generate_name: Some(format!("{pool_name}-")),
            labels: Some(claim_labels),
            annotations: Some(annotations),
            finalizers: Some(vec![labels::TERMINATION_FINALIZER.into()]),
            owner_references: Some(vec![OwnerReference {
                api_version: "karpenter.sh/v1".into(),
                kind: "NodePool".into(),
                name: pool_name,
                uid: pool.metadata.uid.clone().unwrap_or_default(),
                block_owner_deletion: Some(true),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: NodeClaimSpec {
            taints: template.spec.taints.clone(),
            startup_taints: template.spec.startup_taints.clone(),
            requirements: requirements(launch, pool, catalog),
            resources: ResourceRequirements {
                requests: requests(launch),
            },
            node_class_ref: class.clone(),
            termination_grace_period: template.spec.termination_grace_period.clone(),
            expire_after: template.spec.expire_after.clone(),
        },
        status: None,
    }
}

/// The pool's requirements, the launch's and the types, one after the other: on the wire a list of
/// requirements is a conjunction, so nothing has to be merged and nothing can be lost.
fn requirements(
    launch: &Launch,
    pool: &NodePool,
    catalog: &Catalog,
) -> Vec<NodeSelectorRequirementWithMinValues> {
    let of_pool = pool
        .spec
        .template
        .spec
        .requirements
        .iter()
        .filter(|r| r.key != labels::INSTANCE_TYPE);
    let min_types = pool
        .spec
        .template
        .spec
        .requirements
        .iter()
        .filter(|r| r.key == labels::INSTANCE_TYPE)
        .filter_map(|r| r.min_values)
        .max();
    let mut types: Vec<String> = launch
        .types
        .iter()
        .map(|id| catalog.types[id.0 as usize].name.to_string())
        .collect();
    types.sort();
    let own = launch.requirements.iter().map(wire);
    let mut all: Vec<_> = of_pool
        .filter(|&r| !implied(r, &launch.requirements))
        .cloned()
        .chain(own)
        .collect();
    all.push(NodeSelectorRequirementWithMinValues {
        key: labels::INSTANCE_TYPE.into(),
        operator: nodepool::Operator::In,
        values: types,
        min_values: min_types,
    });
    all.sort_by(|a, b| a.key.cmp(&b.key));
    all
}

/// A pool requirement that the launch repeats or narrows for the same key says nothing more.
fn implied(of_pool: &NodeSelectorRequirementWithMinValues, own: &[Requirement]) -> bool {
    of_pool.min_values.is_none()
        && own.iter().any(|r| {
            *r.key == of_pool.key
                && r.operator == Operator::In
                && of_pool.operator == nodepool::Operator::In
                && r.values.iter().all(|v| of_pool.values.iter().any(|p| **v == **p))
        })
}

fn wire(requirement: &Requirement) -> NodeSelectorRequirementWithMinValues {
    NodeSelectorRequirementWithMinValues {
        key: requirement.key.to_string(),
        operator: match requirement.operator {
            Operator::In => nodepool::Operator::In,
            Operator::NotIn => nodepool::Operator::NotIn,
            Operator::Exists => nodepool::Operator::Exists,
            Operator::DoesNotExist => nodepool::Operator::DoesNotExist,
            Operator::Gt => nodepool::Operator::Gt,
            Operator::Lt => nodepool::Operator::Lt,
            Operator::Gte => nodepool::Operator::Gte,
            Operator::Lte => nodepool::Operator::Lte,
        },
        values: requirement.values.iter().map(ToString::to_string).collect(),
        min_values: requirement.min_values.and_then(|n| i32::try_from(n).ok()),
    }
}

fn requests(launch: &Launch) -> BTreeMap<String, Quantity> {
    launch
        .requests
        .iter()
        .map(|(resource, amount)| (resource.to_string(), Quantity(format_amount(resource, *amount))))
        .collect()
}
