//! Keys to look at, now or later: each at most once at a time, the earliest time wins.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

/// First and longest delay after failures, as in the controller.
const BACKOFF_FIRST: SignedDuration = SignedDuration::from_millis(100);
const BACKOFF_MAX: SignedDuration = SignedDuration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Queue {
    due: BTreeMap<String, Timestamp>,
    running: BTreeSet<String>,
    failures: BTreeMap<String, u32>,
}

impl Queue {
    pub(super) fn at(&mut self, key: String, at: Timestamp) {
        let known = self.due.entry(key).or_insert(at);
        *known = at.min(*known);
    }

    /// A key that is due; it is not handed out again before it succeeded or failed.
    pub(super) fn next(&mut self, now: Timestamp) -> Option<String> {
        let (key, _) = self
            .due
            .iter()
            .find(|(key, at)| **at <= now && !self.running.contains(*key))?;
        let key = key.clone();
        self.due.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    pub(super) fn succeeded(&mut self, key: &str) {
        self.running.remove(key);
        self.failures.remove(key);
    }

    /// Later each time.
    pub(super) fn retry(&mut self, key: &str, now: Timestamp) {
        self.running.remove(key);
        let failures = self.failures.entry(key.to_owned()).or_default();
        let delay = BACKOFF_MAX.min(BACKOFF_FIRST * 2_i32.pow((*failures).min(10)));
        *failures += 1;
        self.at(key.to_owned(), now + delay);
    }

    /// Times at which something is to be handed out.
    pub(super) fn due(&self) -> impl Iterator<Item = Timestamp> {
        self.due
            .iter()
            .filter(|(key, _)| !self.running.contains(*key))
            .map(|(_, at)| *at)
    }
}
