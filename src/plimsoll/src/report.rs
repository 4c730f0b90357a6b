//! `plimsoll report`.

use std::{
    io::{IsTerminal, Write},
    path::Path,
};

use anyhow::Context;
use plimsoll_report::{Arm64Images, Cluster, Colour, CsvTable, commands, csv, html, report, text};

use crate::{
    args::{ReportOptions, Table},
    controller::policy,
    source,
};

pub(crate) fn run(options: &ReportOptions) -> anyhow::Result<()> {
    let read = source::read(&options.source)?;
    let cluster = Cluster::read(&read.index, &read.prices, read.taken);
    let images = options
        .arm64_images
        .as_deref()
        .map_or(Ok(Arm64Images::default()), arm64_images)?;
    let mut report = report(&cluster, &read.prices, &images, &policy(&options.planning));
    report.notes.extend(read.caveats);
    if let Some(path) = &options.html {
        write(path, &html(&report))?;
    }
    if let Some(path) = &options.commands {
        write(
            path,
            &commands(&report, &read.index, options.source.context.as_deref()),
        )?;
    }
    let mut out = std::io::stdout().lock();
    if options.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else if let Some(table) = options.csv {
        let table = match table {
            Table::Nodes => CsvTable::Nodes,
            Table::Machines => CsvTable::Machines,
            Table::Restraints => CsvTable::Restraints,
            Table::Namespaces => CsvTable::Namespaces,
            Table::Workloads => CsvTable::Workloads,
        };
        write!(out, "{}", csv(&report, table))?;
    } else {
        let colour = if out.is_terminal() && std::env::var_os("NO_COLOR").is_none() {
            Colour::Ansi
        } else {
            Colour::Never
        };
        write!(out, "{}", text(&report, colour))?;
    }
    Ok(())
}

fn arm64_images(path: &Path) -> anyhow::Result<Arm64Images> {
    let name = path.display();
    let text =
        std::fs::read_to_string(path).with_context(|| format!("--arm64-images: cannot read {name}"))?;
    text.parse().with_context(|| format!("--arm64-images: {name}"))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
