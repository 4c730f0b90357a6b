//! The labels of a node by its instance type.

use std::sync::{Arc, Mutex, PoisonError};

use plimsoll_api::{ec2nodeclass::AMIFamily, labels};
use plimsoll_core::requirement::{Operator, Requirement};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{tenancy::Tenancy, types::TypeInfo};

/// Equal texts held once: a region's types repeat a few hundred label values ten thousand times.
#[derive(Debug, Default)]
pub(crate) struct Words(FxHashSet<Arc<str>>);

impl Words {
    pub(crate) fn of(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        let word: Arc<str> = text.into();
        self.0.insert(word.clone());
        word
    }
}

/// The labels of the types of a region, made once: catalogues are made anew with every change of an offering, and share
/// them.
#[derive(Debug, Default)]
pub(crate) struct Labels(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    words: Words,
    /// By type, operating system and tenancy.
    of: FxHashMap<(Arc<str>, &'static str, Tenancy), Arc<[Requirement]>>,
}

impl Labels {
    pub(crate) fn of(
        &self,
        info: &TypeInfo,
        family: AMIFamily,
        tenancy: Tenancy,
        region: &str,
    ) -> Arc<[Requirement]> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { words, of } = &mut *known;
        of.entry((info.name.clone(), operating_system(family), tenancy))
            .or_insert_with(|| requirements(info, family, tenancy, region, words).into())
            .clone()
    }
}

/// Labels every node of this type carries. A key that does not apply is left out: it is not defined on the node.
fn requirements(
    info: &TypeInfo,
    family: AMIFamily,
    tenancy: Tenancy,
    region: &str,
    words: &mut Words,
) -> Vec<Requirement> {
    let mut all = Vec::with_capacity(28);
    let mut is = |key: &str, values: &[&str]| {
        let values: Vec<_> = values.iter().map(|v| words.of(v)).collect();
        all.push(Requirement::new(words.of(key), Operator::In, values));
    };
    let (instance_family, size) = info.name.split_once('.').unwrap_or((&info.name, ""));
    is(labels::INSTANCE_TYPE, &[&info.name]);
    is(labels::ARCH, &info.architectures);
    is(labels::OS, &[operating_system(family)]);
    is(labels::REGION, &[region]);
    is(labels::INSTANCE_TENANCY, &[tenancy.as_str()]);
    if let Some((category, generation)) = category_and_generation(&info.name) {
        is("karpenter.k8s.aws/instance-category", &[category]);
        is("karpenter.k8s.aws/instance-generation", &[generation]);
    }
    is("karpenter.k8s.aws/instance-family", &[instance_family]);
    is("karpenter.k8s.aws/instance-size", &[size]);
    is(
        "karpenter.k8s.aws/instance-capability-flex",
        &[truth(instance_family.contains("-flex"))],
    );
    is("karpenter.k8s.aws/instance-hypervisor", &[&info.hypervisor]);
    is(
        "karpenter.k8s.aws/instance-encryption-in-transit-supported",
        &[truth(info.encryption_in_transit)],
    );
    is("karpenter.k8s.aws/nitro-sandbox", &[truth(info.nitro_enclaves)]);
    let texts = [
        ("karpenter.k8s.aws/instance-cpu", Some(info.vcpus.to_string())),
        (
            "karpenter.k8s.aws/instance-memory",
            Some(info.memory_mib.to_string()),
        ),
        (
            "karpenter.k8s.aws/instance-cpu-manufacturer",
            info.cpu_manufacturer.clone(),
        ),
        (
            "karpenter.k8s.aws/instance-cpu-sustained-clock-speed-mhz",
            info.clock_speed_mhz.map(|n| n.to_string()),
        ),
        (
            "karpenter.k8s.aws/instance-ebs-bandwidth",
            info.ebs_mbps.map(|n| n.to_string()),
        ),
        (
            "karpenter.k8s.aws/instance-network-bandwidth",
            info.network_mbps.map(|n| n.to_string()),
        ),
        (
            "karpenter.k8s.aws/instance-local-nvme",
            info.local_nvme_gb.map(|n| n.to_string()),
        ),
    ];
    for (key, value) in texts {
        if let Some(value) = value {
            is(key, &[&value]);
        }
    }
    if let [gpu] = info.gpus.as_slice() {
        is("karpenter.k8s.aws/instance-gpu-name", &[&gpu.name]);
        is(
            "karpenter.k8s.aws/instance-gpu-manufacturer",
            &[&gpu.manufacturer],
        );
        is("karpenter.k8s.aws/instance-gpu-count", &[&gpu.count.to_string()]);
        is(
            "karpenter.k8s.aws/instance-gpu-memory",
            &[&gpu.memory_mib.to_string()],
        );
    }
    let accelerator = match (info.neuron_devices.as_slice(), info.accelerators.as_slice()) {
        ([device], _) => Some((device.name.as_str(), "aws", device.count)),
        ([], [one]) => Some((one.name.as_str(), one.manufacturer.as_str(), one.count)),
        _ => None,
    };
    if let Some((name, manufacturer, count)) = accelerator {
        is("karpenter.k8s.aws/instance-accelerator-name", &[name]);
        is(
            "karpenter.k8s.aws/instance-accelerator-manufacturer",
            &[manufacturer],
        );
        is(
            "karpenter.k8s.aws/instance-accelerator-count",
            &[&count.to_string()],
        );
    }
    all
}

