//! CreateFleet: which offerings a claim's launch may take, and what the answer means.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aws_sdk_ec2::{
    operation::create_fleet::{CreateFleetOutput, builders::CreateFleetFluentBuilder},
    types::{
        CreateFleetError, DefaultTargetCapacityType, FleetLaunchTemplateConfigRequest,
        FleetLaunchTemplateOverridesRequest, FleetLaunchTemplateSpecificationRequest,
        FleetOnDemandAllocationStrategy, FleetType, OnDemandOptionsRequest, ResourceType,
        SpotAllocationStrategy, SpotOptionsRequest, TargetCapacitySpecificationRequest,
    },
};
use plimsoll_api::{labels, nodeclaim::NodeClaim};
use plimsoll_core::catalog::{MicroDollars, Offering};
use plimsoll_provider::{LaunchRequest, ProviderError, offers};

use crate::{
    catalogue::ResolvedType,
    launch_template,
    tags::{self, Tags},
};

/// Interfaces for machines that work as one.
pub(crate) const EFA: &str = "vpc.amazonaws.com/efa";
/// Most types one request names, as upstream: more would only make it slower.
const TYPES_MAX: usize = 60;
/// Devices that make a machine too dear for pods that did not ask for them.
const EXOTIC: &[&str] = &[
    "nvidia.com/gpu",
    "amd.com/gpu",
    "habana.ai/gaudi",
    "aws.amazon.com/neuron",
];

/// How a machine is paid for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bought {
    Spot,
    OnDemand,
    /// In the capacity reservation of this id.
    Reserved(String),
}

impl Bought {
    /// Value of the label.
    pub(crate) fn capacity_type(&self) -> &'static str {
        match self {
            Self::Spot => labels::CAPACITY_SPOT,
            Self::OnDemand => labels::CAPACITY_ON_DEMAND,
            Self::Reserved(_) => labels::CAPACITY_RESERVED,
        }
    }

    /// Whether an offering is for this.
    pub(crate) fn is(&self, offering: &Offering) -> bool {
        let reservation = offering.reservation.as_ref().map(|r| &*r.id);
        *offering.capacity_type == *self.capacity_type()
            && match self {
                Self::Reserved(id) => reservation == Some(id.as_str()),
                Self::Spot | Self::OnDemand => true,
            }
    }
}

/// One type in one zone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer<'a> {
    pub(crate) type_: &'a ResolvedType,
    pub(crate) offering: &'a Offering,
}

impl Offer<'_> {
    fn name(&self) -> &str {
        &self.type_.instance_type.name
    }

    fn bought(&self) -> Bought {
        match &self.offering.reservation {
            Some(reservation) => Bought::Reserved(reservation.id.to_string()),
            None if &*self.offering.capacity_type == labels::CAPACITY_SPOT => Bought::Spot,
            None => Bought::OnDemand,
        }
    }
}

/// What a launch may take: one capacity type, cheapest first.
#[derive(Debug)]
pub(crate) struct Candidates<'a> {
    /// Label value.
    pub(crate) capacity_type: &'static str,
    pub(crate) offers: Vec<Offer<'a>>,
}

/// One type in one zone, with what its launch needs and nothing more: dozens of launches wait for EC2 at once, and the
/// types of a class are megabytes.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    pub(crate) type_: Arc<str>,
    pub(crate) zone: Arc<str>,
    pub(crate) price: MicroDollars,
    pub(crate) bought: Bought,
    pub(crate) image_id: String,
    pub(crate) max_pods: i64,
    /// Interfaces of the type, whether they are asked for or not.
    pub(crate) efa_interfaces: i64,
}

impl From<&Offer<'_>> for Chosen {
    fn from(offer: &Offer<'_>) -> Self {
        let type_ = &offer.type_.instance_type;
        Self {
            type_: type_.name.clone(),
            zone: offer.offering.zone.clone(),
            price: offer.offering.price,
            bought: offer.bought(),
            image_id: offer.type_.image_id.clone(),
            max_pods: offer.type_.max_pods,
            efa_interfaces: type_.capacity.get(EFA).copied().unwrap_or(0),
        }
    }
}

