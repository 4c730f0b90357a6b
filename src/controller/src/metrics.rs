//! Prometheus metrics, named as upstream names them.

mod interruption;

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use plimsoll_api::{labels, nodeclaim::NodeClaim};
use plimsoll_core::{
    resources::{CPU, Resources},
    snapshot::Pool,
};
use plimsoll_provider::PriceList;
use plimsoll_report::SavingsReport;
use plimsoll_state::NodeView;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};

use crate::intention::Intention;

/// Upstream's bounds, in seconds.
const BOUNDS: [f64; 45] = [
    0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.045, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.15, 0.2,
    0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 10.0,
    15.0, 20.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0,
];

macro_rules! label_set {
    ($name:ident { $($field:ident),+ }) => {
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
        struct $name { $($field: String),+ }
    };
}
label_set!(BuildInfo { version });
label_set!(Created {
    reason,
    nodepool,
    min_values_relaxed
});
label_set!(Terminated {
    nodepool,
    capacity_type,
    zone
});
label_set!(Disrupted {
    reason,
    nodepool,
    capacity_type
});
label_set!(NodeLabels { nodepool, zone });
label_set!(PoolResource {
    resource_type,
    nodepool
});
label_set!(PoolReason { nodepool, reason });
label_set!(ByReason { reason });
label_set!(ByController { controller });
label_set!(ByCode { code });
label_set!(ByMessageType { message_type });
label_set!(ByCategory { category });
label_set!(ByKind { kind });
label_set!(Decision {
    decision,
    reason,
    consolidation_type
});
label_set!(CloudCall {
    controller,
    method,
    provider
});
label_set!(CloudError {
    controller,
    method,
    provider,
    error
});
label_set!(LeaseLabels { name });
label_set!(ByArrangement { arrangement });
label_set!(BySource { source });
label_set!(PriceLabels {
    capacity_type,
    region,
    source
});

type Float = Gauge<f64, std::sync::atomic::AtomicU64>;

/// The registry and everything in it. Clones share.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    families: Families,
}

#[derive(Clone)]
struct Families {
    created: Family<Created, Counter>,
    claims_terminated: Family<Terminated, Counter>,
    claims_disrupted: Family<Disrupted, Counter>,
    nodes_created: Family<NodeLabels, Counter>,
    nodes_terminated: Family<NodeLabels, Counter>,
    pods_drained: Family<ByReason, Counter>,
    evictions: Family<ByCode, Counter>,
    messages: Family<ByMessageType, Counter>,
    messages_deleted: Counter,
    message_age: Histogram,
    unhealthy: Family<ByCategory, Counter>,
    queue_depth: Family<ByController, Gauge>,
    unschedulable: Family<ByController, Gauge>,
    ignored: Gauge,
    nodes: Gauge,
    synced: Gauge,
    leading: Family<LeaseLabels, Gauge>,
    limit: Family<PoolResource, Float>,
    usage: Family<PoolResource, Float>,
    allowed: Family<PoolReason, Gauge>,
    decisions: Family<Decision, Counter>,
    eligible: Family<ByReason, Gauge>,
    cloud_errors: Family<CloudError, Counter>,
    watch_errors: Family<ByKind, Counter>,
    bound_as_planned: Counter,
    bound_elsewhere: Counter,
    price: Family<ByArrangement, Float>,
    restraint: Family<ByKind, Float>,
    unpriced: Gauge,
    price_age: Family<BySource, Gauge>,
    prices_age: Family<PriceLabels, Float>,
    report_time: Float,
    report_took: Float,
    would_buy: Gauge,
    would_buy_price: Float,
    would_remove: Gauge,
    would_save: Float,
    scheduling: Family<ByController, Histogram, fn() -> Histogram>,
    cloud: Family<CloudCall, Histogram, fn() -> Histogram>,
}

