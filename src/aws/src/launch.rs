//! From a claim to its instance.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use plimsoll_api::{
    conditions,
    ec2nodeclass::{EC2NodeClass, EC2NodeClassSpec},
    labels,
    nodeclaim::NodeClaim,
};
use plimsoll_core::resources::format_amount;
use plimsoll_provider::{LaunchRequest, Machine, NodeClassReadiness, ProviderError, machine_labels};

use crate::{
    AwsCloud,
    account::{Account, Launching},
    catalogue::{ResolvedType, Tenancy, Words},
    error::{code, is_not_found, of_code, provider_error},
    fleet::{Bought, Chosen, EFA, FleetRequest, Offer, Override, candidates, launched, refused},
    instances::provider_id,
    launch_template::Content,
    launches::VISIBLE_WITHIN,
    nodeclass::{HASH, HASH_VERSION, PROFILE_ANNOTATION, VERSION, class_hash},
    role::{Role, written},
    tags::{NODECLAIM, NODECLAIM_UID, launch_tags},
    unavailable::Refusal,
    user_data::{Bootstrap, user_data},
};

/// Requests for one claim in one go: after a refusal the rest of what the claim allows is tried.
const ATTEMPTS_MAX: u32 = 3;
/// Pause between looks for an instance that a former process launched.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const LOOKS: u32 = 8;
const TEMPLATE_NOT_FOUND: &str = "InvalidLaunchTemplateName.NotFoundException";

/// Whether a class can launch, by its conditions.
pub(crate) fn readiness(class: &EC2NodeClass) -> NodeClassReadiness {
    if class.metadata.deletion_timestamp.is_some() {
        return NodeClassReadiness::Terminating;
    }
    let list = class.status.as_ref().map(|s| s.conditions.as_slice());
    let unknown = |message: &str| NodeClassReadiness::Unknown {
        reason: "NodeClassReadinessUnknown".into(),
        message: message.into(),
    };
    let Some(ready) = conditions::find(list.unwrap_or_default(), conditions::READY) else {
        return unknown("the class was not looked at yet");
    };
    let (reason, message) = (ready.reason.clone(), ready.message.clone());
    match ready.status.as_str() {
        _ if ready.observed_generation != class.metadata.generation => NodeClassReadiness::NotReady {
            reason: "NodeClassNotReady".into(),
            message: "the class changed and was not looked at since".into(),
        },
        "True" => NodeClassReadiness::Ready,
        "False" => NodeClassReadiness::NotReady { reason, message },
        _ => unknown(&message),
    }
}

