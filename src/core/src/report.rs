//! Why a plan is what it is: stable reason codes with their numbers.

use std::sync::Arc;

use crate::snapshot::{Blocker, NodeId, PodId};

/// Reasons for everything in a plan and for everything that is not.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One entry for each pod that stays without a place.
    pub unplaced: Vec<Unplaced>,
    /// One entry for each machine that a disruption pass looked at and left.
    pub kept: Vec<Kept>,
}

#[derive(Clone, Debug)]
pub struct Unplaced {
    pub pod: PodId,
    /// The smallest set of reasons found, most general first; never empty.
    pub reasons: Vec<PodReason>,
}

/// Why a pod cannot be placed, in the pod's own terms. `Display` is what events and the CLI show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodReason {
    /// There is no pool that is ready.
    NoPools,
    /// The pool's taint is not tolerated.
    Taint { pool: Arc<str>, taint: Arc<str> },
    /// Label requirements of pod and pool exclude each other.
    Requirements { pool: Arc<str>, requirement: Arc<str> },
    /// No type of the pool holds the requests together with what the pod requires.
    Resources {
        pool: Arc<str>,
        /// The requirements without which a type would hold them; empty when none would.
        within: Arc<str>,
        request: Arc<str>,
        largest: Arc<str>,
    },
    /// Types would hold it, but none of their offerings is for sale where it must run.
    Offering { pool: Arc<str>, requirement: Arc<str> },
    /// A limit of the pool is used up.
    Limit {
        pool: Arc<str>,
        resource: Arc<str>,
        limit: i64,
        used: i64,
    },
    /// Spread, affinity or anti-affinity leaves no domain.
    Topology { pool: Arc<str>, constraint: Arc<str> },
    /// `minValues` cannot be met.
    MinValues {
        pool: Arc<str>,
        key: Arc<str>,
        needed: u32,
        found: u32,
    },
    /// Nowhere a host port is free.
    HostPort { port: u16 },
    /// Its volumes can be reached nowhere it may run.
    Volume { pool: Arc<str>, requirement: Arc<str> },
}

#[derive(Clone, Debug)]
pub struct Kept {
    pub node: NodeId,
    pub reason: KeepReason,
}

/// Why a machine was left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeepReason {
    /// Pods other than daemons run on it.
    InUse {
        pods: u32,
    },
    /// `consolidateAfter` has not passed yet.
    NotQuietYet {
        seconds_left: i64,
    },
    /// `consolidateAfter: Never`.
    NeverConsolidated,
    /// The pool's budget for this reason is spent.
    Budget {
        pool: Arc<str>,
        allowed: u32,
    },
    Blocked(Blocker),
    /// No pool that is ready owns it.
    PoolNotReady,
}