impl Metrics {
    pub(crate) fn new(version: &str) -> Self {
        let families = Families {
            created: Default::default(),
            claims_terminated: Default::default(),
            claims_disrupted: Default::default(),
            nodes_created: Default::default(),
            nodes_terminated: Default::default(),
            pods_drained: Default::default(),
            evictions: Default::default(),
            messages: Default::default(),
            messages_deleted: Default::default(),
            message_age: histogram(),
            unhealthy: Default::default(),
            queue_depth: Default::default(),
            unschedulable: Default::default(),
            ignored: Default::default(),
            nodes: Default::default(),
            synced: Default::default(),
            leading: Default::default(),
            limit: Default::default(),
            usage: Default::default(),
            allowed: Default::default(),
            decisions: Default::default(),
            eligible: Default::default(),
            cloud_errors: Default::default(),
            watch_errors: Default::default(),
            bound_as_planned: Default::default(),
            bound_elsewhere: Default::default(),
            price: Default::default(),
            restraint: Default::default(),
            unpriced: Default::default(),
            price_age: Default::default(),
            prices_age: Default::default(),
            report_time: Default::default(),
            report_took: Default::default(),
            would_buy: Default::default(),
            would_buy_price: Default::default(),
            would_remove: Default::default(),
            would_save: Default::default(),
            scheduling: Family::new_with_constructor(histogram),
            cloud: Family::new_with_constructor(histogram),
        };
        let f = &families;
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process));

        let karpenter = registry.sub_registry_with_prefix("karpenter");
        let build: Family<BuildInfo, Gauge> = Family::default();
        build
            .get_or_create(&BuildInfo {
                version: version.into(),
            })
            .set(1);
        karpenter.register("build_info", "Version of the running binary", build);
        karpenter.register("nodeclaims_created", "NodeClaims created", f.created.clone());
        karpenter.register(
            "nodeclaims_terminated",
            "NodeClaims whose machine is gone",
            f.claims_terminated.clone(),
        );
        karpenter.register(
            "nodeclaims_disrupted",
            "NodeClaims deleted, by reason",
            f.claims_disrupted.clone(),
        );
        karpenter.register("nodes_created", "Nodes registered", f.nodes_created.clone());
        karpenter.register("nodes_terminated", "Nodes terminated", f.nodes_terminated.clone());
        karpenter.register(
            "interruption_received_messages",
            "Messages read from the queue of interruptions, by what they say",
            f.messages.clone(),
        );
        karpenter.register(
            "interruption_deleted_messages",
            "Messages of the queue of interruptions that were acted upon and deleted",
            f.messages_deleted.clone(),
        );
        karpenter.register_with_unit(
            "interruption_message_queue_duration",
            "From what a message tells to its being read",
            Unit::Seconds,
            f.message_age.clone(),
        );
        karpenter.register(
            "interruption_instance_status_unhealthy",
            "Machines of which the cloud said, when it was asked, that they are not well",
            f.unhealthy.clone(),
        );
        karpenter.register("pods_drained", "Pods evicted by drains", f.pods_drained.clone());
        karpenter.register(
            "pods_eviction_requests",
            "Eviction calls, by status code",
            f.evictions.clone(),
        );
        karpenter.register(
            "scheduler_queue_depth",
            "Pods that wait for a machine",
            f.queue_depth.clone(),
        );
        karpenter.register(
            "scheduler_unschedulable_pods_count",
            "Pods no machine can hold",
            f.unschedulable.clone(),
        );
        karpenter.register(
            "scheduler_ignored_pods_count",
            "Pods that opted out",
            f.ignored.clone(),
        );
        karpenter.register(
            "cluster_state_node_count",
            "Machines known, ordered ones included",
            f.nodes.clone(),
        );
        karpenter.register(
            "cluster_state_synced",
            "Whether the cluster was read in full",
            f.synced.clone(),
        );
        karpenter.register("nodepools_limit", "Limits of a pool", f.limit.clone());
        karpenter.register(
            "nodepools_usage",
            "Capacity of a pool's machines",
            f.usage.clone(),
        );
        karpenter.register(
            "nodepools_allowed_disruptions",
            "Disruptions allowed now",
            f.allowed.clone(),
        );
        karpenter.register(
            "voluntary_disruption_decisions",
            "Disruptions decided",
            f.decisions.clone(),
        );
        karpenter.register(
            "voluntary_disruption_eligible_nodes",
            "Machines that may go",
            f.eligible.clone(),
        );
        karpenter.register(
            "cloudprovider_errors",
            "Failed calls to the provider",
            f.cloud_errors.clone(),
        );
        karpenter.register_with_unit(
            "scheduler_scheduling_duration",
            "Time to make a plan",
            Unit::Seconds,
            f.scheduling.clone(),
        );
        karpenter.register_with_unit(
            "cloudprovider_duration",
            "Calls to the provider",
            Unit::Seconds,
            f.cloud.clone(),
        );

        registry.register(
            "leader_election_master_status",
            "1 while this process leads",
            f.leading.clone(),
        );
        let own = registry.sub_registry_with_prefix("plimsoll");
        own.register(
            "watch_errors",
            "Watches that had to start again",
            f.watch_errors.clone(),
        );
        own.register(
            "pods_bound_as_planned",
            "Pods bound to their planned machine",
            f.bound_as_planned.clone(),
        );
        own.register(
            "pods_bound_elsewhere",
            "Planned pods bound to another machine",
            f.bound_elsewhere.clone(),
        );
        own.register(
            "cluster_price_dollars_per_hour",
            "Price of all machines: now, and as the last report would arrange them",
            f.price.clone(),
        );
        own.register(
            "restraint_price_dollars_per_month",
            "What each kind of restraint on evictions costs",
            f.restraint.clone(),
        );
        own.register(
            "nodes_unpriced",
            "Machines whose price is not known; they are in no sum",
            f.unpriced.clone(),
        );
        own.register(
            "price_list_age_days",
            "Age of the price list, where it has a date",
            f.price_age.clone(),
        );
        own.register_with_unit(
            "prices_age",
            "Time since the provider's prices were fetched, or their list was made",
            Unit::Seconds,
            f.prices_age.clone(),
        );
        own.register_with_unit(
            "report_timestamp",
            "When the last report was made, in Unix time",
            Unit::Seconds,
            f.report_time.clone(),
        );
        own.register_with_unit(
            "report_duration",
            "How long the last report took",
            Unit::Seconds,
            f.report_took.clone(),
        );
        own.register(
            "would_buy_machines",
            "Machines that would be bought for the pods that wait; only while observing",
            f.would_buy.clone(),
        );
        own.register(
            "would_buy_price_dollars_per_hour",
            "Price of these machines; only while observing",
            f.would_buy_price.clone(),
        );
        own.register(
            "would_remove_machines",
            "Empty machines that would be removed; only while observing",
            f.would_remove.clone(),
        );
        own.register(
            "would_save_dollars_per_hour",
            "Price of these machines; only while observing",
            f.would_save.clone(),
        );
        Self {
            registry: Arc::new(registry),
            families,
        }
    }

    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    pub(crate) fn claim_created(&self, pool: &str, relaxed: bool) {
        let labels = Created {
            reason: "provisioned".into(),
            nodepool: pool.into(),
            min_values_relaxed: relaxed.to_string(),
        };
        self.families.created.get_or_create(&labels).inc();
    }

    pub(crate) fn claim_disrupted(&self, claim: &NodeClaim, reason: &str) {
        let labels = Disrupted {
            reason: reason.into(),
            nodepool: label(claim, labels::NODEPOOL),
            capacity_type: label(claim, labels::CAPACITY_TYPE),
        };
        self.families.claims_disrupted.get_or_create(&labels).inc();
    }

    pub(crate) fn claim_terminated(&self, view: &NodeView) {
        let claim = &view.claim;
        let nodepool = label(claim, labels::NODEPOOL);
        let zone = label(claim, labels::ZONE);
        if !view.nodes.is_empty() {
            let labels = NodeLabels {
                nodepool: nodepool.clone(),
                zone: zone.clone(),
            };
            self.families.nodes_terminated.get_or_create(&labels).inc();
        }
        let labels = Terminated {
            nodepool,
            capacity_type: label(claim, labels::CAPACITY_TYPE),
            zone,
        };
        self.families.claims_terminated.get_or_create(&labels).inc();
    }

    pub(crate) fn node_created(&self, claim: &NodeClaim) {
        let labels = NodeLabels {
            nodepool: label(claim, labels::NODEPOOL),
            zone: label(claim, labels::ZONE),
        };
        self.families.nodes_created.get_or_create(&labels).inc();
    }

    pub(crate) fn pod_drained(&self) {
        self.families
            .pods_drained
            .get_or_create(&ByReason {
                reason: "evicted".into(),
            })
            .inc();
    }

    pub(crate) fn eviction(&self, code: u16) {
        self.families
            .evictions
            .get_or_create(&ByCode {
                code: code.to_string(),
            })
            .inc();
    }

    pub(crate) fn waiting(&self, pods: usize) {
        self.families
            .queue_depth
            .get_or_create(&provisioner())
            .set(count(pods));
    }

    pub(crate) fn planned(&self, took: Duration, unplaced: usize, ignored: usize) {
        self.families
            .scheduling
            .get_or_create(&provisioner())
            .observe(took.as_secs_f64());
        self.families
            .unschedulable
            .get_or_create(&provisioner())
            .set(count(unplaced));
        self.families.ignored.set(count(ignored));
    }

    pub(crate) fn set_nodes(&self, nodes: usize) {
        self.families.nodes.set(count(nodes));
    }

    pub(crate) fn synced(&self) {
        self.families.synced.set(1);
    }

    pub(crate) fn leading(&self, lease: &str) {
        self.families
            .leading
            .get_or_create(&LeaseLabels { name: lease.into() })
            .set(1);
    }

    pub(crate) fn pool(&self, pool: &Pool, usage: Option<&(Resources, u64)>, allowed: u32) {
        let key = |resource: &str| PoolResource {
            resource_type: resource.into(),
            nodepool: pool.name.to_string(),
        };
        for (resource, amount) in &pool.limits {
            self.families
                .limit
                .get_or_create(&key(resource))
                .set(in_units(resource, *amount));
        }
        for (resource, amount) in usage.iter().flat_map(|(resources, _)| resources) {
            self.families
                .usage
                .get_or_create(&key(resource))
                .set(in_units(resource, *amount));
        }
        let reason = PoolReason {
            nodepool: pool.name.to_string(),
            reason: "Empty".into(),
        };
        self.families
            .allowed
            .get_or_create(&reason)
            .set(i64::from(allowed));
    }

    pub(crate) fn eligible(&self, nodes: usize) {
        self.families
            .eligible
            .get_or_create(&ByReason {
                reason: "empty".into(),
            })
            .set(count(nodes));
    }

    pub(crate) fn decision(&self, decision: &str, reason: &str) {
        let labels = Decision {
            decision: decision.into(),
            reason: reason.into(),
            consolidation_type: "empty".into(),
        };
        self.families.decisions.get_or_create(&labels).inc();
    }

    /// A list that is no longer in use is not shown.
    pub(crate) fn price_lists(&self, lists: &[PriceList], now: Timestamp) {
        self.families.prices_age.clear();
        for list in lists {
            let labels = PriceLabels {
                capacity_type: list.capacity_type.into(),
                region: list.region.clone(),
                source: list.source.into(),
            };
            let age = now.duration_since(list.at).as_secs_f64();
            self.families.prices_age.get_or_create(&labels).set(age);
        }
    }

    pub(crate) fn cloud_call(&self, provider: &str, method: &str, took: Duration, error: Option<&str>) {
        let (controller, method, provider) = (String::new(), method.to_owned(), provider.to_owned());
        if let Some(error) = error {
            let labels = CloudError {
                controller: controller.clone(),
                method: method.clone(),
                provider: provider.clone(),
                error: error.into(),
            };
            self.families.cloud_errors.get_or_create(&labels).inc();
        }
        self.families
            .cloud
            .get_or_create(&CloudCall {
                controller,
                method,
                provider,
            })
            .observe(took.as_secs_f64());
    }

    pub(crate) fn watch_errors(&self, kind: &str) {
        self.families
            .watch_errors
            .get_or_create(&ByKind { kind: kind.into() })
            .inc();
    }

    pub(crate) fn bindings(&self, bindings: plimsoll_state::Bindings) {
        // The index counts; these follow it.
        let (planned, elsewhere) = (&self.families.bound_as_planned, &self.families.bound_elsewhere);
        planned.inc_by(bindings.as_planned.saturating_sub(planned.get()));
        elsewhere.inc_by(bindings.elsewhere.saturating_sub(elsewhere.get()));
    }
}

