//! Which pods could run on arm64 machines, and how that is known.
//!
//! Nothing is asked of a registry. Three things count: what the pod itself says, its images where pods that are ready run
//! them on an arm64 machine of the cluster, and images that somebody lists.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    str::FromStr,
    sync::Arc,
};

use plimsoll_api::labels;
use plimsoll_core::{
    requirement::{Operator, Requirement},
    snapshot::PodClass,
};
use serde::Serialize;

use crate::{
    cluster::{Cluster, PodFacts},
    money::{counted, thousands},
};

/// Images, and DaemonSets, that are named; the others are counted.
const NAMED_MAX: usize = 20;
/// The same in a sentence.
const NAMED_MAX_SENTENCE: usize = 3;

/// Images that somebody knows to have an arm64 variant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arm64Images(Vec<String>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: `{text}` is not an image; write one a line, with `*` only at the end")]
pub struct Arm64ImagesError {
    line: usize,
    text: String,
}

impl FromStr for Arm64Images {
    type Err = Arm64ImagesError;

    /// One image a line, as pods name it; `*` at the end stands for any rest. Empty lines and those that begin with `#`
    /// do not count.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lines = text.lines().map(str::trim).enumerate();
        let counts = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let read = counts.map(|(at, line)| {
            let name = line.strip_suffix('*').unwrap_or(line);
            if name.contains(|c: char| c == '*' || c.is_whitespace()) {
                return Err(Arm64ImagesError {
                    line: at + 1,
                    text: line.into(),
                });
            }
            Ok(line.to_owned())
        });
        read.collect::<Result<_, _>>().map(Self)
    }
}

impl Arm64Images {
    fn has(&self, image: &str) -> bool {
        self.0.iter().any(|listed| match listed.strip_suffix('*') {
            Some(beginning) => image.starts_with(beginning),
            None => image == listed,
        })
    }
}

/// How many pods are known to run on arm64, by what, and what is not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Arm64 {
    /// Pods that could be moved at all: those of DaemonSets and static ones are not among them.
    pub pods: u32,
    /// Of these, those whose node selector or required affinity names arm64.
    pub by_own_words: u32,
    /// Those whose images all run, ready, on an arm64 machine of the cluster.
    pub by_running: u32,
    /// Those for which the list of images was needed.
    pub by_list: u32,
    /// Images not known to have an arm64 variant, those of most pods first.
    pub unknown: Vec<UnknownImage>,
    /// Of those, how many were cut.
    pub unknown_cut: u32,
    /// DaemonSets that a new machine would run and that are not known to run on arm64. While there are any, no arm64
    /// machine is planned.
    pub daemon_sets_unknown: Vec<String>,
}

/// An image, and in how many pods that could move it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnknownImage {
    pub image: String,
    pub pods: u32,
}

/// What is known, pod by pod.
#[derive(Debug)]
pub(crate) struct Known {
    /// By pod of the snapshot: it runs elsewhere now and could be put on an arm64 machine.
    pub(crate) pods: Vec<bool>,
    pub(crate) basis: Arm64,
}

impl Known {
    /// A plan with arm64 can differ from one without.
    pub(crate) fn any(&self) -> bool {
        self.pods.contains(&true) && self.basis.daemon_sets_unknown.is_empty()
    }
}

pub(crate) fn known(cluster: &Cluster, listed: &Arm64Images) -> Known {
    let on_arm64 = |pod: usize| {
        let arch = cluster.node_of(pod).and_then(|node| cluster.arch_of(node));
        arch == Some(labels::ARCH_ARM64)
    };
    let there: Vec<bool> = (0..cluster.pods.len()).map(on_arm64).collect();
    let proven = cluster
        .pods
        .iter()
        .zip(&there)
        .filter(|(pod, there)| **there && pod.ready);
    let runs: BTreeSet<&Arc<str>> = proven.flat_map(|(pod, _)| pod.images.iter()).collect();
    let runs_all = |pod: &PodFacts| !pod.images.is_empty() && pod.images.iter().all(|i| runs.contains(i));
    let is_known = |image: &Arc<str>| runs.contains(image) || listed.has(image);
    let knows_all = |pod: &PodFacts| !pod.images.is_empty() && pod.images.iter().all(is_known);

    let mut basis = Arm64::default();
    let mut unknown: BTreeMap<&Arc<str>, u32> = BTreeMap::new();
    let mut daemon_sets: BTreeSet<&Arc<str>> = BTreeSet::new();
    let mut pods = vec![false; there.len()];
    for (at, facts) in cluster.pods.iter().enumerate() {
        let class = cluster.class_of(at);
        let movable = !cluster.snapshot.pods[at].daemon;
        let knowing = if movable {
            basis.pods += 1;
            if names_arm64(class) {
                Some(&mut basis.by_own_words)
            } else if runs_all(facts) {
                Some(&mut basis.by_running)
            } else if knows_all(facts) {
                Some(&mut basis.by_list)
            } else {
                None
            }
        } else {
            if let Some(key) = &facts.daemon_set
                && !names_arm64(class)
                && !bars_arm64(class)
                && !knows_all(facts)
            {
                daemon_sets.insert(key);
            }
            continue;
        };
        if let Some(count) = knowing {
            *count += 1;
            pods[at] = !there[at];
        } else {
            for image in facts.images.iter().filter(|i| !is_known(i)) {
                *unknown.entry(image).or_default() += 1;
            }
        }
    }
    let mut unknown: Vec<UnknownImage> = unknown
        .into_iter()
        .map(|(image, pods)| UnknownImage {
            image: image.to_string(),
            pods,
        })
        .collect();
    // Stable, so that equals keep their order by name.
    unknown.sort_by_key(|u| std::cmp::Reverse(u.pods));
    basis.unknown_cut = unknown.len().saturating_sub(NAMED_MAX) as u32;
    unknown.truncate(NAMED_MAX);
    basis.unknown = unknown;
    basis.daemon_sets_unknown = daemon_sets.into_iter().map(ToString::to_string).collect();
    Known { pods, basis }
}

