//! The commands that only look, run as a user runs them: on a file, and on an API server that serves the same objects.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the makers of test objects are tests too"
)]

mod stand_in;

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use stand_in::{Answer, ApiServer, Scratch, failure, plimsoll};

/// Six machines of a node group, each with one pod; a third of them would do.
fn cluster() -> Vec<Value> {
    let mut items = Vec::new();
    for i in 0..6 {
        let (name, zone) = (format!("n{i}"), format!("us-east-1{}", ['a', 'b', 'c'][i % 3]));
        let amounts = json!({ "cpu": "3920m", "memory": "14800Mi", "pods": "58" });
        items.push(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": name, "uid": name, "labels": {
                "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", "node.kubernetes.io/instance-type": "m5.xlarge",
                "topology.kubernetes.io/zone": zone, "eks.amazonaws.com/nodegroup": "general" } },
            "spec": { "providerID": format!("aws:///{zone}/i-{i}") },
            "status": { "capacity": amounts, "allocatable": amounts, "conditions": [] },
        }));
        items.push(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": format!("web-{i}"), "namespace": "shop", "uid": format!("p{i}"), "ownerReferences": [
                { "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "web", "controller": true }] },
            "spec": { "nodeName": name, "containers": [{ "env": [{ "name": "PASSWORD", "value": "CANARY" }],
                "resources": { "requests": { "cpu": "1", "memory": "2Gi" } } }] },
            "status": { "phase": "Running", "conditions": [] },
        }));
    }
    items
}

fn text(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// An API server that knows lists: two objects a page, no Karpenter, and budgets out of reach.
fn page(items: &[Value], target: &str) -> Answer {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if path.contains("karpenter.sh") {
        return failure(404);
    }
    if path.ends_with("poddisruptionbudgets") {
        return failure(403);
    }
    let kinds = BTreeMap::from([("/api/v1/nodes", "Node"), ("/api/v1/pods", "Pod")]);
    let all: Vec<Value> = items
        .iter()
        .filter(|item| Some(item["kind"].as_str().unwrap()) == kinds.get(path).copied())
        // Items of a list do not repeat what they are.
        .map(|item| json!({ "metadata": item["metadata"], "spec": item["spec"], "status": item["status"] }))
        .collect();
    let from: usize = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("continue=")?.parse().ok())
        .unwrap_or(0);
    let to = (from + 2).min(all.len());
    let next = if to < all.len() {
        to.to_string()
    } else {
        String::new()
    };
    (
        200,
        json!({ "kind": "List", "apiVersion": "v1", "metadata": { "continue": next }, "items": all[from..to] }),
    )
}

#[test]
fn a_live_cluster_and_its_dump_give_the_same_report_with_reads_alone() {
    let scratch = Scratch::new("report");
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": cluster() });
    let dump = scratch.write("dump.json", list.to_string());
    let items = cluster();
    let server = ApiServer::start(&scratch, move |_, target, _| page(&items, target));
    let kubeconfig = &server.kubeconfig;
    let of_file = text(&plimsoll(
        None,
        &["report", "--from", dump.to_str().unwrap(), "--json"],
    ));
    let live = text(&plimsoll(Some(kubeconfig), &["report", "--json"]));
    let mut of_file: Value = serde_json::from_str(&of_file).unwrap();
    let mut live: Value = serde_json::from_str(&live).unwrap();
    let notes = live["notes"].to_string();
    assert!(
        notes.contains("not allowed to list poddisruptionbudgets.policy"),
        "{notes}"
    );
    assert!(
        notes.contains("nodepools.karpenter.sh are not installed"),
        "{notes}"
    );
    for report in [&mut of_file, &mut live] {
        assert_eq!(report["totals"]["nodes"], 6);
        assert!(
            report["reachable"]["cost"]["per_month"].as_f64().unwrap()
                < report["now"]["per_month"].as_f64().unwrap()
        );
        report["taken"].take();
        report["notes"].take();
        report["prices"].take();
    }
    assert_eq!(of_file, live);

    let snapshot = scratch.0.join("snapshot.json");
    text(&plimsoll(
        Some(kubeconfig),
        &["snapshot", "-o", snapshot.to_str().unwrap()],
    ));
    let written = std::fs::read_to_string(&snapshot).unwrap();
    assert!(
        written.contains("\"web-5\"") && !written.contains("CANARY"),
        "{written}"
    );
    let again = text(&plimsoll(
        None,
        &["report", "--from", snapshot.to_str().unwrap(), "--json"],
    ));
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again["reachable"], live["reachable"]);

    let asked = server.asked.lock().unwrap();
    assert!(asked.len() > 10, "{asked:?}");
    let writes: Vec<_> = asked.iter().filter(|line| !line.starts_with("GET ")).collect();
    assert!(writes.is_empty(), "{writes:?}");
}

