//! One pass over one EC2NodeClass: finalizer, hash, what its selectors find, its conditions, and its end.

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
    ec2nodeclass::{AMI, CapacityReservation, EC2NodeClass, SecurityGroup},
    hash::{Ec2NodeClassHashVersion, ec2nodeclass_hash},
    nodeclaim::NodeClaim,
};
use plimsoll_provider::ProviderError;
use serde_json::json;

use super::{
    alias::AliasError,
    amis::{self, AmiError},
    instance_profile, reservations, security_groups,
    subnets::{self, FoundSubnet},
};
use crate::{GROUP, KIND, cluster::Cluster, launch_template::LaunchTemplates, settings::Settings};

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
/// A lookup that found nothing, or failed, is made again soon.
const RETRY: Duration = Duration::from_secs(15);

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

/// A lookup's last answer and when it is due again.
#[derive(Clone, Debug)]
struct Looked<T> {
    found: Result<T, Failure>,
    due: Timestamp,
}

/// What goes into a condition.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// True: the class cannot launch. Otherwise it is not known.
    pub(crate) certain: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn uncertain(mut self) -> Self {
        self.certain = false;
        self
    }
}

impl From<&ProviderError> for Failure {
    fn from(error: &ProviderError) -> Self {
        Self {
            certain: matches!(error, ProviderError::Denied(_)),
            reason: error.category().to_owned(),
            message: error.to_string(),
        }
    }
}

/// What was found for one class, for one generation of it.
#[derive(Clone, Debug, Default)]
struct Memory {
    generation: Option<i64>,
    subnets: Option<Looked<Vec<FoundSubnet>>>,
    security_groups: Option<Looked<Vec<SecurityGroup>>>,
    amis: Option<Looked<Vec<AMI>>>,
    profile: Option<Looked<String>>,
    reservations: Option<Looked<Vec<CapacityReservation>>>,
    trial: Option<Trial>,
}

/// The last trial launch.
#[derive(Clone, Debug)]
struct Trial {
    /// What was found when it was made; another finding needs another trial.
    of: Vec<String>,
    outcome: Looked<()>,
}

/// A class half way through its pass: everything is looked up, nothing is written.
#[derive(Debug)]
pub(crate) struct Pass {
    class: EC2NodeClass,
    memory: Memory,
    /// The class with the status it would get, where a trial launch is due.
    pub(crate) to_try: Option<EC2NodeClass>,
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
    pub(crate) ec2: aws_sdk_ec2::Client,
    pub(crate) ssm: aws_sdk_ssm::Client,
    pub(crate) iam: aws_sdk_iam::Client,
    pub(crate) cluster: Cluster,
    pub(crate) settings: Settings,
    pub(crate) templates: Arc<LaunchTemplates>,
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
    pub(crate) fn new(
        client: Client,
        clients: (aws_sdk_ec2::Client, aws_sdk_ssm::Client, aws_sdk_iam::Client),
        cluster: Cluster,
        settings: Settings,
        templates: Arc<LaunchTemplates>,
    ) -> Self {
        let (ec2, ssm, iam) = clients;
        Self {
            client: KubeClient(client),
            ec2,
            ssm,
            iam,
            cluster,
            settings,
            templates,
            memory: Mutex::default(),
            free_addresses: Mutex::default(),
            reserved: Mutex::default(),
        }
    }

