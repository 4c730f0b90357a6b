//! Work that is repeated for several subjects, each at its own pace: one that is slow holds up no other.

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    pin::pin,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};

/// Jobs under way, at most one for each subject. They go on only while one of the methods is waited for.
pub(crate) struct Jobs<'a, K, T> {
    /// Whether each was to be started again meanwhile.
    subjects: BTreeMap<K, bool>,
    under_way: FuturesUnordered<BoxFuture<'a, (K, T)>>,
    /// Those that nobody has heard of yet.
    ended: VecDeque<(K, T)>,
}

impl<'a, K: Clone + Ord + Send + 'a, T: Send + 'a> Jobs<'a, K, T> {
    pub(crate) fn new() -> Self {
        Self {
            subjects: BTreeMap::new(),
            under_way: FuturesUnordered::new(),
            ended: VecDeque::new(),
        }
    }

    /// Starts a job. False: the last one of this subject is still under way, and this one is dropped.
    pub(crate) fn start(&mut self, subject: K, job: impl Future<Output = T> + Send + 'a) -> bool {
        if let Some(missed) = self.subjects.get_mut(&subject) {
            *missed = true;
            return false;
        }
        self.subjects.insert(subject.clone(), false);
        self.under_way.push(Box::pin(async move { (subject, job.await) }));
        true
    }

    /// The next one that ends. Waits for ever where none is under way.
    pub(crate) async fn next(&mut self) -> (K, T) {
        let (subject, answer, _) = self.ended().await;
        (subject, answer)
    }

    /// The next subject whose job ends and was to be started again meanwhile. Only that one is to be started then:
    /// starting all would miss those under way, and so on without end.
    pub(crate) async fn next_missed(&mut self) -> K {
        loop {
            if let (subject, _, true) = self.ended().await {
                return subject;
            }
        }
    }

    /// Does something else while the jobs go on.
    pub(crate) async fn meanwhile<R>(&mut self, other: impl Future<Output = R>) -> R {
        let mut other = pin!(other);
        loop {
            tokio::select! {
                answer = &mut other => return answer,
                Some(ended) = self.under_way.next() => self.ended.push_back(ended),
            }
        }
    }

    async fn ended(&mut self) -> (K, T, bool) {
        let ended = match self.ended.pop_front() {
            Some(ended) => Some(ended),
            None => self.under_way.next().await,
        };
        match ended {
            Some((subject, answer)) => {
                let missed = self.subjects.remove(&subject).unwrap_or_default();
                (subject, answer, missed)
            }
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future, time::Duration};

    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_job_that_never_ends_holds_up_its_own_subject_only() {
        let mut jobs = Jobs::new();
        assert!(jobs.start("silent", future::pending().boxed()));
        for round in 0..3 {
            assert!(jobs.start("other", future::ready(round).boxed()));
            assert!(!jobs.start("silent", future::ready(round).boxed()));
            assert_eq!(jobs.next().await, ("other", round));
        }
        let next = tokio::time::timeout(Duration::from_hours(1), jobs.next());
        assert!(next.await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn slow_subjects_are_started_once_more_and_come_to_rest() {
        let mut jobs = Jobs::new();
        let slow = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        for (subject, seconds) in [("one", 2), ("two", 3)] {
            assert!(jobs.start(subject, slow(seconds)));
            assert!(!jobs.start(subject, slow(seconds)));
            assert!(!jobs.start(subject, slow(seconds)), "missed twice is missed once");
        }
        for missed in ["one", "two"] {
            assert_eq!(jobs.next_missed().await, missed);
            assert!(jobs.start(missed, slow(2)));
        }
        let next = tokio::time::timeout(Duration::from_hours(1), jobs.next_missed());
        assert!(next.await.is_err());
        assert!(jobs.start("one", slow(2)), "it has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_go_on_while_something_else_is_waited_for() {
        let mut jobs = Jobs::new();
        // One that is not polled does not begin to wait.
        let slow = async |seconds| tokio::time::sleep(Duration::from_secs(seconds)).await;
        assert!(jobs.start("one", slow(2)));
        assert!(jobs.start("two", slow(3)));
        let begin = tokio::time::Instant::now();
        jobs.meanwhile(slow(10)).await;
        for subject in ["one", "two"] {
            assert!(!jobs.start(subject, slow(2)), "nobody has heard of its end yet");
            assert_eq!(jobs.next_missed().await, subject);
        }
        assert_eq!(
            begin.elapsed(),
            Duration::from_secs(10),
            "they took no time of their own"
        );
    }
}
