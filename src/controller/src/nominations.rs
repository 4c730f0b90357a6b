//! Nominations tell kube-scheduler where planned pods are to go, before the machine opens.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

/// Under way at once, for all machines together: each holds a connection, and the API server takes no more in time.
pub(crate) const AT_ONCE: usize = 64;
/// How long kube-scheduler may take to hear of one nomination, when many come at once.
const HEARD_PER_POD: Duration = Duration::from_millis(1);
/// Nominations are taken for heard after this long, however many there are.
const HEARD_MAX: Duration = Duration::from_secs(2);

/// The pace of nominations, shared by all machines.
pub(crate) struct Nominations {
    turns: Semaphore,
    /// When kube-scheduler will have heard of the latest.
    heard: Mutex<Option<Instant>>,
}

impl Default for Nominations {
    fn default() -> Self {
        Self {
            turns: Semaphore::new(AT_ONCE),
            heard: Mutex::default(),
        }
    }
}

impl Nominations {
    /// One call may go out as long as this is held.
    pub(crate) async fn turn(&self) -> SemaphorePermit<'_> {
        self.turns.acquire().await.expect("nobody closes the semaphore")
    }

    /// kube-scheduler hears of nominations and of open nodes through two watches, and no node must overtake. Nodes
    /// whose pods are being nominated at the same time open at the same time: a pod that is tried between the first
    /// and its own loses its nomination. `pods`: how many have a place and are not bound yet.
    pub(crate) async fn are_heard(&self, pods: usize) {
        let begun = Instant::now();
        let pods = u32::try_from(pods).unwrap_or(u32::MAX);
        let own = begun + HEARD_PER_POD.saturating_mul(pods).min(HEARD_MAX);
        let lock = || self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let mut heard = *lock().get_or_insert(own);
        if heard < own {
            (*lock(), heard) = (Some(own), own);
        }
        while Instant::now() < heard && begun.elapsed() < 2 * HEARD_MAX {
            tokio::time::sleep_until(heard).await;
            heard = lock().unwrap_or(own);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_a_millisecond_per_pod_and_not_for_ever() {
        let nominations = Nominations::default();
        let begun = Instant::now();
        nominations.are_heard(0).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        nominations.are_heard(300).await;
        assert_eq!(begun.elapsed(), Duration::from_millis(300));
        nominations.are_heard(1_000_000).await;
        assert_eq!(begun.elapsed(), Duration::from_millis(300) + HEARD_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn machines_whose_pods_are_nominated_together_open_together() {
        let nominations = Arc::new(Nominations::default());
        let begun = Instant::now();
        let machine = |after: u64| {
            let nominations = nominations.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(after)).await;
                nominations.are_heard(500).await;
                begun.elapsed()
            })
        };
        let (first, second) = (machine(0), machine(200));
        assert_eq!(second.await.unwrap(), Duration::from_millis(700));
        assert_eq!(first.await.unwrap(), Duration::from_millis(700));
    }

    #[tokio::test(start_paused = true)]
    async fn machines_that_keep_coming_do_not_keep_the_first_one_closed() {
        let nominations = Arc::new(Nominations::default());
        let begun = Instant::now();
        let first = {
            let nominations = nominations.clone();
            tokio::spawn(async move {
                nominations.are_heard(2_000).await;
                begun.elapsed()
            })
        };
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let nominations = nominations.clone();
            tokio::spawn(async move { nominations.are_heard(2_000).await });
        }
        assert!(first.await.unwrap() <= 3 * HEARD_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_take_turns() {
        let nominations = Nominations::default();
        let mut held = Vec::new();
        for _ in 0..AT_ONCE {
            held.push(nominations.turn().await);
        }
        let full = tokio::time::timeout(Duration::from_secs(1), nominations.turn());
        assert!(full.await.is_err());
        held.pop();
        let free = tokio::time::timeout(Duration::from_secs(1), nominations.turn());
        assert!(free.await.is_ok());
    }
}
