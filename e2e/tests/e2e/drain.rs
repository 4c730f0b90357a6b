//! Machines go away only as fast as their pods allow.

use std::collections::BTreeMap;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use plimsoll_e2e::conditions;
use plimsoll_e2e::controller::Controller;
use plimsoll_e2e::fixture::{Fixture, PATIENCE};
use plimsoll_e2e::objects;
use serde_json::json;

/// The one machine of a test.
struct Machine {
    claim: String,
    node: String,
}

/// A controller, a NodePool, and the only machine after `objects` have been applied and their pods run.
async fn one_machine(
    fixture: &Fixture,
    objects: impl IntoIterator<Item = serde_json::Value>,
    pods: usize,
) -> Result<(Controller, Machine)> {
    let controller = fixture.controller().await?;
    fixture.apply(objects::node_pool("default")).await?;
    for object in objects {
        fixture.apply(object).await?;
    }
    fixture.wait_running(pods).await?;
    let ready = |claims: &BTreeMap<String, DynamicObject>| {
        claims.len() == 1 && claims.values().all(|claim| conditions::is_true(claim, "Ready"))
    };
    let claims = fixture.wait_claims("one machine in service", ready).await?;
    let (name, claim) = claims.into_iter().next().unwrap();
    let node = claim.data["status"]["nodeName"].as_str().unwrap().to_owned();
    Ok((controller, Machine { claim: name, node }))
}

async fn delete_claim(fixture: &Fixture, name: &str) -> Result<()> {
    fixture
        .claims()
        .await?
        .delete(name, &DeleteParams::default())
        .await?;
    Ok(())
}

async fn wait_claim_gone(fixture: &Fixture, name: &str) -> Result<()> {
    fixture
        .wait_claims("the claim's end", |claims| !claims.contains_key(name))
        .await?;
    Ok(())
}

async fn wait_condition(fixture: &Fixture, claim: &str, type_: &str, status: &str) -> Result<DynamicObject> {
    let holds = |claims: &BTreeMap<String, DynamicObject>| {
        claims
            .get(claim)
            .and_then(|claim| conditions::find(claim, type_))
            .is_some_and(|condition| condition.status == status)
    };
    let mut claims = fixture.wait_claims(&format!("{type_} {status}"), holds).await?;
    Ok(claims.remove(claim).unwrap())
}

fn is_closed(node: &Node) -> bool {
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.any(|taint| taint.key == "karpenter.sh/disrupted" && taint.effect == "NoSchedule")
}