/// Chooses among the types of a class. What is reserved is paid for already and comes first, then spot, then on demand;
/// no exotic machine that is not needed, no spot machine dearer than one on demand, and at most [`TYPES_MAX`] types, the
/// cheapest.
pub(crate) fn candidates<'a>(
    types: &'a [ResolvedType],
    request: &LaunchRequest,
) -> Result<Candidates<'a>, ProviderError> {
    let none = |why: &str| Err(ProviderError::InsufficientCapacity(why.to_owned()));
    let by_name: BTreeMap<&str, &ResolvedType> = types.iter().map(|t| (&*t.instance_type.name, t)).collect();
    let allowed = offers(types.iter().map(|t| &t.instance_type), request);
    let mut all: Vec<Offer<'a>> = allowed
        .into_iter()
        .filter_map(|(instance_type, offering)| {
            let type_ = by_name.get(&*instance_type.name).copied()?;
            Some(Offer { type_, offering })
        })
        .collect();
    if all.is_empty() {
        return none("no offering that the claim allows is available now");
    }
    let flexible = request.requirements.iter().any(|r| r.min_values.is_some());
    if !flexible {
        let plain: Vec<_> = all.iter().filter(|o| !is_exotic(o.type_)).copied().collect();
        if !plain.is_empty() {
            all = plain;
        }
    }
    let reserved = of_most_left(&all);
    if !reserved.is_empty() {
        return limited(labels::CAPACITY_RESERVED, reserved, request);
    }
    let is_spot = |o: &Offer<'_>| &*o.offering.capacity_type == labels::CAPACITY_SPOT;
    let spot = all.iter().any(is_spot);
    let cheapest_on_demand = all.iter().filter(|o| !is_spot(o)).map(|o| o.offering.price).min();
    let worth_it: Vec<_> = all
        .iter()
        .filter(|o| is_spot(o) == spot)
        .filter(|o| flexible || !spot || cheapest_on_demand.is_none_or(|most| o.offering.price <= most))
        .copied()
        .collect();
    // Every spot offering is dearer than one on demand.
    if worth_it.is_empty() {
        let on_demand = all.into_iter().filter(|o| !is_spot(o)).collect();
        return limited(labels::CAPACITY_ON_DEMAND, on_demand, request);
    }
    let capacity_type = if spot {
        labels::CAPACITY_SPOT
    } else {
        labels::CAPACITY_ON_DEMAND
    };
    limited(capacity_type, worth_it, request)
}

/// The reserved offers; of several for one type in one zone the one with most machines left.
fn of_most_left<'a>(all: &[Offer<'a>]) -> Vec<Offer<'a>> {
    let mut best: BTreeMap<(&str, &str), (u32, Offer<'a>)> = BTreeMap::new();
    for offer in all {
        let Some(reservation) = &offer.offering.reservation else {
            continue;
        };
        let place = (&*offer.type_.instance_type.name, &*offer.offering.zone);
        if best
            .get(&place)
            .is_none_or(|(most, _)| reservation.remaining > *most)
        {
            best.insert(place, (reservation.remaining, *offer));
        }
    }
    best.into_values().map(|(_, offer)| offer).collect()
}

