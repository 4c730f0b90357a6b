//! Runs the peer's scheduler on a problem file and turns what it says into a plan of ours.

use std::{collections::BTreeMap, path::Path, process::Command, sync::Arc};

use anyhow::{Context, Result, bail};
use plimsoll_core::{
    catalog::{Catalog, MicroDollars, TypeId},
    plan::{Launch, Offered, Plan},
    requirement::{Operator, Requirement},
    resources::Resources,
    snapshot::{PodId, Snapshot},
};
use serde::{Deserialize, Serialize};

/// What the program in `bench/peer` prints.
#[derive(Debug, Deserialize, Serialize)]
pub struct Answer {
    pub runs: Vec<Run>,
    machines: Option<Vec<Machine>>,
    pub unplaced: usize,
    /// It stopped at the minute that a pass of the peer may take.
    pub timed_out: bool,
    pub peak_bytes: u64,
}

#[derive(Debug, Deserialize, Serialize)]
pub struct Run {
    /// From plain pods to a scheduler that is ready.
    pub setup_seconds: f64,
    pub solve_seconds: f64,
}

#[derive(Debug, Deserialize, Serialize)]
struct Machine {
    pool: Arc<str>,
    #[serde(rename = "type")]
    instance_type: Arc<str>,
    zone: Arc<str>,
    ct: Arc<str>,
    pods: Vec<Arc<str>>,
}

/// Solves the file `runs` times; the answer is that of the last.
pub fn run(program: &Path, problem: &Path, runs: usize) -> Result<Answer> {
    let output = Command::new(program)
        .arg(problem)
        .arg(runs.to_string())
        .output()
        .with_context(|| format!("running {}", program.display()))?;
    if !output.status.success() {
        bail!(
            "{}: {}",
            problem.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("reading what {} printed", program.display()))
}

/// The peer's machines as launches of exactly the offering that is cheapest for each.
pub fn plan(snapshot: &Snapshot, catalog: &Catalog, answer: &Answer) -> Result<Plan> {
    let by_key: BTreeMap<&str, PodId> = snapshot
        .pods
        .iter()
        .enumerate()
        .map(|(i, pod)| (&*pod.key, PodId(i as u32)))
        .collect();
    let is = |key: &str, value: &Arc<str>| Requirement {
        key: key.into(),
        operator: Operator::In,
        values: vec![value.clone()],
        min_values: None,
    };
    let mut launches = Vec::new();
    for machine in answer.machines.iter().flatten() {
        let index = catalog
            .types
            .binary_search_by(|t| t.name.cmp(&machine.instance_type))
            .map_err(|_| anyhow::anyhow!("the peer chose {:?}, which is no type", machine.instance_type))?;
        let offering = catalog.types[index]
            .offerings
            .iter()
            .find(|o| o.zone == machine.zone && o.capacity_type == machine.ct)
            .with_context(|| {
                format!(
                    "the peer chose an offering of {} that is not there",
                    machine.instance_type
                )
            })?;
        let mut pods = Vec::new();
        let mut requests = Resources::new();
        for key in &machine.pods {
            let pod = *by_key
                .get(&**key)
                .with_context(|| format!("the peer placed {key}, which is no pod"))?;
            let class = snapshot.pods[pod.0 as usize].class;
            for (name, amount) in &snapshot.classes[class.0 as usize].requests {
                *requests.entry(name.clone()).or_default() += amount;
            }
            pods.push(pod);
        }
        pods.sort_unstable();
        launches.push(Launch {
            pool: machine.pool.clone(),
            requirements: vec![
                is("karpenter.sh/capacity-type", &machine.ct),
                is("topology.kubernetes.io/zone", &machine.zone),
            ],
            types: vec![TypeId(index as u32)],
            offering: Offered {
                instance_type: machine.instance_type.clone(),
                zone: machine.zone.clone(),
                capacity_type: machine.ct.clone(),
                price: offering.price,
            },
            requests,
            pods,
            runner_up: None,
            // The peer was asked for machines, not for the flexibility of its claims.
            min_values_relaxed: true,
            settled: false,
        });
    }
    let launch_price: MicroDollars = launches.iter().map(|launch| launch.offering.price).sum();
    Ok(Plan {
        revision: snapshot.revision,
        launches,
        launch_price,
        ..Plan::default()
    })
}
