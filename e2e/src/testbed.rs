//! A control plane of one's own: started in seconds, ended by pid, gone without a trace.
//!
//! Owns one run directory with the data, the credentials and the logs of one control plane.

mod files;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http::Request;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::process::{self, Process};
use crate::{paths, ports, tools};
use files::Files;

/// The context in our kubeconfig files; by this name a testbed is told from a cluster of somebody.
pub const CONTEXT: &str = "plimsoll-testbed";

/// Set to 1 to let tests run on a cluster that is not a testbed: they create and delete nodes there.
pub const ATTACH_VARIABLE: &str = "PLIMSOLL_E2E_ATTACH";

/// One part of the control plane takes a second or two on an idle machine; this is for a busy one.
const START_TIMEOUT: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(25);
/// A port can be taken by somebody else between choosing and binding it, so a failed start is tried again.
const ATTEMPTS: usize = 3;

/// How to start a testbed.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The run directory; by default one that carries this process's id.
    pub dir: Option<PathBuf>,
}

/// A running control plane. Dropping it ends its processes and removes its data; the logs stay if the thread panics.
#[derive(Debug)]
pub struct Testbed {
    kubeconfig: PathBuf,
    dir: PathBuf,
    /// In the order they were started; empty when attached to a cluster of somebody else.
    processes: Vec<Process>,
}

/// What `state.json` in the run directory says about a running testbed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// The process that owns the control plane; all others die with it.
    pub owner: RunningProcess,
    pub kubeconfig: PathBuf,
    /// The directory with kubectl.
    pub tools: PathBuf,
    pub processes: Vec<RunningProcess>,
}

/// A process as recorded: pid and start time together name it for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningProcess {
    pub name: String,
    pub pid: u32,
    pub start_ticks: u64,
}

impl RunningProcess {
    /// Records the process with this pid; `None` if there is none.
    pub fn of(name: &str, pid: u32) -> Option<Self> {
        Some(Self {
            name: name.to_owned(),
            pid,
            start_ticks: process::start_ticks(pid)?,
        })
    }

    /// Whether that very process still runs.
    pub fn runs(&self) -> bool {
        process::start_ticks(self.pid) == Some(self.start_ticks)
    }
}

impl State {
    /// The file in a run directory that holds the state.
    pub fn file(dir: &Path) -> PathBuf {
        dir.join("state.json")
    }

    /// Reads the state of a run directory; `None` if no testbed has finished starting there.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let file = Self::file(dir);
        match fs::read(&file) {
            Ok(bytes) => Ok(Some(
                serde_json::from_slice(&bytes).with_context(|| file.display().to_string())?,
            )),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(file.display().to_string()),
        }
    }
}

impl Testbed {
    /// The cluster `KUBECONFIG` names if it is set, else a control plane of our own.
    pub async fn from_env() -> Result<Self> {
        match env::var_os("KUBECONFIG").filter(|path| !path.is_empty()) {
            Some(_) => Self::attach(),
            None => Self::start(Options::default()).await,
        }
    }

    /// Uses the cluster `KUBECONFIG` names. A cluster that is not a testbed is refused unless `PLIMSOLL_E2E_ATTACH=1`,
    /// because tests create and delete nodes.
    pub fn attach() -> Result<Self> {
        let kubeconfig = env::var_os("KUBECONFIG").context("KUBECONFIG is not set")?;
        let kubeconfig = fs::canonicalize(&kubeconfig)
            .with_context(|| format!("KUBECONFIG: {}", Path::new(&kubeconfig).display()))?;
        let context = Kubeconfig::read_from(&kubeconfig)?
            .current_context
            .unwrap_or_default();
        let allowed = env::var(ATTACH_VARIABLE).is_ok_and(|value| value == "1");
        ensure!(
            context == CONTEXT || allowed,
            "KUBECONFIG points to the context {context:?}, which is not a testbed. Tests create and delete nodes: set \
             {ATTACH_VARIABLE}=1 if that cluster is meant for it, or unset KUBECONFIG to get a control plane of our own"
        );
        let dir = paths::runs()?.join(format!("{}-attached", std::process::id()));
        fs::create_dir_all(&dir)?;
        Ok(Self {
            kubeconfig,
            dir,
            processes: Vec::new(),
        })
    }

