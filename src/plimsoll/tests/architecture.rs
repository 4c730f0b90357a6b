//! Dependencies between our crates point one way. A new edge is an architectural change: it is made here
//! and in ARCHITECTURE.md, or not at all.

use std::{collections::BTreeMap, process::Command};

/// What each crate may depend on, of ours.
const ALLOWED: &[(&str, &[&str])] = &[
    ("plimsoll-core", &[]),
    ("plimsoll-api", &[]),
    ("plimsoll-state", &["plimsoll-api", "plimsoll-core"]),
    ("plimsoll-provider", &["plimsoll-api", "plimsoll-core"]),
    (
        "plimsoll-lifecycle",
        &[
            "plimsoll-api",
            "plimsoll-core",
            "plimsoll-provider",
            "plimsoll-state",
        ],
    ),
    (
        "plimsoll-kwok",
        &["plimsoll-api", "plimsoll-core", "plimsoll-provider"],
    ),
    (
        "plimsoll-aws",
        &[
            "plimsoll-api",
            "plimsoll-core",
            "plimsoll-provider",
            "plimsoll-state",
        ],
    ),
    (
        "plimsoll-controller",
        &[
            "plimsoll-api",
            "plimsoll-core",
            "plimsoll-lifecycle",
            "plimsoll-provider",
            "plimsoll-report",
            "plimsoll-state",
        ],
    ),
    (
        "plimsoll-sim",
        &[
            "plimsoll-api",
            "plimsoll-core",
            "plimsoll-lifecycle",
            "plimsoll-provider",
            "plimsoll-state",
        ],
    ),
    (
        "plimsoll-report",
        &["plimsoll-api", "plimsoll-core", "plimsoll-state"],
    ),
    (
        "plimsoll",
        &[
            "plimsoll-api",
            "plimsoll-aws",
            "plimsoll-controller",
            "plimsoll-core",
            "plimsoll-kwok",
            "plimsoll-provider",
            "plimsoll-report",
            "plimsoll-state",
        ],
    ),
    ("plimsoll-bench", &["plimsoll-core"]),
    ("plimsoll-e2e", &["plimsoll-api"]),
];

/// What some crates must never name, whatever the reason.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "plimsoll-core",
        &["kube", "k8s-openapi", "tokio", "tracing", "rand"],
    ),
    ("plimsoll-sim", &["tokio"]),
    ("plimsoll-report", &["tokio"]),
];

#[test]
fn dependencies_point_one_way() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let mut packages: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let normal = |d: &&serde_json::Value| d["kind"].is_null();
        let names = package["dependencies"]
            .as_array()
            .expect("dependencies")
            .iter()
            .filter(normal);
        let names = names
            .filter_map(|d| d["name"].as_str())
            .map(str::to_owned)
            .collect();
        packages.insert(package["name"].as_str().expect("a name").to_owned(), names);
    }

    let listed: Vec<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    let unlisted: Vec<_> = packages
        .keys()
        .filter(|name| !listed.contains(&name.as_str()))
        .collect();
    assert!(
        unlisted.is_empty(),
        "crates without a place in the architecture: {unlisted:?}"
    );

    for (name, allowed) in ALLOWED {
        let dependencies = packages
            .get(*name)
            .unwrap_or_else(|| panic!("{name} is gone; take it out of the list"));
        let wrong: Vec<_> = dependencies
            .iter()
            .filter(|d| d.starts_with("plimsoll") && !allowed.contains(&d.as_str()))
            .collect();
        assert!(wrong.is_empty(), "{name} must not depend on {wrong:?}");
    }
    for (name, forbidden) in FORBIDDEN {
        let wrong: Vec<_> = packages[*name]
            .iter()
            .filter(|d| forbidden.contains(&d.as_str()))
            .collect();
        assert!(wrong.is_empty(), "{name} must not depend on {wrong:?}");
    }
    let naming_a_cloud: Vec<_> = packages
        .iter()
        .filter(|(_, d)| d.iter().any(|d| d.starts_with("aws-")))
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(
        naming_a_cloud,
        ["plimsoll-aws"],
        "one crate names the AWS SDK, so that everything else builds without it"
    );
}