impl Metrics {
    /// What the last report says.
    pub(crate) fn reported(&self, report: &SavingsReport, took: Duration) {
        let f = &self.families;
        let arrangements = [
            ("now", report.now),
            ("reachable", report.reachable.cost),
            ("reachable_with_spot", report.reachable_with_spot.cost),
            ("reachable_with_arm64", report.reachable_with_arm64.cost),
            ("unblocked", report.unblocked.cost),
            ("bound", report.bound),
        ];
        for (arrangement, cost) in arrangements {
            let labels = ByArrangement {
                arrangement: arrangement.into(),
            };
            f.price.get_or_create(&labels).set(cost.per_hour);
        }
        // A kind that is gone must not keep its last price.
        f.restraint.clear();
        for kind in &report.restraint_kinds {
            let labels = ByKind {
                kind: format!("{:?}", kind.kind),
            };
            f.restraint.get_or_create(&labels).set(kind.per_month);
        }
        f.unpriced.set(i64::from(report.totals.nodes_unpriced));
        if let Some(days) = report.prices.age_days {
            let labels = BySource {
                source: report.prices.source.clone(),
            };
            f.price_age.get_or_create(&labels).set(days);
        }
        f.report_time.set(report.taken.as_second() as f64);
        f.report_took.set(took.as_secs_f64());
    }

