//! An immutable picture of the cluster, reduced to what planning looks at.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::{catalog::MicroDollars, requirement::Requirement, resources::Resources};

/// Labels by key.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// Index of a class in [`Snapshot::classes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub u32);

/// Index of a pod in [`Snapshot::pods`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodId(pub u32);

/// Index of a node in [`Snapshot::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// Index of a pool in [`Snapshot::pools`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId(pub u32);

/// The cluster at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Grows with every change of the index; a plan names the revision it was made from.
    pub revision: u64,
    /// Distinct scheduling meanings. Pods of a class are interchangeable for planning.
    pub classes: Vec<PodClass>,
    /// Sorted by key. Terminal pods are absent.
    pub pods: Vec<Pod>,
    /// Machines that exist or were ordered, sorted by name. Includes nodes no pool owns.
    pub nodes: Vec<Node>,
    /// Sorted by name. Only pools that are ready, not deleting and not static.
    pub pools: Vec<Pool>,
    /// Sorted by key.
    pub daemon_sets: Vec<DaemonSet>,
    /// Labels of each namespace, for `namespaceSelector`.
    pub namespaces: BTreeMap<Arc<str>, Labels>,
}

/// The scheduling-relevant part of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodClass {
    pub namespace: Arc<str>,
    /// Only labels that some selector of this snapshot looks at.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// Sum over containers as kube-scheduler computes it, `pods` = 1 included; sorted by name.
    pub requests: Vec<(Arc<str>, i64)>,
    pub node_selector: Vec<(Arc<str>, Arc<str>)>,
    /// Required node affinity: alternatives (OR), each a conjunction (AND). Empty means no requirement.
    pub node_affinity: Vec<Vec<Requirement>>,
    /// Preferred node affinity: (weight, conjunction), as written.
    pub preferred_node_affinity: Vec<(i32, Vec<Requirement>)>,
    pub tolerations: Vec<Toleration>,
    pub spread: Vec<SpreadConstraint>,
    pub affinity: Vec<AffinityTerm>,
    pub anti_affinity: Vec<AffinityTerm>,
    pub preferred_affinity: Vec<(i32, AffinityTerm)>,
    pub preferred_anti_affinity: Vec<(i32, AffinityTerm)>,
    pub host_ports: Vec<HostPort>,
    /// Where its volumes can be reached: for every volume alternatives (OR) of conjunctions (AND).
    pub volume_affinity: Vec<Vec<Vec<Requirement>>>,
    /// Volumes it attaches, for the limits of nodes: (CSI driver, volume id). Two classes that share a
    /// volume id share the attachment.
    pub volumes: Vec<(Arc<str>, Arc<str>)>,
    /// Pod priority, for reports and drain order; planning does not rank by it.
    pub priority: i32,
}

/// A pod, by its class.
#[derive(Clone, Debug)]
pub struct Pod {
    /// `namespace/name`.
    pub key: Arc<str>,
    pub uid: Arc<str>,
    pub class: ClassId,
    pub place: Place,
    /// Owned by a DaemonSet: it follows its node and needs no other place.
    pub daemon: bool,
    /// Being deleted: it still uses its node's resources, but selectors of others no longer count it.
    pub terminating: bool,
}

/// Where a pod stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Waits for a place.
    Pending,
    /// A former plan put it on this node and the node is still coming; it stays there unless it no
    /// longer fits.
    Assigned(NodeId),
    /// Runs (or starts) there.
    Bound(NodeId),
    /// Runs on a node that is leaving and will need another place.
    Leaving(NodeId),
}

