//! What each restraint costs.

use plimsoll_report::{savings::reachable, what_if::WhatIf};
use plimsoll_state::Index;

use super::*;

fn month_of(report: &SavingsReport, kind: RestraintKind, subject: &str) -> f64 {
    let found = report
        .restraints
        .iter()
        .find(|r| r.kind == kind && r.subject == subject);
    found
        .unwrap_or_else(|| panic!("no {kind:?} {subject} in {:?}", report.restraints))
        .per_month
        .unwrap()
}

/// Every kind of restraint; [`restrained`] does not compile without a case for a new one.
const KINDS: [RestraintKind; 8] = [
    RestraintKind::PodDisruptionBudget,
    RestraintKind::DoNotDisrupt,
    RestraintKind::NodeDoNotDisrupt,
    RestraintKind::NoController,
    RestraintKind::AntiAffinity,
    RestraintKind::SingleReplica,
    RestraintKind::LocalStorage,
    RestraintKind::MissingRequests,
];

#[test]
fn those_that_are_not_priced_alone_are_listed_with_their_owners() {
    let mut items = half_empty();
    for i in 0..14 {
        let app = format!("app-{i:02}");
        let stays = json!({ "metadata": { "annotations": { "karpenter.sh/do-not-disrupt": "true" } }, "spec": { "containers":
            [{ "name": "c", "resources": { "requests": { "cpu": "250m", "memory": "256Mi" } } }] } });
        items.push(pod(&app, &app, &format!("n{}", i % 6), stays));
    }
    let report = report_of(&items);
    let rows = report
        .restraints
        .iter()
        .filter(|r| r.kind == RestraintKind::DoNotDisrupt);
    let alone = rows.clone().filter(|r| r.per_month.is_some()).count();
    assert!(rows.count() == 14 && alone == 12, "{:#?}", report.restraints);
    let shown = text(&report, Colour::Never);
    assert!(shown.contains("in the sum  shop/Deployment/app-"), "{shown}");
    // Each of them is the only pod of its workload too.
    assert!(shown.contains("… and 9 more: --csv restraints"), "{shown}");
    let page = html(&report);
    assert!(page.contains("in the sum") && page.contains("… and 8 more: <code>--csv restraints</code>"));
}

fn budget() -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "web", "namespace": "shop" },
        "spec": { "minAvailable": 6, "selector": { "matchLabels": { "app": "web" } } },
        "status": { "disruptionsAllowed": 0, "currentHealthy": 6, "desiredHealthy": 6, "expectedPods": 6 },
    })
}

/// A cluster with one restraint of the kind, its subject, and the cluster it is measured against: without the restraint
/// where it is obeyed, else with it obeyed.
fn restrained(kind: RestraintKind) -> (Vec<Value>, &'static str, Vec<Value>) {
    let annotated = |key: &str, value: &str| json!({ "metadata": { "annotations": { key: value } } });
    let stays = || annotated("karpenter.sh/do-not-disrupt", "true");
    let with = |at: usize, patch: Value| {
        let mut items = half_empty();
        merge(&mut items[at], patch);
        items
    };
    // Something the first pod has; obeying it is what an annotation does.
    let of_pod = |patch: Value| {
        let items = with(1, patch);
        let mut obeyed = items.clone();
        merge(&mut obeyed[1], stays());
        (items, obeyed)
    };
    let free = half_empty();
    match kind {
        RestraintKind::PodDisruptionBudget => ([half_empty(), vec![budget()]].concat(), "shop/web", free),
        RestraintKind::DoNotDisrupt => (with(1, stays()), "shop/Deployment/web", free),
        RestraintKind::NodeDoNotDisrupt => (with(0, stays()), "n0", free),
        RestraintKind::NoController => (
            with(1, json!({ "metadata": { "ownerReferences": null } })),
            "shop/Pod/web-0",
            free,
        ),
        RestraintKind::AntiAffinity => {
            let rule = json!({ "spec": { "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [
                { "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": { "app": "web" } } },
            ] } } } });
            let mut items = half_empty();
            items
                .iter_mut()
                .filter(|i| i["kind"] == "Pod")
                .for_each(|pod| merge(pod, rule.clone()));
            (items, "shop/Deployment/web", free)
        }
        RestraintKind::SingleReplica => {
            let (items, obeyed) = of_pod(
                json!({ "metadata": { "labels": { "app": "solo" }, "ownerReferences": [
                { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "solo-5f", "uid": "solo", "controller": true }] } }),
            );
            (items, "shop/Deployment/solo", obeyed)
        }
        RestraintKind::LocalStorage => {
            let (items, obeyed) =
                of_pod(json!({ "spec": { "volumes": [{ "name": "tmp", "emptyDir": {} }] } }));
            (items, "shop/Deployment/web", obeyed)
        }
        RestraintKind::MissingRequests => {
            let (items, obeyed) = of_pod(json!({ "spec": { "containers": [{ "name": "c" }] } }));
            (items, "shop/Deployment/web", obeyed)
        }
    }
}

