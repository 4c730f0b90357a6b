//! The API server as a test sees it: apply, wait with a deadline, look, clean up.
//!
//! A wait that fails says what the cluster looked like.

mod dump;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Scope};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{conditions, testbed};

/// The field manager of everything a test applies.
const FIELD_MANAGER: &str = "plimsoll-e2e";
/// Namespaces of tests carry this label, so that what is left of them can be found.
const TEST_LABEL: &str = "plimsoll.dev/test";
/// A node's price in dollars per hour, as eks-node-viewer reads it.
pub const PRICE_LABEL: &str = "eks-node-viewer/instance-price";
/// How long the API server may take to serve a CRD that was just applied.
const CRD_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a namespace, a NodePool or a machine may take to go away.
const CLEAN_TIMEOUT: Duration = Duration::from_mins(2);
/// The kinds of cluster scope that tests and the demo make.
const KINDS: [(&str, &str); 7] = [
    ("karpenter.sh/v1", "NodePool"),
    ("karpenter.sh/v1", "NodeClaim"),
    ("karpenter.sh/v1alpha1", "NodeOverlay"),
    ("karpenter.kwok.sh/v1alpha1", "KWOKNodeClass"),
    ("karpenter.k8s.aws/v1", "EC2NodeClass"),
    ("plimsoll.dev/v1alpha1", "Report"),
    ("plimsoll.dev/v1alpha1", "Plan"),
];
const POLL: Duration = Duration::from_millis(50);

/// A cluster and what was found out about it.
pub struct Cluster {
    client: Client,
    /// Resources of the kinds that have been asked for; asking the API server each time would be most of an apply.
    kinds: Mutex<BTreeMap<(String, String), (ApiResource, Scope)>>,
}

impl Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}

/// How many pods are in which phase. Pods that are being deleted are counted apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PodCounts {
    pub pending: usize,
    pub running: usize,
    pub succeeded: usize,
    pub failed: usize,
    pub terminating: usize,
}

impl PodCounts {
    /// Counts `pods`.
    pub fn of<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        let mut counts = Self::default();
        for pod in pods {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            *match (pod.metadata.deletion_timestamp.is_some(), phase) {
                (true, _) => &mut counts.terminating,
                (false, Some("Running")) => &mut counts.running,
                (false, Some("Succeeded")) => &mut counts.succeeded,
                (false, Some("Failed")) => &mut counts.failed,
                (false, _) => &mut counts.pending,
            } += 1;
        }
        counts
    }
}

impl Cluster {
    /// Connects with a kubeconfig file.
    pub async fn connect(kubeconfig: &Path) -> Result<Self> {
        Ok(Self {
            client: testbed::client(kubeconfig).await?,
            kinds: Mutex::default(),
        })
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// All objects of a kind, in one namespace or (also for kinds without namespaces) everywhere.
    pub fn api<K>(&self, namespace: Option<&str>) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        match namespace {
            Some(namespace) => Api::namespaced(self.client(), namespace),
            None => Api::all(self.client()),
        }
    }

    /// All objects of the kind with this `apiVersion` (`karpenter.sh/v1`) and `kind`. A kind whose CRD was applied
    /// just now is waited for.
    pub async fn api_of(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
    ) -> Result<Api<DynamicObject>> {
        let (resource, scope) = self.kind(api_version, kind).await?;
        Ok(match (scope, namespace) {
            (Scope::Namespaced, Some(namespace)) => Api::namespaced_with(self.client(), namespace, &resource),
            _ => Api::all_with(self.client(), &resource),
        })
    }

