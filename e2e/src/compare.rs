//! Plimsoll's provider for AWS beside Karpenter's: the same manifests on the same stand-in, each controller on a control
//! plane of its own.

mod table;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::aws::Calls;
use crate::cloud::{Cloud, Request};
use crate::cluster::Cluster;
use crate::controller::Controller;
use crate::demo::{Choice, Observer, View};
use crate::latencies::Latencies;
use crate::process::Usage;
use crate::testbed::{Options, Testbed};
use crate::{machine_load, objects, paths, upstream};

pub use table::table;

/// Upstream reads all types, offerings and prices before it is ready.
const READY_TIMEOUT: Duration = Duration::from_mins(5);
/// How long all machines of one measurement may take.
const LAUNCH_TIMEOUT: Duration = Duration::from_mins(3);
/// Between two pods. Plimsoll takes pods that come within 5 s of each other for one burst, and waits for more.
const QUIET: Duration = Duration::from_secs(6);
/// The app of all pods; no two of them share a machine.
const APP: &str = "spread";
const CPU: &str = "1500m";

/// What to measure; a zero leaves a measure out.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long each controller has nothing to do.
    pub idle: Duration,
    /// How many pods come at once, each of which needs a machine of its own.
    pub machines: usize,
    /// How many pods come one after the other.
    pub pods: usize,
}

/// One controller's figures.
#[derive(Debug, Serialize)]
pub struct Report {
    pub controller: String,
    /// Processes that wanted a processor, on average over the minute before the first measure.
    pub load_before: f64,
    pub idle: Option<Idle>,
    pub launch: Option<Launch>,
    /// From a pending pod, seen by a watching client, to the arrival of CreateFleet at the stand-in.
    pub pod_to_create_fleet: Option<Latencies>,
}

/// A cluster with one NodePool and no pod.
#[derive(Debug, Serialize)]
pub struct Idle {
    pub seconds: f64,
    /// Resident set at the end, in 10^6 bytes.
    pub rss_mb: f64,
    /// Peak resident set since the controller's start.
    pub rss_peak_mb: f64,
    /// User and system time within these seconds.
    pub cpu_seconds: f64,
    /// From the controller's start until its NodePool was ready.
    pub calls_before: Calls,
    /// Within these seconds.
    pub calls: Calls,
}

/// Many machines at once. Seconds count from the moment before the pods are asked for.
#[derive(Debug, Serialize)]
pub struct Launch {
    pub pods: usize,
    pub seconds_to_first_create_fleet: f64,
    pub seconds_to_last_create_fleet: f64,
    pub seconds_to_all_nodes_ready: f64,
    pub seconds_to_all_pods_running: f64,
    /// From that moment until all nodes were ready and all pods ran.
    pub calls: Calls,
    pub instances: usize,
    /// Dollars per hour, at the stand-in's prices.
    pub price_per_hour: f64,
    /// User and system time until then.
    pub cpu_seconds: f64,
    /// Since the controller's start.
    pub rss_peak_mb: f64,
}

/// Measures one controller.
pub async fn measure(choice: Choice, settings: &Settings) -> Result<Report> {
    let mut report = Report {
        controller: match choice {
            Choice::Upstream => format!("Karpenter {}", upstream::aws_version()),
            Choice::Plimsoll => "plimsoll".to_owned(),
        },
        load_before: machine_load::one_minute()?,
        idle: None,
        launch: None,
        pod_to_create_fleet: None,
    };
    if !settings.idle.is_zero() || settings.machines > 0 {
        let mut bench = Bench::start(choice).await?;
        if !settings.idle.is_zero() {
            report.idle = Some(bench.idle(settings.idle).await?);
        }
        if settings.machines > 0 {
            report.launch = Some(bench.launch(settings.machines).await?);
        }
        bench.end();
    }
    if settings.pods > 0 {
        let mut bench = Bench::start(choice).await?;
        report.pod_to_create_fleet = Some(bench.latencies(settings.pods).await?);
        bench.end();
    }
    Ok(report)
}

