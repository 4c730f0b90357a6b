//! What the controller holds when it does nothing: all types of a region, with one pool.

use std::time::Duration;

use anyhow::Result;
use plimsoll_e2e::aws::AwsFixture;
use plimsoll_e2e::conditions;
use tokio::time::{Instant, sleep};

/// Resident set, in 10^6 bytes.
const IDLE_MB_MAX: f64 = 60.0;
/// Several passes over classes and offerings.
const IDLE: Duration = Duration::from_secs(45);
const POLL: Duration = Duration::from_secs(1);

#[tokio::test]
async fn idle_with_all_types_of_a_region() -> Result<()> {
    let aws = AwsFixture::with_node_pool("aws-idle").await?;
    let mut controller = aws.controller().await?;
    aws.fixture
        .wait_pool("a ready NodePool", "default", |pool| {
            conditions::is_true(pool, "Ready")
        })
        .await?;
    let until = Instant::now() + IDLE;
    while Instant::now() < until {
        controller.ensure_running()?;
        sleep(POLL).await;
    }
    let usage = controller.usage()?;
    let requests = aws.cloud.requests(0).await?;
    let pages = requests
        .iter()
        .filter(|r| r.action == "ec2:DescribeInstanceTypes" && !r.dry_run);
    let pages = pages.count();
    let (now, peak) = (usage.rss_mib * 1.048_576, usage.rss_peak_mib * 1.048_576);
    eprintln!(
        "[idle] {pages} pages of up to 100 types, {now:.0} MB resident, {peak:.0} MB at its peak, {:.2} s of CPU",
        usage.cpu_seconds
    );
    assert!(pages >= 13, "{pages} pages");
    assert!(now <= IDLE_MB_MAX, "{now:.0} MB");
    aws.finish().await?;
    drop(controller);
    Ok(())
}