    async fn kind(&self, api_version: &str, kind: &str) -> Result<(ApiResource, Scope)> {
        let key = (api_version.to_owned(), kind.to_owned());
        if let Some(known) = self
            .kinds
            .lock()
            .expect("no holder of this lock panics")
            .get(&key)
        {
            return Ok(known.clone());
        }
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let deadline = Instant::now() + CRD_TIMEOUT;
        loop {
            match discovery::pinned_kind(&self.client, &gvk).await {
                Ok((resource, capabilities)) => {
                    let found = (resource, capabilities.scope);
                    self.kinds
                        .lock()
                        .expect("no holder of this lock panics")
                        .insert(key, found.clone());
                    return Ok(found);
                }
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).context(format!(
                        "{api_version} {kind} is not served (is its CRD applied?)"
                    ));
                }
                Err(_) => sleep(POLL).await,
            }
        }
    }

    /// Applies every document of a YAML text (server-side apply, in order). Objects of kinds with namespaces that name
    /// none go to `namespace`.
    pub async fn apply_yaml(&self, yaml: &str, namespace: Option<&str>) -> Result<Vec<DynamicObject>> {
        let mut applied = Vec::new();
        for object in parse_yaml(yaml)? {
            applied.push(self.apply(object, namespace).await?);
        }
        Ok(applied)
    }

    /// The same for a file.
    pub async fn apply_file(&self, file: &Path, namespace: Option<&str>) -> Result<Vec<DynamicObject>> {
        let yaml = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        self.apply_yaml(&yaml, namespace)
            .await
            .with_context(|| file.display().to_string())
    }

    /// Applies all YAML files of a directory in the order of their names.
    pub async fn apply_directory(&self, directory: &Path) -> Result<()> {
        let mut files = std::fs::read_dir(directory)
            .with_context(|| directory.display().to_string())?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
        files.sort();
        ensure!(!files.is_empty(), "no YAML files in {}", directory.display());
        for file in files {
            self.apply_file(&file, None).await?;
        }
        Ok(())
    }

    /// Applies one object (server-side apply, taking over fields of others).
    pub async fn apply(&self, object: DynamicObject, namespace: Option<&str>) -> Result<DynamicObject> {
        let types = object
            .types
            .clone()
            .context("an object needs apiVersion and kind")?;
        let name = object
            .metadata
            .name
            .clone()
            .with_context(|| format!("a {} without metadata.name", types.kind))?;
        let namespace = object.metadata.namespace.as_deref().or(namespace);
        let api = self.api_of(&types.api_version, &types.kind, namespace).await?;
        // Right after the CRD is served its first writes can still be refused with 404.
        let deadline = Instant::now() + CRD_TIMEOUT;
        loop {
            let params = PatchParams::apply(FIELD_MANAGER).force();
            match api.patch(&name, &params, &Patch::Apply(&object)).await {
                Ok(applied) => return Ok(applied),
                Err(kube::Error::Api(status)) if status.is_not_found() && Instant::now() < deadline => {
                    sleep(POLL).await;
                }
                Err(error) => return Err(error).context(format!("applying {} {name}", types.kind)),
            }
        }
    }

    /// A new namespace named after the test and this process. Runs of the same test side by side do not collide, and
    /// the name says whose it is.
    pub async fn namespace(&self, test: &str) -> Result<String> {
        let plain: String = test
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() {
                    c.to_ascii_lowercase()
                } else {
                    '-'
                }
            })
            .collect();
        let plain: String = plain.trim_matches('-').chars().take(40).collect();
        let name = format!("{plain}-{}", std::process::id());
        let namespace = Namespace {
            metadata: kube::core::ObjectMeta {
                name: Some(name.clone()),
                labels: Some([(TEST_LABEL.to_owned(), "true".to_owned())].into()),
                ..Default::default()
            },
            ..Default::default()
        };
        Api::all(self.client())
            .create(&PostParams::default(), &namespace)
            .await
            .context("creating a test's namespace")?;
        Ok(name)
    }

    /// Watches a kind until `holds` says yes for all its objects, and returns those. Fails at the deadline with `what`
    /// and a picture of the cluster.
    pub async fn wait_for<K>(
        &self,
        what: &str,
        api: Api<K>,
        within: Duration,
        mut holds: impl FnMut(&BTreeMap<String, K>) -> bool,
    ) -> Result<BTreeMap<String, K>>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let deadline = Instant::now() + within;
        let mut objects = BTreeMap::new();
        let mut known = false;
        // Whatever has arrived is taken in at once: `holds` looks at all objects, and thousands can change together.
        let mut events = std::pin::pin!(
            watcher::watcher(api, watcher::Config::default())
                .default_backoff()
                .ready_chunks(4096)
        );
        loop {
            match timeout_at(deadline, events.next()).await {
                Ok(Some(chunk)) => {
                    // The watcher itself tries again after an error; the deadline bounds how often.
                    for event in chunk.into_iter().flatten() {
                        known = absorb(&mut objects, event) || known;
                    }
                    if known && holds(&objects) {
                        return Ok(objects);
                    }
                }
                Ok(None) => bail!("the watch ended while waiting for {what}"),
                Err(_) => bail!("not within {within:?}: {what}\n{}", self.dump().await),
            }
        }
    }

    /// Waits until the controller has found a NodePool and its class usable.
    pub async fn wait_node_pool_ready(&self, name: &str, within: Duration) -> Result<()> {
        let pools = self.api_of("karpenter.sh/v1", "NodePool", None).await?;
        let deadline = Instant::now() + within;
        loop {
            let pool = pools.get(name).await?;
            if conditions::is_true(&pool, "Ready") {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "the NodePool {name} is not ready after {within:?}: {}\n{}",
                    pool.data["status"],
                    self.dump().await
                );
            }
            sleep(POLL).await;
        }
    }

    /// Waits until every pod of the namespace runs and there are `count` of them.
    pub async fn wait_running(
        &self,
        namespace: &str,
        count: usize,
        within: Duration,
    ) -> Result<BTreeMap<String, Pod>> {
        let what = format!("{count} running pods in {namespace}");
        self.wait_for(&what, self.api::<Pod>(Some(namespace)), within, |pods| {
            PodCounts::of(pods.values())
                == PodCounts {
                    running: count,
                    ..PodCounts::default()
                }
        })
        .await
    }

    /// The pods of a namespace by phase.
    pub async fn pods_by_phase(&self, namespace: &str) -> Result<PodCounts> {
        Ok(PodCounts::of(
            &self
                .api::<Pod>(Some(namespace))
                .list(&ListParams::default())
                .await?,
        ))
    }

    /// All NodeClaims, by name.
    pub async fn node_claims(&self) -> Result<Vec<DynamicObject>> {
        let api = self.api_of("karpenter.sh/v1", "NodeClaim", None).await?;
        Ok(api.list(&ListParams::default()).await?.items)
    }

    /// All Nodes, by name.
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        Ok(Api::<Node>::all(self.client())
            .list(&ListParams::default())
            .await?
            .items)
    }

    /// What all nodes cost together, in dollars per hour. Nodes without a price label cost nothing here.
    pub async fn price_per_hour(&self) -> Result<f64> {
        Ok(price_per_hour(&self.nodes().await?))
    }

    /// Deletes the namespaces of tests and every object of [`KINDS`], and fails if one of them or a simulated Node
    /// stays. A controller must be running, because NodeClaims carry its finalizer.
    pub async fn clean(&self) -> Result<()> {
        let everything = ListParams::default();
        let namespaces = Api::<Namespace>::all(self.client());
        for namespace in namespaces.list(&everything.clone().labels(TEST_LABEL)).await? {
            delete(&namespaces, &namespace.name_any()).await?;
        }
        let kinds = self.served_kinds().await?;
        for (_, api) in &kinds {
            for object in api.list(&everything).await? {
                delete(api, &object.name_any()).await?;
            }
        }
        let deadline = Instant::now() + CLEAN_TIMEOUT;
        loop {
            let left = self.left_of(&kinds).await?;
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "left after {CLEAN_TIMEOUT:?}: {}\n{}",
                    left.join(", "),
                    self.dump().await
                );
            }
            sleep(POLL).await;
        }
    }

    /// What a test or the demo has left: its namespaces, objects of [`KINDS`], and simulated Nodes.
    pub async fn leftovers(&self) -> Result<Vec<String>> {
        self.left_of(&self.served_kinds().await?).await
    }

    async fn left_of(&self, kinds: &[(&str, Api<DynamicObject>)]) -> Result<Vec<String>> {
        let everything = ListParams::default();
        let mut left = Vec::new();
        for namespace in Api::<Namespace>::all(self.client())
            .list(&everything.clone().labels(TEST_LABEL))
            .await?
        {
            left.push(format!("Namespace {}", namespace.name_any()));
        }
        for (kind, api) in kinds {
            left.extend(
                api.list(&everything)
                    .await?
                    .iter()
                    .map(|object| format!("{kind} {}", object.name_any())),
            );
        }
        left.extend(
            self.nodes()
                .await?
                .iter()
                .filter(|n| is_simulated(n))
                .map(|n| format!("Node {}", n.name_any())),
        );
        Ok(left)
    }

    /// Those of [`KINDS`] whose CRDs are there.
    async fn served_kinds(&self) -> Result<Vec<(&'static str, Api<DynamicObject>)>> {
        let crds = Api::<CustomResourceDefinition>::all(self.client())
            .list(&ListParams::default())
            .await?
            .items;
        let mut served = Vec::new();
        for (api_version, kind) in KINDS {
            let is_it = |crd: &CustomResourceDefinition| {
                let mut versions = crd.spec.versions.iter().filter(|version| version.served);
                crd.spec.names.kind == kind
                    && versions.any(|version| format!("{}/{}", crd.spec.group, version.name) == api_version)
            };
            if crds.iter().any(is_it) {
                served.push((kind, self.api_of(api_version, kind, None).await?));
            }
        }
        Ok(served)
    }

    /// Pods, NodeClaims, Nodes and the latest events as text, for the message of a failed test.
    pub async fn dump(&self) -> String {
        dump::text(self).await
    }
}

