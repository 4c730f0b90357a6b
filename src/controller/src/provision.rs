//! The provisioning loop: waits for pods, plans, buys.
//!
//! A pod that comes alone is planned at once. While pods keep coming, planning them together is cheaper, so
//! the loop waits for a pause that grows with the length of the burst, and meanwhile buys one machine that
//! later pods can hardly make a regret.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use plimsoll_core::{
    catalog::Catalog,
    lint::{self, Finding},
    plan::{Launch, Plan},
    provision,
    report::Report,
    snapshot::{NodeStage, Snapshot},
};
use plimsoll_lifecycle::{Effect, EventType, Subject, order};
use plimsoll_provider::{CloudProvider, chain};
use plimsoll_state::Lowered;
use tokio::time::Instant;

use crate::{context::Context, events::NOMINATED, nominations};

/// A full pass even without a wake: promises expire, prices change.
const PERIOD: Duration = Duration::from_secs(10);
/// How often a batch looks whether more pods came.
const TICK: Duration = Duration::from_millis(20);
/// On a quiet cluster a pause this long ends a batch that has just begun; the longer it lasts, the longer
/// the pause must be, up to the configured idle time.
const PAUSE_MIN: Duration = Duration::from_millis(80);
/// A cluster is quiet when no pod has begun to wait for this long. Until then pods that come belong to the
/// same burst, and a pause must last the configured idle time.
const QUIET: Duration = Duration::from_secs(5);
/// A burst that lasts this long buys a settled machine before it is over, once.
const EARLY: Duration = Duration::from_millis(350);
/// Creations under way at once.
const CREATIONS: usize = 32;

/// How much of a plan is bought.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Buy {
    Everything,
    /// One machine that more pods would hardly change. More of them would bend the mix of what is left: a
    /// plan for part of a burst pairs pods that the whole would pair otherwise.
    Settled,
}

pub(crate) async fn work<P: CloudProvider>(context: Arc<Context<P>>) {
    let mut last_arrival: Option<Instant> = None;
    let mut broken_promises = 0;
    let mut recount = false;
    loop {
        let _ = tokio::time::timeout(PERIOD, context.provision.notified()).await;
        recount |= context.index().overdue(Timestamp::now());
        if recount && let Err(error) = context.recount_claims().await {
            tracing::warn!(error = chain(&error), "no plan before the NodeClaims are known");
            continue;
        }
        recount = false;
        context.update(plimsoll_state::Index::expire);
        if context.index().waiting(Timestamp::now()) == 0 {
            context.metrics.waiting(0);
            continue;
        }
        // Where one pod lost its place, others are about to; they are better planned together.
        let broken = std::mem::replace(&mut broken_promises, context.index().broken_promises());
        let quiet = broken == broken_promises && last_arrival.is_none_or(|at| at.elapsed() >= QUIET);
        let (arrived, early) = gather(&context, quiet).await;
        last_arrival = Some(arrived);
        recount = early.unclear;
        if !recount {
            recount = pass(&context, Buy::Everything).await.unclear;
        }
    }
}

/// Returns when the burst is over or has lasted as long as it may, with the time the last pod came and what was
/// bought meanwhile.
async fn gather<P: CloudProvider>(context: &Arc<Context<P>>, quiet: bool) -> (Instant, Bought) {
    let (idle, begun) = (context.config.batch_idle, Instant::now());
    let (mut seen, mut last) = (context.index().arrivals(), begun);
    let mut bought = Bought::default();
    loop {
        tokio::time::sleep(TICK).await;
        let arrivals = context.index().arrivals();
        if arrivals != seen {
            (seen, last) = (arrivals, Instant::now());
        }
        let lasted = begun.elapsed();
        let pause = if quiet {
            (lasted / 2).clamp(PAUSE_MIN.min(idle), idle)
        } else {
            idle
        };
        if last.elapsed() >= pause || lasted >= context.config.batch_max {
            return (last, bought);
        }
        if quiet && bought == Bought::default() && lasted >= EARLY {
            bought = pass(context, Buy::Settled).await;
        }
    }
}

