//! What is read of machines, and what a report says of them.

use super::*;

#[test]
fn a_half_empty_cluster_shrinks_to_what_its_pods_need_and_the_numbers_add_up() {
    let report = report_of(&half_empty());
    // Six m5.xlarge at $0.192.
    assert!(close(report.now.per_hour, 6.0 * 0.192), "{:?}", report.now);
    assert!(close(report.now.per_month, 6.0 * 0.192 * 730.0));
    let reachable = &report.reachable;
    assert!(
        reachable.cost.per_hour <= report.now.per_hour / 2.0,
        "{reachable:?}"
    );
    assert!(report.bound.per_hour <= reachable.cost.per_hour);
    assert!(report.reachable_with_spot.cost.per_hour < reachable.cost.per_hour);
    assert!(close(
        reachable.saves.per_hour,
        report.now.per_hour - reachable.cost.per_hour
    ));
    assert_eq!(reachable.nodes_kept + reachable.nodes_removed, 6);
    let removed = report.nodes.iter().filter(|n| n.action == Action::Remove).count();
    assert_eq!(removed as u32, reachable.nodes_removed);
    let machines: u32 = reachable.machines.iter().map(|m| m.count).sum();
    assert_eq!(machines, reachable.nodes_kept + reachable.nodes_bought);
    let price: f64 = reachable
        .machines
        .iter()
        .map(|m| f64::from(m.count) * m.per_hour.unwrap())
        .sum();
    assert!(close(price, reachable.cost.per_hour), "{price} and {reachable:?}");
    let spent: f64 = report.namespaces.iter().map(|s| s.cost.per_hour).sum();
    let idle = report.idle.cpu.per_hour + report.idle.memory.per_hour;
    assert!(close(spent + idle, report.now.per_hour), "{spent} + {idle}");
    assert_eq!(report.workloads[0].workload, "Deployment/web");
    assert_eq!(
        report,
        report_of(&half_empty()),
        "the same file gives the same report"
    );
}

#[test]
fn nodes_are_priced_by_the_labels_of_their_makers_and_unknown_ones_are_listed() {
    let unlabelled = json!({ "metadata": { "labels": { "eks.amazonaws.com/capacityType": null, "eks.amazonaws.com/nodegroup": null } } });
    let with = |labels: Value| {
        let mut patch = unlabelled.clone();
        merge(&mut patch, json!({ "metadata": { "labels": labels } }));
        node("n", "m5.xlarge", "us-east-1a", patch)
    };
    let cases = [
        (
            json!({ "eks.amazonaws.com/capacityType": "SPOT", "eks.amazonaws.com/nodegroup": "a" }),
            0.0768,
            "a",
        ),
        (
            json!({ "karpenter.sh/capacity-type": "spot", "karpenter.sh/nodepool": "b" }),
            0.0768,
            "b",
        ),
        (
            json!({ "kops.k8s.io/instancegroup": "c", "node-role.kubernetes.io/spot-worker": "true" }),
            0.0768,
            "c",
        ),
        (json!({ "kops.k8s.io/instancegroup": "d" }), 0.192, "d"),
        (
            json!({ "eks.amazonaws.com/capacityType": "ON_DEMAND" }),
            0.192,
            "",
        ),
    ];
    for (labels, price, pool) in cases {
        let report = report_of(&[with(labels.clone())]);
        assert!(close(report.now.per_hour, price), "{labels}: {:?}", report.now);
        assert_eq!(report.nodes[0].pool, pool, "{labels}");
        let noted = report
            .notes
            .iter()
            .any(|note| note.starts_with("1 of 1 machines carry no label"));
        assert_eq!(noted, pool == "d", "{labels}: {:?}", report.notes);
    }

    let mut items = half_empty();
    items.push(node("odd", "zz9.huge", "us-east-1a", json!({})));
    items.push(node("elsewhere", "m5.xlarge", "mars-1a", json!({})));
    let report = report_of(&items);
    let listed: Vec<(&str, u32)> = report
        .unpriced
        .iter()
        .map(|u| (u.what.as_str(), u.nodes))
        .collect();
    assert_eq!(
        listed,
        [
            ("m5.xlarge in mars-1a, on-demand", 1),
            ("zz9.huge in us-east-1a, on-demand", 1)
        ]
    );
    assert!(close(report.now.per_hour, 6.0 * 0.192), "they are not counted");
    let odd = report.nodes.iter().find(|n| n.name == "odd").unwrap();
    assert_eq!((odd.action, odd.per_hour), (Action::Keep, None));
    assert_eq!(report.prices.date.as_deref(), Some("2025-03-02"));
    assert_eq!(report.prices.age_days, Some(306));
}

#[test]
fn control_planes_and_waiting_pods_are_left_alone() {
    let mut items = half_empty();
    items.push(node(
        "master",
        "m5.xlarge",
        "us-east-1a",
        json!({ "metadata": { "labels": { "node-role.kubernetes.io/control-plane": "" } } }),
    ));
    items.push(pod("late", "web", "", json!({
        "spec": { "nodeName": null },
        "status": { "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable" }] },
    })));
    let report = report_of(&items);
    assert!(close(report.fixed.per_hour, 0.192));
    let master = report.nodes.iter().find(|n| n.name == "master").unwrap();
    assert_eq!(
        (master.action, master.held_by.as_deref()),
        (Action::Keep, Some("control plane"))
    );
    assert_eq!((report.totals.pods_waiting, report.totals.pods), (1, 6));
}

#[test]
fn taints_and_labels_of_a_node_group_bind_its_pods_to_its_like() {
    let dedicated = json!({
        "metadata": { "labels": { "eks.amazonaws.com/nodegroup": "team", "team": "a" } },
        "spec": { "taints": [{ "key": "team", "value": "a", "effect": "NoSchedule" }] },
    });
    let own = json!({ "spec": { "nodeSelector": { "team": "a" }, "tolerations": [{ "key": "team", "operator": "Exists" }] } });
    let mut items = half_empty();
    for i in 0..2 {
        let name = format!("t{i}");
        items.push(node(&name, "m5.4xlarge", "us-east-1a", dedicated.clone()));
        items.push(pod(&format!("own-{i}"), "own", &name, own.clone()));
    }
    let report = report_of(&items);
    let of_team: u32 = report
        .reachable
        .machines
        .iter()
        .filter(|m| m.pool == "team")
        .map(|m| m.count)
        .sum();
    assert!(of_team >= 1, "{:?}", report.reachable.machines);
    assert!(report.reachable.cost.per_hour < report.now.per_hour / 2.0);
}
