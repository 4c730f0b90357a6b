//! Kubelets: a machine becomes a Node, the Node becomes ready, pods start and stop; until the machine is gone.

use jiff::Timestamp;
use plimsoll_api::{labels, taints as own};
use plimsoll_provider::Machine;
use serde_json::{Value, json};

use super::{World, provider_id_of, with_taints};
use crate::{
    agenda::{Agenda, Event},
    api::{Kind, Part, Server, set_condition, stamp, text},
    rng::Rng,
};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

impl World {
    /// The kubelet of a machine registers: closed by its start-up taint, and not ready yet.
    pub(crate) fn join(
        &mut self,
        machine: &Machine,
        server: &mut Server,
        agenda: &mut Agenda,
        rng: &mut Rng,
    ) {
        self.nodes_made += 1;
        let name = format!("node-{:04}", self.nodes_made);
        let mut node_labels = machine.labels.clone();
        node_labels.insert(labels::HOSTNAME.into(), name.clone());
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": name, "labels": node_labels },
            "spec": {
                "providerID": machine.provider_id,
                "taints": [own::unregistered(), { "key": NOT_READY, "effect": "NoSchedule" }],
            },
            "status": {
                "capacity": machine.capacity, "allocatable": machine.allocatable,
                "conditions": [{ "type": "Ready", "status": "False" }],
            },
        });
        server
            .create(Kind::Node, node, agenda.now())
            .expect("node names are counted");
        agenda.after(rng.between(500, 20_000), Event::NodeReady { node: name });
    }

    /// The kubelet says so, and the node controller takes its taint off.
    pub(crate) fn node_ready(&mut self, name: &str, server: &mut Server) {
        let Some(node) = self.nodes.get(name) else { return };
        if !self.is_alive(name) {
            return;
        }
        let taints = with_taints(node, NOT_READY, &[]);
        set_ready(server, name, "True");
        server
            .patch(
                Kind::Node,
                name,
                &json!({ "spec": { "taints": taints } }),
                Part::Main,
            )
            .expect("it was just seen");
    }

    /// The node controller has missed heartbeats: the node and its pods count as not ready.
    pub(crate) fn node_lost(&mut self, name: &str, server: &mut Server, now: Timestamp) {
        let Some(node) = self.nodes.get(name) else { return };
        self.lost.insert(name.to_owned(), now);
        let taints = with_taints(
            node,
            UNREACHABLE,
            &[(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")],
        );
        set_ready(server, name, "Unknown");
        server
            .patch(
                Kind::Node,
                name,
                &json!({ "spec": { "taints": taints } }),
                Part::Main,
            )
            .expect("it was just seen");
        let on_it = |pod: &Value| text(pod, "/spec/nodeName") == Some(name);
        let pods: Vec<String> = server
            .list(Kind::Pod)
            .filter(|(_, pod)| on_it(pod))
            .map(|(key, _)| key.clone())
            .collect();
        for key in pods {
            set_pod(server, &key, None, "False", None);
        }
    }

    /// Containers run, if the machine and the pod still exist.
    pub(crate) fn pod_started(
        &mut self,
        key: &str,
        uid: &str,
        server: &mut Server,
        agenda: &mut Agenda,
        rng: &mut Rng,
    ) {
        let Some(pod) = server
            .get(Kind::Pod, key)
            .filter(|pod| text(pod, "/metadata/uid") == Some(uid))
        else {
            return;
        };
        let Some(node) = text(pod, "/spec/nodeName").map(str::to_owned) else {
            return;
        };
        let waits = text(pod, "/status/phase") == Some("Pending")
            && text(pod, "/metadata/deletionTimestamp").is_none();
        if !waits || !self.nodes.contains_key(&node) || !self.is_alive(&node) {
            return;
        }
        if crate::api::condition(server.get(Kind::Node, &node).expect("it was just seen"), "Ready")
            == Some("True")
        {
            set_pod(server, key, Some("Running"), "True", Some(agenda.now()));
        } else {
            agenda.after(
                rng.between(500, 2_000),
                Event::PodStarted {
                    pod: key.to_owned(),
                    uid: uid.to_owned(),
                },
            );
        }
    }

    /// Containers have ended; a dead machine never says so.
    pub(crate) fn pod_stopped(&mut self, key: &str, uid: &str, server: &mut Server) {
        let node = server
            .get(Kind::Pod, key)
            .and_then(|pod| text(pod, "/spec/nodeName"))
            .unwrap_or_default();
        if self.is_alive(node) {
            server.remove_pod(key, uid);
        }
    }

    /// Machines that are not the cloud's live for ever.
    fn is_alive(&self, node: &str) -> bool {
        let provider_id = self.nodes.get(node).and_then(provider_id_of);
        provider_id.is_some_and(|id| !id.starts_with("fake://") || self.alive.contains(id))
    }
}

fn set_ready(server: &mut Server, node: &str, status: &str) {
    let Some(object) = server.get(Kind::Node, node) else {
        return;
    };
    let mut new = Value::clone(object);
    set_condition(&mut new, "Ready", status, None);
    let patch = json!({ "status": { "conditions": new["status"]["conditions"] } });
    server
        .patch(Kind::Node, node, &patch, Part::Status)
        .expect("it was just read");
}

fn set_pod(server: &mut Server, key: &str, phase: Option<&str>, ready: &str, started: Option<Timestamp>) {
    let Some(object) = server.get(Kind::Pod, key) else {
        return;
    };
    let mut new = Value::clone(object);
    set_condition(&mut new, "Ready", ready, None);
    if let Some(phase) = phase {
        new["status"]["phase"] = json!(phase);
    }
    if let Some(at) = started {
        new["status"]["startTime"] = stamp(at);
    }
    server
        .patch(Kind::Pod, key, &json!({ "status": new["status"] }), Part::Status)
        .expect("it was just read");
}
