//! One pass over one EC2NodeClass: finalizer, hash, what its selectors find, its conditions, and its end.

mod former;
mod memory;
mod status;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use plimsoll_api::{
    conditions,
    ec2nodeclass::{AMI, CapacityReservation, EC2NodeClass},
    hash::{Ec2NodeClassHashVersion, ec2nodeclass_hash},
    nodeclaim::NodeClaim,
};
use plimsoll_provider::ProviderError;
use serde_json::json;

pub(crate) use memory::Failure;
use memory::{Memory, Trial, due, keep};

use super::{
    alias::AliasError,
    amis::{self, AmiError},
    instance_profile, reservations, security_groups,
    subnets::{self, FoundSubnet},
};
use crate::{
    GROUP, KIND,
    account::{Account, Accounts},
    cluster::Cluster,
    role::{ALL_ASSUMED, Role, VPC_ID, external_id, remembered},
    settings::Settings,
};

/// Finalizer: profiles and launch templates are removed before the class goes.
pub(crate) const FINALIZER: &str = "karpenter.k8s.aws/termination";
/// Annotations by which drift is recognised.
pub(crate) const HASH: &str = "karpenter.k8s.aws/ec2nodeclass-hash";
pub(crate) const HASH_VERSION: &str = "karpenter.k8s.aws/ec2nodeclass-hash-version";
/// The version of the release whose kubelet settings are typed, as ours are.
pub(crate) const VERSION: Ec2NodeClassHashVersion = Ec2NodeClassHashVersion::V5;

const SECURITY_GROUPS_INTERVAL: Duration = Duration::from_mins(5);
/// Upstream's interval: what is left of them changes with every launch, and others launch, too.
const RESERVATIONS_INTERVAL: Duration = Duration::from_mins(1);
const PROFILE_INTERVAL: Duration = Duration::from_mins(15);
/// Upstream's interval for trial launches that succeed.
const TRIAL_INTERVAL: Duration = Duration::from_mins(30);
/// Others are repeated sooner: a person may grant what is missing.
const TRIAL_RETRY: Duration = Duration::from_mins(1);

