//! Accounts: who makes the calls for a class, and what is known where they are made.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use plimsoll_api::ec2nodeclass::EC2NodeClass;
use plimsoll_provider::ProviderError;
use tokio::{
    sync::{Notify, OnceCell, Semaphore, SemaphorePermit},
    time::Instant,
};

use crate::{
    catalogue::pricing_region,
    cluster::Cluster,
    credentials::{self, AssumeError, AssumeRole, Identity, TrustError, account_of},
    instances::Instances,
    launch_template::LaunchTemplates,
    launches::VISIBLE_WITHIN,
    market::Market,
    role::{self, ExternalIds, Role, RoleError},
    session_policy,
    settings::Settings,
    unavailable::Unavailable,
};

/// A role that could not be assumed is tried again after this.
const RETRY: Duration = Duration::from_secs(15);

/// An account that does not answer for this long is passed over.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Requests for machines under way at once. EC2 lets in a few dozen and then five a second, and each is a connection and
/// a list of all that may be launched: a hundred of them together would hold more memory than everything else.
pub(crate) const LAUNCHES_MAX: usize = 16;

/// What an account answers, if it does so in time: one that is silent must not hold up the others.
pub(crate) async fn in_time<T>(
    answer: impl Future<Output = Result<T, ProviderError>>,
) -> Result<T, ProviderError> {
    let late = |_| Err(ProviderError::Transient(format!("no answer within {PATIENCE:?}")));
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(late)
}

/// Where machines are, under one identity. Names of zones, capacity and quotas differ from account to account.
#[derive(Debug)]
pub(crate) struct Account {
    /// None: the controller's own identity.
    pub(crate) role: Option<Role>,
    /// With the VPC in which this account's machines are.
    pub(crate) cluster: Cluster,
    pub(crate) ec2: aws_sdk_ec2::Client,
    pub(crate) iam: aws_sdk_iam::Client,
    pub(crate) ssm: aws_sdk_ssm::Client,
    pub(crate) market: Market,
    pub(crate) instances: Instances,
    pub(crate) templates: LaunchTemplates,
    /// Locked before what is learned, and that before what is left of the reservations, where they are together.
    unavailable: Mutex<Unavailable>,
    unclear: Unclear,
    /// Turns of launches.
    launches: Semaphore,
}

/// The last moment at which something may have been launched that nobody here knows of. Of one role there is one,
/// however often it is assumed anew: a launch may outlast the session it was made with.
#[derive(Clone, Debug)]
pub(crate) struct Unclear(Arc<Mutex<Instant>>);

impl Unclear {
    /// Something may have been launched until now.
    fn renew(&self) {
        *self.at() = Instant::now();
    }

    fn at(&self) -> MutexGuard<'_, Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Unclear {
    /// A former process may have launched until just now.
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Account {
    pub(crate) fn new(
        role: Option<Role>,
        identity: &Identity,
        cluster: Cluster,
        isolated_vpc: bool,
        unclear: Unclear,
    ) -> Self {
        let ec2 = identity.ec2();
        let pricing = identity.pricing(pricing_region(&cluster.region));
        Self {
            role,
            market: Market::new(
                identity.ec2_market(),
                pricing,
                cluster.region.clone(),
                isolated_vpc,
            ),
            instances: Instances::new(ec2.clone(), cluster.clone()),
            templates: LaunchTemplates::new(ec2.clone(), cluster.clone()),
            iam: identity.iam(),
            ssm: identity.ssm(),
            unavailable: Mutex::default(),
            unclear,
            launches: Semaphore::new(LAUNCHES_MAX),
            cluster,
            ec2,
        }
    }

    pub(crate) fn unavailable(&self) -> MutexGuard<'_, Unavailable> {
        self.unavailable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be held from before a launch is put together until it is answered.
    pub(crate) async fn turn(&self) -> SemaphorePermit<'_> {
        self.launches.acquire().await.expect("it is never closed")
    }

