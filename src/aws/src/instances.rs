//! Instances: looked up, listed and ended, and only if they are this cluster's.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::{CapacityReservationPreference, Filter, Instance, InstanceStateName};
use jiff::Timestamp;
use plimsoll_provider::ProviderError;

use crate::{
    batch::Batch,
    cluster::Cluster,
    error::{is_not_found, provider_error},
    fleet::Bought,
    tags::{self, EC2NODECLASS, EKS_CLUSTER_NAME, NODECLAIM_UID, NODEPOOL, OWNED, Tags, cluster_tag},
};

const PAGE: i32 = 1_000;

/// What of an instance matters.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Found {
    pub(crate) id: String,
    pub(crate) type_: String,
    pub(crate) zone: String,
    pub(crate) state: State,
    pub(crate) spot: bool,
    /// The capacity reservation it was launched into by name; one that merely matches an open reservation is on demand.
    pub(crate) reservation: Option<String>,
    pub(crate) image_id: Option<String>,
    pub(crate) vpc_id: Option<String>,
    pub(crate) subnet_id: Option<String>,
    pub(crate) security_groups: BTreeSet<String>,
    pub(crate) tags: Tags,
    pub(crate) launched: Timestamp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// Pending, running, stopping or stopped.
    #[default]
    Alive,
    ShuttingDown,
    Terminated,
}

/// What came of a request to end an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    ShuttingDown,
    Terminated,
    /// EC2 does not show it: long gone, or just launched.
    NotShown,
}

impl Found {
    pub(crate) fn bought(&self) -> Bought {
        match &self.reservation {
            _ if self.spot => Bought::Spot,
            Some(id) => Bought::Reserved(id.clone()),
            None => Bought::OnDemand,
        }
    }

    /// As in the Node's `spec.providerID`.
    pub(crate) fn provider_id(&self) -> String {
        provider_id(&self.zone, &self.id)
    }

    /// Why this instance must not be touched, or None if it is this cluster's.
    pub(crate) fn not_ours(&self, cluster: &Cluster) -> Option<String> {
        let owned = cluster_tag(&cluster.name);
        if self.tags.get(&owned).map(String::as_str) != Some(OWNED) {
            return Some(format!("it does not carry the tag {owned}={OWNED}"));
        }
        if !self.tags.contains_key(NODEPOOL) {
            return Some(format!("it does not carry the tag {NODEPOOL}"));
        }
        // A terminated instance has left its VPC.
        if self.state == State::Alive && self.vpc_id.as_deref() != Some(&cluster.vpc_id) {
            return Some(format!(
                "it is in {} and the cluster in {}",
                self.vpc_id.as_deref().unwrap_or("no VPC"),
                cluster.vpc_id
            ));
        }
        None
    }

    fn from_ec2(instance: &Instance) -> Option<Self> {
        let state = match instance.state()?.name()? {
            InstanceStateName::Terminated => State::Terminated,
            InstanceStateName::ShuttingDown => State::ShuttingDown,
            _ => State::Alive,
        };
        let launched = instance.launch_time().map_or(0, aws_smithy_types::DateTime::secs);
        Some(Self {
            id: instance.instance_id()?.to_owned(),
            type_: instance
                .instance_type()
                .map(|t| t.as_str().to_owned())
                .unwrap_or_default(),
            zone: instance
                .placement()
                .and_then(|p| p.availability_zone())
                .unwrap_or_default()
                .to_owned(),
            state,
            spot: instance.spot_instance_request_id().is_some(),
            reservation: instance
                .capacity_reservation_specification()
                .and_then(|s| s.capacity_reservation_preference())
                .filter(|p| **p == CapacityReservationPreference::CapacityReservationsOnly)
                .and_then(|_| instance.capacity_reservation_id().map(str::to_owned)),
            image_id: instance.image_id().map(str::to_owned),
            vpc_id: instance.vpc_id().map(str::to_owned),
            subnet_id: instance.subnet_id().map(str::to_owned),
            security_groups: instance
                .security_groups()
                .iter()
                .filter_map(|group| group.group_id().map(str::to_owned))
                .collect(),
            tags: tags::from_ec2(instance.tags()),
            launched: Timestamp::from_second(launched).unwrap_or_default(),
        })
    }
}

pub(crate) fn provider_id(zone: &str, instance_id: &str) -> String {
    format!("aws:///{zone}/{instance_id}")
}

/// The instance of a provider id; None if it is not one of AWS.
pub(crate) fn instance_id(provider_id: &str) -> Option<&str> {
    let (zone, id) = provider_id.strip_prefix("aws:///")?.split_once('/')?;
    (!zone.is_empty() && id.starts_with("i-") && !id.contains('/')).then_some(id)
}

