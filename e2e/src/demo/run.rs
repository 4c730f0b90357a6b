//! One run of the demo from an empty cluster to an empty cluster.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tokio::time::Instant;

use super::{CloudReport, Observer, Report, View, Workload};
use crate::cloud::Cloud;
use crate::cluster::Cluster;
use crate::controller::{self, Controller};
use crate::objects;
use crate::testbed::Testbed;
use crate::upstream;

/// The workload's namespace is named after this, and after the process.
const NAME: &str = "demo";
/// A controller reads a few lists before it is ready.
const READY_TIMEOUT: Duration = Duration::from_mins(2);
/// How long the last machines may take to join once all pods run.
const JOIN_TIMEOUT: Duration = Duration::from_mins(1);
/// How long the cluster may take to be empty again.
const SCALE_DOWN_TIMEOUT: Duration = Duration::from_mins(10);
const PRICE_SOURCE: &str = "KWOK provider's rule, not a market: 0.025 $/vCPU + 0.001 $/GB, spot × 0.7";
/// Lines of progress are this far apart where they cannot overwrite each other.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Which controller buys the machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// The binary of this repository
    Plimsoll,
    /// Karpenter's own controller with its kwok provider
    Upstream,
}

/// Where Plimsoll's machines come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Provider {
    /// Nodes without machines
    Kwok,
    /// The AWS stand-in of e2e/cloud
    Aws,
}

/// What to run and how.
#[derive(Debug, Clone)]
pub struct Settings {
    pub workload: Workload,
    pub controller: Choice,
    pub provider: Provider,
    /// Leave the workload where it is.
    pub keep: bool,
    /// How long the pods may take to run.
    pub timeout: Duration,
    /// CRDs of Plimsoll.
    pub crds: PathBuf,
}

/// What still runs after the demo; dropping it ends it.
#[derive(Debug)]
pub struct Kept {
    _controller: Controller,
    _cloud: Option<Cloud>,
}

