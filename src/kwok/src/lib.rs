//! The provider that makes Node objects: for demos, scale tests and runs beside upstream's kwok provider,
//! whose catalogue and rules it follows.
//!
//! A machine is a Node annotated for kwok, which plays its kubelet. The Node's name follows from the
//! claim's UID, so a launch that is repeated after a crash finds the machine it made before.

mod catalogue;
mod node;
mod rights;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
};
use plimsoll_api::{
    conditions,
    kwoknodeclass::KWOKNodeClass,
    labels,
    nodeclaim::NodeClaim,
    nodepool::{NodeClassReference, NodePool},
};
use plimsoll_core::catalog::{Catalog, TypeId};
use plimsoll_provider::{
    CloudProvider, LaunchRequest, Listing, Machine, NodeClassReadiness, ProviderError, Termination, cheapest,
    machine,
};

pub use catalogue::catalogue;
pub use rights::RIGHTS;

const GROUP: &str = "karpenter.kwok.sh";
const KIND: &str = "KWOKNodeClass";

/// Serves KWOKNodeClass with the fixed catalogue.
#[derive(Clone)]
pub struct KwokCloud {
    client: Client,
    catalog: Arc<Catalog>,
}

impl std::fmt::Debug for KwokCloud {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("KwokCloud")
            .field("types", &self.catalog.types.len())
            .finish_non_exhaustive()
    }
}

impl KwokCloud {
    pub fn new(client: Client) -> Self {
        Self {
            client,
            catalog: Arc::new(catalogue()),
        }
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    async fn class(&self, name: &str) -> Result<Option<KWOKNodeClass>, ProviderError> {
        Api::<KWOKNodeClass>::all(self.client.clone())
            .get_opt(name)
            .await
            .map_err(transient)
    }

    /// Makes the Node, now or after the class's registration delay.
    async fn join(&self, node: Node, claim: Arc<NodeClaim>, delay: Duration) -> Result<(), ProviderError> {
        if delay.is_zero() {
            return create(&self.nodes(), &node).await;
        }
        let (nodes, claims) = (self.nodes(), Api::<NodeClaim>::all(self.client.clone()));
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            // A claim that went meanwhile must not get a machine nobody will ever end.
            match claims.get_opt(name).await {
                Ok(Some(live))
                    if live.metadata.uid == claim.metadata.uid
                        && live.metadata.deletion_timestamp.is_none() =>
                {
                    if let Err(error) = create(&nodes, &node).await {
                        tracing::warn!(%error, claim = name, "delayed node could not be created");
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, claim = name, "delayed node was not created"),
            }
        });
        Ok(())
    }
}

async fn create(nodes: &Api<Node>, node: &Node) -> Result<(), ProviderError> {
    match nodes.create(&PostParams::default(), node).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(error) => Err(transient(error)),
    }
}

fn transient(error: kube::Error) -> ProviderError {
    match error {
        kube::Error::Api(status) if status.is_forbidden() => ProviderError::Denied(status.message),
        error => ProviderError::Transient(error.to_string()),
    }
}

