//! LocalStack in host mode: an endpoint that is not of our making, for what it has of EC2, IAM, STS, SQS, SSM and events.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http::Method;
use serde::Deserialize;
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
        let seeded = seed(&seeder, &format!("http://{address}"))?;
        Ok(Self { process, seeded })
    }

    /// What is seeded.
    pub fn seeded(&self) -> &Seeded {
        &self.seeded
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

fn seed(python: &Path, endpoint: &str) -> Result<Seeded> {
    let output = Command::new(python)
        .args(["-m", "plimsoll_cloud.elsewhere", "--endpoint", endpoint])
        .env("PYTHONPATH", cloud::package())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .context("seeding LocalStack")?;
    ensure!(
        output.status.success(),
        "seeding LocalStack: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).context("seeding LocalStack: no line of what is seeded")
}
