//! Child processes that cannot outlive this one.
//!
//! Three things end a child: dropping its [`Process`], this program's exit, and this program's death by SIGKILL. The
//! last is the kernel's parent-death signal, set by `setpriv` (util-linux) before it becomes the child's program,
//! because setting it here would take an unsafe fork hook. The kernel sends that signal when the *thread* that
//! forked ends, so one thread that lives as long as this program forks every child.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

/// How often a child's end is looked for while waiting for it.
const POLL: Duration = Duration::from_millis(20);

type Spawn = (Command, mpsc::Sender<io::Result<Child>>);

/// The thread that forks every child and ends with the program.
static PARENT: LazyLock<mpsc::Sender<Spawn>> = LazyLock::new(|| {
    let (requests, inbox) = mpsc::channel::<Spawn>();
    std::thread::Builder::new()
        .name("parent-of-children".to_owned())
        .spawn(move || {
            for (mut command, reply) in inbox {
                // The asker waits for the reply, so it can only be gone if its thread died; then nobody owns the
                // child and it must not stay.
                if let Err(mpsc::SendError(Ok(mut orphan))) = reply.send(command.spawn()) {
                    let _ = orphan.kill();
                    let _ = orphan.wait();
                }
            }
        })
        .expect("a program that cannot start one thread cannot run a testbed");
    requests
});

/// A running child and its log file. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Process {
    name: String,
    start: Start,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

/// What a process was started with, so that it can be started again.
#[derive(Debug, Clone)]
struct Start {
    program: PathBuf,
    args: Vec<OsString>,
    envs: Vec<(String, OsString)>,
}

/// What a process has used so far, from `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// Resident set size now (VmRSS), in MiB.
    pub rss_mib: f64,
    /// Highest resident set size so far (VmHWM), in MiB.
    pub rss_peak_mib: f64,
    /// User and system time, in seconds.
    pub cpu_seconds: f64,
}

impl Process {
    /// Starts `program`; both output streams are appended to `log`.
    pub fn spawn(
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = impl Into<OsString>>,
        envs: impl IntoIterator<Item = (String, OsString)>,
        log: &Path,
    ) -> Result<Self> {
        ensure!(program.exists(), "{name}: {} does not exist", program.display());
        let start = Start {
            program: program.to_owned(),
            args: args.into_iter().map(Into::into).collect(),
            envs: envs.into_iter().collect(),
        };
        Ok(Self {
            name: name.to_owned(),
            child: start.fork(name, log)?,
            start,
            log: log.to_owned(),
            ended: None,
        })
    }

    /// Kills it if it still runs, and starts it again as it was started first.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.child = self.start.fork(&self.name, &self.log)?;
        self.ended = None;
        Ok(())
    }

    /// Stops it where it is: its connections stay open and nobody answers on them.
    pub fn pause(&self) -> Result<()> {
        Ok(signal(self.child.id(), Signal::STOP)?)
    }

    /// Lets it go on after [`Process::pause`].
    pub fn resume(&self) -> Result<()> {
        Ok(signal(self.child.id(), Signal::CONT)?)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its exit status once it has ended.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// An error with the end of the log if the process has ended by itself.
    pub fn ensure_running(&mut self) -> Result<()> {
        if let Some(status) = self.exited()? {
            anyhow::bail!(
                "{} ended by itself ({status}); the end of its log:\n{}",
                self.name,
                self.log_tail(20)
            );
        }
        Ok(())
    }

    /// SIGKILL, and wait for the end.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.exited()? {
            return Ok(status);
        }
        self.child.kill()?;
        let status = self.child.wait()?;
        self.ended = Some(status);
        Ok(status)
    }

    /// SIGTERM, then SIGKILL if it has not ended after `grace`.
    pub async fn terminate(&mut self, grace: Duration) -> Result<ExitStatus> {
        if self.exited()?.is_none() {
            signal(self.child.id(), Signal::TERM)?;
        }
        let deadline = Instant::now() + grace;
        while Instant::now() < deadline {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            sleep(POLL).await;
        }
        self.kill()
    }

    /// What it has used so far; an error once it has ended.
    pub fn usage(&self) -> Result<Usage> {
        usage(self.pid()).with_context(|| format!("{} (pid {})", self.name, self.pid()))
    }

    /// The last `lines` lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        log_tail(&self.log, lines)
    }
}

