//! Launch templates: everything about a machine but its type and zone.
//!
//! A template is named by a hash of its content, so equal launches share one, whoever makes it first, and nothing has to
//! be remembered. Templates live as long as launches use them and are removed when idle or with their class.

mod data;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_sdk_ec2::types::{Filter, LaunchTemplate, ResourceType};
use jiff::Timestamp;
use plimsoll_provider::ProviderError;
use sha2::{Digest, Sha256};
use tokio::{sync::OnceCell, time::Instant};

use crate::{
    cluster::Cluster,
    error::{code, is_not_found, provider_error},
    tags::{self, EC2NODECLASS, EKS_CLUSTER_NAME, NODEPOOL, OWNED, cluster_tag},
};

pub(crate) use data::Content;

/// A template no launch has used for this long is removed. Long enough that a pool which launches now and then does not
/// make it anew each time.
const IDLE: Duration = Duration::from_hours(2);
const PAGE: i32 = 200;
const NAME_PREFIX: &str = "karpenter.k8s.aws/";
/// Bytes of the hash that go into a name.
const HASH_BYTES: usize = 16;

const EXISTS: &str = "InvalidLaunchTemplateName.AlreadyExistsException";

/// A template is never changed, so its first version is its content. `$Latest` could be another's.
pub(crate) const VERSION: &str = "1";

/// The launch templates of one cluster.
#[derive(Debug)]
pub(crate) struct LaunchTemplates {
    ec2: aws_sdk_ec2::Client,
    cluster: Cluster,
    known: Mutex<BTreeMap<String, Known>>,
}

#[derive(Debug)]
struct Known {
    /// Set once the template exists; launches that need the same one wait for the first.
    made: Arc<OnceCell<()>>,
    used: Instant,
}

/// The name of a template with this content.
pub(crate) fn name(content: &Content) -> String {
    let bytes = serde_json::to_vec(content).expect("a content has only texts for keys");
    let hash = hex::encode(&Sha256::digest(bytes)[..HASH_BYTES]);
    format!("{NAME_PREFIX}{hash}")
}

/// Whether a template is of one of these classes; None: of whichever.
fn is_of(template: &LaunchTemplate, classes: Option<&BTreeSet<&str>>) -> bool {
    classes.is_none_or(|classes| {
        let tags = tags::from_ec2(template.tags());
        tags.get(EC2NODECLASS)
            .is_some_and(|class| classes.contains(class.as_str()))
    })
}

