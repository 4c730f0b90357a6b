//! A model of the Kubernetes API server, as far as an autoscaler can tell it from the real one.
//!
//! Objects are JSON, as on the wire. It keeps resource versions, generations, finalizers, graceful deletion,
//! optimistic locking, the status subresource, `generateName` and the eviction API with its budgets.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use thiserror::Error;

/// What is stored, each with a watch of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Pod,
    Node,
    NodeClaim,
    NodePool,
    PodDisruptionBudget,
    DaemonSet,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [
        Self::Pod,
        Self::Node,
        Self::NodeClaim,
        Self::NodePool,
        Self::PodDisruptionBudget,
        Self::DaemonSet,
    ];
}

/// What a call was refused for.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum ApiError {
    #[error("{0:?} {1} not found")]
    NotFound(Kind, String),
    #[error("{0:?} {1} exists already")]
    AlreadyExists(Kind, String),
    #[error("the object has changed: {0}")]
    Conflict(String),
    /// HTTP 429 of the eviction API.
    #[error("budget {0} allows no disruption now")]
    Budget(String),
    #[error("invalid: {0}")]
    Invalid(String),
}

/// One entry of a watch.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) kind: Kind,
    /// As it is after the change, or as it last was.
    pub(crate) object: Arc<Value>,
    pub(crate) deleted: bool,
}

/// Which half of an object a patch may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Main,
    Status,
}

/// Metadata only the server writes.
const SERVER_FIELDS: [&str; 7] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
];

/// Grace period of a pod that states none, in seconds.
const GRACE_DEFAULT: i64 = 30;

/// All objects, and what changed since anybody asked.
#[derive(Debug, Default)]
pub(crate) struct Server {
    revision: u64,
    /// Number of the last object made; part of names and UIDs.
    made: u64,
    objects: BTreeMap<Kind, BTreeMap<String, Arc<Value>>>,
    changes: Vec<Change>,
    pods_changed: bool,
}

impl Server {
    pub(crate) fn get(&self, kind: Kind, key: &str) -> Option<&Arc<Value>> {
        self.objects.get(&kind)?.get(key)
    }

    /// All objects of a kind, by key.
    pub(crate) fn list(&self, kind: Kind) -> impl Iterator<Item = (&String, &Arc<Value>)> {
        self.objects.get(&kind).into_iter().flatten()
    }

    /// What happened since the last call, oldest first.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Makes an object; `generateName` is honoured.
    pub(crate) fn create(
        &mut self,
        kind: Kind,
        mut object: Value,
        now: Timestamp,
    ) -> Result<Arc<Value>, ApiError> {
        self.made += 1;
        let made = self.made;
        let metadata = object["metadata"]
            .as_object_mut()
            .ok_or_else(|| ApiError::Invalid("an object needs metadata".into()))?;
        if !metadata.contains_key("name") {
            let prefix = metadata
                .get("generateName")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let name = format!("{prefix}{made:05}");
            metadata.insert("name".into(), json!(name));
        }
        metadata.insert("uid".into(), json!(format!("uid-{made:05}")));
        metadata.insert("creationTimestamp".into(), stamp(now));
        metadata.insert("generation".into(), json!(1));
        if kind == Kind::NodeClaim {
            // Custom resources lose a status that comes with a create call.
            object.as_object_mut().map(|o| o.remove("status"));
        }
        let key = key(&object);
        if self.get(kind, &key).is_some() {
            return Err(ApiError::AlreadyExists(kind, key));
        }
        self.pods_changed |= kind == Kind::PodDisruptionBudget;
        Ok(self.store(kind, key, object))
    }