/// What came of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bought {
    /// Claims created.
    claims: usize,
    /// A claim may have been created without our knowing.
    unclear: bool,
}

/// Plans once and acts on it.
async fn pass<P: CloudProvider>(context: &Arc<Context<P>>, buy: Buy) -> Bought {
    let begun = Instant::now();
    let catalog = context.catalog();
    let (lowered, waiting) = {
        let now = Timestamp::now();
        let index = context.index();
        (index.snapshot(&catalog, now), index.waiting(now))
    };
    context.metrics.waiting(waiting);
    let policy = context.config.policy.clone();
    // Planning is pure computation; the loops that serve watches must not wait for it.
    let planned = tokio::task::spawn_blocking(move || {
        let (plan, report) = provision::provision(&lowered.snapshot, &catalog, &policy);
        let findings = lint::lint(&lowered.snapshot, &catalog, &plan);
        (lowered, catalog, plan, report, findings)
    })
    .await;
    let (lowered, catalog, plan, report, findings) = match planned {
        Ok(planned) => planned,
        Err(error) => {
            tracing::error!(%error, "planning failed, nothing is done");
            return Bought::default();
        }
    };
    context
        .metrics
        .planned(begun.elapsed(), report.unplaced.len(), lowered.ignored);
    for finding in &findings {
        tracing::error!(plan = %plan.id, %finding, "plan failed one of its own checks");
    }
    if findings.iter().any(Finding::forbids_acting) {
        return Bought::default();
    }
    if buy == Buy::Everything {
        tell(context, &lowered, &report);
        assign(context, &lowered.snapshot, &plan).await;
    }
    let launches: Vec<&Launch> = match buy {
        Buy::Everything => plan.launches.iter().collect(),
        Buy::Settled => {
            let settled = plan.launches.iter().filter(|l| l.settled);
            settled.max_by_key(|l| l.offering.price).into_iter().collect()
        }
    };
    if launches.is_empty() {
        return Bought::default();
    }
    tracing::info!(
        plan = %plan.id,
        revision = plan.revision,
        launches = launches.len(),
        held_back = plan.launches.len() - launches.len(),
        pods = launches.iter().map(|l| l.pods.len()).sum::<usize>(),
        price_per_hour = plan.launch_price.dollars(),
        lower_bound_per_hour = plan.lower_bound.dollars(),
        padding_per_hour = plan.padding.map(|p| p.price.dollars()),
        may_stay_pending = plan.padding.map(|p| p.unbound),
        planned_in_ms = begun.elapsed().as_millis(),
        "buying machines"
    );
    context.update(|index, _| index.ordering(Some(&plan.id)));
    let orders: Vec<_> = launches
        .into_iter()
        .map(|launch| order(context, &lowered.snapshot, &catalog, &plan, launch))
        .collect();
    let bought = stream::iter(orders)
        .buffer_unordered(CREATIONS)
        .fold(Bought::default(), async |all, one| Bought {
            claims: all.claims + one.claims,
            unclear: all.unclear || one.unclear,
        })
        .await;
    context.update(|index, _| index.ordering(None));
    bought
}

