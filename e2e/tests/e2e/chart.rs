//! The chart on a real API server, and the controller under its service account and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use plimsoll_e2e::controller::{Controller, binary};
use plimsoll_e2e::fixture::{Fixture, PATIENCE};
use plimsoll_e2e::rights::{self, Grant};
use plimsoll_e2e::{objects, paths, tools, upstream};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

pub(crate) const RELEASE: &str = "plimsoll";
/// Nobody runs the Deployment's pods here: the binary under test does, with the pod's environment.
const NO_PODS: &str = "replicas=0";
/// Where an image of it would be.
pub(crate) const IMAGE: &str = "image.repository=registry.example.com/plimsoll";

/// The chart as it was installed.
pub(crate) struct Installed {
    namespace: String,
    /// What only knows the token of the chart's service account.
    kubeconfig: PathBuf,
    /// Of the Deployment's container, as far as it is plain.
    environment: Vec<(String, String)>,
}

async fn helm(fixture: &Fixture, args: &[&str]) -> Result<String> {
    let testbed = fixture.testbed();
    helm_at(&testbed.dir().join("helm"), testbed.kubeconfig(), args).await
}

/// Nothing of the user's own helm is read or changed.
pub(crate) async fn helm_at(home: &Path, kubeconfig: &Path, args: &[&str]) -> Result<String> {
    let program = tools::HELM.ensure().await?.join("helm");
    run(Command::new(program)
        .args(args)
        .env("KUBECONFIG", kubeconfig)
        .env("HELM_CACHE_HOME", home.join("cache"))
        .env("HELM_CONFIG_HOME", home.join("config"))
        .env("HELM_DATA_HOME", home.join("data")))
}

async fn kubectl(kubeconfig: &Path, args: &[&str]) -> Result<String> {
    let program = tools::CONTROL_PLANE.ensure().await?.join("kubectl");
    run(Command::new(program)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(args))
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Installs the chart with these values.
pub(crate) async fn install(fixture: &Fixture, settings: &[&str]) -> Result<Installed> {
    let flags: Vec<&str> = settings.iter().flat_map(|setting| ["--set", *setting]).collect();
    install_with(fixture, &flags).await
}

async fn install_with(fixture: &Fixture, flags: &[&str]) -> Result<Installed> {
    let namespace = fixture.namespace().to_owned();
    let chart = paths::chart().display().to_string();
    let mut args = vec![
        "install",
        RELEASE,
        &chart,
        "--namespace",
        &namespace,
        "--set",
        NO_PODS,
        "--set",
        IMAGE,
    ];
    args.extend(flags);
    helm(fixture, &args).await?;

    let deployment = fixture.api::<Deployment>().get(RELEASE).await?;
    let pod = deployment
        .spec
        .context("a Deployment without spec")?
        .template
        .spec;
    let pod = pod.context("a template without spec")?;
    let container = pod.containers.first().context("a pod without container")?;
    assert_eq!(
        container.args.as_deref(),
        Some(["controller".to_owned()].as_slice())
    );
    let plain = container.env.iter().flatten();
    let environment = plain
        .filter_map(|v| Some((v.name.clone(), v.value.clone()?)))
        .collect();
    let account = pod
        .service_account_name
        .context("a pod without service account")?;
    Ok(Installed {
        kubeconfig: account_kubeconfig(fixture, &account).await?,
        namespace,
        environment,
    })
}

/// A kubeconfig file with a token of a service account of the test's namespace.
pub(crate) async fn account_kubeconfig(fixture: &Fixture, account: &str) -> Result<PathBuf> {
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            expiration_seconds: Some(3600),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let accounts = fixture.api::<ServiceAccount>();
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await?;
    let token = answer.status.context("a token request without answer")?.token;
    let admin = std::fs::read_to_string(fixture.testbed().kubeconfig())?;
    let mut config: Value =
        serde_saphyr::from_str(&admin).map_err(|error| anyhow::anyhow!("kubeconfig: {error}"))?;
    for user in config["users"].as_array_mut().context("no users")? {
        user["user"] = json!({ "token": token });
    }
    let file = fixture.testbed().dir().join(format!("{account}.kubeconfig"));
    std::fs::write(&file, config.to_string())?;
    Ok(file)
}

impl Installed {
    /// The binary as the Deployment would run it, but for its ports.
    pub(crate) fn spawn(&self, fixture: &Fixture, name: &str) -> Result<Controller> {
        let mut environment: Vec<(&str, &str)> = self
            .environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| !name.ends_with("_PORT"))
            .collect();
        environment.push(("LEADER_ELECTION_NAMESPACE", &self.namespace));
        environment.push(("POD_NAME", name));
        Controller::spawn(
            &self.kubeconfig,
            &fixture.testbed().logs(),
            name,
            None,
            &environment,
        )
    }

    /// What the account may do beyond what every account may.
    pub(crate) async fn may(&self, fixture: &Fixture) -> Result<BTreeSet<Grant>> {
        let nobody = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}});
        fixture.apply(nobody).await?;
        let nobody = account_kubeconfig(fixture, "nobody").await?;
        let list = ["auth", "can-i", "--list", "--namespace", &self.namespace];
        let everybody = rights::listed(&kubectl(&nobody, &list).await?);
        assert!(!everybody.is_empty());
        let own = rights::listed(&kubectl(&self.kubeconfig, &list).await?);
        Ok(own.difference(&everybody).cloned().collect())
    }
}

