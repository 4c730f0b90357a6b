//! What a cloud must answer.
//!
//! The trait, its requests, its answers and its errors, and a scripted fake. It knows no cloud.

mod choice;
mod error;
pub mod fake;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::api::resource::Quantity};
use plimsoll_api::{
    nodeclaim::NodeClaim,
    nodepool::{NodeClassReference, NodePool},
};
use plimsoll_core::{catalog::Catalog, requirement::Requirement, resources::Resources};

pub use choice::{cheapest, machine, machine_labels, offers};
pub use error::{ProviderError, chain};

/// A machine as the cloud knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// As in the Node's `spec.providerID`.
    pub provider_id: String,
    pub image_id: Option<String>,
    /// Labels the machine has by what it is: instance type, zone, capacity type, architecture and so on.
    pub labels: BTreeMap<String, String>,
    /// What the provider wants to find on the claim again, such as the hash of the node class at the launch.
    pub annotations: BTreeMap<String, String>,
    pub capacity: BTreeMap<String, Quantity>,
    pub allocatable: BTreeMap<String, Quantity>,
    /// NodeClaim it was launched for.
    pub claim: String,
    pub launched: Timestamp,
}

/// All machines of a cluster, as far as its clouds have answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// Those that are not gone.
    pub machines: Vec<Machine>,
    /// Names of claims whose machines may exist and not be listed: where they are could not be asked.
    pub unseen: BTreeSet<String>,
    /// Node classes of which there may be other machines that are not listed, whose claims have gone.
    pub unseen_classes: Vec<NodeClassReference>,
}

impl From<Vec<Machine>> for Listing {
    fn from(machines: Vec<Machine>) -> Self {
        Self {
            machines,
            ..Self::default()
        }
    }
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

/// A list of prices in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceList {
    pub capacity_type: &'static str,
    pub region: String,
    /// Label value of metrics.
    pub source: &'static str,
    pub at: Timestamp,
}

/// Whether a machine is still what its node class asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drift {
    /// It cannot be told now; what was said before stands.
    #[default]
    Unknown,
    Absent,
    /// It is not; the reason of the condition Drifted.
    Found(&'static str),
}

/// Word that a machine is about to be taken away, or is gone, by somebody else's decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interruption {
    /// The last segment of the machine's provider id; the cloud's word does not always say more.
    pub machine_id: String,
    /// Label value of `nodeclaims_disrupted_total`.
    pub kind: &'static str,
    /// Reason of the event on claim and node.
    pub event: &'static str,
    pub note: String,
    pub answer: Answer,
    /// When the cloud takes the machine away. None: it is unknown, or it may be at any moment.
    pub ends_at: Option<Timestamp>,
}

/// Interruptions, and where they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interruptions {
    pub found: Vec<Interruption>,
    /// The messages of a queue, also those that say nothing of machines. None: the cloud was asked for the state of its
    /// machines.
    pub messages: Option<Vec<Message>>,
}

/// A message of the queue of interruptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// That of its interruptions; `no_op` if it has none.
    pub kind: &'static str,
    /// When what it tells happened, if it says so.
    pub at: Option<Timestamp>,
}

/// What an interruption asks for, beside being told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Nothing,
    /// Replace the machine and drain it.
    Drain,
    /// The machine is broken: replace it and do not wait for what runs on it.
    End,
}

/// Buys and sells machines. All methods may be called again after a crash with the same arguments.
pub trait CloudProvider: Send + Sync + 'static {
    /// Label value of metrics.
    fn name(&self) -> &'static str;

    /// Annotations of a new claim of this class: what its launch must keep to, whatever the class says by then.
    fn order_annotations(&self, _class: &NodeClassReference) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Launches the machine of a claim. A second call for the same claim UID returns the same machine.
    fn create(&self, request: &LaunchRequest) -> impl Future<Output = Result<Machine, ProviderError>> + Send;

    /// The machine launched for a claim, if there is one; the answer to a crash between launch and record.
    fn find(&self, claim: &NodeClaim) -> impl Future<Output = Result<Option<Machine>, ProviderError>> + Send;

    /// Ends a machine of this cluster. `claim` is the one it was launched for; None: there is none any more.
    fn delete(
        &self,
        provider_id: &str,
        claim: Option<&NodeClaim>,
    ) -> impl Future<Output = Result<Termination, ProviderError>> + Send;

    /// All machines of this cluster. `claims` are all there are, which say where to look.
    fn list(&self, claims: &[Arc<NodeClaim>]) -> impl Future<Output = Result<Listing, ProviderError>> + Send;

    /// Types, offerings and prices for these pools.
    fn catalog(&self, pools: &[Arc<NodePool>])
    -> impl Future<Output = Result<Catalog, ProviderError>> + Send;

    /// Whether the class a pool names can launch, and its generation.
    fn node_class(
        &self,
        reference: &NodeClassReference,
    ) -> impl Future<Output = Result<(NodeClassReadiness, Option<i64>), ProviderError>> + Send;

    /// Whether the machines of these launched claims are still what their node classes ask for, by claim name. One that
    /// is left out cannot be judged now.
    fn drift(
        &self,
        claims: &[Arc<NodeClaim>],
    ) -> impl Future<Output = Result<BTreeMap<String, Drift>, ProviderError>> + Send {
        let name = |claim: &Arc<NodeClaim>| Some((claim.metadata.name.clone()?, Drift::Absent));
        std::future::ready(Ok(claims.iter().filter_map(name).collect()))
    }

    /// Group and kind of the node classes it serves.
    fn supports(&self, group: &str, kind: &str) -> bool;

    /// Does the provider's own upkeep for as long as this process leads: status of node classes, prices, what is to be
    /// cleared up. Never returns.
    fn work(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Where the prices of the catalogue come from, and of when.
    fn price_lists(&self) -> Vec<PriceList> {
        Vec::new()
    }

    /// Takes note of all machines that have registered, each with its Node. Called every few seconds, and soon after one
    /// has registered; what is done about a machine must be marked on its objects, so that it is not done again.
    fn attend(&self, _machines: &[(Arc<NodeClaim>, Arc<Node>)]) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Returns when the catalogue has changed in a way that cannot wait for its next refresh, such as capacity that
    /// ran out.
    fn catalog_changed(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Returns when a node class has changed, or what was found for it, so that its machines may have drifted.
    fn classes_changed(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// The next machines to be interrupted. What is returned is asked for again unless `interruptions_handled` is
    /// called before the next call.
    fn interruptions(&self) -> impl Future<Output = Interruptions> + Send {
        std::future::pending()
    }

    /// Whether a machine of the last interruptions that no claim names was launched for one only lately, or may have been,
    /// so that it is not recorded yet.
    fn is_new(&self, _machine_id: &str) -> impl Future<Output = bool> + Send {
        std::future::ready(false)
    }

    /// What the last call of `interruptions` returned has been acted upon, except for these machines. Answers with how many
    /// messages were deleted.
    fn interruptions_handled(&self, _except: &BTreeSet<String>) -> impl Future<Output = usize> + Send {
        std::future::ready(0)
    }
}
