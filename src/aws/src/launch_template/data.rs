//! The content of a launch template, and how EC2 wants it.

use aws_sdk_ec2::types as ec2;
use plimsoll_api::ec2nodeclass::{
    AMIFamily, BlockDevice, BlockDeviceMapping, EC2NodeClassSpec, InterfaceType, NetworkInterface,
};
use plimsoll_core::resources::{EPHEMERAL_STORAGE, amount};
use serde::Serialize;

use crate::{
    catalogue::Tenancy,
    tags::{self, Tags},
};

const GIB: i64 = 1 << 30;

/// All that decides about a machine apart from its type and zone. Its hash is the template's name, so nothing may be
/// in here that differs between equal launches.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Content {
    pub(crate) image_id: String,
    pub(crate) instance_profile: String,
    /// Before base64.
    pub(crate) user_data: String,
    pub(crate) security_groups: Vec<String>,
    pub(crate) tags: Tags,
    pub(crate) spot: bool,
    /// Interfaces for EFA, when pods asked for them.
    pub(crate) efa_interfaces: i64,
    pub(crate) ipv6: bool,
    pub(crate) tenancy: Tenancy,
    /// The capacity reservation to launch into.
    pub(crate) reservation: Option<String>,
    pub(crate) class: EC2NodeClassSpec,
}

impl Content {
    pub(crate) fn request_data(&self) -> ec2::RequestLaunchTemplateData {
        let class = &self.class;
        let mut builder = ec2::RequestLaunchTemplateData::builder()
            .image_id(&self.image_id)
            .iam_instance_profile(
                ec2::LaunchTemplateIamInstanceProfileSpecificationRequest::builder()
                    .name(&self.instance_profile)
                    .build(),
            )
            .user_data(aws_smithy_types::base64::encode(&self.user_data))
            .metadata_options(metadata_options(class))
            .set_network_interfaces(Some(self.network_interfaces()))
            .set_block_device_mappings(block_devices(class))
            .tag_specifications(self.tag_specification(ec2::ResourceType::NetworkInterface));
        if self.spot {
            builder =
                builder.tag_specifications(self.tag_specification(ec2::ResourceType::SpotInstancesRequest));
        }
        if self.tenancy == Tenancy::Dedicated {
            let placement = ec2::LaunchTemplatePlacementRequest::builder();
            builder = builder.placement(placement.tenancy(ec2::Tenancy::Dedicated).build());
        }
        if let Some(reserving) = self.reserving() {
            builder = builder.capacity_reservation_specification(reserving);
        }
        if class.detailed_monitoring == Some(true) {
            builder = builder.monitoring(
                ec2::LaunchTemplatesMonitoringRequest::builder()
                    .enabled(true)
                    .build(),
            );
        }
        if let Some(nested) = class.cpu_options.as_ref().and_then(|c| c.nested_virtualization) {
            builder = builder.cpu_options(
                ec2::LaunchTemplateCpuOptionsRequest::builder()
                    .nested_virtualization(nested.as_str().into())
                    .build(),
            );
        }
        builder.build()
    }

    /// Into the reservation that was chosen, or into none: a class that names its reservations counts what is left of them.
    /// Any other class leaves it to EC2, which fills open reservations.
    fn reserving(&self) -> Option<ec2::LaunchTemplateCapacityReservationSpecificationRequest> {
        let specification = ec2::LaunchTemplateCapacityReservationSpecificationRequest::builder();
        if let Some(id) = &self.reservation {
            let target = ec2::CapacityReservationTarget::builder().capacity_reservation_id(id);
            return Some(
                specification
                    .capacity_reservation_preference(
                        ec2::CapacityReservationPreference::CapacityReservationsOnly,
                    )
                    .capacity_reservation_target(target.build())
                    .build(),
            );
        }
        let terms = self.class.capacity_reservation_selector_terms.as_deref();
        terms.is_some_and(|terms| !terms.is_empty()).then(|| {
            specification
                .capacity_reservation_preference(ec2::CapacityReservationPreference::None)
                .build()
        })
    }

