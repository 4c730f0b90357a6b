//! Evictions, each retried at its own pace until the pod is gone or nobody asks any more.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{EvictParams, PostParams},
};
use plimsoll_lifecycle::{EventType, Subject};
use plimsoll_provider::{CloudProvider, chain};

use crate::{
    context::Context,
    perform::{PerformError, bounded, with_uid},
    queue::Queue,
};

/// Evictions under way at once.
pub(crate) const WORKERS: usize = 16;

/// A budget that opens is used within this time (upstream's figure).
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Waiting evictions by pod. A drain asks again on every pass, which changes nothing here.
pub(crate) struct Evictions {
    /// Does not retry by itself: a refusal is the answer we want to see.
    client: Client,
    queue: Queue,
    items: Mutex<BTreeMap<String, Item>>,
}

#[derive(Clone, Debug)]
struct Item {
    pod: Arc<str>,
    uid: Arc<str>,
    node: String,
}

impl Evictions {
    pub(crate) fn new(no_retry: Client) -> Self {
        Self {
            client: no_retry,
            queue: Queue::new(BACKOFF_MAX),
            items: Mutex::default(),
        }
    }

    pub(crate) fn add(&self, pod: Arc<str>, uid: Arc<str>, node: String) {
        let key = uid.to_string();
        let item = Item { pod, uid, node };
        let known = self
            .items
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key.clone(), item);
        if known.is_none() {
            self.queue.now(key);
        }
    }

    fn item(&self, key: &str) -> Option<Item> {
        self.items
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    fn finish(&self, key: &str) {
        self.items
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
        self.queue.succeeded(key);
    }
}

/// One of the workers.
pub(crate) async fn work<P: CloudProvider>(context: Arc<Context<P>>) {
    loop {
        let key = context.evictions.queue.next().await;
        if let Some(item) = context.evictions.item(&key) {
            // Somebody may have changed their mind, or the pod went by itself.
            let live = context.index().pod(&item.pod).cloned();
            let wanted = live.is_some_and(|p| p.uid == item.uid && p.deletion.is_none() && p.node.is_some());
            if !wanted || evict(&context, &item).await {
                context.evictions.finish(&key);
            } else {
                context.evictions.queue.retry(key.clone());
            }
        }
        context.evictions.queue.done(&key);
    }
}

/// Whether the matter is settled.
async fn evict<P: CloudProvider>(context: &Context<P>, item: &Item) -> bool {
    let (namespace, name) = item.pod.split_once('/').unwrap_or_default();
    let api = Api::<Pod>::namespaced(context.evictions.client.clone(), namespace);
    let params = EvictParams {
        delete_options: Some(with_uid(&item.uid)),
        post_options: PostParams::default(),
    };
    let answer = bounded("evict a Pod", api.evict(name, &params)).await;
    let code = match &answer {
        Ok(_) => 200,
        Err(PerformError::Conflict) => 409,
        Err(PerformError::Api {
            source: kube::Error::Api(status),
            ..
        }) => status.code,
        Err(_) => 0,
    };
    context.metrics.eviction(code);
    match (code, answer) {
        (200, _) => {
            let subject = Subject::Pod {
                key: item.pod.clone(),
                uid: item.uid.clone(),
            };
            context
                .events
                .publish(&subject, EventType::Normal, "Evicted", "Evicted pod".into());
            context.metrics.pod_drained();
            true
        }
        // Gone, or a new pod of the same name.
        (404 | 409, _) => true,
        (429 | 500, Err(error)) => {
            let note = format!("failed to evict pod {}: {}", item.pod, chain(&error));
            let subject = Subject::Node {
                name: item.node.clone(),
            };
            context
                .events
                .publish(&subject, EventType::Warning, "FailedDraining", note);
            false
        }
        (_, answer) => {
            if let Err(error) = answer {
                tracing::warn!(pod = %item.pod, error = chain(&error), "eviction failed");
            }
            false
        }
    }
}
