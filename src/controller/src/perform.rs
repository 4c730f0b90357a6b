//! Effects become calls.

use std::{fmt::Debug, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::DeserializeGuard,
};
use plimsoll_api::{conditions, nodeclaim::NodeClaim, taints};
use plimsoll_lifecycle::Effect;
use plimsoll_provider::{CloudProvider, LaunchRequest, ProviderError, Termination, chain};
use plimsoll_state::{Observe, pod::PodState};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::Instant;

use crate::{
    context::Context,
    nominations::{self, Told},
    watch,
};

/// No call outside a watch takes longer.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// No node has this name. A pod is nominated here for a moment so that its next nomination is a change.
const LOOK_AGAIN: &str = "look-again.plimsoll.dev";
/// A launch or termination may take the cloud a while.
const CLOUD_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Debug, Error)]
pub(crate) enum PerformError {
    #[error("the API server refused to {what}")]
    Api { what: &'static str, source: kube::Error },
    #[error("no answer within {0:?} to {1}")]
    Timeout(Duration, &'static str),
    /// Somebody else changed or removed the object; the next pass sees it. What would have followed from the
    /// change must not be done.
    #[error("the object changed meanwhile")]
    Conflict,
    #[error("the provider failed to {what}")]
    Provider {
        what: &'static str,
        source: ProviderError,
    },
}

impl PerformError {
    /// The call may have been carried out although it failed.
    pub(crate) fn is_unclear(&self) -> bool {
        match self {
            Self::Api {
                source: kube::Error::Api(status),
                ..
            } => status.code >= 500,
            Self::Timeout(..) | Self::Api { .. } => true,
            Self::Conflict | Self::Provider { .. } => false,
        }
    }
}

/// How long kube-controller-manager may take to hear that a taint no longer evicts. Passes over a claim follow each
/// other, so this is waited for whether the next step belongs to the same pass or not.
const EVICTIONS_STOP: Duration = Duration::from_millis(500);

/// What we have changed ourselves is known through our watches after this long.
const HEARD_OURSELVES: Duration = Duration::from_millis(100);

impl<P: CloudProvider> Context<P> {
    /// Performs effects in order; the first that fails ends it. Nominations that follow each other go out together.
    pub(crate) async fn perform_all(&self, effects: Vec<Effect>) -> Result<(), PerformError> {
        let mut nominations = Vec::new();
        for effect in effects {
            match effect {
                Effect::Nominate { .. } => nominations.push(effect),
                Effect::OpenNode { .. } => self.open(std::mem::take(&mut nominations), effect).await?,
                other => {
                    self.nominate_all(std::mem::take(&mut nominations)).await;
                    let stops_evicting = matches!(other, Effect::StopEvicting { .. });
                    self.perform(other).await?;
                    if stops_evicting {
                        tokio::time::sleep(EVICTIONS_STOP).await;
                    }
                }
            }
        }
        self.nominate_all(nominations).await;
        Ok(())
    }

    /// Opens a machine when the pods of all machines that are to open now are nominated, and kube-scheduler has had the
    /// time to take that in. Then waits for these to open too: whatever is done meanwhile would keep them closed for longer.
    async fn open(&self, nominations: Vec<Effect>, open: Effect) -> Result<(), PerformError> {
        let opening = self.nominations.opening();
        let lost = || self.nominations.lost(|told| self.is_nominated(told));
        let mut pods = if nominations.is_empty() {
            0
        } else {
            self.index().promised_pods()
        };
        let (mut untold, mut deadline) = (nominations.clone(), None);
        loop {
            opening.told(self.nominate_all(untold).await);
            self.nominations.are_heard(pods).await;
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + nominations::STEADY_MAX);
            if lost().is_empty() || Instant::now() >= deadline {
                break;
            }
            // Of nominations, too, we hear through a watch.
            tokio::time::sleep(HEARD_OURSELVES).await;
            let lost = lost();
            tracing::debug!(pods = lost.len(), "not nominated any more");
            let is_lost = |told: &&Effect| matches!(told, Effect::Nominate { uid, .. } if lost.contains(uid));
            untold = nominations.iter().filter(is_lost).cloned().collect();
            pods = lost.len();
        }
        self.perform(open).await?;
        drop(opening);
        self.nominations.all_are_open().await;
        Ok(())
    }

    /// Whether the pod is nominated there, as far as it waits at all.
    fn is_nominated(&self, told: &Told) -> bool {
        let index = self.index();
        let waiting = index
            .pod(&told.pod)
            .filter(|pod| pod.uid == told.uid && pod.node.is_none());
        waiting.is_none_or(|pod| pod.nominated_node.as_deref() == Some(&told.node))
    }

    /// Those that were told. Best effort: one pod that cannot be nominated must not keep a machine closed.
    async fn nominate_all(&self, nominations: Vec<Effect>) -> Vec<Told> {
        let tell = async |nomination: Effect| {
            let Effect::Nominate { pod, uid, node, .. } = &nomination else {
                return None;
            };
            let (pod, uid, node) = (pod.clone(), uid.clone(), node.clone());
            let told = Told { pod, uid, node };
            match self.perform(nomination).await {
                Ok(()) => Some(told),
                Err(error) => {
                    tracing::warn!(error = chain(&error), "nomination failed");
                    None
                }
            }
        };
        let answers = stream::iter(nominations)
            .map(tell)
            .buffer_unordered(nominations::AT_ONCE);
        answers.filter_map(std::future::ready).collect().await
    }

    /// Boxed, because what follows from an answer is performed the same way.
    pub(crate) fn perform(
        &self,
        effect: Effect,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), PerformError>> + Send + '_>> {
        Box::pin(self.perform_one(effect))
    }

