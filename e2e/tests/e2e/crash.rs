//! The controller is killed at the worst moments, and the next one finishes what it finds: no pod lost, no machine
//! bought twice, nothing left behind.
//!
//! Every pod of these tests needs a machine of its own, so one machine too many shows. The controllers hold the Lease,
//! as in a cluster: it keeps the next one back until the requests of the killed one are over.

#![expect(
    clippy::large_futures,
    reason = "one test waits for a dozen things, and there are three tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use plimsoll_e2e::cluster::{Cluster, is_simulated};
use plimsoll_e2e::conditions;
use plimsoll_e2e::controller::Controller;
use plimsoll_e2e::fixture::{Fixture, PATIENCE};
use plimsoll_e2e::objects;
use tokio::task::JoinHandle;

/// What the kwok provider writes on a machine.
const CLAIM_ANNOTATION: &str = "karpenter.kwok.sh/nodeclaim";

/// Everything that ever existed while it was kept.
#[derive(Debug, Default)]
struct Seen {
    claims: BTreeSet<String>,
    /// UIDs of the Nodes that were made for each claim.
    machines: BTreeMap<String, BTreeSet<String>>,
}

/// Watches claims and machines while controllers come and go.
struct Record {
    seen: Arc<Mutex<Seen>>,
    tasks: [JoinHandle<()>; 2],
}

impl Record {
    async fn start(fixture: &Fixture) -> Result<Self> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let claims = {
            let seen = seen.clone();
            watch(fixture.claims().await?, move |claim: DynamicObject| {
                seen.lock().unwrap().claims.insert(claim.name_any());
            })
        };
        let machines = {
            let seen = seen.clone();
            watch(fixture.nodes(), move |node: Node| {
                if let Some(claim) = node.annotations().get(CLAIM_ANNOTATION) {
                    let mut seen = seen.lock().unwrap();
                    seen.machines
                        .entry(claim.clone())
                        .or_default()
                        .insert(node.uid().unwrap());
                }
            })
        };
        Ok(Self {
            seen,
            tasks: [claims, machines],
        })
    }

    /// No claim ever had two machines, and there were this many claims in all.
    fn assert_nothing_bought_twice(&self, claims: usize) {
        let seen = self.seen.lock().unwrap();
        assert!(
            seen.machines.values().all(|uids| uids.len() == 1),
            "launched twice: {:?}",
            seen.machines
        );
        assert_eq!(seen.claims.len(), claims, "claims in all: {:?}", seen.claims);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn watch<K>(api: Api<K>, mut see: impl FnMut(K) + Send + 'static) -> JoinHandle<()>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    tokio::spawn(async move {
        let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
        while let Some(event) = events.next().await {
            if let Ok(Event::Apply(object) | Event::InitApply(object)) = event {
                see(object);
            }
        }
    })
}

/// Claims and machines stand for each other, one to one.
async fn assert_claims_are_machines(cluster: &Cluster, count: usize) -> Result<()> {
    let mut claims = Vec::new();
    for claim in cluster.node_claims().await? {
        claims.push((
            claim.name_any(),
            claim.data["status"]["providerID"].as_str().map(str::to_owned),
        ));
    }
    let mut machines = Vec::new();
    for node in cluster.nodes().await?.iter().filter(|node| is_simulated(node)) {
        let provider_id = node.spec.as_ref().and_then(|spec| spec.provider_id.clone());
        machines.push((node.annotations()[CLAIM_ANNOTATION].clone(), provider_id));
    }
    claims.sort();
    machines.sort();
    assert_eq!(claims, machines, "claims and machines");
    assert_eq!(claims.len(), count);
    Ok(())
}

/// A NodePool, and a Deployment `web` without replicas whose pods need a machine each.
async fn start(test: &str) -> Result<Fixture> {
    let fixture = Fixture::with_node_class(test).await?;
    fixture.apply(objects::node_pool("default")).await?;
    let mut web = objects::deployment("web", 0, "500m");
    web["spec"]["template"]["spec"]["affinity"] = objects::one_per_machine("web");
    fixture.apply(web).await?;
    Ok(fixture)
}

/// Ends a controller in order, so that the next one need not wait for its lease.
async fn end(controller: Controller) -> Result<()> {
    controller.terminate(PATIENCE).await?;
    Ok(())
}

fn is_launched(claim: &DynamicObject) -> bool {
    conditions::is_true(claim, "Launched")
}

fn is_leaving(claim: &DynamicObject) -> bool {
    claim.metadata.deletion_timestamp.is_some()
}

fn is_unregistered(node: &Node) -> bool {
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.any(|taint| taint.key == "karpenter.sh/unregistered")
}

fn is_closed(node: &Node) -> bool {
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.any(|taint| taint.key == "karpenter.sh/disrupted")
}

/// Scales to as many pods as machines, kills the controller as soon as `moment` has come, and lets another finish.
async fn kill_while_buying(
    fixture: &Fixture,
    machines: usize,
    moment: impl Future<Output = Result<String>>,
) -> Result<()> {
    let record = Record::start(fixture).await?;
    let controller = fixture.leader("plimsoll").await?;
    let (scaled, moment) = tokio::join!(fixture.scale("web", machines), moment);
    controller.kill()?;
    scaled?;
    let launched = fixture.cluster().node_claims().await?;
    println!("killed when {}; NodeClaims then: {}", moment?, launched.len());

    let controller = fixture.leader("plimsoll").await?;
    fixture.wait_running(machines).await?;
    let all_ready = |claims: &BTreeMap<String, DynamicObject>| {
        claims.values().all(|claim| conditions::is_true(claim, "Ready"))
    };
    fixture.wait_claims("all machines in service", all_ready).await?;
    assert_claims_are_machines(fixture.cluster(), machines).await?;
    record.assert_nothing_bought_twice(machines);
    fixture.scale("web", 0).await?;
    fixture.wait_no_machines().await?;
    record.assert_nothing_bought_twice(machines);
    end(controller).await
}

