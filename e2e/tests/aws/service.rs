//! Machines in service: what is written on them, what is learned from them, when they have drifted, and when they break.

use anyhow::{Context, Result};
use http::Method;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use plimsoll_e2e::aws::AwsFixture;
use plimsoll_e2e::conditions;
use plimsoll_e2e::controller::Controller;
use plimsoll_e2e::fixture::PATIENCE;
use plimsoll_e2e::objects;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const POLL: std::time::Duration = std::time::Duration::from_millis(200);
/// Several times as long as two looks for drift are apart at least.
const CATALOGUES_FOR: std::time::Duration = std::time::Duration::from_secs(35);

async fn classes(aws: &AwsFixture) -> Result<Api<DynamicObject>> {
    let cluster = aws.fixture.cluster();
    cluster.api_of("karpenter.k8s.aws/v1", "EC2NodeClass", None).await
}

/// One pod on one machine of a pool that removes nothing while the test looks.
async fn with_one_machine(test: &str) -> Result<AwsFixture> {
    let aws = AwsFixture::start(test).await?;
    aws.fixture.apply(aws.node_class()).await?;
    let mut pool = objects::aws_node_pool("default");
    pool["spec"]["disruption"]["consolidateAfter"] = "Never".into();
    aws.fixture.apply(pool).await?;
    Ok(aws)
}

/// Waits until the first instance carries this tag.
async fn wait_tag(aws: &AwsFixture, key: &str) -> Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let instances = aws.cloud.instances().await?;
        if let Some(value) = instances.first().and_then(|i| i.tags.get(key)) {
            return Ok(value.clone());
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "no tag {key} within {PATIENCE:?}: {instances:?}"
        );
        sleep(POLL).await;
    }
}

async fn patch(api: &Api<DynamicObject>, name: &str, patch: Value) -> Result<()> {
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map(drop)
        .with_context(|| format!("patching {name}"))
}

/// The reason of the condition Drifted of the only claim; None when it has no such condition.
async fn wait_drift(aws: &AwsFixture, reason: Option<&str>) -> Result<()> {
    let what = format!("a claim with drift {reason:?}");
    aws.fixture
        .wait_claims(&what, |claims| {
            claims.values().all(|claim| {
                let found = conditions::find(claim, "Drifted");
                found.as_ref().map(|c| (&*c.status, &*c.reason)) == reason.map(|r| ("True", r))
            })
        })
        .await
        .map(drop)
}

#[tokio::test]
async fn a_machine_is_named_and_its_memory_is_learned() -> Result<()> {
    let aws = with_one_machine("aws-service").await?;
    let controller = aws.controller().await?;
    let mut web = objects::deployment("web", 1, "500m");
    web["spec"]["template"]["spec"]["affinity"] = objects::one_per_machine("web");
    aws.fixture.apply(web).await?;
    aws.fixture.wait_running(1).await?;

    let name = wait_tag(&aws, "Name").await?;
    let instance = aws.cloud.instances().await?.remove(0);
    assert_eq!(Some(&name), instance.node.as_ref());
    aws.fixture
        .wait_claims("a claim marked as tagged", |claims| {
            claims.values().all(|claim| {
                let annotations = claim.metadata.annotations.as_ref();
                annotations.is_some_and(|a| {
                    a.get("karpenter.k8s.aws/tagged").map(String::as_str) == Some("true")
                        && a.contains_key("compatibility.karpenter.k8s.aws/cluster-name-tagged")
                })
            })
        })
        .await?;

    // A process that has just started learns from the Nodes that are there.
    drop(controller);
    let controller = aws.controller().await?;
    let memory = |object: &Value| {
        let text = object["status"]["capacity"]["memory"]
            .as_str()
            .unwrap_or_default();
        let digits = text.trim_end_matches(char::is_alphabetic);
        let unit = match &text[digits.len()..] {
            "" => 1,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            other => panic!("unit {other:?} of {text}"),
        };
        digits.parse::<i64>().unwrap() * unit
    };
    let nodes = aws.fixture.cluster().nodes().await?;
    let shown = memory(&serde_json::to_value(&nodes[0])?);
    let first = aws.fixture.cluster().node_claims().await?;
    assert_ne!(memory(&first[0].data), shown, "the estimate happens to be right");
    // Long enough for the new process to have looked at its machines once.
    let deadline = Instant::now() + PATIENCE;
    let mut replicas = 1;
    loop {
        replicas += 1;
        aws.fixture.scale("web", replicas).await?;
        aws.fixture.wait_running(replicas).await?;
        let claims = aws.fixture.cluster().node_claims().await?;
        let type_of = |claim: &DynamicObject| {
            claim
                .metadata
                .labels
                .as_ref()?
                .get("node.kubernetes.io/instance-type")
                .cloned()
        };
        let learned = claims
            .iter()
            .filter(|c| type_of(c).as_deref() == Some(&*instance.instance_type))
            .any(|c| memory(&c.data) == shown);
        if learned {
            break;
        }
        anyhow::ensure!(
            Instant::now() < deadline && replicas < 6,
            "no claim of a {} promises the {shown} bytes that its machines have",
            instance.instance_type
        );
    }
    let tagged = aws.cloud.requests(0).await?;
    let refused: Vec<_> = tagged
        .iter()
        .filter(|r| r.action == "ec2:CreateTags" && r.error.is_some())
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
    aws.finish().await?;
    drop(controller);
    Ok(())
}

