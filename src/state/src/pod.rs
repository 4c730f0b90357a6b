//! A pod as the index keeps it, and the questions provisioning, disruption and drain ask of it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use plimsoll_api::{duration::GoDuration, labels, taints};
use plimsoll_core::snapshot::{PodClass, TaintEffect, Toleration, TolerationOperator};

use crate::slim;

/// What survives of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodState {
    /// `namespace/name`.
    pub key: Arc<str>,
    pub uid: Arc<str>,
    /// Scheduling meaning without labels, shared by all pods of that shape.
    pub shape: Arc<PodClass>,
    /// Sorted by key; shared.
    pub labels: Arc<Vec<(Arc<str>, Arc<str>)>>,
    /// Of all its containers, sorted; shared. Only reports look at them.
    pub images: Arc<Vec<Arc<str>>>,
    /// Names of the PersistentVolumeClaims it mounts, in its namespace.
    pub claims: Vec<Arc<str>>,
    pub node: Option<Arc<str>>,
    pub nominated_node: Option<Arc<str>>,
    pub owner: Owner,
    /// `namespace/name` of the DaemonSet that owns it.
    pub daemon_set: Option<Arc<str>>,
    /// Kind and name of what the user wrote, such as `Deployment/web`; None for a pod nobody owns.
    pub workload: Option<Arc<str>>,
    /// It has an `emptyDir` or `hostPath` volume.
    pub local_storage: bool,
    /// Annotated for Cluster Autoscaler as not safe to evict.
    pub not_safe_to_evict: bool,
    pub terminal: bool,
    pub ready: bool,
    /// kube-scheduler tried and found no place.
    pub unschedulable: bool,
    /// `system-cluster-critical` or `system-node-critical`.
    pub critical: bool,
    pub created: Timestamp,
    pub started: Option<Timestamp>,
    /// Deletion timestamp: when its grace period will have passed.
    pub deletion: Option<Timestamp>,
    pub grace_period: Duration,
    pub do_not_disrupt: DoNotDisrupt,
    /// `controller.kubernetes.io/pod-deletion-cost`.
    pub deletion_cost: i32,
}

/// Who made the pod, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Nobody: it will not come back.
    None,
    DaemonSet,
    /// A static pod of a kubelet.
    Node,
    StatefulSet,
    Other,
}

/// The pod's `karpenter.sh/do-not-disrupt` annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DoNotDisrupt {
    No,
    Always,
    /// From its start on.
    For(Duration),
    /// Neither `true` nor a positive duration: ignored.
    Invalid(Arc<str>),
}

/// A pod this long past its deletion timestamp is stuck and no longer waited for (upstream's minute).
const STUCK_AFTER: SignedDuration = SignedDuration::from_mins(1);

impl PodState {
    /// Reads a pod on its own, outside the index.
    pub fn from_pod(pod: &slim::Pod) -> Self {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let shape = crate::lower::shape::shape(namespace, &labels, &pod.spec);
        let shared = labels
            .iter()
            .map(|(k, v)| (Arc::from(k.as_str()), Arc::from(v.as_str())))
            .collect();
        from_slim(
            pod,
            Arc::new(shape),
            Arc::new(shared),
            Arc::new(images(&pod.spec)),
        )
    }

    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    pub fn name(&self) -> &str {
        self.key.split_once('/').map_or(&self.key, |(_, name)| name)
    }

    /// Neither finished nor being deleted.
    pub fn is_active(&self) -> bool {
        !self.terminal && self.deletion.is_none()
    }

    /// It wants a machine: kube-scheduler refused it and nobody has a plan for it.
    pub fn is_provisionable(&self) -> bool {
        self.unschedulable
            && self.is_active()
            && self.node.is_none()
            && !matches!(self.owner, Owner::DaemonSet | Owner::Node)
    }

    /// It, or its successor, will need another place when its node goes.
    pub fn is_reschedulable(&self) -> bool {
        let returns = self.is_active() || (!self.terminal && self.owner == Owner::StatefulSet);
        returns && !matches!(self.owner, Owner::DaemonSet | Owner::Node)
    }

    /// Its owner makes it anew when it is evicted, so that another machine must have room for it. A pod that nobody owns is
    /// gone then: a machine bought for it would stand empty.
    pub fn is_recreated(&self) -> bool {
        self.is_reschedulable() && self.owner != Owner::None
    }

    /// Asks not to be disrupted at this moment.
    pub fn do_not_disrupt_now(&self, now: Timestamp) -> bool {
        match self.do_not_disrupt {
            DoNotDisrupt::No | DoNotDisrupt::Invalid(_) => false,
            DoNotDisrupt::Always => true,
            DoNotDisrupt::For(limit) => self.started.is_none_or(|start| {
                now.duration_since(start) < SignedDuration::try_from(limit).unwrap_or_default()
            }),
        }
    }

    /// Deleted, and still there long after its grace period.
    pub fn is_stuck_terminating(&self, now: Timestamp) -> bool {
        self.deletion
            .is_some_and(|at| now.duration_since(at) > STUCK_AFTER)
    }

    /// A static pod cannot be evicted; it dies with its machine.
    pub fn is_mirror(&self) -> bool {
        self.owner == Owner::Node
    }

    /// Tolerates the disruption taint, so it means to stay to the end.
    pub fn tolerates_disruption(&self) -> bool {
        self.shape.tolerations.iter().any(tolerates_disrupted)
    }

