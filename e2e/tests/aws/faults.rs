//! A cloud as it is on a bad day. Every pod needs a machine of its own, so one machine too many shows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt, api::ListParams};
use plimsoll_e2e::aws::{AwsFixture, Calls};
use plimsoll_e2e::cloud::Instance;
use plimsoll_e2e::fixture::PATIENCE;
use plimsoll_e2e::objects;
use serde_json::json;
use tokio::time::{Instant, sleep};

const REPLICAS: usize = 40;
/// Pods that a PodDisruptionBudget keeps.
const MIN_AVAILABLE: u32 = 32;
/// Throttled to five calls a second, everything takes its time.
const SLOW: Duration = Duration::from_mins(5);
/// What EC2 leaves between its warning and the end of a spot machine.
const WARNING: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(200);

/// A NodePool of spot machines, and a Deployment `web` whose pods need a machine each. Machines are only removed when
/// empty, so that every launch is one that a pod or a fault asked for.
async fn start(test: &str) -> Result<AwsFixture> {
    let aws = AwsFixture::start(test).await?;
    aws.fixture.apply(aws.node_class()).await?;
    let mut pool = objects::aws_node_pool("default");
    pool["spec"]["disruption"]["consolidationPolicy"] = "WhenEmpty".into();
    pool["spec"]["template"]["spec"]["requirements"] =
        json!([{"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot"]}]);
    aws.fixture.apply(pool).await?;
    let mut web = objects::deployment("web", 0, "500m");
    web["spec"]["template"]["spec"]["affinity"] = objects::one_per_machine("web");
    aws.fixture.apply(web).await?;
    Ok(aws)
}

/// Prints what a phase took, and counts from `after` on.
async fn tell(aws: &AwsFixture, phase: &str, begin: Instant, after: u64) -> Result<(Calls, u64)> {
    let requests = aws.cloud.requests(after).await?;
    let calls = Calls::of(&requests);
    eprintln!(
        "[{phase}] {:.1} s, {} calls ({} throttled), {} CreateFleet, {} instances so far",
        begin.elapsed().as_secs_f64(),
        calls.all,
        calls.throttled,
        calls.launches,
        aws.cloud.instances().await?.len()
    );
    Ok((calls, requests.last().map_or(after, |r| r.number)))
}

/// No claim ever had two instances.
fn assert_none_twice(instances: &[Instance]) {
    let mut by_claim: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for instance in instances {
        let uid = instance
            .tags
            .get("plimsoll.dev/nodeclaim-uid")
            .expect("every launch names its claim");
        by_claim.entry(uid).or_default().push(&instance.id);
    }
    let twice: Vec<_> = by_claim.iter().filter(|(_, ids)| ids.len() > 1).collect();
    assert!(twice.is_empty(), "launched twice: {twice:?}");
}

/// Names of the pods that run on these Nodes.
fn pods_on(pods: impl IntoIterator<Item = Pod>, nodes: &BTreeSet<String>) -> BTreeSet<String> {
    let on_them = |pod: &Pod| {
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_ref());
        node.is_some_and(|name| nodes.contains(name))
    };
    pods.into_iter()
        .filter(on_them)
        .filter_map(|pod| pod.metadata.name)
        .collect()
}

