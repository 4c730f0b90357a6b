//! The inline policy of an assumed session: a fence around whatever the role allows.
//!
//! A session may do what the role's policies and this one both allow. So it allows everything and denies what lies
//! outside this cluster: other regions, launches into other VPCs, launches without both ownership tags, and changes of
//! what does not carry them, as far as we make such changes at all. What we never call, the role should not allow.

use serde_json::{Value, json};

use crate::tags::{NODEPOOL, cluster_tag};

/// Services without a region of their own: their calls carry us-east-1 or the like as the requested region.
const GLOBAL: &[&str] = &["iam:*", "sts:*", "pricing:*"];

/// The partition a region belongs to; ARNs begin with it.
pub(crate) fn partition(region: &str) -> &'static str {
    let of_prefix = [
        ("cn-", "aws-cn"),
        ("us-gov-", "aws-us-gov"),
        ("us-isob-", "aws-iso-b"),
        ("us-isof-", "aws-iso-f"),
        ("us-iso-", "aws-iso"),
        ("eu-isoe-", "aws-iso-e"),
        ("eusc-", "aws-eusc"),
    ];
    let found = of_prefix.iter().find(|(prefix, _)| region.starts_with(prefix));
    found.map_or("aws", |(_, partition)| *partition)
}

/// The policy of the one session that asks EKS where the cluster is, before its VPC is known.
pub(crate) fn discovery(region: &str, cluster: &str) -> String {
    let policy = json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Action": "eks:DescribeCluster",
            "Resource": format!("arn:{}:eks:{region}:*:cluster/{cluster}", partition(region)),
        }],
    });
    policy.to_string()
}

