//! What the demo puts on the cluster, and how it takes it away.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use kube::ResourceExt;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use serde_json::json;

use super::trace::{self, Shapes};
use crate::cluster::{Cluster, parse_yaml};

/// Objects that make pods.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Where it comes from, for the report.
    pub title: String,
    objects: Vec<DynamicObject>,
    /// How many pods it makes.
    pub pods: usize,
}

impl Workload {
    /// Reads a YAML file of Deployments, ReplicaSets, StatefulSets, Jobs and Pods (and what belongs to them).
    pub fn from_yaml_file(file: &Path) -> Result<Self> {
        let yaml = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        Self::new(file.display().to_string(), &yaml).with_context(|| file.display().to_string())
    }

    /// Reads a trace; see [`trace::read_trace`].
    pub fn from_trace_file(file: &Path, limit: Option<usize>) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let shapes = trace::read_trace(&text, limit).with_context(|| file.display().to_string())?;
        Self::from_shapes(&file.display().to_string(), &shapes)
    }

    /// Pods of these shapes.
    pub fn from_shapes(title: &str, shapes: &Shapes) -> Result<Self> {
        Self::new(
            format!("{title} ({} shapes)", shapes.len()),
            &trace::to_yaml(shapes),
        )
    }

    fn new(title: String, yaml: &str) -> Result<Self> {
        let objects = parse_yaml(yaml)?;
        let mut pods = 0;
        for object in &objects {
            pods += pods_of(object).with_context(|| {
                format!(
                    "{} {}",
                    object.types.as_ref().map_or("object", |t| &t.kind),
                    object.name_any()
                )
            })?;
        }
        ensure!(pods > 0, "the workload makes no pods");
        Ok(Self { title, objects, pods })
    }

    /// Applies it to `namespace`.
    pub async fn apply(&self, cluster: &Cluster, namespace: &str) -> Result<()> {
        for object in &self.objects {
            cluster.apply(object.clone(), Some(namespace)).await?;
        }
        Ok(())
    }

    /// Scales to zero what can be scaled, and deletes the pods and jobs.
    pub async fn scale_down(&self, cluster: &Cluster, namespace: &str) -> Result<()> {
        for object in &self.objects {
            let types = object
                .types
                .as_ref()
                .context("an object without kind was applied")?;
            let api = cluster
                .api_of(&types.api_version, &types.kind, Some(namespace))
                .await?;
            match types.kind.as_str() {
                "Deployment" | "ReplicaSet" | "StatefulSet" => {
                    let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
                    api.patch(&object.name_any(), &PatchParams::default(), &none)
                        .await?;
                }
                "Pod" | "Job" => {
                    api.delete(&object.name_any(), &DeleteParams::background())
                        .await?;
                }
                // Services, budgets and the like hold no machine; they go with the namespace.
                _ => {}
            }
        }
        Ok(())
    }
}

fn pods_of(object: &DynamicObject) -> Result<usize> {
    let types = object
        .types
        .as_ref()
        .context("an object needs apiVersion and kind")?;
    ensure!(
        object.metadata.namespace.is_none(),
        "remove metadata.namespace: the demo puts its workload into a namespace of its own"
    );
    let count = |field: &str| match &object.data["spec"][field] {
        serde_json::Value::Null => Ok(1),
        value => value
            .as_u64()
            .map(|n| n as usize)
            .with_context(|| format!("spec.{field}: {value} is not a count")),
    };
    match types.kind.as_str() {
        "Deployment" | "ReplicaSet" | "StatefulSet" => count("replicas"),
        "Job" => count("parallelism"),
        "Pod" => Ok(1),
        "DaemonSet" | "CronJob" => bail!(
            "a {} makes no number of pods that the demo could wait for",
            types.kind
        ),
        _ => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_pods_of_the_bundled_workloads() {
        for (file, pods) in [("workload.yaml", 425), ("pair.yaml", 1000)] {
            assert_eq!(
                Workload::from_yaml_file(&crate::paths::manifest(file))
                    .unwrap()
                    .pods,
                pods
            );
        }
    }

    #[test]
    fn says_what_it_cannot_count() {
        let refused = |yaml| format!("{:#}", Workload::new(String::new(), yaml).unwrap_err());
        assert!(
            refused("{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: d}}")
                .starts_with("DaemonSet d: ")
        );
        assert!(
            refused("{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: x}}")
                .contains("metadata.namespace")
        );
        assert_eq!(
            refused("{apiVersion: v1, kind: Service, metadata: {name: s}}"),
            "the workload makes no pods"
        );
    }
}