#[tokio::test]
async fn drift_is_said_and_taken_back() -> Result<()> {
    let aws = with_one_machine("aws-drift").await?;
    let controller = aws.controller().await?;
    aws.fixture.apply(objects::pod("one", "500m")).await?;
    aws.fixture.wait_running(1).await?;
    wait_drift(&aws, None).await?;

    let classes = classes(&aws).await?;
    patch(
        &classes,
        "default",
        json!({ "spec": { "tags": { "team": "a" } } }),
    )
    .await?;
    wait_drift(&aws, Some("NodeClassDrift")).await?;
    patch(&classes, "default", json!({ "spec": { "tags": null } })).await?;
    wait_drift(&aws, None).await?;

    // One zone less, and not the one the machine is in; then not even that.
    let zone = aws.cloud.instances().await?.remove(0).zone;
    let ready = aws.cloud.ready();
    let terms = |keep: &dyn Fn(&str) -> bool| {
        let kept = ready.subnets.iter().filter(|(zone, _)| keep(zone));
        let ids: Vec<_> = kept.map(|(_, id)| json!({ "id": id })).collect();
        json!({ "spec": { "subnetSelectorTerms": ids } })
    };
    patch(&classes, "default", terms(&|z| z != zone)).await?;
    wait_drift(&aws, Some("SubnetDrift")).await?;
    patch(&classes, "default", terms(&|z| z == zone)).await?;
    wait_drift(&aws, None).await?;

    let pools = aws.fixture.pools().await?;
    let labels = |labels: Value| json!({ "spec": { "template": { "metadata": { "labels": labels } } } });
    patch(&pools, "default", labels(json!({ "example.com/new": "yes" }))).await?;
    wait_drift(&aws, Some("NodePoolDrifted")).await?;
    patch(&pools, "default", labels(Value::Null)).await?;
    wait_drift(&aws, None).await?;

    assert_eq!(
        aws.cloud.instances().await?.len(),
        1,
        "drift is said, and nothing replaced"
    );
    assert_catalogues_cause_no_looks(&aws, &controller).await?;
    aws.finish().await?;
    drop(controller);
    Ok(())
}

