//! Keys and values of labels, annotations and finalizers, and the rules for keys.
//!
//! The names are Karpenter's and Kubernetes' own; they are what lets nodes and claims outlive a swap of the controller.

/// Label on NodeClaims and Nodes: the NodePool that owns them.
pub const NODEPOOL: &str = "karpenter.sh/nodepool";
/// Label: `spot`, `on-demand` or `reserved`.
pub const CAPACITY_TYPE: &str = "karpenter.sh/capacity-type";
/// Label on Nodes, `"true"` once the Node has been matched to its NodeClaim.
pub const REGISTERED: &str = "karpenter.sh/registered";
/// Label on Nodes, `"true"` once the Node is ready for workloads.
pub const INITIALIZED: &str = "karpenter.sh/initialized";
/// Label on Nodes: taints are left as they are at registration.
pub const DO_NOT_SYNC_TAINTS: &str = "karpenter.sh/do-not-sync-taints";
/// Annotation on Pods (`"true"` or a Go duration) and Nodes (`"true"`) that bars voluntary disruption.
pub const DO_NOT_DISRUPT: &str = "karpenter.sh/do-not-disrupt";
/// Annotation on NodeClaims: under which role the machine was bought, where that is not the controller's own identity.
pub const ASSUMED_ROLE: &str = "plimsoll.dev/assumed-role";
/// Annotation on NodePools and NodeClaims: the static hash of the template, see [`crate::hash::nodepool_hash`].
pub const NODEPOOL_HASH: &str = "karpenter.sh/nodepool-hash";
/// Annotation: the version of the algorithm behind [`NODEPOOL_HASH`].
pub const NODEPOOL_HASH_VERSION: &str = "karpenter.sh/nodepool-hash-version";
/// Annotation on NodeClaims: RFC 3339 time at which the machine goes whatever still runs on it.
pub const TERMINATION_TIMESTAMP: &str = "karpenter.sh/nodeclaim-termination-timestamp";
/// Annotation on NodeClaims: RFC 3339 time at which the cloud takes the machine away. Until shortly before, pods stay until
/// their next place is ready. Ours, not upstream's.
pub const ENDS_AT: &str = "plimsoll.dev/ends-at";
/// Annotation on NodeClaims: `"true"` if the claim was created below its pool's minValues.
pub const MIN_VALUES_RELAXED: &str = "karpenter.sh/nodeclaim-min-values-relaxed";
/// Label on Nodes that takes them out of cloud load balancers while they terminate.
pub const EXCLUDE_FROM_EXTERNAL_LB: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// Annotation on Pods that ranks them for deletion; read for the eviction cost.
pub const POD_DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Label: the cloud's name of the machine type.
pub const INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";
/// Label: the availability zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Label: the cloud region.
pub const REGION: &str = "topology.kubernetes.io/region";
/// Label: the CPU architecture in Go's words, `amd64` or `arm64`.
pub const ARCH: &str = "kubernetes.io/arch";
/// Label: the operating system, `linux` or `windows`.
pub const OS: &str = "kubernetes.io/os";
/// Label: the name of the node; never a requirement, since it names one machine.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// Label: the build of Windows.
pub const WINDOWS_BUILD: &str = "node.kubernetes.io/windows-build";

/// Value of [`ARCH`].
pub const ARCH_AMD64: &str = "amd64";
/// Value of [`ARCH`].
pub const ARCH_ARM64: &str = "arm64";

/// Value of [`CAPACITY_TYPE`].
pub const CAPACITY_SPOT: &str = "spot";
/// Value of [`CAPACITY_TYPE`].
pub const CAPACITY_ON_DEMAND: &str = "on-demand";
/// Value of [`CAPACITY_TYPE`].
pub const CAPACITY_RESERVED: &str = "reserved";

/// Finalizer on NodeClaims and Nodes: the machine is drained and terminated before the object goes.
pub const TERMINATION_FINALIZER: &str = "karpenter.sh/termination";
/// Annotation of a NodeClaim: the plan it comes from. Ours, not upstream's.
pub const PLAN: &str = "plimsoll.dev/plan";

/// Label of the kwok provider: the T-shirt size, e.g. `4x`.
pub const KWOK_INSTANCE_SIZE: &str = "karpenter.kwok.sh/instance-size";
/// Label of the kwok provider: the family, e.g. `c`, `s` or `m`.
pub const KWOK_INSTANCE_FAMILY: &str = "karpenter.kwok.sh/instance-family";
/// Label of the kwok provider: the number of vCPUs.
pub const KWOK_INSTANCE_CPU: &str = "karpenter.kwok.sh/instance-cpu";
/// Label of the kwok provider: memory.
pub const KWOK_INSTANCE_MEMORY: &str = "karpenter.kwok.sh/instance-memory";
/// Label of the kwok provider: the KWOKNodeClass of a claim or node.
pub const KWOK_NODECLASS: &str = "karpenter.kwok.sh/kwoknodeclass";
/// Annotation by which the kwok fake kubelet finds its Nodes; value `fake`.
pub const KWOK_NODE: &str = "kwok.x-k8s.io/node";

