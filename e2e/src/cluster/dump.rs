//! A picture of the cluster in plain text, short enough to read in a test's output.

use std::fmt::Write;

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, ListParams};

use super::Cluster;

/// At most so many lines per kind.
const LINES: usize = 40;

/// Everything that can be read; what cannot is named with its error.
pub(super) async fn text(cluster: &Cluster) -> String {
    let all = ListParams::default();
    let mut text = String::new();
    section(
        &mut text,
        "pods that do not run",
        list(&cluster.api::<Pod>(None), &all).await,
        |pod| {
            let status = pod.status.as_ref();
            let phase = status.and_then(|s| s.phase.as_deref()).unwrap_or("-");
            if phase == "Running" && pod.metadata.deletion_timestamp.is_none() {
                return None;
            }
            let reason = status
                .and_then(|s| s.conditions.as_ref())
                .and_then(|conditions| conditions.iter().find(|c| c.type_ == "PodScheduled"))
                .and_then(|condition| condition.message.as_deref())
                .unwrap_or("");
            let node = pod
                .spec
                .as_ref()
                .and_then(|spec| spec.node_name.as_deref())
                .unwrap_or("-");
            let deleted = if pod.metadata.deletion_timestamp.is_some() {
                " deleted"
            } else {
                ""
            };
            Some(format!(
                "{}/{} {phase}{deleted} node={node} {reason}",
                pod.namespace().unwrap_or_default(),
                pod.name_any()
            ))
        },
    );
    section(
        &mut text,
        "nodes",
        list(&Api::<Node>::all(cluster.client()), &all).await,
        |node| {
            let ready = node
                .status
                .as_ref()
                .and_then(|s| s.conditions.as_ref())
                .and_then(|conditions| conditions.iter().find(|c| c.type_ == "Ready"))
                .map_or("-", |condition| condition.status.as_str());
            let taints = node
                .spec
                .iter()
                .flat_map(|s| s.taints.iter().flatten())
                .map(|t| format!("{}:{}", t.key, t.effect));
            let deleted = if node.metadata.deletion_timestamp.is_some() {
                " deleted"
            } else {
                ""
            };
            let kind = node
                .labels()
                .get("node.kubernetes.io/instance-type")
                .map_or("-", String::as_str);
            Some(format!(
                "{} {kind} ready={ready}{deleted} taints={:?}",
                node.name_any(),
                taints.collect::<Vec<_>>()
            ))
        },
    );
    for (version, kind) in [
        ("karpenter.k8s.aws/v1", "EC2NodeClass"),
        ("karpenter.sh/v1", "NodePool"),
        ("karpenter.sh/v1", "NodeClaim"),
    ] {
        let objects = match cluster.api_of(version, kind, None).await {
            Ok(api) => list(&api, &all).await,
            Err(error) => Err(format!("{error:#}")),
        };
        section(&mut text, kind, objects, |object| Some(object_line(object)));
    }
    let events = list(&cluster.api::<Event>(None), &all).await.map(|mut events| {
        events.sort_by_key(|event| {
            (
                event.last_timestamp.clone().map(|t| t.0),
                event.metadata.creation_timestamp.clone().map(|t| t.0),
            )
        });
        events.split_off(events.len().saturating_sub(LINES))
    });
    section(&mut text, "latest events", events, |event| {
        let object = &event.involved_object;
        Some(format!(
            "{} {} {}: {}",
            object.kind.as_deref().unwrap_or("-"),
            object.name.as_deref().unwrap_or("-"),
            event.reason.as_deref().unwrap_or("-"),
            event.message.as_deref().unwrap_or("-"),
        ))
    });
    text
}

/// Name, deletion, and the conditions that are not true.
fn object_line(object: &DynamicObject) -> String {
    let deleted = if object.metadata.deletion_timestamp.is_some() {
        " deleted"
    } else {
        ""
    };
    let conditions = object.data["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let not_true: Vec<String> = conditions
        .iter()
        .filter(|condition| condition["status"] != "True")
        .map(|condition| {
            format!(
                "{}={} {}",
                condition["type"], condition["status"], condition["message"]
            )
        })
        .collect();
    format!("{}{deleted} {}", object.name_any(), not_true.join("; "))
}

async fn list<K>(api: &Api<K>, params: &ListParams) -> Result<Vec<K>, String>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    api.list(params)
        .await
        .map(|list| list.items)
        .map_err(|error| error.to_string())
}

fn section<K>(
    text: &mut String,
    title: &str,
    objects: Result<Vec<K>, String>,
    line: impl Fn(&K) -> Option<String>,
) {
    match objects {
        Ok(objects) => {
            let lines: Vec<String> = objects.iter().filter_map(line).collect();
            let _ = writeln!(text, "== {title}: {} of {}", lines.len(), objects.len());
            for line in lines.iter().take(LINES) {
                let _ = writeln!(text, "  {line}");
            }
            if lines.len() > LINES {
                let _ = writeln!(text, "  … and {} more", lines.len() - LINES);
            }
        }
        Err(error) => {
            let _ = writeln!(text, "== {title}: {error}");
        }
    }
}
