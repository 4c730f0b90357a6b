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
mod live;
mod pack;
mod plan;
mod report;
mod rights;
mod snapshot;
mod source;

use std::{error::Error, io::ErrorKind, process::ExitCode};

use clap::Parser;

use args::{Args, Command};

fn main() -> ExitCode {
    let args = Args::parse();
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
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = |cause: &(dyn Error + 'static)| {
        let of_json = cause
            .downcast_ref::<serde_json::Error>()
            .and_then(serde_json::Error::io_error_kind);
        of_json.or_else(|| Some(cause.downcast_ref::<std::io::Error>()?.kind()))
    };
    error
        .chain()
        .filter_map(kind)
        .any(|kind| kind == ErrorKind::BrokenPipe)
}
