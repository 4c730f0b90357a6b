//! Shows the provider the machines that have a Node.

use std::{sync::Arc, time::Duration};

use plimsoll_api::conditions;
use plimsoll_provider::CloudProvider;

use crate::context::Context;

/// Nothing waits for what a provider does with a machine in service.
const INTERVAL: Duration = Duration::from_secs(10);

pub(crate) async fn work<P: CloudProvider>(context: Arc<Context<P>>) {
    loop {
        let machines: Vec<_> = {
            let index = context.index();
            let registered = index.claims().filter(|claim| {
                let list = claim.status.as_ref().map(|s| s.conditions.as_slice());
                let class = &claim.spec.node_class_ref;
                claim.metadata.deletion_timestamp.is_none()
                    && conditions::is_true(list.unwrap_or_default(), conditions::REGISTERED)
                    && context.provider.supports(&class.group, &class.kind)
            });
            registered
                .filter_map(|claim| {
                    let provider_id = claim.status.as_ref()?.provider_id.as_ref()?;
                    let nodes = index.nodes_of_provider_id(provider_id);
                    let [node] = nodes.as_slice() else { return None };
                    Some((claim.clone(), node.clone()))
                })
                .collect()
        };
        context.provider.attend(&machines).await;
        drop(machines);
        tokio::time::sleep(INTERVAL).await;
    }
}
