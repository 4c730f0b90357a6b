//! Which waiting pod has a place on which machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

#[derive(Clone, Debug)]
pub(crate) struct Promise {
    /// NodeClaim name, or Node name for a machine without claim.
    pub(crate) target: Arc<str>,
    pub(crate) made: Timestamp,
    /// How often kube-scheduler tried the pod on the open machine and could not place it.
    pub(crate) refusals: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Promises {
    by_pod: BTreeMap<Arc<str>, Promise>,
    by_target: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
}

impl Promises {
    pub(crate) fn make(&mut self, pod: &Arc<str>, target: Arc<str>, made: Timestamp) {
        self.end(pod);
        self.by_target
            .entry(target.clone())
            .or_default()
            .insert(pod.clone());
        let refusals = 0;
        let promise = Promise {
            target,
            made,
            refusals,
        };
        self.by_pod.insert(pod.clone(), promise);
    }

    pub(crate) fn end(&mut self, pod: &str) -> Option<Promise> {
        let promise = self.by_pod.remove(pod)?;
        if let Some(pods) = self.by_target.get_mut(&promise.target) {
            pods.remove(pod);
            if pods.is_empty() {
                self.by_target.remove(&promise.target);
            }
        }
        Some(promise)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_pod.len()
    }

    pub(crate) fn get(&self, pod: &str) -> Option<&Promise> {
        self.by_pod.get(pod)
    }

    pub(crate) fn get_mut(&mut self, pod: &str) -> Option<&mut Promise> {
        self.by_pod.get_mut(pod)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Promise)> {
        self.by_pod.iter()
    }

    /// Pods with a place on this machine, sorted.
    pub(crate) fn on(&self, target: &str) -> impl Iterator<Item = &Arc<str>> {
        self.by_target.get(target).into_iter().flatten()
    }

    /// Machines some pod has a place on.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_target.keys()
    }
}