    /// To be called before a launch is asked for.
    pub(crate) fn launching(&self) -> Launching<'_> {
        Launching(self)
    }

    /// Whether EC2 shows all that was launched here: only then is a list that lacks a machine a proof that there is none.
    pub(crate) fn shows_all(&self) -> bool {
        self.unclear.at().elapsed() >= VISIBLE_WITHIN
    }

    /// The role's ARN, or nothing.
    pub(crate) fn name(&self) -> &str {
        self.role.as_ref().map_or("", |role| &role.arn)
    }
}

/// A launch that is asked for. Dropped before it is known what it launched, as when nobody waits for the answer any
/// more, it leaves the account unclear.
#[must_use]
pub(crate) struct Launching<'a>(&'a Account);

impl Launching<'_> {
    /// What it launched is known, even if it is nothing.
    pub(crate) fn settle(self) {
        std::mem::forget(self);
    }
}

impl Drop for Launching<'_> {
    fn drop(&mut self) {
        self.0.unclear.renew();
    }
}

/// What became of the last try to assume a role.
#[derive(Debug)]
enum Tried {
    /// With the external id, None: that of the settings.
    Open(Arc<Account>, Option<String>),
    /// When, and with which external ids.
    Refused(RoleError, Instant, BTreeSet<Option<String>>),
}

/// What the last try says now; None: it must be tried again, as when another external id is named by now.
fn known(tried: Option<&Tried>, ids: &BTreeSet<Option<String>>) -> Option<Result<Arc<Account>, RoleError>> {
    match tried? {
        Tried::Open(account, id) => ids.contains(id).then(|| Ok(account.clone())),
        Tried::Refused(error, at, of) => (of == ids && at.elapsed() < RETRY).then(|| Err(error.clone())),
    }
}

/// The controller's own account and those of the roles that classes name.
#[derive(Debug)]
pub(crate) struct Accounts {
    base: Identity,
    settings: Settings,
    home: Arc<Account>,
    /// Id of the controller's own account, once it was asked for.
    home_id: OnceCell<String>,
    others: Mutex<BTreeMap<Role, Tried>>,
    unclear: Mutex<BTreeMap<Role, Unclear>>,
    external_ids: Mutex<ExternalIds>,
    opened: Notify,
}

impl Accounts {
    /// `acting` is who acts where a class names no role.
    pub(crate) fn new(base: Identity, acting: &Identity, settings: Settings, cluster: Cluster) -> Self {
        let unclear = Unclear::default();
        let home = Account::new(None, acting, cluster, settings.isolated_vpc, unclear);
        Self {
            base,
            settings,
            home: Arc::new(home),
            home_id: OnceCell::new(),
            others: Mutex::default(),
            unclear: Mutex::default(),
            opened: Notify::new(),
            external_ids: Mutex::default(),
        }
    }

    pub(crate) fn home(&self) -> &Arc<Account> {
        &self.home
    }

    /// The twelve digits of the controller's own account.
    pub(crate) async fn home_id(&self) -> Result<&str, ProviderError> {
        let ask = async || match self.settings.assume_role_arn.as_deref().and_then(account_of) {
            Some(id) => Ok(id.to_owned()),
            None => credentials::own_account(&self.base).await,
        };
        Ok(self.home_id.get_or_try_init(ask).await?)
    }

