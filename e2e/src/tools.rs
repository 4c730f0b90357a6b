//! The programs of the testbed, built from published Go modules into the cache directory.
//!
//! Each module is a `go.mod` with `tool` directives, or with a program of its own, and a `go.sum` in this crate. The built
//! programs live in `tools/<module>-<hash of these files and of the build's own settings>`, which appears complete or not
//! at all.

use std::fmt::Write;
use std::fs::{self, File, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::{Instant, sleep};

use crate::{paths, process};

/// One Go module of this crate and what is built from it.
#[derive(Debug)]
pub struct GoModule {
    name: &'static str,
    go_mod: &'static str,
    go_sum: &'static str,
    /// Name and text of the files of its own main package, where it has one.
    sources: &'static [(&'static str, &'static str)],
    /// Name of the built program and its package.
    programs: &'static [(&'static str, &'static str)],
    /// How long a first build takes, told to the person who waits.
    first_build: &'static str,
}

/// etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kubectl.
pub const CONTROL_PLANE: GoModule = GoModule {
    name: "controlplane",
    go_mod: include_str!("../controlplane/go.mod"),
    go_sum: include_str!("../controlplane/go.sum"),
    sources: &[],
    programs: &[
        ("etcd", "go.etcd.io/etcd/server/v3"),
        ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
        (
            "kube-controller-manager",
            "k8s.io/kubernetes/cmd/kube-controller-manager",
        ),
        ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
        ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    ],
    first_build: "about 10 minutes on 2 cores",
};

/// The simulated kubelets.
pub const KWOK: GoModule = GoModule {
    name: "kwok",
    go_mod: include_str!("../kwok/go.mod"),
    go_sum: include_str!("../kwok/go.sum"),
    sources: &[],
    programs: &[("kwok", "sigs.k8s.io/kwok/cmd/kwok")],
    first_build: "about 3 minutes on 2 cores",
};

/// helm, which renders and installs the chart.
pub const HELM: GoModule = GoModule {
    name: "helm",
    go_mod: include_str!("../helm/go.mod"),
    go_sum: include_str!("../helm/go.sum"),
    sources: &[],
    programs: &[("helm", "helm.sh/helm/v3/cmd/helm")],
    first_build: "about 3 minutes on 2 cores",
};

/// Karpenter's own controller with its kwok provider.
pub const UPSTREAM: GoModule = GoModule {
    name: "upstream",
    go_mod: include_str!("../upstream/go.mod"),
    go_sum: include_str!("../upstream/go.sum"),
    sources: &[],
    programs: &[("karpenter-kwok", "sigs.k8s.io/karpenter/kwok")],
    first_build: "about 4 minutes on 2 cores",
};

/// Karpenter's own controller for AWS.
pub const UPSTREAM_AWS: GoModule = GoModule {
    name: "upstream-aws",
    go_mod: include_str!("../upstream-aws/go.mod"),
    go_sum: include_str!("../upstream-aws/go.sum"),
    sources: &[],
    programs: &[(
        "karpenter-aws",
        "github.com/aws/karpenter-provider-aws/cmd/controller",
    )],
    first_build: "15 minutes on 2 cores that had other work, too; less if they have not",
};

/// Says whether Prometheus takes an expression.
pub const PROMQL: GoModule = GoModule {
    name: "promql",
    go_mod: include_str!("../promql/go.mod"),
    go_sum: include_str!("../promql/go.sum"),
    sources: &[("main.go", include_str!("../promql/main.go"))],
    programs: &[("promql-check", ".")],
    first_build: "half a minute on 2 cores",
};

/// How often a build that takes long says that it is alive.
const PROGRESS: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(50);

impl GoModule {
    /// The directory with the built programs; builds them if they are not there yet.
    pub async fn ensure(&self) -> Result<PathBuf> {
        let tools = paths::cache()?.join("tools");
        let place = tools.join(format!("{}-{:016x}", self.name, self.hash()?));
        if place.exists() {
            return Ok(place);
        }
        fs::create_dir_all(&tools)?;
        let _lock = lock(&tools.join(format!("{}.lock", self.name)), self.name).await?;
        if !place.exists() {
            self.build(&place)
                .await
                .with_context(|| format!("building the Go module {}", self.name))?;
        }
        Ok(place)
    }

    /// The directory of a dependency's source in Go's module cache.
    pub fn source_of(&self, dependency: &str) -> Result<PathBuf> {
        let source = paths::cache()?
            .join("tools")
            .join(format!("{}-{:016x}", self.name, self.hash()?))
            .join("src");
        let output = go(&source)
            .args(["list", "-m", "-f", "{{.Dir}}", dependency])
            .output()
            .context("cannot run go")?;
        ensure!(
            output.status.success(),
            "go list {dependency}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
    }

    async fn build(&self, place: &Path) -> Result<()> {
        let unfinished = place.with_extension("unfinished");
        if unfinished.exists() {
            // Left by a build that was killed; we hold the lock.
            fs::remove_dir_all(&unfinished)?;
        }
        let source = unfinished.join("src");
        fs::create_dir_all(&source)?;
        fs::write(source.join("go.mod"), self.go_mod)?;
        fs::write(source.join("go.sum"), self.go_sum)?;
        for (name, text) in self.sources {
            fs::write(source.join(name), text)?;
        }
        let log = place.with_extension("log");
        let begin = Instant::now();
        say(&format!(
            "building {} (once per machine; {} without Go's build cache)",
            self.name, self.first_build
        ));
        for (done, (program, package)) in self.programs.iter().enumerate() {
            let output = File::create(&log)?;
            let mut child = go(&source)
                .args(["build", "-v", "-trimpath", "-ldflags", &self.ldflags()?, "-o"])
                .arg(unfinished.join(program))
                .arg(package)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(output)
                .spawn()
                .context(
                    "cannot run go: the testbed is built with Go 1.26 or newer, which must be on PATH",
                )?;
            let mut next_word = Instant::now() + PROGRESS;
            let status = loop {
                if let Some(status) = child.try_wait()? {
                    break status;
                }
                if Instant::now() >= next_word {
                    next_word += PROGRESS;
                    let compiled = fs::read_to_string(&log).map_or(0, |text| text.lines().count());
                    say(&format!(
                        "building {program} ({} of {}): {compiled} packages compiled, {} s so far",
                        done + 1,
                        self.programs.len(),
                        begin.elapsed().as_secs(),
                    ));
                }
                sleep(POLL).await;
            };
            ensure!(
                status.success(),
                "go build {package}: {status}\n{}",
                process::log_tail(&log, 20)
            );
        }
        fs::rename(&unfinished, place)?;
        say(&format!("built {} in {} s", self.name, begin.elapsed().as_secs()));
        Ok(())
    }

    /// Stripped, and with the version that clients of the API server look at. Without the stamp they see v0.0.0.
    fn ldflags(&self) -> Result<String> {
        let mut flags = "-s -w".to_owned();
        if let Some(version) = self.version_of("k8s.io/kubernetes") {
            let mut numbers = version.trim_start_matches('v').split('.');
            let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
                bail!("k8s.io/kubernetes {version} in go.mod is not of the form v1.2.3");
            };
            for (variable, value) in [
                ("k8s.io/component-base/version.gitVersion", version),
                ("k8s.io/component-base/version.gitMajor", major),
                ("k8s.io/component-base/version.gitMinor", minor),
                ("k8s.io/client-go/pkg/version.gitVersion", version),
            ] {
                write!(flags, " -X {variable}={value}")?;
            }
        }
        Ok(flags)
    }

    /// The version of a module that go.mod requires.
    pub(crate) fn version_of(&self, module: &str) -> Option<&'static str> {
        self.go_mod.lines().find_map(|line| {
            let rest = line.trim().trim_start_matches("require ").strip_prefix(module)?;
            rest.strip_prefix(' ')?.split_whitespace().next()
        })
    }

    fn hash(&self) -> Result<u64> {
        let mut hasher = DefaultHasher::new();
        (self.go_mod, self.go_sum, self.programs, self.ldflags()?).hash(&mut hasher);
        for source in self.sources {
            source.hash(&mut hasher);
        }
        Ok(hasher.finish())
    }
}

