//! Bound ≤ exact optimum ≤ plan, on thousands of small problems, and nothing for the judge to find.

use std::{fmt::Write as _, sync::LazyLock};

use plimsoll_bench::{exact, problems::small};
use plimsoll_core::{
    lint::lint,
    problem::Problem,
    provision::provision,
    snapshot::{Place, PodId},
    verify::{forgotten, reprice, verify},
};

/// Seeds looked at. Half of the problems they give constrain pods by each other.
const SEEDS: u64 = 10_000;

/// What can be wrong with the plan for one seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// The judge, the lint or the certificate's checker objects to the plan.
    Broken,
    /// Not bound ≤ optimum ≤ price.
    Order,
    /// All pods could be placed, and the plan leaves some out.
    Fewer,
}

type Failure = (Wrong, String);

/// Checks one seed; returns plan and optimum in micro-dollars.
fn check(seed: u64) -> Result<(i64, i64), Failure> {
    let broken = |text: String| (Wrong::Broken, text);
    let text = small(seed).to_string();
    let problem = Problem::read(&text).map_err(|error| broken(error.to_string()))?;
    let snapshot = problem.snapshot();
    let catalog = &problem.catalog;
    let (plan, report) = provision(&snapshot, catalog, &problem.policy);
    let verdict = verify(&snapshot, catalog, &plan);
    if let Some(violation) = verdict.violations.first() {
        return Err(broken(format!("violates {violation:?}")));
    }
    let findings = lint(&snapshot, catalog, &plan);
    if let Some(finding) = findings.first() {
        return Err(broken(format!("lint: {finding}")));
    }
    if !forgotten(&verdict, &report).is_empty() {
        return Err(broken("a pod is neither placed nor explained".to_owned()));
    }
    match reprice(&snapshot, catalog, &plan) {
        Ok(proven) if proven >= plan.lower_bound => {}
        Ok(proven) => {
            return Err(broken(format!(
                "proves only {proven:?} of {:?}",
                plan.lower_bound
            )));
        }
        Err(error) => return Err(broken(format!("certificate: {error}"))),
    }
    let pending: Vec<PodId> = (0..snapshot.pods.len() as u32)
        .map(PodId)
        .filter(|id| snapshot.pods[id.0 as usize].place == Place::Pending)
        .collect();
    let placed: Vec<PodId> = pending
        .iter()
        .copied()
        .filter(|id| !verdict.unplaced.contains(id))
        .collect();
    if placed.len() < pending.len() && exact::optimum(&snapshot, catalog, &pending).is_some() {
        let text = format!("places {} of {} pods, all could be", placed.len(), pending.len());
        return Err((Wrong::Fewer, text));
    }
    let order = |text: String| (Wrong::Order, text);
    let Some(best) = exact::optimum(&snapshot, catalog, &placed) else {
        return Err(order(
            "the exact solver cannot place what the plan places".to_owned(),
        ));
    };
    let (price, best) = (plan.launch_price.0, best.launch_price.0);
    if plan.lower_bound.0 > best {
        let text = format!("bound {} is above the optimum {best}", plan.lower_bound.0);
        return Err(order(text));
    }
    if best > price {
        return Err(order(format!("the plan's {price} is below the optimum {best}")));
    }
    Ok((price, best))
}

/// By seed; computed once for all tests.
static RESULTS: LazyLock<Vec<Result<(i64, i64), Failure>>> = LazyLock::new(|| {
    let run = |range: std::ops::Range<u64>| range.map(check).collect::<Vec<_>>();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| run(SEEDS / 2..SEEDS));
        let mut all = run(0..SEEDS / 2);
        all.extend(second.join().expect("a panic of the other half is this one's"));
        all
    })
});

fn assert_none(kind: Wrong) {
    let mut text = String::new();
    for (seed, result) in RESULTS.iter().enumerate() {
        if let Err((wrong, why)) = result
            && *wrong == kind
        {
            writeln!(text, "seed {seed}: {why}").expect("a String takes any text");
        }
    }
    assert!(text.is_empty(), "{} seeds fail:\n{text}", text.lines().count());
}

#[test]
fn no_plan_breaks_a_rule() {
    assert_none(Wrong::Broken);
}

#[test]
fn the_bound_is_below_the_optimum_and_the_plan_above() {
    assert_none(Wrong::Order);
}

#[test]
fn what_can_be_placed_is_placed() {
    assert_none(Wrong::Fewer);
}

#[test]
fn the_median_plan_is_within_a_percent_of_the_optimum() {
    let priced = RESULTS.iter().flatten().filter(|(_, best)| *best > 0);
    let mut above: Vec<f64> = priced
        .map(|(price, best)| (*price as f64 / *best as f64 - 1.0) * 100.0)
        .collect();
    above.sort_by(f64::total_cmp);
    let of = |share: usize| above[above.len() * share / 100];
    println!(
        "{} problems: above the optimum by {:.3} % in the median, {:.3} % at 90 %, {:.3} % at 99 %, {:.3} % at most",
        above.len(),
        of(50),
        of(90),
        of(99),
        above[above.len() - 1]
    );
    assert!(of(50) <= 1.0, "the median plan is {} % above the optimum", of(50));
}

#[test]
fn the_same_problem_gives_the_same_bytes() {
    for seed in 0..50 {
        let problem = Problem::read(&small(seed).to_string()).unwrap();
        let once = provision(&problem.snapshot(), &problem.catalog, &problem.policy);
        let again = provision(&problem.snapshot(), &problem.catalog, &problem.policy);
        assert_eq!(format!("{once:?}"), format!("{again:?}"), "seed {seed}");
    }
}
