//! `plimsoll explain`.

use std::io::Write;

use plimsoll_report::explain;

use crate::{args::ExplainOptions, controller::policy, source};

pub(crate) fn run(options: &ExplainOptions) -> anyhow::Result<()> {
    let read = source::read(&options.source)?;
    let policy = policy(&options.planning);
    let answer = explain(&read.index, &read.prices, &policy, read.taken, &options.subject)?;
    let mut out = std::io::stdout().lock();
    write!(out, "{answer}")?;
    for caveat in &read.caveats {
        writeln!(out, "note: {caveat}")?;
    }
    Ok(())
}
