//! Changes to try on a plan: objects to apply or delete, workloads to scale, prices to change.

mod fields;
mod prices;

use std::{collections::BTreeMap, fmt::Write as _, io::Read};

use jiff::Timestamp;
use plimsoll_core::{plan::Plan, report::Report, resources::QuantityError, snapshot::Snapshot};
use plimsoll_state::{Index, Observe, Pod};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use thiserror::Error;

use crate::{
    dump::{self, Dump, DumpError},
    plan::reasons,
    table::{Align, Table},
};

/// Annotation on an object of the file that is to be taken away; its value is `delete`.
const ANNOTATION: &str = "plimsoll.dev/what-if";
/// Kinds that live in a namespace.
const NAMESPACED: [&str; 8] = [
    "Pod",
    "PodDisruptionBudget",
    "PersistentVolumeClaim",
    "DaemonSet",
    "Deployment",
    "StatefulSet",
    "ReplicaSet",
    "Job",
];
/// Pods one workload of the file may stand for.
const REPLICAS_MAX: u64 = 100_000;

#[derive(Debug, Error)]
pub enum WhatIfError {
    #[error(transparent)]
    File(DumpError),
    #[error(
        "changes nothing: write objects to apply or to delete, workloads with their replicas, or `kind: Prices`, as \
         docs/what-if.md shows"
    )]
    Empty,
    #[error("{object} cannot be read")]
    Object {
        object: String,
        source: serde_json::Error,
    },
    #[error("{object} cannot be read: {why}")]
    Unreadable { object: String, why: String },
    #[error(
        "{object}: only Node, Pod, PodDisruptionBudget, NodePool and other kinds a plan reads can be changed, and \
         Deployment, StatefulSet, ReplicaSet, Job and Prices"
    )]
    Kind { object: String },
    #[error("{object}: {field} is {found}; {fix}")]
    Field {
        object: String,
        field: String,
        found: String,
        fix: String,
    },
    #[error("{object}: {field} is no amount")]
    Quantity {
        object: String,
        field: String,
        source: QuantityError,
    },
    #[error("{object} is not in the cluster, so it cannot be taken away; look at its name and namespace")]
    Absent { object: String },
    #[error("prices[{0}]: a price needs either factor or dollarsPerHour, and not both")]
    Price(usize),
}

impl From<DumpError> for WhatIfError {
    fn from(error: DumpError) -> Self {
        match error {
            DumpError::Empty => Self::Empty,
            other => Self::File(other),
        }
    }
}

/// New prices for some offerings.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PriceChange {
    /// All types when absent; a trailing `*` stands for the rest of the name.
    #[serde(default)]
    instance_type: Option<String>,
    #[serde(default)]
    zone: Option<String>,
    #[serde(default)]
    capacity_type: Option<String>,
    #[serde(default)]
    factor: Option<f64>,
    #[serde(default)]
    dollars_per_hour: Option<f64>,
}

/// What a file changes.
#[derive(Debug, Default)]
pub struct WhatIf {
    objects: Vec<Value>,
    prices: Vec<PriceChange>,
}

impl WhatIf {
    /// Reads YAML or JSON documents.
    pub fn read(source: impl Read) -> Result<Self, WhatIfError> {
        let mut changes = Self::default();
        let mut failed = None;
        dump::each_object(source, &mut |object: &RawValue| {
            if let Err(error) = changes.take(object) {
                failed.get_or_insert(error);
            }
        })?;
        match failed {
            Some(error) => Err(error),
            None if changes.objects.is_empty() && changes.prices.is_empty() => Err(WhatIfError::Empty),
            None => Ok(changes),
        }
    }