/// Every request of the controller was granted by the table, and nothing of the table was asked for in vain.
pub(crate) fn check_audit(fixture: &Fixture, table: &BTreeSet<Grant>) -> Result<()> {
    if let Some(unused) = unused(fixture, RELEASE, table)? {
        assert!(unused.is_empty(), "granted and never used: {unused:#?}");
    }
    Ok(())
}

/// What the account of the test's namespace was granted and has not asked for. Everything that it asked for was granted by
/// the table. None where the audit log cannot be read.
pub(crate) fn unused(
    fixture: &Fixture,
    account: &str,
    table: &BTreeSet<Grant>,
) -> Result<Option<BTreeSet<Grant>>> {
    if fixture.is_attached() {
        eprintln!("the audit log of this cluster cannot be read here");
        return Ok(None);
    }
    let user = format!("system:serviceaccount:{}:{account}", fixture.namespace());
    let requests = rights::requests(&fixture.testbed().audit_log(), &user)?;
    let (mut beyond, mut used) = (Vec::new(), BTreeSet::new());
    for request in &requests {
        let by: Vec<&Grant> = table.iter().filter(|g| request.is_granted_by(g)).collect();
        if by.is_empty() || request.code == 403 {
            beyond.push(request);
        }
        used.extend(by);
    }
    assert!(beyond.is_empty(), "beyond the table: {beyond:#?}");
    let unused = table.iter().filter(|grant| !used.contains(grant));
    Ok(Some(unused.cloned().collect()))
}

pub(crate) fn table(names: &[&str]) -> Result<BTreeSet<Grant>> {
    let mut grants = BTreeSet::new();
    for name in names {
        grants.extend(rights::table(
            &paths::chart().join(format!("rights/{name}.yaml")),
        )?);
    }
    for grant in &grants {
        assert!(!grant.resource.starts_with("secrets") && !grant.resource.starts_with("configmaps"));
        assert!(!grant.resource.contains('*') && grant.verb != "*", "{grant:?}");
    }
    Ok(grants)
}

/// Waits until the metric of a controller has at least this value.
async fn wait_metric(controller: &Controller, name: &str, at_least: f64) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let value = controller.metrics().await?.sum(name, &[]);
        if value.is_some_and(|value| value >= at_least) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{name} is {value:?}; the end of the log:\n{}",
            controller.log_tail(20)
        );
        sleep(Duration::from_millis(100)).await;
    }
}

/// The kubelet's rules for pods that need no privilege at all take the Deployment's pod.
async fn check_pod_is_restricted(fixture: &Fixture) -> Result<()> {
    let namespaces = Api::<Namespace>::all(fixture.cluster().client());
    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let params = PatchParams::default();
    namespaces
        .patch(fixture.namespace(), &params, &Patch::Merge(&label))
        .await?;
    let deployment = fixture.api::<Deployment>().get(RELEASE).await?;
    let template = deployment.spec.context("no spec")?.template;
    let mut pod = Pod {
        metadata: template.metadata.unwrap_or_default(),
        spec: template.spec,
        status: None,
    };
    pod.metadata.name = Some("as-the-chart-has-it".into());
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let pods = fixture.api::<Pod>();
    pods.create(&dry_run, &pod).await?;
    // And the check can fail.
    for container in pod.spec.iter_mut().flat_map(|spec| &mut spec.containers) {
        container.security_context = None;
    }
    assert!(pods.create(&dry_run, &pod).await.is_err());
    let unlabel = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": null}}});
    namespaces
        .patch(fixture.namespace(), &params, &Patch::Merge(&unlabel))
        .await?;
    Ok(())
}

