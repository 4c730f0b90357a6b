//! KWOKNodeClass: settings of the kwok provider, whose machines are Node objects without a machine.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::GoDuration;
use crate::schema;

/// Desired state of a KWOKNodeClass.
#[derive(CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "karpenter.kwok.sh",
    version = "v1alpha1",
    kind = "KWOKNodeClass",
    plural = "kwoknodeclasses",
    shortname = "kwoknc",
    shortname = "kwokncs",
    doc = "KWOKNodeClass holds the settings of the kwok provider, whose machines are Node objects without a machine.",
    category = "karpenter",
    status = "KWOKNodeClassStatus",
    derive = "Default",
    derive = "PartialEq"
)]
pub struct KWOKNodeClassSpec {
    /// How long after the launch the Node appears.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_registration_delay: Option<GoDuration>,
}

/// Observed state of a KWOKNodeClass.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KWOKNodeClassStatus {
    /// Health and readiness.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
