//! What is logged can be changed while the controller runs.

use std::time::Duration;

use anyhow::Result;
use plimsoll_e2e::controller::Controller;
use plimsoll_e2e::fixture::{Fixture, PATIENCE};
use plimsoll_e2e::objects;
use tokio::time::{Instant, sleep};

fn lines_of(controller: &Controller, level: &str) -> Result<usize> {
    let log = std::fs::read_to_string(controller.log())?;
    Ok(log
        .lines()
        .filter(|line| line.contains(&format!("\"level\":\"{level}\"")))
        .count())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_level_changes_without_a_restart() -> Result<()> {
    let fixture = Fixture::with_node_class("log level").await?;
    let controller = fixture.controller().await?;
    assert!(lines_of(&controller, "INFO")? > 0);
    assert_eq!(lines_of(&controller, "DEBUG")?, 0);

    let answer = controller.set_log_level("no-such=level=at,all").await?;
    assert_eq!(answer.status, 400);
    assert!(!answer.body.trim().is_empty(), "a refusal says why");
    let answer = controller.set_log_level("debug").await?;
    assert_eq!((answer.status, answer.body.trim()), (200, "ok"));

    fixture.apply(objects::node_pool("default")).await?;
    let deadline = Instant::now() + PATIENCE;
    while lines_of(&controller, "DEBUG")? == 0 {
        assert!(
            Instant::now() < deadline,
            "no debug line:\n{}",
            controller.log_tail(20)
        );
        sleep(Duration::from_millis(50)).await;
    }

    // And back: what comes after the answer is not logged any more.
    assert_eq!(controller.set_log_level("error").await?.status, 200);
    let quiet = lines_of(&controller, "INFO")?;
    fixture.apply(objects::pod("guest", "500m")).await?;
    fixture.wait_running(1).await?;
    assert_eq!(lines_of(&controller, "INFO")?, quiet);
    fixture.finish().await
}
