//! What the demo found out: as JSON with fixed keys, and as a table.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::cloud::{Cloud, Leftovers};

/// How long an instance may be shutting down.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

/// The figures of one run. What a controller does not tell, or what the run did not come to, is null.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub pods_total: usize,
    /// When every NodeClaim had its Node after all pods ran; or at the deadline.
    pub pods_running: usize,
    pub nodes: usize,
    /// Sum of the price labels of those nodes, in dollars.
    pub price_per_hour: f64,
    /// What one plan for all pods at once would cost, in dollars.
    pub price_one_shot_plan_per_hour: Option<f64>,
    /// No plan whatever can cost less, in dollars.
    pub lower_bound_per_hour: Option<f64>,
    /// From the moment before the workload is applied until the first NodeClaim is seen.
    pub seconds_to_first_launch: Option<f64>,
    /// From the same moment until all pods run.
    pub seconds_to_all_running: Option<f64>,
    /// Distinct plans that created NodeClaims before all pods ran.
    pub launch_rounds: Option<usize>,
    pub pods_bound_as_planned: Option<u64>,
    /// Peak resident set of the controller's process over the whole run, in 10^6 bytes.
    pub controller_rss_mb_peak: f64,
    /// User and system time of the controller's process over the whole run.
    pub controller_cpu_seconds: f64,
    pub nodes_after_scale_down: Option<usize>,
    /// Machines that exist by any account (a Node or a NodeClaim) after the workload has gone.
    pub instances_left: Option<usize>,
    /// Where the prices come from.
    pub price_source: String,
    /// What the AWS stand-in has seen; null without it.
    pub cloud: Option<CloudReport>,
    /// The machines by type, for the table.
    #[serde(skip)]
    pub machine_types: BTreeMap<String, usize>,
    /// From the moment before the scale-down until no machine was left.
    #[serde(skip)]
    pub seconds_to_no_machine: Option<f64>,
    #[serde(skip)]
    pub workload: String,
    #[serde(skip)]
    pub controller: String,
}

/// What a run has done to the AWS stand-in.
#[derive(Debug, Clone, Serialize)]
pub struct CloudReport {
    pub instances_launched: usize,
    /// Calls of each action, dry runs included.
    pub calls: BTreeMap<String, usize>,
    /// What is still there after the node class has gone; null if it was not deleted.
    pub left: Option<Leftovers>,
}

impl CloudReport {
    /// Counts, and, once the node class was deleted, waits a moment for instances that are shutting down.
    pub async fn of(cloud: &Cloud, deleted: bool) -> Result<Self> {
        let mut left = None;
        if deleted {
            let deadline = Instant::now() + SHUTDOWN_TIMEOUT;
            let mut now = cloud.leftovers().await?;
            while now != Leftovers::default() && Instant::now() < deadline {
                sleep(POLL).await;
                now = cloud.leftovers().await?;
            }
            left = Some(now);
        }
        let mut calls = BTreeMap::new();
        for request in cloud.requests(0).await? {
            *calls.entry(request.action).or_default() += 1;
        }
        Ok(Self {
            instances_launched: cloud.instances().await?.len(),
            calls,
            left,
        })
    }
}

/// Machine types shown; the rest is summed up.
const TYPES_SHOWN: usize = 6;

