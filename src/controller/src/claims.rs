//! NodeClaims, each advanced by short passes.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use plimsoll_lifecycle::Pool;
use plimsoll_provider::{CloudProvider, chain};

use crate::{context::Context, perform::PerformError};

/// Passes under way at once: bounds calls to the API server and the cloud. The machines of one plan open together.
pub(crate) const WORKERS: usize = 160;

/// A claim that keeps failing is looked at this often.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// One of the workers.
pub(crate) async fn work<P: CloudProvider>(context: Arc<Context<P>>) {
    loop {
        let name = context.claims.next().await;
        match pass(&context, &name).await {
            Ok(()) => context.claims.succeeded(&name),
            Err(PerformError::Conflict) => context.claims.retry(name.clone()),
            Err(error) => {
                tracing::warn!(nodeclaim = %name, error = chain(&error), "pass failed, trying again");
                context.claims.retry(name.clone());
            }
        }
        context.claims.done(&name);
    }
}

async fn pass<P: CloudProvider>(context: &Context<P>, name: &str) -> Result<(), PerformError> {
    let (view, pool) = {
        let index = context.index();
        let Some(view) = index.view(name) else {
            return Ok(());
        };
        let class = &view.claim.spec.node_class_ref;
        if !context.provider.supports(&class.group, &class.kind) {
            return Ok(());
        }
        let pool = index
            .pool_of(&view.claim)
            .map_or_else(Pool::default, |pool| Pool {
                consolidate_after: pool.spec.disruption.consolidate_after.as_duration(),
                drift: context.drift.of(&view.claim, pool),
            });
        (view, pool)
    };
    let pass = plimsoll_lifecycle::reconcile(&view, pool, context.settings, Timestamp::now());
    context.perform_all(pass.effects).await?;
    if let Some(delay) = pass.again {
        context.claims.later(name.to_owned(), delay);
    }
    Ok(())
}
