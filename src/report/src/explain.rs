//! Why one pod waits, why one machine stays, what one NodePool may still do.

use std::{
    cmp::Reverse,
    fmt::{Display, Write as _},
    str::FromStr,
};

use jiff::Timestamp;
use plimsoll_api::labels::NODEPOOL;
use plimsoll_core::{
    catalog::{Catalog, MicroDollars},
    disrupt,
    plan::Plan,
    policy::Policy,
    provision::provision,
    repack,
    report::Report,
    resources::{CPU, MEMORY, NODES, format_amount},
    snapshot::{DisruptionReason, Node, NodeId, Place, PodId, Snapshot},
};
use plimsoll_state::{Index, pod::PodState, pool_usage};
use thiserror::Error;

use crate::{
    cluster::{Cluster, Prices, request},
    fleet,
    money::{cores, counted, dollars, gib, percent},
    plans::tolerates_spot,
    reasons::{self, Code},
    restraints::{self, Restraint},
    savings::{Cost, amount},
    terminal::label,
};

/// Other machines and pods named one by one.
const NAMES_MAX: usize = 8;

/// Names proposed for one that nothing has.
const ALIKE_MAX: usize = 3;

/// What to explain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Pod { namespace: String, name: String },
    Node(String),
    NodePool(String),
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum ExplainError {
    #[error("{0:?} names nothing: write pod/NAMESPACE/NAME, node/NAME or nodepool/NAME")]
    Subject(String),
    #[error("there is no {kind} {name}; {hint}")]
    NotFound {
        kind: &'static str,
        name: String,
        /// Names that are alike, and how to see all.
        hint: String,
    },
}

impl FromStr for Subject {
    type Err = ExplainError;

    fn from_str(text: &str) -> Result<Self, ExplainError> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            ["pod" | "pods" | "po", namespace, name] => Ok(Self::Pod {
                namespace: (*namespace).to_owned(),
                name: (*name).to_owned(),
            }),
            ["node" | "nodes" | "no", name] => Ok(Self::Node((*name).to_owned())),
            ["nodepool" | "nodepools", name] => Ok(Self::NodePool((*name).to_owned())),
            _ => Err(ExplainError::Subject(text.to_owned())),
        }
    }
}

/// The answer, in lines of text.
pub fn explain(
    index: &Index,
    prices: &Prices,
    policy: &Policy,
    taken: Timestamp,
    subject: &Subject,
) -> Result<String, ExplainError> {
    let asked = Asked {
        index,
        prices,
        policy,
        taken,
    };
    match subject {
        Subject::Pod { namespace, name } => {
            let key = format!("{namespace}/{name}");
            let pod = index.pod(&key).ok_or_else(|| {
                let known = index.pods().map(|p| &*p.key);
                not_found("pod", &key, known, &format!("kubectl get pods -n {namespace}"))
            })?;
            Ok(match &pod.node {
                Some(node) => asked.running(pod, node),
                None => asked.waiting(pod),
            })
        }
        Subject::Node(name) => asked.node(name).ok_or_else(|| {
            let known = index.nodes().filter_map(|n| n.metadata.name.as_deref());
            not_found("node", name, known, "kubectl get nodes")
        }),
        Subject::NodePool(name) => asked.pool(name).ok_or_else(|| {
            let known = index.node_pools().filter_map(|p| p.metadata.name.as_deref());
            not_found("NodePool", name, known, "kubectl get nodepools")
        }),
    }
}

