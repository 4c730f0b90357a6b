//! Which machines to give back: emptiness, bounded by budgets.
//!
//! The semantics are Karpenter v1's `WhenEmpty`: a machine on which only daemons run may go once nothing
//! has happened on it for `consolidateAfter`, as far as the pool's budgets allow.

use std::{collections::BTreeMap, str::FromStr, sync::Arc};

use croner::Cron;
use jiff::{SignedDuration, Timestamp};

use crate::{
    catalog::MicroDollars,
    plan::{Plan, Removal},
    report::{KeepReason, Kept, Report},
    snapshot::{Budget, BudgetNodes, DisruptionReason, Node, NodeId, NodeStage, Place, Pool, Snapshot},
};

/// Plans the removal of empty machines at `now`.
///
/// The plan only says what may go; whoever acts on it checks each removal against fresh state. Machines
/// are taken dearest first, so that a tight budget is spent where it saves most; ties go by name.
pub fn emptiness(snapshot: &Snapshot, now: Timestamp) -> (Plan, Report) {
    let mut report = Report::default();
    let mut candidates: BTreeMap<&Arc<str>, Vec<NodeId>> = BTreeMap::new();
    let pods = pods_by_node(snapshot);
    for (idx, node) in snapshot.nodes.iter().enumerate() {
        let id = NodeId(idx as u32);
        let Some(pool_name) = node.claim.as_ref().and(node.pool.as_ref()) else {
            continue;
        };
        if node.leaving {
            continue;
        }
        let keep = match snapshot.pools.iter().find(|p| p.name == *pool_name) {
            None => Some(KeepReason::PoolNotReady),
            Some(pool) => keep_reason(node, pool, pods[idx], now),
        };
        match keep {
            Some(reason) => report.kept.push(Kept { node: id, reason }),
            None => candidates.entry(pool_name).or_default().push(id),
        }
    }

    let mut plan = Plan {
        revision: snapshot.revision,
        ..Plan::default()
    };
    for (pool_name, mut nodes) in candidates {
        let pool = snapshot
            .pools
            .iter()
            .find(|p| p.name == *pool_name)
            .expect("candidates have a ready pool");
        let allowed = allowed_disruptions(snapshot, pool, DisruptionReason::Empty, now);
        let node_of = |id: &NodeId| &snapshot.nodes[id.0 as usize];
        nodes.sort_by_key(|id| (std::cmp::Reverse(node_of(id).price), node_of(id).name.clone()));
        for (rank, id) in nodes.into_iter().enumerate() {
            if rank < allowed as usize {
                let saves = node_of(&id).price;
                plan.removals.push(Removal {
                    node: id,
                    reason: DisruptionReason::Empty,
                    saves,
                });
            } else {
                let reason = KeepReason::Budget {
                    pool: pool_name.clone(),
                    allowed,
                };
                report.kept.push(Kept { node: id, reason });
            }
        }
    }
    plan.id = removal_plan_id(snapshot, &plan);
    (plan, report)
}

/// When the first machine that only waits for `consolidateAfter` becomes due; None when none does.
pub fn next_due(snapshot: &Snapshot) -> Option<Timestamp> {
    let pods = pods_by_node(snapshot);
    let due = |(idx, node): (usize, &Node)| {
        let pool = snapshot
            .pools
            .iter()
            .find(|p| Some(&p.name) == node.pool.as_ref())?;
        let quiet = node.quiet_since.filter(|_| pods[idx] == 0 && !node.leaving)?;
        quiet
            .checked_add(SignedDuration::try_from(pool.consolidate_after?).ok()?)
            .ok()
    };
    snapshot.nodes.iter().enumerate().filter_map(due).min()
}

