//! LocalStack in host mode: an endpoint that is not of our making, for what it has of EC2, IAM, STS, SQS, SSM and events.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use crate::cloud::{self, Keys};
use crate::process::Process;
use crate::tools::say;
use crate::{controller, ports, python};

/// It imports for about ten seconds on an idle machine; this is for a busy one.
const START_TIMEOUT: Duration = Duration::from_mins(5);
const PROGRESS: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// A running LocalStack with a seeded account. Dropping it kills it.
#[derive(Debug)]
pub struct LocalStack {
    process: Process,
    seeded: Seeded,
    /// Of the environment that has a client.
    python: PathBuf,
}

/// An instance as LocalStack shows it.
#[derive(Debug, Clone, Deserialize)]
pub struct Instance {
    pub id: String,
    pub state: String,
    pub vpc: Option<String>,
    pub tags: BTreeMap<String, String>,
}

/// What is seeded; the names are those of [`cloud::Ready`].
#[derive(Debug, Clone, Deserialize)]
pub struct Seeded {
    pub endpoint: String,
    pub account: String,
    pub region: String,
    pub cluster: String,
    pub vpc: String,
    pub subnets: BTreeMap<String, String>,
    pub security_groups: Vec<String>,
    /// An AMI to launch from; LocalStack has no EKS parameters.
    pub image: String,
    pub node_role: String,
    pub node_role_arn: String,
    pub instance_profile: String,
    pub controller_role_arn: String,
    pub external_id: String,
    pub operator: Keys,
    pub queue: String,
    pub queue_url: String,
}

impl LocalStack {
    /// Starts it on a free port of the loopback address, waits until it answers, and seeds it. The log is
    /// `<logs>/localstack.log`, its files are in `<logs>/../localstack`.
    pub async fn start(logs: &Path) -> Result<Self> {
        let python = python::LOCALSTACK.ensure().await?;
        let seeder = python::CLOUD.ensure().await?;
        fs::create_dir_all(logs)?;
        let files = logs.with_file_name("localstack");
        fs::create_dir_all(&files)?;
        let port = ports::free()?;
        let address = format!("127.0.0.1:{port}");
        let environment: Vec<(String, OsString)> = [
            ("GATEWAY_LISTEN", address.as_str()),
            ("LOCALSTACK_HOST", address.as_str()),
            ("SERVICES", "ec2,iam,sts,sqs,ssm,events"),
            // Queue URLs with the address in their path; there is no DNS for the other forms.
            ("SQS_ENDPOINT_STRATEGY", "path"),
            ("DNS_ADDRESS", "0"),
            ("SKIP_SSL_CERT_DOWNLOAD", "1"),
            ("DISABLE_EVENTS", "1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.into()))
        .into_iter()
        .chain([("FILESYSTEM_ROOT".to_owned(), files.into_os_string())])
        .collect();
        let args = ["-m", "localstack.runtime.main"];
        let log = logs.join("localstack.log");
        let mut process = Process::spawn("localstack", &python, args, environment, &log)?;
        wait_ready(&mut process, port).await?;
        let seeded = elsewhere(&seeder, &format!("http://{address}"), &["seed"])?;
        Ok(Self {
            process,
            seeded,
            python: seeder,
        })
    }

    /// What is seeded.
    pub fn seeded(&self) -> &Seeded {
        &self.seeded
    }

    /// The environment of a controller that works through the role it is meant to assume. LocalStack has no EKS, so the
    /// cluster's endpoint is told; nobody joins it.
    pub fn controller_environment(&self) -> Vec<(&'static str, String)> {
        let seeded = &self.seeded;
        vec![
            ("AWS_ENDPOINT_URL", seeded.endpoint.clone()),
            ("AWS_REGION", seeded.region.clone()),
            ("AWS_ACCESS_KEY_ID", seeded.operator.access_key_id.clone()),
            ("AWS_SECRET_ACCESS_KEY", seeded.operator.secret_access_key.clone()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("CLUSTER_NAME", seeded.cluster.clone()),
            ("CLUSTER_ENDPOINT", "https://cluster.invalid".to_owned()),
            ("CLUSTER_CA_BUNDLE", "bm8gY2VydGlmaWNhdGU=".to_owned()),
            ("VPC_ID", seeded.vpc.clone()),
            ("ASSUME_ROLE_ARN", seeded.controller_role_arn.clone()),
            ("ASSUME_ROLE_EXTERNAL_ID", seeded.external_id.clone()),
            ("INTERRUPTION_QUEUE", seeded.queue.clone()),
        ]
    }

    /// All instances, also terminated.
    pub fn instances(&self) -> Result<Vec<Instance>> {
        elsewhere(&self.python, &self.seeded.endpoint, &["instances"])
    }

    /// Puts a spot interruption warning into the queue.
    pub fn interrupt(&self, instance: &str) -> Result<()> {
        elsewhere::<serde_json::Value>(&self.python, &self.seeded.endpoint, &["interrupt", instance])
            .map(drop)
    }

    /// Launches an instance with the cluster's tags for which there is no NodeClaim, and answers with its id.
    pub fn lose(&self) -> Result<String> {
        let subnet = self.seeded.subnets.values().next().context("no subnet")?;
        let command = ["lose", subnet, &self.seeded.image];
        elsewhere(&self.python, &self.seeded.endpoint, &command)
    }

    /// How many calls of an action, such as `sts.AssumeRole`, have been answered well, by its log.
    pub fn answered(&self, action: &str) -> usize {
        let line = format!("AWS {action} => 200");
        self.process.log_tail(usize::MAX).matches(&line).count()
    }

    /// An error with the end of its log if it has ended by itself.
    pub fn ensure_running(&mut self) -> Result<()> {
        self.process.ensure_running()
    }

    pub fn log_tail(&self, lines: usize) -> String {
        self.process.log_tail(lines)
    }
}

async fn wait_ready(process: &mut Process, port: u16) -> Result<()> {
    let begin = Instant::now();
    let mut next_word = begin + PROGRESS;
    loop {
        let answer = controller::send(port, Method::GET, "/_localstack/health", "").await;
        if answer.is_ok_and(|answer| answer.status == 200) {
            return Ok(());
        }
        process.ensure_running()?;
        if begin.elapsed() >= START_TIMEOUT {
            bail!(
                "LocalStack is not ready after {START_TIMEOUT:?}; the end of its log:\n{}",
                process.log_tail(20)
            );
        }
        if Instant::now() >= next_word {
            next_word += PROGRESS;
            say(&format!(
                "waiting for LocalStack, {} s so far",
                begin.elapsed().as_secs()
            ));
        }
        sleep(POLL).await;
    }
}

/// Runs one command of `plimsoll_cloud.elsewhere` and reads the line it prints.
fn elsewhere<T: DeserializeOwned>(python: &Path, endpoint: &str, command: &[&str]) -> Result<T> {
    let what = || format!("LocalStack: {}", command.join(" "));
    let output = Command::new(python)
        .args(["-m", "plimsoll_cloud.elsewhere", "--endpoint", endpoint])
        .args(command)
        .env("PYTHONPATH", cloud::package())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .with_context(what)?;
    ensure!(
        output.status.success(),
        "{}: {}",
        what(),
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).with_context(what)
}
