//! Two replicas take turns: one leads, and the other takes over when it is killed, told to stop, or overruled.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use plimsoll_e2e::controller::Controller;
use plimsoll_e2e::fixture::{Fixture, PATIENCE};
use plimsoll_e2e::objects;
use serde_json::json;
use tokio::time::Instant;

/// The lease lasts 15 s, and it is looked at every 2 s.
const FAILOVER_MAX: Duration = Duration::from_secs(30);
/// A released lease need not run out.
const HAND_OVER_MAX: Duration = Duration::from_secs(8);

/// A replica of its own name that is up to date with the cluster.
async fn replica(fixture: &Fixture, name: &str, lease: &str) -> Result<Controller> {
    let envs = [("POD_NAME", name), ("LEADER_ELECTION_NAME", lease)];
    let mut replica = fixture.spawn_controller(name, &envs)?;
    replica.wait_ready(PATIENCE).await?;
    Ok(replica)
}

/// The lease of a test is its own, so that one left by a killed leader is nobody else's concern.
fn lease_name(fixture: &Fixture) -> String {
    format!("plimsoll-{}", fixture.namespace())
}

fn leases(fixture: &Fixture) -> Api<Lease> {
    fixture.cluster().api(Some("kube-system"))
}

async fn holder(fixture: &Fixture, lease: &str) -> Result<String> {
    let spec = leases(fixture).get(lease).await?.spec;
    Ok(spec.and_then(|spec| spec.holder_identity).unwrap_or_default())
}

/// A leader `a` and a replica `b` that waits.
async fn leader_and_follower(fixture: &Fixture, lease: &str) -> Result<(Controller, Controller)> {
    let mut a = replica(fixture, "a", lease).await?;
    a.wait_leading(PATIENCE).await?;
    let b = replica(fixture, "b", lease).await?;
    let waits = || b.log_tail(100).contains("waiting for the lease");
    let deadline = Instant::now() + PATIENCE;
    while !waits() {
        ensure!(
            Instant::now() < deadline,
            "the second replica does not ask for the lease:\n{}",
            b.log_tail(20)
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(a.leads().await? && !b.leads().await?, "exactly one leads");
    assert!(holder(fixture, lease).await?.starts_with("a_"));
    Ok((a, b))
}

/// The leader buys what a new pod needs.
async fn assert_provisions(fixture: &Fixture) -> Result<()> {
    fixture.apply(objects::node_class()).await?;
    fixture.apply(objects::node_pool("default")).await?;
    fixture.apply(objects::pod("guest", "500m")).await?;
    fixture.wait_running(1).await?;
    Ok(())
}

async fn finish(fixture: Fixture, lease: &str) -> Result<()> {
    leases(&fixture)
        .delete(lease, &kube::api::DeleteParams::default())
        .await?;
    fixture.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_replica_takes_over_from_a_killed_leader() -> Result<()> {
    let fixture = Fixture::start("killed leader").await?;
    let lease = lease_name(&fixture);
    let (a, mut b) = leader_and_follower(&fixture, &lease).await?;
    a.kill()?;
    let begin = Instant::now();
    b.wait_leading(PATIENCE).await?;
    let failover = begin.elapsed();
    println!("failover after SIGKILL: {:.1} s", failover.as_secs_f64());
    assert!(failover <= FAILOVER_MAX, "{failover:?}");
    assert!(holder(&fixture, &lease).await?.starts_with("b_"));
    assert_provisions(&fixture).await?;
    finish(fixture, &lease).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_stop_hands_over_at_once() -> Result<()> {
    let fixture = Fixture::start("stopped leader").await?;
    let lease = lease_name(&fixture);
    let (a, mut b) = leader_and_follower(&fixture, &lease).await?;
    let begin = Instant::now();
    let status = a.terminate(Duration::from_secs(10)).await?;
    assert!(status.success(), "{status}");
    b.wait_leading(PATIENCE).await?;
    let hand_over = begin.elapsed();
    println!("hand-over after SIGTERM: {:.1} s", hand_over.as_secs_f64());
    assert!(hand_over <= HAND_OVER_MAX, "{hand_over:?}");
    assert_provisions(&fixture).await?;
    finish(fixture, &lease).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_loses_its_lease_ends() -> Result<()> {
    let fixture = Fixture::start("overruled leader").await?;
    let lease = lease_name(&fixture);
    let mut a = replica(&fixture, "a", &lease).await?;
    a.wait_leading(PATIENCE).await?;
    let now = Timestamp::now();
    let usurped = json!({"spec": {
        "holderIdentity": "somebody-else", "leaseDurationSeconds": 15,
        "acquireTime": format!("{now:.6}"), "renewTime": format!("{now:.6}"),
    }});
    leases(&fixture)
        .patch(&lease, &PatchParams::default(), &Patch::Merge(&usurped))
        .await?;
    let status = a.wait_ended(PATIENCE).await?;
    assert!(!status.success(), "{status}");
    assert!(a.log_tail(20).contains("leadership lost"), "{}", a.log_tail(20));
    assert_eq!(
        holder(&fixture, &lease).await?,
        "somebody-else",
        "an overruled process leaves the lease alone"
    );

    // The usurper never renews, so the next replica waits until its lease has run out.
    let mut b = replica(&fixture, "b", &lease).await?;
    b.wait_leading(PATIENCE).await?;
    assert_provisions(&fixture).await?;
    finish(fixture, &lease).await
}
