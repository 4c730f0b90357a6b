//! The API server keeps the rules of the CRDs: for every rule an object it takes and one it refuses.

use anyhow::{Context, Result, ensure};
use kube::api::{Api, DeleteParams, DynamicObject, PostParams};
use plimsoll_api::cel_cases::{CelCase, cel_cases};
use plimsoll_e2e::fixture::Fixture;
use serde_json::Value;

fn dry_run() -> PostParams {
    PostParams {
        dry_run: true,
        ..PostParams::default()
    }
}

fn object(value: &Value) -> Result<DynamicObject> {
    Ok(serde_json::from_value(value.clone())?)
}

async fn api(fixture: &Fixture, value: &Value) -> Result<Api<DynamicObject>> {
    let text = |field: &str| value[field].as_str().with_context(|| format!("no {field}"));
    let namespace = value["metadata"]["namespace"].as_str();
    fixture
        .cluster()
        .api_of(text("apiVersion")?, text("kind")?, namespace)
        .await
}

/// A refusal that says what it should.
fn refused(answer: Result<DynamicObject, kube::Error>, case: &CelCase) -> Result<()> {
    let Err(error) = answer else {
        anyhow::bail!("the bad object was accepted")
    };
    let says = error.to_string();
    ensure!(
        says.contains(case.expect_error_contains),
        "refused without saying {:?}: {says}",
        case.expect_error_contains
    );
    Ok(())
}

async fn try_case(fixture: &Fixture, case: &CelCase) -> Result<()> {
    let api = api(fixture, &case.good).await?;
    let (good, bad) = (object(&case.good)?, object(&case.bad)?);
    if !case.update {
        api.create(&dry_run(), &good)
            .await
            .context("the good object was refused")?;
        return refused(api.create(&dry_run(), &bad).await, case);
    }
    let name = good.metadata.name.clone().context("a case without a name")?;
    let made = api
        .create(&PostParams::default(), &good)
        .await
        .context("the good object was refused")?;
    let mut changed = bad;
    changed.metadata.resource_version = made.metadata.resource_version;
    let outcome = refused(api.replace(&name, &dry_run(), &changed).await, case);
    api.delete(&name, &DeleteParams::default()).await?;
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_takes_the_good_and_refuses_the_bad() -> Result<()> {
    let fixture = Fixture::start("crd rules").await?;
    let cases = cel_cases();
    assert!(!cases.is_empty() && cases.iter().any(|case| case.update));
    let mut wrong = Vec::new();
    for case in &cases {
        if let Err(error) = try_case(&fixture, case).await {
            wrong.push(format!("{}: {error:#}", case.name));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    fixture.finish().await
}
