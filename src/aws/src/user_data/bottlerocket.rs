//! Bottlerocket: settings in TOML.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::{Bootstrap, UserDataError, cluster_dns, node_labels, node_taints};

/// The user's settings stay, ours replace those they concern.
pub(super) fn user_data(bootstrap: &Bootstrap<'_>) -> Result<String, UserDataError> {
    let mut document: Table = match bootstrap.custom {
        None => Table::new(),
        Some(custom) => toml::from_str(custom)?,
    };
    let kubernetes = table(table(&mut document, "settings")?, "kubernetes")?;
    let labels = table(kubernetes, "node-labels")?;
    for (key, value) in node_labels(bootstrap) {
        labels.insert(key, Value::String(value));
    }
    let mut taints: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for taint in node_taints(bootstrap) {
        let text = format!("{}:{}", taint.value.unwrap_or_default(), taint.effect);
        taints.entry(taint.key).or_default().push(Value::String(text));
    }
    let taints: Table = taints
        .into_iter()
        .map(|(key, values)| (key, Value::Array(values)))
        .collect();
    kubernetes.insert("node-taints".into(), Value::Table(taints));
    let text = |text: &str| Value::String(text.to_owned());
    kubernetes.insert("cluster-name".into(), text(bootstrap.cluster_name));
    kubernetes.insert("api-server".into(), text(bootstrap.endpoint));
    kubernetes.insert("cluster-certificate".into(), text(bootstrap.ca_bundle));
    kubernetes.insert("max-pods".into(), Value::Integer(bootstrap.max_pods));
    if let Some(ip) = cluster_dns(bootstrap).first() {
        kubernetes.insert("cluster-dns-ip".into(), text(ip));
    }
    if let Some(kubelet) = bootstrap.kubelet {
        for (name, pairs) in [
            ("system-reserved", &kubelet.system_reserved),
            ("kube-reserved", &kubelet.kube_reserved),
            ("eviction-hard", &kubelet.eviction_hard),
            ("eviction-soft", &kubelet.eviction_soft),
        ] {
            if let Some(pairs) = pairs {
                let pairs: Table = pairs.iter().map(|(k, v)| (k.clone(), text(v))).collect();
                kubernetes.insert(name.into(), Value::Table(pairs));
            }
        }
        if let Some(periods) = &kubelet.eviction_soft_grace_period {
            let pairs: Table = periods
                .iter()
                .map(|(k, v)| (k.clone(), text(&v.to_string())))
                .collect();
            kubernetes.insert("eviction-soft-grace-period".into(), Value::Table(pairs));
        }
        if let Some(seconds) = kubelet.eviction_max_pod_grace_period {
            let seconds = Value::Integer(i64::from(seconds));
            kubernetes.insert("eviction-max-pod-grace-period".into(), seconds);
        }
        for (name, percent) in [
            (
                "image-gc-high-threshold-percent",
                kubelet.image_gc_high_threshold_percent,
            ),
            (
                "image-gc-low-threshold-percent",
                kubelet.image_gc_low_threshold_percent,
            ),
        ] {
            if let Some(percent) = percent {
                kubernetes.insert(name.into(), text(&percent.to_string()));
            }
        }
        if let Some(quota) = kubelet.cpu_cfs_quota {
            kubernetes.insert("cpu-cfs-quota-enforced".into(), Value::Boolean(quota));
        }
    }
    if bootstrap.raid0 {
        let settings = table(&mut document, "settings")?;
        let commands = table(settings, "bootstrap-commands")?;
        commands.insert(
            "000-mount-instance-storage".into(),
            Value::Table(mount_instance_storage()),
        );
    }
    Ok(document.to_string())
}

/// All directories are named, because releases before 1.46 bind none by themselves.
fn mount_instance_storage() -> Table {
    let words = |words: &[&str]| Value::Array(words.iter().map(|w| Value::String((*w).into())).collect());
    let bind = words(&[
        "apiclient",
        "ephemeral-storage",
        "bind",
        "--dirs",
        "/var/lib/containerd",
        "/var/lib/kubelet",
        "/var/log/pods",
    ]);
    let init = words(&["apiclient", "ephemeral-storage", "init"]);
    Table::from_iter([
        ("commands".to_owned(), Value::Array(vec![init, bind])),
        ("essential".to_owned(), Value::Boolean(true)),
        ("mode".to_owned(), Value::String("always".into())),
    ])
}

fn table<'a>(of: &'a mut Table, key: &str) -> Result<&'a mut Table, UserDataError> {
    of.entry(key)
        .or_insert_with(|| Value::Table(Table::new()))
        .as_table_mut()
        .ok_or(UserDataError::TomlShape)
}
