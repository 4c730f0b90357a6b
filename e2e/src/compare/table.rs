//! The comparison as a table in Markdown, one column for each run.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::{Idle, Launch, Report};

/// Rows that no run has measured are left out.
pub fn table(reports: &[Report]) -> String {
    let mut table = Table {
        reports,
        rows: vec![reports.iter().map(|r| r.controller.clone()).collect()],
        names: vec![String::new()],
    };
    let launch = |name, value: fn(&Launch) -> String| (name, value);
    let idle = |name, value: fn(&Idle) -> String| (name, value);
    for (name, value) in [
        launch("pods, one to a machine", |l| l.pods.to_string()),
        launch("machines", |l| l.instances.to_string()),
        launch("pods asked for → first CreateFleet", |l| {
            time(l.seconds_to_first_create_fleet)
        }),
        launch("… → last CreateFleet", |l| {
            time(l.seconds_to_last_create_fleet)
        }),
        launch("… → all nodes ready", |l| time(l.seconds_to_all_nodes_ready)),
        launch("… → all pods running", |l| {
            time(l.seconds_to_all_pods_running)
        }),
        launch("price of the machines", |l| format!("${:.4}/h", l.price_per_hour)),
        launch("CPU of the controller", |l| time(l.cpu_seconds)),
        launch("its peak memory", |l| megabytes(l.rss_peak_mb)),
        launch("API calls until all pods run", |l| l.calls.all.to_string()),
        launch("… throttled", |l| l.calls.throttled.to_string()),
        launch("… answered with an error", |l| sum(&l.calls.errors)),
    ] {
        table.row(name, |report| report.launch.as_ref().map(value));
    }
    let launches = reports.iter().filter_map(|r| r.launch.as_ref());
    let actions: BTreeSet<&String> = launches.flat_map(|l| l.calls.by_action.keys()).collect();
    for action in actions {
        table.row(&format!("… {action}"), |report| {
            let launch = report.launch.as_ref()?;
            Some(
                launch
                    .calls
                    .by_action
                    .get(action)
                    .copied()
                    .unwrap_or(0)
                    .to_string(),
            )
        });
    }
    table.row("pending pod → CreateFleet, median", |report| {
        let latencies = report.pod_to_create_fleet.as_ref()?;
        Some(format!("{:.0} ms", latencies.median_ms))
    });
    table.row("… least to most", |report| {
        let latencies = report.pod_to_create_fleet.as_ref()?;
        Some(format!("{:.0} to {:.0} ms", latencies.min_ms, latencies.max_ms))
    });
    for (name, value) in [
        idle("memory, idle", |i| megabytes(i.rss_mb)),
        idle("… at its peak before", |i| megabytes(i.rss_peak_mb)),
        idle("CPU, idle", |i| {
            format!("{:.2} s in {:.0} s", i.cpu_seconds, i.seconds)
        }),
        idle("API calls until the NodePool is ready", |i| {
            i.calls_before.all.to_string()
        }),
        idle("API calls, idle", |i| {
            format!("{} in {:.0} s", i.calls.all, i.seconds)
        }),
    ] {
        table.row(name, |report| report.idle.as_ref().map(value));
    }
    table.row("load of the machine before", |report| {
        Some(format!("{:.1}", report.load_before))
    });
    table.text()
}

fn time(seconds: f64) -> String {
    format!("{seconds:.2} s")
}

fn megabytes(megabytes: f64) -> String {
    format!("{megabytes:.0} MB")
}

fn sum(counts: &std::collections::BTreeMap<String, usize>) -> String {
    counts.values().sum::<usize>().to_string()
}

struct Table<'a> {
    reports: &'a [Report],
    names: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table<'_> {
    fn row(&mut self, name: &str, value: impl Fn(&Report) -> Option<String>) {
        let values: Vec<Option<String>> = self.reports.iter().map(value).collect();
        if values.iter().any(Option::is_some) {
            self.names.push(name.to_owned());
            let values = values.into_iter().map(|value| value.unwrap_or("-".to_owned()));
            self.rows.push(values.collect());
        }
    }

    fn text(&self) -> String {
        let width = |texts: &mut dyn Iterator<Item = &String>| {
            texts.map(|text| text.chars().count()).max().unwrap_or(0)
        };
        let first = width(&mut self.names.iter());
        let widths: Vec<usize> = (0..self.reports.len())
            .map(|column| width(&mut self.rows.iter().map(|row| &row[column])))
            .collect();
        let mut text = String::new();
        for (number, (name, row)) in self.names.iter().zip(&self.rows).enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(text, "| {name:first$} |");
            for (value, width) in row.iter().zip(&widths) {
                let _ = write!(text, " {value:>width$} |");
            }
            text.push('\n');
            if number == 0 {
                let _ = write!(text, "|{}|", "-".repeat(first + 2));
                for width in &widths {
                    let _ = write!(text, "{}:|", "-".repeat(width + 1));
                }
                text.push('\n');
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latencies::Latencies;

    #[test]
    fn what_one_run_has_not_measured_is_a_dash_and_what_none_has_is_no_row() {
        let report = |controller: &str, pod_to_create_fleet| Report {
            controller: controller.to_owned(),
            load_before: 0.25,
            idle: None,
            launch: None,
            pod_to_create_fleet,
        };
        let reports = [
            report("theirs", None),
            report("ours", Some(Latencies::of(vec![80.0, 90.0]).unwrap())),
        ];
        assert_eq!(
            table(&reports),
            "|                                   | theirs |        ours |\n\
             |-----------------------------------|-------:|------------:|\n\
             | pending pod → CreateFleet, median |      - |       85 ms |\n\
             | … least to most                   |      - | 80 to 90 ms |\n\
             | load of the machine before        |    0.2 |         0.2 |\n"
        );
    }
}
