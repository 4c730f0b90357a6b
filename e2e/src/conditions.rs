//! Status conditions of Karpenter's objects, read off the wire and not through the types under test.

use kube::api::DynamicObject;
use serde::Deserialize;

/// One entry of `status.conditions`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Condition {
    #[serde(rename = "type")]
    pub type_: String,
    pub status: String,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub message: String,
}

/// The condition of this type, if the object has it.
pub fn find(object: &DynamicObject, type_: &str) -> Option<Condition> {
    let conditions = object.data["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == type_)?;
    serde_json::from_value(found.clone()).ok()
}

/// Whether the object has the condition with status True.
pub fn is_true(object: &DynamicObject, type_: &str) -> bool {
    find(object, type_).is_some_and(|condition| condition.status == "True")
}

/// Whether the object has the condition with this status and this reason.
pub fn says(object: &DynamicObject, type_: &str, status: &str, reason: &str) -> bool {
    find(object, type_).is_some_and(|condition| condition.status == status && condition.reason == reason)
}
