//! Keys to look at, now or later: each at most once at a time, the earliest time wins.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Notify,
    /// Longest delay after failures.
    backoff_max: Duration,
}

#[derive(Debug, Default)]
struct State {
    due: BTreeMap<String, Instant>,
    by_time: BTreeSet<(Instant, String)>,
    /// Being worked on. A key that comes in meanwhile waits for `done`.
    running: BTreeSet<String>,
    /// Failed attempts in a row.
    failures: BTreeMap<String, u32>,
}

/// Delay after the first failure.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);

impl Queue {
    pub(crate) fn new(backoff_max: Duration) -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            backoff_max,
        }
    }

    pub(crate) fn now(&self, key: String) {
        self.at(key, Instant::now());
    }

    pub(crate) fn later(&self, key: String, delay: Duration) {
        self.at(key, Instant::now() + delay);
    }

    /// After an attempt that failed: later each time.
    pub(crate) fn retry(&self, key: String) {
        let failures = {
            let mut state = self.state();
            let failures = state.failures.entry(key.clone()).or_default();
            *failures = failures.saturating_add(1);
            *failures
        };
        self.later(
            key,
            self.backoff_max
                .min(BACKOFF_FIRST * 2_u32.saturating_pow(failures.min(16) - 1)),
        );
    }

    pub(crate) fn succeeded(&self, key: &str) {
        self.state().failures.remove(key);
    }

    /// The next key that is due. It will not be handed out again before `done`.
    pub(crate) async fn next(&self) -> String {
        loop {
            let wake = {
                let mut state = self.state();
                let now = Instant::now();
                let due = state
                    .by_time
                    .iter()
                    .find(|(_, key)| !state.running.contains(key))
                    .cloned();
                match due {
                    Some((at, key)) if at <= now => {
                        state.by_time.remove(&(at, key.clone()));
                        state.due.remove(&key);
                        state.running.insert(key.clone());
                        return key;
                    }
                    Some((at, _)) => Some(at),
                    None => None,
                }
            };
            let changed = self.changed.notified();
            match wake {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, changed).await;
                }
                None => changed.await,
            }
        }
    }

    pub(crate) fn done(&self, key: &str) {
        self.state().running.remove(key);
        self.changed.notify_one();
    }

    fn at(&self, key: String, at: Instant) {
        let mut state = self.state();
        match state.due.get(&key) {
            Some(known) if *known <= at => return,
            Some(known) => {
                let known = *known;
                state.by_time.remove(&(known, key.clone()));
            }
            None => {}
        }
        state.by_time.insert((at, key.clone()));
        state.due.insert(key, at);
        drop(state);
        self.changed.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_handed_out_once_and_the_earliest_time_wins() {
        let queue = Queue::new(Duration::from_secs(60));
        queue.later("slow".into(), Duration::from_secs(10));
        queue.later("slow".into(), Duration::from_secs(5));
        queue.later("slow".into(), Duration::from_secs(20));
        queue.now("fast".into());
        let start = Instant::now();
        assert_eq!(queue.next().await, "fast");
        assert_eq!(queue.next().await, "slow");
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        assert!(
            tokio::time::timeout(Duration::from_secs(60), queue.next())
                .await
                .is_err(),
            "nothing is left"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_running_key_waits_until_it_is_done() {
        let queue = Queue::new(Duration::from_secs(60));
        queue.now("a".into());
        assert_eq!(queue.next().await, "a");
        queue.now("a".into());
        assert!(
            tokio::time::timeout(Duration::from_secs(1), queue.next())
                .await
                .is_err()
        );
        queue.done("a");
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time_until_one_succeeds() {
        let queue = Queue::new(Duration::from_secs(60));
        let mut waits = Vec::new();
        for attempt in 0..4 {
            if attempt == 3 {
                queue.succeeded("a");
            }
            let start = Instant::now();
            queue.retry("a".into());
            assert_eq!(queue.next().await, "a");
            queue.done("a");
            waits.push(start.elapsed().as_millis());
        }
        assert_eq!(waits, [100, 200, 400, 100]);
    }
}