    fn others(&self) -> MutexGuard<'_, BTreeMap<Role, Tried>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unclear(&self) -> MutexGuard<'_, BTreeMap<Role, Unclear>> {
        self.unclear.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The account of a role if it is open.
    pub(crate) fn opened_for(&self, role: Option<&Role>) -> Option<Arc<Account>> {
        let Some(role) = role else {
            return Some(self.home.clone());
        };
        match self.others().get(role)? {
            Tried::Open(account, _) => Some(account.clone()),
            Tried::Refused(..) => None,
        }
    }

    /// Returns when another one was opened.
    pub(crate) async fn opened(&self) {
        self.opened.notified().await;
    }

    /// All that were opened, the controller's own first.
    pub(crate) fn open(&self) -> Vec<Arc<Account>> {
        let others = self.others();
        let open = others.values().filter_map(|tried| match tried {
            Tried::Open(account, _) => Some(account.clone()),
            Tried::Refused(..) => None,
        });
        [self.home.clone()].into_iter().chain(open).collect()
    }

    /// Something may have been launched until now that nobody here knows of, also where a role cannot be assumed now.
    pub(crate) fn make_unclear(&self) {
        self.home.unclear.renew();
        self.unclear().values().for_each(Unclear::renew);
    }

    /// Whether EC2 shows all that was launched in any of them.
    pub(crate) fn show_all(&self) -> bool {
        self.open().iter().all(|account| account.shows_all())
    }

    /// Forgets the accounts that nothing names any more.
    pub(crate) fn keep(&self, named: &BTreeSet<Role>) {
        self.others().retain(|role, _| named.contains(role));
        self.unclear().retain(|role, _| named.contains(role));
    }

    /// Takes note of the external ids that all classes name.
    pub(crate) fn note_external_ids<'a>(&self, classes: impl IntoIterator<Item = &'a EC2NodeClass>) {
        let all = role::external_ids(classes, &self.home.cluster.region);
        *self.external_ids.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }

    /// At least one.
    fn external_ids_of(&self, arn: &str) -> BTreeSet<Option<String>> {
        let all = self.external_ids.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(arn).cloned().unwrap_or_else(|| [None].into())
    }

    pub(crate) async fn of_class(&self, class: &EC2NodeClass) -> Result<Arc<Account>, RoleError> {
        let role = Role::of_class(class, &self.home.cluster.region)?;
        self.of(role.as_ref()).await
    }

    /// The account of a role, which is assumed the first time.
    pub(crate) async fn of(&self, role: Option<&Role>) -> Result<Arc<Account>, RoleError> {
        let Some(role) = role else {
            return Ok(self.home.clone());
        };
        let ids = self.external_ids_of(&role.arn);
        if let Some(known) = known(self.others().get(role), &ids) {
            return known;
        }
        let mut tried = None;
        for id in &ids {
            let answer = self.assume(role, id.as_deref()).await;
            // Any other failure has nothing to do with the external id.
            let is_of_id = matches!(
                answer,
                Err(RoleError::Denied { .. } | RoleError::NoExternalId { .. })
            );
            tried = Some((answer, id));
            if !is_of_id {
                break;
            }
        }
        let (tried, id) = tried.expect("there is an external id to try, if only that of the settings");
        let mut others = self.others();
        // Two may have tried at the same time; what is known there must be known once.
        if let Some(Ok(account)) = known(others.get(role), &ids) {
            return Ok(account);
        }
        let entry = match tried {
            Ok(account) => Tried::Open(Arc::new(account), id.clone()),
            Err(error) => Tried::Refused(error, Instant::now(), ids.clone()),
        };
        let answer = match &entry {
            Tried::Open(account, _) => Ok(account.clone()),
            Tried::Refused(error, ..) => Err(error.clone()),
        };
        others.insert(role.clone(), entry);
        if answer.is_ok() {
            self.opened.notify_one();
        }
        answer
    }

    async fn assume(&self, role: &Role, external_id: Option<&str>) -> Result<Account, RoleError> {
        let (home, settings) = (&self.home.cluster, &self.settings);
        let default_id = || settings.assume_role_external_id.clone();
        let assumed = AssumeRole {
            arn: role.arn.clone(),
            external_id: external_id.map(str::to_owned).or_else(default_id),
            duration: settings.assume_role_duration,
        };
        let arn = role.arn.clone();
        credentials::check_trust(&self.base, &assumed)
            .await
            .map_err(|error| match error {
                TrustError::NoIdentity(why) => RoleError::NotNow {
                    arn: arn.clone(),
                    why,
                },
                TrustError::NoExternalId(account) => RoleError::NoExternalId {
                    arn: arn.clone(),
                    account,
                },
            })?;
        let cluster = Cluster {
            vpc_id: role.vpc_id.clone().unwrap_or_else(|| home.vpc_id.clone()),
            ..home.clone()
        };
        let policy = session_policy::working(&cluster.region, &cluster.name, &cluster.vpc_id);
        let identity = credentials::session(&self.base, &assumed, &cluster.name, policy).await;
        let identity = identity.map_err(|error| match error {
            AssumeError::Denied(_) => RoleError::Denied {
                arn,
                why: error.to_string(),
            },
            AssumeError::Failed(_) | AssumeError::Empty => RoleError::NotNow {
                arn,
                why: error.to_string(),
            },
        })?;
        tracing::info!(
            role = role.arn,
            vpc_id = cluster.vpc_id,
            "assumed the role of a class"
        );
        let unclear = self.unclear().entry(role.clone()).or_default().clone();
        Ok(Account::new(
            Some(role.clone()),
            &identity,
            cluster,
            settings.isolated_vpc,
            unclear,
        ))
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, future::join_all};
    use plimsoll_api::ec2nodeclass::EC2NodeClassSpec;

