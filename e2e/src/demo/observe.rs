//! The one client that watches everything the demo measures, with one clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use futures::stream::{BoxStream, select_all};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Resource, ResourceExt};
use tokio::time::{Instant, timeout_at};

use crate::cluster::{Cluster, PodCounts, absorb, is_simulated, price_per_hour};

/// The annotation with which Plimsoll marks which plan a NodeClaim comes from.
const PLAN_ANNOTATION: &str = "plimsoll.dev/plan";
/// The longest silence between two looks at the cluster; progress is shown this often at least.
const TICK: Duration = Duration::from_millis(250);

enum Change {
    Pod(Box<Event<Pod>>),
    Node(Box<Event<Node>>),
    Claim(Box<Event<DynamicObject>>),
}

/// The pods of the demo, the simulated Nodes and all NodeClaims, as last seen.
#[derive(Debug, Default)]
pub struct View {
    pods: BTreeMap<String, Pod>,
    nodes: BTreeMap<String, Node>,
    claims: BTreeMap<String, DynamicObject>,
    /// Every plan that any NodeClaim named so far.
    plans: BTreeSet<String>,
}

impl View {
    pub fn pods(&self) -> PodCounts {
        PodCounts::of(self.pods.values())
    }

    fn machines(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| is_simulated(node))
    }

    pub fn nodes(&self) -> usize {
        self.machines().count()
    }

    /// Machines whose kubelet says that it is ready.
    pub fn ready_nodes(&self) -> usize {
        let is_ready = |node: &&Node| {
            let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
            conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
        };
        self.machines().filter(is_ready).count()
    }

    pub fn claims(&self) -> usize {
        self.claims.len()
    }

    /// What the machines cost together, in dollars per hour.
    pub fn price_per_hour(&self) -> f64 {
        price_per_hour(self.machines())
    }

    /// How many distinct plans have created NodeClaims.
    pub fn plans(&self) -> usize {
        self.plans.len()
    }

    /// How many machines of which instance type and capacity type.
    pub fn machine_types(&self) -> BTreeMap<String, usize> {
        let mut types = BTreeMap::new();
        for node in self.machines() {
            let label = |key: &str| node.labels().get(key).map_or("?", String::as_str);
            let name = format!(
                "{} {}",
                label("node.kubernetes.io/instance-type"),
                label("karpenter.sh/capacity-type")
            );
            *types.entry(name).or_default() += 1;
        }
        types
    }

    /// Whether every NodeClaim has its Node.
    pub fn every_claim_has_its_node(&self) -> bool {
        let joined: BTreeSet<&str> = self
            .machines()
            .filter_map(|node| node.spec.as_ref().and_then(|spec| spec.provider_id.as_deref()))
            .collect();
        self.claims
            .values()
            .all(|claim| provider_id(claim).is_some_and(|id| joined.contains(id)))
    }

    /// Machines that exist by any account: a Node, or a NodeClaim that has not given its machine back.
    pub fn instances(&self) -> usize {
        let by_node = self.machines().map(|node| {
            node.spec
                .as_ref()
                .and_then(|spec| spec.provider_id.clone())
                .unwrap_or_else(|| node.name_any())
        });
        let by_claim = self
            .claims
            .values()
            .map(|claim| provider_id(claim).map_or_else(|| claim.name_any(), str::to_owned));
        by_node.chain(by_claim).collect::<BTreeSet<_>>().len()
    }
}

fn provider_id(claim: &DynamicObject) -> Option<&str> {
    claim.data["status"]["providerID"].as_str()
}

/// Watches and keeps a [`View`].
pub struct Observer {
    changes: BoxStream<'static, Change>,
    view: View,
    /// Kinds whose first list has not arrived completely.
    unknown: u8,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer")
            .field("view", &self.view)
            .finish_non_exhaustive()
    }
}

impl Observer {
    /// Watches the pods of `namespace`, and all Nodes and NodeClaims; returns once all of them are known.
    pub async fn start(cluster: &Cluster, namespace: &str) -> Result<Self> {
        let pods = events(cluster.api::<Pod>(Some(namespace))).map(|event| Change::Pod(Box::new(event)));
        let nodes = events(Api::<Node>::all(cluster.client())).map(|event| Change::Node(Box::new(event)));
        let claims = cluster.api_of("karpenter.sh/v1", "NodeClaim", None).await?;
        let claims = events(claims).map(|event| Change::Claim(Box::new(event)));
        let changes = select_all([pods.boxed(), nodes.boxed(), claims.boxed()]).boxed();
        let mut observer = Self {
            changes,
            view: View::default(),
            unknown: 3,
        };
        while observer.unknown > 0 {
            observer.take_in_next().await?;
        }
        Ok(observer)
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    async fn take_in_next(&mut self) -> Result<()> {
        let change = self.changes.next().await.context("the watches ended")?;
        self.take_in(change);
        Ok(())
    }

    fn take_in(&mut self, change: Change) {
        let complete = match change {
            Change::Pod(event) => absorb(&mut self.view.pods, *event),
            Change::Node(event) => absorb(&mut self.view.nodes, *event),
            Change::Claim(event) => {
                if let Event::Apply(claim) | Event::InitApply(claim) = &*event {
                    self.view
                        .plans
                        .extend(claim.annotations().get(PLAN_ANNOTATION).cloned());
                }
                absorb(&mut self.view.claims, *event)
            }
        };
        if complete {
            self.unknown = self.unknown.saturating_sub(1);
        }
    }

    /// Watches until `done` says so and returns when that was; `None` at the deadline. `look` is called after every
    /// change and at least every quarter of a second, and an error of it ends the wait.
    pub async fn until(
        &mut self,
        deadline: Instant,
        mut look: impl FnMut(&View) -> Result<()>,
        done: impl Fn(&View) -> bool,
    ) -> Result<Option<Instant>> {
        loop {
            look(&self.view)?;
            if done(&self.view) {
                return Ok(Some(Instant::now()));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            match timeout_at(deadline.min(Instant::now() + TICK), self.changes.next()).await {
                Ok(Some(change)) => {
                    self.take_in(change);
                    // Whatever else has arrived already is taken in before the next look at thousands of objects.
                    while let Some(Some(change)) = futures::FutureExt::now_or_never(self.changes.next()) {
                        self.take_in(change);
                    }
                }
                Ok(None) => bail!("the watches ended"),
                // Time for a look, or the deadline.
                Err(_) => {}
            }
        }
    }
}

/// A watch that starts over after errors; the observer's deadlines bound for how long.
fn events<K>(api: Api<K>) -> impl futures::Stream<Item = Event<K>> + Send
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watcher(api, watcher::Config::default())
        .default_backoff()
        .filter_map(|event| std::future::ready(event.ok()))
}
