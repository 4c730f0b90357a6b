//! The AWS stand-in for people and for `hack/test`; tests start their own through `plimsoll_e2e::cloud`.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use plimsoll_e2e::{cloud, python};

/// The AWS stand-in of e2e/cloud, in its own Python environment.
#[derive(Parser)]
#[command(name = "stand-in")]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run it in the foreground; arguments as in e2e/cloud/README.md
    Run {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run its own tests and look at its style; further arguments go to pytest
    Test {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(action: Action) -> Result<()> {
    let interpreter = python::CLOUD.ensure().await?;
    let python = |module: &str, args: &[&str]| {
        let mut command = Command::new(&interpreter);
        command
            .args(["-m", module])
            .args(args)
            .env("PYTHONPATH", cloud::package())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(cloud::package());
        command
    };
    match action {
        // Becomes the stand-in, so that it is ended by this process's id.
        Action::Run { args } => {
            Err(python("plimsoll_cloud", &[]).args(args).exec()).context("cannot run the stand-in")
        }
        Action::Test { args } => {
            for mut check in [
                python("ruff", &["format", "--check", "--no-cache", "."]),
                python("ruff", &["check", "--no-cache", "."]),
            ] {
                ensure!(
                    check.status()?.success(),
                    "see above; `ruff format` and `ruff check` want it otherwise"
                );
            }
            let status = python("pytest", &["-q", "-p", "no:cacheprovider", "tests"])
                .args(args)
                .status()?;
            ensure!(status.success(), "the stand-in's own tests: {status}");
            Ok(())
        }
    }
}
