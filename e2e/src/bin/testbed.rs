//! `hack/testbed`: a testbed that stays up between commands.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use plimsoll_e2e::testbed::{Options, RunningProcess, State, Testbed};
use plimsoll_e2e::{paths, process};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

const POLL: Duration = Duration::from_millis(50);
/// Ending everything takes well under a second; after this it is killed.
const DOWN_TIMEOUT: Duration = Duration::from_secs(20);
/// Longer than a first build of all programs on a slow machine.
const UP_TIMEOUT: Duration = Duration::from_hours(1);

/// A Kubernetes control plane on this machine, with simulated kubelets.
#[derive(Parser)]
#[command(name = "hack/testbed")]
struct Arguments {
    #[command(subcommand)]
    command: Action,
    /// Several testbeds can be up at once under different names.
    #[arg(long, global = true, default_value = "up", value_parser = name)]
    name: String,
}

#[derive(Subcommand)]
enum Action {
    /// Start it in the background and return when it is ready
    Up,
    /// End it and remove its data
    Down,
    /// Print shell commands that point kubectl at it: eval "$(hack/testbed env)"
    Env,
    /// Say what runs
    Status,
    /// Run in the foreground until SIGINT or SIGTERM
    #[command(hide = true)]
    Run,
}

fn name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if !text.is_empty() && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("use letters, digits and '-'".to_owned())
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Action::Up => up(&arguments.name).await,
        Action::Down => down(&arguments.name).await,
        Action::Env => env(&arguments.name),
        Action::Status => status(&arguments.name),
        Action::Run => run(&arguments.name).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("[testbed] {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn up(name: &str) -> Result<()> {
    let dir = directory(name)?;
    if let Some(state) = running(&dir)? {
        return say(&format!(
            "already up (pid {})\n{}",
            state.owner.pid,
            how_to_use(name, &state)
        ));
    }
    let begin = Instant::now();
    fs::create_dir_all(paths::runs()?)?;
    let log_file = log_file(name)?;
    let log = File::create(&log_file)?;
    let mut owner = Command::new(std::env::current_exe()?)
        .args(["run", "--name", name])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A group of its own, so that Ctrl-C in this terminal does not end it.
        .process_group(0)
        .spawn()?;
    let mut shown = 0;
    while begin.elapsed() < UP_TIMEOUT {
        let text = fs::read_to_string(&log_file)?;
        eprint!("{}", &text[shown..]);
        shown = text.len();
        if let Some(status) = owner.try_wait()? {
            bail!("the testbed did not start ({status})");
        }
        if let Some(state) = running(&dir)? {
            return say(&format!(
                "up in {:.1} s\n{}",
                begin.elapsed().as_secs_f64(),
                how_to_use(name, &state)
            ));
        }
        sleep(POLL).await;
    }
    owner.kill()?;
    bail!(
        "the testbed did not start in {UP_TIMEOUT:?}: {}",
        process::log_tail(&log_file, 20)
    );
}

async fn run(name: &str) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let stopped = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    };
    let lives = async {
        let mut testbed = Testbed::start(Options {
            dir: Some(directory(name)?),
        })
        .await?;
        loop {
            if let Err(error) = testbed.ensure_running() {
                return Err(error.context(format!("logs: {}", testbed.keep_logs().display())));
            }
            sleep(Duration::from_secs(1)).await;
        }
    };
    // Whichever way this ends, `testbed` is dropped with it and takes its processes along.
    tokio::select! {
        () = stopped => Ok(()),
        failure = lives => failure,
    }
}

async fn down(name: &str) -> Result<()> {
    let dir = directory(name)?;
    let Some(state) = State::read(&dir)? else {
        return say("not up");
    };
    send(&state.owner, Signal::TERM)?;
    let deadline = Instant::now() + DOWN_TIMEOUT;
    while alive(&state).next().is_some() {
        if Instant::now() >= deadline {
            for process in alive(&state) {
                eprintln!(
                    "[testbed] {} (pid {}) does not end by itself and is killed",
                    process.name, process.pid
                );
                send(process, Signal::KILL)?;
            }
        }
        sleep(POLL).await;
    }
    if dir.exists() {
        // Its owner did not live to do it.
        fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    let log = log_file(name)?;
    if log.exists() {
        fs::remove_file(log)?;
    }
    say("down")
}

fn env(name: &str) -> Result<()> {
    let state = running(&directory(name)?)?.with_context(|| not_up(name))?;
    write_out(&format!(
        "export KUBECONFIG='{}'\nexport PATH='{}':\"$PATH\"\n",
        state.kubeconfig.display(),
        state.tools.display()
    ))
}

fn status(name: &str) -> Result<()> {
    let dir = directory(name)?;
    let state = running(&dir)?.with_context(|| not_up(name))?;
    for process in &state.processes {
        let word = if process.runs() { "running" } else { "ENDED" };
        say(&format!("{word:8} {:24} pid {}", process.name, process.pid))?;
    }
    say(&format!(
        "run directory: {}\n{}",
        dir.display(),
        how_to_use(name, &state)
    ))
}

fn not_up(name: &str) -> String {
    format!("not up: hack/testbed up{}", option(name))
}

fn option(name: &str) -> String {
    if name == "up" {
        String::new()
    } else {
        format!(" --name {name}")
    }
}

fn how_to_use(name: &str, state: &State) -> String {
    let option = option(name);
    format!(
        "  eval \"$(hack/testbed env{option})\"   # KUBECONFIG={}\n  kubectl get nodes\n  hack/testbed down{option}",
        state.kubeconfig.display()
    )
}

fn directory(name: &str) -> Result<PathBuf> {
    Ok(paths::runs()?.join(format!("named-{name}")))
}

/// Beside the run directory, which does not exist while programs are being built.
fn log_file(name: &str) -> Result<PathBuf> {
    Ok(directory(name)?.with_extension("log"))
}

/// The state of a testbed whose owner lives.
fn running(dir: &Path) -> Result<Option<State>> {
    Ok(State::read(dir)?.filter(|state| state.owner.runs()))
}

fn alive(state: &State) -> impl Iterator<Item = &RunningProcess> {
    std::iter::once(&state.owner)
        .chain(&state.processes)
        .filter(|process| process.runs())
}

fn send(process: &RunningProcess, signal: Signal) -> Result<()> {
    // Only to the process that was recorded, never to another that has its number now.
    if process.runs() {
        process::signal(process.pid, signal)
            .with_context(|| format!("ending {} (pid {})", process.name, process.pid))?;
    }
    Ok(())
}

fn say(text: &str) -> Result<()> {
    write_out(&format!("{text}\n"))
}

fn write_out(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}
