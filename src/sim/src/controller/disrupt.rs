//! The disruption loop: closes empty nodes one after the other, looks again, lets them go.

use std::collections::{BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};
use plimsoll_api::taints;
use plimsoll_core::disrupt;
use plimsoll_lifecycle::{Effect, disruption};
use plimsoll_state::{Index, node::has_taint, pod::PodState};

use super::{Call, Controller, Failure, Job, Request};

/// Between closing a node and looking at it again: longer than kube-scheduler takes to carry out what it
/// decided when the node was still open.
pub(super) const SETTLE: SignedDuration = SignedDuration::from_secs(1);

/// One pass of the loop.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// Claims whose machines may go.
    removals: VecDeque<String>,
    current: Option<String>,
    /// The current node was closed and not looked at again yet.
    look: bool,
}

impl Round {
    /// The next call: a look at the node that was just closed, or closing the next one.
    pub(super) fn next(&mut self, index: &Index) -> Option<Request> {
        if std::mem::take(&mut self.look) {
            let view = self.current.as_ref().and_then(|claim| index.view(claim));
            if let Some(node) = view.as_ref().and_then(|view| view.node()) {
                return Some(Request::LookAt {
                    node: node.metadata.name.clone().unwrap_or_default(),
                });
            }
        }
        while let Some(claim) = self.removals.pop_front() {
            if let Some(close) = index.view(&claim).and_then(|view| disruption::close(&view)) {
                self.current = Some(claim);
                return Some(Request::Effect(close));
            }
        }
        None
    }

    /// A node was written: if that closed it, it must be looked at.
    pub(super) fn written(&mut self) {
        self.look = self.current.is_some();
    }

    /// What follows from the pods that are on the closed node.
    pub(super) fn confirm(
        &mut self,
        index: &Index,
        pods: &[PodState],
        decided: &mut BTreeSet<String>,
    ) -> Vec<Effect> {
        let Some(claim) = self.current.take() else {
            return Vec::new();
        };
        let Some(view) = index.view(&claim) else {
            return Vec::new();
        };
        let Some(node) = view.node() else {
            return Vec::new();
        };
        let effects = disruption::confirm_empty(&view.claim, node, pods);
        if effects
            .iter()
            .any(|effect| matches!(effect, Effect::DeleteClaim { .. }))
        {
            decided.insert(claim);
        }
        effects
    }

    /// A call for the current removal failed: on with the next one.
    pub(super) fn abandon(&mut self, request: &Request, failure: Failure, decided: &mut BTreeSet<String>) {
        // A claim that may be leaving stays decided: its node must not open again before a later round knows.
        if let Request::Effect(Effect::DeleteClaim { name, .. }) = request
            && failure != Failure::Unclear
        {
            decided.remove(name);
        }
        self.current = None;
        self.look = false;
    }
}

impl Controller {
    pub(super) fn disrupt(&mut self, now: Timestamp, calls: &mut Vec<Call>) {
        let snapshot = self.index.snapshot(&self.catalog, now).snapshot;
        let queue = self.abandoned();
        self.decided.retain(|name| self.index.claim(name).is_some());
        let (plan, _) = disrupt::emptiness(&snapshot, now);
        let stays = |name: &&String| {
            let claim = self.index.claim(name);
            claim.is_some_and(|c| c.metadata.deletion_timestamp.is_none())
        };
        let planned = plan.removals.iter().filter_map(|r| {
            snapshot.nodes[r.node.0 as usize]
                .claim
                .as_deref()
                .map(str::to_owned)
        });
        let round = Round {
            removals: self
                .decided
                .iter()
                .filter(stays)
                .cloned()
                .chain(planned)
                .collect(),
            ..Round::default()
        };
        self.loops.disrupting(disrupt::next_due(&snapshot));
        self.start(Job::Disrupt(round), queue, now, calls);
    }

    /// Opens nodes that were closed by a process that did not live to decide.
    fn abandoned(&self) -> VecDeque<Request> {
        let stays = self
            .index
            .claims()
            .filter(|c| c.metadata.deletion_timestamp.is_none());
        let undecided = stays
            .filter_map(|c| c.metadata.name.as_deref())
            .filter(|name| !self.decided.contains(*name));
        let views = undecided.filter_map(|name| self.index.view(name));
        views
            .filter_map(|view| view.node().cloned())
            .filter(|node| has_taint(node, taints::DISRUPTED) && node.metadata.deletion_timestamp.is_none())
            .map(|node| Request::Effect(disruption::reopen(&node)))
            .collect()
    }
}
