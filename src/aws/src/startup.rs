//! From settings to a provider that is known to work: each check that fails says what to grant, tag or set.

use aws_smithy_types::error::display::DisplayErrorContext;
use kube::Client;

use crate::{
    AwsCloud,
    cluster::{self, Cluster, EksCluster},
    credentials::{self, AssumeRole, Identity, TrustError},
    error::{code, provider_error},
    interruption::Queue,
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
        "the interruption queue {queue:?} cannot be used: {why}; create it and allow this identity sqs:GetQueueUrl, \
         sqs:ReceiveMessage and sqs:DeleteMessage on it, or leave --interruption-queue out"
    )]
    Queue { queue: String, why: String },
}

/// A provider whose identity, cluster and rights were checked, before it has a Kubernetes client.
#[derive(Debug)]
pub struct Prepared {
    settings: Settings,
    base: Identity,
    /// Of the assumed role, or the base identity again.
    acting: Identity,
    cluster: Cluster,
    queue_url: Option<String>,
}

impl Prepared {
    pub fn provider(self, client: Client) -> AwsCloud {
        let identities = (self.base, &self.acting);
        AwsCloud::new(self.settings, identities, self.cluster, self.queue_url, client)
    }
}

/// Finds out who and where we are, and whether that is enough.
pub async fn prepare(settings: Settings) -> Result<Prepared, StartError> {
    let base = credentials::base().await?;
    let region = base.region().ok_or(StartError::NoRegion)?.to_owned();
    if let Some(role) = AssumeRole::of_settings(&settings) {
        check_role(&base, &role).await?;
    }
    let discovery = session_policy::discovery(&region, &settings.cluster_name);
    let discovery = act(&base, &settings, discovery).await?;
    let cluster = find_cluster(&settings, &region, &discovery.eks()).await?;
    let policy = session_policy::working(&region, &cluster.name, &cluster.vpc_id);
    let acting = act(&base, &settings, policy).await?;
    check_ec2(&acting, &settings, &region).await?;
    let queue_url = match &settings.interruption_queue {
        None => None,
        Some(queue) => Some(find_queue(&acting, queue).await?),
    };
    tracing::info!(
        cluster = cluster.name,
        region,
        vpc_id = cluster.vpc_id,
        role = settings.assume_role_arn,
        interruption_queue = queue_url,
        "AWS is ready"
    );
    Ok(Prepared {
        settings,
        base,
        acting,
        cluster,
        queue_url,
    })
}

async fn check_role(base: &Identity, role: &AssumeRole) -> Result<(), StartError> {
    if credentials::account_of(&role.arn).is_none() {
        return Err(StartError::RoleArn(role.arn.clone()));
    }
    let trusted = credentials::check_trust(base, role).await;
    trusted.map_err(|error| match error {
        TrustError::NoIdentity(why) => StartError::NoIdentity(why),
        TrustError::NoExternalId(account) => StartError::NoExternalId {
            role: role.arn.clone(),
            account,
        },
    })
}

/// Without a role, the base identity acts itself.
async fn act(base: &Identity, settings: &Settings, policy: String) -> Result<Identity, StartError> {
    let Some(role) = AssumeRole::of_settings(settings) else {
        tracing::warn!(
            "no role is assumed, so there is no session policy: only the policies of this identity keep it from other VPCs and \
             other machines; --assume-role-arn names a role"
        );
        return Ok(base.clone());
    };
    let session = credentials::session(base, &role, &settings.cluster_name, policy).await;
    session.map_err(|error| StartError::AssumeRole {
        role: role.arn.clone(),
        why: error.to_string(),
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
async fn check_ec2(acting: &Identity, settings: &Settings, region: &str) -> Result<(), StartError> {
    let Err(error) = acting.ec2().describe_instance_types().dry_run(true).send().await else {
        return Ok(());
    };
    let why = DisplayErrorContext(&error).to_string();
    match code(&error) {
        "DryRunOperation" => Ok(()),
        "UnauthorizedOperation" | "AccessDenied" | "AuthFailure" => Err(StartError::Denied {
            action: "ec2:DescribeInstanceTypes",
            why,
            who: settings.assume_role_arn.as_deref().unwrap_or("it").to_owned(),
        }),
        _ => Err(StartError::Unreachable {
            region: region.to_owned(),
            why,
        }),
    }
}

async fn find_queue(acting: &Identity, queue: &str) -> Result<String, StartError> {
    let unusable = |why: String| StartError::Queue {
        queue: queue.to_owned(),
        why,
    };
    let answer = acting
        .sqs()
        .get_queue_url()
        .queue_name(queue)
        .send()
        .await
        .map_err(|error| unusable(provider_error("sqs:GetQueueUrl", &error).to_string()))?;
    let url = answer
        .queue_url()
        .ok_or_else(|| unusable("SQS named no URL".into()))?;
    let checked = Queue::new(acting.sqs(), url.to_owned()).check().await;
    checked.map_err(|error| unusable(error.to_string()))?;
    Ok(url.to_owned())
}
