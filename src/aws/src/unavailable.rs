//! What EC2 refused lately, so that it is not asked for again at once by any pool.

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use rustc_hash::FxHasher;

/// First pause after a refusal for lack of capacity, as upstream; each further refusal doubles it.
const PAUSE: Duration = Duration::from_mins(3);
const PAUSE_MAX: Duration = Duration::from_mins(30);
/// A type that EC2 does not support in a zone is not supported in three minutes either.
const UNSUPPORTED: Duration = Duration::from_hours(6);
/// A refusal counts as a further one when it comes within this time after the pause before it.
const MEMORY: Duration = Duration::from_mins(10);
/// Pauses are longer by up to a quarter, so that what ran out together is not tried again together.
const JITTER_QUARTERS: u32 = 4;

/// Why an offering cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There are no such machines in the zone now.
    Capacity,
    /// The account's quota is spent; a smaller type may still fit.
    Quota,
    /// The zone cannot run this type, or not with this configuration.
    Unsupported,
    /// The subnet has no address left.
    Subnet,
    /// The account may not use spot machines, for want of a service-linked role.
    SpotRole,
}

impl Refusal {
    /// None for errors that do not speak about capacity.
    pub(crate) fn of_error(code: &str, message: &str) -> Option<Self> {
        Some(match code {
            "InsufficientInstanceCapacity" | "UnfulfillableCapacity" | "ReservationCapacityExceeded" => {
                Self::Capacity
            }
            "MaxSpotInstanceCountExceeded" | "VcpuLimitExceeded" | "MaxFleetCountExceeded" => Self::Quota,
            "Unsupported" => Self::Unsupported,
            "InvalidFleetConfiguration" if message.contains("not supported") => Self::Unsupported,
            "InsufficientFreeAddressesInSubnet" => Self::Subnet,
            "AuthFailure.ServiceLinkedRoleCreationNotPermitted" => Self::SpotRole,
            _ => return None,
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    until: Timestamp,
    times: u32,
}

/// (type, zone, capacity type)
type Key = (Arc<str>, Arc<str>, Arc<str>);

#[derive(Debug, Default)]
pub(crate) struct Unavailable {
    offerings: BTreeMap<Key, Mark>,
    capacity_types: BTreeMap<Arc<str>, Mark>,
    subnets: BTreeMap<String, Mark>,
}

impl Unavailable {
    pub(crate) fn offering(
        &mut self,
        type_: &str,
        zone: &str,
        capacity_type: &str,
        why: Refusal,
        now: Timestamp,
    ) {
        let key: Key = (type_.into(), zone.into(), capacity_type.into());
        let first = if why == Refusal::Unsupported {
            UNSUPPORTED
        } else {
            PAUSE
        };
        let mark = next(self.offerings.get(&key), &key, first, now);
        self.offerings.insert(key, mark);
    }

    pub(crate) fn capacity_type(&mut self, capacity_type: &str, now: Timestamp) {
        let mark = next(self.capacity_types.get(capacity_type), &capacity_type, PAUSE, now);
        self.capacity_types.insert(capacity_type.into(), mark);
    }

    pub(crate) fn subnet(&mut self, id: &str, now: Timestamp) {
        let mark = next(self.subnets.get(id), &id, PAUSE, now);
        self.subnets.insert(id.to_owned(), mark);
    }

    pub(crate) fn has(
        &self,
        type_: &Arc<str>,
        zone: &Arc<str>,
        capacity_type: &Arc<str>,
        now: Timestamp,
    ) -> bool {
        let paused = |mark: Option<&Mark>| mark.is_some_and(|m| m.until > now);
        let key = (type_.clone(), zone.clone(), capacity_type.clone());
        paused(self.offerings.get(&key)) || paused(self.capacity_types.get(capacity_type))
    }

    pub(crate) fn has_subnet(&self, id: &str, now: Timestamp) -> bool {
        self.subnets.get(id).is_some_and(|m| m.until > now)
    }

    /// When the next pause ends. Forgets what no longer matters.
    pub(crate) fn next_end(&mut self, now: Timestamp) -> Option<Timestamp> {
        let matters = |mark: &Mark| mark.until + MEMORY > now;
        self.offerings.retain(|_, m| matters(m));
        self.capacity_types.retain(|_, m| matters(m));
        self.subnets.retain(|_, m| matters(m));
        let marks = self
            .offerings
            .values()
            .chain(self.capacity_types.values())
            .chain(self.subnets.values());
        marks.map(|m| m.until).filter(|until| *until > now).min()
    }
}

fn next(known: Option<&Mark>, key: &impl Hash, first: Duration, now: Timestamp) -> Mark {
    let times = match known {
        // Refused again while paused: several launches were under way, which is one refusal.
        Some(mark) if mark.until > now => return *mark,
        Some(mark) if mark.until + MEMORY > now => mark.times + 1,
        _ => 0,
    };
    let pause = (first * 2u32.saturating_pow(times)).min(PAUSE_MAX.max(first));
    let mut hasher = FxHasher::default();
    key.hash(&mut hasher);
    times.hash(&mut hasher);
    let thousandths = (hasher.finish() % 1_000) as u32;
    let jitter = pause / JITTER_QUARTERS * thousandths / 1_000;
    Mark {
        until: now + pause + jitter,
        times,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::UNIX_EPOCH;

    fn after(minutes: u64) -> Timestamp {
        START + Duration::from_mins(minutes)
    }

    fn refused(all: &Unavailable, zone: &str, now: Timestamp) -> bool {
        all.has(&"m5.large".into(), &zone.into(), &"spot".into(), now)
    }

    #[test]
    fn a_refusal_closes_one_offering_for_a_while() {
        let mut all = Unavailable::default();
        all.offering("m5.large", "a", "spot", Refusal::Capacity, START);
        assert!(refused(&all, "a", START));
        assert!(refused(&all, "a", START + PAUSE - Duration::from_secs(1)));
        assert!(
            !refused(&all, "a", after(4)),
            "three minutes and at most a quarter more"
        );
        assert!(!refused(&all, "b", START));
        assert!(!all.has(&"m5.large".into(), &"a".into(), &"on-demand".into(), START));
    }

    #[test]
    fn further_refusals_last_longer_up_to_a_limit() {
        let mut all = Unavailable::default();
        let mut now = START;
        let mut pauses = Vec::new();
        for _ in 0..6 {
            all.offering("m5.large", "a", "spot", Refusal::Capacity, now);
            let end = all.next_end(now).unwrap();
            pauses.push(end.duration_since(now).as_secs() / 60);
            now = end;
        }
        assert!(pauses[0] < 4 && pauses[1] >= 6 && pauses[2] >= 12, "{pauses:?}");
        assert!(pauses.iter().all(|p| *p <= 38), "{pauses:?}");
        // Long after the last one, it counts from the beginning.
        now += MEMORY * 2;
        all.offering("m5.large", "a", "spot", Refusal::Capacity, now);
        assert!(!refused(&all, "a", now + Duration::from_mins(4)));
    }

    #[test]
    fn refusals_at_the_same_time_count_once() {
        let mut all = Unavailable::default();
        for _ in 0..5 {
            all.offering("m5.large", "a", "spot", Refusal::Capacity, START);
        }
        assert!(!refused(&all, "a", after(4)));
    }

    #[test]
    fn what_is_not_supported_is_left_alone_for_hours() {
        let mut all = Unavailable::default();
        all.offering("m5.large", "a", "spot", Refusal::Unsupported, START);
        assert!(refused(&all, "a", after(5 * 60)));
        assert!(!refused(&all, "a", after(8 * 60)));
    }

    #[test]
    fn codes_are_told_apart() {
        for (code, expected) in [
            ("InsufficientInstanceCapacity", Some(Refusal::Capacity)),
            ("VcpuLimitExceeded", Some(Refusal::Quota)),
            ("Unsupported", Some(Refusal::Unsupported)),
            ("InvalidFleetConfiguration", None),
            ("InsufficientFreeAddressesInSubnet", Some(Refusal::Subnet)),
            ("RequestLimitExceeded", None),
            ("UnauthorizedOperation", None),
        ] {
            assert_eq!(Refusal::of_error(code, ""), expected, "{code}");
        }
    }

    #[test]
    fn subnets_and_capacity_types_close_as_a_whole() {
        let mut all = Unavailable::default();
        all.subnet("subnet-1", START);
        all.capacity_type("spot", START);
        assert!(all.has_subnet("subnet-1", START) && !all.has_subnet("subnet-2", START));
        assert!(refused(&all, "anywhere", START));
        assert!(!all.has_subnet("subnet-1", after(10)));
    }
}
