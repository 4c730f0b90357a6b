//! Volumes and how many of them nodes can attach, in numbers.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::snapshot::Snapshot;

/// Volumes and how many of them nodes can attach, in numbers.
#[derive(Debug, Default)]
pub(in crate::pack) struct Volumes {
    /// By class: (driver, volume).
    pub(in crate::pack) of_class: Vec<Vec<(u32, u32)>>,
    /// By node: (driver, most).
    pub(in crate::pack) limits: Vec<Vec<(u32, u32)>>,
    /// By node: what is attached and stays.
    pub(in crate::pack) attached: Vec<Vec<(u32, u32)>>,
}

impl Volumes {
    pub(super) fn new(snapshot: &Snapshot, stays: &[(u32, u32, bool)]) -> Self {
        let mut names: FxHashMap<Arc<str>, u32> = FxHashMap::default();
        let mut id = |name: &Arc<str>| {
            let next = names.len() as u32;
            *names.entry(name.clone()).or_insert(next)
        };
        let mut out = Self::default();
        for shape in &snapshot.classes {
            out.of_class.push(
                shape
                    .volumes
                    .iter()
                    .map(|(driver, volume)| (id(driver), id(volume)))
                    .collect(),
            );
        }
        for node in &snapshot.nodes {
            out.limits.push(
                node.volume_limits
                    .iter()
                    .map(|(driver, most)| (id(driver), *most))
                    .collect(),
            );
        }
        out.attached = vec![Vec::new(); snapshot.nodes.len()];
        for (class, node, _) in stays {
            attach(&mut out.attached[*node as usize], &out.of_class[*class as usize]);
        }
        out
    }

    /// Whether a node with these volumes attached can attach those of the class too.
    pub(in crate::pack) fn admit(&self, node: usize, attached: &[(u32, u32)], class: u32) -> bool {
        let volumes = &self.of_class[class as usize];
        volumes.is_empty()
            || self.limits[node].iter().all(|(driver, most)| {
                let held = attached.iter().filter(|(d, _)| d == driver).count();
                let new = volumes
                    .iter()
                    .filter(|v| v.0 == *driver && !attached.contains(v))
                    .count();
                new == 0 || held + new <= *most as usize
            })
    }
}

/// Adds the volumes that are not attached yet.
pub(in crate::pack) fn attach(attached: &mut Vec<(u32, u32)>, volumes: &[(u32, u32)]) {
    for volume in volumes {
        if !attached.contains(volume) {
            attached.push(*volume);
        }
    }
}
