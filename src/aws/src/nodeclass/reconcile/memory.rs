//! What was found for a class, and when it is looked up again.

use std::time::Duration;

use jiff::Timestamp;
use plimsoll_api::ec2nodeclass::{AMI, CapacityReservation, SecurityGroup};
use plimsoll_provider::ProviderError;

use crate::{
    nodeclass::subnets::FoundSubnet,
    role::{Role, RoleError},
};

/// A lookup that found nothing, or failed, is made again soon.
const RETRY: Duration = Duration::from_secs(15);

/// A lookup's last answer and when it is due again.
#[derive(Clone, Debug)]
pub(super) struct Looked<T> {
    pub(super) found: Result<T, Failure>,
    pub(super) due: Timestamp,
}

/// What goes into a condition.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// True: the class cannot launch. Otherwise it is not known.
    pub(crate) certain: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn uncertain(mut self) -> Self {
        self.certain = false;
        self
    }
}

impl From<&ProviderError> for Failure {
    fn from(error: &ProviderError) -> Self {
        Self {
            certain: matches!(error, ProviderError::Denied(_)),
            reason: error.category().to_owned(),
            message: error.to_string(),
        }
    }
}

impl From<&RoleError> for Failure {
    fn from(error: &RoleError) -> Self {
        Self {
            certain: error.is_certain(),
            reason: "AssumeRoleFailed".into(),
            message: error.to_string(),
        }
    }
}

/// What was found for one class, for one generation of it and one role.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    pub(super) generation: Option<i64>,
    pub(super) role: Option<Role>,
    /// Why no calls can be made for it.
    pub(super) refused: Option<Failure>,
    pub(super) subnets: Option<Looked<Vec<FoundSubnet>>>,
    pub(super) security_groups: Option<Looked<Vec<SecurityGroup>>>,
    pub(super) amis: Option<Looked<Vec<AMI>>>,
    pub(super) profile: Option<Looked<String>>,
    pub(super) reservations: Option<Looked<Vec<CapacityReservation>>>,
    pub(super) trial: Option<Trial>,
}

/// The last trial launch.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    /// What was found when it was made; another finding needs another trial.
    pub(super) of: Vec<String>,
    pub(super) outcome: Looked<()>,
}

impl Memory {
    /// Everything that a launch needs was found.
    pub(super) fn is_complete(&self) -> bool {
        fn found<T>(looked: Option<&Looked<T>>) -> bool {
            looked.is_some_and(|l| l.found.is_ok())
        }
        found(self.subnets.as_ref())
            && found(self.security_groups.as_ref())
            && found(self.amis.as_ref())
            && found(self.profile.as_ref())
    }

    /// What was found, in an order of its own: free addresses change it all the time.
    pub(super) fn findings(&self) -> Vec<String> {
        fn ok<T>(looked: Option<&Looked<T>>) -> Option<&T> {
            looked?.found.as_ref().ok()
        }
        let subnets = ok(self.subnets.as_ref()).into_iter().flatten();
        let groups = ok(self.security_groups.as_ref()).into_iter().flatten();
        let images = ok(self.amis.as_ref()).into_iter().flatten();
        let mut all: Vec<String> = subnets
            .map(|s| s.subnet.id.clone())
            .chain(groups.map(|g| g.id.clone()))
            .chain(images.map(|i| i.id.clone()))
            .chain(ok(self.profile.as_ref()).cloned())
            .collect();
        all.sort();
        all
    }
}

pub(super) fn due<T>(looked: Option<&Looked<T>>, now: Timestamp) -> bool {
    looked.is_none_or(|l| l.due <= now)
}

pub(super) fn keep<T>(
    slot: &mut Option<Looked<T>>,
    answer: Result<T, Failure>,
    interval: Duration,
    now: Timestamp,
) {
    let interval = if answer.is_ok() { interval } else { RETRY };
    let due = now + interval;
    match (slot.as_mut(), &answer) {
        (Some(known), Err(failure)) if known.found.is_ok() && !failure.certain => {
            tracing::warn!(
                reason = failure.reason,
                message = failure.message,
                "lookup for an EC2NodeClass failed, keeping its last answer"
            );
            known.due = due;
        }
        _ => *slot = Some(Looked { found: answer, due }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(certain: bool) -> Failure {
        Failure {
            certain,
            reason: "R".into(),
            message: "m".into(),
        }
    }

    #[test]
    fn a_passing_failure_keeps_the_last_answer_and_a_certain_one_does_not() {
        let now = Timestamp::UNIX_EPOCH;
        let minute = Duration::from_mins(1);
        let mut slot: Option<Looked<u32>> = None;
        keep(&mut slot, Err(failure(false)), minute, now);
        assert!(
            slot.as_ref().unwrap().found.is_err(),
            "there is no answer to keep"
        );
        assert!(due(slot.as_ref(), now + RETRY) && !due(slot.as_ref(), now));
        keep(&mut slot, Ok(1), minute, now);
        keep(&mut slot, Err(failure(false)), minute, now);
        assert_eq!(*slot.as_ref().unwrap().found.as_ref().unwrap(), 1);
        assert!(due(slot.as_ref(), now + RETRY));
        keep(&mut slot, Err(failure(true)), minute, now);
        assert!(slot.unwrap().found.is_err());
    }
}
