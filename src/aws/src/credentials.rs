//! Who we are to AWS: the base identity, and the roles it assumes.
//!
//! The base identity comes from the SDK's chain: environment, profile, IRSA, Pod Identity, instance profile.

use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future},
};
use aws_sdk_sts::{config::retry::RetryPartition, types::Tag};
use aws_smithy_types::error::display::DisplayErrorContext;
use aws_types::{app_name::AppName, region::Region};
use plimsoll_provider::ProviderError;

use crate::{
    error::{code, provider_error},
    renewal::Renewal,
    settings::Settings,
    startup::StartError,
};

/// A session is renewed this long before it ends, so that no call is made with one that ends under way.
const BEFORE_EXPIRY: Duration = Duration::from_secs(300);
/// The same of the base identity, which may be given to us no earlier; the SDK's own default.
const BASE_BEFORE_EXPIRY: Duration = Duration::from_secs(10);
/// One attempt of one call; DescribeInstanceTypes pages take seconds.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A throttled call is tried this often in all; in between the SDK's rate limiter slows all calls of a client down.
const ATTEMPTS_MAX: u32 = 6;
/// Seen in CloudTrail as the end of the principal's ARN.
const SESSION_NAME: &str = "plimsoll";
/// Session tag: the cluster a session works for; trust policies and CloudTrail can tell sessions apart by it. Not EKS'
/// own key, which Pod Identity makes transitive and therefore nobody may set again.
const SESSION_TAG: &str = "plimsoll-cluster";

/// Under whose name calls are made. All clients share the session, and renew it when AWS no longer takes it.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    config: SdkConfig,
    renewal: Renewal,
    /// The role's ARN; empty: the base identity.
    role: String,
}

/// A client of a service with this identity. AWS limits calls by account: when one is throttled, the SDK by itself would slow
/// down those of all identities.
macro_rules! client {
    ($service:ident, $identity:expr) => {
        client!($service, $identity, "")
    };
    ($service:ident, $identity:expr, $calls:literal) => {{
        let config = $service::config::Builder::from(&$identity.config)
            .retry_classifier($identity.renewal.clone())
            .retry_partition(RetryPartition::new(
                concat!(stringify!($service), " ", $calls, " ").to_owned() + &$identity.role,
            ));
        $service::Client::from_conf(config.build())
    }};
}

impl Identity {
    pub(crate) fn ec2(&self) -> aws_sdk_ec2::Client {
        client!(aws_sdk_ec2, self)
    }

    /// For what is offered and at which price: long answers, of which EC2 gives few, and no launch is to wait for them.
    pub(crate) fn ec2_market(&self) -> aws_sdk_ec2::Client {
        client!(aws_sdk_ec2, self, "market")
    }

    pub(crate) fn eks(&self) -> aws_sdk_eks::Client {
        client!(aws_sdk_eks, self)
    }

    pub(crate) fn iam(&self) -> aws_sdk_iam::Client {
        client!(aws_sdk_iam, self)
    }

    pub(crate) fn sqs(&self) -> aws_sdk_sqs::Client {
        client!(aws_sdk_sqs, self)
    }

    pub(crate) fn ssm(&self) -> aws_sdk_ssm::Client {
        client!(aws_sdk_ssm, self)
    }

    fn sts(&self) -> aws_sdk_sts::Client {
        client!(aws_sdk_sts, self)
    }

    /// Of the region that answers for ours.
    pub(crate) fn pricing(&self, region: &'static str) -> aws_sdk_pricing::Client {
        let there = Self {
            config: self
                .config
                .to_builder()
                .region(Region::from_static(region))
                .build(),
            renewal: self.renewal.clone(),
            role: self.role.clone(),
        };
        client!(aws_sdk_pricing, there)
    }

    pub(crate) fn region(&self) -> Option<&str> {
        self.config.region().map(AsRef::as_ref)
    }
}

#[cfg(test)]
impl Identity {
    pub(crate) fn of(config: SdkConfig, renewal: Renewal) -> Self {
        let role = String::new();
        Self {
            config,
            renewal,
            role,
        }
    }
}