    pub(crate) fn api(&self) -> Api<EC2NodeClass> {
        Api::all(self.client.0.clone())
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
        let class = self.keep_metadata(class).await?;
        let mut memory = self.memory().get(&name).cloned().unwrap_or_default();
        if memory.generation != class.metadata.generation {
            memory = Memory {
                generation: class.metadata.generation,
                ..Memory::default()
            };
        }
        self.look(&class, &mut memory, now).await;
        let (mut to_try, mut trial_of) = (None, Vec::new());
        if !self.settings.disable_dry_run
            && let Some(pools) = pools
            && memory.is_complete()
            && self.validate(&class).is_ok()
        {
            trial_of = memory.findings();
            trial_of.extend(pools.iter().cloned());
            let known = memory.trial.as_ref().filter(|known| known.of == trial_of);
            if known.is_none_or(|known| known.outcome.due <= now) {
                let status = Some(self.status(&class, &memory, now));
                to_try = Some(EC2NodeClass {
                    status,
                    ..class.clone()
                });
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
        self.memory().insert(name.clone(), memory);
        if class.status.as_ref() == Some(&status) {
            return Ok(false);
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

    /// Finalizer and hash annotations.
    async fn keep_metadata(&self, class: EC2NodeClass) -> Result<EC2NodeClass, PassError> {
        let name = class.metadata.name.clone().unwrap_or_default();
        let hash = class_hash(&class, &self.cluster);
        let annotation = |key: &str| class.metadata.annotations.as_ref()?.get(key).cloned();
        let mut metadata = serde_json::Map::new();
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
            let annotations = json!({ HASH: hash, HASH_VERSION: VERSION.as_str() });
            metadata.insert("annotations".into(), annotations);
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
        if !self.settings.isolated_vpc && class.spec.role.is_some() {
            instance_profile::remove_of_class(&self.iam, &self.cluster, class).await?;
        }
        self.templates.remove_of_class(name).await?;
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
    async fn look(&self, class: &EC2NodeClass, memory: &mut Memory, now: Timestamp) {
        let (spec, vpc) = (&class.spec, &self.cluster.vpc_id);
        if due(memory.subnets.as_ref(), now) {
            let answer = subnets::find(&self.ec2, &spec.subnet_selector_terms, vpc).await;
            let answer = answer.map_err(|e| Failure::from(&e)).and_then(|found| {
                self.count_addresses(&found);
                not_empty(found, "SubnetsNotFound", || {
                    format!("no subnet of {vpc} matches subnetSelectorTerms; tag one or change the terms")
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
            let answer = security_groups::find(&self.ec2, &spec.security_group_selector_terms, vpc).await;
            let answer = answer.map_err(|e| Failure::from(&e)).and_then(|found| {
                not_empty(found, "SecurityGroupsNotFound", || {
                    format!(
                        "no security group of {vpc} matches securityGroupSelectorTerms; tag one or change the terms"
                    )
                })
            });
            keep(&mut memory.security_groups, answer, SECURITY_GROUPS_INTERVAL, now);
        }
        if due(memory.amis.as_ref(), now) {
            let answer = self.find_amis(class, now).await;
            keep(&mut memory.amis, answer, self.settings.ami_refresh_interval, now);
        }
        if due(memory.reservations.as_ref(), now) {
            let answer = self.find_reservations(class, now).await;
            keep(&mut memory.reservations, answer, RESERVATIONS_INTERVAL, now);
        }
        if due(memory.profile.as_ref(), now) {
            let answer = self.profile(class).await;
            keep(&mut memory.profile, answer, PROFILE_INTERVAL, now);
        }
    }

    /// Those the class names; none where they are not to be used.
    async fn find_reservations(
        &self,
        class: &EC2NodeClass,
        now: Timestamp,
    ) -> Result<Vec<CapacityReservation>, Failure> {
        let terms = class.spec.capacity_reservation_selector_terms.as_deref();
        let terms = terms.filter(|_| self.settings.reserved_capacity);
        let found = reservations::find(&self.ec2, terms.unwrap_or_default(), now).await;
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

    async fn find_amis(&self, class: &EC2NodeClass, now: Timestamp) -> Result<Vec<AMI>, Failure> {
        let version = self.client.0.apiserver_version().await.map_err(|error| Failure {
            certain: false,
            reason: "KubernetesVersionUnknown".into(),
            message: error.to_string(),
        })?;
        let digits: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
        let minor = digits.parse().unwrap_or(0);
        let terms = &class.spec.ami_selector_terms;
        let found = amis::find(&self.ec2, &self.ssm, terms, minor, now)
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

    async fn profile(&self, class: &EC2NodeClass) -> Result<String, Failure> {
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
        instance_profile::ensure(&self.iam, &self.cluster, class, role)
            .await
            .map_err(|e| Failure::from(&e))
    }
}

impl Memory {
    /// Everything that a launch needs was found.
    fn is_complete(&self) -> bool {
        fn found<T>(looked: Option<&Looked<T>>) -> bool {
            looked.is_some_and(|l| l.found.is_ok())
        }
        found(self.subnets.as_ref())
            && found(self.security_groups.as_ref())
            && found(self.amis.as_ref())
            && found(self.profile.as_ref())
    }

    /// What was found, in an order of its own: free addresses change it all the time.
    fn findings(&self) -> Vec<String> {
        fn ok<T>(looked: Option<&Looked<T>>) -> Option<&T> {
            looked?.found.as_ref().ok()
        }
        let subnets = ok(self.subnets.as_ref()).into_iter().flatten();
        let groups = ok(self.security_groups.as_ref()).into_iter().flatten();
        let images = ok(self.amis.as_ref()).into_iter().flatten();
        let mut all: Vec<String> = subnets
            .map(|s| s.subnet.id.clone())
            .chain(groups.map(|g| g.id.clone()))
            .chain(images.map(|i| i.id.clone()))
            .chain(ok(self.profile.as_ref()).cloned())
            .collect();
        all.sort();
        all
    }
}

fn due<T>(looked: Option<&Looked<T>>, now: Timestamp) -> bool {
    looked.is_none_or(|l| l.due <= now)
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

fn keep<T>(slot: &mut Option<Looked<T>>, answer: Result<T, Failure>, interval: Duration, now: Timestamp) {
    let interval = if answer.is_ok() { interval } else { RETRY };
    let due = now + interval;
    match (slot.as_mut(), &answer) {
        (Some(known), Err(failure)) if known.found.is_ok() && !failure.certain => {
            tracing::warn!(
                reason = failure.reason,
                message = failure.message,
                "lookup for an EC2NodeClass failed, keeping its last answer"
            );
            known.due = due;
        }
        _ => *slot = Some(Looked { found: answer, due }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(certain: bool) -> Failure {
        Failure {
            certain,
            reason: "R".into(),
            message: "m".into(),
        }
    }

    #[test]
    fn a_passing_failure_keeps_the_last_answer_and_a_certain_one_does_not() {
        let now = Timestamp::UNIX_EPOCH;
        let minute = Duration::from_mins(1);
        let mut slot: Option<Looked<u32>> = None;
        keep(&mut slot, Err(failure(false)), minute, now);
        assert!(
            slot.as_ref().unwrap().found.is_err(),
            "there is no answer to keep"
        );
        assert!(due(slot.as_ref(), now + RETRY) && !due(slot.as_ref(), now));
        keep(&mut slot, Ok(1), minute, now);
        keep(&mut slot, Err(failure(false)), minute, now);
        assert_eq!(*slot.as_ref().unwrap().found.as_ref().unwrap(), 1);
        assert!(due(slot.as_ref(), now + RETRY));
        keep(&mut slot, Err(failure(true)), minute, now);
        assert!(slot.unwrap().found.is_err());
    }
}