fn of_arch(r: &Requirement) -> bool {
    labels::normalize(&r.key) == labels::ARCH
}

/// Whoever wrote it has thought of arm64.
fn names_arm64(class: &PodClass) -> bool {
    let named = |r: &Requirement| r.operator == Operator::In && r.matches(Some(labels::ARCH_ARM64));
    let selected = class.node_selector.iter();
    let by_selector = selected
        .filter(|(key, _)| labels::normalize(key) == labels::ARCH)
        .any(|(_, value)| &**value == labels::ARCH_ARM64);
    let mut terms = class.node_affinity.iter().flatten();
    by_selector || terms.any(|r| of_arch(r) && named(r))
}

/// It cannot run on arm64, so it need not.
fn bars_arm64(class: &PodClass) -> bool {
    let selected = class.node_selector.iter();
    let by_selector = selected
        .filter(|(key, _)| labels::normalize(key) == labels::ARCH)
        .any(|(_, value)| &**value != labels::ARCH_ARM64);
    let bars = |term: &Vec<Requirement>| {
        let mut of_it = term.iter().filter(|r| of_arch(r));
        of_it.any(|r| !r.matches(Some(labels::ARCH_ARM64)))
    };
    by_selector || (!class.node_affinity.is_empty() && class.node_affinity.iter().all(bars))
}

impl Arm64 {
    /// What is known and how, for people.
    pub(crate) fn sentence(&self) -> String {
        let known = self.by_own_words + self.by_running + self.by_list;
        let mut text = format!(
            "{} of {} are known to run there",
            thousands(known.into()),
            counted(self.pods, "pod")
        );
        let by = [
            (self.by_own_words, "by their own node selector or affinity"),
            (
                self.by_running,
                "by images that run on an arm64 machine of this cluster",
            ),
            (self.by_list, "by --arm64-images"),
        ];
        let by: Vec<String> = by
            .iter()
            .filter(|(pods, _)| *pods > 0)
            .map(|(pods, how)| format!("{} {how}", thousands((*pods).into())))
            .collect();
        if !by.is_empty() {
            let _ = write!(text, " ({})", by.join(", "));
        }
        if !self.daemon_sets_unknown.is_empty() {
            let names: Vec<&str> = self.daemon_sets_unknown.iter().map(String::as_str).collect();
            let named = listing(&names, names.len());
            let _ = write!(
                text,
                "; no such machine is planned before the same is known of the DaemonSets {named}"
            );
        }
        if !self.unknown.is_empty() {
            let images: Vec<&str> = self.unknown.iter().map(|u| u.image.as_str()).collect();
            let all = images.len() + self.unknown_cut as usize;
            let _ = write!(
                text,
                "; not known of {}: --arm64-images FILE tells which have an arm64 variant",
                listing(&images, all)
            );
        }
        text
    }
}

/// The first names, and how many more there are.
fn listing(names: &[&str], all: usize) -> String {
    let named = &names[..names.len().min(NAMED_MAX_SENTENCE)];
    match all - named.len() {
        0 => named.join(", "),
        more => format!("{} and {} more", named.join(", "), thousands(more as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_images_takes_whole_names_and_beginnings() {
        let images: Arm64Images = "# ours\nshop/web:1\n\n  base/* \n".parse().unwrap();
        assert!(images.has("shop/web:1") && images.has("base/nginx:2"));
        assert!(!images.has("shop/web:10") && !images.has("shop/base/x") && !images.has(""));
    }

    #[test]
    fn a_line_that_is_no_image_is_an_error_that_names_it() {
        for text in ["a:1\nshop/* web", "a:1\nshop/*/web"] {
            let error = text.parse::<Arm64Images>().unwrap_err().to_string();
            assert!(error.starts_with("line 2: `shop/*"), "{error}");
        }
    }
}
