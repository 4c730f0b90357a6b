//! From what a claim allows to the machine it gets.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use plimsoll_api::{labels, nodeclaim::NodeClaim};
use plimsoll_core::{
    catalog::{Catalog, InstanceType, Offering},
    requirement::{Operator, labels_match},
    resources::{Resources, format_amount},
    snapshot::Labels,
};

use crate::{LaunchRequest, Machine};

/// The labels a machine of this type and offering has by what it is.
pub fn machine_labels(instance_type: &InstanceType, offering: &Offering) -> Labels {
    let decided = instance_type
        .requirements
        .iter()
        .filter_map(|r| match (r.operator, r.values.as_slice()) {
            (Operator::In, [only]) => Some((r.key.clone(), only.clone())),
            _ => None,
        });
    let mut all: Labels = decided.chain(offering.labels.iter().cloned()).collect();
    all.insert(labels::INSTANCE_TYPE.into(), instance_type.name.clone());
    all.insert(labels::ZONE.into(), offering.zone.clone());
    all.insert(labels::CAPACITY_TYPE.into(), offering.capacity_type.clone());
    all
}

/// Every available offering that a claim allows and that holds what it asks for, in the order of the types.
pub fn offers<'a>(
    types: impl IntoIterator<Item = &'a InstanceType>,
    request: &LaunchRequest,
) -> Vec<(&'a InstanceType, &'a Offering)> {
    let own = request.claim.metadata.labels.iter().flatten();
    let claim_labels: Labels = own.map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect();
    let holds = |amounts: &Resources| {
        request
            .requests
            .iter()
            .all(|(name, amount)| amounts.get(name).copied().unwrap_or(0) >= *amount)
    };
    let fits = |instance_type: &InstanceType, offering: &Offering| {
        let mut all = claim_labels.clone();
        all.extend(machine_labels(instance_type, offering));
        offering.available
            && holds(
                offering
                    .allocatable
                    .as_ref()
                    .unwrap_or(&instance_type.allocatable),
            )
            && labels_match(&all, &request.requirements)
    };
    types
        .into_iter()
        .flat_map(|t| t.offerings.iter().map(move |o| (t, o)))
        .filter(|(t, o)| fits(t, o))
        .collect()
}

/// The cheapest of [`offers`].
pub fn cheapest<'a>(
    catalog: &'a Catalog,
    request: &LaunchRequest,
) -> Option<(&'a InstanceType, &'a Offering)> {
    offers(&catalog.types, request)
        .into_iter()
        .min_by_key(|(t, o)| (o.price, t.name.clone(), o.zone.clone()))
}

/// A machine of this type and offering for a claim.
pub fn machine(
    provider_id: String,
    claim: &NodeClaim,
    instance_type: &InstanceType,
    offering: &Offering,
    launched: Timestamp,
) -> Machine {
    let quantities = |amounts: &Resources| {
        let quantity = |name: &str, amount: i64| Quantity(format_amount(name, amount));
        amounts
            .iter()
            .map(|(name, amount)| (name.to_string(), quantity(name, *amount)))
            .collect()
    };
    Machine {
        provider_id,
        image_id: None,
        annotations: BTreeMap::new(),
        labels: machine_labels(instance_type, offering)
            .into_iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect(),
        capacity: quantities(&instance_type.capacity),
        allocatable: quantities(
            offering
                .allocatable
                .as_ref()
                .unwrap_or(&instance_type.allocatable),
        ),
        claim: claim.metadata.name.clone().unwrap_or_default(),
        launched,
    }
}