/// Whether kwok plays this node's kubelet.
pub fn is_simulated(node: &Node) -> bool {
    node.annotations()
        .get("kwok.x-k8s.io/node")
        .is_some_and(|value| value == "fake")
}

/// What `nodes` cost together, in dollars per hour.
pub fn price_per_hour<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> f64 {
    nodes
        .into_iter()
        .filter_map(|node| {
            node.labels()
                .get(PRICE_LABEL)
                .or_else(|| node.annotations().get(PRICE_LABEL))
        })
        .filter_map(|price| price.parse::<f64>().ok())
        .fold(0.0, |sum, price| sum + price)
}

/// Reads every document of a YAML text as an object; empty documents are passed over.
pub fn parse_yaml(yaml: &str) -> Result<Vec<DynamicObject>> {
    let documents: Vec<serde_json::Value> =
        serde_saphyr::from_multiple(yaml).map_err(|error| anyhow::anyhow!("not YAML: {error}"))?;
    documents
        .into_iter()
        .filter(|document| !document.is_null())
        .map(|document| serde_json::from_value(document).context("not a Kubernetes object"))
        .collect()
}

/// Keeps `objects` up to date with a watch; true once they are complete.
pub fn absorb<K: Resource>(objects: &mut BTreeMap<String, K>, event: Event<K>) -> bool {
    match event {
        Event::Init => {
            objects.clear();
            false
        }
        Event::InitApply(object) | Event::Apply(object) => {
            objects.insert(key(&object), object);
            false
        }
        Event::Delete(object) => {
            objects.remove(&key(&object));
            false
        }
        Event::InitDone => true,
    }
}

/// `namespace/name`, or the name alone.
fn key<K: Resource>(object: &K) -> String {
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}

/// Deletes an object; one that is gone already counts as deleted.
async fn delete<K>(api: &Api<K>, name: &str) -> Result<()>
where
    K: Clone + DeserializeOwned + Debug,
{
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error).context(format!("deleting {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_several_documents() {
        let objects = parse_yaml("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b}\n").unwrap();
        assert_eq!(
            objects.iter().map(ResourceExt::name_any).collect::<Vec<_>>(),
            ["a", "b"]
        );
        assert!(parse_yaml("a: [").is_err());
    }

    #[test]
    fn a_watch_that_starts_over_forgets_what_is_gone() {
        let pod = |name: &str| Pod {
            metadata: kube::core::ObjectMeta {
                name: Some(name.to_owned()),
                ..Default::default()
            },
            ..Default::default()
        };
        let mut objects = BTreeMap::new();
        absorb(&mut objects, Event::Apply(pod("gone")));
        absorb(&mut objects, Event::Init);
        absorb(&mut objects, Event::InitApply(pod("here")));
        assert!(absorb(&mut objects, Event::InitDone));
        assert_eq!(objects.keys().collect::<Vec<_>>(), ["here"]);
    }
}
