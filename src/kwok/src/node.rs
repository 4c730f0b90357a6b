//! A machine as a Node object, and back.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Node, NodeSpec, NodeStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use plimsoll_api::{labels, nodeclaim::NodeClaim, taints};
use plimsoll_core::catalog::MicroDollars;
use plimsoll_provider::Machine;

const PROVIDER_ID_PREFIX: &str = "kwok://";
/// Which claim a Node was made for.
const CLAIM_ANNOTATION: &str = "karpenter.kwok.sh/nodeclaim";
/// Label that selects the nodes of one kwok process; upstream's single partition.
const PARTITION: (&str, &str) = ("kwok-partition", "a");
/// Read by eks-node-viewer.
const PRICE_LABEL: &str = "eks-node-viewer/instance-price";

/// Follows from the claim alone.
pub(crate) fn name(claim: &NodeClaim) -> String {
    let claim_name = claim.metadata.name.as_deref().unwrap_or_default();
    let uid = claim.metadata.uid.as_deref().unwrap_or_default();
    let suffix: String = uid.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    format!("kwok-{claim_name}-{suffix}")
}

pub(crate) fn provider_id(node_name: &str) -> String {
    format!("{PROVIDER_ID_PREFIX}{node_name}")
}

pub(crate) fn name_of(provider_id: &str) -> Option<&str> {
    provider_id.strip_prefix(PROVIDER_ID_PREFIX)
}

/// What the machine's kubelet would register: closed by the unregistered taint, not ready yet.
pub(crate) fn node(name: &str, claim: &NodeClaim, machine: &Machine, price: MicroDollars) -> Node {
    let mut node_labels = claim.metadata.labels.clone().unwrap_or_default();
    node_labels.extend(machine.labels.clone());
    node_labels.insert(labels::HOSTNAME.into(), name.into());
    node_labels.insert(PARTITION.0.into(), PARTITION.1.into());
    node_labels.insert(PRICE_LABEL.into(), price.dollars().to_string());
    let annotations = BTreeMap::from([
        (labels::KWOK_NODE.to_owned(), "fake".to_owned()),
        (CLAIM_ANNOTATION.to_owned(), machine.claim.clone()),
    ]);
    Node {
        metadata: ObjectMeta {
            name: Some(name.into()),
            labels: Some(node_labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            provider_id: Some(machine.provider_id.clone()),
            taints: Some(vec![taints::unregistered()]),
            ..NodeSpec::default()
        }),
        status: Some(NodeStatus {
            capacity: Some(machine.capacity.clone()),
            allocatable: Some(machine.allocatable.clone()),
            ..NodeStatus::default()
        }),
    }
}

/// None for a Node this provider did not make.
pub(crate) fn machine(node: &Node) -> Option<Machine> {
    let provider_id = node
        .spec
        .as_ref()?
        .provider_id
        .clone()
        .filter(|id| id.starts_with(PROVIDER_ID_PREFIX))?;
    let annotations = node.metadata.annotations.as_ref()?;
    let node_labels = node.metadata.labels.clone().unwrap_or_default();
    let own = |key: &String| {
        key != labels::HOSTNAME
            && key != labels::REGISTERED
            && key != labels::INITIALIZED
            && labels::is_well_known(key)
    };
    let status = node.status.clone().unwrap_or_default();
    Some(Machine {
        provider_id,
        image_id: None,
        annotations: BTreeMap::new(),
        labels: node_labels.into_iter().filter(|(key, _)| own(key)).collect(),
        capacity: status.capacity.unwrap_or_default(),
        allocatable: status.allocatable.unwrap_or_default(),
        claim: annotations.get(CLAIM_ANNOTATION)?.clone(),
        launched: node.metadata.creation_timestamp.as_ref()?.0,
    })
}
