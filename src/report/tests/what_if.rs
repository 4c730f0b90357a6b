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
        changes.reprice(&mut catalog)?;
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
    assert!(matches!(apply(service), WhatIfError::Kind { object } if object == "Service s"));
    let both = "---\n{kind: Prices, prices: [{factor: 2, dollarsPerHour: 1}]}";
    assert!(matches!(apply(both), WhatIfError::Price(0)));
    let typo = "---\n{kind: Prices, prices: [{faktor: 2}]}";
    assert!(matches!(apply(typo), WhatIfError::Object { .. }));
    for nothing in ["", "# only a comment", "---\n"] {
        assert!(matches!(apply(nothing), WhatIfError::Empty), "{nothing:?}");
    }
    for (no_object, says) in [
        ("- a: b", "a bare list"),
        ("more pods, please", "plain text"),
        ("a: b", "without `kind`"),
    ] {
        let error = apply(no_object).to_string();
        assert!(
            error.contains(says) && !error.contains("kubectl"),
            "{no_object}: {error}"
        );
    }

    let deployment = |spec: &str| {
        format!("---\n{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: d}}, spec: {spec}}}")
    };
    let pod = |metadata: &str, container: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {metadata}, spec: {{containers: [{container}]}}}}"
        )
    };
    let price = |change: &str| format!("---\n{{kind: Prices, prices: [{change}]}}");
    // Each names the field and says what to write.
    let fields = [
        (
            deployment("{replicas: 200000}"),
            "Deployment d: spec.replicas is 200000; write a whole number from 0 to 100000",
        ),
        (
            deployment("{replicas: forty}"),
            "Deployment d: spec.replicas is \"forty\"; write a whole number",
        ),
        (
            deployment("{replicas: -1}"),
            "spec.replicas is -1; write a whole number",
        ),
        (
            deployment("{replica: 40}"),
            "spec.replicas is missing; write how many pods it is to have (its spec has replica)",
        ),
        (
            deployment("{replicas: 2}"),
            "spec.template.spec.containers is missing; write what each pod requests",
        ),
        (
            "---\n{apiVersion: batch/v1, kind: Job, metadata: {name: j}, spec: {}}".to_owned(),
            "Job j: spec.parallelism is missing",
        ),
        (
            pod("{name: p, annotations: {plimsoll.dev/what-if: remove}}", ""),
            "annotation plimsoll.dev/what-if is \"remove\"; its one value is `delete`",
        ),
        (pod("{}", ""), "Pod: metadata.name is missing"),
        (
            "---\n{kind: Pod, metadata: {name: p}}".to_owned(),
            "Pod p: apiVersion is missing",
        ),
        (
            pod("{name: p}", "{resources: {requests: {cpu: lots}}}"),
            "Pod p: spec.containers[0].resources.requests.cpu is no amount",
        ),
        (
            pod("{name: p}", "{resources: {requests: {cpu: -1}}}"),
            "requests.cpu is -1; write an amount that is not negative",
        ),
        (
            pod("{name: p}", "{resources: {requests: {memory: [1Gi]}}}"),
            "requests.memory is [\"1Gi\"]; write an amount such as",
        ),
        (
            price("{factor: -2}"),
            "Prices: prices[0].factor is -2; write a number from 0 to 1000000",
        ),
        (
            price("{factor: 1}, {dollarsPerHour: -0.1}"),
            "prices[1].dollarsPerHour is -0.1; write a number from 0",
        ),
        (
            price("{factor: 2, instanceType: 'm5*large'}"),
            "prices[0].instanceType is \"m5*large\"; a `*` stands at the end only",
        ),
        (
            price("{factor: 2, capacityType: Spot}"),
            "prices[0].capacityType is \"Spot\"; write one of on-demand, spot, reserved",
        ),
        (
            "---\n{kind: Prices, price: []}".to_owned(),
            "Prices: prices is missing; write a list",
        ),
    ];
    for (file, says) in fields {
        let error = apply(&file).to_string();
        assert!(error.contains(says), "{file}: {error}");
    }
    let error = WhatIf::read(price("{faktor: 2}").as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "Prices cannot be read");
}

#[test]
fn what_is_not_there_cannot_be_taken_away() {
    let gone = |api_version: &str, kind: &str, metadata: &str, spec: &str| {
        let file = format!(
            "---\n{{apiVersion: {api_version}, kind: {kind}, metadata: {{{metadata}, annotations: \
             {{plimsoll.dev/what-if: delete}}}}, spec: {spec}}}"
        );
        WhatIf::read(file.as_bytes()).and_then(|changes| made(Some(&changes)).map(|_| ()))
    };
    let absent = |api_version: &str, kind: &str, spec: &str| {
        let error = gone(api_version, kind, "name: web-9, namespace: shop", spec).unwrap_err();
        assert!(
            matches!(&error, WhatIfError::Absent { object } if *object == format!("{kind} shop/web-9")),
            "{error}"
        );
    };
    absent("v1", "Pod", "{}");
    absent("v1", "Node", "{}");
    absent("policy/v1", "PodDisruptionBudget", "{}");
    absent("apps/v1", "DaemonSet", "{}");
    absent("apps/v1", "StatefulSet", "{}");
    absent("karpenter.sh/v1", "NodePool", "{}");
    absent("karpenter.sh/v1", "NodeClaim", "{}");
    // Without a namespace the pod of another one is not meant.
    assert!(
        matches!(gone("v1", "Pod", "name: web-0", "{}"), Err(WhatIfError::Absent { object }) if object == "Pod default/web-0")
    );
    gone("v1", "Pod", "name: web-0, namespace: shop", "{}").unwrap();
    gone("apps/v1", "StatefulSet", "name: web, namespace: shop", "{}").unwrap();
}

#[test]
fn a_price_that_matches_nothing_is_refused_by_the_name_of_its_field() {
    let reprice = |prices: &str| {
        let mut catalog = fleet::catalog(&dump::read(CLUSTER.as_bytes()).unwrap().index, &Prices::Aws);
        let file = format!("---\n{{kind: Prices, prices: [{prices}]}}");
        let repriced = WhatIf::read(file.as_bytes()).unwrap().reprice(&mut catalog);
        repriced.map(|()| catalog.price_source.to_string())
    };
    let good = reprice("{instanceType: m5.*, factor: 2}").unwrap();
    assert!(good.ends_with(", changed by the what-if file"), "{good}");
    for (prices, says) in [
        (
            "{instanceType: m5.*, factor: 2}, {instanceType: m5.lage, factor: 2}",
            "Prices: prices[1].instanceType is \"m5.lage\"; nothing of it is sold to this cluster; write what is, such as m5.large",
        ),
        (
            "{zone: us-east-9z, factor: 2}",
            "prices[0].zone is \"us-east-9z\"; nothing of it is sold to this cluster; write what is, such as us-east-1a",
        ),
        (
            "{instanceType: m5.large, capacityType: reserved, factor: 2}",
            "prices[0].capacityType is \"reserved\"; nothing of it is sold to this cluster; write what is, such as on-demand, spot",
        ),
    ] {
        let error = reprice(prices).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}
