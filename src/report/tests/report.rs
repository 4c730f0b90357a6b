//! Reports are tested on files as kubectl writes them: what is read, what is planned, and what each restraint costs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the makers of test objects are tests too"
)]

use std::time::Duration;

use jiff::Timestamp;
use plimsoll_core::{
    catalog::MicroDollars,
    policy::{MinValuesPolicy, Policy, PreferencePolicy},
};
use plimsoll_report::{
    Cluster, Colour, CsvTable, Prices, RestraintKind, SavingsReport, commands, csv,
    dump::{self, Dump, DumpError},
    html, report, report_status,
    savings::Action,
    snapshot, text,
};
use serde_json::{Value, json};

fn taken() -> Timestamp {
    "2026-01-02T00:00:00Z".parse().unwrap()
}

fn policy() -> Policy {
    Policy {
        preferences: PreferencePolicy::Respect,
        min_values: MinValuesPolicy::Strict,
        nomination: true,
        steps_max: 200,
        types_per_launch_max: 60,
        interruption_cost: MicroDollars(0),
    }
}

fn node(name: &str, instance_type: &str, zone: &str, patch: Value) -> Value {
    let mut node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name, "uid": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux",
            "node.kubernetes.io/instance-type": instance_type, "topology.kubernetes.io/zone": zone,
            "eks.amazonaws.com/nodegroup": "general", "eks.amazonaws.com/capacityType": "ON_DEMAND",
        } },
        "spec": { "providerID": format!("aws:///{zone}/i-{name}") },
        "status": {
            "capacity": { "cpu": "4", "memory": "16Gi", "pods": "58" },
            "allocatable": { "cpu": "3920m", "memory": "14800Mi", "pods": "58" },
            "conditions": [{ "type": "Ready", "status": "True", "lastHeartbeatTime": null, "lastTransitionTime": null }],
        },
    });
    merge(&mut node, patch);
    node
}

/// A pod of Deployment `app` with one core and 2 GiB.
fn pod(name: &str, app: &str, node: &str, patch: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "shop", "uid": name, "labels": { "app": app, "pod-template-hash": "5f" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app}-5f"), "uid": app, "controller": true }],
        },
        "spec": { "nodeName": node, "containers": [{ "name": "c", "resources": { "requests": { "cpu": "1", "memory": "2Gi" } } }] },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] },
    });
    merge(&mut pod, patch);
    pod
}

fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    target.remove(&key);
                } else {
                    merge(target.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (target, patch) => *target = patch,
    }
}

/// Six m5.xlarge, each with one pod of `web`: a third of them would do.
fn half_empty() -> Vec<Value> {
    let zones = ["us-east-1a", "us-east-1b", "us-east-1c"];
    let mut items = Vec::new();
    for i in 0..6 {
        let name = format!("n{i}");
        items.push(node(&name, "m5.xlarge", zones[i % 3], json!({})));
        items.push(pod(&format!("web-{i}"), "web", &name, json!({})));
    }
    items
}

fn read(items: &[Value]) -> Dump {
    let list = json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": items });
    dump::read(list.to_string().as_bytes()).unwrap()
}

fn report_of_dump(dump: &Dump) -> SavingsReport {
    let cluster = Cluster::read(&dump.index, &Prices::Aws, taken());
    report(&cluster, &Prices::Aws, &policy())
}

fn report_of(items: &[Value]) -> SavingsReport {
    report_of_dump(&read(items))
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-6
}

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

/// The report when something is in the cluster, and when it is not.
fn with_and_without(items: &[Value], without: impl Fn(&mut Value)) -> (SavingsReport, SavingsReport) {
    let mut free = items.to_vec();
    free.iter_mut().for_each(without);
    free.retain(|item| !item.is_null());
    (report_of(items), report_of(&free))
}

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