/// The policy of every other session.
///
/// A condition on a tag with a negated operator also holds where the tag is absent, and that is meant: what carries no
/// ownership tag is not ours. A `Deny` therefore names only resources that must carry the tag at that moment: a launch
/// template in `CreateFleet` is an existing resource, so its tags are not in the request.
pub(crate) fn working(region: &str, cluster: &str, vpc_id: &str) -> String {
    let owned = cluster_tag(cluster);
    let arn = |resource: &str| format!("arn:{}:ec2:*:*:{resource}", partition(region));
    let requested = format!("aws:RequestTag/{owned}");
    let existing = format!("aws:ResourceTag/{owned}");
    let pool_requested = format!("aws:RequestTag/{NODEPOOL}");
    let deny = |action: Value, resource: Value, condition: Value| json!({ "Effect": "Deny", "Action": action, "Resource": resource, "Condition": condition });
    let launched = [
        "fleet",
        "instance",
        "volume",
        "network-interface",
        "spot-instances-request",
    ]
    .map(|kind| arn(&format!("{kind}/*")));
    let launches = json!(["ec2:RunInstances", "ec2:CreateFleet"]);
    // Tags that come with a launch are no change of what exists: they carry the action that creates.
    let changes = [
        "ec2:TerminateInstances",
        "ec2:DeleteLaunchTemplate",
        "ec2:CreateTags",
        "iam:AddRole*",
        "iam:RemoveRole*",
        "iam:DeleteInstanceProfile",
    ];
    // Instance profiles belong to a class, not to a pool.
    let of_pools = &changes[..3];
    let template = arn("launch-template/*");
    let policy = json!({
        "Version": "2012-10-17",
        "Statement": [
            { "Effect": "Allow", "Action": "*", "Resource": "*" },
            {
                "Effect": "Deny", "NotAction": GLOBAL, "Resource": "*",
                "Condition": { "StringNotEquals": { "aws:RequestedRegion": region } },
            },
            deny(
                launches.clone(),
                json!(arn("subnet/*")),
                json!({ "ArnNotLike": { "ec2:Vpc": arn(&format!("vpc/{vpc_id}")) } }),
            ),
            deny(launches.clone(), json!(launched), json!({ "StringNotEquals": { &requested: "owned" } })),
            deny(
                launches,
                json!(launched[..2]),
                json!({ "Null": { &pool_requested: "true" } }),
            ),
            deny(
                json!("ec2:CreateLaunchTemplate"),
                json!(template),
                json!({ "Null": { &pool_requested: "true" } }),
            ),
            deny(
                json!(changes),
                json!("*"),
                json!({ "Null": { "ec2:CreateAction": "true" }, "StringNotEquals": { &existing: "owned" } }),
            ),
            deny(
                json!(of_pools),
                json!("*"),
                json!({ "Null": { "ec2:CreateAction": "true", format!("aws:ResourceTag/{NODEPOOL}"): "true" } }),
            ),
        ],
    });
    policy.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Most characters AWS takes for an inline session policy.
    const POLICY_CHARS_MAX: usize = 2_048;

    /// The longest names AWS allows: 100 characters for a cluster, 17 hexadecimal digits for a VPC, the longest name of
    /// a partition, and a region longer than any there is.
    fn worst() -> String {
        working("us-gov-northeast-1", &"c".repeat(100), "vpc-0123456789abcdef0")
    }

    #[test]
    fn fits_at_the_longest_names() {
        let policy = worst();
        assert!(
            policy.chars().count() <= POLICY_CHARS_MAX,
            "{} characters",
            policy.chars().count()
        );
        assert!(discovery("us-gov-northeast-1", &"c".repeat(100)).len() <= POLICY_CHARS_MAX);
    }

    #[test]
    fn arns_begin_with_the_regions_partition() {
        for (region, expected) in [
            ("eu-west-1", "aws"),
            ("cn-north-1", "aws-cn"),
            ("us-gov-west-1", "aws-us-gov"),
            ("us-isob-east-1", "aws-iso-b"),
        ] {
            assert_eq!(partition(region), expected, "{region}");
            assert!(working(region, "c", "v").contains(&format!("arn:{expected}:ec2")));
        }
    }

    #[test]
    fn fences_region_vpc_and_both_ownership_tags() {
        let policy: Value = serde_json::from_str(&working("eu-central-1", "prod", "vpc-1")).unwrap();
        let statements = policy["Statement"].as_array().unwrap();
        let allows: Vec<_> = statements.iter().filter(|s| s["Effect"] == "Allow").collect();
        assert_eq!(allows.len(), 1, "everything else is a deny");
        let denies = |action: &str, condition: &str| {
            statements.iter().any(|s| {
                s["Effect"] == "Deny"
                    && s["Action"].to_string().contains(action)
                    && s["Condition"].to_string().contains(condition)
            })
        };
        for (action, condition) in [
            ("ec2:CreateFleet", "vpc/vpc-1"),
            ("ec2:RunInstances", "vpc/vpc-1"),
            ("ec2:CreateFleet", "aws:RequestTag/kubernetes.io/cluster/prod"),
            ("ec2:CreateFleet", "aws:RequestTag/karpenter.sh/nodepool"),
            ("ec2:CreateLaunchTemplate", "aws:RequestTag/karpenter.sh/nodepool"),
            (
                "ec2:TerminateInstances",
                "aws:ResourceTag/kubernetes.io/cluster/prod",
            ),
            ("ec2:TerminateInstances", "aws:ResourceTag/karpenter.sh/nodepool"),
            (
                "ec2:DeleteLaunchTemplate",
                "aws:ResourceTag/kubernetes.io/cluster/prod",
            ),
            ("ec2:CreateTags", "aws:ResourceTag/kubernetes.io/cluster/prod"),
            (
                "iam:DeleteInstanceProfile",
                "aws:ResourceTag/kubernetes.io/cluster/prod",
            ),
        ] {
            assert!(denies(action, condition), "{action} is not denied by {condition}");
        }
        let region = statements
            .iter()
            .find(|s| s["NotAction"].is_array())
            .expect("a fence around the region");
        assert_eq!(
            region["Condition"]["StringNotEquals"]["aws:RequestedRegion"],
            "eu-central-1"
        );
    }
}
