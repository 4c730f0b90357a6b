//! Plan: what a person approves. One step that makes the cluster cheaper, or gives waiting pods machines, said completely.
//!
//! The controller writes it in mode advise and acts on none. A step is small enough to be read, and far below what etcd
//! takes; the next one follows from the cluster that the first has left.

// KubeSchema repeats each public struct inside a function, where nothing can reach it; and clippy takes columns of the
// same type for one attribute given twice.
#![allow(unreachable_pub, clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::report::Money;

/// Most machines that one Plan buys, and most that it removes.
pub const MACHINES_MAX: usize = 20;
/// Most machines that pods are moved to.
pub const FILLINGS_MAX: usize = 1000;
/// Longest spec, in bytes of JSON.
pub const BYTES_MAX: usize = 512 * 1024;
/// True once the cluster has become another, or wants nothing any more.
pub const SUPERSEDED: &str = "Superseded";

/// What would be done, why, and what it is worth. Never changes.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "plimsoll.dev",
    version = "v1alpha1",
    kind = "Plan",
    doc = "Plan is a step that a person can approve: machines to buy or to remove, and the commands that do it. The controller \
           writes it and does not act on it.",
    category = "plimsoll",
    status = "PlanStatus",
    derive = "PartialEq",
    printcolumn(name = "Buy", type_ = "integer", json_path = ".spec.machinesBought"),
    printcolumn(name = "Remove", type_ = "integer", json_path = ".spec.machinesRemoved"),
    printcolumn(name = "Pods", type_ = "integer", json_path = ".spec.pods"),
    printcolumn(
        name = "Before/month",
        type_ = "string",
        json_path = ".spec.before.perMonth",
        description = "Dollars for the machines there are"
    ),
    printcolumn(
        name = "Saves/month",
        type_ = "string",
        json_path = ".spec.saves.perMonth",
        description = "Dollars; negative when machines are bought for pods that wait"
    ),
    printcolumn(
        name = "Superseded",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Superseded")].status"#,
        description = "True once the cluster wants something else"
    ),
    printcolumn(name = "Good until", type_ = "string", json_path = ".spec.goodUntil"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = ("self == oldSelf", "spec is immutable; what is altered is not what was planned"))]
pub struct PlanSpec {
    /// SHA-256 of everything else here but the times, in hexadecimal: of what the plan was made from as far as it rests
    /// on it, and of what follows. The Plan's name begins with `plan-` and goes on with the first ten digits.
    #[schemars(length(max = 64))]
    pub digest: String,
    /// When the cluster was looked at.
    pub made_at: Time,
    /// It is not to be carried out later than this.
    pub good_until: Time,
    /// Where prices come from, and of which day they are.
    #[schemars(length(max = 253))]
    pub prices: String,
    /// Settings of the planner.
    pub settings: Settings,
    /// What all machines with a known price cost before it.
    pub before: Money,
    /// What they cost after it.
    pub after: Money,
    /// Before less after.
    pub saves: Money,
    /// No plan for the same machines and pods leads to less; absent when that is not proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Money>,
    /// By how much `after` is above `bound`, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub gap_percent: Option<String>,
    /// How many machines are in `buy`.
    pub machines_bought: i32,
    /// How many machines are in `remove`.
    pub machines_removed: i32,
    /// Pods that move, or that wait and get a place.
    pub pods: i32,
    /// Machines to buy, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub buy: Vec<Purchase>,
    /// Machines there are that take pods, in this order, after those of `buy`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub fill: Vec<Filling>,
    /// Machines that go once their pods run elsewhere, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub remove: Vec<Removal>,
    /// A shell script with which somebody who may do all of it carries it out: it needs kubectl.
    #[schemars(length(max = 524_288))]
    pub commands: String,
    /// What is left for plans that follow, and what makes the numbers less exact.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), inner(length(max = 1000)))]
    pub notes: Vec<String>,
}

/// What a plan depends on beside the cluster and the prices.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Respect or Ignore.
    #[schemars(length(max = 16))]
    pub preference_policy: String,
    /// Strict or BestEffort.
    #[schemars(length(max = 16))]
    pub min_values_policy: String,
    /// Search steps.
    pub steps: i64,
}

impl Default for Settings {
    /// What the program plans with unless it is told otherwise.
    fn default() -> Self {
        Self {
            preference_policy: "Respect".to_owned(),
            min_values_policy: "Strict".to_owned(),
            steps: 20_000,
        }
    }
}

/// A machine to buy.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Purchase {
    /// NodePool or node group.
    #[schemars(length(max = 253))]
    pub pool: String,
    #[schemars(length(max = 253))]
    pub instance_type: String,
    #[schemars(length(max = 253))]
    pub zone: String,
    #[schemars(length(max = 253))]
    pub capacity_type: String,
    /// Dollars.
    #[schemars(length(max = 32))]
    pub per_hour: String,
    /// Nothing in the cluster can buy it: it has to be added to its node group first.
    #[serde(default)]
    pub by_hand: bool,
    /// Why it is bought.
    #[schemars(length(max = 253))]
    pub reason: String,
    /// The pods meant for it, as `namespace/name`.
    #[schemars(length(max = 1000), inner(length(max = 320)))]
    pub pods: Vec<String>,
}

/// A machine there is, and what it takes in.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filling {
    #[schemars(length(max = 253))]
    pub node: String,
    /// The pods meant for it, as `namespace/name`.
    #[schemars(length(max = 1000), inner(length(max = 320)))]
    pub pods: Vec<String>,
}

/// A machine that goes.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Removal {
    #[schemars(length(max = 253))]
    pub node: String,
    /// The NodeClaim that owns it; a machine without one is ended by who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub node_claim: Option<String>,
    #[schemars(length(max = 253))]
    pub pool: String,
    #[schemars(length(max = 253))]
    pub instance_type: String,
    #[schemars(length(max = 253))]
    pub zone: String,
    #[schemars(length(max = 253))]
    pub capacity_type: String,
    /// Dollars that it costs today.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub per_hour: Option<String>,
    /// Why it can go.
    #[schemars(length(max = 253))]
    pub reason: String,
}

/// Whether it still holds.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanStatus {
    /// When the cluster was last seen to want this plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_at: Option<Time>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub conditions: Vec<Condition>,
}
