//! Tables of the report as comma-separated values.

use crate::{
    savings::{Action, SavingsReport},
    spending::Spend,
    terminal::label,
};

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CsvTable {
    Nodes,
    Machines,
    Restraints,
    Namespaces,
    Workloads,
}

/// The table with a head line; numbers in plain notation, dollars per month at 730 hours.
pub fn csv(report: &SavingsReport, table: CsvTable) -> String {
    let mut out = String::new();
    match table {
        CsvTable::Nodes => {
            line(
                &mut out,
                &[
                    "node",
                    "instance_type",
                    "zone",
                    "capacity_type",
                    "pool",
                    "dollars_per_hour",
                    "pods",
                    "cpu_requested_milli",
                    "cpu_allocatable_milli",
                    "memory_requested_bytes",
                    "memory_allocatable_bytes",
                    "action",
                    "held_by",
                ],
            );
            for n in &report.nodes {
                let action = match n.action {
                    Action::Keep => "keep",
                    Action::Remove => "remove",
                };
                line(
                    &mut out,
                    &[
                        &n.name,
                        &n.instance_type,
                        &n.zone,
                        &n.capacity_type,
                        &n.pool,
                        &n.per_hour.map_or(String::new(), |p| p.to_string()),
                        &n.pods.to_string(),
                        &n.cpu_requested_milli.to_string(),
                        &n.cpu_allocatable_milli.to_string(),
                        &n.memory_requested_bytes.to_string(),
                        &n.memory_allocatable_bytes.to_string(),
                        action,
                        n.held_by.as_deref().unwrap_or_default(),
                    ],
                );
            }
        }
        CsvTable::Machines => {
            line(
                &mut out,
                &[
                    "count",
                    "bought",
                    "instance_type",
                    "zone",
                    "capacity_type",
                    "pool",
                    "dollars_per_hour",
                ],
            );
            for m in &report.reachable.machines {
                line(
                    &mut out,
                    &[
                        &m.count.to_string(),
                        &m.bought.to_string(),
                        &m.instance_type,
                        &m.zone,
                        &m.capacity_type,
                        &m.pool,
                        &m.per_hour.map_or(String::new(), |p| p.to_string()),
                    ],
                );
            }
        }
        CsvTable::Restraints => {
            line(
                &mut out,
                &[
                    "kind",
                    "subject",
                    "owners",
                    "obeyed",
                    "for_ever",
                    "pods",
                    "nodes",
                    "dollars_per_month",
                ],
            );
            for r in &report.restraints {
                line(
                    &mut out,
                    &[
                        label(r.kind),
                        &r.subject,
                        &r.owners.join(" "),
                        &r.kind.is_obeyed().to_string(),
                        &r.for_ever.to_string(),
                        &r.pods.to_string(),
                        &r.nodes.to_string(),
                        &r.per_month.map_or(String::new(), |p| format!("{p:.2}")),
                    ],
                );
            }
        }
        CsvTable::Namespaces => spenders(&mut out, &report.namespaces),
        CsvTable::Workloads => spenders(&mut out, &report.workloads),
    }
    out
}

fn spenders(out: &mut String, list: &[Spend]) {
    line(
        out,
        &[
            "namespace",
            "workload",
            "pods",
            "cpu_milli",
            "memory_bytes",
            "dollars_per_month",
        ],
    );
    for s in list {
        line(
            out,
            &[
                &s.namespace,
                &s.workload,
                &s.pods.to_string(),
                &s.cpu_milli.to_string(),
                &s.memory_bytes.to_string(),
                &format!("{:.2}", s.cost.per_month),
            ],
        );
    }
}

fn line(out: &mut String, cells: &[&str]) {
    for (at, cell) in cells.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        if cell.contains([',', '"', '\n', '\r']) {
            out.push('"');
            out.push_str(&cell.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(cell);
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_with_commas_and_quotes_are_quoted() {
        let mut out = String::new();
        line(&mut out, &["plain", "a,b", "say \"hi\""]);
        assert_eq!(out, "plain,\"a,b\",\"say \"\"hi\"\"\"\n");
    }
}