/// How many machines of a pool may be disrupted for a reason at this moment.
///
/// Percentages count initialized machines, rounded up; machines already leaving or not ready use the budget
/// up. One budget that cannot be read closes them all.
pub fn allowed_disruptions(
    snapshot: &Snapshot,
    pool: &Pool,
    reason: DisruptionReason,
    now: Timestamp,
) -> u32 {
    let of_pool = || {
        snapshot
            .nodes
            .iter()
            .filter(|n| n.claim.is_some() && n.pool.as_ref() == Some(&pool.name))
    };
    let total = of_pool().filter(|n| n.stage == NodeStage::Initialized).count() as u64;
    let disrupting = of_pool().filter(|n| n.leaving || n.not_ready).count() as u64;
    let mut allowed = u64::MAX;
    for budget in &pool.budgets {
        let limit = match (window_is_open(budget, now), budget.nodes) {
            (Err(_), _) | (_, BudgetNodes::Invalid) => return 0,
            (Ok(false), _) => continue,
            _ if !budget.reasons.is_empty() && !budget.reasons.contains(&reason) => continue,
            (Ok(true), BudgetNodes::Count(count)) => u64::from(count),
            (Ok(true), BudgetNodes::Percent(percent)) => (total * u64::from(percent)).div_ceil(100),
        };
        allowed = allowed.min(limit);
    }
    u32::try_from(allowed.saturating_sub(disrupting)).unwrap_or(u32::MAX)
}

fn keep_reason(node: &Node, pool: &Pool, pods: u32, now: Timestamp) -> Option<KeepReason> {
    if pods > 0 {
        return Some(KeepReason::InUse { pods });
    }
    let Some(after) = pool.consolidate_after else {
        return Some(KeepReason::NeverConsolidated);
    };
    if let Some(blocker) = &node.disruption_blocker {
        return Some(KeepReason::Blocked(blocker.clone()));
    }
    let quiet = node
        .quiet_since
        .map_or(0, |since| now.duration_since(since).as_secs());
    let seconds_left = i64::try_from(after.as_secs()).unwrap_or(i64::MAX) - quiet;
    (node.quiet_since.is_none() || seconds_left > 0).then_some(KeepReason::NotQuietYet { seconds_left })
}

/// Pods per node that would need another place, promised ones included.
fn pods_by_node(snapshot: &Snapshot) -> Vec<u32> {
    let mut counts = vec![0; snapshot.nodes.len()];
    for pod in snapshot.pods.iter().filter(|p| !p.daemon) {
        match pod.place {
            Place::Pending => {}
            Place::Assigned(node) | Place::Bound(node) | Place::Leaving(node) => counts[node.0 as usize] += 1,
        }
    }
    counts
}

