use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use plimsoll_api::ec2nodeclass::{BlockDevice, BlockDeviceMapping, KubeletConfiguration, NetworkInterface};

use super::*;
use crate::catalogue::types::Gpu;

const DENSITY: Density = Density {
    vm_memory_overhead_percent: 0.075,
    reserved_enis: 0,
    prefix_delegation: false,
};

/// m5.large as EC2 describes it.
fn m5_large() -> TypeInfo {
    TypeInfo {
        name: "m5.large".into(),
        architectures: vec!["amd64"],
        on_demand: true,
        spot: true,
        hypervisor: "nitro".into(),
        vcpus: 2,
        memory_mib: 8192,
        default_card_interfaces: 3,
        card_interfaces: vec![3],
        ipv4_per_interface: 10,
        ena: true,
        ..TypeInfo::default()
    }
}

fn class(family: AMIFamily) -> EC2NodeClassSpec {
    EC2NodeClassSpec {
        ami_family: Some(family),
        ..EC2NodeClassSpec::default()
    }
}

fn strings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
}

#[test]
fn a_machine_has_what_karpenter_says() {
    let shape = shape(&m5_large(), &class(AMIFamily::AL2023), DENSITY, None);
    assert_eq!(shape.capacity[CPU], 2000);
    // 8192 Mi less ceil(8192 × 0.075 = 614.4) Mi
    assert_eq!(shape.capacity[MEMORY], (8192 - 615) * MIB);
    assert_eq!(shape.capacity[PODS], 3 * 9 + 2);
    assert_eq!(shape.capacity[EPHEMERAL_STORAGE], 20 * GIB);
    // 6 % of the first core and 1 % of the second
    assert_eq!(shape.allocatable[CPU], 2000 - 70);
    // kube-reserved 11 × 29 + 255 Mi, eviction 100 Mi
    assert_eq!(shape.allocatable[MEMORY], (8192 - 615 - 574 - 100) * MIB);
    assert_eq!(shape.allocatable[EPHEMERAL_STORAGE], 20 * GIB - GIB - 2 * GIB);
    assert_eq!(shape.allocatable[PODS], 29);
}

#[test]
fn reserved_cpu_counts_each_range_of_cores() {
    for (vcpus, expected) in [
        (1, 60),
        (2, 70),
        (4, 80),
        (8, 90),
        (16, 110),
        (64, 230),
        (96, 310),
    ] {
        let info = TypeInfo { vcpus, ..m5_large() };
        assert_eq!(kube_reserved_defaults(&info, 0)[CPU], expected, "{vcpus} vCPUs");
    }
}

#[test]
fn graviton_keeps_memory_for_firmware() {
    let info = TypeInfo {
        architectures: vec!["arm64"],
        memory_mib: 4096,
        ..m5_large()
    };
    // (4096 − 64) Mi less ceil(4032 × 0.075 = 302.4) Mi
    assert_eq!(estimated_memory(&info, 0.075), (4032 - 303) * MIB);
    assert_eq!(estimated_memory(&info, 0.0), 4032 * MIB);
}

#[test]
fn pods_follow_settings_family_and_network() {
    let with = |kubelet: KubeletConfiguration, family| EC2NodeClassSpec {
        kubelet: Some(kubelet),
        ..class(family)
    };
    let max_pods = |n| KubeletConfiguration {
        max_pods: Some(n),
        ..KubeletConfiguration::default()
    };
    let per_core = |n| KubeletConfiguration {
        pods_per_core: Some(n),
        ..KubeletConfiguration::default()
    };
    let efa_only = EC2NodeClassSpec {
        network_interfaces: Some(vec![NetworkInterface {
            network_card_index: 0,
            device_index: 1,
            interface_type: InterfaceType::EfaOnly,
        }]),
        ..class(AMIFamily::AL2023)
    };
    let reserved = Density {
        reserved_enis: 1,
        ..DENSITY
    };
    let all_reserved = Density {
        reserved_enis: 3,
        ..DENSITY
    };
    let prefixes = Density {
        prefix_delegation: true,
        ..DENSITY
    };
    let cases = [
        ("plain", class(AMIFamily::AL2023), DENSITY, 29),
        ("reserved interface", class(AMIFamily::AL2023), reserved, 20),
        ("no interface left", class(AMIFamily::AL2023), all_reserved, 0),
        ("interface without addresses", efa_only, DENSITY, 20),
        ("maxPods", with(max_pods(50), AMIFamily::AL2023), DENSITY, 50),
        ("podsPerCore", with(per_core(4), AMIFamily::AL2023), DENSITY, 8),
        (
            "podsPerCore of Bottlerocket",
            with(per_core(4), AMIFamily::Bottlerocket),
            DENSITY,
            29,
        ),
        ("Windows", class(AMIFamily::Windows2022), DENSITY, 110),
        ("prefixes", class(AMIFamily::AL2023), prefixes, 110),
    ];
    for (what, class, density, expected) in cases {
        assert_eq!(pods(&m5_large(), &class, density), expected, "{what}");
    }
    let large = TypeInfo {
        vcpus: 32,
        ..m5_large()
    };
    assert_eq!(pods(&large, &class(AMIFamily::AL2023), prefixes), 250);
}