impl AwsCloud {
    /// Launches the machine of a claim.
    pub(crate) async fn launch(&self, request: &LaunchRequest) -> Result<Machine, ProviderError> {
        let uid = request.claim.metadata.uid.as_deref().unwrap_or_default();
        if let Some(machine) = self.launches.recent(|of, _| of == uid) {
            return Ok(machine);
        }
        let class = self.ready_class(&request.claim).await?;
        let account = self.accounts.of_class(&class).await?;
        is_ordered_from(account.role.as_ref(), &request.claim, &self.cluster.region)?;
        for attempt in 1.. {
            match self.attempt(request, &class, &account, uid).await {
                Err(ProviderError::InsufficientCapacity(why)) if attempt < ATTEMPTS_MAX => {
                    tracing::info!(
                        nodeclaim = request.claim.metadata.name,
                        why,
                        "trying what is left of the claim's offerings"
                    );
                }
                Ok(machine) => return Ok(machine),
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last attempt returns")
    }

    async fn ready_class(&self, claim: &NodeClaim) -> Result<EC2NodeClass, ProviderError> {
        let name = &claim.spec.node_class_ref.name;
        let gone = || ProviderError::InsufficientCapacity(format!("EC2NodeClass {name} does not exist"));
        let class = self.class(name).await?.ok_or_else(gone)?;
        match self.readiness(&class) {
            NodeClassReadiness::Ready => Ok(class),
            NodeClassReadiness::NotFound | NodeClassReadiness::Terminating => Err(gone()),
            NodeClassReadiness::NotReady { message, .. } => Err(ProviderError::NodeClassNotReady(message)),
            NodeClassReadiness::Unknown { reason, message } => {
                Err(ProviderError::Transient(format!("{reason}: {message}")))
            }
        }
    }

    /// One request, and one more if its launch templates were removed by somebody.
    async fn attempt(
        &self,
        request: &LaunchRequest,
        class: &EC2NodeClass,
        account: &Account,
        uid: &str,
    ) -> Result<Machine, ProviderError> {
        let turn = account.turn().await;
        let (capacity_type, chosen) = self.choose(request, class, account).await?;
        let mut fleet = self
            .fleet_request(request, class, account, capacity_type, &chosen, uid)
            .await?;
        self.launches.note_request(uid);
        let launching = account.launching();
        let answer = match fleet.send(&account.ec2).await {
            Err(error) if code(&error) == TEMPLATE_NOT_FOUND => {
                account.templates.forget(fleet.templates());
                fleet = self
                    .fleet_request(request, class, account, capacity_type, &chosen, uid)
                    .await?;
                fleet.send(&account.ec2).await
            }
            answer => answer,
        };
        let answer = match answer {
            Ok(answer) => answer,
            // A former process made another request for this claim: its machine is ours.
            Err(error) if code(&error) == "IdempotentParameterMismatch" => {
                // EC2 may be slow to show it, and others need not wait for that.
                drop(turn);
                let machine = self.find_launched(request, class, account, uid).await?;
                return Ok(self.launched(launching, uid, machine));
            }
            Err(error) if is_not_found(&error) => {
                account.templates.forget(fleet.templates());
                return Err(provider_error("ec2:CreateFleet", &error));
            }
            Err(error) => {
                let error = provider_error("ec2:CreateFleet", &error);
                if matches!(error, ProviderError::Denied(_) | ProviderError::Invalid { .. }) {
                    launching.settle();
                }
                return Err(error);
            }
        };
        let errors = refused(answer.errors());
        let told_apart = self.note_refusals(&errors, &fleet, account);
        let Some(launched) = launched(&answer) else {
            launching.settle();
            self.launches.note_refusal(uid);
            if errors.iter().any(|e| e.code == TEMPLATE_NOT_FOUND) {
                account.templates.forget(fleet.templates());
            }
            let of_capacity = |e: &&crate::fleet::Refused| Refusal::of_error(&e.code, &e.message).is_none();
            return Err(match errors.iter().find(of_capacity) {
                Some(other) => of_code("ec2:CreateFleet", &other.code, &other.message),
                // Nothing is remembered of it, so the same offers would be asked for again at once.
                None if !told_apart => ProviderError::Transient(format!(
                    "ec2:CreateFleet launched nothing: {}",
                    summary(&errors)
                )),
                None => ProviderError::InsufficientCapacity(summary(&errors)),
            });
        };
        let unasked = || {
            ProviderError::Transient(format!(
                "EC2 launched {} as {}, which was not asked for",
                launched.instance_id, launched.type_
            ))
        };
        let asked = fleet
            .overrides
            .iter()
            .find(|o| o.type_ == launched.type_ && o.subnet_id == launched.subnet_id)
            .ok_or_else(unasked)?;
        self.take_address(&launched.subnet_id, asked.max_pods);
        let id = provider_id(&asked.zone, &launched.instance_id);
        if let Bought::Reserved(id) = &asked.bought {
            self.classes.take_reserved(id);
            self.changed.notify_one();
        }
        let machine = self
            .machine_of(
                id,
                &asked.type_,
                &asked.zone,
                &asked.bought,
                request,
                class,
                account,
                Timestamp::now(),
            )
            .await?
            .ok_or_else(unasked)?;
        Ok(self.launched(launching, uid, machine))
    }

    /// It is known what was launched for a claim.
    fn launched(&self, launching: Launching<'_>, uid: &str, machine: Machine) -> Machine {
        self.launches.note_launch(uid, &machine);
        launching.settle();
        machine
    }

    /// The capacity type this launch takes, and its offers, cheapest first.
    async fn choose(
        &self,
        request: &LaunchRequest,
        class: &EC2NodeClass,
        account: &Account,
    ) -> Result<(&'static str, Vec<Chosen>), ProviderError> {
        let named: Option<BTreeSet<&str>> = request
            .requirements
            .iter()
            .find(|r| {
                &*r.key == labels::INSTANCE_TYPE && r.operator == plimsoll_core::requirement::Operator::In
            })
            .map(|r| r.values.iter().map(|v| &**v).collect());
        let types = self
            .types(class, account, Tenancy::of(&request.requirements), |name| {
                named.as_ref().is_none_or(|n| n.contains(name))
            })
            .await?;
        let chosen = candidates(&types, request)?;
        let offers = chosen.offers.iter().map(Chosen::from).collect();
        Ok((chosen.capacity_type, offers))
    }

    /// What counts of a class.
    pub(crate) fn spec_of(&self, class: &EC2NodeClass) -> EC2NodeClassSpec {
        let mut spec = class.spec.clone();
        if !self.settings.reserved_capacity {
            spec.capacity_reservation_selector_terms = None;
        }
        spec
    }

    /// Those of the class's types that are `wanted` by name.
    pub(crate) async fn types(
        &self,
        class: &EC2NodeClass,
        account: &Account,
        tenancy: Tenancy,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<ResolvedType>, ProviderError> {
        let now = Timestamp::now();
        let goods = account.market.goods(now).await?;
        let noted = self.noted(account);
        let resolver = self.resolver(&goods, &noted, tenancy, now);
        let mut words = Words::default();
        let infos = goods.region.types.values().filter(|info| wanted(&info.name));
        Ok(infos
            .filter_map(|info| resolver.resolve(info, class, &mut words))
            .collect())
    }

    async fn fleet_request(
        &self,
        request: &LaunchRequest,
        class: &EC2NodeClass,
        account: &Account,
        capacity_type: &'static str,
        chosen: &[Chosen],
        uid: &str,
    ) -> Result<FleetRequest, ProviderError> {
        let claim = &request.claim;
        let claim_label = |key: &str| claim.metadata.labels.as_ref()?.get(key).cloned();
        let pool = claim_label(labels::NODEPOOL).unwrap_or_default();
        let class_name = class.metadata.name.as_deref().unwrap_or_default();
        let tags = launch_tags(&self.cluster.name, class_name, &pool, class.spec.tags.as_ref());
        let subnets = self.subnet_of_each_zone(class, account);
        let efa = request.requests.get(EFA).is_some_and(|n| *n > 0);
        let dns = self.cluster_dns().await?;
        let spot = capacity_type == labels::CAPACITY_SPOT;

        // Types that start alike share a template.
        let mut names: BTreeMap<(String, i64, i64, Option<String>), String> = BTreeMap::new();
        let mut overrides = Vec::with_capacity(chosen.len());
        for offer in chosen {
            let Some(subnet_id) = subnets.get(&*offer.zone) else {
                continue;
            };
            let interfaces = if efa { offer.efa_interfaces } else { 0 };
            let reservation = match &offer.bought {
                Bought::Reserved(id) => Some(id.clone()),
                Bought::Spot | Bought::OnDemand => None,
            };
            let key = (offer.image_id.clone(), offer.max_pods, interfaces, reservation);
            let template = if let Some(name) = names.get(&key) {
                name.clone()
            } else {
                let content = Content {
                    image_id: key.0.clone(),
                    instance_profile: class
                        .status
                        .as_ref()
                        .and_then(|s| s.instance_profile.clone())
                        .unwrap_or_default(),
                    user_data: self.user_data(claim, class, capacity_type, offer.max_pods, &dns)?,
                    security_groups: security_groups(class),
                    tags: tags.clone(),
                    spot,
                    efa_interfaces: interfaces,
                    ipv6: dns.first().is_some_and(|ip| ip.contains(':')),
                    tenancy: Tenancy::of(&request.requirements),
                    reservation: key.3.clone(),
                    class: self.spec_of(class),
                };
                let name = account.templates.ensure(&content).await?;
                names.insert(key, name.clone());
                name
            };
            overrides.push(Override {
                template,
                type_: offer.type_.to_string(),
                image_id: offer.image_id.clone(),
                zone: offer.zone.to_string(),
                subnet_id: subnet_id.clone(),
                price: offer.price.dollars(),
                bought: offer.bought.clone(),
                max_pods: offer.max_pods,
            });
        }
        let mut tags = tags;
        tags.insert(NODECLAIM.into(), claim.metadata.name.clone().unwrap_or_default());
        tags.insert(NODECLAIM_UID.into(), uid.to_owned());
        Ok(FleetRequest {
            token: self.launches.token(uid),
            spot,
            overrides,
            tags,
            context: class.spec.context.clone(),
        })
    }

    pub(crate) fn user_data(
        &self,
        claim: &NodeClaim,
        class: &EC2NodeClass,
        capacity_type: &str,
        max_pods: i64,
        dns: &[String],
    ) -> Result<String, ProviderError> {
        let mut node_labels = claim.metadata.labels.clone().unwrap_or_default();
        node_labels.insert(labels::CAPACITY_TYPE.into(), capacity_type.into());
        let of_claim = claim.spec.taints.iter().flatten();
        let taints: Vec<_> = of_claim
            .chain(claim.spec.startup_taints.iter().flatten())
            .cloned()
            .collect();
        user_data(&Bootstrap {
            family: class.spec.resolved_ami_family(),
            cluster_name: &self.cluster.name,
            endpoint: &self.cluster.endpoint,
            ca_bundle: &self.cluster.ca_bundle,
            service_cidr: self.cluster.service_cidr.as_deref(),
            cluster_dns: dns,
            labels: &node_labels,
            taints: &taints,
            kubelet: class.spec.kubelet.as_ref(),
            max_pods,
            raid0: class.spec.instance_store_policy.is_some(),
            custom: class.spec.user_data.as_deref(),
        })
        .map_err(|error| ProviderError::NodeClassNotReady(plimsoll_provider::chain(&error)))
    }

    /// In each zone the subnet with the most free addresses, by what is known now.
    fn subnet_of_each_zone(&self, class: &EC2NodeClass, account: &Account) -> BTreeMap<String, String> {
        let now = Timestamp::now();
        let free = self.classes.free_addresses();
        let unavailable = account.unavailable();
        let mut best: BTreeMap<String, (i64, String)> = BTreeMap::new();
        for subnet in class.status.iter().flat_map(|s| &s.subnets) {
            if unavailable.has_subnet(&subnet.id, now) {
                continue;
            }
            let addresses = free.get(&subnet.id).copied().unwrap_or(0);
            let known = best.get(&subnet.zone);
            if known.is_none_or(|(most, _)| addresses > *most) {
                best.insert(subnet.zone.clone(), (addresses, subnet.id.clone()));
            }
        }
        best.into_iter().map(|(zone, (_, id))| (zone, id)).collect()
    }

    /// A machine takes the addresses of its pods, until the subnets are counted again.
    fn take_address(&self, subnet_id: &str, max_pods: i64) {
        if let Some(free) = self.classes.free_addresses().get_mut(subnet_id) {
            *free -= max_pods;
        }
    }

    /// Pauses the offerings that were refused. False if none of them could be made out.
    fn note_refusals(
        &self,
        errors: &[crate::fleet::Refused],
        fleet: &FleetRequest,
        account: &Account,
    ) -> bool {
        let now = Timestamp::now();
        let mut told_apart = false;
        {
            let mut unavailable = account.unavailable();
            for error in errors {
                let Some(why) = Refusal::of_error(&error.code, &error.message) else {
                    continue;
                };
                if why == Refusal::SpotRole {
                    unavailable.capacity_type(labels::CAPACITY_SPOT, now);
                    told_apart = true;
                    continue;
                }
                let Some(type_) = &error.type_ else { continue };
                if why == Refusal::Subnet
                    && let Some(id) = &error.subnet_id
                {
                    unavailable.subnet(id, now);
                    told_apart = true;
                    continue;
                }
                for tried in &fleet.overrides {
                    let in_place = error.zone.as_ref().is_some_and(|z| *z == tried.zone)
                        || error.subnet_id.as_ref().is_some_and(|id| *id == tried.subnet_id);
                    // A quota is the account's, wherever it was met.
                    if tried.type_ != *type_ || !(in_place || why == Refusal::Quota) {
                        continue;
                    }
                    told_apart = true;
                    match &tried.bought {
                        // Nobody else's machines of this type say anything about the reservation, nor it about them.
                        Bought::Reserved(id) => self.classes.reservation_is_used_up(id),
                        bought => {
                            unavailable.offering(type_, &tried.zone, bought.capacity_type(), why, now);
                        }
                    }
                }
            }
        }
        if !errors.is_empty() {
            tracing::info!(refused = summary(errors), "EC2 refused offerings");
            self.changed.notify_one();
        }
        told_apart
    }

    /// The instance that a former process launched for this claim, once EC2 shows it.
    async fn find_launched(
        &self,
        request: &LaunchRequest,
        class: &EC2NodeClass,
        account: &Account,
        uid: &str,
    ) -> Result<Machine, ProviderError> {
        for _ in 0..LOOKS {
            if let Some(found) = account.instances.of_claim(uid).await? {
                let (id, at, bought) = (found.provider_id(), found.launched, found.bought());
                let machine = self
                    .machine_of(
                        id,
                        &found.type_,
                        &found.zone,
                        &bought,
                        request,
                        class,
                        account,
                        at,
                    )
                    .await?;
                return machine.ok_or_else(|| {
                    ProviderError::Transient(format!(
                        "{} is a {} in {}, which the class does not offer any more",
                        found.id, found.type_, found.zone
                    ))
                });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let made = request.claim.metadata.creation_timestamp.as_ref();
        if made.is_some_and(|made| Timestamp::now().duration_since(made.0).unsigned_abs() > VISIBLE_WITHIN) {
            // EC2 refused it then. Another claim follows; a machine that shows up late stands for none and is ended.
            return Err(ProviderError::InsufficientCapacity(
                "a former process asked EC2 for this claim's machine, and there is none".into(),
            ));
        }
        Err(ProviderError::Transient(
            "this claim was launched by a former process, and EC2 does not show its instance yet".into(),
        ))
    }

    /// An instance as a machine of this claim; None if the class does not offer its type there.
    async fn machine_of(
        &self,
        provider_id: String,
        type_: &str,
        zone: &str,
        bought: &Bought,
        request: &LaunchRequest,
        class: &EC2NodeClass,
        account: &Account,
        launched: Timestamp,
    ) -> Result<Option<Machine>, ProviderError> {
        let tenancy = Tenancy::of(&request.requirements);
        let types = self.types(class, account, tenancy, |name| name == type_).await?;
        let mut offers = types.iter().flat_map(|type_| {
            let offerings = type_.instance_type.offerings.iter();
            offerings.map(move |offering| Offer { type_, offering })
        });
        let offer = offers.find(|o| &*o.offering.zone == zone && bought.is(o.offering));
        Ok(offer.map(|offer| Self::machine(provider_id, request, class, account, offer, launched)))
    }

    fn machine(
        provider_id: String,
        request: &LaunchRequest,
        class: &EC2NodeClass,
        account: &Account,
        offer: Offer<'_>,
        launched: Timestamp,
    ) -> Machine {
        let type_ = &offer.type_.instance_type;
        // A machine has EFA only if its launch asked for it.
        let efa = request.requests.get(EFA).is_some_and(|n| *n > 0);
        let quantities = |amounts: &plimsoll_core::resources::Resources| {
            amounts
                .iter()
                .filter(|(name, _)| efa || &***name != EFA)
                .map(|(name, amount)| {
                    let text = format_amount(name, *amount);
                    let quantity = k8s_openapi::apimachinery::pkg::api::resource::Quantity(text);
                    (name.to_string(), quantity)
                })
                .collect()
        };
        let mut annotations = BTreeMap::from([
            (HASH.to_owned(), class_hash(class, &account.cluster)),
            (HASH_VERSION.to_owned(), VERSION.as_str().to_owned()),
        ]);
        if let Some(profile) = class.status.as_ref().and_then(|s| s.instance_profile.clone()) {
            annotations.insert(PROFILE_ANNOTATION.to_owned(), profile);
        }
        Machine {
            provider_id,
            image_id: Some(offer.type_.image_id.clone()),
            labels: machine_labels(type_, offer.offering)
                .into_iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect(),
            annotations,
            capacity: quantities(&type_.capacity),
            allocatable: quantities(&type_.allocatable),
            claim: request.claim.metadata.name.clone().unwrap_or_default(),
            launched,
        }
    }
}

/// Refuses to launch a claim under another role than it was ordered from. EC2 knows the token of a request only in the
/// account it was made in, so a launch whose answer was lost would be made twice.
fn is_ordered_from(role: Option<&Role>, claim: &NodeClaim, region: &str) -> Result<(), ProviderError> {
    let ordered = Role::of_claim(claim, region)?;
    if ordered.as_ref() == role {
        return Ok(());
    }
    let name = |role: Option<&Role>| role.map_or("none", |role| &role.arn).to_owned();
    let why = match (ordered, role) {
        (None, Some(role)) => format!(
            "the claim has no annotation {key}, so it was ordered before its EC2NodeClass named the role {}, or made by \
             hand; one made by hand needs {key}: '{}'",
            role.arn,
            written(role),
            key = labels::ASSUMED_ROLE
        ),
        (ordered, role) => format!(
            "the claim was ordered when its EC2NodeClass named the role {}, and now it names {}",
            name(ordered.as_ref()),
            name(role)
        ),
    };
    // The claim goes, its machine is looked for wherever it may be, and another claim follows.
    Err(ProviderError::InsufficientCapacity(why))
}

pub(crate) fn security_groups(class: &EC2NodeClass) -> Vec<String> {
    let groups = class.status.iter().flat_map(|s| &s.security_groups);
    groups.map(|g| g.id.clone()).collect()
}

/// Which offerings were refused and why, each code once.
fn summary(errors: &[crate::fleet::Refused]) -> String {
    let mut by_code: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for error in errors {
        let place = error
            .zone
            .as_deref()
            .or(error.subnet_id.as_deref())
            .unwrap_or("?");
        let what = format!("{} in {place}", error.type_.as_deref().unwrap_or("?"));
        by_code.entry(&error.code).or_default().push(what);
    }
    let texts: Vec<String> = by_code
        .iter()
        .map(|(code, what)| match what.as_slice() {
            [first, _, ..] => format!("{code}: {first} and {} more", what.len() - 1),
            _ => format!("{code}: {}", what.join(", ")),
        })
        .collect();
    if texts.is_empty() {
        "EC2 launched nothing and named no reason".into()
    } else {
        texts.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
    use plimsoll_api::ec2nodeclass::EC2NodeClassStatus;

    use super::*;
    use crate::fleet::Refused;

    fn class(status: Option<(&str, i64)>) -> EC2NodeClass {
        let mut class = EC2NodeClass::new("default", EC2NodeClassSpec::default());
        class.metadata.generation = Some(2);
        class.status = status.map(|(status, observed)| EC2NodeClassStatus {
            conditions: vec![Condition {
                type_: "Ready".into(),
                status: status.into(),
                reason: "R".into(),
                message: "m".into(),
                observed_generation: Some(observed),
                last_transition_time: Time(Timestamp::UNIX_EPOCH),
            }],
            ..EC2NodeClassStatus::default()
        });
        class
    }

    #[test]
    fn a_class_is_ready_only_for_the_generation_that_was_looked_at() {
        use NodeClassReadiness::{NotReady, Ready, Unknown};
        assert_eq!(readiness(&class(Some(("True", 2)))), Ready);
        assert!(matches!(readiness(&class(Some(("True", 1)))), NotReady { .. }));
        assert!(matches!(readiness(&class(Some(("False", 2)))), NotReady { .. }));
        assert!(matches!(readiness(&class(Some(("Unknown", 2)))), Unknown { .. }));
        assert!(matches!(readiness(&class(None)), Unknown { .. }));
    }

    #[test]
    fn a_claim_is_launched_where_it_was_ordered_or_not_at_all() {
        let role = |name: &str| Role {
            arn: format!("arn:aws:iam::210987654321:role/{name}"),
            vpc_id: None,
        };
        let (one, two) = (role("one"), role("two"));
        let claim = |ordered: Option<String>| {
            let mut claim = NodeClaim::new("c", Default::default());
            claim.metadata.annotations = ordered.map(|text| [(labels::ASSUMED_ROLE.to_owned(), text)].into());
            claim
        };
        let launched = |role, ordered| is_ordered_from(role, &claim(ordered), "us-east-1");
        assert_eq!(launched(None, None), Ok(()));
        assert_eq!(launched(Some(&one), Some(written(&one))), Ok(()));
        for (role, ordered) in [(None, Some(&one)), (Some(&one), None), (Some(&two), Some(&one))] {
            let refused = launched(role, ordered.map(written));
            assert!(
                matches!(&refused, Err(ProviderError::InsufficientCapacity(_))),
                "{refused:?}"
            );
        }
        let unreadable = launched(None, Some("?".into()));
        assert!(
            matches!(unreadable, Err(ProviderError::Denied(_))),
            "{unreadable:?}"
        );
    }

    #[test]
    fn refusals_are_told_in_short() {
        let refused = |code: &str, type_: &str| Refused {
            code: code.into(),
            message: String::new(),
            type_: Some(type_.into()),
            subnet_id: None,
            zone: Some("a".into()),
        };
        let errors = [
            refused("InsufficientInstanceCapacity", "m5.large"),
            refused("InsufficientInstanceCapacity", "c5.large"),
            refused("VcpuLimitExceeded", "p4d.24xlarge"),
        ];
        assert_eq!(
            summary(&errors),
            "InsufficientInstanceCapacity: m5.large in a and 1 more; VcpuLimitExceeded: p4d.24xlarge in a"
        );
    }
}
