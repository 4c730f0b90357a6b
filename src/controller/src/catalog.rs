//! Keeps the catalogue current.

use std::{sync::Arc, time::Duration};

use plimsoll_provider::{CloudProvider, ProviderError};

use crate::context::Context;

/// Prices and offerings change slowly; capacity that ran out makes itself known on launch.
const REFRESH: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_secs(5);

/// Asks the provider once.
pub(crate) async fn refresh<P: CloudProvider>(context: &Context<P>) -> Result<(), ProviderError> {
    let pools: Vec<_> = context.index().node_pools().cloned().collect();
    let catalog = context
        .cloud("GetInstanceTypes", context.provider.catalog(&pools))
        .await?;
    context.set_catalog(Arc::new(catalog));
    context.provision.notify_one();
    context.disrupt.notify_one();
    Ok(())
}

pub(crate) async fn work<P: CloudProvider>(context: Arc<Context<P>>) {
    loop {
        let pause = match refresh(&context).await {
            Ok(()) => REFRESH,
            Err(error) => {
                tracing::warn!(%error, "catalogue not refreshed, keeping the last one");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = context.provider.catalog_changed() => {}
        }
    }
}
