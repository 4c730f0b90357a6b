//! What a cloud must answer.
//!
//! The trait, its requests, its answers and its errors, and a scripted fake. It knows no cloud.

mod choice;
mod error;
pub mod fake;

use std::{collections::BTreeMap, future::Future, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use plimsoll_api::{nodeclaim::NodeClaim, nodepool::NodePool};
use plimsoll_core::{catalog::Catalog, requirement::Requirement, resources::Resources};

pub use choice::{cheapest, machine, machine_labels};
pub use error::ProviderError;

/// A machine as the cloud knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// As in the Node's `spec.providerID`.
    pub provider_id: String,
    pub image_id: Option<String>,
    /// Labels the machine has by what it is: instance type, zone, capacity type, architecture and so on.
    pub labels: BTreeMap<String, String>,
    pub capacity: BTreeMap<String, Quantity>,
    pub allocatable: BTreeMap<String, Quantity>,
    /// NodeClaim it was launched for.
    pub claim: String,
    pub launched: Timestamp,
}

/// Answer to a request to end a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Termination {
    /// It is on its way out; ask again.
    Started,
    /// There is no such machine any more.
    Gone,
}

/// A claim to launch, with its terms read.
#[derive(Clone, Debug)]
pub struct LaunchRequest {
    pub claim: Arc<NodeClaim>,
    /// Conjunction of the claim's requirements.
    pub requirements: Vec<Requirement>,
    /// What the machine must at least hold.
    pub requests: Resources,
}

/// How the state of a node class is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeClassReadiness {
    Ready,
    NotFound,
    Terminating,
    NotReady { reason: String, message: String },
    Unknown { reason: String, message: String },
}

/// Buys and sells machines. All methods may be called again after a crash with the same arguments.
pub trait CloudProvider: Send + Sync + 'static {
    /// Label value of metrics.
    fn name(&self) -> &'static str;

    /// Launches the machine of a claim. A second call for the same claim UID returns the same machine.
    fn create(&self, request: &LaunchRequest) -> impl Future<Output = Result<Machine, ProviderError>> + Send;

    /// The machine launched for a claim, if there is one; the answer to a crash between launch and record.
    fn find(&self, claim: &NodeClaim) -> impl Future<Output = Result<Option<Machine>, ProviderError>> + Send;

    /// Ends a machine of this cluster.
    fn delete(&self, provider_id: &str) -> impl Future<Output = Result<Termination, ProviderError>> + Send;

    /// All machines of this cluster that are not gone.
    fn list(&self) -> impl Future<Output = Result<Vec<Machine>, ProviderError>> + Send;

    /// Types, offerings and prices for these pools.
    fn catalog(&self, pools: &[Arc<NodePool>])
    -> impl Future<Output = Result<Catalog, ProviderError>> + Send;

    /// Whether the class a pool names can launch, and its generation.
    fn node_class(
        &self,
        reference: &plimsoll_api::nodepool::NodeClassReference,
    ) -> impl Future<Output = Result<(NodeClassReadiness, Option<i64>), ProviderError>> + Send;

    /// Group and kind of the node classes it serves.
    fn supports(&self, group: &str, kind: &str) -> bool;
}
