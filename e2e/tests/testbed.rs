//! The testbed itself: its kubelets behave as the tests of drains believe, and it leaves nothing behind.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use plimsoll_e2e::cluster::Cluster;
use plimsoll_e2e::paths;
use plimsoll_e2e::testbed::{Options, RunningProcess, State, Testbed};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

const NODE: &str = "
apiVersion: v1
kind: Node
metadata:
  name: simulated
  annotations: {kwok.x-k8s.io/node: fake}
  labels: {kubernetes.io/os: linux, kubernetes.io/arch: amd64}
";

fn pod(name: &str, grace_seconds: u32, annotations: &serde_json::Value) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "terminationGracePeriodSeconds": grace_seconds,
            "containers": [{"name": "c", "image": "pause", "resources": {"requests": {"cpu": "1"}}}],
        },
    })
    .to_string()
}

fn ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let containers = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    conditions
        .into_iter()
        .any(|c| c.type_ == "Ready" && c.status == "True")
        && containers.into_iter().all(|c| c.ready)
}

/// Deletes a pod and says how long it took to be gone.
async fn time_to_end(cluster: &Cluster, namespace: &str, name: &str) -> anyhow::Result<Duration> {
    let pods = cluster.api::<Pod>(Some(namespace));
    let begin = Instant::now();
    pods.delete(name, &DeleteParams::default()).await?;
    let key = format!("{namespace}/{name}");
    cluster
        .wait_for("the pod's end", pods, SOON, |pods| !pods.contains_key(&key))
        .await?;
    Ok(begin.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn kubelets_start_pods_and_let_them_end_slowly() {
    let testbed = Testbed::start(Options::default()).await.unwrap();
    let cluster = Cluster::connect(testbed.kubeconfig()).await.unwrap();
    let nodes: Api<Node> = Api::all(cluster.client());
    cluster.apply_yaml(NODE, None).await.unwrap();
    let capacity = json!({"status": {
        "capacity": {"cpu": "8", "memory": "32Gi", "pods": "110"},
        "allocatable": {"cpu": "7", "memory": "30Gi", "pods": "110"},
    }});
    nodes
        .patch_status("simulated", &PatchParams::default(), &Patch::Merge(&capacity))
        .await
        .unwrap();

    let namespace = cluster.namespace("kubelets start pods").await.unwrap();
    for (name, grace_seconds, annotations) in [
        ("patient", 3, json!({})),
        ("quick", 30, json!({"plimsoll.dev/test-terminate-after": "1s"})),
        ("unready", 30, json!({"plimsoll.dev/test-ready": "false"})),
    ] {
        cluster
            .apply_yaml(&pod(name, grace_seconds, &annotations), Some(&namespace))
            .await
            .unwrap();
    }
    let pods = cluster.wait_running(&namespace, 3, SOON).await.unwrap();
    let key = |name: &str| format!("{namespace}/{name}");
    assert!(ready(&pods[&key("patient")]) && ready(&pods[&key("quick")]));
    assert!(!ready(&pods[&key("unready")]));

    // A pod turns ready and unready as its annotation says.
    let api = cluster.api::<Pod>(Some(&namespace));
    for (value, expected) in [(json!(null), true), (json!("false"), false)] {
        let patch = json!({"metadata": {"annotations": {"plimsoll.dev/test-ready": value}}});
        api.patch("unready", &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .unwrap();
        let what = format!("readiness {expected}");
        cluster
            .wait_for(&what, api.clone(), SOON, |pods| {
                ready(&pods[&key("unready")]) == expected
            })
            .await
            .unwrap();
    }

    // Without the annotation a pod uses its whole grace period. The API's times are whole seconds, so the end can come
    // up to one second early.
    let patient = time_to_end(&cluster, &namespace, "patient").await.unwrap();
    assert!(patient >= Duration::from_secs(2), "{patient:?}");
    let quick = time_to_end(&cluster, &namespace, "quick").await.unwrap();
    assert!(
        quick >= Duration::from_secs(1) && quick < Duration::from_secs(10),
        "{quick:?}"
    );

    // Every request is in the audit log with the name of who made it.
    let audit = std::fs::read_to_string(testbed.audit_log()).unwrap();
    let by_admin =
        |line: &str| line.contains("\"username\":\"admin\"") && line.contains("\"verb\":\"delete\"");
    assert_eq!(audit.lines().filter(|line| by_admin(line)).count(), 2);

    // Nothing of it stays.
    let dir = testbed.dir().to_owned();
    let state = State::read(&dir).unwrap().unwrap();
    assert_eq!(state.processes.len(), 5);
    assert!(state.processes.iter().all(RunningProcess::runs));
    drop(testbed);
    assert!(!state.processes.iter().any(RunningProcess::runs));
    assert!(!dir.exists());
}

#[test]
fn nothing_outlives_a_killed_owner() {
    let name = format!("killed-{}", std::process::id());
    let testbed = |command: &str| {
        Command::new(env!("CARGO_BIN_EXE_testbed"))
            .args([command, "--name", &name])
            .status()
    };
    assert!(testbed("up").unwrap().success());
    let state = State::read(&paths::runs().unwrap().join(format!("named-{name}")))
        .unwrap()
        .unwrap();
    assert_eq!(state.processes.iter().filter(|process| process.runs()).count(), 5);

    let killed = Command::new("kill")
        .args(["-KILL", &state.owner.pid.to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let deadline = Instant::now() + SOON;
    while state.owner.runs() || state.processes.iter().any(RunningProcess::runs) {
        assert!(Instant::now() < deadline, "still running: {state:?}");
        std::thread::yield_now();
    }
    assert!(!testbed("status").unwrap().success());
    assert!(testbed("down").unwrap().success());
    assert!(!Path::new(&state.kubeconfig).exists());
}
