//! The savings report as one HTML file: nothing is loaded, nothing runs.

mod plots;

use std::fmt::Write as _;

use crate::{
    money::{cores, counted, dollars, gib, percent, thousands},
    savings::{Action, NodeRow, SavingsReport},
    spending::Spend,
    terminal::{alone, label, shown},
};
use plots::{BOXES_MAX, Colours, Machine, bar, escape};

const STYLE: &str = include_str!("html/style.css");
/// Rows of each list; the whole is in the other forms.
const ROWS_MAX: usize = 12;
/// Rows of the list of nodes that go.
const NODES_MAX: usize = 200;

/// The whole document.
pub fn html(report: &SavingsReport) -> String {
    let mut out = String::with_capacity(1 << 18);
    let _ = write!(
        out,
        "<!doctype html><html lang=en><meta charset=utf-8><title>What this cluster costs</title>\
         <meta name=viewport content=\"width=device-width,initial-scale=1\"><style>{STYLE}</style><main>"
    );
    head(report, &mut out);
    costs(report, &mut out);
    leaks(report, &mut out);
    machines(report, &mut out);
    restraints(report, &mut out);
    moves(report, &mut out);
    spenders(
        "Cost by namespace",
        "--csv namespaces",
        &report.namespaces,
        &mut out,
    );
    spenders("Cost by workload", "--csv workloads", &report.workloads, &mut out);
    unpriced(report, &mut out);
    footer(report, &mut out);
    out.push_str("</main></html>\n");
    out
}

fn head(report: &SavingsReport, out: &mut String) {
    let t = &report.totals;
    let r = &report.reachable;
    let figure = |name: &str, class: &str, value: &str, below: &str, out: &mut String| {
        let _ = write!(
            out,
            "<div class={class}><span>{name}</span><b>{value}</b><small>{below}</small></div>"
        );
    };
    let hour = |amount: f64| {
        let amount = if amount < 100.0 {
            format!("${amount:.2}")
        } else {
            dollars(amount)
        };
        format!("{amount} an hour")
    };
    let requested = |part: i64, whole: i64, unit: &str, text: fn(i64) -> String| {
        let share = percent(part, whole);
        (
            format!("{share} %"),
            format!("{} of {} {unit}", text(part), text(whole)),
        )
    };
    let cpu = requested(t.cpu_requested_milli, t.cpu_allocatable_milli, "cores", cores);
    let memory = requested(t.memory_requested_bytes, t.memory_allocatable_bytes, "GiB", gib);
    let _ = write!(
        out,
        "<header><h1>What this cluster costs</h1><p class=soft>Seen on {}. What it pays for machines, what the same pods \
         could run on, and what is in the way.</p></header><div class=hero>",
        escape(&report.taken.strftime("%-d %B %Y at %H:%M UTC").to_string()),
    );
    figure(
        "now, a month",
        "now",
        &dollars(report.now.per_month),
        &hour(report.now.per_hour),
        out,
    );
    let cost = r.cost;
    figure(
        "reachable, a month",
        "reach",
        &dollars(cost.per_month),
        &hour(cost.per_hour),
        out,
    );
    let share = format!("{:.0} %", r.saves_percent.max(0.0));
    let saves = format!("{} a month", dollars(r.saves.per_month.max(0.0)));
    figure("saved", "saved", &share, &saves, out);
    out.push_str("</div><div class=facts>");
    let pods = format!("on {}", counted(t.nodes, "node"));
    figure("pods", "fact", &thousands(t.pods.into()), &pods, out);
    figure("CPU requested", "fact", &cpu.0, &cpu.1, out);
    figure("memory requested", "fact", &memory.0, &memory.1, out);
    let waiting = thousands(t.pods_waiting.into());
    figure("pods waiting", "fact", &waiting, "not counted here", out);
    out.push_str("</div>");
}