#[test]
fn overhead_ignores_max_pods_except_for_bottlerocket() {
    let with = |family| EC2NodeClassSpec {
        kubelet: Some(KubeletConfiguration {
            max_pods: Some(10),
            ..KubeletConfiguration::default()
        }),
        ..class(family)
    };
    let kept = |family| {
        let shape = shape(&m5_large(), &with(family), DENSITY, None);
        (shape.capacity[MEMORY] - shape.allocatable[MEMORY]) / MIB - 100
    };
    assert_eq!(kept(AMIFamily::AL2023), 11 * 29 + 255);
    assert_eq!(kept(AMIFamily::Bottlerocket), 11 * 10 + 255);
}

#[test]
fn settings_of_the_kubelet_replace_the_defaults() {
    let kubelet = KubeletConfiguration {
        kube_reserved: Some(strings(&[("cpu", "200m"), ("memory", "1Gi")])),
        system_reserved: Some(strings(&[("cpu", "100m")])),
        eviction_hard: Some(strings(&[
            ("memory.available", "5%"),
            ("nodefs.available", "100%"),
        ])),
        ..KubeletConfiguration::default()
    };
    let class = EC2NodeClassSpec {
        kubelet: Some(kubelet),
        ..class(AMIFamily::AL2023)
    };
    let shape = shape(&m5_large(), &class, DENSITY, None);
    assert_eq!(shape.allocatable[CPU], 2000 - 300);
    let memory = (8192 - 615) * MIB;
    assert_eq!(
        shape.allocatable[MEMORY],
        memory - GIB - (memory as f64 * 0.05).ceil() as i64
    );
    assert_eq!(shape.allocatable[EPHEMERAL_STORAGE], 20 * GIB - GIB);
}

#[test]
fn storage_is_the_disk_the_kubelet_uses() {
    let disk = |device: &str, size: &str, root: bool| BlockDeviceMapping {
        device_name: Some(device.into()),
        ebs: Some(BlockDevice {
            volume_size: Some(Quantity(size.into())),
            ..BlockDevice::default()
        }),
        root_volume: root,
    };
    let with = |family, disks: Vec<BlockDeviceMapping>| EC2NodeClassSpec {
        block_device_mappings: Some(disks),
        ..class(family)
    };
    let raid = EC2NodeClassSpec {
        instance_store_policy: Some(InstanceStorePolicy::RAID0),
        ..class(AMIFamily::AL2023)
    };
    let two = || {
        vec![
            disk("/dev/xvda", "100Gi", false),
            disk("/dev/xvdb", "50Gi", false),
        ]
    };
    let cases = [
        ("device of AL2023", with(AMIFamily::AL2023, two()), 100 * GIB),
        (
            "device of Bottlerocket",
            with(AMIFamily::Bottlerocket, two()),
            50 * GIB,
        ),
        ("last of Custom", with(AMIFamily::Custom, two()), 50 * GIB),
        (
            "root volume",
            with(AMIFamily::AL2023, vec![disk("/dev/sdx", "30Gi", true)]),
            30 * GIB,
        ),
        ("default", class(AMIFamily::AL2023), 20 * GIB),
        ("instance store", raid, 75_000_000_000),
    ];
    let info = TypeInfo {
        instance_store_gb: Some(75),
        ..m5_large()
    };
    for (what, class, expected) in cases {
        assert_eq!(ephemeral_storage(&info, &class), expected, "{what}");
    }
}

#[test]
fn devices_are_counted_by_maker() {
    let gpu = |manufacturer: &str, count| Gpu {
        manufacturer: manufacturer.into(),
        count,
        ..Gpu::default()
    };
    let info = TypeInfo {
        gpus: vec![gpu("nvidia", 4), gpu("nvidia", 4)],
        efa_interfaces_max: 2,
        ..m5_large()
    };
    let capacity = shape(&info, &class(AMIFamily::AL2023), DENSITY, None).capacity;
    assert_eq!(capacity["nvidia.com/gpu"], 8);
    assert_eq!(capacity["vpc.amazonaws.com/efa"], 2);
    assert!(!capacity.contains_key("amd.com/gpu"));
}

#[test]
fn some_classes_never_run_on_some_types() {
    let a1 = TypeInfo {
        name: "a1.large".into(),
        ..m5_large()
    };
    assert!(incompatible(&a1, &class(AMIFamily::AL2023)));
    assert!(!incompatible(&a1, &class(AMIFamily::Bottlerocket)));
    assert!(!incompatible(&m5_large(), &class(AMIFamily::AL2023)));
    let second_card = EC2NodeClassSpec {
        network_interfaces: Some(vec![NetworkInterface {
            network_card_index: 1,
            device_index: 0,
            interface_type: InterfaceType::Interface,
        }]),
        ..class(AMIFamily::AL2023)
    };
    assert!(incompatible(&m5_large(), &second_card), "m5.large has one card");
}

#[test]
fn memory_that_was_seen_takes_the_place_of_the_estimate() {
    let seen = 7_600 * MIB;
    let shape = shape(&m5_large(), &class(AMIFamily::AL2023), DENSITY, Some(seen));
    assert_eq!(shape.capacity[MEMORY], seen);
    let kept = (11 * 29 + 255) + 100;
    assert_eq!(shape.allocatable[MEMORY], seen - kept * MIB);
}