/// The instances of one cluster.
#[derive(Debug)]
pub(crate) struct Instances {
    ec2: aws_sdk_ec2::Client,
    cluster: Cluster,
    describing: Batch<Option<Found>>,
    /// By the UID of the claim they were launched for.
    launched_for: Batch<Option<Found>>,
    ending: Batch<Option<Result<Ended, ProviderError>>>,
}

impl Instances {
    pub(crate) fn new(ec2: aws_sdk_ec2::Client, cluster: Cluster) -> Self {
        Self {
            ec2,
            cluster,
            describing: Batch::default(),
            launched_for: Batch::default(),
            ending: Batch::default(),
        }
    }

    pub(crate) async fn get(&self, id: &str) -> Result<Option<Found>, ProviderError> {
        let ec2 = self.ec2.clone();
        let call = move |ids: Vec<String>| async move {
            // A filter, because ids that do not exist make the plain request fail as a whole.
            let found = describe(&ec2, vec![filter("instance-id", ids)]).await?;
            Ok(found.into_iter().map(|i| (i.id.clone(), Some(i))).collect())
        };
        self.describing.get(id, call).await
    }

    /// The instance that was launched for a claim and is not on its way out.
    pub(crate) async fn of_claim(&self, uid: &str) -> Result<Option<Found>, ProviderError> {
        let (ec2, cluster) = (self.ec2.clone(), self.cluster.clone());
        let call = move |uids: Vec<String>| async move {
            let filters = vec![
                filter(format!("tag:{NODECLAIM_UID}"), uids),
                filter(format!("tag:{EKS_CLUSTER_NAME}"), vec![cluster.name.clone()]),
                filter("instance-state-name", words(&["pending", "running"])),
            ];
            let mut found = describe(&ec2, filters).await?;
            found.retain(|i| i.not_ours(&cluster).is_none());
            // The oldest one last, so that it is the one that stays in the map.
            found.sort_by(|a, b| b.launched.cmp(&a.launched).then_with(|| b.id.cmp(&a.id)));
            let by_uid = found
                .into_iter()
                .filter_map(|i| Some((i.tags.get(NODECLAIM_UID)?.clone(), Some(i))));
            Ok(by_uid.collect())
        };
        self.launched_for.get(uid, call).await
    }

    /// All instances of this cluster that are not terminated.
    pub(crate) async fn list(&self) -> Result<Vec<Found>, ProviderError> {
        let filters = vec![
            filter("tag-key", words(&[NODEPOOL])),
            filter("tag-key", words(&[EC2NODECLASS])),
            filter(format!("tag:{EKS_CLUSTER_NAME}"), vec![self.cluster.name.clone()]),
            filter(
                "instance-state-name",
                words(&["pending", "running", "stopping", "stopped", "shutting-down"]),
            ),
        ];
        let mut all = describe(&self.ec2, filters).await?;
        all.retain(|i| i.not_ours(&self.cluster).is_none());
        Ok(all)
    }

    /// Whether there is an instance of this class that is not terminated.
    pub(crate) async fn are_of_class(&self, class: &str) -> Result<bool, ProviderError> {
        let all = self.list().await?;
        Ok(all
            .iter()
            .any(|i| i.tags.get(EC2NODECLASS).map(String::as_str) == Some(class)))
    }

    /// Ends an instance after a look at whose it is.
    pub(crate) async fn end(&self, provider_id: &str) -> Result<Ended, ProviderError> {
        let refuse = |why: String| {
            Err(ProviderError::NotOurs {
                provider_id: provider_id.to_owned(),
                why,
            })
        };
        let Some(id) = instance_id(provider_id) else {
            return refuse("it is not the provider id of an EC2 instance".into());
        };
        let Some(found) = self.get(id).await? else {
            return Ok(Ended::NotShown);
        };
        match found.state {
            State::Terminated => return Ok(Ended::Terminated),
            State::ShuttingDown => return Ok(Ended::ShuttingDown),
            State::Alive => {}
        }
        if let Some(why) = found.not_ours(&self.cluster) {
            return refuse(why);
        }
        if found.provider_id() != provider_id {
            return refuse(format!("the instance is in zone {}", found.zone));
        }
        let ec2 = self.ec2.clone();
        self.ending
            .get(
                id,
                move |ids: Vec<String>| async move { terminate(&ec2, ids).await },
            )
            .await?
            .unwrap_or(Ok(Ended::NotShown))
    }
}