    async fn perform_one(&self, effect: Effect) -> Result<(), PerformError> {
        match effect {
            Effect::CreateClaim(claim) => self.create_claim(&claim).await.map(|_| ()),
            Effect::PatchClaim { name, patch } => {
                let patched = self
                    .patch::<NodeClaim>("patch a NodeClaim", &name, None, patch)
                    .await?;
                self.observe(patched);
                Ok(())
            }
            Effect::PatchClaimStatus { name, patch } => {
                let what = "patch a NodeClaim's status";
                let patched = self
                    .patch::<NodeClaim>(what, &name, Some("status"), patch)
                    .await?;
                if let Some(claim) = &patched {
                    self.note_registration(claim);
                }
                self.observe(patched);
                Ok(())
            }
            Effect::ConfirmDrained(claim) => self.confirm_drained(&claim).await,
            Effect::PatchNode { name, patch } => {
                let patched = self.patch::<Node>("patch a Node", &name, None, patch).await?;
                self.observe(patched);
                Ok(())
            }
            Effect::DeleteClaim { name, uid, reason } => self.delete_claim(&name, uid, reason).await,
            Effect::StopEvicting { name, uid, taint } => {
                let effect = format!("/spec/taints/{taint}/effect");
                let steps = json!([
                    { "op": "test", "path": effect, "value": taints::unregistered().effect },
                    { "op": "replace", "path": effect, "value": taints::NO_SCHEDULE },
                ]);
                self.change_taint(&name, &uid, taint, steps).await
            }
            Effect::OpenNode { name, uid, taint } => {
                let steps = json!([
                    { "op": "remove", "path": format!("/spec/taints/{taint}") },
                    { "op": "add", "path": "/metadata/labels/karpenter.sh~1registered", "value": "true" },
                ]);
                self.change_taint(&name, &uid, taint, steps).await
            }
            Effect::DeleteNode { name, uid } => {
                let api = Api::<Node>::all(self.client.clone());
                gone_is_fine(bounded("delete a Node", api.delete(&name, &with_uid(&uid))).await)
            }
            Effect::Launch(claim) => self.launch(&claim).await,
            Effect::Terminate { claim, provider_id } => self.terminate(&claim, provider_id).await,
            Effect::Probe(claim) => self.probe(&claim).await,
            Effect::Nominate {
                pod,
                uid,
                node,
                look_again,
            } => self.nominate(&pod, &uid, &node, look_again).await,
            Effect::Evict { pod, uid, node } => {
                self.evictions.add(pod, uid, node);
                Ok(())
            }
            Effect::DeletePod { pod, uid, grace } => {
                let (namespace, name) = pod.split_once('/').unwrap_or_default();
                let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
                let grace = u32::try_from(grace.as_secs()).unwrap_or(u32::MAX);
                let params = DeleteParams {
                    grace_period_seconds: Some(grace),
                    ..with_uid(&uid)
                };
                gone_is_fine(bounded("delete a Pod", api.delete(name, &params)).await)
            }
            Effect::Event {
                subject,
                type_,
                reason,
                note,
            } => {
                self.events.publish(&subject, type_, reason, note);
                Ok(())
            }
        }
    }

