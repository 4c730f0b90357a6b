//! Instance profiles: the form in which EC2 takes a role.
//!
//! The name follows from region, class and role, so a crash between making and recording leaves nothing behind that the
//! next pass would not find, and a change of the role gets a profile of its own.

use std::collections::BTreeSet;

use aws_sdk_iam::types::{InstanceProfile, Tag};
use jiff::Timestamp;
use plimsoll_api::ec2nodeclass::EC2NodeClass;
use plimsoll_provider::ProviderError;
use sha2::{Digest, Sha256};

use crate::{
    cluster::Cluster,
    error::{code, is_not_found, provider_error},
    tags::{EC2NODECLASS, EKS_CLUSTER_NAME, OWNED, cluster_tag},
};

/// Annotation on NodeClaims: the profile their machine was launched with, which is therefore in use.
pub(crate) const PROFILE_ANNOTATION: &str = "karpenter.k8s.aws/instance-profile-name";
const REGION_TAG: &str = "topology.kubernetes.io/region";
/// A profile younger than this may not have reached a status yet.
const YOUNG_SECONDS: i64 = 3_600;
const HASH_BYTES: usize = 10;

fn path_of_cluster(cluster: &Cluster) -> String {
    format!("/karpenter/{}/{}/", cluster.region, cluster.name)
}

fn path_of_class(cluster: &Cluster, class: &EC2NodeClass) -> String {
    let uid = class.metadata.uid.as_deref().unwrap_or_default();
    format!("{}{uid}/", path_of_cluster(cluster))
}

fn name_of(cluster: &Cluster, class: &EC2NodeClass, role: &str) -> String {
    let uid = class.metadata.uid.as_deref().unwrap_or_default();
    let hash = Sha256::digest(format!("{}/{uid}/{role}", cluster.region));
    format!("{}_{}", cluster.name, hex::encode(&hash[..HASH_BYTES]))
}

/// IAM names a role without its path.
fn bare_role(role: &str) -> &str {
    role.rsplit('/').next().unwrap_or(role)
}

/// The profile of a class, made unless it is there.
pub(crate) async fn ensure(
    iam: &aws_sdk_iam::Client,
    cluster: &Cluster,
    class: &EC2NodeClass,
    role: &str,
) -> Result<String, ProviderError> {
    let name = name_of(cluster, class, role);
    let profile = match find(iam, &name).await? {
        Some(profile) => Some(profile),
        None => create(iam, cluster, class, &name).await?,
    };
    let roles = profile.as_ref().map(InstanceProfile::roles).unwrap_or_default();
    if !roles.iter().any(|r| r.role_name() == bare_role(role)) {
        let added = iam
            .add_role_to_instance_profile()
            .instance_profile_name(&name)
            .role_name(bare_role(role))
            .send()
            .await;
        added.map_err(|error| provider_error("iam:AddRoleToInstanceProfile", &error))?;
    }
    Ok(name)
}

async fn find(iam: &aws_sdk_iam::Client, name: &str) -> Result<Option<InstanceProfile>, ProviderError> {
    match iam
        .get_instance_profile()
        .instance_profile_name(name)
        .send()
        .await
    {
        Ok(answer) => Ok(answer.instance_profile().cloned()),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(provider_error("iam:GetInstanceProfile", &error)),
    }
}

async fn create(
    iam: &aws_sdk_iam::Client,
    cluster: &Cluster,
    class: &EC2NodeClass,
    name: &str,
) -> Result<Option<InstanceProfile>, ProviderError> {
    let action = "iam:CreateInstanceProfile";
    let class_name = class.metadata.name.clone().unwrap_or_default();
    let mut tags = class.spec.tags.clone().unwrap_or_default();
    tags.insert(cluster_tag(&cluster.name), OWNED.into());
    tags.insert(EKS_CLUSTER_NAME.into(), cluster.name.clone());
    tags.insert(EC2NODECLASS.into(), class_name);
    tags.insert(REGION_TAG.into(), cluster.region.clone());
    let tags: Result<Vec<Tag>, _> = tags
        .into_iter()
        .map(|(key, value)| Tag::builder().key(key).value(value).build())
        .collect();
    let tags = tags.map_err(|error| ProviderError::Transient(format!("{action}: {error}")))?;
    let created = iam
        .create_instance_profile()
        .instance_profile_name(name)
        .path(path_of_class(cluster, class))
        .set_tags(Some(tags))
        .send()
        .await;
    match created {
        Ok(answer) => Ok(answer.instance_profile().cloned()),
        Err(error) if code(&error) == "EntityAlreadyExists" => find(iam, name).await,
        Err(error) => Err(provider_error(action, &error)),
    }
}

