//! Whether an instance is still what its EC2NodeClass asks for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use jiff::Timestamp;
use plimsoll_api::{conditions, ec2nodeclass::EC2NodeClass, labels, nodeclaim::NodeClaim};
use plimsoll_provider::{Drift, ProviderError};

use crate::{
    AwsCloud,
    account::in_time,
    catalogue::{Region, image_for},
    instances::{Found, State, instance_id},
    nodeclass::{HASH, HASH_VERSION},
    role::Role,
};

/// A type that is missing is believed only of machines this old, as upstream: a new machine's type was there just now.
const TYPE_BELIEVED_AFTER: Duration = Duration::from_hours(1);

/// What machines are held against.
struct Judge<'a> {
    region: &'a Region,
    region_name: &'a str,
    /// That bought them all.
    role: Option<&'a Role>,
    classes: &'a BTreeMap<String, EC2NodeClass>,
    /// By instance id.
    instances: BTreeMap<String, Found>,
    /// Whether reservations are looked up at all.
    reserved_capacity: bool,
    now: Timestamp,
}

impl AwsCloud {
    /// One look at all classes and all instances.
    pub(crate) async fn drift_of(
        &self,
        claims: &[Arc<NodeClaim>],
    ) -> Result<BTreeMap<String, Drift>, ProviderError> {
        let now = Timestamp::now();
        let classes = self.all_classes().await?;
        let mut by_role: BTreeMap<Option<Role>, Vec<&Arc<NodeClaim>>> = BTreeMap::new();
        for claim in claims {
            // Of one that cannot be read nothing is known.
            if let Ok(role) = self.role_of(claim, &classes) {
                by_role.entry(role).or_default().push(claim);
            }
        }
        let ask = async |(role, claims): (Option<Role>, Vec<_>)| {
            let found = self.drift_under(role.as_ref(), &claims, &classes, now);
            let found = match role {
                None => found.await,
                Some(_) => in_time(found).await,
            };
            (role, found)
        };
        let mut all = BTreeMap::new();
        for (role, found) in join_all(by_role.into_iter().map(ask)).await {
            match found {
                Ok(found) => all.extend(found),
                Err(error) if role.is_none() => return Err(error),
                Err(error) => {
                    tracing::warn!(role = role.map(|r| r.arn), %error, "drift of a role's machines is not known");
                }
            }
        }
        Ok(all)
    }

    /// The same of the machines that one role has bought.
    async fn drift_under(
        &self,
        role: Option<&Role>,
        claims: &[&Arc<NodeClaim>],
        classes: &BTreeMap<String, EC2NodeClass>,
        now: Timestamp,
    ) -> Result<BTreeMap<String, Drift>, ProviderError> {
        let account = self.accounts.of(role).await?;
        let goods = account.market.goods(now).await?;
        let instances = account.instances.list().await?;
        let judge = Judge {
            region: &goods.region,
            region_name: &self.cluster.region,
            role,
            classes,
            instances: instances.into_iter().map(|i| (i.id.clone(), i)).collect(),
            reserved_capacity: self.settings.reserved_capacity,
            now,
        };
        let of_claim = |claim: &&Arc<NodeClaim>| Some((claim.metadata.name.clone()?, judge.of(claim)));
        Ok(claims.iter().filter_map(of_claim).collect())
    }
}

