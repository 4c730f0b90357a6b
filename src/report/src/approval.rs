//! A Plan before somebody who approves it: what it says, and whether it may still be carried out.

use std::{collections::BTreeMap, fmt::Write as _};

use jiff::Timestamp;
use plimsoll_api::{
    conditions,
    plan::{Plan, PlanSpec, SUPERSEDED, Settings},
    rights::Right,
};
use thiserror::Error;

use crate::{
    advice::{self, Basis},
    kinds::KINDS,
    table::{Align, Table},
};

/// What a person needs to carry out Plans: to look at the cluster as the planner does, and to do what the commands do.
pub fn rights() -> Vec<Right> {
    let read = KINDS.map(|kind| Right::cluster(kind.group, kind.plural, &["list"], kind.use_));
    read.into_iter().chain(ACTS).collect()
}

const ACTS: [Right; 9] = [
    Right::cluster(
        "plimsoll.dev",
        "plans",
        &["get", "list"],
        "the plan that is approved",
    ),
    Right::cluster(
        "karpenter.sh",
        "nodeclaims",
        &["create", "get", "patch", "watch"],
        "buys machines, and waits until they are ready",
    ),
    Right::cluster(
        "karpenter.sh",
        "nodeclaims",
        &["delete", "get", "watch"],
        "ends machines, and waits until they are gone",
    ),
    Right::cluster(
        "",
        "nodes",
        &["get", "patch"],
        "closes machines that go, and opens those that take pods",
    ),
    Right::cluster("", "nodes", &["delete", "watch"], "machines without a NodeClaim"),
    Right::cluster(
        "apps",
        "daemonsets",
        &["get"],
        "whose pods stay when a machine is emptied",
    ),
    Right::cluster("", "pods", &["get"], "a pod is evicted by its UID"),
    Right::cluster(
        "",
        "namespaces",
        &["get"],
        "kubectl asks for it where a pod is gone already",
    ),
    Right::cluster(
        "",
        "pods/eviction",
        &["create"],
        "moves that respect PodDisruptionBudgets",
    ),
];

/// Why a Plan is not carried out.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    #[error("{0} was altered: its name and digest are not those of what it says; delete it")]
    Altered(String),
    #[error("{name} is superseded: {why}")]
    Superseded { name: String, why: String },
    #[error("{name} was good until {until}; where the cluster still wants it, the controller makes it anew")]
    Expired { name: String, until: Timestamp },
    #[error(
        "nothing in the cluster can buy {machines}: add it to its node group, or to a new one with its labels and taints; the \
         Plan after that says what can go"
    )]
    ByHand { machines: String },
    #[error(
        "{name} removes machines that are closed to new pods already: somebody is emptying them; if nobody is, open them with \
         `kubectl uncordon {nodes}`"
    )]
    Closed { name: String, nodes: String },
    #[error(
        "the disruption budgets of NodePools let {allowed} of the {removes} machines of {name} go now, and not {first}: wait \
         until they do, or change spec.disruption.budgets; a Plan within them follows"
    )]
    Budgets {
        name: String,
        removes: usize,
        allowed: usize,
        first: String,
    },
    #[error("{name} no longer holds: the cluster as it is now wants {wants}; see `kubectl get plans`")]
    Stale { name: String, wants: String },
}