fn not_found<'a>(
    kind: &'static str,
    name: &str,
    known: impl Iterator<Item = &'a str>,
    list: &str,
) -> ExplainError {
    let known: Vec<&str> = known.collect();
    // Alike is what shares half of the name, at its beginning or its end.
    let mut alike: Vec<(usize, &str)> = known
        .iter()
        .map(|other| (shared(name, other), *other))
        .filter(|(shared, _)| 2 * shared >= name.len())
        .collect();
    alike.sort_by_key(|(shared, other)| (Reverse(*shared), *other));
    let alike: Vec<&str> = alike.iter().take(ALIKE_MAX).map(|(_, other)| *other).collect();
    let hint = match (known.as_slice(), alike.as_slice()) {
        ([], _) => format!("what was read holds no {kind} at all; `{list}` shows what the cluster has"),
        (_, []) => format!("`{list}` lists their names"),
        (_, alike) => format!("alike are {}; `{list}` lists all", alike.join(", ")),
    };
    ExplainError::NotFound {
        kind,
        name: name.to_owned(),
        hint,
    }
}

/// Length of the beginning or the end, whichever is longer, that two names have in common.
fn shared(a: &str, b: &str) -> usize {
    let begin = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b);
    let end = a.bytes().rev().zip(b.bytes().rev()).take_while(|(a, b)| a == b);
    begin.count().max(end.count())
}

struct Asked<'a> {
    index: &'a Index,
    prices: &'a Prices,
    policy: &'a Policy,
    taken: Timestamp,
}