/// Whether the budget's schedule has a window that contains `now`. Always, without a schedule.
fn window_is_open(budget: &Budget, now: Timestamp) -> Result<bool, croner::errors::CronError> {
    let Some((schedule, duration)) = &budget.window else {
        return Ok(true);
    };
    let cron = Cron::from_str(schedule)?;
    let duration = SignedDuration::try_from(*duration).unwrap_or(SignedDuration::MAX);
    let start = now
        .checked_sub(duration)
        .unwrap_or(Timestamp::MIN)
        .to_zoned(jiff::tz::TimeZone::UTC);
    match cron.find_next_occurrence(&start, true) {
        Ok(hit) => Ok(hit.timestamp() <= now),
        // A schedule that never fires again has no open window.
        Err(croner::errors::CronError::TimeSearchLimitExceeded) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Checks a schedule as a budget will read it.
pub fn check_schedule(schedule: &str) -> Result<(), croner::errors::CronError> {
    Cron::from_str(schedule).map(|_| ())
}

/// Names a removal plan by what it removes.
fn removal_plan_id(snapshot: &Snapshot, plan: &Plan) -> Arc<str> {
    let mut hash = rustc_hash::FxHasher::default();
    std::hash::Hasher::write_u64(&mut hash, plan.revision);
    for removal in &plan.removals {
        std::hash::Hash::hash(&snapshot.nodes[removal.node.0 as usize].name, &mut hash);
    }
    format!("{:016x}", std::hash::Hasher::finish(&hash)).into()
}

/// Sum of what the removals save per hour, where known.
pub fn savings(plan: &Plan) -> MicroDollars {
    plan.removals.iter().filter_map(|r| r.saves).sum()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        report::KeepReason,
        snapshot::{Blocker, ClassId, Labels, Pod, PodClass},
    };

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn node(name: &str, price: i64) -> Node {
        Node {
            name: name.into(),
            claim: Some(name.into()),
            pool: Some("pool".into()),
            stage: NodeStage::Initialized,
            leaving: false,
            not_ready: false,
            labels: Labels::new(),
            taints: Vec::new(),
            capacity: BTreeMap::new(),
            allocatable: BTreeMap::new(),
            price: Some(MicroDollars(price)),
            volume_limits: BTreeMap::new(),
            created: at("2026-01-01T00:00:00Z"),
            quiet_since: Some(at("2026-01-05T12:00:00Z")),
            disruption_blocker: None,
        }
    }

    fn pool(budgets: Vec<Budget>) -> Pool {
        Pool {
            name: "pool".into(),
            weight: 0,
            requirements: Vec::new(),
            labels: Labels::new(),
            taints: Vec::new(),
            startup_taints: Vec::new(),
            limits: BTreeMap::new(),
            consolidate_after: Some(Duration::from_secs(60)),
            budgets,
        }
    }

    fn budget(nodes: BudgetNodes) -> Budget {
        Budget {
            nodes,
            reasons: Vec::new(),
            window: None,
        }
    }

    fn removed(snapshot: &Snapshot, now: &str) -> Vec<String> {
        let (plan, _) = emptiness(snapshot, at(now));
        plan.removals
            .iter()
            .map(|r| snapshot.nodes[r.node.0 as usize].name.to_string())
            .collect()
    }

    fn kept(snapshot: &Snapshot, now: &str) -> Vec<KeepReason> {
        emptiness(snapshot, at(now))
            .1
            .kept
            .into_iter()
            .map(|k| k.reason)
            .collect()
    }

    #[test]
    fn an_empty_machine_goes_once_it_has_been_quiet_for_long_enough() {
        let snapshot = Snapshot {
            nodes: vec![node("a", 1)],
            pools: vec![pool(vec![])],
            ..Snapshot::default()
        };
        assert_eq!(
            kept(&snapshot, "2026-01-05T12:00:59Z"),
            [KeepReason::NotQuietYet { seconds_left: 1 }]
        );
        assert_eq!(next_due(&snapshot), Some(at("2026-01-05T12:01:00Z")));
        assert_eq!(removed(&snapshot, "2026-01-05T12:01:00Z"), ["a"]);
    }

    #[test]
    fn what_must_stay_says_why() {
        let now = "2026-01-06T00:00:00Z";
        let with = |change: fn(&mut Snapshot)| {
            let mut snapshot = Snapshot {
                nodes: vec![node("a", 1)],
                pools: vec![pool(vec![])],
                ..Snapshot::default()
            };
            change(&mut snapshot);
            assert!(removed(&snapshot, now).is_empty());
            kept(&snapshot, now)
        };
        let pod = |s: &mut Snapshot, place, daemon| {
            s.classes.push(PodClass::default());
            let key = "ns/p".into();
            s.pods.push(Pod {
                key,
                uid: "p".into(),
                class: ClassId(0),
                place,
                daemon,
                terminating: false,
            });
        };
        assert_eq!(with(|s| s.pools.clear()), [KeepReason::PoolNotReady]);
        assert_eq!(
            with(|s| s.pools[0].consolidate_after = None),
            [KeepReason::NeverConsolidated]
        );
        assert_eq!(
            with(|s| s.nodes[0].disruption_blocker = Some(Blocker::Nominated)),
            [KeepReason::Blocked(Blocker::Nominated)]
        );
        assert_eq!(with(|s| s.nodes[0].leaving = true), []);
        assert_eq!(
            with(|s| s.nodes[0].claim = None),
            [],
            "a machine without a claim is not ours"
        );

        let mut busy = Snapshot {
            nodes: vec![node("a", 1)],
            pools: vec![pool(vec![])],
            ..Snapshot::default()
        };
        pod(&mut busy, Place::Assigned(NodeId(0)), false);
        assert_eq!(
            kept(&busy, now),
            [KeepReason::InUse { pods: 1 }],
            "a promised pod counts"
        );
        busy.pods.clear();
        pod(&mut busy, Place::Bound(NodeId(0)), true);
        assert_eq!(removed(&busy, now), ["a"], "a daemon does not");
    }

    #[test]
    fn budgets_bound_each_pass_and_are_spent_where_it_saves_most() {
        let now = "2026-01-06T00:00:00Z";
        let nodes = || (0..5).map(|i| node(&format!("n{i}"), i)).collect::<Vec<_>>();
        let check = |budgets: Vec<Budget>, change: fn(&mut Vec<Node>), expected: &[&str]| {
            let mut nodes = nodes();
            change(&mut nodes);
            let snapshot = Snapshot {
                nodes,
                pools: vec![pool(budgets)],
                ..Snapshot::default()
            };
            assert_eq!(removed(&snapshot, now), expected);
        };
        check(vec![budget(BudgetNodes::Count(2))], |_| {}, &["n4", "n3"]);
        // 30 % of 5 rounds up to 2.
        check(vec![budget(BudgetNodes::Percent(30))], |_| {}, &["n4", "n3"]);
        check(vec![budget(BudgetNodes::Percent(20))], |_| {}, &["n4"]);
        check(
            vec![budget(BudgetNodes::Count(3)), budget(BudgetNodes::Count(1))],
            |_| {},
            &["n4"],
        );
        check(
            vec![budget(BudgetNodes::Count(2))],
            |nodes| nodes[0].leaving = true,
            &["n4"],
        );
        check(
            vec![budget(BudgetNodes::Count(2))],
            |nodes| nodes[4].not_ready = true,
            &["n4"],
        );
        check(
            vec![budget(BudgetNodes::Count(2)), budget(BudgetNodes::Invalid)],
            |_| {},
            &[],
        );
        let drift_only = Budget {
            reasons: vec![DisruptionReason::Drifted],
            ..budget(BudgetNodes::Count(0))
        };
        check(vec![drift_only], |_| {}, &["n4", "n3", "n2", "n1", "n0"]);
    }

    #[test]
    fn a_window_is_open_from_its_hit_for_its_duration_in_utc() {
        let allowed = |schedule: &str, hours: u64, now: &str| {
            let window = Some((schedule.into(), Duration::from_secs(hours * 3600)));
            let closing = Budget {
                window,
                ..budget(BudgetNodes::Count(0))
            };
            let snapshot = Snapshot {
                nodes: vec![node("a", 1)],
                pools: vec![pool(vec![closing])],
                ..Snapshot::default()
            };
            allowed_disruptions(&snapshot, &snapshot.pools[0], DisruptionReason::Empty, at(now)) > 0
        };
        // Working hours, Monday to Friday: nothing may be disrupted. 2026-01-05 is a Monday.
        let work = "0 9 * * mon-fri";
        assert!(allowed(work, 8, "2026-01-05T08:59:59Z"));
        assert!(!allowed(work, 8, "2026-01-05T09:00:00Z"));
        assert!(!allowed(work, 8, "2026-01-05T16:59:59Z"));
        assert!(allowed(work, 8, "2026-01-05T17:00:01Z"));
        assert!(allowed(work, 8, "2026-01-04T12:00:00Z"), "a Sunday");
        assert!(!allowed("@daily", 1, "2026-01-05T00:30:00Z"));
        assert!(
            !allowed("not a schedule", 1, "2026-01-05T00:30:00Z"),
            "closed when it cannot be read"
        );
    }
}
