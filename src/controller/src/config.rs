//! What the user decided, parsed once.

use std::time::Duration;

use plimsoll_core::policy::Policy;

/// Settings of the controller. The binary states every value; there is no hidden default.
#[derive(Clone, Debug)]
pub struct Config {
    pub metrics_port: u16,
    pub health_probe_port: u16,
    pub batch_idle: Duration,
    pub batch_max: Duration,
    pub policy: Policy,
    pub leader_election: LeaderElection,
    /// From one report of the cluster to the next.
    pub report_interval: Duration,
    /// Shown in build_info.
    pub version: &'static str,
}

/// Whether and where replicas take turns.
#[derive(Clone, Debug)]
pub struct LeaderElection {
    pub enabled: bool,
    pub name: String,
    pub namespace: String,
    /// Written as the Lease's holder: pod name and a suffix that differs per process.
    pub identity: String,
}
