//! What the controller asks of the API server, by mode. Secrets and ConfigMaps are not among it.

use plimsoll_api::{
    report,
    rights::{Right, Scope},
};

/// How much the controller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Reads, and keeps its Report and its Lease. Has no code path that changes anything else.
    Observe,
    /// Buys and ends machines.
    Automate,
}

/// All modes, those that may do less first.
pub const MODES: [Mode; 2] = [Mode::Observe, Mode::Automate];

impl Mode {
    /// As flags, files and the chart name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Automate => "automate",
        }
    }

    /// The Lease of its leader. One who only looks has its own, so that it runs beside Karpenter; one who acts has
    /// Karpenter's, so that the two can never act at once.
    pub fn lease(self) -> &'static str {
        match self {
            Self::Observe => OBSERVER_LEASE,
            Self::Automate => KARPENTER_LEASE,
        }
    }

    /// What it asks for, without the provider's share.
    pub fn rights(self) -> Vec<Right> {
        let mut rights = READS.to_vec();
        rights.extend(REPORT);
        rights.extend(lease(self));
        if self == Self::Automate {
            rights.extend(ACTS);
        }
        rights
    }
}

const OBSERVER_LEASE: &str = "plimsoll-observer";
const KARPENTER_LEASE: &str = "karpenter-leader-election";

const LOOK: &[&str] = &["list", "watch"];

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

/// The twelve kinds it watches.
const READS: [Right; 12] = [
    cluster("", "nodes", LOOK, "what is paid for, and what has room"),
    cluster(
        "",
        "pods",
        LOOK,
        "what runs, what waits, what it requests and where it may go",
    ),
    cluster(
        "policy",
        "poddisruptionbudgets",
        LOOK,
        "which pods may not be evicted now",
    ),
    cluster("apps", "daemonsets", LOOK, "what runs on every new machine"),
    cluster("", "namespaces", LOOK, "namespace selectors of affinity terms"),
    cluster(
        "",
        "persistentvolumeclaims",
        LOOK,
        "where a pod's volumes can be reached",
    ),
    cluster(
        "",
        "persistentvolumes",
        LOOK,
        "where a pod's volumes can be reached",
    ),
    cluster(
        "storage.k8s.io",
        "storageclasses",
        LOOK,
        "zones of volumes yet to be made",
    ),
    cluster(
        "storage.k8s.io",
        "csinodes",
        LOOK,
        "how many volumes a machine can attach",
    ),
    cluster(
        "storage.k8s.io",
        "volumeattachments",
        LOOK,
        "whether a drained machine still holds a volume",
    ),
    cluster("karpenter.sh", "nodepools", LOOK, "what may be bought"),
    cluster(
        "karpenter.sh",
        "nodeclaims",
        LOOK,
        "which machines a NodePool owns",
    ),
];

/// Its Report. Creation cannot be limited to a name.
const REPORT: [Right; 3] = [
    cluster(
        "plimsoll.dev",
        "reports",
        &["create"],
        "the report in the cluster",
    ),
    Right {
        names: &[report::NAME],
        ..cluster("plimsoll.dev", "reports", &["get"], "the report in the cluster")
    },
    Right {
        names: &[report::NAME],
        ..cluster(
            "plimsoll.dev",
            "reports/status",
            &["update"],
            "the report in the cluster",
        )
    },
];

const fn in_namespace(
    resource: &'static str,
    verbs: &'static [&'static str],
    names: &'static [&'static str],
) -> Right {
    Right {
        group: "coordination.k8s.io",
        resource,
        verbs,
        names,
        scope: Scope::OwnNamespace,
        why: "replicas take turns; without it the controller does nothing",
    }
}

fn lease(mode: Mode) -> [Right; 2] {
    const USE: &[&str] = &["get", "update"];
    let names: &'static [&'static str] = match mode {
        Mode::Observe => &[OBSERVER_LEASE],
        Mode::Automate => &[KARPENTER_LEASE],
    };
    [
        in_namespace("leases", &["create"], &[]),
        in_namespace("leases", USE, names),
    ]
}

/// What it takes to act.
const ACTS: [Right; 9] = [
    cluster(
        "karpenter.sh",
        "nodeclaims",
        &["create", "delete", "patch"],
        "orders machines and lets them go; finalizers and labels of claims",
    ),
    cluster(
        "karpenter.sh",
        "nodeclaims/status",
        &["patch"],
        "how far a machine has come",
    ),
    cluster(
        "karpenter.sh",
        "nodepools",
        &["patch"],
        "the hash by which drift is seen",
    ),
    cluster(
        "karpenter.sh",
        "nodepools/status",
        &["patch"],
        "readiness and usage of a pool",
    ),
    cluster(
        "",
        "nodes",
        &["delete", "patch"],
        "labels, taints and the end of machines; with a UID each",
    ),
    cluster(
        "",
        "pods",
        &["delete"],
        "pods that outlive their node's terminationGracePeriod, with a UID each",
    ),
    cluster(
        "",
        "pods/eviction",
        &["create"],
        "drains that respect PodDisruptionBudgets",
    ),
    cluster(
        "",
        "pods/status",
        &["patch"],
        "nominatedNodeName: pods go where they were planned",
    ),
    cluster(
        "",
        "events",
        &["create"],
        "says what is done and why, on the objects concerned",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mode_may_read_secrets_or_do_everything() {
        for mode in MODES {
            for right in mode.rights() {
                let kind = right.resource.split('/').next().unwrap();
                assert!(!["secrets", "configmaps"].contains(&kind), "{mode:?}: {right:?}");
                let words = [right.group, right.resource];
                assert!(
                    !words.iter().chain(right.verbs).any(|w| w.contains('*')),
                    "{right:?}"
                );
                assert!(!right.why.is_empty() && !right.verbs.is_empty(), "{right:?}");
            }
        }
    }

    #[test]
    fn who_observes_writes_only_what_is_its_own() {
        let own = ["reports", "reports/status", "leases"];
        for right in Mode::Observe.rights() {
            let reads = right.verbs.iter().all(|v| ["get", "list", "watch"].contains(v));
            assert!(reads || own.contains(&right.resource), "{right:?}");
        }
        assert_ne!(Mode::Observe.lease(), Mode::Automate.lease());
    }
}
