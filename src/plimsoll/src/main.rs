//! The binary: arguments become a configuration, parts are wired, results become exit codes.

mod apply;
mod args;
#[cfg(feature = "aws")]
mod aws;
mod controller;
mod crds;
mod doctor;
mod explain;
mod gates;
mod granted;
mod inert;
mod kubeconfig;
mod live;
mod pack;
mod plan;
mod report;
mod rights;
mod snapshot;
mod source;

use std::{io::ErrorKind, process::ExitCode};

use clap::Parser;

use args::{Args, Command};

fn main() -> ExitCode {
    let args = Args::parse();
    // Of the others it matters what they have found or done.
    let only_says = !matches!(
        args.command,
        Command::Apply(_) | Command::Controller(_) | Command::Doctor(_)
    );
    let result = match args.command {
        Command::Apply(options) => apply::run(&options),
        Command::Controller(options) => controller::run(*options),
        Command::Crds => crds::run(),
        Command::Doctor(options) => doctor::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Pack(options) => pack::run(&options),
        Command::Plan(options) => plan::run(&options),
        Command::Report(options) => report::run(&options),
        Command::Snapshot(options) => snapshot::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough, like `head`.
        Err(error) if only_says && is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether what could not be written was the output.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let of_json = || error.downcast_ref::<serde_json::Error>()?.io_error_kind();
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    kind.or_else(of_json) == Some(ErrorKind::BrokenPipe)
}