impl Judge<'_> {
    /// The first reason in upstream's order; Unknown wherever upstream gives up.
    fn of(&self, claim: &NodeClaim) -> Drift {
        self.known(claim).unwrap_or(Drift::Unknown)
    }

    fn known(&self, claim: &NodeClaim) -> Option<Drift> {
        let class = self.classes.get(&claim.spec.node_class_ref.name)?;
        let label = |key: &str| claim.metadata.labels.as_ref()?.get(key);
        let info = self.region.types.get(label(labels::INSTANCE_TYPE)?.as_str());
        let created = claim.metadata.creation_timestamp.as_ref()?.0;
        let old = self.now.duration_since(created).unsigned_abs() > TYPE_BELIEVED_AFTER;
        let sold = info.is_some_and(|info| match label(labels::CAPACITY_TYPE).map(String::as_str) {
            Some(labels::CAPACITY_SPOT) => info.spot,
            // A capacity block is of a type that may not be sold in another way.
            Some(labels::CAPACITY_RESERVED) => true,
            _ => info.on_demand,
        });
        if old && !sold {
            return Some(Drift::Found("InstanceTypeNotFound"));
        }
        // A role is a static field, too: no machine moves from one account to another.
        let role = Role::of_class(class, self.region_name).ok()?;
        if role.as_ref() != self.role || static_fields_differ(claim, class) {
            return Some(Drift::Found("NodeClassDrift"));
        }
        let info = info?;
        let status = class.status.as_ref()?;
        let looked_at = conditions::find(&status.conditions, conditions::READY)
            .is_some_and(|ready| ready.observed_generation == class.metadata.generation);
        if !looked_at || status.amis.is_empty() {
            return None;
        }
        let image = claim.status.as_ref()?.image_id.as_deref()?;
        if image_for(self.region, self.region_name, info, class) != Some(image) {
            return Some(Drift::Found("AMIDrift"));
        }
        let provider_id = claim.status.as_ref()?.provider_id.as_deref()?;
        let instance = self.instances.get(instance_id(provider_id)?)?;
        if instance.state != State::Alive || status.security_groups.is_empty() || status.subnets.is_empty() {
            return None;
        }
        let groups: BTreeSet<String> = status.security_groups.iter().map(|g| g.id.clone()).collect();
        if groups != instance.security_groups {
            return Some(Drift::Found("SecurityGroupDrift"));
        }
        let in_subnet = |id: &String| status.subnets.iter().any(|s| s.id == *id);
        if !instance.subnet_id.as_ref().is_some_and(in_subnet) {
            return Some(Drift::Found("SubnetDrift"));
        }
        if let Some(id) = instance.reservation.as_ref().filter(|_| self.reserved_capacity)
            && !status.capacity_reservations.iter().any(|r| r.id == *id)
        {
            let looked_up = conditions::is_true(&status.conditions, "CapacityReservationsReady");
            return looked_up.then_some(Drift::Found("CapacityReservationDrift"));
        }
        match (&class.spec.placement_group_selector, label(PLACEMENT_GROUP)) {
            (None, Some(_)) => Some(Drift::Found("PlacementGroupDrift")),
            // Groups are not looked up yet.
            (Some(_), _) => None,
            (None, None) => Some(Drift::Absent),
        }
    }
}

/// Label: the placement group an instance is in.
const PLACEMENT_GROUP: &str = "karpenter.k8s.aws/placement-group-id";

