//! What one EC2NodeClass can buy now: each type's shape, labels and offerings, and the image it starts from.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeSelectorRequirement;
use plimsoll_api::{
    ec2nodeclass::{AMI, CapacityReservation, CapacityReservationState, EC2NodeClass, EC2NodeClassStatus},
    labels,
};
use plimsoll_core::{
    catalog::{InstanceType, MicroDollars, Offering, Reservation},
    requirement::Requirement,
};
use plimsoll_state::requirement;

use super::{
    labels::Words,
    learned::Learned,
    prices::Prices,
    shape::{self, Density, shape},
    tenancy::Tenancy,
    types::{Region, TypeInfo},
};
use crate::{nodeclass::is_supported, unavailable::Unavailable};

const RESERVATION_ID: &str = "karpenter.k8s.aws/capacity-reservation-id";
const RESERVATION_TYPE: &str = "karpenter.k8s.aws/capacity-reservation-type";
const RESERVATION_INTERRUPTIBLE: &str = "karpenter.k8s.aws/capacity-reservation-interruptible";
/// What is reserved costs next to nothing, but keeps its order: prices are whole micro-dollars, so this is less than
/// upstream's ten million.
const RESERVED_PRICE_DIVISOR: i64 = 10_000;

/// A type as a class would launch it.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedType {
    pub(crate) instance_type: InstanceType,
    pub(crate) image_id: String,
    /// Told to the kubelet.
    pub(crate) max_pods: i64,
}

/// Everything that decides, apart from the class.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resolver<'a> {
    pub(crate) region: &'a Region,
    pub(crate) region_name: &'a str,
    pub(crate) prices: &'a Prices,
    pub(crate) unavailable: &'a Unavailable,
    pub(crate) learned: &'a Learned,
    /// Machines left in each capacity reservation, as far as known.
    pub(crate) reserved: &'a BTreeMap<String, u32>,
    pub(crate) density: Density,
    pub(crate) tenancy: Tenancy,
    pub(crate) now: Timestamp,
}

/// All types of a class, sorted by name.
pub(crate) type ClassTypes = Vec<ResolvedType>;

/// The types a class can launch.
pub(crate) fn class_types(resolver: Resolver<'_>, class: &EC2NodeClass, words: &mut Words) -> ClassTypes {
    let types = resolver.region.types.values();
    types
        .filter_map(|info| resolver.resolve(info, class, words))
        .collect()
}

/// The image a class starts a type from today.
pub(crate) fn image_for<'a>(
    region: &Region,
    region_name: &str,
    info: &TypeInfo,
    class: &'a EC2NodeClass,
) -> Option<&'a str> {
    // No image asks for a tenancy.
    let family = class.spec.resolved_ami_family();
    let labels = region.labels.of(info, family, Tenancy::Default, region_name);
    first_image(&labels, &class.status.as_ref()?.amis)
}

