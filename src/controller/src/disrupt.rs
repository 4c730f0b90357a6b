//! The disruption loop: finds empty machines, closes them, looks again, lets them go.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use plimsoll_api::{nodeclaim::NodeClaim, taints};
use plimsoll_core::{
    disrupt,
    plan::{Plan, Removal},
    report::KeepReason,
    snapshot::Snapshot,
};
use plimsoll_lifecycle::{Effect, EventType, Subject, disruption};
use plimsoll_provider::CloudProvider;
use plimsoll_state::NodeView;

use crate::{
    context::Context,
    perform::{PerformError, chain},
};

/// A full pass even without a wake (upstream's poll).
const PERIOD: Duration = Duration::from_secs(10);
/// kube-scheduler may still carry out a binding it decided before it saw the node closed.
const BINDINGS_LAND: Duration = Duration::from_secs(1);
/// The least time between two passes: events come in bursts.
const GAP: Duration = Duration::from_millis(500);

pub(crate) async fn work<P: CloudProvider>(context: Arc<Context<P>>) {
    // Claims this process decided to delete. A node that carries the disruption taint without being among
    // them was left so by a crash.
    let mut decided = BTreeSet::new();
    loop {
        let catalog = context.catalog();
        let now = Timestamp::now();
        let snapshot = context.index().snapshot(&catalog, now).snapshot;
        reopen_abandoned(&context, &decided).await;
        decided.retain(|name| context.index().claim(name).is_some());
        finish_undone(&context, &mut decided).await;

        let (plan, report) = disrupt::emptiness(&snapshot, now);
        let findings = plimsoll_core::lint::lint(&snapshot, &catalog, &plan);
        context.metrics.eligible(plan.removals.len());
        if findings.is_empty() {
            carry_out(&context, &snapshot, &plan, &mut decided).await;
        } else {
            tracing::error!(plan = %plan.id, ?findings, "plan failed its own checks, nothing is done");
        }
        tell_blocked(&context, &snapshot, &report);

        let due = disrupt::next_due(&snapshot).map_or(PERIOD, |at| {
            Duration::try_from(at.duration_since(Timestamp::now()))
                .unwrap_or(GAP)
                .max(GAP)
        });
        tokio::time::sleep(GAP).await;
        let _ = tokio::time::timeout(due.min(PERIOD), context.disrupt.notified()).await;
    }
}

async fn carry_out<P: CloudProvider>(
    context: &Context<P>,
    snapshot: &Snapshot,
    plan: &Plan,
    decided: &mut BTreeSet<String>,
) {
    let mut closed = Vec::new();
    for removal in &plan.removals {
        let node = &snapshot.nodes[removal.node.0 as usize];
        let Some(claim) = node.claim.as_deref() else {
            continue;
        };
        match close(context, claim).await {
            Ok(true) => closed.push((claim, removal)),
            Ok(false) => tracing::debug!(
                nodeclaim = claim,
                "removal dropped, the machine is not what the plan saw"
            ),
            Err(error) => tracing::warn!(nodeclaim = claim, error = chain(&error), "node not closed"),
        }
    }
    if closed.is_empty() {
        return;
    }
    tokio::time::sleep(BINDINGS_LAND).await;
    for (claim, removal) in closed {
        match remove(context, claim).await {
            Ok(true) => {
                decided.insert(claim.to_owned());
                context.metrics.decision("delete", "empty");
                log_removal(claim, removal);
            }
            Ok(false) => tracing::debug!(
                nodeclaim = claim,
                "removal dropped, the machine is no longer empty"
            ),
            Err(error) => {
                tracing::warn!(nodeclaim = claim, error = chain(&error), "removal failed");
                if error.is_unclear() {
                    // The claim may be leaving: its node must not open again before a later pass knows.
                    decided.insert(claim.to_owned());
                }
            }
        }
    }
}

