//! The kubelet settings of an EC2NodeClass.

// KubeSchema repeats each public struct inside a function, where nothing can reach it.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::duration::GoDuration;
use crate::{cel, schema};

/// The kubelet settings that may be changed. Names are the kubelet's own.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "!has(self.imageGCHighThresholdPercent) || !has(self.imageGCLowThresholdPercent) || \
         self.imageGCHighThresholdPercent > self.imageGCLowThresholdPercent",
        "imageGCHighThresholdPercent must be greater than imageGCLowThresholdPercent"
    ),
    validation = (
        "!has(self.evictionSoft) || self.evictionSoft.all(key, \
         has(self.evictionSoftGracePeriod) && key in self.evictionSoftGracePeriod)",
        "each key of evictionSoft must have a matching evictionSoftGracePeriod"
    ),
    validation = (
        "!has(self.evictionSoftGracePeriod) || self.evictionSoftGracePeriod.all(key, \
         has(self.evictionSoft) && key in self.evictionSoft)",
        "each key of evictionSoftGracePeriod must have a matching evictionSoft"
    )
)]
pub struct KubeletConfiguration {
    /// Addresses of the cluster's DNS.
    #[serde(default, rename = "clusterDNS", skip_serializing_if = "Option::is_none")]
    pub cluster_dns: Option<Vec<String>>,
    /// Most pods a node may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_pods: Option<i32>,
    /// Most pods a node may run per vCPU; maxPods still holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub pods_per_core: Option<i32>,
    /// Resources kept for the operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity_strings")]
    #[x_kube(
        validation = cel::keys_among("systemReserved", RESERVABLE),
        validation = cel::no_negative_values("systemReserved")
    )]
    pub system_reserved: Option<BTreeMap<String, String>>,
    /// Resources kept for Kubernetes' own processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity_strings")]
    #[x_kube(
        validation = cel::keys_among("kubeReserved", RESERVABLE),
        validation = cel::no_negative_values("kubeReserved")
    )]
    pub kube_reserved: Option<BTreeMap<String, String>>,
    /// Thresholds at which pods are evicted at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::eviction_thresholds")]
    #[x_kube(validation = cel::keys_among("evictionHard", EVICTION_SIGNALS))]
    pub eviction_hard: Option<BTreeMap<String, String>>,
    /// Thresholds at which pods are evicted after a grace period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::eviction_thresholds")]
    #[x_kube(validation = cel::keys_among("evictionSoft", EVICTION_SIGNALS))]
    pub eviction_soft: Option<BTreeMap<String, String>>,
    /// The grace periods of evictionSoft.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::strings")]
    #[x_kube(validation = cel::keys_among("evictionSoftGracePeriod", EVICTION_SIGNALS))]
    pub eviction_soft_grace_period: Option<BTreeMap<String, GoDuration>>,
    /// Longest grace period, in seconds, of a pod that is evicted by a soft threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eviction_max_pod_grace_period: Option<i32>,
    /// Disk usage in percent above which unused images are removed.
    #[serde(
        default,
        rename = "imageGCHighThresholdPercent",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 0, max = 100))]
    pub image_gc_high_threshold_percent: Option<i32>,
    /// Disk usage in percent down to which unused images are removed.
    #[serde(
        default,
        rename = "imageGCLowThresholdPercent",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 0, max = 100))]
    pub image_gc_low_threshold_percent: Option<i32>,
    /// Whether CPU limits are enforced by quota.
    #[serde(default, rename = "cpuCFSQuota", skip_serializing_if = "Option::is_none")]
    pub cpu_cfs_quota: Option<bool>,
}

const RESERVABLE: &[&str] = &["cpu", "memory", "ephemeral-storage", "pid"];
const EVICTION_SIGNALS: &[&str] = &[
    "memory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "pid.available",
];
