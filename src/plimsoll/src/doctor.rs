//! `plimsoll doctor`: asks the cluster what the checkup needs to know.

use std::{collections::BTreeMap, io::Write};

use anyhow::{Context, bail};
use clap::ValueEnum;
use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::{Container, EnvVar, Pod},
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
    client::Body,
};
use plimsoll_api::{
    nodepool::NodePool,
    rights::{Right, Scope},
};
use plimsoll_report::{
    aws,
    checkup::{Autoscalers, Facts, Installation, KindFact, RightFact, Verdict, checkup, checkup_text},
    kinds::KINDS,
};
use serde::Deserialize;

use crate::{
    args::{DoctorOptions, Mode, Provider},
    controller::runtime,
    granted::{Account, beyond, title},
    kubeconfig::kubeconfig,
    rights::rights,
    source,
};

/// Labels by which other autoscalers' pods are known.
const AUTOSCALERS: [(&str, &str); 5] = [
    ("karpenter", "app.kubernetes.io/name=karpenter"),
    (
        "cluster-autoscaler",
        "app.kubernetes.io/name in (cluster-autoscaler, aws-cluster-autoscaler)",
    ),
    ("cluster-autoscaler", "app=cluster-autoscaler"),
    ("cluster-autoscaler", "k8s-app=cluster-autoscaler"),
    ("CAST AI", "app.kubernetes.io/name=castai-cluster-controller"),
];

/// Variables of AWS's SDKs that hold keys which do not expire.
const KEYS: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];

pub(crate) fn run(options: &DoctorOptions) -> anyhow::Result<()> {
    let facts = runtime()?.block_on(facts(options))?;
    let findings = checkup(&facts);
    let mut out = std::io::stdout().lock();
    if options.json {
        serde_json::to_writer_pretty(&mut out, &findings)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", checkup_text(&findings))?;
    }
    if findings.iter().any(|f| f.verdict == Verdict::Fail) {
        bail!("the checkup failed");
    }
    Ok(())
}

async fn facts(options: &DoctorOptions) -> anyhow::Result<Facts> {
    let config = kubeconfig(options.context.as_deref()).await?;
    let mut reviewed = config.clone();
    reviewed.auth_info.impersonate.clone_from(&options.as_user);
    let default_namespace = config.default_namespace.clone();
    let client = Client::try_from(config)?;
    let mut facts = Facts {
        now: Timestamp::now(),
        ..Facts::default()
    };
    server(&client, &mut facts).await?;
    facts.installations = installations(&client).await;
    let installed = facts.installations.iter().flatten().next();
    let mode = options.mode.unwrap_or_else(|| match installed {
        Some(installation) => Mode::from_str(&installation.mode, false).unwrap_or(Mode::Observe),
        None => Mode::Observe,
    });
    let namespace = options
        .namespace
        .clone()
        .or_else(|| installed.map(|i| i.namespace.clone()))
        .unwrap_or(default_namespace);
    // Only who acts needs one.
    let provider = options.provider.or_else(|| {
        let acts = installed.filter(|_| mode == Mode::Automate)?;
        provider(&acts.provider)
    });
    let reviewed = Client::try_from(reviewed)?;
    // Who asks about nothing in particular where nothing is installed wants reports.
    let asked = options.provider.is_some() || options.as_user.is_some() || options.namespace.is_some();
    facts.rights = if options.mode.is_none() && !asked && installed.is_none() {
        review_reader(&reviewed).await
    } else {
        review(&reviewed, mode, provider, &namespace).await
    };
    facts.kinds = kinds(&client, mode, provider).await;
    facts.autoscalers = autoscalers(&client).await;
    let pools = Api::<NodePool>::all(client.clone())
        .list(&ListParams::default())
        .await;
    if !pools.is_ok_and(|pools| pools.items.iter().any(source::is_kwok)) {
        facts.prices_of = Some(aws::date());
    }
    Ok(facts)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    git_version: String,
    minor: String,
}

/// Version and clock; without an answer there is nothing to examine.
async fn server(client: &Client, facts: &mut Facts) -> anyhow::Result<()> {
    let request = Request::get("/version").body(Body::empty())?;
    let response = client
        .send(request)
        .await
        .context("the API server does not answer; see `kubectl cluster-info`")?;
    let date = response.headers().get("date").and_then(|d| d.to_str().ok());
    let server = date.and_then(|d| jiff::fmt::rfc2822::parse(d).ok());
    facts.clock_off_s = server.map(|at| at.timestamp().as_second() - Timestamp::now().as_second());
    if !response.status().is_success() {
        bail!("GET /version: {}", response.status());
    }
    let body = response.into_body().collect_bytes().await?;
    let version: Version = serde_json::from_slice(&body).context("GET /version")?;
    let digits: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
    facts.minor = digits.parse().ok();
    facts.version = version.git_version;
    Ok(())
}

