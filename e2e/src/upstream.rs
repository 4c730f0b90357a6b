//! Karpenter's own controllers, to measure Plimsoll against and to run it beside on the same testbed: the one with the
//! kwok provider, and the one for AWS.

use anyhow::Result;

use crate::cloud::Cloud;
use crate::cluster::Cluster;
use crate::controller::Controller;
use crate::testbed::Testbed;
use crate::tools::{self, GoModule};

/// The Go module whose source also holds the CRDs.
const MODULE: &str = "sigs.k8s.io/karpenter";
/// Where in that module the CRDs are.
const CRD_DIRECTORIES: [&str; 2] = ["kwok/charts/crds", "kwok/apis/crds"];
/// The same of the controller for AWS.
const AWS_MODULE: &str = "github.com/aws/karpenter-provider-aws";
const AWS_CRD_DIRECTORIES: [&str; 1] = ["pkg/apis/crds"];

/// Builds it if need be, applies its CRDs and starts it. Its metrics and health ports are those of [`Controller`].
pub async fn spawn_upstream(testbed: &Testbed) -> Result<Controller> {
    let programs = tools::UPSTREAM.ensure().await?;
    let cluster = Cluster::connect(testbed.kubeconfig()).await?;
    apply_crds(&cluster).await?;
    Controller::spawn_program(
        &programs.join("karpenter-kwok"),
        testbed.kubeconfig(),
        &testbed.logs(),
        "karpenter-kwok",
        Vec::new(),
        &[("DISABLE_LEADER_ELECTION", "true")],
    )
}

/// The same with the controller for AWS, which works against the stand-in.
pub async fn spawn_upstream_aws(testbed: &Testbed, cloud: &Cloud) -> Result<Controller> {
    let programs = tools::UPSTREAM_AWS.ensure().await?;
    let cluster = Cluster::connect(testbed.kubeconfig()).await?;
    apply_crds_of(&cluster, &tools::UPSTREAM_AWS, AWS_MODULE, &AWS_CRD_DIRECTORIES).await?;
    let environment = cloud.karpenter_environment();
    let mut environment: Vec<(&str, &str)> = environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
    environment.push(("DISABLE_LEADER_ELECTION", "true"));
    Controller::spawn_program(
        &programs.join("karpenter-aws"),
        testbed.kubeconfig(),
        &testbed.logs(),
        "karpenter-aws",
        Vec::new(),
        &environment,
    )
}

/// The released version of the controller for AWS.
pub fn aws_version() -> &'static str {
    tools::UPSTREAM_AWS
        .version_of(AWS_MODULE)
        .expect("its go.mod requires it")
}

/// Applies the CRDs of the module's source: NodePool, NodeClaim, NodeOverlay, CapacityBuffer, KWOKNodeClass.
pub async fn apply_crds(cluster: &Cluster) -> Result<()> {
    tools::UPSTREAM.ensure().await?;
    apply_crds_of(cluster, &tools::UPSTREAM, MODULE, &CRD_DIRECTORIES).await
}

async fn apply_crds_of(
    cluster: &Cluster,
    program: &GoModule,
    module: &str,
    directories: &[&str],
) -> Result<()> {
    let source = program.source_of(module)?;
    for directory in directories {
        cluster.apply_directory(&source.join(directory)).await?;
    }
    Ok(())
}