    fn tag_specification(&self, kind: ec2::ResourceType) -> ec2::LaunchTemplateTagSpecificationRequest {
        ec2::LaunchTemplateTagSpecificationRequest::builder()
            .resource_type(kind)
            .set_tags(Some(tags::ec2_tags(&self.tags)))
            .build()
    }

    /// Card, device and kind of each interface: as the class lists them; else as many as EFA was asked for; else one.
    fn interfaces(&self) -> Vec<(i32, i32, Option<&'static str>)> {
        match self.class.network_interfaces.as_deref() {
            Some(listed) if !listed.is_empty() => {
                let of_class = |n: &NetworkInterface| {
                    let kind = match n.interface_type {
                        InterfaceType::Interface => "interface",
                        InterfaceType::EfaOnly => "efa-only",
                    };
                    (n.network_card_index, n.device_index, Some(kind))
                };
                listed.iter().map(of_class).collect()
            }
            _ if self.efa_interfaces > 0 => (0..self.efa_interfaces as i32)
                .map(|card| (card, i32::from(card > 0), Some("efa")))
                .collect(),
            _ => vec![(0, 0, None)],
        }
    }

    fn network_interfaces(&self) -> Vec<ec2::LaunchTemplateInstanceNetworkInterfaceSpecificationRequest> {
        let all = self.interfaces().into_iter();
        all.map(|(card, device, kind)| self.network_interface(card, device, kind))
            .collect()
    }

    /// The template's interfaces in a subnet, for a request without a fleet: that names a subnet for each interface, and
    /// what it does not name has none.
    pub(crate) fn interfaces_in(&self, subnet_id: &str) -> Vec<ec2::InstanceNetworkInterfaceSpecification> {
        let in_subnet = |(card, device, kind): (i32, i32, Option<&str>)| {
            ec2::InstanceNetworkInterfaceSpecification::builder()
                .network_card_index(card)
                .device_index(device)
                .set_interface_type(kind.map(str::to_owned))
                .subnet_id(subnet_id)
                .set_groups(Some(self.security_groups.clone()))
                .build()
        };
        self.interfaces().into_iter().map(in_subnet).collect()
    }

    fn network_interface(
        &self,
        card: i32,
        device: i32,
        kind: Option<&str>,
    ) -> ec2::LaunchTemplateInstanceNetworkInterfaceSpecificationRequest {
        let class = &self.class;
        let mut builder = ec2::LaunchTemplateInstanceNetworkInterfaceSpecificationRequest::builder()
            .device_index(device)
            .network_card_index(card)
            .set_interface_type(kind.map(str::to_owned))
            .set_groups(Some(self.security_groups.clone()));
        // An interface without IP traffic has no addresses and no connections.
        if kind == Some("efa-only") {
            return builder.build();
        }
        builder = builder.set_associate_public_ip_address(class.associate_public_ip_address);
        if card == 0 && device == 0 {
            builder = if self.ipv6 {
                let builder = builder.primary_ipv6(true).ipv6_address_count(1);
                builder.set_ipv6_prefix_count(class.ip_prefix_count)
            } else {
                builder.set_ipv4_prefix_count(class.ip_prefix_count)
            };
        }
        if let Some(tracking) = &class.connection_tracking {
            builder = builder.connection_tracking_specification(
                ec2::ConnectionTrackingSpecificationRequest::builder()
                    .set_tcp_established_timeout(tracking.tcp_established_timeout)
                    .set_udp_stream_timeout(tracking.udp_stream_timeout)
                    .set_udp_timeout(tracking.udp_timeout)
                    .build(),
            );
        }
        builder.build()
    }
}

