//! `plimsoll plan`.

use std::io::Write;

use anyhow::Context;
use jiff::Timestamp;
use kube::Client;
use plimsoll_core::{
    catalog::Catalog,
    provision,
    snapshot::{Place, Snapshot},
};
use plimsoll_kwok::KwokCloud;
use plimsoll_provider::CloudProvider;
use serde_json::json;

use crate::{
    args::{PlanOptions, Provider},
    controller::{kubeconfig, policy, runtime},
};

pub(crate) fn run(options: &PlanOptions) -> anyhow::Result<()> {
    let (mut snapshot, catalog) = runtime()?.block_on(async {
        let client = Client::try_from(kubeconfig().await?)?;
        let index = plimsoll_controller::load(&client)
            .await
            .context("cannot read the cluster")?;
        let pools: Vec<_> = index.node_pools().cloned().collect();
        let catalog = match options.provider {
            #[cfg(feature = "aws")]
            Provider::Aws => {
                let prepared = plimsoll_aws::prepare(options.aws.settings()?).await?;
                prepared.provider(client).catalog(&pools).await?
            }
            Provider::Kwok => KwokCloud::new(client).catalog(&pools).await?,
        };
        anyhow::Ok((index.snapshot(&catalog, Timestamp::now()).snapshot, catalog))
    })?;
    if options.all_pods {
        forget_machines(&mut snapshot);
    }
    let (plan, report) = provision::provision(&snapshot, &catalog, &policy(&options.planning));
    let mut out = std::io::stdout().lock();
    if options.json {
        let launches: Vec<_> = plan
            .launches
            .iter()
            .map(|l| launch_json(l, &snapshot, &catalog))
            .collect();
        let unplaced: Vec<_> = report
            .unplaced
            .iter()
            .map(|u| {
                let reasons: Vec<String> = u.reasons.iter().map(ToString::to_string).collect();
                json!({ "pod": snapshot.pods[u.pod.0 as usize].key, "reasons": reasons })
            })
            .collect();
        let document = json!({
            "plan": plan.id,
            "price_per_hour": plan.launch_price.dollars(),
            "lower_bound_per_hour": plan.lower_bound.dollars(),
            "price_source": catalog.price_source,
            "launches": launches,
            "assignments": plan.assignments.len(),
            "unplaced": unplaced,
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&document)?)?;
        return Ok(());
    }
    for launch in &plan.launches {
        let offered = &launch.offering;
        writeln!(
            out,
            "launch  {:<24} {:<12} {:<10} ${:>9.4}/h  {:>4} pods  pool {}",
            offered.instance_type,
            offered.zone,
            offered.capacity_type,
            offered.price.dollars(),
            launch.pods.len(),
            launch.pool
        )?;
    }
    for unplaced in &report.unplaced {
        let reasons: Vec<String> = unplaced.reasons.iter().map(ToString::to_string).collect();
        writeln!(
            out,
            "pending {}: {}",
            snapshot.pods[unplaced.pod.0 as usize].key,
            reasons.join("; ")
        )?;
    }
    writeln!(
        out,
        "plan {}: {} machines, ${:.4}/h; no plan can cost less than ${:.4}/h ({})",
        plan.id,
        plan.launches.len(),
        plan.launch_price.dollars(),
        plan.lower_bound.dollars(),
        catalog.price_source
    )?;
    Ok(())
}

fn launch_json(
    launch: &plimsoll_core::plan::Launch,
    snapshot: &Snapshot,
    catalog: &Catalog,
) -> serde_json::Value {
    let pods: Vec<_> = launch
        .pods
        .iter()
        .map(|id| &snapshot.pods[id.0 as usize].key)
        .collect();
    json!({
        "pool": launch.pool,
        "instance_type": launch.offering.instance_type,
        "zone": launch.offering.zone,
        "capacity_type": launch.offering.capacity_type,
        "price_per_hour": launch.offering.price.dollars(),
        "types": launch.types.iter().map(|id| &catalog.types[id.0 as usize].name).collect::<Vec<_>>(),
        "runner_up": launch.runner_up.as_ref().map(|r| json!({
            "instance_type": r.instance_type, "price_per_hour": r.price.dollars(),
        })),
        "pods": pods,
    })
}

/// Drops the machines of our pools; what ran there waits again.
fn forget_machines(snapshot: &mut Snapshot) {
    let ours: Vec<bool> = snapshot.nodes.iter().map(|n| n.claim.is_some()).collect();
    snapshot.pods.retain(|pod| {
        let on_ours = matches!(pod.place, Place::Bound(node) if ours[node.0 as usize]);
        !(on_ours && (pod.daemon || pod.terminating))
    });
    for pod in &mut snapshot.pods {
        if let Place::Bound(node) | Place::Assigned(node) | Place::Leaving(node) = pod.place
            && ours[node.0 as usize]
        {
            pod.place = Place::Pending;
        }
    }
    for (node, ours) in snapshot.nodes.iter_mut().zip(&ours) {
        if *ours {
            // Kept in the list, because pods name nodes by position; out of service and without weight.
            node.leaving = true;
            node.capacity.clear();
        }
    }
}
