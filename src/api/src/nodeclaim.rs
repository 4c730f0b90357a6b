//! NodeClaim: one machine that was asked for, from launch to termination.

// KubeSchema repeats each public struct inside a function, where nothing can reach it; and clippy takes columns of the
// same type for one attribute given twice.
#![allow(unreachable_pub, clippy::duplicated_attributes)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::{GoDuration, NillableDuration};
use crate::nodepool::{NodeClassReference, NodeSelectorRequirementWithMinValues, expire_after_default};
use crate::{cel, schema};

/// Desired state of a NodeClaim; never changes after creation.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "karpenter.sh",
    version = "v1",
    kind = "NodeClaim",
    doc = "NodeClaim is one machine that was asked for, from launch to termination.",
    category = "karpenter",
    status = "NodeClaimStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn(
        name = "Type",
        type_ = "string",
        json_path = r".metadata.labels.node\.kubernetes\.io/instance-type"
    ),
    printcolumn(
        name = "Capacity",
        type_ = "string",
        json_path = r".metadata.labels.karpenter\.sh/capacity-type"
    ),
    printcolumn(
        name = "Zone",
        type_ = "string",
        json_path = r".metadata.labels.topology\.kubernetes\.io/zone"
    ),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.nodeName"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "ImageID",
        type_ = "string",
        priority = 1,
        json_path = ".status.imageID"
    ),
    printcolumn(name = "ID", type_ = "string", priority = 1, json_path = ".status.providerID"),
    printcolumn(
        name = "NodePool",
        type_ = "string",
        priority = 1,
        json_path = r".metadata.labels.karpenter\.sh/nodepool"
    ),
    printcolumn(
        name = "NodeClass",
        type_ = "string",
        priority = 1,
        json_path = ".spec.nodeClassRef.name"
    ),
    printcolumn(
        name = "Drifted",
        type_ = "string",
        priority = 1,
        json_path = r#".status.conditions[?(@.type=="Drifted")].status"#
    )
)]
#[x_kube(validation = ("self == oldSelf", "spec is immutable; delete the NodeClaim to get another machine"))]
pub struct NodeClaimSpec {
    /// Taints of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::taints")]
    pub taints: Option<Vec<Taint>>,
    /// Taints that are expected to be taken off while the node starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::taints")]
    pub startup_taints: Option<Vec<Taint>>,
    /// Which machines will do.
    #[schemars(length(max = 100))]
    #[x_kube(
        validation = cel::operator_has_values("In"),
        validation = cel::bounds_are_integers(),
        validation = cel::min_values_are_there(),
        merge_strategy = ListMerge::Atomic
    )]
    pub requirements: Vec<NodeSelectorRequirementWithMinValues>,
    /// What the machine must at least hold.
    #[serde(default, skip_serializing_if = "ResourceRequirements::is_empty")]
    pub resources: ResourceRequirements,
    /// The provider's part of the description.
    pub node_class_ref: NodeClassReference,
    /// How long the node may take to drain; after that its pods are deleted whatever protects them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_grace_period: Option<GoDuration>,
    /// Age at which the node is removed whatever protects it.
    #[serde(default = "expire_after_default")]
    pub expire_after: NillableDuration,
}

impl Default for NodeClaimSpec {
    fn default() -> Self {
        Self {
            taints: None,
            startup_taints: None,
            requirements: Vec::new(),
            resources: ResourceRequirements::default(),
            node_class_ref: NodeClassReference::default(),
            termination_grace_period: None,
            expire_after: expire_after_default(),
        }
    }
}

/// Resources that a machine must hold.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceRequirements {
    /// Sum of the requests of the pods the claim was made for, and of the DaemonSets that will run on it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::resource_map")]
    pub requests: BTreeMap<String, Quantity>,
}

impl ResourceRequirements {
    /// Whether nothing is requested.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}

/// Observed state of a NodeClaim.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeClaimStatus {
    /// Name of the Node object, once it has registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The provider's name for the machine, as in the Node's spec.providerID.
    #[serde(default, rename = "providerID", skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    /// The image the machine was launched from.
    #[serde(default, rename = "imageID", skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// Everything the machine has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::resource_map")]
    pub capacity: BTreeMap<String, Quantity>,
    /// What of it pods can use.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::resource_map")]
    pub allocatable: BTreeMap<String, Quantity>,
    /// When a pod was last bound to the node, or went from it; consolidateAfter counts from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_pod_event_time: Option<Time>,
    /// Where the claim is in its life.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::relaxed_conditions")]
    pub conditions: Vec<Condition>,
}
