//! KWOKNodeClass: settings of the kwok provider, whose machines are Node objects without a machine.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, CustomResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

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

/// The CRD, in which a class needs no spec and is ready from the start: nothing reconciles it. The time is the one
/// upstream wrote.
pub(crate) fn crd() -> CustomResourceDefinition {
    let mut crd = KWOKNodeClass::crd();
    let root = crd.spec.versions[0]
        .schema
        .as_mut()
        .and_then(|validation| validation.open_api_v3_schema.as_mut())
        .expect("a derived CRD has a schema");
    let defaults = [
        ("spec", json!({})),
        (
            "status",
            json!({
                "conditions": [{
                    "type": "Ready",
                    "status": "True",
                    "reason": "Ready",
                    "message": "",
                    "lastTransitionTime": "2024-01-01T01:01:01Z",
                }],
            }),
        ),
    ];
    for (name, default) in defaults {
        let property = root
            .properties
            .as_mut()
            .and_then(|properties| properties.get_mut(name));
        property.expect("a derived CRD has a spec and a status").default = Some(JSON(default));
    }
    crd
}