fn costs(report: &SavingsReport, out: &mut String) {
    out.push_str(
        "<section><h2>Now and then</h2><p class=soft>The same pods on fewer or better fitting machines, a month.</p>\
         <div class=bars>",
    );
    let now = report.now.per_month;
    let rows = [
        ("Now", report.now.per_month, "var(--now)"),
        ("Reachable", report.reachable.cost.per_month, "var(--reach)"),
        (
            "… if nothing were held in place",
            report.unblocked.cost.per_month,
            "var(--free)",
        ),
        (
            "No such plan costs less than",
            report.bound.per_month,
            "var(--bound)",
        ),
        (
            "Reachable with more spot",
            report.reachable_with_spot.cost.per_month,
            "var(--spot)",
        ),
        (
            "Reachable with more arm64",
            report.reachable_with_arm64.cost.per_month,
            "var(--spot)",
        ),
    ];
    for (name, month, colour) in rows {
        let share = if now > 0.0 { month / now } else { 0.0 };
        let aside = format!("{:.0} %", share * 100.0);
        bar(name, share, colour, &dollars(month), &aside, out);
    }
    out.push_str("</div>");
    if let Some(rule) = &report.prices.spot_rule {
        let _ = write!(
            out,
            "<p class=\"soft small\">Spot prices are {}.</p>",
            escape(rule)
        );
    }
    let _ = write!(
        out,
        "<p class=\"soft small\">arm64: {}.</p>",
        escape(&report.arm64.sentence())
    );
    out.push_str("</section>");
}

fn leaks(report: &SavingsReport, out: &mut String) {
    let idle = &report.idle;
    let daemons = idle.daemons.per_month;
    let unused = idle.cpu.per_month + idle.memory.per_month;
    let requested = (report.now.per_month - unused - daemons).max(0.0);
    let parts = [
        ("requested by workloads", requested, "var(--reach)"),
        ("daemons", daemons, "var(--spot)"),
        ("CPU nobody requests", idle.cpu.per_month, "var(--now)"),
        ("memory nobody requests", idle.memory.per_month, "var(--free)"),
    ];
    out.push_str(
        "<section><h2>Where the money leaks</h2><p class=soft>What is paid a month, by what it is paid for. Half of a \
         machine’s price counts for its CPU, half for its memory.</p>",
    );
    let shares: Vec<(f64, &str)> = parts
        .iter()
        .map(|(_, amount, colour)| (*amount, *colour))
        .collect();
    plots::stack(&shares, out);
    out.push_str("<ul class=legend>");
    for (name, amount, colour) in parts {
        let _ = write!(
            out,
            "<li><i style=\"background:{colour}\"></i>{name} <b>{}</b></li>",
            dollars(amount)
        );
    }
    out.push_str("</ul></section>");
}

fn machines(report: &SavingsReport, out: &mut String) {
    let names = report.namespaces.iter().map(|s| s.namespace.as_str());
    let colours = Colours::new(names);
    let before: Vec<Machine<'_>> = report
        .nodes
        .iter()
        .map(|n| Machine::existing(n, (n.action == Action::Remove).then_some("var(--now)")))
        .collect();
    let mut after: Vec<Machine<'_>> = report
        .nodes
        .iter()
        .filter(|n| n.action == Action::Keep)
        .map(|n| Machine::existing(n, None))
        .collect();
    after.extend(
        report
            .new_machines
            .iter()
            .map(|m| Machine::bought(m, "var(--reach)")),
    );
    let most = before.len().max(after.len());
    let many = most > BOXES_MAX;
    out.push_str("<section><h2>Machines</h2>");
    if many {
        out.push_str(
            "<p class=soft>One square is one machine, coloured by how much of its CPU or memory, whichever is scarcer, \
             pods request.</p>",
        );
    } else {
        out.push_str(
            "<p class=soft>One box is one machine, as large as its price and filled as high as its pods request of it. \
             Red ones go, green ones are new; pods that move onto machines that stay are not drawn there.</p>\
             <ul class=legend>",
        );
        for s in report.namespaces.iter().take(8) {
            let _ = write!(
                out,
                "<li><i style=\"background:{}\"></i>{}</li>",
                colours.of(&s.namespace),
                escape(&s.namespace)
            );
        }
        if report.namespaces.len() > 8 {
            let _ = write!(
                out,
                "<li><i style=\"background:{}\"></i>others</li>",
                colours.of("")
            );
        }
        out.push_str("</ul>");
    }
    out.push_str("<div class=pair>");
    for (title, list) in [("Now", &before), ("Reachable", &after)] {
        let _ = write!(
            out,
            "<div><h3>{title}: {}</h3>",
            counted(list.len() as u32, "machine")
        );
        if many {
            plots::squares(list, most, out);
        } else {
            plots::boxes(list, &colours, out);
        }
        out.push_str("</div>");
    }
    out.push_str("</div></section>");
}

