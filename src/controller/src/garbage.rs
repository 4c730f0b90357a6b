//! Compares machines with records, now and then.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use plimsoll_provider::CloudProvider;

use crate::{context::Context, perform::chain};

/// Upstream's interval.
const PERIOD: Duration = Duration::from_secs(120);

pub(crate) async fn work<P: CloudProvider>(context: Arc<Context<P>>) {
    loop {
        collect(&context).await;
        tokio::time::sleep(PERIOD).await;
    }
}

async fn collect<P: CloudProvider>(context: &Context<P>) {
    let machines = match context.cloud("List", context.provider.list()).await {
        Ok(machines) => machines,
        Err(error) => {
            tracing::warn!(%error, "machines could not be listed");
            return;
        }
    };
    let found = plimsoll_lifecycle::garbage::collect(&context.index(), &machines, Timestamp::now());
    for provider_id in found.leaked {
        tracing::warn!(%provider_id, "ending a machine no NodeClaim stands for");
        if let Err(error) = context
            .cloud("Delete", context.provider.delete(&provider_id))
            .await
        {
            tracing::warn!(%provider_id, %error, "leaked machine could not be ended");
        }
    }
    for effect in found.effects {
        if let Err(error) = context.perform(effect).await {
            tracing::warn!(error = chain(&error), "garbage collection step failed");
        }
    }
}
