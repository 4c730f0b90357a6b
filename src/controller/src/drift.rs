//! Which machines are no longer what their NodePool and node class ask for. Finds and says so; replaces nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use plimsoll_api::{conditions, nodeclaim::NodeClaim, nodepool::NodePool};
use plimsoll_lifecycle::drift::{is_news, judge};
use plimsoll_provider::{CloudProvider, Drift};
use tokio::sync::Notify;

use crate::context::Context;

/// The cloud is asked this often when nothing changes, as upstream does.
const PERIOD: Duration = Duration::from_mins(5);
/// Changes of classes and pools come in bursts, and each question costs a list of all instances.
const GAP: Duration = Duration::from_secs(10);

/// What the provider last said of each machine.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    /// By UID of the claim.
    by_claim: Mutex<BTreeMap<String, Drift>>,
    due: Notify,
}

impl Verdicts {
    /// A pool changed that machines are held against.
    pub(crate) fn look(&self) {
        self.due.notify_one();
    }

    /// What is to be said of this claim.
    pub(crate) fn of(&self, claim: &NodeClaim, pool: &NodePool) -> Drift {
        let uid = claim.metadata.uid.as_deref().unwrap_or_default();
        let of_class = self.by_claim().get(uid).copied().unwrap_or_default();
        judge(claim, pool, of_class)
    }

    fn by_claim(&self) -> MutexGuard<'_, BTreeMap<String, Drift>> {
        self.by_claim.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) async fn work<P: CloudProvider>(context: Arc<Context<P>>) {
    loop {
        pass(&context).await;
        tokio::time::sleep(GAP).await;
        let changed = async {
            tokio::select! {
                () = context.drift.due.notified() => {}
                () = context.provider.classes_changed() => {}
            }
        };
        let _ = tokio::time::timeout(PERIOD, changed).await;
    }
}

async fn pass<P: CloudProvider>(context: &Context<P>) {
    let machines: Vec<Arc<NodeClaim>> = context
        .index()
        .claims()
        .filter(|claim| is_judged(claim, &context.provider))
        .cloned()
        .collect();
    if machines.is_empty() {
        context.drift.by_claim().clear();
        return;
    }
    match context
        .cloud("IsDrifted", context.provider.drift(&machines))
        .await
    {
        Ok(found) => {
            let by_claim = machines.iter().filter_map(|claim| {
                let drift = found.get(claim.metadata.name.as_deref()?)?;
                Some((claim.metadata.uid.clone()?, *drift))
            });
            *context.drift.by_claim() = by_claim.collect();
        }
        Err(error) => tracing::warn!(%error, "drift not examined, keeping what was found last"),
    }
    for claim in machines {
        let Some(name) = &claim.metadata.name else {
            continue;
        };
        let found = context
            .index()
            .pool_of(&claim)
            .map_or(Drift::Unknown, |pool| context.drift.of(&claim, pool));
        if is_news(&claim, found) {
            tracing::info!(nodeclaim = name, drift = ?found, "drift of a machine changed");
            context.claims.now(name.clone());
        }
    }
}

fn is_judged<P: CloudProvider>(claim: &NodeClaim, provider: &P) -> bool {
    let class = &claim.spec.node_class_ref;
    let list = claim.status.as_ref().map(|s| s.conditions.as_slice());
    claim.metadata.deletion_timestamp.is_none()
        && conditions::is_true(list.unwrap_or_default(), conditions::LAUNCHED)
        && provider.supports(&class.group, &class.kind)
}
