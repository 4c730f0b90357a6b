//! What the provider asks of the API server, beside what the controller does.

use plimsoll_api::rights::{Right, Scope};

const fn cluster(
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    names: &'static [&'static str],
    why: &'static str,
) -> Right {
    Right {
        group,
        resource,
        verbs,
        names,
        scope: Scope::Cluster,
        why,
    }
}

/// All of it.
pub const RIGHTS: [Right; 4] = [
    cluster(
        "karpenter.k8s.aws",
        "ec2nodeclasses",
        &["get", "list", "patch"],
        &[],
        "aws: what machines are made of; their hash and finalizer",
    ),
    cluster(
        "karpenter.k8s.aws",
        "ec2nodeclasses/status",
        &["patch"],
        &[],
        "aws: subnets, images and readiness of a class",
    ),
    cluster(
        "karpenter.sh",
        "nodeclaims",
        &["list", "patch"],
        &[],
        "aws: which class is in use; hashes of claims of another version",
    ),
    cluster(
        "",
        "services",
        &["get"],
        &["kube-dns"],
        "aws: the cluster DNS address for user data; without it nodes find it themselves",
    ),
];