    fn take(&mut self, object: &RawValue) -> Result<(), WhatIfError> {
        let mut object: Value = serde_json::from_str(object.get()).map_err(DumpError::Json)?;
        let kind = text(&object, "kind");
        if kind == "Prices" {
            self.prices.extend(fields::prices(&object)?);
            return Ok(());
        }
        fields::check(&object)?;
        if let Some(field) = replicas_field(&kind)
            && !fields::is_deleted(&object)
        {
            fields::replicas(&object, field)?;
        }
        // As kubectl has it.
        if NAMESPACED.contains(&kind.as_str()) && object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = "default".into();
        }
        self.objects.push(object);
        Ok(())
    }

    /// Changes the cluster.
    pub fn apply(&self, index: Index) -> Result<Index, WhatIfError> {
        let mut dump = Dump {
            index,
            ..Dump::default()
        };
        for object in &self.objects {
            if let Some(field) = replicas_field(&text(object, "kind")) {
                scale(&mut dump, object, field)?;
                continue;
            }
            let before = (dump.objects, dump.unreadable.len());
            if fields::is_deleted(object) {
                delete(&mut dump, object)?;
            } else {
                take(&mut dump, object)?;
            }
            if let Some(why) = dump.unreadable.get(before.1) {
                return Err(unreadable(object, why));
            }
            if dump.objects == before.0 {
                return Err(WhatIfError::Kind {
                    object: fields::title(object),
                });
            }
        }
        Ok(dump.index)
    }
}

/// The field of a workload that says how many pods it has; None for what is not a workload.
fn replicas_field(kind: &str) -> Option<&'static str> {
    match kind {
        "Deployment" | "StatefulSet" | "ReplicaSet" => Some("replicas"),
        "Job" => Some("parallelism"),
        _ => None,
    }
}

fn unreadable(object: &Value, why: &str) -> WhatIfError {
    WhatIfError::Unreadable {
        object: fields::title(object),
        why: why.to_owned(),
    }
}

fn text(object: &Value, field: &str) -> String {
    object[field].as_str().unwrap_or_default().to_owned()
}

fn raw(object: &Value) -> Result<Box<RawValue>, WhatIfError> {
    Ok(serde_json::value::to_raw_value(object).map_err(DumpError::Json)?)
}

fn take(dump: &mut Dump, object: &Value) -> Result<(), WhatIfError> {
    dump.take(&raw(object)?);
    Ok(())
}

/// Whether an object that is to be taken away exists; what cannot be taken away is left to [`delete`] to refuse.
fn is_there(index: &Index, object: &Value) -> bool {
    let metadata = &object["metadata"];
    let of = |field: &str| metadata[field].as_str().unwrap_or_default();
    let key = format!("{}/{}", of("namespace"), of("name"));
    match text(object, "kind").as_str() {
        "Pod" => index.pod(&key).is_some(),
        "Node" => index
            .nodes()
            .any(|n| n.metadata.name.as_deref() == Some(of("name"))),
        "PodDisruptionBudget" => index.has_budget(&key),
        "DaemonSet" => index.has_daemon_set(&key),
        "NodePool" => index.node_pool(of("name")).is_some(),
        "NodeClaim" => index.claim(of("name")).is_some(),
        _ => true,
    }
}

/// Deletion by watch event: the kinds a user would take away.
fn delete(dump: &mut Dump, object: &Value) -> Result<(), WhatIfError> {
    if !is_there(&dump.index, object) {
        return Err(WhatIfError::Absent {
            object: fields::title(object),
        });
    }
    macro_rules! gone {
        ($($name:literal: $kind:ty),+ $(,)?) => {
            match text(object, "kind").as_str() {
                $($name => {
                    let object: $kind = serde_json::from_value(object.clone())
                        .map_err(|source| WhatIfError::Object { object: fields::title(object), source })?;
                    Observe::<$kind>::delete(&mut dump.index, &object, Timestamp::UNIX_EPOCH);
                    dump.objects += 1;
                })+
                _ => {}
            }
        };
    }
    gone!(
        "Pod": Pod,
        "Node": k8s_openapi::api::core::v1::Node,
        "PodDisruptionBudget": k8s_openapi::api::policy::v1::PodDisruptionBudget,
        "DaemonSet": plimsoll_state::DaemonSet,
        "NodePool": plimsoll_api::nodepool::NodePool,
        "NodeClaim": plimsoll_api::nodeclaim::NodeClaim,
    );
    Ok(())
}

