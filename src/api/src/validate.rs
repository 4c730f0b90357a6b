//! The checks on a NodePool that its schema does not make, or that hold even where an older schema is installed.
//!
//! What fails here keeps the pool out of provisioning through its condition ValidationSucceeded; existing machines stay.

use std::collections::BTreeSet;
use std::fmt;

use crate::labels;
use crate::nodepool::{
    ConsolidationPolicy, DisruptionReason, NodePool, NodeSelectorRequirementWithMinValues, Operator,
};

/// Reason of the condition ValidationSucceeded when a NodePool breaks a rule.
pub const NODEPOOL_VALIDATION_FAILED: &str = "NodePoolValidationFailed";

/// A rule that an object breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where, e.g. `spec.template.spec.requirements[2].key`.
    pub path: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub fix: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.path, self.problem, self.fix)
    }
}

/// Label keys with a closed set of values, as upstream has them.
const KNOWN_VALUES: &[(&str, &[&str])] = &[
    (
        labels::CAPACITY_TYPE,
        &[
            labels::CAPACITY_SPOT,
            labels::CAPACITY_ON_DEMAND,
            labels::CAPACITY_RESERVED,
        ],
    ),
    (labels::INSTANCE_TENANCY, &["default", "dedicated"]),
];

/// Checks a NodePool; the error lists every violation in the order of the fields.
pub fn nodepool(pool: &NodePool) -> Result<(), Vec<Violation>> {
    let mut violations = Violations::default();
    template_labels(pool, &mut violations);
    taints(pool, &mut violations);
    for (index, requirement) in pool.spec.template.spec.requirements.iter().enumerate() {
        check_requirement(
            requirement,
            &format!("spec.template.spec.requirements[{index}]"),
            &mut violations,
        );
    }
    if violations.0.is_empty() {
        Ok(())
    } else {
        Err(violations.0)
    }
}

/// The fields of a NodePool that are set and that the controller does not act on yet, each with what that means.
pub fn unimplemented(pool: &NodePool) -> Vec<String> {
    let replicas = pool.spec.replicas.map(|replicas| {
        format!(
            "spec.replicas is {replicas}, but static capacity is not implemented: the pool launches nothing and keeps \
             no number of nodes; remove the field to let pods decide"
        )
    });
    let disruption = &pool.spec.disruption;
    let policy = disruption.consolidation_policy;
    let consolidation = (policy != ConsolidationPolicy::WhenEmpty).then(|| {
        format!(
            "spec.disruption.consolidationPolicy is {policy:?}, but only empty nodes are removed so far: nodes with pods \
             stay; write WhenEmpty to say what is done"
        )
    });
    let reasons = disruption.budgets.iter().enumerate().flat_map(|(index, budget)| {
        let reasons = budget.reasons.iter().flatten();
        let idle = reasons.filter(|reason| **reason != DisruptionReason::Empty);
        idle.map(move |reason| {
            format!(
                "spec.disruption.budgets[{index}].reasons names {reason:?}, for which nothing is disrupted so far: \
                 the budget limits nothing there"
            )
        })
    });
    replicas.into_iter().chain(consolidation).chain(reasons).collect()
}

#[derive(Default)]
struct Violations(Vec<Violation>);

impl Violations {
    fn add(&mut self, path: impl Into<String>, problem: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Violation {
            path: path.into(),
            problem: problem.into(),
            fix: fix.into(),
        });
    }

    fn check_key(&mut self, path: &str, key: &str) {
        if !labels::is_qualified_name(key) {
            self.add(
                path,
                format!("{key:?} is not a label key"),
                "write a name of up to 63 letters, digits, '-', '_' and '.', optionally after a DNS name and '/'",
            );
        } else if key == labels::NODEPOOL {
            self.add(
                path,
                "karpenter.sh/nodepool is set by the controller",
                "remove it",
            );
        } else if let Some(reason) = labels::restricted(key) {
            self.add(path, format!("{key:?} is restricted"), reason);
        }
    }

    fn check_value(&mut self, path: &str, value: &str) {
        if !labels::is_label_value(value) {
            self.add(
                path,
                format!("{value:?} is not a label value"),
                "write up to 63 letters, digits, '-', '_' and '.', with a letter or digit at either end",
            );
        }
    }
}

fn template_labels(pool: &NodePool, violations: &mut Violations) {
    for (key, value) in pool.spec.template.metadata.labels.iter().flatten() {
        let path = format!("spec.template.metadata.labels[{key}]");
        violations.check_key(&path, labels::normalize(key));
        violations.check_value(&path, value);
    }
}

fn taints(pool: &NodePool, violations: &mut Violations) {
    let spec = &pool.spec.template.spec;
    let lists = [("taints", &spec.taints), ("startupTaints", &spec.startup_taints)];
    let mut seen = BTreeSet::new();
    for (name, taints) in lists {
        for (index, taint) in taints.iter().flatten().enumerate() {
            if !seen.insert((&taint.key, &taint.effect)) {
                violations.add(
                    format!("spec.template.spec.{name}[{index}]"),
                    format!("the taint {}:{} is there twice", taint.key, taint.effect),
                    "keep one; a node has at most one taint of a key and effect, in taints or in startupTaints",
                );
            }
        }
    }
}

