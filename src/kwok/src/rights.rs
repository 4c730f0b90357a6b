//! What the provider asks of the API server, beside what the controller does.

use plimsoll_api::rights::{Right, Scope};

const fn cluster(
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    why: &'static str,
) -> Right {
    Right {
        group,
        resource,
        verbs,
        names: &[],
        scope: Scope::Cluster,
        why,
    }
}

/// All of it: its machines are Node objects.
pub const RIGHTS: [Right; 3] = [
    cluster(
        "",
        "nodes",
        &["create", "delete", "get", "list"],
        "kwok: its machines are Node objects",
    ),
    cluster(
        "karpenter.kwok.sh",
        "kwoknodeclasses",
        &["get"],
        "kwok: settings of its machines",
    ),
    cluster(
        "karpenter.sh",
        "nodeclaims",
        &["get"],
        "kwok: whether a claim still stands when its Node is made late",
    ),
];
