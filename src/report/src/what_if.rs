//! Changes to try on a plan: objects to apply or delete, workloads to scale, prices to change.

use std::{collections::BTreeMap, fmt::Write as _, io::Read};

use jiff::Timestamp;
use plimsoll_core::{
    catalog::{Catalog, MicroDollars},
    plan::Plan,
    report::Report,
    snapshot::Snapshot,
};
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
/// Pods one workload of the file may stand for.
const REPLICAS_MAX: u64 = 100_000;

#[derive(Debug, Error)]
pub enum WhatIfError {
    #[error(transparent)]
    File(#[from] DumpError),
    #[error("{kind} {name} cannot be read")]
    Object {
        kind: String,
        name: String,
        source: serde_json::Error,
    },
    #[error("{0}")]
    Unreadable(String),
    #[error(
        "{kind} {name}: only Node, Pod, PodDisruptionBudget, NodePool and other kinds a plan reads can be changed, and \
             Deployment, StatefulSet, ReplicaSet, Job and Prices"
    )]
    Kind { kind: String, name: String },
    #[error("{kind} {name}: spec.replicas {replicas} is more than {REPLICAS_MAX}")]
    Replicas {
        kind: String,
        name: String,
        replicas: u64,
    },
    #[error("a price needs either factor or dollarsPerHour, and not both")]
    Price,
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
        failed.map_or(Ok(changes), Err)
    }

    fn take(&mut self, object: &RawValue) -> Result<(), WhatIfError> {
        let object: Value = serde_json::from_str(object.get()).map_err(DumpError::Json)?;
        let (kind, name) = (
            text(&object, "kind"),
            object["metadata"]["name"].as_str().unwrap_or_default(),
        );
        let unreadable = |source| WhatIfError::Object {
            kind: kind.clone(),
            name: name.to_owned(),
            source,
        };
        if kind == "Prices" {
            let prices: Vec<PriceChange> =
                serde_json::from_value(object["prices"].clone()).map_err(unreadable)?;
            if prices
                .iter()
                .any(|p| p.factor.is_some() == p.dollars_per_hour.is_some())
            {
                return Err(WhatIfError::Price);
            }
            self.prices.extend(prices);
        } else {
            self.objects.push(object);
        }
        Ok(())
    }

    /// Changes the cluster.
    pub fn apply(&self, index: Index) -> Result<Index, WhatIfError> {
        let mut dump = Dump {
            index,
            ..Dump::default()
        };
        for object in &self.objects {
            let kind = text(object, "kind");
            if matches!(kind.as_str(), "Deployment" | "StatefulSet" | "ReplicaSet" | "Job") {
                scale(&mut dump, object, &kind)?;
                continue;
            }
            let before = (dump.objects, dump.unreadable.len());
            if object["metadata"]["annotations"][ANNOTATION] == "delete" {
                delete(&mut dump, object)?;
            } else {
                take(&mut dump, object)?;
            }
            if let Some(why) = dump.unreadable.get(before.1) {
                return Err(WhatIfError::Unreadable(why.clone()));
            }
            if dump.objects == before.0 {
                return Err(WhatIfError::Kind {
                    kind,
                    name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
                });
            }
        }
        Ok(dump.index)
    }

    /// Changes the prices.
    pub fn reprice(&self, catalog: &mut Catalog) {
        for change in &self.prices {
            let of_type = |name: &str| {
                change.instance_type.as_deref().is_none_or(|wanted| {
                    wanted
                        .strip_suffix('*')
                        .map_or(name == wanted, |prefix| name.starts_with(prefix))
                })
            };
            let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|w| w == found);
            for t in catalog.types.iter_mut().filter(|t| of_type(&t.name)) {
                for offering in &mut t.offerings {
                    if is(&change.zone, &offering.zone) && is(&change.capacity_type, &offering.capacity_type)
                    {
                        offering.price = match (change.factor, change.dollars_per_hour) {
                            (Some(factor), _) => {
                                MicroDollars((offering.price.0 as f64 * factor).round() as i64)
                            }
                            (None, dollars) => MicroDollars::from_dollars(dollars.unwrap_or_default()),
                        };
                    }
                }
            }
        }
        if !self.prices.is_empty() {
            catalog.price_source = format!("{}, changed by the what-if file", catalog.price_source).into();
        }
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

/// Deletion by watch event: the kinds a user would take away.
fn delete(dump: &mut Dump, object: &Value) -> Result<(), WhatIfError> {
    let kind = text(object, "kind");
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    macro_rules! gone {
        ($($name:literal: $kind:ty),+ $(,)?) => {
            match kind.as_str() {
                $($name => {
                    let object: $kind = serde_json::from_value(object.clone())
                        .map_err(|source| WhatIfError::Object { kind: kind.clone(), name: name.clone(), source })?;
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
fn scale(dump: &mut Dump, object: &Value, kind: &str) -> Result<(), WhatIfError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    let field = if kind == "Job" { "parallelism" } else { "replicas" };
    let replicas = object["spec"][field].as_u64().unwrap_or(1);
    if replicas > REPLICAS_MAX {
        return Err(WhatIfError::Replicas {
            kind: kind.to_owned(),
            name: name.to_owned(),
            replicas,
        });
    }
    let workload = format!("{kind}/{name}");
    let old: Vec<String> = dump
        .index
        .pods()
        .filter(|p| p.namespace() == namespace && p.workload.as_deref() == Some(&*workload))
        .map(|p| p.name().to_owned())
        .collect();
    for old in old {
        let gone = json!({ "metadata": { "name": old, "namespace": namespace } });
        let gone: Pod = serde_json::from_value(gone).map_err(DumpError::Json)?;
        dump.index.delete(&gone, Timestamp::UNIX_EPOCH);
    }
    if object["metadata"]["annotations"][ANNOTATION] == "delete" {
        return Ok(());
    }
    for at in 0..replicas {
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
        .map_or(Ok(()), |why| Err(WhatIfError::Unreadable(why)))
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
