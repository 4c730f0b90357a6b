//! Asks EC2 for its instance types and where they are sold.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aws_sdk_ec2::types::{Filter, LocationType};
use plimsoll_provider::ProviderError;

use super::types::TypeInfo;
use crate::error::provider_error;

const TYPES_PAGE: i32 = 100;
const OFFERINGS_PAGE: i32 = 1_000;

pub(crate) async fn describe_types(
    ec2: &aws_sdk_ec2::Client,
) -> Result<BTreeMap<Arc<str>, TypeInfo>, ProviderError> {
    let filter = |name: &str, values: &[&str]| {
        let values = values.iter().map(|v| (*v).to_owned()).collect();
        Filter::builder().name(name).set_values(Some(values)).build()
    };
    let mut pages = ec2
        .describe_instance_types()
        .filters(filter("supported-virtualization-type", &["hvm"]))
        .filters(filter(
            "processor-info.supported-architecture",
            &["x86_64", "arm64"],
        ))
        .max_results(TYPES_PAGE)
        .into_paginator()
        .send();
    let mut all = BTreeMap::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| provider_error("ec2:DescribeInstanceTypes", &error))?;
        let types = page.instance_types().iter().filter_map(TypeInfo::from_ec2);
        all.extend(types.map(|t| (t.name.clone(), t)));
    }
    Ok(all)
}

/// Zones by type name.
pub(crate) async fn describe_zones(
    ec2: &aws_sdk_ec2::Client,
) -> Result<BTreeMap<Arc<str>, BTreeSet<Arc<str>>>, ProviderError> {
    let mut pages = ec2
        .describe_instance_type_offerings()
        .location_type(LocationType::AvailabilityZone)
        .max_results(OFFERINGS_PAGE)
        .into_paginator()
        .send();
    let mut all: BTreeMap<Arc<str>, BTreeSet<Arc<str>>> = BTreeMap::new();
    let mut zones: BTreeSet<Arc<str>> = BTreeSet::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| provider_error("ec2:DescribeInstanceTypeOfferings", &error))?;
        for offering in page.instance_type_offerings() {
            let (Some(type_), Some(location)) = (offering.instance_type(), offering.location()) else {
                continue;
            };
            let zone = zones.get(location).cloned().unwrap_or_else(|| location.into());
            zones.insert(zone.clone());
            if let Some(known) = all.get_mut(type_.as_str()) {
                known.insert(zone);
            } else {
                all.insert(type_.as_str().into(), BTreeSet::from([zone]));
            }
        }
    }
    Ok(all)
}
