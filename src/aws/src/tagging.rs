//! Tags that an instance can only get once its Node is known.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use plimsoll_api::{labels, nodeclaim::NodeClaim};
use plimsoll_provider::ProviderError;
use serde_json::json;

use crate::{
    AwsCloud,
    account::PATIENCE,
    tags::{EKS_CLUSTER_NAME, NODECLAIM, Tags},
};

/// Annotations: nothing is left to tag. Upstream reads and writes both.
const TAGGED: &str = "karpenter.k8s.aws/tagged";
const CLUSTER_NAME_TAGGED: &str = "compatibility.karpenter.k8s.aws/cluster-name-tagged";
/// CreateTags draws on the same allowance as the launches, so there is at most one a second, as upstream.
const PACE: Duration = Duration::from_secs(1);
/// What is not allowed, or too much, is so for every instance.
const PAUSE: Duration = Duration::from_mins(1);
/// Instances tagged before other things are attended to.
const AT_ONCE: usize = 20;

impl AwsCloud {
    /// Names the instances that are new, after their Nodes; those of each account at a pace of their own.
    pub(crate) async fn keep_tagged(&self, machines: &[(Arc<NodeClaim>, Arc<Node>)]) {
        let mut by_role: BTreeMap<Option<&String>, Vec<_>> = BTreeMap::new();
        for (claim, _) in machines {
            if let Some((provider_id, tags)) = wanted(claim, &self.cluster.name) {
                let annotations = claim.metadata.annotations.as_ref();
                let role = annotations.and_then(|a| a.get(labels::ASSUMED_ROLE));
                by_role.entry(role).or_default().push((claim, provider_id, tags));
            }
        }
        join_all(by_role.into_values().map(|new| self.tag(new))).await;
    }

    async fn tag(&self, new: Vec<(&Arc<NodeClaim>, &str, Tags)>) {
        let mut tagged = 0;
        for (claim, provider_id, tags) in new {
            let added = self.add_tags(claim, provider_id, tags);
            let Ok(answer) = tokio::time::timeout(PATIENCE, added).await else {
                tracing::warn!(
                    nodeclaim = claim.metadata.name,
                    "AWS is silent, instance not tagged yet"
                );
                return;
            };
            match answer {
                Ok(()) => self.mark_tagged(claim).await,
                Err(error) => {
                    tracing::warn!(nodeclaim = claim.metadata.name, %error, "instance not tagged, trying again");
                    if matches!(error, ProviderError::Denied(_) | ProviderError::Throttled(_)) {
                        tokio::time::sleep(PAUSE).await;
                        return;
                    }
                    // One that cannot be tagged must not keep the others from it.
                    continue;
                }
            }
            tagged += 1;
            if tagged == AT_ONCE {
                return;
            }
            tokio::time::sleep(PACE).await;
        }
    }

    async fn add_tags(&self, claim: &NodeClaim, provider_id: &str, tags: Tags) -> Result<(), ProviderError> {
        let account = self.account_of(claim).await;
        // What one role may not is said of no other.
        let account = account.map_err(|error| ProviderError::Transient(error.to_string()))?;
        account.instances.add_tags(provider_id, tags).await
    }

    async fn mark_tagged(&self, claim: &NodeClaim) {
        let api = Api::<NodeClaim>::all(self.client.0.clone());
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        // Its UID, so that a namesake is not taken for tagged.
        let patch = Patch::Merge(json!({ "metadata": {
            "uid": claim.metadata.uid,
            "annotations": { TAGGED: "true", CLUSTER_NAME_TAGGED: "true" },
        } }));
        match api.patch(name, &PatchParams::default(), &patch).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
            Err(error) => tracing::warn!(nodeclaim = name, %error, "a tagged instance is looked at again"),
        }
    }
}

/// Which instance, and its tags; None when there is nothing to do, or not yet.
fn wanted<'a>(claim: &'a NodeClaim, cluster: &str) -> Option<(&'a str, Tags)> {
    let done = |key: &str| {
        let annotations = claim.metadata.annotations.as_ref();
        annotations.and_then(|a| a.get(key)).map(String::as_str) == Some("true")
    };
    let status = claim.status.as_ref()?;
    let node = status.node_name.clone().filter(|name| !name.is_empty())?;
    if (done(TAGGED) && done(CLUSTER_NAME_TAGGED)) || claim.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let tags = BTreeMap::from([
        ("Name".to_owned(), node),
        (NODECLAIM.to_owned(), claim.metadata.name.clone()?),
        (EKS_CLUSTER_NAME.to_owned(), cluster.to_owned()),
    ]);
    Some((status.provider_id.as_deref()?, tags))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(annotations: Value, status: Value) -> NodeClaim {
        serde_json::from_value(json!({
            "metadata": { "name": "general-x", "annotations": annotations },
            "spec": { "requirements": [],
                "nodeClassRef": { "group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default" } },
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn an_instance_is_tagged_once_its_node_is_known() {
        let joined = json!({ "providerID": "aws:///a/i-1", "nodeName": "ip-10-0-0-1.ec2.internal" });
        let new = claim(json!({}), joined.clone());
        let (provider_id, tags) = wanted(&new, "prod").unwrap();
        assert_eq!(provider_id, "aws:///a/i-1");
        assert_eq!(
            tags,
            BTreeMap::from(
                [
                    ("Name", "ip-10-0-0-1.ec2.internal"),
                    ("karpenter.sh/nodeclaim", "general-x"),
                    ("eks:eks-cluster-name", "prod"),
                ]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
            )
        );
        let half = json!({ TAGGED: "true" });
        assert!(wanted(&claim(half, joined.clone()), "prod").is_some());
        let both = json!({ TAGGED: "true", CLUSTER_NAME_TAGGED: "true" });
        assert!(wanted(&claim(both, joined.clone()), "prod").is_none());
        assert!(wanted(&claim(json!({}), json!({ "providerID": "aws:///a/i-1" })), "prod").is_none());
        let mut leaving = claim(json!({}), joined);
        leaving.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
            jiff::Timestamp::UNIX_EPOCH,
        ));
        assert!(wanted(&leaving, "prod").is_none());
    }
}
