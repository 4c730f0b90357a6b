//! Pending pods become machines: the right ones, no more than needed, and none when the pods have gone.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use plimsoll_e2e::cluster::{Cluster, is_simulated};
use plimsoll_e2e::conditions;
use plimsoll_e2e::controller::Controller;
use plimsoll_e2e::fixture::{Fixture, PATIENCE};
use plimsoll_e2e::objects;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

const ZONE: &str = "topology.kubernetes.io/zone";
const CAPACITY_TYPE: &str = "karpenter.sh/capacity-type";
const FINALIZER: &str = "karpenter.sh/termination";

/// Which node each pod of an app is on.
fn places<'a>(pods: &'a BTreeMap<String, Pod>, app: &str) -> Vec<&'a str> {
    let of_app = pods
        .values()
        .filter(|pod| pod.labels().get("app").is_some_and(|value| value == app));
    of_app
        .map(|pod| pod.spec.as_ref().unwrap().node_name.as_deref().unwrap())
        .collect()
}

async fn nodes_by_name(cluster: &Cluster) -> Result<BTreeMap<String, Node>> {
    Ok(cluster
        .nodes()
        .await?
        .into_iter()
        .map(|node| (node.name_any(), node))
        .collect())
}

fn taints(node: &Node) -> Vec<String> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints
        .map(|taint| {
            format!(
                "{}={}:{}",
                taint.key,
                taint.value.as_deref().unwrap_or(""),
                taint.effect
            )
        })
        .collect()
}

/// The values a claim's requirement with operator In allows for a key.
fn allowed<'a>(claim: &'a DynamicObject, key: &str) -> Option<Vec<&'a str>> {
    let requirements = claim.data["spec"]["requirements"].as_array()?;
    let found = requirements
        .iter()
        .find(|r| r["key"] == key && r["operator"] == "In")?;
    Some(
        found["values"]
            .as_array()?
            .iter()
            .filter_map(Value::as_str)
            .collect(),
    )
}

/// Whole CPUs of a quantity like `4` or `3900m`.
fn cpus(quantity: &Value) -> f64 {
    let text = quantity.as_str().unwrap();
    match text.strip_suffix('m') {
        Some(milli) => milli.parse::<f64>().unwrap() / 1000.0,
        None => text.parse().unwrap(),
    }
}

