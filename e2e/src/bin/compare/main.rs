//! `hack/compare`: Karpenter's own controller and Plimsoll at the same work, in turns on fresh testbeds.

mod aws;
mod kwok;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use plimsoll_e2e::demo::{Choice, Provider};
use serde::Serialize;

/// Upstream goes first in every turn.
const TURNS: [Choice; 2] = [Choice::Upstream, Choice::Plimsoll];

/// Give the same work to Karpenter's own controller and to Plimsoll, each time on a control plane of its own, and
/// compare what they need and what they buy.
#[derive(Parser)]
#[command(name = "hack/compare")]
struct Arguments {
    /// Where the machines come from: nodes without machines, or the AWS stand-in of e2e/cloud
    #[arg(long, value_enum, default_value_t = Provider::Kwok)]
    provider: Provider,
    /// How many runs of each controller [default: 2 with kwok, 1 with aws]
    #[arg(long)]
    runs: Option<usize>,
    #[command(flatten)]
    kwok: kwok::KwokArguments,
    #[command(flatten)]
    aws: aws::AwsArguments,
    /// Write the figures to this file
    #[arg(long, value_name = "OUT")]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.json.as_deref();
    let result = match arguments.provider {
        Provider::Kwok => kwok::compare(&arguments.kwok, arguments.runs.unwrap_or(2), json).await,
        Provider::Aws => aws::compare(&arguments.aws, arguments.runs.unwrap_or(1), json).await,
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("FAILED: not all pods ran");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn write_json(figures: &impl Serialize, file: Option<&Path>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let json = serde_json::to_string_pretty(figures)? + "\n";
    fs::write(file, json).with_context(|| file.display().to_string())
}
