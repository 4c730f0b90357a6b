//! Leader election on a Lease, as client-go does it.
//!
//! Whether another holder is alive is judged by seeing the Lease change on our own clock, never by comparing
//! its timestamps with it. Every write replaces the version that was read, so two replicas cannot both win.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::time::Instant;

use crate::config::LeaderElection;

/// controller-runtime's figures.
const LEASE_DURATION: Duration = Duration::from_secs(15);
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// A renewal that hangs must not eat the whole deadline.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

const _: () = assert!(RENEW_DEADLINE.as_secs() < LEASE_DURATION.as_secs());

/// A seat in the election.
pub(crate) struct Election {
    api: Api<Lease>,
    config: LeaderElection,
    observed: Option<(LeaseSpec, Instant)>,
}

#[derive(Debug)]
enum Attempt {
    Held,
    HeldByOther,
}

impl Election {
    /// The client must not retry by itself: a late renewal is worse than a failed one.
    pub(crate) fn new(no_retry: Client, config: LeaderElection) -> Self {
        let api = Api::namespaced(no_retry, &config.namespace);
        Self {
            api,
            config,
            observed: None,
        }
    }

    /// Returns once this process leads.
    pub(crate) async fn acquire(&mut self) {
        let mut complained = false;
        loop {
            match tokio::time::timeout(CALL_TIMEOUT, self.attempt()).await {
                Ok(Ok(Attempt::Held)) => {
                    tracing::info!(
                        lease = self.config.name,
                        identity = self.config.identity,
                        "leading"
                    );
                    return;
                }
                Ok(Ok(Attempt::HeldByOther)) => {
                    if !complained {
                        let holder = self
                            .observed
                            .as_ref()
                            .and_then(|(spec, _)| spec.holder_identity.clone());
                        tracing::info!(lease = self.config.name, holder, "waiting for the lease");
                        complained = true;
                    }
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, lease = self.config.name, "lease not read or written");
                }
                Err(_) => tracing::warn!(lease = self.config.name, "no answer about the lease"),
            }
            tokio::time::sleep(RETRY_PERIOD).await;
        }
    }

    /// Renews until that fails for too long; returns when leadership is lost.
    pub(crate) async fn hold(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RETRY_PERIOD).await;
            // Dated from before the request: what counts is what others may have seen.
            let begun = Instant::now();
            match tokio::time::timeout(CALL_TIMEOUT, self.attempt()).await {
                Ok(Ok(Attempt::Held)) => renewed = begun,
                Ok(Ok(Attempt::HeldByOther)) => {
                    tracing::error!(lease = self.config.name, "another process holds the lease");
                    return;
                }
                Ok(Err(error)) => tracing::warn!(%error, "lease not renewed"),
                Err(_) => tracing::warn!("no answer to the lease renewal"),
            }
            if renewed.elapsed() > RENEW_DEADLINE {
                tracing::error!(lease = self.config.name, "lease could not be renewed in time");
                return;
            }
        }
    }

    /// Gives the lease up, so that the next holder need not wait for it to run out.
    pub(crate) async fn release(&mut self) {
        let Ok(Ok(Some(mut lease))) =
            tokio::time::timeout(CALL_TIMEOUT, self.api.get_opt(&self.config.name)).await
        else {
            return;
        };
        let Some(spec) = lease
            .spec
            .as_mut()
            .filter(|s| s.holder_identity.as_ref() == Some(&self.config.identity))
        else {
            return;
        };
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        let params = PostParams::default();
        let replaced = self.api.replace(&self.config.name, &params, &lease);
        if let Ok(Err(error)) = tokio::time::timeout(CALL_TIMEOUT, replaced).await {
            tracing::warn!(%error, "lease not released");
        }
    }

    async fn attempt(&mut self) -> Result<Attempt, kube::Error> {
        let now = MicroTime(Timestamp::now());
        let Some(mut lease) = self.api.get_opt(&self.config.name).await? else {
            return self.create(now).await;
        };
        let spec = lease.spec.clone().unwrap_or_default();
        if self.observed.as_ref().is_none_or(|(seen, _)| *seen != spec) {
            self.observed = Some((spec.clone(), Instant::now()));
        }
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let ours = holder == self.config.identity;
        let duration = spec
            .lease_duration_seconds
            .and_then(|s| u64::try_from(s).ok())
            .unwrap_or(0);
        let since = self
            .observed
            .as_ref()
            .map_or(Duration::ZERO, |(_, at)| at.elapsed());
        if !ours && !holder.is_empty() && since < Duration::from_secs(duration) {
            return Ok(Attempt::HeldByOther);
        }
        let transitions = spec.lease_transitions.unwrap_or(0);
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            acquire_time: if ours {
                spec.acquire_time
            } else {
                Some(now.clone())
            },
            renew_time: Some(now),
            lease_transitions: Some(if ours { transitions } else { transitions + 1 }),
            ..spec
        });
        match self
            .api
            .replace(&self.config.name, &PostParams::default(), &lease)
            .await
        {
            Ok(written) => {
                self.observed = Some((written.spec.unwrap_or_default(), Instant::now()));
                Ok(Attempt::Held)
            }
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(Attempt::HeldByOther),
            Err(error) => Err(error),
        }
    }

    async fn create(&mut self, now: MicroTime) -> Result<Attempt, kube::Error> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.config.name.clone()),
                namespace: Some(self.config.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.config.identity.clone()),
                lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
        };
        match self.api.create(&PostParams::default(), &lease).await {
            Ok(_) => Ok(Attempt::Held),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(Attempt::HeldByOther),
            Err(error) => Err(error),
        }
    }
}
