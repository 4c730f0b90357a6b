//! Who the money is spent on.
//!
//! Half of a machine's price is shared out by requested CPU, half by requested memory, each against what is
//! allocatable; what nobody requests is idle.

use std::{collections::BTreeMap, sync::Arc};

use plimsoll_core::resources::{CPU, MEMORY};
use serde::Serialize;

use crate::{
    cluster::{Cluster, request},
    savings::{Cost, HOURS_PER_MONTH, Idle, amount},
};

/// What one namespace or workload costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spend {
    pub namespace: String,
    /// `Kind/name`; empty for a whole namespace.
    pub workload: String,
    pub pods: u32,
    pub cpu_milli: i64,
    pub memory_bytes: i64,
    pub cost: Cost,
}

/// By namespace, by workload (both dearest first), and what is idle.
pub(crate) fn spending(cluster: &Cluster) -> (Vec<Spend>, Vec<Spend>, Idle) {
    let snapshot = &cluster.snapshot;
    let mut used: Vec<(i64, i64)> = vec![(0, 0); snapshot.nodes.len()];
    let mut daemons = 0.0;
    let mut of_workload: Vec<(u32, i64, i64, f64)> = vec![(0, 0, 0, 0.0); cluster.workloads.len()];
    for (at, pod) in snapshot.pods.iter().enumerate() {
        let Some(node_at) = cluster.node_of(at) else {
            continue;
        };
        let node = &snapshot.nodes[node_at];
        let class = cluster.class_of(at);
        let (cpu, memory) = (request(class, CPU), request(class, MEMORY));
        used[node_at].0 += cpu;
        used[node_at].1 += memory;
        let price = node
            .price
            .map_or(0.0, plimsoll_core::catalog::MicroDollars::dollars);
        let share =
            |used: i64, resource: &str| used as f64 / amount(&node.allocatable, resource).max(1) as f64;
        let dollars = price * (share(cpu, CPU) + share(memory, MEMORY)) / 2.0;
        let entry = &mut of_workload[cluster.pods[at].workload as usize];
        entry.0 += 1;
        entry.1 += cpu;
        entry.2 += memory;
        entry.3 += dollars;
        if pod.daemon {
            daemons += dollars;
        }
    }
    let cost = |per_hour: f64| Cost {
        per_hour,
        per_month: per_hour * HOURS_PER_MONTH,
    };
    let mut namespaces: BTreeMap<&Arc<str>, (u32, i64, i64, f64)> = BTreeMap::new();
    let mut workloads = Vec::with_capacity(cluster.workloads.len());
    for (workload, (pods, cpu, memory, dollars)) in cluster.workloads.iter().zip(of_workload) {
        let whole = namespaces.entry(&workload.namespace).or_default();
        whole.0 += pods;
        whole.1 += cpu;
        whole.2 += memory;
        whole.3 += dollars;
        workloads.push(Spend {
            namespace: workload.namespace.to_string(),
            workload: workload.name.to_string(),
            pods,
            cpu_milli: cpu,
            memory_bytes: memory,
            cost: cost(dollars),
        });
    }
    let mut namespaces: Vec<Spend> = namespaces
        .into_iter()
        .map(|(name, (pods, cpu, memory, dollars))| Spend {
            namespace: name.to_string(),
            workload: String::new(),
            pods,
            cpu_milli: cpu,
            memory_bytes: memory,
            cost: cost(dollars),
        })
        .collect();
    for list in [&mut namespaces, &mut workloads] {
        // Stable, so that equals keep their order by name.
        list.sort_by(|a, b| b.cost.per_hour.total_cmp(&a.cost.per_hour));
    }
    let (mut idle_cpu, mut idle_memory) = (0.0, 0.0);
    for (node, (cpu, memory)) in snapshot.nodes.iter().zip(used) {
        let price = node
            .price
            .map_or(0.0, plimsoll_core::catalog::MicroDollars::dollars);
        let free = |used: i64, resource: &str| {
            let whole = amount(&node.allocatable, resource).max(1);
            (whole - used).max(0) as f64 / whole as f64
        };
        idle_cpu += price / 2.0 * free(cpu, CPU);
        idle_memory += price / 2.0 * free(memory, MEMORY);
    }
    let idle = Idle {
        cpu: cost(idle_cpu),
        memory: cost(idle_memory),
        daemons: cost(daemons),
    };
    (namespaces, workloads, idle)
}
