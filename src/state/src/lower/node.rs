//! A NodeClaim and its Node, or a Node alone, as one machine.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node as KubeNode;
use plimsoll_api::{conditions, labels, nodeclaim::NodeClaim, nodepool::Operator, taints};
use plimsoll_core::{
    catalog::{Catalog, MicroDollars},
    resources::Resources,
    snapshot::{Blocker, Labels, Node, NodeStage, Taint},
};

use super::{resources, taint};
use crate::{index::Index, node::is_ready, pdb::Budgets};

/// What the lowering of one machine needs besides the objects.
pub(crate) struct Context<'a> {
    pub(crate) index: &'a Index,
    pub(crate) catalog: &'a Catalog,
    pub(crate) budgets: &'a Budgets<'a>,
    pub(crate) now: Timestamp,
}

impl Context<'_> {
    /// A machine of ours, from order to end.
    pub(crate) fn claimed(&self, claim: &NodeClaim, node: Option<&KubeNode>, promised: bool) -> Node {
        let status = claim.status.clone().unwrap_or_default();
        let is_true = |type_| conditions::is_true(&status.conditions, type_);
        let stage = match node {
            Some(_) if is_true(conditions::INITIALIZED) => NodeStage::Initialized,
            Some(_) if is_true(conditions::REGISTERED) => NodeStage::Registered,
            _ => NodeStage::InFlight,
        };
        let mut machine = match node {
            Some(node) => self.bare(node),
            None => blank(claim.metadata.name.as_deref().unwrap_or_default()),
        };
        machine.claim = claim.metadata.name.as_deref().map(Into::into);
        machine.pool = label(claim.metadata.labels.as_ref(), labels::NODEPOOL).map(Into::into);
        machine.stage = stage;
        machine.leaving |=
            claim.metadata.deletion_timestamp.is_some() || is_true(conditions::INSTANCE_TERMINATING);
        machine.created = claim
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |t| t.0);

        if stage == NodeStage::InFlight {
            machine.labels.extend(claim_labels(claim));
            machine.taints = claim.spec.taints.iter().flatten().filter_map(taint).collect();
        } else if stage == NodeStage::Registered {
            let startup: Vec<Taint> = claim
                .spec
                .startup_taints
                .iter()
                .flatten()
                .filter_map(taint)
                .collect();
            machine.taints = node
                .and_then(|n| n.spec.as_ref()?.taints.as_ref())
                .into_iter()
                .flatten()
                .filter(|t| t.key != taints::UNREGISTERED && !taints::is_ephemeral(t))
                .filter_map(taint)
                .filter(|t| !startup.iter().any(|s| s.key == t.key && s.effect == t.effect))
                .collect();
        }
        if stage != NodeStage::Initialized {
            // A kubelet that is not up yet reports nothing, or zeros.
            let launched = !status.allocatable.is_empty();
            let fallback = if launched {
                &status.allocatable
            } else {
                &claim.spec.resources.requests
            };
            fill(&mut machine.allocatable, resources(fallback));
            let capacity = if launched {
                resources(&status.capacity)
            } else {
                self.largest(claim)
            };
            fill(&mut machine.capacity, capacity);
        }
        if machine.price.is_none() {
            machine.price = self.price(&machine.labels);
        }
        machine.quiet_since = conditions::find(&status.conditions, conditions::INITIALIZED)
            .filter(|c| c.status == "True")
            .map(|c| c.last_transition_time.0)
            .into_iter()
            .chain(status.last_pod_event_time.as_ref().map(|t| t.0))
            .chain(self.index.last_pod_event(&machine.name))
            .max()
            .filter(|_| stage == NodeStage::Initialized);
        machine.disruption_blocker = match node {
            Some(node) if stage == NodeStage::Initialized => self.blocker(node, promised),
            _ => Some(Blocker::NotInitialized),
        };
        machine
    }

    /// The most a claim may become while nobody knows what it became: a limit must hold whatever is launched.
    fn largest(&self, claim: &NodeClaim) -> Resources {
        let named = |name: &str| {
            let of_type = claim
                .spec
                .requirements
                .iter()
                .filter(|r| r.key == labels::INSTANCE_TYPE);
            of_type
                .filter(|r| r.operator == Operator::In)
                .all(|r| r.values.iter().any(|value| value == name))
        };
        let mut most = Resources::new();
        for (name, amount) in self
            .catalog
            .types
            .iter()
            .filter(|t| named(&t.name))
            .flat_map(|t| &t.capacity)
        {
            let known = most.entry(name.clone()).or_default();
            *known = (*amount).max(*known);
        }
        most
    }

    /// A machine by its Node object alone.
    pub(crate) fn bare(&self, node: &KubeNode) -> Node {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let spec = node.spec.clone().unwrap_or_default();
        let status = node.status.clone().unwrap_or_default();
        let node_taints: Vec<Taint> = spec.taints.iter().flatten().filter_map(taint).collect();
        let mut machine = blank(name);
        machine.stage = NodeStage::Initialized;
        machine.leaving = node.metadata.deletion_timestamp.is_some()
            || node_taints.iter().any(|t| &*t.key == taints::DISRUPTED);
        machine.not_ready = !is_ready(node);
        machine.labels = node
            .metadata
            .labels
            .iter()
            .flatten()
            .map(|(k, v)| (labels::normalize(k).into(), v.as_str().into()))
            .collect();
        machine
            .labels
            .entry(labels::HOSTNAME.into())
            .or_insert_with(|| name.into());
        machine.taints = node_taints;
        machine.capacity = resources(status.capacity.iter().flatten());
        machine.allocatable = resources(status.allocatable.iter().flatten());
        machine.volume_limits = self.index.storage.limits_of(name);
        machine.created = node
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |t| t.0);
        machine.price = self.price(&machine.labels);
        machine
    }

    fn price(&self, node_labels: &Labels) -> Option<MicroDollars> {
        let of = |key: &str| node_labels.get(key).map(|v| &**v);
        let (name, zone, capacity_type) = (
            of(labels::INSTANCE_TYPE)?,
            of(labels::ZONE)?,
            of(labels::CAPACITY_TYPE)?,
        );
        let at = self
            .catalog
            .types
            .binary_search_by(|t| (*t.name).cmp(name))
            .ok()?;
        let offerings = &self.catalog.types[at].offerings;
        offerings
            .iter()
            .find(|o| &*o.zone == zone && &*o.capacity_type == capacity_type)
            .map(|o| o.price)
    }

    fn blocker(&self, node: &KubeNode, promised: bool) -> Option<Blocker> {
        if promised {
            return Some(Blocker::Nominated);
        }
        if label(node.metadata.annotations.as_ref(), labels::DO_NOT_DISRUPT) == Some("true") {
            return Some(Blocker::NodeDoNotDisrupt);
        }
        let pods = || {
            self.index
                .pods_on(node.metadata.name.as_deref().unwrap_or_default())
        };
        if let Some(pod) = pods().find(|p| p.is_active() && p.do_not_disrupt_now(self.now)) {
            return Some(Blocker::PodDoNotDisrupt { pod: pod.key.clone() });
        }
        pods().filter(|p| p.is_evictable(self.now)).find_map(|pod| {
            Some(Blocker::PodDisruptionBudget {
                pdb: self.budgets.blocking(pod)?,
                pod: pod.key.clone(),
            })
        })
    }
}

