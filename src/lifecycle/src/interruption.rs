//! What follows when the cloud says that it takes a machine away.

use plimsoll_api::nodeclaim::NodeClaim;
use plimsoll_provider::Interruption;
use plimsoll_state::Index;

use crate::{
    claim::{delete, event},
    effect::{Effect, EventType, Subject},
};

/// Tells claim and node, and deletes the claim when its machine must be drained. The pods of a claim that is being
/// deleted count as waiting, so their new machines are bought while the old one is still being drained. A machine that
/// no claim stands for is another's.
pub fn interrupted(index: &Index, interruption: &Interruption) -> Vec<Effect> {
    let provider_id = |claim: &NodeClaim| claim.status.as_ref()?.provider_id.clone();
    let is_meant = |id: String| id.rsplit('/').next() == Some(&*interruption.machine_id);
    let claim = index.claims().find(|c| provider_id(c).is_some_and(is_meant));
    let Some((claim, provider_id)) = claim.and_then(|c| Some((c, provider_id(c)?))) else {
        return Vec::new();
    };
    let mut effects = vec![event(
        claim,
        EventType::Warning,
        interruption.event,
        interruption.note.clone(),
    )];
    for node in index.nodes_of_provider_id(&provider_id) {
        effects.push(Effect::Event {
            subject: Subject::Node {
                name: node.metadata.name.clone().unwrap_or_default(),
            },
            type_: EventType::Warning,
            reason: interruption.event,
            note: interruption.note.clone(),
        });
    }
    if interruption.drain && claim.metadata.deletion_timestamp.is_none() {
        effects.push(delete(claim, interruption.kind));
    }
    effects
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use plimsoll_state::Observe;
    use serde_json::json;

    use super::*;

    fn index(deleting: bool) -> Index {
        let mut claim = json!({
            "metadata": {
                "name": "general-x", "uid": "u-1", "resourceVersion": "1", "generation": 1,
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {
                "requirements": [],
                "nodeClassRef": { "group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default" },
            },
            "status": { "providerID": "aws:///a/i-1" },
        });
        if deleting {
            claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:01:00Z");
        }
        let claim: NodeClaim = serde_json::from_value(claim).unwrap();
        let mut index = Index::default();
        index.apply(claim, Timestamp::UNIX_EPOCH);
        index
    }

    fn interruption(machine_id: &str, drain: bool) -> Interruption {
        Interruption {
            machine_id: machine_id.into(),
            kind: "spot_interrupted",
            event: "SpotInterrupted",
            note: "it goes".into(),
            drain,
        }
    }

    #[test]
    fn a_machine_that_goes_is_drained_once() {
        let effects = interrupted(&index(false), &interruption("i-1", true));
        assert!(matches!(
            &effects[0],
            Effect::Event {
                reason: "SpotInterrupted",
                ..
            }
        ));
        let deletes = |effects: &[Effect]| {
            effects
                .iter()
                .any(|e| matches!(e, Effect::DeleteClaim { name, uid, reason: "spot_interrupted" } if name == "general-x" && uid == "u-1"))
        };
        assert!(deletes(&effects));
        let again = interrupted(&index(true), &interruption("i-1", true));
        assert!(!deletes(&again) && !again.is_empty());
        let advice = interrupted(&index(false), &interruption("i-1", false));
        assert!(!deletes(&advice) && !advice.is_empty());
    }

    #[test]
    fn another_clusters_machine_is_nobodys_business() {
        assert_eq!(interrupted(&index(false), &interruption("i-2", true)), []);
    }
}
