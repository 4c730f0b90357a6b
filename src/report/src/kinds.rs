//! The kinds a report reads, in one table: what is listed live, taken from files, kept in snapshots, and asked for in
//! the role of a cluster reader.

use std::{collections::BTreeMap, fmt::Write as _};

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    /// Without it there is nothing to say; without the others the report is only less exact.
    pub needed: bool,
    /// What is less exact without it.
    pub use_: &'static str,
}

const fn kind(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    needed: bool,
    use_: &'static str,
) -> Kind {
    Kind {
        group,
        version,
        kind,
        plural,
        needed,
        use_,
    }
}

/// All of them. Secrets and ConfigMaps are not among them and never will be.
pub const KINDS: [Kind; 12] = [
    kind("", "v1", "Node", "nodes", true, "what is paid for"),
    kind("", "v1", "Pod", "pods", true, "what runs and what it requests"),
    kind(
        "policy",
        "v1",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        false,
        "budgets that forbid evictions are not seen",
    ),
    kind(
        "apps",
        "v1",
        "DaemonSet",
        "daemonsets",
        false,
        "what runs on every new machine is guessed from running pods",
    ),
    kind(
        "",
        "v1",
        "Namespace",
        "namespaces",
        false,
        "namespace selectors of affinity terms match nothing",
    ),
    kind(
        "",
        "v1",
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        false,
        "pods may be moved out of reach of their volumes",
    ),
    kind(
        "",
        "v1",
        "PersistentVolume",
        "persistentvolumes",
        false,
        "pods may be moved out of reach of their volumes",
    ),
    kind(
        "storage.k8s.io",
        "v1",
        "StorageClass",
        "storageclasses",
        false,
        "zones of volumes yet to be made are not known",
    ),
    kind(
        "storage.k8s.io",
        "v1",
        "CSINode",
        "csinodes",
        false,
        "limits of attached volumes are not known",
    ),
    kind(
        "storage.k8s.io",
        "v1",
        "VolumeAttachment",
        "volumeattachments",
        false,
        "drains do not wait for volumes to be detached",
    ),
    kind(
        KARPENTER,
        "v1",
        "NodePool",
        "nodepools",
        false,
        "what may be bought is guessed from the machines that exist",
    ),
    kind(
        KARPENTER,
        "v1",
        "NodeClaim",
        "nodeclaims",
        false,
        "machines of NodePools cannot be told from others",
    ),
];

impl Kind {
    /// As objects carry it.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Path of the list of all objects in all namespaces.
    pub fn path(&self) -> String {
        if self.group.is_empty() {
            format!("/api/{}/{}", self.version, self.plural)
        } else {
            format!("/apis/{}/{}/{}", self.group, self.version, self.plural)
        }
    }

    /// As kubectl and RBAC name it, with the group.
    pub fn resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }
}

/// What the group of Karpenter's kinds is called: not every cluster has them.
const KARPENTER: &str = "karpenter.sh";

/// The command that writes all of them; where they are not installed, the second half says so and writes nothing.
pub fn kubectl_get() -> String {
    let plurals = |karpenter: bool| {
        let kinds = KINDS.iter().filter(|kind| (kind.group == KARPENTER) == karpenter);
        kinds.map(|kind| kind.plural).collect::<Vec<_>>().join(",")
    };
    format!(
        "(kubectl get {} -A -o json; kubectl get {} -o json)",
        plurals(false),
        plurals(true)
    )
}

/// The ClusterRole that lets an account make reports and plans, and nothing else.
pub fn reader_role() -> String {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for kind in &KINDS {
        groups.entry(kind.group).or_default().push(kind.plural);
    }
    let mut out = String::from(
        "# All that `plimsoll report`, `plan`, `explain` and `snapshot` ask for. Generated from the table of kinds they \
         read.\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: plimsoll-reader\n  labels:\n    \
         app.kubernetes.io/name: plimsoll\n    app.kubernetes.io/managed-by: plimsoll\nrules:\n",
    );
    for (group, mut plurals) in groups {
        plurals.sort_unstable();
        let _ = write!(
            out,
            "- apiGroups: [{group:?}]\n  resources: [{}]\n  verbs: [get, list]\n",
            plurals.join(", ")
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_may_hold_a_secret_is_read() {
        for kind in &KINDS {
            assert!(
                !["secrets", "configmaps"].contains(&kind.plural),
                "{}",
                kind.plural
            );
        }
        let role = reader_role();
        assert!(
            !role.contains('*') && role.matches("verbs: [get, list]").count() == 5,
            "{role}"
        );
        assert_eq!(KINDS[0].path(), "/api/v1/nodes");
        assert_eq!(KINDS[2].path(), "/apis/policy/v1/poddisruptionbudgets");
        assert_eq!(KINDS[2].resource(), "poddisruptionbudgets.policy");
    }
}
