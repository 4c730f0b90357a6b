//! Selectors, requirements, taints and host ports, each written down as the Kubernetes documentation
//! states it.
//!
//! Nothing here is shared with the planner: this is its judge, and it must not inherit a mistake.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    requirement::{Operator, Requirement},
    snapshot::{
        AffinityTerm, HostPort, Labels, PodClass, Selector, Taint, TaintEffect, Toleration,
        TolerationOperator,
    },
};

/// What is known of one label of a machine.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// One of these; never empty.
    OneOf(Vec<Arc<str>>),
    /// Present, with some value that satisfies these.
    Some(Vec<Requirement>),
}

/// Labels of a machine as far as they are decided. A key that is absent is not a label of it.
pub(super) type Shape = BTreeMap<Arc<str>, Value>;

pub(super) fn shape_of(labels: &Labels) -> Shape {
    labels
        .iter()
        .map(|(key, value)| (key.clone(), Value::OneOf(vec![value.clone()])))
        .collect()
}

/// The one value of a label, when it is decided.
pub(super) fn decided<'a>(shape: &'a Shape, key: &str) -> Option<&'a Arc<str>> {
    match shape.get(key)? {
        Value::OneOf(values) if values.len() == 1 => values.first(),
        Value::OneOf(_) | Value::Some(_) => None,
    }
}

/// Whether a label value satisfies the requirement. Bounds compare integers; a value that is no integer
/// satisfies none.
pub(super) fn value_satisfies(requirement: &Requirement, value: &str) -> bool {
    let listed = || requirement.values.iter().any(|v| **v == *value);
    let compared = |holds: fn(i64, i64) -> bool| {
        let bound = requirement.values.first().and_then(|v| v.parse().ok());
        value
            .parse()
            .ok()
            .zip(bound)
            .is_some_and(|(value, bound)| holds(value, bound))
    };
    match requirement.operator {
        Operator::In => listed(),
        Operator::NotIn => !listed(),
        Operator::Exists => true,
        Operator::DoesNotExist => false,
        Operator::Gt => compared(|value, bound| value > bound),
        Operator::Lt => compared(|value, bound| value < bound),
        Operator::Gte => compared(|value, bound| value >= bound),
        Operator::Lte => compared(|value, bound| value <= bound),
    }
}

/// Whether the requirement holds for a label that may be absent.
fn label_satisfies(requirement: &Requirement, value: Option<&str>) -> bool {
    match value {
        Some(value) => value_satisfies(requirement, value),
        None => absent_satisfies(requirement),
    }
}

/// `NotIn` and `DoesNotExist` hold when the label is absent, all else fails.
pub(super) fn absent_satisfies(requirement: &Requirement) -> bool {
    matches!(requirement.operator, Operator::NotIn | Operator::DoesNotExist)
}

/// Whether the requirement holds whatever the undecided labels turn out to be.
pub(super) fn certain(requirement: &Requirement, shape: &Shape) -> bool {
    match shape.get(&requirement.key) {
        None => absent_satisfies(requirement),
        Some(Value::OneOf(values)) => values.iter().all(|value| value_satisfies(requirement, value)),
        Some(Value::Some(known)) => implied(requirement, known),
    }
}

/// Whether the requirement can hold for some outcome of the undecided labels.
pub(super) fn possible(requirement: &Requirement, shape: &Shape) -> bool {
    match shape.get(&requirement.key) {
        None => absent_satisfies(requirement),
        Some(Value::OneOf(values)) => values.iter().any(|value| value_satisfies(requirement, value)),
        Some(Value::Some(known)) => match requirement.operator {
            Operator::DoesNotExist => false,
            Operator::In => requirement
                .values
                .iter()
                .any(|v| known.iter().all(|k| value_satisfies(k, v))),
            _ => true,
        },
    }
}

