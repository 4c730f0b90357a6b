//! `plimsoll apply`: a person carries out a Plan, with their own rights.

use std::{
    fs::OpenOptions,
    io::{IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};
use clap::ValueEnum;
use jiff::Timestamp;
use kube::{Api, Client};
use plimsoll_api::plan::{Plan, PlanSpec, Settings};
use plimsoll_core::policy::Policy;
use plimsoll_report::{
    advice::{Basis, GOOD_FOR, advise},
    approval::{check, plan_page},
};

use crate::{
    args::{ApplyOptions, MinValues, Planning, Preferences, Source},
    controller::{kubeconfig, policy, runtime},
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
    same_cluster(&cluster)?;
    if options.yes {
        return carry_out(&plan.commands);
    }
    if !agreed(&cluster)? {
        bail!("not carried out");
    }
    // Whoever was asked may have taken their time.
    carry_out(&remade(options)?.0.commands)
}

/// What the cluster wants now, and its address. It is what is carried out, not what is stored, and the two must be equal: whoever may write
/// Plans cannot have commands of theirs run by somebody else.
fn remade(options: &ApplyOptions) -> anyhow::Result<(PlanSpec, String)> {
    let (stored, cluster) = stored(options.plan.strip_prefix("plan/").unwrap_or(&options.plan))?;
    let read = source::read(&Source {
        from: None,
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

/// Fails unless kubectl speaks to the cluster that the Plan was read from.
fn same_cluster(cluster: &str) -> anyhow::Result<()> {
    let asked = Command::new("kubectl")
        .args([
            "config",
            "view",
            "--minify",
            "-o",
            "jsonpath={.clusters[0].cluster.server}",
        ])
        .output()
        .context("cannot run kubectl; the commands of a plan need it (--dry-run prints them)")?;
    let of_kubectl = String::from_utf8_lossy(&asked.stdout);
    let of_kubectl = of_kubectl.trim().trim_end_matches('/');
    if !of_kubectl.is_empty() && of_kubectl != cluster.trim_end_matches('/') {
        bail!(
            "the Plan is of {cluster}, but kubectl speaks to {of_kubectl}; set KUBECONFIG or the context for both"
        );
    }
    Ok(())
}

/// The Plan of this name, and the address of the cluster it is of.
fn stored(name: &str) -> anyhow::Result<(Plan, String)> {
    runtime()?.block_on(async {
        let config = kubeconfig().await?;
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

/// Runs the script from a file that only this user can read or change.
fn carry_out(commands: &str) -> anyhow::Result<()> {
    let script = Script::write(commands).context("cannot write the commands to a file")?;
    let status = Command::new("sh")
        .arg(script.path())
        .status()
        .context("cannot run sh")?;
    if !status.success() {
        bail!("stopped ({status}); what is done stays done, and the next Plan starts from there");
    }
    Ok(())
}

/// A file that goes away.
struct Script(PathBuf);

impl Script {
    fn write(text: &str) -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("plimsoll-apply-{}.sh", std::process::id()));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(text.as_bytes())?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
