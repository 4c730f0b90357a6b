//! The scheduling meaning of a pod spec.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1 as k8s,
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::LabelSelector},
};
use plimsoll_api::labels;
use plimsoll_core::{
    requirement::{Operator, Requirement},
    resources::{CPU, MEMORY, PODS, Resources},
    snapshot::{
        AffinityTerm, HostPort, PodClass, Selector, SpreadConstraint, Toleration, TolerationOperator,
    },
};

use super::{effect, requirement, resources};
use crate::slim;

type PodLabels = BTreeMap<String, String>;

/// Everything of a spec that decides where the pod may run. Labels and volumes are left empty: the
/// snapshot fills them, because they depend on other objects.
pub(crate) fn shape(namespace: &str, pod_labels: &PodLabels, spec: &slim::PodSpec) -> PodClass {
    let affinity = spec.affinity.as_ref();
    let node_affinity = affinity.and_then(|a| a.node_affinity.as_ref());
    let pod_affinity = affinity.and_then(|a| a.pod_affinity.as_ref());
    let anti_affinity = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
    let term = |t: &k8s::PodAffinityTerm| affinity_term(t, pod_labels);
    let weighted = |t: &k8s::WeightedPodAffinityTerm| (t.weight, term(&t.pod_affinity_term));
    PodClass {
        namespace: namespace.into(),
        labels: Vec::new(),
        requests: requests(spec).into_iter().collect(),
        node_selector: spec
            .node_selector
            .iter()
            .map(|(key, value)| (labels::normalize(key).into(), value.as_str().into()))
            .collect(),
        node_affinity: node_affinity
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
            .map(|required| {
                required
                    .node_selector_terms
                    .iter()
                    .map(node_selector_term)
                    .collect()
            })
            .unwrap_or_default(),
        preferred_node_affinity: node_affinity
            .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
            .into_iter()
            .flatten()
            .map(|preferred| (preferred.weight, node_selector_term(&preferred.preference)))
            .collect(),
        tolerations: spec.tolerations.iter().filter_map(toleration).collect(),
        spread: spec
            .topology_spread_constraints
            .iter()
            .map(|c| spread(c, pod_labels))
            .collect(),
        affinity: pod_affinity
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
            .into_iter()
            .flatten()
            .map(term)
            .collect(),
        anti_affinity: anti_affinity
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
            .into_iter()
            .flatten()
            .map(term)
            .collect(),
        preferred_affinity: pod_affinity
            .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
            .into_iter()
            .flatten()
            .map(weighted)
            .collect(),
        preferred_anti_affinity: anti_affinity
            .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
            .into_iter()
            .flatten()
            .map(weighted)
            .collect(),
        host_ports: host_ports(spec),
        volume_affinity: Vec::new(),
        volumes: Vec::new(),
        priority: spec.priority.unwrap_or(0),
    }
}

/// No machine has as much of anything: who asks for more waits all the same, and sums over many pods stay in range
/// whatever somebody writes into a manifest. 128 TiB, as bytes.
const REQUEST_MAX: i64 = 1 << 47;

/// What kube-scheduler counts for the pod: the larger of all containers together with sidecars and any
/// single init step with the sidecars started before it, replaced by pod-level requests where given, plus
/// overhead, plus one pod.
fn requests(spec: &slim::PodSpec) -> Resources {
    let of = |c: &slim::Container| resources(c.resources.iter().flat_map(|r| &r.requests));
    let mut total = Resources::new();
    for container in &spec.containers {
        add(&mut total, &of(container));
    }
    let mut sidecars = Resources::new();
    let mut peak_init = Resources::new();
    for init in &spec.init_containers {
        let own = of(init);
        if init.restart_policy.as_deref() == Some("Always") {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            take_max(&mut peak_init, &sidecars);
        } else {
            let mut step = sidecars.clone();
            add(&mut step, &own);
            take_max(&mut peak_init, &step);
        }
    }
    take_max(&mut total, &peak_init);
    for (name, amount) in resources(spec.resources.iter().flat_map(|r| &r.requests)) {
        if matches!(&*name, CPU | MEMORY) || name.starts_with("hugepages-") {
            total.insert(name, amount);
        }
    }
    let overhead: &BTreeMap<String, Quantity> = &spec.overhead;
    add(&mut total, &resources(overhead));
    total.retain(|_, amount| *amount > 0);
    total
        .values_mut()
        .for_each(|amount| *amount = (*amount).min(REQUEST_MAX));
    total.insert(PODS.into(), 1);
    total
}

fn add(total: &mut Resources, more: &Resources) {
    for (name, amount) in more {
        let sum = total.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*amount);
    }
}

fn take_max(total: &mut Resources, other: &Resources) {
    for (name, amount) in other {
        let entry = total.entry(name.clone()).or_default();
        *entry = (*entry).max(*amount);
    }
}

