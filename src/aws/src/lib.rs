//! The provider for AWS: the only crate that names the AWS SDK.
//!
//! Rules, tags, names and conditions are those of Karpenter's AWS provider 1.14, so that either can take over the
//! other's machines.

mod account;
mod batch;
mod catalogue;
mod cluster;
mod credentials;
mod drift;
mod dry_run;
mod error;
#[cfg(test)]
mod fake;
mod fleet;
mod instances;
mod interruption;
mod jobs;
mod launch;
mod launch_template;
mod launches;
mod market;
mod nodeclass;
mod renewal;
mod rights;
mod role;
mod session_policy;
mod settings;
mod startup;
mod tagging;
mod tags;
#[cfg(test)]
mod tests;
mod unavailable;
mod upkeep;
mod user_data;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Service};
use kube::{Api, Client};
use plimsoll_api::{
    ec2nodeclass::EC2NodeClass,
    labels,
    nodeclaim::NodeClaim,
    nodepool::{NodeClassReference, NodePool},
};
use plimsoll_core::{
    catalog::{Catalog, TypeId},
    resources::{MEMORY, amount},
};
use plimsoll_provider::{
    CloudProvider, Drift, Interruptions, LaunchRequest, Listing, Machine, NodeClassReadiness, PriceList,
    ProviderError, Termination,
};
use plimsoll_state::typed_requirement;
use tokio::sync::Notify;

use crate::{
    account::{Account, Accounts, in_time},
    catalogue::{Density, Learned, Resolver, Tenancy, Words, class_types},
    cluster::Cluster,
    credentials::Identity,
    instances::{Ended, Found, State},
    interruption::{Health, Queue},
    launch::readiness,
    launches::Launches,
    market::Goods,
    nodeclass::Classes,
    role::{Role, RoleError, written},
    tags::NODECLAIM,
    unavailable::Unavailable,
};

pub use rights::RIGHTS;
pub use settings::Settings;
pub use startup::{Prepared, StartError, prepare};

const GROUP: &str = "karpenter.k8s.aws";
const KIND: &str = "EC2NodeClass";

fn reference(class: &str) -> NodeClassReference {
    NodeClassReference {
        group: GROUP.into(),
        kind: KIND.into(),
        name: class.into(),
    }
}

/// Serves EC2NodeClass with EC2 instances.
#[derive(Debug)]
pub struct AwsCloud {
    settings: Settings,
    cluster: Cluster,
    density: Density,
    client: nodeclass::KubeClient,
    accounts: Arc<Accounts>,
    classes: Classes,
    launches: Launches,
    learned: Mutex<Learned>,
    /// The catalogue is no longer what was last answered.
    changed: Notify,
    /// A class is no longer what drift was last judged by.
    classes_changed: Notify,
    revision: AtomicU64,
    queue: Option<Queue>,
    health: Health,
    /// The pools of the last catalogue; None before the first.
    pools: Mutex<Option<Vec<Arc<NodePool>>>>,
    pools_changed: Notify,
}

/// What this process has noted of the market, held while a catalogue is made of it.
struct Noted<'a> {
    unavailable: MutexGuard<'a, Unavailable>,
    learned: MutexGuard<'a, Learned>,
    reserved: MutexGuard<'a, BTreeMap<String, u32>>,
}

impl AwsCloud {
    /// `identities` are the base, which assumes the roles of classes, and who acts where there is none.
    fn new(
        settings: Settings,
        (base, acting): (Identity, &Identity),
        cluster: Cluster,
        queue_url: Option<String>,
        client: Client,
    ) -> Self {
        let accounts = Arc::new(Accounts::new(base, acting, settings.clone(), cluster.clone()));
        Self {
            density: Density {
                vm_memory_overhead_percent: settings.vm_memory_overhead_percent,
                reserved_enis: settings.reserved_enis,
                prefix_delegation: settings.prefix_delegation,
            },
            classes: Classes::new(client.clone(), accounts.clone(), settings.clone()),
            accounts,
            health: Health::default(),
            pools: Mutex::default(),
            pools_changed: Notify::new(),
            queue: queue_url.map(|url| Queue::new(acting.sqs(), url)),
            client: nodeclass::KubeClient(client),
            launches: Launches::default(),
            learned: Mutex::default(),
            changed: Notify::new(),
            classes_changed: Notify::new(),
            revision: AtomicU64::new(0),
            settings,
            cluster,
        }
    }

