//! EC2NodeClass: how machines are launched on EC2, and what was found there to launch them with.
//!
//! The schema is that of the AWS provider's 1.14 release. Pointers and empty lists of the original are kept apart as
//! `Option`, because an absent field and an empty one hash differently.

// KubeSchema repeats each public struct inside a function, where nothing can reach it; and clippy takes columns of the
// same type for one attribute given twice.
#![allow(unreachable_pub, clippy::duplicated_attributes)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{cel, schema};

mod kubelet;
mod status;
mod terms;

pub use kubelet::KubeletConfiguration;
pub use status::{
    AMI, CapacityReservation, CapacityReservationState, CapacityReservationType, EC2NodeClassStatus,
    SecurityGroup, Subnet,
};
pub use terms::{
    AMIFamily, AMISelectorTerm, CapacityReservationSelectorTerm, InstanceMatchCriteria,
    PlacementGroupSelector, SecurityGroupSelectorTerm, SubnetSelectorTerm,
};

/// Desired state of an EC2NodeClass.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "karpenter.k8s.aws",
    version = "v1",
    kind = "EC2NodeClass",
    plural = "ec2nodeclasses",
    shortname = "ec2nc",
    shortname = "ec2ncs",
    doc = "EC2NodeClass says how machines are launched on EC2.",
    category = "karpenter",
    status = "EC2NodeClassStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Role", type_ = "string", priority = 1, json_path = ".spec.role")
)]
#[x_kube(
    validation = ("has(self.role) != has(self.instanceProfile)", "must specify exactly one of 'role' and 'instanceProfile'"),
    validation = cel::ami_family_matches_alias("al2", "AL2"),
    validation = cel::ami_family_matches_alias("al2023", "AL2023"),
    validation = cel::ami_family_matches_alias("bottlerocket", "Bottlerocket"),
    validation = cel::ami_family_matches_alias("windows2019", "Windows2019"),
    validation = cel::ami_family_matches_alias("windows2022", "Windows2022"),
    validation = cel::ami_family_matches_alias("windows2025", "Windows2025"),
    validation = (
        "has(self.amiFamily) || self.amiSelectorTerms.exists(x, has(x.alias))",
        "must specify amiFamily if amiSelectorTerms does not contain an alias"
    )
)]
pub struct EC2NodeClassSpec {
    /// Which subnets to launch into; the terms are alternatives.
    #[schemars(length(max = 30))]
    #[x_kube(
        validation = ("self.size() != 0", "subnetSelectorTerms cannot be empty"),
        validation = ("self.all(x, has(x.tags) || has(x.id))", "each subnet selector term must have 'tags' or 'id'"),
        // Karpenter refuses the list only if every term breaks the rule; a stricter rule would refuse existing objects.
        validation = (
            "!self.all(x, has(x.id) && has(x.tags))",
            "'id' cannot be combined with other fields in a subnet selector term"
        )
    )]
    pub subnet_selector_terms: Vec<SubnetSelectorTerm>,
    /// Which security groups machines get; the terms are alternatives.
    #[schemars(length(max = 30))]
    #[x_kube(
        validation = ("self.size() != 0", "securityGroupSelectorTerms cannot be empty"),
        validation = (
            "self.all(x, has(x.tags) || has(x.id) || has(x.name))",
            "each security group selector term must have 'tags', 'id' or 'name'"
        ),
        validation = (
            "!self.all(x, has(x.id) && (has(x.tags) || has(x.name)))",
            "'id' cannot be combined with other fields in a security group selector term"
        ),
        validation = (
            "!self.all(x, has(x.name) && (has(x.tags) || has(x.id)))",
            "'name' cannot be combined with other fields in a security group selector term"
        )
    )]
    pub security_group_selector_terms: Vec<SecurityGroupSelectorTerm>,
    /// Which capacity reservations may be used; the terms are alternatives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 30))]
    #[x_kube(
        validation = (
            "self.all(x, has(x.tags) || has(x.id) || has(x.instanceMatchCriteria))",
            "each capacity reservation selector term must have 'tags', 'id' or 'instanceMatchCriteria'"
        ),
        validation = (
            "!self.all(x, has(x.id) && (has(x.tags) || has(x.ownerID) || has(x.instanceMatchCriteria)))",
            "'id' cannot be combined with other fields in a capacity reservation selector term"
        )
    )]
    pub capacity_reservation_selector_terms: Option<Vec<CapacityReservationSelectorTerm>>,
    /// The placement group to launch into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("has(self.name) != has(self.id)", "must specify exactly one of 'name' and 'id'"))]
    pub placement_group_selector: Option<PlacementGroupSelector>,
    /// Whether machines get a public address; absent: as the subnet says.
    #[serde(
        default,
        rename = "associatePublicIPAddress",
        skip_serializing_if = "Option::is_none"
    )]
    pub associate_public_ip_address: Option<bool>,
    /// How many IPv4 prefixes the first network interface gets.
    #[serde(default, rename = "ipPrefixCount", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ip_prefix_count: Option<i32>,
    /// Which images machines start from; the terms are alternatives.
    #[schemars(length(min = 1, max = 30))]
    #[x_kube(
        validation = (
            "self.all(x, has(x.tags) || has(x.id) || has(x.name) || has(x.alias) || has(x.ssmParameter))",
            "each AMI selector term must have 'tags', 'id', 'name', 'alias' or 'ssmParameter'"
        ),
        validation = (
            "!self.exists(x, has(x.id) && (has(x.alias) || has(x.tags) || has(x.name) || has(x.owner)))",
            "'id' cannot be combined with other fields in an AMI selector term"
        ),
        validation = (
            "!self.exists(x, has(x.alias) && (has(x.id) || has(x.tags) || has(x.name) || has(x.owner)))",
            "'alias' cannot be combined with other fields in an AMI selector term"
        ),
        validation = (
            "!(self.exists(x, has(x.alias)) && self.size() != 1)",
            "'alias' must be the only AMI selector term"
        )
    )]
    pub ami_selector_terms: Vec<AMISelectorTerm>,
    /// What kind of image it is, which decides the form of the user data. Absent: as the alias says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ami_family: Option<AMIFamily>,
    /// User data to merge into what the AMI family needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// IAM role of the nodes; an instance profile is made for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = cel::not_empty("role"))]
    pub role: Option<String>,
    /// Instance profile of the nodes, instead of a role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = cel::not_empty("instanceProfile"))]
    pub instance_profile: Option<String>,
    /// Tags of everything that is made at a launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = ("self.all(key, key != '')", "empty tag keys are not supported"),
        validation = cel::tag_is_not("eks:eks-cluster-name"),
        validation = (
            "self.all(key, !key.startsWith('kubernetes.io/cluster'))",
            "tags with the prefix kubernetes.io/cluster are set by the controller; remove them"
        ),
        validation = cel::tag_is_not("karpenter.sh/nodepool"),
        validation = cel::tag_is_not("karpenter.sh/nodeclaim"),
        validation = cel::tag_is_not("karpenter.k8s.aws/ec2nodeclass")
    )]
    pub tags: Option<BTreeMap<String, String>>,
    /// Settings of the kubelet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubelet: Option<KubeletConfiguration>,
    /// Disks of the machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 50))]
    #[x_kube(validation = (
        "self.filter(x, has(x.rootVolume) && x.rootVolume).size() <= 1",
        "at most one of blockDeviceMappings may have rootVolume"
    ))]
    pub block_device_mappings: Option<Vec<BlockDeviceMapping>>,
    /// What to do with the disks a machine brings along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_store_policy: Option<InstanceStorePolicy>,
    /// Network interfaces of the machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 150))]
    #[x_kube(
        validation = (
            "self.size() == 0 || \
             self.exists(x, x.networkCardIndex == 0 && x.deviceIndex == 0 && x.interfaceType == 'interface')",
            "networkInterfaces must contain one with networkCardIndex 0, deviceIndex 0 and interfaceType 'interface'"
        ),
        validation = (
            "self.map(x, x.networkCardIndex * 1000 + x.deviceIndex).all(slot, \
             self.exists_one(x, x.networkCardIndex * 1000 + x.deviceIndex == slot))",
            "each pair of networkCardIndex and deviceIndex may be used once"
        ),
        validation = (
            "self.filter(x, x.interfaceType == 'efa-only').all(efa, \
             self.exists_one(x, x.interfaceType == 'efa-only' && x.networkCardIndex == efa.networkCardIndex))",
            "each network card may have at most one interface of type 'efa-only'"
        )
    )]
    pub network_interfaces: Option<Vec<NetworkInterface>>,
    /// Whether CloudWatch gets metrics by the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detailed_monitoring: Option<bool>,
    /// How the instance metadata service can be reached.
    #[serde(default)]
    pub metadata_options: MetadataOptions,
    /// How long idle connections are remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = (
        "has(self.tcpEstablishedTimeout) || has(self.udpStreamTimeout) || has(self.udpTimeout)",
        "connectionTracking must have at least one timeout"
    ))]
    pub connection_tracking: Option<ConnectionTracking>,
    /// A reserved field of EC2's CreateFleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Options of the CPU.
    #[serde(default, rename = "cpuOptions", skip_serializing_if = "Option::is_none")]
    pub cpu_options: Option<CPUOptions>,
}

