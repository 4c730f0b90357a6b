//! Status conditions, kept exactly as Karpenter's operator library keeps them.
//!
//! Both controllers must write the same list for the same facts: otherwise a swap in either direction starts with every
//! object's status being rewritten. So the initial values, the texts, the order of the list and the moment at which a
//! transition time moves are all part of the wire format, and the tests hold them as golden lists.

use std::cmp::Reverse;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The machine exists at the provider.
pub const LAUNCHED: &str = "Launched";
/// The machine's Node was found and matched.
pub const REGISTERED: &str = "Registered";
/// The Node is ready for workloads.
pub const INITIALIZED: &str = "Initialized";
/// The node has been quiet long enough to be consolidated.
pub const CONSOLIDATABLE: &str = "Consolidatable";
/// The machine is no longer what its NodePool or NodeClass asks for; the reason says in what.
pub const DRIFTED: &str = "Drifted";
/// The machine has been chosen for disruption; the reason says why.
pub const DISRUPTION_REASON: &str = "DisruptionReason";
/// No pod that must be waited for is left.
pub const DRAINED: &str = "Drained";
/// No volume that must be waited for is attached.
pub const VOLUMES_DETACHED: &str = "VolumesDetached";
/// The provider has been told to terminate the machine.
pub const INSTANCE_TERMINATING: &str = "InstanceTerminating";
/// The Node has what its NodeClaim promises.
pub const CONSISTENT_STATE_FOUND: &str = "ConsistentStateFound";
/// The object passed the checks that the schema cannot make.
pub const VALIDATION_SUCCEEDED: &str = "ValidationSucceeded";
/// The NodeClass a NodePool refers to is ready.
pub const NODECLASS_READY: &str = "NodeClassReady";
/// Machines of the pool have lately registered.
pub const NODE_REGISTRATION_HEALTHY: &str = "NodeRegistrationHealthy";
/// The root: everything it depends on holds.
pub const READY: &str = "Ready";

const TRUE: &str = "True";
const FALSE: &str = "False";
const UNKNOWN: &str = "Unknown";

/// The conditions of a kind that decide about its root condition. Others are independent of it.
#[derive(Debug)]
pub struct ConditionTypes {
    /// True if and only if every dependent is true.
    pub root: &'static str,
    /// What the root depends on, in the order in which missing ones are filled in.
    pub dependents: &'static [&'static str],
}

/// Conditions of a NodeClaim.
pub const NODECLAIM: ConditionTypes = ConditionTypes {
    root: READY,
    dependents: &[LAUNCHED, REGISTERED, INITIALIZED],
};
/// Conditions of a NodePool.
pub const NODEPOOL: ConditionTypes = ConditionTypes {
    root: READY,
    dependents: &[VALIDATION_SUCCEEDED, NODECLASS_READY],
};
/// Conditions of a NodeOverlay.
pub const NODEOVERLAY: ConditionTypes = ConditionTypes {
    root: READY,
    dependents: &[VALIDATION_SUCCEEDED],
};
/// Conditions of an EC2NodeClass.
pub const EC2NODECLASS: ConditionTypes = ConditionTypes {
    root: READY,
    dependents: &[
        "AMIsReady",
        "SubnetsReady",
        "SecurityGroupsReady",
        "InstanceProfileReady",
        VALIDATION_SUCCEEDED,
        "PlacementGroupReady",
        "CapacityReservationsReady",
    ],
};

/// The condition of this type, if there is one.
pub fn find<'a>(conditions: &'a [Condition], ty: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == ty)
}

/// Whether the condition of this type is there and true, whatever generation it speaks about.
pub fn is_true(conditions: &[Condition], ty: &str) -> bool {
    find(conditions, ty).is_some_and(|condition| condition.status == TRUE)
}

/// The conditions of one object, open for change.
///
/// Times are whole seconds, as they are on the wire; finer ones would order the list differently after a read.
#[derive(Debug)]
pub struct ConditionSet<'a> {
    types: &'a ConditionTypes,
    conditions: &'a mut Vec<Condition>,
    generation: i64,
    created: Timestamp,
    now: Timestamp,
    terminating: bool,
}