/// Runs the demo on `testbed`. What it has started runs until the second value is dropped.
pub async fn run(testbed: &Testbed, settings: &Settings) -> Result<(Report, Kept)> {
    let cluster = Cluster::connect(testbed.kubeconfig()).await?;
    let cloud = match settings.provider {
        Provider::Kwok => None,
        Provider::Aws => Some(Cloud::start(Some(testbed.kubeconfig()), &testbed.logs(), &[]).await?),
    };
    let mut controller = start_controller(testbed, &cluster, settings, cloud.as_ref()).await?;
    ensure_empty(&cluster).await?;
    let namespace = cluster.namespace(NAME).await?;
    apply_node_pool(&cluster, cloud.as_ref()).await?;
    let mut observer = Observer::start(&cluster, &namespace).await?;

    let mut progress = Progress::new();
    let total = settings.workload.pods;
    let begin = Instant::now();
    let deadline = begin + settings.timeout;
    let mut first_launch = None;
    // Applied while the observer watches, so that what happens meanwhile is seen when it happens.
    let watching = observer.until(
        deadline,
        |view| {
            if first_launch.is_none() && view.claims() > 0 {
                first_launch = Some(begin.elapsed().as_secs_f64());
            }
            progress.show(view);
            controller.ensure_running()
        },
        |view| view.pods().running == total,
    );
    let (applied, all_running) = tokio::join!(settings.workload.apply(&cluster, &namespace), watching);
    applied?;
    let all_running = all_running?;
    let launch_rounds = observer.view().plans();

    // Pods can run before the last machine has joined; its price counts all the same.
    observer
        .until(
            Instant::now() + JOIN_TIMEOUT,
            |_| controller.ensure_running(),
            View::every_claim_has_its_node,
        )
        .await?;
    progress.end();
    let plimsoll = settings.controller == Choice::Plimsoll;
    let view = observer.view();
    let mut report = Report {
        pods_total: total,
        pods_running: view.pods().running,
        nodes: view.nodes(),
        price_per_hour: match &cloud {
            None => view.price_per_hour(),
            Some(cloud) => price_of_instances(cloud).await?,
        },
        price_one_shot_plan_per_hour: None,
        lower_bound_per_hour: None,
        seconds_to_first_launch: first_launch,
        seconds_to_all_running: all_running.map(|at| (at - begin).as_secs_f64()),
        launch_rounds: plimsoll.then_some(launch_rounds),
        pods_bound_as_planned: None,
        controller_rss_mb_peak: 0.0,
        controller_cpu_seconds: 0.0,
        nodes_after_scale_down: None,
        instances_left: None,
        price_source: match &cloud {
            None => PRICE_SOURCE.to_owned(),
            Some(cloud) => format!(
                "the AWS stand-in: on-demand prices of {}, made-up spot prices",
                cloud.ready().price_date
            ),
        },
        cloud: None,
        machine_types: view.machine_types(),
        seconds_to_no_machine: None,
        workload: settings.workload.title.clone(),
        controller: match settings.controller {
            Choice::Plimsoll if cloud.is_some() => "plimsoll with its provider for AWS".to_owned(),
            Choice::Plimsoll => "plimsoll".to_owned(),
            Choice::Upstream => "Karpenter with its kwok provider".to_owned(),
        },
    };
    if all_running.is_none() {
        eprintln!(
            "not all pods run after {:?}\n{}",
            settings.timeout,
            cluster.dump().await
        );
    }
    if plimsoll {
        let bound = controller
            .metrics()
            .await?
            .sum("plimsoll_pods_bound_as_planned_total", &[]);
        report.pods_bound_as_planned = bound.map(|count| count as u64);
    }
    // `plimsoll plan` knows the list prices of AWS, not the spot market that the machines were bought on.
    if plimsoll && cloud.is_none() {
        let plan = one_shot_plan(testbed.kubeconfig())?;
        report.price_one_shot_plan_per_hour = Some(plan.price_per_hour);
        report.lower_bound_per_hour = plan.lower_bound_per_hour;
    }
    if !settings.keep {
        scale_down(
            &cluster,
            &namespace,
            settings,
            &mut observer,
            &mut controller,
            &mut report,
        )
        .await?;
    }
    if !settings.keep && report.instances_left == Some(0) {
        cluster.clean().await?;
    }
    let usage = controller.usage()?;
    report.controller_rss_mb_peak = usage.rss_peak_mib * 1.048_576;
    report.controller_cpu_seconds = usage.cpu_seconds;
    if let Some(cloud) = &cloud {
        report.cloud = Some(CloudReport::of(cloud, !settings.keep).await?);
    }
    let kept = Kept {
        _controller: controller,
        _cloud: cloud,
    };
    Ok((report, kept))
}

/// What the instances that run now cost together, in dollars per hour.
async fn price_of_instances(cloud: &Cloud) -> Result<f64> {
    let instances = cloud.instances().await?;
    let running = instances.iter().filter(|i| i.state == "running");
    Ok(running.filter_map(|i| i.price_per_hour).sum())
}

async fn start_controller(
    testbed: &Testbed,
    cluster: &Cluster,
    settings: &Settings,
    cloud: Option<&Cloud>,
) -> Result<Controller> {
    let mut controller = match settings.controller {
        Choice::Plimsoll => {
            cluster.apply_directory(&settings.crds).await?;
            let (provider, environment) = match cloud {
                None => ("kwok", Vec::new()),
                Some(cloud) => ("aws", cloud.controller_environment()),
            };
            let environment: Vec<(&str, &str)> = environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
            Controller::spawn(
                testbed.kubeconfig(),
                &testbed.logs(),
                "plimsoll",
                Some(provider),
                &environment,
            )?
        }
        Choice::Upstream => upstream::spawn_upstream(testbed).await?,
    };
    controller.wait_ready(READY_TIMEOUT).await?;
    Ok(controller)
}

