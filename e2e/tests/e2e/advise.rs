//! Plans that a person approves: kept under the chart's rights for it and nothing else, and carried out with others'.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use plimsoll_api::plan::{Plan, SUPERSEDED};
use plimsoll_e2e::controller::binary;
use plimsoll_e2e::fixture::{Fixture, PATIENCE};
use plimsoll_e2e::{objects, tools};
use serde_json::{Value, json};

use crate::chart::{account_kubeconfig, check_audit, doctor, install, table, uninstall, unused};
use crate::report::{per_hour, settled};

/// Somebody who has the chart's rights for who approves, and no others.
struct Approver {
    kubeconfig: PathBuf,
    path: OsString,
}

const APPROVER: &str = "approver";

impl Approver {
    async fn new(fixture: &Fixture) -> Result<Self> {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": APPROVER}});
        fixture.apply(account).await?;
        let group = "rbac.authorization.k8s.io";
        fixture
            .apply(json!({
                "apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": APPROVER},
                "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "plimsoll-approver"},
                "subjects": [{"kind": "ServiceAccount", "name": APPROVER, "namespace": fixture.namespace()}],
            }))
            .await?;
        let tools = tools::CONTROL_PLANE.ensure().await?;
        let plugins = fixture.testbed().dir().join("plugins");
        std::fs::create_dir(&plugins)?;
        std::os::unix::fs::symlink(binary()?.canonicalize()?, plugins.join("kubectl-plimsoll"))?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        Ok(Self {
            kubeconfig: account_kubeconfig(fixture, APPROVER).await?,
            path: std::env::join_paths([tools, plugins].into_iter().chain(std::env::split_paths(&path)))?,
        })
    }

    /// A program with kubectl at hand, and with that the plugin.
    fn command(&self, program: impl AsRef<OsStr>, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env("PATH", &self.path)
            .env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// What it prints.
    fn runs(&self, program: impl AsRef<OsStr>, args: &[&str]) -> Result<String> {
        let output = self.command(program, args).output()?;
        let (said, complained) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr),
        );
        ensure!(output.status.success(), "{args:?}: {said}\n{complained}");
        Ok(said)
    }
}