    use super::*;
    use crate::fake;

    #[tokio::test(start_paused = true)]
    async fn an_account_is_unclear_after_a_launch_that_nobody_waited_for() {
        let identity = fake::Aws::default().identity();
        let account = Account::new(None, &identity, fake::cluster(), false, Unclear::default());
        assert!(
            !account.shows_all(),
            "a former process may have launched until now"
        );
        tokio::time::advance(VISIBLE_WITHIN).await;
        account.launching().settle();
        assert!(account.shows_all(), "it is known what was launched");
        let unanswered = async {
            let launching = account.launching();
            std::future::pending::<()>().await;
            launching.settle();
        };
        let unanswered = tokio::time::timeout(VISIBLE_WITHIN * 2, unanswered);
        assert!(unanswered.await.is_err());
        assert!(!account.shows_all(), "it may have launched until it was dropped");
        tokio::time::advance(VISIBLE_WITHIN).await;
        assert!(account.shows_all());
    }

    #[tokio::test(start_paused = true)]
    async fn launches_of_one_account_take_turns() {
        let identity = fake::Aws::default().identity();
        let account = Account::new(None, &identity, fake::cluster(), false, Unclear::default());
        let mut turns = join_all((0..LAUNCHES_MAX).map(|_| account.turn())).await;
        assert!(account.turn().now_or_never().is_none());
        turns.pop();
        assert!(account.turn().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_launch_that_outlasts_its_session_leaves_the_next_one_unclear() {
        let identity = fake::Aws::default().identity();
        let accounts = Accounts::new(identity.clone(), &identity, fake::settings(), fake::cluster());
        let role = Role {
            arn: "arn:aws:iam::210987654321:role/nodes".into(),
            vpc_id: None,
        };
        let open = async |external_id: &str| {
            let mut class = EC2NodeClass::new("guests", EC2NodeClassSpec::default());
            let annotations = [(role::ARN, role.arn.as_str()), (role::EXTERNAL_ID, external_id)];
            let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned()));
            class.metadata.annotations = Some(annotations.into());
            accounts.note_external_ids([&class]);
            accounts.of(Some(&role)).await.unwrap()
        };
        let former = open("old").await;
        let launching = former.launching();
        let present = open("new").await;
        assert!(!Arc::ptr_eq(&former, &present), "the role was assumed anew");
        tokio::time::advance(VISIBLE_WITHIN).await;
        assert!(present.shows_all());
        drop(launching);
        assert!(!present.shows_all(), "it may have launched until it was dropped");
        tokio::time::advance(VISIBLE_WITHIN).await;
        assert!(present.shows_all());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_believed_for_a_while_and_for_the_external_ids_it_was_made_with() {
        let ids = |id: &str| BTreeSet::from([Some(id.to_owned())]);
        let error = RoleError::Arn("nobody".into());
        let refused = Tried::Refused(error.clone(), Instant::now(), ids("old"));
        let says = |ids| known(Some(&refused), &ids).map(|known| known.map(drop));
        assert_eq!(says(ids("old")), Some(Err(error)));
        assert_eq!(says(ids("new")), None, "it is mended");
        tokio::time::advance(RETRY).await;
        assert_eq!(says(ids("old")), None);
        assert!(known(None, &ids("old")).is_none());
    }
}
