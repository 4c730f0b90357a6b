use crate::{
    catalog::{Catalog, MicroDollars, TypeId},
    plan::{Assignment, Launch, Offered, Plan},
    problem::Problem,
    requirement::{Operator, Requirement},
    resources::Resources,
    snapshot::{NodeId, PodId, Snapshot},
};

use super::{CertificateError, Rule, reprice, verify};

/// Two types in two zones, two pools of which one is tainted, and whatever the case adds.
fn problem(pods: &str, more: &str) -> (Snapshot, Catalog) {
    let json = format!(
        r#"{{"types": [
            {{"name": "big", "cpu": 8000, "mem": 16384, "pods": 20, "labels": {{"size": "big"}}, "offerings": [
                {{"zone": "a", "ct": "on-demand", "price": 0.4}}, {{"zone": "b", "ct": "on-demand", "price": 0.4}}]}},
            {{"name": "small", "cpu": 2000, "mem": 4096, "pods": 4, "labels": {{"size": "small"}}, "offerings": [
                {{"zone": "a", "ct": "on-demand", "price": 0.1}}, {{"zone": "a", "ct": "spot", "price": 0.05}},
                {{"zone": "b", "ct": "on-demand", "price": 0.1}}]}}],
          "pods": {pods}{more}}}"#
    );
    let problem = Problem::read(&json).unwrap();
    (problem.snapshot(), problem.catalog.clone())
}

/// A launch pinned to its zone and on-demand.
fn launch(
    snapshot: &Snapshot,
    catalog: &Catalog,
    pool: &str,
    names: &[&str],
    zone: &str,
    pods: &[u32],
) -> Launch {
    let id = |name: &str| TypeId(catalog.types.iter().position(|t| &*t.name == name).unwrap() as u32);
    let is = |key: &str, value: &str| Requirement {
        key: key.into(),
        operator: Operator::In,
        values: vec![value.into()],
        min_values: None,
    };
    let mut requests = Resources::new();
    for pod in pods {
        for (name, amount) in &snapshot.classes[snapshot.pods[*pod as usize].class.0 as usize].requests {
            *requests.entry(name.clone()).or_default() += amount;
        }
    }
    let cheapest = &catalog.types[id(names[0]).0 as usize];
    let offering = cheapest
        .offerings
        .iter()
        .find(|o| &*o.zone == zone && &*o.capacity_type == "on-demand")
        .unwrap();
    Launch {
        pool: pool.into(),
        requirements: vec![
            is("karpenter.sh/capacity-type", "on-demand"),
            is("topology.kubernetes.io/zone", zone),
        ],
        types: names.iter().map(|name| id(name)).collect(),
        offering: Offered {
            instance_type: names[0].into(),
            zone: zone.into(),
            capacity_type: "on-demand".into(),
            price: offering.price,
        },
        requests,
        pods: pods.iter().copied().map(PodId).collect(),
        runner_up: None,
        min_values_relaxed: false,
        settled: false,
    }
}

fn plan(launches: Vec<Launch>) -> Plan {
    let launch_price = launches.iter().map(|l| l.offering.price).sum();
    Plan {
        revision: 1,
        launches,
        launch_price,
        ..Plan::default()
    }
}

type Machines<'a> = &'a [(&'a str, &'a [&'a str], &'a str, &'a [u32])];

/// The rules broken when `pods` are put on these machines (pool, types, zone, pods).
fn broken(pods: &str, more: &str, machines: Machines) -> Vec<Rule> {
    let (snapshot, catalog) = problem(pods, more);
    let launches = machines
        .iter()
        .map(|(pool, names, zone, pods)| launch(&snapshot, &catalog, pool, names, zone, pods))
        .collect();
    let verdict = verify(&snapshot, &catalog, &plan(launches));
    let mut rules: Vec<Rule> = verdict.violations.iter().map(|v| v.rule).collect();
    rules.dedup();
    rules
}

const POOLS: &str = r#", "pools": [{"name": "plain"}, {"name": "tainted", "weight": 5,
    "taints": [{"key": "t", "value": "v", "effect": "NoSchedule"}]}]"#;

fn spread(key: &str, more: &str) -> String {
    format!(
        r#""labels": {{"app": "x"}}, "topologySpreadConstraints": [{{"maxSkew": 1, "topologyKey": "{key}",
           "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {{"matchLabels": {{"app": "x"}}}}{more}}}]"#
    )
}

fn affinity(kind: &str, key: &str, app: &str) -> String {
    format!(
        r#""labels": {{"app": "x"}}, "affinity": {{"{kind}": {{"requiredDuringSchedulingIgnoredDuringExecution": [
           {{"topologyKey": "{key}", "labelSelector": {{"matchLabels": {{"app": "{app}"}}}}}}]}}}}"#
    )
}

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";

