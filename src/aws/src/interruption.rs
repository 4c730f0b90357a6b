//! Interruptions: EventBridge events that arrive in an SQS queue, and what EC2 says of its instances' health.

mod event;
mod health;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_sdk_sqs::types::{self, DeleteMessageBatchRequestEntry};
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

use event::{Event, SPOT, parse};
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
    /// The messages that were handed out last.
    handed_out: Mutex<Vec<HandedOut>>,
}

/// A message that may be deleted when it was acted upon.
#[derive(Debug)]
struct HandedOut {
    receipt: String,
    machines: BTreeSet<String>,
    said: Option<Timestamp>,
}

impl HandedOut {
    fn new(message: &types::Message, event: &Event) -> Option<Self> {
        let machines = event.interruptions.iter().map(|i| i.machine_id.clone());
        Some(Self {
            receipt: message.receipt_handle()?.to_owned(),
            machines: machines.collect(),
            said: event.message.at,
        })
    }
}

/// Whether this is so short a time ago that the launch of a machine need not be recorded yet.
fn is_recent(at: Timestamp) -> bool {
    Timestamp::now().duration_since(at).unsigned_abs() < RECORDED_WITHIN
}

impl Queue {
    fn handed_out(&self) -> MutexGuard<'_, Vec<HandedOut>> {
        self.handed_out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn new(sqs: aws_sdk_sqs::Client, url: String) -> Self {
        Self {
            sqs,
            url,
            handed_out: Mutex::default(),
        }
    }

    /// Whether messages may be received and deleted. SQS has no dry run, but a message that is hidden for no time comes
    /// again at once, if counted as received, and a receipt that nobody was given deletes nothing.
    pub(crate) async fn check(&self) -> Result<(), ProviderError> {
        let receive = self.sqs.receive_message().queue_url(&self.url);
        let received = receive.wait_time_seconds(0).visibility_timeout(0).send().await;
        let received = received.map_err(|error| provider_error("sqs:ReceiveMessage", &error));
        let delete = self.sqs.delete_message().queue_url(&self.url);
        let deleted = delete.receipt_handle("none").send().await;
        let deleted = deleted.map_err(|error| provider_error("sqs:DeleteMessage", &error));
        // Other errors are what becomes of such a receipt, or pass.
        let is_denied = |error: &ProviderError| matches!(error, ProviderError::Denied(_));
        match received.err().into_iter().chain(deleted.err()).find(is_denied) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// What was handed out and not deleted comes again.
    fn forget(&self) {
        self.handed_out().clear();
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
        // What cannot be read is no news for us, and is deleted with the rest.
        let read: Vec<_> = messages
            .iter()
            .map(|m| parse(m.body().unwrap_or_default()))
            .collect();
        let handed_out = messages
            .iter()
            .zip(&read)
            .filter_map(|(message, event)| HandedOut::new(message, event));
        *self.handed_out() = handed_out.collect();
        Interruptions {
            messages: Some(read.iter().map(|event| event.message.clone()).collect()),
            found: read.into_iter().flat_map(|event| event.interruptions).collect(),
        }
    }

    /// Whether something that was said of the machine lately was handed out last.
    fn speaks_lately_of(&self, instance_id: &str) -> bool {
        let handed_out = self.handed_out();
        let mut of_it = handed_out.iter().filter(|it| it.machines.contains(instance_id));
        of_it.any(|it| it.said.is_some_and(is_recent))
    }

    /// Takes the messages handed out last from the queue, but for those about any of these machines, and says how many went.
    pub(crate) async fn delete(&self, except: &BTreeSet<String>) -> usize {
        let mut handled = std::mem::take(&mut *self.handed_out());
        handled.retain(|it| it.machines.is_disjoint(except));
        if handled.is_empty() {
            return 0;
        }
        let entry = |(at, it): (usize, HandedOut)| {
            DeleteMessageBatchRequestEntry::builder()
                .id(at.to_string())
                .receipt_handle(it.receipt)
                .build()
        };
        let entries: Result<Vec<_>, _> = handled.into_iter().enumerate().map(entry).collect();
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
    /// may have been, but no longer than that: messages about others' machines would come again and again.
    pub(crate) async fn is_launched_lately(&self, instance_id: &str) -> bool {
        let is_it = |machine: &Machine| instances::instance_id(&machine.provider_id) == Some(instance_id);
        if self.launches.recent(|_, machine| is_it(machine)).is_some() {
            return true;
        }
        let look = async |account: Arc<Account>| {
            let found = match tokio::time::timeout(LOOK, account.instances.get(instance_id)).await {
                Ok(Ok(Some(found))) => found,
                Ok(Ok(None) | Err(ProviderError::Denied(_))) => return false,
                Ok(Err(_)) | Err(_) => {
                    let queue = self.queue.as_ref();
                    return queue.is_some_and(|queue| queue.speaks_lately_of(instance_id));
                }
            };
            found.state == State::Alive
                && found.not_ours(&account.cluster).is_none()
                && is_recent(found.launched)
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
