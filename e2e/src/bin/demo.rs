//! `hack/demo`: a workload comes to a cluster without machines, and goes again.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use plimsoll_e2e::demo::{Choice, Provider, Settings, Workload, run};
use plimsoll_e2e::paths;
use plimsoll_e2e::testbed::Testbed;
use tokio::signal::unix::{SignalKind, signal};

/// Put a workload on a cluster without machines, and measure what happens until it runs and after it has gone.
///
/// Uses the testbed that KUBECONFIG points to (see hack/testbed), or starts one and ends it afterwards.
#[derive(Parser)]
#[command(name = "hack/demo")]
struct Arguments {
    /// A CSV file of pods with the columns name, cpu_milli, memory_mib and num_gpu; pods that ask for GPUs are skipped
    #[arg(long, value_name = "FILE.csv", conflicts_with = "workload")]
    trace: Option<PathBuf>,
    /// Only the first so many pods of the trace
    #[arg(long, value_name = "N", requires = "trace")]
    pods: Option<usize>,
    /// A YAML file of Deployments, StatefulSets, Jobs and Pods instead of the bundled workload
    #[arg(long, value_name = "FILE.yaml")]
    workload: Option<PathBuf>,
    /// Write the figures to this file
    #[arg(long, value_name = "OUT")]
    json: Option<PathBuf>,
    /// Leave everything running until Ctrl-C instead of taking the workload away
    #[arg(long)]
    keep: bool,
    /// Which controller buys the machines
    #[arg(long, value_enum, default_value_t = Choice::Plimsoll)]
    controller: Choice,
    /// Where the machines come from
    #[arg(long, value_enum, default_value_t = Provider::Kwok, conflicts_with = "controller")]
    provider: Provider,
    /// How many seconds the pods may take to run
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    timeout: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Dropping the demo ends the processes it has started, so a signal needs to do nothing but stop waiting for it.
    let result = tokio::select! {
        result = demo(&arguments) => result,
        Ok(()) = interrupted() => {
            eprintln!("\ninterrupted");
            return ExitCode::from(130);
        }
    };
    match result {
        Ok(failures) if failures.is_empty() => ExitCode::SUCCESS,
        Ok(failures) => {
            eprintln!("FAILED: {}", failures.join("; "));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn interrupted() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Runs the demo and returns what failed.
async fn demo(arguments: &Arguments) -> Result<Vec<String>> {
    let workload = match (&arguments.trace, &arguments.workload) {
        (Some(trace), _) => Workload::from_trace_file(trace, arguments.pods)?,
        (None, Some(file)) => Workload::from_yaml_file(file)?,
        (None, None) => Workload::from_yaml_file(&paths::manifest("workload.yaml"))?,
    };
    let settings = Settings {
        workload,
        controller: arguments.controller,
        provider: arguments.provider,
        keep: arguments.keep,
        timeout: Duration::from_secs(arguments.timeout),
        crds: paths::crds(),
    };
    eprintln!(
        "starting a control plane, a controller, and then {} pods",
        settings.workload.pods
    );
    let mut testbed = Testbed::from_env().await?;
    let (report, kept) = match run(&testbed, &settings).await {
        Ok(done) => done,
        Err(error) => return Err(error.context(format!("the logs are in {}", testbed.keep_logs().display()))),
    };
    if let Some(file) = &arguments.json {
        let json = serde_json::to_string_pretty(&report)? + "\n";
        fs::write(file, json).with_context(|| file.display().to_string())?;
    }
    writeln!(std::io::stdout(), "\n{}", report.table())?;
    if arguments.keep {
        eprintln!(
            "kept until Ctrl-C:  export KUBECONFIG={}",
            testbed.kubeconfig().display()
        );
        std::future::pending::<()>().await;
    }
    drop(kept);
    if !report.failures().is_empty() {
        eprintln!("the logs are in {}", testbed.keep_logs().display());
    }
    Ok(report.failures())
}
