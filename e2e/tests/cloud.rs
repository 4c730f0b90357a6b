//! The AWS stand-in beside a real API server: what it launches becomes a node, and goes again. And LocalStack starts.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use plimsoll_e2e::cloud::{self, Cloud};
use plimsoll_e2e::cluster::Cluster;
use plimsoll_e2e::fixture::PATIENCE;
use plimsoll_e2e::localstack::LocalStack;
use plimsoll_e2e::testbed::{Options, Testbed};
use plimsoll_e2e::{paths, python};

/// Runs a script of `e2e/cloud/tests` with the seeded names as its input; what it prints is instance ids.
async fn script(cloud: &Cloud, name: &str) -> Result<Vec<String>> {
    let python = python::CLOUD.ensure().await?;
    let keys = &cloud.ready().admin;
    let output = Command::new(python)
        .arg(cloud::package().join("tests").join(name))
        .envs(cloud.environment(keys))
        .env("KUBE_ENDPOINT", &cloud.ready().cluster_endpoint)
        .env("KUBE_CA", &cloud.ready().cluster_ca)
        .env(
            "SUBNET",
            cloud.ready().subnets.values().next().context("no subnet")?,
        )
        .env("PROFILE", &cloud.ready().instance_profile)
        .env("CLUSTER", &cloud.ready().cluster)
        .output()?;
    ensure!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?
        .split_whitespace()
        .map(str::to_owned)
        .collect())
}

#[tokio::test]
async fn an_instance_becomes_a_node_and_goes() -> Result<()> {
    let testbed = Testbed::start(Options::default()).await?;
    let cluster = Cluster::connect(testbed.kubeconfig()).await?;
    let cloud = Cloud::start(
        Some(testbed.kubeconfig()),
        &testbed.logs(),
        &["--join-delay", "0.2"],
    )
    .await?;
    ensure!(cloud.leftovers().await? == cloud::Leftovers::default());

    let ids = script(&cloud, "launch.py").await?;
    ensure!(ids.len() == 1, "{ids:?}");
    let provider_id = format!("aws:///us-east-1a/{}", ids[0]);
    let is_it = |node: &Node| {
        let ready = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
        node.spec.as_ref().and_then(|spec| spec.provider_id.as_deref()) == Some(&*provider_id)
            && ready
                .into_iter()
                .any(|c| c.type_ == "Ready" && c.status == "True")
    };
    cluster
        .wait_for(
            "a ready node of the instance",
            Api::<Node>::all(cluster.client()),
            PATIENCE,
            |nodes| nodes.values().any(is_it),
        )
        .await?;
    let instances = cloud.instances().await?;
    let name = instances[0]
        .node
        .as_deref()
        .context("the instance list does not know its node")?;
    let joined = Api::<Node>::all(cluster.client()).get(name).await?;
    let spec = joined.spec.context("no spec")?;
    ensure!(
        spec.taints
            .iter()
            .flatten()
            .any(|t| t.key == "karpenter.sh/unregistered" && t.effect == "NoExecute"),
        "{:?}",
        spec.taints
    );
    let allocatable = joined
        .status
        .and_then(|status| status.allocatable)
        .context("no allocatable")?;
    ensure!(
        allocatable["cpu"].0 == "1930m" && allocatable["pods"].0 == "29",
        "{allocatable:?}"
    );

    cloud.interrupt("terminate", &ids, PATIENCE).await?;
    cluster
        .wait_for(
            "the node's end",
            Api::<Node>::all(cluster.client()),
            PATIENCE,
            BTreeMap::is_empty,
        )
        .await?;
    let log = cloud.requests(0).await?;
    ensure!(
        log.iter()
            .any(|r| r.action == "ec2:CreateFleet" && r.principal.ends_with("user/admin"))
    );
    Ok(())
}

#[tokio::test]
async fn localstack_starts_and_is_seeded() -> Result<()> {
    let dir = paths::runs()?.join(format!("{}-localstack", std::process::id()));
    let mut localstack = LocalStack::start(&dir.join("logs")).await?;
    localstack.ensure_running()?;
    let seeded = localstack.seeded().clone();
    ensure!(
        seeded.subnets.len() == 3 && seeded.image.starts_with("ami-"),
        "{seeded:?}"
    );
    // Its gateway takes a queue's URL only in the form that names this very address.
    ensure!(seeded.queue_url.starts_with(&seeded.endpoint), "{seeded:?}");
    drop(localstack);
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
