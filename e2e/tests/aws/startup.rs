//! A start that cannot work ends at once with an error that says what to fix.

use anyhow::Result;
use plimsoll_e2e::aws::AwsFixture;
use plimsoll_e2e::cloud::Cloud;
use plimsoll_e2e::fixture::PATIENCE;
use serde_json::json;

/// Starts a controller that cannot start, and returns the error it ends with.
async fn refusal(aws: &AwsFixture, name: &str, changes: &[(&str, &str)]) -> Result<String> {
    let mut controller = aws.spawn(name, changes)?;
    let status = controller.wait_ended(PATIENCE).await?;
    assert!(!status.success(), "{name} ended well");
    let log = controller.log_tail(5);
    let error = log.lines().rfind(|line| line.starts_with("error: "));
    Ok(error.unwrap_or_else(|| panic!("no error in {log}")).to_owned())
}

fn assert_says(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

/// Nothing was changed by any of them.
async fn assert_untouched(cloud: &Cloud) -> Result<()> {
    let log = cloud.requests(0).await?;
    let changes: Vec<_> = log
        .iter()
        .filter(|r| r.mutating && r.error.is_none() && r.action != "sts:AssumeRole")
        .collect();
    assert!(changes.is_empty(), "{changes:?}");
    Ok(())
}

#[tokio::test]
async fn an_error_names_the_missing_right_or_setting() -> Result<()> {
    let aws = AwsFixture::start("aws-startup").await?;
    let role = aws.cloud.ready().controller_role_arn.clone();
    let denied = aws.cloud.ready().denied_role_arn.clone();

    let none = refusal(&aws, "no-external-id", &[("ASSUME_ROLE_EXTERNAL_ID", "")]).await?;
    assert_says(&none, &[&role, "trust policy", "--assume-role-external-id"]);
    let wrong = refusal(
        &aws,
        "wrong-external-id",
        &[("ASSUME_ROLE_EXTERNAL_ID", "guessed")],
    )
    .await?;
    assert_says(&wrong, &[&role, "trust policy", "--assume-role-external-id"]);
    assert!(!wrong.contains("guessed"), "the id is a secret of sorts: {wrong}");

    let elsewhere = "arn:aws:iam::999999999999:role/plimsoll";
    let other_account = [("ASSUME_ROLE_ARN", elsewhere), ("ASSUME_ROLE_EXTERNAL_ID", "")];
    let foreign = refusal(&aws, "other-account", &other_account).await?;
    assert_says(
        &foreign,
        &[elsewhere, "another account", "--assume-role-external-id"],
    );

    let right = refusal(&aws, "denied-role", &[("ASSUME_ROLE_ARN", &denied)]).await?;
    assert_says(&right, &["eks:DescribeCluster", "--cluster-endpoint"]);
    let ready = aws.cloud.ready();
    let told = [
        ("ASSUME_ROLE_ARN", denied.as_str()),
        ("CLUSTER_ENDPOINT", ready.cluster_endpoint.as_str()),
        ("CLUSTER_CA_BUNDLE", ready.cluster_ca.as_str()),
        ("VPC_ID", ready.vpc.as_str()),
    ];
    let right = refusal(&aws, "denied-role-told", &told).await?;
    assert_says(&right, &["ec2:DescribeInstanceTypes", &denied, "attach"]);

    let malformed = refusal(&aws, "malformed-role", &[("ASSUME_ROLE_ARN", "plimsoll")]).await?;
    assert_says(&malformed, &["--assume-role-arn", "arn:aws:iam::"]);
    let cluster = refusal(&aws, "other-cluster", &[("CLUSTER_NAME", "another")]).await?;
    assert_says(&cluster, &["another", "eks:DescribeCluster"]);
    let unnamed = refusal(&aws, "no-cluster", &[("CLUSTER_NAME", "")]).await?;
    assert_says(&unnamed, &["--cluster-name", "CLUSTER_NAME"]);
    let queue = refusal(&aws, "other-queue", &[("INTERRUPTION_QUEUE", "another")]).await?;
    assert_says(&queue, &["\"another\"", "--interruption-queue"]);
    for right in ["sqs:ReceiveMessage", "sqs:DeleteMessage"] {
        let all_but_it = json!([
            { "Effect": "Allow", "Action": "*", "Resource": "*" },
            { "Effect": "Deny", "Action": right, "Resource": "*" },
        ]);
        aws.cloud.set_controller_policy(&all_but_it).await?;
        let error = refusal(&aws, &format!("no-{}", right.replace(':', "-")), &[]).await?;
        assert_says(&error, &[&format!("{right}: AccessDenied"), &ready.queue]);
    }

    assert_untouched(&aws.cloud).await?;
    // There is nothing to take away, and no controller that could.
    aws.fixture.finish().await
}

/// As in a pod of EKS: the base identity comes from Pod Identity, and is a session itself.
#[tokio::test]
async fn the_base_identity_may_come_from_pod_identity() -> Result<()> {
    let aws = AwsFixture::with_node_pool("aws-pod-identity").await?;
    let identity = aws.cloud.ready().pod_identity.clone();
    let mut controller = aws.spawn(
        "plimsoll",
        &[
            ("DISABLE_LEADER_ELECTION", "true"),
            ("AWS_ACCESS_KEY_ID", ""),
            ("AWS_SECRET_ACCESS_KEY", ""),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &identity.url),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", &identity.token),
        ],
    )?;
    controller.wait_ready(PATIENCE).await?;
    let pod = plimsoll_e2e::objects::pod("one", "500m");
    aws.fixture.apply(pod).await?;
    aws.fixture.wait_running(1).await?;
    let assumed = aws.cloud.requests(0).await?;
    let by = |r: &&plimsoll_e2e::cloud::Request| r.action == "sts:AssumeRole";
    assert!(
        assumed
            .iter()
            .filter(by)
            .all(|r| r.principal.contains("assumed-role/plimsoll-pod-")),
        "{assumed:?}"
    );
    aws.finish().await
}
