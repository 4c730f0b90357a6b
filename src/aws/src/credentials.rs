//! Who we are to AWS: the base identity, and the role it assumes.
//!
//! The base identity comes from the SDK's chain: environment, profile, IRSA, Pod Identity, instance profile.

use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future},
};
use aws_sdk_sts::types::Tag;
use aws_smithy_runtime_api::client::identity::ResolveCachedIdentity;
use aws_smithy_types::error::display::DisplayErrorContext;
use aws_types::app_name::AppName;

use crate::{
    error::code,
    settings::{AssumeRole, Settings},
    startup::StartError,
};

/// A session is renewed this long before it ends, so that no call is made with one that ends under way.
const REFRESH_BEFORE_EXPIRY: Duration = Duration::from_secs(300);
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

/// The base identity and the settings of the environment.
pub(crate) async fn base() -> Result<SdkConfig, StartError> {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .build();
    let config = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .app_name(AppName::new("plimsoll").expect("a name of letters is valid"))
        .retry_config(RetryConfig::adaptive().with_max_attempts(ATTEMPTS_MAX))
        .timeout_config(timeouts)
        .load()
        .await;
    if config.region().is_none() {
        return Err(StartError::NoRegion);
    }
    Ok(config)
}

/// The twelve digits of an ARN's account.
pub(crate) fn account_of(arn: &str) -> Option<&str> {
    arn.split(':')
        .nth(4)
        .filter(|a| a.len() == 12 && a.bytes().all(|b| b.is_ascii_digit()))
}

/// Refuses a role of another account without ExternalId: whoever knows the ARN could have us work for them.
pub(crate) async fn check_trust(base: &SdkConfig, role: &AssumeRole) -> Result<(), StartError> {
    let role_account = account_of(&role.arn).ok_or_else(|| StartError::RoleArn(role.arn.clone()))?;
    if role.external_id.is_some() {
        return Ok(());
    }
    let identity = aws_sdk_sts::Client::new(base)
        .get_caller_identity()
        .send()
        .await
        .map_err(|error| StartError::NoIdentity(DisplayErrorContext(&error).to_string()))?;
    if identity.account() == Some(role_account) {
        return Ok(());
    }
    Err(StartError::NoExternalId {
        role: role.arn.clone(),
        account: identity.account().unwrap_or("unknown").to_owned(),
    })
}

/// The configuration under which calls are made with this session policy; without a role, the base identity's.
///
/// Assumes the role at once, so that a wrong trust policy is found here and not at the first launch.
pub(crate) async fn session(
    base: &SdkConfig,
    settings: &Settings,
    policy: String,
) -> Result<SdkConfig, StartError> {
    let Some(role) = &settings.assume_role else {
        return Ok(base.clone());
    };
    let provider = AssumedRole {
        sts: aws_sdk_sts::Client::new(base),
        role: role.clone(),
        cluster: settings.cluster_name.clone(),
        policy,
    };
    provider.assume().await.map_err(|error| StartError::AssumeRole {
        role: role.arn.clone(),
        why: error.to_string(),
    })?;
    let cache = aws_config::identity::IdentityCache::lazy()
        .buffer_time(REFRESH_BEFORE_EXPIRY)
        .build();
    Ok(with(base, provider, cache))
}

fn with(base: &SdkConfig, provider: AssumedRole, cache: impl ResolveCachedIdentity + 'static) -> SdkConfig {
    base.clone()
        .into_builder()
        .credentials_provider(SharedCredentialsProvider::new(provider))
        .identity_cache(cache)
        .build()
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
         and require exactly the external id of --assume-role-external-id"
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
    use super::*;

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
}
