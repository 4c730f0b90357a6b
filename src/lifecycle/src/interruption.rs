//! What follows when the cloud says that it takes a machine away.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use plimsoll_api::{labels, nodeclaim::NodeClaim};
use plimsoll_provider::{Answer, Interruption};
use plimsoll_state::Index;
use serde_json::{Value, json};

use crate::{
    claim::{delete, event, locked, name},
    drain,
    effect::{Effect, EventType, Subject},
};

/// Reason of the event that follows from an interruption, as upstream.
const ENDS: &str = "TerminatingOnInterruption";

/// Tells claim and node, and deletes the claim when its machine must go. The pods of a claim that is being
/// deleted count as waiting, so their new machines are bought at once; where it is known when the machine ends, they are
/// evicted when those are ready. A machine that no claim stands for is another's.
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
        let at = whole_second(now).to_string();
        let annotations = json!({ "annotations": { labels::TERMINATION_TIMESTAMP: at } });
        effects.push(Effect::PatchClaim {
            name: name(claim),
            patch: locked(claim, annotations),
        });
    }
    let leaves = claim.metadata.deletion_timestamp.is_some();
    if interruption.answer == Answer::Drain
        && let Some(patch) = ends_patch(claim, leaves, interruption.ends_at.unwrap_or(now), now)
    {
        let name = name(claim);
        effects.push(Effect::PatchClaim { name, patch });
    }
    if interruption.answer != Answer::Nothing && !leaves {
        let note = "the machine is replaced and ended, because the cloud interrupts it";
        effects.push(event(claim, EventType::Warning, ENDS, note.to_owned()));
        effects.extend(on_nodes(ENDS, note));
        effects.push(delete(claim, interruption.kind));
    }
    effects
}

/// Writes down when the machine ends, if its drain has to know. None: a drain without a known end is not to begin later,
/// and an end that is known only ever comes nearer.
fn ends_patch(claim: &NodeClaim, leaves: bool, ends_at: Timestamp, now: Timestamp) -> Option<Value> {
    let is_news = match drain::ends_at(claim) {
        Some(known) => ends_at < known,
        None => !leaves && ends_at > now,
    };
    let annotations = json!({ labels::ENDS_AT: whole_second(ends_at).to_string() });
    is_news.then(|| json!({ "metadata": { "annotations": annotations } }))
}

fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
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
            ends_at: None,
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
    fn a_drain_knows_when_its_machine_ends() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let written = |claim_patch: Value, ends_at: Option<i64>| {
            let mut claim = serde_json::to_value(index(false).claim("general-x").unwrap().as_ref()).unwrap();
            claim["metadata"]["resourceVersion"] = json!("2");
            for (key, value) in claim_patch.as_object().unwrap() {
                claim["metadata"][key] = value.clone();
            }
            let mut index = index(false);
            index.apply(serde_json::from_value::<NodeClaim>(claim).unwrap(), NOW);
            let mut interruption = interruption("i-1", Answer::Drain);
            interruption.ends_at = ends_at.map(at);
            let effects = interrupted(&index, &interruption, at(10));
            let first = effects
                .iter()
                .position(|e| matches!(e, Effect::PatchClaim { .. }));
            let delete = effects
                .iter()
                .position(|e| matches!(e, Effect::DeleteClaim { .. }));
            assert!(
                first.is_none() || delete.is_none() || first < delete,
                "known before the drain begins"
            );
            effects.into_iter().find_map(|e| match e {
                Effect::PatchClaim { patch, .. } => patch["metadata"]["annotations"][labels::ENDS_AT]
                    .as_str()
                    .map(|text| text.parse::<Timestamp>().unwrap().as_second()),
                _ => None,
            })
        };
        let leaves = json!({ "deletionTimestamp": at(5).to_string() });
        let held = json!({
            "deletionTimestamp": at(5).to_string(), "annotations": { labels::ENDS_AT: at(130).to_string() },
        });
        assert_eq!(written(json!({}), Some(130)), Some(130));
        assert_eq!(written(json!({}), None), None, "it may end at any moment");
        assert_eq!(written(json!({}), Some(9)), None, "it should have ended");
        assert_eq!(
            written(leaves, Some(130)),
            None,
            "a drain under way is not stopped"
        );
        assert_eq!(written(held.clone(), Some(131)), None);
        assert_eq!(written(held.clone(), Some(50)), Some(50));
        assert_eq!(written(held, None), Some(10), "sooner than was said");
    }

    #[test]
    fn another_clusters_machine_is_nobodys_business() {
        assert_eq!(
            interrupted(&index(false), &interruption("i-2", Answer::Drain), NOW),
            []
        );
    }
}