fn metadata_options(class: &EC2NodeClassSpec) -> ec2::LaunchTemplateInstanceMetadataOptionsRequest {
    let options = &class.metadata_options;
    let tokens = match options.http_tokens {
        plimsoll_api::ec2nodeclass::HTTPTokens::Required => ec2::LaunchTemplateHttpTokensState::Required,
        plimsoll_api::ec2nodeclass::HTTPTokens::Optional => ec2::LaunchTemplateHttpTokensState::Optional,
    };
    ec2::LaunchTemplateInstanceMetadataOptionsRequest::builder()
        .http_endpoint(options.http_endpoint.as_str().into())
        .http_protocol_ipv6(options.http_protocol_ipv6.as_str().into())
        .http_put_response_hop_limit(i32::try_from(options.http_put_response_hop_limit).unwrap_or(i32::MAX))
        .http_tokens(tokens)
        .instance_metadata_tags(ec2::LaunchTemplateInstanceMetadataTagsState::Disabled)
        .build()
}

/// The class's disks, else the family's; None leaves them to the image.
fn block_devices(class: &EC2NodeClassSpec) -> Option<Vec<ec2::LaunchTemplateBlockDeviceMappingRequest>> {
    if let Some(mappings) = &class.block_device_mappings {
        return Some(mappings.iter().map(of_class).collect());
    }
    let disk = |device: &str, gib: i32| {
        ec2::LaunchTemplateBlockDeviceMappingRequest::builder()
            .device_name(device)
            .ebs(
                ec2::LaunchTemplateEbsBlockDeviceRequest::builder()
                    .volume_size(gib)
                    .volume_type(ec2::VolumeType::Gp3)
                    .encrypted(true)
                    .delete_on_termination(true)
                    .build(),
            )
            .build()
    };
    Some(match class.resolved_ami_family() {
        AMIFamily::AL2 | AMIFamily::AL2023 => vec![disk("/dev/xvda", 20)],
        AMIFamily::Bottlerocket => vec![disk("/dev/xvda", 4), disk("/dev/xvdb", 20)],
        AMIFamily::Windows2019 | AMIFamily::Windows2022 | AMIFamily::Windows2025 => {
            vec![disk("/dev/sda1", 50)]
        }
        AMIFamily::Custom => return None,
    })
}

fn of_class(mapping: &BlockDeviceMapping) -> ec2::LaunchTemplateBlockDeviceMappingRequest {
    ec2::LaunchTemplateBlockDeviceMappingRequest::builder()
        .set_device_name(mapping.device_name.clone())
        .set_ebs(mapping.ebs.as_ref().map(ebs))
        .build()
}

fn ebs(disk: &BlockDevice) -> ec2::LaunchTemplateEbsBlockDeviceRequest {
    let gib = disk.volume_size.as_ref().and_then(|size| {
        let bytes = amount(EPHEMERAL_STORAGE, &size.0).ok()?;
        i32::try_from((bytes + GIB - 1) / GIB).ok()
    });
    let small = |n: Option<i64>| n.and_then(|n| i32::try_from(n).ok());
    ec2::LaunchTemplateEbsBlockDeviceRequest::builder()
        .set_delete_on_termination(disk.delete_on_termination)
        .set_encrypted(disk.encrypted)
        .set_iops(small(disk.iops))
        .set_throughput(small(disk.throughput))
        .set_kms_key_id(disk.kms_key_id.clone())
        .set_snapshot_id(disk.snapshot_id.clone())
        .set_volume_initialization_rate(disk.volume_initialization_rate)
        .set_volume_size(gib)
        .set_volume_type(disk.volume_type.map(|t| t.as_str().into()))
        .build()
}

#[cfg(test)]
pub(super) mod tests {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use plimsoll_api::ec2nodeclass::{CPUOptions, ConnectionTracking, Toggle, VolumeType};

    use super::*;
    use crate::launch_template::name;

