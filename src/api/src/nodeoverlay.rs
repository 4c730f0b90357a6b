//! NodeOverlay: corrections to what is known of instance types, for scheduling decisions only.

// KubeSchema repeats each public struct inside a function, where nothing can reach it; and clippy takes columns of the
// same type for one attribute given twice.
#![allow(unreachable_pub, clippy::duplicated_attributes)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nodepool::Operator;
use crate::{cel, labels, schema};

/// Desired state of a NodeOverlay.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "karpenter.sh",
    version = "v1alpha1",
    kind = "NodeOverlay",
    shortname = "overlays",
    doc = "NodeOverlay corrects the price or the extended resources of the instance types it selects.",
    category = "karpenter",
    status = "NodeOverlayStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Weight", type_ = "integer", priority = 1, json_path = ".spec.weight")
)]
#[x_kube(validation = (
    "!has(self.price) || !has(self.priceAdjustment)",
    "'price' and 'priceAdjustment' cannot both be set; remove one"
))]
pub struct NodeOverlaySpec {
    /// Which instance types and offerings the overlay applies to.
    #[schemars(length(max = 100))]
    #[x_kube(
        validation = cel::operator_has_values("NotIn"),
        validation = cel::operator_has_values("In"),
        validation = cel::bounds_are_integers()
    )]
    pub requirements: Vec<NodeSelectorRequirement>,
    /// A change to the price: a signed amount such as -0.5, or a signed percentage such as +10%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = PRICE_ADJUSTMENT))]
    pub price_adjustment: Option<String>,
    /// The price per hour, in place of the known one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^\d+(\.\d+)?$"))]
    pub price: Option<String>,
    /// Extended resources to add to the instance types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::resource_map")]
    #[x_kube(validation = (
        "self.all(name, !(name in ['cpu', 'memory', 'ephemeral-storage', 'pods']))",
        "capacity may only add extended resources, not cpu, memory, ephemeral-storage or pods"
    ))]
    pub capacity: Option<BTreeMap<String, Quantity>>,
    /// Overlays of higher weight win; at equal weight the name that sorts last wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub weight: Option<i32>,
}

/// A signed number or a signed percentage that leaves no price below zero.
const PRICE_ADJUSTMENT: &str = r"^(([+-]{1}(\d*\.?\d+))|(\+{1}\d*\.?\d+%)|(-\d{1,2}(\.\d+)?%)|(-100%))$";

/// A requirement on the labels of a machine.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSelectorRequirement {
    /// The label key.
    #[schemars(length(max = schema::LABEL_KEY_LENGTH_MAX), regex(pattern = schema::QUALIFIED_NAME))]
    #[x_kube(
        validation = cel::overlay_key_outside(labels::KARPENTER_DOMAIN),
        validation = cel::overlay_key_outside(labels::AWS_DOMAIN),
        validation = cel::overlay_key_outside(labels::KWOK_DOMAIN),
        validation = cel::key_is_not_hostname()
    )]
    pub key: String,
    /// How the label relates to the values.
    pub operator: Operator,
    /// At least one for In and NotIn; exactly one integer for Gt, Lt, Gte and Lte; none for Exists and DoesNotExist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::label_values")]
    pub values: Vec<String>,
}

/// Observed state of a NodeOverlay.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeOverlayStatus {
    /// Health and readiness.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