impl LaunchTemplates {
    pub(crate) fn new(ec2: aws_sdk_ec2::Client, cluster: Cluster) -> Self {
        Self {
            ec2,
            cluster,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the template unless it exists, and answers with its name.
    pub(crate) async fn ensure(&self, content: &Content) -> Result<String, ProviderError> {
        let name = name(content);
        let made = {
            let mut known = self.known();
            let entry = known.entry(name.clone()).or_insert_with(|| Known {
                made: Arc::default(),
                used: Instant::now(),
            });
            entry.used = Instant::now();
            entry.made.clone()
        };
        made.get_or_try_init(|| self.make(&name, content)).await?;
        Ok(name)
    }

    /// EC2 does not know these templates: somebody removed them.
    pub(crate) fn forget<'a>(&self, names: impl IntoIterator<Item = &'a String>) {
        let mut known = self.known();
        for name in names {
            known.remove(name);
        }
    }

    async fn make(&self, name: &str, content: &Content) -> Result<(), ProviderError> {
        if let Some(existing) = self.find(name).await? {
            return self.must_be_ours(name, &existing);
        }
        let made = self
            .ec2
            .create_launch_template()
            .launch_template_name(name)
            .launch_template_data(content.request_data())
            .tag_specifications(tags::specification(ResourceType::LaunchTemplate, &content.tags))
            .send()
            .await;
        match made {
            Ok(_) => Ok(()),
            // A replica that led before us made the same one, or somebody else did.
            Err(error) if code(&error) == EXISTS => match self.find(name).await? {
                Some(existing) => self.must_be_ours(name, &existing),
                None => Err(provider_error("ec2:CreateLaunchTemplate", &error)),
            },
            Err(error) => Err(provider_error("ec2:CreateLaunchTemplate", &error)),
        }
    }

    fn must_be_ours(&self, name: &str, template: &LaunchTemplate) -> Result<(), ProviderError> {
        match self.not_ours(template) {
            None => Ok(()),
            Some(why) => Err(ProviderError::NotOurs {
                provider_id: name.to_owned(),
                why,
            }),
        }
    }

    async fn find(&self, name: &str) -> Result<Option<LaunchTemplate>, ProviderError> {
        let answer = self
            .ec2
            .describe_launch_templates()
            .launch_template_names(name)
            .send()
            .await;
        match answer {
            Ok(found) => Ok(found.launch_templates().first().cloned()),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(provider_error("ec2:DescribeLaunchTemplates", &error)),
        }
    }

    fn not_ours(&self, template: &LaunchTemplate) -> Option<String> {
        let owned = cluster_tag(&self.cluster.name);
        let tags = tags::from_ec2(template.tags());
        if tags.get(&owned).map(String::as_str) != Some(OWNED) {
            return Some(format!("it does not carry the tag {owned}={OWNED}"));
        }
        (!tags.contains_key(NODEPOOL)).then(|| format!("it does not carry the tag {NODEPOOL}"))
    }

    /// Removes the templates that no launch has used for a while, whoever made them for this cluster; only those of some
    /// classes if they are given.
    pub(crate) async fn collect(
        &self,
        classes: Option<&BTreeSet<&str>>,
        now: Timestamp,
    ) -> Result<(), ProviderError> {
        let mut removed = Ok(());
        for template in self.list(None).await? {
            if !is_of(&template, classes) {
                continue;
            }
            let Some(name) = template.launch_template_name() else {
                continue;
            };
            let created = template.create_time().map_or(0, aws_smithy_types::DateTime::secs);
            let old = now.as_second() - created >= IDLE.as_secs() as i64;
            let idle = self.known().get(name).is_none_or(|k| k.used.elapsed() >= IDLE);
            if old && idle {
                // One that cannot be removed keeps none of the others.
                removed = removed.and(self.remove(&template).await);
            }
        }
        removed
    }

    /// Removes all templates of a class that is going.
    pub(crate) async fn remove_of_class(&self, class: &str) -> Result<(), ProviderError> {
        let mut removed = Ok(());
        for template in self.list(Some(class)).await? {
            removed = removed.and(self.remove(&template).await);
        }
        removed
    }

    async fn list(&self, class: Option<&str>) -> Result<Vec<LaunchTemplate>, ProviderError> {
        let tag = |key: &str, value: &str| Filter::builder().name(format!("tag:{key}")).values(value).build();
        let mut request = self
            .ec2
            .describe_launch_templates()
            .filters(tag(EKS_CLUSTER_NAME, &self.cluster.name));
        if let Some(class) = class {
            request = request.filters(tag(EC2NODECLASS, class));
        }
        let mut pages = request.max_results(PAGE).into_paginator().send();
        let mut all = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| provider_error("ec2:DescribeLaunchTemplates", &error))?;
            all.extend_from_slice(page.launch_templates());
        }
        Ok(all)
    }

    async fn remove(&self, template: &LaunchTemplate) -> Result<(), ProviderError> {
        let (Some(name), Some(id)) = (template.launch_template_name(), template.launch_template_id()) else {
            return Ok(());
        };
        if let Some(why) = self.not_ours(template) {
            tracing::warn!(launch_template = name, why, "launch template left alone");
            return Ok(());
        }
        self.known().remove(name);
        match self
            .ec2
            .delete_launch_template()
            .launch_template_id(id)
            .send()
            .await
        {
            Ok(_) => {
                tracing::info!(launch_template = name, "removed launch template");
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(provider_error("ec2:DeleteLaunchTemplate", &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::Tag;
    use plimsoll_api::ec2nodeclass::EC2NodeClassSpec;

    use super::*;
    use crate::fake;

    /// A name says what is in a template, and not whose it is.
    #[tokio::test(start_paused = true)]
    async fn a_template_that_another_has_made_meanwhile_is_not_taken_for_ours() {
        let tag = |key: &str, value: &str| format!("<item><key>{key}</key><value>{value}</value></item>");
        let of_pool = tag(NODEPOOL, "general");
        let (ours, another) = (
            tag("kubernetes.io/cluster/prod", OWNED),
            tag("kubernetes.io/cluster/test", OWNED),
        );
        for (tags, expected) in [
            (format!("{of_pool}{ours}"), true),
            (format!("{of_pool}{another}"), false),
            (ours, false),
        ] {
            let aws = fake::Aws::default();
            let templates = LaunchTemplates::new(aws.identity().ec2(), fake::cluster());
            aws.next("DescribeLaunchTemplates", "");
            aws.next_refused("CreateLaunchTemplate", EXISTS);
            let item =
                format!("<item><launchTemplateName>n</launchTemplateName><tagSet>{tags}</tagSet></item>");
            aws.next(
                "DescribeLaunchTemplates",
                &format!("<launchTemplates>{item}</launchTemplates>"),
            );
            let made = templates
                .make("n", &data::tests::content(EC2NodeClassSpec::default()))
                .await;
            match made {
                Ok(()) => assert!(expected, "{tags}"),
                Err(error) => assert!(
                    !expected && matches!(error, ProviderError::NotOurs { .. }),
                    "{error}"
                ),
            }
        }
    }

    #[test]
    fn a_template_is_of_the_class_of_its_tag() {
        let template = |class: Option<&str>| {
            let tag = class.map(|class| Tag::builder().key(EC2NODECLASS).value(class).build());
            LaunchTemplate::builder()
                .set_tags(Some(tag.into_iter().collect()))
                .build()
        };
        let ours = BTreeSet::from(["guests"]);
        for (of, classes, expected) in [
            (Some("guests"), Some(&ours), true),
            (Some("another"), Some(&ours), false),
            (None, Some(&ours), false),
            (Some("guests"), Some(&BTreeSet::new()), false),
            (Some("another"), None, true),
            (None, None, true),
        ] {
            assert_eq!(is_of(&template(of), classes), expected, "{of:?} {classes:?}");
        }
    }
}