fn check_requirement(
    requirement: &NodeSelectorRequirementWithMinValues,
    path: &str,
    violations: &mut Violations,
) {
    let key = labels::normalize(&requirement.key);
    violations.check_key(&format!("{path}.key"), key);
    let values_path = format!("{path}.values");
    for (index, value) in requirement.values.iter().enumerate() {
        violations.check_value(&format!("{values_path}[{index}]"), value);
    }
    let min_values = requirement
        .min_values
        .map_or(0, |min| usize::try_from(min).unwrap_or(0));
    match requirement.operator {
        Operator::In => {
            if requirement.values.is_empty() {
                violations.add(
                    &values_path,
                    "operator In has no value",
                    "name the values that are allowed",
                );
            }
            check_known_values(requirement, key, &values_path, violations);
            if requirement.values.len() < min_values {
                violations.add(
                    format!("{path}.minValues"),
                    format!(
                        "minValues is {min_values}, but there are {} values",
                        requirement.values.len()
                    ),
                    "lower minValues or add values",
                );
            }
        }
        Operator::Gt | Operator::Lt | Operator::Gte | Operator::Lte => {
            let bound = match requirement.values.as_slice() {
                [value] => value.parse::<u64>().ok(),
                _ => None,
            };
            if bound.is_none() {
                violations.add(
                    &values_path,
                    format!(
                        "operator {:?} needs exactly one integer of at least 0",
                        requirement.operator
                    ),
                    "give one value, for example [\"4\"]",
                );
            }
        }
        Operator::NotIn | Operator::Exists | Operator::DoesNotExist => {}
    }
}

