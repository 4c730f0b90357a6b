//! Machines the cloud takes away.

use std::sync::Arc;

use jiff::Timestamp;
use plimsoll_provider::{CloudProvider, chain};

use crate::context::Context;

pub(crate) async fn work<P: CloudProvider>(context: Arc<Context<P>>) {
    loop {
        let mut all_done = true;
        let interruptions = context.provider.interruptions().await;
        let now = Timestamp::now();
        match &interruptions.messages {
            Some(messages) => messages.iter().for_each(|m| context.metrics.message(m, now)),
            None => interruptions
                .found
                .iter()
                .for_each(|i| context.metrics.unhealthy(i.kind)),
        }
        for interruption in interruptions.found {
            tracing::debug!(
                machine = interruption.machine_id,
                kind = interruption.kind,
                note = interruption.note,
                "the cloud speaks about a machine"
            );
            let effects = plimsoll_lifecycle::interrupted(&context.index(), &interruption, Timestamp::now());
            if let Err(error) = context.perform_all(effects).await {
                tracing::warn!(
                    error = chain(&error),
                    "interruption not handled, it will come again"
                );
                all_done = false;
            }
        }
        if all_done {
            let deleted = context.provider.interruptions_handled().await;
            context.metrics.messages_deleted(deleted);
        }
    }
}
