//! A NodePool's status: valid, class ready, how much it runs; and its hash.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use plimsoll_api::{
    conditions::{self, ConditionSet},
    hash, labels,
    nodeclaim::NodeClaim,
    nodepool::NodePool,
    validate,
};
use plimsoll_core::resources::{CPU, EPHEMERAL_STORAGE, MEMORY, NODES, PODS, Resources, format_amount};
use plimsoll_provider::NodeClassReadiness;
use serde_json::{Value, json};

use crate::effect::Effect;

/// Patches that bring one pool up to date.
#[derive(Debug, Default, PartialEq)]
pub struct Patches {
    pub metadata: Option<Value>,
    pub status: Option<Value>,
}

/// One pass over a pool. `usage` is the capacity of its machines that are not leaving, and their number.
pub fn reconcile(
    pool: &NodePool,
    class: &(NodeClassReadiness, Option<i64>),
    usage: Option<&(Resources, u64)>,
    now: Timestamp,
) -> Patches {
    let mut patches = Patches::default();
    let wanted = [
        (labels::NODEPOOL_HASH, hash::nodepool_hash(pool)),
        (
            labels::NODEPOOL_HASH_VERSION,
            hash::NODEPOOL_HASH_VERSION.to_owned(),
        ),
    ];
    let annotations = pool.metadata.annotations.as_ref();
    if wanted
        .iter()
        .any(|(key, value)| annotations.and_then(|a| a.get(*key)) != Some(value))
    {
        let new: BTreeMap<_, _> = wanted.into_iter().collect();
        patches.metadata = Some(json!({ "metadata": { "annotations": new } }));
    }

    let mut status = pool.status.clone().unwrap_or_default();
    let created = pool.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    let generation = pool.metadata.generation.unwrap_or(0);
    let mut set = ConditionSet::new(
        &conditions::NODEPOOL,
        &mut status.conditions,
        generation,
        created,
        now,
    );
    if let Err(violations) = validate::nodepool(pool) {
        let message: Vec<String> = violations.iter().map(ToString::to_string).collect();
        set.set_false(
            conditions::VALIDATION_SUCCEEDED,
            "NodePoolValidationFailed",
            &message.join("; "),
        );
    } else {
        set.set_true(conditions::VALIDATION_SUCCEEDED);
    }
    let class_name = &pool.spec.template.spec.node_class_ref.name;
    let not_found = format!("NodeClass {class_name:?} not found on cluster");
    let terminating = format!("NodeClass {class_name:?} is terminating");
    let ready = conditions::NODECLASS_READY;
    match &class.0 {
        NodeClassReadiness::Ready => set.set_true(ready),
        NodeClassReadiness::NotFound => set.set_false(ready, "NodeClassNotFound", &not_found),
        NodeClassReadiness::Terminating => set.set_false(ready, "NodeClassTerminating", &terminating),
        NodeClassReadiness::NotReady { reason, message } => set.set_false(ready, reason, message),
        NodeClassReadiness::Unknown { reason, message } => set.set_unknown(ready, reason, message),
    };
    status.node_class_observed_generation = class.1.or(status.node_class_observed_generation);
    let (resources, nodes) = usage.cloned().unwrap_or_default();
    status.nodes = i64::try_from(nodes).unwrap_or(i64::MAX);
    status.resources = resources_of(resources, status.nodes);
    if pool.status.as_ref() != Some(&status) {
        let version = &pool.metadata.resource_version;
        patches.status = Some(json!({ "metadata": { "resourceVersion": version }, "status": status }));
    }
    patches
}