impl Start {
    fn fork(&self, name: &str, log: &Path) -> Result<Child> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("{name}: cannot write its log {}", log.display()))?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&self.program)
            .args(&self.args)
            .envs(self.envs.iter().cloned())
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            // A group of its own: Ctrl-C on the terminal reaches this program only, which then ends its children in order.
            .process_group(0);
        let (reply, answer) = mpsc::channel();
        PARENT
            .send((command, reply))
            .ok()
            .context("the thread that starts processes is gone")?;
        answer
            .recv()
            .context("the thread that starts processes is gone")?
            .with_context(|| format!("{name}: cannot run setpriv (package util-linux)"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!(
                "[testbed] {} (pid {}) could not be ended: {error:#}",
                self.name,
                self.pid()
            );
        }
    }
}

/// The last `lines` lines of a log file, or why it cannot be read.
pub fn log_tail(log: &Path, lines: usize) -> String {
    match fs::read(log) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("({}: {error})", log.display()),
    }
}

/// Clock ticks since boot at which process `pid` started, or `None` if it does not run. With it a recorded pid can be
/// told from a later process that was given the same number.
pub fn start_ticks(pid: u32) -> Option<u64> {
    // A zombie has ended; whose child it was has not asked yet.
    if stat_field(pid, 3).ok()? == "Z" {
        return None;
    }
    stat_field(pid, 22).ok().and_then(|field| field.parse().ok())
}

/// Sends a signal to a process of ours.
pub fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = Pid::from_raw(pid as i32).ok_or(io::ErrorKind::InvalidInput)?;
    kill_process(pid, signal).map_err(|errno| io::Error::from_raw_os_error(errno.raw_os_error()))
}

fn usage(pid: u32) -> Result<Usage> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mib = |field: &str| -> Result<f64> {
        let kib: f64 = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .and_then(|rest| rest.trim().strip_suffix("kB"))
            .with_context(|| format!("no {field} in /proc/PID/status: the process has ended"))?
            .trim()
            .parse()?;
        Ok(kib / 1024.0)
    };
    let user_ticks: f64 = stat_field(pid, 14)?.parse()?;
    let system_ticks: f64 = stat_field(pid, 15)?.parse()?;
    let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
    Ok(Usage {
        rss_mib: mib("VmRSS:")?,
        rss_peak_mib: mib("VmHWM:")?,
        cpu_seconds: (user_ticks + system_ticks) / ticks_per_second,
    })
}

/// Field `number` (from 1, as in proc_pid_stat(5)) of `/proc/PID/stat`. The second field is the program's name in
/// parentheses and may hold spaces, so counting starts after the last parenthesis.
fn stat_field(pid: u32, number: usize) -> Result<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat
        .rsplit_once(')')
        .context("unexpected form of /proc/PID/stat")?;
    let field = rest
        .split_whitespace()
        .nth(number - 3)
        .context("too few fields in /proc/PID/stat")?;
    Ok(field.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(log: &Path) -> Process {
        Process::spawn("sleeper", Path::new("/bin/sleep"), ["60"], [], log).unwrap()
    }

    #[test]
    fn dropping_ends_the_child() {
        let log = std::env::temp_dir().join(format!("plimsoll-process-{}.log", std::process::id()));
        let child = sleeper(&log);
        let pid = child.pid();
        assert!(start_ticks(pid).is_some());
        drop(child);
        assert_eq!(start_ticks(pid), None);
        fs::remove_file(log).unwrap();
    }

    #[tokio::test]
    async fn terminate_is_polite_first() {
        use std::os::unix::process::ExitStatusExt;
        let log = std::env::temp_dir().join(format!("plimsoll-terminate-{}.log", std::process::id()));
        let mut child = sleeper(&log);
        let status = child.terminate(Duration::from_secs(10)).await.unwrap();
        assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
        fs::remove_file(log).unwrap();
    }

    #[test]
    fn usage_of_ourselves_is_plausible() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.rss_peak_mib > 1.0, "{usage:?}");
    }
}