/// The cheapest, within the limits of one request.
fn limited<'a>(
    capacity_type: &'static str,
    mut chosen: Vec<Offer<'a>>,
    request: &LaunchRequest,
) -> Result<Candidates<'a>, ProviderError> {
    chosen.sort_by(|a, b| {
        let key = |o: &Offer<'_>| {
            (
                o.offering.price,
                o.type_.instance_type.name.clone(),
                o.offering.zone.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
    let mut kept = BTreeSet::new();
    chosen.retain(|o| {
        if kept.len() < TYPES_MAX {
            kept.insert(o.name().to_owned());
        }
        kept.contains(o.name())
    });
    let relaxed = annotation(&request.claim, labels::MIN_VALUES_RELAXED) == Some("true");
    if !relaxed && let Some(key) = too_few_values(&chosen, request) {
        return Err(ProviderError::InsufficientCapacity(format!(
            "minValues of {key} cannot be met with what is available"
        )));
    }
    Ok(Candidates {
        capacity_type,
        offers: chosen,
    })
}

fn annotation<'a>(claim: &'a NodeClaim, key: &str) -> Option<&'a str> {
    claim.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

pub(crate) fn is_exotic(type_: &ResolvedType) -> bool {
    let metal = type_
        .instance_type
        .name
        .split_once('.')
        .is_some_and(|(_, size)| size.contains("metal"));
    metal
        || EXOTIC
            .iter()
            .any(|d| type_.instance_type.capacity.contains_key(*d))
}

/// The first key for which fewer different values are left than its `minValues`.
fn too_few_values(offers: &[Offer<'_>], request: &LaunchRequest) -> Option<String> {
    let flexible = request.requirements.iter().filter(|r| r.min_values.is_some());
    flexible
        .filter(|wanted| {
            let values: BTreeSet<_> = offers
                .iter()
                .filter_map(|o| {
                    plimsoll_provider::machine_labels(&o.type_.instance_type, o.offering)
                        .get(&wanted.key)
                        .cloned()
                })
                .collect();
            (values.len() as u32) < wanted.min_values.unwrap_or(0)
        })
        .map(|wanted| wanted.key.to_string())
        .next()
}

/// Where one offer goes: its launch template and subnet.
#[derive(Clone, Debug)]
pub(crate) struct Override {
    pub(crate) template: String,
    pub(crate) type_: String,
    pub(crate) image_id: String,
    pub(crate) zone: String,
    pub(crate) subnet_id: String,
    /// Dollars per hour; EC2 takes it as the priority.
    pub(crate) price: f64,
    pub(crate) bought: Bought,
    /// Addresses that a machine of this type may take.
    pub(crate) max_pods: i64,
}

/// The request for one machine.
#[derive(Debug)]
pub(crate) struct FleetRequest {
    pub(crate) token: String,
    pub(crate) spot: bool,
    pub(crate) overrides: Vec<Override>,
    pub(crate) tags: Tags,
    /// `spec.context` of the class.
    pub(crate) context: Option<String>,
}

impl FleetRequest {
    pub(crate) fn templates(&self) -> BTreeSet<&String> {
        self.overrides.iter().map(|o| &o.template).collect()
    }

    pub(crate) async fn send(
        &self,
        ec2: &aws_sdk_ec2::Client,
    ) -> Result<
        CreateFleetOutput,
        aws_sdk_ec2::error::SdkError<aws_sdk_ec2::operation::create_fleet::CreateFleetError>,
    > {
        self.request(ec2).client_token(&self.token).send().await
    }

    /// The request without its token.
    pub(crate) fn request(&self, ec2: &aws_sdk_ec2::Client) -> CreateFleetFluentBuilder {
        let capacity = if self.spot {
            DefaultTargetCapacityType::Spot
        } else {
            DefaultTargetCapacityType::OnDemand
        };
        let target = TargetCapacitySpecificationRequest::builder()
            .total_target_capacity(1)
            .default_target_capacity_type(capacity)
            .build();
        let mut request = ec2
            .create_fleet()
            .r#type(FleetType::Instant)
            .target_capacity_specification(target)
            .set_launch_template_configs(Some(self.configs()))
            .set_context(self.context.clone());
        for kind in [ResourceType::Fleet, ResourceType::Instance, ResourceType::Volume] {
            request = request.tag_specifications(tags::specification(kind, &self.tags));
        }
        if self.spot {
            let strategy = SpotAllocationStrategy::PriceCapacityOptimized;
            request.spot_options(
                SpotOptionsRequest::builder()
                    .allocation_strategy(strategy)
                    .build(),
            )
        } else {
            let strategy = FleetOnDemandAllocationStrategy::LowestPrice;
            request.on_demand_options(
                OnDemandOptionsRequest::builder()
                    .allocation_strategy(strategy)
                    .build(),
            )
        }
    }

    fn configs(&self) -> Vec<FleetLaunchTemplateConfigRequest> {
        let config = |name: &String| {
            let template = FleetLaunchTemplateSpecificationRequest::builder()
                .launch_template_name(name)
                .version(launch_template::VERSION)
                .build();
            let overrides = self.overrides.iter().filter(|o| o.template == *name);
            FleetLaunchTemplateConfigRequest::builder()
                .launch_template_specification(template)
                .set_overrides(Some(overrides.map(fleet_override).collect()))
                .build()
        };
        self.templates().into_iter().map(config).collect()
    }
}

fn fleet_override(of: &Override) -> FleetLaunchTemplateOverridesRequest {
    FleetLaunchTemplateOverridesRequest::builder()
        .instance_type(of.type_.as_str().into())
        .image_id(&of.image_id)
        .subnet_id(&of.subnet_id)
        .availability_zone(&of.zone)
        .priority(of.price)
        .build()
}

/// A machine that EC2 launched. The id alone makes it one: whatever else is missing is empty.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Launched {
    pub(crate) instance_id: String,
    pub(crate) type_: String,
    pub(crate) subnet_id: String,
}

/// The machine in a fleet's answer.
pub(crate) fn launched(answer: &CreateFleetOutput) -> Option<Launched> {
    answer.instances().iter().find_map(|set| {
        let overrides = set.launch_template_and_overrides().and_then(|l| l.overrides());
        Some(Launched {
            instance_id: set.instance_ids().first()?.clone(),
            type_: set
                .instance_type()
                .or_else(|| overrides.and_then(|o| o.instance_type()))
                .map(|t| t.as_str().to_owned())
                .unwrap_or_default(),
            subnet_id: overrides
                .and_then(|o| o.subnet_id())
                .or(set.subnet_id())
                .unwrap_or_default()
                .to_owned(),
        })
    })
}

/// One refusal in a fleet's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) type_: Option<String>,
    pub(crate) subnet_id: Option<String>,
    pub(crate) zone: Option<String>,
}

