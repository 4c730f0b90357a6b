//! Pods of a problem file: the constraint fields of a Kubernetes pod, under their Kubernetes names.

use std::sync::Arc;

use crate::{
    requirement::{Operator, Requirement},
    resources::{CPU, MEMORY, PODS},
    snapshot::{
        AffinityTerm, HostPort, PodClass, Selector, SpreadConstraint, Taint, TaintEffect, Toleration,
        TolerationOperator,
    },
};

use super::{MIB, ProblemError, Strings, cursor::At, quantity::amount};

/// Fields of a pod's shape; entries of `pods` add their own.
pub(super) const SHAPE: [&str; 13] = [
    "namespace",
    "cpu",
    "mem",
    "resources",
    "labels",
    "nodeSelector",
    "affinity",
    "tolerations",
    "topologySpreadConstraints",
    "hostPorts",
    "volumes",
    "priority",
    "name",
];

const NODE_OPERATORS: [(&str, Operator); 8] = [
    ("In", Operator::In),
    ("NotIn", Operator::NotIn),
    ("Exists", Operator::Exists),
    ("DoesNotExist", Operator::DoesNotExist),
    ("Gt", Operator::Gt),
    ("Lt", Operator::Lt),
    ("Gte", Operator::Gte),
    ("Lte", Operator::Lte),
];

/// The operators of a label selector, and those of a pod's node affinity with the two after them.
const SELECTOR_OPERATORS: usize = 4;
const AFFINITY_OPERATORS: usize = 6;

const EFFECTS: [(&str, TaintEffect); 3] = [
    ("NoSchedule", TaintEffect::NoSchedule),
    ("PreferNoSchedule", TaintEffect::PreferNoSchedule),
    ("NoExecute", TaintEffect::NoExecute),
];

/// The shape at `at`, with all its labels.
pub(super) fn shape(at: &At, strings: &mut Strings) -> Result<PodClass, ProblemError> {
    let labels = pairs(at, "labels", strings)?;
    let affinity = at.get("affinity");
    if let Some(affinity) = &affinity {
        affinity.fields(&["nodeAffinity", "podAffinity", "podAntiAffinity"])?;
    }
    let part = |name: &str| affinity.as_ref().and_then(|affinity| affinity.get(name));
    let (node_affinity, preferred_node_affinity) = match part("nodeAffinity") {
        Some(at) => node_affinity(&at, strings)?,
        None => Default::default(),
    };
    let (affinity, preferred_affinity) = match part("podAffinity") {
        Some(at) => pod_affinity(&at, &labels, strings)?,
        None => Default::default(),
    };
    let (anti_affinity, preferred_anti_affinity) = match part("podAntiAffinity") {
        Some(at) => pod_affinity(&at, &labels, strings)?,
        None => Default::default(),
    };
    let (volumes, volume_affinity) = volumes(at, strings)?;
    Ok(PodClass {
        namespace: match at.get("namespace") {
            Some(namespace) => strings.keep(namespace.text()?),
            None => strings.keep("default"),
        },
        requests: requests(at, strings)?,
        node_selector: pairs(at, "nodeSelector", strings)?,
        node_affinity,
        preferred_node_affinity,
        tolerations: at
            .each("tolerations")?
            .iter()
            .map(|at| toleration(at, strings))
            .collect::<Result<_, _>>()?,
        spread: at
            .each("topologySpreadConstraints")?
            .iter()
            .map(|at| spread(at, &labels, strings))
            .collect::<Result<_, _>>()?,
        affinity,
        anti_affinity,
        preferred_affinity,
        preferred_anti_affinity,
        host_ports: at
            .each("hostPorts")?
            .iter()
            .map(|at| host_port(at, strings))
            .collect::<Result<_, _>>()?,
        volume_affinity,
        volumes,
        priority: match at.get("priority") {
            Some(priority) => priority.whole(i64::from(i32::MIN), i64::from(i32::MAX))? as i32,
            None => 0,
        },
        labels,
    })
}

type Pairs = Vec<(Arc<str>, Arc<str>)>;

