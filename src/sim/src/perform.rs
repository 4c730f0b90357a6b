//! Calls, carried out against the model server and the scripted cloud.

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
        Request::Effect(effect) => perform_effect(effect, server, cloud, now),
        Request::PatchPool { name, patch, status } => {
            let part = if *status { Part::Status } else { Part::Main };
            done(server.patch(Kind::NodePool, name, patch, part))
        }
        Request::ListClaims => Answer::Claims(server.list(Kind::NodeClaim).map(|(_, claim)| typed(claim)).collect()),
        Request::LookAt { node } => {
            let on_it = |pod: &Value| text(pod, "/spec/nodeName") == Some(node);
            Answer::Seen {
                node: server.get(Kind::Node, node).map(|node| typed(node)),
                pods: server.list(Kind::Pod).filter(|(_, pod)| on_it(pod)).map(|(_, pod)| typed(pod)).collect(),
            }
        }
        Request::ListMachines => heard(at_once(cloud.list()).map(Answer::Machines)),
        Request::EndMachine { provider_id } => heard(at_once(cloud.delete(provider_id)).map(|_| Answer::Done)),
    }
}

fn perform_effect(effect: &Effect, server: &mut Server, cloud: &FakeCloud, now: Timestamp) -> Answer {
    match effect {
        Effect::CreateClaim(claim) => match server.create(Kind::NodeClaim, json!(claim), now) {
            Ok(claim) => Answer::Created(typed(&claim)),
            Err(error) => Answer::Failed(failure(&error)),
        },
        Effect::PatchClaim { name, patch } => done(server.patch(Kind::NodeClaim, name, patch, Part::Main)),
        Effect::PatchClaimStatus { name, patch } => done(server.patch(Kind::NodeClaim, name, patch, Part::Status)),
        Effect::DeleteClaim { name, uid, .. } => done(server.delete(Kind::NodeClaim, name, Some(uid), None, now)),
        Effect::PatchNode { name, patch } => done(server.patch(Kind::Node, name, patch, Part::Main)),
        Effect::DeleteNode { name, uid } => done(server.delete(Kind::Node, name, Some(uid), None, now)),
        Effect::Launch(claim) => {
            let (requirements, requests) = terms(claim);
            let request = LaunchRequest { claim: claim.clone(), requirements, requests };
            Answer::Launched(at_once(cloud.create(&request)))
        }
        Effect::Terminate { claim, provider_id } => {
            let found = || at_once(cloud.find(claim)).map(|machine| machine.map(|m| m.provider_id));
            let ended = provider_id.clone().map_or_else(found, |id| Ok(Some(id))).and_then(|id| match id {
                Some(id) => at_once(cloud.delete(&id)),
                None => Ok(Termination::Gone),
            });
            heard(ended.map(Answer::Terminated))
        }
        Effect::Probe(claim) => heard(at_once(cloud.find(claim)).map(|machine| match machine {
            Some(_) => Answer::Done,
            None => Answer::Terminated(Termination::Gone),
        })),
        Effect::Nominate { pod, uid, node } => {
            let same = server.get(Kind::Pod, pod).is_some_and(|p| text(p, "/metadata/uid") == Some(uid));
            if !same {
                return Answer::Done;
            }
            let patch = json!({ "status": { "nominatedNodeName": node } });
            done(server.patch(Kind::Pod, pod, &patch, Part::Status))
        }
        Effect::Evict { pod, uid, .. } => match server.evict(pod, uid, now) {
            // The drain asks again by itself.
            Err(ApiError::Budget(_)) => Answer::Done,
            answer => done(answer),
        },
        Effect::DeletePod { pod, uid, grace } => {
            let grace = SignedDuration::try_from(*grace).unwrap_or(SignedDuration::MAX);
            done(server.delete(Kind::Pod, pod, Some(uid), Some(grace), now))
        }
        Effect::Event { .. } => Answer::Done,
    }
}

fn done<T>(result: Result<T, ApiError>) -> Answer {
    result.map_or_else(|error| Answer::Failed(failure(&error)), |_| Answer::Done)
}

fn heard(result: Result<Answer, ProviderError>) -> Answer {
    result.unwrap_or(Answer::Failed(Failure::Unclear))
}

fn failure(error: &ApiError) -> Failure {
    match error {
        ApiError::NotFound(..) => Failure::NotFound,
        ApiError::AlreadyExists(..) | ApiError::Conflict(_) => Failure::Conflict,
        ApiError::Budget(_) | ApiError::Invalid(_) => Failure::Unclear,
    }
}