#[test]
fn a_context_that_is_named_is_read_instead_of_the_current_one() {
    let scratch = Scratch::new("context");
    let items = cluster();
    let server = ApiServer::start(&scratch, move |_, target, _| page(&items, target));
    let own = std::fs::read_to_string(&server.kubeconfig).unwrap();
    let mut config: Value = serde_json::from_str(&own).unwrap();
    // Nobody listens on port 1.
    config["clusters"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "name": "dead", "cluster": { "server": "http://127.0.0.1:1" } }));
    config["contexts"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "name": "dead", "context": { "cluster": "dead", "user": "u" } }));
    config["current-context"] = "dead".into();
    let kubeconfig = scratch.write("two", config.to_string());
    let script = scratch.0.join("moves.sh");
    let commands: [&[&str]; 4] = [
        &["report", "--commands", script.to_str().unwrap()],
        &["plan"],
        &["explain", "node/n0"],
        &["snapshot"],
    ];
    for command in commands {
        let current = plimsoll(Some(&kubeconfig), command);
        assert!(!current.status.success(), "{command:?}");
        text(&plimsoll(
            Some(&kubeconfig),
            &[command, &["--context", "c"]].concat(),
        ));
    }
    let script = std::fs::read_to_string(script).unwrap();
    assert!(script.contains("kubectl --context 'c' "), "{script}");

    // This API server does not tell its version, but it is the one that is asked.
    let checked = plimsoll(Some(&kubeconfig), &["doctor", "--context", "c"]);
    let error = String::from_utf8_lossy(&checked.stderr);
    assert!(error.contains("GET /version: missing field"), "{error}");

    let output = plimsoll(Some(&kubeconfig), &["report", "--context", "other"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("--context other: ") && error.contains("`kubectl config get-contexts`"),
        "{error}"
    );
    let output = plimsoll(Some(&kubeconfig), &["report", "--context", "c", "--from", "-"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("'--context <NAME>' cannot be used with '--from <FILE>'"),
        "{error}"
    );
}

/// As kubectl does.
#[test]
fn the_proxy_of_the_environment_is_taken_but_for_what_is_exempt() {
    let scratch = Scratch::new("proxy");
    let items = cluster();
    let server = ApiServer::start(&scratch, move |_, target, _| page(&items, target));
    let config: Value = serde_json::from_str(&std::fs::read_to_string(&server.kubeconfig).unwrap()).unwrap();
    let address = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
    let report = |kubeconfig: &Path, exempt: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        command
            .arg("report")
            .env("KUBECONFIG", kubeconfig)
            .env("HTTPS_PROXY", address);
        command
            .env_remove("https_proxy")
            .env_remove("no_proxy")
            .env("NO_PROXY", exempt);
        command.output().unwrap()
    };
    // Of this machine.
    text(&report(&server.kubeconfig, ""));

    let mut elsewhere = config.clone();
    elsewhere["clusters"][0]["cluster"]["server"] = "https://api.cluster.invalid".into();
    let elsewhere = scratch.write("elsewhere", elsewhere.to_string());
    let tunnels = || {
        let asked = server.asked.lock().unwrap();
        asked
            .iter()
            .filter(|line| *line == "CONNECT api.cluster.invalid:443")
            .count()
    };
    assert!(!report(&elsewhere, ".cluster.invalid").status.success());
    assert_eq!(tunnels(), 0);
    // Also where the proxy itself is exempt, as the end of a tunnel on this machine often is.
    for (tunnelled, exempt) in ["other.invalid", "127.0.0.1"].into_iter().enumerate() {
        assert!(!report(&elsewhere, exempt).status.success());
        assert!(tunnels() > tunnelled, "{exempt}");
    }
    // The one of the kubeconfig is meant for this cluster.
    let mut own = config.clone();
    own["clusters"][0]["cluster"]["server"] = "https://own.cluster.invalid".into();
    own["clusters"][0]["cluster"]["proxy-url"] = address.into();
    let own = scratch.write("own", own.to_string());
    assert!(!report(&own, "*").status.success());
    let asked = server.asked.lock().unwrap();
    assert!(
        asked.iter().any(|line| line == "CONNECT own.cluster.invalid:443"),
        "{asked:?}"
    );
}

#[test]
fn who_reads_no_further_is_no_error() {
    let scratch = Scratch::new("pipe");
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": cluster() });
    let dump = scratch.write("dump.json", list.to_string());
    for command in [&["report", "--from"][..], &["report", "--json", "--from"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_plimsoll"))
            .args(command)
            .arg(&dump)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success() && !error.contains("error"), "{error}");
    }
}

