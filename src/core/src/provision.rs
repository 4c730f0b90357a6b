//! Which machines to buy so that every waiting pod gets a place.

use crate::{catalog::Catalog, plan::Plan, policy::Policy, report::Report, snapshot::Snapshot};

/// Plans places for all pods that wait (`Pending` or `Leaving`, and `Assigned` ones that no longer fit), on machines
/// that exist or were ordered and on new ones. Pools of higher weight come first; limits, reservations and every hard
/// rule of a pod hold exactly; preferences hold as far as they can.
///
/// The report has a reason for each pod that stays without a place. The same arguments give the same result.
pub fn provision(snapshot: &Snapshot, catalog: &Catalog, policy: &Policy) -> (Plan, Report) {
    crate::pack::plan(snapshot, catalog, policy)
}
