//! `plimsoll apply`: what it refuses, and what it asks kubectl to do.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the makers of test objects are tests too"
)]

mod stand_in;

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use jiff::{Timestamp, ToSpan};
use plimsoll_api::plan::{Plan, PlanSpec};
use plimsoll_core::{
    catalog::MicroDollars,
    policy::{MinValuesPolicy, Policy, PreferencePolicy},
};
use plimsoll_report::{
    Prices,
    advice::{Basis, GOOD_FOR, advise, digest, name},
    dump,
    keeping::{Change, changes},
};
use serde_json::{Value, json};

use stand_in::{Answer, ApiServer, Scratch, failure, plimsoll};

/// Six machines of a NodePool with one pod each, and their claims.
fn cluster() -> Vec<Value> {
    let amounts = json!({ "cpu": "3920m", "memory": "14800Mi", "pods": "58" });
    let pool = json!({
        "apiVersion": "karpenter.sh/v1", "kind": "NodePool", "metadata": { "name": "default", "uid": "pool" },
        "spec": { "disruption": { "consolidateAfter": "30s", "budgets": [{ "nodes": "100%" }] }, "template": { "spec": {
            "requirements": [{ "key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"] }],
            "nodeClassRef": { "group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default" } } } },
        "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "Ready", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z" }] },
    });
    let node = |i: usize| {
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": format!("n{i}"), "uid": format!("n{i}"), "labels": {
                "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", "node.kubernetes.io/instance-type": "m5.xlarge",
                "topology.kubernetes.io/zone": "us-east-1a", "karpenter.sh/nodepool": "default",
                "karpenter.sh/capacity-type": "on-demand" } },
            "spec": { "providerID": format!("aws:///us-east-1a/i-{i}") },
            "status": { "capacity": amounts, "allocatable": amounts, "conditions": [{ "type": "Ready", "status": "True" }] },
        })
    };
    let pod = |i: usize| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": format!("web-{i}"), "namespace": "shop", "uid": format!("p{i}"), "ownerReferences": [
                { "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "web", "controller": true }] },
            "spec": { "nodeName": format!("n{i}"), "containers": [{ "name": "c", "resources": {
                "requests": { "cpu": "1", "memory": "2Gi" } } }] },
            "status": { "phase": "Running", "conditions": [] },
        })
    };
    let condition = |kind: &str| {
        json!({ "type": kind, "status": "True", "reason": kind, "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z" })
    };
    let ready = ["Launched", "Registered", "Initialized"].map(condition);
    let claim = |i: usize| {
        json!({
            "apiVersion": "karpenter.sh/v1", "kind": "NodeClaim",
            "metadata": { "name": format!("c{i}"), "uid": format!("c{i}"), "labels": { "karpenter.sh/nodepool": "default" } },
            "spec": { "requirements": [], "nodeClassRef": {
                "group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default" } },
            "status": { "providerID": format!("aws:///us-east-1a/i-{i}"), "nodeName": format!("n{i}"),
                "conditions": ready },
        })
    };
    let machines = (0..6).map(node).chain((0..6).map(pod)).chain((0..6).map(claim));
    machines.chain([pool]).collect()
}

fn spec_at(items: &[Value], taken: Timestamp) -> PlanSpec {
    let list = json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": items });
    let index = dump::read(list.to_string().as_bytes()).unwrap().index;
    let policy = Policy {
        preferences: PreferencePolicy::Respect,
        min_values: MinValuesPolicy::Strict,
        nomination: true,
        steps_max: 200,
        types_per_launch_max: 600,
        interruption_cost: MicroDollars(0),
    };
    advise(&Basis::read(&index, &Prices::Aws, taken), &policy, GOOD_FOR).unwrap()
}

fn stored(spec: PlanSpec) -> Plan {
    let now = spec.made_at.0;
    let Some(Change::Create(plan)) = changes(&[], Some(spec), now).pop() else {
        panic!("a Plan is made")
    };
    *plan
}