impl<'a> ConditionSet<'a> {
    /// Opens the conditions of an object and fills in the root and each dependent that is missing, as Unknown since
    /// the object was created.
    pub fn new(
        types: &'a ConditionTypes,
        conditions: &'a mut Vec<Condition>,
        generation: i64,
        created: Timestamp,
        now: Timestamp,
    ) -> Self {
        let (created, now) = (whole_seconds(created), whole_seconds(now));
        let mut set = Self {
            types,
            conditions,
            generation,
            created,
            now,
            terminating: false,
        };
        // The root comes first, so that the dependents that follow recompute one that is already there.
        for ty in std::iter::once(types.root).chain(types.dependents.iter().copied()) {
            if set.get(ty).is_none() {
                set.set_unknown(ty, "AwaitingReconciliation", "object is awaiting reconciliation");
            }
        }
        set
    }

    /// Says whether the object has a deletion timestamp. Each change then brings the other conditions to the current
    /// generation, because nothing reconciles them any more and they would hold the root at Unknown.
    #[must_use]
    pub fn terminating(mut self, terminating: bool) -> Self {
        self.terminating = terminating;
        self
    }

    /// The condition of this type.
    pub fn get(&self, ty: &str) -> Option<&Condition> {
        find(self.conditions, ty)
    }

    /// Whether the condition of this type is there and true.
    pub fn is_true(&self, ty: &str) -> bool {
        is_true(self.conditions, ty)
    }

    /// Sets a condition to True, with its own type as the reason. Returns whether anything changed, as all setters do.
    pub fn set_true(&mut self, ty: &str) -> bool {
        self.set_true_with_reason(ty, ty, "")
    }

    /// Sets a condition to True.
    pub fn set_true_with_reason(&mut self, ty: &str, reason: &str, message: &str) -> bool {
        self.set(ty, TRUE, reason, message)
    }

    /// Sets a condition to False.
    pub fn set_false(&mut self, ty: &str, reason: &str, message: &str) -> bool {
        self.set(ty, FALSE, reason, message)
    }

    /// Sets a condition to Unknown.
    pub fn set_unknown(&mut self, ty: &str, reason: &str, message: &str) -> bool {
        self.set(ty, UNKNOWN, reason, message)
    }

    /// Removes an independent condition. The root and its dependents stay: without them Ready could not be computed.
    /// The rest of the list is put in the order of the types, until the next change orders it by time again.
    pub fn clear(&mut self, ty: &str) -> bool {
        if self.is_root_or_dependent(ty) || self.get(ty).is_none() {
            return false;
        }
        self.conditions.retain(|condition| condition.type_ != ty);
        self.conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        true
    }

    fn is_root_or_dependent(&self, ty: &str) -> bool {
        ty == self.types.root || self.types.dependents.contains(&ty)
    }

    fn set(&mut self, ty: &str, status: &str, reason: &str, message: &str) -> bool {
        let old = self.get(ty);
        let last_transition_time = match old {
            Some(old) if old.status == status => old.last_transition_time.clone(),
            // What the root depends on has been in its first state since the object was made.
            None if self.is_root_or_dependent(ty) => Time(self.created),
            Some(_) | None => Time(self.now),
        };
        let new = Condition {
            type_: ty.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            observed_generation: Some(self.generation),
            last_transition_time,
        };
        if old == Some(&new) {
            return false;
        }
        self.conditions.retain(|condition| condition.type_ != ty);
        if self.terminating {
            for condition in self.conditions.iter_mut() {
                condition.observed_generation = Some(self.generation);
            }
        }
        self.conditions.push(new);
        let root = self.types.root;
        self.conditions
            .sort_by_key(|condition| (condition.type_ == root, condition.last_transition_time.0));
        if ty != root {
            self.recompute_root();
        }
        true
    }

