//! Kubelet settings as command line flags, for images whose bootstrap program takes those.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;

use super::{Bootstrap, node_labels, node_taints};

/// Flags in a fixed order: equal settings must give equal user data, which names the launch template.
pub(super) fn flags(bootstrap: &Bootstrap<'_>) -> Vec<String> {
    let mut all = vec![
        node_labels_flag(&node_labels(bootstrap)),
        taints_flag(&node_taints(bootstrap)),
        format!("--max-pods={}", bootstrap.max_pods),
    ];
    let Some(kubelet) = bootstrap.kubelet else {
        return all;
    };
    if let Some(n) = kubelet.pods_per_core.filter(|n| *n > 0) {
        all.push(format!("--pods-per-core={n}"));
    }
    for (flag, pairs, joint) in [
        ("--system-reserved", &kubelet.system_reserved, "="),
        ("--kube-reserved", &kubelet.kube_reserved, "="),
        ("--eviction-hard", &kubelet.eviction_hard, "<"),
        ("--eviction-soft", &kubelet.eviction_soft, "<"),
    ] {
        if let Some(pairs) = pairs.as_ref().filter(|p| !p.is_empty()) {
            all.push(format!("{flag}=\"{}\"", joined(pairs, joint)));
        }
    }
    if let Some(periods) = &kubelet.eviction_soft_grace_period {
        let texts: BTreeMap<String, String> = periods
            .iter()
            .map(|(signal, period)| (signal.clone(), period.to_string()))
            .collect();
        if !texts.is_empty() {
            all.push(format!(
                "--eviction-soft-grace-period=\"{}\"",
                joined(&texts, "=")
            ));
        }
    }
    if let Some(seconds) = kubelet.eviction_max_pod_grace_period {
        all.push(format!("--eviction-max-pod-grace-period={seconds}"));
    }
    if let Some(percent) = kubelet.image_gc_high_threshold_percent {
        all.push(format!("--image-gc-high-threshold={percent}"));
    }
    if let Some(percent) = kubelet.image_gc_low_threshold_percent {
        all.push(format!("--image-gc-low-threshold={percent}"));
    }
    if let Some(quota) = kubelet.cpu_cfs_quota {
        all.push(format!("--cpu-cfs-quota={quota}"));
    }
    all
}

pub(super) fn node_labels_flag(labels: &BTreeMap<String, String>) -> String {
    format!("--node-labels=\"{}\"", joined(labels, "="))
}

fn taints_flag(taints: &[Taint]) -> String {
    let texts: Vec<String> = taints
        .iter()
        .map(|t| {
            format!(
                "{}={}:{}",
                t.key,
                t.value.as_deref().unwrap_or_default(),
                t.effect
            )
        })
        .collect();
    format!("--register-with-taints=\"{}\"", texts.join(","))
}

fn joined(pairs: &BTreeMap<String, String>, joint: &str) -> String {
    let texts: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}{joint}{v}")).collect();
    texts.join(",")
}
