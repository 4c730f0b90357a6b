//! Machines of another account than the cluster's, and sessions that end before their time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Method;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use plimsoll_e2e::aws::AwsFixture;
use plimsoll_e2e::cloud::Instance;
use plimsoll_e2e::conditions;
use plimsoll_e2e::fixture::PATIENCE;
use plimsoll_e2e::objects;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const ROLE: &str = "plimsoll.dev/assume-role-arn";
const EXTERNAL_ID: &str = "plimsoll.dev/assume-role-external-id";
const VPC: &str = "plimsoll.dev/assume-role-vpc-id";
const REMEMBERED: &str = "plimsoll.dev/assumed-roles";
const POLL: Duration = Duration::from_millis(200);
/// Two passes of the garbage collection.
const COLLECTED: Duration = Duration::from_mins(5);

/// Pool and class of one name; the class is one of the other account.
async fn apply_guests(aws: &AwsFixture, name: &str, changes: &[(&str, &str)]) -> Result<()> {
    let guest = aws.cloud.ready().guest.clone();
    let mut class = aws.node_class();
    class["metadata"]["name"] = name.into();
    class["spec"]["role"] = guest.node_role.into();
    let mut annotations = json!({ ROLE: guest.role_arn, VPC: guest.vpc });
    for (key, value) in changes {
        annotations[*key] = (*value).into();
    }
    class["metadata"]["annotations"] = annotations;
    aws.fixture.apply(class).await?;
    aws.fixture.apply(pool(name)).await.map(drop)
}

/// Takes only pods that ask for it by the label `pool`.
fn pool(name: &str) -> Value {
    let mut pool = objects::aws_node_pool(name);
    let template = &mut pool["spec"]["template"];
    template["spec"]["nodeClassRef"]["name"] = name.into();
    template["metadata"]["labels"] = json!({ "pool": name });
    pool
}

fn deployment(name: &str, pool: &str) -> Value {
    let mut all = objects::deployment(name, 1, "500m");
    all["spec"]["template"]["spec"]["nodeSelector"] = json!({ "pool": pool });
    all
}

async fn classes(aws: &AwsFixture) -> Result<Api<DynamicObject>> {
    let cluster = aws.fixture.cluster();
    cluster.api_of("karpenter.k8s.aws/v1", "EC2NodeClass", None).await
}

