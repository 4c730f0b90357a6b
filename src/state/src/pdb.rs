//! Pod disruption budgets, as they block voluntary disruption.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::{api::policy::v1::PodDisruptionBudget, apimachinery::pkg::util::intstr::IntOrString};
use plimsoll_core::{requirement::Operator, snapshot::Selector};
use rustc_hash::FxHashMap;

use crate::{lower::shape::selector, pod::PodState};

/// Whether a selector picks a set of pod labels (sorted by key).
pub(crate) fn selects(selector: &Selector, labels: &[(Arc<str>, Arc<str>)]) -> bool {
    let value = |key: &str| {
        labels
            .binary_search_by(|(k, _)| (**k).cmp(key))
            .ok()
            .map(|at| &labels[at].1)
    };
    !selector.nothing
        && selector
            .requirements
            .iter()
            .all(|r| match (r.operator, value(&r.key)) {
                (Operator::In, Some(v)) => r.values.contains(v),
                (Operator::NotIn, Some(v)) => !r.values.contains(v),
                (Operator::Exists, found) => found.is_some(),
                (Operator::DoesNotExist, found) => found.is_none(),
                (Operator::NotIn, None) => true,
                _ => false,
            })
}

/// The budgets of the pods in one snapshot by namespace, with their selectors read once.
pub(crate) struct Budgets<'a> {
    entries: FxHashMap<&'a str, Vec<(&'a PodDisruptionBudget, Selector)>>,
}

impl<'a> Budgets<'a> {
    pub(crate) fn new(pdbs: impl IntoIterator<Item = &'a Arc<PodDisruptionBudget>>) -> Self {
        let mut entries: FxHashMap<&str, Vec<_>> = FxHashMap::default();
        for pdb in pdbs {
            if let (Some(namespace), Some(spec)) = (&pdb.metadata.namespace, &pdb.spec) {
                let entry = (&**pdb, selector(spec.selector.as_ref()));
                entries.entry(namespace).or_default().push(entry);
            }
        }
        Self { entries }
    }

    fn of<'b>(&'b self, pod: &'b PodState) -> impl Iterator<Item = &'a PodDisruptionBudget> + 'b {
        let of_namespace = self.entries.get(pod.namespace()).into_iter().flatten();
        of_namespace
            .filter(|(_, selector)| selects(selector, &pod.labels))
            .map(|(pdb, _)| *pdb)
    }

    /// The budget that forbids evicting the pod right now, by name. More than one budget on a pod makes
    /// the eviction API refuse, so it blocks too.
    pub(crate) fn blocking(&self, pod: &PodState) -> Option<Arc<str>> {
        let mut budgets = self.of(pod);
        let first = budgets.next()?;
        if budgets.next().is_some() {
            return Some(name(first));
        }
        let always_allow_unready = first
            .spec
            .as_ref()
            .and_then(|s| s.unhealthy_pod_eviction_policy.as_deref())
            == Some("AlwaysAllow");
        if always_allow_unready && !pod.ready {
            return None;
        }
        let allowed = first
            .status
            .as_ref()
            .and_then(|s| s.disruptions_allowed)
            .unwrap_or(0);
        (allowed <= 0).then(|| name(first))
    }

    /// Whether the pod can be evicted sooner or later.
    pub(crate) fn allow_moving(&self, pod: &PodState, now: Timestamp) -> bool {
        let is_stuck = self.blocks_for_ever(pod) || self.of(pod).any(keeps_all);
        !pod.do_not_disrupt_now(now) && !is_stuck
    }

    /// A budget under which the pod can never be evicted, whatever its state.
    pub(crate) fn blocks_for_ever(&self, pod: &PodState) -> bool {
        self.of(pod).any(|pdb| {
            let Some(spec) = &pdb.spec else { return false };
            let is = |value: Option<&IntOrString>, int: Option<i32>, text: &str| match value {
                Some(IntOrString::Int(i)) => Some(*i) == int,
                Some(IntOrString::String(s)) => s == text,
                None => false,
            };
            is(spec.max_unavailable.as_ref(), Some(0), "0%") || is(spec.min_available.as_ref(), None, "100%")
        })
    }
}

/// A budget that forbids evictions at the moment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockingBudget {
    /// `namespace/name`.
    pub key: Arc<str>,
    /// It cannot allow an eviction even when all its pods are healthy.
    pub for_ever: bool,
}

impl crate::Index {
    /// For each pod given, in the same order, the budget that forbids evicting it, if one does.
    pub fn blocking_budgets<'a>(
        &self,
        pods: impl IntoIterator<Item = &'a PodState>,
    ) -> Vec<Option<BlockingBudget>> {
        let budgets = Budgets::new(self.pdbs.values());
        let blocking = |pod: &PodState| {
            let key = budgets.blocking(pod)?;
            let never = |pdb| name(pdb) == key && keeps_all(pdb);
            let for_ever = budgets.blocks_for_ever(pod) || budgets.of(pod).any(never);
            Some(BlockingBudget { key, for_ever })
        };
        pods.into_iter().map(blocking).collect()
    }
}

/// It wants as many healthy pods as there are, such as one of one.
fn keeps_all(pdb: &PodDisruptionBudget) -> bool {
    let status = pdb.status.as_ref();
    let counts = status.and_then(|s| s.desired_healthy.zip(s.expected_pods));
    counts.is_some_and(|(desired, expected)| desired >= expected)
}

fn name(pdb: &PodDisruptionBudget) -> Arc<str> {
    let namespace = pdb.metadata.namespace.as_deref().unwrap_or_default();
    format!("{namespace}/{}", pdb.metadata.name.as_deref().unwrap_or_default()).into()
}
