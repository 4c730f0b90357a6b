//! `hack/bench-latency`: how long a pending pod on a quiet cluster waits until a machine is asked for.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use plimsoll_e2e::cluster::PodCounts;
use plimsoll_e2e::conditions;
use plimsoll_e2e::demo::{Observer, View};
use plimsoll_e2e::fixture::{Fixture, PATIENCE};
use plimsoll_e2e::latencies::Latencies;
use plimsoll_e2e::{machine_load, objects};
use serde::Serialize;
use tokio::time::Instant;

/// Measure, with one client that watches both, the time from a pod to the NodeClaim for it. Each pod comes to a cluster
/// without machines, and the next one only after the machine has gone again.
#[derive(Parser)]
#[command(name = "hack/bench-latency")]
struct Arguments {
    /// How many pods, one after the other
    #[arg(long, default_value_t = 20)]
    runs: usize,
    /// Write the figures to this file
    #[arg(long, value_name = "OUT")]
    json: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Figures {
    #[serde(flatten)]
    latencies: Latencies,
    /// Processes that wanted a processor, on average over the minute before the first run and before the end.
    load_before: f64,
    load_after: f64,
    processors: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    match bench(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn bench(arguments: &Arguments) -> Result<()> {
    let fixture = Fixture::with_node_class("bench latency").await?;
    let _controller = fixture.controller().await?;
    fixture.apply(objects::node_pool("default")).await?;
    fixture
        .wait_pool("a ready NodePool", "default", |pool| {
            conditions::is_true(pool, "Ready")
        })
        .await?;
    let mut observer = Observer::start(fixture.cluster(), fixture.namespace()).await?;
    let load_before = machine_load::one_minute()?;
    let mut runs_ms = Vec::new();
    for run in 1..=arguments.runs {
        let latency = one_pod(&fixture, &mut observer, &format!("pod-{run}")).await?;
        eprintln!("run {run:3}: {:7.1} ms", latency.as_secs_f64() * 1000.0);
        runs_ms.push(latency.as_secs_f64() * 1000.0);
    }
    let figures = Figures {
        latencies: Latencies::of(runs_ms).context("--runs must be at least 1")?,
        load_before,
        load_after: machine_load::one_minute()?,
        processors: std::thread::available_parallelism()?.get(),
    };
    fixture.finish().await?;
    writeln!(
        std::io::stdout(),
        "pod visible → NodeClaim visible, {} times: median {:.1} ms, min {:.1} ms, max {:.1} ms \
         (load {:.1} to {:.1} on {} processors)",
        figures.latencies.runs_ms.len(),
        figures.latencies.median_ms,
        figures.latencies.min_ms,
        figures.latencies.max_ms,
        figures.load_before,
        figures.load_after,
        figures.processors,
    )?;
    let json = serde_json::to_string_pretty(&figures)? + "\n";
    match &arguments.json {
        Some(file) => fs::write(file, json).with_context(|| file.display().to_string())?,
        None => write!(std::io::stdout(), "{json}")?,
    }
    Ok(())
}

/// One pod from its creation until its machine has gone; returns how long after the pod its NodeClaim was seen.
async fn one_pod(fixture: &Fixture, observer: &mut Observer, name: &str) -> Result<Duration> {
    let pods = fixture.api::<Pod>();
    let mut pod_seen = None;
    let mut claim_seen = None;
    let watching = observer.until(
        Instant::now() + PATIENCE,
        |view| {
            // The pod comes first in time and, of changes that arrive together, is looked at first.
            if pod_seen.is_none() && view.pods() != PodCounts::default() {
                pod_seen = Some(Instant::now());
            }
            if claim_seen.is_none() && view.claims() > 0 {
                claim_seen = Some(Instant::now());
            }
            Ok(())
        },
        |view| view.pods().running == 1,
    );
    let (applied, running) = tokio::join!(fixture.apply(objects::pod(name, "500m")), watching);
    applied?;
    let (Some(_), Some(pod_seen), Some(claim_seen)) = (running?, pod_seen, claim_seen) else {
        bail!(
            "{name} does not run after {PATIENCE:?}\n{}",
            fixture.cluster().dump().await
        );
    };
    pods.delete(name, &DeleteParams::default()).await?;
    let quiet = |view: &View| view.pods() == PodCounts::default() && view.instances() == 0;
    if observer
        .until(Instant::now() + PATIENCE, |_| Ok(()), quiet)
        .await?
        .is_none()
    {
        bail!("the machine of {name} stays\n{}", fixture.cluster().dump().await);
    }
    Ok(claim_seen - pod_seen)
}
