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

/// Buys one machine: the claim follows on standard input. One of this name, bought by a run that was interrupted, is taken
/// for it.
const BUY: &str = "kubectl apply --server-side -f -";

/// What the commands are made of.
const FUNCTIONS: &str = include_str!("commands.sh");

/// What a script is to do, in the order in which it does it.
pub(crate) struct Script<'a> {
    /// Comments at its beginning.
    pub(crate) head: String,
    /// The context that kubectl is to take, where it is not the current one.
    pub(crate) context: Option<&'a str>,
    /// Names the machines that it buys, and the label on them.
    pub(crate) run: &'a str,
    pub(crate) buy: Vec<&'a NewMachine>,
    /// Machines that are kept and take pods.
    pub(crate) fill: Vec<&'a NodeRow>,
    pub(crate) remove: Vec<&'a NodeRow>,
}

/// The moves of a report as a script, for the cluster of this context, or of whichever is the current one when it runs.
pub fn commands(report: &SavingsReport, index: &Index, context: Option<&str>) -> String {
    let of = |action: Action| report.nodes.iter().filter(move |n| n.action == action);
    let script = Script {
        head: format!(
            "# {} nodes go, {} are bought; saves {} a month at the prices of the report of {}.",
            report.reachable.nodes_removed,
            report.reachable.nodes_bought,
            dollars(report.reachable.saves.per_month),
            report.taken
        ),
        context,
        run: &format!("report-{:x}", report.taken.as_second()),
        buy: report.new_machines.iter().collect(),
        fill: of(Action::Keep).filter(|n| !n.takes.is_empty()).collect(),
        remove: of(Action::Remove).collect(),
    };
    script.text(|pool| index.node_pool(pool).map(|pool| &**pool))
}

impl Script<'_> {
    /// Buys what is new and waits for it, then puts each pod where the plan has it, and ends what is empty then.
    ///
    /// kube-scheduler does not know the plan, so every machine that takes pods is closed but the one whose turn it is.
    /// Machines of NodePools are bought as NodeClaims. For others the script says what to add, because nothing in the
    /// cluster can buy them; their names are not known, so there pods go where kube-scheduler puts them.
    pub(crate) fn text<'p>(&self, node_pool: impl Fn(&str) -> Option<&'p NodePool>) -> String {
        let run = self.run;
        let mut out = format!(
            "#!/bin/sh\nset -eu\n{}\n\
             # Pods move by eviction, so disruption budgets hold. Read it before you run it.\n\n{}{FUNCTIONS}\n",
            self.head,
            self.context.map_or_else(String::new, kubectl)
        );
        let mut targets: Vec<(String, &[String])> = Vec::new();
        let mut by_hand: Vec<&NewMachine> = Vec::new();
        if self.buy.iter().any(|machine| machine.of_node_pool) {
            let _ = writeln!(out, "bought={BOUGHT_BY}={run} kept={}\n", labels::DO_NOT_DISRUPT);
        }
        for machine in &self.buy {
            let Some(pool) = node_pool(&machine.pool).filter(|_| machine.of_node_pool) else {
                by_hand.push(machine);
                continue;
            };
            let name = format!("{}-{run}-{}", machine.pool, targets.len());
            node_claim(machine, pool, &name, run, &mut out);
            targets.push((format!("$(node_of {name})"), &machine.takes));
        }
        add_by_hand(&by_hand, &mut out);
        let claims = !targets.is_empty();
        if claims {
            let _ = writeln!(
                out,
                "kubectl wait --for=condition=Ready --timeout=15m nodeclaims -l {BOUGHT_BY}={run}\n"
            );
        }
        targets.extend(self.fill.iter().map(|n| (n.name.clone(), n.takes.as_slice())));
        if !self.remove.is_empty() {
            out.push_str("# nothing new is put on what goes\n");
        }
        for node in &self.remove {
            let _ = writeln!(out, "leave {}", node.name);
        }
        // Pods that wait go to what is bought by themselves.
        if by_hand.is_empty() && !targets.is_empty() && !self.remove.is_empty() {
            fill(&targets, &mut out);
        }
        if claims {
            out.push_str("\nrelease\n");
        }
        for node in &self.remove {
            let _ = writeln!(out, "\nempty {}\n{}", node.name, end(node));
        }
        out
    }
}

/// kubectl with this context.
fn kubectl(context: &str) -> String {
    let quoted = context.replace('\'', r"'\''");
    format!("kubectl() {{\n  command kubectl --context '{quoted}' \"$@\"\n}}\n\n")
}

fn add_by_hand(machines: &[&NewMachine], out: &mut String) {
    let mut groups: BTreeMap<(&str, &str, &str, &str), u32> = BTreeMap::new();
    for machine in machines {
        let key = (
            machine.pool.as_str(),
            machine.instance_type.as_str(),
            machine.zone.as_str(),
            machine.capacity_type.as_str(),
        );
        *groups.entry(key).or_default() += 1;
    }
    for ((pool, instance_type, zone, capacity_type), count) in groups {
        let _ = writeln!(
            out,
            "# add {count} × {instance_type} in {zone} ({capacity_type}) to the node group {pool}, \
             or to a new one with its labels and taints"
        );
    }
}

/// Closes all machines that take pods, then opens one after the other for its own.
fn fill(targets: &[(String, &[String])], out: &mut String) {
    out.push_str("\n# each machine that takes pods is open only while those meant for it are evicted\n");
    for (node, _) in targets {
        let _ = writeln!(out, "node={node}; closed=\"$closed $node\"; close \"$node\"");
    }
    out.push('\n');
    for (node, pods) in targets {
        let _ = writeln!(out, "fill \"{node}\" {}", pods.join(" "));
    }
    out.push_str("open_all\n");
}

/// How a drained machine is ended, by who made it.
fn end(node: &NodeRow) -> String {
    match (&node.node_claim, &node.instance) {
        (Some(claim), _) => format!("kubectl delete nodeclaim {claim} --ignore-not-found"),
        (None, Some(instance)) => format!(
            "! there {} || aws autoscaling terminate-instance-in-auto-scaling-group --should-decrement-desired-capacity \
             --instance-id {instance}",
            node.name
        ),
        (None, None) => format!("kubectl delete node {} --ignore-not-found", node.name),
    }
}

/// The pool's own template, narrowed to the one machine, which is empty for a while and must not be removed for that.
fn node_claim(machine: &NewMachine, pool: &NodePool, name: &str, run: &str, out: &mut String) {
    let template = &pool.spec.template;
    let mut node_labels = template.metadata.labels.clone().unwrap_or_default();
    node_labels.insert(labels::NODEPOOL.into(), machine.pool.clone());
    node_labels.insert(BOUGHT_BY.into(), run.into());
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
        "metadata": { "name": name, "labels": node_labels, "annotations": { labels::DO_NOT_DISRUPT: "true" } },
        "spec": spec,
    });
    let _ = writeln!(
        out,
        "# {} pods are meant for it\n{BUY} <<'EOF'\n{claim:#}\nEOF",
        machine.pods
    );
}