/// Label of the AWS provider: the EC2NodeClass of a claim or node.
pub const EC2NODECLASS: &str = "karpenter.k8s.aws/ec2nodeclass";
/// Label of the AWS provider: whether the hardware is shared with other customers.
pub const INSTANCE_TENANCY: &str = "karpenter.k8s.aws/instance-tenancy";
/// Label of the AWS provider: the zone's id, which names the same building in every account.
pub const ZONE_ID: &str = "topology.k8s.aws/zone-id";

/// Domains in which only well-known keys may be used. Source: Karpenter core and its AWS and kwok providers.
pub(crate) const KARPENTER_DOMAIN: &str = "karpenter.sh";
pub(crate) const AWS_DOMAIN: &str = "karpenter.k8s.aws";
pub(crate) const KWOK_DOMAIN: &str = "karpenter.kwok.sh";

/// Properties of an EC2 instance type that pods and pools may select on.
pub(crate) const AWS_INSTANCE_KEYS: &[&str] = &[
    "karpenter.k8s.aws/instance-accelerator-count",
    "karpenter.k8s.aws/instance-accelerator-manufacturer",
    "karpenter.k8s.aws/instance-accelerator-name",
    "karpenter.k8s.aws/instance-capability-flex",
    "karpenter.k8s.aws/instance-category",
    "karpenter.k8s.aws/instance-cpu",
    "karpenter.k8s.aws/instance-cpu-manufacturer",
    "karpenter.k8s.aws/instance-cpu-sustained-clock-speed-mhz",
    "karpenter.k8s.aws/instance-ebs-bandwidth",
    "karpenter.k8s.aws/instance-encryption-in-transit-supported",
    "karpenter.k8s.aws/instance-family",
    "karpenter.k8s.aws/instance-generation",
    "karpenter.k8s.aws/instance-gpu-count",
    "karpenter.k8s.aws/instance-gpu-manufacturer",
    "karpenter.k8s.aws/instance-gpu-memory",
    "karpenter.k8s.aws/instance-gpu-name",
    "karpenter.k8s.aws/instance-hypervisor",
    "karpenter.k8s.aws/instance-local-nvme",
    "karpenter.k8s.aws/instance-memory",
    "karpenter.k8s.aws/instance-network-bandwidth",
    "karpenter.k8s.aws/instance-size",
    "karpenter.k8s.aws/nitro-sandbox",
];

/// AWS keys that belong to one offering or one launch rather than to the type; a NodeOverlay may not select on them.
pub(crate) const AWS_PLACEMENT_KEYS: &[&str] = &[
    "karpenter.k8s.aws/capacity-reservation-id",
    "karpenter.k8s.aws/capacity-reservation-interruptible",
    "karpenter.k8s.aws/capacity-reservation-type",
    INSTANCE_TENANCY,
    "karpenter.k8s.aws/placement-group-id",
    "karpenter.k8s.aws/placement-group-partition",
];

/// Properties of a kwok instance type.
pub(crate) const KWOK_INSTANCE_KEYS: &[&str] = &[
    KWOK_INSTANCE_CPU,
    KWOK_INSTANCE_FAMILY,
    KWOK_INSTANCE_MEMORY,
    KWOK_INSTANCE_SIZE,
];

const WELL_KNOWN: &[&str] = &[
    NODEPOOL,
    CAPACITY_TYPE,
    ZONE,
    REGION,
    INSTANCE_TYPE,
    ARCH,
    OS,
    WINDOWS_BUILD,
    ZONE_ID,
];

/// The label that carries a NodeClass's name on its claims and nodes, e.g. `karpenter.k8s.aws/ec2nodeclass`.
pub fn nodeclass_label(group: &str, kind: &str) -> String {
    format!("{group}/{}", kind.to_lowercase())
}

/// Whether every machine may be assumed to have a value for this key, so that a requirement on it is compatible with
/// an instance type that does not define it. Takes a normalized key, see [`normalize`].
pub fn is_well_known(key: &str) -> bool {
    [
        WELL_KNOWN,
        AWS_INSTANCE_KEYS,
        AWS_PLACEMENT_KEYS,
        KWOK_INSTANCE_KEYS,
    ]
    .iter()
    .any(|keys| keys.contains(&key))
}

/// Why a user may not set or require this key, or `None` if they may.
///
/// A key is restricted when its domain is, or lies below, a domain of the controller and the key is not well known, or
/// when it names a single machine.
pub fn restricted(key: &str) -> Option<&'static str> {
    if key == HOSTNAME {
        return Some("kubernetes.io/hostname names one machine, which a template cannot");
    }
    if is_well_known(key) {
        return None;
    }
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    [
        (
            KARPENTER_DOMAIN,
            "the domain karpenter.sh is set by the controller; use one of its well-known labels",
        ),
        (
            AWS_DOMAIN,
            "the domain karpenter.k8s.aws is set by the AWS provider; use one of its well-known labels",
        ),
        (
            KWOK_DOMAIN,
            "the domain karpenter.kwok.sh is set by the kwok provider; use one of its well-known labels",
        ),
    ]
    .into_iter()
    .find(|(owned, _)| {
        domain == *owned
            || domain
                .strip_suffix(owned)
                .is_some_and(|parent| parent.ends_with('.'))
    })
    .map(|(_, reason)| reason)
}