/// Removes the profiles of a class that is going.
pub(crate) async fn remove_of_class(
    iam: &aws_sdk_iam::Client,
    cluster: &Cluster,
    class: &EC2NodeClass,
) -> Result<(), ProviderError> {
    let mut removed = Ok(());
    for profile in list(iam, &path_of_class(cluster, class)).await? {
        removed = removed.and(remove(iam, cluster, profile.instance_profile_name()).await);
    }
    removed
}

/// Removes the profiles of this cluster that no class and no machine uses; only those of some classes if they are given.
pub(crate) async fn collect_profiles(
    iam: &aws_sdk_iam::Client,
    cluster: &Cluster,
    classes: Option<&[&EC2NodeClass]>,
    used: &BTreeSet<String>,
    now: Timestamp,
) -> Result<(), ProviderError> {
    let mut removed = Ok(());
    for path in paths(cluster, classes) {
        for profile in list(iam, &path).await? {
            let name = profile.instance_profile_name();
            let young = now.as_second() - profile.create_date().secs() < YOUNG_SECONDS;
            if !young && !used.contains(name) {
                // One that cannot be removed keeps none of the others.
                removed = removed.and(remove(iam, cluster, name).await);
            }
        }
    }
    removed
}

fn paths(cluster: &Cluster, classes: Option<&[&EC2NodeClass]>) -> Vec<String> {
    match classes {
        None => vec![path_of_cluster(cluster)],
        // The path of one without a UID would be that of the cluster.
        Some(classes) => classes
            .iter()
            .filter(|class| class.metadata.uid.as_ref().is_some_and(|uid| !uid.is_empty()))
            .map(|class| path_of_class(cluster, class))
            .collect(),
    }
}

async fn list(iam: &aws_sdk_iam::Client, path: &str) -> Result<Vec<InstanceProfile>, ProviderError> {
    let mut pages = iam
        .list_instance_profiles()
        .path_prefix(path)
        .into_paginator()
        .send();
    let mut all = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| provider_error("iam:ListInstanceProfiles", &error))?;
        all.extend_from_slice(page.instance_profiles());
    }
    Ok(all)
}

/// Removes a profile after a look at whose it is.
async fn remove(iam: &aws_sdk_iam::Client, cluster: &Cluster, name: &str) -> Result<(), ProviderError> {
    let Some(profile) = find(iam, name).await? else {
        return Ok(());
    };
    let owned = cluster_tag(&cluster.name);
    if !profile
        .tags()
        .iter()
        .any(|t| t.key() == owned && t.value() == OWNED)
    {
        tracing::warn!(
            instance_profile = name,
            "instance profile without our tag left alone"
        );
        return Ok(());
    }
    for role in profile.roles() {
        let removed = iam
            .remove_role_from_instance_profile()
            .instance_profile_name(name)
            .role_name(role.role_name())
            .send()
            .await;
        match removed {
            Ok(_) => {}
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(provider_error("iam:RemoveRoleFromInstanceProfile", &error)),
        }
    }
    match iam
        .delete_instance_profile()
        .instance_profile_name(name)
        .send()
        .await
    {
        Ok(_) => {
            tracing::info!(instance_profile = name, "removed instance profile");
            Ok(())
        }
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(provider_error("iam:DeleteInstanceProfile", &error)),
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_api::ec2nodeclass::EC2NodeClassSpec;

    use super::*;
    use crate::fake;

    #[test]
    fn names_follow_from_class_and_role_and_fit() {
        let cluster = |name: &str| Cluster {
            name: name.into(),
            ..fake::cluster()
        };
        let class = |uid: &str| {
            let mut class = EC2NodeClass::new("default", EC2NodeClassSpec::default());
            class.metadata.uid = Some(uid.into());
            class
        };
        let name = name_of(&cluster("prod"), &class("u-1"), "role");
        assert_eq!(name, name_of(&cluster("prod"), &class("u-1"), "role"));
        assert_ne!(name, name_of(&cluster("prod"), &class("u-1"), "other"));
        assert_ne!(name, name_of(&cluster("prod"), &class("u-2"), "role"));
        let longest = name_of(&cluster(&"c".repeat(100)), &class("u-1"), "role");
        assert!(longest.len() <= 128, "{}", longest.len());
        assert_eq!(
            path_of_class(&cluster("prod"), &class("u-1")),
            "/karpenter/us-east-1/prod/u-1/"
        );
        let (one, none) = (class("u-1"), class(""));
        assert_eq!(paths(&cluster("prod"), None), ["/karpenter/us-east-1/prod/"]);
        assert_eq!(
            paths(&cluster("prod"), Some(&[&one, &none])),
            ["/karpenter/us-east-1/prod/u-1/"],
            "never all of a cluster that may be another's of the same name"
        );
        assert_eq!(paths(&cluster("prod"), Some(&[])), [""; 0]);
        assert_eq!(bare_role("path/to/KarpenterNodeRole"), "KarpenterNodeRole");
    }
}
