//! Interruptions: EventBridge events that arrive in an SQS queue, and what EC2 says of its instances' health.

mod event;
mod health;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;
use futures::future::join_all;
use jiff::Timestamp;
use plimsoll_api::labels;
use plimsoll_provider::{Interruptions, Machine, ProviderError};
use tokio::time::Instant;

use crate::{
    AwsCloud,
    account::{Account, in_time},
    error::provider_error,
    instances::{self, State},
    role::Role,
    unavailable::Refusal,
};

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
const HINT: Duration = Duration::from_millis(500);
/// Longest look at whose a machine is that no claim names; messages wait meanwhile.
const LOOK: Duration = Duration::from_secs(5);
/// A launch is recorded, or its machine ended by the garbage collection, within this.
const RECORDED_WITHIN: Duration = Duration::from_mins(5);

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

    /// Whether messages may be received and deleted. SQS has no dry run, but a message that is hidden for no time is
    /// there for whoever reads the queue, and a receipt that nobody was given deletes nothing.
    pub(crate) async fn check(&self) -> Result<(), ProviderError> {
        let receive = self.sqs.receive_message().queue_url(&self.url);
        let received = receive.wait_time_seconds(0).visibility_timeout(0).send().await;
        received.map_err(|error| provider_error("sqs:ReceiveMessage", &error))?;
        let delete = self.sqs.delete_message().queue_url(&self.url);
        let deleted = delete.receipt_handle("none").send().await;
        match deleted.map_err(|error| provider_error("sqs:DeleteMessage", &error)) {
            Err(error @ ProviderError::Denied(_)) => Err(error),
            // Another error is what becomes of such a receipt.
            Ok(_) | Err(_) => Ok(()),
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
    async fn receive(&self) -> Interruptions {
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
        let read: Vec<_> = messages
            .iter()
            .map(|m| parse(m.body().unwrap_or_default()))
            .collect();
        Interruptions {
            messages: Some(read.iter().map(|event| event.message.clone()).collect()),
            found: read.into_iter().flat_map(|event| event.interruptions).collect(),
        }
    }

    /// Takes the messages handed out last from the queue, and says how many went.
    pub(crate) async fn delete(&self) -> usize {
        let receipts = std::mem::take(&mut *self.handed_out.lock().unwrap_or_else(PoisonError::into_inner));
        if receipts.is_empty() {
            return 0;
        }
        let entry = |(at, receipt): (usize, String)| {
            DeleteMessageBatchRequestEntry::builder()
                .id(at.to_string())
                .receipt_handle(receipt)
                .build()
        };
        let entries: Result<Vec<_>, _> = receipts.into_iter().enumerate().map(entry).collect();
        let Ok(entries) = entries else { return 0 };
        let deleted = self
            .sqs
            .delete_message_batch()
            .queue_url(&self.url)
            .set_entries(Some(entries))
            .send()
            .await;
        match deleted {
            Ok(answer) => answer.successful().len(),
            Err(error) => {
                let error = provider_error("sqs:DeleteMessage", &error);
                tracing::warn!(%error, "handled messages stay in the queue and will come again");
                0
            }
        }
    }
}

impl AwsCloud {
    /// The next interruptions, of this cluster's machines and others': the queue may serve the whole account.
    pub(crate) async fn next_interruptions(&self) -> Interruptions {
        let of_checks = |found| Interruptions {
            found,
            messages: None,
        };
        let Some(queue) = &self.queue else {
            return of_checks(self.health.next().await);
        };
        queue.forget();
        // Not a race: messages whose reading is broken off after they were handed out would be deleted unread. What the
        // checks say can wait for the end of a long poll.
        let found = self.health.take();
        if found.is_empty() {
            self.read_queue(queue).await
        } else {
            of_checks(found)
        }
    }

    /// Looks at the health of instances, for ever.
    pub(crate) async fn keep_health(&self) {
        // Accounts that deny it, by role, and when they are asked again.
        let mut denied: BTreeMap<Option<Role>, Instant> = BTreeMap::new();
        loop {
            let mut asked = self.accounts.open();
            asked.retain(|account| {
                let again = denied.get(&account.role);
                again.is_none_or(|again| *again <= Instant::now())
            });
            let look = async |account: Arc<Account>| {
                (
                    in_time(health::look(&account.ec2, Timestamp::now())).await,
                    account,
                )
            };
            let mut found = Vec::new();
            for (answer, account) in join_all(asked.into_iter().map(look)).await {
                match answer {
                    Ok(there) => {
                        denied.remove(&account.role);
                        found.extend(there);
                    }
                    Err(error) => {
                        let is_denied = matches!(error, ProviderError::Denied(_));
                        if !is_denied || !denied.contains_key(&account.role) {
                            let role = account.name();
                            tracing::warn!(role, %error, "the health of instances is not known, trying again");
                        }
                        if is_denied {
                            denied.insert(account.role.clone(), Instant::now() + health::DENIED_INTERVAL);
                        }
                    }
                }
            }
            self.health.note(found);
            tokio::time::sleep(health::INTERVAL).await;
        }
    }

    async fn read_queue(&self, queue: &Queue) -> Interruptions {
        let events = queue.receive().await;
        let taken_back = events.found.iter().filter(|e| e.kind == SPOT);
        let notes = join_all(taken_back.map(|e| self.note_taken_back(&e.machine_id)));
        // The drains must not wait for a hint that is slow to come.
        let _ = tokio::time::timeout(HINT, notes).await;
        events
    }

    /// Whether this cluster has launched a machine so lately that its claim may not name it yet. What cannot be looked up
    /// is taken for another's: its messages would come again and again.
    pub(crate) async fn is_launched_lately(&self, instance_id: &str) -> bool {
        let is_it = |machine: &Machine| instances::instance_id(&machine.provider_id) == Some(instance_id);
        if self.launches.recent(|_, machine| is_it(machine)).is_some() {
            return true;
        }
        let look = async |account: Arc<Account>| {
            let found = tokio::time::timeout(LOOK, account.instances.get(instance_id)).await;
            let Ok(Ok(Some(found))) = found else { return false };
            let age = Timestamp::now().duration_since(found.launched);
            found.state == State::Alive
                && found.not_ours(&account.cluster).is_none()
                && age.unsigned_abs() < RECORDED_WITHIN
        };
        let looks = join_all(self.accounts.open().into_iter().map(look));
        looks.await.contains(&true)
    }

    /// A spot machine that is taken back says that there are too few of its kind, so that kind is not asked for at
    /// once. Only a hint: what cannot be looked up is left out.
    async fn note_taken_back(&self, instance_id: &str) {
        for account in self.accounts.open() {
            if let Ok(Some(found)) = account.instances.get(instance_id).await {
                let now = Timestamp::now();
                let spot = labels::CAPACITY_SPOT;
                account
                    .unavailable()
                    .offering(&found.type_, &found.zone, spot, Refusal::Capacity, now);
                self.changed.notify_one();
                return;
            }
        }
    }
}
