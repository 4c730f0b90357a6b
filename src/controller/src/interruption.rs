//! Machines the cloud takes away.

use std::sync::Arc;

use jiff::Timestamp;
use plimsoll_provider::{CloudProvider, chain};

use crate::context::Context;

pub(crate) async fn work<P: CloudProvider>(context: Arc<Context<P>>) {
    loop {
        let mut all_done = true;
        for interruption in context.provider.interruptions().await {
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
            context.provider.interruptions_handled().await;
        }
    }
}