/// The current key for one that Kubernetes has renamed, or that a CSI driver uses for the same fact.
pub fn normalize(key: &str) -> &str {
    match key {
        "failure-domain.beta.kubernetes.io/zone" | "topology.ebs.csi.aws.com/zone" => ZONE,
        "failure-domain.beta.kubernetes.io/region" => REGION,
        "beta.kubernetes.io/arch" => ARCH,
        "beta.kubernetes.io/os" => OS,
        "beta.kubernetes.io/instance-type" => INSTANCE_TYPE,
        other => other,
    }
}

/// Whether a text may be a label, annotation or taint key: a name of up to 63 characters, optionally after a DNS name of
/// up to 253 and a slash.
pub fn is_qualified_name(key: &str) -> bool {
    let (prefix, name) = key
        .split_once('/')
        .map_or((None, key), |(prefix, name)| (Some(prefix), name));
    !name.is_empty() && is_label_value(name) && prefix.is_none_or(is_dns_subdomain)
}

/// Whether a text may be the value of a label: empty, or up to 63 letters, digits, `-`, `_` and `.` between letters or
/// digits.
pub fn is_label_value(value: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match value.as_bytes() {
        [] => true,
        [only] => only.is_ascii_alphanumeric(),
        [first, middle @ .., last] => {
            value.len() <= 63
                && first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && middle.iter().all(|byte| inner(*byte))
        }
    }
}

fn is_dns_subdomain(name: &str) -> bool {
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        bytes.first().is_some_and(edge)
            && bytes.last().is_some_and(edge)
            && bytes.iter().all(|byte| edge(byte) || *byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodeclass_label_lower_cases_the_kind() {
        assert_eq!(nodeclass_label("karpenter.k8s.aws", "EC2NodeClass"), EC2NODECLASS);
        assert_eq!(
            nodeclass_label("karpenter.kwok.sh", "KWOKNodeClass"),
            KWOK_NODECLASS
        );
    }

    #[test]
    fn restriction_follows_the_domain_and_spares_well_known_keys() {
        let cases = [
            ("karpenter.sh/nodepool", false),
            ("karpenter.sh/capacity-type", false),
            ("karpenter.sh/registered", true),
            ("karpenter.sh/anything", true),
            ("sub.karpenter.sh/anything", true),
            ("notkarpenter.sh/anything", false),
            ("karpenter.sh.example.com/anything", false),
            ("karpenter.k8s.aws/instance-family", false),
            ("karpenter.k8s.aws/instance-tenancy", false),
            ("karpenter.k8s.aws/ec2nodeclass", true),
            ("karpenter.k8s.aws/anything", true),
            ("karpenter.kwok.sh/instance-size", false),
            ("karpenter.kwok.sh/anything", true),
            ("kubernetes.io/hostname", true),
            ("kubernetes.io/arch", false),
            ("topology.k8s.aws/zone-id", false),
            ("node-role.kubernetes.io/gpu", false),
            ("team", false),
            ("example.com/team", false),
        ];
        for (key, expected) in cases {
            assert_eq!(restricted(key).is_some(), expected, "{key}");
        }
    }

    #[test]
    fn old_keys_become_current_ones_and_others_stay() {
        assert_eq!(normalize("failure-domain.beta.kubernetes.io/zone"), ZONE);
        assert_eq!(normalize("failure-domain.beta.kubernetes.io/region"), REGION);
        assert_eq!(normalize("beta.kubernetes.io/arch"), ARCH);
        assert_eq!(normalize("beta.kubernetes.io/os"), OS);
        assert_eq!(normalize("beta.kubernetes.io/instance-type"), INSTANCE_TYPE);
        assert_eq!(normalize("topology.ebs.csi.aws.com/zone"), ZONE);
        assert_eq!(normalize("example.com/team"), "example.com/team");
    }

    #[test]
    fn qualified_names_and_values_follow_kubernetes() {
        let long = "a".repeat(64);
        let cases = [
            ("team", true),
            ("example.com/Team_1.x-y", true),
            ("", false),
            ("/team", false),
            ("example.com/", false),
            ("Example.com/team", false),
            ("example..com/team", false),
            ("-example.com/team", false),
            ("example.com/a/b", false),
            ("-team", false),
            ("team.", false),
            ("te am", false),
            (long.as_str(), false),
            (&long[1..], true),
        ];
        for (key, expected) in cases {
            assert_eq!(is_qualified_name(key), expected, "{key:?}");
        }
        for (value, expected) in [
            ("", true),
            ("a", true),
            ("1.2_3-x", true),
            ("-", false),
            ("a b", false),
            ("ä", false),
        ] {
            assert_eq!(is_label_value(value), expected, "{value:?}");
        }
    }
}
