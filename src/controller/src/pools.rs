//! NodePool status, hash and gauges.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use plimsoll_api::{labels, nodepool::NodePool, validate};
use plimsoll_core::{disrupt, snapshot::DisruptionReason};
use plimsoll_lifecycle::nodepool::{migrate, reconcile};
use plimsoll_provider::{CloudProvider, NodeClassReadiness, chain};

use crate::{
    catalog,
    context::Context,
    perform::{PerformError, bounded},
};

/// The least time between two passes, so that a burst of node events costs one status write.
const GAP: Duration = Duration::from_secs(1);
/// Node class changes are seen at least this often.
const PERIOD: Duration = Duration::from_secs(5);

pub(crate) async fn work<P: CloudProvider>(context: Arc<Context<P>>) {
    let (mut known, mut known_hashes) = (Vec::new(), Vec::new());
    loop {
        let pools: Vec<Arc<NodePool>> = context.index().node_pools().cloned().collect();
        let names: Vec<_> = pools
            .iter()
            .map(|p| (p.metadata.name.clone(), p.metadata.generation))
            .collect();
        if names != known {
            for pool in &pools {
                for field in validate::unimplemented(pool) {
                    tracing::warn!(
                        nodepool = pool.metadata.name,
                        field,
                        "this field is accepted and not acted upon yet"
                    );
                }
            }
            if let Err(error) = catalog::refresh(&context).await {
                tracing::warn!(%error, "catalogue not refreshed for changed pools");
            }
            known = names;
        }
        let hash = |p: &Arc<NodePool>| {
            p.metadata
                .annotations
                .as_ref()?
                .get(labels::NODEPOOL_HASH)
                .cloned()
        };
        let hashes: Vec<_> = pools.iter().map(hash).collect();
        if hashes != known_hashes {
            context.drift.look();
            known_hashes = hashes;
        }
        let catalog = context.catalog();
        let lowered = context.index().snapshot(&catalog, Timestamp::now());
        let usage = plimsoll_state::pool_usage(&lowered.snapshot);
        context
            .metrics
            .price_lists(&context.provider.price_lists(), Timestamp::now());
        context.metrics.set_nodes(lowered.snapshot.nodes.len());
        for pool in &pools {
            let name = pool.metadata.name.as_deref().unwrap_or_default();
            if let Err(error) = pass(&context, pool, usage.get(name)).await {
                tracing::debug!(
                    nodepool = name,
                    error = chain(&error),
                    "status pass failed, trying again"
                );
                context.pools.notify_one();
            }
            if let Some(pool) = lowered.snapshot.pools.iter().find(|p| &*p.name == name) {
                let allowed = disrupt::allowed_disruptions(
                    &lowered.snapshot,
                    pool,
                    DisruptionReason::Empty,
                    Timestamp::now(),
                );
                context.metrics.pool(pool, usage.get(name), allowed);
            }
        }
        tokio::time::sleep(GAP).await;
        let _ = tokio::time::timeout(PERIOD, context.pools.notified()).await;
    }
}

async fn pass<P: CloudProvider>(
    context: &Context<P>,
    pool: &NodePool,
    usage: Option<&(plimsoll_core::resources::Resources, u64)>,
) -> Result<(), PerformError> {
    let reference = &pool.spec.template.spec.node_class_ref;
    if !context.provider.supports(&reference.group, &reference.kind) {
        return Ok(());
    }
    let class = match context.provider.node_class(reference).await {
        Ok(class) => class,
        Err(error) => {
            let message = error.to_string();
            (
                NodeClassReadiness::Unknown {
                    reason: "NodeClassReadinessUnknown".into(),
                    message,
                },
                None,
            )
        }
    };
    let name = pool.metadata.name.as_deref().unwrap_or_default();
    let patches = reconcile(pool, &class, usage, Timestamp::now());
    let api = Api::<NodePool>::all(context.client.clone());
    let params = PatchParams::default();
    if let Some(patch) = patches.metadata {
        let stamps = migrate(pool, context.index().claims());
        context.perform_all(stamps).await?;
        let patch = Patch::Merge(patch);
        bounded("patch a NodePool", api.patch(name, &params, &patch)).await?;
        // The status patch below carries the version of the object that was just changed.
        context.pools.notify_one();
        return Ok(());
    }
    if let Some(patch) = patches.status {
        let patch = Patch::Merge(patch);
        let patched = bounded(
            "patch a NodePool's status",
            api.patch_status(name, &params, &patch),
        )
        .await?;
        context.update(|index, now| plimsoll_state::Observe::apply(index, patched, now));
        context.provision.notify_one();
    }
    Ok(())
}
