//! What the controller asks of the API server, by mode. Secrets and ConfigMaps are not among it.

use plimsoll_api::{
    report,
    rights::{Right, Scope},
};
use plimsoll_report::kinds::{KINDS, Kind};

/// How much the controller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Reads, and keeps its Report and its Lease. Has no code path that changes anything else.
    Observe,
    /// The same, and keeps Plans that a person can approve. Acts on none.
    Advise,
    /// Buys and ends machines.
    Automate,
}

/// All modes, those that may do less first.
pub const MODES: [Mode; 3] = [Mode::Observe, Mode::Advise, Mode::Automate];

impl Mode {
    /// As flags, files and the chart name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Advise => "advise",
            Self::Automate => "automate",
        }
    }

    /// The Lease of its leader. One who only looks has its own, so that it runs beside Karpenter; one who acts has
    /// Karpenter's, so that the two can never act at once.
    pub fn lease(self) -> &'static str {
        match self {
            Self::Observe | Self::Advise => OBSERVER_LEASE,
            Self::Automate => KARPENTER_LEASE,
        }
    }

    /// What it asks for, without the provider's share.
    pub fn rights(self) -> Vec<Right> {
        let watched = |kind: &Kind| Right::cluster(kind.group, kind.plural, LOOK, kind.use_);
        let mut rights: Vec<Right> = KINDS.iter().map(watched).collect();
        rights.extend(REPORT);
        rights.extend(lease(self));
        match self {
            Self::Observe => {}
            Self::Advise => rights.extend(PLANS),
            Self::Automate => rights.extend(ACTS),
        }
        rights
    }
}

const OBSERVER_LEASE: &str = "plimsoll-observer";
const KARPENTER_LEASE: &str = "karpenter-leader-election";

const LOOK: &[&str] = &["list", "watch"];

/// Its Report. Creation cannot be limited to a name.
const REPORT: [Right; 3] = [
    Right::cluster(
        "plimsoll.dev",
        "reports",
        &["create"],
        "the report in the cluster",
    ),
    Right {
        names: &[report::NAME],
        ..Right::cluster("plimsoll.dev", "reports", &["get"], "the report in the cluster")
    },
    Right {
        names: &[report::NAME],
        ..Right::cluster(
            "plimsoll.dev",
            "reports/status",
            &["update"],
            "the report in the cluster",
        )
    },
];

/// Its Plans, whose names follow from what they say.
const PLANS: [Right; 2] = [
    Right::cluster(
        "plimsoll.dev",
        "plans",
        &["create", "delete", "list"],
        "plans that a person can approve; the oldest superseded ones go",
    ),
    Right::cluster(
        "plimsoll.dev",
        "plans/status",
        &["update"],
        "whether a plan still holds",
    ),
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
        Mode::Observe | Mode::Advise => &[OBSERVER_LEASE],
        Mode::Automate => &[KARPENTER_LEASE],
    };
    [
        in_namespace("leases", &["create"], &[]),
        in_namespace("leases", USE, names),
    ]
}

/// What it takes to act.
const ACTS: [Right; 9] = [
    Right::cluster(
        "karpenter.sh",
        "nodeclaims",
        &["create", "delete", "patch"],
        "orders machines and lets them go; finalizers and labels of claims",
    ),
    Right::cluster(
        "karpenter.sh",
        "nodeclaims/status",
        &["patch"],
        "how far a machine has come",
    ),
    Right::cluster(
        "karpenter.sh",
        "nodepools",
        &["patch"],
        "the hash by which drift is seen",
    ),
    Right::cluster(
        "karpenter.sh",
        "nodepools/status",
        &["patch"],
        "readiness and usage of a pool",
    ),
    Right::cluster(
        "",
        "nodes",
        &["delete", "patch"],
        "labels, taints and the end of machines; with a UID each",
    ),
    Right::cluster(
        "",
        "pods",
        &["delete"],
        "pods that outlive their node's terminationGracePeriod, with a UID each",
    ),
    Right::cluster(
        "",
        "pods/eviction",
        &["create"],
        "drains that respect PodDisruptionBudgets",
    ),
    Right::cluster(
        "",
        "pods/status",
        &["patch"],
        "nominatedNodeName: pods go where they were planned",
    ),
    Right::cluster(
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
    fn who_does_not_act_writes_only_what_is_its_own() {
        let own = ["reports", "reports/status", "leases"];
        for right in Mode::Observe.rights() {
            let reads = right.verbs.iter().all(|v| ["get", "list", "watch"].contains(v));
            assert!(reads || own.contains(&right.resource), "{right:?}");
        }
        let observes = Mode::Observe.rights();
        let advises: Vec<Right> = Mode::Advise.rights();
        let more: Vec<&Right> = advises.iter().filter(|right| !observes.contains(right)).collect();
        assert!(
            more.iter()
                .all(|right| ["plans", "plans/status"].contains(&right.resource)),
            "{more:?}"
        );
        assert_eq!(advises.len(), observes.len() + PLANS.len());
        assert_eq!(Mode::Advise.lease(), Mode::Observe.lease());
        assert_ne!(Mode::Observe.lease(), Mode::Automate.lease());
    }
}
