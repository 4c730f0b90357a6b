//! What nearly every end-to-end test begins and ends with: an empty cluster with the CRDs, and the proof that the test
//! has left nothing on it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Event, Node};
use kube::Resource;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};

use crate::cluster::{Cluster, is_simulated};
use crate::controller::Controller;
use crate::testbed::Testbed;
use crate::{objects, paths};

/// How long anything may take that takes a second or two on an idle machine. Tests wait for conditions, so this is what
/// a failure costs, not a success.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// A cluster that is attached to is shared, so tests on it take turns.
static ATTACHED: Mutex<()> = Mutex::const_new(());

/// The cluster of one test. If the test does not reach [`Fixture::finish`], the logs are kept.
#[derive(Debug)]
pub struct Fixture {
    testbed: Testbed,
    cluster: Cluster,
    namespace: String,
    finished: bool,
    _turn: Option<MutexGuard<'static, ()>>,
}

impl Fixture {
    /// An empty cluster without CRDs, and a namespace named after the test.
    pub async fn bare(test: &str) -> Result<Self> {
        let testbed = Testbed::from_env().await?;
        let turn = match testbed.processes() {
            [] => Some(ATTACHED.lock().await),
            _ => None,
        };
        let cluster = Cluster::connect(testbed.kubeconfig()).await?;
        let left = cluster.leftovers().await?;
        ensure!(
            left.is_empty(),
            "tests start on an empty cluster, but there are: {}",
            left.join(", ")
        );
        let namespace = cluster.namespace(test).await?;
        Ok(Self {
            testbed,
            cluster,
            namespace,
            finished: false,
            _turn: turn,
        })
    }

    /// The same with the CRDs.
    pub async fn start(test: &str) -> Result<Self> {
        let fixture = Self::bare(test).await?;
        fixture.cluster.apply_directory(&paths::crds()).await?;
        Ok(fixture)
    }

    /// The same with the node class that NodePools of tests refer to.
    pub async fn with_node_class(test: &str) -> Result<Self> {
        let fixture = Self::start(test).await?;
        fixture.apply(objects::node_class()).await?;
        Ok(fixture)
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub fn testbed(&self) -> &Testbed {
        &self.testbed
    }

    pub fn testbed_mut(&mut self) -> &mut Testbed {
        &mut self.testbed
    }

    /// Where the test's pods go.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whether the control plane is somebody else's, so that its processes cannot be stopped.
    pub fn is_attached(&self) -> bool {
        self.testbed.processes().is_empty()
    }

    /// Starts the controller under test without waiting for it.
    pub fn spawn_controller(&self, name: &str, envs: &[(&str, &str)]) -> Result<Controller> {
        Controller::spawn(
            self.testbed.kubeconfig(),
            &self.testbed.logs(),
            name,
            Some("kwok"),
            envs,
        )
    }

    /// Starts the controller under test without a Lease, and waits until it is ready: for tests in which it is never
    /// killed, so that no other has to know when the requests it made last are over.
    pub async fn controller(&self) -> Result<Controller> {
        let mut controller = self.spawn_controller("plimsoll", &[("DISABLE_LEADER_ELECTION", "true")])?;
        controller.wait_ready(PATIENCE).await?;
        Ok(controller)
    }

    /// Starts a controller under test that competes for the Lease, and waits until it leads. After another was killed
    /// that takes until its lease has run out.
    pub async fn leader(&self, name: &str) -> Result<Controller> {
        let mut leader = self.spawn_controller(name, &[("POD_NAME", name)])?;
        leader.wait_ready(PATIENCE).await?;
        leader.wait_leading(PATIENCE).await?;
        Ok(leader)
    }

    /// Applies an object, to the test's namespace if its kind has namespaces.
    pub async fn apply(&self, object: Value) -> Result<DynamicObject> {
        self.cluster
            .apply(serde_json::from_value(object)?, Some(&self.namespace))
            .await
    }

    /// Objects of a kind of the test's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        self.cluster.api(Some(&self.namespace))
    }

