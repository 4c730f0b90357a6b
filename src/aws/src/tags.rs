//! Tags: how AWS resources say which cluster, pool, class and claim they belong to.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::{ResourceType, Tag, TagSpecification};

/// Tag: the NodePool; one of the two ownership tags.
pub(crate) const NODEPOOL: &str = "karpenter.sh/nodepool";
/// Tag: the NodeClaim a machine was launched for.
pub(crate) const NODECLAIM: &str = "karpenter.sh/nodeclaim";
/// Tag: UID of that NodeClaim; a name may be used again, a UID never.
pub(crate) const NODECLAIM_UID: &str = "plimsoll.dev/nodeclaim-uid";
/// Tag: the EC2NodeClass.
pub(crate) const EC2NODECLASS: &str = "karpenter.k8s.aws/ec2nodeclass";
/// Tag: the cluster, as EKS names it.
pub(crate) const EKS_CLUSTER_NAME: &str = "eks:eks-cluster-name";
/// Value of [`cluster_tag`].
pub(crate) const OWNED: &str = "owned";

/// Key of the tag by which a resource belongs to a cluster; the other ownership tag.
pub(crate) fn cluster_tag(cluster: &str) -> String {
    format!("kubernetes.io/cluster/{cluster}")
}

pub(crate) type Tags = BTreeMap<String, String>;

/// The user's tags and ours; ours win.
pub(crate) fn launch_tags(
    cluster: &str,
    class: &str,
    pool: &str,
    of_user: Option<&BTreeMap<String, String>>,
) -> Tags {
    let mut tags = of_user.cloned().unwrap_or_default();
    tags.insert(cluster_tag(cluster), OWNED.into());
    tags.insert(EKS_CLUSTER_NAME.into(), cluster.into());
    tags.insert(EC2NODECLASS.into(), class.into());
    tags.insert(NODEPOOL.into(), pool.into());
    tags
}

pub(crate) fn ec2_tags(tags: &Tags) -> Vec<Tag> {
    let tag = |(key, value): (&String, &String)| Tag::builder().key(key).value(value).build();
    tags.iter().map(tag).collect()
}

pub(crate) fn specification(kind: ResourceType, tags: &Tags) -> TagSpecification {
    TagSpecification::builder()
        .resource_type(kind)
        .set_tags(Some(ec2_tags(tags)))
        .build()
}

/// EC2's list of tags as a map.
pub(crate) fn from_ec2(tags: &[Tag]) -> Tags {
    tags.iter()
        .filter_map(|tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_win_over_the_users() {
        let of_user = BTreeMap::from([
            ("team".to_owned(), "a".to_owned()),
            (NODEPOOL.to_owned(), "forged".to_owned()),
        ]);
        let tags = launch_tags("prod", "default", "general", Some(&of_user));
        assert_eq!(tags["team"], "a");
        assert_eq!(tags[NODEPOOL], "general");
        assert_eq!(tags["kubernetes.io/cluster/prod"], "owned");
        assert_eq!(tags[EKS_CLUSTER_NAME], "prod");
        assert_eq!(tags.len(), 5);
    }
}
