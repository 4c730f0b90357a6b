//! Several requests of the same kind at the same time become one call.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use plimsoll_provider::ProviderError;
use tokio::sync::oneshot;

/// How long the first request of a batch waits for others. A machine takes minutes to end; this is not felt.
const WINDOW: Duration = Duration::from_millis(100);
/// Most ids in one call; the limit of values of one EC2 filter.
const ITEMS_MAX: usize = 200;

type Answer<T> = Result<T, ProviderError>;
type Waiting<T> = Vec<(String, oneshot::Sender<Answer<T>>)>;

/// Requests that wait for the next call, by id.
pub(crate) struct Batch<T> {
    waiting: Arc<Mutex<Waiting<T>>>,
}

impl<T> std::fmt::Debug for Batch<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Batch").finish_non_exhaustive()
    }
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self {
            waiting: Arc::default(),
        }
    }
}

impl<T: Clone + Default + Send + 'static> Batch<T> {
    /// The answer for one id, from a call for all ids of this moment. `call` answers by id; what it leaves out is
    /// answered with the default.
    pub(crate) async fn get<F>(
        &self,
        id: &str,
        call: impl FnOnce(Vec<String>) -> F + Send + 'static,
    ) -> Answer<T>
    where
        F: Future<Output = Answer<BTreeMap<String, T>>> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let first = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push((id.to_owned(), sender));
            waiting.len() == 1 || waiting.len() > ITEMS_MAX
        };
        if first {
            // A task of its own: whoever opened the batch may stop waiting, the others must still be answered.
            tokio::spawn(answer(self.waiting.clone(), call));
        }
        receiver
            .await
            .unwrap_or_else(|_| Err(ProviderError::Transient("a batch of calls was dropped".into())))
    }
}

async fn answer<T, F>(waiting: Arc<Mutex<Waiting<T>>>, call: impl FnOnce(Vec<String>) -> F)
where
    T: Clone + Default,
    F: Future<Output = Answer<BTreeMap<String, T>>>,
{
    tokio::time::sleep(WINDOW).await;
    let batch: Waiting<T> = {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let size = waiting.len().min(ITEMS_MAX);
        waiting.drain(..size).collect()
    };
    let mut ids: Vec<String> = batch.iter().map(|(id, _)| id.clone()).collect();
    ids.sort();
    ids.dedup();
    if ids.is_empty() {
        return;
    }
    let answers = call(ids).await;
    for (id, sender) in batch {
        let answer = match &answers {
            Ok(by_id) => Ok(by_id.get(&id).cloned().unwrap_or_default()),
            Err(error) => Err(error.clone()),
        };
        // Whoever does not wait any more needs no answer.
        let _ = sender.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_of_one_moment_share_a_call() {
        let batch: Batch<Option<String>> = Batch::default();
        let calls: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
        let ask = |id: &'static str| {
            let calls = calls.clone();
            batch.get(id, move |ids: Vec<String>| async move {
                calls.lock().unwrap().push(ids.clone());
                let known = ids.into_iter().filter(|id| id != "c");
                Ok(known
                    .map(|id| (id.clone(), Some(format!("answer {id}"))))
                    .collect())
            })
        };
        let (a, b, c, again) = tokio::join!(ask("a"), ask("b"), ask("c"), ask("a"));
        assert_eq!(a.unwrap().as_deref(), Some("answer a"));
        assert_eq!(again.unwrap().as_deref(), Some("answer a"));
        assert_eq!(b.unwrap().as_deref(), Some("answer b"));
        assert_eq!(c.unwrap(), None);
        assert_eq!(*calls.lock().unwrap(), [["a", "b", "c"]]);
        assert!(ask("d").await.is_ok());
        assert_eq!(calls.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn an_error_reaches_everybody() {
        let batch: Batch<()> = Batch::default();
        let fail = |_: Vec<String>| async { Err(ProviderError::Throttled("slow".into())) };
        let (a, b) = tokio::join!(batch.get("a", fail), batch.get("b", fail));
        assert!(matches!(a, Err(ProviderError::Throttled(_))));
        assert!(matches!(b, Err(ProviderError::Throttled(_))));
    }
}
