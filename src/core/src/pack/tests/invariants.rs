//! What holds for every problem.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::notation::World;
use crate::{resources::NODES, snapshot::PodId};

/// A random problem in the notation of these tests.
fn problem() -> impl Strategy<Value = String> {
    let types = proptest::collection::vec((1_u32..17, 1_u32..5, 1_u32..4, 80_u32..120), 1..5);
    let pods = proptest::collection::vec((0_usize..12, 1_u32..20, 1_u32..9, 1_u32..9), 1..6);
    let nodes = proptest::collection::vec((1_u32..9, 0_usize..2), 0..4);
    (types, pods, nodes, 0_u32..3, 0_u32..2000).prop_map(|(types, pods, nodes, limit, steps)| {
        let mut text = format!("policy steps={steps}\n");
        for (i, (cpu, ratio, zones, price)) in types.iter().enumerate() {
            let zones = ["a", "a,b", "a,b,c"][*zones as usize - 1];
            let price = f64::from(cpu * price) * (1.0 + 0.2 * f64::from(*ratio)) / 1000.0;
            writeln!(
                text,
                "type t{i} cpu={cpu} mem={} price={price} zones={zones} spot={}",
                cpu * ratio,
                price / 2.0
            )
            .unwrap();
        }
        let limit = ["", "limit=cpu:20", "limit=nodes:3"][limit as usize];
        writeln!(text, "pool p {limit}").unwrap();
        for (i, (cpu, zone)) in nodes.iter().enumerate() {
            writeln!(text, "node n{i} cpu={cpu} mem=8 zone={}", ["a", "b"][*zone]).unwrap();
        }
        for (i, (rule, n, cpu, mem)) in pods.iter().enumerate() {
            let rule = [
                "",
                "",
                "need=zone:a",
                "need=ct:on-demand",
                "spread=zone:1",
                "spread=host:1",
                "apart=p0@host",
                "with=p0@zone",
                "apart=p1@zone",
                "port=80",
                "apart?=p0@host",
                "spread?=zone:1",
            ][*rule];
            let (cpu, mem) = (f64::from(*cpu) / 2.0, f64::from(*mem) / 2.0);
            writeln!(text, "pod p{i} x{n} cpu={cpu} mem={mem} {rule}").unwrap();
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, rng_seed: proptest::test_runner::RngSeed::Fixed(7), ..ProptestConfig::default() })]

    #[test]
    fn plans_are_valid_complete_and_repeatable(text in problem()) {
        let world = World::read(&text);
        let (plan, report) = world.solve();
        let verdict = crate::verify::verify(&world.snapshot, &world.catalog, &plan);
        prop_assert!(verdict.violations.is_empty(), "{:?}", verdict.violations);

        // Every pod that waits is placed once, or reported with a reason.
        let mut seen: Vec<PodId> = plan.launches.iter().flat_map(|l| l.pods.clone()).collect();
        seen.extend(plan.assignments.iter().map(|a| a.pod));
        seen.extend(report.unplaced.iter().map(|u| u.pod));
        seen.sort();
        let all: Vec<PodId> = (0..world.snapshot.pods.len() as u32).map(PodId).collect();
        prop_assert_eq!(seen, all);
        prop_assert!(report.unplaced.iter().all(|u| !u.reasons.is_empty()));

        prop_assert!(plan.lower_bound <= plan.launch_price);
        prop_assert_eq!(plan.bound.price, plan.lower_bound);

        let pool = &world.snapshot.pools[0];
        for (resource, limit) in &pool.limits {
            let used: i64 = plan.launches.iter().map(|launch| {
                // Whatever of its types is launched in the end.
                let usage = |id: &crate::catalog::TypeId| {
                    world.catalog.types[id.0 as usize].capacity.get(resource).copied().unwrap_or(0)
                };
                if &**resource == NODES { 1 } else { launch.types.iter().map(usage).max().unwrap_or(0) }
            }).sum();
            prop_assert!(used <= *limit);
        }

        let (again, _) = world.solve();
        prop_assert_eq!(format!("{plan:?}"), format!("{again:?}"));
    }
}