impl Resolver<'_> {
    /// None when the class can never launch this type: nothing starts on it, or no subnet is in a zone that has it.
    pub(crate) fn resolve(
        &self,
        info: &TypeInfo,
        class: &EC2NodeClass,
        words: &mut Words,
    ) -> Option<ResolvedType> {
        let status = class.status.as_ref()?;
        if shape::incompatible(info, &class.spec) {
            return None;
        }
        let image_id = image_for(self.region, self.region_name, info, class)?.to_owned();
        let family = class.spec.resolved_ami_family();
        let labels = &self.region.labels;
        let requirements = labels.of(info, family, self.tenancy, self.region_name);
        let offerings = self.offerings(info, status, words);
        if offerings.is_empty() {
            return None;
        }
        let memory = self.learned.memory(&info.name, &image_id);
        let shape = shape(info, &class.spec, self.density, memory);
        let max_pods = shape::pods(info, &class.spec, self.density);
        Some(ResolvedType {
            instance_type: InstanceType {
                name: info.name.clone(),
                requirements,
                capacity: shape.capacity,
                allocatable: shape.allocatable,
                offerings,
            },
            image_id,
            max_pods,
        })
    }

    fn offerings(&self, info: &TypeInfo, status: &EC2NodeClassStatus, words: &mut Words) -> Vec<Offering> {
        let mut all = Vec::new();
        let Some(sold_in) = self.region.zones.get(&info.name) else {
            return all;
        };
        for (zone, place) in self.places(status) {
            let Some(zone) = sold_in.get(zone) else { continue };
            let zone_id = place.zone_id.map(|id| (words.of(labels::ZONE_ID), words.of(id)));
            let offering = |capacity_type: Arc<str>, price, available| Offering {
                zone: zone.clone(),
                capacity_type,
                price,
                available: available && place.has_addresses,
                labels: zone_id.iter().cloned().collect(),
                reservation: None,
                allocatable: None,
                interruption_permille: 0,
            };
            let on_demand = self.prices.on_demand(&info.name);
            if let Some(price) = on_demand.filter(|_| info.on_demand) {
                let capacity_type = words.of(labels::CAPACITY_ON_DEMAND);
                let refused = self.unavailable.has(&info.name, zone, &capacity_type, self.now);
                all.push(offering(capacity_type, price, !refused));
            }
            for reservation in reservations_for(status, &info.name, zone) {
                let remaining = self.reserved.get(&reservation.id).copied().unwrap_or(0);
                // It is paid for whether it is used or not; dearer types still come after cheaper ones.
                let price =
                    MicroDollars(on_demand.map_or(1, |price| (price.0 / RESERVED_PRICE_DIVISOR).max(1)));
                let mut reserved = offering(words.of(labels::CAPACITY_RESERVED), price, remaining > 0);
                let id = words.of(&reservation.id);
                for (key, value) in [
                    (RESERVATION_ID, id.clone()),
                    (RESERVATION_TYPE, words.of("default")),
                    (RESERVATION_INTERRUPTIBLE, words.of("false")),
                ] {
                    reserved.labels.push((words.of(key), value));
                }
                reserved.reservation = Some(Reservation { id, remaining });
                all.push(reserved);
            }
            let spot = self.prices.spot(&info.name, zone);
            if let Some(price) = spot.filter(|_| info.spot) {
                let capacity_type = words.of(labels::CAPACITY_SPOT);
                let refused = self.unavailable.has(&info.name, zone, &capacity_type, self.now);
                all.push(offering(capacity_type, price, !refused));
            }
        }
        all
    }

    /// Zones in which the class has subnets.
    fn places<'a>(&self, status: &'a EC2NodeClassStatus) -> BTreeMap<&'a str, Place<'a>> {
        let mut places: BTreeMap<&str, Place<'_>> = BTreeMap::new();
        for subnet in &status.subnets {
            let place = places.entry(&subnet.zone).or_default();
            place.zone_id = place.zone_id.or(subnet.zone_id.as_deref());
            place.has_addresses |= !self.unavailable.has_subnet(&subnet.id, self.now);
        }
        places
    }
}

/// The reservations of a type in a zone that launches may name.
fn reservations_for<'a>(
    status: &'a EC2NodeClassStatus,
    type_: &'a str,
    zone: &'a str,
) -> impl Iterator<Item = &'a CapacityReservation> {
    status.capacity_reservations.iter().filter(move |r| {
        r.instance_type == type_
            && r.availability_zone == zone
            && r.state == CapacityReservationState::Active
            && is_supported(r)
    })
}

#[derive(Default)]
struct Place<'a> {
    zone_id: Option<&'a str>,
    has_addresses: bool,
}

