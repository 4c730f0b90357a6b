//! A controller under test as a process of its own, so that it can be killed like one.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube::Client;
use kube::client::Body;
use tokio::time::{Instant, sleep};

use crate::metrics::Metrics;
use crate::process::{Process, Usage};
use crate::{paths, ports};

/// Names the binary to test; without it `cargo build --release` has to have made one.
pub const BINARY_VARIABLE: &str = "PLIMSOLL_BIN";

const POLL: Duration = Duration::from_millis(20);

/// A running controller. Dropping it kills it.
#[derive(Debug)]
pub struct Controller {
    process: Process,
    metrics_port: u16,
    health_port: u16,
}

impl Controller {
    /// Starts `plimsoll controller` for the cluster of `kubeconfig`, with a provider unless the environment of the test
    /// names it. The log is `<logs>/<name>.log`; a second start under the same name appends to it.
    pub fn spawn(
        kubeconfig: &Path,
        logs: &Path,
        name: &str,
        provider: Option<&str>,
        envs: &[(&str, &str)],
    ) -> Result<Self> {
        let flag = provider.into_iter().flat_map(|provider| ["--provider", provider]);
        let args = ["controller"]
            .into_iter()
            .chain(flag)
            .map(str::to_owned)
            .collect();
        Self::spawn_program(&binary()?, kubeconfig, logs, name, args, envs)
    }

    /// Starts another program that understands the same environment.
    pub(crate) fn spawn_program(
        program: &Path,
        kubeconfig: &Path,
        logs: &Path,
        name: &str,
        args: Vec<String>,
        envs: &[(&str, &str)],
    ) -> Result<Self> {
        let metrics_port = ports::free()?;
        let health_port = ports::free()?;
        let mut environment: Vec<(String, OsString)> = vec![
            ("KUBECONFIG".to_owned(), kubeconfig.into()),
            ("METRICS_PORT".to_owned(), metrics_port.to_string().into()),
            ("HEALTH_PROBE_PORT".to_owned(), health_port.to_string().into()),
            ("LEADER_ELECTION_NAMESPACE".to_owned(), "kube-system".into()),
            // As in the image, see hack/image.
            ("MALLOC_ARENA_MAX".to_owned(), "2".into()),
            // What nearly every test is about. One that observes says so.
            ("MODE".to_owned(), "automate".into()),
        ];
        environment.extend(
            envs.iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).into())),
        );
        std::fs::create_dir_all(logs)?;
        let process = Process::spawn(
            name,
            program,
            args,
            environment,
            &logs.join(format!("{name}.log")),
        )?;
        Ok(Self {
            process,
            metrics_port,
            health_port,
        })
    }

    /// Waits until `/readyz` answers, or fails when the controller ends or time is up.
    pub async fn wait_ready(&mut self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        while let Err(error) = get(self.health_port, "/readyz").await {
            self.process.ensure_running()?;
            if Instant::now() >= deadline {
                let tail = self.process.log_tail(20);
                bail!(
                    "{} is not ready after {within:?} ({error:#}); the end of its log:\n{tail}",
                    self.process.name()
                );
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// What `/readyz` says now, whatever its status.
    pub async fn readiness(&self) -> Result<Answer> {
        send(self.health_port, http::Method::GET, "/readyz", "").await
    }

    /// Asks for another log filter while it runs.
    pub async fn set_log_level(&self, filter: &str) -> Result<Answer> {
        send(self.metrics_port, http::Method::PUT, "/log-level", filter).await
    }

    /// Whether it says that it leads.
    pub async fn leads(&self) -> Result<bool> {
        let metrics = self.metrics().await?;
        Ok(metrics
            .sum("leader_election_master_status", &[])
            .is_some_and(|status| status > 0.0))
    }

    /// Waits until it leads, or fails when it ends or time is up.
    pub async fn wait_leading(&mut self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        loop {
            self.process.ensure_running()?;
            if self.leads().await.is_ok_and(|leads| leads) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{} does not lead after {within:?}; the end of its log:\n{}",
                self.process.name(),
                self.process.log_tail(20)
            );
            sleep(POLL).await;
        }
    }

    /// Waits until it ends by itself.
    pub async fn wait_ended(&mut self, within: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.process.exited()? {
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "{} still runs after {within:?}; the end of its log:\n{}",
                self.process.name(),
                self.process.log_tail(20)
            );
            sleep(POLL).await;
        }
    }

    /// The metrics page as it is now.
    pub async fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics::parse(&self.metrics_page().await?))
    }

    /// The text of the metrics page.
    pub async fn metrics_page(&self) -> Result<String> {
        get(self.metrics_port, "/metrics").await
    }

    /// Memory and processor time so far.
    pub fn usage(&self) -> Result<Usage> {
        self.process.usage()
    }

    /// SIGKILL, as when a machine is lost: no lease is released, nothing is finished.
    pub fn kill(mut self) -> Result<ExitStatus> {
        self.process.kill()
    }

    /// SIGTERM, as when a pod is deleted; fails if the controller takes longer than `grace`.
    pub async fn terminate(mut self, grace: Duration) -> Result<ExitStatus> {
        let begin = Instant::now();
        let status = self.process.terminate(grace).await?;
        ensure!(
            begin.elapsed() < grace,
            "the controller did not end within {grace:?} of SIGTERM and was killed"
        );
        Ok(status)
    }

    /// An error with the end of the log if it has ended by itself.
    pub fn ensure_running(&mut self) -> Result<()> {
        self.process.ensure_running()
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn log(&self) -> &Path {
        self.process.log()
    }

    pub fn log_tail(&self, lines: usize) -> String {
        self.process.log_tail(lines)
    }
}

/// The `plimsoll` binary under test.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os(BINARY_VARIABLE).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        ensure!(
            path.is_file(),
            "{BINARY_VARIABLE}: {} is not a file",
            path.display()
        );
        return Ok(path);
    }
    let path = paths::cargo_target()?.join("release").join("plimsoll");
    ensure!(
        path.is_file(),
        "{} is not there: build it with `cargo build --release`, or name another in {BINARY_VARIABLE}",
        path.display()
    );
    Ok(path)
}

/// What an HTTP server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// GET on a port of the loopback address; an error unless the answer is 200.
async fn get(port: u16, path: &str) -> Result<String> {
    let answer = send(port, http::Method::GET, path, "").await?;
    ensure!(
        answer.status == 200,
        "GET http://127.0.0.1:{port}{path}: {} {}",
        answer.status,
        answer.body
    );
    Ok(answer.body)
}

/// One request to a port of the loopback address, without TLS.
pub(crate) async fn send(port: u16, method: http::Method, path: &str, body: &str) -> Result<Answer> {
    let request = http::Request::builder().method(method).uri(path);
    send_request(port, request.body(body.to_owned())?).await
}

/// The same for a request with headers.
pub(crate) async fn send_request(port: u16, request: http::Request<String>) -> Result<Answer> {
    let mut config = kube::Config::new(format!("http://127.0.0.1:{port}").parse()?);
    config.default_retry = false;
    let client = Client::try_from(config)?;
    let what = format!("{} http://127.0.0.1:{port}{}", request.method(), request.uri());
    let what = || what.clone();
    let request = request.map(|body| Body::from(body.into_bytes()));
    let response = client.send(request).await.with_context(what)?;
    let status = response.status().as_u16();
    let body = response.into_body().collect_bytes().await.with_context(what)?;
    Ok(Answer {
        status,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}
