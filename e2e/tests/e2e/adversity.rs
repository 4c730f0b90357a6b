//! Wrong configuration and a lost API server: the controller says what is wrong, harms nothing, and recovers.

use std::time::Duration;

use anyhow::{Context, Result};
use kube::ResourceExt;
use kube::api::{DynamicObject, ListParams};
use plimsoll_e2e::fixture::{Fixture, PATIENCE};
use plimsoll_e2e::{conditions, objects, paths};
use serde_json::json;
use tokio::time::{Instant, sleep};

/// How long the API server is gone where it is gone for long.
const OUTAGE: Duration = Duration::from_mins(1);
/// Shorter than the ten seconds in which a leader must renew its lease.
const BLINK: Duration = Duration::from_secs(4);

fn is_ready(pool: &DynamicObject) -> bool {
    conditions::is_true(pool, "Ready")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_breaks_a_rule_says_so_and_buys_nothing_until_it_is_mended() -> Result<()> {
    let fixture = Fixture::with_node_class("bad pool").await?;
    let _controller = fixture.controller().await?;
    // The schema cannot know which capacity types there are.
    let mut pool = objects::node_pool("default");
    pool["spec"]["template"]["spec"]["requirements"][2]["values"] = json!(["spott"]);
    fixture.apply(pool).await?;
    let refused = |pool: &DynamicObject| {
        conditions::says(pool, "ValidationSucceeded", "False", "NodePoolValidationFailed") && !is_ready(pool)
    };
    let pool = fixture
        .wait_pool("a refused NodePool", "default", refused)
        .await?;
    let message = conditions::find(&pool, "ValidationSucceeded").unwrap().message;
    for part in ["spec.template.spec.requirements[2]", "spott", "spot"] {
        assert!(message.contains(part), "{message}");
    }

    fixture.apply(objects::pod("guest", "500m")).await?;
    fixture
        .wait_event("Pod", "guest", "FailedScheduling", "NodePool")
        .await?;
    assert!(fixture.cluster().node_claims().await?.is_empty());

    fixture.apply(objects::node_pool("default")).await?;
    fixture
        .wait_pool("the mended NodePool", "default", is_ready)
        .await?;
    fixture.wait_running(1).await?;
    fixture.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_without_its_node_class_waits_for_it() -> Result<()> {
    let fixture = Fixture::start("missing class").await?;
    let _controller = fixture.controller().await?;
    fixture.apply(objects::node_pool("default")).await?;
    let lacks = |pool: &DynamicObject| {
        conditions::says(pool, "NodeClassReady", "False", "NodeClassNotFound") && !is_ready(pool)
    };
    let pool = fixture
        .wait_pool("a NodePool that lacks its class", "default", lacks)
        .await?;
    let message = conditions::find(&pool, "NodeClassReady").unwrap().message;
    assert!(message.contains("default"), "{message}");
    fixture.apply(objects::pod("guest", "500m")).await?;
    fixture
        .wait_event("Pod", "guest", "FailedScheduling", "NodePool")
        .await?;
    assert!(fixture.cluster().node_claims().await?.is_empty());

    fixture.apply(objects::node_class()).await?;
    fixture
        .wait_pool("the NodePool with its class", "default", is_ready)
        .await?;
    fixture.wait_running(1).await?;
    fixture.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_without_crds_says_what_is_missing_and_waits() -> Result<()> {
    let fixture = Fixture::bare("missing crds").await?;
    if fixture.is_attached() {
        println!("skipped: the cluster of KUBECONFIG is shared, and its CRDs are not this test's to remove");
        return fixture.finish().await;
    }
    let mut controller = fixture.spawn_controller("plimsoll", &[("DISABLE_LEADER_ELECTION", "true")])?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = controller.readiness().await;
        let parts = [
            "nodepools.karpenter.sh",
            "nodeclaims.karpenter.sh",
            "plimsoll crds",
        ];
        if let Ok(answer) = &answer
            && parts.iter().all(|part| answer.body.contains(part))
        {
            assert_eq!(answer.status, 503);
            assert!(
                !answer.body.contains("pods:"),
                "what was read is not missing: {}",
                answer.body
            );
            break;
        }
        controller.ensure_running()?;
        assert!(
            Instant::now() < deadline,
            "{answer:?}\n{}",
            controller.log_tail(20)
        );
        sleep(Duration::from_millis(50)).await;
    }

    fixture.cluster().apply_directory(&paths::crds()).await?;
    controller.wait_ready(PATIENCE).await?;
    fixture.apply(objects::node_class()).await?;
    fixture.apply(objects::node_pool("default")).await?;
    fixture.apply(objects::pod("guest", "500m")).await?;
    fixture.wait_running(1).await?;
    fixture.finish().await
}

/// Where the API server can be stopped; says why where it cannot.
async fn stoppable(test: &str) -> Result<Option<Fixture>> {
    let fixture = Fixture::with_node_class(test).await?;
    if fixture.is_attached() {
        println!("skipped: the API server of KUBECONFIG is not this test's to stop");
        fixture.apply(objects::node_pool("default")).await?;
        let _controller = fixture.controller().await?;
        fixture.finish().await?;
        return Ok(None);
    }
    fixture.apply(objects::node_pool("default")).await?;
    Ok(Some(fixture))
}

/// A Deployment `before` whose two pods have a machine each, and the names of the claims.
async fn two_machines(fixture: &Fixture) -> Result<Vec<String>> {
    let mut before = objects::deployment("before", 2, "500m");
    before["spec"]["template"]["spec"]["affinity"] = objects::one_per_machine("before");
    fixture.apply(before).await?;
    fixture.wait_running(2).await?;
    let claims = fixture.wait_claims("2 machines in service", |claims| {
        claims.len() == 2 && claims.values().all(is_ready)
    });
    Ok(claims.await?.into_keys().collect())
}

/// A new pod gets a machine, and the machines from before are the same.
async fn assert_nothing_lost(fixture: &Fixture, before: &[String]) -> Result<()> {
    let mut after = objects::deployment("after", 1, "3500m");
    after["spec"]["template"]["spec"]["affinity"] = objects::one_per_machine("after");
    fixture.apply(after).await?;
    fixture.wait_running(3).await?;
    let claims = fixture.claims().await?.list(&ListParams::default()).await?;
    let names: Vec<String> = claims.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(
        before.iter().all(|name| names.contains(name)),
        "{before:?} before, {names:?} after"
    );
    Ok(())
}

fn api_server(fixture: &mut Fixture) -> Result<&mut plimsoll_e2e::process::Process> {
    fixture
        .testbed_mut()
        .process_mut("kube-apiserver")
        .context("no API server of our own")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_gone_for_a_minute_is_waited_for() -> Result<()> {
    let Some(mut fixture) = stoppable("api server gone").await? else {
        return Ok(());
    };
    let mut controller = fixture.controller().await?;
    let before = two_machines(&fixture).await?;
    // Without a lease there is nothing to lose, so the process must stay.
    api_server(&mut fixture)?.kill()?;
    sleep(OUTAGE).await;
    controller.ensure_running()?;
    api_server(&mut fixture)?.restart()?;
    fixture.testbed().wait_api_server().await?;

    assert_nothing_lost(&fixture, &before).await?;
    controller.ensure_running()?;
    fixture.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_outlives_an_api_server_that_restarts() -> Result<()> {
    let Some(mut fixture) = stoppable("api server restarts").await? else {
        return Ok(());
    };
    let mut controller = fixture.leader("a").await?;
    let before = two_machines(&fixture).await?;
    api_server(&mut fixture)?.kill()?;
    sleep(BLINK).await;
    api_server(&mut fixture)?.restart()?;
    fixture.testbed().wait_api_server().await?;
    if controller.ensure_running().is_err() {
        // A slow machine needs longer to start the server than a lease lasts; losing it then is right.
        assert!(
            controller.log_tail(20).contains("leadership lost"),
            "{}",
            controller.log_tail(20)
        );
        println!("the API server took so long to restart that the lease was lost");
        controller = fixture.leader("b").await?;
    }
    assert_nothing_lost(&fixture, &before).await?;
    controller.ensure_running()?;
    fixture.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_gets_no_answer_ends_before_another_may_lead() -> Result<()> {
    let Some(mut fixture) = stoppable("api server hangs").await? else {
        return Ok(());
    };
    let mut controller = fixture.leader("a").await?;
    let before = two_machines(&fixture).await?;
    api_server(&mut fixture)?.pause()?;
    let begin = Instant::now();
    let status = controller.wait_ended(PATIENCE).await?;
    let ended = begin.elapsed();
    println!(
        "ended {:.1} s after the API server had stopped answering",
        ended.as_secs_f64()
    );
    assert!(!status.success(), "{status}");
    assert!(
        controller.log_tail(20).contains("leadership lost"),
        "{}",
        controller.log_tail(20)
    );
    assert!(
        ended < Duration::from_secs(15),
        "a lease of 15 s could have been taken by another after {ended:?}"
    );
    sleep(OUTAGE.saturating_sub(ended)).await;
    api_server(&mut fixture)?.resume()?;
    fixture.testbed().wait_api_server().await?;

    let mut controller = fixture.leader("b").await?;
    assert_nothing_lost(&fixture, &before).await?;
    controller.ensure_running()?;
    fixture.finish().await
}
