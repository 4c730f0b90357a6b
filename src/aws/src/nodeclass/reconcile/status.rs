//! What was found for a class, as its status and conditions.

use std::collections::BTreeMap;

use jiff::Timestamp;
use plimsoll_api::{
    conditions::{self, ConditionSet, VALIDATION_SUCCEEDED},
    ec2nodeclass::{EC2NodeClass, EC2NodeClassStatus, Subnet},
    labels,
};

use super::{
    Classes,
    memory::{Failure, Looked, Memory},
    reservations,
};
use crate::user_data::{Bootstrap, UserDataError, user_data};

const RESERVATIONS: &str = "CapacityReservationsReady";
/// Reason: some of the reservations are of a kind that is not supported.
const NOT_ALL: &str = "CapacityReservationsNotSupported";

impl Classes {
    pub(super) fn status(&self, class: &EC2NodeClass, memory: &Memory, now: Timestamp) -> EC2NodeClassStatus {
        let mut status = class.status.clone().unwrap_or_default();
        let mut list = std::mem::take(&mut status.conditions);
        let created = class.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
        let generation = class.metadata.generation.unwrap_or(0);
        let types = &conditions::EC2NODECLASS;
        let mut set = ConditionSet::new(types, &mut list, generation, created, now);
        let found = condition(&mut set, "SubnetsReady", memory.subnets.as_ref());
        let subnets: Vec<Subnet> = found.iter().flatten().map(|s| s.subnet.clone()).collect();
        status.subnets = subnets_in_order(&status.subnets, subnets);
        status.security_groups =
            condition(&mut set, "SecurityGroupsReady", memory.security_groups.as_ref()).unwrap_or_default();
        status.amis = condition(&mut set, "AMIsReady", memory.amis.as_ref()).unwrap_or_default();
        status.instance_profile = condition(&mut set, "InstanceProfileReady", memory.profile.as_ref());
        match &class.spec.placement_group_selector {
            None => set.set_true("PlacementGroupReady"),
            Some(_) => set.set_false(
                "PlacementGroupReady",
                "PlacementGroupResolutionFailed",
                "placement groups are not supported yet; remove spec.placementGroupSelector",
            ),
        };
        let reservations = memory.reservations.as_ref();
        status.capacity_reservations = condition(&mut set, RESERVATIONS, reservations).unwrap_or_default();
        if let Some(says) = reservations::left_out(&status.capacity_reservations) {
            // The class goes on without them, as one whose terms find none does.
            set.set_true_with_reason(RESERVATIONS, NOT_ALL, &says);
        }
        let validated = self.validate(class);
        let depends_on = [
            "AMIsReady",
            "InstanceProfileReady",
            "SecurityGroupsReady",
            "SubnetsReady",
        ];
        let is = |set: &ConditionSet<'_>, status: &str| {
            depends_on
                .iter()
                .any(|ty| set.get(ty).is_some_and(|c| c.status == status))
        };
        let (wait, waits) = (
            "DependenciesNotReady",
            "Awaiting AMI, Instance Profile, Security Group, and Subnet resolution",
        );
        match validated {
            _ if let Some(failure) = &memory.refused => fail(&mut set, VALIDATION_SUCCEEDED, failure),
            Err((reason, message)) => set.set_false(VALIDATION_SUCCEEDED, reason, &message),
            Ok(()) if is(&set, "False") => set.set_false(VALIDATION_SUCCEEDED, wait, waits),
            Ok(()) if is(&set, "Unknown") => set.set_unknown(VALIDATION_SUCCEEDED, wait, waits),
            Ok(()) if self.settings.disable_dry_run => set.set_true(VALIDATION_SUCCEEDED),
            Ok(()) => match memory.trial.as_ref().map(|t| &t.outcome.found) {
                Some(Ok(())) => set.set_true(VALIDATION_SUCCEEDED),
                // A former process has tried this very class.
                Some(Err(Failure { certain: false, .. })) | None if stands(&set, generation) => false,
                Some(Err(failure)) => fail(&mut set, VALIDATION_SUCCEEDED, failure),
                None => set.set_unknown(
                    VALIDATION_SUCCEEDED,
                    "AwaitingReconciliation",
                    "no launch was tried yet",
                ),
            },
        };
        status.conditions = list;
        status
    }

    /// Whether user data can be made for this class, tried with the longest labels a launch adds.
    pub(super) fn validate(&self, class: &EC2NodeClass) -> Result<(), (&'static str, String)> {
        let labels = BTreeMap::from([
            (labels::NODEPOOL.to_owned(), "n".repeat(63)),
            (
                labels::EC2NODECLASS.to_owned(),
                class.metadata.name.clone().unwrap_or_default(),
            ),
            (
                labels::CAPACITY_TYPE.to_owned(),
                labels::CAPACITY_ON_DEMAND.to_owned(),
            ),
        ]);
        let tried = user_data(&Bootstrap {
            family: class.spec.resolved_ami_family(),
            cluster_name: &self.cluster.name,
            endpoint: &self.cluster.endpoint,
            ca_bundle: &self.cluster.ca_bundle,
            service_cidr: self.cluster.service_cidr.as_deref(),
            cluster_dns: &[],
            labels: &labels,
            taints: &[],
            kubelet: class.spec.kubelet.as_ref(),
            max_pods: 0,
            raid0: class.spec.instance_store_policy.is_some(),
            custom: class.spec.user_data.as_deref(),
        });
        tried.map(|_| ()).map_err(|error| {
            let reason = match &error {
                UserDataError::NoServiceCidr => "ClusterCIDRResolutionFailed",
                UserDataError::TooLong(_) => "UserDataSizeLimitExceeded",
                UserDataError::Windows => "UnsupportedAMIFamily",
                UserDataError::Mime(_)
                | UserDataError::Toml(_)
                | UserDataError::TomlShape
                | UserDataError::Yaml(_) => "InvalidUserData",
            };
            (reason, plimsoll_provider::chain(&error))
        })
    }
}