/// The base identity and the settings of the environment.
pub(crate) async fn base() -> Result<Identity, StartError> {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .build();
    let renewal = Renewal::new(BASE_BEFORE_EXPIRY);
    let config = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .app_name(AppName::new("plimsoll").expect("a name of letters is valid"))
        .retry_config(RetryConfig::adaptive().with_max_attempts(ATTEMPTS_MAX))
        .timeout_config(timeouts)
        .identity_cache(renewal.clone())
        .load()
        .await;
    if config.region().is_none() {
        return Err(StartError::NoRegion);
    }
    let role = String::new();
    Ok(Identity {
        config,
        renewal,
        role,
    })
}

/// The twelve digits of an ARN's account.
pub(crate) fn account_of(arn: &str) -> Option<&str> {
    arn.split(':')
        .nth(4)
        .filter(|a| a.len() == 12 && a.bytes().all(|b| b.is_ascii_digit()))
}

/// A role to assume.
#[derive(Clone, Debug)]
pub(crate) struct AssumeRole {
    pub(crate) arn: String,
    pub(crate) external_id: Option<String>,
    pub(crate) duration: Duration,
}

impl AssumeRole {
    /// The role under which everything is done whose class names no other.
    pub(crate) fn of_settings(settings: &Settings) -> Option<Self> {
        Some(Self {
            arn: settings.assume_role_arn.clone()?,
            external_id: settings.assume_role_external_id.clone(),
            duration: settings.assume_role_duration,
        })
    }
}

/// Why a role is not trusted to be meant for us.
#[derive(Debug)]
pub(crate) enum TrustError {
    /// There is no base identity.
    NoIdentity(String),
    /// It belongs to another account than the base identity, which is in this one, and comes without external id.
    NoExternalId(String),
}

/// Refuses a role of another account without ExternalId: whoever knows the ARN could have us work for them.
pub(crate) async fn check_trust(base: &Identity, role: &AssumeRole) -> Result<(), TrustError> {
    if role.external_id.is_some() {
        return Ok(());
    }
    let identity = base.sts().get_caller_identity().send().await;
    let identity =
        identity.map_err(|error| TrustError::NoIdentity(DisplayErrorContext(&error).to_string()))?;
    if identity.account() == account_of(&role.arn) {
        return Ok(());
    }
    let account = identity.account().unwrap_or("unknown");
    Err(TrustError::NoExternalId(account.to_owned()))
}

/// The account of an identity.
pub(crate) async fn own_account(identity: &Identity) -> Result<String, ProviderError> {
    const ACTION: &str = "sts:GetCallerIdentity";
    let answer = identity.sts().get_caller_identity().send().await;
    let answer = answer.map_err(|error| provider_error(ACTION, &error))?;
    let account = answer.account().map(str::to_owned);
    account.ok_or_else(|| ProviderError::Transient(format!("{ACTION}: the answer carried no account")))
}

/// The identity under which calls are made for a cluster, with this session policy.
///
/// Assumes the role at once, so that a wrong trust policy is found here and not at the first launch.
pub(crate) async fn session(
    base: &Identity,
    role: &AssumeRole,
    cluster: &str,
    policy: String,
) -> Result<Identity, AssumeError> {
    let provider = AssumedRole {
        sts: base.sts(),
        role: role.clone(),
        cluster: cluster.to_owned(),
        policy,
    };
    provider.assume().await?;
    let renewal = Renewal::new(BEFORE_EXPIRY);
    let config = base
        .config
        .to_builder()
        .credentials_provider(SharedCredentialsProvider::new(provider))
        .identity_cache(renewal.clone())
        .build();
    let role = role.arn.clone();
    Ok(Identity {
        config,
        renewal,
        role,
    })
}

/// Sessions of the customer's role, fenced by a session policy.
#[derive(Debug)]
struct AssumedRole {
    sts: aws_sdk_sts::Client,
    role: AssumeRole,
    cluster: String,
    policy: String,
}

/// Why a role could not be assumed, with the fix.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssumeError {
    #[error(
        "AWS refused: {0}; the role's trust policy must name this identity, allow sts:AssumeRole and sts:TagSession, \
         and require exactly the external id of --assume-role-external-id, or of the class's annotation \
         plimsoll.dev/assume-role-external-id; a policy of this identity must allow both actions on the role"
    )]
    Denied(String),
    #[error("{0}")]
    Failed(String),
    #[error("the answer carried no credentials")]
    Empty,
}