/// Refusals of EC2 make one catalogue after the other, and none of them changes a machine.
async fn assert_catalogues_cause_no_looks(aws: &AwsFixture, controller: &Controller) -> Result<()> {
    let calls = async |method: &str| -> Result<f64> {
        let name = "karpenter_cloudprovider_duration_seconds_count";
        Ok(controller
            .metrics()
            .await?
            .sum(name, &[("method", method)])
            .unwrap_or(0.0))
    };
    let (looks, catalogues) = (calls("IsDrifted").await?, calls("GetInstanceTypes").await?);
    assert!(looks > 0.0, "drift was looked for");
    aws.cloud.set_capacity(&json!([{ "free": 0 }])).await?;
    aws.fixture.apply(objects::pod("refused", "3")).await?;
    let begin = Instant::now();
    while begin.elapsed() < CATALOGUES_FOR || calls("GetInstanceTypes").await? < catalogues + 3.0 {
        anyhow::ensure!(
            begin.elapsed() < PATIENCE,
            "no new catalogues within {PATIENCE:?}"
        );
        sleep(POLL).await;
    }
    // The last change of the pool may be looked at late.
    let more = calls("IsDrifted").await? - looks;
    assert!(more <= 1.0, "{more} looks in {:?}", begin.elapsed());
    aws.cloud.set_capacity(&json!([])).await
}

/// The cloud's word reaches the claim and its Node as events, and is counted.
#[tokio::test]
async fn an_interruption_is_told_and_counted() -> Result<()> {
    let aws = with_one_machine("aws-interruption").await?;
    let controller = aws.controller().await?;
    aws.fixture.apply(objects::deployment("web", 1, "500m")).await?;
    aws.fixture.wait_running(1).await?;
    let instance = aws.cloud.instances().await?.remove(0);
    let claims = aws.fixture.cluster().node_claims().await?;
    let claim = claims[0]
        .metadata
        .name
        .clone()
        .context("a claim without a name")?;
    let node = instance.node.clone().context("a machine without a Node")?;
    let minute = std::time::Duration::from_mins(1);
    aws.cloud.interrupt("spot", &[instance.id], minute).await?;
    for (kind, name) in [("NodeClaim", &claim), ("Node", &node)] {
        for (reason, says) in [
            ("SpotInterrupted", "two minutes"),
            ("TerminatingOnInterruption", "ended"),
        ] {
            aws.fixture.wait_event(kind, name, reason, says).await?;
        }
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let metrics = controller.metrics().await?;
        let count = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, labels).unwrap_or(0.0);
        let received = "karpenter_interruption_received_messages_total";
        let read = count(received, &[]);
        let deleted = count("karpenter_interruption_deleted_messages_total", &[]);
        let timed = count("karpenter_interruption_message_queue_duration_seconds_count", &[]);
        if deleted > 0.0 && count(received, &[("message_type", "spot_interrupted")]) >= 1.0 {
            assert!(
                count(received, &[("message_type", "no_op")]) >= 1.0,
                "states are told, too"
            );
            assert!(
                read >= deleted && (timed - read).abs() < 0.5,
                "{read} read, {timed} timed, {deleted} deleted"
            );
            break;
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "{read} messages read, {deleted} deleted"
        );
        sleep(POLL).await;
    }
    aws.fixture.wait_running(1).await?;
    aws.finish().await?;
    drop(controller);
    Ok(())
}

/// The cloud's word may come before its answer to the launch.
#[tokio::test]
async fn an_interruption_is_not_lost_while_the_launch_is_not_recorded() -> Result<()> {
    let aws = with_one_machine("aws-early-interruption").await?;
    let controller = aws.controller().await?;
    aws.cloud
        .set_faults(&json!({"answer_delay_seconds": {"ec2:CreateFleet": 10}}))
        .await?;
    aws.fixture.apply(objects::deployment("web", 1, "500m")).await?;
    let deadline = Instant::now() + PATIENCE;
    let launched = loop {
        if let Some(instance) = aws.cloud.instances().await?.pop() {
            break instance.id;
        }
        anyhow::ensure!(Instant::now() < deadline, "nothing was launched");
        sleep(POLL).await;
    };
    let warning = std::time::Duration::from_mins(2);
    aws.cloud.interrupt("spot", &[launched], warning).await?;
    let claims = aws.fixture.cluster().node_claims().await?;
    assert!(
        claims[0].data["status"]["providerID"].is_null(),
        "it is recorded already"
    );
    let claim = claims[0]
        .metadata
        .name
        .as_deref()
        .context("a claim without a name")?;
    aws.fixture
        .wait_event("NodeClaim", claim, "SpotInterrupted", "two minutes")
        .await?;
    aws.cloud.set_faults(&json!({"answer_delay_seconds": {}})).await?;
    aws.finish().await?;
    drop(controller);
    Ok(())
}

