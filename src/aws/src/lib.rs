//! The provider for AWS: the only crate that names the AWS SDK.
//!
//! Rules, tags, names and conditions are those of Karpenter's AWS provider 1.14, so that either can take over the
//! other's machines.

mod batch;
mod catalogue;
mod cluster;
mod credentials;
mod drift;
mod dry_run;
mod error;
mod fleet;
mod instances;
mod interruption;
mod launch;
mod launch_template;
mod market;
mod nodeclass;
mod rights;
mod session_policy;
mod settings;
mod startup;
mod tagging;
mod tags;
mod unavailable;
mod upkeep;
mod user_data;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use aws_config::SdkConfig;
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
    CloudProvider, Drift, Interruption, LaunchRequest, Machine, NodeClassReadiness, PriceList, ProviderError,
    Termination,
};
use tokio::sync::Notify;

use crate::{
    catalogue::{Density, Learned, Resolver, Tenancy, Words, class_types, pool_requirement, pricing_region},
    cluster::Cluster,
    instances::{Ended, Found, Instances, State},
    interruption::{Health, Queue},
    launch::{Launches, readiness},
    launch_template::LaunchTemplates,
    market::{Goods, Market},
    nodeclass::Classes,
    tags::NODECLAIM,
    unavailable::Unavailable,
};

pub use rights::RIGHTS;
pub use settings::{AssumeRole, Settings};
pub use startup::{Prepared, StartError, prepare};

const GROUP: &str = "karpenter.k8s.aws";
const KIND: &str = "EC2NodeClass";

/// Serves EC2NodeClass with EC2 instances.
#[derive(Debug)]
pub struct AwsCloud {
    settings: Settings,
    cluster: Cluster,
    density: Density,
    client: nodeclass::KubeClient,
    ec2: aws_sdk_ec2::Client,
    iam: aws_sdk_iam::Client,
    market: Market,
    instances: Instances,
    templates: Arc<LaunchTemplates>,
    classes: Classes,
    launches: Launches,
    /// Locked before `learned`, and that before what is left of the reservations, where they are together.
    unavailable: Mutex<Unavailable>,
    learned: Mutex<Learned>,
    /// The catalogue is no longer what was last answered.
    changed: Notify,
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
    fn new(
        settings: Settings,
        config: &SdkConfig,
        cluster: Cluster,
        queue_url: Option<String>,
        client: Client,
    ) -> Self {
        let ec2 = aws_sdk_ec2::Client::new(config);
        let iam = aws_sdk_iam::Client::new(config);
        let ssm = aws_sdk_ssm::Client::new(config);
        let pricing_region = aws_config::Region::new(pricing_region(&cluster.region));
        let pricing = aws_sdk_pricing::config::Builder::from(config)
            .region(pricing_region)
            .build();
        let pricing = aws_sdk_pricing::Client::from_conf(pricing);
        let templates = Arc::new(LaunchTemplates::new(ec2.clone(), cluster.clone()));
        Self {
            density: Density {
                vm_memory_overhead_percent: settings.vm_memory_overhead_percent,
                reserved_enis: settings.reserved_enis,
                prefix_delegation: settings.prefix_delegation,
            },
            market: Market::new(
                ec2.clone(),
                pricing,
                cluster.region.clone(),
                settings.isolated_vpc,
            ),
            instances: Instances::new(ec2.clone(), cluster.clone()),
            classes: Classes::new(
                client.clone(),
                (ec2.clone(), ssm, iam.clone()),
                cluster.clone(),
                settings.clone(),
                templates.clone(),
            ),
            health: Health::default(),
            pools: Mutex::default(),
            pools_changed: Notify::new(),
            queue: queue_url.map(|url| Queue::new(aws_sdk_sqs::Client::new(config), url)),
            client: nodeclass::KubeClient(client),
            templates,
            launches: Launches::default(),
            unavailable: Mutex::default(),
            learned: Mutex::default(),
            changed: Notify::new(),
            revision: AtomicU64::new(0),
            settings,
            cluster,
            ec2,
            iam,
        }
    }