/// An object of texts, sorted by key.
pub(super) fn pairs(at: &At, key: &str, strings: &mut Strings) -> Result<Pairs, ProblemError> {
    let mut pairs = Pairs::new();
    for (key, value) in at.entries(key)? {
        pairs.push((strings.keep(key), strings.keep(value.text()?)));
    }
    pairs.sort();
    Ok(pairs)
}

fn requests(at: &At, strings: &mut Strings) -> Result<Vec<(Arc<str>, i64)>, ProblemError> {
    let mut requests = vec![(strings.keep(PODS), 1)];
    for (field, name, unit) in [("cpu", CPU, 1), ("mem", MEMORY, MIB)] {
        if let Some(at) = at.get(field) {
            requests.push((strings.keep(name), amount(&at, name, unit)?));
        }
    }
    for (name, at) in at.entries("resources")? {
        if requests.iter().any(|(known, _)| &**known == name) {
            return Err(at.error("this resource is given twice", "remove it here"));
        }
        requests.push((strings.keep(name), amount(&at, name, 1)?));
    }
    requests.retain(|(_, amount)| *amount > 0);
    requests.sort();
    Ok(requests)
}

/// A node selector requirement or the expression of a label selector.
pub(super) fn requirement(
    at: &At,
    operators: &[(&str, Operator)],
    min_values: bool,
    strings: &mut Strings,
) -> Result<Requirement, ProblemError> {
    at.fields(&["key", "operator", "values", "minValues"])?;
    let operator_at = at.need("operator")?;
    let operator = operator_at.word(operators)?;
    let mut values = Vec::new();
    for value in at.each("values")? {
        let text = value.text()?;
        let bound = matches!(
            operator,
            Operator::Gt | Operator::Lt | Operator::Gte | Operator::Lte
        );
        if bound && text.parse::<i64>().is_err() {
            return Err(value.error("a bound must be an integer", "write it as text, such as \"4\""));
        }
        values.push(strings.keep(text));
    }
    values.sort();
    values.dedup();
    let wrong = match operator {
        Operator::In | Operator::NotIn => values.is_empty().then_some("give at least one value"),
        Operator::Exists | Operator::DoesNotExist => (!values.is_empty()).then_some("remove values"),
        Operator::Gt | Operator::Lt | Operator::Gte | Operator::Lte => {
            (values.len() != 1).then_some("give exactly one value")
        }
    };
    if let Some(fix) = wrong {
        return Err(at.error("the number of values does not suit the operator", fix));
    }
    let min_values = match at.get("minValues") {
        None => None,
        Some(at) if min_values => Some(at.whole(1, 50)? as u32),
        Some(at) => return Err(at.error("minValues belongs to the requirements of pools", "remove it")),
    };
    Ok(Requirement {
        key: strings.keep(at.need("key")?.text()?),
        operator,
        values,
        min_values,
    })
}

/// Requirements of a pool, with every operator and `minValues`.
pub(super) fn pool_requirement(at: &At, strings: &mut Strings) -> Result<Requirement, ProblemError> {
    requirement(at, &NODE_OPERATORS, true, strings)
}

/// The conjunction of a node selector term.
pub(super) fn term(at: &At, strings: &mut Strings) -> Result<Vec<Requirement>, ProblemError> {
    at.fields(&["matchExpressions"])?;
    at.each("matchExpressions")?
        .iter()
        .map(|at| requirement(at, &NODE_OPERATORS[..AFFINITY_OPERATORS], false, strings))
        .collect()
}

type NodeAffinity = (Vec<Vec<Requirement>>, Vec<(i32, Vec<Requirement>)>);

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn node_affinity(at: &At, strings: &mut Strings) -> Result<NodeAffinity, ProblemError> {
    at.fields(&[REQUIRED, PREFERRED])?;
    let mut required = Vec::new();
    if let Some(at) = at.get(REQUIRED) {
        at.fields(&["nodeSelectorTerms"])?;
        for at in at.need("nodeSelectorTerms")?.list()? {
            required.push(term(&at, strings)?);
        }
        if required.is_empty() {
            return Err(at.error(
                "a required node affinity needs a term",
                "add one to nodeSelectorTerms",
            ));
        }
    }
    let mut preferred = Vec::new();
    for at in at.each(PREFERRED)? {
        at.fields(&["weight", "preference"])?;
        preferred.push((weight(&at)?, term(&at.need("preference")?, strings)?));
    }
    Ok((required, preferred))
}

