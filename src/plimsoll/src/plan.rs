//! `plimsoll plan`.

use std::{fs::File, io::Write, path::Path};

use anyhow::Context;
use plimsoll_core::{
    catalog::Catalog, plan::Plan, provision::provision, repack, report::Report, snapshot::Snapshot,
};
use plimsoll_report::{
    Cluster, fleet, plan_json, plan_summary, plan_text,
    savings::reachable,
    what_if::{Made, WhatIf, WhatIfError, difference},
};

use crate::{
    args::PlanOptions,
    controller::policy,
    source::{self, Read},
};

/// A plan with what it was made from: pods that wait included, and only the NodePools there are.
struct Planned {
    snapshot: Snapshot,
    catalog: Catalog,
    plan: Plan,
    report: Report,
}

pub(crate) fn run(options: &PlanOptions) -> anyhow::Result<()> {
    let mut read = source::read(&options.source)?;
    let planned = plan(options, &read, None)?;
    // Not among what is printed: that may be for a program.
    for caveat in &read.caveats {
        writeln!(std::io::stderr(), "note: {caveat}")?;
    }
    let mut out = std::io::stdout().lock();
    if let Some(path) = &options.what_if {
        let changes = what_if(path).with_context(|| path.display().to_string())?;
        let policy = policy(&options.planning);
        let now = reachable(&Cluster::read(&read.index, &read.prices, read.taken), &policy).dollars();
        read.index = changes
            .apply(read.index)
            .with_context(|| path.display().to_string())?;
        let then = plan(options, &read, Some(&changes)).with_context(|| path.display().to_string())?;
        write!(out, "{}", difference(made(&planned), made(&then)))?;
        let mut repriced = Ok(());
        let reprice = |catalog: &mut Catalog| repriced = changes.reprice(catalog);
        let changed = Cluster::read_at(&read.index, &read.prices, reprice, read.taken);
        repriced?;
        let reached = reachable(&changed, &policy).dollars();
        writeln!(
            out,
            "reachable by moving pods ${now:.4}/h -> ${reached:.4}/h ({:+.4})",
            reached - now
        )?;
        writeln!(out, "{}", plan_summary(&then.plan, &then.catalog.price_source))?;
        return Ok(());
    }
    let Planned {
        snapshot,
        catalog,
        plan,
        report,
    } = &planned;
    if options.json || options.yaml {
        let document = plan_json(snapshot, catalog, plan, report);
        let text = if options.yaml {
            serde_saphyr::to_string(&document).context("cannot write the plan as YAML")?
        } else {
            serde_json::to_string_pretty(&document)?
        };
        writeln!(out, "{}", text.trim_end())?;
        return Ok(());
    }
    write!(out, "{}", plan_text(snapshot, plan, report))?;
    writeln!(out, "{}", plan_summary(plan, &catalog.price_source))?;
    Ok(())
}

fn plan(options: &PlanOptions, read: &Read, changes: Option<&WhatIf>) -> Result<Planned, WhatIfError> {
    let mut catalog = fleet::catalog(&read.index, &read.prices);
    if let Some(changes) = changes {
        changes.reprice(&mut catalog)?;
    }
    let mut snapshot = read.index.snapshot(&catalog, read.taken).snapshot;
    if options.all_pods {
        let ours: Vec<bool> = snapshot.nodes.iter().map(|n| n.claim.is_some()).collect();
        snapshot = repack::without(&snapshot, &ours);
    }
    let (plan, report) = provision(&snapshot, &catalog, &policy(&options.planning));
    Ok(Planned {
        snapshot,
        catalog,
        plan,
        report,
    })
}

fn made(planned: &Planned) -> Made<'_> {
    Made {
        snapshot: &planned.snapshot,
        plan: &planned.plan,
        report: &planned.report,
    }
}

fn what_if(path: &Path) -> anyhow::Result<WhatIf> {
    let file = File::open(path).context("cannot be opened")?;
    Ok(WhatIf::read(file)?)
}