/// Waits until the controller has counted `count` planned pods as bound, and returns how many of them were bound where
/// the plan had them.
async fn bound_as_planned(controller: &Controller, count: u64) -> Result<u64> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let metrics = controller.metrics().await?;
        let sum = |name: &str| metrics.sum(name, &[]).unwrap_or(0.0) as u64;
        let planned = sum("plimsoll_pods_bound_as_planned_total");
        let elsewhere = sum("plimsoll_pods_bound_elsewhere_total");
        if planned + elsewhere >= count {
            assert_eq!(
                planned + elsewhere,
                count,
                "{planned} bound as planned, {elsewhere} elsewhere"
            );
            return Ok(planned);
        }
        assert!(
            Instant::now() < deadline,
            "{planned} bound as planned, {elsewhere} elsewhere, of {count}"
        );
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_run_where_their_constraints_allow_and_the_machines_go_with_them() -> Result<()> {
    let fixture = Fixture::with_node_class("constraints").await?;
    let controller = fixture.controller().await?;
    let mut spread = objects::deployment("spread", 8, "500m");
    spread["spec"]["template"]["spec"]["topologySpreadConstraints"] = json!([{
        "maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "spread"}},
    }]);
    let mut apart = objects::deployment("apart", 3, "200m");
    apart["spec"]["template"]["spec"]["affinity"] = objects::one_per_machine("apart");
    let mut steady = objects::deployment("steady", 2, "1500m");
    steady["spec"]["template"]["spec"]["nodeSelector"] = json!({CAPACITY_TYPE: "on-demand"});
    let mut other = objects::deployment("other", 2, "700m");
    other["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/arch": "arm64"});
    let mut blue = objects::deployment("blue", 2, "700m");
    blue["spec"]["template"]["spec"]["nodeSelector"] = json!({"example.com/team": "blue"});
    blue["spec"]["template"]["spec"]["tolerations"] = json!([{"key": "team", "operator": "Exists"}]);
    for workload in [spread, apart, steady, other, blue] {
        fixture.apply(workload).await?;
    }
    // All pods are there before the pool that most of them need, so that they are planned together.
    let pods = Api::<Pod>::namespaced(fixture.cluster().client(), fixture.namespace());
    let deadline = Instant::now() + PATIENCE;
    while pods.list(&ListParams::default()).await?.items.len() < 17 {
        assert!(Instant::now() < deadline, "the pods are not made");
        sleep(Duration::from_millis(100)).await;
    }
    let mut arm = objects::node_pool("arm");
    arm["spec"]["template"]["spec"]["requirements"][1]["values"] = json!(["arm64"]);
    fixture.apply(arm).await?;
    let mut team = objects::node_pool("team");
    team["spec"]["template"]["metadata"]["labels"] = json!({"example.com/team": "blue"});
    team["spec"]["template"]["spec"]["taints"] =
        json!([{"key": "team", "value": "blue", "effect": "NoSchedule"}]);
    fixture.apply(team).await?;
    fixture.apply(objects::node_pool("default")).await?;
    for pool in ["default", "arm", "team"] {
        fixture
            .wait_pool("a ready NodePool", pool, |pool| {
                conditions::is_true(pool, "Ready")
            })
            .await?;
    }
    let pods = fixture.wait_running(17).await?;
    let nodes = nodes_by_name(fixture.cluster()).await?;
    let label = |node: &str, key: &str| nodes[node].labels().get(key).cloned().unwrap_or_default();

    let mut per_zone = BTreeMap::new();
    for node in places(&pods, "spread") {
        *per_zone.entry(label(node, ZONE)).or_insert(0) += 1;
    }
    assert!(
        per_zone.len() == 4 && per_zone.values().all(|count| *count == 2),
        "{per_zone:?}"
    );
    assert_eq!(
        places(&pods, "apart").into_iter().collect::<BTreeSet<_>>().len(),
        3
    );
    assert!(
        places(&pods, "steady")
            .iter()
            .all(|node| label(node, CAPACITY_TYPE) == "on-demand")
    );
    assert!(
        places(&pods, "other")
            .iter()
            .all(|node| label(node, "kubernetes.io/arch") == "arm64")
    );
    for node in places(&pods, "blue") {
        assert_eq!(label(node, "karpenter.sh/nodepool"), "team");
        assert!(
            taints(&nodes[node]).contains(&"team=blue:NoSchedule".to_owned()),
            "{:?}",
            taints(&nodes[node])
        );
    }
    let guests: Vec<_> = ["spread", "apart", "steady", "other"]
        .iter()
        .flat_map(|app| places(&pods, app))
        .collect();
    assert!(
        guests
            .iter()
            .all(|node| label(node, "karpenter.sh/nodepool") != "team")
    );
    // Spread pods can be bound only in an order that keeps the skew. kube-scheduler may meet the second pod of a zone
    // first and then has to place it anew, so one per zone and all pods without a spread are sure.
    let planned = bound_as_planned(&controller, 17).await?;
    assert!(planned >= 9 + 4, "{planned} of 17 pods bound as planned");

    for app in ["spread", "apart", "steady", "other", "blue"] {
        fixture.scale(app, 0).await?;
    }
    fixture.wait_no_machines().await?;
    fixture.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_are_what_their_claims_say() -> Result<()> {
    let fixture = Fixture::with_node_class("claims and machines").await?;
    let _controller = fixture.controller().await?;
    let mut pool = objects::node_pool("default");
    pool["spec"]["template"]["metadata"] = json!({
        "labels": {"example.com/tier": "test"}, "annotations": {"example.com/note": "hello"},
    });
    fixture.apply(pool).await?;
    let mut workload = objects::deployment("web", 3, "600m");
    workload["spec"]["template"]["spec"]["affinity"] = objects::one_per_machine("web");
    fixture.apply(workload).await?;
    fixture.wait_running(3).await?;
    let in_service = |claims: &BTreeMap<String, DynamicObject>| {
        claims.len() == 3 && claims.values().all(|claim| conditions::is_true(claim, "Ready"))
    };
    let claims = fixture.wait_claims("3 ready NodeClaims", in_service).await?;
    let pool = fixture.pools().await?.get("default").await?;
    let nodes = nodes_by_name(fixture.cluster()).await?;
    assert_eq!(nodes.values().filter(|node| is_simulated(node)).count(), 3);

    for claim in claims.values() {
        for condition in ["Launched", "Registered", "Initialized", "Ready"] {
            assert!(
                conditions::is_true(claim, condition),
                "{condition}: {}",
                claim.data["status"]
            );
        }
        assert_eq!(claim.finalizers(), [FINALIZER]);
        assert!(claim.name_any().starts_with("default-"));
        let owner = &claim.owner_references()[0];
        assert_eq!(
            (owner.kind.as_str(), owner.name.as_str()),
            ("NodePool", "default")
        );
        assert_eq!(owner.block_owner_deletion, Some(true));
        let hash = "karpenter.sh/nodepool-hash";
        assert!(claim.annotations().contains_key(hash));
        assert_eq!(claim.annotations().get(hash), pool.annotations().get(hash));
        assert_eq!(claim.labels()["karpenter.kwok.sh/kwoknodeclass"], "default");

        let node = &nodes[claim.data["status"]["nodeName"].as_str().unwrap()];
        let spec = node.spec.as_ref().unwrap();
        assert_eq!(
            spec.provider_id.as_deref(),
            claim.data["status"]["providerID"].as_str()
        );
        assert_eq!(node.finalizers(), [FINALIZER]);
        let owner = &node.owner_references()[0];
        assert_eq!(
            (owner.kind.as_str(), &owner.name),
            ("NodeClaim", &claim.name_any())
        );
        assert_eq!(Some(&owner.uid), claim.metadata.uid.as_ref());
        for (key, value) in claim.labels() {
            assert_eq!(node.labels().get(key), Some(value), "label {key}");
        }
        for mark in ["karpenter.sh/registered", "karpenter.sh/initialized"] {
            assert_eq!(node.labels()[mark], "true");
        }
        assert_eq!(node.labels()["example.com/tier"], "test");
        assert_eq!(node.annotations()["example.com/note"], "hello");
        assert!(taints(node).is_empty(), "{:?}", taints(node));

        // The machine is one the claim has asked for, and its size is the one the claim tells.
        for key in [
            "node.kubernetes.io/instance-type",
            CAPACITY_TYPE,
            "kubernetes.io/arch",
            "kubernetes.io/os",
        ] {
            let values =
                allowed(claim, key).unwrap_or_else(|| panic!("no requirement {key}: {}", claim.data["spec"]));
            assert!(
                values.contains(&node.labels()[key].as_str()),
                "{key}: {} not in {values:?}",
                node.labels()[key]
            );
        }
        let status = node.status.as_ref().unwrap();
        let told: BTreeMap<String, _> = serde_json::from_value(claim.data["status"]["capacity"].clone())?;
        assert_eq!(status.capacity.as_ref(), Some(&told));
        let told: BTreeMap<String, _> = serde_json::from_value(claim.data["status"]["allocatable"].clone())?;
        assert_eq!(status.allocatable.as_ref(), Some(&told));
        assert!(cpus(&claim.data["spec"]["resources"]["requests"]["cpu"]) >= 0.6);
    }
    // What the pool says it runs is what runs.
    fixture
        .wait_pool("its usage in the status", "default", |pool| {
            pool.data["status"]["nodes"] == 3
        })
        .await?;
    fixture.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_start_up_taints_is_waited_for() -> Result<()> {
    let fixture = Fixture::with_node_class("startup taints").await?;
    let _controller = fixture.controller().await?;
    let mut pool = objects::node_pool("default");
    let spec = &mut pool["spec"]["template"]["spec"];
    spec["taints"] = json!([{"key": "team", "value": "blue", "effect": "NoSchedule"}]);
    spec["startupTaints"] = json!([{"key": "example.com/agent", "effect": "NoSchedule"}]);
    fixture.apply(pool).await?;
    let mut pod = objects::pod("guest", "500m");
    pod["spec"]["tolerations"] = json!([{"key": "team", "operator": "Exists"}]);
    fixture.apply(pod).await?;

    let mut seen = BTreeSet::new();
    let claims = fixture
        .wait_claims("a claim that waits for the start-up taint", |claims| {
            seen.extend(claims.keys().cloned());
            claims
                .values()
                .any(|claim| conditions::says(claim, "Initialized", "Unknown", "StartupTaintsExist"))
        })
        .await?;
    let claim = claims.values().next().unwrap();
    assert!(conditions::is_true(claim, "Registered") && !conditions::is_true(claim, "Ready"));
    let name = claim.data["status"]["nodeName"].as_str().unwrap();
    let node = fixture.nodes().get(name).await?;
    assert_eq!(
        taints(&node).into_iter().collect::<BTreeSet<_>>(),
        BTreeSet::from([
            "team=blue:NoSchedule".to_owned(),
            "example.com/agent=:NoSchedule".to_owned()
        ])
    );

    // The agent has started and takes its taint away.
    let left = json!({"spec": {"taints": [{"key": "team", "value": "blue", "effect": "NoSchedule"}]}});
    fixture
        .nodes()
        .patch(name, &PatchParams::default(), &Patch::Merge(&left))
        .await?;
    let pods = fixture.wait_running(1).await?;
    assert_eq!(places(&pods, "guest"), [name]);
    fixture
        .wait_claims("the claim in service", |claims| {
            seen.extend(claims.keys().cloned());
            claims.values().all(|claim| conditions::is_true(claim, "Ready"))
        })
        .await?;
    assert_eq!(seen.len(), 1, "one pod, but these machines: {seen:?}");
    assert_eq!(
        taints(&fixture.nodes().get(name).await?),
        ["team=blue:NoSchedule"]
    );
    fixture.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_pool_are_never_exceeded() -> Result<()> {
    const LIMIT: f64 = 12.0;
    let fixture = Fixture::with_node_class("limits").await?;
    let _controller = fixture.controller().await?;
    let mut pool = objects::node_pool("default");
    pool["spec"]["limits"] = json!({"cpu": "12"});
    fixture.apply(pool.clone()).await?;

    // Watched from before the first pod until the limit is used up to the last CPU, and again after the refusal.
    let used_up = |claims: &BTreeMap<String, DynamicObject>| {
        let capacities = claims
            .values()
            .map(|claim| &claim.data["status"]["capacity"]["cpu"]);
        let sum: f64 = capacities.filter(|cpu| cpu.is_string()).map(cpus).sum();
        assert!(sum <= LIMIT, "{sum} CPUs of at most {LIMIT}: {:?}", claims.keys());
        sum > LIMIT - 1e-6
    };
    let using_up = fixture.wait_claims("claims that use the limit up", used_up);
    let refusing = async {
        fixture.apply(objects::deployment("many", 40, "800m")).await?;
        fixture
            .wait_event("Pod", "many", "FailedScheduling", "limit cpu 12")
            .await
    };
    tokio::try_join!(using_up, refusing)?;
    let at_limit = |pool: &DynamicObject| pool.data["status"]["resources"]["cpu"] == "12";
    fixture
        .wait_pool("a pool at its limit", "default", at_limit)
        .await?;
    fixture
        .wait_claims("claims that keep to the limit", used_up)
        .await?;

    // A higher limit lets the rest in.
    pool["spec"]["limits"] = json!({"cpu": "100"});
    fixture.apply(pool).await?;
    fixture.wait_running(40).await?;
    fixture.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_no_machine_can_hold_is_told_why() -> Result<()> {
    let fixture = Fixture::with_node_class("unplaceable").await?;
    let _controller = fixture.controller().await?;
    fixture.apply(objects::pod("early", "100m")).await?;
    fixture
        .wait_event("Pod", "early", "FailedScheduling", "no NodePool")
        .await?;

    let mut pool = objects::node_pool("default");
    pool["spec"]["template"]["spec"]["taints"] =
        json!([{"key": "team", "value": "blue", "effect": "NoSchedule"}]);
    fixture.apply(pool).await?;
    fixture
        .wait_event("Pod", "early", "FailedScheduling", "team=blue:NoSchedule")
        .await?;

    let tolerations = json!([{"key": "team", "operator": "Exists"}]);
    let mut huge = objects::pod("huge", "1000");
    let mut elsewhere = objects::pod("elsewhere", "100m");
    elsewhere["spec"]["nodeSelector"] = json!({"kubernetes.io/arch": "arm64"});
    let mut unknown = objects::pod("unknown", "100m");
    unknown["spec"]["nodeSelector"] = json!({"example.com/disk": "fast"});
    for (pod, name, says) in [
        (&mut huge, "huge", "cpu 1000"),
        (&mut elsewhere, "elsewhere", "kubernetes.io/arch"),
        (&mut unknown, "unknown", "example.com/disk"),
    ] {
        pod["spec"]["tolerations"] = tolerations.clone();
        fixture.apply(pod.take()).await?;
        let note = fixture.wait_event("Pod", name, "FailedScheduling", says).await?;
        assert!(note.contains("NodePool default"), "{note}");
    }
    let claims = fixture.claims().await?.list(&ListParams::default()).await?;
    assert!(
        claims.items.is_empty(),
        "machines for pods that no machine can hold: {:?}",
        claims.items
    );
    fixture.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_fits_a_machine_under_way_waits_for_it() -> Result<()> {
    let fixture = Fixture::start("in flight").await?;
    let mut class = objects::node_class();
    class["spec"]["nodeRegistrationDelay"] = json!("10s");
    fixture.apply(class).await?;
    let controller = fixture.controller().await?;
    fixture.apply(objects::node_pool("default")).await?;

    fixture.apply(objects::pod("first", "500m")).await?;
    let mut seen = BTreeSet::new();
    let launched = |claims: &BTreeMap<String, DynamicObject>| {
        seen.extend(claims.keys().cloned());
        claims
            .values()
            .any(|claim| conditions::is_true(claim, "Launched"))
    };
    fixture.wait_claims("a machine under way", launched).await?;
    assert!(
        fixture.cluster().nodes().await?.is_empty(),
        "the machine has joined too early for this test"
    );
    fixture.apply(objects::pod("second", "300m")).await?;

    let in_service = |claims: &BTreeMap<String, DynamicObject>| {
        seen.extend(claims.keys().cloned());
        claims.values().any(|claim| conditions::is_true(claim, "Ready"))
    };
    fixture.wait_claims("the machine in service", in_service).await?;
    let pods = fixture.wait_running(2).await?;
    let claims = fixture.claims().await?.list(&ListParams::default()).await?;
    seen.extend(claims.iter().map(ResourceExt::name_any));
    assert_eq!(seen.len(), 1, "more than one machine: {seen:?}");
    assert_eq!(places(&pods, "first"), places(&pods, "second"));
    assert_eq!(bound_as_planned(&controller, 2).await?, 2);
    fixture.finish().await
}
