//! Who is known to run on arm64, by what, and what a report makes of it.

use super::*;

/// Six half empty m5.xlarge, their pods of this image.
fn of_image(image: &str) -> Vec<Value> {
    let mut items = half_empty();
    for pod in items.iter_mut().filter(|i| i["kind"] == "Pod") {
        pod["spec"]["containers"][0]["image"] = image.into();
    }
    items
}

/// A machine of arm64 on which a pod runs the image.
fn proof(image: &str, patch: Value) -> [Value; 2] {
    let arm64 = json!({ "metadata": { "labels": { "kubernetes.io/arch": "arm64", "eks.amazonaws.com/nodegroup": "arm" } },
        "spec": { "taints": [{ "key": "arm", "value": "", "effect": "NoSchedule" }] } });
    let mut pod = pod(
        "canary",
        "web-on-arm",
        "arm",
        json!({ "spec": { "tolerations": [{ "operator": "Exists" }] } }),
    );
    pod["spec"]["containers"][0]["image"] = image.into();
    merge(&mut pod, patch);
    [node("arm", "m6g.xlarge", "us-east-1a", arm64), pod]
}

fn daemon(name: &str, node: &str, image: &str) -> Value {
    let mut daemon = pod(
        name,
        "agent",
        node,
        json!({ "metadata": { "namespace": "kube-system" } }),
    );
    daemon["metadata"]["ownerReferences"][0]["kind"] = "DaemonSet".into();
    daemon["metadata"]["ownerReferences"][0]["name"] = "agent".into();
    daemon["spec"]["containers"][0]["image"] = image.into();
    daemon["spec"]["containers"][0]["resources"]["requests"] = json!({ "cpu": "10m", "memory": "10Mi" });
    daemon
}

/// The machines of arm64 that are proposed, as (count, type).
fn bought(report: &SavingsReport) -> Vec<(u32, &str)> {
    let arm64 = |m: &&plimsoll_report::savings::MachineGroup| {
        let family = m.instance_type.split('.').next().unwrap();
        family.ends_with('g') || family.contains("gd")
    };
    let machines = report.reachable_with_arm64.machines.iter().filter(arm64);
    machines
        .filter(|m| m.bought > 0)
        .map(|m| (m.bought, m.instance_type.as_str()))
        .collect()
}

fn counts(report: &SavingsReport) -> (u32, u32, u32, u32) {
    let a = &report.arm64;
    (a.pods, a.by_own_words, a.by_running, a.by_list)
}

#[test]
fn without_a_word_on_arm64_nothing_goes_there_and_the_images_are_named() {
    let report = report_of(&of_image("shop/web:1"));
    assert_eq!(counts(&report), (6, 0, 0, 0));
    assert_eq!(report.reachable_with_arm64, report.reachable);
    let unknown: Vec<_> = report
        .arm64
        .unknown
        .iter()
        .map(|u| (u.image.as_str(), u.pods))
        .collect();
    assert_eq!(unknown, [("shop/web:1", 6)]);
    let text = text(&report, Colour::Never);
    assert!(
        text.contains("not known of shop/web:1: --arm64-images FILE"),
        "{text}"
    );
}

#[test]
fn an_image_that_is_listed_can_go() {
    let dump = read(&of_image("shop/web:1"));
    let report = report_with(&dump, &"shop/*".parse().unwrap());
    assert_eq!(counts(&report), (6, 0, 0, 6));
    assert!(!bought(&report).is_empty(), "{:?}", report.reachable_with_arm64);
    assert!(report.reachable_with_arm64.cost.per_hour < report.reachable.cost.per_hour);
    assert_eq!(
        report_with(&dump, &"shop/web".parse().unwrap()).reachable_with_arm64,
        report.reachable
    );
}

#[test]
fn an_image_that_runs_on_arm64_can_go_and_one_that_fails_there_cannot() {
    let check = |patch: Value, known: u32| {
        let mut items = of_image("shop/web:1");
        items.extend(proof("shop/web:1", patch));
        let report = report_of(&items);
        // The pod that is the proof could move too.
        assert_eq!(counts(&report), (7, 0, known, 0));
        assert_eq!(report.reachable_with_arm64 == report.reachable, known < 7);
    };
    check(json!({}), 7);
    check(
        json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } }),
        0,
    );
    check(
        json!({ "spec": { "containers": [{ "name": "c", "image": "shop/web:2",
            "resources": { "requests": { "cpu": "1", "memory": "2Gi" } } }] } }),
        1,
    );
}

