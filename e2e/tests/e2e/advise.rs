//! Plans that a person approves: kept under the chart's rights for it and nothing else, and carried out with others'.

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use plimsoll_api::plan::{Plan, SUPERSEDED};
use plimsoll_e2e::controller::binary;
use plimsoll_e2e::fixture::{Fixture, PATIENCE};
use plimsoll_e2e::{objects, tools};
use serde_json::{Value, json};

use crate::chart::{doctor, install, table, uninstall};
use crate::report::{per_hour, settled};

/// The program as a person with all rights runs it, with kubectl at hand.
async fn plimsoll(fixture: &Fixture, args: &[&str]) -> Result<Output> {
    let tools = tools::CONTROL_PLANE.ensure().await?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(tools).chain(std::env::split_paths(&path)))?;
    let output = Command::new(binary()?)
        .args(args)
        .env("PATH", path)
        .env("KUBECONFIG", fixture.testbed().kubeconfig())
        .output()?;
    Ok(output)
}

/// Its words, if it refuses.
async fn refusal(fixture: &Fixture, args: &[&str]) -> Result<String> {
    let output = plimsoll(fixture, args).await?;
    ensure!(!output.status.success(), "{args:?} was not refused");
    Ok(String::from_utf8(output.stderr)?)
}

fn read(object: &DynamicObject) -> Plan {
    serde_json::from_value(json!(object)).expect("the API server keeps to the schema")
}

fn superseded(plan: &Plan) -> Option<(String, String)> {
    let mut conditions = plan.status.iter().flat_map(|status| &status.conditions);
    let found = conditions.find(|c| c.type_ == SUPERSEDED)?;
    Some((found.status.clone(), found.reason.clone()))
}

fn stands(plan: &Plan) -> bool {
    superseded(plan).is_some_and(|(status, _)| status == "False")
}

/// Waits until the Plans are like this, and returns them by name.
async fn wait_plans(
    fixture: &Fixture,
    what: &str,
    like: impl Fn(&BTreeMap<String, Plan>) -> bool,
) -> Result<BTreeMap<String, Plan>> {
    let api = fixture
        .cluster()
        .api_of("plimsoll.dev/v1alpha1", "Plan", None)
        .await?;
    let typed = |all: &BTreeMap<String, DynamicObject>| -> BTreeMap<String, Plan> {
        all.values()
            .map(|o| (o.metadata.name.clone().unwrap_or_default(), read(o)))
            .collect()
    };
    let found = fixture
        .cluster()
        .wait_for(what, api, PATIENCE, |all| like(&typed(all)))
        .await?;
    Ok(typed(&found))
}

async fn do_not_disrupt(fixture: &Fixture, value: Value) -> Result<()> {
    let annotation = json!({"metadata": {"annotations": {"karpenter.sh/do-not-disrupt": value}}});
    for node in fixture.cluster().nodes().await? {
        let name = node.metadata.name.context("a Node without a name")?;
        let params = PatchParams::default();
        fixture
            .nodes()
            .patch(&name, &params, &Patch::Merge(&annotation))
            .await?;
    }
    Ok(())
}

