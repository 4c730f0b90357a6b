//! EC2's description of an instance type, cut down to what a node's shape and labels need.
//!
//! The SDK's own structures hold some kilobytes per type; a region has more than a thousand types.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aws_sdk_ec2::types as ec2;

use super::labels::Labels;

/// What a region sells: types, and the zones that have them.
#[derive(Debug, Default)]
pub(crate) struct Region {
    /// By name.
    pub(crate) types: BTreeMap<Arc<str>, TypeInfo>,
    /// Zones by type name.
    pub(crate) zones: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    pub(crate) labels: Labels,
}

/// One instance type.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TypeInfo {
    pub(crate) name: Arc<str>,
    /// `amd64` or `arm64`, in EC2's order of preference; never empty.
    pub(crate) architectures: Vec<&'static str>,
    pub(crate) on_demand: bool,
    pub(crate) spot: bool,
    pub(crate) bare_metal: bool,
    /// Empty for bare metal.
    pub(crate) hypervisor: String,
    pub(crate) vcpus: i64,
    pub(crate) memory_mib: i64,
    pub(crate) cpu_manufacturer: Option<String>,
    pub(crate) clock_speed_mhz: Option<i64>,
    pub(crate) nested_virtualization: bool,
    pub(crate) nitro_enclaves: bool,
    /// Interfaces of the default network card.
    pub(crate) default_card_interfaces: i64,
    /// Interfaces of each network card, by index.
    pub(crate) card_interfaces: Vec<i64>,
    pub(crate) ipv4_per_interface: i64,
    pub(crate) ena: bool,
    pub(crate) efa_interfaces_max: i64,
    pub(crate) encryption_in_transit: bool,
    /// Baseline of all cards together.
    pub(crate) network_mbps: Option<i64>,
    /// Only for types that are EBS-optimised by default.
    pub(crate) ebs_mbps: Option<i64>,
    pub(crate) instance_store_gb: Option<i64>,
    pub(crate) local_nvme_gb: Option<i64>,
    pub(crate) gpus: Vec<Gpu>,
    /// Inference accelerators that are not Neuron devices.
    pub(crate) accelerators: Vec<Accelerator>,
    pub(crate) neuron_devices: Vec<NeuronDevice>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Gpu {
    pub(crate) name: String,
    pub(crate) manufacturer: String,
    pub(crate) count: i64,
    pub(crate) memory_mib: i64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Accelerator {
    pub(crate) name: String,
    pub(crate) manufacturer: String,
    pub(crate) count: i64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NeuronDevice {
    pub(crate) name: String,
    pub(crate) count: i64,
    pub(crate) cores_per_device: i64,
}

/// Kubernetes' word for EC2's architecture; None for the 32-bit ones.
pub(crate) fn architecture(of_ec2: &str) -> Option<&'static str> {
    match of_ec2 {
        "x86_64" => Some("amd64"),
        "arm64" => Some("arm64"),
        _ => None,
    }
}

impl TypeInfo {
    /// None for types without a name, without vCPUs or without an architecture Kubernetes runs on.
    pub(crate) fn from_ec2(info: &ec2::InstanceTypeInfo) -> Option<Self> {
        let processor = info.processor_info();
        let architectures: Vec<_> = processor
            .map(ec2::ProcessorInfo::supported_architectures)
            .unwrap_or_default()
            .iter()
            .filter_map(|a| architecture(a.as_str()))
            .collect();
        if architectures.is_empty() {
            return None;
        }
        let sells = |class| info.supported_usage_classes().contains(&class);
        let network = info.network_info();
        let cards = network.map(ec2::NetworkInfo::network_cards).unwrap_or_default();
        let interfaces = |card: &ec2::NetworkCardInfo| whole(card.maximum_network_interfaces());
        let mut card_interfaces = vec![0; cards.len()];
        for (at, card) in cards.iter().enumerate() {
            let index = usize::try_from(whole(card.network_card_index())).unwrap_or(at);
            if let Some(slot) = card_interfaces.get_mut(index) {
                *slot = interfaces(card);
            }
        }
        let default_card = network.map_or(0, |n| whole(n.default_network_card_index()));
        let default_card_interfaces = usize::try_from(default_card)
            .ok()
            .and_then(|at| card_interfaces.get(at).copied())
            .or_else(|| network.map(|n| whole(n.maximum_network_interfaces())))
            .unwrap_or(0);
        let gbps: f64 = cards
            .iter()
            .filter_map(ec2::NetworkCardInfo::baseline_bandwidth_in_gbps)
            .sum();
        let store = info.instance_storage_info();
        let store_gb = store.and_then(ec2::InstanceStorageInfo::total_size_in_gb);
        let nvme = store
            .and_then(ec2::InstanceStorageInfo::nvme_support)
            .is_some_and(|support| *support != ec2::EphemeralNvmeSupport::Unsupported);
        let ebs = info.ebs_info();
        let ebs_by_default = ebs
            .and_then(ec2::EbsInfo::ebs_optimized_support)
            .is_some_and(|support| *support == ec2::EbsOptimizedSupport::Default);
        let neuron = info
            .neuron_info()
            .map(ec2::NeuronInfo::neuron_devices)
            .unwrap_or_default();
        let accelerators = info
            .inference_accelerator_info()
            .map(ec2::InferenceAcceleratorInfo::accelerators)
            .unwrap_or_default();
        Some(Self {
            name: info.instance_type()?.as_str().into(),
            on_demand: sells(ec2::UsageClassType::OnDemand),
            spot: sells(ec2::UsageClassType::Spot),
            bare_metal: info.bare_metal().unwrap_or(false),
            hypervisor: info
                .hypervisor()
                .map(|h| h.as_str().to_owned())
                .unwrap_or_default(),
            vcpus: info
                .v_cpu_info()
                .map(|v| whole(v.default_v_cpus()))
                .filter(|n| *n > 0)?,
            memory_mib: info
                .memory_info()
                .and_then(ec2::MemoryInfo::size_in_mib)
                .unwrap_or(0),
            cpu_manufacturer: processor
                .and_then(ec2::ProcessorInfo::manufacturer)
                .map(lower_kebab),
            clock_speed_mhz: processor
                .and_then(ec2::ProcessorInfo::sustained_clock_speed_in_ghz)
                .map(|ghz| (ghz * 1000.0).round() as i64),
            nested_virtualization: processor
                .map(ec2::ProcessorInfo::supported_features)
                .unwrap_or_default()
                .iter()
                .any(|f| f.as_str() == "nested-virtualization"),
            nitro_enclaves: info
                .nitro_enclaves_support()
                .is_some_and(|s| *s == ec2::NitroEnclavesSupport::Supported),
            default_card_interfaces,
            card_interfaces,
            ipv4_per_interface: network.map_or(0, |n| whole(n.ipv4_addresses_per_interface())),
            ena: network
                .and_then(ec2::NetworkInfo::ena_support)
                .is_some_and(|s| *s != ec2::EnaSupport::Unsupported),
            efa_interfaces_max: network
                .and_then(ec2::NetworkInfo::efa_info)
                .map_or(0, |e| whole(e.maximum_efa_interfaces())),
            encryption_in_transit: network
                .and_then(ec2::NetworkInfo::encryption_in_transit_supported)
                .unwrap_or(false),
            network_mbps: (gbps > 0.0).then_some((gbps * 1000.0).round() as i64),
            ebs_mbps: ebs
                .filter(|_| ebs_by_default)
                .and_then(ec2::EbsInfo::ebs_optimized_info)
                .and_then(ec2::EbsOptimizedInfo::maximum_bandwidth_in_mbps)
                .map(i64::from),
            instance_store_gb: store_gb,
            local_nvme_gb: store_gb.filter(|_| nvme),
            gpus: gpus(info),
            accelerators: if neuron.is_empty() {
                accelerators
                    .iter()
                    .map(|a| Accelerator {
                        name: lower_kebab(a.name().unwrap_or_default()),
                        manufacturer: lower_kebab(a.manufacturer().unwrap_or_default()),
                        count: whole(a.count()),
                    })
                    .collect()
            } else {
                Vec::new()
            },
            neuron_devices: neuron
                .iter()
                .map(|d| NeuronDevice {
                    name: lower_kebab(d.name().unwrap_or_default()),
                    count: whole(d.count()),
                    cores_per_device: d.core_info().map_or(0, |c| whole(c.count())),
                })
                .collect(),
            architectures,
        })
    }
}

fn gpus(info: &ec2::InstanceTypeInfo) -> Vec<Gpu> {
    info.gpu_info()
        .map(ec2::GpuInfo::gpus)
        .unwrap_or_default()
        .iter()
        .map(|gpu| Gpu {
            name: lower_kebab(gpu.name().unwrap_or_default()),
            manufacturer: lower_kebab(gpu.manufacturer().unwrap_or_default()),
            count: whole(gpu.count()),
            memory_mib: gpu.memory_info().map_or(0, |m| whole(m.size_in_mib())),
        })
        .collect()
}

fn whole(number: Option<i32>) -> i64 {
    number.map_or(0, i64::from)
}

/// EC2's names as label values.
pub(crate) fn lower_kebab(text: &str) -> String {
    text.to_lowercase().replace(' ', "-")
}