    fn noted<'a>(&'a self, account: &'a Account) -> Noted<'a> {
        Noted {
            unavailable: account.unavailable(),
            learned: self.learned(),
            reserved: self.classes.reserved(),
        }
    }

    /// What can be bought of these goods now.
    fn resolver<'a>(
        &'a self,
        goods: &'a Goods,
        noted: &'a Noted<'_>,
        tenancy: Tenancy,
        now: Timestamp,
    ) -> Resolver<'a> {
        Resolver {
            region: &goods.region,
            region_name: &self.cluster.region,
            prices: &goods.prices,
            unavailable: &noted.unavailable,
            learned: &noted.learned,
            reserved: &noted.reserved,
            density: self.density,
            tenancy,
            now,
        }
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_pools(&self, pools: &[Arc<NodePool>]) {
        let mut known = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let version = |pool: &Arc<NodePool>| (pool.metadata.uid.clone(), pool.metadata.generation);
        let same = known
            .as_ref()
            .is_some_and(|known| known.iter().map(version).eq(pools.iter().map(version)));
        if !same {
            *known = Some(pools.to_vec());
            self.pools_changed.notify_one();
        }
    }

    /// Takes note of the memory that machines in service show.
    async fn learn_memory(&self, machines: &[(Arc<NodeClaim>, Arc<Node>)]) {
        let Ok(goods) = self.accounts.home().market.goods(Timestamp::now()).await else {
            return;
        };
        let mut learned = self.learned();
        let mut changed = false;
        for (claim, node) in machines {
            let shown = || {
                let label = claim.metadata.labels.as_ref()?.get(labels::INSTANCE_TYPE)?;
                let info = goods.region.types.get(label.as_str())?;
                let image_id = claim.status.as_ref()?.image_id.as_deref()?;
                let memory = node.status.as_ref()?.capacity.as_ref()?.get(MEMORY)?;
                Some((info, image_id, amount(MEMORY, &memory.0).ok()?))
            };
            if let Some((info, image_id, bytes)) = shown() {
                changed |= learned.note(info, image_id, bytes);
            }
        }
        if changed {
            self.changed.notify_one();
        }
    }

    async fn class(&self, name: &str) -> Result<Option<EC2NodeClass>, ProviderError> {
        self.classes
            .api()
            .get_opt(name)
            .await
            .map_err(|error| match error {
                kube::Error::Api(status) if status.is_forbidden() => ProviderError::Denied(status.message),
                error => ProviderError::Transient(error.to_string()),
            })
    }

    /// All classes by name.
    async fn all_classes(&self) -> Result<BTreeMap<String, EC2NodeClass>, ProviderError> {
        let classes = self.classes.list().await;
        let classes = classes.map_err(|error| ProviderError::Transient(error.to_string()))?;
        let named = |class: EC2NodeClass| Some((class.metadata.name.clone()?, class));
        Ok(classes.into_iter().filter_map(named).collect())
    }

    /// Where the machine of a claim is by the claim's word.
    async fn account_of(&self, claim: &NodeClaim) -> Result<Arc<Account>, ProviderError> {
        let region = &self.cluster.region;
        let class = match Role::of_claim(claim, region)? {
            Some(_) => self.class(&claim.spec.node_class_ref.name).await?,
            None => None,
        };
        let role = Role::of_claim_in(claim, class.as_ref(), region)?;
        Ok(self.accounts.of(role.as_ref()).await?)
    }

    /// Where else the machine of a claim may be.
    async fn elsewhere(&self, claim: &NodeClaim) -> Result<BTreeSet<Option<Role>>, ProviderError> {
        let region = &self.cluster.region;
        let class = self.class(&claim.spec.node_class_ref.name).await?;
        let remembered = class
            .map(|class| Role::all_of_class(&class, region))
            .transpose()?;
        let said = Role::of_claim(claim, region)?;
        Ok(role::elsewhere(said.as_ref(), remembered.unwrap_or_default()))
    }

    /// The instance of a claim that says which.
    async fn known_to(&self, claim: &NodeClaim, id: &str) -> Result<Option<Found>, ProviderError> {
        if let Some(found) = self.account_of(claim).await?.instances.get(id).await? {
            return Ok(Some(found));
        }
        let mut answer = Ok(None);
        for role in self.elsewhere(claim).await? {
            let asked = async { self.accounts.of(role.as_ref()).await?.instances.get(id).await };
            match in_time(asked).await {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                // Another account may still show it.
                Err(error) => answer = Err(error),
            }
        }
        answer
    }

    /// Whether a class can launch. A change of its role does not show in its status before it was looked at.
    fn readiness(&self, class: &EC2NodeClass) -> NodeClassReadiness {
        match readiness(class) {
            NodeClassReadiness::Ready if !self.classes.knows_role_of(class) => NodeClassReadiness::Unknown {
                reason: "NodeClassReadinessUnknown".into(),
                message: "the class was not looked at with its role yet".into(),
            },
            other => other,
        }
    }

    /// The instance that was launched for a claim which does not say so. Whatever its class has ever used is asked.
    async fn launched_for(&self, claim: &NodeClaim, uid: &str) -> Result<Option<Found>, ProviderError> {
        let class = self.class(&claim.spec.node_class_ref.name).await?;
        let roles = class.map(|class| Role::all_of_class(&class, &self.cluster.region));
        let roles = roles.transpose()?;
        let roles = roles.into_iter().flatten().map(|(role, _)| Some(role));
        for role in [None].into_iter().chain(roles) {
            let asked = async {
                self.accounts
                    .of(role.as_ref())
                    .await?
                    .instances
                    .of_claim(uid)
                    .await
            };
            if let Some(found) = in_time(asked).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Every role under which there may be something of ours.
    fn roles(&self, claims: &[Arc<NodeClaim>], classes: &BTreeMap<String, EC2NodeClass>) -> BTreeSet<Role> {
        let of_claim = |claim: &Arc<NodeClaim>| self.role_of(claim, classes).ok()?;
        let mut all: BTreeSet<Role> = claims.iter().filter_map(of_claim).collect();
        for (name, class) in classes {
            match Role::all_of_class(class, &self.cluster.region) {
                Ok(roles) => all.extend(roles.into_keys()),
                Err(error) => tracing::warn!(ec2nodeclass = name, %error, "roles are not known"),
            }
        }
        all
    }

    fn role_of(
        &self,
        claim: &NodeClaim,
        classes: &BTreeMap<String, EC2NodeClass>,
    ) -> Result<Option<Role>, RoleError> {
        let class = classes.get(&claim.spec.node_class_ref.name);
        Role::of_claim_in(claim, class, &self.cluster.region)
    }

    /// Addresses of the cluster's DNS; none if there is none or it may not be read, then machines use their own
    /// default. Not so for any other error: machines of an IPv6 cluster would be launched for IPv4.
    async fn cluster_dns(&self) -> Result<Vec<String>, ProviderError> {
        let api = Api::<Service>::namespaced(self.client.0.clone(), "kube-system");
        match api.get_opt("kube-dns").await {
            Ok(service) => Ok(service
                .and_then(|s| s.spec)
                .and_then(|s| s.cluster_ip)
                .filter(|ip| ip != "None" && !ip.is_empty())
                .into_iter()
                .collect()),
            Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(Vec::new()),
            Err(error) => Err(ProviderError::Transient(format!(
                "Service kube-system/kube-dns could not be read: {error}"
            ))),
        }
    }

    /// A machine as a list shows it: what it is and whose, without its shape.
    fn listed(found: &Found) -> Machine {
        let capacity_type = found.bought().capacity_type();
        Machine {
            provider_id: found.provider_id(),
            image_id: found.image_id.clone(),
            labels: [
                (labels::INSTANCE_TYPE.to_owned(), found.type_.clone()),
                (labels::ZONE.to_owned(), found.zone.clone()),
                (labels::CAPACITY_TYPE.to_owned(), capacity_type.to_owned()),
            ]
            .into(),
            annotations: BTreeMap::new(),
            capacity: BTreeMap::new(),
            allocatable: BTreeMap::new(),
            claim: found.tags.get(NODECLAIM).cloned().unwrap_or_default(),
            launched: found.launched,
        }
    }
}

impl CloudProvider for AwsCloud {
    fn name(&self) -> &'static str {
        "aws"
    }

    fn order_annotations(&self, class: &NodeClassReference) -> BTreeMap<String, String> {
        let role = self.classes.role_of(&class.name);
        let pinned = role.map(|role| (labels::ASSUMED_ROLE.to_owned(), written(&role)));
        pinned.into_iter().collect()
    }

    async fn create(&self, request: &LaunchRequest) -> Result<Machine, ProviderError> {
        self.launch(request).await
    }

    async fn find(&self, claim: &NodeClaim) -> Result<Option<Machine>, ProviderError> {
        let uid = claim.metadata.uid.as_deref().unwrap_or_default();
        let known = claim.status.as_ref().and_then(|s| s.provider_id.as_deref());
        // Judged before EC2 is asked, for its answer is no newer, and again with the accounts that were opened for it.
        let showed_all = self.accounts.show_all();
        let found = match known.and_then(instances::instance_id) {
            Some(id) => self.known_to(claim, id).await?,
            None => self.launched_for(claim, uid).await?,
        };
        match found {
            Some(found) if found.state == State::Terminated => Ok(None),
            Some(found) => Ok(Some(Self::listed(&found))),
            None => match self.launches.recent(|of, _| of == uid) {
                Some(machine) => Ok(Some(machine)),
                None if known.is_some() || self.launches.is_refused(uid) => Ok(None),
                None if showed_all && self.accounts.show_all() => Ok(None),
                None => Err(ProviderError::Transient(
                    "a machine may have been launched for this claim that EC2 does not show yet".into(),
                )),
            },
        }
    }

    async fn delete(
        &self,
        provider_id: &str,
        claim: Option<&NodeClaim>,
    ) -> Result<Termination, ProviderError> {
        let showed_all = self.accounts.show_all();
        let known = claim.filter(|c| c.status.as_ref().is_some_and(|s| s.provider_id.is_some()));
        let mut answer = match known {
            Some(claim) => self.account_of(claim).await?.instances.end(provider_id).await,
            None => Ok(Ended::NotShown),
        };
        if matches!(answer, Ok(Ended::NotShown)) {
            let roles = match known {
                Some(claim) => self.elsewhere(claim).await?,
                // It was listed or found a moment ago, so where it is was asked.
                None => self.accounts.open().iter().map(|a| a.role.clone()).collect(),
            };
            for role in roles {
                let ended = async {
                    self.accounts
                        .of(role.as_ref())
                        .await?
                        .instances
                        .end(provider_id)
                        .await
                };
                // Told in time, EC2 ends it even if its answer is late.
                match in_time(ended).await {
                    Ok(Ended::NotShown) => {}
                    Ok(shown) => {
                        answer = Ok(shown);
                        break;
                    }
                    // Another account may still show it.
                    Err(error) => answer = Err(error),
                }
            }
        }
        let is_recent = || {
            self.launches
                .recent(|_, m| m.provider_id == provider_id)
                .is_some()
        };
        let is_gone = match answer? {
            Ended::Terminated => true,
            Ended::ShuttingDown => false,
            // Launched a moment ago, EC2 may not show it yet, and what is taken for gone runs for ever.
            Ended::NotShown => showed_all && self.accounts.show_all() && !is_recent(),
        };
        Ok(if is_gone {
            Termination::Gone
        } else {
            Termination::Started
        })
    }

    async fn list(&self, claims: &[Arc<NodeClaim>]) -> Result<Listing, ProviderError> {
        let classes = self.all_classes().await?;
        let ask = async |role: Role| {
            let listed = in_time(async { self.accounts.of(Some(&role)).await?.instances.list().await });
            (listed.await, role)
        };
        let abroad = join_all(self.roles(claims, &classes).into_iter().map(ask));
        let (home, abroad) = tokio::join!(self.accounts.home().instances.list(), abroad);
        let mut listing = Listing::default();
        listing.machines.extend(home?.iter().map(Self::listed));
        let mut silent = BTreeSet::new();
        for (listed, role) in abroad {
            match listed {
                Ok(there) => listing.machines.extend(there.iter().map(Self::listed)),
                Err(error) => {
                    tracing::warn!(role = role.arn, %error, "the machines of a role could not be listed");
                    silent.insert(role);
                }
            }
        }
        let region = &self.cluster.region;
        let is_unseen = |claim: &&Arc<NodeClaim>| {
            let class = classes.get(&claim.spec.node_class_ref.name);
            role::claim_may_be_under_one_of(&silent, claim, class, region)
        };
        let unseen = claims.iter().filter(is_unseen);
        listing.unseen = unseen.filter_map(|c| c.metadata.name.clone()).collect();
        let of_class = classes
            .iter()
            .filter(|(_, class)| role::class_may_be_under_one_of(&silent, class, region));
        listing.unseen_classes = of_class.map(|(name, _)| reference(name)).collect();
        Ok(listing)
    }

    async fn catalog(&self, pools: &[Arc<NodePool>]) -> Result<Catalog, ProviderError> {
        self.note_pools(pools);
        let now = Timestamp::now();
        let home = self.accounts.home();
        let goods = home.market.goods(now).await?;
        // A type is labelled with its tenancy, which the pool decides: one entry for each that is asked for.
        let mut by_class: BTreeMap<(&str, Tenancy), Vec<Arc<str>>> = BTreeMap::new();
        for pool in pools {
            let class = &pool.spec.template.spec.node_class_ref;
            if self.supports(&class.group, &class.kind)
                && let Some(name) = &pool.metadata.name
            {
                let requirements = &pool.spec.template.spec.requirements;
                let requirements: Vec<_> = requirements.iter().map(typed_requirement).collect();
                by_class
                    .entry((&class.name, Tenancy::of(&requirements)))
                    .or_default()
                    .push(name.as_str().into());
            }
        }
        let mut classes = Vec::new();
        for ((name, tenancy), pools) in by_class {
            let class = self.class(name).await?;
            let Some(class) = class.filter(|c| self.readiness(c) == NodeClassReadiness::Ready) else {
                continue;
            };
            // Nobody waits for what another account sells: the catalogue changes once it is known.
            let sold = Role::of_class(&class, &self.cluster.region)
                .ok()
                .and_then(|role| {
                    let account = self.accounts.opened_for(role.as_ref())?;
                    let goods = account.market.known()?;
                    Some((account, goods))
                });
            if let Some((account, goods)) = sold {
                classes.push((class, tenancy, pools, account, goods));
            } else {
                tracing::warn!(ec2nodeclass = name, "what is sold to a class is not known yet");
            }
        }
        let mut words = Words::default();
        let mut types = Vec::new();
        for (at, (class, tenancy, _, account, goods)) in classes.iter().enumerate() {
            let noted = self.noted(account);
            let resolver = self.resolver(goods, &noted, *tenancy, now);
            let of_class = class_types(resolver, class, &mut words);
            types.extend(of_class.into_iter().map(|t| (t.instance_type, at)));
        }
        // Two classes may shape a type differently; each has its own entry under the same name.
        types.sort_by(|(a, of_a), (b, of_b)| a.name.cmp(&b.name).then(of_a.cmp(of_b)));
        let mut by_pool: BTreeMap<Arc<str>, Vec<TypeId>> = BTreeMap::new();
        for (at, (_, _, pools, ..)) in classes.iter().enumerate() {
            let ids: Vec<TypeId> = types
                .iter()
                .enumerate()
                .filter(|(_, (_, class))| *class == at)
                .map(|(id, _)| TypeId(id as u32))
                .collect();
            by_pool.extend(pools.iter().map(|pool| (pool.clone(), ids.clone())));
        }
        Ok(Catalog {
            revision: self.revision.fetch_add(1, Ordering::Relaxed) + 1,
            types: types.into_iter().map(|(t, _)| t).collect(),
            by_pool,
            price_source: goods.prices.source().into(),
        })
    }

    async fn node_class(
        &self,
        reference: &NodeClassReference,
    ) -> Result<(NodeClassReadiness, Option<i64>), ProviderError> {
        Ok(match self.class(&reference.name).await? {
            None => (NodeClassReadiness::NotFound, None),
            Some(class) => (self.readiness(&class), class.metadata.generation),
        })
    }

    async fn drift(&self, claims: &[Arc<NodeClaim>]) -> Result<BTreeMap<String, Drift>, ProviderError> {
        self.drift_of(claims).await
    }

    fn supports(&self, group: &str, kind: &str) -> bool {
        group == GROUP && kind == KIND
    }

    async fn work(&self) {
        // Whoever led before may have launched until just now.
        self.accounts.make_unclear();
        tokio::join!(
            self.keep_classes(),
            self.keep_market(),
            self.keep_offerings(),
            self.keep_clean(),
            self.keep_health(),
        );
    }

    fn price_lists(&self) -> Vec<PriceList> {
        self.accounts.home().market.price_lists()
    }

    async fn attend(&self, machines: &[(Arc<NodeClaim>, Arc<Node>)]) {
        self.learn_memory(machines).await;
        self.keep_tagged(machines).await;
    }

    async fn catalog_changed(&self) {
        self.changed.notified().await;
    }

    async fn classes_changed(&self) {
        self.classes_changed.notified().await;
    }

    async fn interruptions(&self) -> Interruptions {
        self.next_interruptions().await
    }

    async fn is_new(&self, machine_id: &str) -> bool {
        self.is_launched_lately(machine_id).await
    }

    async fn interruptions_handled(&self, except: &BTreeSet<String>) -> usize {
        match &self.queue {
            Some(queue) => queue.delete(except).await,
            None => 0,
        }
    }
}
