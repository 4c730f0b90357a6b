//! From configuration to a running controller.

use std::{sync::Arc, time::Duration};

use kube::Client;
use plimsoll_lifecycle::Settings;
use plimsoll_provider::CloudProvider;
use plimsoll_report::Prices;
use plimsoll_state::Index;
use thiserror::Error;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, LogFilter},
    attend, catalog, claims,
    config::Config,
    context::Context,
    disrupt, drift,
    events::Recorder,
    eviction::{self, Evictions},
    garbage, intention, interruption,
    lease::Election,
    metrics::Metrics,
    pools, provision,
    reporting::{self, Make},
    watch::{self, Gaps, SYNC_PATIENCE, Sync},
};

#[derive(Debug, Error)]
pub enum RunError {
    #[error("cannot make a Kubernetes client from the configuration")]
    Client(#[source] kube::Error),
    #[error("cannot serve on port {port}; choose another with {flag}")]
    Port {
        port: u16,
        flag: &'static str,
        source: std::io::Error,
    },
    #[error("leadership lost; stopping so that nothing is done by two")]
    LeadershipLost,
    #[error("a part of the controller stopped unexpectedly")]
    Stopped(#[source] tokio::task::JoinError),
}

/// Buys and ends machines until `stop`, or until something that must not end ends.
pub async fn run<P: CloudProvider>(
    config: Config,
    kubeconfig: kube::Config,
    make_provider: impl FnOnce(Client) -> P,
    log: LogFilter,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let interval = config.report_interval;
    let loops = move |tasks: &mut JoinSet<()>, context: &Arc<Context<P>>| {
        spawn_loops(tasks, context);
        let prices = |context: &Context<P>| Prices::Catalog(Arc::unwrap_or_clone(context.catalog()));
        // Whoever has just begun to act has better things to do.
        tasks.spawn(reporting::work(context.clone(), prices, interval, Make::Report));
    };
    supervise(config, kubeconfig, make_provider, Gaps::Never, loops, log, stop).await
}

/// Only looks, until `stop` or until something that must not end ends: keeps the Report current and says what the
/// other function would do. `prices` picks the price list that fits the cluster. With `advise` it keeps Plans too.
pub async fn observe(
    config: Config,
    kubeconfig: kube::Config,
    advise: bool,
    prices: impl Fn(&Index) -> Prices + Clone + Send + std::marker::Sync + 'static,
    log: LogFilter,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let make = if advise { Make::ReportAndPlan } else { Make::Report };
    let loops = move |tasks: &mut JoinSet<()>, context: &Arc<Context<()>>| {
        let prices = move |context: &Context<()>| prices(&context.index());
        tasks.spawn(intention::work(context.clone(), prices.clone()));
        tasks.spawn(reporting::work(context.clone(), prices, Duration::ZERO, make));
        tasks.spawn(forget_claims(context.clone()));
    };
    // Without a provider there is no executor: acting from here does not compile.
    supervise(config, kubeconfig, |_| (), Gaps::Tolerated, loops, log, stop).await
}

/// Nobody looks after claims while observing; their wakes must not pile up.
async fn forget_claims(context: Arc<Context<()>>) {
    loop {
        let claim = context.claims.next().await;
        context.claims.done(&claim);
    }
}

/// What all modes have in common: servers, watches, the Lease.
async fn supervise<P: Send + std::marker::Sync + 'static>(
    config: Config,
    kubeconfig: kube::Config,
    make_provider: impl FnOnce(Client) -> P,
    gaps: Gaps,
    spawn_loops: impl FnOnce(&mut JoinSet<()>, &Arc<Context<P>>),
    log: LogFilter,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let client = Client::try_from(kubeconfig.clone()).map_err(RunError::Client)?;
    let mut no_retry_config = kubeconfig;
    no_retry_config.default_retry = false;
    let no_retry = Client::try_from(no_retry_config).map_err(RunError::Client)?;

    let metrics = Metrics::new(config.version);
    let sync = Arc::new(Sync::default());
    let mut servers = JoinSet::new();
    let (metrics_port, health_port) = (config.metrics_port, config.health_probe_port);
    servers.spawn({
        let (metrics, log) = (metrics.clone(), log);
        async move {
            let served = admin::serve_metrics(metrics_port, metrics, log).await;
            served.map_err(|source| RunError::Port {
                port: metrics_port,
                flag: "--metrics-port",
                source,
            })
        }
    });
    servers.spawn({
        let sync = sync.clone();
        async move {
            let served = admin::serve_health(health_port, sync).await;
            served.map_err(|source| RunError::Port {
                port: health_port,
                flag: "--health-probe-port",
                source,
            })
        }
    });

    let mut election = Election::new(no_retry.clone(), config.leader_election.clone());
    let enabled = config.leader_election.enabled;
    let lease_name = config.leader_election.name.clone();
    let work = async {
        wait_for_api(&client, &sync).await;
        let nominate = config.policy.nomination;
        let (events, writer) = Recorder::new(client.clone(), config.leader_election.identity.clone());
        let context = Context::new(
            config,
            Settings { nominate },
            client.clone(),
            no_retry.clone(),
            make_provider(client),
            metrics.clone(),
            events,
            Evictions::new(no_retry),
            Index::default(),
        );
        // A replica in waiting keeps its index warm, so that it can act as soon as it leads.
        let mut watches = watch::start(&context, &sync, gaps);
        let mut tasks = JoinSet::new();
        tasks.spawn(writer);
        synced(&sync).await;
        metrics.synced();
        if enabled {
            election.acquire().await;
        }
        metrics.leading(&lease_name);
        spawn_loops(&mut tasks, &context);
        let lost = async {
            if enabled {
                election.hold().await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = lost => Err(RunError::LeadershipLost),
            // Nothing acts on a picture that has stopped moving.
            Some(ended) = watches.join_next() => ended.map_err(RunError::Stopped),
            Some(ended) = tasks.join_next() => ended.map_err(RunError::Stopped),
        }
    };
    let result = tokio::select! {
        result = work => result,
        Some(served) = servers.join_next() => served.unwrap_or_else(|error| Err(RunError::Stopped(error))),
        () = stop.cancelled() => {
            tracing::info!("stopping");
            Ok(())
        }
    };
    // The loops have been dropped with `work`: nothing acts any more, so the next replica may.
    if enabled && result.is_ok() {
        election.release().await;
    }
    result
}

fn spawn_loops<P: CloudProvider>(tasks: &mut JoinSet<()>, context: &Arc<Context<P>>) {
    tasks.spawn(attend::work(context.clone()));
    tasks.spawn(catalog::work(context.clone()));
    tasks.spawn(claims::work(context.clone()));
    tasks.spawn(pools::work(context.clone()));
    tasks.spawn(provision::work(context.clone()));
    tasks.spawn(disrupt::work(context.clone()));
    tasks.spawn(drift::work(context.clone()));
    tasks.spawn(garbage::work(context.clone()));
    tasks.spawn(interruption::work(context.clone()));
    tasks.spawn({
        let context = context.clone();
        async move { context.provider.work().await }
    });
    for _ in 0..eviction::WORKERS {
        tasks.spawn(eviction::work(context.clone()));
    }
}

/// Waits for the API server.
async fn wait_for_api(client: &Client, sync: &Sync) {
    loop {
        match client.apiserver_version().await {
            Ok(version) => {
                tracing::info!(version = version.git_version, "API server found");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "API server not reached, trying again");
                sync.unreached(error.to_string());
            }
        }
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    }
}

/// Waits until every kind was read once, saying what is missing.
async fn synced(sync: &Sync) {
    loop {
        if tokio::time::timeout(SYNC_PATIENCE, sync.complete()).await.is_ok() {
            tracing::info!("cluster state is complete");
            return;
        }
        tracing::warn!(missing = sync.missing().join("; "), "waiting for cluster state");
    }
}
