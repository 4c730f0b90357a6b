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
use plimsoll_state::typed_requirement;

/// The NodeClaim of a launch, with the provider's annotations. Its name is left to the API server (`generateName`).
pub fn claim(
    launch: &Launch,
    pool: &NodePool,
    catalog: &Catalog,
    plan_id: &str,
    of_provider: BTreeMap<String, String>,
) -> NodeClaim {
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
    // A key the pool requires and nobody cares about needs a value all the same, or the machine has drifted from its
    // pool at once.
    for requirement in &template.spec.requirements {
        let key = labels::normalize(&requirement.key);
        if !labels::is_well_known(key)
            && labels::restricted(key).is_none()
            && !claim_labels.contains_key(key)
            && let Some(value) = some_value(key, pool, launch)
        {
            claim_labels.insert(key.to_owned(), value);
        }
    }

    let mut annotations = template.metadata.annotations.clone().unwrap_or_default();
    // By this one the AWS provider buys and finds the machine. It is never a pool's to give: who may write pools may not
    // choose roles.
    annotations.remove(labels::ASSUMED_ROLE);
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
    annotations.extend(of_provider);

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

/// A value that pool and launch allow for a key. None: it may be absent, or nothing is allowed.
fn some_value(key: &str, pool: &NodePool, launch: &Launch) -> Option<String> {
    let of_pool = pool.spec.template.spec.requirements.iter().map(typed_requirement);
    let all: Vec<Requirement> = of_pool
        .chain(launch.requirements.iter().cloned())
        .filter(|r| *r.key == *key)
        .collect();
    if all.iter().all(|r| r.matches(None)) {
        return None;
    }
    let next_to = |r: &Requirement, by: i64| Some((r.values.first()?.parse::<i64>().ok()? + by).to_string());
    let values = all.iter().flat_map(|r| match r.operator {
        Operator::In => r.values.iter().map(ToString::to_string).collect(),
        Operator::Gt => Vec::from_iter(next_to(r, 1)),
        Operator::Lt => Vec::from_iter(next_to(r, -1)),
        Operator::Gte | Operator::Lte => Vec::from_iter(next_to(r, 0)),
        Operator::Exists => vec!["0".to_owned()],
        Operator::NotIn | Operator::DoesNotExist => Vec::new(),
    });
    values
        .into_iter()
        .find(|value| all.iter().all(|r| r.matches(Some(value))))
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

#[cfg(test)]
mod tests {
    use plimsoll_core::{catalog::MicroDollars, plan::Offered, resources::Resources};

    use super::*;

    fn launch() -> Launch {
        Launch {
            pool: "p".into(),
            requirements: Vec::new(),
            types: Vec::new(),
            offering: Offered {
                instance_type: "m5.large".into(),
                zone: "z".into(),
                capacity_type: "on-demand".into(),
                price: MicroDollars(0),
            },
            requests: Resources::new(),
            pods: Vec::new(),
            runner_up: None,
            min_values_relaxed: false,
            settled: false,
        }
    }

    #[test]
    fn a_pool_gives_its_claims_annotations_and_the_provider_a_role() {
        let pool: NodePool = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "p" },
            "spec": { "template": {
                "metadata": { "annotations": { "team": "a", labels::ASSUMED_ROLE: "{}" } },
                "spec": { "requirements": [], "nodeClassRef": { "group": "g", "kind": "K", "name": "default" } },
            } },
        }))
        .unwrap();
        for of_provider in [None, Some("role")] {
            let annotations = of_provider.map(|role| (labels::ASSUMED_ROLE.to_owned(), role.to_owned()));
            let annotations = annotations.into_iter().collect();
            let made = claim(&launch(), &pool, &Catalog::default(), "plan", annotations);
            let has = made.metadata.annotations.unwrap();
            let value = |key: &str| has.get(key).map(String::as_str);
            assert_eq!(value("team"), Some("a"));
            assert_eq!(value(labels::ASSUMED_ROLE), of_provider);
        }
    }

    #[test]
    fn a_required_label_that_nobody_mentions_gets_a_value() {
        let pool: NodePool = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "p" },
            "spec": { "template": { "spec": {
                "requirements": [
                    { "key": "team", "operator": "In", "values": ["b", "c"] },
                    { "key": "team", "operator": "NotIn", "values": ["b"] },
                    { "key": "rank", "operator": "Gt", "values": ["4"] },
                    { "key": "any", "operator": "Exists" },
                    { "key": "none", "operator": "DoesNotExist" },
                    { "key": "topology.kubernetes.io/zone", "operator": "In", "values": ["z"] },
                ],
                "nodeClassRef": { "group": "g", "kind": "K", "name": "default" },
            } } },
        }))
        .unwrap();
        let made = claim(&launch(), &pool, &Catalog::default(), "plan", BTreeMap::new());
        let has = made.metadata.labels.as_ref().unwrap();
        let value = |key: &str| has.get(key).map(String::as_str);
        assert_eq!(value("team"), Some("c"));
        assert_eq!(value("rank"), Some("5"));
        assert!(value("any").is_some());
        assert_eq!(value("none"), None);
        assert_eq!(value("topology.kubernetes.io/zone"), None, "the provider says it");
        let holds = crate::drift::requirements_hold(&made, &pool);
        assert!(!holds, "the provider has not labelled it");
        let mut launched = made;
        let labels = launched.metadata.labels.as_mut().unwrap();
        labels.insert("topology.kubernetes.io/zone".into(), "z".into());
        assert!(crate::drift::requirements_hold(&launched, &pool));
    }
}
