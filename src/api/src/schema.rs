//! Schema fragments that the types cannot express by themselves, and the pass that brings a derived schema into the
//! shape Karpenter's CRDs have.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// Durations in whole hours, minutes and seconds.
pub(crate) const DURATION: &str = "^([0-9]+(s|m|h))+$";
/// The same, or the word that switches the feature off.
pub(crate) const DURATION_OR_NEVER: &str = "^(([0-9]+(s|m|h))+|Never)$";
/// How long a budget is active: cron has no seconds, and Go prints a trailing `0s`.
pub(crate) const BUDGET_DURATION: &str = "^((([0-9]+(h|m))|([0-9]+h[0-9]+m))(0s)?)$";
/// A share or a number of nodes.
pub(crate) const BUDGET_NODES: &str = "^((100|[0-9]{1,2})%|[0-9]+)$";
/// A named schedule or five cron fields.
pub(crate) const CRON: &str =
    r"^(@(annually|yearly|monthly|weekly|daily|midnight|hourly))|((.+)\s(.+)\s(.+)\s(.+)\s(.+))$";
/// An optionally prefixed Kubernetes name.
pub(crate) const QUALIFIED_NAME: &str = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*(\/))?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$";
/// A label value; may be empty.
pub(crate) const LABEL_VALUE: &str = "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";
/// Longest label value.
pub(crate) const LABEL_VALUE_LENGTH_MAX: usize = 63;
/// Longest label key: a DNS name of 253, a slash and a name of 63, less one as upstream counts it.
pub(crate) const LABEL_KEY_LENGTH_MAX: usize = 316;
/// A resource quantity.
pub(crate) const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";
/// A percentage or a resource quantity: a kubelet eviction threshold.
pub(crate) const EVICTION_THRESHOLD: &str = r"^((\d{1,2}(\.\d{1,2})?|100(\.0{1,2})?)%||(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?)$";

/// An EBS volume size within EC2's limits: 1-59000Gi, 1-64000G, 1-58Ti, 1-64T.
pub(crate) const VOLUME_SIZE: &str = "^((?:[1-9][0-9]{0,3}|[1-4][0-9]{4}|[5][0-8][0-9]{3}|59000)Gi|(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|[6][0-3][0-9]{3}|64000)G|([1-9]|[1-4][0-9]|5[0-8])Ti|([1-9]|[1-5][0-9]|6[0-4])T)$";

/// A map from resource names to quantities.
pub(crate) fn resource_map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "additionalProperties": {
            "anyOf": [{ "type": "integer" }, { "type": "string" }],
            "pattern": QUANTITY,
            "x-kubernetes-int-or-string": true,
        },
    })
}

/// Labels of a template: label values, and at most a hundred of them, which bounds the cost of the CEL rules.
pub(crate) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 100,
        "additionalProperties": {
            "type": "string",
            "maxLength": LABEL_VALUE_LENGTH_MAX,
            "pattern": LABEL_VALUE,
        },
    })
}

/// Values of a requirement.
pub(crate) fn label_values(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "atomic",
        "items": { "type": "string", "maxLength": LABEL_VALUE_LENGTH_MAX, "pattern": LABEL_VALUE },
    })
}

/// A map from names to quantities that the kubelet reads, so that they are always strings.
pub(crate) fn quantity_strings(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "additionalProperties": { "type": "string", "pattern": QUANTITY } })
}

/// A map from eviction signals to thresholds.
pub(crate) fn eviction_thresholds(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "additionalProperties": { "type": "string", "pattern": EVICTION_THRESHOLD } })
}

/// A map from names to texts that the schema does not look into.
pub(crate) fn strings(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "additionalProperties": { "type": "string" } })
}

/// The size of an EBS volume.
pub(crate) fn volume_size(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": VOLUME_SIZE })
}

/// Requirements as Kubernetes defines them, as found rather than as wished for.
pub(crate) fn node_selector_requirements(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {
            "description": "A requirement on the labels of a machine.",
            "type": "object",
            "required": ["key", "operator"],
            "properties": {
                "key": { "description": "The label key.", "type": "string" },
                "operator": { "description": "How the label relates to the values.", "type": "string" },
                "values": {
                    "description": "What the label is compared with.",
                    "type": "array",
                    "x-kubernetes-list-type": "atomic",
                    "items": { "type": "string" },
                },
            },
        },
    })
}

