//! What a report says of a real cluster: the same from a dump as live, and true when its own commands are carried out.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use kube::api::DynamicObject;
use plimsoll_e2e::controller::binary;
use plimsoll_e2e::fixture::{Fixture, PATIENCE};
use plimsoll_e2e::{objects, paths, tools};
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// Kinds of a dump, as docs/report.md has them for a cluster with Karpenter.
const KINDS: [&str; 2] = [
    "nodes,pods,poddisruptionbudgets,daemonsets,namespaces,persistentvolumeclaims,persistentvolumes,storageclasses,csinodes,\
     volumeattachments",
    "nodepools,nodeclaims",
];
/// Pods of each of the two Deployments, at first and after they have been scaled in.
const PODS: usize = 500;
const PODS_LEFT: usize = 350;
/// Carrying out some sixty moves takes three minutes on an idle machine with two cores.
const SCRIPT_MAX: Duration = Duration::from_mins(20);

/// What a program printed; its complaints go to the test's own.
fn output(program: &Path, fixture: &Fixture, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .env("KUBECONFIG", fixture.testbed().kubeconfig())
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(
        output.status.success(),
        "{} {args:?}: {}",
        program.display(),
        output.status
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn report(fixture: &Fixture, args: &[&str]) -> Result<Value> {
    let args = [&["report", "--json"], args].concat();
    Ok(serde_json::from_str(&output(&binary()?, fixture, &args)?)?)
}

/// The report of what kubectl writes about the cluster.
async fn report_of_dump(fixture: &Fixture) -> Result<Value> {
    let kubectl = tools::CONTROL_PLANE.ensure().await?.join("kubectl");
    let mut dump = String::new();
    for kinds in KINDS {
        dump.push_str(&output(&kubectl, fixture, &["get", kinds, "-A", "-o", "json"])?);
    }
    let file = fixture.testbed().dir().join("dump.json");
    std::fs::write(&file, dump)?;
    report(fixture, &["--from", &file.display().to_string()])
}

pub(crate) fn per_hour(report: &Value, field: &str) -> f64 {
    let cost = &report[field];
    let cost = if cost["cost"].is_null() {
        cost
    } else {
        &cost["cost"]
    };
    cost["per_hour"].as_f64().unwrap()
}

/// The report without what differs from one look to the next, and from a look to a file, which does not say of what the
/// cluster has none.
fn without_time(mut report: Value) -> Value {
    report["taken"].take();
    if let Some(notes) = report["notes"].as_array_mut() {
        notes.retain(|note| !note.as_str().is_some_and(|note| note.contains(" in the file; ")));
    }
    report
}

/// The report, once two in a row say the same.
pub(crate) async fn settled(fixture: &Fixture) -> Result<Value> {
    let deadline = Instant::now() + PATIENCE;
    let mut before = report(fixture, &[])?;
    loop {
        sleep(Duration::from_secs(2)).await;
        let now = report(fixture, &[])?;
        if without_time(now.clone()) == without_time(before) {
            return Ok(now);
        }
        ensure!(Instant::now() < deadline, "the cluster does not settle");
        before = now;
    }
}

/// Waits until the observer's Report says this.
async fn wait_report(fixture: &Fixture, what: &str, says: impl Fn(&Value) -> bool) -> Result<()> {
    let reports = fixture
        .cluster()
        .api_of("plimsoll.dev/v1alpha1", "Report", None)
        .await?;
    let says = |report: &DynamicObject| says(&report.data["status"]);
    fixture
        .cluster()
        .wait_for(what, reports, PATIENCE, |all| {
            all.get("cluster").is_some_and(says)
        })
        .await?;
    Ok(())
}

/// Runs the script that a report has written, with the testbed's kubectl.
async fn carry_out(fixture: &Fixture, script: &Path) -> Result<()> {
    let tools = tools::CONTROL_PLANE.ensure().await?;
    let path = std::env::join_paths(std::iter::once(tools).chain(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    )))?;
    let log = fixture.testbed().logs().join("moves.log");
    let file = std::fs::File::create(&log)?;
    let mut child = Command::new("sh")
        .arg("-x")
        .arg(script)
        .env("PATH", path)
        .env("KUBECONFIG", fixture.testbed().kubeconfig())
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()?;
    let deadline = Instant::now() + SCRIPT_MAX;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill()?;
        }
        sleep(Duration::from_millis(100)).await;
    };
    let text = std::fs::read_to_string(&log)?;
    let tail: Vec<&str> = text.lines().rev().take(20).collect();
    ensure!(
        status.success(),
        "{status} of the moves; the end, backwards: {tail:#?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_scale_in_the_moves_of_the_report_lead_where_it_says() -> Result<()> {
    let fixture = Fixture::with_node_class("scale in").await?;
    let controller = fixture.controller().await?;
    fixture.apply(objects::node_pool("default")).await?;
    let pair = paths::manifest("pair.yaml");
    fixture
        .cluster()
        .apply_file(&pair, Some(fixture.namespace()))
        .await?;
    fixture.wait_running(2 * PODS).await?;
    for deployment in ["small", "large"] {
        fixture.scale(deployment, PODS_LEFT).await?;
    }
    fixture.wait_running(2 * PODS_LEFT).await?;
    let live = settled(&fixture).await?;
    let dump = report_of_dump(&fixture).await?;
    assert_eq!(live["totals"]["nodes"], fixture.cluster().nodes().await?.len());
    assert!((per_hour(&live, "now") - fixture.cluster().price_per_hour().await?).abs() < 0.001);
    assert_eq!(without_time(dump), without_time(live.clone()));

    let (now, reachable, bound) = (
        per_hour(&live, "now"),
        per_hour(&live, "reachable"),
        per_hour(&live, "bound"),
    );
    println!("now ${now:.4}/h, reachable ${reachable:.4}/h, bound ${bound:.4}/h");
    assert!(
        reachable <= bound * 1.03,
        "{reachable} reachable, {bound} the bound"
    );
    assert!(reachable < now * 0.95, "{reachable} reachable of {now}");

    let mut observer = fixture.spawn_controller(
        "observer",
        &[
            ("MODE", "observe"),
            ("POD_NAME", "observer"),
            ("REPORT_INTERVAL", "1s"),
        ],
    )?;
    observer.wait_ready(PATIENCE).await?;
    let removed = &live["reachable"]["nodes_removed"];
    wait_report(&fixture, "a Report that says the same", |status| {
        let count = |group: &Value| group["count"].as_u64().unwrap_or(0);
        let all = status["remove"]
            .as_array()
            .map(|all| all.iter().map(count).sum::<u64>());
        all == removed.as_u64() && status["reachable"]["perHour"] == format!("{reachable:.4}")
    })
    .await?;

    let script = fixture.testbed().dir().join("moves.sh");
    let again = report(&fixture, &["--commands", &script.display().to_string()])?;
    assert_eq!(again["reachable"]["cost"], live["reachable"]["cost"]);
    let begin = Instant::now();
    carry_out(&fixture, &script).await?;
    println!("carried out in {:.0} s", begin.elapsed().as_secs_f64());
    fixture.wait_running(2 * PODS_LEFT).await?;
    let after = per_hour(&settled(&fixture).await?, "now");
    assert!(
        (after - reachable).abs() < 0.001,
        "{after} instead of {reachable}"
    );
    for node in fixture.cluster().nodes().await? {
        let closed = node.spec.and_then(|spec| spec.unschedulable);
        assert_ne!(closed, Some(true), "a machine stays closed");
    }

    // Nobody acts any more: the observer says what it would remove.
    controller.terminate(Duration::from_secs(10)).await?;
    for deployment in ["small", "large"] {
        fixture.scale(deployment, 0).await?;
    }
    let nodes = fixture.cluster().nodes().await?.len();
    let deadline = Instant::now() + PATIENCE;
    while observer
        .metrics()
        .await?
        .sum("plimsoll_would_remove_machines", &[])
        != Some(nodes as f64)
    {
        ensure!(Instant::now() < deadline, "{}", observer.log_tail(20));
        sleep(Duration::from_millis(100)).await;
    }
    assert!(observer.log_tail(50).contains("would remove empty machines"));
    assert_eq!(fixture.cluster().nodes().await?.len(), nodes);
    assert!(observer.terminate(Duration::from_secs(10)).await?.success());

    let _controller = fixture.controller().await?;
    fixture.finish().await
}
