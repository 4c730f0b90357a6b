//! Compares machines with records, now and then.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use plimsoll_provider::{CloudProvider, chain};

use crate::context::Context;

/// Upstream's interval.
const PERIOD: Duration = Duration::from_secs(120);

pub(crate) async fn work<P: CloudProvider>(context: Arc<Context<P>>) {
    loop {
        collect(&context).await;
        tokio::time::sleep(PERIOD).await;
    }
}

async fn collect<P: CloudProvider>(context: &Context<P>) {
    let claims: Vec<_> = context.index().claims().cloned().collect();
    let listing = match context.cloud("List", context.provider.list(&claims)).await {
        Ok(listing) => listing,
        Err(error) => {
            tracing::warn!(%error, "machines could not be listed");
            return;
        }
    };
    let look = || plimsoll_lifecycle::garbage::collect(&context.index(), &listing, Timestamp::now());
    let mut found = look();
    // A watch may be silent without having ended; what ends a machine without a drain is not taken from it alone.
    if !found.leaked.is_empty() {
        if let Err(error) = context.recount_claims().await {
            tracing::warn!(
                error = chain(&error),
                "no machine is ended before the NodeClaims are known"
            );
            return;
        }
        found = look();
    }
    for provider_id in found.leaked {
        tracing::warn!(%provider_id, "ending a machine no NodeClaim stands for");
        if let Err(error) = context
            .cloud("Delete", context.provider.delete(&provider_id, None))
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
