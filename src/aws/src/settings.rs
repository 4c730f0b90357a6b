//! What the user decided about AWS, parsed once. The binary states every value; there is no hidden default.

use std::time::Duration;

/// Settings of the provider. Flags and environment variables are named as Karpenter's where they mean the same.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the EKS cluster; with it, ownership tags are written and looked for.
    pub cluster_name: String,
    /// URL of the API server as nodes reach it. None: asked of EKS.
    pub cluster_endpoint: Option<String>,
    /// Certificate authority of the API server, base64 of PEM. None: this pod's own, else asked of EKS.
    pub cluster_ca_bundle: Option<String>,
    /// The VPC of the cluster; nothing is launched outside it. None: asked of EKS.
    pub vpc_id: Option<String>,
    /// The role under which everything is done. None: the base identity acts itself.
    pub assume_role_arn: Option<String>,
    /// What the trust policies of assumed roles require; a must for a role of another account. A class may name another
    /// for its own role.
    pub assume_role_external_id: Option<String>,
    /// Length of a session; at most an hour when the base identity is itself a session.
    pub assume_role_duration: Duration,
    /// No route to IAM and Pricing: instance profiles are not managed, on-demand prices are the built-in list.
    pub isolated_vpc: bool,
    /// Memory that the hypervisor keeps, as a share of the nominal memory.
    pub vm_memory_overhead_percent: f64,
    /// Network interfaces per machine that are not for pods.
    pub reserved_enis: i64,
    /// The VPC CNI assigns /28 prefixes rather than single addresses, so that nodes hold more pods.
    pub prefix_delegation: bool,
    /// Name of the SQS queue that brings interruptions. None: not listened to.
    pub interruption_queue: Option<String>,
    /// Capacity reservations that classes name are launched into.
    pub reserved_capacity: bool,
    /// A class is taken for able to launch without asking EC2.
    pub disable_dry_run: bool,
    /// How often images are looked up.
    pub ami_refresh_interval: Duration,
    /// How often subnets are looked up.
    pub subnet_refresh_interval: Duration,
}
