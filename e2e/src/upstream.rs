//! Karpenter's own controller with its kwok provider, to measure Plimsoll against on the same testbed.

use anyhow::Result;

use crate::cluster::Cluster;
use crate::controller::Controller;
use crate::testbed::Testbed;
use crate::tools;

/// The Go module whose source also holds the CRDs.
const MODULE: &str = "sigs.k8s.io/karpenter";
/// Where in that module the CRDs are.
const CRD_DIRECTORIES: [&str; 2] = ["kwok/charts/crds", "kwok/apis/crds"];

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

/// Applies the CRDs of the module's source: NodePool, NodeClaim, NodeOverlay, CapacityBuffer, KWOKNodeClass.
pub async fn apply_crds(cluster: &Cluster) -> Result<()> {
    tools::UPSTREAM.ensure().await?;
    let source = tools::UPSTREAM.source_of(MODULE)?;
    for directory in CRD_DIRECTORIES {
        cluster.apply_directory(&source.join(directory)).await?;
    }
    Ok(())
}
