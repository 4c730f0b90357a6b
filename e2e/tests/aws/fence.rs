//! What the session policy keeps a role from that may do everything.

use anyhow::{Context, Result};
use plimsoll_e2e::aws::AwsFixture;
use plimsoll_e2e::cloud::{Cloud, Keys};
use plimsoll_e2e::objects;
use serde_json::json;

type Parameters<'a> = Vec<(&'a str, &'a str)>;

/// The text between the first such tags.
fn element<'a>(xml: &'a str, tag: &str) -> Result<&'a str> {
    let (_, rest) = xml
        .split_once(&format!("<{tag}>"))
        .with_context(|| xml.to_owned())?;
    let (text, _) = rest
        .split_once(&format!("</{tag}>"))
        .with_context(|| xml.to_owned())?;
    Ok(text)
}

/// A session of the controller's role.
async fn session(cloud: &Cloud, policy: Option<&str>) -> Result<Keys> {
    let ready = cloud.ready();
    let mut parameters = vec![
        ("Action", "AssumeRole"),
        ("Version", "2011-06-15"),
        ("RoleArn", &*ready.controller_role_arn),
        ("RoleSessionName", "fence"),
        ("ExternalId", &*ready.external_id),
    ];
    parameters.extend(policy.map(|policy| ("Policy", policy)));
    let answer = cloud.call(&ready.operator, "sts", &parameters).await?;
    Ok(Keys {
        access_key_id: element(&answer, "AccessKeyId")?.to_owned(),
        secret_access_key: element(&answer, "SecretAccessKey")?.to_owned(),
    })
}

async fn ec2(cloud: &Cloud, keys: &Keys, parameters: &Parameters<'_>) -> Result<String> {
    let mut all = vec![("Version", "2016-11-15")];
    all.extend(parameters);
    cloud.call(keys, "ec2", &all).await
}

#[tokio::test]
async fn the_session_policy_by_itself_keeps_to_the_vpc_and_to_what_is_tagged() -> Result<()> {
    let aws = AwsFixture::with_node_pool("aws-fence").await?;
    let (cloud, ready) = (&aws.cloud, aws.cloud.ready().clone());
    let everything = json!([{ "Effect": "Allow", "Action": "*", "Resource": "*" }]);
    cloud.set_controller_policy(&everything).await?;
    let controller = aws.controller().await?;
    aws.fixture.apply(objects::pod("one", "500m")).await?;
    aws.fixture.wait_running(1).await?;

    let requests = cloud.requests(0).await?;
    let launch = requests.iter().find(|r| r.is_launch()).context("no launch")?;
    let session_of_launch = launch.session.as_ref().context("launched by no role")?;
    let policy = session_of_launch.policy.as_deref().context("no session policy")?;
    let (free, fenced) = (session(cloud, None).await?, session(cloud, Some(policy)).await?);

    let ours = cloud.instances().await?.remove(0);
    let subnet = ours.subnet.as_str();
    let run = |subnet| -> Parameters<'_> {
        vec![
            ("Action", "RunInstances"),
            ("ImageId", &ours.image),
            ("InstanceType", "m5.large"),
            ("MinCount", "1"),
            ("MaxCount", "1"),
            ("SubnetId", subnet),
        ]
    };
    let owned = format!("kubernetes.io/cluster/{}", ready.cluster);
    let kinds = ["instance", "volume", "network-interface"];
    let of_kind = |(n, kind): (usize, &str)| {
        let at = |name: &str| format!("TagSpecification.{}.{name}", n + 1);
        [
            (at("ResourceType"), kind.to_owned()),
            (at("Tag.1.Key"), owned.clone()),
            (at("Tag.1.Value"), "owned".to_owned()),
            (at("Tag.2.Key"), "karpenter.sh/nodepool".to_owned()),
            (at("Tag.2.Value"), "default".to_owned()),
        ]
    };
    let tags: Vec<_> = kinds.into_iter().enumerate().flat_map(of_kind).collect();
    let tags = || tags.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let tagged = |subnet| -> Parameters<'_> { run(subnet).into_iter().chain(tags()).collect() };
    let machine = ec2(cloud, &ready.admin, &run(&ready.other_subnet)).await?;
    let theirs = element(&machine, "instanceId")?;
    let end = |id| -> Parameters<'_> { vec![("Action", "TerminateInstances"), ("InstanceId.1", id)] };
    let tag = vec![
        ("Action", "CreateTags"),
        ("ResourceId.1", theirs),
        ("Tag.1.Key", "Name"),
        ("Tag.1.Value", "node"),
    ];
    for (what, mut parameters, is_allowed) in [
        ("a launch of ours", tagged(subnet), true),
        ("a launch into another VPC", tagged(&ready.other_subnet), false),
        ("a launch without tags", run(subnet), false),
        ("the end of ours", end(&ours.id), true),
        ("the end of another's", end(theirs), false),
        ("a tag for another's", tag, false),
    ] {
        parameters.push(("DryRun", "true"));
        let unfenced = ec2(cloud, &free, &parameters).await?;
        assert_eq!(
            element(&unfenced, "Code")?,
            "DryRunOperation",
            "{what}: {unfenced}"
        );
        let answer = ec2(cloud, &fenced, &parameters).await?;
        let code = if is_allowed {
            "DryRunOperation"
        } else {
            "UnauthorizedOperation"
        };
        assert_eq!(element(&answer, "Code")?, code, "{what}: {answer}");
        assert!(
            is_allowed || answer.contains("session policy"),
            "{what}: {answer}"
        );
    }
    ec2(cloud, &ready.admin, &end(theirs)).await?;
    aws.finish().await?;
    drop(controller);
    Ok(())
}