/// What `plimsoll doctor` says about the chart's account, as an administrator asks it: (verdict, sentence) of an area.
pub(crate) fn doctor(fixture: &Fixture, area: &str) -> Result<Vec<(String, String)>> {
    let account = format!("system:serviceaccount:{}:{RELEASE}", fixture.namespace());
    let output = Command::new(binary()?)
        .args(["doctor", "--json", "--as", &account])
        .env("KUBECONFIG", fixture.testbed().kubeconfig())
        .output()?;
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    let failed = findings.iter().any(|finding| finding["verdict"] == "fail");
    assert_eq!(output.status.success(), !failed, "{findings:#?}");
    let of_area = findings.iter().filter(|finding| finding["area"] == area);
    Ok(of_area.map(|f| (text(f, "verdict"), text(f, "says"))).collect())
}

/// The doctor finds the installation healthy, and finds out what is taken from it.
async fn check_doctor(fixture: &Fixture) -> Result<()> {
    let rights = doctor(fixture, "rights")?;
    assert!(rights.iter().all(|(verdict, _)| verdict == "pass"), "{rights:#?}");
    let security = doctor(fixture, "security")?;
    assert_eq!(security.len(), 9, "{security:#?}");
    assert!(
        security
            .iter()
            .all(|(verdict, _)| verdict == "pass" || verdict == "unseen"),
        "{security:#?}"
    );

    let roles = Api::<ClusterRole>::all(fixture.cluster().client());
    let params = PatchParams::default();
    let good = roles.get(RELEASE).await?;
    let rules = json!({"rules": [{"apiGroups": [""], "resources": ["nodes", "secrets"], "verbs": ["list"]}]});
    roles.patch(RELEASE, &params, &Patch::Merge(&rules)).await?;
    let rights = doctor(fixture, "rights")?;
    let missing = |what: &str| rights.iter().any(|(v, says)| v == "fail" && says.contains(what));
    assert!(
        missing("may not list pods") && missing("may not watch nodes"),
        "{rights:#?}"
    );
    assert!(!missing("may not list nodes"), "{rights:#?}");
    let security = doctor(fixture, "security")?;
    let beyond = |(verdict, says): &(String, String)| verdict == "fail" && says.contains("list secrets");
    assert!(security.iter().any(beyond), "{security:#?}");
    let rules = json!({ "rules": good.rules });
    roles.patch(RELEASE, &params, &Patch::Merge(&rules)).await?;
    Ok(())
}

