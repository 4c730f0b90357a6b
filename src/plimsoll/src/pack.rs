//! `plimsoll pack`.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use plimsoll_core::{
    plan::Plan,
    policy::Policy,
    problem::{Problem, Timing, result_json},
    provision::provision,
    report::Report,
    verify::verify,
};
use plimsoll_report::plan_text;

use crate::args::PackOptions;

pub(crate) fn run(options: &PackOptions) -> anyhow::Result<()> {
    let path = options.problem.display();
    let text = std::fs::read_to_string(&options.problem).with_context(|| format!("cannot read {path}"))?;
    let mut problem = Problem::read(&text).with_context(|| format!("{path} is not a packing problem"))?;
    if let Some(steps) = options.steps {
        problem.policy.steps_max = steps;
    }
    let first = Policy {
        steps_max: 0,
        ..problem.policy.clone()
    };
    let (_, _, first_plan_took) = solve(&problem, &first);
    let (plan, report, took) = solve(&problem, &problem.policy);

    let snapshot = problem.snapshot();
    let verdict = verify(&snapshot, &problem.catalog, &plan);
    let mut out = std::io::stdout().lock();
    if options.json {
        let timing = Timing {
            seconds_first_plan: first_plan_took.as_secs_f64(),
            seconds: took.as_secs_f64(),
        };
        let result = result_json(&snapshot, &plan, &verdict, timing);
        writeln!(out, "{}", serde_json::to_string_pretty(&result)?)?;
    } else {
        write!(out, "{}", plan_text(&snapshot, &plan, &report))?;
        writeln!(
            out,
            "{} of {} pods placed on {} new machines, ${:.4}/h, at least ${:.4}/h; first plan {:.1} ms, whole {:.1} ms",
            verdict.placed,
            verdict.wanted,
            plan.launches.len(),
            plan.launch_price.dollars(),
            plan.lower_bound.dollars(),
            first_plan_took.as_secs_f64() * 1e3,
            took.as_secs_f64() * 1e3,
        )?;
    }
    if !verdict.violations.is_empty() {
        bail!(
            "the plan breaks {} rule(s), the first: {:?}",
            verdict.violations.len(),
            verdict.violations[0]
        );
    }
    Ok(())
}

/// Plans from plain pods; classing is part of the time.
fn solve(problem: &Problem, policy: &Policy) -> (Plan, Report, Duration) {
    let begun = Instant::now();
    let snapshot = problem.snapshot();
    let (plan, report) = provision(&snapshot, &problem.catalog, policy);
    (plan, report, begun.elapsed())
}