/// A list of taints that is replaced as a whole.
pub(crate) fn taints(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "atomic",
        "items": {
            "description": "Keeps pods that do not tolerate it off the node.",
            "type": "object",
            "required": ["effect", "key"],
            "properties": {
                "effect": {
                    "description": "What happens to pods that do not tolerate the taint.",
                    "type": "string",
                    "enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"],
                },
                "key": {
                    "description": "The key of the taint.",
                    "type": "string",
                    "minLength": 1,
                    "pattern": QUALIFIED_NAME,
                },
                "timeAdded": {
                    "description": "When the taint was added.",
                    "type": "string",
                    "format": "date-time",
                },
                "value": {
                    "description": "The value that belongs to the key.",
                    "type": "string",
                    "pattern": QUALIFIED_NAME,
                },
            },
        },
    })
}

/// Conditions as Kubernetes defines them: reason and message must be there.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    condition_list(
        &["lastTransitionTime", "message", "reason", "status", "type"],
        json!({ "minLength": 1, "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$" }),
    )
}

/// Conditions of NodeClaims, whose reason may be empty or absent.
pub(crate) fn relaxed_conditions(_: &mut SchemaGenerator) -> Schema {
    condition_list(
        &["lastTransitionTime", "status", "type"],
        json!({ "pattern": "^([A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?|)$" }),
    )
}

/// Conditions keyed by their type, as CapacityBuffer has them.
pub(crate) fn keyed_conditions(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = conditions(generator);
    schema.insert("x-kubernetes-list-type".to_owned(), "map".into());
    schema.insert("x-kubernetes-list-map-keys".to_owned(), json!(["type"]));
    schema
}

fn condition_list(required: &[&str], reason_rules: Value) -> Schema {
    let mut reason = json!({
        "description": "Why the condition has this status, in one CamelCase word.",
        "type": "string",
        "maxLength": 1024,
    });
    merge(&mut reason, reason_rules);
    json_schema!({
        "type": "array",
        "items": {
            "description": "One aspect of the object's state.",
            "type": "object",
            "required": required,
            "properties": {
                "lastTransitionTime": {
                    "description": "When the status last changed.",
                    "type": "string",
                    "format": "date-time",
                },
                "message": {
                    "description": "What is the case, for a person.",
                    "type": "string",
                    "maxLength": 32768,
                },
                "observedGeneration": {
                    "description": "The generation of the object that the condition speaks about.",
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                },
                "reason": reason,
                "status": {
                    "description": "Whether the condition holds.",
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                },
                "type": {
                    "description": "The name of the condition.",
                    "type": "string",
                    "maxLength": 316,
                    "pattern": r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
                },
            },
        },
    })
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

/// Brings a derived CRD into the shape of Karpenter's.
pub(crate) fn normalize(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        if let Some(root) = version
            .schema
            .as_mut()
            .and_then(|validation| validation.open_api_v3_schema.as_mut())
        {
            clean(root);
        }
    }
    crd
}

/// Removes what schemars says about Rust rather than about the wire, and restores what kube's rewriting lost.
///
/// * `nullable`, and null as a value of an enum, stand for `Option`, but on the wire an absent field is absent; with
///   them a null would satisfy CEL's `has()`.
/// * `title` repeats the name of the type.
/// * Line breaks in a description are those of the source file.
/// * An integer or string lost its two types, without which kubectl explain and client generators cannot read it.
fn clean(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.title = None;
    if let Some(values) = &mut schema.enum_ {
        values.retain(|value| !value.0.is_null());
    }
    if let Some(description) = &mut schema.description {
        *description = description.replace('\n', " ");
    }
    if schema.x_kubernetes_int_or_string == Some(true) {
        let of_type = |ty: &str| JSONSchemaProps {
            type_: Some(ty.to_owned()),
            ..JSONSchemaProps::default()
        };
        schema.any_of = Some(vec![of_type("integer"), of_type("string")]);
    }
    schema
        .properties
        .iter_mut()
        .flat_map(|properties| properties.values_mut())
        .for_each(clean);
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        clean(values);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        clean(items);
    }
}