#[test]
fn a_budget_costs_what_its_removal_would_save() {
    let mut items = half_empty();
    items.push(json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "web", "namespace": "shop" },
        "spec": { "minAvailable": 6, "selector": { "matchLabels": { "app": "web" } } },
        "status": { "disruptionsAllowed": 0, "currentHealthy": 6, "desiredHealthy": 6, "expectedPods": 6 },
    }));
    let (held, free) = with_and_without(&items, |item| {
        if item["kind"] == "PodDisruptionBudget" {
            *item = Value::Null;
        }
    });
    let month = month_of(&held, RestraintKind::PodDisruptionBudget, "shop/web");
    assert!(month > 100.0);
    assert!(close(
        month,
        held.reachable.cost.per_month - free.reachable.cost.per_month
    ));
    assert!(
        close(held.reachable.cost.per_hour, held.now.per_hour),
        "nothing can move"
    );
    assert!(close(held.unblocked.cost.per_hour, free.reachable.cost.per_hour));
    let row = &held.restraints[0];
    assert!(row.for_ever && row.pods == 6 && row.nodes == 6, "{row:?}");
    assert_eq!(row.owners, ["shop/Deployment/web"]);
}

#[test]
fn annotations_and_pods_without_a_controller_cost_what_their_removal_would_save() {
    for annotation in [
        json!({ "karpenter.sh/do-not-disrupt": "true" }),
        json!({ "cluster-autoscaler.kubernetes.io/safe-to-evict": "false" }),
    ] {
        let mut items = half_empty();
        merge(
            &mut items[1],
            json!({ "metadata": { "annotations": annotation } }),
        );
        let (held, free) = with_and_without(&items, |item| {
            merge(item, json!({ "metadata": { "annotations": null } }));
        });
        let month = month_of(&held, RestraintKind::DoNotDisrupt, "shop/Deployment/web");
        assert!(close(
            month,
            held.reachable.cost.per_month - free.reachable.cost.per_month
        ));
        assert!(month > 0.0);
        assert_eq!(held.nodes[0].action, Action::Keep);
        assert!(held.nodes[0].held_by.is_some());
    }

    let mut items = half_empty();
    merge(
        &mut items[0],
        json!({ "metadata": { "annotations": { "karpenter.sh/do-not-disrupt": "true" } } }),
    );
    let (held, free) = with_and_without(&items, |item| {
        merge(item, json!({ "metadata": { "annotations": null } }));
    });
    let month = month_of(&held, RestraintKind::NodeDoNotDisrupt, "n0");
    assert!(close(
        month,
        held.reachable.cost.per_month - free.reachable.cost.per_month
    ));
    assert!(month > 0.0);

    let mut items = half_empty();
    merge(&mut items[1], json!({ "metadata": { "ownerReferences": null } }));
    let held = report_of(&items);
    let month = month_of(&held, RestraintKind::NoController, "shop/Pod/web-0");
    assert!(close(
        month,
        held.reachable.cost.per_month - report_of(&half_empty()).reachable.cost.per_month
    ));
    assert!(month > 0.0);
}

#[test]
fn an_anti_affinity_costs_what_its_removal_would_save() {
    let rule = json!({ "spec": { "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [
        { "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": { "app": "web" } } },
    ] } } } });
    let mut items = half_empty();
    for item in items.iter_mut().filter(|i| i["kind"] == "Pod") {
        merge(item, rule.clone());
    }
    // Small machines make the rule cheap; a second workload that fills the rest makes it visible.
    let (held, free) = with_and_without(&items, |item| {
        if item["kind"] == "Pod" {
            merge(item, json!({ "spec": { "affinity": null } }));
        }
    });
    let month = month_of(&held, RestraintKind::AntiAffinity, "shop/Deployment/web");
    assert!(month > 0.0, "{month}");
    assert!(close(
        month,
        held.reachable.cost.per_month - free.reachable.cost.per_month
    ));
}

