//! Keeps the cluster's Report current.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{Api, api::PostParams};
use plimsoll_api::report::{NAME, Report, ReportSpec, ReportStatus};
use plimsoll_provider::chain;
use plimsoll_report::{Arm64Images, Cluster, Prices, SavingsReport, report, report_status};
use tokio::time::Instant;

use crate::{
    context::Context,
    perform::{PerformError, bounded},
};

/// A report takes a plan of the whole cluster or several. On a cluster so large that this takes long, the next one waits
/// this many times as long.
const REST: u32 = 10;
/// Whoever has not looked for this long was away; shorter times count as watched, whatever the interval.
const AWAY_MIN: Duration = Duration::from_secs(60);

/// `first`: how long the first report waits.
pub(crate) async fn work<P: Send + Sync + 'static>(
    context: Arc<Context<P>>,
    prices: impl Fn(&Context<P>) -> Prices + Send + Sync + 'static,
    first: Duration,
) {
    tokio::time::sleep(first).await;
    let mut complaint = String::new();
    let mut difference = None;
    loop {
        let begun = Instant::now();
        let pause = || context.config.report_interval.max(begun.elapsed() * REST);
        if let Some(made) = make(&context, prices(&context)).await {
            context.metrics.reported(&made, begun.elapsed());
            let now = Some((made.now.per_hour, made.reachable.cost.per_hour));
            if now != difference {
                tracing::info!(
                    now_per_hour = made.now.per_hour,
                    reachable_per_hour = made.reachable.cost.per_hour,
                    saves_per_hour = made.reachable.saves.per_hour,
                    saves_percent = made.reachable.saves_percent,
                    bound_per_hour = made.bound.per_hour,
                    nodes_unpriced = made.totals.nodes_unpriced,
                    "what this cluster costs and could cost"
                );
                difference = now;
            }
            let away = (2 * (pause() + begun.elapsed())).max(AWAY_MIN);
            match write(&context, &made, away).await {
                Ok(()) => complaint.clear(),
                Err(error) => {
                    let why = explain(&error);
                    if why != complaint {
                        tracing::warn!(%why, "the Report in the cluster is not written; metrics and logs go on");
                        complaint = why;
                    }
                }
            }
        }
        tokio::time::sleep(pause()).await;
    }
}

/// Planning is pure computation; the loops that serve watches must not wait for it.
async fn make<P: Send + Sync + 'static>(context: &Arc<Context<P>>, prices: Prices) -> Option<SavingsReport> {
    let of = context.clone();
    let made = tokio::task::spawn_blocking(move || {
        let cluster = Cluster::read(&of.index(), &prices, Timestamp::now());
        report(&cluster, &prices, &Arm64Images::default(), &of.config.policy)
    });
    match made.await {
        Ok(made) => Some(made),
        Err(error) => {
            tracing::error!(%error, "the report could not be made");
            None
        }
    }
}

/// Replaces the status, so that nothing of the last one stays.
async fn write<P>(context: &Context<P>, made: &SavingsReport, away: Duration) -> Result<(), PerformError> {
    let api = Api::<Report>::all(context.client.clone());
    let params = PostParams::default();
    let known = if let Some(known) = bounded("read the Report", api.get_opt(NAME)).await? {
        known
    } else {
        let new = Report::new(NAME, ReportSpec {});
        bounded("create the Report", api.create(&params, &new)).await?
    };
    let status: ReportStatus = report_status(made, known.status.as_ref(), away);
    let next = Report {
        status: Some(status),
        ..known
    };
    bounded("write the Report", api.replace_status(NAME, &params, &next)).await?;
    Ok(())
}

fn explain(error: &PerformError) -> String {
    match error {
        PerformError::Api {
            source: kube::Error::Api(status),
            ..
        } if status.code == 404 => {
            "the server does not know reports.plimsoll.dev; apply its CRD (plimsoll crds | kubectl apply --server-side -f -)"
                .to_owned()
        }
        error => chain(error),
    }
}
