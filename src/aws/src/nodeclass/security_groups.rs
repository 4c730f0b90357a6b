//! Security groups of a class's machines.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::Filter;
use plimsoll_api::ec2nodeclass::{SecurityGroup, SecurityGroupSelectorTerm};
use plimsoll_provider::ProviderError;

use super::selector::{filter, tag_filters};
use crate::error::provider_error;

const PAGE: i32 = 500;

fn queries(terms: &[SecurityGroupSelectorTerm], vpc_id: &str) -> Vec<Vec<Filter>> {
    let ids: Vec<String> = terms.iter().filter_map(|t| t.id.clone()).collect();
    let names: Vec<String> = terms.iter().filter_map(|t| t.name.clone()).collect();
    let of_ids = (!ids.is_empty()).then(|| vec![filter("group-id", ids)]);
    let of_names = (!names.is_empty()).then(|| vec![filter("group-name", names)]);
    let of_tags = terms.iter().filter_map(|t| t.tags.as_ref()).map(tag_filters);
    let in_vpc = |mut filters: Vec<Filter>| {
        filters.push(filter("vpc-id", [vpc_id.to_owned()]));
        filters
    };
    of_ids
        .into_iter()
        .chain(of_names)
        .chain(of_tags)
        .map(in_vpc)
        .collect()
}

/// By id.
pub(crate) async fn find(
    ec2: &aws_sdk_ec2::Client,
    terms: &[SecurityGroupSelectorTerm],
    vpc_id: &str,
) -> Result<Vec<SecurityGroup>, ProviderError> {
    let mut found: BTreeMap<String, SecurityGroup> = BTreeMap::new();
    for filters in queries(terms, vpc_id) {
        let mut pages = ec2
            .describe_security_groups()
            .set_filters(Some(filters))
            .max_results(PAGE)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| provider_error("ec2:DescribeSecurityGroups", &error))?;
            for group in page.security_groups() {
                if let Some(id) = group.group_id() {
                    let known = SecurityGroup {
                        id: id.to_owned(),
                        name: group.group_name().map(str::to_owned),
                    };
                    found.insert(id.to_owned(), known);
                }
            }
        }
    }
    Ok(found.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_names_and_tags_are_asked_apart_within_the_vpc() {
        let terms = [
            SecurityGroupSelectorTerm {
                id: Some("sg-1".into()),
                ..SecurityGroupSelectorTerm::default()
            },
            SecurityGroupSelectorTerm {
                name: Some("nodes".into()),
                ..SecurityGroupSelectorTerm::default()
            },
            SecurityGroupSelectorTerm {
                tags: Some(BTreeMap::from([("a".into(), "*".into())])),
                ..SecurityGroupSelectorTerm::default()
            },
        ];
        let shown: Vec<_> = queries(&terms, "vpc-1")
            .iter()
            .map(|filters| {
                let names: Vec<_> = filters.iter().filter_map(Filter::name).collect();
                names.join("+")
            })
            .collect();
        assert_eq!(shown, ["group-id+vpc-id", "group-name+vpc-id", "tag-key+vpc-id"]);
    }
}