/// Whether every value that satisfies all of `known` satisfies `requirement`; errs towards no.
fn implied(requirement: &Requirement, known: &[Requirement]) -> bool {
    let bounds = |r: &Requirement| -> Option<(Option<i64>, Option<i64>)> {
        let bound = r.values.first()?.parse::<i64>().ok()?;
        Some(match r.operator {
            Operator::Gt => (Some(bound.saturating_add(1)), None),
            Operator::Gte => (Some(bound), None),
            Operator::Lt => (None, Some(bound.saturating_sub(1))),
            Operator::Lte => (None, Some(bound)),
            _ => return None,
        })
    };
    match requirement.operator {
        Operator::Exists => true,
        Operator::In | Operator::DoesNotExist => false,
        Operator::NotIn => requirement
            .values
            .iter()
            .all(|v| !known.iter().all(|k| value_satisfies(k, v))),
        Operator::Gt | Operator::Lt | Operator::Gte | Operator::Lte => match bounds(requirement) {
            Some((Some(low), _)) => known.iter().filter_map(bounds).any(|(l, _)| l >= Some(low)),
            Some((_, Some(high))) => known
                .iter()
                .filter_map(bounds)
                .any(|(_, h)| h.is_some_and(|h| h <= high)),
            _ => false,
        },
    }
}

/// How a requirement is read on labels that are not decided yet.
pub(super) type Reading = fn(&Requirement, &Shape) -> bool;

/// `nodeSelector` and required node affinity: all labels of the first, any term of the second. A term
/// without expressions matches no node.
/// <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/>
pub(super) fn node_affinity_allows(class: &PodClass, shape: &Shape, holds: Reading) -> bool {
    let selected = class.node_selector.iter().all(|(key, value)| {
        let wanted = Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: vec![value.clone()],
            min_values: None,
        };
        holds(&wanted, shape)
    });
    selected
        && (class.node_affinity.is_empty()
            || class
                .node_affinity
                .iter()
                .any(|term| !term.is_empty() && term.iter().all(|r| holds(r, shape))))
}

/// Every volume must be reachable by one of its alternatives.
pub(super) fn volumes_allow(class: &PodClass, shape: &Shape, holds: Reading) -> bool {
    class.volume_affinity.iter().all(|alternatives| {
        alternatives.is_empty()
            || alternatives
                .iter()
                .any(|term| term.iter().all(|r| holds(r, shape)))
    })
}

/// <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/>
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let compared = |holds: fn(i64, i64) -> bool| {
        let numbers = taint.value.parse().ok().zip(toleration.value.parse().ok());
        numbers.is_some_and(|(taint, toleration)| holds(taint, toleration))
    };
    toleration.effect.is_none_or(|effect| effect == taint.effect)
        && toleration.key.as_ref().is_none_or(|key| *key == taint.key)
        && match toleration.operator {
            TolerationOperator::Exists => true,
            TolerationOperator::Equal => toleration.value == taint.value,
            TolerationOperator::Gt => compared(|taint, toleration| taint > toleration),
            TolerationOperator::Lt => compared(|taint, toleration| taint < toleration),
        }
}

/// The first taint of the given strength that the class does not tolerate.
fn untolerated<'a>(class: &PodClass, taints: &'a [Taint], soft: bool) -> Option<&'a Taint> {
    taints
        .iter()
        .filter(|taint| (taint.effect == TaintEffect::PreferNoSchedule) == soft)
        .find(|taint| !class.tolerations.iter().any(|t| tolerates(t, taint)))
}

/// The first `NoSchedule` or `NoExecute` taint that keeps the class away.
pub(super) fn repelled<'a>(class: &PodClass, taints: &'a [Taint]) -> Option<&'a Taint> {
    untolerated(class, taints, false)
}

/// Whether a `PreferNoSchedule` taint asks the class to stay away.
pub(super) fn discouraged(class: &PodClass, taints: &[Taint]) -> bool {
    untolerated(class, taints, true).is_some()
}

pub(super) fn selects(selector: &Selector, labels: &[(Arc<str>, Arc<str>)]) -> bool {
    !selector.nothing
        && selector.requirements.iter().all(|r| {
            let value = labels
                .iter()
                .find(|(key, _)| *key == r.key)
                .map(|(_, value)| &**value);
            label_satisfies(r, value)
        })
}

/// Whether a term of a pod in `owner` namespace selects pods of `class`.
pub(super) fn term_selects(
    term: &AffinityTerm,
    owner: &str,
    class: &PodClass,
    namespaces: &BTreeMap<Arc<str>, Labels>,
) -> bool {
    let listed = term.namespaces.contains(&class.namespace);
    let own = term.namespaces.is_empty() && term.namespace_selector.is_none() && *class.namespace == *owner;
    let by_label = term.namespace_selector.as_ref().is_some_and(|selector| {
        let labels: Vec<_> = namespaces
            .get(&class.namespace)
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        selects(selector, &labels)
    });
    (listed || own || by_label) && selects(&term.selector, &class.labels)
}

