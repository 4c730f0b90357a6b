//! The static hashes by which drift is recognised.
//!
//! They equal Karpenter's bit for bit, so that a swap of the controller in either direction finds every NodeClaim's hash
//! valid and replaces no machine. Upstream hashes its Go structs with hashstructure v2; [`structure`] is that algorithm,
//! and this file spells out the Go structs: type names, field names and declaration order all enter the hash.

mod structure;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::duration::{GoDuration, NillableDuration};
use crate::ec2nodeclass::{
    BlockDevice, BlockDeviceMapping, CPUOptions, ConnectionTracking, EC2NodeClassSpec, HTTPTokens,
    InstanceStorePolicy, InterfaceType, KubeletConfiguration, MetadataOptions, NetworkInterface,
    PlacementGroupSelector,
};
use crate::nodepool::{NodeClaimTemplateSpec, NodeClassReference, NodePool, ObjectMetaTemplate};
use structure::{StructHash, boolean, bytes, int32, int64, map, set, text, text_map, text_set};

/// Value of the annotation `karpenter.sh/nodepool-hash-version`.
pub const NODEPOOL_HASH_VERSION: &str = "v3";

/// The hash of a NodePool's template, without what can change under a running machine (requirements).
pub fn nodepool_hash(pool: &NodePool) -> String {
    let template = &pool.spec.template;
    StructHash::new("NodeClaimTemplate")
        .field(
            "ObjectMeta",
            (!template.metadata.is_empty()).then(|| object_meta(&template.metadata)),
        )
        .field("Spec", Some(template_spec(&template.spec)))
        .finish()
        .to_string()
}

fn object_meta(meta: &ObjectMetaTemplate) -> u64 {
    StructHash::new("ObjectMeta")
        .field("Labels", meta.labels.as_ref().map(text_map))
        .field("Annotations", meta.annotations.as_ref().map(text_map))
        .finish()
}

fn template_spec(spec: &NodeClaimTemplateSpec) -> u64 {
    let taints = |taints: &Vec<Taint>| set(taints.iter().map(taint));
    StructHash::new("NodeClaimTemplateSpec")
        .field("Taints", spec.taints.as_ref().map(taints))
        .field("StartupTaints", spec.startup_taints.as_ref().map(taints))
        .field("NodeClassRef", Some(node_class_ref(&spec.node_class_ref)))
        .field(
            "TerminationGracePeriod",
            spec.termination_grace_period.as_ref().map(duration),
        )
        .field("ExpireAfter", nillable_duration(&spec.expire_after))
        .finish()
}

fn taint(taint: &Taint) -> u64 {
    StructHash::new("Taint")
        .field("Key", not_empty(&taint.key))
        .field("Value", taint.value.as_deref().and_then(not_empty))
        .field("Effect", not_empty(&taint.effect))
        .field("TimeAdded", taint.time_added.as_ref().map(time))
        .finish()
}

fn node_class_ref(reference: &NodeClassReference) -> u64 {
    StructHash::new("NodeClassReference")
        .field("Kind", not_empty(&reference.kind))
        .field("Name", not_empty(&reference.name))
        .field("Group", not_empty(&reference.group))
        .finish()
}

/// A `metav1.Duration`, whose zero value Go leaves out.
fn duration(duration: &GoDuration) -> u64 {
    let nanos = duration.as_duration().as_nanos() as i64;
    StructHash::new("Duration")
        .field("Duration", (nanos != 0).then(|| int64(nanos)))
        .finish()
}

/// Karpenter's own type, a struct around a pointer: zero is there, and `Never` is left out.
fn nillable_duration(duration: &NillableDuration) -> Option<u64> {
    let nanos = duration.as_duration()?.as_nanos() as i64;
    Some(
        StructHash::new("NillableDuration")
            .field("Duration", Some(int64(nanos)))
            .finish(),
    )
}

/// A `metav1.Time`, whose one field goes in by Go's binary form: a version byte, seconds since year 1, nanoseconds,
/// and minutes east of UTC, which are 0 in a container that runs on UTC.
fn time(time: &Time) -> u64 {
    const SECONDS_FROM_YEAR_1_TO_1970: i64 = 62_135_596_800;
    let mut binary = vec![1];
    binary.extend((time.0.as_second() + SECONDS_FROM_YEAR_1_TO_1970).to_be_bytes());
    binary.extend(time.0.subsec_nanosecond().to_be_bytes());
    binary.extend(0i16.to_be_bytes());
    StructHash::new("Time")
        .field("Time", Some(bytes(&binary)))
        .finish()
}

/// A Go string field, which is left out when empty.
fn not_empty(value: &str) -> Option<u64> {
    (!value.is_empty()).then(|| text(value))
}