    /// Creates a claim and takes it into the index at once: the next plan must know it.
    pub(crate) async fn create_claim(&self, claim: &NodeClaim) -> Result<NodeClaim, PerformError> {
        // Each repetition by the client itself would be another claim, with another name.
        let api = Api::<NodeClaim>::all(self.no_retry.clone());
        let created = bounded("create a NodeClaim", api.create(&PostParams::default(), claim)).await?;
        self.update(|index, now| index.created_claim(created.clone(), now));
        Ok(created)
    }

    /// Takes in every claim the API server has: after a creation whose outcome is not known, a claim may exist that
    /// no record here knows of, and planning without it could buy twice.
    pub(crate) async fn recount_claims(&self) -> Result<(), PerformError> {
        let api = Api::<DeserializeGuard<NodeClaim>>::all(self.client.clone());
        let claims = bounded("list NodeClaims", api.list(&ListParams::default())).await?;
        let (mut known, mut unreadable) = (Vec::new(), Vec::new());
        for guarded in claims.items {
            match watch::readable("nodeclaims.karpenter.sh", guarded) {
                Ok(claim) => known.push(claim),
                Err(meta) => unreadable.push(meta),
            }
        }
        self.update(|index, now| {
            index.counted(known, now);
            for meta in &unreadable {
                Observe::<NodeClaim>::unreadable(index, meta, true);
            }
        });
        Ok(())
    }

    async fn delete_claim(&self, name: &str, uid: String, reason: &'static str) -> Result<(), PerformError> {
        let api = Api::<NodeClaim>::all(self.client.clone());
        let deleted = bounded("delete a NodeClaim", api.delete(name, &with_uid(&uid))).await;
        if let Ok(answer) = &deleted {
            tracing::info!(nodeclaim = name, reason, "deleted NodeClaim");
            let claim = self.index().claim(name).cloned();
            if let Some(claim) = claim {
                self.metrics.claim_disrupted(&claim, reason);
            }
            if let Some(live) = answer.as_ref().left() {
                self.observe(Some(live.clone()));
            }
        }
        gone_is_fine(deleted)
    }

    async fn launch(&self, claim: &Arc<NodeClaim>) -> Result<(), PerformError> {
        let (requirements, requests) = plimsoll_state::terms(claim);
        let request = LaunchRequest {
            claim: claim.clone(),
            requirements,
            requests,
        };
        let answer = self.cloud("Create", self.provider.create(&request)).await;
        match &answer {
            Ok(machine) => tracing::info!(
                nodeclaim = claim.metadata.name,
                provider_id = machine.provider_id,
                instance_type = machine.labels.get(plimsoll_api::labels::INSTANCE_TYPE),
                zone = machine.labels.get(plimsoll_api::labels::ZONE),
                capacity_type = machine.labels.get(plimsoll_api::labels::CAPACITY_TYPE),
                "launched machine"
            ),
            Err(error) => tracing::warn!(nodeclaim = claim.metadata.name, %error, "launch failed"),
        }
        self.perform_all(plimsoll_lifecycle::launched(claim, &answer, Timestamp::now()))
            .await?;
        answer.map(|_| ()).map_err(|source| PerformError::Provider {
            what: "launch a machine",
            source,
        })
    }

