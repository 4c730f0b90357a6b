//! From an instance type and an EC2NodeClass to what a node has and what pods may use of it.
//!
//! The rules are those of Karpenter's AWS provider 1.14, so that nodes are filled alike.

use plimsoll_api::ec2nodeclass::{AMIFamily, EC2NodeClassSpec, InstanceStorePolicy, InterfaceType};
use plimsoll_core::resources::{CPU, EPHEMERAL_STORAGE, MEMORY, PODS, Resources, amount};

use super::{
    kubelet::{eviction, reserved},
    types::TypeInfo,
};

const MIB: i64 = 1 << 20;
const GIB: i64 = 1 << 30;
/// What a node may run when nothing else bounds it; the kubelet's own default.
const PODS_DEFAULT: i64 = 110;
/// Pods that need no address of the VPC: the network plugin and kube-proxy use the host's.
const HOST_NETWORK_PODS: i64 = 2;
/// Memory that Graviton machines keep for their firmware.
const ARM64_FIRMWARE_MIB: i64 = 64;
/// Addresses of a /28 prefix.
const PREFIX_ADDRESSES: i64 = 16;
/// AWS' recommendation for most pods of a node with prefixes: below and from 30 vCPUs on.
const PREFIX_PODS: (i64, i64) = (110, 250);
const ROOT_VOLUME_DEFAULT: i64 = 20 * GIB;
/// How fractions of the overhead are rounded: to 2⁻²⁰ of the memory, upwards.
const SHARE_UNIT: f64 = 1_048_576.0;

/// What the operator set for all classes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Density {
    pub(crate) vm_memory_overhead_percent: f64,
    pub(crate) reserved_enis: i64,
    pub(crate) prefix_delegation: bool,
}

/// What a node of a type has, and what pods may use of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) capacity: Resources,
    pub(crate) allocatable: Resources,
}

/// `memory` is what machines were seen to have, in bytes; without it the overhead is estimated.
pub(crate) fn shape(
    info: &TypeInfo,
    class: &EC2NodeClassSpec,
    density: Density,
    memory: Option<i64>,
) -> Shape {
    let capacity = capacity(info, class, density, memory);
    let family = class.resolved_ami_family();
    let pods_of_overhead = match family {
        // Their bootstrap programs know the machine's interfaces, but neither maxPods nor reserved interfaces.
        AMIFamily::AL2 | AMIFamily::AL2023 | AMIFamily::Custom => eni_limited_pods(info, 0, class),
        _ => capacity[PODS],
    };
    let kubelet = class.kubelet.as_ref();
    let kube = reserved(
        kube_reserved_defaults(info, pods_of_overhead),
        kubelet.and_then(|k| k.kube_reserved.as_ref()),
    );
    let system = reserved(Resources::new(), kubelet.and_then(|k| k.system_reserved.as_ref()));
    let eviction = eviction(&capacity, kubelet.and_then(|k| k.eviction_hard.as_ref()));
    let allocatable = capacity
        .iter()
        .map(|(name, amount)| {
            let kept: i64 = [&kube, &system, &eviction]
                .iter()
                .filter_map(|r| r.get(name))
                .sum();
            (name.clone(), (amount - kept).max(0))
        })
        .collect();
    Shape {
        capacity,
        allocatable,
    }
}

fn capacity(info: &TypeInfo, class: &EC2NodeClassSpec, density: Density, memory: Option<i64>) -> Resources {
    let memory = memory.unwrap_or_else(|| estimated_memory(info, density.vm_memory_overhead_percent));
    let mut all = Resources::from([
        (CPU.into(), info.vcpus * 1000),
        (MEMORY.into(), memory),
        (EPHEMERAL_STORAGE.into(), ephemeral_storage(info, class)),
        (PODS.into(), pods(info, class, density)),
    ]);
    let gpus_of = |manufacturer: &str| -> i64 {
        info.gpus
            .iter()
            .filter(|g| g.manufacturer == manufacturer)
            .map(|g| g.count)
            .sum()
    };
    let devices: i64 = info.neuron_devices.iter().map(|d| d.count).sum();
    let cores = info
        .neuron_devices
        .first()
        .map_or(0, |d| d.count * d.cores_per_device);
    for (resource, amount) in [
        ("nvidia.com/gpu", gpus_of("nvidia")),
        ("amd.com/gpu", gpus_of("amd")),
        ("habana.ai/gaudi", gpus_of("habana")),
        ("aws.amazon.com/neuron", devices),
        ("aws.amazon.com/neuroncore", cores),
        ("vpc.amazonaws.com/efa", efa_interfaces(info, class)),
    ] {
        if amount > 0 {
            all.insert(resource.into(), amount);
        }
    }
    all
}

fn estimated_memory(info: &TypeInfo, overhead: f64) -> i64 {
    let firmware = if info.architectures.first() == Some(&"arm64") {
        ARM64_FIRMWARE_MIB
    } else {
        0
    };
    let mib = info.memory_mib - firmware;
    let kept_mib = ((mib * MIB) as f64 * overhead / SHARE_UNIT).ceil() as i64;
    (mib - kept_mib) * MIB
}

