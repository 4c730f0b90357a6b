//! The reachable arrangement as a shell script somebody can read, change and run.

use std::{collections::BTreeMap, fmt::Write as _};

use plimsoll_api::{labels, nodepool::NodePool};
use plimsoll_state::Index;
use serde_json::json;

use crate::{
    money::dollars,
    savings::{Action, NewMachine, NodeRow, SavingsReport},
};

/// Label on NodeClaims that the script makes, so that it can wait for them.
const BOUGHT_BY: &str = "plimsoll.dev/bought-by";

/// What the script does: buy what is new and wait for it, close what goes, then drain and end it machine by machine.
///
/// Machines of NodePools are bought as NodeClaims; for others the script says what to add, because nothing in the
/// cluster can buy them.
pub fn commands(report: &SavingsReport, index: &Index) -> String {
    let mut out = String::from("#!/bin/sh\nset -eu\n");
    let saves = dollars(report.reachable.saves.per_month);
    let _ = writeln!(
        out,
        "# {} nodes go, {} are bought; saves {saves} a month at the prices of the report of {}.\n\
         # Pods move by eviction, so disruption budgets hold. Read it before you run it.\n",
        report.reachable.nodes_removed, report.reachable.nodes_bought, report.taken
    );
    let mut by_hand: BTreeMap<(&str, &str, &str, &str), u32> = BTreeMap::new();
    let mut bought = false;
    for machine in &report.new_machines {
        if let Some(pool) = index.node_pool(&machine.pool).filter(|_| machine.of_node_pool) {
            bought = true;
            node_claim(machine, pool, &mut out);
        } else {
            let key = (
                machine.pool.as_str(),
                machine.instance_type.as_str(),
                machine.zone.as_str(),
                machine.capacity_type.as_str(),
            );
            *by_hand.entry(key).or_default() += 1;
        }
    }
    for ((pool, instance_type, zone, capacity_type), count) in by_hand {
        let _ = writeln!(
            out,
            "# add {count} × {instance_type} in {zone} ({capacity_type}) to the node group {pool}, \
             or to a new one with its labels and taints"
        );
    }
    if bought {
        let _ = writeln!(
            out,
            "kubectl wait --for=condition=Ready --timeout=15m nodeclaims -l {BOUGHT_BY}=report"
        );
    }
    let gone: Vec<&NodeRow> = report
        .nodes
        .iter()
        .filter(|n| n.action == Action::Remove)
        .collect();
    if !gone.is_empty() {
        out.push_str("\n# nothing new is put on what goes\n");
    }
    for node in &gone {
        let _ = writeln!(out, "kubectl cordon {}", node.name);
    }
    for node in &gone {
        let name = &node.name;
        let _ = writeln!(
            out,
            "\nkubectl drain {name} --ignore-daemonsets --delete-emptydir-data --timeout=15m\n{}",
            end(node)
        );
    }
    out
}

/// How a drained machine is ended, by who made it.
fn end(node: &NodeRow) -> String {
    match (&node.node_claim, &node.instance) {
        (Some(claim), _) => format!("kubectl delete nodeclaim {claim}"),
        (None, Some(instance)) => format!(
            "aws autoscaling terminate-instance-in-auto-scaling-group --should-decrement-desired-capacity \
             --instance-id {instance}"
        ),
        (None, None) => format!("kubectl delete node {}", node.name),
    }
}

/// The pool's own template, narrowed to the one machine.
fn node_claim(machine: &NewMachine, pool: &NodePool, out: &mut String) {
    let template = &pool.spec.template;
    let mut node_labels = template.metadata.labels.clone().unwrap_or_default();
    node_labels.insert(labels::NODEPOOL.into(), machine.pool.clone());
    node_labels.insert(BOUGHT_BY.into(), "report".into());
    let mut spec = json!(template.spec);
    let only = |key: &str, value: &str| json!({ "key": key, "operator": "In", "values": [value] });
    let decided = [
        only(labels::INSTANCE_TYPE, &machine.instance_type),
        only(labels::ZONE, &machine.zone),
        only(labels::CAPACITY_TYPE, &machine.capacity_type),
        only(labels::NODEPOOL, &machine.pool),
    ];
    if let Some(requirements) = spec["requirements"].as_array_mut() {
        requirements.extend(decided);
    } else {
        spec["requirements"] = json!(decided);
    }
    let claim = json!({
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodeClaim",
        "metadata": { "generateName": format!("{}-", machine.pool), "labels": node_labels },
        "spec": spec,
    });
    let _ = writeln!(
        out,
        "# {} pods are meant for it\nkubectl create -f - <<'EOF'\n{claim:#}\nEOF",
        machine.pods
    );
}