impl Report {
    /// Why the run failed, if it did: a pod that does not run, or a machine that was left.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        if self.pods_running < self.pods_total {
            failures.push(format!(
                "{} of {} pods do not run",
                self.pods_total - self.pods_running,
                self.pods_total
            ));
        }
        if let Some(left) = self.instances_left.filter(|left| *left > 0) {
            failures.push(format!("{left} machines are left after the workload has gone"));
        }
        if let Some(left) = self.cloud.as_ref().and_then(|cloud| cloud.left.as_ref())
            && *left != Leftovers::default()
        {
            failures.push(format!("left in EC2: {left:?}"));
        }
        failures
    }

    /// The table a person reads.
    pub fn table(&self) -> String {
        let seconds = |value: Option<f64>| value.map_or("-".to_owned(), |s| format!("{s:.2} s"));
        let dollars = |value: f64| format!("${value:.4}/h");
        let mut types: Vec<(&String, &usize)> = self.machine_types.iter().collect();
        types.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), *name));
        let mut shown: Vec<String> = types
            .iter()
            .take(TYPES_SHOWN)
            .map(|(name, count)| format!("{count} × {name}"))
            .collect();
        let others: usize = types.iter().skip(TYPES_SHOWN).map(|(_, count)| **count).sum();
        if others > 0 {
            shown.push(format!("{others} of other types"));
        }

        let mut rows = vec![
            ("workload", self.workload.clone()),
            ("controller", self.controller.clone()),
            (
                "pods running",
                format!("{} of {}", self.pods_running, self.pods_total),
            ),
            ("machines", format!("{} ({})", self.nodes, shown.join(", "))),
            ("price", dollars(self.price_per_hour)),
        ];
        if let Some(plan) = self.price_one_shot_plan_per_hour {
            rows.push(("  of one plan for all pods", dollars(plan)));
        }
        if let Some(bound) = self.lower_bound_per_hour {
            rows.push((
                "  no plan can cost less than",
                format!(
                    "{} (paid: {:+.1} %)",
                    dollars(bound),
                    (self.price_per_hour / bound - 1.0) * 100.0
                ),
            ));
        }
        rows.push(("  source", self.price_source.clone()));
        rows.push(("first machine asked for", seconds(self.seconds_to_first_launch)));
        rows.push(("all pods running", seconds(self.seconds_to_all_running)));
        if let Some(rounds) = self.launch_rounds {
            rows.push(("plans that bought machines", rounds.to_string()));
        }
        if let Some(bound) = self.pods_bound_as_planned {
            rows.push(("pods bound as planned", bound.to_string()));
        }
        rows.push((
            "controller",
            format!(
                "{:.0} MB at its peak, {:.2} s of CPU",
                self.controller_rss_mb_peak, self.controller_cpu_seconds
            ),
        ));
        if let (Some(nodes), Some(instances)) = (self.nodes_after_scale_down, self.instances_left) {
            rows.push((
                "after the workload has gone",
                format!(
                    "{nodes} nodes, {instances} machines, after {}",
                    seconds(self.seconds_to_no_machine)
                ),
            ));
        }
        if let Some(cloud) = &self.cloud {
            let calls: usize = cloud.calls.values().sum();
            let fleets = cloud.calls.get("ec2:CreateFleet").copied().unwrap_or(0);
            rows.push((
                "AWS",
                format!(
                    "{} instances launched, {fleets} CreateFleet of {calls} calls",
                    cloud.instances_launched
                ),
            ));
            if let Some(left) = &cloud.left {
                rows.push((
                    "  left after the node class",
                    format!(
                        "{} instances, {} launch templates, {} instance profiles, {} volumes",
                        left.instances.len(),
                        left.launch_templates.len(),
                        left.instance_profiles.len(),
                        left.volumes.len()
                    ),
                ));
            }
        }
        let width = rows
            .iter()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0);
        let mut table = String::new();
        for (name, value) in rows {
            // Writing to a String cannot fail.
            let _ = writeln!(table, "  {name:width$}  {value}");
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            pods_total: 3,
            pods_running: 3,
            nodes: 1,
            price_per_hour: 0.2,
            price_one_shot_plan_per_hour: None,
            lower_bound_per_hour: Some(0.1),
            seconds_to_first_launch: Some(0.5),
            seconds_to_all_running: Some(1.0),
            launch_rounds: Some(1),
            pods_bound_as_planned: None,
            controller_rss_mb_peak: 20.0,
            controller_cpu_seconds: 0.1,
            nodes_after_scale_down: Some(0),
            instances_left: Some(0),
            price_source: "a rule".to_owned(),
            cloud: None,
            machine_types: BTreeMap::from([("c-2x spot".to_owned(), 1)]),
            seconds_to_no_machine: Some(2.0),
            workload: "w".to_owned(),
            controller: "plimsoll".to_owned(),
        }
    }

    /// Programs read these keys.
    #[test]
    fn the_keys_stay() {
        let json = serde_json::to_value(report()).unwrap();
        let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = [
            "pods_total",
            "pods_running",
            "nodes",
            "price_per_hour",
            "price_one_shot_plan_per_hour",
            "lower_bound_per_hour",
            "seconds_to_first_launch",
            "seconds_to_all_running",
            "launch_rounds",
            "pods_bound_as_planned",
            "controller_rss_mb_peak",
            "controller_cpu_seconds",
            "nodes_after_scale_down",
            "instances_left",
            "price_source",
            "cloud",
        ];
        expected.sort_unstable();
        let mut found = keys.clone();
        found.sort_unstable();
        assert_eq!(found, expected);
        assert!(json["pods_bound_as_planned"].is_null());
    }

    #[test]
    fn a_pending_pod_and_a_left_machine_are_failures() {
        assert!(report().failures().is_empty());
        assert_eq!(
            Report {
                pods_running: 2,
                ..report()
            }
            .failures(),
            ["1 of 3 pods do not run"]
        );
        assert_eq!(
            Report {
                instances_left: Some(1),
                ..report()
            }
            .failures()
            .len(),
            1
        );
        // Whoever keeps the cluster has asked for its machines to stay.
        assert!(
            Report {
                instances_left: None,
                ..report()
            }
            .failures()
            .is_empty()
        );
    }

    #[test]
    fn the_table_compares_with_the_bound() {
        assert!(
            report().table().contains("$0.1000/h (paid: +100.0 %)"),
            "{}",
            report().table()
        );
    }
}