/// Makes a kubelet fail, or recover, and waits until its Node says so.
async fn set_ready(aws: &AwsFixture, node: &str, ready: bool) -> Result<()> {
    let cluster = aws.fixture.cluster();
    let nodes = cluster.api_of("v1", "Node", None).await?;
    let annotation = (!ready).then_some("false");
    let patch = json!({ "metadata": { "annotations": { "plimsoll.dev/test-ready": annotation } } });
    nodes
        .patch(node, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    cluster
        .wait_for("a Node that is ready or not", nodes, PATIENCE, |all| {
            all.get(node)
                .is_some_and(|node| conditions::is_true(node, "Ready") == ready)
        })
        .await
        .map(drop)
}

/// Waits until instances are as they should be, and returns them.
async fn wait_instances(
    aws: &AwsFixture,
    what: &str,
    holds: impl Fn(&[Instance]) -> bool,
) -> Result<Vec<Instance>> {
    wait_instances_within(aws, PATIENCE, what, holds).await
}

async fn wait_instances_within(
    aws: &AwsFixture,
    within: Duration,
    what: &str,
    holds: impl Fn(&[Instance]) -> bool,
) -> Result<Vec<Instance>> {
    let deadline = Instant::now() + within;
    loop {
        let all = aws.cloud.instances().await?;
        if holds(&all) {
            return Ok(all);
        }
        ensure!(
            Instant::now() < deadline,
            "no {what} within {within:?}: {all:?}\n{}",
            aws.fixture.cluster().dump().await
        );
        sleep(POLL).await;
    }
}

/// Waits until the class says this of its role.
async fn wait_refusal(aws: &AwsFixture, class: &str, says: &[&str]) -> Result<()> {
    let cluster = aws.fixture.cluster();
    cluster
        .wait_for(
            "a class that names the fix",
            classes(aws).await?,
            PATIENCE,
            |all| {
                all.get(class).is_some_and(|class| {
                    let ready = conditions::find(class, "Ready").is_some_and(|c| c.status == "False");
                    ready
                        && conditions::find(class, "ValidationSucceeded").is_some_and(|c| {
                            c.status == "False"
                                && c.reason == "AssumeRoleFailed"
                                && says.iter().all(|word| c.message.contains(word))
                        })
                })
            },
        )
        .await
        .map(drop)
}

#[tokio::test]
async fn a_class_may_have_its_machines_in_another_account() -> Result<()> {
    let aws = AwsFixture::start("aws-accounts").await?;
    aws.fixture.apply(aws.node_class()).await?;
    aws.fixture.apply(pool("default")).await?;
    apply_guests(&aws, "guests", &[]).await?;
    let controller = aws.controller().await?;
    aws.fixture.apply(deployment("home", "default")).await?;
    aws.fixture.apply(deployment("abroad", "guests")).await?;
    aws.fixture.wait_running(2).await?;

    let (ready, guest) = (aws.cloud.ready().clone(), aws.cloud.ready().guest.clone());
    let named = |all: &[Instance]| all.iter().all(|i| i.tags.contains_key("Name"));
    let all = wait_instances(&aws, "two instances with names", |all| {
        all.len() == 2 && named(all)
    })
    .await?;
    let there: Vec<_> = all.iter().filter(|i| i.account == guest.account).collect();
    let [there] = there.as_slice() else {
        panic!("one machine in the other account: {all:?}");
    };
    assert_eq!(there.vpc, guest.vpc);
    assert_eq!(there.security_groups, guest.security_groups);
    assert!(
        guest.subnets.values().any(|subnet| *subnet == there.subnet),
        "{there:?}"
    );
    let profile = there.instance_profile.as_deref().unwrap_or_default();
    assert!(profile.contains(&guest.account), "{profile}");
    assert_eq!(
        there.tags.get("karpenter.sh/nodepool").map(String::as_str),
        Some("guests")
    );
    let owned = format!("kubernetes.io/cluster/{}", ready.cluster);
    assert_eq!(there.tags.get(&owned).map(String::as_str), Some("owned"));

    // Every change there was made by the role, with external id and a session policy for the VPC there.
    let requests = aws.cloud.requests(0).await?;
    let changed: Vec<_> = requests
        .iter()
        .filter(|r| r.mutating && r.resources.iter().any(|arn| arn.contains(&guest.account)))
        .filter(|r| r.action != "sts:AssumeRole")
        .collect();
    assert!(changed.iter().any(|r| r.is_launch()), "{changed:?}");
    for request in changed {
        let session = request.session.as_ref();
        let session = session.unwrap_or_else(|| panic!("not by a role: {request:?}"));
        assert_eq!(session.role_arn, guest.role_arn, "{request:?}");
        assert_eq!(
            session.external_id.as_deref(),
            Some(&*ready.external_id),
            "{request:?}"
        );
        let policy = session.policy.as_deref().unwrap_or_default();
        assert!(
            policy.contains(&guest.vpc) && !policy.contains(&ready.vpc),
            "{policy}"
        );
        assert!(!session.tags.is_empty(), "{request:?}");
    }
    let claims = aws.fixture.cluster().node_claims().await?;
    let remember = |claim: &&DynamicObject| {
        let annotations = claim.metadata.annotations.as_ref();
        annotations.is_some_and(|a| {
            a.get("plimsoll.dev/assumed-role")
                .is_some_and(|r| r.contains(&guest.role_arn))
        })
    };
    assert_eq!(claims.iter().filter(remember).count(), 1, "{claims:?}");
    let first = there.id.clone();

    // The class comes home: its machine has drifted, is ended where it is, and nothing is left there.
    let changes = json!({
        "metadata": { "annotations": { ROLE: null, VPC: null } }, "spec": { "role": ready.node_role },
    });
    let api = classes(&aws).await?;
    api.patch("guests", &PatchParams::default(), &Patch::Merge(changes))
        .await?;
    aws.fixture
        .wait_claims("a claim that has drifted", |claims| {
            let drifted = claims.values().filter(|claim| {
                conditions::find(claim, "Drifted").is_some_and(|c| c.reason == "NodeClassDrift")
            });
            drifted.count() == 1
        })
        .await?;
    let of_first = |claim: &&DynamicObject| {
        let id = claim.data["status"]["providerID"].as_str().unwrap_or_default();
        id.ends_with(&first)
    };
    let claim = claims
        .iter()
        .find(of_first)
        .and_then(|claim| claim.metadata.name.clone());
    let claim = claim.unwrap_or_else(|| panic!("no claim of {first}: {claims:?}"));
    aws.fixture
        .claims()
        .await?
        .delete(&claim, &DeleteParams::default())
        .await?;
    wait_instances(&aws, "machine of the class at home", |all| {
        let ended = all.iter().any(|i| i.id == first && i.state == "terminated");
        let alive: BTreeSet<_> = all
            .iter()
            .filter(|i| i.state == "running")
            .map(|i| &i.account)
            .collect();
        ended && alive == BTreeSet::from([&ready.account])
    })
    .await?;
    aws.fixture.wait_running(2).await?;
    aws.fixture
        .cluster()
        .wait_for("a class that has left its role", api, PATIENCE, |all| {
            all.get("guests").is_some_and(|class| {
                let annotations = class.metadata.annotations.as_ref();
                annotations.is_none_or(|a| !a.contains_key(REMEMBERED))
            })
        })
        .await?;
    aws.finish().await?;
    drop(controller);
    Ok(())
}

#[tokio::test]
async fn a_role_that_cannot_be_assumed_is_said_and_concerns_its_class_only() -> Result<()> {
    let aws = AwsFixture::start("aws-accounts-denied").await?;
    aws.fixture.apply(aws.node_class()).await?;
    aws.fixture.apply(pool("default")).await?;
    apply_guests(&aws, "wrong-id", &[(EXTERNAL_ID, "guessed")]).await?;
    apply_guests(
        &aws,
        "no-role",
        &[(ROLE, "arn:aws:iam::210987654321:role/nobody")],
    )
    .await?;
    apply_guests(&aws, "no-arn", &[(ROLE, "nobody")]).await?;
    let controller = aws.controller().await?;
    wait_refusal(&aws, "wrong-id", &[ROLE, EXTERNAL_ID, "trust policy"]).await?;
    wait_refusal(&aws, "no-role", &["role/nobody", "trust policy"]).await?;
    wait_refusal(&aws, "no-arn", &[ROLE, "\"nobody\"", "arn:aws:iam::"]).await?;
    aws.fixture.apply(deployment("home", "default")).await?;
    aws.fixture.wait_running(1).await?;
    aws.fixture.apply(deployment("abroad", "wrong-id")).await?;
    let (ready, guest) = (aws.cloud.ready(), &aws.cloud.ready().guest);
    let all = aws.cloud.instances().await?;
    assert!(all.iter().all(|i| i.account == ready.account), "{all:?}");

    // Whoever mends the annotation need do nothing else.
    let mend = json!({ "metadata": { "annotations": { EXTERNAL_ID: null } } });
    let api = classes(&aws).await?;
    api.patch("wrong-id", &PatchParams::default(), &Patch::Merge(mend))
        .await?;
    aws.fixture.wait_running(2).await?;
    wait_instances(&aws, "machine in the other account", |all| {
        all.iter().any(|i| i.account == guest.account)
    })
    .await?;

    // Nothing of the class at home is lost or held up while the role is denied its calls.
    aws.cloud
        .set_faults(&json!({ "deny": [{ "principal": "*210987654321:assumed-role/*", "action": "ec2:*" }] }))
        .await?;
    aws.fixture.scale("home", 0).await?;
    wait_instances(&aws, "end of the machine at home", |all| {
        let at_home = all.iter().filter(|i| i.account == ready.account);
        at_home.clone().count() == 1 && at_home.into_iter().all(|i| i.state == "terminated")
    })
    .await?;
    aws.cloud.set_faults(&json!({ "deny": [] })).await?;
    aws.finish().await?;
    drop(controller);
    Ok(())
}

/// All sessions end at once, as when somebody revokes them: calls go on with new ones.
#[tokio::test]
async fn sessions_that_are_ended_are_renewed_at_once() -> Result<()> {
    let aws = AwsFixture::start("aws-sessions").await?;
    aws.fixture.apply(aws.node_class()).await?;
    aws.fixture.apply(pool("default")).await?;
    apply_guests(&aws, "guests", &[]).await?;
    let controller = aws.controller().await?;
    let mut abroad = deployment("abroad", "guests");
    abroad["spec"]["template"]["spec"]["affinity"] = objects::one_per_machine("abroad");
    aws.fixture.apply(abroad).await?;
    aws.fixture.wait_running(1).await?;
    // Younger ones are taken for renewed by another call.
    sleep(Duration::from_secs(11)).await;
    let ended: Value = aws
        .cloud
        .control(Method::POST, "expire-sessions", &Value::Null)
        .await?;
    assert!(ended["sessions"].as_u64().is_some_and(|n| n >= 2), "{ended}");
    let before = aws.cloud.requests(0).await?.last().map_or(0, |r| r.number);
    let begin = Instant::now();
    aws.fixture.apply(deployment("home", "default")).await?;
    aws.fixture.scale("abroad", 2).await?;
    aws.fixture.wait_running(3).await?;
    let after = aws.cloud.requests(before).await?;
    let is_ended = |code: &str| matches!(code, "RequestExpired" | "ExpiredToken" | "ExpiredTokenException");
    let refused = after
        .iter()
        .filter(|r| r.error.as_deref().is_some_and(is_ended))
        .count();
    let renewed = after.iter().filter(|r| r.action == "sts:AssumeRole").count();
    eprintln!(
        "[sessions] running after {:.1} s, {refused} calls refused, {renewed} renewals",
        begin.elapsed().as_secs_f64()
    );
    assert!(refused > 0, "no session was felt to end");
    assert!((2..=6).contains(&renewed), "{renewed} sessions for two roles");
    aws.finish().await?;
    drop(controller);
    Ok(())
}

/// An account that does not answer, or lets nobody in any more, keeps its machines, and the one at home goes on.
#[tokio::test]
async fn an_account_that_is_silent_or_denied_holds_up_no_other() -> Result<()> {
    let aws = AwsFixture::start("aws-accounts-silent").await?;
    aws.fixture.apply(aws.node_class()).await?;
    aws.fixture.apply(pool("default")).await?;
    apply_guests(&aws, "guests", &[]).await?;
    let controller = aws.controller().await?;
    let mut home = deployment("home", "default");
    home["spec"]["template"]["spec"]["affinity"] = objects::one_per_machine("home");
    aws.fixture.apply(home).await?;
    aws.fixture.apply(deployment("abroad", "guests")).await?;
    aws.fixture.wait_running(2).await?;
    let guest = aws.cloud.ready().guest.clone();

    // A Node that is ready would keep its claim all the same.
    let all = aws.cloud.instances().await?;
    let abroad = all.iter().find(|i| i.account == guest.account);
    let node = abroad.and_then(|i| i.node.clone()).context("no machine abroad")?;
    set_ready(&aws, &node, false).await?;
    aws.cloud
        .set_faults(&json!({ "silent": [{ "principal": format!("*{}:assumed-role/*", guest.account) }] }))
        .await?;
    let begin = Instant::now();
    aws.fixture.scale("home", 3).await?;
    aws.fixture.wait_running(4).await?;
    let launched = begin.elapsed().as_secs_f64();
    // A collection of garbage goes by.
    while !controller
        .log_tail(usize::MAX)
        .contains("the machines of a role could not be listed")
    {
        ensure!(
            begin.elapsed() < COLLECTED,
            "no collection\n{}",
            controller.log_tail(20)
        );
        sleep(POLL).await;
    }
    let collected = begin.elapsed().as_secs_f64();
    aws.fixture.scale("home", 0).await?;
    wait_instances(&aws, "end of all machines but one", |all| {
        let alive: Vec<_> = all.iter().filter(|i| i.state == "running").collect();
        matches!(alive.as_slice(), [one] if one.account == guest.account)
    })
    .await?;
    let claims = aws
        .fixture
        .wait_claims("one claim, that of the silent account", |claims| {
            claims.len() == 1
        })
        .await?;
    for claim in claims.values() {
        assert_eq!(claim.metadata.deletion_timestamp, None, "{claim:?}");
    }
    set_ready(&aws, &node, true).await?;
    eprintln!("[silent] two machines at home after {launched:.1} s, a collection after {collected:.1} s");
    aws.cloud.set_faults(&json!({ "silent": [] })).await?;

    // Once its sessions are over, the class says why there are no others.
    aws.cloud
        .set_faults(&json!({ "deny": [{ "action": "sts:AssumeRole", "resource": guest.role_arn }] }))
        .await?;
    aws.cloud
        .control::<Value>(Method::POST, "expire-sessions", &Value::Null)
        .await?;
    let ready_as = |status: &'static str, says: &'static str| {
        move |all: &BTreeMap<String, DynamicObject>| {
            all.get("guests").is_some_and(|class| {
                let all = class.data["status"]["conditions"].as_array();
                let said = all.into_iter().flatten();
                let mut said = said.filter_map(|c| c["message"].as_str());
                conditions::find(class, "Ready").is_some_and(|c| c.status == status)
                    && said.any(|message| message.contains(says))
            })
        }
    };
    let cluster = aws.fixture.cluster();
    let (what, denied) = ("a class that names the fix", ready_as("False", "trust policy"));
    cluster
        .wait_for(what, classes(&aws).await?, PATIENCE, denied)
        .await?;
    aws.fixture.scale("home", 1).await?;
    aws.fixture.wait_running(2).await?;
    aws.cloud.set_faults(&json!({ "deny": [] })).await?;
    let (what, granted) = ("a class that is ready again", ready_as("True", ""));
    cluster
        .wait_for(what, classes(&aws).await?, PATIENCE, granted)
        .await?;
    aws.finish().await?;
    drop(controller);
    Ok(())
}

/// Killed between a launch and its record, and the role is another when the next process asks: EC2 there does not know
/// the request.
#[tokio::test]
async fn a_launch_under_a_role_that_is_left_meanwhile_is_neither_repeated_nor_lost() -> Result<()> {
    let aws = AwsFixture::start("aws-accounts-left").await?;
    apply_guests(&aws, "guests", &[]).await?;
    // Longer than the next process takes to look for machines.
    aws.cloud
        .set_faults(
            &json!({ "visibility_delay_seconds": 30, "answer_delay_seconds": { "ec2:CreateFleet": 20 } }),
        )
        .await?;
    let first = aws.controller().await?;
    aws.fixture.apply(deployment("abroad", "guests")).await?;
    let all = wait_instances(&aws, "launch", |all| !all.is_empty()).await?;
    let (ready, guest) = (aws.cloud.ready().clone(), aws.cloud.ready().guest.clone());
    assert!(all.iter().all(|i| i.account == guest.account), "{all:?}");
    first.kill()?;
    let claims = aws.fixture.cluster().node_claims().await?;
    ensure!(
        claims
            .iter()
            .all(|claim| claim.data["status"]["providerID"].is_null()),
        "killed too late: {claims:?}"
    );

    let changes = json!({
        "metadata": { "annotations": { ROLE: null, VPC: null } }, "spec": { "role": ready.node_role },
    });
    classes(&aws)
        .await?
        .patch("guests", &PatchParams::default(), &Patch::Merge(changes))
        .await?;
    aws.cloud
        .set_faults(&json!({ "answer_delay_seconds": {} }))
        .await?;
    let mut second = aws.spawn("second", &[("DISABLE_LEADER_ELECTION", "true")])?;
    second.wait_ready(PATIENCE).await?;
    aws.fixture.wait_running(1).await?;
    let begin = Instant::now();
    let all = wait_instances_within(&aws, COLLECTED, "end of the first machine", |all| {
        let abroad = all.iter().filter(|i| i.account == guest.account);
        abroad.clone().count() > 0 && abroad.into_iter().all(|i| i.state == "terminated")
    })
    .await?;
    eprintln!(
        "[left] the first machine ended {:.1} s after the pod ran on the second",
        begin.elapsed().as_secs_f64()
    );
    assert_eq!(all.len(), 2, "{all:?}");
    let uid = |i: &Instance| i.tags.get("plimsoll.dev/nodeclaim-uid").cloned();
    let of: BTreeSet<_> = all.iter().map(uid).collect();
    assert_eq!(of.len(), 2, "launched twice for one claim: {all:?}");
    aws.cloud
        .set_faults(&json!({ "visibility_delay_seconds": 0 }))
        .await?;
    aws.finish().await?;
    drop(second);
    Ok(())
}
