//! `plimsoll controller`.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use anyhow::{Context, anyhow, bail};
use kube::Config as KubeConfig;
use plimsoll_controller::{Config, LeaderElection, LogFilter};
use plimsoll_core::{
    catalog::MicroDollars,
    policy::{MinValuesPolicy, Policy, PreferencePolicy},
};
use plimsoll_kwok::KwokCloud;
use plimsoll_state::Index;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::{
    args::{ControllerOptions, LogFormat, MinValues, Mode, Planning, Preferences, Provider},
    inert,
    kubeconfig::kubeconfig,
    source,
};

/// Most that core may offer per claim, as upstream.
const TYPES_PER_LAUNCH_MAX: usize = 600;

pub(crate) fn run(options: ControllerOptions) -> anyhow::Result<()> {
    let log = start_logging(&options.log_level, options.log_format)?;
    for line in inert::lines(|name| std::env::var(name).ok()) {
        tracing::warn!("{line}");
    }
    runtime()?.block_on(async {
        let kubeconfig = kubeconfig(None).await?;
        let config = config(&options, &kubeconfig);
        let stop = CancellationToken::new();
        stop_on_signal(stop.clone())?;
        let finished = match (options.mode, options.provider) {
            (Mode::Observe | Mode::Advise, _) => {
                tracing::info!(
                    mode = options.mode.of_controller().name(),
                    "nothing is bought or ended; to let it act, run it with --mode automate"
                );
                let advise = options.mode == Mode::Advise;
                let prices = move |index: &Index| source::prices(options.prices, index);
                plimsoll_controller::observe(config, kubeconfig, advise, prices, log, stop).await
            }
            #[cfg(feature = "aws")]
            (Mode::Automate, Some(Provider::Aws)) => {
                let prepared = plimsoll_aws::prepare(options.aws.settings()?).await?;
                let make = |client| prepared.provider(client);
                plimsoll_controller::run(config, kubeconfig, make, log, stop).await
            }
            (Mode::Automate, Some(Provider::Kwok)) => {
                plimsoll_controller::run(config, kubeconfig, KwokCloud::new, log, stop).await
            }
            (Mode::Automate, None) => bail!("--mode automate needs --provider"),
        };
        finished.map_err(Into::into)
    })
}

/// Two threads are enough: the work is waiting for answers, and planning has threads of its own.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let built = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    built.context("cannot start the async runtime")
}

pub(crate) fn policy(planning: &Planning) -> Policy {
    Policy {
        preferences: match planning.preference_policy {
            Preferences::Respect => PreferencePolicy::Respect,
            Preferences::Ignore => PreferencePolicy::Ignore,
        },
        min_values: match planning.min_values_policy {
            MinValues::Strict => MinValuesPolicy::Strict,
            MinValues::BestEffort => MinValuesPolicy::BestEffort,
        },
        nomination: !planning.disable_nomination,
        steps_max: planning.steps,
        types_per_launch_max: TYPES_PER_LAUNCH_MAX,
        interruption_cost: MicroDollars(0),
    }
}

fn config(options: &ControllerOptions, kubeconfig: &KubeConfig) -> Config {
    let host = options
        .pod_name
        .clone()
        .or_else(host_name)
        .unwrap_or_else(|| "plimsoll".into());
    // Differs per process, so that a restarted replica is not taken for its former self.
    let suffix = RandomState::new().hash_one(std::process::id());
    let namespace = options
        .leader_election_namespace
        .clone()
        .or_else(|| options.system_namespace.clone());
    let mode = options.mode.of_controller();
    Config {
        metrics_port: options.metrics_port,
        health_probe_port: options.health_probe_port,
        batch_idle: options.batch_idle_duration,
        batch_max: options.batch_max_duration,
        policy: policy(&options.planning),
        leader_election: LeaderElection {
            enabled: !options.disable_leader_election,
            name: options
                .leader_election_name
                .clone()
                .unwrap_or_else(|| mode.lease().into()),
            namespace: namespace.unwrap_or_else(|| kubeconfig.default_namespace.clone()),
            identity: format!("{host}_{suffix:016x}"),
        },
        report_interval: options.report_interval,
        version: env!("CARGO_PKG_VERSION"),
    }
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/etc/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

fn start_logging(level: &str, format: LogFormat) -> anyhow::Result<LogFilter> {
    let filter = EnvFilter::try_new(level)
        .with_context(|| format!("LOG_LEVEL {level:?} is not a level (error, warn, info, debug, trace)"))?;
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Json => registry
            .with(tracing_subscriber::fmt::layer().json().flatten_event(true))
            .init(),
        LogFormat::Text => registry.with(tracing_subscriber::fmt::layer()).init(),
    }
    Ok(LogFilter(Arc::new(move |text: &str| {
        let filter = EnvFilter::try_new(text).map_err(|error| error.to_string())?;
        handle.reload(filter).map_err(|error| error.to_string())
    })))
}

fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|e| anyhow!("cannot listen for SIGTERM: {e}"))?;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|e| anyhow!("cannot listen for SIGINT: {e}"))?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}
