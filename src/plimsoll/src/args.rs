//! Flags and environment. Names and defaults are Karpenter's where they mean the same.

use std::{path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use plimsoll_api::{duration::GoDuration, plan::Settings};
use plimsoll_report::Subject;

/// A node autoscaler for Kubernetes on AWS that plans before it acts.
#[derive(Debug, Parser)]
#[command(name = "plimsoll", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Carry out a Plan that a controller in mode advise has made, with your own rights, after asking.
    Apply(ApplyOptions),
    /// Run the controller.
    Controller(Box<ControllerOptions>),
    /// Print the custom resource definitions.
    Crds,
    /// Examine the cluster, the rights and the installation, and say what to mend.
    Doctor(DoctorOptions),
    /// Say why a pod waits, why a machine stays, or what a NodePool may still do.
    Explain(ExplainOptions),
    /// Solve one packing problem from a file, without a cluster.
    Pack(PackOptions),
    /// Print what the controller would do now.
    Plan(PlanOptions),
    /// Say what the cluster costs, what it could cost, and what is in the way. Only reads.
    Report(ReportOptions),
    /// Write what reports and plans are made from, and nothing else of the cluster, to a file that can be sent away.
    Snapshot(SnapshotOptions),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ApplyOptions {
    /// `plan/NAME`, or the name alone, as `kubectl get plans` lists it.
    pub(crate) plan: String,
    /// Check it, print it with its commands, and stop.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask.
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) yes: bool,
    /// The cluster of this context of the kubeconfig, not of the current one.
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The price list the controller was told to use. Default: that of the cluster's NodePools, else AWS's.
    #[arg(long, value_name = "LIST")]
    pub(crate) prices: Option<PriceList>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DoctorOptions {
    /// The cluster of this context of the kubeconfig, not of the current one.
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Whose rights are looked for. Default: the mode of the installation; without one and without the options below what
    /// reports need, else observe.
    #[arg(long)]
    pub(crate) mode: Option<Mode>,
    /// Look for the rights of this provider too.
    #[arg(long)]
    pub(crate) provider: Option<Provider>,
    /// Look at the rights of this user instead of one's own: system:serviceaccount:NAMESPACE:NAME.
    #[arg(long = "as", value_name = "USER")]
    pub(crate) as_user: Option<String>,
    /// Namespace of the Lease. Default: that of the installation, else the kubeconfig's.
    #[arg(long, short)]
    pub(crate) namespace: Option<String>,
    /// Print the findings as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ExplainOptions {
    /// `pod/NAMESPACE/NAME`, `node/NAME` or `nodepool/NAME`.
    pub(crate) subject: Subject,
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) planning: Planning,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SnapshotOptions {
    /// Reduce this file instead of reading the cluster of KUBECONFIG; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    /// The cluster of this context of the kubeconfig, not of the current one.
    #[arg(long, value_name = "NAME", conflicts_with = "from")]
    pub(crate) context: Option<String>,
    /// Where to write it. Default: standard output.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// Where a command that only looks gets its cluster from.
#[derive(Debug, ClapArgs)]
pub(crate) struct Source {
    /// Read this file instead of the cluster of KUBECONFIG: what `kubectl get nodes,pods,… -A -o json` (or yaml) wrote, or
    /// a snapshot; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    /// The cluster of this context of the kubeconfig, not of the current one.
    #[arg(long, value_name = "NAME", conflicts_with = "from")]
    pub(crate) context: Option<String>,
    /// The price list. Default: that of the cluster's NodePools, else AWS's.
    #[arg(long, value_name = "LIST")]
    pub(crate) prices: Option<PriceList>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PriceList {
    /// AWS's on-demand prices of the day the list was made.
    Aws,
    /// The test prices of kwok's made-up machines.
    Kwok,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ReportOptions {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) planning: Planning,
    /// Images that are known to have an arm64 variant, one a line; `*` at the end stands for any rest.
    #[arg(long, value_name = "FILE")]
    pub(crate) arm64_images: Option<PathBuf>,
    /// Write the report as one HTML file.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Write a shell script that carries the moves out by hand.
    #[arg(long, value_name = "FILE")]
    pub(crate) commands: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long, conflicts_with = "csv")]
    pub(crate) json: bool,
    /// Print one of its tables as CSV.
    #[arg(long, value_name = "TABLE")]
    pub(crate) csv: Option<Table>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Table {
    Nodes,
    Machines,
    Restraints,
    Namespaces,
    Workloads,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Read, report, and say what would be done. Needs no cloud and no right to change anything.
    Observe,
    /// The same, and keep Plans that a person can approve.
    Advise,
    /// Buy and end machines.
    Automate,
}

impl Mode {
    /// As the controller knows it.
    pub(crate) fn of_controller(self) -> plimsoll_controller::Mode {
        match self {
            Self::Observe => plimsoll_controller::Mode::Observe,
            Self::Advise => plimsoll_controller::Mode::Advise,
            Self::Automate => plimsoll_controller::Mode::Automate,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Provider {
    /// EC2 instances.
    #[cfg(feature = "aws")]
    Aws,
    /// Nodes without machines, for demos and tests.
    Kwok,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub(crate) enum Preferences {
    Respect,
    Ignore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub(crate) enum MinValues {
    Strict,
    BestEffort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Json,
    Text,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ControllerOptions {
    /// How much it may do.
    #[arg(long, env = "MODE", default_value = "observe")]
    pub(crate) mode: Mode,
    /// Whose machines are bought.
    #[arg(long, env = "PROVIDER", required_if_eq("mode", "automate"))]
    pub(crate) provider: Option<Provider>,
    /// The price list of who does not act. Default: that of the cluster's NodePools, else AWS's.
    #[arg(long, env = "PRICES", value_name = "LIST")]
    pub(crate) prices: Option<PriceList>,
    /// From one report of the cluster to the next.
    #[arg(long, env = "REPORT_INTERVAL", default_value = "5m", value_parser = duration)]
    pub(crate) report_interval: Duration,
    #[command(flatten)]
    pub(crate) planning: Planning,
    #[cfg(feature = "aws")]
    #[command(flatten)]
    pub(crate) aws: crate::aws::AwsOptions,
    #[arg(long, env = "METRICS_PORT", default_value_t = 8080)]
    pub(crate) metrics_port: u16,
    #[arg(long, env = "HEALTH_PROBE_PORT", default_value_t = 8081)]
    pub(crate) health_probe_port: u16,
    /// Longest pause that ends a burst of pods.
    #[arg(long, env = "BATCH_IDLE_DURATION", default_value = "1s", value_parser = duration)]
    pub(crate) batch_idle_duration: Duration,
    /// Longest time a burst of pods is gathered.
    #[arg(long, env = "BATCH_MAX_DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) batch_max_duration: Duration,
    /// Run without a Lease. Two such processes on one cluster would buy everything twice.
    #[arg(long, env = "DISABLE_LEADER_ELECTION", default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) disable_leader_election: bool,
    /// Name of the Lease. Default: karpenter-leader-election, so that Karpenter and this never act at once; of who does
    /// not act plimsoll-observer.
    #[arg(long, env = "LEADER_ELECTION_NAME")]
    pub(crate) leader_election_name: Option<String>,
    /// Namespace of the Lease. Default: SYSTEM_NAMESPACE, then the namespace this runs in.
    #[arg(long, env = "LEADER_ELECTION_NAMESPACE")]
    pub(crate) leader_election_namespace: Option<String>,
    /// Namespace the controller is deployed in, as the chart sets it.
    #[arg(long, env = "SYSTEM_NAMESPACE", hide = true)]
    pub(crate) system_namespace: Option<String>,
    /// Name of this replica in the Lease. Default: the host name.
    #[arg(long, env = "POD_NAME")]
    pub(crate) pod_name: Option<String>,
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub(crate) log_level: String,
    #[arg(long, env = "LOG_FORMAT", default_value = "json")]
    pub(crate) log_format: LogFormat,
}

/// How plans are made.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Planning {
    #[arg(long, env = "PREFERENCE_POLICY", default_value = "Respect")]
    pub(crate) preference_policy: Preferences,
    #[arg(long, env = "MIN_VALUES_POLICY", default_value = "Strict")]
    pub(crate) min_values_policy: MinValues,
    /// Search steps after the first plan. Counted, not timed: the same input gives the same plan anywhere.
    #[arg(long, env = "PLAN_STEPS", default_value_t = Settings::default().steps.unsigned_abs())]
    pub(crate) steps: u64,
    /// Do not tell kube-scheduler where planned pods are to go, for clusters where the right to patch pods/status is
    /// withheld. Plans then have room to spare, and say what it costs.
    #[arg(long, env = "DISABLE_NOMINATION", default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) disable_nomination: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PackOptions {
    /// The problem file; its format is described in bench/FORMAT.md.
    pub(crate) problem: PathBuf,
    /// Search steps after the first plan, instead of the file's.
    #[arg(long)]
    pub(crate) steps: Option<u64>,
    /// Print the result as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PlanOptions {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) planning: Planning,
    /// Plan for all pods as if no machine of ours existed: what the whole would cost bought at once.
    #[arg(long)]
    pub(crate) all_pods: bool,
    /// Change the cluster as this file says and show what becomes different: objects to apply, objects annotated
    /// `plimsoll.dev/what-if: delete`, workloads with their replicas, and `kind: Prices`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "yaml"])]
    pub(crate) what_if: Option<PathBuf>,
    /// Print the plan as JSON.
    #[arg(long, conflicts_with = "yaml")]
    pub(crate) json: bool,
    /// Print the plan as YAML.
    #[arg(long)]
    pub(crate) yaml: bool,
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<GoDuration>()
        .map(|d| d.as_duration())
        .map_err(|error| format!("{error}; write it like 1s or 500ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_plans_have_the_defaults_of_the_options() {
        let args = Args::parse_from(["plimsoll", "plan"]);
        let Command::Plan(PlanOptions { planning, .. }) = args.command else {
            panic!("{args:?}")
        };
        let settings = Settings {
            preference_policy: format!("{:?}", planning.preference_policy),
            min_values_policy: format!("{:?}", planning.min_values_policy),
            steps: planning.steps.cast_signed(),
        };
        assert_eq!(settings, Settings::default());
    }
}