impl AssumedRole {
    async fn assume(&self) -> Result<Credentials, AssumeError> {
        let tag = Tag::builder()
            .key(SESSION_TAG)
            .value(&self.cluster)
            .build()
            .map_err(|error| AssumeError::Failed(error.to_string()))?;
        let seconds = i32::try_from(self.role.duration.as_secs()).unwrap_or(i32::MAX);
        let answer = self
            .sts
            .assume_role()
            .role_arn(&self.role.arn)
            .role_session_name(SESSION_NAME)
            .set_external_id(self.role.external_id.clone())
            .policy(&self.policy)
            .tags(tag)
            .duration_seconds(seconds)
            .send()
            .await
            .map_err(|error| {
                let text = DisplayErrorContext(&error).to_string();
                match code(&error) {
                    "AccessDenied" => AssumeError::Denied(
                        error
                            .as_service_error()
                            .and_then(aws_smithy_types::error::metadata::ProvideErrorMetadata::message)
                            .unwrap_or(&text)
                            .to_owned(),
                    ),
                    _ => AssumeError::Failed(text),
                }
            })?;
        let granted = answer.credentials().ok_or(AssumeError::Empty)?;
        Ok(Credentials::new(
            granted.access_key_id(),
            granted.secret_access_key(),
            Some(granted.session_token().to_owned()),
            SystemTime::try_from(*granted.expiration()).ok(),
            "plimsoll-assume-role",
        ))
    }
}

impl ProvideCredentials for AssumedRole {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            self.assume().await.map_err(CredentialsError::provider_error)
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tokio::time::{Instant, advance};

    use super::*;
    use crate::fake::Aws;

    #[test]
    fn the_account_is_the_fifth_part_of_an_arn() {
        for (arn, account) in [
            ("arn:aws:iam::123456789012:role/karpenter", Some("123456789012")),
            ("arn:aws-cn:iam::210987654321:role/path/x", Some("210987654321")),
            ("arn:aws:iam::12345:role/x", None),
            ("karpenter", None),
        ] {
            assert_eq!(account_of(arn), account, "{arn}");
        }
    }

    async fn session_at(aws: &Aws) -> aws_sdk_ec2::Client {
        session_of(aws, "r").await.ec2()
    }