    fn unavailable(&self) -> MutexGuard<'_, Unavailable> {
        self.unavailable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn noted(&self) -> Noted<'_> {
        Noted {
            unavailable: self.unavailable(),
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
        let Ok(goods) = self.market.goods(Timestamp::now()).await else {
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

    async fn create(&self, request: &LaunchRequest) -> Result<Machine, ProviderError> {
        self.launch(request).await
    }

    async fn find(&self, claim: &NodeClaim) -> Result<Option<Machine>, ProviderError> {
        let uid = claim.metadata.uid.as_deref().unwrap_or_default();
        let known = claim.status.as_ref().and_then(|s| s.provider_id.as_deref());
        let found = match known.and_then(instances::instance_id) {
            Some(id) => self.instances.get(id).await?,
            None => self.instances.of_claim(uid).await?,
        };
        match found {
            Some(found) if found.state == State::Terminated => Ok(None),
            Some(found) => Ok(Some(Self::listed(&found))),
            None => Ok(self.launches.recent(|of, _| of == uid)),
        }
    }

    async fn delete(&self, provider_id: &str) -> Result<Termination, ProviderError> {
        let answer = self.instances.end(provider_id).await?;
        let recent = || self.launches.recent(|_, m| m.provider_id == provider_id);
        match answer {
            // Launched a moment ago: EC2 may not show it yet, and what is taken for gone runs for ever.
            Ended::NotShown if recent().is_some() => Ok(Termination::Started),
            Ended::NotShown | Ended::Terminated => Ok(Termination::Gone),
            Ended::ShuttingDown => Ok(Termination::Started),
        }
    }

    async fn list(&self) -> Result<Vec<Machine>, ProviderError> {
        Ok(self.instances.list().await?.iter().map(Self::listed).collect())
    }

    async fn catalog(&self, pools: &[Arc<NodePool>]) -> Result<Catalog, ProviderError> {
        self.note_pools(pools);
        let now = Timestamp::now();
        let goods = self.market.goods(now).await?;
        // A type is labelled with its tenancy, which the pool decides: one entry for each that is asked for.
        let mut by_class: BTreeMap<(&str, Tenancy), Vec<Arc<str>>> = BTreeMap::new();
        for pool in pools {
            let class = &pool.spec.template.spec.node_class_ref;
            if self.supports(&class.group, &class.kind)
                && let Some(name) = &pool.metadata.name
            {
                let requirements = &pool.spec.template.spec.requirements;
                let requirements: Vec<_> = requirements.iter().map(pool_requirement).collect();
                by_class
                    .entry((&class.name, Tenancy::of(&requirements)))
                    .or_default()
                    .push(name.as_str().into());
            }
        }
        let mut classes = Vec::new();
        for ((name, tenancy), pools) in by_class {
            match self.class(name).await? {
                Some(class) if readiness(&class) == NodeClassReadiness::Ready => {
                    classes.push((class, tenancy, pools));
                }
                _ => {}
            }
        }
        let noted = self.noted();
        let mut words = Words::default();
        let mut types = Vec::new();
        for (at, (class, tenancy, _)) in classes.iter().enumerate() {
            let resolver = self.resolver(&goods, &noted, *tenancy, now);
            let of_class = class_types(resolver, class, &mut words);
            types.extend(of_class.into_iter().map(|t| (t.instance_type, at)));
        }
        // Two classes may shape a type differently; each has its own entry under the same name.
        types.sort_by(|(a, of_a), (b, of_b)| a.name.cmp(&b.name).then(of_a.cmp(of_b)));
        let mut by_pool: BTreeMap<Arc<str>, Vec<TypeId>> = BTreeMap::new();
        for (at, (_, _, pools)) in classes.iter().enumerate() {
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
            Some(class) => (readiness(&class), class.metadata.generation),
        })
    }

    async fn drift(&self, claims: &[Arc<NodeClaim>]) -> Result<BTreeMap<String, Drift>, ProviderError> {
        self.drift_of(claims).await
    }

    fn supports(&self, group: &str, kind: &str) -> bool {
        group == GROUP && kind == KIND
    }

    async fn work(&self) {
        tokio::join!(
            self.keep_classes(),
            self.keep_market(),
            self.keep_offerings(),
            self.keep_clean(),
            self.keep_health(),
        );
    }

    fn price_lists(&self) -> Vec<PriceList> {
        self.market.price_lists()
    }

    async fn attend(&self, machines: &[(Arc<NodeClaim>, Arc<Node>)]) {
        self.learn_memory(machines).await;
        self.keep_tagged(machines).await;
    }

    async fn catalog_changed(&self) {
        self.changed.notified().await;
    }

    async fn interruptions(&self) -> Vec<Interruption> {
        self.next_interruptions().await
    }

    async fn interruptions_handled(&self) {
        if let Some(queue) = &self.queue {
            queue.delete().await;
        }
    }
}
