//! Reason codes: stable names for why a pod waits or a machine stays, with what to do about it.

use std::fmt::Write as _;

use plimsoll_core::{
    report::{KeepReason, PodReason},
    snapshot::Blocker,
};

/// A code, what it means and what can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    pub name: &'static str,
    pub means: &'static str,
    pub fix: &'static str,
}

const fn code(name: &'static str, means: &'static str, fix: &'static str) -> Code {
    Code { name, means, fix }
}

const NO_POOLS: Code = code(
    "NoPools",
    "there is no NodePool that is ready",
    "create one, or see why its condition Ready is not True",
);
/// Of pods that no plan can take in: they have no [`PodReason`].
pub(crate) const UNSUPPORTED: Code = code(
    "Unsupported",
    "something the pod names is missing, malformed or not supported",
    "create or change what is named",
);
const TAINT: Code = code(
    "Taint",
    "the pod does not tolerate a taint of the NodePool",
    "add the toleration, or a NodePool without the taint",
);
const REQUIREMENTS: Code = code(
    "Requirements",
    "label requirements of pod and NodePool exclude each other",
    "relax the node selector or affinity, or widen the NodePool's requirements",
);
const RESOURCES: Code = code(
    "Resources",
    "no instance type the pod may use holds its requests",
    "request less, or allow larger types in the NodePool",
);
const OFFERING: Code = code(
    "Offering",
    "types would hold it, but none is for sale where it must run",
    "allow another zone or capacity type",
);
const LIMIT: Code = code("Limit", "a limit of the NodePool is used up", "raise spec.limits");
const TOPOLOGY: Code = code(
    "Topology",
    "spread, affinity or anti-affinity leaves no place",
    "raise maxSkew, use ScheduleAnyway or a preferred term, or allow more zones",
);
const MIN_VALUES: Code = code(
    "MinValues",
    "minValues of the NodePool cannot be met",
    "lower minValues, or set MIN_VALUES_POLICY=BestEffort",
);
const HOST_PORT: Code = code(
    "HostPort",
    "a host port is free nowhere",
    "use a Service instead of a host port, or fewer replicas per machine",
);
const VOLUME: Code = code(
    "Volume",
    "its volumes can be reached nowhere it may run",
    "allow the volume's zone in the NodePool",
);
const IN_USE: Code = code(
    "InUse",
    "pods other than daemons run there",
    "nothing: it is in use",
);
const NOT_QUIET_YET: Code = code(
    "NotQuietYet",
    "consolidateAfter has not passed since its last pod event",
    "wait, or lower spec.disruption.consolidateAfter",
);
const NEVER_CONSOLIDATED: Code = code(
    "NeverConsolidated",
    "the NodePool says consolidateAfter: Never",
    "set spec.disruption.consolidateAfter to a duration",
);
const BUDGET: Code = code(
    "Budget",
    "the NodePool's disruption budget is spent",
    "wait, or raise spec.disruption.budgets",
);
const POOL_NOT_READY: Code = code(
    "PoolNotReady",
    "no NodePool that is ready owns it",
    "see why the NodePool's condition Ready is not True",
);
const NOT_INITIALIZED: Code = code(
    "NotInitialized",
    "the machine is not ready for workloads yet",
    "wait; if it lasts, see the NodeClaim's conditions",
);
const NOMINATED: Code = code(
    "Nominated",
    "a waiting pod was promised a place there",
    "wait until the pod is bound",
);
const NODE_DO_NOT_DISRUPT: Code = code(
    "NodeDoNotDisrupt",
    "the node's annotation forbids it",
    "take karpenter.sh/do-not-disrupt off the node",
);
const POD_DO_NOT_DISRUPT: Code = code(
    "PodDoNotDisrupt",
    "a pod's annotation forbids it",
    "take karpenter.sh/do-not-disrupt off the pod, or give it a duration",
);
const POD_DISRUPTION_BUDGET: Code = code(
    "PodDisruptionBudget",
    "a PodDisruptionBudget allows no eviction",
    "let the budget allow one: maxUnavailable 1, or one replica more",
);