/// Hashes are compared only where both are there and of one version.
fn static_fields_differ(claim: &NodeClaim, class: &EC2NodeClass) -> bool {
    let (of_class, of_claim) = (&class.metadata.annotations, &claim.metadata.annotations);
    let pair = |key: &str| Some((of_class.as_ref()?.get(key)?, of_claim.as_ref()?.get(key)?));
    match (pair(HASH), pair(HASH_VERSION)) {
        (Some((class_hash, claim_hash)), Some((class_version, claim_version))) => {
            class_version == claim_version && class_hash != claim_hash
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NodeSelectorRequirement;
    use serde_json::json;

    use super::*;
    use crate::{catalogue::TypeInfo, role};

    const NOW: &str = "2026-01-01T12:00:00Z";

    fn class() -> EC2NodeClass {
        let arch = NodeSelectorRequirement {
            key: labels::ARCH.into(),
            operator: "In".into(),
            values: Some(vec!["amd64".into()]),
        };
        let conditions = ["Ready", "CapacityReservationsReady"].map(|ty| {
            json!({
                "type": ty, "status": "True", "reason": ty, "message": "",
                "observedGeneration": 2, "lastTransitionTime": NOW,
            })
        });
        serde_json::from_value(json!({
            "metadata": { "name": "default", "generation": 2,
                "annotations": { HASH: "1", HASH_VERSION: "v5" } },
            "spec": {
                "subnetSelectorTerms": [], "securityGroupSelectorTerms": [],
                "amiSelectorTerms": [{ "alias": "al2023@latest" }], "role": "r",
            },
            "status": {
                "subnets": [{ "id": "subnet-1", "zone": "a" }],
                "securityGroups": [{ "id": "sg-1" }, { "id": "sg-2" }],
                "amis": [{ "id": "ami-2", "requirements": [arch] }],
                "conditions": conditions,
            },
        }))
        .unwrap()
    }

    fn claim() -> NodeClaim {
        serde_json::from_value(json!({
            "metadata": { "name": "c", "creationTimestamp": "2026-01-01T11:59:00Z",
                "annotations": { HASH: "1", HASH_VERSION: "v5" },
                "labels": { "node.kubernetes.io/instance-type": "m5.large", "karpenter.sh/capacity-type": "spot" } },
            "spec": { "requirements": [],
                "nodeClassRef": { "group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default" } },
            "status": { "providerID": "aws:///a/i-1", "imageID": "ami-2" },
        }))
        .unwrap()
    }

    fn instance() -> Found {
        Found {
            id: "i-1".into(),
            subnet_id: Some("subnet-1".into()),
            security_groups: ["sg-2".to_owned(), "sg-1".to_owned()].into(),
            ..Found::default()
        }
    }

    fn verdict(change: impl FnOnce(&mut EC2NodeClass, &mut NodeClaim, &mut Found, &mut Region)) -> Drift {
        let (mut class, mut claim, mut instance) = (class(), claim(), instance());
        let info = TypeInfo {
            name: "m5.large".into(),
            architectures: vec!["amd64"],
            on_demand: true,
            spot: true,
            ..TypeInfo::default()
        };
        let mut region = Region {
            types: [(info.name.clone(), info)].into(),
            zones: BTreeMap::new(),
            labels: Default::default(),
        };
        change(&mut class, &mut claim, &mut instance, &mut region);
        Judge {
            region: &region,
            region_name: "us-east-1",
            role: None,
            classes: &[("default".to_owned(), class)].into(),
            instances: [(instance.id.clone(), instance)].into(),
            reserved_capacity: true,
            now: NOW.parse().unwrap(),
        }
        .of(&claim)
    }

    #[test]
    fn each_change_has_its_reason_and_an_unchanged_machine_has_none() {
        assert_eq!(verdict(|_, _, _, _| {}), Drift::Absent);
        let annotate = |class: &mut EC2NodeClass, key: &str, value: &str| {
            class
                .metadata
                .annotations
                .as_mut()
                .unwrap()
                .insert(key.into(), value.into());
        };
        let found = |reason| Drift::Found(reason);
        assert_eq!(
            verdict(|c, _, _, _| annotate(c, HASH, "2")),
            found("NodeClassDrift")
        );
        assert_eq!(
            verdict(|c, _, _, _| annotate(c, role::ARN, "arn:aws:iam::210987654321:role/r")),
            found("NodeClassDrift"),
            "the machine was bought by the controller's own identity"
        );
        assert_eq!(
            verdict(|c, _, _, _| annotate(c, role::ARN, "nobody")),
            Drift::Unknown
        );
        assert_eq!(
            verdict(|c, _, _, _| {
                annotate(c, HASH, "2");
                annotate(c, HASH_VERSION, "v4");
            }),
            Drift::Absent,
            "hashes of two versions say nothing"
        );
        assert_eq!(
            verdict(|c, _, _, _| c.status.as_mut().unwrap().amis[0].id = "ami-3".into()),
            found("AMIDrift")
        );
        assert_eq!(
            verdict(|_, _, i, _| i.security_groups = ["sg-1".to_owned()].into()),
            found("SecurityGroupDrift")
        );
        assert_eq!(
            verdict(|_, _, i, _| i.subnet_id = Some("subnet-2".into())),
            found("SubnetDrift")
        );
        assert_eq!(
            verdict(|_, _, i, _| i.reservation = Some("cr-1".into())),
            found("CapacityReservationDrift")
        );
        assert_eq!(
            verdict(|_, claim, _, _| {
                let labels = claim.metadata.labels.as_mut().unwrap();
                labels.insert(PLACEMENT_GROUP.into(), "pg-1".into());
            }),
            found("PlacementGroupDrift")
        );
    }

    #[test]
    fn a_type_is_missed_after_an_hour() {
        let withdraw = |region: &mut Region| region.types.values_mut().for_each(|t| t.spot = false);
        assert_eq!(verdict(|_, _, _, region| withdraw(region)), Drift::Absent);
        assert_eq!(
            verdict(|_, claim, _, region| {
                withdraw(region);
                let earlier = "2026-01-01T10:59:00Z".parse().unwrap();
                claim.metadata.creation_timestamp =
                    Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(earlier));
            }),
            Drift::Found("InstanceTypeNotFound")
        );
    }

    #[test]
    fn what_is_not_known_is_not_said() {
        let status = |c: &mut EC2NodeClass,
                      change: fn(&mut plimsoll_api::ec2nodeclass::EC2NodeClassStatus)| {
            change(c.status.as_mut().unwrap());
        };
        assert_eq!(
            verdict(|c, _, _, _| c.metadata.generation = Some(3)),
            Drift::Unknown
        );
        assert_eq!(
            verdict(|c, _, _, _| status(c, |s| s.amis.clear())),
            Drift::Unknown
        );
        assert_eq!(
            verdict(|c, _, _, _| status(c, |s| s.subnets.clear())),
            Drift::Unknown
        );
        assert_eq!(
            verdict(|c, _, _, _| status(c, |s| s.security_groups.clear())),
            Drift::Unknown
        );
        assert_eq!(
            verdict(|c, _, i, _| {
                i.reservation = Some("cr-1".into());
                status(c, |s| s.conditions.retain(|c| c.type_ == "Ready"));
            }),
            Drift::Unknown
        );
        assert_eq!(verdict(|c, _, _, _| c.status = None), Drift::Unknown);
        assert_eq!(
            verdict(|_, _, i, _| i.id = "i-2".into()),
            Drift::Unknown,
            "EC2 does not show it"
        );
        assert_eq!(
            verdict(|_, _, i, _| i.state = State::ShuttingDown),
            Drift::Unknown
        );
        assert_eq!(
            verdict(|_, claim, _, _| claim.spec.node_class_ref.name = "other".into()),
            Drift::Unknown
        );
    }
}
