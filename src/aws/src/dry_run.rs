//! Trial launches: whether a class may launch at all, asked of EC2 without launching anything.

use std::sync::Arc;

use aws_sdk_ec2::types::{LaunchTemplateSpecification, ResourceType};
use plimsoll_api::{ec2nodeclass::EC2NodeClass, labels, nodeclaim::NodeClaim, nodepool::NodePool};
use plimsoll_core::requirement::{Requirement, labels_match};
use plimsoll_provider::{ProviderError, machine_labels};
use plimsoll_state::typed_requirement;

use crate::{
    AwsCloud, GROUP, KIND,
    account::Account,
    catalogue::{ResolvedType, Tenancy},
    error::{code, provider_error},
    fleet::{Bought, FleetRequest, Override, is_exotic},
    launch::security_groups,
    launch_template::{self, Content},
    nodeclass::Failure,
    tags::{launch_tags, specification},
};

/// What EC2 says where the call would have been made.
const WOULD_SUCCEED: &str = "DryRunOperation";
/// Stands for the pool of a class that none uses: an empty tag may count as a missing one.
const NO_POOL: &str = "none";
/// Types tried for a class that no pool uses, one for each architecture, as upstream.
const USUAL: [&str; 2] = ["m5.large", "m6g.large"];

impl AwsCloud {
    /// Makes the launch template of a machine on demand, and asks EC2 whether the calls that use it would be allowed.
    /// An error that is certain says which right is missing.
    pub(crate) async fn try_launch(
        &self,
        class: &EC2NodeClass,
        account: &Account,
        pools: &[Arc<NodePool>],
    ) -> Result<(), Failure> {
        let tenancy = tenancy_of(pools);
        let failed = |error: &ProviderError| Failure::from(error).uncertain();
        let types = self
            .types(class, account, tenancy, |_| true)
            .await
            .map_err(|e| failed(&e))?;
        let Some(type_) = type_to_try(&types, pools) else {
            return Err(Failure {
                certain: true,
                reason: "NoCompatibleInstanceTypes".into(),
                message: "no instance type is offered in the zones of the subnets and starts from the images"
                    .into(),
            });
        };
        let (name, image_id, max_pods) = (
            type_.instance_type.name.to_string(),
            type_.image_id.clone(),
            type_.max_pods,
        );
        drop(types);
        let class_name = class.metadata.name.as_deref().unwrap_or_default();
        let pool = pools.first().and_then(|pool| pool.metadata.name.as_deref());
        let of_user = class.spec.tags.as_ref();
        let tags = launch_tags(&self.cluster.name, class_name, pool.unwrap_or(NO_POOL), of_user);
        let content = async {
            let dns = self.cluster_dns().await?;
            let claim = NodeClaim::new("", Default::default());
            Ok(Content {
                image_id: image_id.clone(),
                instance_profile: class
                    .status
                    .as_ref()
                    .and_then(|s| s.instance_profile.clone())
                    .unwrap_or_default(),
                user_data: self.user_data(&claim, class, labels::CAPACITY_ON_DEMAND, max_pods, &dns)?,
                security_groups: security_groups(class),
                tags: tags.clone(),
                spot: false,
                efa_interfaces: 0,
                ipv6: dns.first().is_some_and(|ip| ip.contains(':')),
                tenancy,
                reservation: None,
                class: self.spec_of(class),
            })
        };
        let content = content.await.map_err(|e: ProviderError| failed(&e))?;
        let template = account.templates.ensure(&content).await;
        let template = template.map_err(|error| refused("CreateLaunchTemplate", &error))?;

        let subnets = class.status.iter().flat_map(|s| &s.subnets);
        let to = |subnet: &plimsoll_api::ec2nodeclass::Subnet| Override {
            template: template.clone(),
            type_: name.clone(),
            image_id: image_id.clone(),
            zone: subnet.zone.clone(),
            subnet_id: subnet.id.clone(),
            price: 0.0,
            bought: Bought::OnDemand,
            max_pods,
        };
        let fleet = FleetRequest {
            token: String::new(),
            spot: false,
            overrides: subnets.clone().map(to).collect(),
            tags: tags.clone(),
            context: class.spec.context.clone(),
        };
        if let Err(error) = fleet.request(&account.ec2).dry_run(true).send().await
            && code(&error) != WOULD_SUCCEED
        {
            let error = provider_error("ec2:CreateFleet", &error);
            if template_is_gone(&error) {
                account.templates.forget([&template]);
            }
            return Err(refused("CreateFleet", &error));
        }

        let mut first = None;
        for subnet in subnets {
            let template = LaunchTemplateSpecification::builder()
                .launch_template_name(&template)
                .version(launch_template::VERSION)
                .build();
            let mut request = account
                .ec2
                .run_instances()
                .dry_run(true)
                .min_count(1)
                .max_count(1)
                .launch_template(template)
                .instance_type(name.as_str().into())
                .set_network_interfaces(Some(content.interfaces_in(&subnet.id)));
            for kind in [
                ResourceType::Instance,
                ResourceType::Volume,
                ResourceType::NetworkInterface,
            ] {
                request = request.tag_specifications(specification(kind, &tags));
            }
            match request.send().await {
                Err(error) if code(&error) != WOULD_SUCCEED => {
                    let error = provider_error("ec2:RunInstances", &error);
                    let same_elsewhere =
                        matches!(error, ProviderError::Denied(_) | ProviderError::Throttled(_));
                    first.get_or_insert(error);
                    if same_elsewhere {
                        break;
                    }
                }
                // One subnet is enough.
                _ => return Ok(()),
            }
        }
        first.map_or(Ok(()), |error| Err(refused("RunInstances", &error)))
    }
}