/// Codes of pods that wait.
pub const OF_PODS: [Code; 11] = [
    NO_POOLS,
    UNSUPPORTED,
    TAINT,
    REQUIREMENTS,
    RESOURCES,
    OFFERING,
    LIMIT,
    TOPOLOGY,
    MIN_VALUES,
    HOST_PORT,
    VOLUME,
];

/// Codes of machines that stay.
pub const OF_NODES: [Code; 10] = [
    IN_USE,
    NOT_QUIET_YET,
    NEVER_CONSOLIDATED,
    BUDGET,
    POOL_NOT_READY,
    NOT_INITIALIZED,
    NOMINATED,
    NODE_DO_NOT_DISRUPT,
    POD_DO_NOT_DISRUPT,
    POD_DISRUPTION_BUDGET,
];

/// The code of why a pod waits.
pub fn of_pod(reason: &PodReason) -> Code {
    match reason {
        PodReason::NoPools => NO_POOLS,
        PodReason::Taint { .. } => TAINT,
        PodReason::Requirements { .. } => REQUIREMENTS,
        PodReason::Resources { .. } => RESOURCES,
        PodReason::Offering { .. } => OFFERING,
        PodReason::Limit { .. } => LIMIT,
        PodReason::Topology { .. } => TOPOLOGY,
        PodReason::MinValues { .. } => MIN_VALUES,
        PodReason::HostPort { .. } => HOST_PORT,
        PodReason::Volume { .. } => VOLUME,
    }
}

/// The code of why a machine stays.
pub fn of_node(reason: &KeepReason) -> Code {
    match reason {
        KeepReason::InUse { .. } => IN_USE,
        KeepReason::NotQuietYet { .. } => NOT_QUIET_YET,
        KeepReason::NeverConsolidated => NEVER_CONSOLIDATED,
        KeepReason::Budget { .. } => BUDGET,
        KeepReason::PoolNotReady => POOL_NOT_READY,
        KeepReason::Blocked(Blocker::NotInitialized) => NOT_INITIALIZED,
        KeepReason::Blocked(Blocker::Nominated) => NOMINATED,
        KeepReason::Blocked(Blocker::NodeDoNotDisrupt) => NODE_DO_NOT_DISRUPT,
        KeepReason::Blocked(Blocker::PodDoNotDisrupt { .. }) => POD_DO_NOT_DISRUPT,
        KeepReason::Blocked(Blocker::PodDisruptionBudget { .. }) => POD_DISRUPTION_BUDGET,
    }
}

/// What a machine is kept for, with its numbers.
pub fn node_text(reason: &KeepReason) -> String {
    match reason {
        KeepReason::InUse { pods: 1 } => "1 pod other than daemons runs there".to_owned(),
        KeepReason::InUse { pods } => format!("{pods} pods other than daemons run there"),
        KeepReason::NotQuietYet { seconds_left } => {
            format!("consolidateAfter passes in {seconds_left} s")
        }
        KeepReason::Budget { pool, allowed } => {
            format!("NodePool {pool} allows {allowed} machines at a time")
        }
        KeepReason::Blocked(blocker) => blocker.to_string(),
        KeepReason::NeverConsolidated | KeepReason::PoolNotReady => of_node(reason).means.to_owned(),
    }
}

/// The page of reason codes in the documentation.
pub fn page() -> String {
    let mut out = String::from(
        "# Reason codes\n\n`plimsoll explain` and `plimsoll plan` name why something is not done by these codes. Each \
         comes with the objects and numbers of the case. This page is generated from the program.\n",
    );
    for (title, codes) in [
        ("Why a pod waits", &OF_PODS[..]),
        ("Why a machine stays", &OF_NODES[..]),
    ] {
        let _ = write!(
            out,
            "\n## {title}\n\n| code | means | what to do |\n|---|---|---|\n"
        );
        for code in codes {
            let _ = writeln!(out, "| `{}` | {} | {} |", code.name, code.means, code.fix);
        }
    }
    out
}