pub(crate) async fn uninstall(fixture: &Fixture) -> Result<()> {
    helm(
        fixture,
        &["uninstall", RELEASE, "--namespace", fixture.namespace()],
    )
    .await?;
    let roles = Api::<ClusterRole>::all(fixture.cluster().client());
    assert!(roles.get_opt(RELEASE).await?.is_none());
    assert!(fixture.api::<ServiceAccount>().get_opt(RELEASE).await?.is_none());
    // Machines hang on them.
    let crds = Api::<CustomResourceDefinition>::all(fixture.cluster().client());
    for name in [
        "nodepools.karpenter.sh",
        "nodeclaims.karpenter.sh",
        "reports.plimsoll.dev",
        "plans.plimsoll.dev",
    ] {
        assert!(crds.get_opt(name).await?.is_some(), "{name} went with the chart");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn observing_beside_karpenter_reports_what_could_be_saved_and_touches_nothing() -> Result<()> {
    // As docs/getting-started.md has it where Karpenter's CRDs are somebody else's.
    let fixture = Fixture::bare("observe").await?;
    let mut karpenter = upstream::spawn_upstream(fixture.testbed()).await?;
    let own = ["reports", "plans"].map(|plural| paths::crds().join(format!("plimsoll.dev_{plural}.yaml")));
    let own = own.each_ref().map(|file| file.display().to_string());
    let apply = ["apply", "--server-side", "-f", &own[0], "-f", &own[1]];
    kubectl(fixture.testbed().kubeconfig(), &apply).await?;
    let installed = install_with(&fixture, &["--skip-crds", "--set", "settings.reportInterval=1s"]).await?;
    check_pod_is_restricted(&fixture).await?;
    check_doctor(&fixture).await?;

    // Karpenter buys for twelve pods, and is not to take back what nine of them leave behind.
    karpenter.wait_ready(PATIENCE).await?;
    fixture.apply(objects::node_class()).await?;
    let mut pool = objects::node_pool("default");
    pool["spec"]["disruption"]["consolidateAfter"] = json!("Never");
    fixture.apply(pool).await?;
    let mut observer = installed.spawn(&fixture, "observer")?;
    observer.wait_ready(PATIENCE).await?;
    observer.wait_leading(PATIENCE).await?;
    fixture.apply(objects::deployment("web", 12, "3")).await?;
    fixture.wait_running(12).await?;
    fixture.scale("web", 3).await?;
    fixture.wait_running(3).await?;
    let (nodes, price) = (
        fixture.cluster().nodes().await?,
        fixture.cluster().price_per_hour().await?,
    );
    let reports = fixture
        .cluster()
        .api_of("plimsoll.dev/v1alpha1", "Report", None)
        .await?;
    let number = |report: &DynamicObject, pointer: &str| {
        let text = report.data.pointer(pointer).and_then(Value::as_str);
        text.and_then(|text| text.parse::<f64>().ok())
    };
    let agrees = |reports: &BTreeMap<String, DynamicObject>| {
        reports.get("cluster").is_some_and(|report| {
            let status = &report.data["status"];
            let now = number(report, "/status/now/perHour");
            status["nodes"] == nodes.len()
                && status["pods"] == 3
                && now.is_some_and(|now| (now - price).abs() < 0.001)
                && number(report, "/status/watched/paid").is_some_and(|paid| paid > 0.0)
        })
    };
    let found = fixture
        .cluster()
        .wait_for("a Report of the machines there are", reports, PATIENCE, agrees)
        .await?;
    let report = &found["cluster"];
    let (reachable, bound) = (
        number(report, "/status/reachable/perHour").context("nothing reachable")?,
        number(report, "/status/bound/perHour").context("no bound")?,
    );
    assert!(0.0 < bound && bound <= reachable, "{bound} {reachable}");
    assert!(reachable < price * 0.9, "{reachable} of {price}");
    assert!(
        observer
            .log_tail(50)
            .contains("what this cluster costs and could cost")
    );

    // While nobody acts, what the observer would do is only said.
    karpenter.terminate(Duration::from_secs(30)).await?;
    let claims = fixture.cluster().node_claims().await?.len();
    fixture.apply(objects::deployment("late", 3, "30")).await?;
    wait_metric(&observer, "plimsoll_would_buy_machines", 1.0).await?;
    assert!(observer.log_tail(50).contains("would buy machines"));
    assert_eq!(fixture.cluster().node_claims().await?.len(), claims);
    let _karpenter = upstream::spawn_upstream(fixture.testbed()).await?;
    fixture.wait_running(6).await?;
    for claim in fixture.cluster().node_claims().await? {
        let annotations = claim.metadata.annotations.unwrap_or_default();
        let ours = annotations.keys().find(|name| name.starts_with("plimsoll.dev/"));
        assert_eq!(ours, None, "{:?}", claim.metadata.name);
    }
    assert!(observer.terminate(Duration::from_secs(10)).await?.success());

    let table = table(&["observe"])?;
    // In this order: asking what the account may do is a request of the account.
    check_audit(&fixture, &table)?;
    assert_eq!(installed.may(&fixture).await?, table);
    uninstall(&fixture).await?;
    fixture.finish().await
}

/// Each document's commands for helm, as they are typed one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_commands_of_helm_follow_one_another() -> Result<()> {
    let fixture = Fixture::bare("documents").await?;
    let chart = paths::chart().display().to_string();
    let lines = |document: &Path| -> Result<Vec<String>> {
        let text = std::fs::read_to_string(document)?.replace("\\\n", " ");
        let typed = text.lines().filter_map(|line| line.strip_prefix("helm "));
        Ok(typed.map(str::to_owned).collect())
    };
    let docs = paths::chart().join("../../docs");
    let first = lines(&docs.join("getting-started.md"))?.swap_remove(0);
    let mut documents: Vec<PathBuf> = std::fs::read_dir(&docs)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    documents.retain(|document| document.extension().is_some_and(|e| e == "md"));
    documents.sort();
    let mut modes = BTreeSet::new();
    for document in documents {
        let mut typed = lines(&document)?;
        if typed.first().is_some_and(|line| line.starts_with("upgrade ")) {
            typed.insert(0, first.clone());
        }
        let mut left = None;
        for line in &typed {
            let mut words: Vec<&str> = line
                .split_whitespace()
                .map(|word| if word == "charts/plimsoll" { &chart } else { word })
                .collect();
            let namespace = words.iter().skip_while(|word| **word != "--namespace").nth(1);
            let namespace = namespace
                .with_context(|| format!("no namespace: {line}"))?
                .to_string();
            left = (words[0] != "uninstall").then(|| namespace.clone());
            if left.is_some() {
                words.extend(["--set", NO_PODS]);
            }
            let done = helm(&fixture, &words).await;
            done.with_context(|| format!("{}: helm {line}", document.display()))?;
            if left.is_some() {
                let deployment = fixture
                    .cluster()
                    .api::<Deployment>(Some(&namespace))
                    .get(RELEASE)
                    .await?;
                let pod = deployment
                    .spec
                    .and_then(|spec| spec.template.spec)
                    .unwrap_or_default();
                let container = pod.containers.into_iter().next().unwrap_or_default();
                let image = container.image.unwrap_or_default();
                assert_eq!(
                    image,
                    format!("registry.example.com/plimsoll:{}", env!("CARGO_PKG_VERSION"))
                );
                let mode = container.env.into_iter().flatten().find(|v| v.name == "MODE");
                modes.extend(mode.and_then(|mode| mode.value));
            }
        }
        if let Some(namespace) = left {
            helm(&fixture, &["uninstall", RELEASE, "--namespace", &namespace]).await?;
        }
    }
    assert_eq!(modes, ["advise", "automate", "observe"].map(str::to_owned).into());
    fixture.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn acting_takes_the_rights_of_the_chart_and_all_of_them() -> Result<()> {
    let fixture = Fixture::bare("automate").await?;
    let settings = [
        "mode=automate",
        "settings.provider=kwok",
        "settings.reportInterval=1s",
    ];
    let installed = install(&fixture, &settings).await?;
    let mut class = objects::node_class();
    class["spec"] = json!({"nodeRegistrationDelay": "1s"});
    fixture.apply(class).await?;
    let mut controller = installed.spawn(&fixture, "automaton")?;
    controller.wait_ready(PATIENCE).await?;
    controller.wait_leading(PATIENCE).await?;

    let mut pool = objects::node_pool("default");
    pool["spec"]["template"]["spec"]["terminationGracePeriod"] = json!("5s");
    fixture.apply(pool).await?;
    fixture.apply(objects::disruption_budget("held", 1)).await?;
    fixture.apply(objects::deployment("held", 1, "300m")).await?;
    fixture.apply(objects::deployment("web", 2, "300m")).await?;
    fixture.wait_running(3).await?;
    // Pods that may be evicted are, and the one that may not goes with its node's deadline.
    let claims = fixture.claims().await?;
    let names: Vec<String> = fixture
        .cluster()
        .node_claims()
        .await?
        .into_iter()
        .filter_map(|claim| claim.metadata.name)
        .collect();
    for name in &names {
        claims.delete(name, &DeleteParams::default()).await?;
    }
    fixture
        .wait_claims("the first machines' end", |left| {
            names.iter().all(|name| !left.contains_key(name))
        })
        .await?;
    fixture.wait_running(3).await?;
    for name in ["held", "web"] {
        fixture.scale(name, 0).await?;
    }
    fixture.wait_no_machines().await?;
    wait_metric(&controller, "plimsoll_report_timestamp_seconds", 1.0).await?;

    let table = table(&["automate", "kwok"])?;
    let reports = fixture
        .cluster()
        .api_of("plimsoll.dev/v1alpha1", "Report", None)
        .await?;
    fixture
        .cluster()
        .wait_for("a Report", reports, PATIENCE, |reports| {
            reports
                .get("cluster")
                .is_some_and(|r| r.data["status"]["nodes"] == 0)
        })
        .await?;
    check_audit(&fixture, &table)?;
    assert_eq!(installed.may(&fixture).await?, table);
    uninstall(&fixture).await?;
    // The account has gone, so another takes away what is left.
    drop(controller);
    let _admin = fixture.controller().await?;
    fixture.finish().await
}
