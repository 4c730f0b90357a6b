//! What is counted of the cloud's word.

use jiff::Timestamp;
use plimsoll_provider::Message;

use super::{ByCategory, ByMessageType, Metrics};

impl Metrics {
    /// A message of the queue of interruptions was read.
    pub(crate) fn message(&self, message: &Message, now: Timestamp) {
        let message_type = message.kind.to_owned();
        let families = &self.families;
        families
            .messages
            .get_or_create(&ByMessageType { message_type })
            .inc();
        if let Some(at) = message.at {
            families
                .message_age
                .observe(now.duration_since(at).as_secs_f64().max(0.0));
        }
    }

    pub(crate) fn messages_deleted(&self, number: usize) {
        self.families.messages_deleted.inc_by(number as u64);
    }

    /// The cloud said of a machine, when it was asked, that it is not well.
    pub(crate) fn unhealthy(&self, category: &str) {
        let category = category.to_owned();
        self.families
            .unhealthy
            .get_or_create(&ByCategory { category })
            .inc();
    }
}
