//! Python environments of the testbed, installed from lock files with hashes into the cache directory.
//!
//! They live beside the Go programs of [`crate::tools`] in `tools/<name>-<hash of lock file and interpreter>`, and appear
//! complete or not at all.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::{Instant, sleep};

use crate::tools::{lock, say};
use crate::{paths, process};

/// What an environment holds, and what it needs.
#[derive(Debug)]
pub struct Environment {
    name: &'static str,
    /// A requirements file in which every package has its version and its hashes.
    requirements: &'static str,
    /// The oldest minor version of Python 3 that will do.
    oldest_python: u32,
}

/// The AWS stand-in of this crate's `cloud/`.
pub const CLOUD: Environment = Environment {
    name: "cloud",
    requirements: include_str!("../cloud/requirements.lock"),
    oldest_python: 11,
};

/// LocalStack's community runtime, the last version that runs on the Python of a stable Debian.
pub const LOCALSTACK: Environment = Environment {
    name: "localstack",
    requirements: include_str!("../cloud/localstack/requirements.lock"),
    oldest_python: 11,
};

/// How often an installation that takes long says that it is alive.
const PROGRESS: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
/// What an interpreter is called on PATH; the first that is new enough is taken.
const INTERPRETERS: [&str; 5] = ["python3", "python3.14", "python3.13", "python3.12", "python3.11"];

impl Environment {
    /// The environment's interpreter; installs the environment if it is not there yet.
    pub async fn ensure(&self) -> Result<PathBuf> {
        let (interpreter, version) = self.interpreter()?;
        let tools = paths::cache()?.join("tools");
        let place = tools.join(format!("{}-{:016x}", self.name, self.hash(&version)));
        let python = place.join("bin").join("python");
        if place.exists() {
            return Ok(python);
        }
        fs::create_dir_all(&tools)?;
        let _lock = lock(&tools.join(format!("{}.lock", self.name)), self.name).await?;
        if !place.exists() {
            self.install(&interpreter, &place)
                .await
                .with_context(|| format!("installing the Python environment {}", self.name))?;
        }
        Ok(python)
    }

    async fn install(&self, interpreter: &Path, place: &Path) -> Result<()> {
        let unfinished = place.with_extension("unfinished");
        if unfinished.exists() {
            // Left by an installation that was killed; we hold the lock.
            fs::remove_dir_all(&unfinished)?;
        }
        let packages = self
            .requirements
            .lines()
            .filter(|line| line.contains("=="))
            .count();
        let begin = Instant::now();
        say(&format!(
            "installing the Python environment {} ({packages} packages, once per machine)",
            self.name
        ));
        let log = place.with_extension("log");
        self.run(
            Command::new(interpreter).args(["-m", "venv"]).arg(&unfinished),
            &log,
            begin,
        )
        .await?;
        let requirements = unfinished.join("requirements.lock");
        fs::write(&requirements, self.requirements)?;
        let mut pip = Command::new(unfinished.join("bin").join("python"));
        pip.args([
            "-m",
            "pip",
            "install",
            "--require-hashes",
            "--no-deps",
            "--no-input",
            "-r",
        ])
        .arg(&requirements)
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
        self.run(&mut pip, &log, begin).await?;
        fs::rename(&unfinished, place)?;
        say(&format!(
            "installed {} in {} s",
            self.name,
            begin.elapsed().as_secs()
        ));
        Ok(())
    }

    /// Runs one step to its end and says how far it is.
    async fn run(&self, command: &mut Command, log: &Path, begin: Instant) -> Result<()> {
        let output = File::create(log)?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        let mut next_word = Instant::now() + PROGRESS;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() >= next_word {
                next_word += PROGRESS;
                let text = fs::read_to_string(log).unwrap_or_default();
                let collected = text
                    .lines()
                    .filter(|line| line.starts_with("Collecting "))
                    .count();
                say(&format!(
                    "installing {}: {collected} packages fetched, {} s so far",
                    self.name,
                    begin.elapsed().as_secs()
                ));
            }
            sleep(POLL).await;
        };
        ensure!(status.success(), "{status}\n{}", process::log_tail(log, 20));
        Ok(())
    }

    /// An interpreter that is new enough, and its version.
    fn interpreter(&self) -> Result<(PathBuf, String)> {
        let script = "import sys; print(*sys.version_info[:2], sys.base_prefix)";
        for interpreter in INTERPRETERS.map(PathBuf::from) {
            let Ok(output) = Command::new(&interpreter).args(["-c", script]).output() else {
                continue;
            };
            let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            let minor = version
                .strip_prefix("3 ")
                .and_then(|rest| rest.split_whitespace().next()?.parse::<u32>().ok());
            if minor.is_some_and(|minor| minor >= self.oldest_python) {
                return Ok((interpreter, version));
            }
        }
        bail!(
            "the Python environment {} needs Python 3.{} or newer with its venv module, as one of {} on PATH",
            self.name,
            self.oldest_python,
            INTERPRETERS.join(", ")
        )
    }

    fn hash(&self, version: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.requirements, version).hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_locked_package_has_hashes() {
        for environment in [CLOUD, LOCALSTACK] {
            let lines: Vec<&str> = environment.requirements.lines().collect();
            let packages: Vec<usize> = (0..lines.len()).filter(|&i| lines[i].contains("==")).collect();
            assert!(packages.len() > 20, "{packages:?}");
            for line in packages {
                assert!(lines[line + 1].contains("--hash=sha256:"), "{}", lines[line]);
            }
        }
    }

    #[test]
    fn another_interpreter_gets_another_place() {
        assert_ne!(CLOUD.hash("3 11 /usr"), CLOUD.hash("3 12 /usr"));
    }
}