/// Whether validation has succeeded for this generation.
fn stands(set: &ConditionSet<'_>, generation: i64) -> bool {
    set.get(VALIDATION_SUCCEEDED)
        .is_some_and(|c| c.status == "True" && c.observed_generation == Some(generation))
}

/// The set in the order it had, if it is the same set: the number of free addresses changes all the time and must not
/// rewrite the status each time.
fn subnets_in_order(known: &[Subnet], found: Vec<Subnet>) -> Vec<Subnet> {
    let same = known.len() == found.len() && found.iter().all(|s| known.contains(s));
    if same { known.to_vec() } else { found }
}

/// False if it is certain, else Unknown.
fn fail(set: &mut ConditionSet<'_>, ty: &str, failure: &Failure) -> bool {
    let (reason, message) = (&failure.reason, &failure.message);
    if failure.certain {
        set.set_false(ty, reason, message)
    } else {
        set.set_unknown(ty, reason, message)
    }
}

/// Puts a lookup's answer into its condition, and gives it back if there is one.
fn condition<T: Clone>(set: &mut ConditionSet<'_>, ty: &str, looked: Option<&Looked<T>>) -> Option<T> {
    match looked.map(|l| &l.found) {
        Some(Ok(found)) => {
            set.set_true(ty);
            Some(found.clone())
        }
        Some(Err(failure)) => {
            fail(set, ty, failure);
            None
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_addresses_alone_do_not_reorder_the_status() {
        let subnet = |id: &str| Subnet {
            id: id.into(),
            ..Subnet::default()
        };
        let known = vec![subnet("a"), subnet("b")];
        assert_eq!(subnets_in_order(&known, vec![subnet("b"), subnet("a")]), known);
        let more = vec![subnet("b"), subnet("a"), subnet("c")];
        assert_eq!(subnets_in_order(&known, more.clone()), more);
    }
}
