//! A provider that follows a script, for tests of shells and for the simulator.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use plimsoll_api::{
    nodeclaim::NodeClaim,
    nodepool::{NodeClassReference, NodePool},
};
use plimsoll_core::catalog::Catalog;

use crate::{
    CloudProvider, LaunchRequest, Listing, Machine, NodeClassReadiness, ProviderError, Termination, cheapest,
    machine,
};

/// What the fake knows and what it was told to do.
#[derive(Debug, Default)]
struct Books {
    /// What was answered to each order, by claim UID.
    answers: BTreeMap<String, Machine>,
    catalog: Catalog,
    /// By provider id.
    machines: BTreeMap<String, Machine>,
    /// Errors the next launches answer with, first first.
    launch_errors: VecDeque<ProviderError>,
    /// Every launch that made a new machine: claim UID and provider id.
    launches: Vec<(String, String)>,
    now: Timestamp,
}

/// A cloud in memory. Clones share their machines.
#[derive(Clone, Debug, Default)]
pub struct FakeCloud {
    books: Arc<Mutex<Books>>,
}

impl FakeCloud {
    pub fn new(catalog: Catalog) -> Self {
        let fake = Self::default();
        fake.books().catalog = catalog;
        fake
    }

    /// The next launch fails with this error; several calls queue up.
    pub fn fail_next_launch(&self, error: ProviderError) {
        self.books().launch_errors.push_back(error);
    }

    pub fn set_time(&self, now: Timestamp) {
        self.books().now = now;
    }

    /// Claim UIDs in the order in which machines were made for them.
    pub fn launches(&self) -> Vec<(String, String)> {
        self.books().launches.clone()
    }

    pub fn machines(&self) -> Vec<Machine> {
        self.books().machines.values().cloned().collect()
    }

    /// The machine vanishes, as after an interruption.
    pub fn lose(&self, provider_id: &str) {
        self.books().machines.remove(provider_id);
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CloudProvider for FakeCloud {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn create(&self, request: &LaunchRequest) -> Result<Machine, ProviderError> {
        let mut books = self.books();
        let uid = request.claim.metadata.uid.clone().unwrap_or_default();
        let provider_id = format!("fake:///{uid}");
        // As with a client token of EC2: the same order gets the same answer, even if that machine has gone since.
        if let Some(known) = books.answers.get(&uid) {
            return Ok(known.clone());
        }
        if let Some(error) = books.launch_errors.pop_front() {
            return Err(error);
        }
        let (instance_type, offering) = cheapest(&books.catalog, request)
            .ok_or_else(|| ProviderError::InsufficientCapacity("no offering satisfies the claim".into()))?;
        let machine = machine(
            provider_id.clone(),
            &request.claim,
            instance_type,
            offering,
            books.now,
        );
        books.answers.insert(uid.clone(), machine.clone());
        books.launches.push((uid, provider_id.clone()));
        books.machines.insert(provider_id, machine.clone());
        Ok(machine)
    }

    async fn find(&self, claim: &NodeClaim) -> Result<Option<Machine>, ProviderError> {
        let uid = claim.metadata.uid.clone().unwrap_or_default();
        Ok(self.books().machines.get(&format!("fake:///{uid}")).cloned())
    }

    async fn delete(
        &self,
        provider_id: &str,
        _claim: Option<&NodeClaim>,
    ) -> Result<Termination, ProviderError> {
        let removed = self.books().machines.remove(provider_id);
        Ok(if removed.is_some() {
            Termination::Started
        } else {
            Termination::Gone
        })
    }

    async fn list(&self, _claims: &[Arc<NodeClaim>]) -> Result<Listing, ProviderError> {
        Ok(self.machines().into())
    }

    async fn catalog(&self, pools: &[Arc<NodePool>]) -> Result<Catalog, ProviderError> {
        let mut catalog = self.books().catalog.clone();
        let all: Vec<_> = (0..catalog.types.len() as u32)
            .map(plimsoll_core::catalog::TypeId)
            .collect();
        let names = pools.iter().filter_map(|p| p.metadata.name.as_deref());
        catalog.by_pool = names.map(|name| (name.into(), all.clone())).collect();
        Ok(catalog)
    }

    async fn node_class(
        &self,
        _reference: &NodeClassReference,
    ) -> Result<(NodeClassReadiness, Option<i64>), ProviderError> {
        Ok((NodeClassReadiness::Ready, Some(1)))
    }

    fn supports(&self, _group: &str, _kind: &str) -> bool {
        true
    }
}