fn template_is_gone(error: &ProviderError) -> bool {
    error
        .to_string()
        .contains("InvalidLaunchTemplateName.NotFoundException")
}

/// Only a missing right is a finding; anything else may pass by itself.
fn refused(action: &str, error: &ProviderError) -> Failure {
    match error {
        ProviderError::Denied(message) => Failure {
            certain: true,
            reason: format!("{action}AuthCheckFailed"),
            message: format!("Controller isn't authorized to call ec2:{action}: {message}"),
        },
        other => Failure::from(other).uncertain(),
    }
}

/// A type that the class's pools may buy, so that policies which restrict types are asked about one that matters: the
/// cheapest that is no exotic one.
fn type_to_try<'a>(types: &'a [ResolvedType], pools: &[Arc<NodePool>]) -> Option<&'a ResolvedType> {
    // A custom label is the machine's only later.
    let wanted = |pool: &Arc<NodePool>| -> Vec<Requirement> {
        let all = pool.spec.template.spec.requirements.iter().map(typed_requirement);
        all.filter(|r| labels::is_well_known(&r.key) && &*r.key != labels::CAPACITY_TYPE)
            .collect()
    };
    let wanted: Vec<_> = pools.iter().map(wanted).collect();
    let cheapest = types
        .iter()
        .filter_map(|type_| {
            let offerings = type_.instance_type.offerings.iter().filter(|offering| {
                let has = machine_labels(&type_.instance_type, offering);
                wanted.iter().any(|requirements| labels_match(&has, requirements))
            });
            let price = offerings.map(|o| o.price).min()?;
            Some((is_exotic(type_), price, type_))
        })
        .min_by(|a, b| (a.0, a.1, &a.2.instance_type.name).cmp(&(b.0, b.1, &b.2.instance_type.name)));
    let named = |name: &&str| types.iter().find(|t| *t.instance_type.name == **name);
    cheapest
        .map(|(_, _, type_)| type_)
        .or_else(|| USUAL.iter().find_map(named))
        .or(types.first())
}

/// Dedicated if all pools want it.
fn tenancy_of(pools: &[Arc<NodePool>]) -> Tenancy {
    let wanted = pools.iter().map(|pool| {
        let requirements = &pool.spec.template.spec.requirements;
        let all: Vec<Requirement> = requirements.iter().map(typed_requirement).collect();
        Tenancy::of(&all)
    });
    wanted.min().unwrap_or_default()
}