#[tokio::test]
async fn a_bad_day_costs_no_pod_and_no_machine_too_many() -> Result<()> {
    let aws = start("aws-faults").await?;
    // The cheapest families have nothing left, and every other spot pool runs out after two machines.
    aws.cloud
        .set_capacity(&json!([
            {"capacity_type": "spot", "free": 2},
            {"type": "t*", "capacity_type": "spot", "free": 0},
            {"type": "m*", "zone": "us-east-1a", "capacity_type": "spot", "free": 0},
        ]))
        .await?;
    aws.cloud
        .set_faults(&json!({
            "throttle": {"rate": 5, "burst": 5, "actions": ["ec2:*"]},
            "visibility_delay_seconds": 3,
            // Long enough for every launch to be under way without its answer.
            "answer_delay_seconds": {"ec2:CreateFleet": 20},
        }))
        .await?;
    let first = aws.leader("first").await?;
    let begin = Instant::now();
    aws.fixture.scale("web", REPLICAS).await?;

    // Killed when it has launched and does not know it yet.
    loop {
        let launched = aws.cloud.instances().await?.len();
        if launched >= REPLICAS / 4 {
            break;
        }
        ensure!(
            begin.elapsed() < SLOW,
            "only {launched} launches\n{}",
            first.log_tail(20)
        );
        sleep(POLL).await;
    }
    let recorded = aws.fixture.cluster().node_claims().await?;
    let recorded = recorded
        .iter()
        .filter(|claim| claim.data["status"]["providerID"].is_string())
        .count();
    let launched = aws.cloud.instances().await?.len();
    first.kill()?;
    ensure!(
        recorded < launched,
        "killed too late: {recorded} of {launched} launches are recorded"
    );
    eprintln!("[killed] {launched} launched, {recorded} recorded");
    aws.cloud.set_faults(&json!({"answer_delay_seconds": {}})).await?;

    let second = aws.leader("second").await?;
    let cluster = aws.fixture.cluster();
    cluster
        .wait_running(aws.fixture.namespace(), REPLICAS, SLOW)
        .await?;
    let (calls, after) = tell(&aws, "launch", begin, 0).await?;
    let instances = aws.cloud.instances().await?;
    assert_none_twice(&instances);
    assert_eq!(instances.len(), REPLICAS, "one machine for each pod");
    assert!(calls.launches <= 2 * REPLICAS, "{calls:?}");
    assert!(calls.throttled > 0, "the throttle was not felt: {calls:?}");
    let spot: Vec<&Instance> = instances.iter().filter(|i| i.capacity_type == "spot").collect();
    let pools: BTreeSet<_> = spot.iter().map(|i| (&i.instance_type, &i.zone)).collect();
    assert!(
        spot.len() >= REPLICAS / 2 && pools.len() * 2 >= spot.len(),
        "{pools:?}"
    );

    // Half of the spot machines are taken back.
    aws.fixture
        .apply(objects::disruption_budget("web", MIN_AVAILABLE))
        .await?;
    aws.cloud.set_capacity(&json!([])).await?;
    let taken: Vec<&Instance> = spot.iter().step_by(2).copied().collect();
    let ids: Vec<String> = taken.iter().map(|i| i.id.clone()).collect();
    let doomed: BTreeSet<String> = taken.iter().filter_map(|i| i.node.clone()).collect();
    // By pod: the next machine may get the address of the last, and with it its name.
    let pods = aws.fixture.api::<Pod>().list(&ListParams::default()).await?;
    let doomed = pods_on(pods, &doomed);
    assert_eq!(doomed.len(), taken.len(), "a pod on each: {doomed:?}");
    let begin = Instant::now();
    aws.cloud.interrupt("spot", &ids, WARNING).await?;
    cluster
        .wait_for(
            "all pods on machines that stay",
            aws.fixture.api::<Pod>(),
            WARNING,
            |pods| {
                let running = plimsoll_e2e::cluster::PodCounts::of(pods.values()).running;
                assert!(
                    running >= MIN_AVAILABLE as usize,
                    "{running} pods run, the budget keeps {MIN_AVAILABLE}"
                );
                running == REPLICAS
                    && pods.len() == REPLICAS
                    && pods.values().all(|pod| !doomed.contains(&pod.name_any()))
            },
        )
        .await?;
    let (calls, _) = tell(&aws, "interruption", begin, after).await?;
    let instances = aws.cloud.instances().await?;
    assert_none_twice(&instances);
    assert!(
        calls.launches <= 2 * taken.len(),
        "{calls:?} for {} machines",
        taken.len()
    );
    assert!(instances.len() <= REPLICAS + 2 * taken.len());

    aws.fixture.scale("web", 0).await?;
    aws.wait_no_instances(SLOW).await?;
    aws.cloud
        .set_faults(&json!({"throttle": null, "visibility_delay_seconds": 0}))
        .await?;
    aws.finish().await?;
    drop(second);
    Ok(())
}