/// Lists of the kinds there are, and one Plan.
fn answer(items: &[Value], plan: &Plan, target: &str) -> Answer {
    let path = target.split('?').next().unwrap();
    if path
        == format!(
            "/apis/plimsoll.dev/v1alpha1/plans/{}",
            plan.metadata.name.as_ref().unwrap()
        )
    {
        return (200, json!(plan));
    }
    let kind = match path {
        "/api/v1/nodes" => "Node",
        "/api/v1/pods" => "Pod",
        "/apis/karpenter.sh/v1/nodepools" => "NodePool",
        "/apis/karpenter.sh/v1/nodeclaims" => "NodeClaim",
        _ => return failure(404),
    };
    let all: Vec<&Value> = items.iter().filter(|item| item["kind"] == kind).collect();
    (
        200,
        json!({ "kind": "List", "apiVersion": "v1", "metadata": {}, "items": all }),
    )
}

/// A kubectl that writes down what it is asked and of which cluster, and fails where it is told to. All nodes are there, and
/// evicted pods are away at once; until then they are on the node $ON. After a drain the pod $WAITS waits. With the first node
/// that is closed, the kubeconfig $TURNS becomes another cluster's. A drain sends $SIGNAL to plimsoll, which starts the shell
/// that starts this, and ends once plimsoll has said so in the file $SAYS.
const KUBECTL: &str = r#"#!/bin/sh
echo "$@" >>"$ASKED"
grep -o 'http://[^"]*' "$KUBECONFIG" >>"$ASKED.clusters"
case "$*" in
$FAILS) exit 1 ;;
esac
case "$1 $2" in
"config view") cat "$KUBECONFIG" ;;
"cordon "*) [ -z "$TURNS" ] || sed -i 's|http://127.0.0.1:[0-9]*|http://127.0.0.1:1|' "$TURNS" ;;
"get node") echo "node/$3" ;;
"get nodeclaim") echo "node-of-$3" ;;
"drain "*)
  [ -z "$SIGNAL" ] || kill -s "$SIGNAL" "$(awk '/^PPid:/ { print $2 }' "/proc/$PPID/status")"
  tries=0
  until [ -z "$SIGNAL" ] || grep -q stopping "$SAYS"; do
    tries=$((tries + 1))
    [ "$tries" -lt 20000 ] || exit 1
  done ;;
"get pods") ! grep -q '^drain ' "$ASKED" || echo "$WAITS" ;;
"get pod")
  case "$*" in
  *.spec.nodeName*) echo "$ON" ;;
  *) grep -q -- "/pods/$5/eviction" "$ASKED" || echo "uid-of-$5" ;;
  esac ;;
esac
"#;

struct World {
    scratch: Scratch,
    server: ApiServer,
    plan: String,
}

impl World {
    fn new(test: &str, items: Vec<Value>, plan: Plan) -> Self {
        let name = plan.metadata.name.clone().unwrap();
        Self::answering(test, &name, move |_, target| answer(&items, &plan, target))
    }

