//! The packing engine: which machines should be bought for the pods that wait, and what runs where.
//!
//! `compile` turns names into numbers once. `place` runs the solve: existing room first, then `domains` (spread,
//! affinity), then machines, found by `optimize` over the `shapes` worth looking at. `launch` turns a machine content
//! into an order, `bound` proves how cheap it could be at best, `explain` says why a pod has no place.
//!
//! Nothing in the solve loop hashes or compares a text.

mod bound;
mod cells;
mod columns;
mod compile;
mod cut;
mod digest;
mod domains;
mod exact;
mod explain;
mod fit;
mod greedy;
mod grid;
mod keys;
mod knapsack;
mod launch;
mod many;
mod mix;
mod offers;
mod optimize;
mod pad;
mod place;
mod prices;
mod proof;
mod purchase;
mod quick;
mod round;
mod settle;
mod shapes;
mod simplex;
mod taints;
mod topology;
mod twins;

#[cfg(test)]
mod tests;

pub(crate) use digest::plan_id;

use crate::{
    catalog::{Catalog, MicroDollars},
    plan::{Bound, Launch, Plan},
    policy::Policy,
    report::{Report, Unplaced},
    snapshot::{ClassId, PodId, Snapshot},
};

/// A machine is settled when the proven worth of its pods reaches this share of its price, in thousandths.
const SETTLED_PERMILLE: i128 = 970;

/// Plans machines and places for every pod that waits.
pub(crate) fn plan(snapshot: &Snapshot, catalog: &Catalog, policy: &Policy) -> (Plan, Report) {
    let problem = compile::compile(snapshot, catalog, policy);
    let mut state = place::State::new(&problem);
    state.solve();
    exact::improve(&mut state);
    let padding = (!policy.nomination).then(|| pad::pad(&mut state));

    let placed: Vec<u32> = problem
        .demands
        .iter()
        .zip(&state.left)
        .map(|(d, left)| d.pods.len() as u32 - left)
        .collect();
    let machines = contents(&state);
    let kept = kept_caps(&problem, &state, &placed, &machines);
    let mut hints = std::mem::take(&mut state.hints);
    hints.contents.extend(machines);
    let bound = bound::Terms::new(&problem, &placed, kept).certify(&problem, &hints, &mut state.budget);
    let mut plan = write(&state, bound);
    plan.padding = padding;
    plan.id = plan_id(&plan, snapshot).into();
    (plan, report(&state))
}

/// What the machines to buy hold: distinct (offer, pods by demand).
fn contents(state: &place::State<'_>) -> Vec<greedy::Content> {
    let of_bin = |bin: &place::Bin| {
        let mut parts = Vec::with_capacity(bin.shares.len());
        for (lot, n) in &bin.shares {
            fit::add_part(&mut parts, state.lots[*lot as usize].demand, *n);
        }
        parts.sort_unstable();
        (bin.offer, parts)
    };
    let mut machines: Vec<_> = state.bins.iter().map(of_bin).collect();
    machines.sort_unstable();
    machines.dedup();
    machines
}

/// Preferences over the hostname that every placed pod keeps, as the most pods of a class on one machine.
fn kept_caps(
    problem: &compile::Problem<'_>,
    state: &place::State<'_>,
    placed: &[u32],
    machines: &[greedy::Content],
) -> Vec<(ClassId, u32)> {
    let mut most = vec![0; problem.demands.len()];
    let parts = machines.iter().map(|(_, parts)| parts);
    for (demand, n) in parts.chain(state.spots.iter().map(|s| &s.taken)).flatten() {
        most[*demand as usize] = u32::max(most[*demand as usize], *n);
    }
    let cap = |at: usize| {
        let class = problem.demands[at].class;
        let cap = bound::soft_cap(problem, class)?;
        (placed[at] > 0 && most[at] <= cap).then_some((class, cap))
    };
    (0..problem.demands.len()).filter_map(cap).collect()
}

/// Writes the state down as a plan, giving out the pods of each class in their order.
fn write(state: &place::State<'_>, bound: Bound) -> Plan {
    let problem = state.problem;
    let mut given = vec![0; problem.demands.len()];
    let mut give = |demand: u32, n: u32| -> &[PodId] {
        let from = given[demand as usize];
        given[demand as usize] += n as usize;
        &problem.demands[demand as usize].pods[from..given[demand as usize]]
    };
    let mut assignments = Vec::new();
    for (node, spot) in state.spots.iter().enumerate() {
        for (demand, n) in &spot.taken {
            assignments.extend(
                give(*demand, *n)
                    .iter()
                    .map(|pod| compile::assignment(*pod, node)),
            );
        }
    }
    assignments.sort();
    let mut orders: rustc_hash::FxHashMap<(u32, &[(u32, u32)]), Launch> = rustc_hash::FxHashMap::default();
    let mut launches = Vec::with_capacity(state.bins.len());
    for bin in &state.bins {
        let order = orders
            .entry((bin.offer, &bin.shares))
            .or_insert_with(|| launch::order(problem, &state.lots, &state.scarce, bin));
        let mut launch = order.clone();
        for (lot, n) in &bin.shares {
            launch.pods.extend(give(state.lots[*lot as usize].demand, *n));
        }
        launch.pods.sort();
        launch.settled = settled(problem, state, bin, &launch, &bound);
        launches.push(launch);
    }
    Plan {
        id: "".into(),
        revision: problem.snapshot.revision,
        launch_price: launches.iter().map(|l| l.offering.price).sum(),
        launches,
        assignments,
        removals: Vec::new(),
        padding: None,
        lower_bound: bound.price,
        bound,
        steps: state.budget.spent,
    }
}

fn settled(
    problem: &compile::Problem<'_>,
    state: &place::State<'_>,
    bin: &place::Bin,
    launch: &Launch,
    bound: &Bound,
) -> bool {
    let worth: i128 = bin
        .shares
        .iter()
        .map(|(lot, n)| {
            let class = problem.demands[state.lots[*lot as usize].demand as usize].class;
            let dual = bound
                .duals
                .binary_search_by_key(&class, |(c, _)| *c)
                .map_or(0, |at| bound.duals[at].1);
            i128::from(dual) * i128::from(*n)
        })
        .sum();
    let MicroDollars(price) = launch.offering.price;
    worth >= i128::from(price) * SETTLED_PERMILLE
}

fn report(state: &place::State<'_>) -> Report {
    let problem = state.problem;
    let mut report = Report::default();
    for (demand, left) in state.left.iter().enumerate() {
        if *left == 0 {
            continue;
        }
        let reasons = explain::reasons(problem, demand, &state.scarce.limits, &state.counts);
        let pods = &problem.demands[demand].pods;
        for pod in &pods[pods.len() - *left as usize..] {
            report.unplaced.push(Unplaced {
                pod: *pod,
                reasons: reasons.clone(),
            });
        }
    }
    report.unplaced.sort_by_key(|u| u.pod);
    report
}
