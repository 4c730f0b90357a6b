//! The disruption loop: finds empty machines, closes them, looks again, lets them go.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use plimsoll_api::taints;
use plimsoll_core::{catalog::MicroDollars, disrupt, report::KeepReason, snapshot::Snapshot};
use plimsoll_lifecycle::{Effect, EventType, Subject, disruption};
use plimsoll_provider::{CloudProvider, chain};
use plimsoll_state::node::has_taint;

use crate::{context::Context, perform::PerformError};

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
        // Deletions without a clear outcome: whether their claims are leaving is not known, so they are tried again.
        let undone: Vec<String> = {
            let index = context.index();
            let stays = |claim: &&String| {
                let claim = index.claim(claim);
                claim.is_some_and(|c| c.metadata.deletion_timestamp.is_none())
            };
            decided.iter().filter(stays).cloned().collect()
        };

        let (plan, report) = disrupt::emptiness(&snapshot, now);
        let findings = plimsoll_core::lint::lint(&snapshot, &catalog, &plan);
        context.metrics.eligible(plan.removals.len());
        if findings.is_empty() {
            let planned = plan.removals.iter().filter_map(|removal| {
                let claim = snapshot.nodes[removal.node.0 as usize].claim.as_deref()?;
                Some((claim.to_owned(), removal.saves))
            });
            let removals: BTreeMap<_, _> = undone.into_iter().map(|c| (c, None)).chain(planned).collect();
            carry_out(&context, removals, &mut decided).await;
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

/// Closes the nodes of these claims, and deletes the claims whose nodes are empty once they are closed.
async fn carry_out<P: CloudProvider>(
    context: &Context<P>,
    removals: BTreeMap<String, Option<MicroDollars>>,
    decided: &mut BTreeSet<String>,
) {
    let mut closed = Vec::new();
    for (claim, saves) in removals {
        match close(context, &claim).await {
            Ok(true) => closed.push((claim, saves)),
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
    for (claim, saves) in closed {
        match remove(context, &claim).await {
            Removal::Done => {
                context.metrics.decision("delete", "empty");
                let saves_per_hour = saves.map(MicroDollars::dollars);
                tracing::info!(nodeclaim = claim, saves_per_hour, "removing empty machine");
                decided.insert(claim);
            }
            // Its node must not open again before it is known whether the claim is leaving.
            Removal::Unclear => drop(decided.insert(claim)),
            Removal::Dropped => drop(decided.remove(&claim)),
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

enum Removal {
    Done,
    /// The claim may have been deleted.
    Unclear,
    /// It was not; the node opens again now or with the next pass.
    Dropped,
}

/// Deletes the claim of a closed node if nothing is on it.
async fn remove<P: CloudProvider>(context: &Context<P>, name: &str) -> Removal {
    let Some(view) = context.index().view(name) else {
        return Removal::Dropped;
    };
    let Some(node) = view.node().filter(|_| !view.awaited) else {
        return Removal::Dropped;
    };

    // Not from the index: what counts is what the API server says after the node was closed.
    let node_name = node.metadata.name.as_deref().unwrap_or_default();
    let pods = match context.pods_on(node_name).await {
        Ok(pods) => pods,
        Err(error) => {
            tracing::warn!(nodeclaim = name, error = chain(&error), "removal dropped");
            return Removal::Dropped;
        }
    };
    let effects = disruption::confirm_empty(&view.claim, node, &pods);
    let deletes = effects.iter().any(|e| matches!(e, Effect::DeleteClaim { .. }));
    match context.perform_all(effects).await {
        Ok(()) if deletes => Removal::Done,
        Ok(()) => {
            tracing::debug!(
                nodeclaim = name,
                "removal dropped, the machine is no longer empty"
            );
            Removal::Dropped
        }
        Err(error) => {
            tracing::warn!(nodeclaim = name, error = chain(&error), "removal failed");
            if deletes && error.is_unclear() {
                Removal::Unclear
            } else {
                Removal::Dropped
            }
        }
    }
}

/// Takes the taint off nodes that were closed by a process that did not live to decide.
async fn reopen_abandoned<P: CloudProvider>(context: &Context<P>, decided: &BTreeSet<String>) {
    let abandoned: Vec<Arc<Node>> = {
        let index = context.index();
        let stays = |node: &Node| {
            let claim = index.claim_of_node(node).filter(|name| !decided.contains(*name));
            let claim = claim.and_then(|name| index.claim(name));
            claim.is_some_and(|c| c.metadata.deletion_timestamp.is_none())
        };
        let closed =
            |node: &Node| has_taint(node, taints::DISRUPTED) && node.metadata.deletion_timestamp.is_none();
        index.nodes().filter(|n| closed(n) && stays(n)).cloned().collect()
    };
    for node in &abandoned {
        tracing::info!(
            node = node.metadata.name,
            "opening a node that an unfinished disruption had closed"
        );
        if let Err(error) = context.perform(disruption::reopen(node)).await {
            tracing::warn!(error = chain(&error), "node could not be opened again");
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
