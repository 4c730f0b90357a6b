//! Settings of Karpenter that are set and have no effect here. Said once at the start, because whoever swaps the
//! controller leaves them in the Deployment.

use crate::gates;

/// Settings as the chart of Karpenter names them, the value that changes nothing, and what is done instead.
const SETTINGS: &[(&str, &str, &str)] = &[
    (
        "ENABLE_ZONAL_SHIFT",
        "false",
        "zones that Amazon ARC has shifted away are launched into all the same",
    ),
    (
        "EKS_CONTROL_PLANE",
        "false",
        "the version of Kubernetes is asked of the API server",
    ),
    ("IGNORE_DRA_REQUESTS", "true", "DRA requests are always ignored"),
    (
        "DISABLE_CLUSTER_STATE_OBSERVABILITY",
        "false",
        "metrics of the cluster's state are always kept",
    ),
    (
        "DISABLE_CONTROLLER_WARMUP",
        "true",
        "a replica in waiting always keeps its picture of the cluster current",
    ),
    ("ENABLE_PROFILING", "false", "there are no profiles to be had"),
    (
        "KUBE_CLIENT_QPS",
        "",
        "the API server's own fairness bounds the calls",
    ),
    (
        "KUBE_CLIENT_BURST",
        "",
        "the API server's own fairness bounds the calls",
    ),
    ("LOG_OUTPUT_PATHS", "stdout", "logs go to stdout"),
    ("LOG_ERROR_OUTPUT_PATHS", "stderr", "logs go to stdout"),
];

/// Gates that can be opened with Karpenter and not here, in FEATURE_GATES and AWS_FEATURE_GATES.
const GATES: &[(&str, &str, &str)] = &[
    (
        "FEATURE_GATES",
        "SpotToSpotConsolidation",
        "nodes that are not empty are not consolidated",
    ),
    ("FEATURE_GATES", "NodeRepair", "nodes are not repaired"),
    ("FEATURE_GATES", "NodeOverlay", "NodeOverlays have no effect"),
    ("FEATURE_GATES", "StaticCapacity", "spec.replicas has no effect"),
    (
        "FEATURE_GATES",
        "CapacityBuffer",
        "CapacityBuffers have no effect",
    ),
    (
        "AWS_FEATURE_GATES",
        "NodeClassCEL",
        "expressions in spec.kubelet are not evaluated",
    ),
];

/// One line for each setting that is made in vain.
pub(crate) fn lines(setting: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let made = |name: &str| setting(name).filter(|value| !value.is_empty());
    let in_vain = SETTINGS.iter().filter_map(|(name, idle, instead)| {
        let value = made(name).filter(|value| value != idle)?;
        Some(format!("{name}={value} has no effect: {instead}"))
    });
    let gates = GATES.iter().filter_map(|(name, gate, instead)| {
        let is_open = gates::said(&made(name)?, gate) == Some(true);
        is_open.then(|| format!("{gate}=true in {name} has no effect: {instead}"))
    });
    in_vain.chain(gates).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_meant_to_change_something_is_said() {
        let of = |pairs: &[(&str, &str)]| {
            lines(|name| {
                let found = pairs.iter().find(|(n, _)| *n == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        // What Karpenter's chart always sets.
        let defaults = [
            ("IGNORE_DRA_REQUESTS", "true"),
            ("LOG_OUTPUT_PATHS", "stdout"),
            ("LOG_ERROR_OUTPUT_PATHS", "stderr"),
            ("DISABLE_CLUSTER_STATE_OBSERVABILITY", "false"),
            ("ENABLE_ZONAL_SHIFT", ""),
            (
                "FEATURE_GATES",
                "ReservedCapacity=true,SpotToSpotConsolidation=false,NodeRepair=false,NodeOverlay=false,\
                 StaticCapacity=false,CapacityBuffer=false",
            ),
        ];
        assert_eq!(of(&defaults), Vec::<String>::new());
        assert_eq!(
            of(&[
                ("ENABLE_ZONAL_SHIFT", "true"),
                ("FEATURE_GATES", "NodeRepair=true, NodeOverlay=true"),
                ("AWS_FEATURE_GATES", "NodeClassCEL=true"),
            ]),
            [
                "ENABLE_ZONAL_SHIFT=true has no effect: zones that Amazon ARC has shifted away are launched into all \
                 the same",
                "NodeRepair=true in FEATURE_GATES has no effect: nodes are not repaired",
                "NodeOverlay=true in FEATURE_GATES has no effect: NodeOverlays have no effect",
                "NodeClassCEL=true in AWS_FEATURE_GATES has no effect: expressions in spec.kubelet are not evaluated",
            ]
        );
    }
}
