//! Emptying a node: pods leave by tiers, through the eviction API, until a deadline overrules it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use plimsoll_api::{labels, nodeclaim::NodeClaim};
use plimsoll_state::{
    NodeView,
    pod::{Owner, PodState},
};

use crate::{
    claim::{node_name, since},
    effect::{Effect, EventType, Pass, Subject},
};

/// A drain lasts at least this long, so that a pod bound right before the node closed is seen (upstream's figure).
const DRAIN_MIN: Duration = Duration::from_secs(5);
/// Pods leaving wake the drain; this is the backup.
const DRAIN_POLL: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Draining,
    Done,
}

/// What remains after the last grace period of a drain that waited for the next places of its pods: for evictions that
/// budgets put off.
const MARGIN: Duration = Duration::from_secs(20);

/// Who leaves first. A tier is sent off when all before it are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Tier {
    critical: bool,
    daemon: bool,
}

/// One step: evicts the first tier that still has pods, and deletes what is past the deadline.
pub(crate) fn step(
    view: &NodeView,
    node: &Node,
    deadline: Option<Timestamp>,
    now: Timestamp,
    pass: &mut Pass,
) -> Progress {
    let waiting: Vec<&Arc<PodState>> = view.pods.iter().filter(|p| p.is_waiting_eviction(now)).collect();
    let begun = view
        .claim
        .metadata
        .deletion_timestamp
        .as_ref()
        .map_or(now, |t| t.0);
    let lasted = since(begun, now);
    if waiting.is_empty() {
        if lasted >= DRAIN_MIN {
            return Progress::Done;
        }
        pass.again_in(DRAIN_MIN - lasted);
        return Progress::Draining;
    }
    if let Some(deadline) = deadline {
        force(&waiting, node, deadline, now, pass);
    }
    let ends = ends_at(&view.claim).map(|ends| deadline.map_or(ends, |deadline| deadline.min(ends)));
    let stays = |pod: &PodState| {
        let is_homeless = pod.is_reschedulable() && !view.replaced.contains(&pod.key);
        is_homeless && ends.is_some_and(|ends| now < latest_eviction(pod, &waiting, ends))
    };
    // Pods that stay keep the agents of their machine.
    let someone_stays = waiting.iter().any(|p| p.is_evictable(now) && stays(p));
    let in_turn = waiting
        .iter()
        .map(|p| tier(p))
        .filter(|t| !(t.daemon && someone_stays))
        .min();
    if let Some(tier) = in_turn {
        for pod in waiting
            .iter()
            .filter(|p| self::tier(p) == tier && p.is_evictable(now) && !stays(p))
        {
            pass.effects.push(Effect::Evict {
                pod: pod.key.clone(),
                uid: pod.uid.clone(),
                node: node_name(node),
            });
        }
    }
    pass.again_in(DRAIN_POLL);
    Progress::Draining
}

/// When the cloud takes the machine of this claim away, as far as it is known.
pub(crate) fn ends_at(claim: &NodeClaim) -> Option<Timestamp> {
    let annotation = claim.metadata.annotations.as_ref()?.get(labels::ENDS_AT)?;
    annotation.parse().ok()
}

/// When a pod must be evicted so that it and the tiers that wait for it have their grace periods before the machine ends:
/// those after its own, and all agents of the machine.
fn latest_eviction(pod: &PodState, waiting: &[&Arc<PodState>], ends: Timestamp) -> Timestamp {
    let own = tier(pod);
    let mut of_other_tiers = BTreeMap::<Tier, Duration>::new();
    for other in waiting {
        let tier = tier(other);
        if tier > own || (tier.daemon && tier != own) {
            let longest = of_other_tiers.entry(tier).or_default();
            *longest = other.grace_period.max(*longest);
        }
    }
    let takes = of_other_tiers
        .values()
        .fold(MARGIN, |all, one| all.saturating_add(*one));
    let takes = takes.saturating_add(pod.grace_period);
    ends.saturating_sub(takes).unwrap_or(Timestamp::MIN)
}

/// Pods that could not finish their own grace period before the deadline are deleted now, whatever protects
/// them, with the time that is left.
fn force(waiting: &[&Arc<PodState>], node: &Node, deadline: Timestamp, now: Timestamp, pass: &mut Pass) {
    let left = since(now, deadline);
    if left.is_zero() || waiting.iter().any(|p| p.grace_period >= left) {
        pass.effects.push(Effect::Event {
            subject: Subject::Node {
                name: node_name(node),
            },
            type_: EventType::Warning,
            reason: "TerminationGracePeriodExpiring",
            note: format!("all pods will be deleted by {deadline}"),
        });
    }
    for pod in waiting {
        let ends_too_late = pod.deletion.is_none_or(|at| at > deadline);
        if pod.grace_period >= left && ends_too_late {
            let grace = left.max(Duration::from_secs(1));
            pass.effects.push(Effect::DeletePod {
                pod: pod.key.clone(),
                uid: pod.uid.clone(),
                grace,
            });
        }
    }
}

fn tier(pod: &PodState) -> Tier {
    Tier {
        critical: pod.critical,
        daemon: pod.owner == Owner::DaemonSet,
    }
}
