//! What the controller would do now, said and not done.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use plimsoll_core::{catalog::MicroDollars, disrupt, plan::Plan, provision};
use plimsoll_report::{Prices, fleet};

use crate::context::Context;

/// The least time between two looks: pods that come together are planned together.
const GAP: Duration = Duration::from_secs(2);
/// A look even if no pod began to wait: machines fall empty, prices change.
const PERIOD: Duration = Duration::from_secs(30);

/// What would be done, as far as it tells one intention from another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Intention {
    pub(crate) buy: usize,
    /// Pods the machines would be for.
    pub(crate) pods: usize,
    pub(crate) price: MicroDollars,
    /// No plan for these pods costs less.
    pub(crate) bound: MicroDollars,
    /// Pods no machine can hold.
    pub(crate) unplaced: usize,
    /// Empty machines that would go.
    pub(crate) remove: usize,
    pub(crate) saves: MicroDollars,
}

pub(crate) async fn work(
    context: Arc<Context<()>>,
    prices: impl Fn(&Context<()>) -> Prices + Send + Sync + 'static,
) {
    let mut said = Intention::default();
    loop {
        context.metrics.waiting(context.index().waiting(Timestamp::now()));
        if let Some(now) = look(&context, prices(&context)).await {
            context.metrics.intends(&now);
            if now != said {
                say(&now, &said);
                said = now;
            }
        }
        tokio::time::sleep(GAP).await;
        let _ = tokio::time::timeout(PERIOD, context.provision.notified()).await;
    }
}

/// Planning is pure computation; the loops that serve watches must not wait for it.
async fn look(context: &Arc<Context<()>>, prices: Prices) -> Option<Intention> {
    let of = context.clone();
    let policy = context.config.policy.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let now = Timestamp::now();
        let (catalog, snapshot) = {
            let index = of.index();
            let catalog = fleet::catalog(&index, &prices);
            let snapshot = index.snapshot(&catalog, now).snapshot;
            (catalog, snapshot)
        };
        let (buy, report) = provision::provision(&snapshot, &catalog, &policy);
        let (remove, _) = disrupt::emptiness(&snapshot, now);
        of.metrics.set_nodes(snapshot.nodes.len());
        intention(&buy, report.unplaced.len(), &remove)
    });
    match looked.await {
        Ok(intention) => Some(intention),
        Err(error) => {
            tracing::error!(%error, "planning failed");
            None
        }
    }
}

fn intention(buy: &Plan, unplaced: usize, remove: &Plan) -> Intention {
    Intention {
        buy: buy.launches.len(),
        pods: buy.launches.iter().map(|l| l.pods.len()).sum(),
        price: buy.launch_price,
        bound: buy.lower_bound,
        unplaced,
        remove: remove.removals.len(),
        saves: remove.removals.iter().filter_map(|r| r.saves).sum(),
    }
}

fn say(now: &Intention, before: &Intention) {
    if (now.buy, now.pods, now.price) != (before.buy, before.pods, before.price) {
        tracing::info!(
            machines = now.buy,
            pods = now.pods,
            price_per_hour = now.price.dollars(),
            lower_bound_per_hour = now.bound.dollars(),
            "would buy machines"
        );
    }
    if now.unplaced != before.unplaced {
        tracing::info!(pods = now.unplaced, "pods no NodePool can serve");
    }
    if (now.remove, now.saves) != (before.remove, before.saves) {
        tracing::info!(
            machines = now.remove,
            saves_per_hour = now.saves.dollars(),
            "would remove empty machines"
        );
    }
}
