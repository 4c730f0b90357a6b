//! What the chart makes of its values, without a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use kube::api::DynamicObject;
use plimsoll_e2e::cluster::parse_yaml;
use plimsoll_e2e::{paths, tools};
use serde_json::{Value, json};

use crate::chart::{IMAGE, RELEASE, helm_at};

async fn render(settings: &[&str]) -> Result<String> {
    // Rendering writes nothing and asks nobody.
    let nowhere = std::env::temp_dir().join("plimsoll-no-such-directory");
    let chart = paths::chart().display().to_string();
    // Without a server helm takes the version it was stamped with, and this one was not.
    let mut args = vec![
        "template",
        RELEASE,
        &chart,
        "--kube-version",
        "1.36",
        "--set",
        IMAGE,
    ];
    args.extend(settings.iter().flat_map(|setting| ["--set", *setting]));
    helm_at(&nowhere, &nowhere, &args).await
}

/// The one object of this kind.
async fn rendered(kind: &str, settings: &[&str]) -> Result<DynamicObject> {
    parse_yaml(&render(settings).await?)?
        .into_iter()
        .find(|object| object.types.as_ref().is_some_and(|t| t.kind == kind))
        .with_context(|| format!("no {kind}"))
}

#[tokio::test]
async fn the_chart_renders_with_everything() -> Result<()> {
    let text = render(&[
        "mode=automate",
        "settings.provider=kwok",
        "serviceMonitor.enabled=true",
        "prometheusRule.enabled=true",
        "dashboard.enabled=true",
        r"serviceAccount.annotations.eks\.amazonaws\.com/role-arn=arn:aws:iam::123456789012:role/plimsoll",
    ])
    .await?;
    let kinds: BTreeSet<String> = parse_yaml(&text)?
        .into_iter()
        .filter_map(|object| Some(object.types?.kind))
        .collect();
    let expected = [
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "Deployment",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "PrometheusRule",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
    ];
    assert_eq!(kinds, expected.map(str::to_owned).into());
    assert!(text.contains("eks.amazonaws.com/role-arn: arn:aws:iam::123456789012:role/plimsoll"));
    Ok(())
}

#[tokio::test]
async fn the_right_to_nominate_goes_with_nominating() -> Result<()> {
    for disabled in [false, true] {
        let settings = [
            "mode=automate,settings.provider=kwok",
            &format!("settings.disableNomination={disabled}"),
        ];
        let role = rendered("ClusterRole", &settings).await?;
        assert_eq!(!role.data["rules"].to_string().contains("pods/status"), disabled);
        let deployment = rendered("Deployment", &settings).await?;
        let container = &deployment.data["spec"]["template"]["spec"]["containers"][0];
        let environment = container["env"].as_array().unwrap();
        let told = environment
            .iter()
            .find(|v| v["name"] == "DISABLE_NOMINATION")
            .unwrap();
        assert_eq!(told["value"], disabled.to_string());
    }
    Ok(())
}

#[tokio::test]
async fn settings_of_the_provider_aws_reach_the_program() -> Result<()> {
    let deployment = rendered(
        "Deployment",
        &[
            "mode=automate,settings.provider=aws,settings.clusterName=prod,settings.interruptionQueue=queue",
            "settings.assumeRoleARN=arn:aws:iam::123456789012:role/plimsoll,settings.assumeRoleExternalID=id",
            "settings.vpcID=vpc-0a1b,settings.isolatedVPC=true,settings.reservedENIs=1",
            "settings.featureGates.reservedCapacity=false",
        ],
    )
    .await?;
    let environment = &deployment.data["spec"]["template"]["spec"]["containers"][0]["env"];
    let found: BTreeMap<_, _> = environment
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|v| Some((v["name"].as_str()?, v["value"].as_str()?)))
        .collect();
    for (name, value) in [
        ("CLUSTER_NAME", "prod"),
        ("INTERRUPTION_QUEUE", "queue"),
        ("ASSUME_ROLE_ARN", "arn:aws:iam::123456789012:role/plimsoll"),
        ("ASSUME_ROLE_EXTERNAL_ID", "id"),
        ("VPC_ID", "vpc-0a1b"),
        ("ISOLATED_VPC", "true"),
        ("RESERVED_ENIS", "1"),
        ("VM_MEMORY_OVERHEAD_PERCENT", "0.075"),
        ("FEATURE_GATES", "ReservedCapacity=false"),
    ] {
        assert_eq!(found.get(name), Some(&value), "{name} of {found:?}");
    }
    assert!(!found.contains_key("CLUSTER_ENDPOINT"), "EKS is asked: {found:?}");
    Ok(())
}

