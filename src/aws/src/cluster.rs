//! What is known of the cluster: how its nodes reach it, and the VPC they must be in.

use plimsoll_provider::ProviderError;

use crate::error::provider_error;

/// Facts of the cluster that do not change while we run.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) vpc_id: String,
    /// URL of the API server.
    pub(crate) endpoint: String,
    /// Base64 of PEM.
    pub(crate) ca_bundle: String,
    /// Range of service addresses. None: EKS was not asked or did not say; AL2023 then cannot start.
    pub(crate) service_cidr: Option<String>,
}

/// What EKS says about a cluster.
#[derive(Debug, Default)]
pub(crate) struct EksCluster {
    pub(crate) endpoint: Option<String>,
    pub(crate) ca_bundle: Option<String>,
    pub(crate) vpc_id: Option<String>,
    pub(crate) service_cidr: Option<String>,
}

pub(crate) async fn describe(eks: &aws_sdk_eks::Client, name: &str) -> Result<EksCluster, ProviderError> {
    let answer = eks
        .describe_cluster()
        .name(name)
        .send()
        .await
        .map_err(|error| provider_error("eks:DescribeCluster", &error))?;
    let Some(cluster) = answer.cluster() else {
        return Ok(EksCluster::default());
    };
    let network = cluster.kubernetes_network_config();
    let cidr = network.and_then(|n| n.service_ipv4_cidr().or(n.service_ipv6_cidr()));
    Ok(EksCluster {
        endpoint: cluster.endpoint().map(str::to_owned),
        ca_bundle: cluster
            .certificate_authority()
            .and_then(aws_sdk_eks::types::Certificate::data)
            .map(str::to_owned),
        vpc_id: cluster
            .resources_vpc_config()
            .and_then(aws_sdk_eks::types::VpcConfigResponse::vpc_id)
            .map(str::to_owned),
        service_cidr: cidr.map(str::to_owned),
    })
}