/// Whether a Plan may be carried out. `basis` is the cluster, looked at again, and `remade` what it wants.
pub fn check(plan: &Plan, basis: &Basis, remade: Option<&PlanSpec>, now: Timestamp) -> Result<(), Refusal> {
    let name = plan.metadata.name.clone().unwrap_or_default();
    let spec = &plan.spec;
    if advice::digest(spec) != spec.digest || advice::name(&spec.digest) != name {
        return Err(Refusal::Altered(name));
    }
    let conditions = plan.status.as_ref().map_or(&[][..], |status| &status.conditions);
    if let Some(condition) = conditions::find(conditions, SUPERSEDED).filter(|c| c.status == "True") {
        let why = condition.message.clone();
        return Err(Refusal::Superseded { name, why });
    }
    if now >= spec.good_until.0 {
        let until = spec.good_until.0;
        return Err(Refusal::Expired { name, until });
    }
    let removes = || spec.remove.iter().map(|removal| &*removal.node);
    let closed: Vec<&str> = removes().filter(|node| basis.is_closed(node)).collect();
    if !closed.is_empty() {
        let nodes = closed.join(" ");
        return Err(Refusal::Closed { name, nodes });
    }
    let let_go = basis.within_budgets(removes());
    if let Some(first) = removes().find(|node| !let_go.contains(node)) {
        return Err(Refusal::Budgets {
            name,
            removes: spec.remove.len(),
            allowed: let_go.len(),
            first: first.to_owned(),
        });
    }
    match remade {
        Some(remade) if remade.digest == spec.digest => bought_here(remade),
        Some(remade) => {
            let wants = advice::name(&remade.digest);
            Err(Refusal::Stale { name, wants })
        }
        None => {
            let wants = "nothing".to_owned();
            Err(Refusal::Stale { name, wants })
        }
    }
}

fn bought_here(spec: &PlanSpec) -> Result<(), Refusal> {
    let mut groups: BTreeMap<String, usize> = BTreeMap::new();
    for m in spec.buy.iter().filter(|m| m.by_hand) {
        let machine = format!(
            "{} in {} ({}) for {}",
            m.instance_type, m.zone, m.capacity_type, m.pool
        );
        *groups.entry(machine).or_default() += 1;
    }
    if groups.is_empty() {
        return Ok(());
    }
    let groups: Vec<String> = groups
        .iter()
        .map(|(machine, count)| format!("{count} × {machine}"))
        .collect();
    let machines = groups.join(", ");
    Err(Refusal::ByHand { machines })
}

/// What is bought, filled and removed, what it is worth, and the settings it was planned with.
pub fn plan_page(spec: &PlanSpec) -> String {
    let mut out = String::new();
    let mut table = Table::new([
        ("STEP", Align::Left),
        ("MACHINE", Align::Left),
        ("TYPE", Align::Left),
        ("ZONE", Align::Left),
        ("AS", Align::Left),
        ("$/H", Align::Right),
        ("WHY", Align::Left),
    ]);
    let row = |texts: [&str; 7]| texts.map(str::to_owned);
    for m in &spec.buy {
        let machine = format!("for {}", m.pool);
        table.row(row([
            "buy",
            &machine,
            &m.instance_type,
            &m.zone,
            &m.capacity_type,
            &m.per_hour,
            &m.reason,
        ]));
    }
    for f in &spec.fill {
        let why = format!("takes pods that move: {}", f.pods.len());
        table.row(row(["fill", &f.node, "", "", "", "", &why]));
    }
    for m in &spec.remove {
        let price = m.per_hour.as_deref().unwrap_or("?");
        table.row(row([
            "remove",
            &m.node,
            &m.instance_type,
            &m.zone,
            &m.capacity_type,
            price,
            &m.reason,
        ]));
    }
    table.print(&mut out);
    let saves = &spec.saves.per_month;
    let change = match saves.strip_prefix('-') {
        Some(costs) => format!("costs ${costs}"),
        None => format!("saves ${saves}"),
    };
    let _ = writeln!(
        out,
        "\n${}/h -> ${}/h: {change} a month at {}",
        spec.before.per_hour, spec.after.per_hour, spec.prices
    );
    if let (Some(bound), Some(gap)) = (&spec.bound, &spec.gap_percent) {
        let _ = writeln!(
            out,
            "no plan for these machines and pods leads below ${}/h: this one is {gap} % above",
            bound.per_hour
        );
    }
    let settings = &spec.settings;
    let _ = writeln!(
        out,
        "planned with preferences {}, minimum values {}, {} search steps",
        settings.preference_policy, settings.min_values_policy, settings.steps
    );
    if *settings != Settings::default() {
        let _ = writeln!(
            out,
            "note: these settings are not the defaults; ask whoever runs the controller whether they chose them"
        );
    }
    for note in &spec.notes {
        let _ = writeln!(out, "note: {note}");
    }
    out
}
