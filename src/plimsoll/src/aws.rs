//! Flags and environment of the AWS provider, named as Karpenter's where they mean the same.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::{ArgAction, Args};
use plimsoll_aws::Settings;

use crate::{args::duration, gates};

/// The chart's shortest interval.
const REFRESH_MIN: Duration = Duration::from_secs(60);

/// Options of `--provider aws`. Region, endpoint and base identity are the AWS SDK's own: AWS_REGION, AWS_PROFILE,
/// AWS_ENDPOINT_URL, AWS_USE_FIPS_ENDPOINT, HTTPS_PROXY and so on.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "AWS")]
pub(crate) struct AwsOptions {
    /// Name of the EKS cluster.
    #[arg(long, env = "CLUSTER_NAME")]
    cluster_name: Option<String>,
    /// URL of the API server as nodes reach it. Default: asked of EKS.
    #[arg(long, env = "CLUSTER_ENDPOINT")]
    cluster_endpoint: Option<String>,
    /// Certificate authority of the API server, base64 of PEM. Default: this pod's own, else asked of EKS.
    #[arg(long, env = "CLUSTER_CA_BUNDLE", hide_env_values = true)]
    cluster_ca_bundle: Option<String>,
    /// The VPC of the cluster; nothing is launched outside it. Default: asked of EKS.
    #[arg(long, env = "VPC_ID")]
    vpc_id: Option<String>,
    /// Role to assume for everything that is done; for a class, its annotation plimsoll.dev/assume-role-arn goes before.
    #[arg(long, env = "ASSUME_ROLE_ARN")]
    assume_role_arn: Option<String>,
    /// External id that the trust policies of assumed roles require.
    #[arg(long, env = "ASSUME_ROLE_EXTERNAL_ID", hide_env_values = true)]
    assume_role_external_id: Option<String>,
    /// Length of a session; at most 1h when the base identity is a session itself.
    #[arg(long, env = "ASSUME_ROLE_DURATION", default_value = "1h", value_parser = duration)]
    assume_role_duration: Duration,
    /// There is no route to IAM and Pricing.
    #[arg(long, env = "ISOLATED_VPC", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    isolated_vpc: bool,
    /// Share of the memory that the hypervisor keeps.
    #[arg(long, env = "VM_MEMORY_OVERHEAD_PERCENT", default_value_t = 0.075)]
    vm_memory_overhead_percent: f64,
    /// Network interfaces per machine that are not for pods.
    #[arg(long, env = "RESERVED_ENIS", default_value_t = 0)]
    reserved_enis: u32,
    /// The VPC CNI assigns prefixes (ENABLE_PREFIX_DELEGATION), so that nodes hold more pods.
    #[arg(long, env = "PREFIX_DELEGATION", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    prefix_delegation: bool,
    /// Name of the SQS queue that brings interruptions. Default: none is listened to.
    #[arg(long, env = "INTERRUPTION_QUEUE")]
    interruption_queue: Option<String>,
    /// Karpenter's gates; of these ReservedCapacity can be closed.
    #[arg(long, env = "FEATURE_GATES", default_value = "ReservedCapacity=true")]
    feature_gates: String,
    /// Take classes for able to launch without asking EC2 by dry runs.
    #[arg(long, env = "DISABLE_DRY_RUN", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    disable_dry_run: bool,
    #[arg(long, env = "AMI_REFRESH_INTERVAL", default_value = "1m", value_parser = duration)]
    ami_refresh_interval: Duration,
    #[arg(long, env = "SUBNET_REFRESH_INTERVAL", default_value = "1m", value_parser = duration)]
    subnet_refresh_interval: Duration,
}

impl AwsOptions {
    pub(crate) fn settings(&self) -> anyhow::Result<Settings> {
        let named = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
        if !(0.0..1.0).contains(&self.vm_memory_overhead_percent) {
            bail!("--vm-memory-overhead-percent must be at least 0 and less than 1, such as 0.075");
        }
        for (flag, interval) in [
            ("--ami-refresh-interval", self.ami_refresh_interval),
            ("--subnet-refresh-interval", self.subnet_refresh_interval),
        ] {
            if interval < REFRESH_MIN {
                bail!("{flag} must be at least 1m");
            }
        }
        Ok(Settings {
            cluster_name: named(&self.cluster_name).context(
                "--provider aws needs the name of the cluster: set --cluster-name or CLUSTER_NAME",
            )?,
            cluster_endpoint: named(&self.cluster_endpoint),
            cluster_ca_bundle: named(&self.cluster_ca_bundle),
            vpc_id: named(&self.vpc_id),
            assume_role_arn: named(&self.assume_role_arn),
            assume_role_external_id: named(&self.assume_role_external_id),
            assume_role_duration: self.assume_role_duration,
            isolated_vpc: self.isolated_vpc,
            vm_memory_overhead_percent: self.vm_memory_overhead_percent,
            reserved_enis: i64::from(self.reserved_enis),
            prefix_delegation: self.prefix_delegation,
            interruption_queue: named(&self.interruption_queue),
            reserved_capacity: gates::said(&self.feature_gates, "ReservedCapacity") != Some(false),
            disable_dry_run: self.disable_dry_run,
            ami_refresh_interval: self.ami_refresh_interval,
            subnet_refresh_interval: self.subnet_refresh_interval,
        })
    }
}