/// Creates the claim of one launch, unless what it was planned for is gone.
async fn order<P: CloudProvider>(
    context: &Context<P>,
    snapshot: &Snapshot,
    catalog: &Catalog,
    plan: &Plan,
    launch: &Launch,
) -> Bought {
    let pods: Vec<_> = launch
        .pods
        .iter()
        .map(|id| &snapshot.pods[id.0 as usize])
        .collect();
    let claim = {
        let index = context.index();
        let wanted = pods.iter().any(|pod| {
            let live = index.pod(&pod.key).filter(|p| p.uid == pod.uid);
            live.is_some_and(|p| p.is_reschedulable()) && index.promised_target(&pod.key).is_none()
        });
        let pool = index
            .node_pool(&launch.pool)
            .filter(|p| p.metadata.deletion_timestamp.is_none());
        match pool {
            Some(pool) if wanted => {
                let class = &pool.spec.template.spec.node_class_ref;
                let of_provider = context.provider.order_annotations(class);
                order::claim(launch, pool, catalog, &plan.id, of_provider)
            }
            _ => {
                tracing::info!(plan = %plan.id, pool = %launch.pool, "launch dropped, its pods or its pool are gone");
                return Bought::default();
            }
        }
    };
    let created = match context.create_claim(&claim).await {
        Ok(created) => created,
        Err(error) => {
            tracing::warn!(pool = %launch.pool, error = chain(&error), "NodeClaim not created");
            return Bought {
                claims: 0,
                unclear: error.is_unclear(),
            };
        }
    };
    let name = created.metadata.name.clone().unwrap_or_default();
    context
        .metrics
        .claim_created(&launch.pool, launch.min_values_relaxed);
    context.update(|index, now| {
        for pod in &pods {
            index.promise(&pod.key, &name, now);
        }
    });
    for pod in &pods {
        let subject = Subject::Pod {
            key: pod.key.clone(),
            uid: pod.uid.clone(),
        };
        let note = format!("Pod should schedule on: nodeclaim/{name}");
        context
            .events
            .publish(&subject, EventType::Normal, NOMINATED, note);
    }
    Bought {
        claims: 1,
        unclear: false,
    }
}

/// Remembers which waiting pods have a place on machines that exist or are coming, and tells
/// kube-scheduler where the machine is open already.
async fn assign<P: CloudProvider>(context: &Context<P>, snapshot: &Snapshot, plan: &Plan) {
    let mut nominations = Vec::new();
    context.update(|index, now| {
        for assignment in &plan.assignments {
            let pod = &snapshot.pods[assignment.pod.0 as usize];
            let node = &snapshot.nodes[assignment.node.0 as usize];
            index.promise(&pod.key, node.claim.as_ref().unwrap_or(&node.name), now);
            let waits = index
                .pod(&pod.key)
                .is_some_and(|p| p.uid == pod.uid && p.node.is_none());
            // Machines of claims are nominated for by their own passes.
            if node.claim.is_none() && node.stage == NodeStage::Initialized && waits {
                let (pod, uid) = (pod.key.clone(), pod.uid.clone());
                nominations.push(Effect::Nominate {
                    pod,
                    uid,
                    node: node.name.to_string(),
                    look_again: true,
                });
            }
        }
    });
    if context.settings.nominate {
        stream::iter(nominations)
            .for_each_concurrent(nominations::AT_ONCE, |nomination| async {
                if let Err(error) = context.perform(nomination).await {
                    tracing::debug!(error = chain(&error), "nomination failed");
                }
            })
            .await;
    }
}

/// Says why pods stay without a place.
fn tell<P: CloudProvider>(context: &Context<P>, lowered: &Lowered, report: &Report) {
    let unplaced = report.unplaced.iter().map(|entry| {
        let pod = &lowered.snapshot.pods[entry.pod.0 as usize];
        let reasons: BTreeSet<String> = entry.reasons.iter().map(ToString::to_string).collect();
        (
            pod.key.clone(),
            reasons.into_iter().collect::<Vec<_>>().join("; "),
        )
    });
    for (key, why) in unplaced.chain(lowered.refused.iter().cloned()) {
        // One that still runs on a machine that leaves has not failed to schedule.
        let Some(pod) = context
            .index()
            .pod(&key)
            .filter(|pod| pod.node.is_none())
            .cloned()
        else {
            continue;
        };
        let subject = Subject::Pod {
            key: pod.key.clone(),
            uid: pod.uid.clone(),
        };
        let note = format!("Failed to schedule pod, {why}");
        context
            .events
            .publish(&subject, EventType::Warning, "FailedScheduling", note);
    }
}
