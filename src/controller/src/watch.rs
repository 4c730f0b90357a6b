//! One watch per kind, each feeding the index.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Node},
        policy::v1::PodDisruptionBudget,
        storage::v1::{CSINode, StorageClass, VolumeAttachment},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource,
    api::ListParams,
    core::DeserializeGuard,
    runtime::{WatchStreamExt, watcher},
};
use plimsoll_api::{nodeclaim::NodeClaim, nodepool::NodePool};
use plimsoll_report::kinds::KINDS;
use plimsoll_state::{DaemonSet, Index, Observe, PersistentVolume, PersistentVolumeClaim, Pod};
use serde::de::DeserializeOwned;
use tokio::{sync::Notify, task::JoinSet};

use crate::context::Context;

/// A watch ends and is renewed after this long, so that a connection that died silently is noticed soon.
const WATCH_TIMEOUT_S: u32 = 57;
/// Objects per page of the first list: bounds how much is in memory before it is slimmed.
const PAGE_SIZE: u32 = 500;

/// Which kinds have been read once in full, and what keeps the others.
#[derive(Debug)]
pub(crate) struct Sync {
    /// None: synced. Some: why not yet.
    kinds: Mutex<BTreeMap<&'static str, Option<String>>>,
    changed: Notify,
}

/// Named while it is not known yet which kinds there will be, so that nothing looks complete too early.
const API_SERVER: &str = "API server";

impl Default for Sync {
    fn default() -> Self {
        let kinds = BTreeMap::from([(API_SERVER, Some("not reached yet".to_owned()))]);
        Self {
            kinds: Mutex::new(kinds),
            changed: Notify::new(),
        }
    }
}

impl Sync {
    /// Says why the API server cannot be reached.
    pub(crate) fn unreached(&self, why: String) {
        self.set(API_SERVER, Some(why));
    }

    /// What is still missing, one line each; empty when everything was read.
    pub(crate) fn missing(&self) -> Vec<String> {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds
            .iter()
            .filter_map(|(kind, why)| why.as_ref().map(|why| format!("{kind}: {why}")))
            .collect()
    }

    pub(crate) async fn complete(&self) {
        loop {
            let changed = self.changed.notified();
            if self.missing().is_empty() {
                return;
            }
            changed.await;
        }
    }

    fn set(&self, kind: &'static str, state: Option<String>) {
        self.kinds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(kind, state);
        self.changed.notify_waiters();
    }
}

/// What becomes of a kind that cannot be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gaps {
    /// Wait for it: who acts must know everything.
    Never,
    /// Take it for empty where it is not installed or not allowed, and say what is less exact: who looks can do with
    /// nodes and pods.
    Tolerated,
}

/// Starts all watches. They run until the set is dropped.
pub(crate) fn start<P: Send + std::marker::Sync + 'static>(
    context: &Arc<Context<P>>,
    sync: &Arc<Sync>,
    gaps: Gaps,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    macro_rules! watch {
        ($($kind:ty as $plural:literal),+ $(,)?) => {$(
            sync.set($plural, Some("not read yet".into()));
            tasks.spawn(follow::<$kind, P>($plural, context.clone(), sync.clone(), gaps));
        )+};
    }
    watch!(
        Pod as "pods",
        Node as "nodes",
        NodeClaim as "nodeclaims.karpenter.sh",
        NodePool as "nodepools.karpenter.sh",
        DaemonSet as "daemonsets.apps",
        Namespace as "namespaces",
        PodDisruptionBudget as "poddisruptionbudgets.policy",
        PersistentVolumeClaim as "persistentvolumeclaims",
        PersistentVolume as "persistentvolumes",
        StorageClass as "storageclasses.storage.k8s.io",
        CSINode as "csinodes.storage.k8s.io",
        VolumeAttachment as "volumeattachments.storage.k8s.io",
    );
    // From here on the kinds speak for themselves.
    sync.set(API_SERVER, None);
    tasks
}