/// The launch happened, its answer did not arrive: the same token brings the same machine.
#[tokio::test]
async fn lost_answers_launch_nothing_twice() -> Result<()> {
    let aws = start("aws-lost-answers").await?;
    let lost = |action: &str, count: usize| json!({"action": action, "code": "InternalError", "status": 500, "count": count, "after": true});
    aws.cloud
        .set_faults(&json!({
            "visibility_delay_seconds": 3,
            "errors": [lost("ec2:CreateLaunchTemplate", 1), lost("ec2:CreateFleet", 4), lost("ec2:TerminateInstances", 1)],
        }))
        .await?;
    let controller = aws.controller().await?;
    let begin = Instant::now();
    aws.fixture.scale("web", 4).await?;
    aws.fixture.wait_running(4).await?;
    let instances = aws.cloud.instances().await?;
    assert_none_twice(&instances);
    assert_eq!(instances.len(), 4);
    tell(&aws, "lost answers", begin, 0).await?;
    aws.fixture.scale("web", 0).await?;
    aws.wait_no_instances(PATIENCE).await?;
    aws.finish().await?;
    drop(controller);
    Ok(())
}

/// No budget keeps the only pod of a Deployment: it is evicted once its next machine is ready, and not before.
#[tokio::test]
async fn a_pod_is_replaced_before_its_spot_machine_ends() -> Result<()> {
    let aws = start("aws-notice").await?;
    let joins_after = Duration::from_secs(15);
    aws.cloud
        .set_faults(&json!({"join_delay_seconds": joins_after.as_secs()}))
        .await?;
    let controller = aws.controller().await?;
    aws.fixture.scale("web", 1).await?;
    aws.fixture.wait_running(1).await?;
    let first = aws.cloud.instances().await?.remove(0);

    let cluster = aws.fixture.cluster();
    let pods = aws.fixture.api::<Pod>().list(&ListParams::default()).await?.items;
    let pod = pods[0].name_any();
    let begin = Instant::now();
    aws.cloud
        .interrupt("spot", std::slice::from_ref(&first.id), WARNING)
        .await?;
    let is_evicted = |pods: &BTreeMap<String, Pod>| {
        let mut running = pods
            .values()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none());
        running.all(|running| running.name_any() != pod)
    };
    cluster
        .wait_for("the eviction of the pod", aws.fixture.api(), WARNING, is_evicted)
        .await?;
    let warned_for = begin.elapsed();
    eprintln!(
        "[notice] evicted {:.1} s after the warning",
        warned_for.as_secs_f64()
    );
    let nodes: Api<Node> = Api::all(cluster.client());
    let nodes = nodes.list(&ListParams::default()).await?.items;
    let second = nodes.iter().find(|node| Some(node.name_any()) != first.node);
    let second = second.context("evicted before there was another machine")?;
    assert!(is_ready(second), "evicted before its next machine was ready");
    // It waited for the machine, and not for the last moment.
    assert!(joins_after < warned_for && warned_for < WARNING / 2);
    cluster
        .wait_for(
            "its successor there",
            aws.fixture.api(),
            PATIENCE,
            |pods: &BTreeMap<String, Pod>| {
                let on = |pod: &Pod| pod.spec.as_ref().and_then(|s| s.node_name.clone());
                pods.len() == 1 && pods.values().all(|pod| on(pod) == second.metadata.name)
            },
        )
        .await?;
    assert_eq!(
        aws.cloud.instances().await?.len(),
        2,
        "one machine was bought for it"
    );
    aws.fixture.scale("web", 0).await?;
    aws.wait_no_instances(PATIENCE).await?;
    aws.finish().await?;
    drop(controller);
    Ok(())
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}