fn ephemeral_storage(info: &TypeInfo, class: &EC2NodeClassSpec) -> i64 {
    if class.instance_store_policy == Some(InstanceStorePolicy::RAID0)
        && let Some(gb) = info.instance_store_gb
    {
        return gb * 1_000_000_000;
    }
    let mappings = class.block_device_mappings.as_deref().unwrap_or_default();
    let size = |mapping: &plimsoll_api::ec2nodeclass::BlockDeviceMapping| {
        let text = &mapping.ebs.as_ref()?.volume_size.as_ref()?.0;
        amount(EPHEMERAL_STORAGE, text).ok()
    };
    if let Some(bytes) = mappings.iter().find(|m| m.root_volume).and_then(size) {
        return bytes;
    }
    let family = class.resolved_ami_family();
    let of_family = if family == AMIFamily::Custom {
        mappings.last().and_then(size)
    } else {
        let device = ephemeral_device(family);
        mappings
            .iter()
            .find(|m| m.device_name.as_deref() == Some(device))
            .and_then(size)
    };
    of_family.unwrap_or(match family {
        AMIFamily::Windows2019 | AMIFamily::Windows2022 | AMIFamily::Windows2025 => 50 * GIB,
        _ => ROOT_VOLUME_DEFAULT,
    })
}

/// The disk on which a family's kubelet keeps its data.
pub(crate) fn ephemeral_device(family: AMIFamily) -> &'static str {
    match family {
        AMIFamily::Bottlerocket => "/dev/xvdb",
        AMIFamily::Windows2019 | AMIFamily::Windows2022 | AMIFamily::Windows2025 => "/dev/sda1",
        AMIFamily::AL2 | AMIFamily::AL2023 | AMIFamily::Custom => "/dev/xvda",
    }
}

/// Most pods a node may run, which the user data also tells the kubelet.
pub(crate) fn pods(info: &TypeInfo, class: &EC2NodeClassSpec, density: Density) -> i64 {
    let family = class.resolved_ami_family();
    let kubelet = class.kubelet.as_ref();
    let windows = matches!(
        family,
        AMIFamily::Windows2019 | AMIFamily::Windows2022 | AMIFamily::Windows2025
    );
    let most = match kubelet.and_then(|k| k.max_pods) {
        Some(set) => i64::from(set),
        None if windows => PODS_DEFAULT,
        None if density.prefix_delegation && info.hypervisor != "xen" => {
            prefix_pods(info, density.reserved_enis)
        }
        None => eni_limited_pods(info, density.reserved_enis, class),
    };
    match kubelet.and_then(|k| k.pods_per_core) {
        Some(per_core) if per_core > 0 && family != AMIFamily::Bottlerocket => {
            most.min(i64::from(per_core) * info.vcpus)
        }
        _ => most,
    }
}

/// One address of each interface is the interface's own.
fn eni_limited_pods(info: &TypeInfo, reserved_enis: i64, class: &EC2NodeClassSpec) -> i64 {
    let without_ip = class
        .network_interfaces
        .iter()
        .flatten()
        .filter(|n| n.network_card_index == 0 && n.interface_type == InterfaceType::EfaOnly)
        .count() as i64;
    let interfaces = (info.default_card_interfaces - reserved_enis - without_ip).max(0);
    if interfaces == 0 {
        return 0;
    }
    interfaces * (info.ipv4_per_interface - 1) + HOST_NETWORK_PODS
}

/// With prefixes each secondary address is worth sixteen, and AWS recommends a ceiling.
fn prefix_pods(info: &TypeInfo, reserved_enis: i64) -> i64 {
    let interfaces = (info.default_card_interfaces - reserved_enis).max(0);
    let addresses = interfaces * (info.ipv4_per_interface - 1) * PREFIX_ADDRESSES + HOST_NETWORK_PODS;
    addresses.min(if info.vcpus < 30 {
        PREFIX_PODS.0
    } else {
        PREFIX_PODS.1
    })
}

fn efa_interfaces(info: &TypeInfo, class: &EC2NodeClassSpec) -> i64 {
    match &class.network_interfaces {
        Some(listed) => listed
            .iter()
            .filter(|n| n.interface_type == InterfaceType::EfaOnly)
            .count() as i64,
        None => info.efa_interfaces_max,
    }
}

/// What the EKS images keep for Kubernetes' own processes, by the rules of their bootstrap programs.
fn kube_reserved_defaults(info: &TypeInfo, pods: i64) -> Resources {
    // (upper end of the range in milli-cores, ten-thousandths kept)
    let ranges = [(1_000, 600), (2_000, 100), (4_000, 50), (i64::MAX, 25)];
    let (mut cpu, mut from) = (0, 0);
    for (to, share) in ranges {
        let cores = info.vcpus * 1000;
        cpu += (cores.min(to) - from).max(0) * share / 10_000;
        from = to;
    }
    Resources::from([
        (CPU.into(), cpu),
        (MEMORY.into(), (11 * pods + 255) * MIB),
        (EPHEMERAL_STORAGE.into(), GIB),
    ])
}

/// Why a class can never run on a type, or None.
pub(crate) fn incompatible(info: &TypeInfo, class: &EC2NodeClassSpec) -> bool {
    let wants_nested = class
        .cpu_options
        .as_ref()
        .and_then(|c| c.nested_virtualization)
        .is_some_and(|t| t == plimsoll_api::ec2nodeclass::Toggle::Enabled);
    let is_a1 = info.name.starts_with("a1.");
    let interfaces = class.network_interfaces.as_deref().unwrap_or_default();
    let has_place = |n: &plimsoll_api::ec2nodeclass::NetworkInterface| {
        usize::try_from(n.network_card_index)
            .ok()
            .and_then(|at| info.card_interfaces.get(at))
            .is_some_and(|most| i64::from(n.device_index) < *most)
    };
    (class.resolved_ami_family() == AMIFamily::AL2023 && is_a1)
        || (wants_nested && !info.nested_virtualization)
        || (class.connection_tracking.is_some() && info.hypervisor != "nitro")
        || (!interfaces.is_empty() && (!info.ena || !interfaces.iter().all(has_place)))
        || efa_interfaces(info, class) > info.efa_interfaces_max
}

#[cfg(test)]
mod tests;