impl EC2NodeClassSpec {
    /// The AMI family in force: the one given, else the alias's, else `Custom` (which the schema rules out).
    pub fn resolved_ami_family(&self) -> AMIFamily {
        let from_alias = || {
            self.ami_selector_terms
                .iter()
                .filter_map(|term| term.alias.as_deref())
                .find_map(AMIFamily::from_alias)
        };
        self.ami_family.or_else(from_alias).unwrap_or(AMIFamily::Custom)
    }
}

/// One disk.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockDeviceMapping {
    /// The device, e.g. /dev/xvda.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    /// The EBS volume behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = ("has(self.snapshotID) || has(self.volumeSize)", "snapshotID or volumeSize must be set"),
        validation = (
            "!has(self.volumeInitializationRate) || (has(self.snapshotID) && self.snapshotID != '')",
            "volumeInitializationRate needs a snapshotID to initialize from"
        )
    )]
    pub ebs: Option<BlockDevice>,
    /// Whether the kubelet keeps its data here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub root_volume: bool,
}

/// An EBS volume.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockDevice {
    /// Whether the volume goes with the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_on_termination: Option<bool>,
    /// Whether the volume is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
    /// I/O operations per second; for gp3, io1 and io2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<i64>,
    /// KMS key: id, alias or ARN.
    #[serde(default, rename = "kmsKeyID", skip_serializing_if = "Option::is_none")]
    pub kms_key_id: Option<String>,
    /// Snapshot the volume starts from.
    #[serde(default, rename = "snapshotID", skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
    /// Throughput in MiB/s; for gp3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<i64>,
    /// Rate in MiB/s at which the snapshot is read in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 300))]
    pub volume_initialization_rate: Option<i32>,
    /// Size in Gi, G, Ti or T.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::volume_size")]
    pub volume_size: Option<Quantity>,
    /// Type of the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_type: Option<VolumeType>,
}

