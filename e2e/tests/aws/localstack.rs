//! The controller against LocalStack, an endpoint that is not of our making: the role is assumed, an instance is
//! launched, tagged, listed and terminated, and a message in the queue is acted on. It has no kubelets, so nothing joins.

use std::time::Duration;

use anyhow::{Result, ensure};
use plimsoll_e2e::conditions;
use plimsoll_e2e::controller::Controller;
use plimsoll_e2e::fixture::{Fixture, PATIENCE};
use plimsoll_e2e::localstack::{Instance, LocalStack};
use plimsoll_e2e::objects;
use serde_json::json;
use tokio::time::{Instant, sleep};

const POLL: Duration = Duration::from_millis(500);

async fn wait_instances(
    localstack: &LocalStack,
    what: &str,
    holds: impl Fn(&[Instance]) -> bool,
) -> Result<Vec<Instance>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let all = localstack.instances()?;
        if holds(&all) {
            return Ok(all);
        }
        ensure!(Instant::now() < deadline, "no {what} after {PATIENCE:?}: {all:?}");
        sleep(POLL).await;
    }
}

#[tokio::test]
async fn launch_tag_list_interrupt_and_terminate() -> Result<()> {
    let fixture = Fixture::start("aws-localstack").await?;
    let testbed = fixture.testbed();
    let mut localstack = LocalStack::start(&testbed.logs()).await?;
    let seeded = localstack.seeded().clone();
    let environment = localstack.controller_environment();
    let mut all: Vec<(&str, &str)> = environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
    all.push(("DISABLE_LEADER_ELECTION", "true"));
    let mut controller = Controller::spawn(
        testbed.kubeconfig(),
        &testbed.logs(),
        "plimsoll",
        Some("aws"),
        &all,
    )?;
    controller.wait_ready(PATIENCE).await?;
    assert!(
        localstack.answered("sts.AssumeRole") > 0,
        "{}",
        localstack.log_tail(20)
    );

    let mut class = objects::ec2_node_class(&seeded.cluster, &seeded.node_role);
    // There are no EKS parameters to look an alias up in, and no EKS to tell the service range that AL2023 needs.
    class["spec"]["amiSelectorTerms"] = json!([{"id": seeded.image}]);
    class["spec"]["amiFamily"] = "Bottlerocket".into();
    fixture.apply(class).await?;
    fixture.apply(objects::aws_node_pool("default")).await?;
    fixture
        .wait_pool("a ready NodePool", "default", |pool| {
            conditions::is_true(pool, "Ready")
        })
        .await?;
    fixture.apply(objects::pod("one", "1500m")).await?;

    let is_claimed = |i: &&Instance| i.tags.contains_key("karpenter.sh/nodeclaim");
    let is_running = |i: &&Instance| i.state == "running";
    let running = |all: &[Instance]| all.iter().filter(is_claimed).filter(is_running).count();
    let launched = wait_instances(&localstack, "instance", |all| running(all) > 0).await?;
    assert_eq!(launched.len(), 1, "{launched:?}");
    let instance = &launched[0];
    assert_eq!(instance.vpc.as_ref(), Some(&seeded.vpc));
    let tag = |key: &str| instance.tags.get(key).map(String::as_str);
    assert_eq!(
        tag(&format!("kubernetes.io/cluster/{}", seeded.cluster)),
        Some("owned")
    );
    assert_eq!(tag("karpenter.sh/nodepool"), Some("default"));
    let ends_with = format!("/{}", instance.id);
    let claims = fixture
        .wait_claims("the claim to know its instance", |claims| {
            claims.values().any(|claim| {
                let id = claim.data["status"]["providerID"].as_str();
                conditions::is_true(claim, "Launched") && id.is_some_and(|id| id.ends_with(&ends_with))
            })
        })
        .await?;
    let first = claims.keys().next().expect("there is one").clone();
    // Only a list shows this one.
    let lost = localstack.lose()?;

    // The warning ends the claim, and with it the instance; the pod gets another.
    localstack.interrupt(&instance.id)?;
    fixture
        .wait_claims("the warned claim to go", |claims| !claims.contains_key(&first))
        .await?;
    wait_instances(&localstack, "end of the warned instance", |all| {
        all.iter().any(|i| i.id == instance.id && i.state == "terminated") && running(all) == 1
    })
    .await?;

    let is_ended = |i: &Instance| i.id == lost && i.state == "terminated";
    wait_instances(&localstack, "end of the instance without a claim", |all| {
        all.iter().any(is_ended)
    })
    .await?;

    fixture.finish().await?;
    wait_instances(&localstack, "end of all instances", |all| running(all) == 0).await?;
    localstack.ensure_running()?;
    drop(controller);
    Ok(())
}
