//! AL2023: a NodeConfig that nodeadm reads.

use k8s_openapi::api::core::v1::Taint;
use plimsoll_api::ec2nodeclass::KubeletConfiguration;
use serde_json::{Map, Value, json};

use super::{
    Bootstrap, UserDataError, cluster_dns, kubelet_flags,
    mime::{self, Part},
    node_labels, node_taints,
};

const NODE_CONFIG: &str = "application/node.eks.aws";
const SHELL: &str = "text/x-shellscript; charset=\"us-ascii\"";

/// nodeadm merges several NodeConfigs, and the last one wins: ours.
pub(super) fn user_data(bootstrap: &Bootstrap<'_>) -> Result<String, UserDataError> {
    let mut parts = match bootstrap.custom {
        None => Vec::new(),
        Some(custom) if mime::is_multipart(custom) => mime::parts(custom)?,
        Some(custom) if is_node_config(custom) => vec![Part::new(NODE_CONFIG, custom)],
        Some(custom) => vec![Part::new(SHELL, custom)],
    };
    let config = serde_saphyr::to_string(&node_config(bootstrap)?)?;
    let body = format!("# NodeConfig of plimsoll\n{config}");
    parts.push(Part::new(NODE_CONFIG, &body));
    Ok(mime::multipart(&parts))
}

fn is_node_config(text: &str) -> bool {
    serde_saphyr::from_str::<Value>(text)
        .is_ok_and(|value| value["kind"] == "NodeConfig" && value["apiVersion"].is_string())
}

fn node_config(bootstrap: &Bootstrap<'_>) -> Result<Value, UserDataError> {
    let cidr = bootstrap.service_cidr.ok_or(UserDataError::NoServiceCidr)?;
    // nodeadm passes flags to the kubelet as they are, without a shell that would take quotes off.
    let labels = kubelet_flags::node_labels_flag(&node_labels(bootstrap)).replace('"', "");
    let mut spec = json!({
        "cluster": {
            "name": bootstrap.cluster_name,
            "apiServerEndpoint": bootstrap.endpoint,
            "certificateAuthority": bootstrap.ca_bundle,
            "cidr": cidr,
        },
        "kubelet": { "config": kubelet_config(bootstrap), "flags": [labels] },
    });
    if bootstrap.raid0 {
        spec["instance"] = json!({ "localStorage": { "strategy": "RAID0" } });
    }
    Ok(json!({ "apiVersion": "node.eks.aws/v1alpha1", "kind": "NodeConfig", "spec": spec }))
}

/// The class's settings under the kubelet's own names, and what we decide.
fn kubelet_config(bootstrap: &Bootstrap<'_>) -> Map<String, Value> {
    let mut config = bootstrap.kubelet.map(of_class).unwrap_or_default();
    config.insert("maxPods".into(), json!(bootstrap.max_pods));
    let dns = cluster_dns(bootstrap);
    if !dns.is_empty() {
        config.insert("clusterDNS".into(), json!(dns));
    }
    let taint = |t: &Taint| {
        let mut taint = json!({ "key": t.key, "effect": t.effect });
        if let Some(value) = t.value.as_deref().filter(|v| !v.is_empty()) {
            taint["value"] = json!(value);
        }
        taint
    };
    let taints: Vec<Value> = node_taints(bootstrap).iter().map(taint).collect();
    config.insert("registerWithTaints".into(), json!(taints));
    config
}

/// The fields of a class have the kubelet's names.
fn of_class(kubelet: &KubeletConfiguration) -> Map<String, Value> {
    match serde_json::to_value(kubelet) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}