#[test]
fn each_rule_is_found_when_broken_and_only_then() {
    const P: &str = "plain";
    let pod = |more: &str| format!(r#"[{{"cpu": 900, "mem": 100, "count": 2{more}}}]"#);
    let with = |fields: String| pod(&format!(", {fields}"));
    let zones = spread(ZONE, "");
    let at_least_two = spread(ZONE, r#", "minDomains": 2"#);
    let cases: Vec<(String, &str, Machines, &[Rule])> = vec![
        (pod(""), "", &[(P, &["small"], "a", &[0, 1])], &[]),
        (pod(""), "", &[(P, &["small", "big"], "a", &[0, 1])], &[]),
        (
            pod(""),
            "",
            &[(P, &["big", "small"], "a", &[0, 1])],
            &[Rule::Types],
        ),
        (
            r#"[{"cpu": 1100, "count": 2}]"#.into(),
            "",
            &[(P, &["small", "big"], "a", &[0, 1])],
            &[Rule::Resources],
        ),
        (
            r#"[{"cpu": 1, "count": 5}]"#.into(),
            "",
            &[(P, &["small"], "a", &[0, 1, 2, 3, 4])],
            &[Rule::Resources],
        ),
        (
            pod(r#", "resources": {"example.com/gpu": 1}"#),
            "",
            &[(P, &["big"], "a", &[0, 1])],
            &[Rule::Resources],
        ),
        // taints, selectors, affinity terms
        (
            pod(""),
            "",
            &[("tainted", &["small"], "a", &[0, 1])],
            &[Rule::Taint],
        ),
        (
            pod(r#", "tolerations": [{"key": "t", "operator": "Exists"}]"#),
            "",
            &[("tainted", &["small"], "a", &[0, 1])],
            &[],
        ),
        (
            pod(r#", "nodeSelector": {"size": "big"}"#),
            "",
            &[(P, &["small", "big"], "a", &[0, 1])],
            &[Rule::Requirements],
        ),
        (
            pod(r#", "nodeSelector": {"size": "big"}"#),
            "",
            &[(P, &["big"], "a", &[0, 1])],
            &[],
        ),
        (
            pod(
                r#", "volumes": [{"driver": "d", "id": "1", "nodeSelectorTerms": [{"matchExpressions":
            [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["b"]}]}]}]"#,
            ),
            "",
            &[(P, &["small"], "a", &[0, 1])],
            &[Rule::Requirements],
        ),
        (
            pod(r#", "hostPorts": [{"hostPort": 80}]"#),
            "",
            &[(P, &["small"], "a", &[0, 1])],
            &[Rule::HostPort],
        ),
        (
            pod(r#", "hostPorts": [{"hostPort": 80}]"#),
            "",
            &[(P, &["small"], "a", &[0]), (P, &["small"], "a", &[1])],
            &[],
        ),
        // spread: both zones could be launched, so one zone alone leaves the other at zero
        (
            with(zones.clone()),
            "",
            &[(P, &["small"], "a", &[0]), (P, &["small"], "b", &[1])],
            &[],
        ),
        (
            with(zones.clone()),
            "",
            &[(P, &["small"], "a", &[0, 1])],
            &[Rule::SpreadUniverse],
        ),
        (with(zones.clone()), "", &[(P, &["small"], "a", &[0])], &[]),
        (
            with(at_least_two),
            "",
            &[(P, &["small"], "a", &[0, 1])],
            &[Rule::Spread],
        ),
        (
            with(spread(HOST, "")),
            "",
            &[(P, &["small"], "a", &[0]), (P, &["small"], "a", &[1])],
            &[],
        ),
        // affinity: a pod that selects itself may start a domain, but only one
        (
            with(affinity("podAffinity", ZONE, "x")),
            "",
            &[(P, &["small"], "a", &[0]), (P, &["small"], "a", &[1])],
            &[],
        ),
        (
            with(affinity("podAffinity", ZONE, "x")),
            "",
            &[(P, &["small"], "a", &[0]), (P, &["small"], "b", &[1])],
            &[Rule::Affinity],
        ),
        (
            with(affinity("podAffinity", ZONE, "other")),
            "",
            &[(P, &["small"], "a", &[0, 1])],
            &[Rule::Affinity],
        ),
        (
            with(affinity("podAntiAffinity", HOST, "x")),
            "",
            &[(P, &["small"], "a", &[0]), (P, &["small"], "a", &[1])],
            &[],
        ),
        (
            with(affinity("podAntiAffinity", HOST, "x")),
            "",
            &[(P, &["small"], "a", &[0, 1])],
            &[Rule::AntiAffinity],
        ),
        (
            with(affinity("podAntiAffinity", ZONE, "x")),
            "",
            &[(P, &["small"], "a", &[0]), (P, &["small"], "a", &[1])],
            &[Rule::AntiAffinity],
        ),
    ];
    for (pods, more, machines, expected) in cases {
        assert_eq!(
            broken(&pods, &format!("{POOLS}{more}"), machines),
            expected,
            "{pods} on {machines:?}"
        );
    }
}

#[test]
fn pool_rules_hold_over_the_whole_plan() {
    let pods = r#"[{"cpu": 900, "count": 2}]"#;
    let pool = |fields: &str| format!(r#", "pools": [{{"name": "plain", {fields}}}]"#);
    let two: Machines = &[("plain", &["small"], "a", &[0]), ("plain", &["small"], "a", &[1])];
    let one: Machines = &[("plain", &["small", "big"], "a", &[0, 1])];
    for (fields, machines, expected) in [
        (r#""limits": {"cpu": "4"}"#, two, vec![]),
        (r#""limits": {"cpu": "3"}"#, two, vec![Rule::PoolLimit]),
        (r#""limits": {"nodes": 1}"#, two, vec![Rule::PoolLimit]),
        (r#""limits": {"cpu": "4"}"#, one, vec![Rule::PoolLimitFlexible]),
        (r#""types": ["big"]"#, one, vec![Rule::Types]),
        (
            r#""requirements": [{"key": "size", "operator": "Exists", "minValues": 2}]"#,
            one,
            vec![],
        ),
        (
            r#""requirements": [{"key": "size", "operator": "Exists", "minValues": 2}]"#,
            two,
            vec![Rule::MinValues],
        ),
        (
            r#""requirements": [{"key": "size", "operator": "In", "values": ["big"]}]"#,
            two,
            vec![Rule::Offering],
        ),
    ] {
        assert_eq!(broken(pods, &pool(fields), machines), expected, "{fields}");
    }
}

#[test]
fn daemons_keep_their_room_and_ports() {
    let daemon = r#", "daemonSets": [{"cpu": 300, "hostPorts": [{"hostPort": 9100}]}]"#;
    let one: Machines = &[("default", &["small"], "a", &[0, 1])];
    assert_eq!(broken(r#"[{"cpu": 800, "count": 2}]"#, daemon, one), []);
    assert_eq!(
        broken(r#"[{"cpu": 900, "count": 2}]"#, daemon, one),
        [Rule::Resources]
    );
    let alone: Machines = &[("default", &["small"], "a", &[0])];
    assert_eq!(
        broken(r#"[{"hostPorts": [{"hostPort": 9100}]}]"#, daemon, alone),
        [Rule::HostPort]
    );
    let elsewhere = r#", "daemonSets": [{"cpu": 300, "nodeSelector": {"size": "big"}}]"#;
    assert_eq!(broken(r#"[{"cpu": 900, "count": 2}]"#, elsewhere, one), []);
}

#[test]
fn a_launch_that_may_come_up_in_two_zones_cannot_carry_zone_spread() {
    let pods = format!(r#"[{{"cpu": 900, {}}}]"#, spread(ZONE, ""));
    let (snapshot, catalog) = problem(&pods, "");
    let mut flexible = launch(&snapshot, &catalog, "default", &["small"], "a", &[0]);
    flexible.requirements.truncate(1);
    let found = verify(&snapshot, &catalog, &plan(vec![flexible]));
    let rules: Vec<Rule> = found.violations.iter().map(|v| v.rule).collect();
    assert_eq!(rules, [Rule::Undecided]);
}

#[test]
fn existing_nodes_hold_what_they_have_and_exclude_from_both_sides() {
    let node = |pods: &str, more: &str| {
        format!(
            r#", "nodes": [{{"name": "n", "type": "small", "zone": "a", "ct": "on-demand", "pool": "default",
               "pods": [{pods}]{more}}}]"#
        )
    };
    let assign = |pods: &str, more: &str| {
        let (snapshot, catalog) = problem(pods, more);
        let pending: Vec<PodId> = (0..snapshot.pods.len() as u32)
            .map(PodId)
            .filter(|id| snapshot.pods[id.0 as usize].place == crate::snapshot::Place::Pending)
            .collect();
        let assignments = pending
            .iter()
            .map(|pod| Assignment {
                pod: *pod,
                node: NodeId(0),
            })
            .collect();
        let verdict = verify(
            &snapshot,
            &catalog,
            &Plan {
                assignments,
                ..plan(vec![])
            },
        );
        let mut rules: Vec<Rule> = verdict.violations.iter().map(|v| v.rule).collect();
        rules.dedup();
        rules
    };
    let small = r#"[{"cpu": 500}]"#;
    assert_eq!(assign(small, &node(r#"{"cpu": 1500}"#, "")), []);
    assert_eq!(assign(small, &node(r#"{"cpu": 1501}"#, "")), [Rule::Resources]);
    assert_eq!(
        assign(small, &node(r#"{"cpu": 1600, "terminating": true}"#, "")),
        [Rule::Resources]
    );
    assert_eq!(assign(small, &node("", r#", "leaving": true"#)), [Rule::Identity]);
    let taint = r#", "taints": [{"key": "t", "effect": "NoExecute"}]"#;
    assert_eq!(assign(small, &node("", taint)), [Rule::Taint]);
    let volumes = r#"[{"volumes": [{"driver": "d", "id": "1"}]}, {"volumes": [{"driver": "d", "id": "2"}]}]"#;
    assert_eq!(assign(volumes, &node("", r#", "volumeLimits": {"d": 2}"#)), []);
    assert_eq!(
        assign(volumes, &node("", r#", "volumeLimits": {"d": 1}"#)),
        [Rule::VolumeLimit]
    );
    // The pod that runs excludes the one that comes.
    let running = format!("{{{}}}", affinity("podAntiAffinity", HOST, "y"));
    assert_eq!(
        assign(r#"[{"labels": {"app": "y"}}]"#, &node(&running, "")),
        [Rule::AntiAffinity]
    );
    assert_eq!(assign(r#"[{"labels": {"app": "z"}}]"#, &node(&running, "")), []);
    // A daemon that does not run there yet keeps its room; one that runs is not counted twice.
    let daemon = r#", "daemonSets": [{"cpu": 600}]"#;
    let room = format!("{}{daemon}", node(r#"{"cpu": 1000}"#, ""));
    assert_eq!(assign(small, &room), [Rule::Resources]);
    let room = format!(
        "{}{daemon}",
        node(r#"{"cpu": 600, "daemon": true}, {"cpu": 900}"#, "")
    );
    assert_eq!(assign(small, &room), []);
}

#[test]
fn order_matters_for_pods_that_spread_over_others() {
    // Two pods spread over pods they are not themselves; those others sit unevenly.
    let spreads = r#"{"name": "s", "cpu": 100, "count": 2, "labels": {"app": "s"}, "topologySpreadConstraints":
        [{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
          "labelSelector": {"matchLabels": {"app": "x"}}}]}"#;
    let others = r#"{"name": "o", "cpu": 100, "count": 3, "labels": {"app": "x"}}"#;
    let pods = format!("[{spreads}, {others}]");
    // They may bind before the others come, even though the final state is uneven.
    let uneven: Machines = &[
        ("default", &["small"], "a", &[0, 1, 2, 3]),
        ("default", &["small"], "b", &[4]),
    ];
    assert_eq!(broken(&pods, "", uneven), []);
    // Not when the others run already.
    let running = r#", "nodes": [{"name": "n", "type": "small", "zone": "a", "ct": "on-demand", "pods":
        [{"labels": {"app": "x"}, "count": 3}]}, {"name": "m", "type": "small", "zone": "b", "ct": "on-demand"}]"#;
    let (snapshot, catalog) = problem(&format!("[{spreads}]"), running);
    let pending: Vec<u32> = (0..5)
        .filter(|i| snapshot.pods[*i as usize].key.contains("/s-"))
        .collect();
    let there = launch(&snapshot, &catalog, "default", &["small"], "a", &pending);
    let found = verify(&snapshot, &catalog, &plan(vec![there]));
    assert_eq!(
        found.violations.iter().map(|v| v.rule).collect::<Vec<_>>(),
        [Rule::Spread; 2]
    );
    let there = launch(&snapshot, &catalog, "default", &["small"], "b", &pending);
    assert_eq!(verify(&snapshot, &catalog, &plan(vec![there])).violations, []);
}

#[test]
fn preferences_are_counted_one_by_one() {
    let pods = r#"[{"cpu": 100, "count": 2, "labels": {"app": "x"},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": "x"}}}],
        "affinity": {
            "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference":
                {"matchExpressions": [{"key": "size", "operator": "In", "values": ["small"]}]}}]},
            "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm":
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "x"}}}}]}}}]"#;
    let pools = r#", "pools": [{"name": "plain"}, {"name": "soft",
        "taints": [{"key": "t", "effect": "PreferNoSchedule"}]}]"#;
    let (snapshot, catalog) = problem(pods, pools);
    let kept = |machines: Machines| {
        let launches = machines
            .iter()
            .map(|(pool, names, zone, pods)| launch(&snapshot, &catalog, pool, names, zone, pods))
            .collect();
        let verdict = verify(&snapshot, &catalog, &plan(launches));
        assert_eq!((verdict.violations, verdict.preferences_total), (vec![], 8));
        verdict.preferences_kept
    };
    assert_eq!(
        kept(&[("plain", &["small"], "a", &[0]), ("plain", &["small"], "a", &[1])]),
        8
    );
    assert_eq!(
        kept(&[("plain", &["small"], "a", &[0]), ("soft", &["small"], "a", &[1])]),
        7
    );
    assert_eq!(kept(&[("plain", &["small"], "a", &[0, 1])]), 6);
    assert_eq!(
        kept(&[("plain", &["big"], "a", &[0]), ("plain", &["small"], "a", &[1])]),
        7
    );
    assert_eq!(kept(&[("plain", &["small"], "a", &[0])]), 4);
}

#[test]
fn identities_prices_and_reservations() {
    let (snapshot, catalog) = problem(r#"[{"cpu": 100, "count": 2}]"#, "");
    let one = |pods: &[u32]| launch(&snapshot, &catalog, "default", &["small"], "a", pods);
    let rules = |plan: &Plan| {
        verify(&snapshot, &catalog, plan)
            .violations
            .iter()
            .map(|v| v.rule)
            .collect::<Vec<_>>()
    };
    assert_eq!(rules(&plan(vec![one(&[0]), one(&[0])])), [Rule::Identity]);
    let mut dear = plan(vec![one(&[0])]);
    dear.launch_price = MicroDollars(1);
    assert_eq!(rules(&dear), [Rule::Price]);
    let mut renamed = one(&[0]);
    renamed.offering.price = MicroDollars(1);
    assert_eq!(rules(&plan(vec![renamed])), [Rule::Offering]);
    let mut absent = one(&[0]);
    absent.types = vec![TypeId(99)];
    assert_eq!(rules(&plan(vec![absent])), [Rule::Identity]);
    let verdict = verify(&snapshot, &catalog, &plan(vec![one(&[1])]));
    assert_eq!(
        (verdict.wanted, verdict.placed, verdict.unplaced),
        (2, 1, vec![PodId(0)])
    );

    let (pair, alone) = (plan(vec![one(&[0]), one(&[1])]), plan(vec![one(&[0])]));
    let mut catalog = catalog.clone();
    let small = catalog.types.iter_mut().find(|t| &*t.name == "small").unwrap();
    let offering = small
        .offerings
        .iter_mut()
        .find(|o| &*o.zone == "a" && &*o.capacity_type == "on-demand")
        .unwrap();
    offering.reservation = Some(crate::catalog::Reservation {
        id: "r".into(),
        remaining: 1,
    });
    let found = verify(&snapshot, &catalog, &pair);
    assert_eq!(
        found.violations.iter().map(|v| v.rule).collect::<Vec<_>>(),
        [Rule::Reservation]
    );
    assert_eq!(verify(&snapshot, &catalog, &alone).violations, []);
}

/// Three pods of one core on two machines of 2 cores at 0.1: two fit on one, so each is worth half.
fn certified() -> (Snapshot, Catalog, Plan) {
    let (snapshot, catalog) = problem(
        r#"[{"cpu": 1000, "mem": 100, "count": 3}]"#,
        r#", "pools": [{"name": "default", "types": ["small"],
            "requirements": [{"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand"]}]}]"#,
    );
    let there = |pods: &[u32]| launch(&snapshot, &catalog, "default", &["small"], "a", pods);
    let mut plan = plan(vec![there(&[0, 1]), there(&[2])]);
    plan.lower_bound = MicroDollars(150_000);
    plan.bound.price = MicroDollars(150_000);
    plan.bound.duals = vec![(snapshot.pods[0].class, 50_000_000)];
    (snapshot, catalog, plan)
}

#[test]
fn a_sound_certificate_reproduces_its_bound() {
    let (snapshot, catalog, plan) = certified();
    assert_eq!(reprice(&snapshot, &catalog, &plan), Ok(MicroDollars(150_000)));
}

#[test]
fn a_false_certificate_is_refused() {
    type Spoil = fn(&mut Plan);
    let class = |plan: &Plan| plan.bound.duals[0].0;
    let (_, _, sound) = certified();
    let cap = CertificateError::Cap { class: class(&sound) };
    let high = |proven, stated| CertificateError::TooHigh { proven, stated };
    let worth = CertificateError::Worth {
        offering: "small in a as on-demand of pool default".into(),
        price: 100_000_000,
    };
    let cases: [(Spoil, CertificateError); 6] = [
        (
            |p| p.lower_bound = MicroDollars(1),
            CertificateError::Another {
                plan: 1,
                certificate: 150_000,
            },
        ),
        // One nano-dollar a pod more, and a machine holds more than it costs.
        (|p| p.bound.duals[0].1 += 1, worth),
        (|p| p.bound.duals[0].1 -= 1_000_000, high(147_000, 150_000)),
        (|p| p.launches.truncate(1), high(100_000, 150_000)),
        (
            |p| p.bound.duals[0].1 = -1,
            CertificateError::Dual { class: class(&sound) },
        ),
        // One a machine would make each worth a whole machine, but nothing asks for it.
        (|p| p.bound.caps = vec![(p.bound.duals[0].0, 1)], cap),
    ];
    for (spoil, expected) in cases {
        let (snapshot, catalog, mut plan) = certified();
        spoil(&mut plan);
        assert_eq!(reprice(&snapshot, &catalog, &plan), Err(expected));
    }
}

#[test]
fn room_on_nodes_and_reservations_lower_what_is_proven() {
    let (_, catalog, plan) = certified();
    let node = r#", "nodes": [{"name": "n", "type": "small", "zone": "a", "ct": "on-demand",
        "pods": [{"name": "z", "cpu": 900}]}], "pools": [{"name": "default", "types": ["small"],
        "requirements": [{"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand"]}]}]"#;
    let (mut snapshot, _) = problem(r#"[{"cpu": 1000, "mem": 100, "count": 3}]"#, node);
    // The pods that wait come first, and the classes of the certificate are theirs.
    snapshot
        .pods
        .sort_by_key(|pod| pod.place != crate::snapshot::Place::Pending);
    let mut plan = plan;
    plan.bound.duals[0].0 = snapshot.pods[0].class;
    let error = |proven| {
        Err(CertificateError::TooHigh {
            proven,
            stated: 150_000,
        })
    };
    assert_eq!(reprice(&snapshot, &catalog, &plan), error(100_000));

    let (snapshot, mut catalog, plan) = certified();
    let small = catalog.types.iter_mut().find(|t| &*t.name == "small").unwrap();
    for offering in &mut small.offerings {
        offering.price = MicroDollars(60_000);
        offering.reservation = Some(crate::catalog::Reservation {
            id: "r".into(),
            remaining: 1,
        });
    }
    // One reserved machine holds 0.1 worth of pods for 0.06.
    assert_eq!(reprice(&snapshot, &catalog, &plan), error(110_000));
}