#[tokio::test]
async fn a_machine_whose_checks_fail_is_replaced() -> Result<()> {
    let aws = with_one_machine("aws-health").await?;
    let controller = aws.controller().await?;
    let web = objects::deployment("web", 1, "500m");
    aws.fixture.apply(web).await?;
    aws.fixture.wait_running(1).await?;
    // No pod may be evicted, so a drain would never end; a machine that is broken is not drained.
    aws.fixture.apply(objects::disruption_budget("web", 1)).await?;
    let broken = aws.cloud.instances().await?.remove(0).id;
    let health = json!({ broken.as_str(): { "system": 180 } });
    aws.cloud.control::<Value>(Method::PUT, "health", &health).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let instances = aws.cloud.instances().await?;
        let gone = instances
            .iter()
            .any(|i| i.id == broken && i.state == "terminated");
        if gone && instances.len() == 2 {
            break;
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "{instances:?}\n{}",
            controller.log_tail(20)
        );
        sleep(POLL).await;
    }
    aws.fixture.wait_running(1).await?;
    aws.finish().await?;
    drop(controller);
    Ok(())
}

/// A class that may not launch says so before anything is bought.
#[tokio::test]
async fn a_missing_right_is_found_before_the_first_launch() -> Result<()> {
    let aws = AwsFixture::with_node_pool("aws-dry-run").await?;
    aws.cloud
        .set_faults(&json!({ "deny": [{ "principal": "*assumed-role/*", "action": "ec2:RunInstances" }] }))
        .await?;
    let controller = aws.controller().await?;
    let classes = classes(&aws).await?;
    aws.fixture
        .cluster()
        .wait_for("a class that may not launch", classes, PATIENCE, |classes| {
            classes.get("default").is_some_and(|class| {
                conditions::find(class, "ValidationSucceeded").is_some_and(|c| {
                    c.status == "False"
                        && c.reason == "RunInstancesAuthCheckFailed"
                        && c.message.contains("ec2:RunInstances")
                }) && conditions::find(class, "Ready").is_some_and(|c| c.status == "False")
            })
        })
        .await?;
    let launched = aws.cloud.requests(0).await?;
    let real: Vec<_> = launched
        .iter()
        .filter(|r| matches!(&*r.action, "ec2:CreateFleet" | "ec2:RunInstances") && !r.dry_run)
        .collect();
    assert!(real.is_empty(), "{real:?}");
    aws.cloud.set_faults(&json!({ "deny": [] })).await?;
    // It is tried again and again, so whoever grants the right need do nothing else.
    aws.fixture
        .wait_pool("a ready NodePool", "default", |pool| {
            conditions::is_true(pool, "Ready")
        })
        .await?;
    aws.finish().await?;
    drop(controller);
    Ok(())
}

/// A zone that can be launched into.
fn first_zone(aws: &AwsFixture) -> Result<String> {
    let zone = aws.cloud.ready().subnets.keys().next();
    Ok(zone.context("no subnet")?.clone())
}