fn truth(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

fn operating_system(family: AMIFamily) -> &'static str {
    match family {
        AMIFamily::Windows2019 | AMIFamily::Windows2022 | AMIFamily::Windows2025 => "windows",
        AMIFamily::AL2 | AMIFamily::AL2023 | AMIFamily::Bottlerocket | AMIFamily::Custom => "linux",
    }
}

/// `m` and `5` of `m5d.large`, `u` and `1` of `u-6tb1.metal`.
fn category_and_generation(name: &str) -> Option<(&str, &str)> {
    let letters = name.find(|c: char| !c.is_ascii_lowercase())?;
    let (category, rest) = name.split_at(letters);
    let rest = match rest.strip_prefix('-') {
        None => rest,
        Some(sized) => sized.split_once("tb")?.1,
    };
    let digits = rest.find(|c: char| !c.is_ascii_digit())?;
    (!category.is_empty() && digits > 0).then(|| (category, &rest[..digits]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::types::{Gpu, NeuronDevice};

    #[test]
    fn category_and_generation_come_from_the_name() {
        for (name, expected) in [
            ("m5.large", Some(("m", "5"))),
            ("c7gn.16xlarge", Some(("c", "7"))),
            ("inf2.xlarge", Some(("inf", "2"))),
            ("u-6tb1.56xlarge", Some(("u", "1"))),
            ("u7i-12tb.224xlarge", Some(("u", "7"))),
            ("m5", None),
            ("mac-m4.metal", None),
        ] {
            assert_eq!(category_and_generation(name), expected, "{name}");
        }
    }

    #[test]
    fn labels_are_there_only_where_they_apply() {
        let info = TypeInfo {
            name: "c6g.medium".into(),
            architectures: vec!["arm64"],
            hypervisor: "nitro".into(),
            vcpus: 1,
            memory_mib: 2048,
            clock_speed_mhz: Some(2500),
            ..TypeInfo::default()
        };
        let value = |info: &TypeInfo, key: &str| {
            let words = &mut Words::default();
            let all = requirements(info, AMIFamily::AL2023, Tenancy::Dedicated, "eu-west-1", words);
            let found = all.iter().find(|r| &*r.key == key)?;
            Some(
                found
                    .values
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(","),
            )
        };
        for (key, expected) in [
            (labels::ARCH, Some("arm64")),
            (labels::OS, Some("linux")),
            (labels::REGION, Some("eu-west-1")),
            (labels::INSTANCE_TENANCY, Some("dedicated")),
            ("karpenter.k8s.aws/instance-size", Some("medium")),
            ("karpenter.k8s.aws/instance-cpu", Some("1")),
            (
                "karpenter.k8s.aws/instance-cpu-sustained-clock-speed-mhz",
                Some("2500"),
            ),
            ("karpenter.k8s.aws/instance-gpu-count", None),
            ("karpenter.k8s.aws/instance-local-nvme", None),
            ("karpenter.k8s.aws/instance-accelerator-count", None),
        ] {
            assert_eq!(value(&info, key).as_deref(), expected, "{key}");
        }
        let gpu = Gpu {
            name: "t4g".into(),
            count: 1,
            ..Gpu::default()
        };
        let two_kinds = TypeInfo {
            gpus: vec![gpu.clone(), gpu.clone()],
            ..info.clone()
        };
        assert_eq!(value(&two_kinds, "karpenter.k8s.aws/instance-gpu-name"), None);
        let neuron = TypeInfo {
            gpus: vec![gpu],
            neuron_devices: vec![NeuronDevice {
                name: "inferentia2".into(),
                count: 6,
                cores_per_device: 2,
            }],
            ..info
        };
        assert_eq!(
            value(&neuron, "karpenter.k8s.aws/instance-gpu-name").as_deref(),
            Some("t4g")
        );
        let manufacturer = value(&neuron, "karpenter.k8s.aws/instance-accelerator-manufacturer");
        assert_eq!(manufacturer.as_deref(), Some("aws"));
    }
}
