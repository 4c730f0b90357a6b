//! Capacity reservations a class may launch into.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::{self as ec2, Filter};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use plimsoll_api::ec2nodeclass::{
    CapacityReservation, CapacityReservationSelectorTerm, CapacityReservationState, CapacityReservationType,
    InstanceMatchCriteria,
};
use plimsoll_provider::ProviderError;

use super::selector::{filter, tag_filters};
use crate::error::{is_not_found, provider_error};

const PAGE: i32 = 1_000;
/// A capacity block is left this long before its end, seconds: EC2 takes its machines back half an hour before.
const BLOCK_LEFT_BEFORE_END: i64 = 40 * 60;

/// A reservation with the number of machines it still has.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FoundReservation {
    pub(crate) reservation: CapacityReservation,
    pub(crate) available: u32,
}

/// One call: all reservations that match the filters, or one by id.
#[derive(Debug, PartialEq)]
struct Query {
    id: Option<String>,
    filters: Vec<Filter>,
}

fn queries(terms: &[CapacityReservationSelectorTerm]) -> Vec<Query> {
    let active = || filter("state", ["active".to_owned()]);
    let mut all = Vec::new();
    for term in terms {
        if let Some(id) = &term.id {
            all.push(Query {
                id: Some(id.clone()),
                filters: vec![active()],
            });
        }
        if term.tags.is_some() || term.instance_match_criteria.is_some() {
            let owner = term.owner_id.clone().map(|id| filter("owner-id", [id]));
            let matching = term
                .instance_match_criteria
                .map(|m| filter("instance-match-criteria", [match_criteria(m).to_owned()]));
            let tags = term.tags.iter().flat_map(tag_filters);
            let filters = [active()].into_iter().chain(owner).chain(tags).chain(matching);
            all.push(Query {
                id: None,
                filters: filters.collect(),
            });
        }
    }
    all
}

fn match_criteria(criteria: InstanceMatchCriteria) -> &'static str {
    match criteria {
        InstanceMatchCriteria::Open => "open",
        InstanceMatchCriteria::Targeted => "targeted",
    }
}

/// By id; those that have ended are left out.
pub(crate) async fn find(
    client: &aws_sdk_ec2::Client,
    terms: &[CapacityReservationSelectorTerm],
    now: Timestamp,
) -> Result<Vec<FoundReservation>, ProviderError> {
    let mut found = BTreeMap::new();
    for query in queries(terms) {
        // EC2 takes a page size only where no id is named.
        let (ids, page) = match query.id {
            Some(id) => (Some(vec![id]), None),
            None => (None, Some(PAGE)),
        };
        let mut pages = client
            .describe_capacity_reservations()
            .set_capacity_reservation_ids(ids)
            .set_filters(Some(query.filters))
            .set_max_results(page)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = match page {
                Ok(page) => page,
                // The id of a reservation that was deleted.
                Err(error) if is_not_found(&error) => break,
                Err(error) => return Err(provider_error("ec2:DescribeCapacityReservations", &error)),
            };
            let read = page.capacity_reservations().iter().filter_map(|r| read(r, now));
            found.extend(read.map(|r| (r.reservation.id.clone(), r)));
        }
    }
    Ok(found.into_values().collect())
}

/// Whether launches may name it. Capacity blocks and interruptible ones are launched into in ways of their own, which
/// this version does not have.
pub(crate) fn is_supported(reservation: &CapacityReservation) -> bool {
    reservation.reservation_type == CapacityReservationType::Default && !reservation.interruptible
}

/// Which of those a class has found are not used, and why; None: all are.
pub(crate) fn left_out(found: &[CapacityReservation]) -> Option<String> {
    let ids = |of: &dyn Fn(&CapacityReservation) -> bool| -> Vec<&str> {
        found.iter().filter(|r| of(r)).map(|r| r.id.as_str()).collect()
    };
    let blocks = ids(&|r| r.reservation_type == CapacityReservationType::CapacityBlock);
    let interruptible = ids(&|r| r.reservation_type == CapacityReservationType::Default && r.interruptible);
    let said = |what: &str, ids: &[&str]| {
        (!ids.is_empty()).then(|| format!("{what} are not launched into yet: {}", ids.join(", ")))
    };
    let all = [
        said("capacity blocks", &blocks),
        said("interruptible reservations", &interruptible),
    ];
    let all: Vec<String> = all.into_iter().flatten().collect();
    let fix = "; let capacityReservationSelectorTerms select others";
    (!all.is_empty()).then(|| all.join("; ") + fix)
}