#[test]
fn pods_that_name_arm64_can_go_and_pods_that_bar_it_stay_away() {
    let with = |term: Value| {
        let mut items = of_image("shop/web:1");
        for pod in items.iter_mut().filter(|i| i["kind"] == "Pod") {
            merge(
                pod,
                json!({ "spec": { "affinity": { "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [{ "matchExpressions": [term] }] } } } } }),
            );
        }
        items
    };
    let both = with(json!({ "key": "kubernetes.io/arch", "operator": "In", "values": ["amd64", "arm64"] }));
    let report = report_of(&both);
    assert_eq!(counts(&report), (6, 6, 0, 0));
    assert!(!bought(&report).is_empty());

    let amd64 = with(json!({ "key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"] }));
    let listed = report_with(&read(&amd64), &"shop/*".parse().unwrap());
    assert_eq!((listed.arm64.kept_off, counts(&listed)), (6, (6, 0, 0, 0)));
    assert_eq!((bought(&listed), listed.arm64.unknown.len()), (vec![], 0));
}

#[test]
fn lines_of_the_list_that_name_nothing_are_told() {
    let report = report_with(
        &read(&of_image("shop/web:1")),
        &"shop/web\nshop/*".parse().unwrap(),
    );
    assert_eq!(report.arm64.listed_in_vain, ["shop/web"]);
    assert!(text(&report, Colour::Never).contains("no image of this cluster is called shop/web\n"));
}

/// A DaemonSet of which no pod runs.
fn daemon_set(spec: Value) -> Value {
    let mut set = json!({ "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "gpu", "namespace": "kube-system" },
        "spec": { "selector": { "matchLabels": { "app": "gpu" } }, "template": { "metadata": { "labels": { "app": "gpu" } },
            "spec": { "containers": [{ "name": "c", "image": "vendor/gpu:1" }] } } } });
    merge(&mut set["spec"]["template"]["spec"], spec);
    set
}

#[test]
fn only_daemon_sets_that_would_come_to_a_new_machine_count() {
    let check = |set: Value, more: &[Value], unknown: &[&str]| {
        let mut items = of_image("shop/web:1");
        items.push(set);
        items.extend_from_slice(more);
        let report = report_with(&read(&items), &"shop/*".parse().unwrap());
        assert_eq!(report.arm64.daemon_sets_unknown, unknown);
        assert_eq!(bought(&report).is_empty(), !unknown.is_empty());
    };
    let gpu = ["kube-system/gpu"];
    check(daemon_set(json!({})), &[], &gpu);
    check(
        daemon_set(json!({ "nodeSelector": { "nvidia": "true" } })),
        &[],
        &[],
    );
    check(
        daemon_set(json!({ "nodeSelector": { "kubernetes.io/os": "windows" } })),
        &[],
        &[],
    );
    // It keeps off arm64. Whether machines can do without it is only known where one does.
    let amd64 = || daemon_set(json!({ "nodeSelector": { "kubernetes.io/arch": "amd64" } }));
    check(amd64(), &[], &gpu);
    check(amd64(), &proof("shop/web:1", json!({})), &[]);
}

#[test]
fn a_daemon_set_not_known_to_run_on_arm64_keeps_all_machines_as_they_are() {
    let mut items = of_image("shop/web:1");
    for i in 0..6 {
        items.push(daemon(&format!("agent-{i}"), &format!("n{i}"), "shop/agent:1"));
    }
    let dump = read(&items);
    let held = report_with(&dump, &"shop/web:1".parse().unwrap());
    assert_eq!(held.arm64.daemon_sets_unknown, ["kube-system/agent"]);
    assert_eq!(held.reachable_with_arm64, held.reachable);
    let free = report_with(&dump, &"shop/web:1\nshop/agent:1".parse().unwrap());
    assert_eq!(free.arm64.daemon_sets_unknown, Vec::<String>::new());
    assert!(!bought(&free).is_empty());
}

#[test]
fn a_node_pool_of_amd64_is_planned_as_if_it_bought_arm64_too() {
    let mut items = of_a_node_pool();
    for pod in items.iter_mut().filter(|i| i["kind"] == "Pod") {
        pod["spec"]["containers"][0]["image"] = "shop/web:1".into();
    }
    let report = report_with(&read(&items), &"shop/*".parse().unwrap());
    assert!(!bought(&report).is_empty(), "{:?}", report.reachable_with_arm64);
    assert!(report.reachable_with_arm64.cost.per_hour < report.reachable.cost.per_hour);
}
