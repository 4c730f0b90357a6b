//! What the provider does by itself while it leads.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures::{StreamExt, future::join_all};
use jiff::Timestamp;
use kube::{
    Api,
    api::ListParams,
    runtime::{WatchStreamExt, watcher},
};
use plimsoll_api::{ec2nodeclass::EC2NodeClass, nodeclaim::NodeClaim, nodepool::NodePool};
use plimsoll_provider::ProviderError;
use tokio::time::Instant;

use crate::{
    AwsCloud,
    account::Account,
    dry_run::pools_of,
    jobs::Jobs,
    nodeclass::{PROFILE_ANNOTATION, PassError, collect_profiles},
    role::Role,
};

/// Each class is looked at this often; what its selectors find changes without a word.
const CLASSES_INTERVAL: Duration = Duration::from_secs(15);
/// Upstream's interval for instance profiles.
const CLEAN_INTERVAL: Duration = Duration::from_mins(30);
/// How late prices that are due may be asked for.
const MARKET_INTERVAL: Duration = Duration::from_secs(15);
/// The longest wait for a pause of an offering to end, so that a new, shorter one is not overslept.
const OFFERINGS_INTERVAL: Duration = Duration::from_secs(15);

impl AwsCloud {
    /// Reconciles EC2NodeClasses when one changes, and now and then.
    pub(crate) async fn keep_classes(&self) {
        let mut changes = watcher(self.classes.api(), watcher::Config::default())
            .default_backoff()
            .boxed();
        let mut passes = Jobs::new();
        // Which to look at; None: all.
        let mut missed: Option<String> = None;
        loop {
            let read = async {
                Ok(match &missed {
                    Some(name) => Vec::from_iter(self.class(name).await?),
                    None => self.all_classes().await?.into_values().collect(),
                })
            };
            let read: Result<Vec<EC2NodeClass>, ProviderError> = passes.meanwhile(read).await;
            match read {
                Ok(classes) => {
                    for class in classes {
                        let name = class.metadata.name.clone().unwrap_or_default();
                        passes.start(name, self.keep_class(class));
                    }
                }
                Err(error) => tracing::warn!(%error, "EC2NodeClasses could not be read"),
            }
            let due = pin!(tokio::time::sleep(CLASSES_INTERVAL));
            let changed = async {
                loop {
                    match changes.next().await {
                        // Only what starts or changes a class is news; a failed watch is made anew by itself.
                        Some(Ok(
                            watcher::Event::Apply(_) | watcher::Event::Delete(_) | watcher::Event::InitDone,
                        )) => {
                            return;
                        }
                        Some(_) => {}
                        None => std::future::pending().await,
                    }
                }
            };
            missed = tokio::select! {
                class = passes.next_missed() => Some(class),
                () = changed => None,
                () = self.pools_changed.notified() => None,
                () = due => None,
            };
        }
    }

    async fn keep_class(&self, class: EC2NodeClass) {
        let name = class.metadata.name.clone();
        // A trial launch is tens of kilobytes.
        match Box::pin(self.pass_over_class(class)).await {
            Ok(false) => {}
            Ok(true) => {
                self.changed.notify_one();
                self.classes_changed.notify_one();
            }
            Err(PassError::Kubernetes(kube::Error::Api(status))) if status.is_conflict() => {}
            Err(error) => {
                tracing::warn!(ec2nodeclass = name, %error, "pass over a class failed, trying again");
            }
        }
    }

    /// True when its status changed.
    async fn pass_over_class(&self, class: EC2NodeClass) -> Result<bool, PassError> {
        let name = class.metadata.name.clone().unwrap_or_default();
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let pools = pools.map(|all| pools_of(&all, &name).cloned().collect::<Vec<_>>());
        let version = |pool: &Arc<NodePool>| {
            let (uid, generation) = (&pool.metadata.uid, pool.metadata.generation);
            format!(
                "{}@{}",
                uid.as_deref().unwrap_or_default(),
                generation.unwrap_or(0)
            )
        };
        let versions = pools
            .as_ref()
            .map(|all| all.iter().map(version).collect::<Vec<_>>());
        let now = Timestamp::now();
        let Some(mut pass) = self.classes.begin(class, versions.as_deref(), now).await? else {
            return Ok(true);
        };
        if let (Some((class, account)), Some(pools)) = (pass.to_try.take(), pools) {
            let outcome = self.try_launch(&class, &account, &pools).await;
            pass.tried(outcome, now);
        }
        self.classes.end(pass, now).await
    }

    pub(crate) async fn keep_market(&self) {
        // Each account, and when its goods are due, by role.
        let mut due: BTreeMap<Option<Role>, (Arc<Account>, Instant)> = BTreeMap::new();
        let mut refreshes = Jobs::new();
        loop {
            let (now, open) = (Instant::now(), self.accounts.open());
            due.retain(|role, _| open.iter().any(|account| account.role == *role));
            for account in open {
                let role = account.role.clone();
                let (of, at) = due.entry(role.clone()).or_insert_with(|| (account.clone(), now));
                if !Arc::ptr_eq(of, &account) {
                    // Opened anew, so it knows nothing yet.
                    (*of, *at) = (account.clone(), now);
                }
                if *at <= now {
                    refreshes.start(role, async move {
                        let changed = account.market.refresh(Timestamp::now()).await;
                        (account, changed)
                    });
                }
            }
            tokio::select! {
                (role, (account, changed)) = refreshes.next() => {
                    if changed {
                        self.changed.notify_one();
                    }
                    if let Some((of, at)) = due.get_mut(&role)
                        && Arc::ptr_eq(of, &account)
                    {
                        *at = Instant::now() + account.market.rest();
                    }
                }
                () = self.accounts.opened() => {}
                () = tokio::time::sleep(MARKET_INTERVAL) => {}
            }
        }
    }

