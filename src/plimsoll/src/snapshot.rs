//! `plimsoll snapshot`.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::Context;
use jiff::Timestamp;
use kube::Client;
use plimsoll_report::{redact::Redactor, snapshot};

use crate::{args::SnapshotOptions, controller::runtime, kubeconfig::kubeconfig, live, source};

pub(crate) fn run(options: &SnapshotOptions) -> anyhow::Result<()> {
    let (redactor, taken) = match &options.from {
        Some(path) if path == Path::new("-") => {
            snapshot::from_file(std::io::stdin().lock()).context("standard input")?
        }
        Some(path) => {
            let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            snapshot::from_file(file).with_context(|| path.display().to_string())?
        }
        None => (from_cluster(options.context.as_deref())?, None),
    };
    let taken = taken.unwrap_or_else(Timestamp::now);
    if let Some(path) = &options.output {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut out = BufWriter::new(file);
        snapshot::write(redactor, taken, &mut out)?;
        return out
            .flush()
            .with_context(|| format!("cannot write {}", path.display()));
    }
    let mut out = std::io::stdout().lock();
    snapshot::write(redactor, taken, &mut out)?;
    writeln!(out)?;
    Ok(())
}

fn from_cluster(context: Option<&str>) -> anyhow::Result<Redactor> {
    runtime()?.block_on(async {
        let client = Client::try_from(kubeconfig(context).await.context(source::NO_FILE)?)?;
        let mut redactor = Redactor::default();
        let missing = live::each_object(&client, |kind, object| {
            snapshot::take(&mut redactor, &kind.api_version(), kind.kind, object);
        })
        .await?;
        for why in missing {
            eprintln!("note: {why}");
        }
        Ok(redactor)
    })
}
