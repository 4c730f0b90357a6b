//! `hack/bench` runs this: it makes the problems, has both sides solve them and writes the table.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use plimsoll_bench::{
    exact, measure, peer,
    problems::{self, Named},
    report::{Growth, Peer, Results, Row, Small, exponent, spread},
};
use plimsoll_core::{problem::Problem, provision::provision, snapshot::PodId};

#[derive(Parser)]
#[command(about = "Bench of the packing engine")]
struct Args {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Both sides on all problems; writes RESULTS.md and results.json.
    Run(Run),
    /// One problem file with our planner; prints the measurement as JSON.
    Solve {
        file: PathBuf,
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Search steps instead of the problem's own.
        #[arg(long)]
        steps: Option<u64>,
    },
}

#[derive(clap::Args)]
struct Run {
    /// Letters of the problems to run, such as `a,c`; all by default.
    #[arg(long, value_delimiter = ',')]
    only: Vec<char>,
    /// Leave out what takes the peer long, and the growth series.
    #[arg(long)]
    quick: bool,
    /// Folder with the OpenB trace and the two problems made from it; without it those problems are left out.
    #[arg(long)]
    openb: Option<PathBuf>,
    /// The program built from bench/peer; without it only our side runs.
    #[arg(long)]
    peer: Option<PathBuf>,
    /// Where problem files are kept.
    #[arg(long)]
    cache: PathBuf,
    /// Where RESULTS.md and results.json go.
    #[arg(long)]
    out: PathBuf,
    /// What to name as the command in the report.
    #[arg(long)]
    made_by: String,
    /// A line for the report's list of versions; may be repeated.
    #[arg(long)]
    version: Vec<String>,
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Action::Run(run) => bench(&run),
        Action::Solve { file, runs, steps } => measure::solve(&file, runs, steps).and_then(|ours| {
            let mut out = std::io::stdout().lock();
            serde_json::to_writer(&mut out, &ours)?;
            Ok(writeln!(out)?)
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(&format!("bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn note(text: &str) {
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn bench(run: &Run) -> Result<()> {
    fs::create_dir_all(&run.cache)?;
    fs::create_dir_all(&run.out)?;
    let wanted = |letter: char| run.only.is_empty() || run.only.contains(&letter);
    let mut results = Results {
        command: run.made_by.clone(),
        versions: run.version.clone(),
        machine: machine(),
        load: [load(), 0.0],
        ..Results::default()
    };
    for problem in problems::all(&run.only, run.openb.as_deref())? {
        if run.quick && problem.slow_for_peer {
            continue;
        }
        let row = row(run, &problem)?;
        let gap = row.ours.outcome.price / row.ours.lower_bound;
        note(&format!(
            "{}: {:.3} s, ${:.2}/h, {gap:.4} of the bound, {:?}",
            row.name,
            spread(&row.ours.seconds)[1],
            row.ours.outcome.price,
            row.ours.outcome.violations
        ));
        results.rows.push(row);
    }
    if wanted('g') {
        results.small = Some(small(run, if run.quick { 200 } else { 1_000 })?);
    }
    if !run.quick && run.only.is_empty() {
        results.growth = growth(run)?;
    }
    results.load[1] = load();
    for missed in results.missed() {
        note(&format!("missed: {missed}"));
    }
    fs::write(
        run.out.join("results.json"),
        serde_json::to_string_pretty(&results)? + "\n",
    )?;
    fs::write(run.out.join("RESULTS.md"), results.markdown())?;
    Ok(())
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or(": unknown processor");
    format!("{cores} cores of {}", model.trim_start_matches([' ', '\t', ':']))
}

/// Programs that wanted a core over the last minute.
fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or(0.0)
}

fn row(run: &Run, problem: &Named) -> Result<Row> {
    let path = run.cache.join(format!("{}.json", problem.name));
    fs::write(&path, problem.json.to_string())?;
    note(&format!("{} …", problem.name));
    let ours = measure::solve_apart(&path, 5)?;
    let peer = match &run.peer {
        Some(program) => {
            let runs = if problem.slow_for_peer { 1 } else { 5 };
            Some(peer_side(program, &path, runs)?)
        }
        None => None,
    };
    Ok(Row {
        name: problem.name.clone(),
        about: problem.about.to_owned(),
        ours,
        peer,
    })
}

fn peer_side(program: &Path, path: &Path, runs: usize) -> Result<Peer> {
    let answer = peer::run(program, path, runs)?;
    let problem = Problem::read(&fs::read_to_string(path)?)?;
    let snapshot = problem.snapshot();
    let plan = peer::plan(&snapshot, &problem.catalog, &answer)?;
    let (outcome, _) = measure::judge(&snapshot, &problem.catalog, &plan);
    Ok(Peer {
        outcome,
        setup_seconds: answer.runs.iter().map(|run| run.setup_seconds).collect(),
        solve_seconds: answer.runs.iter().map(|run| run.solve_seconds).collect(),
        timed_out: answer.timed_out,
        peak_bytes: answer.peak_bytes,
    })
}

/// Ours against the optimum, and against the peer where it can take the problem.
fn small(run: &Run, count: u64) -> Result<Small> {
    note("g-small …");
    let mut small = Small::default();
    let (mut above, mut peer_above) = (Vec::new(), Vec::new());
    for seed in 0..count {
        let json = problems::small(seed);
        let text = json.to_string();
        let problem = Problem::read(&text)?;
        let snapshot = problem.snapshot();
        let (plan, _) = provision(&snapshot, &problem.catalog, &problem.policy);
        let (outcome, verdict) = measure::judge(&snapshot, &problem.catalog, &plan);
        let unplaced = &verdict.unplaced;
        let pending: Vec<PodId> = (0..snapshot.pods.len() as u32)
            .map(PodId)
            .filter(|id| snapshot.pods[id.0 as usize].place == plimsoll_core::snapshot::Place::Pending)
            .collect();
        let placed: Vec<PodId> = pending
            .iter()
            .copied()
            .filter(|id| !unplaced.contains(id))
            .collect();
        small.problems += 1;
        small.violations += usize::from(!outcome.violations.is_empty());
        if !unplaced.is_empty() && exact::optimum(&snapshot, &problem.catalog, &pending).is_some() {
            small.fewer_placed += 1;
        }
        let best = exact::optimum(&snapshot, &problem.catalog, &placed).map(|best| best.launch_price.0);
        let Some(best) = best else { continue };
        small.bound_above_optimum += usize::from(plan.lower_bound.0 > best);
        small.at_optimum += usize::from(plan.launch_price.0 == best);
        let percent = |price: i64| {
            if best == 0 {
                0.0
            } else {
                (price as f64 / best as f64 - 1.0) * 100.0
            }
        };
        above.push(percent(plan.launch_price.0));
        let has_nodes = json.get("nodes").is_some();
        if let (Some(program), false) = (&run.peer, has_nodes || seed >= 200) {
            let path = run.cache.join("g-small.json");
            fs::write(&path, &text)?;
            let side = peer_side(program, &path, 1)?;
            if side.outcome.placed == placed.len() && side.outcome.violations.is_empty() {
                let price = (side.outcome.price * 1e6).round() as i64;
                small.compared_with_peer += 1;
                if plan.launch_price.0 > price {
                    small.dearer_than_peer += 1;
                    small.dearer_seeds.push(seed);
                }
                peer_above.push(percent(price));
            }
        }
    }
    let summary = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        let at = |share: usize| {
            values
                .get(values.len().saturating_sub(1) * share / 100)
                .copied()
                .unwrap_or(0.0)
        };
        [at(50), at(90), at(100)]
    };
    small.above_optimum = summary(above);
    small.peer_above_optimum = summary(peer_above);
    Ok(small)
}

/// Time against pods at fixed classes, and against classes at fixed pods.
fn growth(run: &Run) -> Result<Vec<Growth>> {
    let series: [(&str, Vec<(usize, usize)>); 2] = [
        (
            "pods, in 100 classes",
            [1_000, 3_000, 10_000, 30_000, 100_000]
                .map(|pods| (pods, 100))
                .to_vec(),
        ),
        (
            "classes, of 20,000 pods",
            [10, 30, 100, 300, 1_000]
                .map(|classes| (20_000, classes))
                .to_vec(),
        ),
    ];
    let mut found = Vec::new();
    for (what, sizes) in series {
        let by_pods = what.starts_with("pods");
        let mut points: BTreeMap<usize, f64> = BTreeMap::new();
        for (pods, classes) in sizes {
            note(&format!("growth: {pods} pods in {classes} classes …"));
            let path = run.cache.join(format!("growth-{pods}-{classes}.json"));
            fs::write(&path, problems::large(pods, classes).to_string())?;
            let ours = measure::solve_apart(&path, 3)
                .with_context(|| format!("{pods} pods in {classes} classes"))?;
            points.insert(if by_pods { pods } else { classes }, spread(&ours.seconds)[1]);
        }
        let points: Vec<(f64, f64)> = points.into_iter().map(|(x, y)| (x as f64, y)).collect();
        found.push(Growth {
            what: what.to_owned(),
            exponent: exponent(&points),
            points,
        });
    }
    Ok(found)
}