    pub(in crate::launch_template) fn content(class: EC2NodeClassSpec) -> Content {
        Content {
            image_id: "ami-1".into(),
            instance_profile: "profile".into(),
            user_data: "hello".into(),
            security_groups: vec!["sg-1".into(), "sg-2".into()],
            tags: [("a".to_owned(), "b".to_owned())].into(),
            spot: true,
            efa_interfaces: 0,
            ipv6: false,
            tenancy: Tenancy::Default,
            reservation: None,
            class,
        }
    }

    #[test]
    fn a_class_that_names_reservations_uses_no_other() {
        let preference = |content: &Content| {
            let data = content.request_data();
            let found = data.capacity_reservation_specification()?;
            let target = found.capacity_reservation_target();
            Some((
                found.capacity_reservation_preference()?.as_str().to_owned(),
                target
                    .and_then(|t| t.capacity_reservation_id())
                    .map(str::to_owned),
            ))
        };
        assert_eq!(preference(&content(class())), None);
        let mut naming = class();
        naming.capacity_reservation_selector_terms = Some(vec![Default::default()]);
        let mut content = content(naming);
        assert_eq!(preference(&content), Some(("none".to_owned(), None)));
        content.reservation = Some("cr-1".into());
        let only = "capacity-reservations-only".to_owned();
        assert_eq!(preference(&content), Some((only, Some("cr-1".to_owned()))));
    }

    #[test]
    fn tenancy_is_part_of_the_template() {
        let shared = content(class());
        let dedicated = Content {
            tenancy: Tenancy::Dedicated,
            ..shared.clone()
        };
        let placement = |content: &Content| {
            let data = content.request_data();
            data.placement()
                .and_then(|p| p.tenancy())
                .map(|t| t.as_str().to_owned())
        };
        assert_eq!(placement(&shared), None);
        assert_eq!(placement(&dedicated).as_deref(), Some("dedicated"));
        assert_ne!(name(&shared), name(&dedicated));
    }

    fn class() -> EC2NodeClassSpec {
        EC2NodeClassSpec {
            ami_family: Some(AMIFamily::AL2023),
            ..EC2NodeClassSpec::default()
        }
    }

    #[test]
    fn a_plain_class_gets_the_familys_defaults() {
        let data = content(class()).request_data();
        assert_eq!(data.user_data(), Some("aGVsbG8="));
        let disks = data.block_device_mappings();
        assert_eq!(disks.len(), 1);
        let ebs = disks[0].ebs().unwrap();
        assert_eq!(
            (disks[0].device_name(), ebs.volume_size()),
            (Some("/dev/xvda"), Some(20))
        );
        assert_eq!(ebs.encrypted(), Some(true));
        let metadata = data.metadata_options().unwrap();
        assert_eq!(metadata.http_tokens().unwrap().as_str(), "required");
        assert_eq!(metadata.http_put_response_hop_limit(), Some(1));
        let interfaces = data.network_interfaces();
        assert_eq!(interfaces.len(), 1);
        assert_eq!(interfaces[0].groups(), ["sg-1", "sg-2"]);
        let kinds: Vec<_> = data
            .tag_specifications()
            .iter()
            .filter_map(|t| t.resource_type())
            .map(|t| t.as_str().to_owned())
            .collect();
        assert_eq!(kinds, ["network-interface", "spot-instances-request"]);
    }