    /// A voluntary disruption would have to evict it.
    pub fn is_evictable(&self, now: Timestamp) -> bool {
        self.is_active() && !self.tolerates_disruption() && !self.is_mirror() && !self.do_not_disrupt_now(now)
    }

    /// A drain has to wait for it.
    pub fn is_waiting_eviction(&self, now: Timestamp) -> bool {
        !self.terminal && !self.tolerates_disruption() && !self.is_stuck_terminating(now) && !self.is_mirror()
    }
}

fn tolerates_disrupted(toleration: &Toleration) -> bool {
    let key = toleration.key.as_deref();
    (key.is_none() || key == Some(taints::DISRUPTED))
        && matches!(toleration.effect, None | Some(TaintEffect::NoSchedule))
        && match toleration.operator {
            TolerationOperator::Exists => true,
            TolerationOperator::Equal => toleration.value.is_empty(),
            TolerationOperator::Gt | TolerationOperator::Lt => false,
        }
}

/// Reads owner, annotations and conditions of a pod; its shape is given by the lowering.
pub(crate) fn from_slim(
    pod: &slim::Pod,
    shape: Arc<PodClass>,
    labels: Arc<Vec<(Arc<str>, Arc<str>)>>,
    images: Arc<Vec<Arc<str>>>,
) -> PodState {
    let meta = &pod.metadata;
    let annotation = |key: &str| {
        meta.annotations
            .as_ref()
            .and_then(|a| a.get(key))
            .map(String::as_str)
    };
    let condition = |type_: &str| pod.status.conditions.iter().find(|c| c.type_ == type_);
    let phase = pod.status.phase.as_deref().unwrap_or_default();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let name = meta.name.as_deref().unwrap_or_default();
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    PodState {
        key: format!("{namespace}/{name}").into(),
        uid: meta.uid.as_deref().unwrap_or_default().into(),
        shape,
        labels,
        images,
        claims: claim_names(name, &pod.spec.volumes),
        node: pod
            .spec
            .node_name
            .as_deref()
            .filter(|n| !n.is_empty())
            .map(Into::into),
        nominated_node: pod
            .status
            .nominated_node_name
            .as_deref()
            .filter(|n| !n.is_empty())
            .map(Into::into),
        owner: owner(owners),
        daemon_set: owners
            .iter()
            .find(|r| r.api_version == "apps/v1" && r.kind == "DaemonSet")
            .map(|r| format!("{namespace}/{}", r.name).into()),
        workload: crate::workload::of(owners, &pod.metadata),
        local_storage: pod
            .spec
            .volumes
            .iter()
            .any(|v| v.empty_dir.is_some() || v.host_path.is_some()),
        not_safe_to_evict: annotation(slim::SAFE_TO_EVICT) == Some("false"),
        terminal: matches!(phase, "Succeeded" | "Failed"),
        ready: condition("Ready").is_some_and(|c| c.status == "True"),
        unschedulable: condition("PodScheduled")
            .is_some_and(|c| c.status == "False" && c.reason.as_deref() == Some("Unschedulable")),
        critical: matches!(
            pod.spec.priority_class_name.as_deref(),
            Some("system-cluster-critical" | "system-node-critical")
        ),
        created: meta
            .creation_timestamp
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |t| t.0),
        started: pod.status.start_time.as_ref().map(|t| t.0),
        deletion: meta.deletion_timestamp.as_ref().map(|t| t.0),
        grace_period: Duration::from_secs(
            u64::try_from(pod.spec.termination_grace_period_seconds.unwrap_or(30)).unwrap_or(0),
        ),
        do_not_disrupt: do_not_disrupt(annotation(labels::DO_NOT_DISRUPT)),
        deletion_cost: annotation(labels::POD_DELETION_COST)
            .and_then(|c| c.parse().ok())
            .unwrap_or(0),
    }
}

fn owner(references: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference]) -> Owner {
    let owned_by = |api_version: &str, kind: &str| {
        references
            .iter()
            .any(|r| r.api_version == api_version && r.kind == kind)
    };
    if owned_by("apps/v1", "DaemonSet") {
        Owner::DaemonSet
    } else if owned_by("v1", "Node") {
        Owner::Node
    } else if owned_by("apps/v1", "StatefulSet") {
        Owner::StatefulSet
    } else if references.is_empty() {
        Owner::None
    } else {
        Owner::Other
    }
}

fn do_not_disrupt(annotation: Option<&str>) -> DoNotDisrupt {
    match annotation {
        None => DoNotDisrupt::No,
        Some("true") => DoNotDisrupt::Always,
        Some(text) => match text.parse::<GoDuration>().map(|d| d.as_duration()) {
            Ok(limit) if !limit.is_zero() => DoNotDisrupt::For(limit),
            _ => DoNotDisrupt::Invalid(text.into()),
        },
    }
}

/// The images a pod cannot run without.
pub(crate) fn images(spec: &slim::PodSpec) -> Vec<Arc<str>> {
    let containers = spec.containers.iter().chain(&spec.init_containers);
    let named: BTreeSet<&str> = containers.map(|c| &*c.image).filter(|i| !i.is_empty()).collect();
    named.into_iter().map(Arc::from).collect()
}

/// Names of the claims a pod mounts; a generic ephemeral volume's claim is named after pod and volume.
fn claim_names(pod: &str, volumes: &[slim::Volume]) -> Vec<Arc<str>> {
    let name = |volume: &slim::Volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.as_str().into()),
        (None, Some(_)) => Some(format!("{pod}-{}", volume.name).into()),
        (None, None) => None,
    };
    volumes.iter().filter_map(name).collect()
}