/// Pods of the test by their name, without the namespace.
fn named<'a>(pods: &'a BTreeMap<String, Pod>, name: &str) -> Option<&'a Pod> {
    pods.values().find(|pod| pod.name_any() == name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_holds_a_drain_up_until_it_allows_the_eviction() -> Result<()> {
    let fixture = Fixture::with_node_class("budget").await?;
    let workload = [
        objects::deployment("web", 2, "300m"),
        objects::disruption_budget("web", 2),
    ];
    let (controller, machine) = one_machine(&fixture, workload, 2).await?;
    delete_claim(&fixture, &machine.claim).await?;

    fixture
        .wait_event("Node", &machine.node, "FailedDraining", "disruption budget")
        .await?;
    let claim = fixture.claims().await?.get(&machine.claim).await?;
    let drained = conditions::find(&claim, "Drained").unwrap();
    assert_eq!(
        (drained.status.as_str(), drained.reason.as_str()),
        ("Unknown", "Draining")
    );
    let node = fixture.nodes().get(&machine.node).await?;
    assert!(is_closed(&node));
    assert!(
        node.labels()
            .contains_key("node.kubernetes.io/exclude-from-external-load-balancers")
    );
    for pod in fixture.wait_running(2).await?.values() {
        assert_eq!(
            pod.spec.as_ref().unwrap().node_name.as_deref(),
            Some(machine.node.as_str())
        );
    }
    let refused = controller
        .metrics()
        .await?
        .sum("karpenter_pods_eviction_requests_total", &[("code", "429")]);
    assert!(refused.is_some_and(|count| count >= 1.0), "{refused:?}");

    let budget = json!({"spec": {"minAvailable": 1}});
    let budgets = fixture.api::<k8s_openapi::api::policy::v1::PodDisruptionBudget>();
    budgets
        .patch("web", &PatchParams::default(), &Patch::Merge(&budget))
        .await?;
    wait_claim_gone(&fixture, &machine.claim).await?;
    for pod in fixture.wait_running(2).await?.values() {
        assert_ne!(
            pod.spec.as_ref().unwrap().node_name.as_deref(),
            Some(machine.node.as_str())
        );
    }
    assert!(fixture.nodes().get_opt(&machine.node).await?.is_none());
    fixture.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_termination_grace_period_overrules_a_budget() -> Result<()> {
    const LIMIT: SignedDuration = SignedDuration::from_secs(20);
    let fixture = Fixture::with_node_class("grace period").await?;
    let mut pool = objects::node_pool("default");
    pool["spec"]["template"]["spec"]["terminationGracePeriod"] = json!("20s");
    let mut pod = objects::pod("web", "300m");
    pod["spec"]["terminationGracePeriodSeconds"] = json!(5);
    let workload = [pool, objects::disruption_budget("web", 1), pod];
    let (_controller, machine) = one_machine(&fixture, workload, 1).await?;
    delete_claim(&fixture, &machine.claim).await?;

    let closing = fixture
        .wait_claims("the deadline on the claim", |claims| {
            let annotation = "karpenter.sh/nodeclaim-termination-timestamp";
            claims
                .get(&machine.claim)
                .is_some_and(|claim| claim.annotations().contains_key(annotation))
        })
        .await?;
    let claim = &closing[&machine.claim];
    let deadline: Timestamp = claim.annotations()["karpenter.sh/nodeclaim-termination-timestamp"].parse()?;
    assert_eq!(
        deadline.duration_since(claim.metadata.deletion_timestamp.as_ref().unwrap().0),
        LIMIT
    );

    // A deletion timestamp is when the pod's grace period ends.
    let deleted =
        |pods: &BTreeMap<String, Pod>| pods.values().any(|pod| pod.metadata.deletion_timestamp.is_some());
    let pods = fixture
        .cluster()
        .wait_for("the pod's deletion", fixture.api::<Pod>(), PATIENCE, deleted)
        .await?;
    let end = named(&pods, "web")
        .unwrap()
        .metadata
        .deletion_timestamp
        .as_ref()
        .unwrap()
        .0;
    let early = deadline.duration_since(end);
    assert!(
        early.abs() <= SignedDuration::from_secs(3),
        "the pod ends {early} before the machine's deadline"
    );
    let left = Timestamp::now().duration_since(deadline) + SignedDuration::from_secs(5);
    assert!(
        left >= SignedDuration::from_secs(-2),
        "deleted earlier than its own grace period needs: {left}"
    );
    fixture
        .wait_event("Node", &machine.node, "TerminationGracePeriodExpiring", "deleted")
        .await?;
    wait_claim_gone(&fixture, &machine.claim).await?;
    fixture.wait_no_machines().await?;
    fixture.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_leave_in_order_of_their_importance() -> Result<()> {
    let fixture = Fixture::with_node_class("tiers").await?;
    let slow = json!({"plimsoll.dev/test-terminate-after": "2s"});
    let critical = json!("system-cluster-critical");
    let mut plain = objects::pod("1-plain", "100m");
    let mut daemon = objects::daemon_set("2-daemon", "100m");
    let mut important = objects::pod("3-important", "100m");
    important["spec"]["priorityClassName"] = critical.clone();
    let mut last = objects::daemon_set("4-last", "100m");
    last["spec"]["template"]["spec"]["priorityClassName"] = critical;
    for pod in [&mut plain, &mut important] {
        pod["metadata"]["annotations"] = slow.clone();
        pod["spec"]["terminationGracePeriodSeconds"] = json!(30);
    }
    for set in [&mut daemon, &mut last] {
        set["spec"]["template"]["metadata"]["annotations"] = slow.clone();
        set["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(30);
    }
    let (_controller, machine) = one_machine(&fixture, [daemon, last, plain, important], 4).await?;

    // At each moment only pods of one tier are being deleted, and none of an earlier tier is left.
    let mut order = Vec::new();
    let deleting = delete_claim(&fixture, &machine.claim);
    let watching =
        fixture
            .cluster()
            .wait_for("the end of all pods", fixture.api::<Pod>(), PATIENCE, |pods| {
                let tier = |pod: &Pod| pod.name_any().chars().next().unwrap();
                for pod in pods
                    .values()
                    .filter(|pod| pod.metadata.deletion_timestamp.is_some())
                {
                    let earlier = pods.values().find(|other| tier(other) < tier(pod));
                    assert!(
                        earlier.is_none(),
                        "{} leaves before {}",
                        pod.name_any(),
                        earlier.unwrap().name_any()
                    );
                    if order.last() != Some(&tier(pod)) {
                        order.push(tier(pod));
                    }
                }
                order.len() == 4 && pods.is_empty()
            });
    let (deleted, watched) = tokio::join!(deleting, watching);
    deleted?;
    watched?;
    assert_eq!(order, ['1', '2', '3', '4']);
    wait_claim_gone(&fixture, &machine.claim).await?;
    fixture.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_must_not_be_disrupted_holds_a_drain_up() -> Result<()> {
    let fixture = Fixture::with_node_class("do not disrupt").await?;
    let mut held = objects::pod("held", "200m");
    held["metadata"]["annotations"] = json!({"karpenter.sh/do-not-disrupt": "true"});
    let (_controller, machine) = one_machine(&fixture, [held, objects::pod("free", "200m")], 2).await?;
    delete_claim(&fixture, &machine.claim).await?;

    // Both are of one tier, so what happens to the one would have happened to the other.
    let gone = |pods: &BTreeMap<String, Pod>| named(pods, "free").is_none();
    let pods = fixture
        .cluster()
        .wait_for("the free pod's end", fixture.api::<Pod>(), PATIENCE, gone)
        .await?;
    assert_eq!(named(&pods, "held").unwrap().metadata.deletion_timestamp, None);
    let claim = wait_condition(&fixture, &machine.claim, "Drained", "Unknown").await?;
    assert!(claim.metadata.deletion_timestamp.is_some());

    let allowed = json!({"metadata": {"annotations": {"karpenter.sh/do-not-disrupt": null}}});
    fixture
        .api::<Pod>()
        .patch("held", &PatchParams::default(), &Patch::Merge(&allowed))
        .await?;
    wait_claim_gone(&fixture, &machine.claim).await?;
    fixture.wait_no_machines().await?;
    fixture.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_the_node_drains_it_too() -> Result<()> {
    let fixture = Fixture::with_node_class("delete node").await?;
    let (controller, machine) = one_machine(&fixture, [objects::deployment("web", 2, "300m")], 2).await?;
    fixture
        .nodes()
        .delete(&machine.node, &DeleteParams::default())
        .await?;
    wait_claim_gone(&fixture, &machine.claim).await?;
    assert!(fixture.nodes().get_opt(&machine.node).await?.is_none());
    for pod in fixture.wait_running(2).await?.values() {
        assert_ne!(
            pod.spec.as_ref().unwrap().node_name.as_deref(),
            Some(machine.node.as_str())
        );
    }
    // Evicted in order, not lost with the machine.
    assert_eq!(
        controller
            .metrics()
            .await?
            .sum("karpenter_pods_drained_total", &[]),
        Some(2.0)
    );
    fixture.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_waits_for_its_volumes() -> Result<()> {
    use k8s_openapi::api::storage::v1::VolumeAttachment;
    let fixture = Fixture::with_node_class("volumes").await?;
    let (_controller, machine) = one_machine(&fixture, [objects::pod("web", "300m")], 1).await?;
    let attachment = fixture.namespace();
    fixture
        .apply(json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": attachment},
            "spec": {
                "attacher": "example.com", "nodeName": machine.node,
                "source": {"persistentVolumeName": attachment},
            },
        }))
        .await?;
    delete_claim(&fixture, &machine.claim).await?;

    let claim = wait_condition(&fixture, &machine.claim, "VolumesDetached", "Unknown").await?;
    assert!(conditions::says(
        &claim,
        "VolumesDetached",
        "Unknown",
        "AwaitingVolumeDetachment"
    ));
    assert!(conditions::is_true(&claim, "Drained"));
    assert!(fixture.nodes().get_opt(&machine.node).await?.is_some());

    let attachments: Api<VolumeAttachment> = Api::all(fixture.cluster().client());
    attachments.delete(attachment, &DeleteParams::default()).await?;
    wait_claim_gone(&fixture, &machine.claim).await?;
    fixture.wait_no_machines().await?;
    fixture.finish().await
}
