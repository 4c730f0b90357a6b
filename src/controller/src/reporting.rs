//! Keeps the cluster's Report current, and in mode advise its Plans.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{Api, api::PostParams};
use plimsoll_api::{
    plan::PlanSpec,
    report::{NAME, Report, ReportSpec, ReportStatus},
};
use plimsoll_provider::chain;
use plimsoll_report::{
    Arm64Images, Cluster, Prices, SavingsReport,
    advice::{Basis, GOOD_FOR, advise},
    report, report_status,
};
use tokio::time::Instant;

use crate::{
    advising,
    context::Context,
    perform::{PerformError, bounded},
};

/// A report takes a plan of the whole cluster or several. On a cluster so large that this takes long, the next one waits
/// this many times as long.
const REST: u32 = 10;
/// Whoever has not looked for this long was away; shorter times count as watched, whatever the interval.
const AWAY_MIN: Duration = Duration::from_secs(60);

/// What is made of a look at the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    Report,
    ReportAndPlan,
}

/// `first`: how long the first report waits.
pub(crate) async fn work<P: Send + Sync + 'static>(
    context: Arc<Context<P>>,
    prices: impl Fn(&Context<P>) -> Prices + Send + Sync + 'static,
    first: Duration,
    make: Make,
) {
    tokio::time::sleep(first).await;
    let mut complaints = [String::new(), String::new()];
    let mut difference = None;
    loop {
        let begun = Instant::now();
        let pause = || context.config.report_interval.max(begun.elapsed() * REST);
        if let Some((made, advice)) = look(&context, prices(&context), make).await {
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
            let written = write(&context, &made, away).await;
            let why = written
                .err()
                .map(|error| explain("reports", &error))
                .unwrap_or_default();
            if why != complaints[0] && !why.is_empty() {
                tracing::warn!(%why, "the Report in the cluster is not written; metrics and logs go on");
            }
            complaints[0] = why;
            if make == Make::ReportAndPlan {
                let kept = advising::keep(&context, advice, made.taken).await;
                let why = kept
                    .err()
                    .map(|error| explain("plans", &error))
                    .unwrap_or_default();
                if why != complaints[1] && !why.is_empty() {
                    tracing::warn!(%why, "Plans are not kept; the Report, metrics and logs go on");
                }
                complaints[1] = why;
            }
        }
        tokio::time::sleep(pause()).await;
    }
}

/// Planning is pure computation; the loops that serve watches must not wait for it.
async fn look<P: Send + Sync + 'static>(
    context: &Arc<Context<P>>,
    prices: Prices,
    make: Make,
) -> Option<(SavingsReport, Option<PlanSpec>)> {
    let of = context.clone();
    let made = tokio::task::spawn_blocking(move || {
        let (policy, images) = (&of.config.policy, Arm64Images::default());
        let now = Timestamp::now();
        match make {
            Make::Report => {
                let cluster = Cluster::read(&of.index(), &prices, now);
                (report(&cluster, &prices, &images, policy), None)
            }
            Make::ReportAndPlan => {
                let basis = Basis::read(&of.index(), &prices, now);
                let good_for = GOOD_FOR.max(4 * of.config.report_interval);
                let advice = advise(&basis, policy, good_for);
                (report(basis.cluster(), &prices, &images, policy), advice)
            }
        }
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

/// What is wrong with objects of ours of this kind.
fn explain(plural: &str, error: &PerformError) -> String {
    match error {
        PerformError::Api {
            source: kube::Error::Api(status),
            ..
        } if status.code == 404 => {
            format!(
                "the server does not know {plural}.plimsoll.dev; apply its CRD (plimsoll crds | kubectl apply \
                 --server-side -f -)"
            )
        }
        error => chain(error),
    }
}