    /// JSON merge patch (RFC 7386). A `metadata.resourceVersion` in it is a lock. A patch that changes
    /// nothing makes no new version.
    pub(crate) fn patch(
        &mut self,
        kind: Kind,
        key: &str,
        patch: &Value,
        part: Part,
    ) -> Result<Arc<Value>, ApiError> {
        let old = self.found(kind, key)?.clone();
        let lock = patch.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        if let Some(version) = lock
            && Some(version) != text(&old, "/metadata/resourceVersion")
        {
            return Err(ApiError::Conflict(format!(
                "{kind:?} {key} is not at version {version}"
            )));
        }
        let mut patch = patch.clone();
        let fields = patch
            .as_object_mut()
            .ok_or_else(|| ApiError::Invalid("a patch is an object".into()))?;
        match part {
            Part::Main => drop(fields.remove("status")),
            Part::Status => fields.retain(|name, _| name == "status"),
        }
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|name, _| !SERVER_FIELDS.contains(&name.as_str()));
        }
        let mut new = Value::clone(&old);
        merge(&mut new, &patch);
        if new == *old {
            return Ok(old);
        }
        if new["spec"] != old["spec"] {
            if kind == Kind::NodeClaim {
                return Err(ApiError::Invalid("the spec of a NodeClaim is immutable".into()));
            }
            next_generation(&mut new);
        }
        let released = text(&new, "/metadata/deletionTimestamp").is_some() && !has_finalizers(&new);
        if released && kind != Kind::Pod {
            return Ok(self.remove(kind, key, new));
        }
        Ok(self.store(kind, key.to_owned(), new))
    }

    /// Deletes an object: at once, or when its finalizers are gone, or (a pod that is on a node) when its
    /// kubelet has stopped it or `grace` has passed. `uid` is a precondition.
    pub(crate) fn delete(
        &mut self,
        kind: Kind,
        key: &str,
        uid: Option<&str>,
        grace: Option<SignedDuration>,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let old = self.found(kind, key)?.clone();
        if uid.is_some() && uid != text(&old, "/metadata/uid") {
            return Err(ApiError::Conflict(format!("{kind:?} {key} has another uid")));
        }
        let deletion = text(&old, "/metadata/deletionTimestamp");
        let mut new = Value::clone(&old);
        if kind == Kind::Pod {
            let own = old
                .pointer("/spec/terminationGracePeriodSeconds")
                .and_then(Value::as_i64);
            let grace = grace.unwrap_or(SignedDuration::from_secs(own.unwrap_or(GRACE_DEFAULT)));
            let running = text(&old, "/spec/nodeName").is_some() && !is_finished(&old);
            if !running || grace <= SignedDuration::ZERO {
                self.remove(kind, key, new);
                return Ok(());
            }
            let end = stamp(now + grace);
            let sooner = deletion.is_none_or(|at| end.as_str().is_some_and(|end| end < at));
            if sooner {
                new["metadata"]["deletionTimestamp"] = end;
                self.store(kind, key.to_owned(), new);
            }
        } else if !has_finalizers(&old) {
            self.remove(kind, key, new);
        } else if deletion.is_none() {
            new["metadata"]["deletionTimestamp"] = stamp(now);
            next_generation(&mut new);
            self.store(kind, key.to_owned(), new);
        }
        Ok(())
    }

    /// The pod's kubelet, or the pod garbage collector, says that nothing of it is left.
    pub(crate) fn remove_pod(&mut self, key: &str, uid: &str) {
        let pod = self
            .get(Kind::Pod, key)
            .filter(|pod| text(pod, "/metadata/uid") == Some(uid));
        if let Some(pod) = pod.map(|pod| Value::clone(pod)) {
            self.remove(Kind::Pod, key, pod);
        }
    }

    /// The binding subresource. The server looks at the pod only: whether the node still wants it is the
    /// scheduler's business.
    pub(crate) fn bind(&mut self, key: &str, uid: &str, node: &str) -> Result<(), ApiError> {
        let pod = self.found(Kind::Pod, key)?;
        if text(pod, "/metadata/uid") != Some(uid) || text(pod, "/metadata/deletionTimestamp").is_some() {
            return Err(ApiError::Conflict(format!(
                "pod {key} is another one, or leaving"
            )));
        }
        if text(pod, "/spec/nodeName").is_some() {
            return Err(ApiError::Conflict(format!("pod {key} is bound")));
        }
        let mut new = Value::clone(pod);
        new["spec"]["nodeName"] = json!(node);
        set_condition(&mut new, "PodScheduled", "True", None);
        self.store(Kind::Pod, key.to_owned(), new);
        Ok(())
    }

    /// The eviction API: deletes the pod if its budget has room, and takes from the budget at once.
    pub(crate) fn evict(&mut self, key: &str, uid: &str, now: Timestamp) -> Result<(), ApiError> {
        self.sync_budgets();
        let pod = self.found(Kind::Pod, key)?.clone();
        if text(&pod, "/metadata/uid") != Some(uid) {
            return Err(ApiError::Conflict(format!("pod {key} has another uid")));
        }
        let runs = text(&pod, "/status/phase") == Some("Running");
        let leaving = text(&pod, "/metadata/deletionTimestamp").is_some();
        if runs && !leaving {
            let budgets = self.budgets_of(&pod);
            let blocking = match budgets.as_slice() {
                [] => None,
                [only] => Some(only).filter(|name| !self.permits(name, &pod)),
                [first, ..] => Some(first),
            };
            if let Some(name) = blocking {
                return Err(ApiError::Budget(name.clone()));
            }
        }
        self.delete(Kind::Pod, key, Some(uid), None, now)?;
        self.sync_budgets();
        Ok(())
    }

    /// What the disruption controller does: brings the status of every budget up to date with the pods.
    pub(crate) fn sync_budgets(&mut self) {
        if !std::mem::take(&mut self.pods_changed) {
            return;
        }
        let keys: Vec<String> = self
            .list(Kind::PodDisruptionBudget)
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            let Some(budget) = self.get(Kind::PodDisruptionBudget, &key) else {
                continue;
            };
            let healthy = self.healthy_pods(budget);
            let desired = desired_healthy(budget);
            let status = json!({ "status": {
                "currentHealthy": healthy, "desiredHealthy": desired, "disruptionsAllowed": (healthy - desired).max(0),
            } });
            self.patch(Kind::PodDisruptionBudget, &key, &status, Part::Status)
                .expect("the budget was just listed");
        }
    }

    /// Pods a budget counts: selected, ready and not leaving.
    pub(crate) fn healthy_pods(&self, budget: &Value) -> i64 {
        let counts = |pod: &Value| {
            selects(budget, pod)
                && condition(pod, "Ready") == Some("True")
                && text(pod, "/metadata/deletionTimestamp").is_none()
        };
        self.list(Kind::Pod).filter(|(_, pod)| counts(pod)).count() as i64
    }

    /// Keys of the budgets that select a pod.
    pub(crate) fn budgets_of(&self, pod: &Value) -> Vec<String> {
        let all = self.list(Kind::PodDisruptionBudget);
        all.filter(|(_, budget)| selects(budget, pod))
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// A pod that is not ready may go as long as the others are enough (policy `IfHealthyBudget`).
    fn permits(&self, budget: &str, pod: &Value) -> bool {
        let Some(budget) = self.get(Kind::PodDisruptionBudget, budget) else {
            return true;
        };
        let spare = self.healthy_pods(budget) - desired_healthy(budget);
        if condition(pod, "Ready") == Some("True") {
            spare > 0
        } else {
            spare >= 0
        }
    }

    fn found(&self, kind: Kind, key: &str) -> Result<&Arc<Value>, ApiError> {
        self.get(kind, key)
            .ok_or_else(|| ApiError::NotFound(kind, key.to_owned()))
    }

    fn store(&mut self, kind: Kind, key: String, mut object: Value) -> Arc<Value> {
        self.next_revision(&mut object);
        let object = Arc::new(object);
        self.objects.entry(kind).or_default().insert(key, object.clone());
        self.record(kind, &object, false);
        object
    }

    fn remove(&mut self, kind: Kind, key: &str, mut object: Value) -> Arc<Value> {
        self.next_revision(&mut object);
        let object = Arc::new(object);
        self.objects.entry(kind).or_default().remove(key);
        self.record(kind, &object, true);
        object
    }

    fn next_revision(&mut self, object: &mut Value) {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
    }

    fn record(&mut self, kind: Kind, object: &Arc<Value>, deleted: bool) {
        self.pods_changed |= kind == Kind::Pod;
        self.changes.push(Change {
            kind,
            object: object.clone(),
            deleted,
        });
    }
}

