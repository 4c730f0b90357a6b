//! User data: what a machine is told at its first start so that it joins the cluster.

mod bottlerocket;
mod eks_bootstrap;
mod kubelet_flags;
mod mime;
mod nodeadm;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;
use plimsoll_api::{
    ec2nodeclass::{AMIFamily, KubeletConfiguration},
    labels, taints,
};

/// EC2's limit, before base64.
const BYTES_MAX: usize = 16_384;

/// Everything a machine must know.
#[derive(Clone, Debug)]
pub(crate) struct Bootstrap<'a> {
    pub(crate) family: AMIFamily,
    pub(crate) cluster_name: &'a str,
    pub(crate) endpoint: &'a str,
    /// Base64 of PEM.
    pub(crate) ca_bundle: &'a str,
    /// Range of the cluster's services; nodeadm needs it.
    pub(crate) service_cidr: Option<&'a str>,
    /// Addresses of the cluster's DNS, used where the class names none.
    pub(crate) cluster_dns: &'a [String],
    /// Labels of the claim, capacity type included.
    pub(crate) labels: &'a BTreeMap<String, String>,
    /// Taints of the claim, start-up taints included.
    pub(crate) taints: &'a [Taint],
    pub(crate) kubelet: Option<&'a KubeletConfiguration>,
    pub(crate) max_pods: i64,
    /// The disks a machine brings along become one array.
    pub(crate) raid0: bool,
    /// The user's own part.
    pub(crate) custom: Option<&'a str>,
}

/// Why there can be no user data.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserDataError {
    #[error("spec.userData looks like MIME multipart but is not: {0}")]
    Mime(&'static str),
    #[error("spec.userData of a Bottlerocket class must be TOML")]
    Toml(#[from] toml::de::Error),
    #[error("spec.userData: settings.kubernetes must be a table")]
    TomlShape,
    #[error("the NodeConfig cannot be written as YAML")]
    Yaml(#[from] serde_saphyr::ser::Error),
    #[error("AL2023 needs the range of the cluster's services, and EKS did not name it")]
    NoServiceCidr,
    #[error("Windows nodes are not supported yet; use amiFamily AL2023, Bottlerocket, AL2 or Custom")]
    Windows,
    #[error("user data has {0} bytes and EC2 takes at most {BYTES_MAX}; shorten spec.userData")]
    TooLong(usize),
}

/// The user data, not yet in base64.
pub(crate) fn user_data(bootstrap: &Bootstrap<'_>) -> Result<String, UserDataError> {
    let text = match bootstrap.family {
        AMIFamily::AL2023 => nodeadm::user_data(bootstrap)?,
        AMIFamily::AL2 => eks_bootstrap::user_data(bootstrap)?,
        AMIFamily::Bottlerocket => bottlerocket::user_data(bootstrap)?,
        AMIFamily::Custom => bootstrap.custom.unwrap_or_default().to_owned(),
        AMIFamily::Windows2019 | AMIFamily::Windows2022 | AMIFamily::Windows2025 => {
            return Err(UserDataError::Windows);
        }
    };
    // A carriage return ends no line for a shell.
    let text = text.replace('\r', "");
    if text.len() > BYTES_MAX {
        return Err(UserDataError::TooLong(text.len()));
    }
    Ok(text)
}

/// Labels a kubelet may set on its own Node: none of Kubernetes' own domains. The controller adds those later.
fn node_labels(bootstrap: &Bootstrap<'_>) -> BTreeMap<String, String> {
    let reserved = |key: &str| {
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        ["kubernetes.io", "k8s.io"]
            .iter()
            .any(|own| domain == *own || domain.strip_suffix(own).is_some_and(|d| d.ends_with('.')))
    };
    let mut all: BTreeMap<String, String> = bootstrap
        .labels
        .iter()
        .filter(|(key, _)| !reserved(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    // The taints below are all there will be; what a start-up agent removes must not come back.
    all.insert(labels::DO_NOT_SYNC_TAINTS.into(), "true".into());
    all
}

/// Taints a node registers with: it stays closed until its claim is matched.
fn node_taints(bootstrap: &Bootstrap<'_>) -> Vec<Taint> {
    let mut all = bootstrap.taints.to_vec();
    if !all.iter().any(|t| t.key == taints::UNREGISTERED) {
        all.push(taints::unregistered());
    }
    all
}

fn cluster_dns<'a>(bootstrap: &'a Bootstrap<'_>) -> &'a [String] {
    match bootstrap.kubelet.and_then(|k| k.cluster_dns.as_deref()) {
        Some(set) if !set.is_empty() => set,
        _ => bootstrap.cluster_dns,
    }
}

#[cfg(test)]
mod tests;