/// The hash of a class as its annotation and its claims carry it.
pub(crate) fn class_hash(class: &EC2NodeClass, cluster: &Cluster) -> String {
    ec2nodeclass_hash(&class.spec, &cluster.ca_bundle, VERSION)
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PassError {
    #[error("the API server refused: {0}")]
    Kubernetes(#[from] kube::Error),
    #[error(transparent)]
    Provider(#[from] ProviderError),
}

/// A class half way through its pass: everything is looked up, nothing is written.
#[derive(Debug)]
pub(crate) struct Pass {
    class: EC2NodeClass,
    memory: Memory,
    /// The class with the status it would get and where it would launch, where a trial launch is due.
    pub(crate) to_try: Option<(EC2NodeClass, Arc<Account>)>,
    trial_of: Vec<String>,
}

impl Pass {
    pub(crate) fn tried(&mut self, outcome: Result<(), Failure>, now: Timestamp) {
        let known = self.memory.trial.take().filter(|known| known.of == self.trial_of);
        let mut slot = known.map(|known| known.outcome);
        keep(&mut slot, outcome, TRIAL_INTERVAL, now);
        if let Some(failed) = slot.as_mut().filter(|trial| trial.found.is_err()) {
            failed.due = now + TRIAL_RETRY;
        }
        let of = std::mem::take(&mut self.trial_of);
        self.memory.trial = slot.map(|outcome| Trial { of, outcome });
    }
}

/// All EC2NodeClasses.
#[derive(Debug)]
pub(crate) struct Classes {
    pub(crate) client: KubeClient,
    pub(crate) accounts: Arc<Accounts>,
    /// With the VPC of the controller's own account.
    pub(crate) cluster: Cluster,
    pub(crate) settings: Settings,
    memory: Mutex<BTreeMap<String, Memory>>,
    /// Free addresses of each subnet, less what was launched since they were counted.
    free_addresses: Mutex<BTreeMap<String, i64>>,
    /// Machines left in each capacity reservation, less what was launched since they were counted.
    reserved: Mutex<BTreeMap<String, u32>>,
}

/// kube's client has no Debug of its own.
#[derive(Clone)]
pub(crate) struct KubeClient(pub(crate) Client);

impl std::fmt::Debug for KubeClient {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("KubeClient")
    }
}

impl Classes {
    pub(crate) fn new(client: Client, accounts: Arc<Accounts>, settings: Settings) -> Self {
        Self {
            client: KubeClient(client),
            cluster: accounts.home().cluster.clone(),
            accounts,
            settings,
            memory: Mutex::default(),
            free_addresses: Mutex::default(),
            reserved: Mutex::default(),
        }
    }

    pub(crate) fn api(&self) -> Api<EC2NodeClass> {
        Api::all(self.client.0.clone())
    }

    /// All classes; which external ids they name is taken note of.
    pub(crate) async fn list(&self) -> Result<Vec<EC2NodeClass>, kube::Error> {
        let all = self.api().list(&ListParams::default()).await?.items;
        self.accounts.note_external_ids(&all);
        Ok(all)
    }

    fn memory(&self) -> MutexGuard<'_, BTreeMap<String, Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Free addresses of each subnet as far as known.
    pub(crate) fn free_addresses(&self) -> MutexGuard<'_, BTreeMap<String, i64>> {
        self.free_addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Machines left in each capacity reservation as far as known.
    pub(crate) fn reserved(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the class was looked at with the role it names now. One that never named any needs no look for that.
    pub(crate) fn knows_role_of(&self, class: &EC2NodeClass) -> bool {
        let Ok(role) = Role::of_class(class, &self.cluster.region) else {
            return false;
        };
        match self
            .memory()
            .get(class.metadata.name.as_deref().unwrap_or_default())
        {
            Some(memory) => memory.role == role && memory.refused.is_none(),
            None => {
                role.is_none()
                    && Role::all_of_class(class, &self.cluster.region).is_ok_and(|all| all.is_empty())
            }
        }
    }

    /// The role with which a class was looked at last.
    pub(crate) fn role_of(&self, class: &str) -> Option<Role> {
        self.memory().get(class)?.role.clone()
    }

    /// One machine was launched into it.
    pub(crate) fn take_reserved(&self, id: &str) {
        if let Some(left) = self.reserved().get_mut(id) {
            *left = left.saturating_sub(1);
        }
    }

    /// EC2 refused a launch into it; the next count says when there is room again.
    pub(crate) fn reservation_is_used_up(&self, id: &str) {
        if let Some(left) = self.reserved().get_mut(id) {
            *left = 0;
        }
    }

    /// The first half of a pass; None: the class is going, and nothing is left to do. `pools` are those that use it, as
    /// far as that is known.
    pub(crate) async fn begin(
        &self,
        class: EC2NodeClass,
        pools: Option<&[String]>,
        now: Timestamp,
    ) -> Result<Option<Pass>, PassError> {
        let name = class.metadata.name.clone().unwrap_or_default();
        if class.metadata.deletion_timestamp.is_some() {
            self.finalize(&class).await?;
            self.memory().remove(&name);
            return Ok(None);
        }
        let role = Role::of_class(&class, &self.cluster.region);
        let account = match &role {
            Ok(role) => self.accounts.of(role.as_ref()).await,
            Err(error) => Err(error.clone()),
        };
        let account =
            account.and_then(|account| Role::all_of_class(&class, &self.cluster.region).map(|_| account));
        let class = self.keep_metadata(class, account.as_deref().ok()).await?;
        let class = match &account {
            Ok(account) => self.leave_former_roles(class, account.role.as_ref()).await?,
            Err(_) => class,
        };
        let role = role.ok().flatten();
        let mut memory = self.memory().get(&name).cloned().unwrap_or_default();
        if memory.generation != class.metadata.generation || memory.role != role {
            memory = Memory {
                generation: class.metadata.generation,
                role,
                ..Memory::default()
            };
        }
        memory.refused = account.as_ref().err().map(Failure::from);
        if let Ok(account) = &account {
            self.look(&class, account, &mut memory, now).await;
        }
        let (mut to_try, mut trial_of) = (None, Vec::new());
        if !self.settings.disable_dry_run
            && let (Some(pools), Ok(account)) = (pools, account)
            && memory.is_complete()
            && self.validate(&class).is_ok()
        {
            trial_of = memory.findings();
            trial_of.extend(pools.iter().cloned());
            let known = memory.trial.as_ref().filter(|known| known.of == trial_of);
            if known.is_none_or(|known| known.outcome.due <= now) {
                let status = Some(self.status(&class, &memory, now));
                let class = EC2NodeClass {
                    status,
                    ..class.clone()
                };
                to_try = Some((class, account));
            }
        }
        Ok(Some(Pass {
            class,
            memory,
            to_try,
            trial_of,
        }))
    }

    /// The second half: writes the status. True when it changed.
    pub(crate) async fn end(&self, pass: Pass, now: Timestamp) -> Result<bool, PassError> {
        let Pass { class, memory, .. } = pass;
        let name = class.metadata.name.clone().unwrap_or_default();
        let status = self.status(&class, &memory, now);
        let knew_role = self.knows_role_of(&class);
        self.memory().insert(name.clone(), memory);
        if class.status.as_ref() == Some(&status) {
            return Ok(knew_role != self.knows_role_of(&class));
        }
        // Lists are written out even when empty, or a merge would leave the old ones.
        let patch = json!({
            "metadata": { "resourceVersion": class.metadata.resource_version },
            "status": {
                "subnets": status.subnets, "securityGroups": status.security_groups, "amis": status.amis,
                "capacityReservations": status.capacity_reservations,
                "instanceProfile": status.instance_profile, "conditions": status.conditions,
            },
        });
        self.api()
            .patch_status(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        Ok(true)
    }

    /// Finalizer, hash, and the role before anything is made with it.
    async fn keep_metadata(
        &self,
        class: EC2NodeClass,
        account: Option<&Account>,
    ) -> Result<EC2NodeClass, PassError> {
        let name = class.metadata.name.clone().unwrap_or_default();
        let hash = class_hash(&class, &self.cluster);
        let annotation = |key: &str| class.metadata.annotations.as_ref()?.get(key).cloned();
        let (mut metadata, mut annotations) = (serde_json::Map::new(), serde_json::Map::new());
        let finalizers = class.metadata.finalizers.as_deref().unwrap_or_default();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            let all: Vec<&str> = finalizers.iter().map(String::as_str).chain([FINALIZER]).collect();
            metadata.insert("finalizers".into(), json!(all));
        }
        let of_version = annotation(HASH_VERSION).as_deref() == Some(VERSION.as_str());
        if !of_version {
            self.migrate_claims(&name, &hash).await?;
        }
        if !of_version || annotation(HASH).as_deref() != Some(&hash) {
            annotations.insert(HASH.into(), json!(hash));
            annotations.insert(HASH_VERSION.into(), json!(VERSION.as_str()));
        }
        let id = external_id(&class);
        if let Some(role) = account.and_then(|account| account.role.clone())
            && let Ok(mut all) = Role::all_of_class(&class, &self.cluster.region)
            && all.insert(role, id.clone()) != Some(id)
        {
            annotations.insert(ALL_ASSUMED.into(), json!(remembered(&all)));
        }
        if !annotations.is_empty() {
            metadata.insert("annotations".into(), json!(annotations));
        }
        if metadata.is_empty() {
            return Ok(class);
        }
        metadata.insert("resourceVersion".into(), json!(class.metadata.resource_version));
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        Ok(self.api().patch(&name, &PatchParams::default(), &patch).await?)
    }

    /// A hash of another version cannot be compared. Claims that have not drifted are given the new one, as upstream
    /// does, or every swap of the controller would replace every machine.
    async fn migrate_claims(&self, class: &str, hash: &str) -> Result<(), PassError> {
        let api = Api::<NodeClaim>::all(self.client.0.clone());
        for claim in self.claims_of(class).await? {
            let annotations = claim.metadata.annotations.as_ref();
            let version = annotations.and_then(|a| a.get(HASH_VERSION));
            if version.map(String::as_str) == Some(VERSION.as_str()) {
                continue;
            }
            let list = claim.status.as_ref().map(|s| s.conditions.as_slice());
            let drifted = conditions::is_true(list.unwrap_or_default(), "Drifted");
            let mut new = json!({ HASH_VERSION: VERSION.as_str() });
            if !drifted {
                new[HASH] = json!(hash);
            }
            let patch = Patch::Merge(json!({ "metadata": { "annotations": new } }));
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            match api.patch(name, &PatchParams::default(), &patch).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// By reference: labels can be edited, and a claim made by hand has none.
    async fn claims_of(&self, class: &str) -> Result<Vec<NodeClaim>, PassError> {
        let api = Api::<NodeClaim>::all(self.client.0.clone());
        let mut claims = api.list(&ListParams::default()).await?.items;
        claims.retain(|claim| {
            let of = &claim.spec.node_class_ref;
            of.group == GROUP && of.kind == KIND && of.name == class
        });
        Ok(claims)
    }

    /// Clears up after a class that is being deleted, once nothing uses it.
    async fn finalize(&self, class: &EC2NodeClass) -> Result<(), PassError> {
        let name = class.metadata.name.as_deref().unwrap_or_default();
        let finalizers = class.metadata.finalizers.as_deref().unwrap_or_default();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            return Ok(());
        }
        let claims = self.claims_of(name).await?;
        if let Some(first) = claims.first() {
            tracing::info!(
                ec2nodeclass = name,
                nodeclaims = claims.len(),
                first = first.metadata.name,
                "class waits for its NodeClaims to go"
            );
            return Ok(());
        }
        let roles = Role::all_of_class(class, &self.cluster.region).map_err(ProviderError::from)?;
        for role in roles.into_keys() {
            let account = self.accounts.of(Some(&role)).await.map_err(ProviderError::from)?;
            if !self.clear_up(class, &account).await? {
                return Ok(());
            }
        }
        self.clear_up(class, self.accounts.home()).await?;
        let left: Vec<&String> = finalizers.iter().filter(|f| *f != FINALIZER).collect();
        let patch = json!({
            "metadata": { "resourceVersion": class.metadata.resource_version, "finalizers": left },
        });
        match self
            .api()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the lookups that are due. One that fails after it had succeeded keeps its last answer.
    async fn look(&self, class: &EC2NodeClass, account: &Account, memory: &mut Memory, now: Timestamp) {
        let (spec, vpc, ec2) = (&class.spec, &account.cluster.vpc_id, &account.ec2);
        let other_vpc = match &account.role {
            Some(_) => format!(", or name another VPC in annotation {VPC_ID}"),
            None => String::new(),
        };
        if due(memory.subnets.as_ref(), now) {
            let answer = subnets::find(ec2, &spec.subnet_selector_terms, vpc).await;
            let answer = answer.map_err(|e| Failure::from(&e)).and_then(|found| {
                self.count_addresses(&found);
                not_empty(found, "SubnetsNotFound", || {
                    format!("no subnet of {vpc} matches subnetSelectorTerms; tag one or change the terms{other_vpc}")
                })
            });
            keep(
                &mut memory.subnets,
                answer,
                self.settings.subnet_refresh_interval,
                now,
            );
        }
        if due(memory.security_groups.as_ref(), now) {
            let answer = security_groups::find(ec2, &spec.security_group_selector_terms, vpc).await;
            let answer = answer.map_err(|e| Failure::from(&e)).and_then(|found| {
                not_empty(found, "SecurityGroupsNotFound", || {
                    format!(
                        "no security group of {vpc} matches securityGroupSelectorTerms; tag one or change the \
                         terms{other_vpc}"
                    )
                })
            });
            keep(&mut memory.security_groups, answer, SECURITY_GROUPS_INTERVAL, now);
        }
        if due(memory.amis.as_ref(), now) {
            let answer = self.find_amis(class, account, now).await;
            keep(&mut memory.amis, answer, self.settings.ami_refresh_interval, now);
        }
        if due(memory.reservations.as_ref(), now) {
            let answer = self.find_reservations(class, account, now).await;
            keep(&mut memory.reservations, answer, RESERVATIONS_INTERVAL, now);
        }
        if due(memory.profile.as_ref(), now) {
            let answer = self.profile(class, account).await;
            keep(&mut memory.profile, answer, PROFILE_INTERVAL, now);
        }
    }

    /// Those the class names; none where they are not to be used.
    async fn find_reservations(
        &self,
        class: &EC2NodeClass,
        account: &Account,
        now: Timestamp,
    ) -> Result<Vec<CapacityReservation>, Failure> {
        let terms = class.spec.capacity_reservation_selector_terms.as_deref();
        let terms = terms.filter(|_| self.settings.reserved_capacity);
        let found = reservations::find(&account.ec2, terms.unwrap_or_default(), now).await;
        let found = found.map_err(|e| Failure::from(&e))?;
        let mut left = self.reserved();
        let all = found.into_iter().map(|found| {
            left.insert(found.reservation.id.clone(), found.available);
            found.reservation
        });
        Ok(all.collect())
    }

    fn count_addresses(&self, found: &[FoundSubnet]) {
        let mut free = self.free_addresses();
        for subnet in found {
            free.insert(subnet.subnet.id.clone(), i64::from(subnet.free_addresses));
        }
    }

    async fn find_amis(
        &self,
        class: &EC2NodeClass,
        account: &Account,
        now: Timestamp,
    ) -> Result<Vec<AMI>, Failure> {
        let version = self.client.0.apiserver_version().await.map_err(|error| Failure {
            certain: false,
            reason: "KubernetesVersionUnknown".into(),
            message: error.to_string(),
        })?;
        let digits: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
        let minor = digits.parse().unwrap_or(0);
        let terms = &class.spec.ami_selector_terms;
        let found = amis::find(&account.ec2, &account.ssm, terms, minor, now)
            .await
            .map_err(|error| match &error {
                AmiError::Provider(provider) => Failure::from(provider),
                AmiError::Alias(alias) => Failure {
                    certain: true,
                    reason: match alias {
                        AliasError::Form(_) => "AMINotFound",
                        AliasError::Al2TooOld(_) | AliasError::Windows => "UnsupportedAlias",
                    }
                    .into(),
                    message: error.to_string(),
                },
            })?;
        not_empty(found, "AMINotFound", || {
            "no image matches amiSelectorTerms; check name, owner, tags or alias".into()
        })
    }

    async fn profile(&self, class: &EC2NodeClass, account: &Account) -> Result<String, Failure> {
        let spec = &class.spec;
        if let Some(profile) = &spec.instance_profile {
            return Ok(profile.clone());
        }
        let wrong = |message: &str| Failure {
            certain: true,
            reason: "InstanceProfileNotFound".into(),
            message: message.into(),
        };
        let role = spec
            .role
            .as_ref()
            .ok_or_else(|| wrong("spec must name a role or an instanceProfile"))?;
        if self.settings.isolated_vpc {
            return Err(wrong(
                "IAM cannot be reached from an isolated VPC; make an instance profile and name it in \
                 spec.instanceProfile",
            ));
        }
        instance_profile::ensure(&account.iam, &account.cluster, class, role)
            .await
            .map_err(|e| Failure::from(&e))
    }
}

fn not_empty<T>(found: Vec<T>, reason: &str, message: impl FnOnce() -> String) -> Result<Vec<T>, Failure> {
    if found.is_empty() {
        return Err(Failure {
            certain: true,
            reason: reason.to_owned(),
            message: message(),
        });
    }
    Ok(found)
}