/// Versions of the EC2NodeClass hash; the value of the annotation `karpenter.k8s.aws/ec2nodeclass-hash-version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ec2NodeClassHashVersion {
    /// Releases 1.12 to 1.14: the kubelet settings are a struct.
    V5,
    /// After 1.14: the kubelet settings are a JSON text.
    V6,
}

impl Ec2NodeClassHashVersion {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V5 => "v5",
            Self::V6 => "v6",
        }
    }
}

/// The hash of what an EC2NodeClass decides about a machine at its launch. `ca_bundle` is the cluster's certificate
/// authority as base64, or empty.
///
/// Upstream's vectors cover neither a typed kubelet, nor network interfaces, nor placement groups; there this follows
/// the declarations only. In version 6 a kubelet's text is taken to be compact JSON with sorted keys, as Go writes maps.
pub fn ec2nodeclass_hash(
    spec: &EC2NodeClassSpec,
    ca_bundle: &str,
    version: Ec2NodeClassHashVersion,
) -> String {
    let mut parts = vec![
        ec2nodeclass_spec(spec, version),
        text(spec.resolved_ami_family().as_str()),
        text(ca_bundle),
    ];
    if version == Ec2NodeClassHashVersion::V6 {
        parts.push(text(&kubelet_json(spec.kubelet.as_ref())));
    }
    set(parts).to_string()
}

fn ec2nodeclass_spec(spec: &EC2NodeClassSpec, version: Ec2NodeClassHashVersion) -> u64 {
    let typed_kubelet = spec
        .kubelet
        .as_ref()
        .filter(|_| version == Ec2NodeClassHashVersion::V5);
    StructHash::new("EC2NodeClassSpec")
        .field(
            "PlacementGroupSelector",
            spec.placement_group_selector
                .as_ref()
                .map(placement_group_selector),
        )
        .field(
            "AssociatePublicIPAddress",
            spec.associate_public_ip_address.map(boolean),
        )
        .field("UserData", spec.user_data.as_deref().map(text))
        .field("Role", spec.role.as_deref().and_then(not_empty))
        .field("InstanceProfile", spec.instance_profile.as_deref().map(text))
        .field("Tags", spec.tags.as_ref().map(text_map))
        .field("Kubelet", typed_kubelet.map(kubelet))
        .field(
            "BlockDeviceMappings",
            spec.block_device_mappings
                .as_ref()
                .map(|mappings| set(mappings.iter().map(block_device_mapping))),
        )
        .field(
            "InstanceStorePolicy",
            spec.instance_store_policy
                .map(|InstanceStorePolicy::RAID0| text("RAID0")),
        )
        .field(
            "NetworkInterfaces",
            spec.network_interfaces
                .as_ref()
                .map(|interfaces| set(interfaces.iter().map(network_interface))),
        )
        .field("DetailedMonitoring", spec.detailed_monitoring.map(boolean))
        .field("MetadataOptions", Some(metadata_options(&spec.metadata_options)))
        .field(
            "ConnectionTracking",
            spec.connection_tracking.as_ref().map(connection_tracking),
        )
        .field("Context", spec.context.as_deref().map(text))
        .field("CPUOptions", spec.cpu_options.as_ref().map(cpu_options))
        .finish()
}

fn placement_group_selector(selector: &PlacementGroupSelector) -> u64 {
    StructHash::new("PlacementGroupSelector")
        .field("Name", selector.name.as_deref().and_then(not_empty))
        .field("ID", selector.id.as_deref().and_then(not_empty))
        .finish()
}

fn kubelet(kubelet: &KubeletConfiguration) -> u64 {
    let grace_periods = kubelet.eviction_soft_grace_period.as_ref();
    StructHash::new("KubeletConfiguration")
        .field("ClusterDNS", kubelet.cluster_dns.as_deref().map(text_set))
        .field("MaxPods", kubelet.max_pods.map(int32))
        .field("PodsPerCore", kubelet.pods_per_core.map(int32))
        .field("SystemReserved", kubelet.system_reserved.as_ref().map(text_map))
        .field("KubeReserved", kubelet.kube_reserved.as_ref().map(text_map))
        .field("EvictionHard", kubelet.eviction_hard.as_ref().map(text_map))
        .field("EvictionSoft", kubelet.eviction_soft.as_ref().map(text_map))
        .field(
            "EvictionSoftGracePeriod",
            grace_periods.map(|periods| {
                map(periods
                    .iter()
                    .map(|(signal, period)| (text(signal), duration(period))))
            }),
        )
        .field(
            "EvictionMaxPodGracePeriod",
            kubelet.eviction_max_pod_grace_period.map(int32),
        )
        .field(
            "ImageGCHighThresholdPercent",
            kubelet.image_gc_high_threshold_percent.map(int32),
        )
        .field(
            "ImageGCLowThresholdPercent",
            kubelet.image_gc_low_threshold_percent.map(int32),
        )
        .field("CPUCFSQuota", kubelet.cpu_cfs_quota.map(boolean))
        .finish()
}

