//! Interruptions: EventBridge events that arrive in an SQS queue, and what EC2 says of its instances' health.

mod event;
mod health;

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;
use jiff::Timestamp;
use plimsoll_api::labels;
use plimsoll_provider::{Interruption, ProviderError};

use crate::{AwsCloud, error::provider_error, unavailable::Refusal};

use event::{SPOT, parse};
pub(crate) use health::Health;

/// SQS' most.
const MESSAGES: i32 = 10;
/// A long poll costs one call and answers at once when there is something.
const WAIT_SECONDS: i32 = 20;
/// A message that was not handled comes again after this.
const VISIBILITY_SECONDS: i32 = 20;
const RETRY: Duration = Duration::from_secs(10);
/// Longest look at what kind of machine is taken back.
const HINT: Duration = Duration::from_secs(2);

/// The queue of one cluster.
#[derive(Debug)]
pub(crate) struct Queue {
    sqs: aws_sdk_sqs::Client,
    url: String,
    /// Receipts of the messages that were handed out last.
    handed_out: Mutex<Vec<String>>,
}

impl Queue {
    pub(crate) fn new(sqs: aws_sdk_sqs::Client, url: String) -> Self {
        Self {
            sqs,
            url,
            handed_out: Mutex::default(),
        }
    }

    /// What was handed out and not deleted comes again.
    fn forget(&self) {
        self.handed_out
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// What the next messages say. Waits for up to 20 s.
    async fn receive(&self) -> Vec<Interruption> {
        let answer = self
            .sqs
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(MESSAGES)
            .wait_time_seconds(WAIT_SECONDS)
            .visibility_timeout(VISIBILITY_SECONDS)
            .send()
            .await;
        let messages = match answer {
            Ok(answer) => answer.messages.unwrap_or_default(),
            Err(error) => {
                let error = provider_error("sqs:ReceiveMessage", &error);
                tracing::warn!(%error, "the interruption queue could not be read");
                tokio::time::sleep(RETRY).await;
                Vec::new()
            }
        };
        let receipts = messages
            .iter()
            .filter_map(|m| m.receipt_handle().map(str::to_owned));
        *self.handed_out.lock().unwrap_or_else(PoisonError::into_inner) = receipts.collect();
        // What cannot be read is no news for us, and is deleted with the rest.
        messages.iter().filter_map(|m| m.body()).flat_map(parse).collect()
    }

    /// Takes the messages handed out last from the queue.
    pub(crate) async fn delete(&self) {
        let receipts = std::mem::take(&mut *self.handed_out.lock().unwrap_or_else(PoisonError::into_inner));
        if receipts.is_empty() {
            return;
        }
        let entry = |(at, receipt): (usize, String)| {
            DeleteMessageBatchRequestEntry::builder()
                .id(at.to_string())
                .receipt_handle(receipt)
                .build()
        };
        let entries: Result<Vec<_>, _> = receipts.into_iter().enumerate().map(entry).collect();
        let Ok(entries) = entries else { return };
        let deleted = self
            .sqs
            .delete_message_batch()
            .queue_url(&self.url)
            .set_entries(Some(entries))
            .send()
            .await;
        if let Err(error) = deleted {
            let error = provider_error("sqs:DeleteMessage", &error);
            tracing::warn!(%error, "handled messages stay in the queue and will come again");
        }
    }
}

impl AwsCloud {
    /// The next interruptions, of this cluster's machines and others': the queue may serve the whole account.
    pub(crate) async fn next_interruptions(&self) -> Vec<Interruption> {
        let Some(queue) = &self.queue else {
            return self.health.next().await;
        };
        queue.forget();
        // Not a race: messages whose reading is broken off after they were handed out would be deleted unread. What the
        // checks say can wait for the end of a long poll.
        let found = self.health.take();
        if found.is_empty() {
            self.read_queue(queue).await
        } else {
            found
        }
    }

    /// Looks at the health of instances, for ever.
    pub(crate) async fn keep_health(&self) {
        let mut denied = false;
        loop {
            let answer = self.health.look(&self.ec2, Timestamp::now()).await;
            let was_denied = denied;
            denied = matches!(answer, Err(ProviderError::Denied(_)));
            match answer {
                Err(error) if !was_denied => {
                    tracing::warn!(%error, "the health of instances is not known, trying again");
                }
                _ => {}
            }
            let wait = if denied {
                health::DENIED_INTERVAL
            } else {
                health::INTERVAL
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn read_queue(&self, queue: &Queue) -> Vec<Interruption> {
        let events = queue.receive().await;
        let taken_back = events.iter().filter(|e| e.kind == SPOT);
        let notes = futures::future::join_all(taken_back.map(|e| self.note_taken_back(&e.machine_id)));
        // The drains must not wait for a hint that is slow to come.
        let _ = tokio::time::timeout(HINT, notes).await;
        events
    }

    /// A spot machine that is taken back says that there are too few of its kind, so that kind is not asked for at
    /// once. Only a hint: what cannot be looked up is left out.
    async fn note_taken_back(&self, instance_id: &str) {
        if let Ok(Some(found)) = self.instances.get(instance_id).await {
            let now = Timestamp::now();
            let spot = labels::CAPACITY_SPOT;
            self.unavailable()
                .offering(&found.type_, &found.zone, spot, Refusal::Capacity, now);
            self.changed.notify_one();
        }
    }
}