/// The workload's pods go, and as many as it wants wait for a place.
fn scale(dump: &mut Dump, object: &Value, field: &str) -> Result<(), WhatIfError> {
    let kind = text(object, "kind");
    let of = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let (name, namespace) = (of("name"), of("namespace"));
    let workload = format!("{kind}/{name}");
    let old: Vec<String> = dump
        .index
        .pods()
        .filter(|p| p.namespace() == namespace && p.workload.as_deref() == Some(&*workload))
        .map(|p| p.name().to_owned())
        .collect();
    if fields::is_deleted(object) && old.is_empty() {
        return Err(WhatIfError::Absent {
            object: fields::title(object),
        });
    }
    for old in old {
        let gone = json!({ "metadata": { "name": old, "namespace": namespace } });
        let gone: Pod = serde_json::from_value(gone).map_err(DumpError::Json)?;
        dump.index.delete(&gone, Timestamp::UNIX_EPOCH);
    }
    if fields::is_deleted(object) {
        return Ok(());
    }
    for at in 0..fields::replicas(object, field)? {
        let own = format!("{name}-what-if-{at}");
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": own, "namespace": namespace, "uid": own,
                "labels": object["spec"]["template"]["metadata"]["labels"],
                "ownerReferences": [{ "apiVersion": "apps/v1", "kind": kind, "name": name, "uid": name, "controller": true }],
            },
            "spec": object["spec"]["template"]["spec"],
            "status": {
                "phase": "Pending",
                "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable" }],
            },
        });
        take(dump, &pod)?;
    }
    dump.unreadable
        .pop()
        .map_or(Ok(()), |why| Err(unreadable(object, &why)))
}

/// A plan with what it was made from.
#[derive(Clone, Copy, Debug)]
pub struct Made<'a> {
    pub snapshot: &'a Snapshot,
    pub plan: &'a Plan,
    pub report: &'a Report,
}

/// What one plan has and the other has not.
pub fn difference(before: Made<'_>, after: Made<'_>) -> String {
    let mut out = String::new();
    let mut counts: BTreeMap<[&str; 4], (u32, u32)> = BTreeMap::new();
    for (made, is_after) in [(before, false), (after, true)] {
        for launch in &made.plan.launches {
            let o = &launch.offering;
            let entry = counts
                .entry([&o.instance_type, &o.zone, &o.capacity_type, &launch.pool])
                .or_default();
            if is_after {
                entry.1 += 1;
            } else {
                entry.0 += 1;
            }
        }
    }
    let mut table = Table::new([
        ("LAUNCH", Align::Left),
        ("ZONE", Align::Left),
        ("BOUGHT AS", Align::Left),
        ("POOL", Align::Left),
        ("NOW", Align::Right),
        ("WHAT IF", Align::Right),
    ]);
    for ([instance_type, zone, capacity_type, pool], (now, then)) in counts.iter().filter(|(_, c)| c.0 != c.1)
    {
        table.row([
            (*instance_type).to_owned(),
            (*zone).to_owned(),
            (*capacity_type).to_owned(),
            (*pool).to_owned(),
            now.to_string(),
            then.to_string(),
        ]);
    }
    if !table.is_empty() {
        table.print(&mut out);
    }
    let unplaced = |made: Made<'_>| -> BTreeMap<String, String> {
        let entry = |u: &plimsoll_core::report::Unplaced| {
            let key = made.snapshot.pods[u.pod.0 as usize].key.to_string();
            (key, reasons(u).join("; "))
        };
        made.report.unplaced.iter().map(entry).collect()
    };
    let (had, has) = (unplaced(before), unplaced(after));
    for (pod, why) in has.iter().filter(|(pod, _)| !had.contains_key(*pod)) {
        let _ = writeln!(out, "no place any more for {pod}: {why}");
    }
    for pod in had.keys().filter(|pod| !has.contains_key(*pod)) {
        let _ = writeln!(out, "no longer without a place: {pod}");
    }
    let (now, then) = (
        before.plan.launch_price.dollars(),
        after.plan.launch_price.dollars(),
    );
    let _ = writeln!(
        out,
        "machines {} -> {}, ${now:.4}/h -> ${then:.4}/h ({:+.4})",
        before.plan.launches.len(),
        after.plan.launches.len(),
        then - now
    );
    out
}
