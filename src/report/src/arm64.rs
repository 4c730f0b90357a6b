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
    catalog::InstanceType,
    requirement::{Operator, Requirement},
    snapshot::{PodClass, Pool},
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
/// Labels of a machine that its type does not decide.
const DECIDED_LATER: [&str; 4] = [
    labels::ZONE,
    labels::REGION,
    labels::CAPACITY_TYPE,
    labels::HOSTNAME,
];

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
            if name.contains(|c: char| "*[]{}\",".contains(c) || c.is_whitespace()) {
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
        self.0.iter().any(|line| names(line, image))
    }
}

fn names(line: &str, image: &str) -> bool {
    match line.strip_suffix('*') {
        Some(beginning) => image.starts_with(beginning),
        None => image == line,
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
    /// Those that keep off arm64 by their own words.
    pub kept_off: u32,
    /// Lines of the list that name no image of the cluster.
    pub listed_in_vain: Vec<String>,
    /// Images not known to have an arm64 variant, those of most pods first.
    pub unknown: Vec<UnknownImage>,
    /// Of those, how many were cut.
    pub unknown_cut: u32,
    /// DaemonSets that a new machine would run and that are not known to run on arm64, or that keep off arm64 while no
    /// machine of the cluster shows that it does without them. While there are any, no arm64 machine is planned.
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
    let mut pods = vec![false; there.len()];
    for (at, facts) in cluster.pods.iter().enumerate() {
        if cluster.snapshot.pods[at].daemon {
            continue;
        }
        let class = cluster.class_of(at);
        basis.pods += 1;
        let knowing = if bars_arm64(class) {
            basis.kept_off += 1;
            continue;
        } else if names_arm64(class) {
            &mut basis.by_own_words
        } else if runs_all(facts) {
            &mut basis.by_running
        } else if knows_all(facts) {
            &mut basis.by_list
        } else {
            for image in facts.images.iter().filter(|i| !is_known(i)) {
                *unknown.entry(image).or_default() += 1;
            }
            continue;
        };
        *knowing += 1;
        pods[at] = !there[at];
    }
    basis.daemon_sets_unknown = daemon_sets_unknown(cluster, there.contains(&true), is_known);
    let in_vain = listed.0.iter().filter(|line| {
        let mut images = cluster.pods.iter().flat_map(|p| p.images.iter());
        !images.any(|image| names(line, image))
    });
    basis.listed_in_vain = in_vain.cloned().collect();
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
    Known { pods, basis }
}

/// See [`Arm64::daemon_sets_unknown`]. `seen`: some machine of the cluster is arm64 already.
fn daemon_sets_unknown(cluster: &Cluster, seen: bool, is_known: impl Fn(&Arc<str>) -> bool) -> Vec<String> {
    let mut images: BTreeMap<&Arc<str>, BTreeSet<&Arc<str>>> = BTreeMap::new();
    for pod in &cluster.pods {
        if let Some(key) = &pod.daemon_set {
            images.entry(key).or_default().extend(pod.images.iter());
        }
    }
    let unknown = cluster.snapshot.daemon_sets.iter().filter(|set| {
        let class = &cluster.snapshot.classes[set.class.0 as usize];
        let known = || {
            images
                .get(&set.key)
                .is_some_and(|of_it| of_it.iter().all(|i| is_known(i)))
        };
        if bars_arm64(class) {
            !seen
        } else {
            !names_arm64(class) && joins_arm64(cluster, class) && !known()
        }
    });
    unknown.map(|set| set.key.to_string()).collect()
}

/// Some arm64 machine that a pool could buy would have the labels that the DaemonSet selects nodes by.
fn joins_arm64(cluster: &Cluster, class: &PodClass) -> bool {
    let selected = class.node_selector.iter();
    let selected: Vec<Requirement> = selected
        .map(|(key, value)| Requirement::new(key.clone(), Operator::In, [value.clone()]))
        .collect();
    let is_arm64 = |t: &&InstanceType| {
        let arch = t.requirements.iter().find(|r| of_arch(r));
        arch.is_some_and(|r| r.matches(Some(labels::ARCH_ARM64)))
    };
    let meets = |pool: &Pool, type_: &InstanceType, wanted: &Requirement| {
        let key = labels::normalize(&wanted.key);
        if DECIDED_LATER.contains(&key) {
            true
        } else if let Some(own) = type_.requirements.iter().find(|r| &*r.key == key) {
            own.values.iter().any(|value| wanted.matches(Some(value)))
        } else if pool.requirements.iter().any(|r| &*r.key == key) {
            true
        } else {
            wanted.matches(pool.labels.get(key).map(|v| &**v))
        }
    };
    cluster.snapshot.pools.iter().any(|pool| {
        let mut types = cluster.catalog.types.iter().filter(is_arm64);
        types.any(|t| {
            let all = |terms: &[Requirement]| terms.iter().all(|r| meets(pool, t, r));
            let affinity = &class.node_affinity;
            all(&selected) && (affinity.is_empty() || affinity.iter().any(|terms| all(terms)))
        })
    })
}

fn of_arch(r: &Requirement) -> bool {
    labels::normalize(&r.key) == labels::ARCH
}

/// The architecture its node selector names.
fn selected_arch(class: &PodClass) -> Option<&str> {
    let mut selected = class.node_selector.iter();
    let (_, arch) = selected.find(|(key, _)| labels::normalize(key) == labels::ARCH)?;
    Some(arch)
}

/// Whoever wrote it has thought of arm64.
fn names_arm64(class: &PodClass) -> bool {
    let named = |r: &Requirement| r.operator == Operator::In && r.matches(Some(labels::ARCH_ARM64));
    let mut terms = class.node_affinity.iter().flatten();
    selected_arch(class) == Some(labels::ARCH_ARM64) || terms.any(|r| of_arch(r) && named(r))
}

/// Its own words keep it off arm64.
fn bars_arm64(class: &PodClass) -> bool {
    let bars = |term: &Vec<Requirement>| {
        let mut of_it = term.iter().filter(|r| of_arch(r));
        of_it.any(|r| !r.matches(Some(labels::ARCH_ARM64)))
    };
    selected_arch(class).is_some_and(|arch| arch != labels::ARCH_ARM64)
        || (!class.node_affinity.is_empty() && class.node_affinity.iter().all(bars))
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
            (self.kept_off, "others keep off it by their own words"),
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
                "; no such machine is planned, as it is not known to run the DaemonSets {named}, or to do without them"
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
        if !self.listed_in_vain.is_empty() {
            let lines: Vec<&str> = self.listed_in_vain.iter().map(String::as_str).collect();
            let named = listing(&lines, lines.len());
            let _ = write!(text, "; no image of this cluster is called {named}");
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
