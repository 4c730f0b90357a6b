//! Plans to approve: what they say, what their names rest on, how large they get, and what becomes of them.

use plimsoll_api::plan::{BYTES_MAX, MACHINES_MAX, Plan, PlanSpec, SUPERSEDED};
use plimsoll_core::catalog::Catalog;
use plimsoll_report::{
    advice::{Basis, GOOD_FOR, advise, digest, name},
    approval::{Refusal, check, plan_page},
    keeping::{Change, SUPERSEDED_MAX, changes, is_superseded},
};

use super::*;

fn basis_at(items: &[Value], now: Timestamp) -> Basis {
    Basis::read(&read(items).index, &Prices::Aws, now)
}

fn basis(items: &[Value]) -> Basis {
    basis_at(items, taken())
}

fn advice_at(items: &[Value], now: Timestamp) -> Option<PlanSpec> {
    advise(&basis_at(items, now), &policy(), GOOD_FOR)
}

fn advice(items: &[Value]) -> Option<PlanSpec> {
    advice_at(items, taken())
}

/// A pod that no machine has room for.
fn waiting(name: &str) -> Value {
    let mut waiting = pod(
        name,
        "late",
        "",
        json!({
            "status": { "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable" }] },
        }),
    );
    merge(&mut waiting["spec"], json!({ "nodeName": null }));
    waiting["spec"]["containers"][0]["resources"]["requests"] = json!({ "cpu": "3500m", "memory": "4Gi" });
    waiting
}

#[test]
fn a_plan_says_what_the_report_says_completely() {
    let items = of_a_node_pool();
    let (plan, report) = (advice(&items).unwrap(), report_of(&items));
    assert_eq!(plan.machines_removed as u32, report.reachable.nodes_removed);
    assert_eq!(plan.machines_bought as u32, report.reachable.nodes_bought);
    assert_eq!(plan.pods as u32, report.reachable.pods_moved);
    let hourly = |cost: plimsoll_report::savings::Cost| format!("{:.4}", cost.per_hour);
    assert_eq!(plan.before.per_hour, hourly(report.now));
    assert_eq!(plan.after.per_hour, hourly(report.reachable.cost));
    assert_eq!(plan.saves.per_hour, hourly(report.reachable.saves));
    assert_eq!(plan.bound.as_ref().unwrap().per_hour, hourly(report.bound));
    let (after, bound) = (report.reachable.cost.per_hour, report.bound.per_hour);
    assert_eq!(
        plan.gap_percent,
        Some(format!("{:.1}", (after - bound) / bound * 100.0))
    );
    let prices = &plan.prices;
    assert!(
        prices.contains("list prices") && prices.contains(", of 20"),
        "{prices}"
    );

    // Every pod of a machine that goes has a place, on a machine that is not among those that go.
    let gone: Vec<&str> = plan.remove.iter().map(|r| r.node.as_str()).collect();
    assert!(gone.len() > 2 && plan.fill.iter().all(|f| !gone.contains(&f.node.as_str())));
    let mut moved: Vec<&String> = plan.fill.iter().flat_map(|f| &f.pods).collect();
    moved.extend(plan.buy.iter().flat_map(|b| &b.pods));
    moved.sort();
    let of_gone = |i: &usize| gone.contains(&format!("n{i}").as_str());
    let expected: Vec<String> = (0..6).filter(of_gone).map(|i| format!("shop/web-{i}")).collect();
    assert_eq!(moved, expected.iter().collect::<Vec<_>>());
    for removal in &plan.remove {
        assert_eq!(removal.reason, "its 1 pod cost less elsewhere");
        assert!(plan.commands.contains(&format!("\nempty {}\n", removal.node)));
    }
    for (pod, _) in moved.iter().zip(0..) {
        let sent = plan
            .commands
            .lines()
            .filter(|l| l.starts_with("fill ") && l.contains(pod.as_str()));
        assert_eq!(sent.count(), 1, "{pod}");
    }
    assert_eq!(plan.good_until.0, taken() + GOOD_FOR);
}