    pub fn nodes(&self) -> Api<Node> {
        Api::all(self.cluster.client())
    }

    pub async fn claims(&self) -> Result<Api<DynamicObject>> {
        self.cluster.api_of("karpenter.sh/v1", "NodeClaim", None).await
    }

    pub async fn pools(&self) -> Result<Api<DynamicObject>> {
        self.cluster.api_of("karpenter.sh/v1", "NodePool", None).await
    }

    /// Waits until `holds` says yes for all NodeClaims.
    pub async fn wait_claims(
        &self,
        what: &str,
        holds: impl FnMut(&BTreeMap<String, DynamicObject>) -> bool,
    ) -> Result<BTreeMap<String, DynamicObject>> {
        self.cluster
            .wait_for(what, self.claims().await?, PATIENCE, holds)
            .await
    }

    /// Waits until a NodePool's status is as it should be.
    pub async fn wait_pool(
        &self,
        what: &str,
        name: &str,
        mut holds: impl FnMut(&DynamicObject) -> bool,
    ) -> Result<DynamicObject> {
        let pools = self.pools().await?;
        let mut pools = self
            .cluster
            .wait_for(what, pools, PATIENCE, |pools| {
                pools.get(name).is_some_and(&mut holds)
            })
            .await?;
        Ok(pools.remove(name).expect("the wait has just seen it"))
    }

    /// Waits until exactly `count` pods of the namespace exist and all of them run.
    pub async fn wait_running(
        &self,
        count: usize,
    ) -> Result<BTreeMap<String, k8s_openapi::api::core::v1::Pod>> {
        self.cluster.wait_running(&self.namespace, count, PATIENCE).await
    }

    /// Waits for an event of the controller with this reason about an object, or about a pod of the Deployment of this
    /// name, and returns its message.
    pub async fn wait_event(&self, kind: &str, name: &str, reason: &str, says: &str) -> Result<String> {
        let is_own = |rest: &str| rest.is_empty() || rest.starts_with('-');
        let is_it = |event: &Event| {
            let about = &event.involved_object;
            event.reporting_component.as_deref() == Some("karpenter")
                && about.kind.as_deref() == Some(kind)
                && about
                    .name
                    .as_deref()
                    .and_then(|about| about.strip_prefix(name))
                    .is_some_and(is_own)
                && event.reason.as_deref() == Some(reason)
                && event
                    .message
                    .as_deref()
                    .is_some_and(|message| message.contains(says))
        };
        let what = format!("an event {reason} about {kind} {name} that says {says:?}");
        let events = self
            .cluster
            .wait_for(&what, self.cluster.api::<Event>(None), PATIENCE, |events| {
                events.values().any(is_it)
            })
            .await?;
        let found = events.into_values().find(is_it);
        Ok(found.and_then(|event| event.message).unwrap_or_default())
    }

    /// Waits until there is neither a NodeClaim nor a machine, without helping.
    pub async fn wait_no_machines(&self) -> Result<()> {
        self.wait_claims("no NodeClaim left", BTreeMap::is_empty).await?;
        let none = |nodes: &BTreeMap<String, Node>| !nodes.values().any(is_simulated);
        self.cluster
            .wait_for("no machine left", self.nodes(), PATIENCE, none)
            .await?;
        Ok(())
    }

    /// Scales a Deployment of the namespace.
    pub async fn scale(&self, deployment: &str, replicas: usize) -> Result<()> {
        let api = self
            .cluster
            .api_of("apps/v1", "Deployment", Some(&self.namespace))
            .await?;
        let patch = Patch::Merge(serde_json::json!({"spec": {"replicas": replicas}}));
        api.patch(deployment, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Takes away everything the test has made and fails if a machine or a record of one stays. A controller must run.
    pub async fn finish(mut self) -> Result<()> {
        self.cluster.clean().await?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // A panic makes the testbed keep its logs by itself.
        if !self.finished && !std::thread::panicking() {
            eprintln!("[fixture] the logs are in {}", self.testbed.keep_logs().display());
        }
    }
}