/// A controller that is ready to buy, and what it works on. Fields are dropped in this order.
struct Bench {
    observer: Observer,
    controller: Controller,
    cloud: Cloud,
    cluster: Cluster,
    namespace: String,
    testbed: Testbed,
    /// The last line of the request log that was read.
    read: u64,
    finished: bool,
}

impl Bench {
    async fn start(choice: Choice) -> Result<Self> {
        let mut testbed = Testbed::start(Options::default()).await?;
        let parts = async {
            let cloud = Cloud::start(Some(testbed.kubeconfig()), &testbed.logs(), &[]).await?;
            let cluster = Cluster::connect(testbed.kubeconfig()).await?;
            let mut controller = spawn(choice, &testbed, &cluster, &cloud).await?;
            controller.wait_ready(READY_TIMEOUT).await?;
            let ready = cloud.ready();
            for object in [
                objects::ec2_node_class(&ready.cluster, &ready.node_role),
                node_pool(),
            ] {
                cluster.apply(serde_json::from_value(object)?, None).await?;
            }
            cluster.wait_node_pool_ready("default", READY_TIMEOUT).await?;
            let namespace = cluster.namespace("compare").await?;
            let observer = Observer::start(&cluster, &namespace).await?;
            anyhow::Ok((observer, controller, cloud, cluster, namespace))
        };
        match parts.await {
            Ok((observer, controller, cloud, cluster, namespace)) => Ok(Self {
                observer,
                controller,
                cloud,
                cluster,
                namespace,
                testbed,
                read: 0,
                finished: false,
            }),
            Err(error) => Err(error.context(format!("the logs are in {}", testbed.keep_logs().display()))),
        }
    }

    fn end(mut self) {
        self.finished = true;
    }

    /// The requests since the last call of this.
    async fn requests(&mut self) -> Result<Vec<Request>> {
        let requests = self.cloud.requests(self.read).await?;
        self.read = requests.last().map_or(self.read, |last| last.number);
        Ok(requests)
    }

    /// Watches for as long as this, whatever happens.
    async fn watch_for(&mut self, time: Duration) -> Result<()> {
        let controller = &mut self.controller;
        self.observer
            .until(Instant::now() + time, |_| controller.ensure_running(), |_| false)
            .await?;
        Ok(())
    }

    async fn idle(&mut self, time: Duration) -> Result<Idle> {
        let calls_before = Calls::of(&self.requests().await?);
        let before = self.controller.usage()?;
        eprintln!("  nothing to do for {} s", time.as_secs());
        self.watch_for(time).await?;
        let usage = self.controller.usage()?;
        Ok(Idle {
            seconds: time.as_secs_f64(),
            rss_mb: megabytes(usage.rss_mib),
            rss_peak_mb: megabytes(usage.rss_peak_mib),
            cpu_seconds: usage.cpu_seconds - before.cpu_seconds,
            calls_before,
            calls: Calls::of(&self.requests().await?),
        })
    }

