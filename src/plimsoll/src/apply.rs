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
use plimsoll_api::plan::{Plan, Settings};
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

pub(crate) fn run(options: &ApplyOptions) -> anyhow::Result<()> {
    let (plan, cluster) = stored(options.plan.strip_prefix("plan/").unwrap_or(&options.plan))?;
    // What is carried out is not what is stored but what the cluster wants now, and the two must be equal: whoever may
    // write Plans cannot have commands of theirs run by somebody else.
    let read = source::read(&Source {
        from: None,
        prices: options.prices,
    })?;
    let basis = Basis::read(&read.index, &read.prices, read.taken);
    let remade = advise(&basis, &settings(&plan.spec.settings)?, GOOD_FOR);
    check(&plan, remade.as_ref(), Timestamp::now())?;
    let plan = remade.context("there is nothing to do")?;

    let mut out = std::io::stdout().lock();
    write!(out, "{}", plan_page(&plan))?;
    if options.dry_run {
        write!(out, "\n{}", plan.commands)?;
        return Ok(());
    }
    drop(out);
    if Command::new("kubectl")
        .arg("version")
        .arg("--client")
        .output()
        .is_err()
    {
        bail!("kubectl is not on the PATH; the commands of a plan need it (--dry-run prints them)");
    }
    if !(options.yes || agreed(&cluster)?) {
        bail!("not carried out");
    }
    carry_out(&plan.commands)
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
        steps: settings.steps.unsigned_abs(),
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