/// The moment when so many claims are as `is` says.
async fn claims_are(
    fixture: &Fixture,
    count: usize,
    what: &str,
    is: impl Fn(&DynamicObject) -> bool,
) -> Result<String> {
    let what = format!("{count} claims {what}");
    fixture
        .wait_claims(&what, |claims| {
            claims.values().filter(|claim| is(claim)).count() >= count
        })
        .await?;
    Ok(what)
}

/// The moment when so many machines are as `is` says.
async fn nodes_are(
    fixture: &Fixture,
    count: usize,
    what: &str,
    is: impl Fn(&Node) -> bool,
) -> Result<String> {
    let what = format!("{count} nodes {what}");
    let holds = |nodes: &BTreeMap<String, Node>| {
        nodes
            .values()
            .filter(|node| is_simulated(node) && is(node))
            .count()
            >= count
    };
    fixture
        .cluster()
        .wait_for(&what, fixture.nodes(), PATIENCE, holds)
        .await?;
    Ok(what)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_launch() -> Result<()> {
    let fixture = start("killed at launch").await?;
    for count in [1, 4] {
        kill_while_buying(&fixture, 8, claims_are(&fixture, count, "exist", |_| true)).await?;
        kill_while_buying(
            &fixture,
            8,
            claims_are(&fixture, count, "are launched", is_launched),
        )
        .await?;
    }
    let _controller = fixture.leader("plimsoll").await?;
    fixture.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_registration() -> Result<()> {
    let fixture = start("killed at registration").await?;
    for count in [1, 4] {
        kill_while_buying(
            &fixture,
            8,
            nodes_are(&fixture, count, "are unregistered", is_unregistered),
        )
        .await?;
        let registered = |node: &Node| !is_unregistered(node);
        kill_while_buying(
            &fixture,
            8,
            nodes_are(&fixture, count, "are registered", registered),
        )
        .await?;
    }
    let _controller = fixture.leader("plimsoll").await?;
    fixture.finish().await
}

/// Deletes the claims of half of the machines, kills the controller at a moment, and lets another finish.
async fn kill_while_draining(fixture: &Fixture, moment: impl Future<Output = Result<String>>) -> Result<()> {
    let controller = fixture.leader("plimsoll").await?;
    let claims = fixture.claims().await?;
    let before: Vec<String> = fixture
        .cluster()
        .node_claims()
        .await?
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    let (drained, kept) = before.split_at(before.len() / 2);
    let deleting = async {
        for name in drained {
            claims.delete(name, &DeleteParams::default()).await?;
        }
        anyhow::Ok(())
    };
    let (deleted, moment) = tokio::join!(deleting, moment);
    controller.kill()?;
    deleted?;
    println!("killed when {}", moment?);

    let controller = fixture.leader("plimsoll").await?;
    let replaced = |claims: &BTreeMap<String, DynamicObject>| {
        !drained.iter().any(|name| claims.contains_key(name))
            && kept.iter().all(|name| claims.contains_key(name))
            && claims
                .values()
                .all(|claim| conditions::is_true(claim, "Ready") && !is_leaving(claim))
    };
    fixture
        .wait_claims("the drained machines replaced", replaced)
        .await?;
    fixture.wait_running(before.len()).await?;
    assert_claims_are_machines(fixture.cluster(), before.len()).await?;
    end(controller).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_during_drains() -> Result<()> {
    const MACHINES: usize = 4;
    let fixture = start("killed during drains").await?;
    let record = Record::start(&fixture).await?;
    let controller = fixture.leader("plimsoll").await?;
    fixture.scale("web", MACHINES).await?;
    fixture.wait_running(MACHINES).await?;
    let all_ready = |claims: &BTreeMap<String, DynamicObject>| {
        claims.len() == MACHINES && claims.values().all(|claim| conditions::is_true(claim, "Ready"))
    };
    fixture.wait_claims("all machines in service", all_ready).await?;
    end(controller).await?;

    kill_while_draining(&fixture, claims_are(&fixture, 1, "are being deleted", is_leaving)).await?;
    kill_while_draining(&fixture, nodes_are(&fixture, 1, "are closed", is_closed)).await?;
    let deleted = |node: &Node| node.metadata.deletion_timestamp.is_some();
    kill_while_draining(&fixture, nodes_are(&fixture, 2, "are being deleted", deleted)).await?;
    let drained = |claim: &DynamicObject| conditions::is_true(claim, "Drained");
    kill_while_draining(&fixture, claims_are(&fixture, 1, "are drained", drained)).await?;
    // Four times half of the machines were replaced.
    record.assert_nothing_bought_twice(MACHINES + 4 * (MACHINES / 2));

    // And once more while empty machines are given back.
    let controller = fixture.leader("plimsoll").await?;
    let (scaled, moment) = tokio::join!(
        fixture.scale("web", 0),
        nodes_are(&fixture, 1, "are closed", is_closed)
    );
    controller.kill()?;
    scaled?;
    println!("killed when {} and empty", moment?);
    let _controller = fixture.leader("plimsoll").await?;
    fixture.wait_no_machines().await?;
    record.assert_nothing_bought_twice(MACHINES + 4 * (MACHINES / 2));
    fixture.finish().await
}
