//! What goes wrong, and how often. All of it is drawn from the run's seed.

use jiff::SignedDuration;
use plimsoll_provider::ProviderError;

use crate::{
    controller::{Failure, Request},
    rng::Rng,
};

/// Chances in ten thousand: per call, per watch event, per machine, or per [`TROUBLE_EVERY`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    /// A patch meets a version it does not know.
    pub(crate) conflict: u32,
    /// A call fails and did nothing.
    pub(crate) refused: u32,
    /// A call did its work and its answer is lost.
    pub(crate) lost_answer: u32,
    /// A call takes seconds.
    pub(crate) slow: u32,
    /// The process dies when a call is about to be performed, or has just been.
    pub(crate) crash: u32,
    /// The cloud has no such machine left.
    pub(crate) no_capacity: u32,
    /// The cloud asks for fewer calls.
    pub(crate) throttled: u32,
    /// A watch event comes seconds late, and all after it.
    pub(crate) stale_watch: u32,
    /// A machine never becomes a node.
    pub(crate) never_joins: u32,
    /// A watch breaks.
    pub(crate) disconnect: u32,
    /// A machine disappears.
    pub(crate) vanish: u32,
}

impl Rates {
    pub(crate) const NONE: Self = Self {
        conflict: 0,
        refused: 0,
        lost_answer: 0,
        slow: 0,
        crash: 0,
        no_capacity: 0,
        throttled: 0,
        stale_watch: 0,
        never_joins: 0,
        disconnect: 0,
        vanish: 0,
    };
    /// A bad day, without deaths.
    pub(crate) const ROUGH: Self = Self {
        conflict: 200,
        refused: 150,
        lost_answer: 200,
        slow: 200,
        crash: 5,
        no_capacity: 500,
        throttled: 300,
        stale_watch: 150,
        never_joins: 0,
        disconnect: 300,
        vanish: 0,
    };
}

/// How often machines may vanish and watches break.
pub(crate) const TROUBLE_EVERY: SignedDuration = SignedDuration::from_secs(5);

/// What happens to one call.
#[derive(Debug)]
pub(crate) enum Fate {
    Performed,
    /// Fails before anything happened.
    Refused(Failure),
    /// The cloud answers this instead.
    Cloud(ProviderError),
    /// Happens, and the caller never learns it.
    AnswerLost,
    CrashBefore,
    CrashAfter,
}

/// Draws the fate of a call.
pub(crate) fn fate(rates: &Rates, request: &Request, rng: &mut Rng) -> Fate {
    if rng.hits(rates.crash) {
        return if rng.hits(5_000) {
            Fate::CrashBefore
        } else {
            Fate::CrashAfter
        };
    }
    if rng.hits(rates.lost_answer) {
        return Fate::AnswerLost;
    }
    if rng.hits(rates.refused) {
        return Fate::Refused(Failure::Unclear);
    }
    if request.is_launch() && rng.hits(rates.no_capacity) {
        return Fate::Cloud(ProviderError::InsufficientCapacity("the zone is sold out".into()));
    }
    if request.is_cloud() && rng.hits(rates.throttled) {
        return Fate::Cloud(ProviderError::Throttled("slow down".into()));
    }
    if request.is_patch() && rng.hits(rates.conflict) {
        return Fate::Refused(Failure::Conflict);
    }
    Fate::Performed
}

/// How long a call is under way, one way.
pub(crate) fn latency(rates: &Rates, rng: &mut Rng) -> SignedDuration {
    if rng.hits(rates.slow) {
        rng.between(500, 3_000)
    } else {
        rng.between(1, 15)
    }
}

/// How long a change takes to reach a watch.
pub(crate) fn watch_delay(rates: &Rates, rng: &mut Rng) -> SignedDuration {
    if !rng.hits(rates.stale_watch) {
        return rng.between(1, 30);
    }
    if rng.hits(2_000) {
        rng.between(5_000, 40_000)
    } else {
        rng.between(100, 5_000)
    }
}