async fn ensure_empty(cluster: &Cluster) -> Result<()> {
    let left = cluster.leftovers().await?;
    ensure!(
        left.is_empty(),
        "the demo starts on a cluster without machines, but there are: {}",
        left.join(", ")
    );
    Ok(())
}

/// Applies the NodePool and its class, and waits until the controller has found it usable.
async fn apply_node_pool(cluster: &Cluster, cloud: Option<&Cloud>) -> Result<()> {
    if let Some(cloud) = cloud {
        let class = objects::ec2_node_class(&cloud.ready().cluster, &cloud.ready().node_role);
        for object in [class, objects::aws_node_pool("default")] {
            cluster.apply(serde_json::from_value(object)?, None).await?;
        }
    } else {
        for file in ["kwoknodeclass.yaml", "nodepool.yaml"] {
            cluster.apply_file(&crate::paths::manifest(file), None).await?;
        }
    }
    cluster.wait_node_pool_ready("default", READY_TIMEOUT).await
}

async fn scale_down(
    cluster: &Cluster,
    namespace: &str,
    settings: &Settings,
    observer: &mut Observer,
    controller: &mut Controller,
    report: &mut Report,
) -> Result<()> {
    let mut progress = Progress::new();
    let begin = Instant::now();
    let watching = observer.until(
        begin + SCALE_DOWN_TIMEOUT,
        |view| {
            progress.show(view);
            controller.ensure_running()
        },
        |view| view.pods() == crate::cluster::PodCounts::default() && view.instances() == 0,
    );
    let (scaled, empty) = tokio::join!(settings.workload.scale_down(cluster, namespace), watching);
    scaled?;
    let empty = empty?;
    progress.end();
    report.seconds_to_no_machine = empty.map(|at| (at - begin).as_secs_f64());
    report.nodes_after_scale_down = Some(observer.view().nodes());
    report.instances_left = Some(observer.view().instances());
    if empty.is_none() {
        eprintln!(
            "machines are left after {SCALE_DOWN_TIMEOUT:?}\n{}",
            cluster.dump().await
        );
    }
    Ok(())
}

/// What `plimsoll plan --all-pods --json` says about all pods of the cluster, as if it had no nodes.
#[derive(Debug, Deserialize)]
struct OneShotPlan {
    price_per_hour: f64,
    lower_bound_per_hour: Option<f64>,
}

fn one_shot_plan(kubeconfig: &Path) -> Result<OneShotPlan> {
    let output = Command::new(controller::binary()?)
        .args(["plan", "--all-pods", "--json"])
        .env("KUBECONFIG", kubeconfig)
        .output()?;
    ensure!(
        output.status.success(),
        "plimsoll plan --all-pods --json: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).context("plimsoll plan --all-pods --json: unexpected output")
}

/// Tells on stderr how far things are: one line that is written over, or lines some seconds apart.
struct Progress {
    begin: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    fn new() -> Self {
        Self {
            begin: Instant::now(),
            shown: None,
            terminal: std::io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, view: &View) {
        let every = if self.terminal {
            Duration::from_millis(100)
        } else {
            LINE_EVERY
        };
        if self.shown.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        self.shown = Some(Instant::now());
        let pods = view.pods();
        let mut line = format!(
            "{:6.1} s   pods: {} running, {} pending, {} ending   machines: {} asked for, {} joined",
            self.begin.elapsed().as_secs_f64(),
            pods.running,
            pods.pending,
            pods.terminating,
            view.claims(),
            view.nodes(),
        );
        // Nodes of AWS do not carry their price.
        let price = view.price_per_hour();
        if price > 0.0 {
            write!(line, "   {price:.4} $/h").expect("a String takes everything");
        }
        // Progress that nobody can read is not worth failing for.
        let _ = if self.terminal {
            write!(std::io::stderr(), "\r\x1b[K{line}")
        } else {
            writeln!(std::io::stderr(), "{line}")
        };
    }

    fn end(&mut self) {
        if self.terminal && self.shown.is_some() {
            let _ = writeln!(std::io::stderr());
        }
    }
}