/// None when it has ended or is of a kind this version does not know.
fn read(reservation: &ec2::CapacityReservation, now: Timestamp) -> Option<FoundReservation> {
    let end = reservation
        .end_date()
        .and_then(|end| Timestamp::from_second(end.secs()).ok());
    if end.is_some_and(|end| end <= now) {
        return None;
    }
    let instance_match_criteria = match reservation.instance_match_criteria()? {
        ec2::InstanceMatchCriteria::Open => InstanceMatchCriteria::Open,
        ec2::InstanceMatchCriteria::Targeted => InstanceMatchCriteria::Targeted,
        _ => return None,
    };
    let reservation_type = match reservation.reservation_type() {
        None | Some(ec2::CapacityReservationType::Default) => CapacityReservationType::Default,
        Some(ec2::CapacityReservationType::CapacityBlock) => CapacityReservationType::CapacityBlock,
        Some(_) => return None,
    };
    let leaves = |end: Timestamp| end.as_second() - now.as_second() <= BLOCK_LEFT_BEFORE_END;
    let expiring = reservation_type == CapacityReservationType::CapacityBlock && end.is_some_and(leaves);
    Some(FoundReservation {
        reservation: CapacityReservation {
            availability_zone: reservation.availability_zone()?.to_owned(),
            end_time: end.map(Time),
            id: reservation.capacity_reservation_id()?.to_owned(),
            instance_match_criteria,
            instance_type: reservation.instance_type()?.to_owned(),
            owner_id: reservation.owner_id()?.to_owned(),
            reservation_type,
            interruptible: reservation.interruptible().unwrap_or(false),
            state: if expiring {
                CapacityReservationState::Expiring
            } else {
                CapacityReservationState::Active
            },
        },
        available: u32::try_from(reservation.available_instance_count().unwrap_or(0)).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use aws_smithy_types::DateTime;
    use plimsoll_api::ec2nodeclass::CapacityReservationState::{Active, Expiring};

    use super::*;

    fn term() -> CapacityReservationSelectorTerm {
        CapacityReservationSelectorTerm::default()
    }

    #[test]
    fn what_is_not_launched_into_is_named() {
        let reservation = |id: &str, reservation_type, interruptible| CapacityReservation {
            availability_zone: "a".into(),
            end_time: None,
            id: id.into(),
            instance_match_criteria: InstanceMatchCriteria::Targeted,
            instance_type: "m5.large".into(),
            owner_id: "123456789012".into(),
            reservation_type,
            interruptible,
            state: Active,
        };
        let plain = reservation("cr-1", CapacityReservationType::Default, false);
        let block = reservation("cr-2", CapacityReservationType::CapacityBlock, false);
        let interruptible = reservation("cr-3", CapacityReservationType::Default, true);
        assert_eq!(left_out(&[]), None);
        assert_eq!(left_out(std::slice::from_ref(&plain)), None);
        let says = left_out(&[plain.clone(), block.clone(), interruptible.clone()]).unwrap();
        for word in [
            "capacity blocks",
            "cr-2",
            "interruptible",
            "cr-3",
            "capacityReservationSelectorTerms",
        ] {
            assert!(says.contains(word), "{word:?} is not in: {says}");
        }
        assert!(!says.contains("cr-1"), "{says}");
        assert!(is_supported(&plain) && !is_supported(&block) && !is_supported(&interruptible));
    }

    #[test]
    fn an_id_is_a_call_of_its_own_and_everything_must_be_active() {
        let terms = [
            CapacityReservationSelectorTerm {
                id: Some("cr-1".into()),
                ..term()
            },
            CapacityReservationSelectorTerm {
                tags: Some([("team".to_owned(), "a".to_owned())].into()),
                owner_id: Some("123456789012".into()),
                instance_match_criteria: Some(InstanceMatchCriteria::Targeted),
                ..term()
            },
        ];
        let shown: Vec<_> = queries(&terms)
            .iter()
            .map(|query| {
                let text = |f: &Filter| format!("{}={}", f.name().unwrap_or_default(), f.values().join(","));
                (
                    query.id.clone(),
                    query.filters.iter().map(text).collect::<Vec<_>>(),
                )
            })
            .collect();
        let tagged = [
            "state=active",
            "owner-id=123456789012",
            "tag:team=a",
            "instance-match-criteria=targeted",
        ];
        assert_eq!(
            shown,
            [
                (Some("cr-1".to_owned()), vec!["state=active".to_owned()]),
                (None, tagged.map(str::to_owned).to_vec()),
            ]
        );
    }

    #[test]
    fn what_has_ended_is_gone_and_a_block_expires_before_its_end() {
        let now = Timestamp::from_second(100_000).unwrap();
        let of = |kind: ec2::CapacityReservationType, seconds_left: i64| {
            let reservation = ec2::CapacityReservation::builder()
                .capacity_reservation_id("cr-1")
                .availability_zone("a")
                .instance_type("m5.large")
                .owner_id("123456789012")
                .instance_match_criteria(ec2::InstanceMatchCriteria::Targeted)
                .reservation_type(kind)
                .available_instance_count(3)
                .end_date(DateTime::from_secs(100_000 + seconds_left))
                .build();
            read(&reservation, now).map(|r| (r.reservation.state, r.available))
        };
        let block = || ec2::CapacityReservationType::CapacityBlock;
        let plain = ec2::CapacityReservationType::Default;
        assert_eq!(of(plain.clone(), 0), None);
        assert_eq!(of(plain, 60), Some((Active, 3)));
        assert_eq!(of(block(), BLOCK_LEFT_BEFORE_END + 1), Some((Active, 3)));
        assert_eq!(of(block(), BLOCK_LEFT_BEFORE_END), Some((Expiring, 3)));
    }
}
