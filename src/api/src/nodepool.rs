//! NodePool: which machines may be made, how many, and when they may go again.

// KubeSchema repeats each public struct inside a function, where nothing can reach it; and clippy takes columns of the
// same type for one attribute given twice.
#![allow(unreachable_pub, clippy::duplicated_attributes)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::{GoDuration, NillableDuration};
use crate::{cel, labels, schema};

/// Desired state of a NodePool.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "karpenter.sh",
    version = "v1",
    kind = "NodePool",
    doc = "NodePool says which machines may be launched for pods that do not fit, how many, and when they may go.",
    category = "karpenter",
    status = "NodePoolStatus",
    derive = "Default",
    derive = "PartialEq",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.nodes"),
    printcolumn(
        name = "NodeClass",
        type_ = "string",
        json_path = ".spec.template.spec.nodeClassRef.name"
    ),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.nodes"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Weight", type_ = "integer", priority = 1, json_path = ".spec.weight"),
    printcolumn(
        name = "CPU",
        type_ = "string",
        priority = 1,
        json_path = ".status.resources.cpu"
    ),
    printcolumn(
        name = "Memory",
        type_ = "string",
        priority = 1,
        json_path = ".status.resources.memory"
    )
)]
#[x_kube(
    validation = (
        "has(self.replicas) == has(oldSelf.replicas)",
        "replicas can be neither added nor removed: create another NodePool to change between static and dynamic"
    ),
    validation = (
        "!has(self.replicas) || !has(self.limits) || self.limits.all(name, name == 'nodes')",
        "only 'limits.nodes' is supported on a NodePool with replicas"
    ),
    validation = ("!has(self.replicas) || !has(self.weight)", "'weight' is not supported on a NodePool with replicas")
)]
pub struct NodePoolSpec {
    /// What the machines of this pool look like.
    pub template: NodeClaimTemplate,
    /// When and how fast machines of this pool may be removed or replaced.
    #[serde(default)]
    pub disruption: Disruption,
    /// Upper bounds on the sum of the pool's machines, by resource name; `nodes` bounds their number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::resource_map")]
    pub limits: Option<Limits>,
    /// Pools of higher weight are tried first; pools without one count as 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub weight: Option<i32>,
    /// Makes the pool static: this many machines, whatever the pods need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub replicas: Option<i64>,
}

/// Bounds on the capacity of a pool.
pub type Limits = BTreeMap<String, Quantity>;

/// The shape of the NodeClaims a pool makes.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeClaimTemplate {
    /// Labels and annotations of the claims and their nodes.
    #[serde(default, skip_serializing_if = "ObjectMetaTemplate::is_empty")]
    pub metadata: ObjectMetaTemplate,
    /// Everything else.
    pub spec: NodeClaimTemplateSpec,
}

/// The part of an object's metadata that a template may set.
///
/// An absent map and an empty one are kept apart, because they hash differently.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectMetaTemplate {
    /// Labels of claims and nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::labels")]
    #[x_kube(
        validation = cel::labels_outside(labels::KARPENTER_DOMAIN),
        validation = cel::labels_outside(labels::AWS_DOMAIN),
        validation = cel::labels_outside(labels::KWOK_DOMAIN),
        validation = (
            "!('karpenter.sh/nodepool' in self)",
            "label \"karpenter.sh/nodepool\" is restricted; the controller sets it"
        ),
        validation = (
            "!('kubernetes.io/hostname' in self)",
            "label \"kubernetes.io/hostname\" is restricted; it names a single machine"
        ),
        merge_strategy = MapMerge::Atomic
    )]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations of claims and nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl ObjectMetaTemplate {
    /// Whether neither map is there.
    pub fn is_empty(&self) -> bool {
        self.labels.is_none() && self.annotations.is_none()
    }
}

/// What the claims of a pool ask for.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeClaimTemplateSpec {
    /// Taints of the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::taints")]
    pub taints: Option<Vec<Taint>>,
    /// Taints that a DaemonSet takes off once it has prepared the node; pods need not tolerate them to get a machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::taints")]
    pub startup_taints: Option<Vec<Taint>>,
    /// Which machines are allowed.
    #[schemars(length(max = 100))]
    #[x_kube(
        validation = cel::operator_has_values("In"),
        validation = cel::bounds_are_integers(),
        validation = cel::min_values_are_there(),
        validation = (
            "self.all(x, x.key != 'karpenter.sh/nodepool')",
            "label \"karpenter.sh/nodepool\" is restricted; the controller sets it"
        ),
        merge_strategy = ListMerge::Atomic
    )]
    pub requirements: Vec<NodeSelectorRequirementWithMinValues>,
    /// The provider's part of the description.
    #[x_kube(
        validation = ("self.group == oldSelf.group", "nodeClassRef.group is immutable; create another NodePool"),
        validation = ("self.kind == oldSelf.kind", "nodeClassRef.kind is immutable; create another NodePool")
    )]
    pub node_class_ref: NodeClassReference,
    /// How long a node may take to drain; after that its pods are deleted whatever protects them. Absent: as long as
    /// it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_grace_period: Option<GoDuration>,
    /// Age at which a node is removed whatever protects it.
    #[serde(default = "expire_after_default")]
    pub expire_after: NillableDuration,
}