/// Asks for each right alone, as the API server will judge it when it is used.
async fn review(client: &Client, mode: Mode, provider: Option<Provider>, namespace: &str) -> Vec<RightFact> {
    let mode = mode.of_controller();
    let mut facts = Vec::new();
    for right in rights(mode, provider) {
        for (verb, name) in right.each() {
            let place = match right.scope {
                Scope::Cluster => String::new(),
                Scope::OwnNamespace => format!(" in namespace {namespace}"),
            };
            facts.push(RightFact {
                of: format!("mode {}", mode.name()),
                what: format!("{verb} {}{place}", title(right.resource, right.group, name)),
                why: right.why,
                needed: true,
                fix: "grant it; the rules are in the chart, a file for each mode and provider under rights/",
                allowed: is_allowed(client, &right, verb, name, namespace).await,
            });
        }
    }
    facts
}

/// The rights of who only asks for reports and plans: what is needed on a cluster without an installation.
async fn review_reader(client: &Client) -> Vec<RightFact> {
    let mut facts = Vec::new();
    for kind in &KINDS {
        let right = Right::cluster(kind.group, kind.plural, &["list"], kind.use_);
        facts.push(RightFact {
            of: "reports".to_owned(),
            what: format!("list {}", title(kind.plural, kind.group, "")),
            why: kind.use_,
            needed: kind.needed,
            fix: "kubectl apply -f docs/reader-role.yaml, and bind that ClusterRole to the account",
            allowed: is_allowed(client, &right, "list", "", "").await,
        });
    }
    facts
}

/// None: the API server does not say.
async fn is_allowed(client: &Client, right: &Right, verb: &str, name: &str, namespace: &str) -> Option<bool> {
    let api = Api::<SelfSubjectAccessReview>::all(client.clone());
    let asked = question(right, verb, name, namespace);
    let answer = api.create(&PostParams::default(), &asked).await.ok()?;
    answer.status.map(|status| status.allowed)
}

fn question(right: &Right, verb: &str, name: &str, namespace: &str) -> SelfSubjectAccessReview {
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let (resource, subresource) = right.resource.split_once('/').unwrap_or((right.resource, ""));
    SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: given(right.group),
                resource: given(resource),
                subresource: given(subresource),
                name: given(name),
                namespace: (right.scope == Scope::OwnNamespace).then(|| namespace.to_owned()),
                verb: given(verb),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    }
}

/// The provider an installation names, if this program has it.
fn provider(name: &str) -> Option<Provider> {
    Provider::from_str(name, false).ok()
}

async fn kinds(client: &Client, mode: Mode, provider: Option<Provider>) -> Vec<KindFact> {
    let node_class = match provider {
        #[cfg(feature = "aws")]
        Some(Provider::Aws) => "ec2nodeclasses",
        Some(Provider::Kwok) => "kwoknodeclasses",
        None => "",
    };
    let groups = client.list_api_groups().await.ok();
    let mut facts = Vec::new();
    for crd in plimsoll_api::crds() {
        let (group, plural) = (&crd.spec.group, &crd.spec.names.plural);
        let looked_at = ["nodepools", "nodeclaims", "reports", node_class].contains(&plural.as_str());
        let of_mode = mode == Mode::Advise && plural == "plans";
        if !(looked_at || of_mode) {
            continue;
        }
        let wanted = crd
            .spec
            .versions
            .first()
            .map(|v| v.name.clone())
            .unwrap_or_default();
        let mut served = None;
        if let Some(groups) = &groups {
            let mut versions = Vec::new();
            let known = groups.groups.iter().find(|g| g.name == *group);
            for version in known.iter().flat_map(|g| &g.versions) {
                let resources = client.list_api_group_resources(&version.group_version).await;
                if resources.is_ok_and(|list| list.resources.iter().any(|r| r.name == *plural)) {
                    versions.push(version.version.clone());
                }
            }
            served = Some(versions);
        }
        facts.push(KindFact {
            kind: format!("{plural}.{group}"),
            wanted,
            served,
            needed: mode == Mode::Automate && plural != "reports",
        });
    }
    facts
}