    /// With an API server that answers like this, by the directory of the test and the target of the request.
    fn answering(
        test: &str,
        plan: &str,
        answer: impl Fn(&Path, &str) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let scratch = Scratch::new(test);
        let directory = scratch.0.clone();
        let server = ApiServer::start(&scratch, move |_, target, _| answer(&directory, target));
        // What ends machines outside of the cluster writes down what it is asked too.
        // What the script waits for is there at once, or never.
        for (program, does) in [("kubectl", KUBECTL), ("aws", KUBECTL), ("sleep", "#!/bin/sh\n")] {
            let file = scratch.write(program, does);
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self {
            scratch,
            server,
            plan: format!("plan/{plan}"),
        }
    }

    fn apply(&self, args: &[&str]) -> Output {
        self.apply_where(args, &[])
    }

    /// The same where kubectl behaves like this.
    fn apply_where(&self, args: &[&str], behaves: &[(&str, &str)]) -> Output {
        self.command(args).envs(behaves.iter().copied()).output().unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let path = format!("{}:{}", self.scratch.0.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        command
            .arg("apply")
            .args(args)
            .env("KUBECONFIG", &self.server.kubeconfig)
            .env("PATH", path)
            .env("ASKED", self.scratch.0.join("asked"))
            .env("TMPDIR", &self.scratch.0)
            .env("FAILS", "no call")
            .env("WAITS", "")
            .env("TURNS", "")
            .env("ON", "")
            .env("SIGNAL", "")
            .stdin(std::process::Stdio::null());
        command
    }

    /// Neither commands nor kubectl's configuration are left behind.
    fn left_no_files(&self) {
        let names = std::fs::read_dir(&self.scratch.0)
            .unwrap()
            .map(|e| e.unwrap().file_name());
        let left: Vec<_> = names
            .filter(|n| n.to_string_lossy().starts_with("plimsoll-apply"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// What kubectl was asked to change.
    fn asked(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.scratch.0.join("asked")).unwrap_or_default();
        let looks = ["get ", "config view "];
        let changes = text
            .lines()
            .filter(|line| !looks.iter().any(|l| line.starts_with(l)));
        changes.map(str::to_owned).collect()
    }

    fn refuses(&self, args: &[&str], says: &str) {
        let output = self.apply(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(says), "{error}");
        assert_eq!(self.asked(), [""; 0]);
    }
}

#[test]
fn a_plan_that_holds_is_shown_and_carried_out_in_its_order() {
    let spec = spec_at(&cluster(), Timestamp::now());
    let world = World::new("apply", cluster(), stored(spec.clone()));
    let shown = world.apply(&[&world.plan, "--dry-run"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.status.success() && text.ends_with(&spec.commands), "{text}");
    assert_eq!(world.asked(), [""; 0]);
    world.refuses(&[&world.plan], "nobody can be asked here; say --yes");

    let done = world.apply(&[&world.plan, "--yes"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let asked = world.asked();
    let at = |line: &str| {
        asked
            .iter()
            .position(|a| a == line)
            .unwrap_or_else(|| panic!("{line}: {asked:#?}"))
    };
    assert!(spec.remove.len() > 2);
    let closed: Vec<usize> = spec
        .remove
        .iter()
        .map(|r| at(&format!("cordon {}", r.node)))
        .collect();
    for removal in &spec.remove {
        let drained = format!(
            "drain {} --ignore-daemonsets --delete-emptydir-data --timeout=15m",
            removal.node
        );
        assert!(closed.iter().all(|closed| *closed < at(&drained)), "{asked:#?}");
        let claim = removal.node_claim.as_ref().unwrap();
        assert!(at(&drained) < at(&format!("delete nodeclaim {claim} --ignore-not-found")));
    }
    world.left_no_files();
    let asked = world.server.asked.lock().unwrap();
    assert!(asked.iter().all(|line| line.starts_with("GET ")), "{asked:#?}");
}

#[test]
fn a_call_that_fails_ends_no_machine_and_leaves_none_closed() {
    let spec = spec_at(&cluster(), Timestamp::now());
    assert!(spec.commands.contains("\nfill "), "{}", spec.commands);
    let nodes: Vec<&str> = spec.remove.iter().map(|r| &*r.node).collect();
    let first = nodes[0];
    let calls = [
        format!("get node {first} *"),
        format!("drain {first} *"),
        "get pods *".into(),
        "get pod *".into(),
        "uncordon *".into(),
    ];
    for (n, fails) in calls.iter().enumerate() {
        let world = World::new(&format!("apply-fails-{n}"), cluster(), stored(spec.clone()));
        let output = world.apply_where(&[&world.plan, "--yes"], &[("FAILS", fails)]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && error.contains("stopped"),
            "{fails}: {error}"
        );
        let asked = world.asked();
        assert!(
            !asked
                .iter()
                .any(|a| a.starts_with("delete ") || a.contains("terminate-instance")),
            "{fails}: {asked:#?}"
        );
        let last = |verb: &str, node: &str| asked.iter().rposition(|a| *a == format!("{verb} {node}"));
        for node in &nodes {
            assert!(
                last("cordon", node) <= last("uncordon", node),
                "{fails}: {node} in {asked:#?}"
            );
        }
    }
}

/// The second run of one that was interrupted.
#[test]
fn a_pod_that_is_where_it_is_meant_to_be_is_not_evicted() {
    let spec = spec_at(&cluster(), Timestamp::now());
    let filled = spec
        .commands
        .lines()
        .find_map(|line| line.strip_prefix("fill \"$(node_of "));
    let (claim, pods) = filled.unwrap().split_once(")\" ").unwrap();
    let pods: Vec<&str> = pods.split_whitespace().collect();
    let evictions = |name: &str, on: &str| {
        let world = World::new(name, cluster(), stored(spec.clone()));
        let done = world.apply_where(&[&world.plan, "--yes"], &[("ON", on)]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let mut asked = world.asked();
        asked.retain(|asked| asked.contains("/eviction"));
        asked
    };
    let elsewhere = evictions("apply-elsewhere", "another");
    let there = evictions("apply-there", &format!("node-of-{claim}"));
    let of_these = |evictions: &[String]| {
        let paths = pods.iter().filter_map(|pod| pod.split_once('/'));
        let paths = paths.map(|(namespace, name)| format!("/{namespace}/pods/{name}/eviction"));
        paths
            .filter(|path| evictions.iter().any(|e| e.contains(path)))
            .count()
    };
    assert!(
        !pods.is_empty() && of_these(&elsewhere) == pods.len(),
        "{elsewhere:#?}"
    );
    assert_eq!(
        (of_these(&there), there.len()),
        (0, elsewhere.len() - pods.len()),
        "{there:#?}"
    );
}

#[test]
fn a_run_that_is_terminated_leaves_nothing_closed_and_no_kubeconfig() {
    let spec = spec_at(&cluster(), Timestamp::now());
    for sent in ["TERM", "HUP"] {
        let world = World::new(&format!("apply-{sent}"), cluster(), stored(spec.clone()));
        let says = world.scratch.write("says", "");
        let status = world
            .command(&[&world.plan, "--yes"])
            .envs([("SIGNAL", sent.as_ref()), ("SAYS", says.as_os_str())])
            .stderr(std::fs::File::create(&says).unwrap())
            .status()
            .unwrap();
        let error = std::fs::read_to_string(&says).unwrap();
        assert!(
            !status.success() && error.contains("stopped (exit status: 143)"),
            "{error}"
        );
        let asked = world.asked();
        assert!(!asked.iter().any(|a| a.starts_with("delete ")), "{asked:#?}");
        let last = |verb: &str, node: &str| asked.iter().rposition(|a| *a == format!("{verb} {node}"));
        for removal in &spec.remove {
            assert!(
                last("cordon", &removal.node) < last("uncordon", &removal.node),
                "{asked:#?}"
            );
        }
        world.left_no_files();
    }
}

#[test]
fn all_commands_go_to_the_cluster_of_the_plan() {
    let spec = spec_at(&cluster(), Timestamp::now());
    let world = World::new("apply-turns", cluster(), stored(spec.clone()));
    let kubeconfig = world.server.kubeconfig.display().to_string();
    let own = std::fs::read_to_string(&kubeconfig).unwrap();
    let done = world.apply_where(&[&world.plan, "--yes"], &[("TURNS", &kubeconfig)]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_ne!(std::fs::read_to_string(&kubeconfig).unwrap(), own);
    let of = std::fs::read_to_string(world.scratch.0.join("asked.clusters")).unwrap();
    // With the quotation mark at its end: one address may begin like another.
    assert!(
        of.lines().count() > 10 && of.lines().all(|of| own.contains(&format!("{of}\""))),
        "{of}"
    );

    // The context changes between the look at the cluster and the first command.
    let (plan, items) = (stored(spec.clone()), cluster());
    let name = plan.metadata.name.clone().unwrap();
    let world = World::answering("apply-turned", &name, move |scratch, target| {
        for file in std::fs::read_dir(scratch)
            .unwrap()
            .map(|file| file.unwrap().path())
        {
            if target.starts_with("/api/v1/pods") && file.to_string_lossy().contains("kubeconfig-") {
                let text = std::fs::read_to_string(&file).unwrap();
                std::fs::write(&file, text.replace("http://127.0.0.1", "http://127.0.0.2")).unwrap();
            }
        }
        answer(&items, &plan, target)
    });
    world.refuses(&[&world.plan, "--yes"], "but kubectl speaks to http://127.0.0.2");

    // The one that is named, by kubectl too.
    let world = World::new("apply-context", cluster(), stored(spec.clone()));
    let done = world.apply(&[&world.plan, "--yes", "--context", "c"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let all = std::fs::read_to_string(world.scratch.0.join("asked")).unwrap();
    let views: Vec<_> = all
        .lines()
        .filter(|line| line.starts_with("config view "))
        .collect();
    assert!(
        !views.is_empty() && views.iter().all(|v| v.ends_with(" --context=c")),
        "{views:?}"
    );

    // One that does not say where it speaks to.
    let world = World::new("apply-mute", cluster(), stored(spec));
    let output = world.apply_where(&[&world.plan, "--yes"], &[("FAILS", "config view *")]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("does not say which cluster"),
        "{error}"
    );
    assert_eq!(world.asked(), [""; 0]);
}

#[test]
fn a_machine_whose_pods_find_no_node_is_not_ended() {
    let spec = spec_at(&cluster(), Timestamp::now());
    let world = World::new("apply-waits", cluster(), stored(spec));
    let output = world.apply_where(&[&world.plan, "--yes"], &[("WAITS", "pod/late")]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("1 more pods wait for a node"),
        "{error}"
    );
    let asked = world.asked();
    let count = |verb: &str| asked.iter().filter(|a| a.starts_with(verb)).count();
    assert_eq!((count("drain "), count("delete ")), (1, 0), "{asked:#?}");
}

/// What it does to the cluster is what makes the cluster want something else: half a step would be worse than all of it.
#[test]
fn a_plan_that_is_superseded_while_it_is_carried_out_is_carried_out_to_its_end() {
    let spec = spec_at(&cluster(), Timestamp::now());
    let plan = stored(spec.clone());
    let Some(Change::Status(superseded)) = changes(std::slice::from_ref(&plan), None, Timestamp::now()).pop()
    else {
        panic!("the Plan is superseded")
    };
    let name = plan.metadata.name.clone().unwrap();
    let world = World::answering("apply-meanwhile", &name, move |scratch, target| {
        let begun =
            std::fs::read_to_string(scratch.join("asked")).is_ok_and(|asked| asked.contains("cordon "));
        answer(&cluster(), if begun { &superseded } else { &plan }, target)
    });
    let done = world.apply(&[&world.plan, "--yes"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let asked = world.asked();
    for removal in &spec.remove {
        let end = format!(
            "delete nodeclaim {} --ignore-not-found",
            removal.node_claim.as_ref().unwrap()
        );
        assert!(asked.contains(&end), "{asked:#?}");
    }
    // Not a second time.
    let again = world.apply(&[&world.plan, "--yes"]);
    let error = String::from_utf8_lossy(&again.stderr);
    assert!(
        error.contains("is superseded") && world.asked() == asked,
        "{error}"
    );
}

#[test]
fn a_plan_that_does_not_hold_is_refused() {
    let spec = spec_at(&cluster(), Timestamp::now());
    let own = name(&spec.digest);

    let mut altered = stored(spec.clone());
    altered.spec.commands.push_str("kubectl delete namespace shop\n");
    let world = World::new("apply-altered", cluster(), altered);
    world.refuses(&[&world.plan, "--yes"], &format!("{own} was altered"));

    // Even one that was altered together with its name: what is run is made here.
    let mut forged = spec.clone();
    forged.commands.push_str("kubectl delete namespace shop\n");
    forged.digest = digest(&PlanSpec {
        digest: String::new(),
        ..forged.clone()
    });
    let world = World::new("apply-forged", cluster(), stored(forged));
    world.refuses(&[&world.plan, "--yes"], "no longer holds");

    let old = spec_at(&cluster(), Timestamp::now() - 2.hours());
    let world = World::new("apply-expired", cluster(), stored(old));
    world.refuses(&[&world.plan, "--yes"], &format!("{own} was good until"));

    let plan = stored(spec.clone());
    let Some(Change::Status(superseded)) = changes(&[plan], None, Timestamp::now()).pop() else {
        panic!("the Plan is superseded")
    };
    let world = World::new("apply-superseded", cluster(), *superseded);
    world.refuses(
        &[&world.plan, "--yes"],
        "is superseded: the cluster wants nothing any more",
    );

    let mut closed = cluster();
    let pool = closed.last_mut().unwrap();
    pool["spec"]["disruption"]["budgets"] = json!([{ "nodes": "1" }]);
    let world = World::new("apply-budgets", closed, stored(spec.clone()));
    world.refuses(
        &[&world.plan, "--yes"],
        &format!("let 1 of the {} machines of {own} go now", spec.remove.len()),
    );

    // Somebody empties it already.
    let mut emptied = cluster();
    let going = &spec.remove[0].node;
    let node = emptied
        .iter_mut()
        .find(|item| item["metadata"]["name"] == **going);
    node.unwrap()["spec"]["unschedulable"] = json!(true);
    let world = World::new("apply-closed", emptied, stored(spec.clone()));
    world.refuses(&[&world.plan, "--yes"], &format!("`kubectl uncordon {going}`"));

    let mut moved = cluster();
    moved.retain(|item| item["metadata"]["name"] != "web-5");
    let wants = name(&spec_at(&moved, Timestamp::now()).digest);
    let world = World::new("apply-stale", moved, stored(spec.clone()));
    world.refuses(
        &[&world.plan, "--yes"],
        &format!("{own} no longer holds: the cluster as it is now wants {wants}"),
    );

    // A group of one machine, four times as large as its pod needs.
    let mut group: Vec<Value> = cluster()
        .into_iter()
        .filter(|i| i["metadata"]["name"] == "n0" || i["metadata"]["name"] == "web-0")
        .collect();
    let labels = group[0]["metadata"]["labels"].as_object_mut().unwrap();
    labels.remove("karpenter.sh/nodepool");
    group[0]["metadata"]["labels"]["eks.amazonaws.com/nodegroup"] = "general".into();
    let of_group = spec_at(&group, Timestamp::now());
    assert!(of_group.buy.iter().all(|m| m.by_hand));
    let world = World::new("apply-by-hand", group, stored(of_group.clone()));
    let first = &of_group.buy[0].instance_type;
    world.refuses(
        &[&world.plan, "--yes"],
        &format!("nothing in the cluster can buy 1 × {first} in us-east-1a"),
    );

    let world = World::new("apply-none", cluster(), stored(spec));
    let output = plimsoll(Some(&world.server.kubeconfig), &["apply", "plan/other", "--yes"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("there is no Plan other; see `kubectl get plans`"),
        "{error}"
    );
}
