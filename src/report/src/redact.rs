//! What may leave the cluster: an allow-list of fields by kind. Everything else is dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

/// Annotations that are kept, of any kind.
pub const ANNOTATIONS: [&str; 4] = [
    "karpenter.sh/do-not-disrupt",
    "controller.kubernetes.io/pod-deletion-cost",
    "cluster-autoscaler.kubernetes.io/safe-to-evict",
    "cluster-autoscaler.kubernetes.io/scale-down-disabled",
];

/// Labels that are kept whether or not a selector looks at them; a trailing `*` stands for the rest of a key.
pub const LABELS: [&str; 17] = [
    "karpenter.sh/*",
    "karpenter.k8s.aws/*",
    "karpenter.kwok.sh/*",
    "topology.kubernetes.io/*",
    "topology.k8s.aws/*",
    "topology.ebs.csi.aws.com/zone",
    "failure-domain.beta.kubernetes.io/*",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/*",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "kubernetes.io/hostname",
    "node-role.kubernetes.io/*",
    "eks.amazonaws.com/*",
    "alpha.eksctl.io/nodegroup-name",
    "kops.k8s.io/instancegroup",
    "pod-template-hash",
];

/// Fields of every kind.
pub const METADATA: [&str; 14] = [
    "apiVersion",
    "kind",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "metadata.resourceVersion",
    "metadata.generation",
    "metadata.creationTimestamp",
    "metadata.deletionTimestamp",
    "metadata.ownerReferences[].apiVersion",
    "metadata.ownerReferences[].kind",
    "metadata.ownerReferences[].name",
    "metadata.ownerReferences[].uid",
    "metadata.ownerReferences[].controller",
];

/// A label selector's fields, below any field that holds one.
const SELECTOR: [&str; 4] = [
    "matchLabels.*",
    "matchExpressions[].key",
    "matchExpressions[].operator",
    "matchExpressions[].values[]",
];

/// Fields by kind. `[]` is every item of a list, `.*` every entry of a map of plain values, `.{}` only that the field is
/// there, and `.<selector>` a label selector.
pub const FIELDS: [(&str, &[&str]); 12] = [
    (
        "Node",
        &[
            "spec.providerID",
            "spec.unschedulable",
            "spec.taints[].key",
            "spec.taints[].value",
            "spec.taints[].effect",
            "status.capacity.*",
            "status.allocatable.*",
            "status.conditions[].type",
            "status.conditions[].status",
        ],
    ),
    ("Pod", POD),
    (
        "DaemonSet",
        &[
            "spec.selector.<selector>",
            "spec.template.metadata.labels.*",
            "spec.template.spec.<pod>",
        ],
    ),
    (
        "PodDisruptionBudget",
        &[
            "spec.minAvailable",
            "spec.maxUnavailable",
            "spec.unhealthyPodEvictionPolicy",
            "spec.selector.<selector>",
            "status.disruptionsAllowed",
            "status.currentHealthy",
            "status.desiredHealthy",
            "status.expectedPods",
        ],
    ),
    ("Namespace", &[]),
    (
        "PersistentVolumeClaim",
        &["spec.volumeName", "spec.storageClassName"],
    ),
    (
        "PersistentVolume",
        &[
            "spec.nodeAffinity.required.<terms>",
            "spec.csi.driver",
            "spec.csi.volumeHandle",
            "spec.local.{}",
            "spec.hostPath.{}",
        ],
    ),
    (
        "StorageClass",
        &[
            "provisioner",
            "volumeBindingMode",
            "allowedTopologies[].matchLabelExpressions[].key",
            "allowedTopologies[].matchLabelExpressions[].values[]",
        ],
    ),
    (
        "CSINode",
        &[
            "spec.drivers[].name",
            "spec.drivers[].nodeID",
            "spec.drivers[].allocatable.count",
        ],
    ),
    (
        "VolumeAttachment",
        &[
            "spec.attacher",
            "spec.nodeName",
            "spec.source.persistentVolumeName",
        ],
    ),
    (
        "NodePool",
        &[
            "spec.weight",
            "spec.replicas",
            "spec.limits.*",
            "spec.disruption.consolidateAfter",
            "spec.disruption.consolidationPolicy",
            "spec.disruption.budgets[].nodes",
            "spec.disruption.budgets[].schedule",
            "spec.disruption.budgets[].duration",
            "spec.disruption.budgets[].reasons[]",
            "spec.template.metadata.labels.*",
            "spec.template.spec.nodeClassRef.group",
            "spec.template.spec.nodeClassRef.kind",
            "spec.template.spec.nodeClassRef.name",
            "spec.template.spec.expireAfter",
            "spec.template.spec.terminationGracePeriod",
            "spec.template.spec.<machine>",
            "status.conditions[].type",
            "status.conditions[].status",
            "status.conditions[].reason",
            "status.conditions[].lastTransitionTime",
        ],
    ),
    (
        "NodeClaim",
        &[
            "spec.nodeClassRef.group",
            "spec.nodeClassRef.kind",
            "spec.nodeClassRef.name",
            "spec.expireAfter",
            "spec.resources.requests.*",
            "spec.<machine>",
            "status.nodeName",
            "status.providerID",
            "status.capacity.*",
            "status.allocatable.*",
            "status.lastPodEventTime",
            "status.conditions[].type",
            "status.conditions[].status",
            "status.conditions[].reason",
            "status.conditions[].lastTransitionTime",
        ],
    ),
];

/// A pod's own fields.
const POD: &[&str] = &[
    "spec.<pod>",
    "status.phase",
    "status.startTime",
    "status.nominatedNodeName",
    "status.conditions[].type",
    "status.conditions[].status",
    "status.conditions[].reason",
];

/// What `<pod>` stands for.
const POD_SPEC: &[&str] = &[
    "nodeName",
    "nodeSelector.*",
    "priority",
    "priorityClassName",
    "terminationGracePeriodSeconds",
    "hostNetwork",
    "overhead.*",
    "resources.requests.*",
    "containers[].image",
    "containers[].resources.requests.*",
    "containers[].restartPolicy",
    "containers[].ports[].hostPort",
    "containers[].ports[].hostIP",
    "containers[].ports[].protocol",
    "initContainers[].image",
    "initContainers[].resources.requests.*",
    "initContainers[].restartPolicy",
    "initContainers[].ports[].hostPort",
    "initContainers[].ports[].hostIP",
    "initContainers[].ports[].protocol",
    "tolerations[].key",
    "tolerations[].operator",
    "tolerations[].value",
    "tolerations[].effect",
    "tolerations[].tolerationSeconds",
    "volumes[].name",
    "volumes[].persistentVolumeClaim.claimName",
    "volumes[].ephemeral.{}",
    "volumes[].emptyDir.{}",
    "volumes[].hostPath.{}",
    "topologySpreadConstraints[].maxSkew",
    "topologySpreadConstraints[].minDomains",
    "topologySpreadConstraints[].topologyKey",
    "topologySpreadConstraints[].whenUnsatisfiable",
    "topologySpreadConstraints[].nodeAffinityPolicy",
    "topologySpreadConstraints[].nodeTaintsPolicy",
    "topologySpreadConstraints[].matchLabelKeys[]",
    "topologySpreadConstraints[].labelSelector.<selector>",
    "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.<terms>",
    "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].weight",
    "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].preference.<term>",
    "affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[].<affinity>",
    "affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[].weight",
    "affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.<affinity>",
    "affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[].<affinity>",
    "affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[].weight",
    "affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[].podAffinityTerm.<affinity>",
];

/// What `<machine>` stands for: how a NodePool or NodeClaim describes a machine.
const MACHINE: &[&str] = &[
    "requirements[].key",
    "requirements[].operator",
    "requirements[].values[]",
    "requirements[].minValues",
    "taints[].key",
    "taints[].value",
    "taints[].effect",
    "startupTaints[].key",
    "startupTaints[].value",
    "startupTaints[].effect",
];

/// What `<term>` stands for: one alternative of a node selector.
const TERM: &[&str] = &[
    "matchExpressions[].key",
    "matchExpressions[].operator",
    "matchExpressions[].values[]",
    "matchFields[].key",
    "matchFields[].operator",
    "matchFields[].values[]",
];

/// What `<affinity>` stands for: one term of pod affinity.
const AFFINITY: &[&str] = &[
    "topologyKey",
    "namespaces[]",
    "matchLabelKeys[]",
    "mismatchLabelKeys[]",
    "labelSelector.<selector>",
    "namespaceSelector.<selector>",
];

/// The fields of a kind with every shorthand written out. None for a kind of which nothing is kept.
pub fn fields(kind: &str) -> Option<Vec<String>> {
    let (_, own) = FIELDS.iter().find(|(name, _)| *name == kind)?;
    let mut all: Vec<String> = METADATA.iter().map(ToString::to_string).collect();
    all.extend(own.iter().flat_map(|path| written_out(path)));
    Some(all)
}

fn written_out(path: &str) -> Vec<String> {
    let Some((head, rest)) = path.split_once('<') else {
        return vec![path.to_owned()];
    };
    let below: Vec<String> = match rest.trim_end_matches('>') {
        "selector" => SELECTOR.iter().map(ToString::to_string).collect(),
        "term" => TERM.iter().map(ToString::to_string).collect(),
        "terms" => TERM.iter().map(|t| format!("nodeSelectorTerms[].{t}")).collect(),
        "affinity" => AFFINITY.iter().flat_map(|p| written_out(p)).collect(),
        "machine" => MACHINE.iter().map(ToString::to_string).collect(),
        "pod" => POD_SPEC.iter().flat_map(|p| written_out(p)).collect(),
        other => unreachable!("<{other}> is not a shorthand of this file"),
    };
    below.iter().map(|b| format!("{head}{b}")).collect()
}

/// The page of the documentation that says what a snapshot holds.
pub fn page() -> String {
    let mut out = String::from(
        "# What a snapshot holds\n\n`plimsoll snapshot -o FILE` writes what reports and plans are made from, so that somebody \
         else can make them. It is an allow-list: a field that is not here is not in the file, whatever its name. No kind \
         but these is read at all; Secrets and ConfigMaps are not among them. This page is generated from the program.\n\n\
         The file is JSON: `apiVersion: plimsoll.dev/v1alpha1`, `kind: Snapshot`, `version`, `taken` (a time) and `items`, \
         a list of Kubernetes objects reduced to these fields. `[]` is every item of a list, `.*` every entry of a map of \
         plain values, `.{}` only that the field is there.\n\n## Every kind\n\n",
    );
    for field in METADATA {
        let _ = writeln!(out, "* `{field}`");
    }
    let annotations: Vec<String> = ANNOTATIONS.iter().map(|a| format!("`{a}`")).collect();
    let labels: Vec<String> = LABELS.iter().map(|l| format!("`{l}`")).collect();
    let _ = write!(
        out,
        "* `metadata.annotations`: {}\n* `metadata.labels`: {}, and keys that a selector in the file names\n",
        annotations.join(", "),
        labels.join(", ")
    );
    for (kind, _) in FIELDS {
        let own = fields(kind).unwrap_or_default().split_off(METADATA.len());
        let _ = write!(out, "\n## {kind}\n\n");
        if own.is_empty() {
            out.push_str("Nothing more.\n");
        }
        for field in own {
            let _ = writeln!(out, "* `{field}`");
        }
    }
    out
}

/// What may be kept below a field.
#[derive(Debug, Default)]
struct Allowed {
    below: BTreeMap<String, Allowed>,
    /// The value itself, when it is plain.
    value: bool,
    /// Every entry with a plain value.
    entries: bool,
    /// Only that it is there.
    presence: bool,
}

impl Allowed {
    fn add(&mut self, path: &str) {
        let mut at = self;
        for step in path.split('.') {
            match step {
                "*" => at.entries = true,
                "{}" => at.presence = true,
                step => {
                    let name = step.trim_end_matches("[]");
                    at = at.below.entry(name.to_owned()).or_default();
                }
            }
        }
        if !path.ends_with(".*") && !path.ends_with(".{}") {
            at.value = true;
        }
    }

    fn keep(&self, value: &Value) -> Option<Value> {
        match value {
            Value::Object(_) if self.presence => Some(Value::Object(Map::new())),
            Value::Object(map) => {
                let kept: Map<String, Value> = map
                    .iter()
                    .filter_map(|(key, value)| {
                        let kept = match self.below.get(key) {
                            Some(allowed) => allowed.keep(value)?,
                            None if self.entries && is_plain(value) => value.clone(),
                            None => return None,
                        };
                        Some((key.clone(), kept))
                    })
                    .collect();
                Some(Value::Object(kept)).filter(|_| !self.value)
            }
            Value::Array(items) => Some(items.iter().filter_map(|item| self.keep(item)).collect()),
            plain => self.value.then(|| plain.clone()),
        }
    }
}

fn is_plain(value: &Value) -> bool {
    !matches!(value, Value::Object(_) | Value::Array(_))
}

/// Objects reduced to what may be kept, and the label keys somebody's selector looks at.
#[derive(Debug)]
pub struct Redactor {
    allowed: BTreeMap<&'static str, Allowed>,
    looked_at: BTreeSet<String>,
    /// As text: trees of values take many times as much memory.
    kept: Vec<Box<RawValue>>,
}

impl Default for Redactor {
    fn default() -> Self {
        let allowed = FIELDS.iter().map(|(kind, _)| {
            let mut allowed = Allowed::default();
            for path in fields(kind).unwrap_or_default() {
                allowed.add(&path);
            }
            (*kind, allowed)
        });
        Self {
            allowed: allowed.collect(),
            looked_at: BTreeSet::new(),
            kept: Vec::new(),
        }
    }
}

impl Redactor {
    /// Takes in one object. Of a kind that is not listed nothing is kept.
    pub fn take(&mut self, kind: &str, api_version: &str, object: &Value) {
        let Some(allowed) = self.allowed.get(kind) else {
            return;
        };
        let Some(Value::Object(mut kept)) = allowed.keep(object) else {
            return;
        };
        kept.insert("apiVersion".into(), api_version.into());
        kept.insert("kind".into(), kind.into());
        let kept = {
            let mut kept = Value::Object(kept);
            let of = |field: &str| object["metadata"][field].as_object().cloned().unwrap_or_default();
            let mut annotations = of("annotations");
            annotations.retain(|key, _| ANNOTATIONS.contains(&key.as_str()));
            if !annotations.is_empty() {
                kept["metadata"]["annotations"] = annotations.into();
            }
            let labels = of("labels");
            if !labels.is_empty() {
                kept["metadata"]["labels"] = labels.into();
            }
            kept
        };
        note_selectors(&kept, &mut self.looked_at);
        self.kept.push(text(&kept));
    }

    /// What is kept, its labels reduced to those that count.
    pub fn finish(mut self) -> Vec<Box<RawValue>> {
        let counts = |key: &str| {
            let listed = |pattern: &str| {
                pattern
                    .strip_suffix('*')
                    .map_or(key == pattern, |prefix| key.starts_with(prefix))
            };
            self.looked_at.contains(key) || LABELS.iter().any(|p| listed(p))
        };
        for kept in &mut self.kept {
            let mut object: Value = serde_json::from_str(kept.get()).expect("it was written from a value");
            for pointer in ["/metadata", "/spec/template/metadata"] {
                let Some(Value::Object(metadata)) = object.pointer_mut(pointer) else {
                    continue;
                };
                if let Some(Value::Object(labels)) = metadata.get_mut("labels") {
                    labels.retain(|key, _| counts(key));
                    if labels.is_empty() {
                        metadata.remove("labels");
                    }
                }
            }
            *kept = text(&object);
        }
        self.kept
    }
}

fn text(object: &Value) -> Box<RawValue> {
    to_raw_value(object).expect("a value is JSON")
}

/// Collects the label keys that selectors of any kind name.
fn note_selectors(value: &Value, keys: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (field, value) in map {
                match (field.as_str(), value) {
                    ("matchLabels" | "nodeSelector", Value::Object(labels)) => {
                        keys.extend(labels.keys().cloned());
                    }
                    ("key" | "topologyKey", Value::String(key)) => {
                        keys.insert(key.clone());
                    }
                    ("matchLabelKeys" | "mismatchLabelKeys", Value::Array(list)) => {
                        keys.extend(list.iter().filter_map(|k| k.as_str().map(str::to_owned)));
                    }
                    ("metadata", _) => {}
                    (_, value) => note_selectors(value, keys),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| note_selectors(item, keys)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_is_kept_only_where_the_list_has_it() {
        let mut redactor = Redactor::default();
        let pod = json!({
            "metadata": {
                "name": "p", "namespace": "n", "managedFields": [{"manager": "x"}],
                "labels": {"app": "web", "unlisted": "secret"},
                "annotations": {"karpenter.sh/do-not-disrupt": "true", "note": "secret"},
            },
            "spec": {
                "containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "secret"}],
                    "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}}],
                "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}, {"name": "s", "secret": {"secretName": "x"}}],
                "topologySpreadConstraints": [{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}}],
            },
        });
        redactor.take("Pod", "v1", &pod);
        redactor.take("Secret", "v1", &json!({"data": {"a": "secret"}}));
        let kept: Vec<Value> = redactor
            .finish()
            .iter()
            .map(|object| serde_json::from_str(object.get()).unwrap())
            .collect();
        let expected = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "p", "namespace": "n", "labels": {"app": "web"},
                "annotations": {"karpenter.sh/do-not-disrupt": "true"},
            },
            "spec": {
                "containers": [{"image": "i", "resources": {"requests": {"cpu": "1"}}}],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "s"}],
                "topologySpreadConstraints": [{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}}],
            },
        });
        assert_eq!(kept, [expected]);
    }
}