    async fn launch(&mut self, machines: usize) -> Result<Launch> {
        self.requests().await?;
        let before: Usage = self.controller.usage()?;
        eprintln!("  {machines} pods for as many machines");
        let (began, begin) = (Timestamp::now(), Instant::now());
        let (mut ready, mut running) = (None, None);
        let controller = &mut self.controller;
        let watching = self.observer.until(
            begin + LAUNCH_TIMEOUT,
            |view| {
                if view.ready_nodes() >= machines {
                    ready.get_or_insert_with(|| begin.elapsed());
                }
                if view.pods().running == machines {
                    running.get_or_insert_with(|| begin.elapsed());
                }
                controller.ensure_running()
            },
            |view| view.ready_nodes() >= machines && view.pods().running == machines,
        );
        let object = serde_json::from_value(workload(machines))?;
        tokio::try_join!(self.cluster.apply(object, Some(&self.namespace)), watching)?;
        let (Some(ready), Some(running)) = (ready, running) else {
            anyhow::bail!(
                "not {machines} machines with a pod each after {LAUNCH_TIMEOUT:?}\n{}",
                self.cluster.dump().await
            );
        };
        let usage = self.controller.usage()?;
        let requests = self.requests().await?;
        let launches = requests
            .iter()
            .filter(|request| request.is_launch())
            .map(|request| Ok(seconds(began, request.arrived()?)))
            .collect::<Result<Vec<f64>>>()?;
        let instances = self.cloud.instances().await?;
        let alive = instances.iter().filter(|i| i.state == "running");
        Ok(Launch {
            pods: machines,
            seconds_to_first_create_fleet: launches.iter().copied().fold(f64::INFINITY, f64::min),
            seconds_to_last_create_fleet: launches.iter().copied().fold(0.0, f64::max),
            seconds_to_all_nodes_ready: ready.as_secs_f64(),
            seconds_to_all_pods_running: running.as_secs_f64(),
            calls: Calls::of(&requests),
            instances: alive.clone().count(),
            price_per_hour: alive.filter_map(|i| i.price_per_hour).sum(),
            cpu_seconds: usage.cpu_seconds - before.cpu_seconds,
            rss_peak_mb: megabytes(usage.rss_peak_mib),
        })
    }

    async fn latencies(&mut self, pods: usize) -> Result<Latencies> {
        let mut runs_ms = Vec::new();
        for number in 1..=pods {
            self.watch_for(QUIET).await?;
            self.requests().await?;
            let mut seen = None;
            let controller = &mut self.controller;
            let watching = self.observer.until(
                Instant::now() + LAUNCH_TIMEOUT,
                |view| {
                    if view.pods().pending > 0 {
                        seen.get_or_insert_with(Timestamp::now);
                    }
                    controller.ensure_running()
                },
                |view| view.pods().running == number && View::every_claim_has_its_node(view),
            );
            let object = serde_json::from_value(workload(number))?;
            let (_, running) = tokio::try_join!(self.cluster.apply(object, Some(&self.namespace)), watching)?;
            ensure!(
                running.is_some(),
                "pod {number} does not run after {LAUNCH_TIMEOUT:?}\n{}",
                self.cluster.dump().await
            );
            let requests = self.requests().await?;
            let launch = requests
                .iter()
                .find(|request| request.is_launch())
                .context("a pod got a machine that nobody asked for")?;
            let pending = seen.context("a pod ran that was never pending")?;
            let ms = seconds(pending, launch.arrived()?) * 1000.0;
            eprintln!("  pod {number:3}: {ms:7.1} ms");
            runs_ms.push(ms);
        }
        Latencies::of(runs_ms)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !self.finished {
            eprintln!("the logs are in {}", self.testbed.keep_logs().display());
        }
    }
}

async fn spawn(choice: Choice, testbed: &Testbed, cluster: &Cluster, cloud: &Cloud) -> Result<Controller> {
    match choice {
        Choice::Upstream => upstream::spawn_upstream_aws(testbed, cloud).await,
        Choice::Plimsoll => {
            cluster.apply_directory(&paths::crds()).await?;
            let environment = cloud.controller_environment();
            let mut environment: Vec<(&str, &str)> =
                environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
            environment.push(("DISABLE_LEADER_ELECTION", "true"));
            Controller::spawn(
                testbed.kubeconfig(),
                &testbed.logs(),
                "plimsoll",
                Some("aws"),
                &environment,
            )
        }
    }
}

/// It takes no machine away, so that what is measured is how machines are bought.
fn node_pool() -> Value {
    let mut pool = objects::aws_node_pool("default");
    pool["spec"]["disruption"]["consolidateAfter"] = "Never".into();
    pool
}

/// Pods of which no two share a machine.
fn workload(pods: usize) -> Value {
    let mut deployment = objects::deployment(APP, pods, CPU);
    deployment["spec"]["template"]["spec"]["affinity"] = objects::one_per_machine(APP);
    deployment
}

fn megabytes(mib: f64) -> f64 {
    mib * 1.048_576
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}
