//! From settings to a provider that is known to work: each check that fails says what to grant, tag or set.

use aws_config::SdkConfig;
use aws_smithy_types::error::display::DisplayErrorContext;
use kube::Client;

use crate::{
    AwsCloud,
    cluster::{self, Cluster, EksCluster},
    credentials,
    error::code,
    session_policy,
    settings::Settings,
};

/// Where a pod finds the cluster's certificate authority.
const POD_CA_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// Why the provider cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("no AWS region: set AWS_REGION, or region in the profile of AWS_PROFILE")]
    NoRegion,
    #[error("no AWS identity: {0}; give the pod a role by EKS Pod Identity or IRSA, or set AWS_PROFILE")]
    NoIdentity(String),
    #[error("--assume-role-arn {0:?} is not the ARN of a role, such as arn:aws:iam::123456789012:role/name")]
    RoleArn(String),
    #[error(
        "the role {role} belongs to another account than this identity's ({account}); set --assume-role-external-id to \
         the external id its trust policy requires, or whoever knows the ARN could have us work for them"
    )]
    NoExternalId { role: String, account: String },
    #[error("cannot assume {role}: {why}")]
    AssumeRole { role: String, why: String },
    #[error(
        "cannot ask EKS about cluster {cluster}: {why}; allow eks:DescribeCluster on it, or set --cluster-endpoint, \
         --cluster-ca-bundle and --vpc-id"
    )]
    DescribeCluster { cluster: String, why: String },
    #[error("{missing} of cluster {cluster} is not known: set {flag}")]
    Unknown {
        missing: &'static str,
        cluster: String,
        flag: &'static str,
    },
    #[error("this identity may not call {action}: {why}; attach the controller policy to {who}")]
    Denied {
        action: &'static str,
        why: String,
        who: String,
    },
    #[error("cannot reach EC2 in {region}: {why}")]
    Unreachable { region: String, why: String },
    #[error(
        "the interruption queue {queue:?} cannot be used: {why}; create it, or leave --interruption-queue out"
    )]
    Queue { queue: String, why: String },
}

/// A provider whose identity, cluster and rights were checked, before it has a Kubernetes client.
#[derive(Debug)]
pub struct Prepared {
    settings: Settings,
    config: SdkConfig,
    cluster: Cluster,
    queue_url: Option<String>,
}

impl Prepared {
    pub fn provider(self, client: Client) -> AwsCloud {
        AwsCloud::new(self.settings, &self.config, self.cluster, self.queue_url, client)
    }
}

/// Finds out who and where we are, and whether that is enough.
pub async fn prepare(settings: Settings) -> Result<Prepared, StartError> {
    let base = credentials::base().await?;
    let region = base
        .region()
        .map(ToString::to_string)
        .ok_or(StartError::NoRegion)?;
    if let Some(role) = &settings.assume_role {
        credentials::check_trust(&base, role).await?;
    }
    let discovery = session_policy::discovery(&region, &settings.cluster_name);
    let discovery = credentials::session(&base, &settings, discovery).await?;
    let cluster = find_cluster(&settings, &region, &aws_sdk_eks::Client::new(&discovery)).await?;
    let policy = session_policy::working(&region, &cluster.name, &cluster.vpc_id);
    let config = credentials::session(&base, &settings, policy).await?;
    check_ec2(&config, &settings, &region).await?;
    let queue_url = match &settings.interruption_queue {
        None => None,
        Some(queue) => Some(find_queue(&config, queue).await?),
    };
    tracing::info!(
        cluster = cluster.name,
        region,
        vpc_id = cluster.vpc_id,
        role = settings.assume_role.as_ref().map(|r| r.arn.as_str()),
        interruption_queue = queue_url,
        "AWS is ready"
    );
    Ok(Prepared {
        settings,
        config,
        cluster,
        queue_url,
    })
}

async fn find_cluster(
    settings: &Settings,
    region: &str,
    eks: &aws_sdk_eks::Client,
) -> Result<Cluster, StartError> {
    let name = &settings.cluster_name;
    let told = settings.cluster_endpoint.is_some() && settings.vpc_id.is_some();
    let from_eks = match cluster::describe(eks, name).await {
        Ok(found) => found,
        // Not an EKS cluster, or no right to ask: enough was said in the settings.
        Err(error) if told => {
            tracing::warn!(%error, "EKS does not describe this cluster; AL2023 nodes need its service range");
            EksCluster::default()
        }
        Err(error) => {
            return Err(StartError::DescribeCluster {
                cluster: name.clone(),
                why: error.to_string(),
            });
        }
    };
    let known = |value: Option<String>, missing, flag| {
        value.ok_or_else(|| StartError::Unknown {
            missing,
            cluster: name.clone(),
            flag,
        })
    };
    let pod_ca = || {
        std::fs::read(POD_CA_FILE)
            .ok()
            .map(aws_smithy_types::base64::encode)
    };
    let ca_bundle = settings.cluster_ca_bundle.clone().or_else(pod_ca);
    Ok(Cluster {
        name: name.clone(),
        region: region.to_owned(),
        vpc_id: known(settings.vpc_id.clone().or(from_eks.vpc_id), "the VPC", "--vpc-id")?,
        endpoint: known(
            settings.cluster_endpoint.clone().or(from_eks.endpoint),
            "the endpoint",
            "--cluster-endpoint",
        )?,
        ca_bundle: known(
            ca_bundle.or(from_eks.ca_bundle),
            "the certificate authority",
            "--cluster-ca-bundle",
        )?,
        service_cidr: from_eks.service_cidr,
    })
}

/// One call that changes nothing shows whether EC2 answers and whether the policies are attached.
async fn check_ec2(config: &SdkConfig, settings: &Settings, region: &str) -> Result<(), StartError> {
    let ec2 = aws_sdk_ec2::Client::new(config);
    let Err(error) = ec2.describe_instance_types().dry_run(true).send().await else {
        return Ok(());
    };
    let why = DisplayErrorContext(&error).to_string();
    match code(&error) {
        "DryRunOperation" => Ok(()),
        "UnauthorizedOperation" | "AccessDenied" | "AuthFailure" => Err(StartError::Denied {
            action: "ec2:DescribeInstanceTypes",
            why,
            who: settings
                .assume_role
                .as_ref()
                .map_or_else(|| "it".to_owned(), |role| role.arn.clone()),
        }),
        _ => Err(StartError::Unreachable {
            region: region.to_owned(),
            why,
        }),
    }
}

async fn find_queue(config: &SdkConfig, queue: &str) -> Result<String, StartError> {
    let unusable = |why: String| StartError::Queue {
        queue: queue.to_owned(),
        why,
    };
    let answer = aws_sdk_sqs::Client::new(config)
        .get_queue_url()
        .queue_name(queue)
        .send()
        .await
        .map_err(|error| unusable(crate::error::provider_error("sqs:GetQueueUrl", &error).to_string()))?;
    answer
        .queue_url()
        .map(str::to_owned)
        .ok_or_else(|| unusable("SQS named no URL".into()))
}
