//! Which Plans there should be: the one that holds, and a few of those that no longer do.

use std::cmp::Reverse;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use plimsoll_api::{
    conditions,
    plan::{Plan, PlanSpec, PlanStatus, SUPERSEDED},
};

use crate::advice::{digest, name};

/// Superseded Plans that are kept, so that somebody who was about to approve one finds out what became of it.
pub const SUPERSEDED_MAX: usize = 5;

/// One call.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Delete {
        name: String,
        uid: String,
    },
    /// Its status is written after it.
    Create(Box<Plan>),
    Status(Box<Plan>),
}

/// What brings the Plans that exist to what `advice` says, in this order: what no longer holds is said first, so that a
/// crash or a call that fails between two of them leaves one Plan to approve, or none, never two.
pub fn changes(known: &[Plan], advice: Option<PlanSpec>, now: Timestamp) -> Vec<Change> {
    let mut changes = Vec::new();
    let wanted = advice.map(|spec| Plan::new(&name(&spec.digest), spec));
    let name_of = |plan: &Plan| plan.metadata.name.clone().unwrap_or_default();
    let delete = |plan: &Plan| Change::Delete {
        name: name_of(plan),
        uid: plan.metadata.uid.clone().unwrap_or_default(),
    };
    let held = wanted
        .as_ref()
        .and_then(|w| known.iter().find(|p| name_of(p) == name_of(w)));
    let others = known
        .iter()
        .filter(|plan| held.is_none_or(|held| name_of(held) != name_of(plan)));
    let (mut old, current): (Vec<&Plan>, Vec<&Plan>) = others.partition(|plan| is_superseded(plan));
    for plan in &current {
        changes.push(Change::Status(Box::new(superseded(plan, wanted.as_ref(), now))));
    }
    match (wanted, held) {
        (Some(wanted), Some(held)) if is_good(held, &wanted, now) => {
            changes.push(Change::Status(Box::new(holding(held.clone(), now))));
        }
        (Some(wanted), held) => {
            changes.extend(held.map(delete));
            changes.push(Change::Create(Box::new(holding(wanted, now))));
        }
        (None, _) => {}
    }
    old.sort_by_key(|plan| (Reverse(plan.spec.made_at.0), name_of(plan)));
    let room = SUPERSEDED_MAX.saturating_sub(current.len());
    changes.extend(old.into_iter().skip(room).map(delete));
    changes
}

/// Whether a Plan has been superseded.
pub fn is_superseded(plan: &Plan) -> bool {
    let status = plan.status.as_ref();
    status.is_some_and(|status| conditions::is_true(&status.conditions, SUPERSEDED))
}

/// An equal one need not be made.
fn is_good(held: &Plan, wanted: &Plan, now: Timestamp) -> bool {
    let says_the_same = held.spec.digest == wanted.spec.digest && digest(&held.spec) == wanted.spec.digest;
    says_the_same && !is_superseded(held) && now < held.spec.good_until.0
}

fn holding(mut plan: Plan, now: Timestamp) -> Plan {
    let message = "the cluster wants this and nothing else";
    let condition = condition(&plan, "False", "Holds", message, now);
    plan.status = Some(PlanStatus {
        held_at: Some(Time(now)),
        conditions: vec![condition],
    });
    plan
}

fn superseded(plan: &Plan, by: Option<&Plan>, now: Timestamp) -> Plan {
    let (reason, message) = match by.and_then(|by| by.metadata.name.as_ref()) {
        Some(name) => ("Replaced", format!("{name} is what the cluster wants now")),
        None => ("NothingToDo", "the cluster wants nothing any more".to_owned()),
    };
    let condition = condition(plan, "True", reason, &message, now);
    let mut plan = plan.clone();
    plan.status.get_or_insert_default().conditions = vec![condition];
    plan
}

/// The time is that of the last change, as everywhere.
fn condition(plan: &Plan, status: &str, reason: &str, message: &str, now: Timestamp) -> Condition {
    let before = plan.status.iter().flat_map(|s| &s.conditions);
    let since = before
        .filter(|c| c.type_ == SUPERSEDED && c.status == status)
        .map(|c| c.last_transition_time.clone())
        .next();
    Condition {
        type_: SUPERSEDED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since.unwrap_or(Time(now)),
        observed_generation: plan.metadata.generation,
    }
}
