//! What every shell shares.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use kube::Client;
use plimsoll_core::catalog::Catalog;
use plimsoll_lifecycle::Settings;
use plimsoll_state::Index;
use tokio::sync::Notify;

use crate::{
    claims, config::Config, drift::Verdicts, events::Recorder, eviction::Evictions, metrics::Metrics,
    nominations::Nominations, queue::Queue,
};

/// One per process. Locks are held for the length of a function call, never across an await.
pub(crate) struct Context<P> {
    pub(crate) config: Config,
    pub(crate) settings: Settings,
    /// The ordinary client: retries by itself where the server asks for it.
    pub(crate) client: Client,
    /// For calls that must not be made twice.
    pub(crate) no_retry: Client,
    pub(crate) provider: P,
    pub(crate) metrics: Metrics,
    pub(crate) events: Recorder,
    pub(crate) evictions: Evictions,
    /// NodeClaims to look at.
    pub(crate) claims: Queue,
    /// Wakes of the global loops. They carry no input.
    pub(crate) provision: Notify,
    pub(crate) disrupt: Notify,
    pub(crate) pools: Notify,
    pub(crate) nominations: Nominations,
    pub(crate) drift: Verdicts,
    index: Mutex<Index>,
    catalog: Mutex<Arc<Catalog>>,
}

impl<P> Context<P> {
    #[expect(
        clippy::too_many_arguments,
        reason = "built once, from parts that each have their own maker"
    )]
    pub(crate) fn new(
        config: Config,
        settings: Settings,
        client: Client,
        no_retry: Client,
        provider: P,
        metrics: Metrics,
        events: Recorder,
        evictions: Evictions,
        index: Index,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            settings,
            client,
            no_retry,
            provider,
            metrics,
            events,
            evictions,
            claims: Queue::new(claims::BACKOFF_MAX),
            provision: Notify::new(),
            disrupt: Notify::new(),
            pools: Notify::new(),
            nominations: Nominations::default(),
            drift: Verdicts::default(),
            index: Mutex::new(index),
            catalog: Mutex::default(),
        })
    }

    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        self.catalog
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_catalog(&self, catalog: Arc<Catalog>) {
        *self.catalog.lock().unwrap_or_else(PoisonError::into_inner) = catalog;
    }

    /// Changes the index and wakes whoever what changed concerns.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Index, Timestamp)) {
        let touched = {
            let mut index = self.index();
            change(&mut index, Timestamp::now());
            self.metrics.bindings(index.bindings());
            index.take_touched()
        };
        for claim in touched.claims {
            self.claims.now(claim);
        }
        if touched.waiting_pods > 0 {
            self.provision.notify_one();
        }
        if touched.capacity {
            self.disrupt.notify_one();
        }
        if touched.pools {
            self.pools.notify_one();
        }
    }
}
