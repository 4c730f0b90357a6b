//! What the user of the controller decided, apart from what the objects say.

use crate::catalog::MicroDollars;

/// How preferences (soft constraints) are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreferencePolicy {
    /// Keep as many as can be kept; relax the rest one by one.
    Respect,
    /// Plan as if there were none.
    Ignore,
}

/// What happens when a pool's `minValues` cannot be met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinValuesPolicy {
    /// Such a launch is not planned.
    Strict,
    /// The requirement is lowered to what exists, and the claim says so.
    BestEffort,
}

/// Planner settings. No `Default`: the binary states every value.
#[derive(Clone, Debug)]
pub struct Policy {
    pub preferences: PreferencePolicy,
    pub min_values: MinValuesPolicy,
    /// Pods go where the plan says, because they are nominated there (`nominatedNodeName`). Without it,
    /// a plan is padded until a replay with kube-scheduler's default scores binds every pod.
    pub nomination: bool,
    /// Search steps after the first plan. Counted, not timed, so that a plan does not depend on the machine.
    pub steps_max: u64,
    /// Types offered per claim, cheapest first.
    pub types_per_launch_max: usize,
    /// Cost of one interruption, added to an offering's price by its expected interruptions per hour
    /// when candidates are compared. Zero compares list prices.
    pub interruption_cost: MicroDollars,
}
