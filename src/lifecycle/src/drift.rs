//! Whether a machine is still what its NodePool and its node class ask for.

use std::sync::Arc;

use plimsoll_api::{
    conditions::{self, ConditionSet},
    labels,
    nodeclaim::NodeClaim,
    nodepool::NodePool,
};
use plimsoll_core::{requirement::labels_match, snapshot::Labels};
use plimsoll_provider::Drift;
use plimsoll_state::typed_requirement;

/// The machine of a claim; what its pool asks for is looked at first, as upstream does.
pub fn judge(claim: &NodeClaim, pool: &NodePool, of_class: Drift) -> Drift {
    let conditions = claim.status.iter().flat_map(|s| &s.conditions);
    let launched = conditions
        .into_iter()
        .any(|c| c.type_ == conditions::LAUNCHED && c.status == "True");
    if !launched {
        return Drift::Absent;
    }
    if static_fields_differ(claim, pool) {
        return Drift::Found("NodePoolDrifted");
    }
    if !requirements_hold(claim, pool) {
        return Drift::Found("RequirementsDrifted");
    }
    of_class
}

/// Whether the claim's condition says something else than `found`.
pub fn is_news(claim: &NodeClaim, found: Drift) -> bool {
    let list = claim.status.as_ref().map(|s| s.conditions.as_slice());
    let said = conditions::find(list.unwrap_or_default(), conditions::DRIFTED);
    match found {
        Drift::Unknown => false,
        Drift::Absent => said.is_some(),
        Drift::Found(reason) => said.is_none_or(|c| c.status != "True" || c.reason != reason),
    }
}

pub(crate) fn mark(found: Drift, set: &mut ConditionSet<'_>) {
    match found {
        Drift::Unknown => {}
        Drift::Absent => {
            set.clear(conditions::DRIFTED);
        }
        Drift::Found(reason) => {
            set.set_true_with_reason(conditions::DRIFTED, reason, reason);
        }
    }
}

/// Hashes are compared only where both are there and of one version: those of another are not comparable.
fn static_fields_differ(claim: &NodeClaim, pool: &NodePool) -> bool {
    let (of_pool, of_claim) = (&pool.metadata.annotations, &claim.metadata.annotations);
    let pair = |key: &str| Some((of_pool.as_ref()?.get(key)?, of_claim.as_ref()?.get(key)?));
    match (pair(labels::NODEPOOL_HASH), pair(labels::NODEPOOL_HASH_VERSION)) {
        (Some((pool_hash, claim_hash)), Some((pool_version, claim_version))) => {
            pool_version == claim_version && pool_hash != claim_hash
        }
        _ => false,
    }
}

pub(crate) fn requirements_hold(claim: &NodeClaim, pool: &NodePool) -> bool {
    let own = claim.metadata.labels.iter().flatten();
    let has: Labels = own
        .map(|(key, value)| (Arc::from(labels::normalize(key)), Arc::from(value.as_str())))
        .collect();
    let requirements = &pool.spec.template.spec.requirements;
    let wanted: Vec<_> = requirements.iter().map(typed_requirement).collect();
    labels_match(&has, &wanted)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pool(requirements: Value) -> NodePool {
        serde_json::from_value(json!({
            "metadata": { "name": "p", "annotations": {
                "karpenter.sh/nodepool-hash": "1", "karpenter.sh/nodepool-hash-version": "v3" } },
            "spec": { "template": { "spec": {
                "requirements": requirements,
                "nodeClassRef": { "group": "g", "kind": "K", "name": "default" },
            } } },
        }))
        .unwrap()
    }

    fn claim(launched: &str, hash: &str, version: &str) -> NodeClaim {
        serde_json::from_value(json!({
            "metadata": {
                "name": "c", "labels": { "topology.kubernetes.io/zone": "a" },
                "annotations": { "karpenter.sh/nodepool-hash": hash, "karpenter.sh/nodepool-hash-version": version },
            },
            "spec": { "requirements": [], "nodeClassRef": { "group": "g", "kind": "K", "name": "default" } },
            "status": { "conditions": [{
                "type": "Launched", "status": launched, "reason": "Launched", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }] },
        }))
        .unwrap()
    }

    #[test]
    fn the_pool_is_looked_at_before_the_class() {
        let class = Drift::Found("AMIDrift");
        let plain = pool(json!([]));
        assert_eq!(judge(&claim("True", "1", "v3"), &plain, class), class);
        let of_pool = Drift::Found("NodePoolDrifted");
        assert_eq!(judge(&claim("True", "2", "v3"), &plain, class), of_pool);
        assert_eq!(
            judge(&claim("True", "2", "v2"), &plain, Drift::Absent),
            Drift::Absent,
            "hashes of two versions say nothing"
        );
        assert_eq!(
            judge(&claim("Unknown", "2", "v3"), &plain, class),
            Drift::Absent,
            "there is no machine yet"
        );
    }

    #[test]
    fn labels_must_meet_the_requirements_of_today() {
        let wanted = |key: &str, operator: &str, values: &[&str]| {
            pool(json!([{ "key": key, "operator": operator, "values": values }]))
        };
        let zone = "topology.kubernetes.io/zone";
        let verdict = |pool: &NodePool| judge(&claim("True", "1", "v3"), pool, Drift::Absent);
        let drifted = Drift::Found("RequirementsDrifted");
        assert_eq!(verdict(&wanted(zone, "In", &["a", "b"])), Drift::Absent);
        assert_eq!(verdict(&wanted(zone, "In", &["b"])), drifted);
        assert_eq!(
            verdict(&wanted("failure-domain.beta.kubernetes.io/zone", "In", &["b"])),
            drifted
        );
        assert_eq!(
            verdict(&wanted("team", "In", &["x"])),
            drifted,
            "a label it lacks"
        );
        assert_eq!(verdict(&wanted("team", "NotIn", &["x"])), Drift::Absent);
        assert_eq!(verdict(&wanted("team", "Exists", &[])), drifted);
        assert_eq!(verdict(&wanted("team", "DoesNotExist", &[])), Drift::Absent);
    }

    #[test]
    fn a_condition_is_written_once_and_kept_while_nothing_is_known() {
        let mut claim = claim("True", "1", "v3");
        let found = Drift::Found("AMIDrift");
        assert!(is_news(&claim, found) && !is_news(&claim, Drift::Absent));
        let mut status = claim.status.clone().unwrap();
        let now = jiff::Timestamp::UNIX_EPOCH;
        mark(found, &mut crate::claim::edit(&claim, &mut status, now));
        let drifted = conditions::find(&status.conditions, "Drifted").unwrap();
        assert_eq!(
            (&*drifted.status, &*drifted.reason, &*drifted.message),
            ("True", "AMIDrift", "AMIDrift")
        );
        claim.status = Some(status.clone());
        assert!(!is_news(&claim, found) && !is_news(&claim, Drift::Unknown));
        assert!(is_news(&claim, Drift::Absent) && is_news(&claim, Drift::Found("SubnetDrift")));
        mark(Drift::Unknown, &mut crate::claim::edit(&claim, &mut status, now));
        assert_eq!(claim.status.as_ref(), Some(&status));
        mark(Drift::Absent, &mut crate::claim::edit(&claim, &mut status, now));
        assert_eq!(conditions::find(&status.conditions, "Drifted"), None);
    }
}