    /// Starts a control plane and waits until every part of it is ready.
    pub async fn start(options: Options) -> Result<Self> {
        let (control_plane, kwok) = (tools::CONTROL_PLANE.ensure().await?, tools::KWOK.ensure().await?);
        remove_leftovers()?;
        let dir = match options.dir {
            Some(dir) => dir,
            // A port is free for one owner only, so it makes the name unique within this process.
            None => paths::runs()?.join(format!("{}-{}", std::process::id(), ports::free()?)),
        };
        let mut attempt = 1;
        loop {
            match Self::start_once(&dir, &control_plane, &kwok).await {
                Err(error)
                    if attempt < ATTEMPTS && format!("{error:#}").contains("address already in use") =>
                {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn start_once(dir: &Path, control_plane: &Path, kwok: &Path) -> Result<Self> {
        let files = Files::write(dir)?;
        // From here on an error drops `testbed`, which ends what runs already.
        let mut testbed = Self {
            kubeconfig: files.admin_kubeconfig(),
            dir: dir.to_owned(),
            processes: Vec::new(),
        };
        let started = testbed.start_processes(&files, control_plane, kwok).await;
        if let Err(error) = started {
            // The data is of no use without its processes; the logs are.
            return Err(error.context(format!(
                "the testbed did not start; its logs are in {}",
                testbed.keep_logs().display()
            )));
        }
        testbed.record(control_plane)?;
        Ok(testbed)
    }

    async fn start_processes(&mut self, files: &Files, control_plane: &Path, kwok: &Path) -> Result<()> {
        let etcd = ports::free()?;
        let peer = ports::free()?;
        self.spawn(control_plane, "etcd", files.etcd_args(etcd, peer))?;
        self.spawn(control_plane, "kube-apiserver", files.apiserver_args(etcd))?;
        // /readyz also waits for RBAC's own objects, without which the others would be refused.
        self.wait_ready(files.client(files.apiserver_port())?, "kube-apiserver", "/readyz")
            .await?;

        let manager = ports::free()?;
        let scheduler = ports::free()?;
        let kubelets = ports::free()?;
        self.spawn(
            control_plane,
            "kube-controller-manager",
            files.controller_manager_args(manager),
        )?;
        self.spawn(control_plane, "kube-scheduler", files.scheduler_args(scheduler))?;
        self.spawn(kwok, "kwok", files.kwok_args(kubelets))?;
        self.wait_ready(files.client(manager)?, "kube-controller-manager", "/healthz")
            .await?;
        self.wait_ready(files.client(scheduler)?, "kube-scheduler", "/readyz")
            .await?;
        self.wait_ready(Files::plain_client(kubelets)?, "kwok", "/healthz")
            .await?;
        self.wait_ready(
            self.client().await?,
            "the namespace default",
            "/api/v1/namespaces/default/serviceaccounts/default",
        )
        .await
    }

    fn spawn(&mut self, tools: &Path, name: &str, args: Vec<String>) -> Result<()> {
        let log = self.dir.join("logs").join(format!("{name}.log"));
        let process = Process::spawn(name, &tools.join(name), args, self.environment(), &log)?;
        self.processes.push(process);
        Ok(())
    }

    fn environment(&self) -> Vec<(String, OsString)> {
        // kwok reads a configuration file from its work directory if there is one; this one has none of kwok's.
        vec![("KWOK_WORKDIR".to_owned(), self.dir.clone().into_os_string())]
    }

    /// Waits until GET `path` succeeds, or one of our processes ends by itself, or time is up.
    async fn wait_ready(&mut self, client: Client, what: &str, path: &str) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let Err(error) = get(&client, path).await else {
                return Ok(());
            };
            for process in &mut self.processes {
                process.ensure_running()?;
            }
            if Instant::now() >= deadline {
                let tails: Vec<String> = self
                    .processes
                    .iter()
                    .map(|p| format!("--- {}\n{}", p.name(), p.log_tail(10)))
                    .collect();
                bail!(
                    "{what} is not ready after {START_TIMEOUT:?} ({error:#}); the ends of the logs:\n{}",
                    tails.join("\n")
                );
            }
            sleep(POLL).await;
        }
    }

    fn record(&self, tools: &Path) -> Result<()> {
        let running =
            |name: &str, pid| RunningProcess::of(name, pid).with_context(|| format!("{name} has ended"));
        let state = State {
            owner: running("owner", std::process::id())?,
            kubeconfig: self.kubeconfig.clone(),
            tools: tools.to_owned(),
            processes: self
                .processes
                .iter()
                .map(|p| running(p.name(), p.pid()))
                .collect::<Result<_>>()?,
        };
        // Written aside and renamed, so that a reader sees all of it or nothing.
        let aside = self.dir.join("state.json.unfinished");
        fs::write(&aside, serde_json::to_vec_pretty(&state)?)?;
        fs::rename(aside, State::file(&self.dir))?;
        Ok(())
    }

    /// The kubeconfig of a cluster administrator.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The run directory: logs are in `logs/`, the audit log is `audit.log`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the processes of this testbed log, and where others that belong to it may.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// The audit log (JSON lines, metadata level). Its `stageTimestamp` has microseconds, unlike the API's own times.
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join("audit.log")
    }

    /// The processes of the control plane; empty when attached to a cluster of somebody else.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// A part of the control plane by name, to be stopped or started again; `None` when the control plane is somebody
    /// else's.
    pub fn process_mut(&mut self, name: &str) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.name() == name)
    }

    /// Waits until the API server answers that it is ready, after it was stopped.
    pub async fn wait_api_server(&self) -> Result<()> {
        let client = self.client().await?;
        let deadline = Instant::now() + START_TIMEOUT;
        while let Err(error) = get(&client, "/readyz").await {
            ensure!(
                Instant::now() < deadline,
                "the API server is not ready again after {START_TIMEOUT:?}: {error:#}"
            );
            sleep(POLL).await;
        }
        Ok(())
    }

    /// A client with an administrator's rights.
    pub async fn client(&self) -> Result<Client> {
        client(&self.kubeconfig).await
    }

    /// An error with the end of its log if a part of the control plane has ended.
    pub fn ensure_running(&mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(Process::ensure_running)
    }

    /// Ends all processes and removes the data, but keeps the logs; returns where they are.
    pub fn keep_logs(&mut self) -> PathBuf {
        self.end_processes();
        // Errors mean the data was not there.
        let _ = fs::remove_dir_all(self.dir.join("etcd"));
        let _ = fs::remove_file(State::file(&self.dir));
        let kept = self.logs();
        self.dir = PathBuf::new();
        kept
    }

    /// Last started, first ended: nobody complains about a lost API server.
    fn end_processes(&mut self) {
        while let Some(process) = self.processes.pop() {
            drop(process);
        }
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        self.end_processes();
        if self.dir.as_os_str().is_empty() {
            return;
        }
        if std::thread::panicking() {
            eprintln!("[testbed] the logs are in {}", self.keep_logs().display());
        } else if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("[testbed] {} could not be removed: {error}", self.dir.display());
        }
    }
}