#[test]
fn every_output_and_every_command_that_looks_works_on_a_file() {
    let scratch = Scratch::new("outputs");
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": cluster() });
    let dump = scratch.write("dump.json", list.to_string());
    let dump = dump.to_str().unwrap();
    let (html, script) = (scratch.0.join("r.html"), scratch.0.join("moves.sh"));
    let shown = text(&plimsoll(
        None,
        &[
            "report",
            "--from",
            dump,
            "--html",
            html.to_str().unwrap(),
            "--commands",
            script.to_str().unwrap(),
        ],
    ));
    assert!(
        shown.contains("$841/month") && shown.contains("list prices"),
        "{shown}"
    );
    assert!(
        std::fs::read_to_string(&html)
            .unwrap()
            .starts_with("<!doctype html>")
    );
    let checked = Command::new("sh")
        .args(["-n", script.to_str().unwrap()])
        .status()
        .unwrap();
    assert!(checked.success(), "the script is not one");
    let csv = text(&plimsoll(None, &["report", "--from", dump, "--csv", "nodes"]));
    assert_eq!(csv.lines().count(), 7, "{csv}");
    let answer = text(&plimsoll(None, &["explain", "node/n0", "--from", dump]));
    assert!(
        answer.contains("m5.xlarge in us-east-1a, on-demand, $0.1920/h, $140 a month"),
        "{answer}"
    );
    let idle = text(&plimsoll(None, &["plan", "--from", dump]));
    assert!(
        idle.contains("nothing to buy: no pod waits for a place\nthere is no NodePool that is ready"),
        "{idle}"
    );
    let yaml = text(&plimsoll(None, &["plan", "--from", dump, "--yaml"]));
    assert!(yaml.contains("launches: []"), "{yaml}");
    let what_if = scratch.write(
        "what-if.yaml",
        "---\n{apiVersion: apps/v1, kind: Deployment, metadata: {name: more, namespace: shop}, spec: {replicas: 2, template: {spec: \
         {containers: [{resources: {requests: {cpu: '3'}}}]}}}}\n",
    );
    let shown = text(&plimsoll(
        None,
        &["plan", "--from", dump, "--what-if", what_if.to_str().unwrap()],
    ));
    assert!(
        shown.contains("no place any more for shop/more-what-if-0") || shown.contains("machines 0 -> 0"),
        "{shown}"
    );
    let wrong = plimsoll(
        None,
        &["report", "--from", scratch.0.join("none.json").to_str().unwrap()],
    );
    assert!(!wrong.status.success());
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("cannot open"));
}

#[test]
fn what_cannot_be_done_is_said_once_with_the_fix() {
    let scratch = Scratch::new("errors");
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": cluster() }).to_string();
    let dump = scratch.write("dump.json", &list);
    let map = scratch.write("map.yaml", "a: b\n");
    let packed = scratch.write("dump.json.gz", [0x1f, 0x8b, 8, 0, 0, 0]);
    let nothing = scratch.write("nothing.yaml", "");
    let (dump, map, packed) = (
        dump.to_str().unwrap(),
        map.to_str().unwrap(),
        packed.to_str().unwrap(),
    );
    let cases: [(&[&str], &str); 6] = [
        (
            &["report", "--from", map],
            "map.yaml: holds a document without `kind`",
        ),
        (
            &["report", "--from", packed],
            "dump.json.gz: is compressed; unpack it first, with gunzip",
        ),
        (&["snapshot", "--from", packed], "dump.json.gz: is compressed"),
        (
            &["report", "--from", dump, "--arm64-images", "."],
            "--arm64-images: cannot read .",
        ),
        (
            &["plan", "--from", dump, "--what-if", nothing.to_str().unwrap()],
            "nothing.yaml: changes nothing: write objects to apply",
        ),
        (
            &["explain", "pod/shop/web-9", "--from", dump],
            "there is no pod shop/web-9; alike are shop/web-0, shop/web-1, shop/web-2; `kubectl get pods -n shop` lists all",
        ),
    ];
    for (args, says) in cases {
        let output = plimsoll(None, args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && error.contains(says),
            "{args:?}: {error}"
        );
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    // Nobody listens on port 1.
    let config = |context: &str| {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": context,
            "clusters": [{ "name": "a", "cluster": { "server": "https://127.0.0.1:1" } }],
            "users": [{ "name": "a", "user": {} }],
            "contexts": [{ "name": "a", "context": { "cluster": "a", "user": "a" } }],
        });
        scratch.write(context, config.to_string())
    };
    for (context, says) in [
        (
            "a",
            "the cluster at https://127.0.0.1:1/ (whether it answers: `kubectl cluster-info`): cannot list nodes",
        ),
        ("b", "failed to load current context: b"),
    ] {
        let output = plimsoll(Some(&config(context)), &["report"]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(says), "{error}");
    }
    let absent = scratch.0.join("absent");
    for command in ["report", "snapshot"] {
        let output = plimsoll(Some(&absent), &[command]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains("--from"), "{error}");
        assert_eq!(error.matches("No such file").count(), 1, "{error}");
        assert!(
            error.contains("no cluster: ")
                && error.contains("set KUBECONFIG")
                && error.contains("--context NAME"),
            "{error}"
        );
    }
}
