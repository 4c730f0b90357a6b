//! Runs our planner on a problem and judges what comes out.

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Instant};

use anyhow::{Context, Result, bail};
use plimsoll_core::{
    lint::lint,
    plan::Plan,
    policy::Policy,
    problem::Problem,
    provision::provision,
    report::Report,
    snapshot::Snapshot,
    verify::{Verdict, forgotten, reprice, verify},
};
use serde::{Deserialize, Serialize};

/// One plan as the judge sees it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Outcome {
    pub pods: usize,
    pub placed: usize,
    pub preferences_kept: usize,
    pub preferences_total: usize,
    pub nodes: usize,
    /// Dollars per hour.
    pub price: f64,
    /// Broken rules and how often.
    pub violations: BTreeMap<String, usize>,
    /// The first of them in full.
    pub first_violation: Option<String>,
}

/// Our side of one problem.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Ours {
    pub outcome: Outcome,
    pub classes: usize,
    /// Seconds from plain pods to the first plan (no search steps), for each run.
    pub first_seconds: Vec<f64>,
    pub first_price: f64,
    /// The same to the final plan.
    pub seconds: Vec<f64>,
    /// Of these, grouping pods into classes, in the last run.
    pub classing_seconds: f64,
    pub steps: u64,
    pub lower_bound: f64,
    /// What the independent integer checker says of the bound's certificate.
    pub certificate: String,
    /// Findings of the plan lint, and pods neither placed nor explained.
    pub defects: Vec<String>,
    /// All runs gave the same plan.
    pub repeatable: bool,
    pub peak_bytes: u64,
}

/// Judges one plan.
pub fn judge(
    snapshot: &Snapshot,
    catalog: &plimsoll_core::catalog::Catalog,
    plan: &Plan,
) -> (Outcome, Verdict) {
    let verdict = verify(snapshot, catalog, plan);
    let mut violations = BTreeMap::new();
    for violation in &verdict.violations {
        *violations.entry(format!("{:?}", violation.rule)).or_default() += 1;
    }
    let outcome = Outcome {
        pods: verdict.wanted,
        placed: verdict.placed,
        preferences_kept: verdict.preferences_kept,
        preferences_total: verdict.preferences_total,
        nodes: plan.launches.len(),
        price: plan.launch_price.dollars(),
        violations,
        first_violation: verdict
            .violations
            .first()
            .map(|violation| format!("{violation:?}")),
    };
    (outcome, verdict)
}

/// One timed pass, from plain pods on.
fn pass(problem: &Problem, policy: &Policy) -> (f64, f64, Snapshot, Plan, Report) {
    let start = Instant::now();
    let snapshot = problem.snapshot();
    let classing = start.elapsed().as_secs_f64();
    let (plan, report) = provision(&snapshot, &problem.catalog, policy);
    (start.elapsed().as_secs_f64(), classing, snapshot, plan, report)
}

/// Solves the file in this process, at most `runs` times and for about a minute. `steps` replaces the policy's.
pub fn solve(path: &Path, runs: usize, steps: Option<u64>) -> Result<Ours> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let problem = Problem::read(&text).with_context(|| format!("reading {}", path.display()))?;
    drop(text);
    let first_policy = Policy {
        steps_max: 0,
        ..problem.policy.clone()
    };
    let policy = Policy {
        steps_max: steps.unwrap_or(problem.policy.steps_max),
        ..problem.policy.clone()
    };
    let mut ours = Ours {
        repeatable: true,
        ..Ours::default()
    };
    let started = Instant::now();
    let mut last = None;
    while ours.seconds.len() < runs && (started.elapsed().as_secs() < 60 || ours.seconds.is_empty()) {
        let (seconds, _, _, plan, _) = pass(&problem, &first_policy);
        ours.first_seconds.push(seconds);
        ours.first_price = plan.launch_price.dollars();
        let (seconds, classing, snapshot, plan, report) = pass(&problem, &policy);
        ours.seconds.push(seconds);
        ours.classing_seconds = classing;
        if let Some((_, before, _)) = &last {
            let before: &Plan = before;
            ours.repeatable &= format!("{before:?}") == format!("{plan:?}");
        }
        last = Some((snapshot, plan, report));
    }
    ours.peak_bytes = peak_bytes()?;
    let (snapshot, plan, report) = last.context("at least one run")?;
    let (outcome, verdict) = judge(&snapshot, &problem.catalog, &plan);
    ours.defects = lint(&snapshot, &problem.catalog, &plan)
        .iter()
        .take(5)
        .map(ToString::to_string)
        .collect();
    let lost = forgotten(&verdict, &report);
    if !lost.is_empty() {
        ours.defects
            .push(format!("{} pods are neither placed nor explained", lost.len()));
    }
    ours.certificate = match reprice(&snapshot, &problem.catalog, &plan) {
        Ok(_) => "reproduced".to_owned(),
        Err(error) => error.to_string(),
    };
    ours.outcome = outcome;
    ours.classes = snapshot.classes.len();
    ours.steps = plan.steps;
    ours.lower_bound = plan.lower_bound.dollars();
    Ok(ours)
}

/// Solves the file in a process of its own, so that its peak memory is its own.
pub fn solve_apart(path: &Path, runs: usize) -> Result<Ours> {
    let program = std::env::current_exe()?;
    let output = Command::new(&program)
        .arg("solve")
        .arg(path)
        .arg("--runs")
        .arg(runs.to_string())
        .output()?;
    if !output.status.success() {
        bail!(
            "{}: {}",
            path.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("reading the result of {}", path.display()))
}

/// The largest resident set this process had so far.
fn peak_bytes() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("no VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}