fn restraints(report: &SavingsReport, out: &mut String) {
    let groups = [
        (
            true,
            "What is in the way",
            "Plans obey these. The amount is what lifting them would save a month.",
            "saves",
        ),
        (
            false,
            "What would be moved all the same",
            "Evictions are allowed here. The amount is what sparing them would cost a month.",
            "costs",
        ),
    ];
    for (obeyed, title, lead, column) in groups {
        let kinds: Vec<_> = report
            .restraint_kinds
            .iter()
            .filter(|k| k.obeyed == obeyed)
            .collect();
        if kinds.is_empty() {
            continue;
        }
        let _ = write!(
            out,
            "<section><h2>{title}</h2><p class=soft>{lead}</p><table><tr><th>what<th class=\"n wide\">pods\
             <th class=\"n wide\">nodes<th class=n>{column}</tr>"
        );
        for kind in kinds {
            let _ = write!(
                out,
                "<tr class=kind><td><b>{}</b><div class=fix>{}</div><td class=\"n wide\">{}<td class=\"n wide\">{}\
                 <td class=n><b>{}</b></tr>",
                capitalised(label(kind.kind)),
                escape(kind.fix),
                thousands(kind.pods.into()),
                thousands(kind.nodes.into()),
                dollars(kind.per_month)
            );
            let rows: Vec<_> = report.restraints.iter().filter(|r| shown(r, kind.kind)).collect();
            for r in rows.iter().take(ROWS_MAX / 2) {
                let owner = r.owner().map_or(String::new(), |o| {
                    format!(" <span class=soft>of {}</span>", escape(&o))
                });
                let tag = if r.for_ever {
                    ""
                } else {
                    " <span class=tag>at the moment</span>"
                };
                let _ = write!(
                    out,
                    "<tr class=one><td>{}{owner}{tag}<td class=\"n wide\">{}<td class=\"n wide\">{}<td class=n>{}</tr>",
                    escape(&r.subject),
                    thousands(r.pods.into()),
                    thousands(r.nodes.into()),
                    alone(r)
                );
            }
            if rows.len() > ROWS_MAX / 2 {
                let more = rows.len() - ROWS_MAX / 2;
                let _ = write!(
                    out,
                    "<tr class=one><td>… and {more} more: <code>--csv restraints</code><td class=wide><td class=wide><td></tr>"
                );
            }
        }
        out.push_str("</table></section>");
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| {
        first.to_uppercase().collect::<String>() + chars.as_str()
    })
}

fn moves(report: &SavingsReport, out: &mut String) {
    let r = &report.reachable;
    let _ = write!(
        out,
        "<section><h2>To get there</h2><p class=soft>Keep {}, remove {}, buy {}; {} to evict. The commands: \
         <code>plimsoll report --commands FILE</code></p><table><tr><th class=n>keep<th class=n>buy<th>type\
         <th class=wide>zone<th class=wide>bought as<th class=wide>pool<th class=n>$/hour each</tr>",
        counted(r.nodes_kept, "node"),
        thousands(r.nodes_removed.into()),
        thousands(r.nodes_bought.into()),
        counted(r.pods_moved, "pod"),
    );
    let some = |count: u32| {
        if count == 0 {
            "–".to_owned()
        } else {
            thousands(count.into())
        }
    };
    for m in r.machines.iter().take(ROWS_MAX) {
        let _ = write!(
            out,
            "<tr><td class=n>{}<td class=n><b>{}</b><td>{}<div class=\"fix narrow\">{}, {}, {}</div><td class=wide>{}\
             <td class=wide>{}<td class=wide>{}<td class=n>{}</tr>",
            some(m.count - m.bought),
            some(m.bought),
            escape(&m.instance_type),
            escape(&m.zone),
            escape(&m.capacity_type),
            escape(&m.pool),
            escape(&m.zone),
            escape(&m.capacity_type),
            escape(&m.pool),
            hourly(m.per_hour),
        );
    }
    out.push_str("</table>");
    more(r.machines.len(), ROWS_MAX, "--csv machines", out);
    let gone: Vec<_> = report
        .nodes
        .iter()
        .filter(|n| n.action == Action::Remove)
        .collect();
    if !gone.is_empty() {
        removed(&gone, out);
    }
    out.push_str("</section>");
}