/// `matchFields` names a node; the only field there is, `metadata.name`, becomes a hostname requirement.
pub(crate) fn node_selector_term(term: &k8s::NodeSelectorTerm) -> Vec<Requirement> {
    let expressions = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    expressions
        .filter_map(|e| requirement(&e.key, &e.operator, e.values.iter().flatten()))
        .chain(fields.filter_map(|f| requirement(labels::HOSTNAME, &f.operator, f.values.iter().flatten())))
        .collect()
}

fn toleration(toleration: &k8s::Toleration) -> Option<Toleration> {
    Some(Toleration {
        key: toleration
            .key
            .as_deref()
            .filter(|k| !k.is_empty())
            .map(Into::into),
        operator: match toleration.operator.as_deref() {
            None | Some("" | "Equal") => TolerationOperator::Equal,
            Some("Exists") => TolerationOperator::Exists,
            Some("Gt") => TolerationOperator::Gt,
            Some("Lt") => TolerationOperator::Lt,
            Some(_) => return None,
        },
        value: toleration.value.as_deref().unwrap_or_default().into(),
        effect: match toleration.effect.as_deref() {
            None | Some("") => None,
            Some(text) => Some(effect(text)?),
        },
    })
}

fn spread(constraint: &k8s::TopologySpreadConstraint, pod_labels: &PodLabels) -> SpreadConstraint {
    let mut selector = selector(constraint.label_selector.as_ref());
    for key in constraint.match_label_keys.iter().flatten() {
        if let Some(value) = pod_labels.get(key) {
            selector.requirements.push(equals(Operator::In, key, value));
        }
    }
    SpreadConstraint {
        topology_key: labels::normalize(&constraint.topology_key).into(),
        max_skew: u32::try_from(constraint.max_skew).unwrap_or(1).max(1),
        min_domains: constraint.min_domains.and_then(|n| u32::try_from(n).ok()),
        hard: constraint.when_unsatisfiable != "ScheduleAnyway",
        selector,
        honor_node_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
        honor_node_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
    }
}

fn affinity_term(term: &k8s::PodAffinityTerm, pod_labels: &PodLabels) -> AffinityTerm {
    let mut own = selector(term.label_selector.as_ref());
    let keys = term.match_label_keys.iter().flatten().map(|k| (Operator::In, k));
    let mismatch = term
        .mismatch_label_keys
        .iter()
        .flatten()
        .map(|k| (Operator::NotIn, k));
    for (operator, key) in keys.chain(mismatch) {
        if let Some(value) = pod_labels.get(key) {
            own.requirements.push(equals(operator, key, value));
        }
    }
    let mut namespaces: Vec<Arc<str>> = term
        .namespaces
        .iter()
        .flatten()
        .map(|n| n.as_str().into())
        .collect();
    namespaces.sort();
    AffinityTerm {
        topology_key: labels::normalize(&term.topology_key).into(),
        selector: own,
        namespaces,
        namespace_selector: term.namespace_selector.as_ref().map(|s| selector(Some(s))),
    }
}

fn equals(operator: Operator, key: &str, value: &str) -> Requirement {
    Requirement {
        key: key.into(),
        operator,
        values: vec![value.into()],
        min_values: None,
    }
}

/// A label selector as one conjunction. Keys of pods are not normalised: they are not node labels.
pub(crate) fn selector(selector: Option<&LabelSelector>) -> Selector {
    let Some(selector) = selector else {
        return Selector {
            requirements: Vec::new(),
            nothing: true,
        };
    };
    let mut requirements: Vec<Requirement> = selector
        .match_labels
        .iter()
        .flatten()
        .map(|(key, value)| equals(Operator::In, key, value))
        .collect();
    for expression in selector.match_expressions.iter().flatten() {
        let mut values: Vec<Arc<str>> = expression
            .values
            .iter()
            .flatten()
            .map(|v| v.as_str().into())
            .collect();
        values.sort();
        values.dedup();
        let operator = match expression.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            _ => Operator::DoesNotExist,
        };
        requirements.push(Requirement {
            key: expression.key.as_str().into(),
            operator,
            values,
            min_values: None,
        });
    }
    requirements.sort();
    Selector {
        requirements,
        nothing: false,
    }
}

fn host_ports(spec: &slim::PodSpec) -> Vec<HostPort> {
    let mut ports: Vec<HostPort> = spec
        .containers
        .iter()
        .chain(
            spec.init_containers
                .iter()
                .filter(|c| c.restart_policy.as_deref() == Some("Always")),
        )
        .flat_map(|c| &c.ports)
        .filter_map(|port| {
            Some(HostPort {
                ip: port
                    .host_ip
                    .as_deref()
                    .filter(|ip| !ip.is_empty())
                    .unwrap_or("0.0.0.0")
                    .into(),
                port: port.host_port.filter(|p| *p > 0)?,
                protocol: port.protocol.as_deref().unwrap_or("TCP").into(),
            })
        })
        .collect();
    ports.sort();
    ports.dedup();
    ports
}
