//! On the AWS stand-in: many machines at once, one at a time, and none.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use plimsoll_e2e::compare::{Settings, measure, table};

use crate::{TURNS, write_json};

#[derive(Args)]
pub(crate) struct AwsArguments {
    /// With aws: seconds without work before anything else; 0 leaves it out
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    idle: u64,
    /// With aws: pods that come at once, each for a machine of its own; 0 leaves it out
    #[arg(long, value_name = "N", default_value_t = 100)]
    machines: usize,
    /// With aws: pods that come one after the other; 0 leaves it out
    #[arg(long, value_name = "N", default_value_t = 20)]
    pods: usize,
}

/// A pod that does not run is an error.
pub(crate) async fn compare(arguments: &AwsArguments, runs: usize, json: Option<&Path>) -> Result<bool> {
    let settings = Settings {
        idle: Duration::from_secs(arguments.idle),
        machines: arguments.machines,
        pods: arguments.pods,
    };
    let mut reports = Vec::new();
    for number in 1..=runs {
        for controller in TURNS {
            eprintln!("run {number} of {runs}: {controller:?}");
            reports.push(measure(controller, &settings).await?);
            // Whoever interrupts a run of minutes keeps what was measured.
            write_json(&reports, json)?;
        }
    }
    write!(std::io::stdout(), "{}", table(&reports))?;
    Ok(true)
}