/// Removals whose last call had no clear outcome: the node is closed, so it can only be tried again.
async fn finish_undone<P: CloudProvider>(context: &Context<P>, decided: &mut BTreeSet<String>) {
    let stays = |name: &&String| {
        let index = context.index();
        let claim = index.claim(name);
        claim.is_some_and(|c| c.metadata.deletion_timestamp.is_none())
    };
    let undone: Vec<String> = decided.iter().filter(stays).cloned().collect();
    for claim in undone {
        match remove(context, &claim).await {
            Ok(true) => tracing::info!(nodeclaim = claim, "finished an interrupted removal"),
            Ok(false) => drop(decided.remove(&claim)),
            Err(error) => {
                tracing::warn!(nodeclaim = claim, error = chain(&error), "removal failed again");
                if !error.is_unclear() {
                    decided.remove(&claim);
                }
            }
        }
    }
}

/// Whether the node was closed.
async fn close<P: CloudProvider>(context: &Context<P>, name: &str) -> Result<bool, PerformError> {
    let Some(view) = context.index().view(name) else {
        return Ok(false);
    };
    let Some(close) = disruption::close(&view) else {
        return Ok(false);
    };
    context.perform(close).await.map(|()| true)
}

fn log_removal(claim: &str, removal: &Removal) {
    let saves_per_hour = removal.saves.map(plimsoll_core::catalog::MicroDollars::dollars);
    tracing::info!(nodeclaim = claim, saves_per_hour, "removing empty machine");
}

/// Whether the claim of a closed node was deleted.
async fn remove<P: CloudProvider>(context: &Context<P>, name: &str) -> Result<bool, PerformError> {
    let Some(view) = context.index().view(name) else {
        return Ok(false);
    };
    let Some(node) = view.node() else { return Ok(false) };

    // Not from the index: what counts is what the API server says after the node was closed.
    let node_name = node.metadata.name.as_deref().unwrap_or_default();
    let pods = context.pods_on(node_name).await?;
    let effects = disruption::confirm_empty(&view.claim, node, &pods);
    let deletes = effects.iter().any(|e| matches!(e, Effect::DeleteClaim { .. }));
    context.perform_all(effects).await?;
    Ok(deletes)
}

/// Takes the taint off nodes that were closed by a process that did not live to decide.
async fn reopen_abandoned<P: CloudProvider>(context: &Context<P>, decided: &BTreeSet<String>) {
    let abandoned: Vec<NodeView> = {
        let index = context.index();
        let stays = |claim: &NodeClaim| claim.metadata.deletion_timestamp.is_none();
        let names = index
            .claims()
            .filter(|c| stays(c))
            .filter_map(|c| c.metadata.name.as_deref());
        names
            .filter(|name| !decided.contains(*name))
            .filter_map(|name| index.view(name))
            .collect()
    };
    for view in abandoned {
        let Some(node) = view.node() else { continue };
        let closed = node
            .spec
            .iter()
            .flat_map(|s| s.taints.iter().flatten())
            .any(|t| t.key == taints::DISRUPTED);
        if closed && node.metadata.deletion_timestamp.is_none() {
            tracing::info!(
                node = node.metadata.name,
                "opening a node that an unfinished disruption had closed"
            );
            if let Err(error) = context.perform(disruption::reopen(node)).await {
                tracing::warn!(error = chain(&error), "node could not be opened again");
            }
        }
    }
}

fn tell_blocked<P: CloudProvider>(
    context: &Context<P>,
    snapshot: &Snapshot,
    report: &plimsoll_core::report::Report,
) {
    for kept in &report.kept {
        let KeepReason::Blocked(blocker) = &kept.reason else {
            continue;
        };
        let node = &snapshot.nodes[kept.node.0 as usize];
        let subject = Subject::Node {
            name: node.name.to_string(),
        };
        context.events.publish(
            &subject,
            EventType::Normal,
            "DisruptionBlocked",
            blocker.to_string(),
        );
    }
}
