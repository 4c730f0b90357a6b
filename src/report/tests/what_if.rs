//! What-if files change the cluster a plan is made from, and nothing else.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the makers of test objects are tests too"
)]

use jiff::Timestamp;
use plimsoll_core::{
    catalog::MicroDollars,
    plan::Plan,
    policy::{MinValuesPolicy, Policy, PreferencePolicy},
    provision::provision,
    report::Report,
    snapshot::Snapshot,
};
use plimsoll_report::{
    Prices, dump, fleet,
    what_if::{Made, WhatIf, WhatIfError, difference},
};

const CLUSTER: &str = "
apiVersion: karpenter.sh/v1
kind: NodePool
metadata: {name: default, uid: pool}
spec:
  disruption: {consolidateAfter: 30s}
  template:
    spec:
      requirements:
      - {key: topology.kubernetes.io/zone, operator: In, values: [us-east-1a]}
      - {key: karpenter.sh/capacity-type, operator: In, values: [on-demand]}
      - {key: node.kubernetes.io/instance-type, operator: In, values: [m5.large, m5.xlarge]}
      nodeClassRef: {group: karpenter.k8s.aws, kind: EC2NodeClass, name: default}
status:
  conditions:
  - {type: Ready, status: 'True', reason: Ready, message: '', lastTransitionTime: 2026-01-01T00:00:00Z}
---
apiVersion: v1
kind: Pod
metadata:
  name: web-0
  namespace: shop
  uid: web-0
  ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: web, uid: web, controller: true}]
spec:
  containers: [{name: c, resources: {requests: {cpu: '1', memory: 2Gi}}}]
status:
  phase: Pending
  conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable}]
";

fn made(changes: Option<&WhatIf>) -> Result<(Snapshot, Plan, Report), WhatIfError> {
    let mut index = dump::read(CLUSTER.as_bytes()).unwrap().index;
    if let Some(changes) = changes {
        index = changes.apply(index)?;
    }
    let mut catalog = fleet::catalog(&index, &Prices::Aws);
    if let Some(changes) = changes {
        changes.reprice(&mut catalog);
    }
    let snapshot = index.snapshot(&catalog, Timestamp::UNIX_EPOCH).snapshot;
    let policy = Policy {
        preferences: PreferencePolicy::Respect,
        min_values: MinValuesPolicy::Strict,
        nomination: true,
        steps_max: 100,
        types_per_launch_max: 60,
        interruption_cost: MicroDollars(0),
    };
    let (plan, report) = provision(&snapshot, &catalog, &policy);
    Ok((snapshot, plan, report))
}

fn after(file: &str) -> (Plan, String) {
    let (snapshot, plan, report) = made(None).unwrap();
    let changes = WhatIf::read(file.as_bytes()).unwrap();
    let (new_snapshot, new_plan, new_report) = made(Some(&changes)).unwrap();
    let before = Made {
        snapshot: &snapshot,
        plan: &plan,
        report: &report,
    };
    let then = Made {
        snapshot: &new_snapshot,
        plan: &new_plan,
        report: &new_report,
    };
    let text = difference(before, then);
    (new_plan, text)
}

#[test]
fn workloads_pools_and_prices_change_the_plan_and_the_difference_is_shown() {
    let (_, plan, _) = made(None).unwrap();
    assert_eq!(
        (plan.launches.len(), plan.launch_price),
        (1, MicroDollars(96_000))
    );

    let more = "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: web, namespace: shop}, spec: {replicas: 3, \
                template: {spec: {containers: [{name: c, resources: {requests: {cpu: '1', memory: 2Gi}}}]}}}}";
    let (plan, text) = after(&format!("---\n{more}"));
    assert_eq!(plan.launches.iter().map(|l| l.pods.len()).sum::<usize>(), 3);
    assert!(
        text.contains("($0.0960/h") || text.contains("$0.0960/h -> $0.1920/h (+0.0960)"),
        "{text}"
    );

    let (plan, text) = after(
        "---\n{apiVersion: plimsoll.dev/v1alpha1, kind: Prices, prices: [{instanceType: m5.*, factor: 2}]}",
    );
    assert_eq!(plan.launch_price, MicroDollars(192_000), "{text}");

    let gone = "---\n{apiVersion: karpenter.sh/v1, kind: NodePool, metadata: {name: default, uid: pool, annotations: \
                {plimsoll.dev/what-if: delete}}, spec: {disruption: {consolidateAfter: 30s}, template: {spec: {requirements: \
                [], nodeClassRef: {group: g, kind: K, name: default}}}}}";
    let (plan, text) = after(gone);
    assert!(plan.launches.is_empty());
    assert!(
        text.contains("no place any more for shop/web-0: there is no NodePool"),
        "{text}"
    );
}

#[test]
fn what_cannot_be_tried_is_refused_by_name() {
    let apply = |file: &str| {
        WhatIf::read(file.as_bytes())
            .and_then(|c| made(Some(&c)).map(|_| ()))
            .unwrap_err()
    };
    let service = "---\n{apiVersion: v1, kind: Service, metadata: {name: s}}";
    assert!(matches!(apply(service), WhatIfError::Kind { kind, name } if kind == "Service" && name == "s"));
    let both = "---\n{kind: Prices, prices: [{factor: 2, dollarsPerHour: 1}]}";
    assert!(matches!(apply(both), WhatIfError::Price));
    let typo = "---\n{kind: Prices, prices: [{faktor: 2}]}";
    assert!(matches!(apply(typo), WhatIfError::Object { .. }));
    let many = "---\n{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {replicas: 200000}}";
    assert!(matches!(apply(many), WhatIfError::Replicas { .. }));
}