fn removed(gone: &[&NodeRow], out: &mut String) {
    let open = if gone.len() <= ROWS_MAX { " open" } else { "" };
    let _ = write!(
        out,
        "<details{open}><summary>{} to remove</summary><table><tr><th>node<th>type<th class=wide>pool\
         <th class=n>pods<th class=n>$/hour</tr>",
        counted(gone.len() as u32, "node")
    );
    for n in gone.iter().take(NODES_MAX) {
        let _ = write!(
            out,
            "<tr><td>{}<td>{}<td class=wide>{}<td class=n>{}<td class=n>{}</tr>",
            escape(&n.name),
            escape(&n.instance_type),
            escape(&n.pool),
            n.pods,
            hourly(n.per_hour)
        );
    }
    out.push_str("</table>");
    more(gone.len(), NODES_MAX, "--csv nodes", out);
    out.push_str("</details>");
}

fn hourly(price: Option<f64>) -> String {
    price.map_or("?".into(), |p| format!("{p:.4}"))
}

fn spenders(title: &str, flag: &str, list: &[Spend], out: &mut String) {
    if list.is_empty() {
        return;
    }
    let _ = write!(
        out,
        "<section><h2>{title}</h2><p class=soft>A month, by what its pods request.</p><div class=bars>"
    );
    let most = list.first().map_or(0.0, |s| s.cost.per_month);
    for s in list.iter().take(ROWS_MAX) {
        let name = if s.workload.is_empty() {
            s.namespace.clone()
        } else {
            format!("{}/{}", s.namespace, s.workload)
        };
        let share = if most > 0.0 { s.cost.per_month / most } else { 0.0 };
        let aside = counted(s.pods, "pod");
        bar(
            &name,
            share,
            "var(--spot)",
            &dollars(s.cost.per_month),
            &aside,
            out,
        );
    }
    out.push_str("</div>");
    more(list.len(), ROWS_MAX, flag, out);
    out.push_str("</section>");
}

fn more(length: usize, shown: usize, flag: &str, out: &mut String) {
    if length > shown {
        let rest = thousands((length - shown) as u64);
        let _ = write!(
            out,
            "<p class=\"soft small\">and {rest} more: <code>plimsoll report {flag}</code></p>"
        );
    }
}

fn unpriced(report: &SavingsReport, out: &mut String) {
    if report.unpriced.is_empty() {
        return;
    }
    out.push_str(
        "<section><h2>Nodes without a known price</h2><p class=soft>Left as they are and not counted above.</p><table>\
         <tr><th class=n>nodes<th>not in the catalogue</tr>",
    );
    for u in &report.unpriced {
        let _ = write!(out, "<tr><td class=n>{}<td>{}</tr>", u.nodes, escape(&u.what));
    }
    out.push_str("</table></section>");
}

fn footer(report: &SavingsReport, out: &mut String) {
    let p = &report.prices;
    let _ = write!(out, "<footer><p>Prices: {}", escape(&p.source));
    if let Some(date) = &p.date {
        let _ = write!(out, ", list of {}", escape(date));
    }
    if let Some(days) = p.age_days {
        let _ = write!(out, ", {days} days old when this was written");
    }
    out.push_str(". A month has 730 hours.</p><ul>");
    for note in &report.notes {
        let _ = write!(out, "<li>{}</li>", escape(note));
    }
    out.push_str(
        "</ul><p>Made by plimsoll from requests, not from measured use. Nothing was changed.</p></footer>",
    );
}