/// A client for a kubeconfig file.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    let config = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

async fn get(client: &Client, path: &str) -> Result<String> {
    Ok(client.request_text(Request::get(path).body(Vec::new())?).await?)
}

/// Removes what killed runs have left: their data at once, their logs after a day.
fn remove_leftovers() -> Result<()> {
    const KEPT: Duration = Duration::from_hours(24);
    let runs = paths::runs()?;
    fs::create_dir_all(&runs)?;
    for entry in fs::read_dir(&runs)? {
        let dir = entry?.path();
        // Without a state it is still starting, or it failed and has removed its data itself.
        let state = State::read(&dir).ok().flatten();
        let killed = state.as_ref().is_some_and(|state| !state.owner.runs());
        let old = fs::metadata(&dir)
            .and_then(|data| data.modified())
            .is_ok_and(|changed| changed.elapsed().is_ok_and(|age| age > KEPT));
        let removed = match (old, killed, state) {
            (true, true, _) | (true, false, None) => fs::remove_dir_all(&dir),
            (false, true, _) => fs::remove_dir_all(dir.join("etcd")),
            (_, false, _) => Ok(()),
        };
        match removed {
            // Another process cleans up too.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            result => {
                result.with_context(|| format!("removing what is left of the run {}", dir.display()))?;
            }
        }
    }
    Ok(())
}