impl Asked<'_> {
    fn waiting(&self, pod: &PodState) -> String {
        let mut out = format!("pod {} waits for a place\n", pod.key);
        if pod.terminal {
            return format!("pod {} has finished; it needs no place\n", pod.key);
        }
        if !pod.unschedulable {
            out.push_str("  kube-scheduler has not refused it yet; nothing is bought before it does\n");
            return out;
        }
        let catalog = fleet::catalog(self.index, self.prices);
        let lowered = self.index.snapshot(&catalog, self.taken);
        if let Some((_, why)) = lowered.refused.iter().find(|(key, _)| *key == pod.key) {
            because(reasons::UNSUPPORTED, why, &mut out);
            return out;
        }
        let Some(at) = lowered.snapshot.pods.iter().position(|p| p.key == pod.key) else {
            out.push_str("  it opted out of provisioning: its affinity excludes every NodePool\n");
            return out;
        };
        let (plan, report) = provision(&lowered.snapshot, &catalog, self.policy);
        place(
            PodId(at as u32),
            &lowered.snapshot,
            &catalog,
            (&plan, &report),
            &mut out,
        );
        out
    }

    fn running(&self, pod: &PodState, node: &str) -> String {
        let mut out = format!("pod {} runs on {node}\n", pod.key);
        let cluster = Cluster::read(self.index, self.prices, self.taken);
        let Some(at) = cluster.snapshot.pods.iter().position(|p| p.key == pod.key) else {
            out.push_str("  it has finished, or its node is not known\n");
            return out;
        };
        let class = cluster.class_of(at);
        let _ = writeln!(
            out,
            "  of {}; requests {} and {}",
            cluster.workload_of(at),
            format_amount(CPU, request(class, CPU)),
            format_amount(MEMORY, request(class, MEMORY)),
        );
        let owned = cluster.pods[at].workload;
        let budget = cluster.pods[at].budget.as_ref().map(|b| b.key.to_string());
        let concerns = |r: &&Restraint| {
            r.owners.contains(&owned) && budget.as_ref().is_none_or(|b| *b == r.subject || !is_budget(r))
        };
        let all = restraints::all(&cluster);
        let mut held = false;
        for restraint in all
            .iter()
            .filter(concerns)
            .filter(|r| budget.is_some() || !is_budget(r))
        {
            held |= restraint.kind.is_obeyed();
            line(restraint, &mut out);
        }
        if !held {
            out.push_str("  nothing forbids evicting it\n");
        }
        if cluster.pods[at].daemon_set.is_some() {
            out.push_str("  it belongs to its machine: a DaemonSet's pods come and go with the machines\n");
            return out;
        }
        let spot = if tolerates_spot(&cluster, at) {
            "would be put on spot machines where they are allowed"
        } else {
            "is kept off spot machines: it is alone, stateful, critical, bare, held in place, or has local data"
        };
        let _ = writeln!(out, "  it {spot}");
        out
    }

    fn node(&self, name: &str) -> Option<String> {
        let cluster = Cluster::read(self.index, self.prices, self.taken);
        let at = cluster.snapshot.nodes.iter().position(|n| &*n.name == name)?;
        let node = &cluster.snapshot.nodes[at];
        let get = |key: &str| node.labels.get(key).map_or("?", |v| &**v);
        let mut out = format!(
            "node {name}: {} in {}, {}, {}\n",
            get(plimsoll_api::labels::INSTANCE_TYPE),
            get(plimsoll_api::labels::ZONE),
            get(plimsoll_api::labels::CAPACITY_TYPE),
            node.price.map_or("price not known".to_owned(), |p| {
                let cost = Cost::from(p);
                format!("${:.4}/h, {} a month", cost.per_hour, dollars(cost.per_month))
            })
        );
        let pods: Vec<usize> = (0..cluster.snapshot.pods.len())
            .filter(|p| cluster.node_of(*p) == Some(at))
            .collect();
        let sum =
            |resource: &str| -> i64 { pods.iter().map(|p| request(cluster.class_of(*p), resource)).sum() };
        let (cpu, memory) = (sum(CPU), sum(MEMORY));
        let (all_cpu, all_memory) = (amount(&node.allocatable, CPU), amount(&node.allocatable, MEMORY));
        let _ = writeln!(
            out,
            "  {} request {} of {} cores ({} %) and {} of {} GiB ({} %)",
            counted(pods.len() as u32, "pod"),
            cores(cpu),
            cores(all_cpu),
            percent(cpu, all_cpu),
            gib(memory),
            gib(all_memory),
            percent(memory, all_memory)
        );
        let all = restraints::all(&cluster);
        let mut held = cluster.nodes[at].fixed.is_some();
        if let Some(fixed) = cluster.nodes[at].fixed {
            let _ = writeln!(out, "  reports leave it alone: {fixed:?}");
        }
        for restraint in all.iter().filter(|r| r.nodes.contains(&at)) {
            held |= restraint.kind.is_obeyed() && restraint.kind != restraints::RestraintKind::AntiAffinity;
            line(restraint, &mut out);
        }
        self.kept(name, &mut out);
        if !held && !node.leaving {
            self.without(&cluster, at, &mut out);
        }
        Some(out)
    }

    /// Why the controller leaves the machine, in its own words.
    fn kept(&self, name: &str, out: &mut String) {
        let catalog = fleet::catalog(self.index, self.prices);
        let snapshot = self.index.snapshot(&catalog, self.taken).snapshot;
        let (plan, report) = disrupt::emptiness(&snapshot, self.taken);
        let is_it = |id: NodeId| &*snapshot.nodes[id.0 as usize].name == name;
        if let Some(kept) = report.kept.iter().find(|k| is_it(k.node)) {
            let code = reasons::of_node(&kept.reason);
            let _ = writeln!(
                out,
                "  not removed as empty: {}: {}; {}",
                code.name,
                reasons::node_text(&kept.reason),
                code.fix
            );
        } else if plan.removals.iter().any(|r| is_it(r.node)) {
            out.push_str("  the controller would remove it now: it is empty\n");
        } else {
            out.push_str("  no NodePool owns it, so the controller never removes it\n");
        }
    }

    /// What would become of the machine's pods without it.
    fn without(&self, cluster: &Cluster, at: usize, out: &mut String) {
        let mut gone = vec![false; cluster.snapshot.nodes.len()];
        gone[at] = true;
        let left = repack::without(&cluster.snapshot, &gone);
        let (plan, report) = provision(&left, &cluster.catalog, self.policy);
        if let Some(unplaced) = report.unplaced.first() {
            let key = &left.pods[unplaced.pod.0 as usize].key;
            let why: Vec<String> = unplaced.reasons.iter().map(ToString::to_string).collect();
            let _ = writeln!(out, "  without it {key} would have no place: {}", why.join("; "));
            return;
        }
        let price = cluster.snapshot.nodes[at].price.unwrap_or_default();
        let saves = Cost::from(price - plan.launch_price);
        let _ = writeln!(
            out,
            "  without it {} and {} (${:.4}/h) would be bought: {} {} a month",
            match plan.assignments.len() as u32 {
                1 => "1 pod fits on a machine that exists".to_owned(),
                pods => format!("{} fit on machines that exist", counted(pods, "pod")),
            },
            counted(plan.launches.len() as u32, "machine"),
            plan.launch_price.dollars(),
            if saves.per_month >= 0.0 { "saves" } else { "costs" },
            dollars(saves.per_month.abs())
        );
    }

    fn pool(&self, name: &str) -> Option<String> {
        let object = self.index.node_pool(name)?;
        let catalog = fleet::catalog(self.index, self.prices);
        let cluster = Cluster::read(self.index, self.prices, self.taken);
        let snapshot = self.index.snapshot(&catalog, self.taken).snapshot;
        let mut out = format!("NodePool {name}\n");
        for condition in object
            .status
            .iter()
            .flat_map(|s| &s.conditions)
            .filter(|c| c.status != "True")
        {
            let _ = writeln!(
                out,
                "  {} is {}: {}",
                condition.type_, condition.status, condition.reason
            );
        }
        let Some(pool) = snapshot.pools.iter().find(|p| &*p.name == name) else {
            out.push_str("  PoolNotReady: it buys nothing (not ready, being deleted, or of fixed size)\n");
            return Some(out);
        };
        // Where NodeClaims were not read, a machine's label names its pool, as it does for the report.
        let by_label = |n: &&Node| n.pool.is_none() && n.labels.get(NODEPOOL).is_some_and(|p| **p == *name);
        let owned = |n: &&Node| !n.leaving && (n.pool.as_deref() == Some(name) || by_label(n));
        let mine: Vec<&Node> = cluster.snapshot.nodes.iter().filter(owned).collect();
        let price: MicroDollars = mine.iter().filter_map(|n| n.price).sum();
        let _ = writeln!(
            out,
            "  {}, ${:.4}/h, {} a month",
            counted(mine.len() as u32, "machine"),
            price.dollars(),
            dollars(Cost::from(price).per_month)
        );
        let unclaimed = mine.iter().filter(|n| by_label(n)).count();
        if unclaimed > 0 {
            let _ = writeln!(
                out,
                "  {unclaimed} of them only by label: no NodeClaim was read for them, so limits and budgets leave them out"
            );
        }
        let (used, nodes) = pool_usage(&snapshot).remove(name).unwrap_or_default();
        for (resource, limit) in &pool.limits {
            let in_use = if &**resource == NODES {
                nodes as i64
            } else {
                amount(&used, resource)
            };
            let state = if in_use >= *limit {
                "Limit: used up"
            } else {
                "left"
            };
            let _ = writeln!(
                out,
                "  limit {resource}: {} of {} in use, {state}",
                format_amount(resource, in_use),
                format_amount(resource, *limit)
            );
        }
        for reason in [
            DisruptionReason::Empty,
            DisruptionReason::Underutilized,
            DisruptionReason::Drifted,
        ] {
            let allowed = disrupt::allowed_disruptions(&snapshot, pool, reason, self.taken);
            let allowed = if allowed == u32::MAX {
                "any number of machines".to_owned()
            } else {
                counted(allowed, "machine")
            };
            let _ = writeln!(out, "  now {allowed} may be disrupted as {reason:?}");
        }
        let types = catalog.by_pool.get(name).map_or(0, Vec::len);
        let _ = writeln!(
            out,
            "  its node class offers {types} instance types ({})",
            catalog.price_source
        );
        let waiting = snapshot.pods.iter().filter(|p| p.place == Place::Pending).count();
        if waiting > 0 {
            let (plan, _) = provision(&snapshot, &catalog, self.policy);
            let launches: Vec<_> = plan.launches.iter().filter(|l| &*l.pool == name).collect();
            let _ = writeln!(
                out,
                "  of {} it would take {} on {}",
                counted(waiting as u32, "waiting pod"),
                launches.iter().map(|l| l.pods.len()).sum::<usize>(),
                counted(launches.len() as u32, "new machine")
            );
            for launch in launches.iter().take(NAMES_MAX) {
                let offered = &launch.offering;
                let _ = writeln!(
                    out,
                    "    {} in {}, {}, ${:.4}/h",
                    offered.instance_type,
                    offered.zone,
                    offered.capacity_type,
                    offered.price.dollars()
                );
            }
        }
        Some(out)
    }
}

