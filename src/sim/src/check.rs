//! What must never happen, looked at from outside: the checkers know the server and the cloud, not the controller.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use plimsoll_api::labels;
use plimsoll_core::{resources::NODES, verify};
use plimsoll_lifecycle::Effect;
use plimsoll_provider::Machine;
use serde_json::Value;

use crate::{
    api::{Change, Kind, Server, condition, desired_healthy, text},
    controller::{Planned, Request},
    scenario::Scenario,
    world::{World, whole},
};

/// The invariants' memory.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    pub(crate) violations: Vec<String>,
    /// Every claim there ever was: pool by name.
    pools: BTreeMap<String, String>,
    /// UIDs of every claim there ever was.
    uids: BTreeSet<String>,
    /// Limits of each pool.
    limits: BTreeMap<String, BTreeMap<String, i64>>,
    /// Launches looked at so far.
    launches: usize,
    launched: BTreeSet<String>,
    /// Nodes whose claims were deleted because they were empty.
    emptied_nodes: BTreeSet<String>,
    pub(crate) evictions: u64,
    pub(crate) emptied: u64,
}

impl Checks {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let limits = scenario.pools.iter().map(|pool| {
            let limits = pool.spec.limits.iter().flatten();
            let name = pool.metadata.name.clone().unwrap_or_default();
            (
                name,
                limits
                    .map(|(resource, quantity)| (resource.clone(), whole(resource, quantity)))
                    .collect(),
            )
        });
        Self {
            limits: limits.collect(),
            ..Self::default()
        }
    }

    fn violated(&mut self, now: Timestamp, what: &str) {
        self.violations.push(format!("{now} {what}"));
    }

    /// Remembers every claim that was ever made.
    pub(crate) fn changed(&mut self, change: &Change) {
        if change.kind != Kind::NodeClaim {
            return;
        }
        let claim = &change.object;
        let name = text(claim, "/metadata/name").unwrap_or_default();
        let pool = claim["metadata"]["labels"][labels::NODEPOOL]
            .as_str()
            .unwrap_or_default();
        self.pools.insert(name.to_owned(), pool.to_owned());
        self.uids
            .insert(text(claim, "/metadata/uid").unwrap_or_default().to_owned());
    }

    /// A call is about to be performed: is it one the controller may make now?
    pub(crate) fn before(&mut self, request: &Request, server: &Server, world: &World, now: Timestamp) {
        match request {
            Request::Effect(
                Effect::PatchNode { name, .. }
                | Effect::StopEvicting { name, .. }
                | Effect::OpenNode { name, .. }
                | Effect::DeleteNode { name, .. },
            ) => {
                let foreign = server
                    .get(Kind::Node, name)
                    .and_then(|n| text(n, "/spec/providerID"));
                if foreign.is_some_and(|id| !id.starts_with("fake:///")) {
                    self.violated(now, &format!("node {name} is not ours and was written"));
                }
            }
            Request::Effect(Effect::DeleteClaim {
                name,
                uid,
                reason: "empty",
            }) => {
                self.emptied += 1;
                let claim = server
                    .get(Kind::NodeClaim, name)
                    .filter(|c| text(c, "/metadata/uid") == Some(uid));
                let Some(node) = claim.and_then(|c| world.node_of(text(c, "/status/providerID")?)) else {
                    return;
                };
                self.emptied_nodes.insert(node.to_owned());
                if let Some(pod) = world.users_of(node).next() {
                    let pod = pod.metadata.name.clone().unwrap_or_default();
                    self.violated(
                        now,
                        &format!("claim {name} was deleted as empty while pod {pod} is on {node}"),
                    );
                }
            }
            Request::Effect(Effect::Terminate { claim, provider_id }) => {
                let uid = claim.metadata.uid.as_deref().unwrap_or_default();
                let provider_id = provider_id.clone().unwrap_or_else(|| format!("fake:///{uid}"));
                let name = claim.metadata.name.as_deref().unwrap_or_default();
                let past = server
                    .get(Kind::NodeClaim, name)
                    .is_some_and(|c| past_deadline(c, now));
                if !past {
                    self.ending(&provider_id, world, now);
                }
            }
            Request::EndMachine { provider_id } => {
                let uid = provider_id.trim_start_matches("fake:///");
                if let Some((name, _)) = server
                    .list(Kind::NodeClaim)
                    .find(|(_, c)| text(c, "/metadata/uid") == Some(uid))
                {
                    self.violated(
                        now,
                        &format!("machine {provider_id} was collected and claim {name} stands for it"),
                    );
                }
                self.ending(provider_id, world, now);
            }
            _ => {}
        }
    }

    /// A machine ends: nobody may be running on it.
    fn ending(&mut self, provider_id: &str, world: &World, now: Timestamp) {
        let Some(node) = world.node_of(provider_id).filter(|_| world.runs(provider_id)) else {
            return;
        };
        if let Some(pod) = world.users_of(node).next() {
            let pod = pod.metadata.name.clone().unwrap_or_default();
            self.violated(
                now,
                &format!("machine {provider_id} was ended while pod {pod} is on {node}"),
            );
        }
    }

    /// An eviction of a pod went through: its budgets must still hold, unless it did not count for them.
    pub(crate) fn evicted(&mut self, pod: &Value, server: &Server, now: Timestamp) {
        self.evictions += 1;
        let node = text(pod, "/spec/nodeName").unwrap_or_default();
        let daemon = pod["metadata"]["ownerReferences"][0]["kind"] == "DaemonSet";
        if self.emptied_nodes.contains(node) && !daemon {
            let pod = text(pod, "/metadata/name").unwrap_or_default();
            self.violated(
                now,
                &format!("{pod} was evicted from {node}, which was removed as empty"),
            );
        }
        if condition(pod, "Ready") != Some("True") {
            return;
        }
        for key in server.budgets_of(pod) {
            let Some(budget) = server.get(Kind::PodDisruptionBudget, &key) else {
                continue;
            };
            let healthy = server.healthy_pods(budget);
            if healthy < desired_healthy(budget) {
                let pod = text(pod, "/metadata/name").unwrap_or_default();
                self.violated(
                    now,
                    &format!("evicting {pod} left budget {key} with {healthy} healthy pods"),
                );
            }
        }
    }

    /// Machines and launches changed.
    pub(crate) fn machines(&mut self, machines: &[Machine], launches: &[(String, String)], now: Timestamp) {
        for (uid, _) in &launches[self.launches..] {
            if !self.uids.contains(uid) {
                self.violated(
                    now,
                    &format!("a machine was launched for claim UID {uid}, which never existed"),
                );
            }
            if !self.launched.insert(uid.clone()) {
                self.violated(now, &format!("a second machine was launched for claim UID {uid}"));
            }
        }
        self.launches = launches.len();

        let mut used: BTreeMap<(&String, &str), i64> = BTreeMap::new();
        for machine in machines {
            let Some(pool) = self.pools.get(&machine.claim) else {
                continue;
            };
            for (resource, quantity) in &machine.capacity {
                *used.entry((pool, resource)).or_default() += whole(resource, quantity);
            }
            *used.entry((pool, NODES)).or_default() += 1;
        }
        let mut over = Vec::new();
        for ((pool, resource), total) in used {
            let limit = self.limits.get(pool).and_then(|limits| limits.get(resource));
            if let Some(limit) = limit.filter(|limit| **limit < total) {
                over.push(format!(
                    "pool {pool} runs {total} {resource}, its limit is {limit}"
                ));
            }
        }
        for what in over {
            self.violated(now, &what);
        }
    }

    /// The slow judge reads every plan.
    pub(crate) fn planned(&mut self, planned: &Planned, now: Timestamp) {
        let verdict = verify::verify(&planned.snapshot, &planned.catalog, &planned.plan);
        for violation in verdict.violations {
            self.violated(
                now,
                &format!("plan {} breaks a rule: {violation:?}", planned.plan.id),
            );
        }
    }

    /// After scaling to zero nothing of ours may be left.
    pub(crate) fn leftovers(server: &Server, machines: &[Machine]) -> Vec<String> {
        let claims = server
            .list(Kind::NodeClaim)
            .map(|(name, _)| format!("claim {name}"));
        let ours = |node: &Value| text(node, "/spec/providerID").is_some_and(|id| id.starts_with("fake:///"));
        let nodes = server
            .list(Kind::Node)
            .filter(|(_, node)| ours(node))
            .map(|(name, _)| format!("node {name}"));
        claims
            .chain(nodes)
            .chain(machines.iter().map(|m| format!("machine {}", m.provider_id)))
            .collect()
    }
}

/// The claim's time to drain is over, so that pods no longer hold its machine.
fn past_deadline(claim: &Value, now: Timestamp) -> bool {
    let at = claim["metadata"]["annotations"][labels::TERMINATION_TIMESTAMP].as_str();
    at.and_then(|text| text.parse::<Timestamp>().ok())
        .is_some_and(|at| now >= at)
}