#[test]
fn each_restraint_costs_the_difference_between_the_plans_with_and_without_it() {
    for kind in KINDS {
        let (items, subject, other) = restrained(kind);
        let (report, other) = (report_of(&items), report_of(&other));
        let difference = report.reachable.cost.per_month - other.reachable.cost.per_month;
        let saved_by_lifting = if kind.is_obeyed() { difference } else { -difference };
        let month = month_of(&report, kind, subject);
        assert!(
            close(month, saved_by_lifting),
            "{kind:?}: {month} and {saved_by_lifting}"
        );
        assert!(month > 10.0, "{kind:?} makes a difference: {month}");
        let all = report.restraint_kinds.iter().find(|k| k.kind == kind).unwrap();
        assert!(
            close(all.per_month, month),
            "{kind:?}: the only one of its kind costs what the kind does"
        );
        let held = report.nodes.iter().filter(|n| n.held_by.is_some()).count();
        assert_eq!(
            held > 0,
            kind.is_obeyed() && kind != RestraintKind::AntiAffinity,
            "{kind:?}"
        );
    }
}

#[test]
fn a_kind_of_restraint_costs_what_lifting_all_of_it_would_save() {
    let stays = json!({ "metadata": { "annotations": { "cluster-autoscaler.kubernetes.io/safe-to-evict": "false" } } });
    let mut items = half_empty();
    // Two workloads hold two machines each; two others are free.
    for (at, app) in [(1, "a"), (3, "a"), (5, "b"), (7, "b")] {
        let of_app = json!({ "metadata": { "labels": { "app": app }, "ownerReferences": [
            { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app}-5f"), "uid": app, "controller": true }] } });
        merge(&mut items[at], of_app);
    }
    let free = report_of(&items).reachable.cost.per_month;
    for at in [1, 3, 5, 7] {
        merge(&mut items[at], stays.clone());
    }
    let report = report_of(&items);
    let only = |held: [usize; 2]| {
        let mut items = items.clone();
        held.iter()
            .for_each(|at| merge(&mut items[*at], json!({ "metadata": { "annotations": null } })));
        report.reachable.cost.per_month - report_of(&items).reachable.cost.per_month
    };
    let month = |subject| month_of(&report, RestraintKind::DoNotDisrupt, subject);
    assert!(close(month("shop/Deployment/a"), only([1, 3])));
    assert!(close(month("shop/Deployment/b"), only([5, 7])));
    let all = report.restraint_kinds[0].per_month;
    assert!(close(all, report.reachable.cost.per_month - free), "{all}");
    assert!(month("shop/Deployment/a") > 10.0 && all > month("shop/Deployment/a"));
    assert!(close(report.unblocked.cost.per_month, free));
    let prices: Vec<f64> = report.restraints.iter().filter_map(|r| r.per_month).collect();
    assert!(prices.is_sorted_by(|a, b| a >= b), "dearest first: {prices:?}");
}

#[test]
fn a_budget_that_never_allows_an_eviction_says_whose_pods_it_holds() {
    let report = report_of(&[half_empty(), vec![budget()]].concat());
    assert!(
        close(report.reachable.cost.per_hour, report.now.per_hour),
        "nothing can move"
    );
    let row = &report.restraints[0];
    assert!(row.for_ever && row.pods == 6 && row.nodes == 6, "{row:?}");
    assert_eq!(row.owners, ["shop/Deployment/web"]);
    for shown in [text(&report, Colour::Never), html(&report)] {
        assert!(shown.contains("of shop/Deployment/web"), "{shown}");
    }
}

#[test]
fn pods_without_requests_are_counted() {
    let mut items = half_empty();
    merge(
        &mut items[1],
        json!({ "spec": { "volumes": [{ "name": "tmp", "emptyDir": {} }], "containers": [{ "name": "c" }] } }),
    );
    let report = report_of(&items);
    let kinds: Vec<_> = report
        .restraint_kinds
        .iter()
        .map(|k| (k.kind, k.obeyed, k.pods))
        .collect();
    assert_eq!(
        kinds,
        [
            (RestraintKind::LocalStorage, false, 1),
            (RestraintKind::MissingRequests, false, 1),
        ]
    );
    assert_eq!(report.totals.pods_without_requests, 1);
}

#[test]
fn taking_a_budget_away_in_a_what_if_saves_what_the_report_says() {
    let items = [half_empty(), vec![budget()]].concat();
    let report = report_of(&items);
    let mut without = budget();
    merge(
        &mut without,
        json!({ "metadata": { "annotations": { "plimsoll.dev/what-if": "delete" } } }),
    );
    let changes = WhatIf::read(without.to_string().as_bytes()).unwrap();
    let of = |index: &Index| reachable(&Cluster::read(index, &Prices::Aws, taken()), &policy()).dollars();
    let dump = read(&items);
    let now = of(&dump.index);
    let then = of(&changes.apply(dump.index).unwrap());
    assert!(close(now, report.reachable.cost.per_hour));
    let saved = month_of(&report, RestraintKind::PodDisruptionBudget, "shop/web");
    assert!(
        saved > 0.0 && close((now - then) * 730.0, saved),
        "{saved}, {now} -> {then}"
    );
}