#[test]
fn a_plan_has_the_commands_of_the_report() {
    let items = of_a_node_pool();
    let dump = read(&items);
    let report = report_of_dump(&dump);
    let plan = advice(&items).unwrap();
    let body = |script: &str, run: &str| {
        let text = script.replace(run, "RUN");
        let lines = text.lines().filter(|l| !l.contains(" nodes go, "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let of_report = commands(&report, &dump.index, None);
    let run = format!("report-{:x}", report.taken.as_second());
    assert_eq!(body(&plan.commands, &name(&plan.digest)), body(&of_report, &run));
}

#[test]
fn pods_that_wait_come_first() {
    let mut items = of_a_node_pool();
    items.extend([waiting("late-0"), waiting("late-1")]);
    let plan = advice(&items).unwrap();
    assert_eq!((plan.pods, plan.machines_removed), (2, 0));
    let mut pods: Vec<&String> = plan.buy.iter().flat_map(|b| &b.pods).collect();
    pods.sort();
    assert_eq!(pods, ["shop/late-0", "shop/late-1"]);
    let price: f64 = plan.buy.iter().map(|b| b.per_hour.parse::<f64>().unwrap()).sum();
    let saves: f64 = plan.saves.per_hour.parse().unwrap();
    assert!(
        price > 0.1 && (saves + price).abs() < 0.0002,
        "{saves} and {price}"
    );
    assert_eq!(
        plan.commands.matches("kubectl apply --server-side -f -").count() as i32,
        plan.machines_bought
    );
    assert!(!plan.commands.contains("\nfill ") && !plan.commands.contains("\nempty "));
    let reasons: Vec<&str> = plan.buy.iter().map(|b| b.reason.as_str()).collect();
    assert!(
        reasons.iter().all(|r| r.ends_with("no machine has room for")),
        "{reasons:?}"
    );

    // Where nothing can be bought for them, what runs is not left dear for their sake.
    let mut unserved = half_empty();
    unserved.push(waiting("late-0"));
    let plan = advice(&unserved).unwrap();
    assert!(plan.machines_removed > 2);
    assert!(
        plan.notes.iter().any(|n| n.starts_with("1 pod wait")),
        "{:?}",
        plan.notes
    );
}

#[test]
fn who_approves_is_told_what_moving_disturbs() {
    let mut items = of_a_node_pool();
    let plain = advice(&items).unwrap();
    assert!(
        !plain
            .notes
            .iter()
            .any(|n| n.contains("emptyDir") || n.contains("away")),
        "{:?}",
        plain.notes
    );
    for (i, pod) in items.iter_mut().filter(|item| item["kind"] == "Pod").enumerate() {
        let owner = json!([{ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": format!("s{i}"), "uid": "s", "controller": true }]);
        merge(
            pod,
            json!({ "metadata": { "ownerReferences": owner }, "spec": { "volumes": [{ "name": "tmp", "emptyDir": {} }] } }),
        );
    }
    let plan = advice(&items).unwrap();
    let moved = plan.pods;
    for says in ["without another of its workload", "with data in emptyDir"] {
        let note = plan.notes.iter().find(|n| n.contains(says)).unwrap();
        assert!(note.starts_with(&format!("{moved} pods ")), "{note}");
    }
}

#[test]
fn nothing_to_do_is_no_plan() {
    let full = |i: usize| {
        let requests = json!({ "cpu": "3900m", "memory": "14000Mi" });
        let containers = json!([{ "name": "c", "resources": { "requests": requests } }]);
        pod(
            &format!("web-{i}"),
            "web",
            &format!("n{i}"),
            json!({ "spec": { "containers": containers } }),
        )
    };
    let items = [node("n0", "m7g.medium", "us-east-1a", json!({})), full(0)];
    assert_eq!(advice(&items), None);
}

#[test]
fn the_same_cluster_gives_the_same_plan_and_another_cluster_another() {
    let items = of_a_node_pool();
    let first = advice(&items).unwrap();
    let later = advice_at(&items, taken() + Duration::from_secs(600)).unwrap();
    assert_eq!(first.digest, later.digest);
    assert_eq!(first.commands, later.commands);
    assert_ne!(first.made_at, later.made_at);
    assert_eq!((digest(&first), first.digest.len()), (first.digest.clone(), 64));

    let mut renamed = items.clone();
    renamed[1]["metadata"]["name"] = "web-9".into();
    let mut more = items.clone();
    more.push(pod("web-6", "web", "n0", json!({})));
    let mut template = items.clone();
    merge(
        template.last_mut().unwrap(),
        json!({ "spec": { "template": { "metadata": { "labels": { "team": "shop" } } } } }),
    );
    for (what, changed) in [
        ("a pod's name", renamed),
        ("a pod more", more),
        ("what is bought", template),
    ] {
        assert_ne!(advice(&changed).unwrap().digest, first.digest, "{what}");
    }
    let dump = read(&items);
    let basis = Basis::read(&dump.index, &Prices::Aws, taken());
    let other = Policy {
        steps_max: 201,
        ..policy()
    };
    assert_ne!(
        advise(&basis, &other, GOOD_FOR).unwrap().digest,
        first.digest,
        "the settings"
    );
    let mut altered = first.clone();
    altered.commands.push_str("\nkubectl delete namespace shop\n");
    assert_ne!(digest(&altered), first.digest, "what somebody has added");
}

#[test]
fn a_step_is_small_whatever_the_cluster() {
    let long = "n".repeat(200);
    let mut items = Vec::new();
    for i in 0..60 {
        let name = format!("{long}-{i:03}");
        items.push(node(&name, "m5.xlarge", "us-east-1a", json!({})));
        items.push(pod(&format!("{name}-pod"), "web", &name, json!({})));
    }
    let report = report_of(&items);
    assert!(report.reachable.nodes_removed as usize > MACHINES_MAX);
    let plan = advice(&items).unwrap();
    assert!(
        (1..=MACHINES_MAX as i32).contains(&plan.machines_removed),
        "{}",
        plan.machines_removed
    );
    assert!(serde_json::to_vec(&plan).unwrap().len() <= BYTES_MAX);
    assert!(
        plan.notes
            .iter()
            .any(|n| n.contains("left for plans that follow")),
        "{:?}",
        plan.notes
    );
    let saves: f64 = plan.saves.per_hour.parse().unwrap();
    assert!(saves > 0.0 && saves < report.reachable.saves.per_hour);

    // More pods than any step could name are moved in smaller steps.
    let mut crowded = Vec::new();
    for i in 0..15 {
        let name = format!("{long}-{i:03}");
        let large = json!({ "cpu": "15890m", "memory": "59Gi", "pods": "234" });
        let status = json!({ "status": { "capacity": large, "allocatable": large } });
        crowded.push(node(&name, "m5.4xlarge", "us-east-1a", status));
        for j in 0..200 {
            let small = json!({ "spec": { "containers": [{ "name": "c", "resources": {
                "requests": { "cpu": "10m", "memory": "20Mi" } } }] } });
            crowded.push(pod(&format!("{name}-{j:03}"), "web", &name, small));
        }
    }
    let plan = advice(&crowded).unwrap();
    assert!(serde_json::to_vec(&plan).unwrap().len() <= BYTES_MAX);
    assert!(
        plan.buy.len() <= MACHINES_MAX && plan.pods >= 200,
        "{}",
        plan.pods
    );
    assert!(
        (1..15).contains(&plan.machines_removed),
        "{}",
        plan.machines_removed
    );
}

#[test]
fn machines_for_many_pods_are_bought_in_steps() {
    let mut items = of_a_node_pool();
    merge(
        items.last_mut().unwrap(),
        json!({ "spec": { "template": { "spec": { "requirements": [
            { "key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["m5.xlarge"] }] } } } }),
    );
    items.extend((0..50).map(|i| waiting(&format!("late-{i}"))));
    let plan = advice(&items).unwrap();
    assert_eq!((plan.buy.len(), plan.machines_bought), (MACHINES_MAX, 20));
    assert_eq!((plan.bound, plan.gap_percent), (None, None));
    assert_eq!(plan.notes[0], "30 machines more are for the next plan");
}

/// As the API server has it.
fn stored(spec: PlanSpec, uid: usize) -> Plan {
    let mut plan = Plan::new(&name(&spec.digest), spec);
    plan.metadata.uid = Some(uid.to_string());
    plan
}

/// What the API server would have after the changes.
fn after(known: &[Plan], changes: Vec<Change>) -> Vec<Plan> {
    let mut plans = known.to_vec();
    for change in changes {
        match change {
            Change::Delete { name, uid } => {
                let before = plans.len();
                plans.retain(|p| {
                    p.metadata.name.as_ref() != Some(&name) || p.metadata.uid.as_ref() != Some(&uid)
                });
                assert_eq!(plans.len() + 1, before, "{name} is deleted once");
            }
            Change::Create(plan) => {
                assert!(plans.iter().all(|p| p.metadata.name != plan.metadata.name));
                plans.push(stored(plan.spec.clone(), plans.len() + 1000));
                plans.last_mut().unwrap().status = plan.status;
            }
            Change::Status(plan) => {
                let at = plans
                    .iter()
                    .position(|p| p.metadata.name == plan.metadata.name)
                    .unwrap();
                plans[at] = *plan;
            }
        }
    }
    plans
}

/// One plan for each number.
fn numbered(number: i64) -> PlanSpec {
    let mut spec = advice(&of_a_node_pool()).unwrap();
    spec.settings.steps = number;
    let before = name(&spec.digest);
    spec.digest = digest(&spec);
    spec.commands = spec.commands.replace(&before, &name(&spec.digest));
    spec
}

fn standing(plans: &[Plan]) -> Vec<&str> {
    let good = plans.iter().filter(|p| !is_superseded(p));
    good.map(|p| p.metadata.name.as_deref().unwrap()).collect()
}

#[test]
fn one_plan_holds_and_few_of_the_others_are_kept() {
    let mut plans = Vec::new();
    let mut now = taken();
    let mut last = None;
    for number in 0..10 {
        now += Duration::from_secs(60);
        let mut spec = numbered(number);
        spec.made_at.0 = now;
        spec.good_until.0 = now + GOOD_FOR;
        last = Some(spec.clone());
        plans = after(&plans, changes(&plans, Some(spec.clone()), now));
        assert_eq!(standing(&plans), [name(&spec.digest)]);
        assert!(plans.len() <= SUPERSEDED_MAX + 1, "{}", plans.len());
    }
    // The latest are kept, and say what replaced them.
    let numbers: Vec<i64> = plans.iter().map(|p| p.spec.settings.steps).collect();
    assert_eq!(numbers, [4, 5, 6, 7, 8, 9]);
    let condition = |plan: &Plan| plan.status.as_ref().unwrap().conditions[0].clone();
    let replaced = condition(&plans[4]);
    assert_eq!(
        (replaced.type_.as_str(), replaced.reason.as_str()),
        (SUPERSEDED, "Replaced")
    );
    assert_eq!(
        replaced.message,
        format!("{} is what the cluster wants now", name(&plans[5].spec.digest))
    );

    // It stands while the cluster wants it, and its condition does not change for that.
    let before = condition(&plans[5]);
    now += Duration::from_secs(60);
    plans = after(&plans, changes(&plans, last.clone(), now));
    assert_eq!((plans.len(), condition(&plans[5])), (6, before));
    assert_eq!(plans[5].status.as_ref().unwrap().held_at.as_ref().unwrap().0, now);

    // Nothing to do.
    plans = after(&plans, changes(&plans, None, now));
    assert_eq!(standing(&plans), [""; 0]);
    assert_eq!(condition(&plans[4]).reason, "NothingToDo");
}

#[test]
fn a_plan_that_is_wanted_again_or_has_expired_is_made_anew() {
    let (first, second) = (numbered(1), numbered(2));
    let now = taken();
    let mut plans = after(&[], changes(&[], Some(first.clone()), now));
    plans = after(&plans, changes(&plans, Some(second.clone()), now));
    plans = after(&plans, changes(&plans, Some(first.clone()), now));
    assert_eq!(standing(&plans), [name(&first.digest)]);
    assert_eq!(plans.len(), 2);

    let late = now + GOOD_FOR;
    let mut again = first.clone();
    again.good_until.0 = late + GOOD_FOR;
    plans = after(&plans, changes(&plans, Some(again), late));
    assert_eq!(standing(&plans), [name(&first.digest)]);
    let held = plans.iter().find(|p| !is_superseded(p)).unwrap();
    assert_eq!(held.spec.good_until.0, late + GOOD_FOR);
    // And a Plan of the same name that says something else is not taken for it.
    let mut altered = stored(first.clone(), 1);
    altered.spec.commands = "true".to_owned();
    plans = after(
        std::slice::from_ref(&altered),
        changes(std::slice::from_ref(&altered), Some(first.clone()), now),
    );
    assert_eq!(plans.iter().map(|p| &p.spec).collect::<Vec<_>>(), [&first]);
}

#[test]
fn only_what_the_cluster_still_wants_is_carried_out() {
    let (spec, other) = (numbered(1), numbered(2));
    let plan = after(&[], changes(&[], Some(spec.clone()), taken())).remove(0);
    let own = name(&spec.digest);
    let basis = basis(&half_empty());
    assert_eq!(check(&plan, &basis, Some(&spec), taken()), Ok(()));
    let stale = |wants: &str| {
        Err(Refusal::Stale {
            name: own.clone(),
            wants: wants.to_owned(),
        })
    };
    assert_eq!(
        check(&plan, &basis, Some(&other), taken()),
        stale(&name(&other.digest))
    );
    assert_eq!(check(&plan, &basis, None, taken()), stale("nothing"));
    let until = spec.good_until.0;
    let expired = Refusal::Expired {
        name: own.clone(),
        until,
    };
    assert_eq!(check(&plan, &basis, Some(&spec), until), Err(expired));

    let mut altered = plan.clone();
    altered.spec.commands.push_str("kubectl delete namespace shop\n");
    assert_eq!(
        check(&altered, &basis, Some(&spec), taken()),
        Err(Refusal::Altered(own.clone()))
    );
    // One that was altered together with its digest has another name.
    altered.spec.digest = digest(&altered.spec);
    assert_eq!(
        check(&altered, &basis, Some(&spec), taken()),
        Err(Refusal::Altered(own))
    );

    let plans = after(
        std::slice::from_ref(&plan),
        changes(std::slice::from_ref(&plan), Some(other.clone()), taken()),
    );
    let refusal = check(&plans[0], &basis, Some(&spec), taken())
        .unwrap_err()
        .to_string();
    let says = format!(
        "is superseded: {} is what the cluster wants now",
        name(&other.digest)
    );
    assert!(refusal.ends_with(&says), "{refusal}");
}

#[test]
fn what_no_longer_holds_is_said_before_what_holds_now() {
    let (first, second) = (numbered(1), numbered(2));
    let mut plans = after(&[], changes(&[], Some(first.clone()), taken()));
    // Also where the Plan that is wanted now has expired, and is made anew under its name.
    let mut stood = stored(second.clone(), 7);
    stood.spec.good_until.0 = taken();
    plans.push(stood);
    for known in [&plans[..1], &plans[..]] {
        let changes = changes(known, Some(second.clone()), taken());
        for calls in 0..=changes.len() {
            let plans = after(known, changes[..calls].to_vec());
            let good = |p: &&Plan| !is_superseded(p) && p.spec.good_until.0 > taken();
            let approvable = plans.iter().filter(good).count();
            let expected = usize::from(calls == 0 || calls == changes.len());
            assert_eq!(approvable, expected, "after {calls} of {changes:#?}");
        }
    }
}

/// Six machines of a NodePool with these budgets, and their claims.
fn with_budgets(budgets: Value) -> Vec<Value> {
    let mut items = of_a_node_pool();
    merge(
        items.last_mut().unwrap(),
        json!({ "spec": { "disruption": { "budgets": budgets } } }),
    );
    let ready = ["Launched", "Registered", "Initialized"].map(|kind| {
        json!({ "type": kind, "status": "True", "reason": kind, "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z" })
    });
    let nodes: Vec<Value> = items.iter().filter(|i| i["kind"] == "Node").cloned().collect();
    items.extend(nodes.iter().map(|node| {
        let name = node["metadata"]["name"].as_str().unwrap();
        json!({
            "apiVersion": "karpenter.sh/v1", "kind": "NodeClaim",
            "metadata": { "name": format!("claim-{name}"), "uid": name, "labels": { "karpenter.sh/nodepool": "default" } },
            "spec": { "requirements": [], "nodeClassRef": {
                "group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default" } },
            "status": { "providerID": node["spec"]["providerID"], "nodeName": name, "conditions": ready },
        })
    }));
    items
}

#[test]
fn a_step_keeps_to_the_disruption_budgets_of_its_node_pools() {
    let open = advice(&with_budgets(json!([{ "nodes": "100%" }]))).unwrap();
    assert!(open.machines_removed > 2);
    let says = "the disruption budgets of their NodePools let no more go at once";
    assert!(!open.notes.iter().any(|n| n.contains(says)), "{:?}", open.notes);

    let two = advice(&with_budgets(json!([{ "nodes": "2" }]))).unwrap();
    assert_eq!(two.machines_removed, 2);
    assert!(two.notes.iter().any(|n| n.ends_with(says)), "{:?}", two.notes);
    // Each reason has budgets of its own; these machines are in use.
    let of_empty = json!([{ "nodes": "0", "reasons": ["Empty"] }]);
    assert_eq!(
        advice(&with_budgets(of_empty)).map(|p| p.remove),
        Some(open.remove.clone())
    );
    let of_used = json!([{ "nodes": "0", "reasons": ["Underutilized"] }]);
    assert_eq!(advice(&with_budgets(of_used)), None);
    // What leaves already uses a budget up.
    let mut leaving = with_budgets(json!([{ "nodes": "2" }]));
    let node = leaving.iter_mut().find(|item| item["kind"] == "Node").unwrap();
    merge(
        node,
        json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } }),
    );
    assert_eq!(advice(&leaving).unwrap().machines_removed, 1);

    // A Plan of before the budgets were tightened.
    let plan = stored(open.clone(), 1);
    let refused = |budgets: Value, allowed: usize| {
        let refusal = check(&plan, &basis(&with_budgets(budgets)), None, taken()).unwrap_err();
        let Refusal::Budgets {
            removes,
            allowed: found,
            ..
        } = &refusal
        else {
            panic!("{refusal}")
        };
        assert_eq!((*removes, *found), (open.remove.len(), allowed));
        refusal.to_string()
    };
    assert!(refused(json!([{ "nodes": "2" }]), 2).contains("change spec.disruption.budgets"));
    // Closed on weekdays for an hour from midnight, and it is midnight on a Friday.
    refused(
        json!([{ "nodes": "0", "schedule": "0 0 * * mon-fri", "duration": "1h" }]),
        0,
    );
    let basis = basis(&with_budgets(json!([{ "nodes": "100%" }])));
    assert_eq!(check(&plan, &basis, Some(&open), taken()), Ok(()));
}

#[test]
fn budgets_of_several_reasons_let_go_the_same_in_any_order() {
    let mut items = with_budgets(json!([{ "nodes": "5" }, { "nodes": "2", "reasons": ["Underutilized"] }]));
    items.retain(|item| item["kind"] != "Pod" || item["metadata"]["name"].as_str() > Some("web-2"));
    let basis = basis(&items);
    let names: Vec<String> = (0..6).map(|i| format!("n{i}")).collect();
    // Three without pods, then three with.
    let forward = basis.within_budgets(names.iter().map(String::as_str));
    assert_eq!(forward.len(), 5, "{forward:?}");
    assert_eq!(basis.within_budgets(forward.iter().copied().rev()), forward);
    let backward = basis.within_budgets(names.iter().rev().map(String::as_str));
    assert_eq!(backward.len(), 5, "{backward:?}");
    assert_eq!(basis.within_budgets(backward.iter().copied()), backward);

    // So what is advised may be carried out.
    let spec = advice(&items).unwrap();
    let plan = stored(spec.clone(), 1);
    assert_eq!(check(&plan, &basis, Some(&spec), taken()), Ok(()));
    assert!(spec.remove.len() > 3, "{:?}", spec.remove);
}

#[test]
fn machines_that_are_closed_are_left_to_whoever_has_closed_them() {
    let budgets = json!([{ "nodes": "2" }]);
    let open = advice(&with_budgets(budgets.clone())).unwrap();
    let going = open.remove[0].node.clone();
    let mut items = with_budgets(budgets);
    let node = items
        .iter_mut()
        .find(|item| item["metadata"]["name"] == *going)
        .unwrap();
    let unschedulable = json!({ "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule" });
    merge(
        node,
        json!({ "spec": { "unschedulable": true, "taints": [unschedulable] } }),
    );
    let basis = basis(&items);
    let nodes = going.clone();
    let refused = Refusal::Closed {
        name: name(&open.digest),
        nodes,
    };
    assert_eq!(
        check(&stored(open.clone(), 1), &basis, Some(&open), taken()),
        Err(refused)
    );
    // It uses the budget up, too.
    let spec = advice(&items).unwrap();
    assert_eq!(spec.machines_removed, 1);
    assert!(
        spec.remove[0].node != going && spec.fill.iter().all(|f| f.node != going),
        "{spec:#?}"
    );
    assert!(
        spec.notes
            .iter()
            .any(|n| n.starts_with("1 machine closed to new pods")),
        "{:?}",
        spec.notes
    );
}

#[test]
fn the_page_of_a_plan_shows_each_machine_and_the_money() {
    let plan = advice(&of_a_node_pool()).unwrap();
    let page = plan_page(&plan);
    for removal in &plan.remove {
        let line = page
            .lines()
            .find(|l| l.trim_start().starts_with("remove") && l.contains(&removal.node));
        assert!(
            line.is_some_and(|l| l.contains("0.1920") && l.contains(&removal.reason)),
            "{page}"
        );
    }
    let money = format!("saves ${} a month", plan.saves.per_month);
    assert!(page.contains(&money) && page.contains("% above"), "{page}");

    // Whoever wrote the Plan has chosen its settings.
    let says = "these settings are not the defaults";
    assert!(
        page.contains("preferences Respect, minimum values Strict, 200 search steps\n")
            && page.contains(says),
        "{page}"
    );
    let mut usual = plan;
    usual.settings.steps = 20_000;
    assert!(!plan_page(&usual).contains(says));
}

#[test]
fn without_prices_there_is_no_plan() {
    let dump = read(&of_a_node_pool());
    let nothing_for_sale = Prices::Catalog(Catalog::default());
    let basis = Basis::read(&dump.index, &nothing_for_sale, taken());
    assert_eq!(advise(&basis, &policy(), GOOD_FOR), None);
}
