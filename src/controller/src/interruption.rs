//! Machines the cloud takes away.

use std::{collections::BTreeSet, mem::take, sync::Arc};

use futures::future::join_all;
use jiff::Timestamp;
use plimsoll_provider::{Answer, CloudProvider, Interruption, chain};

use crate::context::Context;

/// Machines of ours and what is wrong with them, as looks at the state of all machines have it. Each look says all there
/// is, again and again; counted is what the last one did not say.
#[derive(Debug, Default)]
struct Unwell {
    last: BTreeSet<(String, &'static str)>,
    now: BTreeSet<(String, &'static str)>,
}

impl Unwell {
    fn is_news(&mut self, interruption: &Interruption) -> bool {
        let what = (interruption.machine_id.clone(), interruption.kind);
        let known = self.last.contains(&what);
        self.now.insert(what) && !known
    }

    fn end_look(&mut self) {
        self.last = take(&mut self.now);
    }
}

pub(crate) async fn work<P: CloudProvider>(context: Arc<Context<P>>) {
    let mut unwell = Unwell::default();
    loop {
        let mut undone = BTreeSet::new();
        let interruptions = context.provider.interruptions().await;
        let now = Timestamp::now();
        let is_look = interruptions.messages.is_none();
        for message in interruptions.messages.iter().flatten() {
            context.metrics.message(message, now);
        }
        let mut unknown = BTreeSet::new();
        for interruption in interruptions.found {
            tracing::debug!(
                machine = interruption.machine_id,
                kind = interruption.kind,
                note = interruption.note,
                "the cloud speaks about a machine"
            );
            let effects = plimsoll_lifecycle::interrupted(&context.index(), &interruption, Timestamp::now());
            // Nothing follows for a machine that is not ours.
            if is_look && !effects.is_empty() && unwell.is_news(&interruption) {
                context.metrics.unhealthy(interruption.kind);
            }
            if effects.is_empty() && !is_look && interruption.answer != Answer::Nothing {
                unknown.insert(interruption.machine_id.clone());
            }
            if let Err(error) = context.perform_all(effects).await {
                tracing::warn!(
                    error = chain(&error),
                    "interruption not handled, it will come again"
                );
                undone.insert(interruption.machine_id);
            }
        }
        if is_look {
            unwell.end_look();
        }
        // Only now: what is known must not wait.
        let are_new = join_all(unknown.iter().map(|id| context.provider.is_new(id))).await;
        let new = unknown.into_iter().zip(are_new).filter(|(_, is_new)| *is_new);
        for (machine, _) in new {
            tracing::info!(
                machine,
                "interrupted before it is recorded, word of it will come again"
            );
            undone.insert(machine);
        }
        let deleted = context.provider.interruptions_handled(&undone).await;
        context.metrics.messages_deleted(deleted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_counted_once_for_each_thing_that_is_wrong_with_it() {
        let mut unwell = Unwell::default();
        let mut look = |all: &[(&str, &'static str)]| -> Vec<bool> {
            let said = |(machine_id, kind): &(&str, &'static str)| Interruption {
                machine_id: (*machine_id).to_owned(),
                kind,
                event: "InstanceUnhealthy",
                note: String::new(),
                answer: Answer::Drain,
                ends_at: None,
            };
            let news = all.iter().map(|one| unwell.is_news(&said(one))).collect();
            unwell.end_look();
            news
        };
        assert_eq!(look(&[("i-1", "status"), ("i-1", "status")]), [true, false]);
        assert_eq!(look(&[("i-1", "status"), ("i-1", "event")]), [false, true]);
        assert_eq!(look(&[("i-1", "status"), ("i-2", "status")]), [false, true]);
        assert_eq!(look(&[("i-1", "event")]), [true], "it had gone in between");
    }
}
