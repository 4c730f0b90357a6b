//! EventBridge events about EC2 instances, as interruptions.

use std::time::Duration;

use jiff::Timestamp;
use plimsoll_provider::{Answer, Interruption, Message};
use serde::Deserialize;
use serde_json::Value;

/// Kind of a message that says nothing of machines, as upstream.
const NOTHING: &str = "no_op";
/// Kind of the warning that a spot machine is taken back in two minutes.
pub(super) const SPOT: &str = "spot_interrupted";
/// From that warning to the end of the machine.
const SPOT_NOTICE: Duration = Duration::from_mins(2);

#[derive(Deserialize)]
struct Envelope {
    version: String,
    source: String,
    #[serde(rename = "detail-type")]
    detail_type: String,
    #[serde(default)]
    time: String,
    #[serde(default)]
    detail: Value,
}

/// A message, and what it says about machines: nothing if it is about something else or cannot be read.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) message: Message,
    pub(super) interruptions: Vec<Interruption>,
}

pub(super) fn parse(body: &str) -> Event {
    let event = serde_json::from_str::<Envelope>(body).ok();
    let interruptions: Vec<_> = event.as_ref().map(interruptions).unwrap_or_default();
    let message = Message {
        kind: interruptions.first().map_or(NOTHING, |i| i.kind),
        at: event.and_then(|event| event.time.parse::<Timestamp>().ok()),
    };
    Event {
        message,
        interruptions,
    }
}

fn interruptions(event: &Envelope) -> Vec<Interruption> {
    if event.version != "0" {
        return Vec::new();
    }
    let text = |key: &str| event.detail[key].as_str().unwrap_or_default();
    let about = |machine_id: &str, kind, event, note: String, answer| Interruption {
        machine_id: machine_id.to_owned(),
        kind,
        event,
        note,
        answer,
        ends_at: None,
    };
    let one =
        |kind, event, note: &str, answer| vec![about(text("instance-id"), kind, event, note.into(), answer)];
    let found = match (event.source.as_str(), event.detail_type.as_str()) {
        ("aws.ec2", "EC2 Spot Instance Interruption Warning") => {
            let all = one(
                SPOT,
                "SpotInterrupted",
                "EC2 takes the spot instance back in two minutes",
                Answer::Drain,
            );
            let warned = event.time.parse::<Timestamp>().ok();
            // Hibernation begins at once.
            let warned = warned.filter(|_| matches!(text("instance-action"), "terminate" | "stop"));
            ending(all, warned.and_then(|at| at.checked_add(SPOT_NOTICE).ok()))
        }
        ("aws.ec2", "EC2 Instance Rebalance Recommendation") => one(
            "rebalance_recommendation",
            "SpotRebalanceRecommendation",
            "EC2 sees a raised risk that the spot instance is taken back",
            Answer::Nothing,
        ),
        ("aws.ec2", "EC2 Capacity Reservation Instance Interruption Warning") => one(
            "capacity_reservation_interrupted",
            "CapacityReservationInstanceInterrupted",
            "the capacity reservation takes the instance back",
            Answer::Drain,
        ),
        ("aws.ec2", "EC2 Instance State-change Notification") => match text("state") {
            "stopping" | "stopped" => one(
                "instance_stopped",
                "InstanceStopping",
                "the instance is being stopped",
                Answer::Drain,
            ),
            "shutting-down" | "terminated" => one(
                "instance_terminated",
                "InstanceTerminating",
                "the instance is being terminated",
                Answer::Drain,
            ),
            _ => Vec::new(),
        },
        ("aws.health", "AWS Health Event")
            if text("service") == "EC2" && text("eventTypeCategory") == "scheduledChange" =>
        {
            let entities = event.detail["affectedEntities"].as_array();
            let ids = entities
                .into_iter()
                .flatten()
                .filter_map(|e| e["entityValue"].as_str());
            let note = format!("AWS Health announces {}", text("eventTypeCode"));
            let all = ids.map(|id| {
                about(
                    id,
                    "scheduled_change",
                    "InstanceUnhealthy",
                    note.clone(),
                    Answer::Drain,
                )
            });
            let starts = jiff::fmt::rfc2822::parse(text("startTime")).ok();
            ending(all.collect(), starts.map(|at| at.timestamp()))
        }
        _ => Vec::new(),
    };
    found
        .into_iter()
        .filter(|i| i.machine_id.starts_with("i-"))
        .collect()
}

