//! An identity that AWS no longer takes is asked for anew at once, not when that was planned, and one that cannot be had
//! anew is used until it ends.
//!
//! Sessions end early: somebody revokes those of a role, a role is made anew, a clock was wrong.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use aws_config::identity::IdentityCache;
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        identity::{
            Identity, IdentityFuture, ResolveCachedIdentity, SharedIdentityCache, SharedIdentityResolver,
        },
        interceptors::context::InterceptorContext,
        orchestrator::HttpResponse,
        retries::classifiers::{ClassifyRetry, RetryAction},
        runtime_components::RuntimeComponents,
    },
};
use aws_smithy_types::{config_bag::ConfigBag, retry::ErrorKind};
use jiff::Timestamp;
use plimsoll_provider::chain;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use crate::error::DENIED;

/// Codes by which AWS says that a session is over.
const ENDED: &[&str] = &["ExpiredToken", "ExpiredTokenException", "RequestExpired"];
/// Calls that were under way with the old session may still be told of its end for so long.
const UNDER_WAY: Duration = Duration::from_secs(10);
/// The SDK asks about each answer more than once.
const SAME_ANSWER: Duration = Duration::from_secs(1);
/// A revoked session is denied everything, as one that lacks a right is denied something. Only a new session tells
/// which it is, so at most one is opened in this time.
const MAY_BE_REVOKED_AFTER: Duration = Duration::from_mins(1);
/// A session that could not be renewed is used for so long before that is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// As long as there is a good session, the next one is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an identity is held in. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Renewal(Arc<Mutex<Held>>);

#[derive(Debug)]
struct Held {
    cache: SharedIdentityCache,
    /// It is asked for anew this long before it ends.
    before_expiry: Duration,
    since: Instant,
    /// It is not the first one.
    renewed: bool,
    /// What was asked for last and given, unless AWS has said that it is over.
    last: Option<Identity>,
    /// When it could not be renewed.
    failed: Option<Instant>,
}

impl Held {
    fn empty(before_expiry: Duration, renewed: bool, last: Option<Identity>) -> Self {
        Self {
            cache: IdentityCache::lazy().buffer_time(before_expiry).build(),
            before_expiry,
            since: Instant::now(),
            renewed,
            last,
            failed: None,
        }
    }

    /// What was given last, if it has not ended.
    fn still_good(&self) -> Option<Identity> {
        let last = self.last.as_ref()?;
        let has_ended = last.expiration().is_some_and(|end| end <= SystemTime::now());
        (!has_ended).then(|| last.clone())
    }
}

impl Renewal {
    /// Renews this long before an identity ends, too.
    pub(crate) fn new(before_expiry: Duration) -> Self {
        Self(Arc::new(Mutex::new(Held::empty(before_expiry, false, None))))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was asked for, or else what was given before and is still good.
    fn given(&self, answer: Result<Identity, BoxError>) -> Result<Identity, BoxError> {
        let mut held = self.held();
        match answer {
            Ok(identity) => {
                (held.last, held.failed) = (Some(identity.clone()), None);
                Ok(identity)
            }
            Err(error) => {
                let Some(last) = held.still_good() else {
                    return Err(error);
                };
                held.failed = Some(Instant::now());
                let until = last.expiration().and_then(|end| Timestamp::try_from(end).ok());
                tracing::warn!(
                    error = chain(&*error),
                    until = until.map(tracing::field::display),
                    "the session could not be renewed and is used until it ends"
                );
                Ok(last)
            }
        }
    }

    /// Whether a call that was refused with this code is worth another try, for which the identity is renewed.
    fn helps(&self, code: &str) -> bool {
        let (settled_after, renewed_after) = match code {
            _ if ENDED.contains(&code) => (UNDER_WAY, UNDER_WAY),
            _ if DENIED.contains(&code) => (SAME_ANSWER, MAY_BE_REVOKED_AFTER),
            _ => return false,
        };
        let mut held = self.held();
        let age = held.since.elapsed();
        let renews = age >= renewed_after;
        if renews {
            tracing::info!(code, "AWS refused the session, so it is renewed");
            // What lacks a right is still good for everything else.
            let last = held.last.take().filter(|_| !ENDED.contains(&code));
            *held = Held::empty(held.before_expiry, true, last);
        }
        renews || (held.renewed && age < settled_after)
    }
}

impl ResolveCachedIdentity for Renewal {
    fn resolve_cached_identity<'a>(
        &'a self,
        resolver: SharedIdentityResolver,
        runtime_components: &'a RuntimeComponents,
        config_bag: &'a ConfigBag,
    ) -> IdentityFuture<'a> {
        IdentityFuture::new(async move {
            let (cache, good) = {
                let held = self.held();
                let good = held.still_good();
                let failed_lately = held.failed.is_some_and(|at| at.elapsed() < RETRY);
                if let Some(good) = good.clone().filter(|_| failed_lately) {
                    return Ok(good);
                }
                (held.cache.clone(), good)
            };
            let answer = cache.resolve_cached_identity(resolver, runtime_components, config_bag);
            self.given(match good {
                None => answer.await,
                Some(_) => timeout(PATIENCE, answer)
                    .await
                    .unwrap_or_else(|late| Err(late.into())),
            })
        })
    }
}

impl ClassifyRetry for Renewal {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        match context.response().and_then(code) {
            Some(code) if self.helps(&code) => RetryAction::retryable_error(ErrorKind::ServerError),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "renewal of the identity"
    }
}

/// The code of a refusal: `<Code>` of the services that speak XML, `__type` of those that speak JSON.
fn code(response: &HttpResponse) -> Option<String> {
    if !response.status().is_client_error() {
        return None;
    }
    let body = std::str::from_utf8(response.body().bytes()?).ok()?;
    if let Some((_, rest)) = body.split_once("<Code>") {
        return rest.split_once("</Code>").map(|(code, _)| code.to_owned());
    }
    let body: Value = serde_json::from_str(body).ok()?;
    let of_type = body["__type"].as_str()?;
    of_type.rsplit('#').next().map(str::to_owned)
}
