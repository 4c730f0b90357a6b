//! Report: what a cluster costs, could cost, and what is in the way, kept current by the controller.
//!
//! The short form of `plimsoll report`. Lists are cut, so that the object stays far below what etcd takes.

// KubeSchema and clippy: columns of the same type are taken for one attribute given twice.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, CustomResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Name of the one Report of a cluster.
pub const NAME: &str = "cluster";
/// Longest list of machines in a status.
pub const MACHINES_MAX: usize = 50;
/// Longest list of restraints in a status.
pub const RESTRAINTS_MAX: usize = 20;
/// Most notes in a status.
pub const NOTES_MAX: usize = 10;
/// Longest name in a status, in bytes: no longer than Kubernetes' own.
pub const TEXT_MAX: usize = 253;
/// Longest note, in bytes.
pub const NOTE_MAX: usize = 1000;

/// Nothing can be asked of a Report.
#[derive(CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "plimsoll.dev",
    version = "v1alpha1",
    kind = "Report",
    doc = "Report says what the cluster costs, what it could cost, and what is in the way. The controller writes it.",
    category = "plimsoll",
    status = "ReportStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodes"),
    printcolumn(
        name = "Now/month",
        type_ = "string",
        json_path = ".status.now.perMonth",
        description = "Dollars for the machines there are"
    ),
    printcolumn(
        name = "Reachable/month",
        type_ = "string",
        json_path = ".status.reachable.perMonth",
        description = "Dollars for the cheapest arrangement found that keeps every rule"
    ),
    printcolumn(
        name = "Saves",
        type_ = "integer",
        json_path = ".status.savesPercent",
        description = "Percent"
    ),
    printcolumn(name = "Waiting", type_ = "integer", json_path = ".status.podsWaiting"),
    printcolumn(
        name = "Observed",
        type_ = "date",
        json_path = ".status.observedAt",
        description = "When the cluster was looked at"
    )
)]
pub struct ReportSpec {}

/// What was found. Dollars are decimal numbers in strings; a month has 730 hours.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportStatus {
    /// When the cluster was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
    /// Where prices come from, and of which day they are.
    pub prices: String,
    /// Machines in the cluster.
    pub nodes: i32,
    /// Of these, machines whose price is not known. They are counted nowhere below.
    pub nodes_unpriced: i32,
    /// Pods that have a machine.
    pub pods: i32,
    /// Pods that wait for one.
    pub pods_waiting: i32,
    /// What the machines cost.
    pub now: Money,
    /// What the cheapest arrangement found costs that keeps every rule and buys no more spot than today.
    pub reachable: Money,
    /// The same with spot for every pod that tolerates it.
    pub reachable_with_spot: Money,
    /// The same as reachable with arm64 machines for every pod that is known to run on them.
    #[serde(default)]
    pub reachable_with_arm64: Money,
    /// The same as reachable if nothing forbade an eviction.
    pub unblocked: Money,
    /// No arrangement of the same pods costs less.
    pub bound: Money,
    /// How much less than now reachable is, in whole percent.
    pub saves_percent: i32,
    /// Machines of today that reachable does without, dearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub remove: Vec<MachineGroup>,
    /// Machines that reachable adds, dearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub buy: Vec<MachineGroup>,
    /// What keeps machines that could go, dearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub restraints: Vec<Restraint>,
    /// What the difference has come to while somebody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watched: Option<Watched>,
    /// What makes the numbers less exact.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub notes: Vec<String>,
    /// Entries that were cut from the lists; `plimsoll report` shows them.
    #[serde(default)]
    pub omitted: i32,
}

/// An amount of money per time, in dollars.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Money {
    pub per_hour: String,
    pub per_month: String,
}

/// Equal machines.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineGroup {
    pub count: i32,
    /// NodePool or node group; empty when the machines name none.
    pub pool: String,
    pub instance_type: String,
    pub zone: String,
    pub capacity_type: String,
    /// Dollars for one; absent when its price is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_hour: Option<String>,
}

/// Something that keeps machines.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restraint {
    /// What it is, for example PodDisruptionBudget or DoNotDisrupt.
    pub kind: String,
    /// The budget, workload or node.
    pub subject: String,
    /// Whom to ask, where the subject does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Dollars it costs; absent when that was not planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_month: Option<String>,
    /// What its owner can do.
    pub fix: String,
}

/// Sums over the time in which a controller looked. Gaps between looks are left out.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watched {
    /// Since when.
    pub since: Time,
    /// For how long, without the gaps.
    pub seconds: i64,
    /// Dollars the machines cost in that time.
    pub paid: String,
    /// Dollars they would have cost had the cluster been as cheap as was reachable all along.
    pub reachable: String,
}

/// The CRD, in which a Report needs no spec.
pub(crate) fn crd() -> CustomResourceDefinition {
    let mut crd = Report::crd();
    let root = crd.spec.versions[0]
        .schema
        .as_mut()
        .and_then(|validation| validation.open_api_v3_schema.as_mut())
        .expect("a derived CRD has a schema");
    let spec = root.properties.as_mut().and_then(|p| p.get_mut("spec"));
    spec.expect("a derived CRD has a spec").default = Some(JSON(json!({})));
    root.required = None;
    crd
}