fn ending(mut all: Vec<Interruption>, ends_at: Option<Timestamp>) -> Vec<Interruption> {
    all.iter_mut().for_each(|one| one.ends_at = ends_at);
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(source: &str, detail_type: &str, detail: Value) -> Vec<(String, &'static str, bool)> {
        let body = json!({
            "version": "0", "source": source, "detail-type": detail_type, "detail": detail,
            "time": "2026-01-01T00:00:00Z",
        });
        let event = parse(&body.to_string());
        assert_eq!(event.message.at, "2026-01-01T00:00:00Z".parse().ok());
        let kind = event.interruptions.first().map_or("no_op", |i| i.kind);
        assert_eq!(event.message.kind, kind);
        let found = event.interruptions.into_iter();
        found
            .map(|i| (i.machine_id, i.kind, i.answer == Answer::Drain))
            .collect()
    }

    #[test]
    fn events_are_told_apart() {
        let spot = "EC2 Spot Instance Interruption Warning";
        let state = "EC2 Instance State-change Notification";
        let of = |state: &str| json!({ "instance-id": "i-1", "state": state });
        let health = |service: &str, category: &str| {
            json!({
                "service": service, "eventTypeCategory": category, "eventTypeCode": "AWS_EC2_RETIREMENT",
                "affectedEntities": [{ "entityValue": "i-1" }, { "entityValue": "vol-2" }, { "entityValue": "i-3" }],
            })
        };
        let is = |kind, drain| vec![("i-1".to_owned(), kind, drain)];
        let cases = [
            (
                "aws.ec2",
                spot,
                json!({ "instance-id": "i-1" }),
                is("spot_interrupted", true),
            ),
            (
                "aws.ec2",
                "EC2 Instance Rebalance Recommendation",
                json!({ "instance-id": "i-1" }),
                is("rebalance_recommendation", false),
            ),
            ("aws.ec2", state, of("stopping"), is("instance_stopped", true)),
            (
                "aws.ec2",
                state,
                of("terminated"),
                is("instance_terminated", true),
            ),
            ("aws.ec2", state, of("running"), vec![]),
            ("aws.ec2", spot, json!({}), vec![]),
            ("aws.s3", spot, json!({ "instance-id": "i-1" }), vec![]),
            (
                "aws.health",
                "AWS Health Event",
                health("EC2", "scheduledChange"),
                vec![
                    ("i-1".to_owned(), "scheduled_change", true),
                    ("i-3".to_owned(), "scheduled_change", true),
                ],
            ),
            (
                "aws.health",
                "AWS Health Event",
                health("RDS", "scheduledChange"),
                vec![],
            ),
            ("aws.health", "AWS Health Event", health("EC2", "issue"), vec![]),
        ];
        for (source, detail_type, detail, expected) in cases {
            assert_eq!(
                parsed(source, detail_type, detail.clone()),
                expected,
                "{detail_type} {detail}"
            );
        }
    }

    #[test]
    fn an_event_says_when_the_machine_ends() {
        let ends = |source: &str, detail_type: &str, time: &str, detail: Value| {
            let body = json!({
                "version": "0", "source": source, "detail-type": detail_type, "detail": detail, "time": time,
            });
            let all = parse(&body.to_string()).interruptions;
            assert_eq!(all.len(), 1, "{body}");
            all[0].ends_at.map(|at| at.to_string())
        };
        let spot = |time: &str, action: &str| {
            let detail = json!({ "instance-id": "i-1", "instance-action": action });
            ends("aws.ec2", "EC2 Spot Instance Interruption Warning", time, detail)
        };
        let two_minutes_on = Some("2026-01-01T00:02:00Z".to_owned());
        assert_eq!(spot("2026-01-01T00:00:00Z", "terminate"), two_minutes_on);
        assert_eq!(spot("2026-01-01T00:00:00Z", "stop"), two_minutes_on);
        assert_eq!(
            spot("2026-01-01T00:00:00Z", "hibernate"),
            None,
            "that begins at once"
        );
        assert_eq!(spot("yesterday", "terminate"), None);
        let health = |starts: &str| {
            let detail = json!({
                "service": "EC2", "eventTypeCategory": "scheduledChange", "startTime": starts,
                "affectedEntities": [{ "entityValue": "i-1" }],
            });
            ends("aws.health", "AWS Health Event", "2026-01-01T00:00:00Z", detail)
        };
        let said = Some("2026-01-17T15:10:09Z".to_owned());
        assert_eq!(health("Sat, 17 Jan 2026 15:10:09 GMT"), said);
        assert_eq!(health("soon"), None);
    }

    #[test]
    fn what_is_no_event_says_nothing() {
        for body in [
            "",
            "hello",
            "{}",
            r#"{"version": "1", "source": "aws.ec2", "detail-type": "x"}"#,
        ] {
            let event = parse(body);
            let none = Message {
                kind: "no_op",
                at: None,
            };
            assert_eq!((event.interruptions, event.message), (vec![], none), "{body}");
        }
    }
}
