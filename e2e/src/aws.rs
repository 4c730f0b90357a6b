//! What a test of `--provider aws` begins and ends with: a cluster, the stand-in that its instances join, an
//! EC2NodeClass and a NodePool, and the proof that nothing is left in EC2.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::cloud::{Cloud, Instance, Leftovers, Request};
use crate::controller::Controller;
use crate::fixture::{Fixture, PATIENCE};
use crate::objects;

/// From the launch of an instance to its Node.
const JOIN_DELAY: &str = "0.5";
const POLL: Duration = Duration::from_millis(100);

/// The cluster and the cloud of one test.
#[derive(Debug)]
pub struct AwsFixture {
    pub fixture: Fixture,
    pub cloud: Cloud,
}

impl AwsFixture {
    /// An empty cluster with the CRDs and a stand-in; no controller, no NodePool.
    pub async fn start(test: &str) -> Result<Self> {
        let fixture = Fixture::start(test).await?;
        let testbed = fixture.testbed();
        let args = ["--join-delay", JOIN_DELAY];
        let cloud = Cloud::start(Some(testbed.kubeconfig()), &testbed.logs(), &args).await?;
        Ok(Self { fixture, cloud })
    }

    /// The same with the EC2NodeClass and the NodePool `default`.
    pub async fn with_node_pool(test: &str) -> Result<Self> {
        let aws = Self::start(test).await?;
        aws.fixture.apply(aws.node_class()).await?;
        aws.fixture.apply(objects::aws_node_pool("default")).await?;
        Ok(aws)
    }

    /// The class that fits what the stand-in has seeded.
    pub fn node_class(&self) -> Value {
        let ready = self.cloud.ready();
        objects::ec2_node_class(&ready.cluster, &ready.node_role)
    }

    /// Starts a controller without waiting for it; `changes` replace or add to its environment.
    pub fn spawn(&self, name: &str, changes: &[(&str, &str)]) -> Result<Controller> {
        let environment = self.cloud.controller_environment();
        let mut all: Vec<(&str, &str)> = environment
            .iter()
            .map(|(key, value)| (*key, value.as_str()))
            .collect();
        all.retain(|(key, _)| !changes.iter().any(|(changed, _)| changed == key));
        all.extend(changes);
        let testbed = self.fixture.testbed();
        Controller::spawn(testbed.kubeconfig(), &testbed.logs(), name, Some("aws"), &all)
    }

    /// Starts a controller without a Lease and waits until it is ready.
    pub async fn controller(&self) -> Result<Controller> {
        let mut controller = self.spawn("plimsoll", &[("DISABLE_LEADER_ELECTION", "true")])?;
        controller.wait_ready(PATIENCE).await?;
        Ok(controller)
    }

    /// Starts a controller that competes for the Lease and waits until it leads.
    pub async fn leader(&self, name: &str) -> Result<Controller> {
        let mut leader = self.spawn(name, &[("POD_NAME", name)])?;
        leader.wait_ready(PATIENCE).await?;
        leader.wait_leading(PATIENCE).await?;
        Ok(leader)
    }

    /// Instances that are neither terminated nor on their way there.
    pub async fn alive(&self) -> Result<Vec<Instance>> {
        let mut all = self.cloud.instances().await?;
        all.retain(|i| i.state == "running" || i.state == "pending");
        Ok(all)
    }

    /// Waits until no instance is left that is not terminated.
    pub async fn wait_no_instances(&self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        loop {
            let left = self.cloud.leftovers().await?.instances;
            if left.is_empty() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "instances after {within:?}: {left:?}\n{}",
                self.fixture.cluster().dump().await
            );
            sleep(POLL).await;
        }
    }

    /// Takes everything away, and fails unless cluster and cloud are as empty as they were. A controller must run.
    pub async fn finish(self) -> Result<()> {
        self.fixture.finish().await?;
        // Instances are `shutting-down` for a moment after their claims have gone.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.cloud.leftovers().await?;
            if left == Leftovers::default() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "left in the cloud after {PATIENCE:?}: {left:?}"
            );
            sleep(POLL).await;
        }
    }
}

/// How many calls of which action, and how many of them were refused for their number.
#[derive(Debug, Default, Serialize)]
pub struct Calls {
    pub all: usize,
    pub throttled: usize,
    /// `CreateFleet` that was let through, without dry runs.
    pub launches: usize,
    /// All of them by action, dry runs apart.
    pub by_action: BTreeMap<String, usize>,
    /// Those that were refused for another reason, by action and code.
    pub errors: BTreeMap<String, usize>,
}

impl Calls {
    /// Counts.
    pub fn of(requests: &[Request]) -> Self {
        let mut calls = Self::default();
        for request in requests {
            calls.all += 1;
            calls.throttled += usize::from(request.is_throttled());
            calls.launches += usize::from(request.is_launch());
            let dry_run = if request.dry_run { " (dry run)" } else { "" };
            let name = format!("{}{dry_run}", request.action);
            *calls.by_action.entry(name).or_default() += 1;
            if let Some(code) = request.error.as_deref()
                && !request.is_throttled()
                && code != "DryRunOperation"
            {
                let name = format!("{} {code}", request.action);
                *calls.errors.entry(name).or_default() += 1;
            }
        }
        calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dry_runs_and_throttled_calls_launch_nothing() {
        let request = |dry_run: bool, error: Value| {
            serde_json::from_value(serde_json::json!({
                "number": 1, "at": "2026-11-22T17:31:02.114Z", "seconds": 0.1, "action": "ec2:CreateFleet",
                "mutating": true, "dry_run": dry_run, "principal": "", "session": null, "resources": [],
                "request_tags": {}, "parameters": {}, "error": error, "answered": true,
            }))
            .unwrap()
        };
        let requests: [Request; 4] = [
            request(false, Value::Null),
            request(true, "DryRunOperation".into()),
            request(false, "RequestLimitExceeded".into()),
            request(false, "InternalError".into()),
        ];
        let calls = Calls::of(&requests);
        assert_eq!((calls.all, calls.throttled, calls.launches), (4, 1, 2));
        assert_eq!(calls.by_action["ec2:CreateFleet"], 3);
        assert_eq!(calls.by_action["ec2:CreateFleet (dry run)"], 1);
        assert_eq!(
            calls.errors,
            [("ec2:CreateFleet InternalError".to_owned(), 1)].into()
        );
        assert_eq!(requests[0].arrived().unwrap().as_millisecond() % 1000, 114);
    }
}
