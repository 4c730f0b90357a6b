//! The taints the controller sets, and the ones that pass by themselves while a node starts.

use k8s_openapi::api::core::v1::Taint;

/// Key of the taint a machine must register with, so that nothing runs on it before its NodeClaim is matched.
pub const UNREGISTERED: &str = "karpenter.sh/unregistered";
/// Key of the taint on a node that is going to be, or is being, removed.
pub const DISRUPTED: &str = "karpenter.sh/disrupted";

const NO_EXECUTE: &str = "NoExecute";
/// Effect of a taint that keeps pods away and lets those be that are there.
pub const NO_SCHEDULE: &str = "NoSchedule";

/// The taint a machine registers with; removed at registration.
pub fn unregistered() -> Taint {
    taint(UNREGISTERED, NO_EXECUTE)
}

/// The taint that keeps new pods off a node chosen for disruption or in termination.
pub fn disrupted() -> Taint {
    taint(DISRUPTED, NO_SCHEDULE)
}

/// Whether a taint is part of a node's start and goes away by itself, so that it does not count against a node that
/// is not yet initialized. Source: the known ephemeral taints of Karpenter's scheduler.
pub fn is_ephemeral(taint: &Taint) -> bool {
    let value = taint.value.as_deref().unwrap_or_default();
    match (taint.key.as_str(), taint.effect.as_str()) {
        ("node.kubernetes.io/not-ready" | UNREGISTERED, NO_EXECUTE)
        | ("node.kubernetes.io/not-ready" | "node.kubernetes.io/unreachable", NO_SCHEDULE) => {
            value.is_empty()
        }
        ("node.cloudprovider.kubernetes.io/uninitialized", NO_SCHEDULE) => value == "true",
        (key, _) => key.starts_with("readiness.k8s.io/"),
    }
}

fn taint(key: &str, effect: &str) -> Taint {
    Taint {
        key: key.to_owned(),
        effect: effect.to_owned(),
        value: None,
        time_added: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ephemeral_taints_are_exactly_the_known_ones() {
        let cases = [
            ("node.kubernetes.io/not-ready", None, "NoSchedule", true),
            ("node.kubernetes.io/not-ready", None, "NoExecute", true),
            ("node.kubernetes.io/unreachable", None, "NoSchedule", true),
            ("node.kubernetes.io/unreachable", None, "NoExecute", false),
            (
                "node.cloudprovider.kubernetes.io/uninitialized",
                Some("true"),
                "NoSchedule",
                true,
            ),
            (
                "node.cloudprovider.kubernetes.io/uninitialized",
                Some("false"),
                "NoSchedule",
                false,
            ),
            (
                "node.cloudprovider.kubernetes.io/uninitialized",
                Some("true"),
                "NoExecute",
                false,
            ),
            ("karpenter.sh/unregistered", None, "NoExecute", true),
            ("karpenter.sh/unregistered", None, "NoSchedule", false),
            ("karpenter.sh/disrupted", None, "NoSchedule", false),
            ("readiness.k8s.io/network", Some("x"), "NoSchedule", true),
            ("node.kubernetes.io/memory-pressure", None, "NoSchedule", false),
            ("dedicated", Some("gpu"), "NoSchedule", false),
        ];
        for (key, value, effect, expected) in cases {
            let taint = Taint {
                key: key.to_owned(),
                value: value.map(str::to_owned),
                effect: effect.to_owned(),
                time_added: None,
            };
            assert_eq!(is_ephemeral(&taint), expected, "{key}={value:?}:{effect}");
        }
    }

    #[test]
    fn own_taints_have_the_effects_nodes_register_with() {
        assert_eq!(
            (unregistered().key.as_str(), unregistered().effect.as_str()),
            (UNREGISTERED, "NoExecute")
        );
        assert_eq!(
            (disrupted().key.as_str(), disrupted().effect.as_str()),
            (DISRUPTED, "NoSchedule")
        );
        assert!(is_ephemeral(&unregistered()) && !is_ephemeral(&disrupted()));
    }
}