fn is_budget(restraint: &Restraint) -> bool {
    restraint.kind == restraints::RestraintKind::PodDisruptionBudget
}

fn line(restraint: &Restraint, out: &mut String) {
    let role = if restraint.kind.is_obeyed() {
        "held by"
    } else {
        "note:"
    };
    let _ = writeln!(
        out,
        "  {role} {} {}; to change it: {}",
        label(restraint.kind),
        restraint.subject,
        restraint.kind.fix()
    );
}

fn because(code: Code, why: impl Display, out: &mut String) {
    let _ = writeln!(out, "  {}: {why}\n    to change it: {}", code.name, code.fix);
}

/// Where a plan puts a waiting pod, or why it does not.
fn place(
    pod: PodId,
    snapshot: &Snapshot,
    catalog: &Catalog,
    (plan, report): (&Plan, &Report),
    out: &mut String,
) {
    if let Place::Assigned(node) = snapshot.pods[pod.0 as usize].place {
        let _ = writeln!(
            out,
            "  a plan put it on {}, which is still coming",
            snapshot.nodes[node.0 as usize].name
        );
        return;
    }
    if let Some(unplaced) = report.unplaced.iter().find(|u| u.pod == pod) {
        for reason in &unplaced.reasons {
            because(reasons::of_pod(reason), reason, out);
        }
        return;
    }
    if let Some(assignment) = plan.assignments.iter().find(|a| a.pod == pod) {
        let node = &snapshot.nodes[assignment.node.0 as usize].name;
        let _ = writeln!(out, "  it fits on {node}, which exists");
        return;
    }
    let Some(launch) = plan.launches.iter().find(|l| l.pods.binary_search(&pod).is_ok()) else {
        return;
    };
    let offered = &launch.offering;
    let _ = writeln!(
        out,
        "  NodePool {} would buy {} in {}, {}, ${:.4}/h for it and {}",
        launch.pool,
        offered.instance_type,
        offered.zone,
        offered.capacity_type,
        offered.price.dollars(),
        counted(launch.pods.len() as u32 - 1, "other pod")
    );
    if let Some(next) = &launch.runner_up {
        let more = next.price.dollars() - offered.price.dollars();
        let _ = writeln!(
            out,
            "  the next best for the same pods: {} in {}, {}, ${more:.4}/h more",
            next.instance_type, next.zone, next.capacity_type
        );
    }
    let _ = writeln!(out, "  prices: {}", catalog.price_source);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_written_like_kubectl_does() {
        let pod = Subject::Pod {
            namespace: "n".into(),
            name: "p".into(),
        };
        assert_eq!("pod/n/p".parse(), Ok(pod));
        assert_eq!("node/a".parse(), Ok(Subject::Node("a".into())));
        assert_eq!("nodepool/a".parse(), Ok(Subject::NodePool("a".into())));
        assert_eq!(
            "pod/p".parse::<Subject>(),
            Err(ExplainError::Subject("pod/p".into()))
        );
    }
}
