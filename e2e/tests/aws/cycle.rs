//! From a pod to its machine and back, as whom, and with which tags.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use kube::api::{Api, DeleteParams};
use plimsoll_e2e::aws::AwsFixture;
use plimsoll_e2e::cloud::{Cloud, Instance, Request};
use plimsoll_e2e::fixture::PATIENCE;
use plimsoll_e2e::objects;

/// Every call that changes something was made by the role in a session with ExternalId, tag and policy; the identity
/// that was given to the process did nothing but assume it.
fn assert_made_by_the_role(cloud: &Cloud, requests: &[Request]) {
    let ready = cloud.ready();
    let role = ready.controller_role_arn.rsplit('/').next().unwrap();
    let expected = format!("arn:aws:sts::{}:assumed-role/{role}/plimsoll", ready.account);
    let mut changes = 0;
    for request in requests
        .iter()
        .filter(|r| r.principal != format!("arn:aws:iam::{}:user/admin", ready.account))
    {
        if request.action == "sts:AssumeRole" || request.action == "sts:GetCallerIdentity" {
            continue;
        }
        assert_eq!(request.principal, expected, "{request:?}");
        let session = request.session.as_ref().expect("an assumed role has a session");
        assert_eq!(session.role_arn, ready.controller_role_arn);
        assert_eq!(session.external_id.as_deref(), Some(&*ready.external_id));
        assert!(
            session.policy.as_deref().is_some_and(|p| p.len() <= 2048),
            "{session:?}"
        );
        assert_eq!(session.tags.get("plimsoll-cluster"), Some(&ready.cluster));
        assert!(
            !matches!(
                request.error.as_deref(),
                Some("UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException")
            ),
            "the policy the role is meant to have is too narrow: {request:?}"
        );
        changes += usize::from(request.mutating);
    }
    assert!(changes > 0, "nothing was done");
}

/// Both ownership tags, the cluster's VPC, and what the class says.
fn assert_ours(cloud: &Cloud, instance: &Instance) {
    let ready = cloud.ready();
    let tag = |key: &str| instance.tags.get(key).map(String::as_str);
    assert_eq!(
        tag(&format!("kubernetes.io/cluster/{}", ready.cluster)),
        Some("owned")
    );
    assert_eq!(tag("karpenter.sh/nodepool"), Some("default"));
    assert_eq!(tag("karpenter.k8s.aws/ec2nodeclass"), Some("default"));
    assert_eq!(tag("eks:eks-cluster-name"), Some(&*ready.cluster));
    assert!(tag("karpenter.sh/nodeclaim").is_some(), "{:?}", instance.tags);
    assert_eq!(instance.vpc, ready.vpc);
    assert_eq!(instance.security_groups, ready.security_groups);
    assert!(ready.subnets.values().any(|subnet| *subnet == instance.subnet));
    assert!(instance.instance_profile.is_some() && instance.launch_template.is_some());
    assert_eq!(instance.join_error, None);
}

#[tokio::test]
async fn a_pod_gets_a_machine_and_the_machine_goes_with_it() -> Result<()> {
    let aws = AwsFixture::with_node_pool("aws-cycle").await?;
    let controller = aws.controller().await?;
    aws.fixture.apply(objects::pod("one", "1500m")).await?;
    aws.fixture.wait_running(1).await?;

    let instances = aws.cloud.instances().await?;
    let [instance] = instances.as_slice() else {
        panic!("one pod, but {instances:?}");
    };
    assert_ours(&aws.cloud, instance);
    let claims = aws.fixture.cluster().node_claims().await?;
    assert_eq!(
        claims[0].data["status"]["providerID"],
        format!("aws:///{}/{}", instance.zone, instance.id)
    );
    assert_eq!(claims[0].data["status"]["imageID"], instance.image.as_str());

    let pods: Api<k8s_openapi::api::core::v1::Pod> = aws.fixture.api();
    pods.delete("one", &DeleteParams::default()).await?;
    aws.fixture.wait_no_machines().await?;
    aws.wait_no_instances(PATIENCE).await?;

    let requests = aws.cloud.requests(0).await?;
    assert_made_by_the_role(&aws.cloud, &requests);
    let launch = requests
        .iter()
        .find(|r| r.action == "ec2:CreateFleet" && !r.dry_run)
        .context("no launch in the log")?;
    for kind in ["fleet", "instance", "volume"] {
        let tags = launch
            .request_tags
            .get(kind)
            .with_context(|| format!("no tags for {kind}"))?;
        assert!(tags.contains_key("karpenter.sh/nodepool"), "{kind}: {tags:?}");
    }
    let seen: BTreeSet<_> = requests.iter().map(|r| r.action.as_str()).collect();
    assert!(seen.contains("ec2:TerminateInstances"), "{seen:?}");
    aws.finish().await?;
    drop(controller);
    Ok(())
}