/// The Plan that leads where the report says, once it stands and no other does.
async fn wait_plan_of(fixture: &Fixture, report: &Value) -> Result<(String, Plan)> {
    let after = format!("{:.4}", per_hour(report, "reachable"));
    let is_it = |plan: &Plan| plan.spec.after.per_hour == after && plan.spec.machines_removed > 0;
    let found = wait_plans(fixture, "a Plan that leads where the report says", |all| {
        let mut standing = all.values().filter(|plan| stands(plan));
        standing.next().is_some_and(is_it) && standing.next().is_none()
    })
    .await?;
    found
        .into_iter()
        .find(|(_, plan)| stands(plan))
        .context("it has gone")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_kept_with_no_right_to_act_and_carried_out_by_a_person() -> Result<()> {
    // Without CRDs: the chart brings them.
    let fixture = Fixture::bare("advise").await?;
    let installed = install(&fixture, &["mode=advise", "settings.reportInterval=1s"]).await?;
    let rights = doctor(&fixture, "rights")?;
    assert!(rights.iter().all(|(verdict, _)| verdict == "pass"), "{rights:#?}");
    let _karpenter = fixture.controller().await?;
    fixture.apply(objects::node_class()).await?;
    fixture.apply(objects::node_pool("default")).await?;
    fixture.apply(objects::deployment("web", 12, "3")).await?;
    fixture.wait_running(12).await?;
    fixture.scale("web", 3).await?;
    let pods = fixture.wait_running(3).await?;
    let report = settled(&fixture).await?;
    let price = per_hour(&report, "now");
    assert!(per_hour(&report, "reachable") < price * 0.9, "{price}");

    let mut adviser = installed.spawn(&fixture, "adviser")?;
    adviser.wait_ready(PATIENCE).await?;
    adviser.wait_leading(PATIENCE).await?;
    let (name, plan) = wait_plan_of(&fixture, &report).await?;
    let spec = &plan.spec;
    assert_eq!(spec.before.per_hour, format!("{price:.4}"));
    assert_eq!(name, format!("plan-{}", &spec.digest[..10]));
    let moved = spec
        .buy
        .iter()
        .flat_map(|b| &b.pods)
        .chain(spec.fill.iter().flat_map(|f| &f.pods));
    let moved: Vec<&str> = moved.filter_map(|key| key.split('/').nth(1)).collect();
    assert!(
        !spec.remove.is_empty() && moved.len() as i32 == spec.pods,
        "{spec:#?}"
    );
    let runs = |name: &str| {
        pods.values()
            .any(|pod| pod.metadata.name.as_deref() == Some(name))
    };
    assert!(moved.iter().all(|name| runs(name)), "{moved:?}");

    // The cluster forbids it, so the plan goes; allows it again, and the same plan is made anew.
    do_not_disrupt(&fixture, json!("true")).await?;
    let reason = |all: &BTreeMap<String, Plan>| all.get(&name).and_then(superseded);
    let gone = Some(("True".to_owned(), "NothingToDo".to_owned()));
    wait_plans(&fixture, "the Plan superseded", |all| reason(all) == gone).await?;
    let target = format!("plan/{name}");
    let refused = refusal(&fixture, &["apply", &target, "--yes"]).await?;
    assert!(
        refused.contains("is superseded: the cluster wants nothing any more"),
        "{refused}"
    );
    do_not_disrupt(&fixture, Value::Null).await?;
    wait_plans(&fixture, "the Plan again", |all| {
        all.get(&name).is_some_and(stands)
    })
    .await?;

    // Another cluster, another Plan.
    fixture.scale("web", 4).await?;
    fixture.wait_running(4).await?;
    let report = settled(&fixture).await?;
    let replaced = Some(("True".to_owned(), "Replaced".to_owned()));
    wait_plans(&fixture, "the Plan replaced", |all| reason(all) == replaced).await?;
    let refused = refusal(&fixture, &["apply", &target, "--yes"]).await?;
    assert!(refused.contains("is superseded: plan-"), "{refused}");

    let (name, plan) = wait_plan_of(&fixture, &report).await?;
    let name = &name;
    let target = format!("plan/{name}");
    let nobody = refusal(&fixture, &["apply", &target]).await?;
    assert!(nobody.contains("nobody can be asked here"), "{nobody}");
    let altered = json!({"spec": {"commands": "true"}});
    let api = Api::<Plan>::all(fixture.cluster().client());
    let denied = api
        .patch(name, &PatchParams::default(), &Patch::Merge(&altered))
        .await;
    let denied = denied.map(|_| ()).expect_err("a Plan was altered").to_string();
    assert!(denied.contains("spec is immutable"), "{denied}");
    assert!(adviser.terminate(Duration::from_secs(10)).await?.success());

    let applied = plimsoll(&fixture, &["apply", &target, "--yes"]).await?;
    let (said, complained) = (
        String::from_utf8_lossy(&applied.stdout),
        String::from_utf8_lossy(&applied.stderr),
    );
    ensure!(applied.status.success(), "{said}\n{complained}");
    fixture.wait_running(4).await?;
    let after = per_hour(&settled(&fixture).await?, "now");
    assert_eq!(format!("{after:.4}"), plan.spec.after.per_hour);
    for node in fixture.cluster().nodes().await? {
        let closed = node.spec.and_then(|spec| spec.unschedulable);
        assert_ne!(closed, Some(true), "a machine stays closed");
    }
    let stale = refusal(&fixture, &["apply", &target, "--yes"]).await?;
    assert!(stale.contains("no longer holds"), "{stale}");

    let table = table(&["advise"])?;
    // In this order: asking what the account may do is a request of the account.
    installed.check_audit(&fixture, &table)?;
    assert_eq!(installed.may(&fixture).await?, table);
    uninstall(&fixture).await?;
    fixture.finish().await
}
