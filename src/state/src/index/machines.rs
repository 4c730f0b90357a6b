//! Machines: a claim with its Node, its pods and the machines it was bought with.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use plimsoll_api::{conditions, labels, nodeclaim::NodeClaim};

use super::Index;
use crate::{
    node::{accepts_pods, ready_since},
    pod::PodState,
};

/// One machine with everything around it.
#[derive(Clone, Debug)]
pub struct NodeView {
    pub claim: Arc<NodeClaim>,
    /// Nodes that carry the claim's provider id; more than one is an error the lifecycle reports.
    pub nodes: Vec<Arc<Node>>,
    /// Pods bound to the node, sorted by key.
    pub pods: Vec<Arc<PodState>>,
    /// Pods planned onto it that are not bound anywhere yet.
    pub promised: Vec<Arc<PodState>>,
    /// Some pod has a place on it and is not there yet: it waits, or it still runs on a machine that leaves.
    pub awaited: bool,
    /// Keys of its pods whose next place, on a machine in service, is known.
    pub replaced: BTreeSet<Arc<str>>,
    /// The other machines of its plan that are still closed.
    pub peers: Peers,
    /// Names of volume attachments of volumes its pods must wait for.
    pub attachments: Vec<String>,
    /// Last bind, finish or deletion of a pod there.
    pub last_pod_event: Option<Timestamp>,
}

/// Machines that were bought together, until they open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// Some are not ready for pods yet, or not even ordered.
    pub joining: bool,
    /// When the latest of the others became Ready.
    pub last_ready: Option<Timestamp>,
}

impl NodeView {
    /// The machine's Node, when there is exactly one.
    pub fn node(&self) -> Option<&Arc<Node>> {
        match self.nodes.as_slice() {
            [node] => Some(node),
            _ => None,
        }
    }
}

impl Index {
    /// A machine with its pods and promises.
    pub fn view(&self, claim: &str) -> Option<NodeView> {
        let object = self.claim(claim)?.clone();
        let provider_id = object.status.as_ref().and_then(|s| s.provider_id.as_deref());
        let nodes = provider_id
            .map(|id| self.nodes_of_provider_id(id))
            .unwrap_or_default();
        let node_name = nodes.first().and_then(|n| n.metadata.name.as_deref());
        let pods: Vec<_> = node_name
            .into_iter()
            .flat_map(|n| self.pods_on(n))
            .cloned()
            .collect();
        let promised = self.promised(claim).cloned().collect();
        let replaced = pods.iter().filter(|pod| self.is_replaced(&pod.key));
        let replaced = replaced.map(|pod| pod.key.clone()).collect();
        let attachments = node_name
            .map(|n| self.storage.attachments_of(n, &pods))
            .unwrap_or_default();
        let last_pod_event = node_name.and_then(|n| self.last_pod_event.get(n)).copied();
        let peers = self.peers(&object);
        Some(NodeView {
            claim: object,
            nodes,
            pods,
            promised,
            awaited: self.is_awaited(claim),
            replaced,
            peers,
            attachments,
            last_pod_event,
        })
    }

    fn peers(&self, claim: &NodeClaim) -> Peers {
        let Some(plan) = plan_of(claim).filter(|_| is_closed(claim)) else {
            return Peers::default();
        };
        let mut peers = Peers {
            joining: self.ordering.as_deref() == Some(plan),
            last_ready: None,
        };
        let others = self.closed_machines(plan);
        for other in others.filter(|other| other.metadata.name != claim.metadata.name) {
            match self.sole_node(other).filter(|node| accepts_pods(node)) {
                Some(node) => peers.last_ready = peers.last_ready.max(ready_since(node)),
                None => peers.joining = true,
            }
        }
        peers
    }

    /// Tells that claims of a plan are being created from now on; None: that is over.
    pub fn ordering(&mut self, plan: Option<&str>) {
        let before = std::mem::replace(&mut self.ordering, plan.map(Into::into));
        let ordered: Vec<String> = self
            .claims()
            .filter(|claim| before.is_some() && plan_of(claim) == before.as_deref())
            .filter_map(|claim| claim.metadata.name.clone())
            .collect();
        ordered.iter().for_each(|claim| self.touch_claim(claim));
    }

    /// The claims of a plan whose machines are not open yet.
    fn closed_machines(&self, plan: &str) -> impl Iterator<Item = &Arc<NodeClaim>> {
        self.claims()
            .filter(move |claim| plan_of(claim) == Some(plan) && is_closed(claim))
    }

    /// The Node of a claim, when there is exactly one.
    pub(super) fn sole_node(&self, claim: &NodeClaim) -> Option<&Arc<Node>> {
        let provider_id = claim.status.as_ref()?.provider_id.as_deref()?;
        let names = self.nodes_by_provider_id.get(provider_id)?;
        let name = names.first().filter(|_| names.len() == 1)?;
        self.nodes.get(name)
    }

    /// Machines of a plan wait for the last of them: was it the last?
    pub(super) fn touch_peers(&mut self, plan: &str) {
        let accepts = |peer: &NodeClaim| self.sole_node(peer).is_some_and(|node| accepts_pods(node));
        let peers: Vec<&Arc<NodeClaim>> = self.closed_machines(plan).collect();
        if peers.iter().any(|peer| !accepts(peer)) {
            return;
        }
        let names: Vec<String> = peers
            .iter()
            .filter_map(|peer| peer.metadata.name.clone())
            .collect();
        names.iter().for_each(|peer| self.touch_claim(peer));
    }
}

/// Neither open for pods yet nor leaving.
fn is_closed(claim: &NodeClaim) -> bool {
    let conditions = claim.status.as_ref().map(|s| s.conditions.as_slice());
    let opened = conditions::is_true(conditions.unwrap_or_default(), conditions::REGISTERED);
    !opened && claim.metadata.deletion_timestamp.is_none()
}

pub(super) fn plan_of(claim: &NodeClaim) -> Option<&str> {
    claim
        .metadata
        .annotations
        .as_ref()?
        .get(labels::PLAN)
        .map(String::as_str)
}