impl Instances {
    /// Adds tags to an instance of this cluster, but none whose key it carries already.
    pub(crate) async fn add_tags(&self, provider_id: &str, mut tags: Tags) -> Result<(), ProviderError> {
        let not_ours = |why: String| ProviderError::NotOurs {
            provider_id: provider_id.to_owned(),
            why,
        };
        let id = instance_id(provider_id)
            .ok_or_else(|| not_ours("it is not the provider id of an EC2 instance".into()))?;
        let found = self.get(id).await?;
        let found = found.ok_or_else(|| ProviderError::Transient(format!("EC2 does not show {id}")))?;
        if let Some(why) = found.not_ours(&self.cluster) {
            return Err(not_ours(why));
        }
        tags.retain(|key, _| !found.tags.contains_key(key));
        if tags.is_empty() || found.state != State::Alive {
            return Ok(());
        }
        let request = self.ec2.create_tags().resources(id);
        let answer = request.set_tags(Some(tags::ec2_tags(&tags))).send().await;
        answer
            .map(|_| ())
            .map_err(|error| provider_error("ec2:CreateTags", &error))
    }
}

/// Ends all. One that vanished, or must not be ended, makes EC2 refuse the rest, so those are then ended one by one.
async fn terminate(
    ec2: &aws_sdk_ec2::Client,
    ids: Vec<String>,
) -> Result<BTreeMap<String, Option<Result<Ended, ProviderError>>>, ProviderError> {
    let end =
        async |ids: Vec<String>| match ec2.terminate_instances().set_instance_ids(Some(ids)).send().await {
            Ok(_) => Ok(Ended::ShuttingDown),
            Err(error) if is_not_found(&error) => Ok(Ended::NotShown),
            Err(error) => Err(provider_error("ec2:TerminateInstances", &error)),
        };
    let of_all = end(ids.clone()).await;
    let holds_for_each = matches!(of_all, Ok(Ended::ShuttingDown) | Err(ProviderError::Throttled(_)));
    if ids.len() == 1 || holds_for_each {
        return Ok(ids.into_iter().map(|id| (id, Some(of_all.clone()))).collect());
    }
    let mut answers = BTreeMap::new();
    for id in ids {
        let answer = end(vec![id.clone()]).await;
        answers.insert(id, Some(answer));
    }
    Ok(answers)
}

async fn describe(ec2: &aws_sdk_ec2::Client, filters: Vec<Filter>) -> Result<Vec<Found>, ProviderError> {
    let mut pages = ec2
        .describe_instances()
        .set_filters(Some(filters))
        .max_results(PAGE)
        .into_paginator()
        .send();
    let mut all = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| provider_error("ec2:DescribeInstances", &error))?;
        let instances = page
            .reservations()
            .iter()
            .flat_map(aws_sdk_ec2::types::Reservation::instances);
        all.extend(instances.filter_map(Found::from_ec2));
    }
    Ok(all)
}

fn filter(name: impl Into<String>, values: Vec<String>) -> Filter {
    Filter::builder().name(name).set_values(Some(values)).build()
}

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|w| (*w).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::cluster;

    fn ours() -> Found {
        Found {
            id: "i-1".into(),
            vpc_id: Some("vpc-1".into()),
            tags: [
                ("kubernetes.io/cluster/prod".to_owned(), "owned".to_owned()),
                (NODEPOOL.to_owned(), "general".to_owned()),
            ]
            .into(),
            ..Found::default()
        }
    }

    #[test]
    fn only_what_carries_both_tags_in_our_vpc_is_ours() {
        assert_eq!(ours().not_ours(&cluster()), None);
        let changed = |change: fn(&mut Found)| {
            let mut found = ours();
            change(&mut found);
            found.not_ours(&cluster())
        };
        let cases: [(fn(&mut Found), &str); 5] = [
            (
                |f| drop(f.tags.remove("kubernetes.io/cluster/prod")),
                "kubernetes.io/cluster/prod",
            ),
            (
                |f| {
                    drop(
                        f.tags
                            .insert("kubernetes.io/cluster/prod".into(), "shared".into()),
                    );
                },
                "kubernetes.io/cluster/prod",
            ),
            (|f| drop(f.tags.remove(NODEPOOL)), NODEPOOL),
            (|f| f.vpc_id = Some("vpc-2".into()), "vpc-2"),
            (|f| f.vpc_id = None, "no VPC"),
        ];
        for (change, says) in cases {
            let why = changed(change).expect("refused");
            assert!(why.contains(says), "{why}");
        }
    }

    #[test]
    fn provider_ids_are_read_strictly() {
        for (provider_id, expected) in [
            ("aws:///us-east-1a/i-0abc", Some("i-0abc")),
            ("aws:///us-east-1a/i-0abc/x", None),
            ("aws:///us-east-1a/0abc", None),
            ("aws:////i-0abc", None),
            ("kwok://node", None),
        ] {
            assert_eq!(instance_id(provider_id), expected, "{provider_id}");
        }
        assert_eq!(provider_id("us-east-1a", "i-1"), "aws:///us-east-1a/i-1");
    }
}