/// The pools that use a class.
pub(crate) fn pools_of<'a>(
    pools: &'a [Arc<NodePool>],
    class: &'a str,
) -> impl Iterator<Item = &'a Arc<NodePool>> {
    pools.iter().filter(move |pool| {
        let of = &pool.spec.template.spec.node_class_ref;
        of.group == GROUP && of.kind == KIND && of.name == class
    })
}

#[cfg(test)]
mod tests {
    use plimsoll_core::{
        catalog::{InstanceType, MicroDollars, Offering},
        requirement::Operator,
    };
    use serde_json::json;

    use super::*;

    fn type_(name: &str, price: i64, gpu: bool) -> ResolvedType {
        let family = name.split('.').next().unwrap();
        ResolvedType {
            instance_type: InstanceType {
                name: name.into(),
                requirements: [Requirement::new(
                    "karpenter.k8s.aws/instance-family",
                    Operator::In,
                    [family.into()],
                )]
                .into(),
                capacity: if gpu {
                    [("nvidia.com/gpu".into(), 1)].into()
                } else {
                    Default::default()
                },
                allocatable: Default::default(),
                offerings: vec![Offering {
                    zone: "a".into(),
                    capacity_type: "on-demand".into(),
                    price: MicroDollars(price),
                    available: true,
                    labels: Vec::new(),
                    reservation: None,
                    allocatable: None,
                    interruption_permille: 0,
                }],
            },
            image_id: "ami-1".into(),
            max_pods: 10,
        }
    }

    fn pool(key: &str, value: &str) -> Arc<NodePool> {
        let pool = json!({
            "metadata": { "name": "p" },
            "spec": { "template": { "spec": {
                "requirements": [
                    { "key": key, "operator": "In", "values": [value] },
                    { "key": "team", "operator": "In", "values": ["x"] },
                    { "key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot"] },
                ],
                "nodeClassRef": { "group": GROUP, "kind": KIND, "name": "default" },
            } } },
        });
        Arc::new(serde_json::from_value(pool).unwrap())
    }

    #[test]
    fn the_type_is_one_that_a_pool_may_buy() {
        let types = [
            type_("g5.xlarge", 5, true),
            type_("c5.large", 20, false),
            type_("m5.large", 30, false),
            type_("r5.large", 40, false),
        ];
        let tried =
            |pools: &[Arc<NodePool>]| type_to_try(&types, pools).map(|t| t.instance_type.name.to_string());
        assert_eq!(tried(&[]).as_deref(), Some("m5.large"), "no pool uses the class");
        let family = "karpenter.k8s.aws/instance-family";
        assert_eq!(tried(&[pool(family, "r5")]).as_deref(), Some("r5.large"));
        assert_eq!(tried(&[pool(family, "g5")]).as_deref(), Some("g5.xlarge"));
        let all = [pool(labels::ZONE, "a")];
        assert_eq!(
            tried(&all).as_deref(),
            Some("c5.large"),
            "the cheapest without devices"
        );
        assert_eq!(tried(&[pool(family, "x9")]).as_deref(), Some("m5.large"));
        assert!(type_to_try(&[], &all).is_none());
    }

    #[test]
    fn only_a_missing_right_is_certain() {
        let denied = refused("CreateFleet", &ProviderError::Denied("no".into()));
        assert!(denied.certain);
        assert_eq!(denied.reason, "CreateFleetAuthCheckFailed");
        assert_eq!(
            denied.message,
            "Controller isn't authorized to call ec2:CreateFleet: no"
        );
        for error in [
            ProviderError::Throttled("slow".into()),
            ProviderError::Transient("broken".into()),
            ProviderError::Invalid {
                reason: "InstanceProfileNameInvalid",
                message: "not there yet".into(),
            },
        ] {
            assert!(!refused("RunInstances", &error).certain, "{error}");
        }
    }
}