pub(crate) fn refused(errors: &[CreateFleetError]) -> Vec<Refused> {
    errors
        .iter()
        .map(|error| {
            let overrides = error.launch_template_and_overrides().and_then(|l| l.overrides());
            Refused {
                code: error.error_code().unwrap_or_default().to_owned(),
                message: error.error_message().unwrap_or_default().to_owned(),
                type_: overrides
                    .and_then(|o| o.instance_type())
                    .map(|t| t.as_str().to_owned()),
                subnet_id: overrides.and_then(|o| o.subnet_id()).map(str::to_owned),
                zone: overrides.and_then(|o| o.availability_zone()).map(str::to_owned),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use plimsoll_core::{
        catalog::{InstanceType, Reservation},
        requirement::{Operator, Requirement},
        resources::{CPU, Resources},
    };

    use super::*;

    fn resolved(name: &str, cpu: i64, device: Option<&str>, prices: &[(&str, &str, i64)]) -> ResolvedType {
        let mut capacity = Resources::from([(CPU.into(), cpu)]);
        capacity.extend(device.map(|d| (d.into(), 1)));
        let offering = |(zone, capacity_type, price): &(&str, &str, i64)| Offering {
            zone: (*zone).into(),
            capacity_type: (*capacity_type).into(),
            price: MicroDollars(*price),
            available: true,
            labels: Vec::new(),
            reservation: None,
            allocatable: None,
            interruption_permille: 0,
        };
        ResolvedType {
            instance_type: InstanceType {
                name: name.into(),
                requirements: [Requirement::new(
                    labels::INSTANCE_TYPE,
                    Operator::In,
                    [Arc::from(name)],
                )]
                .into(),
                allocatable: capacity.clone(),
                capacity,
                offerings: prices.iter().map(offering).collect(),
            },
            image_id: "ami-1".into(),
            max_pods: 10,
        }
    }

    fn request(requirements: Vec<Requirement>) -> LaunchRequest {
        LaunchRequest {
            claim: Arc::new(NodeClaim::new("c", Default::default())),
            requirements,
            requests: Resources::from([(CPU.into(), 1000)]),
        }
    }

    fn shown(candidates: &Candidates<'_>) -> Vec<String> {
        let text = |o: &Offer<'_>| format!("{} {}", o.name(), o.offering.zone);
        candidates.offers.iter().map(text).collect()
    }

    #[test]
    fn spot_comes_first_unless_it_is_dearer() {
        let types = [
            resolved(
                "a.large",
                2000,
                None,
                &[("z1", "on-demand", 100), ("z1", "spot", 40), ("z2", "spot", 120)],
            ),
            resolved(
                "b.large",
                2000,
                None,
                &[("z1", "on-demand", 90), ("z1", "spot", 35)],
            ),
        ];
        let chosen = candidates(&types, &request(vec![])).unwrap();
        assert_eq!(chosen.capacity_type, "spot");
        assert_eq!(
            shown(&chosen),
            ["b.large z1", "a.large z1"],
            "z2 is dearer than on demand"
        );
        let on_demand = Requirement::new(labels::CAPACITY_TYPE, Operator::In, ["on-demand".into()]);
        let chosen = candidates(&types, &request(vec![on_demand])).unwrap();
        assert_eq!(chosen.capacity_type, "on-demand");
        assert_eq!(shown(&chosen), ["b.large z1", "a.large z1"]);
        let dear = [resolved(
            "a.large",
            2000,
            None,
            &[("z1", "on-demand", 100), ("z1", "spot", 140)],
        )];
        let chosen = candidates(&dear, &request(vec![])).unwrap();
        assert_eq!(chosen.capacity_type, "on-demand", "no spot offering is worth it");
    }

    #[test]
    fn what_is_reserved_comes_first_and_most_of_it() {
        let mut type_ = resolved(
            "a.large",
            2000,
            None,
            &[("z1", "spot", 1), ("z1", "on-demand", 100)],
        );
        for (id, remaining, available) in [("cr-1", 1, true), ("cr-2", 3, true), ("cr-3", 9, false)] {
            let mut offering = type_.instance_type.offerings[1].clone();
            offering.capacity_type = "reserved".into();
            offering.price = MicroDollars(0);
            offering.available = available;
            offering.reservation = Some(Reservation {
                id: id.into(),
                remaining,
            });
            type_.instance_type.offerings.push(offering);
        }
        let types = [type_];
        let chosen = candidates(&types, &request(vec![])).unwrap();
        assert_eq!(chosen.capacity_type, "reserved");
        let bought: Vec<_> = chosen.offers.iter().map(Offer::bought).collect();
        assert_eq!(bought, [Bought::Reserved("cr-2".into())]);
        let not_reserved = Requirement::new(labels::CAPACITY_TYPE, Operator::NotIn, ["reserved".into()]);
        let chosen = candidates(&types, &request(vec![not_reserved])).unwrap();
        assert_eq!(chosen.capacity_type, "spot");
    }

    #[test]
    fn exotic_machines_are_taken_only_when_nothing_else_is_left() {
        let types = [
            resolved(
                "g.xlarge",
                4000,
                Some("nvidia.com/gpu"),
                &[("z1", "on-demand", 50)],
            ),
            resolved("m.metal", 4000, None, &[("z1", "on-demand", 60)]),
            resolved("m.large", 2000, None, &[("z1", "on-demand", 100)]),
        ];
        let chosen = candidates(&types, &request(vec![])).unwrap();
        assert_eq!(shown(&chosen), ["m.large z1"]);
        let chosen = candidates(&types[..2], &request(vec![])).unwrap();
        assert_eq!(shown(&chosen), ["g.xlarge z1", "m.metal z1"]);
    }

    #[test]
    fn at_most_sixty_types_the_cheapest() {
        let types: Vec<_> = (0..80)
            .map(|n| {
                resolved(
                    &format!("t{n:02}.large"),
                    2000,
                    None,
                    &[("z1", "on-demand", 1000 - n), ("z2", "on-demand", 2000)],
                )
            })
            .collect();
        let chosen = candidates(&types, &request(vec![])).unwrap();
        let names: BTreeSet<_> = chosen.offers.iter().map(Offer::name).collect();
        assert_eq!(names.len(), TYPES_MAX);
        assert_eq!(chosen.offers[0].name(), "t79.large");
        assert_eq!(chosen.offers.len(), 2 * TYPES_MAX, "each in both zones");
    }

    #[test]
    fn min_values_must_be_met_unless_they_were_relaxed() {
        let types = [
            resolved("a.large", 2000, None, &[("z1", "on-demand", 100)]),
            resolved("b.large", 2000, None, &[("z1", "on-demand", 100)]),
        ];
        let names = ["a.large", "b.large"].map(Arc::from);
        let at_least = |n| Requirement {
            min_values: Some(n),
            ..Requirement::new(labels::INSTANCE_TYPE, Operator::In, names.clone())
        };
        assert!(candidates(&types, &request(vec![at_least(2)])).is_ok());
        let error = candidates(&types, &request(vec![at_least(3)])).unwrap_err();
        assert!(
            matches!(&error, ProviderError::InsufficientCapacity(why) if why.contains("minValues")),
            "{error}"
        );
        let mut relaxed = request(vec![at_least(3)]);
        let mut claim = NodeClaim::clone(&relaxed.claim);
        let mark = (labels::MIN_VALUES_RELAXED.to_owned(), "true".to_owned());
        claim.metadata.annotations = Some([mark].into());
        relaxed.claim = Arc::new(claim);
        assert!(candidates(&types, &relaxed).is_ok());
    }

    #[test]
    fn what_does_not_fit_or_is_refused_is_no_candidate() {
        let small = [resolved("a.small", 500, None, &[("z1", "on-demand", 100)])];
        assert!(candidates(&small, &request(vec![])).is_err());
        let mut refused = resolved("a.large", 2000, None, &[("z1", "on-demand", 100)]);
        refused.instance_type.offerings[0].available = false;
        assert!(candidates(&[refused], &request(vec![])).is_err());
    }

    #[test]
    fn overrides_are_grouped_by_template() {
        let of = |template: &str, type_: &str| Override {
            template: template.into(),
            type_: type_.into(),
            image_id: "ami-1".into(),
            zone: "z1".into(),
            subnet_id: "subnet-1".into(),
            price: 0.1,
            bought: Bought::OnDemand,
            max_pods: 10,
        };
        let request = FleetRequest {
            token: "t".into(),
            spot: false,
            overrides: vec![
                of("lt-b", "m5.large"),
                of("lt-a", "c5.large"),
                of("lt-b", "m5.xlarge"),
            ],
            tags: Tags::new(),
            context: None,
        };
        let shown: Vec<_> = request
            .configs()
            .iter()
            .map(|c| {
                let template = c.launch_template_specification().unwrap();
                assert_eq!(template.version(), Some("1"), "never what another may have added");
                (
                    template.launch_template_name().unwrap().to_owned(),
                    c.overrides().len(),
                )
            })
            .collect();
        assert_eq!(shown, [("lt-a".to_owned(), 1), ("lt-b".to_owned(), 2)]);
    }
}
