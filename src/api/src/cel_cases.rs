//! For every CEL rule and every pattern of the CRDs, one object that the API server must take and one it must refuse.
//!
//! The unit tests check that no rule lacks a case. Whether the rules do what they say only an API server can tell; the
//! end-to-end tests put these objects to one.

mod autoscaling;
mod ec2nodeclass;
mod nodeclaim;
mod nodeoverlay;
mod nodepool;
mod plan;

use serde_json::{Value, json};

/// One rule, provoked.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CelCase {
    /// What the rule is about; unique.
    pub name: String,
    /// An object that must be created.
    pub good: Value,
    /// An object of the same name that must be refused: at creation, or as an update of `good`.
    pub bad: Value,
    /// Whether `bad` is an update of `good`.
    pub update: bool,
    /// A part of the message with which `bad` is refused.
    pub expect_error_contains: &'static str,
}

/// All cases, grouped by kind.
pub fn cel_cases() -> Vec<CelCase> {
    let kinds = [
        (nodepool::base(), nodepool::cases()),
        (nodeclaim::base(), nodeclaim::cases()),
        (nodeoverlay::base(), nodeoverlay::cases()),
        (ec2nodeclass::base(), ec2nodeclass::cases()),
        (autoscaling::kwoknodeclass(), autoscaling::kwoknodeclass_cases()),
        (autoscaling::capacitybuffer(), autoscaling::capacitybuffer_cases()),
        (plan::base(), plan::cases()),
    ];
    let cases = kinds
        .into_iter()
        .flat_map(|(base, cases)| cases.into_iter().map(move |case| (base.clone(), case)));
    cases
        .enumerate()
        .map(|(index, (base, case))| case.on(base, &format!("case-{index}")))
        .collect()
}

/// A case as changes to its kind's base object.
struct Case {
    name: &'static str,
    good: Value,
    bad: Value,
    update: bool,
    error: &'static str,
}

impl Case {
    fn on(self, mut good: Value, object_name: &str) -> CelCase {
        good["metadata"]["name"] = object_name.into();
        let kind = good["kind"].as_str().unwrap_or_default();
        let name = format!("{kind}: {}", self.name);
        let mut bad = good.clone();
        merge(&mut good, self.good);
        merge(&mut bad, self.bad);
        CelCase {
            name,
            good,
            bad,
            update: self.update,
            expect_error_contains: self.error,
        }
    }
}

/// A rule on one object.
fn create(name: &'static str, good: Value, bad: Value, error: &'static str) -> Case {
    Case {
        name,
        good,
        bad,
        update: false,
        error,
    }
}

/// A rule on a change.
fn update(name: &'static str, good: Value, bad: Value, error: &'static str) -> Case {
    Case {
        name,
        good,
        bad,
        update: true,
        error,
    }
}

/// A change to the field below `spec` that the dotted path names.
fn spec(path: &str, value: Value) -> Value {
    let wrap = |inner: Value, field: &str| json!({ field: inner });
    wrap(
        path.rsplit('.')
            .filter(|field| !field.is_empty())
            .fold(value, wrap),
        "spec",
    )
}

/// Applies a JSON merge patch (RFC 7386): objects merge, null removes, anything else replaces.
pub(crate) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    if let Value::Object(target) = target {
        for (key, value) in patch {
            if value.is_null() {
                target.remove(&key);
            } else {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
    };

    use super::*;

    /// Visits a schema and everything below it with its path; `[*]` is any item, `.*` any value of a map.
    fn walk(schema: &JSONSchemaProps, path: &str, visit: &mut impl FnMut(&str, &JSONSchemaProps)) {
        visit(path, schema);
        for (name, property) in schema.properties.iter().flatten() {
            walk(property, &format!("{path}.{name}"), visit);
        }
        if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
            walk(values, &format!("{path}.*"), visit);
        }
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
            walk(items, &format!("{path}[*]"), visit);
        }
    }

    /// Visits the spec of every kind.
    fn walk_specs(mut visit: impl FnMut(&str, &str, &JSONSchemaProps)) {
        for crd in crate::crds() {
            let kind = crd.spec.names.kind;
            let root = crd.spec.versions[0]
                .schema
                .as_ref()
                .unwrap()
                .open_api_v3_schema
                .as_ref()
                .unwrap();
            let spec = &root.properties.as_ref().unwrap()["spec"];
            walk(spec, "spec", &mut |path, schema| visit(&kind, path, schema));
        }
    }

    #[test]
    fn every_rule_has_a_case() {
        let cases = cel_cases();
        let mut n_rules = 0;
        walk_specs(|kind, path, schema| {
            for rule in schema.x_kubernetes_validations.iter().flatten() {
                n_rules += 1;
                let message = rule.message.as_deref().unwrap();
                let provoked =
                    |case: &CelCase| case.bad["kind"] == kind && message.contains(case.expect_error_contains);
                assert!(cases.iter().any(provoked), "no case for {kind} {path}: {message}");
            }
        });
        assert!(n_rules > 90, "{n_rules}");
    }

    #[test]
    fn every_pattern_has_a_case() {
        let cases = cel_cases();
        let mut n_patterns = 0;
        walk_specs(|kind, path, schema| {
            if schema.pattern.is_none() {
                return;
            }
            n_patterns += 1;
            let expected = path.replace("[*]", "[0]");
            let provoked = |case: &CelCase| {
                let Some(field) = case.expect_error_contains.strip_suffix(" in body should match") else {
                    return false;
                };
                // The name of a map's key is the case's own.
                match expected.strip_suffix(".*") {
                    Some(map) => field.strip_prefix(map).is_some_and(|key| key.starts_with('.')),
                    None => field == expected,
                }
            };
            assert!(
                cases
                    .iter()
                    .any(|case| case.bad["kind"] == kind && provoked(case)),
                "no case for the pattern of {kind} {path}"
            );
        });
        assert!(n_patterns > 40, "{n_patterns}");
    }

    #[test]
    fn cases_are_distinct_and_about_one_object() {
        let cases = cel_cases();
        let names: BTreeSet<_> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names.len(), cases.len(), "each case has its own name");
        for case in &cases {
            assert_ne!(case.good, case.bad, "{}", case.name);
            assert_eq!(case.good["metadata"], case.bad["metadata"], "{}", case.name);
        }
    }

    #[test]
    fn good_objects_are_what_the_types_can_read() {
        for case in cel_cases() {
            let read = match case.good["kind"].as_str().unwrap() {
                "NodePool" => serde_json::from_value::<crate::nodepool::NodePool>(case.good).map(|_| ()),
                "NodeClaim" => serde_json::from_value::<crate::nodeclaim::NodeClaim>(case.good).map(|_| ()),
                "NodeOverlay" => {
                    serde_json::from_value::<crate::nodeoverlay::NodeOverlay>(case.good).map(|_| ())
                }
                "EC2NodeClass" => {
                    serde_json::from_value::<crate::ec2nodeclass::EC2NodeClass>(case.good).map(|_| ())
                }
                "KWOKNodeClass" => {
                    serde_json::from_value::<crate::kwoknodeclass::KWOKNodeClass>(case.good).map(|_| ())
                }
                "CapacityBuffer" => {
                    serde_json::from_value::<crate::capacitybuffer::CapacityBuffer>(case.good).map(|_| ())
                }
                "Plan" => serde_json::from_value::<crate::plan::Plan>(case.good).map(|_| ()),
                kind => panic!("{kind} is not one of the API's kinds"),
            };
            read.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        }
    }
}