    async fn terminate(&self, claim: &NodeClaim, provider_id: Option<String>) -> Result<(), PerformError> {
        let what = "terminate a machine";
        let failed = |source| PerformError::Provider { what, source };
        let provider_id = match provider_id {
            Some(id) => Some(id),
            // It may have been launched without the record having been written.
            None => self
                .cloud("Get", self.provider.find(claim))
                .await
                .map_err(failed)?
                .map(|m| m.provider_id),
        };
        let answer = match provider_id {
            None => Termination::Gone,
            Some(id) => self
                .cloud("Delete", self.provider.delete(&id, Some(claim)))
                .await
                .map_err(failed)?,
        };
        self.after_termination(claim, answer).await
    }

    async fn confirm_drained(&self, claim: &NodeClaim) -> Result<(), PerformError> {
        let view = self
            .index()
            .view(claim.metadata.name.as_deref().unwrap_or_default());
        let Some(view) = view else { return Ok(()) };
        let Some(node) = view.nodes.first() else {
            return Ok(());
        };
        let pods = self
            .pods_on(node.metadata.name.as_deref().unwrap_or_default())
            .await?;
        self.perform_all(plimsoll_lifecycle::drained(&view, pods, Timestamp::now()))
            .await
    }

    /// The pods the API server knows on a node: the index may be behind where a machine's end hangs on it.
    pub(crate) async fn pods_on(&self, node: &str) -> Result<Vec<PodState>, PerformError> {
        let api = Api::<plimsoll_state::Pod>::all(self.client.clone());
        let on_it = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let pods = bounded("list the Pods of a Node", api.list(&on_it)).await?;
        Ok(pods.items.iter().map(PodState::from_pod).collect())
    }

    async fn probe(&self, claim: &NodeClaim) -> Result<(), PerformError> {
        let found = self.cloud("Get", self.provider.find(claim)).await;
        match found.map_err(|source| PerformError::Provider {
            what: "look a machine up",
            source,
        })? {
            Some(_) => Ok(()),
            None => self.after_termination(claim, Termination::Gone).await,
        }
    }

    async fn after_termination(&self, claim: &NodeClaim, answer: Termination) -> Result<(), PerformError> {
        let view = self
            .index()
            .view(claim.metadata.name.as_deref().unwrap_or_default());
        let Some(view) = view else { return Ok(()) };
        let effects = plimsoll_lifecycle::terminated(&view, answer, Timestamp::now());
        if answer == Termination::Gone {
            self.metrics.claim_terminated(&view);
            tracing::info!(nodeclaim = claim.metadata.name, "machine is gone");
        }
        self.perform_all(effects).await
    }