#[test]
fn what_is_moved_all_the_same_costs_what_sparing_it_would() {
    let mut items = half_empty();
    let alone = json!({ "metadata": { "labels": { "app": "solo" }, "ownerReferences": [
        { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "solo-5f", "uid": "solo", "controller": true }] } });
    merge(&mut items[1], alone);
    let moved = report_of(&items);
    let month = month_of(&moved, RestraintKind::SingleReplica, "shop/Deployment/solo");
    merge(
        &mut items[1],
        json!({ "metadata": { "annotations": { "karpenter.sh/do-not-disrupt": "true" } } }),
    );
    let spared = report_of(&items);
    assert!(close(
        month,
        spared.reachable.cost.per_month - moved.reachable.cost.per_month
    ));
    assert!(month > 0.0);

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

#[test]
fn json_yaml_and_several_documents_say_the_same() {
    let items = half_empty();
    let whole = report_of(&items);
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    let yaml = serde_saphyr::to_string(&list).unwrap();
    assert_eq!(whole, report_of_dump(&dump::read(yaml.as_bytes()).unwrap()));
    let one_by_one: Vec<String> = items.iter().map(ToString::to_string).collect();
    assert_eq!(
        whole,
        report_of_dump(&dump::read(one_by_one.join("\n").as_bytes()).unwrap())
    );
    let documents: Vec<String> = items
        .iter()
        .map(|i| serde_saphyr::to_string(i).unwrap())
        .collect();
    assert_eq!(
        whole,
        report_of_dump(&dump::read(documents.join("\n---\n").as_bytes()).unwrap())
    );
}

#[test]
fn what_is_not_a_dump_says_so() {
    let error = |text: &str| dump::read(text.as_bytes()).unwrap_err();
    assert!(matches!(error(""), DumpError::Empty));
    assert!(matches!(error("{\"items\": ["), DumpError::Json(_)));
    assert!(matches!(
        error("{\"kind\": \"List\", \"items\": []}"),
        DumpError::Empty
    ));
    assert!(matches!(error("key: [unclosed"), DumpError::Yaml(_)));
    let newer = "{\"kind\": \"Snapshot\", \"version\": 99, \"items\": []}";
    assert!(matches!(error(newer), DumpError::Version(99)));
    let broken = read(&[
        json!({ "apiVersion": "v1", "kind": "Node", "spec": 3 }),
        half_empty()[0].clone(),
    ]);
    assert_eq!((broken.objects, broken.unreadable.len()), (1, 1));
}

/// Everything that could give a secret away, in every kind that has a place for it.
fn with_canaries(items: &mut Vec<Value>) {
    const CANARY: &str = "CANARY-7f3a";
    let container = json!({
        "name": "CANARY-7f3a", "image": CANARY, "command": [CANARY], "args": [CANARY], "workingDir": CANARY,
        "env": [{ "name": CANARY, "value": CANARY }, { "name": "X", "valueFrom": { "secretKeyRef": { "name": CANARY, "key": CANARY } } }],
        "envFrom": [{ "configMapRef": { "name": CANARY } }],
        "lifecycle": { "preStop": { "exec": { "command": [CANARY] } } },
        "livenessProbe": { "httpGet": { "path": CANARY, "port": 80, "httpHeaders": [{ "name": CANARY, "value": CANARY }] } },
        "volumeMounts": [{ "name": CANARY, "mountPath": CANARY }],
        "resources": { "requests": { "cpu": "1", "memory": "2Gi" }, "limits": { "cpu": "1" } },
        "ports": [{ "name": CANARY, "containerPort": 80 }],
    });
    let meta = json!({
        "annotations": { "kubectl.kubernetes.io/last-applied-configuration": CANARY, "note": CANARY },
        "labels": { "unlisted": CANARY }, "finalizers": [CANARY], "generateName": CANARY, "selfLink": CANARY,
        "managedFields": [{ "manager": CANARY, "fieldsV1": { "f:CANARY-7f3a": {} } }],
    });
    let spec = json!({
        "containers": [container], "initContainers": [container], "ephemeralContainers": [container],
        "serviceAccountName": CANARY, "imagePullSecrets": [{ "name": CANARY }], "hostname": CANARY, "subdomain": CANARY,
        "hostAliases": [{ "ip": "1.1.1.1", "hostnames": [CANARY] }], "securityContext": { "seLinuxOptions": { "user": CANARY } },
        "dnsConfig": { "searches": [CANARY] },
        "volumes": [
            { "name": "a", "secret": { "secretName": CANARY } }, { "name": "b", "configMap": { "name": CANARY } },
            { "name": "c", "hostPath": { "path": CANARY } }, { "name": "d", "csi": { "driver": CANARY, "volumeAttributes": { "k": CANARY } } },
            { "name": "e", "projected": { "sources": [{ "secret": { "name": CANARY } }] } },
            { "name": "f", "ephemeral": { "volumeClaimTemplate": { "metadata": { "annotations": { "k": CANARY } } } } },
        ],
    });
    let status = json!({ "message": CANARY, "reason": CANARY, "podIP": CANARY, "containerStatuses": [{ "name": CANARY, "image": CANARY }],
        "conditions": [{ "type": "Ready", "status": "True", "message": CANARY }] });
    for item in items.iter_mut() {
        let is_pod = item["kind"] == "Pod";
        merge(item, json!({ "metadata": meta }));
        if is_pod {
            merge(item, json!({ "spec": spec, "status": status }));
        } else {
            merge(
                item,
                json!({ "status": { "images": [{ "names": [CANARY] }], "addresses": [{ "type": "InternalIP", "address": CANARY }],
                "nodeInfo": { "machineID": CANARY } } }),
            );
        }
    }
    let object = |api_version: &str, kind: &str, body: Value| {
        let mut object = json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": kind.to_lowercase(), "namespace": "shop" } });
        merge(&mut object, json!({ "metadata": meta }));
        merge(&mut object, body);
        object
    };
    let template = json!({ "spec": { "template": { "metadata": meta, "spec": spec } } });
    for (api_version, kind) in [
        ("apps/v1", "Deployment"),
        ("apps/v1", "DaemonSet"),
        ("apps/v1", "StatefulSet"),
        ("batch/v1", "Job"),
        ("argoproj.io/v1alpha1", "Rollout"),
    ] {
        items.push(object(api_version, kind, template.clone()));
    }
    items.push(object(
        "batch/v1",
        "CronJob",
        json!({ "spec": { "jobTemplate": template } }),
    ));
    items.push(object("v1", "Secret", json!({ "data": { "k": CANARY } })));
    items.push(object("v1", "ConfigMap", json!({ "data": { "k": CANARY } })));
    items.push(object("v1", "Namespace", json!({})));
    items.push(object(
        "v1",
        "PersistentVolumeClaim",
        json!({ "spec": { "volumeName": "v", "dataSource": { "name": CANARY } } }),
    ));
    items.push(object("v1", "PersistentVolume", json!({ "spec": { "csi": { "driver": "d", "volumeHandle": "h",
        "volumeAttributes": { "k": CANARY }, "nodeStageSecretRef": { "name": CANARY } }, "mountOptions": [CANARY] } })));
    items.push(object(
        "storage.k8s.io/v1",
        "StorageClass",
        json!({ "provisioner": "p", "parameters": { "k": CANARY } }),
    ));
    items.push(object("karpenter.sh/v1", "NodePool", json!({ "spec": { "disruption": { "consolidateAfter": "30s" }, "template": {
        "metadata": { "annotations": { "k": CANARY } },
        "spec": { "requirements": [], "nodeClassRef": { "group": "g", "kind": "K", "name": "n" } } } },
        "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "Ready", "message": CANARY, "lastTransitionTime": "2026-01-01T00:00:00Z" }] } })));
    items.push(object("karpenter.sh/v1", "NodeClaim", json!({ "spec": { "requirements": [], "nodeClassRef": { "group": "g", "kind": "K", "name": "n" } },
        "status": { "imageID": CANARY, "conditions": [{ "type": "Ready", "status": "True", "reason": "Ready", "message": CANARY, "lastTransitionTime": "2026-01-01T00:00:00Z" }] } })));
    let list = json!({ "items": items }).to_string();
    assert!(list.matches(CANARY).count() > 300, "the canaries are in place");
}

fn written(items: &[Value]) -> String {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    let (redactor, _) = snapshot::from_file(list.to_string().as_bytes()).unwrap();
    let mut out = Vec::new();
    snapshot::write(redactor, taken(), &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_snapshot_gives_the_same_report_and_holds_no_secret() {
    let mut items = half_empty();
    items.push(json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "web", "namespace": "shop" },
        "spec": { "maxUnavailable": 1, "selector": { "matchLabels": { "app": "web" } } },
        "status": { "disruptionsAllowed": 1, "currentHealthy": 6, "desiredHealthy": 5, "expectedPods": 6 },
    }));
    with_canaries(&mut items);
    let text = written(&items);
    assert!(!text.contains("CANARY"), "{text}");
    let again = dump::read(text.as_bytes()).unwrap();
    assert!(again.unreadable.is_empty(), "{:?}", again.unreadable);
    assert_eq!(again.taken, Some(taken()));
    let direct = read(&items);
    assert_eq!(direct.unreadable, Vec::<String>::new());
    assert_eq!(again.objects, direct.objects);
    assert_eq!(report_of_dump(&again), report_of_dump(&direct));
    // A snapshot of a snapshot is the same snapshot.
    let (redactor, when) = snapshot::from_file(text.as_bytes()).unwrap();
    let mut out = Vec::new();
    snapshot::write(redactor, when.unwrap(), &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), text);
}

#[test]
fn every_form_of_the_report_shows_the_same_money() {
    let mut items = half_empty();
    merge(&mut items[1], json!({ "metadata": { "namespace": "<b>&" } }));
    let dump = read(&items);
    let report = report_of_dump(&dump);
    let now = plimsoll_report::money::dollars(report.now.per_month);
    assert!(text(&report, Colour::Never).contains(&now));
    assert!(
        !text(&report, Colour::Never).contains('\u{1b}') && text(&report, Colour::Ansi).contains('\u{1b}')
    );
    let page = html(&report);
    assert!(page.contains(&now) && page.contains("&lt;b&gt;&amp;") && !page.contains("<b>&"));
    for outside in ["http://", "https://", "<script", "<link", "url("] {
        assert!(
            !page.contains(outside),
            "{outside} in a file that must stand alone"
        );
    }
    assert_eq!(csv(&report, CsvTable::Nodes).lines().count(), 7);
    let script = commands(&report, &dump.index);
    for node in &report.nodes {
        let drained = script.contains(&format!("kubectl drain {} ", node.name));
        assert_eq!(drained, node.action == Action::Remove, "{}", node.name);
    }
}

#[test]
fn a_report_in_the_cluster_is_small_whatever_the_cluster_and_says_what_it_left_out() {
    let mut report = report_of(&half_empty());
    let whole = report_status(&report, None, Duration::from_secs(600));
    assert_eq!(whole.omitted, 0);
    assert_eq!(whole.now.per_hour, "1.1520");
    assert_eq!(whole.nodes, 6);
    let removed: i32 = whole.remove.iter().map(|group| group.count).sum();
    assert_eq!(removed as u32, report.reachable.nodes_removed);

    let long = "\u{e9}".repeat(2000);
    let mut node = report.nodes[0].clone();
    node.action = Action::Remove;
    for i in 0..1000 {
        node.instance_type = format!("{i}-{long}");
        (node.zone, node.pool) = (long.clone(), long.clone());
        report.nodes.push(node.clone());
        report.notes.push(long.clone());
    }
    let status = report_status(&report, None, Duration::from_secs(600));
    let size = serde_json::to_vec(&status).unwrap().len();
    assert!(size < 128 * 1024, "{size} bytes");
    assert_eq!((status.remove.len(), status.notes.len()), (50, 10));
    assert!(status.omitted >= 950 + 990);
}

#[test]
fn what_was_watched_adds_up_and_gaps_do_not_count() {
    let mut report = report_of(&half_empty());
    let gap = Duration::from_secs(600);
    let first = report_status(&report, None, gap);
    let begun = first.watched.clone().unwrap();
    assert_eq!((begun.seconds, begun.paid.as_str()), (0, "0.0000"));

    report.taken += Duration::from_secs(300);
    let second = report_status(&report, Some(&first), gap);
    let sums = second.watched.clone().unwrap();
    assert_eq!(sums.seconds, 300);
    assert_eq!(sums.paid, format!("{:.4}", 6.0 * 0.192 / 12.0));
    assert_eq!(
        sums.reachable,
        format!("{:.4}", report.reachable.cost.per_hour / 12.0)
    );

    report.taken += Duration::from_secs(3600);
    let third = report_status(&report, Some(&second), gap).watched.unwrap();
    assert_eq!((third.seconds, &third.paid), (300, &sums.paid));
    assert_eq!(third.since, begun.since);
}
