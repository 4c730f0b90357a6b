//! `plimsoll apply`: a person carries out a Plan, with their own rights.

use std::{
    fs::OpenOptions,
    io::{IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, bail};
use clap::ValueEnum;
use jiff::Timestamp;
use kube::{Api, Client, Config as KubeConfig, config::KubeConfigOptions};
use plimsoll_api::plan::{Plan, PlanSpec, Settings};
use plimsoll_core::policy::Policy;
use plimsoll_report::{
    advice::{Basis, GOOD_FOR, advise},
    approval::{check, plan_page},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::{ApplyOptions, MinValues, Planning, Preferences, Source},
    controller::{policy, runtime},
    kubeconfig::kubeconfig,
    source,
};

/// Most search steps that a Plan may ask for: whoever wrote it need not be trusted.
const STEPS_MAX: u64 = 10_000_000;

pub(crate) fn run(options: &ApplyOptions) -> anyhow::Result<()> {
    let (plan, cluster) = remade(options)?;

    let mut out = std::io::stdout().lock();
    write!(out, "{}", plan_page(&plan))?;
    if options.dry_run {
        write!(out, "\n{}", plan.commands)?;
        return Ok(());
    }
    drop(out);
    let kubeconfig = pinned(&cluster, options.context.as_deref())?;
    if options.yes {
        return carry_out(&plan.commands, &kubeconfig);
    }
    if !agreed(&cluster)? {
        bail!("not carried out");
    }
    // Whoever was asked may have taken their time.
    let (plan, now) = remade(options)?;
    if now != cluster {
        bail!("you were asked about {cluster}, and the context is that of {now} by now; not carried out");
    }
    carry_out(&plan.commands, &kubeconfig)
}

/// What the cluster wants now, and its address. It is what is carried out, not what is stored, and the two must be equal:
/// whoever may write Plans cannot have commands of theirs run by somebody else.
fn remade(options: &ApplyOptions) -> anyhow::Result<(PlanSpec, String)> {
    let name = options.plan.strip_prefix("plan/").unwrap_or(&options.plan);
    let (stored, cluster) = stored(name, options.context.as_deref())?;
    let read = source::read(&Source {
        from: None,
        context: options.context.clone(),
        prices: options.prices,
    })?;
    let mut err = std::io::stderr().lock();
    for caveat in &read.caveats {
        writeln!(err, "note: {caveat}")?;
    }
    let basis = Basis::read(&read.index, &read.prices, read.taken);
    let remade = advise(&basis, &settings(&stored.spec.settings)?, GOOD_FOR);
    check(&stored, &basis, remade.as_ref(), Timestamp::now())?;
    Ok((remade.context("there is nothing to do")?, cluster))
}

/// kubectl's configuration for this cluster and no other: a context that somebody chooses meanwhile does not send the
/// commands elsewhere. Fails where kubectl speaks to another cluster.
fn pinned(cluster: &str, context: Option<&str>) -> anyhow::Result<String> {
    let current = KubeConfigOptions::default();
    let (config, of_kubectl) =
        if context.is_some() || runtime()?.block_on(KubeConfig::from_kubeconfig(&current)).is_ok() {
            kubectl_config(context)?
        } else {
            // In a pod both take the service account, kubectl where its configuration is empty.
            (String::new(), KubeConfig::incluster()?.cluster_url.to_string())
        };
    if of_kubectl.trim_end_matches('/') != cluster.trim_end_matches('/') {
        bail!(
            "the Plan is of {cluster}, but kubectl speaks to {of_kubectl}; set KUBECONFIG or the context for both"
        );
    }
    Ok(config)
}

/// This context of kubectl, or its current one, complete, and the address of its cluster.
fn kubectl_config(context: Option<&str>) -> anyhow::Result<(String, String)> {
    let asked = Command::new("kubectl")
        .args(["config", "view", "--minify", "--flatten", "--raw", "-o", "json"])
        .args(context.map(|name| format!("--context={name}")))
        .output()
        .context("cannot run kubectl; the commands of a plan need it (--dry-run prints them)")?;
    if !asked.status.success() {
        let why = String::from_utf8_lossy(&asked.stderr);
        bail!("kubectl does not say which cluster it speaks to: {}", why.trim());
    }
    let config: serde_json::Value =
        serde_json::from_slice(&asked.stdout).context("the output of kubectl config view")?;
    let server = config["clusters"][0]["cluster"]["server"].as_str();
    let server = server.context("the context of kubectl has no cluster")?;
    Ok((config.to_string(), server.to_owned()))
}

/// The Plan of this name, and the address of the cluster it is of.
fn stored(name: &str, context: Option<&str>) -> anyhow::Result<(Plan, String)> {
    runtime()?.block_on(async {
        let config = kubeconfig(context).await?;
        let cluster = config.cluster_url.to_string();
        let plans = Api::<Plan>::all(Client::try_from(config)?);
        let found = plans.get_opt(name).await.context("cannot read Plans")?;
        let plan = found.with_context(|| format!("there is no Plan {name}; see `kubectl get plans`"))?;
        Ok((plan, cluster))
    })
}

/// Those the Plan was made with.
fn settings(settings: &Settings) -> anyhow::Result<Policy> {
    let unknown =
        |what: String| anyhow::anyhow!("spec.settings: {what}; the Plan was made by another version");
    Ok(policy(&Planning {
        preference_policy: Preferences::from_str(&settings.preference_policy, false).map_err(unknown)?,
        min_values_policy: MinValues::from_str(&settings.min_values_policy, false).map_err(unknown)?,
        steps: settings.steps.unsigned_abs().min(STEPS_MAX),
        // Plans of mode advise buy nothing.
        disable_nomination: false,
    }))
}

fn agreed(cluster: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("nobody can be asked here; say --yes to carry it out");
    }
    let mut out = std::io::stdout().lock();
    write!(out, "\nCarry it out on {cluster}? Only yes will do: ")?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

/// Runs the script from a file that only this user can read or change, on the cluster of the kubeconfig. Signals are the
/// script's, which puts things in order; its files are there until it has.
fn carry_out(commands: &str, kubeconfig: &str) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let _within = runtime.enter();
    let [mut interrupt, mut terminate, mut hangup] = [
        signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?,
        signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?,
        signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?,
    ];
    let script = OwnFile::write("sh", commands).context("cannot write the commands to a file")?;
    let kubeconfig =
        OwnFile::write("kubeconfig", kubeconfig).context("cannot write kubectl's configuration to a file")?;
    let mut child = Command::new("sh")
        .arg(&script.0)
        .env("KUBECONFIG", &kubeconfig.0)
        .spawn()
        .context("cannot run sh")?;
    let pid = Pid::from_raw(child.id().cast_signed()).context("sh has no process id")?;
    let mut ended = tokio::task::spawn_blocking(move || child.wait());
    let status = runtime.block_on(async {
        loop {
            tokio::select! {
                status = &mut ended => return status,
                // The terminal has sent it to the script as well.
                _ = interrupt.recv() => {}
                _ = terminate.recv() => pass_on(pid, Signal::TERM),
                _ = hangup.recv() => pass_on(pid, Signal::HUP),
            }
        }
    });
    let status = status?.context("cannot wait for sh")?;
    if !status.success() {
        bail!("stopped ({status}); what is done stays done, and the next Plan starts from there");
    }
    Ok(())
}

fn pass_on(script: Pid, signal: Signal) {
    // One that has ended needs none, and where nobody reads any more nothing is to be said.
    let _ = kill_process(script, signal);
    let _ = writeln!(
        std::io::stderr(),
        "stopping once the command that runs now has ended"
    );
}

/// A file that only this user can read, and that goes away.
struct OwnFile(PathBuf);

impl OwnFile {
    fn write(extension: &str, text: &str) -> std::io::Result<Self> {
        let name = format!("plimsoll-apply-{}.{extension}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let own = Self(path);
        file.write_all(text.as_bytes())?;
        Ok(own)
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
