//! The savings report on a terminal.

use std::fmt::Write as _;

use crate::{
    money::{cores, counted, dollars, gib, percent, thousands},
    restraints::RestraintKind,
    savings::{Action, Outcome, RestraintRow, SavingsReport},
    spending::Spend,
    table::{Align, Table},
};

/// Lines of each table; the rest is in the other forms.
const ROWS_MAX: usize = 10;
/// Characters of the bars.
const BAR: usize = 40;

/// Whether to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    Never,
    Ansi,
}

impl Colour {
    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Never => text.to_owned(),
            Self::Ansi => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }

    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }
}

/// The report for people at a terminal.
pub fn text(report: &SavingsReport, colour: Colour) -> String {
    let mut out = String::new();
    let t = &report.totals;
    let _ = writeln!(
        out,
        "{}, {}; requested {} of {} cores ({} %), {} of {} GiB ({} %)",
        counted(t.nodes, "node"),
        counted(t.pods, "pod"),
        cores(t.cpu_requested_milli),
        cores(t.cpu_allocatable_milli),
        percent(t.cpu_requested_milli, t.cpu_allocatable_milli),
        gib(t.memory_requested_bytes),
        gib(t.memory_allocatable_bytes),
        percent(t.memory_requested_bytes, t.memory_allocatable_bytes),
    );
    let age = report
        .prices
        .age_days
        .map_or(String::new(), |days| format!(", {days} days old"));
    let date = report
        .prices
        .date
        .as_ref()
        .map_or(String::new(), |d| format!(" of {d}"));
    let _ = writeln!(out, "prices: {}{date}{age}", report.prices.source);
    if let Some(rule) = &report.prices.spot_rule {
        let _ = writeln!(out, "spot prices: {rule}");
    }
    out.push('\n');
    costs(report, colour, &mut out);
    moves(report, colour, &mut out);
    restraints(report, colour, &mut out);
    spenders("COST BY NAMESPACE", &report.namespaces, colour, &mut out);
    spenders("COST BY WORKLOAD", &report.workloads, colour, &mut out);
    unpriced(report, colour, &mut out);
    for note in &report.notes {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

fn costs(report: &SavingsReport, colour: Colour, out: &mut String) {
    let now = report.now.per_month;
    let mut line = |name: &str, per_hour: f64, per_month: f64, code: &str| {
        let filled = if now > 0.0 {
            (per_month / now * BAR as f64).round().clamp(0.0, BAR as f64) as usize
        } else {
            0
        };
        let bar = colour.paint(code, &"█".repeat(filled));
        let rest = "░".repeat(BAR - filled);
        let saved = match (now - per_month) / now * 100.0 {
            percent if percent >= 0.5 => format!("  -{percent:.0} %"),
            _ => String::new(),
        };
        let _ = writeln!(
            out,
            "  {name:<24} {:>10}/month {:>10}/h  {bar}{rest}{saved}",
            dollars(per_month),
            format!("${per_hour:.2}"),
        );
    };
    let o = |outcome: &Outcome| (outcome.cost.per_hour, outcome.cost.per_month);
    let (reachable, spot, arm64, unblocked) = (
        o(&report.reachable),
        o(&report.reachable_with_spot),
        o(&report.reachable_with_arm64),
        o(&report.unblocked),
    );
    line("now", report.now.per_hour, now, "31");
    line("reachable", reachable.0, reachable.1, "32");
    line("  if nothing were held", unblocked.0, unblocked.1, "33");
    line(
        "no such plan is below",
        report.bound.per_hour,
        report.bound.per_month,
        "2",
    );
    line("with more spot", spot.0, spot.1, "36");
    line("with more arm64", arm64.0, arm64.1, "36");
    let _ = writeln!(out, "  arm64: {}", report.arm64.sentence());
    out.push('\n');
}

fn moves(report: &SavingsReport, colour: Colour, out: &mut String) {
    let r = &report.reachable;
    let _ = writeln!(
        out,
        "{}: keep {}, remove {}, buy {}; {} to evict; saves {}/month",
        colour.bold("TO GET THERE"),
        counted(r.nodes_kept, "node"),
        thousands(r.nodes_removed.into()),
        thousands(r.nodes_bought.into()),
        counted(r.pods_moved, "pod"),
        dollars(r.saves.per_month),
    );
    let mut table = Table::new([
        ("COUNT", Align::Right),
        ("TYPE", Align::Left),
        ("ZONE", Align::Left),
        ("BOUGHT AS", Align::Left),
        ("POOL", Align::Left),
        ("$/H EACH", Align::Right),
        ("OF THEM NEW", Align::Right),
    ]);
    for m in r.machines.iter().take(ROWS_MAX) {
        table.row([
            m.count.to_string(),
            m.instance_type.clone(),
            m.zone.clone(),
            m.capacity_type.clone(),
            m.pool.clone(),
            m.per_hour.map_or("?".into(), |p| format!("{p:.4}")),
            m.bought.to_string(),
        ]);
    }
    table.print(out);
    more(r.machines.len(), "kinds of machines", out);
    let removed = report.nodes.iter().filter(|n| n.action == Action::Remove).count();
    if removed > 0 {
        let _ = writeln!(
            out,
            "  {} to remove: --csv nodes; the commands: --commands FILE",
            counted(removed as u32, "node")
        );
    }
    out.push('\n');
}

fn restraints(report: &SavingsReport, colour: Colour, out: &mut String) {
    if report.restraint_kinds.is_empty() {
        return;
    }
    let groups = [
        (true, "WHAT IS IN THE WAY", "lifting it saves"),
        (false, "WHAT WOULD BE MOVED ALL THE SAME", "sparing it costs"),
    ];
    for (obeyed, title, what) in groups {
        let kinds: Vec<_> = report
            .restraint_kinds
            .iter()
            .filter(|k| k.obeyed == obeyed)
            .collect();
        if kinds.is_empty() {
            continue;
        }
        let _ = writeln!(out, "{} ({what})", colour.bold(title));
        for kind in kinds {
            let _ = writeln!(
                out,
                "  {:<22} {:>10}/month  {} on {}; to change it: {}",
                label(kind.kind),
                dollars(kind.per_month),
                counted(kind.pods, "pod"),
                counted(kind.nodes, "node"),
                kind.fix,
            );
            let rows: Vec<_> = report.restraints.iter().filter(|r| shown(r, kind.kind)).collect();
            for r in rows.iter().take(ROWS_MAX / 2) {
                let owner = r.owner().map_or(String::new(), |owner| format!(" of {owner}"));
                let now = if r.for_ever { "" } else { " (at the moment)" };
                let _ = writeln!(out, "      {:>10}  {}{owner}{now}", alone(r), r.subject);
            }
            if rows.len() > ROWS_MAX / 2 {
                let more = rows.len() - ROWS_MAX / 2;
                let _ = writeln!(out, "      {:>10}  … and {more} more: --csv restraints", "");
            }
        }
        out.push('\n');
    }
}

/// A restraint that makes no difference of a cent only counts in its kind's line; of one that was not planned alone nobody
/// knows.
pub(crate) fn shown(row: &RestraintRow, kind: RestraintKind) -> bool {
    row.kind == kind && row.per_month.is_none_or(|month| month >= 0.01)
}

/// What lifting or sparing this one alone makes a month; where that was not planned, it counts in the sum of its kind.
pub(crate) fn alone(row: &RestraintRow) -> String {
    row.per_month.map_or_else(|| "in the sum".to_owned(), dollars)
}

/// How a kind of restraint is called.
pub(crate) fn label(kind: RestraintKind) -> &'static str {
    match kind {
        RestraintKind::PodDisruptionBudget => "disruption budget",
        RestraintKind::DoNotDisrupt => "pod do-not-disrupt",
        RestraintKind::NodeDoNotDisrupt => "node do-not-disrupt",
        RestraintKind::NoController => "no controller",
        RestraintKind::AntiAffinity => "anti-affinity",
        RestraintKind::SingleReplica => "single replica",
        RestraintKind::LocalStorage => "local storage",
        RestraintKind::MissingRequests => "missing requests",
    }
}

fn spenders(title: &str, list: &[Spend], colour: Colour, out: &mut String) {
    if list.is_empty() {
        return;
    }
    let _ = writeln!(out, "{}", colour.bold(title));
    let mut table = Table::new([
        ("$/MONTH", Align::Right),
        ("PODS", Align::Right),
        ("CORES", Align::Right),
        ("GIB", Align::Right),
        ("NAME", Align::Left),
    ]);
    for s in list.iter().take(ROWS_MAX) {
        let name = if s.workload.is_empty() {
            s.namespace.clone()
        } else {
            format!("{}/{}", s.namespace, s.workload)
        };
        table.row([
            dollars(s.cost.per_month),
            thousands(s.pods.into()),
            cores(s.cpu_milli),
            gib(s.memory_bytes),
            name,
        ]);
    }
    table.print(out);
    more(list.len(), "more", out);
    out.push('\n');
}

fn unpriced(report: &SavingsReport, colour: Colour, out: &mut String) {
    if report.unpriced.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "{}: left as they are and not counted",
        colour.bold("NODES WITHOUT A KNOWN PRICE")
    );
    let mut table = Table::new([("NODES", Align::Right), ("NOT IN THE CATALOGUE", Align::Left)]);
    for u in &report.unpriced {
        table.row([u.nodes.to_string(), u.what.clone()]);
    }
    table.print(out);
    out.push('\n');
}

fn more(length: usize, of_what: &str, out: &mut String) {
    if length > ROWS_MAX {
        let _ = writeln!(out, "  … {} {of_what}", length - ROWS_MAX);
    }
}
