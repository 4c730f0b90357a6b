//! NodeClaims, each advanced by short passes.

use std::{
    collections::{BTreeMap, VecDeque},
    panic::resume_unwind,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use plimsoll_api::labels;
use plimsoll_lifecycle::Pool;
use plimsoll_provider::{CloudProvider, chain};
use tokio::task::JoinSet;

use crate::{context::Context, perform::PerformError};

/// Passes under way at once for the claims of one role: bounds calls to the API server and the cloud. The machines of
/// one plan open together.
const AT_ONCE: usize = 160;

/// A claim that keeps failing is looked at this often.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Passes under way, and claims that wait for one to end, by the role that buys their machines; its name is empty for
/// the controller's own. Where an account does not answer, only its own claims wait.
#[derive(Debug, Default)]
struct Shares(BTreeMap<String, Share>);

#[derive(Debug, Default)]
struct Share {
    under_way: usize,
    waiting: VecDeque<String>,
}

impl Shares {
    /// The claim, if its pass may begin; otherwise it waits.
    fn enter(&mut self, role: &str, claim: String) -> Option<String> {
        let share = self.0.entry(role.to_owned()).or_default();
        if share.under_way == AT_ONCE {
            share.waiting.push_back(claim);
            return None;
        }
        share.under_way += 1;
        Some(claim)
    }

    /// A pass has ended; the claim whose pass may begin instead.
    fn leave(&mut self, role: &str) -> Option<String> {
        let share = self.0.get_mut(role)?;
        let next = share.waiting.pop_front();
        if next.is_none() {
            share.under_way -= 1;
            if share.under_way == 0 {
                self.0.remove(role);
            }
        }
        next
    }
}

pub(crate) async fn work<P: CloudProvider>(context: Arc<Context<P>>) {
    let mut shares = Shares::default();
    let mut passes: JoinSet<String> = JoinSet::new();
    loop {
        let (role, claim) = tokio::select! {
            claim = context.claims.next() => {
                let role = role_of(&context, &claim);
                let claim = shares.enter(&role, claim);
                (role, claim)
            }
            Some(ended) = passes.join_next() => {
                let role = ended.unwrap_or_else(|error| resume_unwind(error.into_panic()));
                let claim = shares.leave(&role);
                (role, claim)
            }
        };
        if let Some(claim) = claim {
            let context = context.clone();
            passes.spawn(async move {
                attempt(&context, &claim).await;
                role
            });
        }
    }
}

fn role_of<P>(context: &Context<P>, claim: &str) -> String {
    let index = context.index();
    let annotations = index
        .claim(claim)
        .and_then(|claim| claim.metadata.annotations.as_ref());
    let role = annotations.and_then(|all| all.get(labels::ASSUMED_ROLE));
    role.cloned().unwrap_or_default()
}

async fn attempt<P: CloudProvider>(context: &Context<P>, name: &str) {
    match pass(context, name).await {
        Ok(()) => context.claims.succeeded(name),
        Err(PerformError::Conflict) => context.claims.retry(name.to_owned()),
        Err(error) => {
            tracing::warn!(nodeclaim = %name, error = chain(&error), "pass failed, trying again");
            context.claims.retry(name.to_owned());
        }
    }
    context.claims.done(name);
}

async fn pass<P: CloudProvider>(context: &Context<P>, name: &str) -> Result<(), PerformError> {
    let (view, pool) = {
        let index = context.index();
        let Some(view) = index.view(name) else {
            return Ok(());
        };
        let class = &view.claim.spec.node_class_ref;
        if !context.provider.supports(&class.group, &class.kind) {
            return Ok(());
        }
        let pool = index
            .pool_of(&view.claim)
            .map_or_else(Pool::default, |pool| Pool {
                consolidate_after: pool.spec.disruption.consolidate_after.as_duration(),
                drift: context.drift.of(&view.claim, pool),
            });
        (view, pool)
    };
    let pass = plimsoll_lifecycle::reconcile(&view, pool, context.settings, Timestamp::now());
    context.perform_all(pass.effects).await?;
    if let Some(delay) = pass.again {
        context.claims.later(name.to_owned(), delay);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_of_a_silent_account_wait_for_each_other_and_for_no_other() {
        let (home, silent) = ("", "silent");
        let mut shares = Shares::default();
        let more = 2;
        let begun = (0..AT_ONCE + more).filter_map(|n| shares.enter(silent, format!("silent-{n}")));
        assert_eq!(begun.count(), AT_ONCE);
        assert_eq!(shares.enter(home, "home".into()).as_deref(), Some("home"));
        assert_eq!(shares.leave(home), None);
        for n in AT_ONCE..AT_ONCE + more {
            assert_eq!(
                shares.leave(silent),
                Some(format!("silent-{n}")),
                "in their order"
            );
        }
        for _ in 0..AT_ONCE {
            assert_eq!(shares.leave(silent), None);
        }
        assert!(shares.0.is_empty(), "nothing is kept of who has left: {shares:?}");
        assert!(shares.enter(silent, "again".into()).is_some());
    }
}
