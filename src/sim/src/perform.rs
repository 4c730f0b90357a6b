//! Calls, carried out against the model server and the scripted cloud.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use plimsoll_lifecycle::Effect;
use plimsoll_provider::{CloudProvider, LaunchRequest, ProviderError, Termination, fake::FakeCloud};
use plimsoll_state::terms;
use serde_json::{Value, json};

use crate::{
    api::{ApiError, Kind, Part, Server, text},
    controller::{Answer, Failure, Request, typed},
    run::at_once,
};

/// Does what was asked for and says what the caller would hear.
pub(crate) fn perform(request: &Request, server: &mut Server, cloud: &FakeCloud, now: Timestamp) -> Answer {
    match request {
        Request::Effect(effect) | Request::Evict(effect) => perform_effect(effect, server, cloud, now),
        Request::PatchPool { name, patch, status } => {
            let part = if *status { Part::Status } else { Part::Main };
            answer(server.patch(Kind::NodePool, name, patch, part), |_| Answer::Done)
        }
        Request::ListClaims => Answer::Claims(
            server
                .list(Kind::NodeClaim)
                .map(|(_, claim)| typed(claim))
                .collect(),
        ),
        Request::LookAt { node } => {
            let on_it = |pod: &Value| text(pod, "/spec/nodeName") == Some(node);
            Answer::Pods(
                server
                    .list(Kind::Pod)
                    .filter(|(_, pod)| on_it(pod))
                    .map(|(_, pod)| typed(pod))
                    .collect(),
            )
        }
        Request::ListMachines => heard(at_once(cloud.list(&[])).map(Answer::Machines)),
        Request::EndMachine { provider_id } => {
            heard(at_once(cloud.delete(provider_id, None)).map(|_| Answer::Done))
        }
    }
}

fn perform_effect(effect: &Effect, server: &mut Server, cloud: &FakeCloud, now: Timestamp) -> Answer {
    let claim = |object: Arc<Value>| Answer::Claim(Box::new(typed(&object)));
    let node = |object: Arc<Value>| Answer::Node(Box::new(typed(&object)));
    match effect {
        Effect::CreateClaim(claim) => {
            let created = server.create(Kind::NodeClaim, json!(claim), now);
            answer(created, |claim| Answer::Created(Box::new(typed(&claim))))
        }
        Effect::PatchClaim { name, patch } => {
            answer(server.patch(Kind::NodeClaim, name, patch, Part::Main), claim)
        }
        Effect::PatchClaimStatus { name, patch } => {
            answer(server.patch(Kind::NodeClaim, name, patch, Part::Status), claim)
        }
        Effect::DeleteClaim { name, uid, .. } => {
            let deleted = server.delete(Kind::NodeClaim, name, Some(uid), None, now);
            let live = server.get(Kind::NodeClaim, name).cloned();
            answer(deleted, |()| live.map_or(Answer::Done, claim))
        }
        Effect::PatchNode { name, patch } => answer(server.patch(Kind::Node, name, patch, Part::Main), node),
        Effect::StopEvicting { name, uid, taint } | Effect::OpenNode { name, uid, taint } => {
            let mut taints = match server.get(Kind::Node, name) {
                Some(node) if text(node, "/metadata/uid") == Some(uid) => node["spec"]["taints"].clone(),
                _ => return Answer::Failed(Failure::NotFound),
            };
            if taints[*taint]["key"] != plimsoll_api::taints::UNREGISTERED {
                return Answer::Failed(Failure::Conflict);
            }
            let patch = if matches!(effect, Effect::StopEvicting { .. }) {
                taints[*taint]["effect"] = plimsoll_api::taints::NO_SCHEDULE.into();
                json!({ "spec": { "taints": taints } })
            } else {
                taints.as_array_mut().expect("it has an element").remove(*taint);
                let labels = json!({ plimsoll_api::labels::REGISTERED: "true" });
                json!({ "metadata": { "labels": labels }, "spec": { "taints": taints } })
            };
            answer(server.patch(Kind::Node, name, &patch, Part::Main), node)
        }
        Effect::DeleteNode { name, uid } => {
            answer(server.delete(Kind::Node, name, Some(uid), None, now), |()| {
                Answer::Done
            })
        }
        Effect::Launch(claim) => {
            let (requirements, requests) = terms(claim);
            let request = LaunchRequest {
                claim: claim.clone(),
                requirements,
                requests,
            };
            Answer::Launched(at_once(cloud.create(&request)))
        }
        Effect::Terminate { claim, provider_id } => {
            let found = || at_once(cloud.find(claim)).map(|machine| machine.map(|m| m.provider_id));
            let ended = provider_id
                .clone()
                .map_or_else(found, |id| Ok(Some(id)))
                .and_then(|id| match id {
                    Some(id) => at_once(cloud.delete(&id, Some(claim))),
                    None => Ok(Termination::Gone),
                });
            heard(ended.map(Answer::Terminated))
        }
        Effect::Probe(claim) => heard(at_once(cloud.find(claim)).map(|machine| match machine {
            Some(_) => Answer::Done,
            None => Answer::Terminated(Termination::Gone),
        })),
        Effect::Nominate {
            pod,
            uid,
            node,
            look_again,
        } => {
            let same = server
                .get(Kind::Pod, pod)
                .is_some_and(|p| text(p, "/metadata/uid") == Some(uid));
            if !same {
                return Answer::Done;
            }
            let mut nominate = |node: &str| {
                let patch = json!({ "status": { "nominatedNodeName": node } });
                server.patch(Kind::Pod, pod, &patch, Part::Status)
            };
            if *look_again && let Err(error) = nominate("look-again") {
                return answer(Err::<(), _>(error), |()| Answer::Done);
            }
            answer(nominate(node), |_| Answer::Done)
        }
        Effect::Evict { pod, uid, .. } => answer(server.evict(pod, uid, now), |()| Answer::Done),
        Effect::DeletePod { pod, uid, grace } => {
            let grace = SignedDuration::try_from(*grace).unwrap_or(SignedDuration::MAX);
            answer(server.delete(Kind::Pod, pod, Some(uid), Some(grace), now), |()| {
                Answer::Done
            })
        }
        // These lead to other calls, or to none.
        Effect::ConfirmDrained(_) | Effect::Event { .. } => Answer::Done,
    }
}

fn answer<T>(result: Result<T, ApiError>, said: impl FnOnce(T) -> Answer) -> Answer {
    match result {
        Ok(value) => said(value),
        Err(ApiError::NotFound(..)) => Answer::Failed(Failure::NotFound),
        Err(ApiError::AlreadyExists(..) | ApiError::Conflict(_)) => Answer::Failed(Failure::Conflict),
        Err(ApiError::Budget(_)) => Answer::Failed(Failure::TooManyRequests),
        Err(ApiError::Invalid(_)) => Answer::Failed(Failure::Unclear),
    }
}

fn heard(result: Result<Answer, ProviderError>) -> Answer {
    result.unwrap_or(Answer::Failed(Failure::Unclear))
}