fn weight(at: &At) -> Result<i32, ProblemError> {
    Ok(at.need("weight")?.whole(1, 100)? as i32)
}

type PodAffinity = (Vec<AffinityTerm>, Vec<(i32, AffinityTerm)>);

fn pod_affinity(at: &At, labels: &Pairs, strings: &mut Strings) -> Result<PodAffinity, ProblemError> {
    at.fields(&[REQUIRED, PREFERRED])?;
    let mut required = Vec::new();
    for at in at.each(REQUIRED)? {
        required.push(affinity_term(&at, labels, strings)?);
    }
    let mut preferred = Vec::new();
    for at in at.each(PREFERRED)? {
        at.fields(&["weight", "podAffinityTerm"])?;
        preferred.push((
            weight(&at)?,
            affinity_term(&at.need("podAffinityTerm")?, labels, strings)?,
        ));
    }
    Ok((required, preferred))
}

fn affinity_term(at: &At, labels: &Pairs, strings: &mut Strings) -> Result<AffinityTerm, ProblemError> {
    at.fields(&[
        "labelSelector",
        "topologyKey",
        "namespaces",
        "namespaceSelector",
        "matchLabelKeys",
        "mismatchLabelKeys",
    ])?;
    let mut selector = selector(at.get("labelSelector").as_ref(), strings)?;
    fold(at, "matchLabelKeys", Operator::In, labels, &mut selector, strings)?;
    fold(
        at,
        "mismatchLabelKeys",
        Operator::NotIn,
        labels,
        &mut selector,
        strings,
    )?;
    let mut namespaces = Vec::new();
    for at in at.each("namespaces")? {
        namespaces.push(strings.keep(at.text()?));
    }
    namespaces.sort();
    Ok(AffinityTerm {
        topology_key: strings.keep(at.need("topologyKey")?.text()?),
        selector,
        namespaces,
        namespace_selector: match at.get("namespaceSelector") {
            Some(at) => Some(self::selector(Some(&at), strings)?),
            None => None,
        },
    })
}

fn spread(at: &At, labels: &Pairs, strings: &mut Strings) -> Result<SpreadConstraint, ProblemError> {
    at.fields(&[
        "maxSkew",
        "topologyKey",
        "whenUnsatisfiable",
        "labelSelector",
        "minDomains",
        "nodeAffinityPolicy",
        "nodeTaintsPolicy",
        "matchLabelKeys",
    ])?;
    let mut selector = selector(at.get("labelSelector").as_ref(), strings)?;
    fold(at, "matchLabelKeys", Operator::In, labels, &mut selector, strings)?;
    let honor = |key: &str, default: bool| match at.get(key) {
        Some(at) => at.word(&[("Honor", true), ("Ignore", false)]),
        None => Ok(default),
    };
    let hard = at
        .need("whenUnsatisfiable")?
        .word(&[("DoNotSchedule", true), ("ScheduleAnyway", false)])?;
    let min_domains = match at.get("minDomains") {
        Some(at) if hard => Some(at.whole(1, i64::from(u32::MAX))? as u32),
        Some(at) => return Err(at.error("minDomains needs DoNotSchedule", "remove it")),
        None => None,
    };
    Ok(SpreadConstraint {
        topology_key: strings.keep(at.need("topologyKey")?.text()?),
        max_skew: at.need("maxSkew")?.whole(1, i64::from(u32::MAX))? as u32,
        min_domains,
        hard,
        selector,
        honor_node_affinity: honor("nodeAffinityPolicy", true)?,
        honor_node_taints: honor("nodeTaintsPolicy", false)?,
    })
}

/// A label selector; one that is absent selects nothing.
fn selector(at: Option<&At>, strings: &mut Strings) -> Result<Selector, ProblemError> {
    let Some(at) = at else {
        return Ok(Selector {
            requirements: Vec::new(),
            nothing: true,
        });
    };
    at.fields(&["matchLabels", "matchExpressions"])?;
    let mut requirements = Vec::new();
    for (key, value) in pairs(at, "matchLabels", strings)? {
        requirements.push(Requirement {
            key,
            operator: Operator::In,
            values: vec![value],
            min_values: None,
        });
    }
    for at in at.each("matchExpressions")? {
        requirements.push(requirement(
            &at,
            &NODE_OPERATORS[..SELECTOR_OPERATORS],
            false,
            strings,
        )?);
    }
    requirements.sort();
    Ok(Selector {
        requirements,
        nothing: false,
    })
}