    async fn session_of(aws: &Aws, role: &str) -> Identity {
        let role = AssumeRole {
            arn: format!("arn:aws:iam::123456789012:role/{role}"),
            external_id: Some("id".into()),
            duration: Duration::from_hours(1),
        };
        session(&aws.identity(), &role, "prod", String::new())
            .await
            .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_that_is_throttled_slows_no_other_and_the_market_no_launch() {
        let aws = Aws::default();
        let (home, guest) = (session_of(&aws, "home").await, session_of(&aws, "guest").await);
        let calls = [
            aws.identity().ec2(),
            home.ec2(),
            home.ec2_market(),
            guest.ec2(),
            guest.ec2_market(),
        ];
        let shared = |client: &aws_sdk_ec2::Client| client.config().retry_partition().cloned();
        for (n, client) in calls.iter().enumerate() {
            assert!(shared(client).is_some());
            assert!(
                calls[..n].iter().all(|other| shared(other) != shared(client)),
                "{n}"
            );
        }
        assert_eq!(shared(&home.ec2()), shared(&home.ec2()));

        let seconds = async |ec2: &aws_sdk_ec2::Client| {
            let begin = Instant::now();
            let answer = ec2.describe_instances().send().await;
            (answer.is_ok(), begin.elapsed().as_secs_f64())
        };
        let (at_home, abroad) = (home.ec2(), guest.ec2());
        assert!(seconds(&at_home).await.0 && seconds(&abroad).await.0);
        // Each role was assumed once when it was tried.
        aws.refuse(3, "RequestLimitExceeded");
        assert!(!seconds(&at_home).await.0);
        let (answered, took) = seconds(&abroad).await;
        assert!(answered && took < 0.1, "{took} s abroad");
        aws.refuse(0, "");
        let (answered, took) = seconds(&at_home).await;
        assert!(answered && took > 0.1, "{took} s at home, where it was throttled");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_ends_early_is_renewed_within_the_call() {
        let aws = Aws::default();
        let ec2 = session_at(&aws).await;
        ec2.describe_instances().send().await.unwrap();
        // The first was opened to see whether the role may be assumed.
        assert_eq!(aws.seen(), ["token-2"]);
        advance(Duration::from_mins(10)).await;
        aws.refuse(2, "RequestExpired");
        ec2.describe_instances().send().await.unwrap();
        assert_eq!(aws.seen(), ["token-2", "token-3"]);
        ec2.describe_instances().send().await.unwrap();
        assert_eq!(aws.seen(), ["token-3"], "the new session is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_cannot_be_renewed_is_used_until_it_ends() {
        let aws = Aws::default();
        let called = async |ec2: &aws_sdk_ec2::Client| ec2.describe_instances().send().await.is_ok();
        // A new one is due from the beginning.
        aws.end_sessions(Timestamp::now() + BEFORE_EXPIRY / 2);
        let ending = session_at(&aws).await;
        assert!(called(&ending).await);
        aws.end_sessions(Timestamp::now());
        let ended = session_at(&aws).await;
        assert!(called(&ended).await);
        assert_eq!(aws.seen(), ["token-2", "token-4"]);
        aws.close();
        assert!(called(&ending).await);
        assert_eq!(aws.seen(), ["token-2"]);
        assert!(!called(&ended).await);
        assert_eq!(aws.seen(), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_right_costs_no_session_and_an_ended_one_is_not_used_again() {
        let aws = Aws::default();
        let ec2 = session_at(&aws).await;
        let called = async || ec2.describe_instances().send().await.is_ok();
        assert!(called().await);
        aws.close();
        advance(Duration::from_mins(10)).await;
        aws.refuse(2, "UnauthorizedOperation");
        assert!(!called().await);
        aws.refuse(0, "UnauthorizedOperation");
        aws.seen();
        assert!(called().await);
        assert_eq!(aws.seen(), ["token-2"], "it is good for everything else");
        advance(Duration::from_mins(10)).await;
        aws.refuse(2, "RequestExpired");
        assert!(!called().await);
        assert_eq!(aws.seen(), ["token-2"], "told once that it is over");
    }

    #[tokio::test(start_paused = true)]
    async fn a_role_that_is_taken_away_is_a_right_that_is_missing() {
        let aws = Aws::default();
        let ec2 = session_at(&aws).await;
        aws.close();
        let error = ec2.describe_instances().send().await.unwrap_err();
        let error = crate::error::provider_error("ec2:DescribeInstances", &error);
        assert!(
            matches!(error, plimsoll_provider::ProviderError::Denied(_)),
            "{error}"
        );
        for word in [
            "not trusted",
            "trust policy",
            "plimsoll.dev/assume-role-external-id",
        ] {
            assert!(error.to_string().contains(word), "{word:?} is not in: {error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_revoked_session_is_renewed_and_a_missing_right_is_not_asked_for_again_and_again() {
        let aws = Aws::default();
        let ec2 = session_at(&aws).await;
        ec2.describe_instances().send().await.unwrap();
        advance(Duration::from_mins(10)).await;
        aws.refuse(2, "UnauthorizedOperation");
        ec2.describe_instances().send().await.unwrap();
        assert_eq!(aws.seen(), ["token-2", "token-2", "token-3"]);
        // Whatever session: the right is missing.
        advance(Duration::from_secs(2)).await;
        aws.refuse(usize::MAX, "UnauthorizedOperation");
        let denied = || async { code(&ec2.describe_instances().send().await.unwrap_err()).to_owned() };
        for _ in 0..5 {
            assert_eq!(denied().await, "UnauthorizedOperation");
        }
        assert_eq!(aws.seen(), ["token-3"; 5]);
        advance(Duration::from_mins(2)).await;
        assert_eq!(denied().await, "UnauthorizedOperation");
        let seen = aws.seen();
        assert_eq!(seen[..2], ["token-3", "token-4"]);
        assert!(seen[2..].iter().all(|token| token == "token-4"), "{seen:?}");
    }
}