#[tokio::test]
async fn the_chart_refuses_what_it_does_not_know_and_what_cannot_work() -> Result<()> {
    for (setting, says) in [
        ("mode=approve", "mode"),
        ("mode=automate", "settings.provider"),
        ("setings.provider=kwok", "setings"),
        ("settings.apiKey=secret", "apiKey"),
        ("mode=automate,settings.provider=aws", "settings.clusterName"),
        ("settings.assumeRoleARN=plimsoll", "assumeRoleARN"),
        ("image.repository=", "image.repository is empty"),
    ] {
        let Err(error) = render(&[setting]).await else {
            anyhow::bail!("{setting} was accepted")
        };
        ensure!(format!("{error:#}").contains(says), "{setting}: {error:#}");
    }
    Ok(())
}

/// Where every node is Karpenter's, whoever only looks must find a place all the same.
#[tokio::test]
async fn only_who_acts_keeps_off_the_machines_of_node_pools() -> Result<()> {
    let own = "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight=1";
    for (settings, expected) in [
        ("mode=observe", None),
        ("mode=advise", None),
        (
            "mode=automate,settings.provider=kwok",
            Some("requiredDuringSchedulingIgnoredDuringExecution"),
        ),
        (
            &format!("mode=automate,settings.provider=kwok,{own}"),
            Some("preferredDuringSchedulingIgnoredDuringExecution"),
        ),
    ] {
        let deployment = rendered("Deployment", &[settings]).await?;
        let affinity = &deployment.data["spec"]["template"]["spec"]["affinity"];
        let replicas = &affinity["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        assert_eq!(replicas.as_array().map(Vec::len), Some(1), "{affinity}");
        let nodes = affinity["nodeAffinity"].as_object();
        let terms: Vec<&str> = nodes
            .into_iter()
            .flatten()
            .map(|(kind, _)| kind.as_str())
            .collect();
        assert_eq!(terms, Vec::from_iter(expected), "{settings}");
    }
    Ok(())
}

/// After a start the first report may be one interval away.
#[tokio::test]
async fn a_report_is_old_after_several_of_its_intervals() -> Result<()> {
    for (interval, age, lasting) in [
        ("5m", "3600", "600s"),
        ("500ms", "3600", "301s"),
        ("1h30m", "16200", "5700s"),
        ("300h", "3240000", "1080300s"),
    ] {
        let interval = format!("settings.reportInterval={interval}");
        let rule = rendered("PrometheusRule", &["prometheusRule.enabled=true", &interval]).await?;
        let rules = rule.data["spec"]["groups"][0]["rules"].as_array();
        let is_it = |rule: &&Value| rule["alert"] == "PlimsollReportOld";
        let alert = rules.into_iter().flatten().find(is_it).context("no alert")?;
        let expected = format!("time() - max(plimsoll_report_timestamp_seconds) > {age}");
        assert_eq!(
            (&alert["expr"], &alert["for"]),
            (&expected.into(), &lasting.into()),
            "{interval}"
        );
    }
    Ok(())
}

/// What is under the name `expr`, anywhere.
fn expressions(value: &Value) -> Vec<&str> {
    let inside: Vec<&Value> = match value {
        Value::Object(fields) => fields.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => Vec::new(),
    };
    let own = value.get("expr").and_then(Value::as_str);
    own.into_iter()
        .chain(inside.into_iter().flat_map(expressions))
        .collect()
}

/// What Prometheus says against these expressions.
async fn complaints(expressions: &[&str]) -> Result<String> {
    let mut check = Command::new(tools::PROMQL.ensure().await?.join("promql-check"))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = check.stdin.take().context("no input")?;
    write!(input, "{}", json!(expressions))?;
    drop(input);
    let output = check.wait_with_output()?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(
        output.status.success() == said.is_empty(),
        "{}: {said}",
        output.status
    );
    Ok(said)
}

#[tokio::test]
async fn prometheus_takes_the_expressions_of_alerts_and_dashboard() -> Result<()> {
    let settings = [
        "mode=automate,settings.provider=kwok",
        "prometheusRule.enabled=true",
    ];
    let rule = rendered("PrometheusRule", &settings).await?;
    let dashboard = rendered("ConfigMap", &["dashboard.enabled=true"]).await?;
    let dashboard = dashboard.data["data"]["plimsoll.json"]
        .as_str()
        .context("no dashboard")?;
    let dashboard: Value = serde_json::from_str(dashboard)?;
    let (alerts, panels) = (expressions(&rule.data), expressions(&dashboard));
    ensure!(alerts.len() >= 6 && panels.len() >= 10, "{alerts:?} {panels:?}");
    assert_eq!(complaints(&[alerts, panels].concat()).await?, "");
    assert!(
        complaints(&["up", "sum by (le (up)"])
            .await?
            .starts_with("sum by (le (up)")
    );
    Ok(())
}