fn go(source: &Path) -> Command {
    let mut command = Command::new("go");
    // The module is complete as committed: no workspace, no vendoring, no change to go.mod, no version control here.
    command
        .current_dir(source)
        .env("GOFLAGS", "-mod=readonly -buildvcs=false")
        .env("GOWORK", "off");
    command
}

/// Holds an exclusive lock on `file`; it is released when the returned file is closed, also by the death of the process.
pub(crate) async fn lock(file: &Path, what: &str) -> Result<File> {
    let lock = File::create(file)?;
    let mut told = false;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) => {
                if !told {
                    say(&format!("waiting for another process that builds {what}"));
                    told = true;
                }
                sleep(POLL).await;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).context(format!("locking {}", file.display()));
            }
        }
    }
}

pub(crate) fn say(text: &str) {
    eprintln!("[testbed] {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_stamp_is_the_one_in_go_mod() {
        let version = CONTROL_PLANE.version_of("k8s.io/kubernetes").unwrap();
        assert!(version.starts_with("v1."), "{version}");
        assert!(
            CONTROL_PLANE
                .ldflags()
                .unwrap()
                .contains(&format!("version.gitVersion={version}"))
        );
        assert_eq!(KWOK.version_of("k8s.io/kubernetes"), None);
    }

    #[test]
    fn modules_have_places_of_their_own() {
        assert_ne!(CONTROL_PLANE.hash().unwrap(), KWOK.hash().unwrap());
        assert_ne!(KWOK.hash().unwrap(), UPSTREAM.hash().unwrap());
        assert_ne!(UPSTREAM.hash().unwrap(), UPSTREAM_AWS.hash().unwrap());
    }
}
