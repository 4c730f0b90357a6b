//! Images: from selector terms to the list of a class's status.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::{Filter, Image};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeSelectorRequirement;
use plimsoll_api::{
    ec2nodeclass::{AMI, AMISelectorTerm},
    labels,
};
use plimsoll_provider::ProviderError;

use super::{
    alias::{AliasError, Variant, parameters},
    selector::{filter, tag_filters},
};
use crate::error::{is_not_found, provider_error};

const PAGE: i32 = 1_000;

#[derive(Debug, thiserror::Error)]
pub(crate) enum AmiError {
    #[error(transparent)]
    Alias(#[from] AliasError),
    #[error(transparent)]
    Provider(#[from] ProviderError),
}

/// One question to DescribeImages.
#[derive(Debug, PartialEq)]
struct Query {
    filters: Vec<Filter>,
    owners: Vec<String>,
}

/// An image with what decides between it and its like.
#[derive(Clone, Debug, PartialEq)]
struct Candidate {
    id: String,
    name: String,
    created: String,
    deprecated: bool,
    architecture: &'static str,
    variant: Option<Variant>,
}

/// Terms without an alias as queries: one for all ids, one for each other term.
fn queries(terms: &[AMISelectorTerm], of_parameters: Vec<String>) -> Vec<Query> {
    let ids: Vec<String> = terms
        .iter()
        .filter_map(|t| t.id.clone())
        .chain(of_parameters)
        .collect();
    let mut all = Vec::new();
    if !ids.is_empty() {
        all.push(Query {
            filters: vec![filter("image-id", ids)],
            owners: Vec::new(),
        });
    }
    for term in terms {
        if term.name.is_none() && term.tags.is_none() {
            continue;
        }
        let mut filters = term.tags.as_ref().map(tag_filters).unwrap_or_default();
        let mut owners: Vec<String> = term.owner.iter().cloned().collect();
        if let Some(name) = &term.name {
            filters.push(filter("name", [name.clone()]));
            if owners.is_empty() {
                // A name proves nothing: anybody may publish an image under it.
                owners = vec!["self".into(), "amazon".into()];
            }
        }
        all.push(Query { filters, owners });
    }
    all
}

/// The images of a class, newest first. `minor` is the cluster's Kubernetes version.
pub(crate) async fn find(
    ec2: &aws_sdk_ec2::Client,
    ssm: &aws_sdk_ssm::Client,
    terms: &[AMISelectorTerm],
    minor: u32,
    now: Timestamp,
) -> Result<Vec<AMI>, AmiError> {
    let mut candidates = Vec::new();
    if let Some(alias) = terms.iter().find_map(|t| t.alias.as_deref()) {
        let mut variants: BTreeMap<String, BTreeSet<Variant>> = BTreeMap::new();
        for parameter in parameters(alias, minor)? {
            if let Some(id) = parameter_value(ssm, &parameter.path).await? {
                variants.entry(id).or_default().extend(parameter.variants);
            }
        }
        if !variants.is_empty() {
            let query = Query {
                filters: vec![filter("image-id", variants.keys().cloned())],
                owners: Vec::new(),
            };
            for image in describe(ec2, query).await? {
                let of_image = image.image_id().and_then(|id| variants.get(id));
                for variant in of_image.into_iter().flatten() {
                    candidates.extend(candidate(&image, Some(*variant), now));
                }
            }
        }
    } else {
        let mut ids = Vec::new();
        for name in terms.iter().filter_map(|t| t.ssm_parameter.as_deref()) {
            ids.extend(
                parameter_value(ssm, name)
                    .await?
                    .filter(|id| id.starts_with("ami-")),
            );
        }
        for query in queries(terms, ids) {
            for image in describe(ec2, query).await? {
                candidates.extend(candidate(&image, None, now));
            }
        }
    }
    Ok(choose(candidates))
}

/// None: there is no such parameter, for example because EKS publishes no image for this architecture. A failed call is
/// an error, so that a throttled one cannot make an image vanish from the status.
async fn parameter_value(ssm: &aws_sdk_ssm::Client, name: &str) -> Result<Option<String>, ProviderError> {
    match ssm.get_parameter().name(name).send().await {
        Ok(answer) => Ok(answer
            .parameter()
            .and_then(aws_sdk_ssm::types::Parameter::value)
            .map(str::to_owned)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(provider_error("ssm:GetParameter", &error)),
    }
}

async fn describe(ec2: &aws_sdk_ec2::Client, query: Query) -> Result<Vec<Image>, ProviderError> {
    let mut filters = query.filters;
    filters.push(filter("state", ["available".to_owned()]));
    let mut pages = ec2
        .describe_images()
        .set_filters(Some(filters))
        .set_owners((!query.owners.is_empty()).then_some(query.owners))
        .include_deprecated(true)
        .max_results(PAGE)
        .into_paginator()
        .send();
    let mut all = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| provider_error("ec2:DescribeImages", &error))?;
        all.extend_from_slice(page.images());
    }
    Ok(all)
}

fn candidate(image: &Image, variant: Option<Variant>, now: Timestamp) -> Option<Candidate> {
    let architecture = match image.architecture()?.as_str() {
        "x86_64" => "amd64",
        "arm64" => "arm64",
        _ => return None,
    };
    let deprecated = image
        .deprecation_time()
        .and_then(|t| t.parse::<Timestamp>().ok())
        .is_some_and(|t| t <= now);
    Some(Candidate {
        id: image.image_id()?.to_owned(),
        name: image.name().unwrap_or_default().to_owned(),
        created: image.creation_date().unwrap_or_default().to_owned(),
        deprecated,
        architecture,
        variant,
    })
}

/// One image for each kind of machine: not deprecated before deprecated, then newer, then by name.
fn choose(mut candidates: Vec<Candidate>) -> Vec<AMI> {
    candidates.sort_by(|a, b| {
        a.deprecated
            .cmp(&b.deprecated)
            .then_with(|| b.created.cmp(&a.created))
            .then_with(|| b.name.cmp(&a.name))
            .then_with(|| a.id.cmp(&b.id))
            .then_with(|| a.variant.cmp(&b.variant))
    });
    let mut taken = BTreeSet::new();
    candidates.retain(|c| taken.insert((c.architecture, c.variant)));
    candidates.into_iter().map(status_entry).collect()
}

fn status_entry(candidate: Candidate) -> AMI {
    let mut requirements = vec![NodeSelectorRequirement {
        key: labels::ARCH.into(),
        operator: "In".into(),
        values: Some(vec![candidate.architecture.into()]),
    }];
    requirements.extend(candidate.variant.into_iter().flat_map(Variant::requirements));
    requirements.sort_by(|a, b| a.key.cmp(&b.key));
    AMI {
        id: candidate.id,
        name: Some(candidate.name).filter(|name| !name.is_empty()),
        deprecated: candidate.deprecated,
        requirements,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: &str, created: &str, deprecated: bool, architecture: &'static str) -> Candidate {
        Candidate {
            id: id.into(),
            name: id.into(),
            created: created.into(),
            deprecated,
            architecture,
            variant: None,
        }
    }

    #[test]
    fn one_image_for_each_kind_of_machine_the_newest_that_is_not_deprecated() {
        let all = choose(vec![
            candidate("old", "2026-01-01", false, "amd64"),
            candidate("newest-but-deprecated", "2026-06-01", true, "amd64"),
            candidate("new", "2026-03-01", false, "amd64"),
            candidate("arm-deprecated", "2026-02-01", true, "arm64"),
        ]);
        let ids: Vec<_> = all.iter().map(|a| (a.id.as_str(), a.deprecated)).collect();
        assert_eq!(ids, [("new", false), ("arm-deprecated", true)]);
    }

    #[test]
    fn variants_of_one_image_are_listed_apart() {
        let with = |variant| Candidate {
            variant: Some(variant),
            ..candidate("ami-1", "2026", false, "amd64")
        };
        let all = choose(vec![with(Variant::Neuron), with(Variant::Standard)]);
        assert_eq!(all.len(), 2);
        let keys: Vec<_> = all[1].requirements.iter().map(|r| r.operator.as_str()).collect();
        assert_eq!(keys, ["Exists", "In"]);
    }

    #[test]
    fn names_are_believed_only_of_known_owners() {
        let name = AMISelectorTerm {
            name: Some("my-*".into()),
            ..AMISelectorTerm::default()
        };
        let owned = AMISelectorTerm {
            owner: Some("123456789012".into()),
            ..name.clone()
        };
        let tagged = AMISelectorTerm {
            tags: Some(BTreeMap::from([("a".into(), "b".into())])),
            ..AMISelectorTerm::default()
        };
        let id = AMISelectorTerm {
            id: Some("ami-1".into()),
            ..AMISelectorTerm::default()
        };
        let all = queries(&[name, owned, tagged, id], vec!["ami-2".into()]);
        let owners: Vec<_> = all.iter().map(|q| q.owners.join(",")).collect();
        assert_eq!(owners, ["", "self,amazon", "123456789012", ""]);
        assert_eq!(
            all[0].filters,
            [filter("image-id", ["ami-1".into(), "ami-2".into()])]
        );
    }
}
