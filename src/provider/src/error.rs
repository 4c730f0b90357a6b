//! What can go wrong with a cloud, in categories the controller acts on.

use thiserror::Error;

/// The kind of failure is decided once, where the cloud's own error is seen.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ProviderError {
    /// Nothing of what the claim allows can be had now. The claim goes and its pods are planned anew.
    #[error("no capacity: {0}")]
    InsufficientCapacity(String),
    /// The node class cannot launch yet. The claim goes.
    #[error("node class is not ready: {0}")]
    NodeClassNotReady(String),
    /// Too many calls; tried again later.
    #[error("the cloud asks for fewer calls: {0}")]
    Throttled(String),
    /// A right is missing; tried again, because a person may grant it.
    #[error("the cloud denied it: {0}")]
    Denied(String),
    /// The request itself is wrong. `reason` is a condition reason.
    #[error("the cloud rejected the request: {message}")]
    Invalid { reason: &'static str, message: String },
    /// The machine is not this cluster's, or not what the records say. Nothing was done.
    #[error("refused to touch {provider_id}: {why}")]
    NotOurs { provider_id: String, why: String },
    /// Anything that may pass by itself.
    #[error("the cloud did not answer as expected: {0}")]
    Transient(String),
}

impl ProviderError {
    /// A bounded name for metrics and conditions.
    pub fn category(&self) -> &'static str {
        match self {
            Self::InsufficientCapacity(_) => "InsufficientCapacityError",
            Self::NodeClassNotReady(_) => "NodeClassNotReadyError",
            Self::Throttled(_) => "RequestLimitExceeded",
            Self::Denied(_) => "Unauthorized",
            Self::Invalid { reason, .. } => reason,
            Self::NotOurs { .. } => "NotOwned",
            Self::Transient(_) => "LaunchFailed",
        }
    }
}

/// An error with everything that caused it, for messages and logs.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
