//! Subnets a class may launch into.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::Filter;
use plimsoll_api::ec2nodeclass::{Subnet, SubnetSelectorTerm};
use plimsoll_provider::ProviderError;

use super::selector::{filter, tag_filters};
use crate::error::provider_error;

const PAGE: i32 = 500;

/// A subnet with the number of its free addresses.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FoundSubnet {
    pub(crate) subnet: Subnet,
    pub(crate) free_addresses: i32,
}

/// The filters of each query: one for all ids, one for each term of tags. Nothing outside the cluster's VPC is seen.
fn queries(terms: &[SubnetSelectorTerm], vpc_id: &str) -> Vec<Vec<Filter>> {
    let ids: Vec<String> = terms.iter().filter_map(|t| t.id.clone()).collect();
    let of_ids = (!ids.is_empty()).then(|| vec![filter("subnet-id", ids)]);
    let of_tags = terms.iter().filter_map(|t| t.tags.as_ref()).map(tag_filters);
    let in_vpc = |mut filters: Vec<Filter>| {
        filters.push(filter("vpc-id", [vpc_id.to_owned()]));
        filters
    };
    of_ids.into_iter().chain(of_tags).map(in_vpc).collect()
}

/// Most free addresses first, then by id.
pub(crate) async fn find(
    ec2: &aws_sdk_ec2::Client,
    terms: &[SubnetSelectorTerm],
    vpc_id: &str,
) -> Result<Vec<FoundSubnet>, ProviderError> {
    let mut found: BTreeMap<String, FoundSubnet> = BTreeMap::new();
    for filters in queries(terms, vpc_id) {
        let mut pages = ec2
            .describe_subnets()
            .set_filters(Some(filters))
            .max_results(PAGE)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| provider_error("ec2:DescribeSubnets", &error))?;
            for subnet in page.subnets() {
                let (Some(id), Some(zone)) = (subnet.subnet_id(), subnet.availability_zone()) else {
                    continue;
                };
                let known = FoundSubnet {
                    subnet: Subnet {
                        id: id.to_owned(),
                        zone: zone.to_owned(),
                        zone_id: subnet.availability_zone_id().map(str::to_owned),
                    },
                    free_addresses: subnet.available_ip_address_count().unwrap_or(0),
                };
                found.insert(id.to_owned(), known);
            }
        }
    }
    let mut all: Vec<_> = found.into_values().collect();
    sort(&mut all);
    Ok(all)
}

fn sort(subnets: &mut [FoundSubnet]) {
    subnets.sort_by(|a, b| {
        b.free_addresses
            .cmp(&a.free_addresses)
            .then_with(|| a.subnet.id.cmp(&b.subnet.id))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_share_a_query_and_every_query_stays_in_the_vpc() {
        let id = |id: &str| SubnetSelectorTerm {
            id: Some(id.into()),
            tags: None,
        };
        let tags = SubnetSelectorTerm {
            id: None,
            tags: Some(BTreeMap::from([("a".into(), "b".into())])),
        };
        let shown: Vec<Vec<String>> = queries(&[id("subnet-1"), tags, id("subnet-2")], "vpc-1")
            .iter()
            .map(|filters| {
                let text = |f: &Filter| format!("{}={}", f.name().unwrap_or_default(), f.values().join(","));
                filters.iter().map(text).collect()
            })
            .collect();
        assert_eq!(
            shown,
            [
                vec!["subnet-id=subnet-1,subnet-2", "vpc-id=vpc-1"],
                vec!["tag:a=b", "vpc-id=vpc-1"]
            ]
        );
    }

    #[test]
    fn most_free_addresses_come_first() {
        let subnet = |id: &str, free_addresses| FoundSubnet {
            subnet: Subnet {
                id: id.into(),
                ..Subnet::default()
            },
            free_addresses,
        };
        let mut all = vec![subnet("c", 5), subnet("a", 5), subnet("b", 9)];
        sort(&mut all);
        let ids: Vec<_> = all.iter().map(|s| s.subnet.id.as_str()).collect();
        assert_eq!(ids, ["b", "a", "c"]);
    }
}