/// What the program says, if it refuses.
fn refusal(approver: &Approver, args: &[&str]) -> Result<String> {
    let output = approver.command(binary()?, args).output()?;
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

/// The pool as it buys what a few pods leave mostly empty, so that every Plan for them buys something smaller.
fn only_large_machines() -> Value {
    let mut pool = objects::node_pool("default");
    let large =
        json!({"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["c-32x-amd64-linux"]});
    let requirements = pool["spec"]["template"]["spec"]["requirements"].as_array_mut();
    requirements.expect("the pool has requirements").push(large);
    pool
}

/// Waits until so many pods run and the controller has taken the machines without any.
async fn wait_in_use(fixture: &Fixture, pods: usize) -> Result<BTreeMap<String, Pod>> {
    let pods = fixture.wait_running(pods).await?;
    let in_use = |node: &String| {
        pods.values()
            .any(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) == Some(node))
    };
    fixture
        .cluster()
        .wait_for("no machine without pods", fixture.nodes(), PATIENCE, |nodes| {
            nodes.keys().all(in_use)
        })
        .await?;
    Ok(pods)
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
    // The approver's role is not its own.
    let security = doctor(&fixture, "security")?;
    assert!(
        !security.is_empty() && security.iter().all(|(verdict, _)| verdict != "fail"),
        "{security:#?}"
    );
    let approver = Approver::new(&fixture).await?;
    let _karpenter = fixture.controller().await?;
    fixture.apply(objects::node_class()).await?;
    fixture.apply(only_large_machines()).await?;
    fixture.apply(objects::deployment("web", 12, "3")).await?;
    fixture.wait_running(12).await?;
    fixture.apply(objects::node_pool("default")).await?;
    fixture.scale("web", 3).await?;
    let pods = wait_in_use(&fixture, 3).await?;
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
    let refused = refusal(&approver, &["apply", &target, "--yes"])?;
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
    wait_in_use(&fixture, 4).await?;
    let report = settled(&fixture).await?;
    let replaced = Some(("True".to_owned(), "Replaced".to_owned()));
    wait_plans(&fixture, "the Plan replaced", |all| reason(all) == replaced).await?;
    let refused = refusal(&approver, &["apply", &target, "--yes"])?;
    assert!(refused.contains("is superseded: plan-"), "{refused}");

    let (name, plan) = wait_plan_of(&fixture, &report).await?;
    let name = &name;
    let target = format!("plan/{name}");
    let nobody = refusal(&approver, &["apply", &target])?;
    assert!(nobody.contains("nobody can be asked here"), "{nobody}");
    let altered = json!({"spec": {"commands": "true"}});
    let api = Api::<Plan>::all(fixture.cluster().client());
    let denied = api
        .patch(name, &PatchParams::default(), &Patch::Merge(&altered))
        .await;
    let denied = denied.map(|_| ()).expect_err("a Plan was altered").to_string();
    assert!(denied.contains("spec is immutable"), "{denied}");
    assert!(adviser.terminate(Duration::from_secs(10)).await?.success());

    // Whoever has no plimsoll runs the commands of the Plan. They are stopped as hard as can be, and run again.
    let listed = approver.runs("kubectl", &["get", "plans"])?;
    assert!(listed.contains(name), "{listed}");
    let commands = ["get", "plan", name, "-o", "jsonpath={.spec.commands}"];
    let script = fixture.testbed().dir().join("moves.sh");
    std::fs::write(&script, approver.runs("kubectl", &commands)?)?;
    let script = script.display().to_string();
    assert!(!plan.spec.buy.is_empty(), "{:#?}", plan.spec);
    let claims = fixture.cluster().node_claims().await?.len() + plan.spec.buy.len();
    let mut first = approver.command("sh", &[&script]).process_group(0).spawn()?;
    fixture
        .wait_claims("what the Plan buys", |all| all.len() == claims)
        .await?;
    kill(&first)?;
    ensure!(!first.wait()?.success(), "it was through already");
    let stale = refusal(&approver, &["apply", &target, "--yes"])?;
    assert!(stale.contains("no longer holds"), "{stale}");
    approver.runs("sh", &[&script])?;
    let left = fixture.cluster().node_claims().await?.len();
    assert_eq!(left + plan.spec.remove.len(), claims);
    arrived(&fixture, &plan, 4).await?;

    // And from the beginning, by apply, with an adviser that sees what becomes of its Plan.
    fixture.scale("web", 0).await?;
    fixture.wait_no_machines().await?;
    fixture.apply(only_large_machines()).await?;
    fixture.scale("web", 12).await?;
    fixture.wait_running(12).await?;
    fixture.apply(objects::node_pool("default")).await?;
    fixture.scale("web", 3).await?;
    wait_in_use(&fixture, 3).await?;
    let report = settled(&fixture).await?;
    let mut adviser = installed.spawn(&fixture, "adviser-again")?;
    adviser.wait_ready(PATIENCE).await?;
    adviser.wait_leading(PATIENCE).await?;
    let (name, plan) = wait_plan_of(&fixture, &report).await?;
    let target = format!("plan/{name}");
    approver.runs("kubectl", &["plimsoll", "apply", &target, "--yes"])?;
    arrived(&fixture, &plan, 3).await?;
    // Each of its machines made the cluster another one, with Plans of its own: this one may be swept away by now.
    wait_plans(&fixture, "no Plan that stands, as all of it is done", |all| {
        !all.values().any(stands)
    })
    .await?;
    assert!(adviser.terminate(Duration::from_secs(10)).await?.success());

    let table = table(&["advise"])?;
    // In this order: asking what the account may do is a request of the account.
    check_audit(&fixture, &table)?;
    check_approver(&fixture)?;
    assert_eq!(installed.may(&fixture).await?, table);
    uninstall(&fixture).await?;
    fixture.finish().await
}

/// The rights of who approves were enough, and all were needed but those for machines without a NodeClaim and for the pods of
/// DaemonSets: here are none of either. What is applied and not there yet is logged as a patch, though the right to create
/// is asked for.
fn check_approver(fixture: &Fixture) -> Result<()> {
    let Some(unused) = unused(fixture, APPROVER, &table(&["approver"])?)? else {
        return Ok(());
    };
    let unused: Vec<String> = unused
        .iter()
        .map(|g| format!("{} {}", g.verb, g.resource))
        .collect();
    let expected = [
        "get daemonsets.apps",
        "create nodeclaims.karpenter.sh",
        "delete nodes",
        "watch nodes",
    ];
    assert_eq!(unused, expected);
    Ok(())
}

/// Ends a script and what it has started, in no way that it could notice.
fn kill(script: &Child) -> Result<()> {
    let group = format!("-{}", script.id());
    let killed = Command::new("kill").args(["-KILL", "--", &group]).status()?;
    ensure!(killed.success(), "cannot end the script");
    Ok(())
}

/// The cluster is what the Plan said: its price, its pods running, no machine closed or held back.
async fn arrived(fixture: &Fixture, plan: &Plan, pods: usize) -> Result<()> {
    fixture.wait_running(pods).await?;
    let after = per_hour(&settled(fixture).await?, "now");
    assert_eq!(format!("{after:.4}"), plan.spec.after.per_hour);
    for node in fixture.cluster().nodes().await? {
        let closed = node.spec.and_then(|spec| spec.unschedulable);
        assert_ne!(closed, Some(true), "a machine stays closed");
        let held = node.metadata.annotations.unwrap_or_default();
        assert!(
            !held.contains_key("karpenter.sh/do-not-disrupt"),
            "a machine stays held back"
        );
    }
    Ok(())
}
