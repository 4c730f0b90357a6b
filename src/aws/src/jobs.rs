//! Work that is repeated for several subjects, each at its own pace: one that is slow holds up no other.

use std::{collections::BTreeSet, future::Future};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};

/// Jobs under way, at most one for each subject.
pub(crate) struct Jobs<'a, K, T> {
    subjects: BTreeSet<K>,
    under_way: FuturesUnordered<BoxFuture<'a, (K, T)>>,
}

impl<'a, K: Clone + Ord + Send + 'a, T: Send + 'a> Jobs<'a, K, T> {
    pub(crate) fn new() -> Self {
        Self {
            subjects: BTreeSet::new(),
            under_way: FuturesUnordered::new(),
        }
    }

    /// Starts a job. False: the last one of this subject is still under way, and this one is dropped.
    pub(crate) fn start(&mut self, subject: K, job: impl Future<Output = T> + Send + 'a) -> bool {
        let is_first = self.subjects.insert(subject.clone());
        if is_first {
            self.under_way.push(Box::pin(async move { (subject, job.await) }));
        }
        is_first
    }

    /// The next one that ends. Waits for ever where none is under way.
    pub(crate) async fn next(&mut self) -> (K, T) {
        match self.under_way.next().await {
            Some((subject, answer)) => {
                self.subjects.remove(&subject);
                (subject, answer)
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
}
