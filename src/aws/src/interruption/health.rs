//! What EC2's status checks and scheduled events say, for accounts whose queue does not bring it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aws_sdk_ec2::types::{
    EventCode, Filter, InstanceStatus, InstanceStatusDetails, InstanceStatusEvent, InstanceStatusSummary,
    StatusType, SummaryStatus,
};
use jiff::Timestamp;
use plimsoll_provider::{Answer, Interruption, ProviderError};
use tokio::sync::Notify;

use crate::error::provider_error;

/// Upstream's interval.
pub(crate) const INTERVAL: Duration = Duration::from_mins(1);
/// A right that is missing is granted by a person.
pub(crate) const DENIED_INTERVAL: Duration = Duration::from_mins(30);
/// A check that fails for less than this may pass by itself, as upstream.
const IMPAIRED_FOR: Duration = Duration::from_mins(2);
const PAGE: i32 = 1_000;
/// EC2 leaves an event that is over on the instance for a week, and says so in its description.
const OVER: &[&str] = &["[Completed]", "[Canceled]"];

/// Instances that must go, as of the last look, until somebody has heard of them.
#[derive(Debug, Default)]
pub(crate) struct Health {
    found: Mutex<Vec<Interruption>>,
    news: Notify,
}

impl Health {
    /// What the last look found, once.
    pub(crate) fn take(&self) -> Vec<Interruption> {
        std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for the next look that finds something.
    pub(crate) async fn next(&self) -> Vec<Interruption> {
        self.news.notified().await;
        self.take()
    }

    /// What a look at all accounts has found replaces what the last one did.
    pub(crate) fn note(&self, mut found: Vec<Interruption>) {
        found.sort_by(|a, b| (&a.machine_id, a.kind).cmp(&(&b.machine_id, b.kind)));
        found.dedup();
        let any = !found.is_empty();
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
        if any {
            self.news.notify_one();
        }
    }
}

/// Looks once at all instances of an account: EC2 cannot filter statuses by tag. Those of others are dropped by
/// whoever acts, for want of a claim.
pub(crate) async fn look(
    ec2: &aws_sdk_ec2::Client,
    now: Timestamp,
) -> Result<Vec<Interruption>, ProviderError> {
    let codes = [
        EventCode::InstanceReboot,
        EventCode::SystemReboot,
        EventCode::SystemMaintenance,
        EventCode::InstanceRetirement,
        EventCode::InstanceStop,
    ];
    let impaired = || vec![SummaryStatus::Impaired.as_str().to_owned()];
    let mut found = Vec::new();
    // Filters of one call must all hold, and here any one is enough.
    for (name, values) in [
        ("instance-status.status", impaired()),
        ("system-status.status", impaired()),
        (
            "event.code",
            codes.iter().map(|c| c.as_str().to_owned()).collect(),
        ),
    ] {
        let filter = Filter::builder().name(name).set_values(Some(values)).build();
        let mut pages = ec2
            .describe_instance_status()
            .filters(filter)
            .max_results(PAGE)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| provider_error("ec2:DescribeInstanceStatus", &error))?;
            found.extend(
                page.instance_statuses()
                    .iter()
                    .flat_map(|status| judge(status, now)),
            );
        }
    }
    Ok(found)
}

/// What the status of one instance asks for. A machine whose checks fail is broken; one with an event works until then.
fn judge(status: &InstanceStatus, now: Timestamp) -> Vec<Interruption> {
    let Some(id) = status.instance_id() else {
        return Vec::new();
    };
    let about = |kind, note: String, answer| Interruption {
        machine_id: id.to_owned(),
        kind,
        event: "InstanceUnhealthy",
        note,
        answer,
        ends_at: None,
    };
    let mut all = Vec::new();
    for (kind, what, summary) in [
        ("instance_status", "instance", status.instance_status()),
        ("system_status", "system", status.system_status()),
    ] {
        let details = summary.map(InstanceStatusSummary::details).unwrap_or_default();
        if details.iter().any(|check| has_failed(check, now)) {
            let note = format!("EC2's {what} status check has failed for two minutes and more");
            all.push(about(kind, note, Answer::End));
        }
    }
    let is_ahead = |event: &&InstanceStatusEvent| {
        let description = event.description().unwrap_or_default();
        !OVER.iter().any(|over| description.starts_with(over))
    };
    let begins = |event: &InstanceStatusEvent| {
        let at = event.not_before()?.secs();
        Timestamp::from_second(at).ok()
    };
    // One without a time may begin at any moment.
    if let Some(event) = status.events().iter().filter(is_ahead).min_by_key(|e| begins(e)) {
        let code = event.code().map(EventCode::as_str).unwrap_or_default();
        let note = format!("EC2 has scheduled {code} for the instance");
        all.push(Interruption {
            ends_at: begins(event),
            ..about("event_status", note, Answer::Drain)
        });
    }
    all
}