async fn follow<K, P>(plural: &'static str, context: Arc<Context<P>>, sync: Arc<Sync>, gaps: Gaps)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    Index: Observe<K>,
    P: Send + std::marker::Sync + 'static,
{
    let config = watcher::Config::default()
        .timeout(WATCH_TIMEOUT_S)
        .page_size(PAGE_SIZE);
    let stream = watcher(Api::<DeserializeGuard<K>>::all(context.client.clone()), config).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let (mut listed, mut unreadable) = (Vec::new(), Vec::new());
    let mut complaint = String::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Apply(guarded)) => {
                context.update(|index, now| match readable(plural, guarded) {
                    Ok(object) => index.apply(object, now),
                    Err(meta) => Observe::<K>::unreadable(index, &meta, true),
                });
            }
            Ok(watcher::Event::Delete(guarded)) => {
                context.update(|index, now| match readable(plural, guarded) {
                    Ok(object) => index.delete(&object, now),
                    Err(meta) => Observe::<K>::unreadable(index, &meta, false),
                });
            }
            Ok(watcher::Event::Init) => {
                listed.clear();
                unreadable.clear();
            }
            Ok(watcher::Event::InitApply(guarded)) => match readable(plural, guarded) {
                Ok(object) => listed.push(object),
                Err(meta) => unreadable.push(meta),
            },
            Ok(watcher::Event::InitDone) => {
                let objects = std::mem::take(&mut listed);
                let unreadable = std::mem::take(&mut unreadable);
                context.update(|index, now| {
                    index.reset(objects, now);
                    for meta in &unreadable {
                        Observe::<K>::unreadable(index, meta, true);
                    }
                });
                complaint.clear();
                sync.set(plural, None);
            }
            Err(error) => {
                if let Some(why) = bearable(plural, &error, gaps) {
                    if why != complaint {
                        tracing::info!(kind = plural, %why, "going on without a kind");
                        complaint = why;
                        context.update(|index, now| index.reset(Vec::<K>::new(), now));
                        sync.set(plural, None);
                    }
                    continue;
                }
                let why = explain(plural, &error);
                context.metrics.watch_errors(plural);
                // The backoff repeats the same error for as long as it lasts; once is enough to read.
                if why == complaint {
                    tracing::debug!(kind = plural, %why, "watch failed again");
                } else {
                    tracing::warn!(kind = plural, %why, "watch failed, trying again");
                    complaint.clone_from(&why);
                }
                if !sync.missing().is_empty() {
                    sync.set_if_missing(plural, why);
                }
            }
        }
    }
}

/// One object that cannot be read must not hold up the others of its kind.
pub(crate) fn readable<K>(plural: &str, guarded: DeserializeGuard<K>) -> Result<K, Box<ObjectMeta>> {
    match guarded.0 {
        Ok(object) => Ok(object),
        Err(invalid) => {
            let name = invalid.metadata.name.as_deref().unwrap_or_default();
            tracing::error!(kind = plural, name, error = %invalid.error, "object cannot be read, it is left out");
            Err(Box::new(invalid.metadata))
        }
    }
}

impl Sync {
    /// Renews the reason of a kind that was never read; one that was stays synced through an outage.
    fn set_if_missing(&self, kind: &'static str, why: String) {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some(known)) = kinds.get_mut(kind) {
            *known = why;
        }
    }
}

/// Why the kind is missing and what is lost without it, when that can be borne.
fn bearable(plural: &str, error: &watcher::Error, gaps: Gaps) -> Option<String> {
    let kind = KINDS.iter().find(|kind| kind.resource() == plural)?;
    let watcher::Error::InitialListFailed(kube::Error::Api(status)) = error else {
        return None;
    };
    let why = match status.code {
        404 => "not installed",
        403 => "not allowed to list and watch",
        _ => return None,
    };
    (gaps == Gaps::Tolerated && !kind.needed).then(|| format!("{why}: {}", kind.use_))
}

/// What the user can do about it.
fn explain(plural: &str, error: &watcher::Error) -> String {
    let cause = match error {
        watcher::Error::InitialListFailed(e)
        | watcher::Error::WatchStartFailed(e)
        | watcher::Error::WatchFailed(e) => e,
        watcher::Error::WatchError(status) => return status.message.clone(),
        watcher::Error::NoResourceVersion => return error.to_string(),
    };
    match cause {
        kube::Error::Api(status) if status.code == 404 => {
            format!(
                "the server does not know {plural}; apply the CRDs (plimsoll crds | kubectl apply --server-side -f -)"
            )
        }
        kube::Error::Api(status) if status.code == 403 => {
            format!(
                "not allowed to list or watch {plural}; grant it in the ClusterRole: {}",
                status.message
            )
        }
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Fills an index by listing everything once: for commands that look and leave.
pub async fn load(client: &Client) -> Result<Index, kube::Error> {
    let mut index = Index::default();
    macro_rules! list {
        ($($kind:ty),+ $(,)?) => {$(
            let objects = Api::<$kind>::all(client.clone()).list(&ListParams::default()).await?;
            index.reset(objects.items, Timestamp::now());
        )+};
    }
    list!(
        Node,
        NodeClaim,
        NodePool,
        DaemonSet,
        Namespace,
        PodDisruptionBudget,
        PersistentVolumeClaim,
        PersistentVolume,
        StorageClass,
        CSINode,
        VolumeAttachment,
        Pod,
    );
    Ok(index)
}

/// How long a start waits before it says what it is still waiting for.
pub(crate) const SYNC_PATIENCE: Duration = Duration::from_secs(5);