impl Default for NodeClaimTemplateSpec {
    fn default() -> Self {
        Self {
            taints: None,
            startup_taints: None,
            requirements: Vec::new(),
            node_class_ref: NodeClassReference::default(),
            termination_grace_period: None,
            expire_after: expire_after_default(),
        }
    }
}

/// A month, so that machines are replaced with current images by and by.
pub(crate) fn expire_after_default() -> NillableDuration {
    "720h".parse().expect("720h is a duration")
}

/// A requirement on the labels of a machine, with a lower bound on how many values must stay possible.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSelectorRequirementWithMinValues {
    /// The label key.
    #[schemars(length(max = schema::LABEL_KEY_LENGTH_MAX), regex(pattern = schema::QUALIFIED_NAME))]
    #[x_kube(
        validation = cel::key_outside(labels::KARPENTER_DOMAIN),
        validation = cel::key_outside(labels::AWS_DOMAIN),
        validation = cel::key_outside(labels::KWOK_DOMAIN),
        validation = cel::key_is_not_hostname()
    )]
    pub key: String,
    /// How the label relates to the values.
    pub operator: Operator,
    /// At least one for In; exactly one integer for Gt, Lt, Gte and Lte; none for Exists and DoesNotExist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::label_values")]
    pub values: Vec<String>,
    /// How many different values of this key the instance types of a launch must offer. Alpha.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 50))]
    pub min_values: Option<i32>,
}

/// Operators of a requirement: those of Kubernetes, and the inclusive bounds.
#[derive(
    JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Operator {
    #[default]
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
    Gte,
    Lte,
}

/// The object that holds a provider's settings.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeClassReference {
    /// API group of the class, without a version.
    #[schemars(regex(pattern = "^[^/]*$"))]
    #[x_kube(validation = cel::not_empty("group"))]
    pub group: String,
    /// Kind of the class.
    #[x_kube(validation = cel::not_empty("kind"))]
    pub kind: String,
    /// Name of the class.
    #[x_kube(validation = cel::not_empty("name"))]
    pub name: String,
}

/// When and how fast machines of a pool may be removed or replaced.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Disruption {
    /// How long a node must have been quiet before it is consolidated; Never switches consolidation off.
    #[serde(default = "consolidate_after_default")]
    pub consolidate_after: NillableDuration,
    /// Which nodes are consolidated.
    #[serde(default)]
    pub consolidation_policy: ConsolidationPolicy,
    /// How many nodes may be disrupted at once; the strictest active budget counts.
    #[serde(default = "budgets_default")]
    #[schemars(length(max = 50))]
    #[x_kube(
        validation = (
            "self.all(x, has(x.schedule) == has(x.duration))",
            "a budget must have both 'schedule' and 'duration', or neither"
        ),
        merge_strategy = ListMerge::Atomic
    )]
    pub budgets: Vec<Budget>,
}

impl Default for Disruption {
    fn default() -> Self {
        Self {
            consolidate_after: consolidate_after_default(),
            consolidation_policy: ConsolidationPolicy::default(),
            budgets: budgets_default(),
        }
    }
}

fn consolidate_after_default() -> NillableDuration {
    NillableDuration::from_secs(0)
}

fn budgets_default() -> Vec<Budget> {
    vec![Budget::default()]
}

/// Which nodes are consolidated.
#[derive(
    JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum ConsolidationPolicy {
    WhenEmpty,
    #[default]
    WhenEmptyOrUnderutilized,
    Balanced,
}

/// How many nodes of a pool may be disrupted at once, and when that holds.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// A number, or a percentage of the pool's nodes, rounded up.
    #[serde(default = "budget_nodes_default")]
    #[schemars(regex(pattern = schema::BUDGET_NODES))]
    pub nodes: String,
    /// The reasons the budget holds for; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 50))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub reasons: Option<Vec<DisruptionReason>>,
    /// When the budget begins to hold: five cron fields in UTC, or a name such as @daily. Absent: always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = schema::CRON))]
    pub schedule: Option<String>,
    /// How long the budget holds from each hit of the schedule, in hours and minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = schema::BUDGET_DURATION))]
    pub duration: Option<GoDuration>,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            nodes: budget_nodes_default(),
            reasons: None,
            schedule: None,
            duration: None,
        }
    }
}

fn budget_nodes_default() -> String {
    "10%".to_owned()
}

/// Why a node is disrupted by the controller's own choice.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DisruptionReason {
    Underutilized,
    Empty,
    Drifted,
}

impl DisruptionReason {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Underutilized => "Underutilized",
            Self::Empty => "Empty",
            Self::Drifted => "Drifted",
        }
    }
}

/// Observed state of a NodePool.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodePoolStatus {
    /// Sum of the capacity of the pool's machines.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::resource_map")]
    pub resources: BTreeMap<String, Quantity>,
    /// Number of the pool's nodes.
    #[serde(default)]
    pub nodes: i64,
    /// The generation of the NodeClass that NodeRegistrationHealthy speaks about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_class_observed_generation: Option<i64>,
    /// Health and readiness.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