/// Values that no provider knows are tolerated beside known ones, since another version may know them; alone they would
/// make a pool that can never launch anything.
fn check_known_values(
    requirement: &NodeSelectorRequirementWithMinValues,
    key: &str,
    path: &str,
    violations: &mut Violations,
) {
    let Some((_, known)) = KNOWN_VALUES.iter().find(|(known_key, _)| *known_key == key) else {
        return;
    };
    let n_known = requirement
        .values
        .iter()
        .filter(|value| known.contains(&value.as_str()))
        .count();
    let fix = format!("use {}", known.join(", "));
    if n_known == 0 && !requirement.values.is_empty() {
        violations.add(
            path,
            format!("none of {:?} is a value of {key}", requirement.values),
            fix,
        );
    } else if let Some(min) = requirement.min_values
        && usize::try_from(min).is_ok_and(|min| (n_known + 1..=requirement.values.len()).contains(&min))
    {
        violations.add(
            path,
            format!("minValues is {min}, but only {n_known} values of {key} are known"),
            fix,
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cel_cases::merge;

    fn pool(template: Value) -> NodePool {
        let mut pool = json!({
            "apiVersion": "karpenter.sh/v1",
            "kind": "NodePool",
            "metadata": { "name": "default" },
            "spec": { "template": { "spec": {
                "requirements": [],
                "nodeClassRef": { "group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "default" },
            } } },
        });
        merge(&mut pool["spec"]["template"], template);
        serde_json::from_value(pool).unwrap()
    }

    /// The violations of a template, one line each.
    fn check(template: Value) -> Vec<String> {
        nodepool(&pool(template))
            .err()
            .unwrap_or_default()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_usual_pool_passes() {
        assert!(
            check(json!({
                "metadata": { "labels": { "team": "a", "example.com/tier": "", "node.kubernetes.io/gpu": "true" } },
                "spec": {
                    "taints": [{ "key": "a", "effect": "NoSchedule" }, { "key": "a", "effect": "NoExecute" }],
                    "startupTaints": [{ "key": "b", "effect": "NoSchedule" }],
                    "requirements": [
                        { "key": "beta.kubernetes.io/arch", "operator": "In", "values": ["amd64"] },
                        { "key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot", "other"] },
                        { "key": "karpenter.k8s.aws/instance-cpu", "operator": "Gte", "values": ["4"] },
                        { "key": "karpenter.k8s.aws/instance-family", "operator": "Exists", "minValues": 5 },
                        { "key": "karpenter.kwok.sh/instance-size", "operator": "NotIn", "values": ["1x"] },
                    ],
                },
            }))
            .is_empty()
        );
    }

    #[test]
    fn labels_are_checked() {
        let lines = check(json!({ "metadata": { "labels": {
            "-bad": "x",
            "example.com/ok": "not a value",
            "karpenter.sh/custom": "x",
            "karpenter.sh/nodepool": "x",
            "kubernetes.io/hostname": "x",
        } } }));
        let starts = [
            "spec.template.metadata.labels[-bad]: \"-bad\" is not a label key; write",
            "spec.template.metadata.labels[example.com/ok]: \"not a value\" is not a label value; write",
            "spec.template.metadata.labels[karpenter.sh/custom]: \"karpenter.sh/custom\" is restricted; the domain",
            "spec.template.metadata.labels[karpenter.sh/nodepool]: karpenter.sh/nodepool is set by the controller; remove",
            "spec.template.metadata.labels[kubernetes.io/hostname]: \"kubernetes.io/hostname\" is restricted; kubernetes",
        ];
        assert_eq!(lines.len(), starts.len(), "{lines:#?}");
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(start), "{line}");
        }
    }

    #[test]
    fn a_taint_is_there_once() {
        let lines = check(json!({ "spec": {
            "taints": [{ "key": "a", "value": "1", "effect": "NoSchedule" }],
            "startupTaints": [{ "key": "a", "value": "2", "effect": "NoSchedule" }],
        } }));
        assert_eq!(
            lines,
            [
                "spec.template.spec.startupTaints[0]: the taint a:NoSchedule is there twice; \
              keep one; a node has at most one taint of a key and effect, in taints or in startupTaints"
            ]
        );
    }

    #[test]
    fn requirements_are_checked() {
        let cases = [
            (
                json!({ "key": "a b", "operator": "Exists" }),
                "requirements[0].key: \"a b\" is not a label key",
            ),
            (
                json!({ "key": "karpenter.sh/x", "operator": "Exists" }),
                "requirements[0].key: \"karpenter.sh/x\" is restr",
            ),
            (
                json!({ "key": "karpenter.sh/nodepool", "operator": "Exists" }),
                "requirements[0].key: karpenter.sh/nodepool",
            ),
            (
                json!({ "key": "kubernetes.io/hostname", "operator": "Exists" }),
                "requirements[0].key: \"kubernetes.io/host",
            ),
            (
                json!({ "key": "a", "operator": "In", "values": ["b", "c d"] }),
                "requirements[0].values[1]: \"c d\" is not",
            ),
            (
                json!({ "key": "a", "operator": "In" }),
                "requirements[0].values: operator In has no value",
            ),
            (
                json!({ "key": "a", "operator": "Gt", "values": ["x"] }),
                "requirements[0].values: operator Gt needs exactly",
            ),
            (
                json!({ "key": "a", "operator": "Lte", "values": ["1", "2"] }),
                "requirements[0].values: operator Lte needs",
            ),
            (
                json!({ "key": "a", "operator": "Lt" }),
                "requirements[0].values: operator Lt needs exactly one integer",
            ),
            (
                json!({ "key": "a", "operator": "In", "values": ["b"], "minValues": 2 }),
                "requirements[0].minValues: minValues is 2, but there are 1 values; lower minValues or add values",
            ),
            (
                json!({ "key": "karpenter.sh/capacity-type", "operator": "In", "values": ["cheap"] }),
                "requirements[0].values: none of [\"cheap\"] is a value of karpenter.sh/capacity-type; \
                 use spot, on-demand, reserved",
            ),
            (
                json!({ "key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot", "x"], "minValues": 2 }),
                "requirements[0].values: minValues is 2, but only 1 values of karpenter.sh/capacity-type are known; use",
            ),
            (
                json!({ "key": "karpenter.k8s.aws/instance-tenancy", "operator": "In", "values": ["host"] }),
                "requirements[0].values: none of [\"host\"] is a value of karpenter.k8s.aws/instance-tenancy; \
                 use default, dedicated",
            ),
        ];
        for (input, expected) in cases {
            let lines = check(json!({ "spec": { "requirements": [input] } }));
            assert_eq!(lines.len(), 1, "{input}: {lines:#?}");
            assert!(
                lines[0].starts_with(&format!("spec.template.spec.{expected}")),
                "{input}: {}",
                lines[0]
            );
        }
    }

    #[test]
    fn what_is_accepted_and_not_done_is_named_with_its_path() {
        let mut pool = pool(json!({}));
        pool.spec.disruption.consolidation_policy = ConsolidationPolicy::WhenEmpty;
        assert_eq!(unimplemented(&pool), Vec::<String>::new());
        pool.spec.replicas = Some(3);
        pool.spec.disruption.consolidation_policy = ConsolidationPolicy::default();
        pool.spec.disruption.budgets[0].reasons =
            Some(vec![DisruptionReason::Empty, DisruptionReason::Drifted]);
        let fields = unimplemented(&pool);
        let starts = [
            "spec.replicas is 3",
            "spec.disruption.consolidationPolicy is WhenEmptyOrUnderutilized",
            "spec.disruption.budgets[0].reasons names Drifted",
        ];
        assert_eq!(fields.len(), starts.len(), "{fields:?}");
        for (field, start) in fields.iter().zip(starts) {
            assert!(field.starts_with(start), "{field}");
        }
    }
}
