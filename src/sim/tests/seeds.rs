//! Many seeds of every scenario.
//!
//! `PLIMSOLL_SIM_SEED=n` runs that seed alone and shows what is left of its trace, `PLIMSOLL_SIM_SEEDS=n` runs
//! more or fewer of them, `PLIMSOLL_SIM_SCENARIO=name` one scenario.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use plimsoll_sim::{Outcome, Scenario, Stats, sim};

/// Seeds per scenario.
const SEEDS: u64 = 100;
/// Lines of trace shown for a failure among many; a seed that runs alone shows all it has kept.
const SHOWN: usize = 100;

fn explain(outcome: &Outcome, shown: usize) -> String {
    let from = outcome.tail.len().saturating_sub(shown);
    format!(
        "scenario {} seed {}: {:#?}\n{}\nrun it alone with PLIMSOLL_SIM_SEED={}",
        outcome.scenario,
        outcome.seed,
        outcome.violations,
        outcome.tail[from..].join("\n"),
        outcome.seed,
    )
}

/// Runs every (scenario, seed) on all cores.
fn run_all(scenarios: &[Scenario], seeds: &[u64]) -> Vec<Outcome> {
    let jobs: Vec<(&Scenario, u64)> = scenarios
        .iter()
        .flat_map(|s| seeds.iter().map(move |seed| (s, *seed)))
        .collect();
    let next = AtomicU64::new(0);
    let outcomes = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((scenario, seed)) = jobs.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let outcome = sim(*seed, scenario);
                    outcomes.lock().expect("a number").push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().expect("a number");
    outcomes.sort_by_key(|o| (o.scenario, o.seed));
    outcomes
}

#[test]
fn no_invariant_breaks_under_any_seed() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let alone = number("PLIMSOLL_SIM_SEED");
    let only = std::env::var("PLIMSOLL_SIM_SCENARIO").ok();
    let scenarios: Vec<Scenario> = Scenario::all()
        .into_iter()
        .filter(|s| only.as_ref().is_none_or(|name| s.name == name))
        .collect();
    let seeds: Vec<u64> = alone.map_or_else(
        || (0..number("PLIMSOLL_SIM_SEEDS").unwrap_or(SEEDS)).collect(),
        |seed| vec![seed],
    );
    let outcomes = run_all(&scenarios, &seeds);

    for scenario in &scenarios {
        let of = || outcomes.iter().filter(|o| o.scenario == scenario.name);
        let sum = |field: fn(&Stats) -> u64| of().map(|o| field(&o.stats)).sum::<u64>();
        println!(
            "{}: {} runs, {} failed; events {}, calls {}, plans {}, launches {}, evictions {}, emptied {}, crashes {}, vanished {}",
            scenario.name,
            of().count(),
            of().filter(|o| !o.violations.is_empty()).count(),
            sum(|s| s.events),
            sum(|s| s.calls),
            sum(|s| s.plans),
            sum(|s| s.launches),
            sum(|s| s.evictions),
            sum(|s| s.emptied),
            sum(|s| s.crashes),
            sum(|s| s.vanished),
        );
    }
    let failed: Vec<&Outcome> = outcomes.iter().filter(|o| !o.violations.is_empty()).collect();
    for outcome in &failed {
        println!(
            "{} seed {}: {}",
            outcome.scenario, outcome.seed, outcome.violations[0]
        );
    }
    if let Some(outcome) = failed.first() {
        panic!(
            "{}",
            explain(outcome, if alone.is_some() { usize::MAX } else { SHOWN })
        );
    }
    assert_eq!(outcomes.len(), scenarios.len() * seeds.len());
}

#[test]
fn a_seed_is_a_run() {
    for scenario in Scenario::all() {
        let (first, second, other) = (sim(7, &scenario), sim(7, &scenario), sim(8, &scenario));
        assert_eq!(
            first.hash, second.hash,
            "{}: two runs of one seed differ",
            scenario.name
        );
        assert_eq!(first.stats.events, second.stats.events);
        assert_ne!(first.hash, other.hash, "{}: the seed does nothing", scenario.name);
    }
}
