//! Nominations tell kube-scheduler where planned pods are to go, before the machine opens.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

/// Under way at once, for all machines together: each holds a connection, and the API server takes no more in time.
pub(crate) const AT_ONCE: usize = 64;
/// How long kube-scheduler may take to hear of one nomination, when many come at once.
const HEARD_PER_POD: Duration = Duration::from_millis(1);
/// Nominations are taken for heard after this long, however many there are.
const HEARD_MAX: Duration = Duration::from_secs(2);

/// A machine stays closed for no longer than this because nominations are lost. Where pods keep each other away, one that
/// loses its own makes kube-scheduler try the others again, and they lose theirs.
pub(crate) const STEADY_MAX: Duration = Duration::from_secs(2);
/// How long a machine that is open waits for the others to open.
const OPEN_MAX: Duration = Duration::from_secs(1);

/// The pace of nominations, shared by all machines.
pub(crate) struct Nominations {
    turns: Semaphore,
    /// When kube-scheduler will have heard of the latest.
    heard: Mutex<Option<Instant>>,
    opening: Mutex<Machines>,
    opened: Notify,
}

/// A pod that was nominated.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) pod: Arc<str>,
    pub(crate) uid: Arc<str>,
    pub(crate) node: String,
}

/// Machines that are about to open, and who was told to go there.
#[derive(Default)]
struct Machines {
    latest: u64,
    told: BTreeMap<u64, Vec<Told>>,
}

/// A machine that is about to open; it counts as one until this is dropped.
pub(crate) struct Opening<'a> {
    nominations: &'a Nominations,
    id: u64,
}

impl Opening<'_> {
    /// More pods that know where to go.
    pub(crate) fn told(&self, pods: Vec<Told>) {
        if let Some(told) = self.nominations.machines().told.get_mut(&self.id) {
            told.extend(pods);
        }
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let mut machines = self.nominations.machines();
        machines.told.remove(&self.id);
        if machines.told.is_empty() {
            self.nominations.opened.notify_waiters();
        }
    }
}

impl Default for Nominations {
    fn default() -> Self {
        Self {
            turns: Semaphore::new(AT_ONCE),
            heard: Mutex::default(),
            opening: Mutex::default(),
            opened: Notify::new(),
        }
    }
}

impl Nominations {
    fn machines(&self) -> MutexGuard<'_, Machines> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another machine is about to open.
    pub(crate) fn opening(&self) -> Opening<'_> {
        let mut machines = self.machines();
        machines.latest += 1;
        let id = machines.latest;
        machines.told.insert(id, Vec::new());
        Opening {
            nominations: self,
            id,
        }
    }

    /// UIDs of pods told to go to any machine that is about to open, and that are not nominated there (any more). The first
    /// machine that opens makes kube-scheduler try them all, and such a one would take the room of another.
    pub(crate) fn lost(&self, is_nominated: impl Fn(&Told) -> bool) -> BTreeSet<Arc<str>> {
        let machines = self.machines();
        let told = machines.told.values().flatten();
        let lost = told.filter(|told| !is_nominated(told));
        lost.map(|told| told.uid.clone()).collect()
    }

    /// Waits until no machine is about to open any more, for a second at most.
    pub(crate) async fn all_are_open(&self) {
        let opened = self.opened.notified();
        if !self.machines().told.is_empty() {
            let _ = timeout(OPEN_MAX, opened).await;
        }
    }

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
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_is_open_waits_for_the_others_but_not_for_long() {
        let nominations = Arc::new(Nominations::default());
        let (first, second) = (nominations.opening(), nominations.opening());
        let told = |pod: &str, node: &str| Told {
            pod: format!("default/{pod}").into(),
            uid: pod.into(),
            node: node.into(),
        };
        first.told(vec![told("a", "node-a")]);
        second.told(vec![told("b", "node-b")]);
        let lost = |known: &str| nominations.lost(|told| told.node == known);
        assert_eq!(lost("node-a"), BTreeSet::from(["b".into()]));
        assert_eq!(lost("node-b"), BTreeSet::from(["a".into()]));
        drop(first);
        assert!(lost("node-b").is_empty(), "its machine is open");
        let begun = Instant::now();
        nominations.all_are_open().await;
        assert_eq!(begun.elapsed(), OPEN_MAX);
        tokio::join!(nominations.all_are_open(), async { drop(second) });
        assert_eq!(begun.elapsed(), OPEN_MAX, "nobody was left to wait for");
    }

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
