//! The shells: watches, loops, executors, lease, admin server.
//!
//! Everything here moves data between the cluster, the pure crates and the cloud. What should be done is
//! decided in `core` and `lifecycle`; this crate does it. It names no cloud.

mod admin;
mod advising;
mod attend;
mod catalog;
mod claims;
mod config;
mod context;
mod disrupt;
mod drift;
mod events;
mod eviction;
mod garbage;
mod intention;
mod interruption;
mod lease;
mod metrics;
mod nominations;
mod perform;
mod pools;
mod provision;
mod queue;
mod reporting;
mod rights;
mod run;
mod watch;

pub use admin::LogFilter;
pub use config::{Config, LeaderElection};
pub use rights::{MODES, Mode};
pub use run::{RunError, observe, run};
pub use watch::load;