/// Types of EBS volumes.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeType {
    Standard,
    Io1,
    Io2,
    Gp2,
    Sc1,
    St1,
    Gp3,
}

impl VolumeType {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Io1 => "io1",
            Self::Io2 => "io2",
            Self::Gp2 => "gp2",
            Self::Sc1 => "sc1",
            Self::St1 => "st1",
            Self::Gp3 => "gp3",
        }
    }
}

/// What to do with the disks a machine brings along.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum InstanceStorePolicy {
    /// One striped array of them all, for pods and images.
    RAID0,
}

/// A network interface.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkInterface {
    /// The network card.
    #[schemars(range(min = 0))]
    pub network_card_index: i32,
    /// The place on the card.
    #[schemars(range(min = 0))]
    pub device_index: i32,
    /// Whether it carries IP traffic.
    pub interface_type: InterfaceType,
}

/// Kinds of network interfaces.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InterfaceType {
    Interface,
    EfaOnly,
}

/// How the instance metadata service can be reached. The API server fills in what is absent.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetadataOptions {
    /// Whether it can be reached at all.
    #[serde(default = "enabled")]
    pub http_endpoint: Toggle,
    /// Whether it can be reached over IPv6.
    #[serde(default = "disabled", rename = "httpProtocolIPv6")]
    pub http_protocol_ipv6: Toggle,
    /// How many network hops an answer may take; 1 keeps pods out.
    #[serde(default = "hop_limit_default")]
    #[schemars(range(min = 1, max = 64))]
    pub http_put_response_hop_limit: i64,
    /// Whether a session token is needed.
    #[serde(default)]
    pub http_tokens: HTTPTokens,
}

impl Default for MetadataOptions {
    fn default() -> Self {
        Self {
            http_endpoint: enabled(),
            http_protocol_ipv6: disabled(),
            http_put_response_hop_limit: hop_limit_default(),
            http_tokens: HTTPTokens::default(),
        }
    }
}

fn enabled() -> Toggle {
    Toggle::Enabled
}

fn disabled() -> Toggle {
    Toggle::Disabled
}

fn hop_limit_default() -> i64 {
    1
}

/// On or off, in EC2's words.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Toggle {
    Enabled,
    Disabled,
}

impl Toggle {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
        }
    }
}

/// Whether the metadata service asks for a session token.
#[derive(
    JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum HTTPTokens {
    #[default]
    Required,
    Optional,
}

/// How long idle connections are remembered, in seconds.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionTracking {
    /// Established TCP connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 432_000))]
    pub tcp_established_timeout: Option<i32>,
    /// UDP flows with more than one exchange.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 180))]
    pub udp_stream_timeout: Option<i32>,
    /// UDP flows with at most one exchange.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 30, max = 60))]
    pub udp_timeout: Option<i32>,
}

/// Options of the CPU.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CPUOptions {
    /// Whether virtual machines may run inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nested_virtualization: Option<Toggle>,
}
