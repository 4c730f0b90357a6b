//! A cloud as it is on a bad day. Every pod needs a machine of its own, so one machine too many shows.

use std::collections::BTreeMap;

use anyhow::Result;
use plimsoll_e2e::aws::{AwsFixture, Calls};
use plimsoll_e2e::cloud::Instance;
use plimsoll_e2e::fixture::PATIENCE;
use plimsoll_e2e::objects;
use serde_json::json;
use tokio::time::Instant;

/// A NodePool, and a Deployment `web` whose pods need a machine each. Machines are only removed when empty, so that
/// every launch is one that a pod or a fault asked for.
async fn start(test: &str) -> Result<AwsFixture> {
    let aws = AwsFixture::start(test).await?;
    aws.fixture.apply(aws.node_class()).await?;
    let mut pool = objects::aws_node_pool("default");
    pool["spec"]["disruption"]["consolidationPolicy"] = "WhenEmpty".into();
    aws.fixture.apply(pool).await?;
    let mut web = objects::deployment("web", 0, "500m");
    web["spec"]["template"]["spec"]["affinity"] = objects::one_per_machine("web");
    aws.fixture.apply(web).await?;
    Ok(aws)
}

/// Prints what a phase took.
async fn tell(aws: &AwsFixture, phase: &str, begin: Instant) -> Result<()> {
    let calls = Calls::of(&aws.cloud.requests(0).await?);
    eprintln!(
        "[{phase}] {:.1} s, {} calls ({} throttled), {} CreateFleet, {} instances so far",
        begin.elapsed().as_secs_f64(),
        calls.all,
        calls.throttled,
        calls.launches,
        aws.cloud.instances().await?.len()
    );
    Ok(())
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
    tell(&aws, "lost answers", begin).await?;
    aws.fixture.scale("web", 0).await?;
    aws.wait_no_instances(PATIENCE).await?;
    aws.finish().await?;
    drop(controller);
    Ok(())
}
