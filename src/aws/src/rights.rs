//! What the provider asks of the API server, beside what the controller does.

use plimsoll_api::rights::Right;

/// All of it.
pub const RIGHTS: [Right; 4] = [
    Right::cluster(
        "karpenter.k8s.aws",
        "ec2nodeclasses",
        &["get", "list", "watch", "patch"],
        "aws: what machines are made of; their hash and finalizer",
    ),
    Right::cluster(
        "karpenter.k8s.aws",
        "ec2nodeclasses/status",
        &["patch"],
        "aws: subnets, images and readiness of a class",
    ),
    Right::cluster(
        "karpenter.sh",
        "nodeclaims",
        &["list", "patch"],
        "aws: which class is in use; hashes of claims of another version; that an instance is tagged",
    ),
    Right {
        names: &["kube-dns"],
        ..Right::cluster(
            "",
            "services",
            &["get"],
            "aws: the cluster DNS address for user data; without it nodes find it themselves",
        )
    },
];
