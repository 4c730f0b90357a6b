//! On kwok: one workload bought by both, with what it costs.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use plimsoll_e2e::demo::{Choice, Provider, Report, Settings, Workload, run};
use plimsoll_e2e::testbed::{Options, Testbed};
use plimsoll_e2e::{machine_load, paths};
use serde::Serialize;

use crate::{TURNS, write_json};

#[derive(Args)]
pub(crate) struct KwokArguments {
    /// With kwok: a YAML file instead of the bundled workload of 500 small and 500 large pods
    #[arg(long, value_name = "FILE.yaml")]
    workload: Option<PathBuf>,
    /// With kwok: how many seconds the pods may take to run
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    timeout: u64,
}

/// One run, measured from the moment before the workload is applied.
#[derive(Debug, Serialize)]
struct Row {
    controller: &'static str,
    pods_running: usize,
    first_node_claim_seconds: Option<f64>,
    all_running_seconds: Option<f64>,
    /// Of the controller's process since its start, until all pods run and every machine has joined.
    cpu_seconds: f64,
    rss_peak_mb: f64,
    nodes: usize,
    price_per_hour: f64,
    /// Processes that wanted a processor, on average over the minute before the run.
    load_before: f64,
}

/// Whether all pods ran in every run.
pub(crate) async fn compare(arguments: &KwokArguments, runs: usize, json: Option<&Path>) -> Result<bool> {
    let file = arguments
        .workload
        .clone()
        .unwrap_or_else(|| paths::manifest("pair.yaml"));
    let workload = Workload::from_yaml_file(&file)?;
    let pods = workload.pods;
    let mut rows = Vec::new();
    for number in 1..=runs {
        for controller in TURNS {
            let name = match controller {
                Choice::Upstream => "upstream",
                Choice::Plimsoll => "plimsoll",
            };
            eprintln!("run {number} of {runs}: {name}");
            let settings = Settings {
                workload: workload.clone(),
                controller,
                provider: Provider::Kwok,
                // The scale-down would be part of the CPU time.
                keep: true,
                timeout: Duration::from_secs(arguments.timeout),
                crds: paths::crds(),
            };
            let load_before = machine_load::one_minute()?;
            rows.push(row(name, &one_run(&settings).await?, load_before));
        }
    }
    write!(std::io::stdout(), "{}", table(&rows))?;
    write_json(&rows, json)?;
    Ok(rows.iter().all(|row| row.pods_running == pods))
}

async fn one_run(settings: &Settings) -> Result<Report> {
    let mut testbed = Testbed::start(Options::default()).await?;
    match run(&testbed, settings).await {
        Ok((report, controller)) => {
            drop(controller);
            Ok(report)
        }
        Err(error) => Err(error.context(format!("the logs are in {}", testbed.keep_logs().display()))),
    }
}

fn row(controller: &'static str, report: &Report, load_before: f64) -> Row {
    Row {
        controller,
        pods_running: report.pods_running,
        first_node_claim_seconds: report.seconds_to_first_launch,
        all_running_seconds: report.seconds_to_all_running,
        cpu_seconds: report.controller_cpu_seconds,
        rss_peak_mb: report.controller_rss_mb_peak,
        nodes: report.nodes,
        price_per_hour: report.price_per_hour,
        load_before,
    }
}

fn table(rows: &[Row]) -> String {
    let seconds = |value: Option<f64>| value.map_or("-".to_owned(), |seconds| format!("{seconds:.2}"));
    let mut table = format!(
        "{:10} {:>14} {:>14} {:>8} {:>8} {:>6} {:>10} {:>6}\n",
        "controller", "1st claim (s)", "all run (s)", "CPU (s)", "RSS (MB)", "nodes", "$/h", "load"
    );
    for row in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(
            table,
            "{:10} {:>14} {:>14} {:>8.2} {:>8.0} {:>6} {:>10.4} {:>6.1}",
            row.controller,
            seconds(row.first_node_claim_seconds),
            seconds(row.all_running_seconds),
            row.cpu_seconds,
            row.rss_peak_mb,
            row.nodes,
            row.price_per_hour,
            row.load_before,
        );
    }
    table
}
