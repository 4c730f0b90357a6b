//! What this process has asked EC2 for, where EC2's own answers come late or the same again.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use plimsoll_provider::Machine;
use tokio::time::Instant;

/// For this long a new instance may be missing in EC2's answers.
pub(crate) const VISIBLE_WITHIN: Duration = Duration::from_secs(60);
/// A claim whose machine is not launched is given up long before this.
const CLAIM_LIVES: Duration = Duration::from_hours(1);

/// What this process launched lately, and which requests are spent.
#[derive(Debug, Default)]
pub(crate) struct Launches {
    /// By claim UID.
    refused: Mutex<BTreeMap<String, Refused>>,
    /// By claim UID, until EC2 certainly shows them.
    recent: Mutex<BTreeMap<String, (Machine, Instant)>>,
}

/// Requests for one claim that EC2 answered without a machine.
#[derive(Debug)]
struct Refused {
    /// EC2 answers a token it knows with the same answer again, so the next request needs another.
    times: u32,
    last: Instant,
    /// Another request was made since.
    asked_again: bool,
}

impl Launches {
    fn refused(&self) -> MutexGuard<'_, BTreeMap<String, Refused>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn token(&self, uid: &str) -> String {
        format!(
            "{uid}-{}",
            self.refused().get(uid).map_or(0, |refused| refused.times)
        )
    }

    /// A request for this claim is about to be made.
    pub(crate) fn note_request(&self, uid: &str) {
        if let Some(refused) = self.refused().get_mut(uid) {
            refused.asked_again = true;
        }
    }

    /// Whether it is certain that nothing was launched for this claim: its last request was answered, without a machine.
    pub(crate) fn is_refused(&self, uid: &str) -> bool {
        self.refused()
            .get(uid)
            .is_some_and(|refused| !refused.asked_again)
    }

    pub(crate) fn note_refusal(&self, uid: &str) {
        let (now, mut refused) = (Instant::now(), self.refused());
        refused.retain(|_, refused| refused.last.elapsed() < CLAIM_LIVES);
        let times = refused.get(uid).map_or(0, |refused| refused.times) + 1;
        let noted = Refused {
            times,
            last: now,
            asked_again: false,
        };
        refused.insert(uid.to_owned(), noted);
    }

    pub(crate) fn note_launch(&self, uid: &str, machine: &Machine) {
        self.refused().remove(uid);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|_, (_, at)| at.elapsed() < VISIBLE_WITHIN);
        recent.insert(uid.to_owned(), (machine.clone(), Instant::now()));
    }

    /// A machine launched so lately that EC2 may not show it yet.
    pub(crate) fn recent(&self, holds: impl Fn(&str, &Machine) -> bool) -> Option<Machine> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|_, (_, at)| at.elapsed() < VISIBLE_WITHIN);
        recent
            .iter()
            .find(|(uid, (machine, _))| holds(uid, machine))
            .map(|(_, (machine, _))| machine.clone())
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[tokio::test]
    async fn a_spent_request_gets_another_token_and_a_launch_is_remembered() {
        let launches = Launches::default();
        assert_eq!(launches.token("u-1"), "u-1-0");
        launches.note_refusal("u-1");
        assert_eq!(launches.token("u-1"), "u-1-1");
        assert!(launches.is_refused("u-1") && !launches.is_refused("u-2"));
        launches.note_request("u-1");
        assert!(
            !launches.is_refused("u-1"),
            "it is not known what this one launches"
        );
        assert_eq!(launches.token("u-2"), "u-2-0");
        let machine = Machine {
            provider_id: "aws:///a/i-1".into(),
            image_id: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            capacity: BTreeMap::new(),
            allocatable: BTreeMap::new(),
            claim: "c".into(),
            launched: Timestamp::UNIX_EPOCH,
        };
        launches.note_launch("u-1", &machine);
        assert_eq!(launches.recent(|uid, _| uid == "u-1"), Some(machine));
        assert_eq!(launches.recent(|uid, _| uid == "u-2"), None);
    }
}