    /// Says when an offering may be tried again.
    pub(crate) async fn keep_offerings(&self) {
        loop {
            let now = Timestamp::now();
            let open = self.accounts.open();
            let ends = open.iter().filter_map(|a| a.unavailable().next_end(now));
            let wait = ends.min().map(|end| end.duration_since(now).unsigned_abs());
            match wait {
                Some(wait) if wait <= OFFERINGS_INTERVAL => {
                    tokio::time::sleep(wait).await;
                    self.changed.notify_one();
                }
                _ => tokio::time::sleep(OFFERINGS_INTERVAL).await,
            }
        }
    }

    /// Removes what no launch uses any more.
    pub(crate) async fn keep_clean(&self) {
        loop {
            tokio::time::sleep(CLEAN_INTERVAL).await;
            if let Err(error) = self.clean().await {
                tracing::warn!(%error, "launch templates and instance profiles not collected");
            }
        }
    }

    async fn clean(&self) -> Result<(), ProviderError> {
        let failed = |error: kube::Error| ProviderError::Transient(error.to_string());
        let claims = Api::<NodeClaim>::all(self.client.0.clone());
        let claims = claims.list(&ListParams::default()).await.map_err(failed)?;
        let claims: Vec<_> = claims.items.into_iter().map(Arc::new).collect();
        let classes = self.all_classes().await?;
        let of_classes = classes.values();
        let of_classes = of_classes.filter_map(|c| c.status.as_ref()?.instance_profile.clone());
        let annotation = |claim: &Arc<NodeClaim>| {
            let annotations = claim.metadata.annotations.as_ref();
            annotations?.get(PROFILE_ANNOTATION).cloned()
        };
        let used = of_classes.chain(claims.iter().filter_map(annotation)).collect();
        self.accounts.keep(&self.roles(&claims, &classes));
        let now = Timestamp::now();
        let clean = async |account: Arc<Account>| {
            let role = account.name();
            let of_role = account
                .role
                .as_ref()
                .map(|role| classes_of(classes.values(), role, &self.cluster.region));
            let names = of_role
                .as_ref()
                .map(|all| all.iter().filter_map(|c| c.metadata.name.as_deref()).collect());
            if let Err(error) = account.templates.collect(names.as_ref(), now).await {
                tracing::warn!(role, %error, "launch templates not collected");
            }
            if self.settings.isolated_vpc {
                return;
            }
            let (iam, cluster) = (&account.iam, &account.cluster);
            if let Err(error) = collect_profiles(iam, cluster, of_role.as_deref(), &used, now).await {
                tracing::warn!(role, %error, "instance profiles not collected");
            }
        };
        join_all(self.accounts.open().into_iter().map(clean)).await;
        Ok(())
    }
}

/// Classes which may have left something under this role. Of others nothing is collected there: names of clusters repeat
/// between accounts, and where a role is a guest there may live a cluster with the name of this one.
fn classes_of<'a>(
    classes: impl IntoIterator<Item = &'a EC2NodeClass>,
    role: &Role,
    region: &str,
) -> Vec<&'a EC2NodeClass> {
    let has_used =
        |class: &&EC2NodeClass| Role::all_of_class(class, region).is_ok_and(|all| all.contains_key(role));
    classes.into_iter().filter(has_used).collect()
}

#[cfg(test)]
mod tests {
    use plimsoll_api::ec2nodeclass::EC2NodeClassSpec;

    use super::*;
    use crate::role::{ALL_ASSUMED, remembered};

    #[test]
    fn only_classes_that_have_used_a_role_are_cleaned_up_under_it() {
        let role = |name: &str| Role {
            arn: format!("arn:aws:iam::210987654321:role/{name}"),
            vpc_id: None,
        };
        let remembers = |names: &[&str]| {
            let all = names.iter().map(|name| (role(name), None)).collect();
            Some(remembered(&all))
        };
        let class = |name: &str, remembers: Option<String>| {
            let mut class = EC2NodeClass::new(name, EC2NodeClassSpec::default());
            class.metadata.annotations = remembers.map(|text| [(ALL_ASSUMED.to_owned(), text)].into());
            class
        };
        let classes = [
            class("home", None),
            class("unreadable", Some("?".into())),
            class("one", remembers(&["a"])),
            class("both", remembers(&["a", "b"])),
        ];
        let names = |name: &str| -> Vec<String> {
            let all = classes_of(&classes, &role(name), "us-east-1").into_iter();
            all.filter_map(|class| class.metadata.name.clone()).collect()
        };
        assert_eq!(names("a"), ["one", "both"]);
        assert_eq!(names("b"), ["both"]);
        assert_eq!(names("c"), [""; 0]);
    }
}
