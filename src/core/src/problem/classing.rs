//! Groups pods of the same scheduling meaning.

use std::hash::{Hash, Hasher};

use rustc_hash::{FxHashMap, FxHashSet, FxHasher};
use smallvec::SmallVec;

use crate::snapshot::{ClassId, PodClass, Selector};

/// The distinct classes of `specs` in the order they first appear, and the class of each. Labels that no
/// selector of any spec looks at are dropped first, since they cannot change where a pod may run.
pub fn classes<'a>(specs: impl Iterator<Item = &'a PodClass> + Clone) -> (Vec<PodClass>, Vec<ClassId>) {
    let mut looked_at: FxHashSet<&str> = FxHashSet::default();
    for selector in specs.clone().flat_map(selectors) {
        looked_at.extend(selector.requirements.iter().map(|r| &*r.key));
    }
    let mut classes: Vec<PodClass> = Vec::new();
    let mut by_hash: FxHashMap<u64, SmallVec<[ClassId; 1]>> = FxHashMap::default();
    let mut class_of = Vec::with_capacity(specs.size_hint().0);
    for spec in specs {
        let labels = || spec.labels.iter().filter(|(key, _)| looked_at.contains(&**key));
        let mut hasher = FxHasher::default();
        labels().for_each(|label| label.hash(&mut hasher));
        apart_from_labels(spec).hash(&mut hasher);
        let same_hash = by_hash.entry(hasher.finish()).or_default();
        let known = same_hash.iter().copied().find(|id| {
            let class = &classes[id.0 as usize];
            class.labels.iter().eq(labels()) && apart_from_labels(class) == apart_from_labels(spec)
        });
        class_of.push(known.unwrap_or_else(|| {
            let id = ClassId(classes.len() as u32);
            classes.push(PodClass {
                labels: labels().cloned().collect(),
                ..spec.clone()
            });
            same_hash.push(id);
            id
        }));
    }
    (classes, class_of)
}

fn selectors(spec: &PodClass) -> impl Iterator<Item = &Selector> {
    let terms = spec
        .affinity
        .iter()
        .chain(&spec.anti_affinity)
        .chain(spec.preferred_affinity.iter().map(|(_, term)| term))
        .chain(spec.preferred_anti_affinity.iter().map(|(_, term)| term));
    spec.spread
        .iter()
        .map(|constraint| &constraint.selector)
        .chain(terms.map(|term| &term.selector))
}

/// Every field but the labels. Destructured, so that a new field cannot be left out.
fn apart_from_labels(spec: &PodClass) -> impl Hash + PartialEq + '_ {
    let PodClass {
        namespace,
        labels: _,
        requests,
        node_selector,
        node_affinity,
        preferred_node_affinity,
        tolerations,
        spread,
        affinity,
        anti_affinity,
        preferred_affinity,
        preferred_anti_affinity,
        host_ports,
        volume_affinity,
        volumes,
        priority,
    } = spec;
    (
        (
            namespace,
            requests,
            node_selector,
            node_affinity,
            preferred_node_affinity,
            tolerations,
        ),
        (
            spread,
            affinity,
            anti_affinity,
            preferred_affinity,
            preferred_anti_affinity,
        ),
        (host_ports, volume_affinity, volumes, priority),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        requirement::{Operator, Requirement},
        snapshot::SpreadConstraint,
    };

    fn labelled(labels: &[(&str, &str)]) -> PodClass {
        PodClass {
            labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ..PodClass::default()
        }
    }

    #[test]
    fn only_labels_that_a_selector_reads_tell_pods_apart() {
        let specs = [
            labelled(&[("app", "a"), ("hash", "1")]),
            labelled(&[("app", "a"), ("hash", "2")]),
            labelled(&[("app", "b"), ("hash", "3")]),
        ];
        let (classes, of) = classes(specs.iter());
        assert_eq!((classes.len(), of), (1, vec![ClassId(0); 3]));

        let mut reader = labelled(&[]);
        reader.spread.push(SpreadConstraint {
            topology_key: "zone".into(),
            max_skew: 1,
            min_domains: None,
            hard: true,
            selector: Selector {
                requirements: vec![Requirement {
                    key: "app".into(),
                    operator: Operator::Exists,
                    values: Vec::new(),
                    min_values: None,
                }],
                nothing: false,
            },
            honor_node_affinity: true,
            honor_node_taints: false,
        });
        let (classes, of) = super::classes(specs.iter().chain([&reader]));
        assert_eq!(of, [0, 0, 1, 2].map(ClassId));
        assert_eq!(classes[1].labels, labelled(&[("app", "b")]).labels);
    }
}