fn label<'a>(map: Option<&'a BTreeMap<String, String>>, key: &str) -> Option<&'a str> {
    map?.get(key).map(String::as_str)
}

/// Labels a coming node is sure to have: those of the claim and its single-valued requirements.
fn claim_labels(claim: &NodeClaim) -> Labels {
    let decided = claim
        .spec
        .requirements
        .iter()
        .filter_map(|r| match (r.operator, r.values.as_slice()) {
            (Operator::In, [only]) => Some((labels::normalize(&r.key).into(), only.as_str().into())),
            _ => None,
        });
    let own = claim
        .metadata
        .labels
        .iter()
        .flatten()
        .map(|(k, v)| (Arc::from(k.as_str()), Arc::from(v.as_str())));
    decided.chain(own).collect()
}

fn fill(amounts: &mut Resources, fallback: Resources) {
    for (name, amount) in fallback {
        let entry = amounts.entry(name).or_default();
        if *entry == 0 {
            *entry = amount;
        }
    }
}

fn blank(name: &str) -> Node {
    Node {
        name: name.into(),
        claim: None,
        pool: None,
        stage: NodeStage::InFlight,
        leaving: false,
        not_ready: false,
        labels: Labels::from([(labels::HOSTNAME.into(), name.into())]),
        taints: Vec::new(),
        capacity: BTreeMap::new(),
        allocatable: BTreeMap::new(),
        price: None,
        volume_limits: BTreeMap::new(),
        created: Timestamp::UNIX_EPOCH,
        quiet_since: None,
        disruption_blocker: None,
    }
}
