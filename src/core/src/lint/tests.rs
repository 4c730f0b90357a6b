use crate::{
    catalog::{Catalog, MicroDollars, TypeId},
    plan::{Assignment, Launch, Offered, Plan, Removal},
    problem::Problem,
    snapshot::{Blocker, DisruptionReason, NodeId, PodId, Snapshot},
};

use super::{Finding, lint};

/// Two pending pods, a pool of at most two machines, one owned node and one foreign node.
fn sound() -> (Snapshot, Catalog, Plan) {
    let problem = Problem::read(
        r#"{"types": [{"name": "m", "cpu": 2000, "mem": 4096, "pods": 10,
              "offerings": [{"zone": "a", "ct": "on-demand", "price": 0.1}]}],
            "pools": [{"name": "p", "limits": {"nodes": 2}}],
            "nodes": [{"name": "n", "type": "m", "zone": "a", "ct": "on-demand", "pool": "p"},
                      {"name": "o", "type": "m", "zone": "a", "ct": "on-demand", "pods": [{"name": "z", "cpu": 1}]}],
            "pods": [{"cpu": 500, "count": 2}]}"#,
    )
    .unwrap();
    let snapshot = problem.snapshot();
    let launch = Launch {
        pool: "p".into(),
        requirements: Vec::new(),
        types: vec![TypeId(0)],
        offering: Offered {
            instance_type: "m".into(),
            zone: "a".into(),
            capacity_type: "on-demand".into(),
            price: MicroDollars(100_000),
        },
        requests: snapshot.classes[0].requests.iter().cloned().collect(),
        pods: vec![PodId(0)],
        runner_up: None,
        min_values_relaxed: false,
        settled: false,
    };
    let plan = Plan {
        revision: snapshot.revision,
        launches: vec![launch],
        assignments: vec![Assignment {
            pod: PodId(1),
            node: NodeId(0),
        }],
        launch_price: MicroDollars(100_000),
        ..Plan::default()
    };
    (snapshot, problem.catalog, plan)
}

#[test]
fn a_sound_plan_has_no_findings() {
    let (snapshot, catalog, plan) = sound();
    assert_eq!(lint(&snapshot, &catalog, &plan), []);
}

#[test]
fn each_defect_has_its_finding() {
    type Defect = (fn(&mut Snapshot, &mut Plan), fn(&Finding) -> bool);
    let defects: [Defect; 14] = [
        (|_, p| p.revision += 1, |f| matches!(f, Finding::Revision { .. })),
        (
            |_, p| p.launches[0].pods = vec![PodId(77)],
            |f| matches!(f, Finding::Unknown { what: "pod", .. }),
        ),
        (
            |_, p| p.launches[0].types.push(TypeId(9)),
            |f| matches!(f, Finding::Unknown { what: "type", .. }),
        ),
        (
            |_, p| p.launches[0].pool = "q".into(),
            |f| matches!(f, Finding::Unknown { what: "pool", .. }),
        ),
        (
            |_, p| p.assignments[0].pod = PodId(0),
            |f| matches!(f, Finding::PlacedTwice(_)),
        ),
        (
            |_, p| p.assignments[0].pod = PodId(2),
            |f| matches!(f, Finding::HasPlace(_)),
        ),
        (
            |_, p| p.launches[0].pods.clear(),
            |f| matches!(f, Finding::EmptyLaunch(0)),
        ),
        (
            |_, p| p.launches[0].offering.zone = "b".into(),
            |f| matches!(f, Finding::Offering { launch: 0 }),
        ),
        (
            |_, p| p.launches[0].requests.clear(),
            |f| matches!(f, Finding::Requests { .. }),
        ),
        (
            |s, _| s.nodes[0].leaving = true,
            |f| matches!(f, Finding::AssignedToLeaving(_)),
        ),
        (
            |_, p| {
                p.removals = vec![Removal {
                    node: NodeId(1),
                    reason: DisruptionReason::Empty,
                    saves: None,
                }];
            },
            |f| matches!(f, Finding::NotOwned(_)),
        ),
        (
            |s, p| {
                p.assignments.clear();
                s.nodes[0].disruption_blocker = Some(Blocker::Nominated);
                p.removals.push(Removal {
                    node: NodeId(0),
                    reason: DisruptionReason::Empty,
                    saves: None,
                });
            },
            |f| matches!(f, Finding::Blocked { .. }),
        ),
        (
            |s, _| s.pools[0].limits = [("nodes".into(), 1)].into(),
            |f| matches!(f, Finding::Limit { .. }),
        ),
        (
            |_, p| p.lower_bound = MicroDollars(100_001),
            |f| matches!(f, Finding::Bound { .. }),
        ),
    ];
    for (i, (spoil, expected)) in defects.into_iter().enumerate() {
        let (mut snapshot, catalog, mut plan) = sound();
        spoil(&mut snapshot, &mut plan);
        let findings = lint(&snapshot, &catalog, &plan);
        assert!(findings.iter().any(expected), "defect {i}: {findings:?}");
    }
    let (snapshot, catalog, mut plan) = sound();
    plan.launch_price = MicroDollars(1);
    let expected = Finding::Price {
        sum: 100_000,
        stated: 1,
    };
    assert_eq!(lint(&snapshot, &catalog, &plan), [expected]);
}