/// `namespace/name`, or the name of what has no namespace.
pub(crate) fn key(object: &Value) -> String {
    let name = text(object, "/metadata/name").unwrap_or_default();
    text(object, "/metadata/namespace")
        .map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}

/// The text at a JSON pointer that needs no escapes; an empty one counts as absent.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    let mut names = pointer.split('/').skip(1);
    names
        .try_fold(object, |value, name| value.get(name))
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
}

/// Status of a condition.
pub(crate) fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a str> {
    let list = object["status"]["conditions"].as_array();
    list.into_iter()
        .flatten()
        .find(|c| c["type"] == type_)
        .and_then(|c| c["status"].as_str())
}

/// Sets a condition in place; the others stay.
pub(crate) fn set_condition(object: &mut Value, type_: &str, status: &str, reason: Option<&str>) {
    let mut new = json!({ "type": type_, "status": status });
    if let Some(reason) = reason {
        new["reason"] = json!(reason);
    }
    let list = &mut object["status"]["conditions"];
    let mut all = list.as_array().cloned().unwrap_or_default();
    match all.iter_mut().find(|c| c["type"] == type_) {
        Some(known) => *known = new,
        None => all.push(new),
    }
    *list = Value::Array(all);
}

/// Times on objects have whole seconds.
pub(crate) fn stamp(at: Timestamp) -> Value {
    json!(Timestamp::from_second(at.as_second()).unwrap_or(at).to_string())
}

/// The least number of healthy pods a budget asks for. The model's budgets state `minAvailable` as a number.
pub(crate) fn desired_healthy(budget: &Value) -> i64 {
    budget
        .pointer("/spec/minAvailable")
        .and_then(Value::as_i64)
        .unwrap_or(0)
}

fn selects(budget: &Value, pod: &Value) -> bool {
    let wanted = budget["spec"]["selector"]["matchLabels"].as_object();
    let same_namespace = text(budget, "/metadata/namespace") == text(pod, "/metadata/namespace");
    same_namespace
        && wanted.is_some_and(|wanted| {
            wanted
                .iter()
                .all(|(key, value)| pod["metadata"]["labels"].get(key) == Some(value))
        })
}

fn is_finished(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), Some("Succeeded" | "Failed"))
}

fn has_finalizers(object: &Value) -> bool {
    object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .is_some_and(|f| !f.is_empty())
}

fn next_generation(object: &mut Value) {
    let generation = object
        .pointer("/metadata/generation")
        .and_then(Value::as_i64)
        .unwrap_or(1);
    object["metadata"]["generation"] = json!(generation + 1);
}

/// Applies a JSON merge patch.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests;