impl CloudProvider for KwokCloud {
    fn name(&self) -> &'static str {
        "kwok"
    }

    async fn create(&self, request: &LaunchRequest) -> Result<Machine, ProviderError> {
        let claim = &request.claim;
        if let Some(known) = self.find(claim).await? {
            return Ok(known);
        }
        let class_name = &claim.spec.node_class_ref.name;
        let class = self.class(class_name).await?.ok_or_else(|| {
            ProviderError::InsufficientCapacity(format!("KWOKNodeClass {class_name} does not exist"))
        })?;
        if let NodeClassReadiness::NotReady { message, .. } = readiness(&class) {
            return Err(ProviderError::NodeClassNotReady(message));
        }
        let (instance_type, offering) = cheapest(&self.catalog, request).ok_or_else(|| {
            ProviderError::InsufficientCapacity("no kwok offering satisfies the claim's requirements".into())
        })?;
        let name = node::name(claim);
        let machine = machine(
            node::provider_id(&name),
            claim,
            instance_type,
            offering,
            Timestamp::now(),
        );
        let delay = class
            .spec
            .node_registration_delay
            .as_ref()
            .map_or(Duration::ZERO, plimsoll_api::duration::GoDuration::as_duration);
        self.join(
            node::node(&name, claim, &machine, offering.price),
            claim.clone(),
            delay,
        )
        .await?;
        Ok(machine)
    }

    async fn find(&self, claim: &NodeClaim) -> Result<Option<Machine>, ProviderError> {
        let found = self
            .nodes()
            .get_opt(&node::name(claim))
            .await
            .map_err(transient)?;
        // A Node that is being deleted still runs pods until its finalizers are gone.
        Ok(found.and_then(|n| node::machine(&n)))
    }

    async fn delete(
        &self,
        provider_id: &str,
        _claim: Option<&NodeClaim>,
    ) -> Result<Termination, ProviderError> {
        let refuse = |why: &str| {
            Err(ProviderError::NotOurs {
                provider_id: provider_id.to_owned(),
                why: why.to_owned(),
            })
        };
        let Some(name) = node::name_of(provider_id) else {
            return refuse("it is not a kwok provider id");
        };
        let Some(live) = self.nodes().get_opt(name).await.map_err(transient)? else {
            return Ok(Termination::Gone);
        };
        if live.spec.as_ref().and_then(|s| s.provider_id.as_deref()) != Some(provider_id) {
            return refuse("the Node of that name carries another provider id");
        }
        if !live
            .metadata
            .labels
            .as_ref()
            .is_some_and(|l| l.contains_key(labels::NODEPOOL))
        {
            return refuse("the Node does not carry the nodepool label");
        }
        if live.metadata.deletion_timestamp.is_some() {
            return Ok(Termination::Gone);
        }
        let preconditions = Preconditions {
            uid: live.metadata.uid.clone(),
            resource_version: None,
        };
        let params = DeleteParams {
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        match self.nodes().delete(name, &params).await {
            Ok(_) => Ok(Termination::Gone),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Termination::Gone),
            Err(error) => Err(transient(error)),
        }
    }

    async fn list(&self, _claims: &[Arc<NodeClaim>]) -> Result<Listing, ProviderError> {
        let nodes = self
            .nodes()
            .list(&ListParams::default())
            .await
            .map_err(transient)?;
        let alive = nodes
            .items
            .iter()
            .filter(|n| n.metadata.deletion_timestamp.is_none());
        Ok(alive.filter_map(node::machine).collect::<Vec<_>>().into())
    }

    async fn catalog(&self, pools: &[Arc<NodePool>]) -> Result<Catalog, ProviderError> {
        let mut catalog = Catalog::clone(&self.catalog);
        let all: Vec<TypeId> = (0..catalog.types.len() as u32).map(TypeId).collect();
        for pool in pools {
            let class = &pool.spec.template.spec.node_class_ref;
            if self.supports(&class.group, &class.kind)
                && let Some(name) = &pool.metadata.name
            {
                catalog.by_pool.insert(name.as_str().into(), all.clone());
            }
        }
        Ok(catalog)
    }

    async fn node_class(
        &self,
        reference: &NodeClassReference,
    ) -> Result<(NodeClassReadiness, Option<i64>), ProviderError> {
        let Some(class) = self.class(&reference.name).await? else {
            return Ok((NodeClassReadiness::NotFound, None));
        };
        let generation = class.metadata.generation;
        if class.metadata.deletion_timestamp.is_some() {
            return Ok((NodeClassReadiness::Terminating, generation));
        }
        Ok((readiness(&class), generation))
    }

    fn supports(&self, group: &str, kind: &str) -> bool {
        group == GROUP && kind == KIND
    }
}

/// The class's Ready condition; the schema's default says True, so no controller has to.
fn readiness(class: &KWOKNodeClass) -> NodeClassReadiness {
    let list = class
        .status
        .as_ref()
        .map(|s| s.conditions.as_slice())
        .unwrap_or_default();
    match conditions::find(list, conditions::READY) {
        None => NodeClassReadiness::Ready,
        Some(ready) => {
            let (reason, message) = (ready.reason.clone(), ready.message.clone());
            match ready.status.as_str() {
                "True" => NodeClassReadiness::Ready,
                "False" => NodeClassReadiness::NotReady { reason, message },
                _ => NodeClassReadiness::Unknown { reason, message },
            }
        }
    }
}