/// The first image, newest first, that starts on a machine with these labels.
fn first_image<'a>(of_type: &[Requirement], images: &'a [AMI]) -> Option<&'a str> {
    let starts = |wanted: &NodeSelectorRequirement| {
        let values = wanted.values.iter().flatten();
        let Some(wanted) = requirement(&wanted.key, &wanted.operator, values) else {
            return false;
        };
        match of_type.iter().find(|r| r.key == wanted.key) {
            None => wanted.matches(None),
            Some(has) => has.values.iter().any(|value| wanted.matches(Some(value))),
        }
    };
    let image = images
        .iter()
        .find(|image| image.requirements.iter().all(starts))?;
    Some(&image.id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use plimsoll_api::ec2nodeclass::{
        AMIFamily, CapacityReservationType, EC2NodeClassSpec, InstanceMatchCriteria, Subnet,
    };

    use super::*;
    use crate::{catalogue::types::Gpu, unavailable::Refusal};

    fn image(id: &str, requirements: &[(&str, &str, &[&str])]) -> AMI {
        let requirement = |(key, operator, values): &(&str, &str, &[&str])| NodeSelectorRequirement {
            key: (*key).into(),
            operator: (*operator).into(),
            values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
        };
        AMI {
            id: id.into(),
            requirements: requirements.iter().map(requirement).collect(),
            ..AMI::default()
        }
    }

    fn class() -> EC2NodeClass {
        let subnet = |id: &str, zone: &str| Subnet {
            id: id.into(),
            zone: zone.into(),
            zone_id: Some(format!("{zone}-id")),
        };
        let gpu = "karpenter.k8s.aws/instance-gpu-count";
        let mut class = EC2NodeClass::new(
            "default",
            EC2NodeClassSpec {
                ami_family: Some(AMIFamily::AL2023),
                ..EC2NodeClassSpec::default()
            },
        );
        let reservation = |id: &str, zone: &str| CapacityReservation {
            availability_zone: zone.into(),
            end_time: None,
            id: id.into(),
            instance_match_criteria: InstanceMatchCriteria::Targeted,
            instance_type: "m5.large".into(),
            owner_id: "123456789012".into(),
            reservation_type: CapacityReservationType::Default,
            interruptible: false,
            state: CapacityReservationState::Active,
        };
        let block = CapacityReservation {
            reservation_type: CapacityReservationType::CapacityBlock,
            ..reservation("cr-3", "a")
        };
        let interruptible = CapacityReservation {
            interruptible: true,
            ..reservation("cr-4", "a")
        };
        class.status = Some(EC2NodeClassStatus {
            capacity_reservations: vec![
                reservation("cr-1", "a"),
                reservation("cr-2", "b"),
                block,
                interruptible,
            ],
            subnets: vec![subnet("s-1", "a"), subnet("s-2", "b"), subnet("s-3", "b")],
            amis: vec![
                image(
                    "ami-gpu",
                    &[(labels::ARCH, "In", &["amd64"]), (gpu, "Exists", &[])],
                ),
                image(
                    "ami-plain",
                    &[(labels::ARCH, "In", &["amd64"]), (gpu, "DoesNotExist", &[])],
                ),
            ],
            ..EC2NodeClassStatus::default()
        });
        class
    }

    fn info(name: &str, architecture: &'static str, gpus: Vec<Gpu>) -> TypeInfo {
        TypeInfo {
            name: name.into(),
            architectures: vec![architecture],
            on_demand: true,
            spot: true,
            hypervisor: "nitro".into(),
            vcpus: 2,
            memory_mib: 8192,
            default_card_interfaces: 3,
            ipv4_per_interface: 10,
            gpus,
            ..TypeInfo::default()
        }
    }

    fn region() -> Region {
        let types = [
            info("m5.large", "amd64", vec![]),
            info("g4dn.xlarge", "amd64", vec![Gpu::default()]),
            info("m6g.large", "arm64", vec![]),
            info("c5.large", "amd64", vec![]),
        ];
        let zones: BTreeSet<Arc<str>> = ["a".into(), "b".into(), "c".into()].into();
        Region {
            zones: types
                .iter()
                .filter(|t| &*t.name != "c5.large")
                .map(|t| (t.name.clone(), zones.clone()))
                .collect(),
            types: types.into_iter().map(|t| (t.name.clone(), t)).collect(),
            labels: Default::default(),
        }
    }

    fn resolved(unavailable: &Unavailable) -> ClassTypes {
        let region = region();
        let mut prices = Prices::fallback();
        prices.merge_on_demand(
            ["m5.large", "g4dn.xlarge", "m6g.large", "c5.large"]
                .map(|t| (t.into(), MicroDollars(100)))
                .into(),
            Timestamp::UNIX_EPOCH,
        );
        let spot = ("m5.large".into(), "b".into());
        prices.replace_spot(BTreeMap::from([(spot, MicroDollars(30))]), Timestamp::UNIX_EPOCH);
        let resolver = Resolver {
            region: &region,
            region_name: "us-east-1",
            prices: &prices,
            unavailable,
            learned: &Learned::default(),
            reserved: &[("cr-1".to_owned(), 2), ("cr-2".to_owned(), 0)].into(),
            density: Density {
                vm_memory_overhead_percent: 0.075,
                reserved_enis: 0,
                prefix_delegation: false,
            },
            tenancy: Tenancy::Default,
            now: Timestamp::UNIX_EPOCH,
        };
        class_types(resolver, &class(), &mut Words::default())
    }

    fn offers(types: &ClassTypes, name: &str) -> Vec<String> {
        let found = types.iter().find(|t| &*t.instance_type.name == name);
        found
            .into_iter()
            .flat_map(|t| &t.instance_type.offerings)
            .map(|o| {
                let state = if o.available { "" } else { " refused" };
                format!("{} {} {}{state}", o.zone, o.capacity_type, o.price.0)
            })
            .collect()
    }

    #[test]
    fn each_type_gets_the_image_that_starts_on_it() {
        let types = resolved(&Unavailable::default());
        let images: Vec<_> = types
            .iter()
            .map(|t| (&*t.instance_type.name, t.image_id.as_str()))
            .collect();
        // No image for arm64, and c5.large is sold nowhere.
        assert_eq!(images, [("g4dn.xlarge", "ami-gpu"), ("m5.large", "ami-plain")]);
        assert_eq!(types[1].max_pods, 29);
    }

    #[test]
    fn offerings_need_a_subnet_and_a_price() {
        let types = resolved(&Unavailable::default());
        assert_eq!(
            offers(&types, "m5.large"),
            [
                "a on-demand 100",
                "a reserved 1",
                "b on-demand 100",
                "b reserved 1 refused",
                "b spot 30"
            ]
        );
        let zone_id = &types[1].instance_type.offerings[0].labels;
        assert_eq!(zone_id, &[(labels::ZONE_ID.into(), "a-id".into())]);
        let reserved = &types[1].instance_type.offerings[1];
        let stock = Reservation {
            id: "cr-1".into(),
            remaining: 2,
        };
        assert_eq!(reserved.reservation.as_ref(), Some(&stock));
        assert!(reserved.labels.contains(&(RESERVATION_ID.into(), "cr-1".into())));
    }

    #[test]
    fn refusals_close_offerings_and_full_subnets_close_zones() {
        let now = Timestamp::UNIX_EPOCH;
        let mut unavailable = Unavailable::default();
        unavailable.offering("m5.large", "b", "spot", Refusal::Capacity, now);
        unavailable.subnet("s-1", now);
        unavailable.subnet("s-2", now);
        let types = resolved(&unavailable);
        assert_eq!(
            offers(&types, "m5.large"),
            [
                "a on-demand 100 refused",
                "a reserved 1 refused",
                "b on-demand 100",
                "b reserved 1 refused",
                "b spot 30 refused"
            ],
            "zone b has another subnet"
        );
    }
}