/// Nothing is passed over in silence, and other classes go on.
#[tokio::test]
async fn what_is_not_supported_is_said_in_a_condition() -> Result<()> {
    let aws = AwsFixture::with_node_pool("aws-unsupported").await?;
    let zone = first_zone(&aws)?;
    let block =
        json!([{ "id": "cr-1", "type": "m5.large", "zone": zone, "count": 1, "kind": "capacity-block" }]);
    aws.cloud
        .control::<Value>(Method::PUT, "reservations", &block)
        .await?;
    let image = json!([{ "name": "amazon-eks-node-*" }]);
    for (name, change) in [
        (
            "alias",
            json!({ "amiSelectorTerms": [{ "alias": "windows2022@latest" }] }),
        ),
        (
            "family",
            json!({ "amiFamily": "Windows2022", "amiSelectorTerms": image }),
        ),
        ("group", json!({ "placementGroupSelector": { "name": "near" } })),
        (
            "block",
            json!({ "capacityReservationSelectorTerms": [{ "id": "cr-1" }] }),
        ),
    ] {
        let mut class = aws.node_class();
        class["metadata"]["name"] = name.into();
        for (key, value) in change.as_object().context("no object")? {
            class["spec"][key] = value.clone();
        }
        aws.fixture.apply(class).await?;
    }
    let controller = aws.controller().await?;
    // The last is the status of the condition, and whether the class can launch.
    let expected = [
        ("alias", "AMIsReady", "UnsupportedAlias", "Windows", "False"),
        (
            "family",
            "ValidationSucceeded",
            "UnsupportedAMIFamily",
            "Windows",
            "False",
        ),
        (
            "group",
            "PlacementGroupReady",
            "PlacementGroupResolutionFailed",
            "placementGroupSelector",
            "False",
        ),
        (
            "block",
            "CapacityReservationsReady",
            "CapacityReservationsNotSupported",
            "cr-1",
            "True",
        ),
    ];
    aws.fixture
        .cluster()
        .wait_for("four conditions", classes(&aws).await?, PATIENCE, |classes| {
            expected.iter().all(|(class, ty, reason, says, status)| {
                classes.get(*class).is_some_and(|class| {
                    let found = conditions::find(class, ty);
                    found.is_some_and(|c| {
                        c.status == *status && c.reason == *reason && c.message.contains(says)
                    }) && conditions::find(class, "Ready").is_some_and(|c| c.status == *status)
                })
            })
        })
        .await?;
    aws.fixture.apply(objects::pod("one", "500m")).await?;
    aws.fixture.wait_running(1).await?;
    aws.finish().await?;
    drop(controller);
    Ok(())
}

/// What is reserved is used first, and only as far as it goes.
#[tokio::test]
async fn a_reservation_is_filled_before_anything_is_bought() -> Result<()> {
    let aws = AwsFixture::start("aws-reserved").await?;
    let zone = first_zone(&aws)?;
    let reserved = json!([{ "id": "cr-1", "type": "m5.large", "zone": zone, "count": 1 }]);
    aws.cloud
        .control::<Value>(Method::PUT, "reservations", &reserved)
        .await?;
    let mut class = aws.node_class();
    class["spec"]["capacityReservationSelectorTerms"] = json!([{ "id": "cr-1" }]);
    aws.fixture.apply(class).await?;
    let mut pool = objects::aws_node_pool("default");
    pool["spec"]["template"]["spec"]["requirements"] = json!([
        { "key": "karpenter.sh/capacity-type", "operator": "In", "values": ["reserved", "on-demand"] },
    ]);
    aws.fixture.apply(pool).await?;
    let controller = aws.controller().await?;
    let classes = classes(&aws).await?;
    aws.fixture
        .cluster()
        .wait_for("a class with a reservation", classes, PATIENCE, |classes| {
            classes.get("default").is_some_and(|class| {
                class.data["status"]["capacityReservations"][0]["id"] == "cr-1"
                    && conditions::is_true(class, "Ready")
            })
        })
        .await?;
    let mut web = objects::deployment("web", 2, "500m");
    web["spec"]["template"]["spec"]["affinity"] = objects::one_per_machine("web");
    aws.fixture.apply(web).await?;
    aws.fixture.wait_running(2).await?;

    let instances = aws.cloud.instances().await?;
    let mut bought: Vec<_> = instances.iter().map(|i| i.reservation.as_deref()).collect();
    bought.sort_unstable();
    assert_eq!(bought, [None, Some("cr-1")], "{instances:?}");
    let claims = aws.fixture.cluster().node_claims().await?;
    let mut labels: Vec<_> = claims
        .iter()
        .map(|claim| {
            let label = |key: &str| claim.metadata.labels.as_ref()?.get(key).map(String::as_str);
            (
                label("karpenter.sh/capacity-type"),
                label("karpenter.k8s.aws/capacity-reservation-id"),
            )
        })
        .collect();
    labels.sort_unstable();
    assert_eq!(
        labels,
        [(Some("on-demand"), None), (Some("reserved"), Some("cr-1"))]
    );
    aws.finish().await?;
    drop(controller);
    Ok(())
}