/// Hashes of another version cannot be compared. Where the pool carries one, its claims that have not drifted are given
/// the pool's new hash ahead of it, as upstream does, or every swap of the controller would replace every machine.
pub fn migrate<'a>(pool: &NodePool, claims: impl IntoIterator<Item = &'a Arc<NodeClaim>>) -> Vec<Effect> {
    let version_of = |annotations: &Option<BTreeMap<String, String>>| {
        let version = annotations.as_ref()?.get(labels::NODEPOOL_HASH_VERSION)?;
        Some(version == hash::NODEPOOL_HASH_VERSION)
    };
    if version_of(&pool.metadata.annotations) == Some(true) {
        return Vec::new();
    }
    let of_pool = |claim: &&Arc<NodeClaim>| {
        let label = claim
            .metadata
            .labels
            .as_ref()
            .and_then(|l| l.get(labels::NODEPOOL));
        label == pool.metadata.name.as_ref() && version_of(&claim.metadata.annotations) != Some(true)
    };
    let restamped = |claim: &Arc<NodeClaim>| {
        let list = claim.status.as_ref().map(|s| s.conditions.as_slice());
        let mut new = json!({ labels::NODEPOOL_HASH_VERSION: hash::NODEPOOL_HASH_VERSION });
        if conditions::find(list.unwrap_or_default(), conditions::DRIFTED).is_none() {
            new[labels::NODEPOOL_HASH] = json!(hash::nodepool_hash(pool));
        }
        Effect::PatchClaim {
            name: claim.metadata.name.clone().unwrap_or_default(),
            patch: json!({ "metadata": { "annotations": new } }),
        }
    };
    claims.into_iter().filter(of_pool).map(restamped).collect()
}

/// The five resources upstream always writes, zeros included, and whatever else the machines have.
fn resources_of(mut amounts: Resources, nodes: i64) -> BTreeMap<String, Quantity> {
    for always in [CPU, MEMORY, PODS, EPHEMERAL_STORAGE] {
        amounts.entry(always.into()).or_default();
    }
    amounts.insert(NODES.into(), nodes);
    amounts
        .iter()
        .map(|(name, amount)| (name.to_string(), Quantity(format_amount(name, *amount))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_of_another_hash_version_are_stamped_anew_unless_they_drifted() {
        let pool = |version: &str| -> NodePool {
            serde_json::from_value(json!({
                "metadata": { "name": "p", "annotations": { "karpenter.sh/nodepool-hash-version": version } },
                "spec": { "template": { "spec": {
                    "requirements": [], "nodeClassRef": { "group": "g", "kind": "K", "name": "default" } } } },
            }))
            .unwrap()
        };
        let claim = |name: &str, pool: &str, version: &str, drifted: bool| -> Arc<NodeClaim> {
            let condition = json!({
                "type": "Drifted", "status": "True", "reason": "AMIDrift", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            });
            Arc::new(
                serde_json::from_value(json!({
                    "metadata": { "name": name, "labels": { "karpenter.sh/nodepool": pool },
                        "annotations": { "karpenter.sh/nodepool-hash": "1",
                            "karpenter.sh/nodepool-hash-version": version } },
                    "spec": { "requirements": [], "nodeClassRef": { "group": "g", "kind": "K", "name": "d" } },
                    "status": { "conditions": if drifted { json!([condition]) } else { json!([]) } },
                }))
                .unwrap(),
            )
        };
        let now = hash::NODEPOOL_HASH_VERSION;
        let claims = [
            claim("old", "p", "v2", false),
            claim("drifted", "p", "v2", true),
            claim("current", "p", now, false),
            claim("of-another", "q", "v2", false),
        ];
        let stamped: Vec<_> = migrate(&pool("v2"), &claims)
            .into_iter()
            .map(|effect| match effect {
                Effect::PatchClaim { name, patch } => (name, patch["metadata"]["annotations"].clone()),
                other => panic!("{other:?}"),
            })
            .collect();
        let hash = hash::nodepool_hash(&pool("v2"));
        let (hash_key, version_key) = (labels::NODEPOOL_HASH, labels::NODEPOOL_HASH_VERSION);
        assert_eq!(
            stamped,
            [
                ("old".to_owned(), json!({ hash_key: hash, version_key: now })),
                ("drifted".to_owned(), json!({ version_key: now })),
            ]
        );
        assert_eq!(migrate(&pool(now), &claims), []);
    }
}