/// The same port on the same protocol clashes when the addresses are equal or one stands for all.
pub(super) fn ports_clash(a: &HostPort, b: &HostPort) -> bool {
    let every = |port: &HostPort| matches!(&*port.ip, "" | "0.0.0.0" | "::");
    a.port == b.port && a.protocol == b.protocol && (a.ip == b.ip || every(a) || every(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(operator: Operator, values: &[&str]) -> Requirement {
        let values = values.iter().map(|v| (*v).into()).collect();
        Requirement {
            key: "k".into(),
            operator,
            values,
            min_values: None,
        }
    }

    #[test]
    fn requirements_read_on_known_absent_and_undecided_labels() {
        use Operator::{DoesNotExist, Exists, Gt, In, Lt, NotIn};
        let absent = Shape::new();
        let one = Shape::from([("k".into(), Value::OneOf(vec!["5".into()]))]);
        let two = Shape::from([("k".into(), Value::OneOf(vec!["5".into(), "7".into()]))]);
        let some = Shape::from([("k".into(), Value::Some(vec![requirement(Gt, &["3"])]))]);
        // (operator, values, certain on: absent, one, two, some; possible on two)
        let table: [(Operator, &[&str], [bool; 5]); 9] = [
            (In, &["5"], [false, true, false, false, true]),
            (In, &["5", "7"], [false, true, true, false, true]),
            (NotIn, &["5"], [true, false, false, false, true]),
            (NotIn, &["2"], [true, true, true, true, true]),
            (Exists, &[], [false, true, true, true, true]),
            (DoesNotExist, &[], [true, false, false, false, false]),
            (Gt, &["4"], [false, true, true, false, true]),
            (Gt, &["3"], [false, true, true, true, true]),
            (Lt, &["6"], [false, true, false, false, true]),
        ];
        for (operator, values, expected) in table {
            let r = requirement(operator, values);
            let found = [
                certain(&r, &absent),
                certain(&r, &one),
                certain(&r, &two),
                certain(&r, &some),
                possible(&r, &two),
            ];
            assert_eq!(found, expected, "{operator:?} {values:?}");
        }
    }

    #[test]
    fn tolerations_match_by_key_effect_and_value() {
        use TolerationOperator::{Equal, Exists, Gt, Lt};
        let taint = |effect| Taint {
            key: "k".into(),
            value: "5".into(),
            effect,
        };
        let toleration = |key: Option<&str>, operator, value: &str, effect| Toleration {
            key: key.map(Into::into),
            operator,
            value: value.into(),
            effect,
        };
        for (toleration, expected) in [
            (toleration(None, Exists, "", None), true),
            (toleration(Some("k"), Exists, "", None), true),
            (toleration(Some("other"), Exists, "", None), false),
            (
                toleration(Some("k"), Equal, "5", Some(TaintEffect::NoSchedule)),
                true,
            ),
            (toleration(Some("k"), Equal, "6", None), false),
            (
                toleration(Some("k"), Equal, "5", Some(TaintEffect::NoExecute)),
                false,
            ),
            (toleration(Some("k"), Gt, "4", None), true),
            (toleration(Some("k"), Lt, "4", None), false),
        ] {
            assert_eq!(
                tolerates(&toleration, &taint(TaintEffect::NoSchedule)),
                expected,
                "{toleration:?}"
            );
        }
    }

    #[test]
    fn wildcard_addresses_clash_with_every_address() {
        let port = |ip: &str, port, protocol: &str| HostPort {
            ip: ip.into(),
            port,
            protocol: protocol.into(),
        };
        assert!(ports_clash(
            &port("0.0.0.0", 80, "TCP"),
            &port("10.0.0.1", 80, "TCP")
        ));
        assert!(!ports_clash(
            &port("10.0.0.2", 80, "TCP"),
            &port("10.0.0.1", 80, "TCP")
        ));
        assert!(!ports_clash(
            &port("0.0.0.0", 80, "UDP"),
            &port("0.0.0.0", 80, "TCP")
        ));
        assert!(!ports_clash(
            &port("0.0.0.0", 81, "TCP"),
            &port("0.0.0.0", 80, "TCP")
        ));
    }
}