/// Adds the pod's own value of every listed label key to the selector, as the API server does.
fn fold(
    at: &At,
    field: &str,
    operator: Operator,
    labels: &Pairs,
    selector: &mut Selector,
    strings: &mut Strings,
) -> Result<(), ProblemError> {
    for at in at.each(field)? {
        let key = strings.keep(at.text()?);
        if let Some((_, value)) = labels.iter().find(|(known, _)| *known == key) {
            let values = vec![value.clone()];
            selector.requirements.push(Requirement {
                key,
                operator,
                values,
                min_values: None,
            });
        }
    }
    selector.requirements.sort();
    Ok(())
}

fn toleration(at: &At, strings: &mut Strings) -> Result<Toleration, ProblemError> {
    at.fields(&["key", "operator", "value", "effect", "tolerationSeconds"])?;
    let operator = match at.get("operator") {
        None => TolerationOperator::Equal,
        Some(at) => at.word(&[
            ("Equal", TolerationOperator::Equal),
            ("Exists", TolerationOperator::Exists),
            ("Gt", TolerationOperator::Gt),
            ("Lt", TolerationOperator::Lt),
        ])?,
    };
    let key = match at.get("key") {
        Some(at) => Some(at.text()?).filter(|key| !key.is_empty()),
        None => None,
    };
    if key.is_none() && operator != TolerationOperator::Exists {
        return Err(at.error("a toleration without key must have operator Exists", "add a key"));
    }
    Ok(Toleration {
        key: key.map(|key| strings.keep(key)),
        operator,
        value: match at.get("value") {
            Some(at) => strings.keep(at.text()?),
            None => strings.keep(""),
        },
        effect: match at.get("effect") {
            Some(at) => Some(at.word(&EFFECTS)?),
            None => None,
        },
    })
}

/// The taints in the list field `key`, sorted.
pub(super) fn taints(at: &At, key: &str, strings: &mut Strings) -> Result<Vec<Taint>, ProblemError> {
    let mut taints = Vec::new();
    for at in at.each(key)? {
        at.fields(&["key", "value", "effect"])?;
        taints.push(Taint {
            key: strings.keep(at.need("key")?.text()?),
            value: match at.get("value") {
                Some(at) => strings.keep(at.text()?),
                None => strings.keep(""),
            },
            effect: at.need("effect")?.word(&EFFECTS)?,
        });
    }
    taints.sort();
    Ok(taints)
}

fn host_port(at: &At, strings: &mut Strings) -> Result<HostPort, ProblemError> {
    at.fields(&["hostPort", "hostIP", "protocol"])?;
    Ok(HostPort {
        ip: match at.get("hostIP") {
            Some(at) => strings.keep(at.text()?),
            None => strings.keep("0.0.0.0"),
        },
        port: at.need("hostPort")?.whole(1, 65_535)? as u16,
        protocol: match at.get("protocol") {
            Some(at) => {
                let name = at.word(&[("TCP", "TCP"), ("UDP", "UDP"), ("SCTP", "SCTP")])?;
                strings.keep(name)
            }
            None => strings.keep("TCP"),
        },
    })
}

/// Attached volumes as (driver, id), and for every volume the terms of nodes that reach it.
type Volumes = (Pairs, Vec<Vec<Vec<Requirement>>>);

fn volumes(at: &At, strings: &mut Strings) -> Result<Volumes, ProblemError> {
    let (mut attached, mut reach) = Volumes::default();
    for at in at.each("volumes")? {
        at.fields(&["driver", "id", "nodeSelectorTerms"])?;
        attached.push((
            strings.keep(at.need("driver")?.text()?),
            strings.keep(at.need("id")?.text()?),
        ));
        let mut terms = Vec::new();
        for at in at.each("nodeSelectorTerms")? {
            terms.push(term(&at, strings)?);
        }
        if !terms.is_empty() {
            reach.push(terms);
        }
    }
    attached.sort();
    attached.dedup();
    Ok((attached, reach))
}
