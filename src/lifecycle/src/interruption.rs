//! What follows when the cloud says that it takes a machine away.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use plimsoll_api::{labels, nodeclaim::NodeClaim};
use plimsoll_provider::{Answer, Interruption};
use plimsoll_state::Index;
use serde_json::json;

use crate::{
    claim::{delete, event, locked, name},
    effect::{Effect, EventType, Subject},
};

/// Reason of the event that follows from an interruption, as upstream.
const ENDS: &str = "TerminatingOnInterruption";

/// Tells claim and node, and deletes the claim when its machine must go. The pods of a claim that is being
/// deleted count as waiting, so their new machines are bought while the old one is still being drained. A machine that
/// no claim stands for is another's.
pub fn interrupted(index: &Index, interruption: &Interruption, now: Timestamp) -> Vec<Effect> {
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
    let nodes = index.nodes_of_provider_id(&provider_id);
    let on_nodes = |reason, note: &str| -> Vec<Effect> {
        let on_node = |node: &Arc<Node>| Effect::Event {
            subject: Subject::Node {
                name: node.metadata.name.clone().unwrap_or_default(),
            },
            type_: EventType::Warning,
            reason,
            note: note.to_owned(),
        };
        nodes.iter().map(on_node).collect()
    };
    effects.extend(on_nodes(interruption.event, &interruption.note));
    let annotations = claim.metadata.annotations.as_ref();
    let bounded = annotations.is_some_and(|a| a.contains_key(labels::TERMINATION_TIMESTAMP));
    if interruption.answer == Answer::End && !bounded {
        let at = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let annotations = json!({ "annotations": { labels::TERMINATION_TIMESTAMP: at.to_string() } });
        effects.push(Effect::PatchClaim {
            name: name(claim),
            patch: locked(claim, annotations),
        });
    }
    if interruption.answer != Answer::Nothing && claim.metadata.deletion_timestamp.is_none() {
        let note = "the machine is replaced and ended, because the cloud interrupts it";
        effects.push(event(claim, EventType::Warning, ENDS, note.to_owned()));
        effects.extend(on_nodes(ENDS, note));
        effects.push(delete(claim, interruption.kind));
    }
    effects
}

#[cfg(test)]
mod tests {
    use plimsoll_state::Observe;

    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

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

    fn interruption(machine_id: &str, answer: Answer) -> Interruption {
        Interruption {
            machine_id: machine_id.into(),
            kind: "spot_interrupted",
            event: "SpotInterrupted",
            note: "it goes".into(),
            answer,
        }
    }

    #[test]
    fn a_machine_that_goes_is_drained_once() {
        let effects = interrupted(&index(false), &interruption("i-1", Answer::Drain), NOW);
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
        let again = interrupted(&index(true), &interruption("i-1", Answer::Drain), NOW);
        assert!(!deletes(&again) && !again.is_empty());
        let advice = interrupted(&index(false), &interruption("i-1", Answer::Nothing), NOW);
        assert!(!deletes(&advice) && !advice.is_empty());
    }

    #[test]
    fn a_broken_machine_is_not_waited_for() {
        let deadline = |effects: &[Effect]| {
            effects.iter().find_map(|e| match e {
                Effect::PatchClaim { patch, .. } => {
                    Some(patch["metadata"]["annotations"][labels::TERMINATION_TIMESTAMP].clone())
                }
                _ => None,
            })
        };
        let effects = interrupted(&index(false), &interruption("i-1", Answer::End), NOW);
        assert_eq!(deadline(&effects), Some(json!("1970-01-01T00:00:00Z")));
        assert!(
            matches!(effects.last(), Some(Effect::DeleteClaim { .. })),
            "{effects:?}"
        );
        let effects = interrupted(&index(true), &interruption("i-1", Answer::End), NOW);
        assert!(deadline(&effects).is_some(), "a drain under way ends, too");
        let drained = interrupted(&index(false), &interruption("i-1", Answer::Drain), NOW);
        assert_eq!(deadline(&drained), None);
    }

    #[test]
    fn another_clusters_machine_is_nobodys_business() {
        assert_eq!(
            interrupted(&index(false), &interruption("i-2", Answer::Drain), NOW),
            []
        );
    }
}
