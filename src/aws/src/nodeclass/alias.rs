//! AMI aliases such as `al2023@latest`: the SSM parameters that hold the images of an EKS release.

use k8s_openapi::api::core::v1::NodeSelectorRequirement;
use plimsoll_api::ec2nodeclass::AMIFamily;

const GPU_COUNT: &str = "karpenter.k8s.aws/instance-gpu-count";
const ACCELERATOR_COUNT: &str = "karpenter.k8s.aws/instance-accelerator-count";

/// What an image is made for, beyond its architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Variant {
    Standard,
    Nvidia,
    Neuron,
}

impl Variant {
    pub(crate) fn requirements(self) -> Vec<NodeSelectorRequirement> {
        let on = |key: &str, operator: &str| NodeSelectorRequirement {
            key: key.into(),
            operator: operator.into(),
            values: None,
        };
        match self {
            Self::Standard => vec![
                on(ACCELERATOR_COUNT, "DoesNotExist"),
                on(GPU_COUNT, "DoesNotExist"),
            ],
            Self::Nvidia => vec![on(GPU_COUNT, "Exists")],
            Self::Neuron => vec![on(ACCELERATOR_COUNT, "Exists")],
        }
    }
}

/// A parameter whose value is the id of an image, and what that image is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parameter {
    pub(crate) path: String,
    pub(crate) variants: Vec<Variant>,
}

/// Why an alias has no parameters.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AliasError {
    #[error("alias {0:?} is not of the form family@version, such as al2023@latest")]
    Form(String),
    #[error("AL2 images end with Kubernetes 1.32, and this cluster is at 1.{0}; use al2023 or bottlerocket")]
    Al2TooOld(u32),
    #[error("Windows nodes are not supported yet; use al2023, bottlerocket or al2")]
    Windows,
}

/// The parameters of an alias for a cluster of version 1.`minor`.
pub(crate) fn parameters(alias: &str, minor: u32) -> Result<Vec<Parameter>, AliasError> {
    let form = || AliasError::Form(alias.to_owned());
    let (_, version) = alias.split_once('@').ok_or_else(form)?;
    let kubernetes = format!("1.{minor}");
    let parameter = |path: String, variants: &[Variant]| Parameter {
        path,
        variants: variants.to_vec(),
    };
    let latest = version == "latest";
    match AMIFamily::from_alias(alias).ok_or_else(form)? {
        AMIFamily::AL2 if minor > 32 => Err(AliasError::Al2TooOld(minor)),
        AMIFamily::AL2 => {
            let image = |directory: &str, name: &str| {
                let name = if latest {
                    "recommended".to_owned()
                } else {
                    format!("amazon-eks-{name}-{kubernetes}-{version}")
                };
                format!("/aws/service/eks/optimized-ami/{kubernetes}/{directory}/{name}/image_id")
            };
            Ok(vec![
                parameter(image("amazon-linux-2", "node"), &[Variant::Standard]),
                parameter(image("amazon-linux-2-arm64", "arm64-node"), &[Variant::Standard]),
                parameter(
                    image("amazon-linux-2-gpu", "gpu-node"),
                    &[Variant::Nvidia, Variant::Neuron],
                ),
            ])
        }
        AMIFamily::AL2023 => {
            let image = |arch: &str, variant: &str| {
                let name = if latest {
                    "recommended".to_owned()
                } else {
                    format!("amazon-eks-node-al2023-{arch}-{variant}-{kubernetes}-{version}")
                };
                format!(
                    "/aws/service/eks/optimized-ami/{kubernetes}/amazon-linux-2023/{arch}/{variant}/{name}/image_id"
                )
            };
            Ok(vec![
                parameter(image("x86_64", "standard"), &[Variant::Standard]),
                parameter(image("arm64", "standard"), &[Variant::Standard]),
                parameter(image("x86_64", "nvidia"), &[Variant::Nvidia]),
                parameter(image("arm64", "nvidia"), &[Variant::Nvidia]),
                parameter(image("x86_64", "neuron"), &[Variant::Neuron]),
            ])
        }
        AMIFamily::Bottlerocket => {
            let release = version.strip_prefix('v').unwrap_or(version);
            let image = |flavour: &str, arch: &str| {
                format!("/aws/service/bottlerocket/aws-k8s-{kubernetes}{flavour}/{arch}/{release}/image_id")
            };
            Ok(vec![
                parameter(image("", "x86_64"), &[Variant::Standard, Variant::Neuron]),
                parameter(image("", "arm64"), &[Variant::Standard]),
                parameter(image("-nvidia", "x86_64"), &[Variant::Nvidia]),
                parameter(image("-nvidia", "arm64"), &[Variant::Nvidia]),
            ])
        }
        _ => Err(AliasError::Windows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_what_eks_publishes() {
        let paths = |alias: &str, minor| -> Vec<String> {
            let all = parameters(alias, minor).unwrap();
            all.into_iter().map(|p| p.path).collect()
        };
        let eks = "/aws/service/eks/optimized-ami";
        let cases = [
            (
                "al2023@latest",
                36,
                format!("{eks}/1.36/amazon-linux-2023/x86_64/standard/recommended/image_id"),
            ),
            (
                "al2023@v20260801",
                36,
                format!(
                    "{eks}/1.36/amazon-linux-2023/arm64/nvidia/amazon-eks-node-al2023-arm64-nvidia-1.36-v20260801/image_id"
                ),
            ),
            (
                "al2@v20240807",
                30,
                format!("{eks}/1.30/amazon-linux-2-arm64/amazon-eks-arm64-node-1.30-v20240807/image_id"),
            ),
            (
                "bottlerocket@v1.42.0",
                36,
                "/aws/service/bottlerocket/aws-k8s-1.36-nvidia/x86_64/1.42.0/image_id".to_owned(),
            ),
            (
                "bottlerocket@latest",
                36,
                "/aws/service/bottlerocket/aws-k8s-1.36/arm64/latest/image_id".to_owned(),
            ),
        ];
        for (alias, minor, expected) in cases {
            let all = paths(alias, minor);
            assert!(
                all.contains(&expected),
                "{alias}: {expected} is not among {all:#?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_had_says_why() {
        assert_eq!(parameters("al2@latest", 33), Err(AliasError::Al2TooOld(33)));
        assert!(parameters("al2@latest", 32).is_ok());
        assert_eq!(parameters("windows2022@latest", 36), Err(AliasError::Windows));
        assert_eq!(parameters("al2023", 36), Err(AliasError::Form("al2023".into())));
    }
}