async fn autoscalers(client: &Client) -> Option<Autoscalers> {
    let pods = Api::<Pod>::all(client.clone());
    let mut found = Autoscalers::new();
    for (name, labels) in AUTOSCALERS {
        let running = ListParams::default()
            .labels(labels)
            .fields("status.phase=Running");
        let mut by_namespace: BTreeMap<String, usize> = BTreeMap::new();
        for pod in pods.list_metadata(&running).await.ok()? {
            *by_namespace
                .entry(pod.namespace().unwrap_or_default())
                .or_default() += 1;
        }
        for (namespace, count) in by_namespace {
            let known = found.entry((name, namespace)).or_default();
            *known = count.max(*known);
        }
    }
    Some(found)
}

async fn installations(client: &Client) -> Option<Vec<Installation>> {
    let ours = ListParams::default().labels("app.kubernetes.io/name=plimsoll");
    let deployments = Api::<Deployment>::all(client.clone()).list(&ours).await.ok()?;
    let mut found = Vec::new();
    for deployment in deployments {
        let namespace = deployment.namespace().unwrap_or_default();
        let Some(spec) = deployment.spec else { continue };
        let labels = spec.template.metadata.and_then(|m| m.labels).unwrap_or_default();
        let pod = spec.template.spec.unwrap_or_default();
        let account = pod.service_account_name.as_deref().unwrap_or("default");
        let containers = pod.containers;
        let variables: Vec<&EnvVar> = containers.iter().flat_map(|c| c.env.iter().flatten()).collect();
        let value = |name: &str| variables.iter().find(|v| v.name == name)?.value.clone();
        let mode = value("MODE").unwrap_or_else(|| "observe".to_owned());
        let provider = value("PROVIDER").unwrap_or_default();
        found.push(Installation {
            keys_in_environment: names(&variables, |v| KEYS.contains(&v.name.as_str())),
            literals: names(&variables, |v| {
                v.value.as_ref().is_some_and(|text| !text.is_empty())
            }),
            from_secrets: from_secrets(&containers),
            network_policies: policies(client, &namespace, &labels).await,
            replicas: spec.replicas.unwrap_or(1),
            rights_beyond: match table(&mode, &provider) {
                Some(table) => {
                    let account = Account {
                        namespace: &namespace,
                        name: account,
                    };
                    beyond(client, &account, &table).await
                }
                None => None,
            },
            namespace,
            mode,
            provider,
        });
    }
    Some(found)
}

fn names(variables: &[&EnvVar], wanted: impl Fn(&EnvVar) -> bool) -> Vec<String> {
    let wanted = variables.iter().filter(|v| wanted(v));
    wanted.map(|v| v.name.clone()).collect()
}

/// Variables that come from Secrets; a Secret that is taken in whole does not show its variables.
fn from_secrets(containers: &[Container]) -> Vec<String> {
    let mut found = Vec::new();
    for container in containers {
        for variable in container.env.iter().flatten() {
            let source = variable.value_from.as_ref();
            if source.is_some_and(|s| s.secret_key_ref.is_some()) {
                found.push(variable.name.clone());
            }
        }
        let whole = container.env_from.iter().flatten();
        let secrets = whole.filter_map(|source| source.secret_ref.as_ref());
        found.extend(secrets.map(|secret| format!("all of Secret {}", secret.name)));
    }
    found
}

/// The rights of a mode and provider by their names, if this program knows them.
fn table(mode: &str, provider_name: &str) -> Option<Vec<Right>> {
    let mut modes = plimsoll_controller::MODES.into_iter();
    let mode = modes.find(|m| m.name() == mode)?;
    let known = provider(provider_name);
    (known.is_some() || provider_name.is_empty()).then(|| rights(mode, known))
}

/// NetworkPolicies that select pods with these labels.
async fn policies(client: &Client, namespace: &str, labels: &BTreeMap<String, String>) -> Option<usize> {
    let api = Api::<NetworkPolicy>::namespaced(client.clone(), namespace);
    let policies = api.list(&ListParams::default()).await.ok()?;
    let selects = |policy: &&NetworkPolicy| {
        let selector = policy.spec.as_ref().and_then(|s| s.pod_selector.as_ref());
        let wanted = selector.and_then(|s| s.match_labels.clone()).unwrap_or_default();
        let plain = selector.is_none_or(|s| s.match_expressions.iter().flatten().next().is_none());
        plain && wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    Some(policies.items.iter().filter(selects).count())
}
