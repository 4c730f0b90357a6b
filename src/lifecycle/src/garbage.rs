//! Machines without a claim, claims without a machine, and nodes without either.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use plimsoll_api::{conditions, labels, nodepool::NodeClassReference};
use plimsoll_provider::Listing;
use plimsoll_state::{Index, node::is_ready};

use crate::{
    claim::{delete, since},
    effect::Effect,
    termination::release_node,
};

/// A machine younger than this may belong to a claim whose record is still on its way.
const YOUNG: Duration = Duration::from_secs(30);

/// What a collection found.
#[derive(Debug, Default, PartialEq)]
pub struct Found {
    /// Provider ids of machines that no claim stands for. To be ended.
    pub leaked: Vec<String>,
    pub effects: Vec<Effect>,
}

/// Compares the records with the machines. They must have been listed after the index was complete,
/// and the index must be complete, or claims would look missing.
pub fn collect(index: &Index, listing: &Listing, now: Timestamp) -> Found {
    let machines = &listing.machines;
    let mut found = Found::default();
    let claimed: BTreeSet<&str> = index
        .claims()
        .filter_map(|c| c.status.as_ref()?.provider_id.as_deref())
        .collect();
    // A claim that has its machine does not stand for another one that carries its name.
    let named: BTreeSet<&str> = index
        .claims()
        .filter(|c| c.status.as_ref().is_none_or(|s| s.provider_id.is_none()))
        .filter_map(|c| c.metadata.name.as_deref())
        .chain(index.unreadable_claims().iter().map(String::as_str))
        .collect();
    let alive: BTreeSet<&str> = machines.iter().map(|m| m.provider_id.as_str()).collect();

    for machine in machines {
        let known = claimed.contains(machine.provider_id.as_str()) || named.contains(machine.claim.as_str());
        if !known && since(machine.launched, now) >= YOUNG {
            found.leaked.push(machine.provider_id.clone());
        }
    }
    for claim in index.claims().filter(|c| c.metadata.deletion_timestamp.is_none()) {
        let Some(status) = &claim.status else { continue };
        if claim
            .metadata
            .name
            .as_ref()
            .is_some_and(|name| listing.unseen.contains(name))
        {
            continue;
        }
        let Some(provider_id) = &status.provider_id else {
            continue;
        };
        let registered = conditions::is_true(&status.conditions, conditions::REGISTERED);
        let node_is_well = index
            .nodes_of_provider_id(provider_id)
            .iter()
            .any(|n| is_ready(n));
        if registered && !alive.contains(provider_id.as_str()) && !node_is_well {
            found.effects.push(delete(claim, "garbage_collected"));
        }
    }
    // The Node of a claim that cannot be read looks like one without a claim.
    let sure = index.unreadable_claims().is_empty();
    let orphans = index
        .nodes()
        .filter(|_| sure)
        .filter(|n| is_orphan(index, n) && !provider_id(n).is_some_and(|id| alive.contains(id)))
        .filter(|n| !listing.unseen_classes.iter().any(|class| may_be_of(class, n)));
    found.effects.extend(orphans.filter_map(|n| release_node(n)));
    found
}

/// A deleted Node that waits for a claim which does not exist.
fn is_orphan(index: &Index, node: &Node) -> bool {
    node.metadata.deletion_timestamp.is_some()
        && index.claim_of_node(node).is_none()
        && node
            .metadata
            .labels
            .as_ref()
            .is_some_and(|l| l.contains_key(labels::NODEPOOL))
}

/// Whether a Node may be of this class: it says so, or names none of the kind.
fn may_be_of(class: &NodeClassReference, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let named = labels.and_then(|all| all.get(&labels::nodeclass_label(&class.group, &class.kind)));
    named.is_none_or(|name| *name == class.name)
}

fn provider_id(node: &Node) -> Option<&str> {
    node.spec.as_ref()?.provider_id.as_deref()
}
