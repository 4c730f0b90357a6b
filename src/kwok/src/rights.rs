//! What the provider asks of the API server, beside what the controller does.

use plimsoll_api::rights::Right;

/// All of it: its machines are Node objects.
pub const RIGHTS: [Right; 3] = [
    Right::cluster(
        "",
        "nodes",
        &["create", "delete", "get", "list"],
        "kwok: its machines are Node objects",
    ),
    Right::cluster(
        "karpenter.kwok.sh",
        "kwoknodeclasses",
        &["get"],
        "kwok: settings of its machines",
    ),
    Right::cluster(
        "karpenter.sh",
        "nodeclaims",
        &["get"],
        "kwok: whether a claim still stands when its Node is made late",
    ),
];