    fn recompute_root(&mut self) {
        let current = |condition: &Condition| condition.observed_generation == Some(self.generation);
        let mut unhealthy: Vec<_> = self
            .conditions
            .iter()
            .filter(|condition| self.types.dependents.contains(&condition.type_.as_str()))
            .filter(|condition| condition.status != TRUE || !current(condition))
            .collect();
        unhealthy.sort_by_key(|condition| Reverse(condition.last_transition_time.0));
        let (root, message) = (
            self.types.root,
            unhealthy
                .iter()
                .map(|c| format!("{}={}", c.type_, c.status))
                .collect::<Vec<_>>()
                .join(", "),
        );
        if unhealthy.is_empty() {
            self.set_true(root);
        } else if unhealthy
            .iter()
            .any(|condition| condition.status == FALSE && current(condition))
        {
            self.set_false(root, "UnhealthyDependents", &message);
        } else {
            self.set_unknown(root, "ReconcilingDependents", &message);
        }
    }
}

fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).expect("the second a timestamp lies in is a timestamp")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATED: i64 = 1_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn open(conditions: &mut Vec<Condition>, generation: i64, now: i64) -> ConditionSet<'_> {
        ConditionSet::new(&NODECLAIM, conditions, generation, at(CREATED), at(now))
    }

    /// One line per condition: seconds since creation, type, status, reason, message and generation.
    fn lines(conditions: &[Condition]) -> Vec<String> {
        conditions
            .iter()
            .map(|c| {
                format!(
                    "+{} {}={} {} {:?} g{}",
                    c.last_transition_time.0.as_second() - CREATED,
                    c.type_,
                    c.status,
                    c.reason,
                    c.message,
                    c.observed_generation.unwrap_or_default(),
                )
            })
            .collect()
    }

    const AWAITING: &str = "Unknown AwaitingReconciliation \"object is awaiting reconciliation\" g1";

    #[test]
    fn a_new_object_waits_in_every_dependent_since_its_creation() {
        let mut conditions = Vec::new();
        open(&mut conditions, 1, 1_005);
        assert_eq!(
            lines(&conditions),
            [
                format!("+0 Launched={AWAITING}"),
                format!("+0 Registered={AWAITING}"),
                format!("+0 Initialized={AWAITING}"),
                "+0 Ready=Unknown ReconcilingDependents \
                 \"Launched=Unknown, Registered=Unknown, Initialized=Unknown\" g1"
                    .to_owned(),
            ]
        );
        let before = conditions.clone();
        open(&mut conditions, 1, 1_050);
        assert_eq!(conditions, before, "opening again changes nothing");
    }

    #[test]
    fn a_claim_becomes_ready_step_by_step() {
        let mut conditions = Vec::new();
        assert!(open(&mut conditions, 1, 1_010).set_true(LAUNCHED));
        assert_eq!(
            lines(&conditions),
            [
                format!("+0 Registered={AWAITING}"),
                format!("+0 Initialized={AWAITING}"),
                "+10 Launched=True Launched \"\" g1".to_owned(),
                "+0 Ready=Unknown ReconcilingDependents \"Registered=Unknown, Initialized=Unknown\" g1"
                    .to_owned(),
            ]
        );
        assert!(open(&mut conditions, 1, 1_020).set_true(REGISTERED));
        assert!(open(&mut conditions, 1, 1_030).set_true(INITIALIZED));
        assert_eq!(
            lines(&conditions),
            [
                "+10 Launched=True Launched \"\" g1",
                "+20 Registered=True Registered \"\" g1",
                "+30 Initialized=True Initialized \"\" g1",
                "+30 Ready=True Ready \"\" g1",
            ]
        );
        assert!(
            !open(&mut conditions, 1, 1_040).set_true(INITIALIZED),
            "the same again is no change"
        );
        assert!(is_true(&conditions, READY) && open(&mut conditions, 1, 1_040).is_true(READY));
    }

    #[test]
    fn a_false_dependent_decides_only_at_the_current_generation() {
        let mut conditions = Vec::new();
        open(&mut conditions, 1, 1_010).set_false(LAUNCHED, "LaunchFailed", "no capacity");
        assert_eq!(
            lines(&conditions)[2..],
            [
                "+10 Launched=False LaunchFailed \"no capacity\" g1",
                "+10 Ready=False UnhealthyDependents \
                 \"Launched=False, Registered=Unknown, Initialized=Unknown\" g1",
            ]
        );
        open(&mut conditions, 2, 1_020).set_true(REGISTERED);
        assert_eq!(
            lines(&conditions),
            [
                format!("+0 Initialized={AWAITING}"),
                "+10 Launched=False LaunchFailed \"no capacity\" g1".to_owned(),
                "+20 Registered=True Registered \"\" g2".to_owned(),
                "+20 Ready=Unknown ReconcilingDependents \"Launched=False, Initialized=Unknown\" g2"
                    .to_owned(),
            ]
        );
    }

    #[test]
    fn a_dependent_of_an_older_generation_holds_ready_back() {
        let mut conditions = Vec::new();
        let mut set = open(&mut conditions, 1, 1_010);
        for ty in NODECLAIM.dependents {
            set.set_true(ty);
        }
        open(&mut conditions, 2, 1_020).set_true(LAUNCHED);
        assert_eq!(
            lines(&conditions),
            [
                "+10 Registered=True Registered \"\" g1",
                "+10 Initialized=True Initialized \"\" g1",
                "+10 Launched=True Launched \"\" g2",
                "+20 Ready=Unknown ReconcilingDependents \"Registered=True, Initialized=True\" g2",
            ]
        );
        let mut terminating = conditions.clone();
        ConditionSet::new(&NODECLAIM, &mut terminating, 2, at(CREATED), at(1_030))
            .terminating(true)
            .set_unknown(DRAINED, "Draining", "2 pods are waiting");
        assert_eq!(
            lines(&terminating),
            [
                "+10 Registered=True Registered \"\" g2",
                "+10 Initialized=True Initialized \"\" g2",
                "+10 Launched=True Launched \"\" g2",
                "+30 Drained=Unknown Draining \"2 pods are waiting\" g2",
                "+30 Ready=True Ready \"\" g2",
            ]
        );
    }

    #[test]
    fn independent_conditions_come_and_go_without_touching_ready() {
        let mut conditions = Vec::new();
        open(&mut conditions, 1, 1_010).set_true_with_reason(DRIFTED, "NodePoolDrifted", "hash differs");
        assert_eq!(
            lines(&conditions)[3],
            "+10 Drifted=True NodePoolDrifted \"hash differs\" g1"
        );
        // A new reason for the same status is a change, but no transition.
        open(&mut conditions, 1, 1_020).set_true_with_reason(DRIFTED, "RequirementsDrifted", "");
        assert_eq!(
            lines(&conditions)[3],
            "+10 Drifted=True RequirementsDrifted \"\" g1"
        );
        let mut set = open(&mut conditions, 1, 1_030);
        assert!(set.clear(DRIFTED) && !set.clear(DRIFTED));
        assert!(
            !set.clear(LAUNCHED) && !set.clear(READY),
            "what Ready rests on stays"
        );
        let types: Vec<_> = conditions.iter().map(|c| c.type_.as_str()).collect();
        assert_eq!(types, ["Initialized", "Launched", "Ready", "Registered"]);
        open(&mut conditions, 1, 1_040).set_true(LAUNCHED);
        let types: Vec<_> = conditions.iter().map(|c| c.type_.as_str()).collect();
        assert_eq!(
            types,
            ["Initialized", "Registered", "Launched", "Ready"],
            "a change restores the order by time"
        );
    }

    #[test]
    fn times_are_whole_seconds() {
        let mut conditions = Vec::new();
        let now = Timestamp::from_millisecond(1_010_999).unwrap();
        ConditionSet::new(&NODEPOOL, &mut conditions, 1, at(CREATED), now).set_true(NODECLASS_READY);
        assert_eq!(
            find(&conditions, NODECLASS_READY).unwrap().last_transition_time,
            Time(at(1_010))
        );
    }

    #[test]
    fn a_kind_without_dependents_is_ready_as_soon_as_anything_is_set() {
        let types = ConditionTypes {
            root: READY,
            dependents: &[],
        };
        let mut conditions = Vec::new();
        let mut set = ConditionSet::new(&types, &mut conditions, 1, at(CREATED), at(1_010));
        assert!(!set.is_true(READY));
        set.set_unknown("Other", "Other", "");
        assert!(set.is_true(READY));
    }
}