fn has_failed(check: &InstanceStatusDetails, now: Timestamp) -> bool {
    let since = check.impaired_since().map(aws_smithy_types::DateTime::secs);
    let is_long = since.is_some_and(|since| now.as_second() - since >= IMPAIRED_FOR.as_secs() as i64);
    check.status() == Some(&StatusType::Failed) && is_long
}

#[cfg(test)]
mod tests {
    use aws_smithy_types::DateTime;

    use super::*;

    const NOW: i64 = 10_000;

    fn checks(status: StatusType, impaired_since: i64) -> InstanceStatusSummary {
        let details = InstanceStatusDetails::builder()
            .status(status)
            .impaired_since(DateTime::from_secs(impaired_since))
            .build();
        InstanceStatusSummary::builder().details(details).build()
    }

    fn judged(status: aws_sdk_ec2::types::builders::InstanceStatusBuilder) -> Vec<(&'static str, Answer)> {
        let now = Timestamp::from_second(NOW).unwrap();
        let all = judge(&status.instance_id("i-1").build(), now);
        all.into_iter()
            .map(|i| {
                assert_eq!(i.machine_id, "i-1");
                (i.kind, i.answer)
            })
            .collect()
    }

    #[test]
    fn a_check_counts_once_it_has_failed_for_two_minutes() {
        let status = InstanceStatus::builder;
        let failed = |since| checks(StatusType::Failed, since);
        assert_eq!(judged(status().instance_status(failed(NOW - 119))), []);
        assert_eq!(
            judged(status().instance_status(failed(NOW - 120))),
            [("instance_status", Answer::End)]
        );
        assert_eq!(
            judged(status().system_status(failed(0)).instance_status(failed(0))),
            [("instance_status", Answer::End), ("system_status", Answer::End)]
        );
        assert_eq!(judged(status().system_status(checks(StatusType::Passed, 0))), []);
        assert_eq!(judged(status()), []);
    }

    #[test]
    fn the_first_event_ahead_says_when_the_machine_ends() {
        let event = |description: &str, not_before: i64| {
            let event = InstanceStatusEvent::builder().code(EventCode::SystemReboot);
            let event = event.description(description);
            event.not_before(DateTime::from_secs(not_before)).build()
        };
        let ends = |events: Vec<InstanceStatusEvent>| {
            let status = InstanceStatus::builder()
                .instance_id("i-1")
                .set_events(Some(events));
            let all = judge(&status.build(), Timestamp::from_second(NOW).unwrap());
            assert_eq!(all.len(), 1);
            all[0].ends_at.map(Timestamp::as_second)
        };
        let later = event("upgrade", NOW + 20);
        assert_eq!(
            ends(vec![later.clone(), event("retirement", NOW + 10)]),
            Some(NOW + 10)
        );
        assert_eq!(
            ends(vec![event("[Completed] x", NOW), later.clone()]),
            Some(NOW + 20)
        );
        let undated = InstanceStatusEvent::builder()
            .code(EventCode::SystemReboot)
            .build();
        assert_eq!(ends(vec![later, undated]), None);
    }

    #[test]
    fn an_event_that_is_over_asks_for_nothing() {
        let event = |description: &str| {
            InstanceStatusEvent::builder()
                .code(EventCode::InstanceRetirement)
                .description(description)
                .build()
        };
        let status = InstanceStatus::builder;
        let retirement = "The instance is running on degraded hardware";
        assert_eq!(
            judged(status().events(event(retirement))),
            [("event_status", Answer::Drain)]
        );
        assert_eq!(
            judged(status().events(event(&format!("[Completed] {retirement}")))),
            []
        );
        assert_eq!(
            judged(status().events(event(&format!("[Canceled] {retirement}")))),
            []
        );
        assert_eq!(
            judged(
                status()
                    .events(event(&format!("[Completed] {retirement}")))
                    .events(event(retirement))
            ),
            [("event_status", Answer::Drain)]
        );
    }
}