fn kubelet_json(kubelet: Option<&KubeletConfiguration>) -> String {
    let mut value = serde_json::to_value(kubelet).expect("the kubelet settings are maps with text keys");
    value.sort_all_objects();
    value.to_string()
}

fn block_device_mapping(mapping: &BlockDeviceMapping) -> u64 {
    StructHash::new("BlockDeviceMapping")
        .field("DeviceName", mapping.device_name.as_deref().map(text))
        .field("EBS", mapping.ebs.as_ref().map(block_device))
        .field("RootVolume", mapping.root_volume.then(|| boolean(true)))
        .finish()
}

fn block_device(device: &BlockDevice) -> u64 {
    StructHash::new("BlockDevice")
        .field("DeleteOnTermination", device.delete_on_termination.map(boolean))
        .field("Encrypted", device.encrypted.map(boolean))
        .field("IOPS", device.iops.map(int64))
        .field("KMSKeyID", device.kms_key_id.as_deref().map(text))
        .field("SnapshotID", device.snapshot_id.as_deref().map(text))
        .field("Throughput", device.throughput.map(int64))
        .field(
            "VolumeInitializationRate",
            device.volume_initialization_rate.map(int32),
        )
        .field(
            "VolumeSize",
            device
                .volume_size
                .as_ref()
                .map(|size| text(&canonical_volume_size(size))),
        )
        .field("VolumeType", device.volume_type.map(|ty| text(ty.as_str())))
        .finish()
}

/// A volume size as Go's Quantity prints it: with the largest suffix of its family that leaves a whole number. The
/// schema admits whole numbers with Gi, G, Ti and T only; anything else stays as it is.
fn canonical_volume_size(Quantity(size): &Quantity) -> String {
    const BINARY: &[&str] = &["Gi", "Ti", "Pi", "Ei"];
    const DECIMAL: &[&str] = &["G", "T", "P", "E"];
    let (digits, suffix) = size.split_at(size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len()));
    let Ok(mut number) = digits.parse::<u64>() else {
        return size.clone();
    };
    for (family, factor) in [(BINARY, 1024), (DECIMAL, 1000)] {
        if let Some(mut place) = family.iter().position(|name| *name == suffix) {
            while number != 0 && number.is_multiple_of(factor) && place + 1 < family.len() {
                (number, place) = (number / factor, place + 1);
            }
            return format!("{number}{}", family[place]);
        }
    }
    size.clone()
}

fn network_interface(interface: &NetworkInterface) -> u64 {
    let kind = match interface.interface_type {
        InterfaceType::Interface => "interface",
        InterfaceType::EfaOnly => "efa-only",
    };
    let not_zero = |index: i32| (index != 0).then(|| int32(index));
    StructHash::new("NetworkInterface")
        .field("NetworkCardIndex", not_zero(interface.network_card_index))
        .field("DeviceIndex", not_zero(interface.device_index))
        .field("InterfaceType", Some(text(kind)))
        .finish()
}

fn metadata_options(options: &MetadataOptions) -> u64 {
    let tokens = match options.http_tokens {
        HTTPTokens::Required => "required",
        HTTPTokens::Optional => "optional",
    };
    StructHash::new("MetadataOptions")
        .field("HTTPEndpoint", Some(text(options.http_endpoint.as_str())))
        .field(
            "HTTPProtocolIPv6",
            Some(text(options.http_protocol_ipv6.as_str())),
        )
        .field(
            "HTTPPutResponseHopLimit",
            Some(int64(options.http_put_response_hop_limit)),
        )
        .field("HTTPTokens", Some(text(tokens)))
        .finish()
}

fn connection_tracking(tracking: &ConnectionTracking) -> u64 {
    StructHash::new("ConnectionTracking")
        .field(
            "TCPEstablishedTimeout",
            tracking.tcp_established_timeout.map(int32),
        )
        .field("UDPStreamTimeout", tracking.udp_stream_timeout.map(int32))
        .field("UDPTimeout", tracking.udp_timeout.map(int32))
        .finish()
}

fn cpu_options(options: &CPUOptions) -> u64 {
    StructHash::new("CPUOptions")
        .field(
            "NestedVirtualization",
            options.nested_virtualization.map(|toggle| text(toggle.as_str())),
        )
        .finish()
}

#[cfg(test)]
mod tests;