    #[test]
    fn a_class_decides_about_disks_and_network() {
        let full = EC2NodeClassSpec {
            block_device_mappings: Some(vec![BlockDeviceMapping {
                device_name: Some("/dev/xvda".into()),
                ebs: Some(BlockDevice {
                    volume_size: Some(Quantity("100G".into())),
                    volume_type: Some(VolumeType::Io2),
                    iops: Some(4000),
                    ..BlockDevice::default()
                }),
                root_volume: true,
            }]),
            associate_public_ip_address: Some(false),
            ip_prefix_count: Some(2),
            detailed_monitoring: Some(true),
            connection_tracking: Some(ConnectionTracking {
                udp_timeout: Some(45),
                ..ConnectionTracking::default()
            }),
            cpu_options: Some(CPUOptions {
                nested_virtualization: Some(Toggle::Enabled),
            }),
            ..class()
        };
        let data = content(full).request_data();
        let ebs = data.block_device_mappings()[0].ebs().unwrap();
        assert_eq!(ebs.volume_size(), Some(94), "100 GB are 93.1 GiB, rounded up");
        assert_eq!(
            (ebs.iops(), ebs.volume_type().unwrap().as_str()),
            (Some(4000), "io2")
        );
        let interface = &data.network_interfaces()[0];
        assert_eq!(interface.associate_public_ip_address(), Some(false));
        assert_eq!(interface.ipv4_prefix_count(), Some(2));
        assert_eq!(
            interface
                .connection_tracking_specification()
                .unwrap()
                .udp_timeout(),
            Some(45)
        );
        assert_eq!(data.monitoring().unwrap().enabled(), Some(true));
        assert!(data.cpu_options().is_some());
    }

    #[test]
    fn a_trial_names_every_interface_of_the_template() {
        let place = |card, device, interface_type| NetworkInterface {
            network_card_index: card,
            device_index: device,
            interface_type,
        };
        let listed = EC2NodeClassSpec {
            network_interfaces: Some(vec![
                place(0, 0, InterfaceType::Interface),
                place(1, 1, InterfaceType::EfaOnly),
            ]),
            ..class()
        };
        for (content, expected) in [
            (content(class()), vec![(0, 0, None)]),
            (
                content(listed),
                vec![(0, 0, Some("interface")), (1, 1, Some("efa-only"))],
            ),
        ] {
            let trial = content.interfaces_in("subnet-1");
            let places: Vec<_> = trial
                .iter()
                .map(|n| {
                    assert_eq!(
                        (n.subnet_id(), n.groups()),
                        (Some("subnet-1"), &content.security_groups[..])
                    );
                    let place = (n.network_card_index(), n.device_index());
                    (place.0.unwrap(), place.1.unwrap(), n.interface_type())
                })
                .collect();
            assert_eq!(places, expected);
            let template = content.request_data();
            let of_template = template.network_interfaces().iter();
            let of_template = of_template.map(|n| (n.network_card_index(), n.device_index()));
            let of_trial = trial.iter().map(|n| (n.network_card_index(), n.device_index()));
            assert!(of_template.eq(of_trial));
        }
    }

    #[test]
    fn efa_takes_an_interface_on_each_card() {
        let asked = Content {
            efa_interfaces: 3,
            ..content(class())
        };
        let places: Vec<_> = asked
            .request_data()
            .network_interfaces()
            .iter()
            .map(|n| {
                (
                    n.network_card_index(),
                    n.device_index(),
                    n.interface_type().map(str::to_owned),
                )
            })
            .collect();
        let efa = || Some("efa".to_owned());
        assert_eq!(
            places,
            [
                (Some(0), Some(0), efa()),
                (Some(1), Some(1), efa()),
                (Some(2), Some(1), efa())
            ]
        );
    }

    #[test]
    fn equal_content_has_one_name_and_any_difference_another() {
        let plain = name(&content(class()));
        assert_eq!(plain, name(&content(class())));
        assert!(
            plain.starts_with("karpenter.k8s.aws/") && plain.len() <= 128,
            "{plain}"
        );
        let changes: [fn(&mut Content); 6] = [
            |c| c.image_id = "ami-2".into(),
            |c| c.user_data.push('!'),
            |c| c.spot = false,
            |c| drop(c.security_groups.pop()),
            |c| drop(c.tags.insert("x".into(), "y".into())),
            |c| c.class.detailed_monitoring = Some(true),
        ];
        for change in changes {
            let mut other = content(class());
            change(&mut other);
            assert_ne!(name(&other), plain, "{other:?}");
        }
    }
}