    /// Takes these steps if the taint at that place is ours.
    async fn change_taint(
        &self,
        name: &str,
        uid: &str,
        taint: usize,
        steps: Value,
    ) -> Result<(), PerformError> {
        let mut patch = json!([
            { "op": "test", "path": "/metadata/uid", "value": uid },
            { "op": "test", "path": format!("/spec/taints/{taint}/key"), "value": taints::UNREGISTERED },
        ]);
        let list = patch.as_array_mut().expect("it is an array");
        list.extend(steps.as_array().into_iter().flatten().cloned());
        let patch = serde_json::from_value(patch).expect("these are operations of a JSON Patch");
        let api = Api::<Node>::all(self.client.clone());
        let patch = Patch::Json::<()>(patch);
        match bounded(
            "change a Node's taint",
            api.patch(name, &PatchParams::default(), &patch),
        )
        .await
        {
            Ok(node) => self.observe(Some(node)),
            // A test failed, or the Node has gone: the list of taints is not what it was.
            Err(PerformError::Api {
                source: kube::Error::Api(status),
                ..
            }) if status.is_invalid() || status.is_not_found() => return Err(PerformError::Conflict),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn nominate(&self, pod: &str, uid: &str, node: &str, look_again: bool) -> Result<(), PerformError> {
        let _turn = self.nominations.turn().await;
        let (namespace, name) = pod.split_once('/').unwrap_or_default();
        let api = Api::<plimsoll_state::Pod>::namespaced(self.client.clone(), namespace);
        // A change from one node to another makes kube-scheduler try the pods it has given up; from none to one it
        // does not.
        let steps = [look_again.then_some(LOOK_AGAIN), Some(node)];
        for node in steps.into_iter().flatten() {
            let patch =
                Patch::Merge(json!({ "metadata": { "uid": uid }, "status": { "nominatedNodeName": node } }));
            let params = PatchParams::default();
            let what = "nominate a node for a Pod";
            match bounded(what, api.patch_subresource("status", name, &params, &patch)).await {
                Ok(_) => {}
                // Bound before we could say where to, or replaced by another pod of that name.
                Err(PerformError::Api {
                    source: kube::Error::Api(status),
                    ..
                }) if status.is_invalid() || status.is_not_found() => return Ok(()),
                Err(PerformError::Conflict) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn patch<K>(
        &self,
        what: &'static str,
        name: &str,
        subresource: Option<&'static str>,
        patch: Value,
    ) -> Result<Option<K>, PerformError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let api = Api::<K>::all(self.client.clone());
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let answer = match subresource {
            None => bounded(what, api.patch(name, &params, &patch)).await,
            Some(subresource) => {
                bounded(what, api.patch_subresource(subresource, name, &params, &patch)).await
            }
        };
        match answer {
            Ok(object) => Ok(Some(object)),
            Err(PerformError::Api {
                source: kube::Error::Api(status),
                ..
            }) if status.is_not_found() => Err(PerformError::Conflict),
            Err(error) => Err(error),
        }
    }

    /// Counts a node when its claim turns Registered: the index still has the claim as it was.
    fn note_registration(&self, claim: &NodeClaim) {
        let registered = |claim: &NodeClaim| {
            let list = claim
                .status
                .as_ref()
                .map(|s| s.conditions.as_slice())
                .unwrap_or_default();
            conditions::is_true(list, conditions::REGISTERED)
        };
        let before = self
            .index()
            .claim(claim.metadata.name.as_deref().unwrap_or_default())
            .cloned();
        if registered(claim) && before.is_some_and(|b| !registered(&b)) {
            self.metrics.node_created(claim);
        }
    }

    /// Takes an answer of the API server into the index ahead of the watch.
    fn observe<K>(&self, object: Option<K>)
    where
        plimsoll_state::Index: Observe<K>,
    {
        if let Some(object) = object {
            self.update(|index, now| index.answered(object, now));
        }
    }

    /// Calls the cloud within a bound, and counts it.
    pub(crate) fn cloud<'a, T>(
        &'a self,
        method: &'static str,
        call: impl Future<Output = Result<T, ProviderError>> + Send + 'a,
    ) -> impl Future<Output = Result<T, ProviderError>> + Send + 'a {
        // A provider's calls are tens of kilobytes, and whoever may make one would hold room for it, a thousand
        // nominations among them.
        let call = Box::pin(call);
        async move {
            let begun = tokio::time::Instant::now();
            let answer = tokio::time::timeout(CLOUD_TIMEOUT, call)
                .await
                .unwrap_or_else(|_| {
                    Err(ProviderError::Transient(format!(
                        "no answer within {CLOUD_TIMEOUT:?}"
                    )))
                });
            let error = answer.as_ref().err().map(ProviderError::category);
            self.metrics
                .cloud_call(self.provider.name(), method, begun.elapsed(), error);
            answer
        }
    }
}

/// A call with a time limit; conflicts are told apart.
pub(crate) async fn bounded<T>(
    what: &'static str,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, PerformError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Err(_) => Err(PerformError::Timeout(CALL_TIMEOUT, what)),
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.is_conflict() => Err(PerformError::Conflict),
        Ok(Err(source)) => Err(PerformError::Api { what, source }),
    }
}

/// What is gone needs no more doing.
fn gone_is_fine<T>(answer: Result<T, PerformError>) -> Result<(), PerformError> {
    match answer {
        Ok(_) => Ok(()),
        Err(PerformError::Api {
            source: kube::Error::Api(status),
            ..
        }) if status.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

pub(crate) fn with_uid(uid: &str) -> DeleteParams {
    let preconditions = Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: None,
    };
    DeleteParams {
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    }
}