/// A machine that exists or was ordered.
#[derive(Clone, Debug)]
pub struct Node {
    /// Node name, or the NodeClaim's name while there is no Node.
    pub name: Arc<str>,
    /// NodeClaim that owns it. None: a machine plimsoll must not touch.
    pub claim: Option<Arc<str>>,
    pub pool: Option<Arc<str>>,
    pub stage: NodeStage,
    /// It is being deleted, drained, or marked: not a destination.
    pub leaving: bool,
    /// Its Node exists and is not Ready. Uses up disruption budget.
    pub not_ready: bool,
    /// Labels it has, or will have as far as is decided.
    pub labels: Labels,
    /// Taints that will remain once it is initialized; plus those it has now when it is initialized.
    pub taints: Vec<Taint>,
    pub capacity: Resources,
    pub allocatable: Resources,
    /// Price per hour of what it is; None when type, zone or capacity type is unknown to the catalogue.
    pub price: Option<MicroDollars>,
    /// CSI attach limits by driver, when known.
    pub volume_limits: BTreeMap<Arc<str>, u32>,
    pub created: Timestamp,
    /// Last pod event on it, or when it became initialized; None before that. `consolidateAfter` counts from here.
    pub quiet_since: Option<Timestamp>,
    /// The one reason, if any, for which it must not be disrupted voluntarily now.
    pub disruption_blocker: Option<Blocker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeStage {
    /// Claimed, no Node object seen.
    InFlight,
    Registered,
    Initialized,
}

/// Why a node must not be disrupted voluntarily.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocker {
    NotInitialized,
    /// A pending pod was promised a place there.
    Nominated,
    NodeDoNotDisrupt,
    PodDoNotDisrupt {
        pod: Arc<str>,
    },
    PodDisruptionBudget {
        pdb: Arc<str>,
        pod: Arc<str>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Taint {
    pub key: Arc<str>,
    pub value: Arc<str>,
    pub effect: TaintEffect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaintEffect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Toleration {
    /// None tolerates every key (operator `Exists`).
    pub key: Option<Arc<str>>,
    pub operator: TolerationOperator,
    pub value: Arc<str>,
    /// None tolerates every effect.
    pub effect: Option<TaintEffect>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TolerationOperator {
    Equal,
    Exists,
    Gt,
    Lt,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpreadConstraint {
    pub topology_key: Arc<str>,
    pub max_skew: u32,
    pub min_domains: Option<u32>,
    /// `DoNotSchedule` when true, `ScheduleAnyway` when false.
    pub hard: bool,
    /// `matchLabelKeys` already folded in with the pod's own values.
    pub selector: Selector,
    pub honor_node_affinity: bool,
    pub honor_node_taints: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AffinityTerm {
    pub topology_key: Arc<str>,
    /// `matchLabelKeys` and `mismatchLabelKeys` already folded in.
    pub selector: Selector,
    /// Namespaces listed; with no selector of namespaces and none listed, the pod's own.
    pub namespaces: Vec<Arc<str>>,
    pub namespace_selector: Option<Selector>,
}

/// A label selector as a conjunction (In, NotIn, Exists, DoesNotExist). Empty selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    pub requirements: Vec<Requirement>,
    /// A nil selector selects nothing.
    pub nothing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// `0.0.0.0` and `::` stand for every address.
    pub ip: Arc<str>,
    pub port: u16,
    pub protocol: Arc<str>,
}

/// A pool that may buy machines.
#[derive(Clone, Debug)]
pub struct Pool {
    pub name: Arc<str>,
    /// Higher is tried first, 0 when not set; ties go to the alphabetically later name, as upstream does.
    pub weight: i32,
    /// Template labels and requirements in one list.
    pub requirements: Vec<Requirement>,
    /// Template labels, the pool label and the node class label.
    pub labels: Labels,
    pub taints: Vec<Taint>,
    pub startup_taints: Vec<Taint>,
    /// Upper limits of the sum of node capacity; may contain [`crate::resources::NODES`].
    pub limits: Resources,
    /// None: `consolidateAfter: Never`.
    pub consolidate_after: Option<Duration>,
    pub budgets: Vec<Budget>,
}

/// A disruption budget, as data. Evaluated by the disruption decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    pub nodes: BudgetNodes,
    /// Empty: every reason.
    pub reasons: Vec<DisruptionReason>,
    /// Cron expression (UTC) and how long each window lasts; None: always.
    pub window: Option<(Arc<str>, Duration)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetNodes {
    Count(u32),
    /// Rounded up.
    Percent(u32),
    /// The text in the object could not be read: nothing may be disrupted.
    Invalid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DisruptionReason {
    Underutilized,
    Empty,
    Drifted,
}

/// A DaemonSet, for its overhead on new nodes.
#[derive(Clone, Debug)]
pub struct DaemonSet {
    /// `namespace/name`.
    pub key: Arc<str>,
    /// Shape of its newest pod, or of its template when it has none. Node-name affinity removed.
    pub class: ClassId,
}