    /// What would be done now.
    pub(crate) fn intends(&self, intention: &Intention) {
        let f = &self.families;
        f.would_buy.set(count(intention.buy));
        f.would_buy_price.set(intention.price.dollars());
        f.would_remove.set(count(intention.remove));
        f.would_save.set(intention.saves.dollars());
        f.unschedulable
            .get_or_create(&provisioner())
            .set(count(intention.unplaced));
    }
}

fn histogram() -> Histogram {
    Histogram::new(BOUNDS)
}

fn provisioner() -> ByController {
    ByController {
        controller: "provisioner".into(),
    }
}

fn label(claim: &NodeClaim, key: &str) -> String {
    claim
        .metadata
        .labels
        .as_ref()
        .and_then(|l| l.get(key))
        .cloned()
        .unwrap_or_default()
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// cpu is kept in thousandths and shown in cores.
fn in_units(resource: &str, amount: i64) -> f64 {
    if resource == CPU {
        amount as f64 / 1000.0
    } else {
        amount as f64
    }
}

/// What every Prometheus process exports about itself, read from /proc when asked.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some((cpu_seconds, resident_bytes)) = process_usage() else {
            return Ok(());
        };
        let cpu = ConstCounter::new(cpu_seconds);
        let help = "CPU time used, user and system";
        let descriptor =
            encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), cpu.metric_type())?;
        cpu.encode(descriptor)?;
        let resident = ConstGauge::new(resident_bytes);
        let descriptor = encoder.encode_descriptor(
            "process_resident_memory",
            "Resident memory",
            Some(&Unit::Bytes),
            resident.metric_type(),
        )?;
        resident.encode(descriptor)
    }
}

/// (CPU seconds, resident bytes) of this process. None where there is no /proc.
fn process_usage() -> Option<(f64, i64)> {
    /// Linux reports times in hundredths of a second to user space on every architecture it runs on.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The command name is in parentheses and may contain anything; what follows is regular.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let resident_kib: i64 = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))?
        .trim()
        .strip_suffix("kB")?
        .trim()
        .parse()
        .ok()?;
    Some((ticks / TICKS_PER_SECOND, resident_kib * 1024))
}

#[cfg(test)]
mod tests;
