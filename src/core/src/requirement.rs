//! The label requirement algebra of node selection.
//!
//! A requirement says which values a label may have and whether it may be absent. Both are kept apart, so
//! that nothing is lost when requirements are combined and written again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::snapshot::Labels;

/// Operators of a node selector requirement, with Karpenter's inclusive bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
    Gte,
    Lte,
}

/// One requirement as a user writes it; `values` sorted and without repeats.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    pub key: Arc<str>,
    pub operator: Operator,
    pub values: Vec<Arc<str>>,
    /// At least this many distinct values must stay possible (instance flexibility).
    pub min_values: Option<u32>,
}

impl Requirement {
    /// A requirement without `minValues`.
    pub fn new(
        key: impl Into<Arc<str>>,
        operator: Operator,
        values: impl IntoIterator<Item = Arc<str>>,
    ) -> Self {
        let values: BTreeSet<Arc<str>> = values.into_iter().collect();
        Self {
            key: key.into(),
            operator,
            values: values.into_iter().collect(),
            min_values: None,
        }
    }

    /// Whether labels with this value under the key, or without the key, satisfy it.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let listed = |v: &str| self.values.iter().any(|x| &**x == v);
        let beyond = |holds: fn(i64, i64) -> bool| {
            let number = value.and_then(|v| v.parse::<i64>().ok());
            let bound = self.values.first().and_then(|v| v.parse::<i64>().ok());
            number.zip(bound).is_some_and(|(n, b)| holds(n, b))
        };
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => beyond(|n, b| n > b),
            Operator::Lt => beyond(|n, b| n < b),
            Operator::Gte => beyond(|n, b| n >= b),
            Operator::Lte => beyond(|n, b| n <= b),
        }
    }
}

/// Whether labels satisfy every requirement.
pub fn labels_match(labels: &Labels, requirements: &[Requirement]) -> bool {
    requirements
        .iter()
        .all(|r| r.matches(labels.get(&r.key).map(|v| &**v)))
}

/// The stable name of a label that has an older alias; any other key as it is.
pub fn normalized_key(key: &Arc<str>) -> Arc<str> {
    match &**key {
        "beta.kubernetes.io/arch" => "kubernetes.io/arch".into(),
        "beta.kubernetes.io/os" => "kubernetes.io/os".into(),
        "beta.kubernetes.io/instance-type" => "node.kubernetes.io/instance-type".into(),
        "failure-domain.beta.kubernetes.io/zone" | "topology.ebs.csi.aws.com/zone" => {
            "topology.kubernetes.io/zone".into()
        }
        "failure-domain.beta.kubernetes.io/region" => "topology.kubernetes.io/region".into(),
        _ => key.clone(),
    }
}

/// What one label may be: a set of values, and whether it may be absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueSet {
    absent: bool,
    /// True: every value but `values` (within the bounds). False: exactly `values`.
    complement: bool,
    values: BTreeSet<Arc<str>>,
    gte: Option<i64>,
    lte: Option<i64>,
    min_values: Option<u32>,
}

impl ValueSet {
    /// No constraint: any value, or none.
    pub fn anything() -> Self {
        Self {
            absent: true,
            complement: true,
            values: BTreeSet::new(),
            gte: None,
            lte: None,
            min_values: None,
        }
    }

    pub fn of(requirement: &Requirement) -> Self {
        let any = Self {
            absent: false,
            min_values: requirement.min_values,
            ..Self::anything()
        };
        let values: BTreeSet<Arc<str>> = requirement.values.iter().cloned().collect();
        let bound = requirement.values.first().and_then(|v| v.parse::<i64>().ok());
        let nothing = Self {
            complement: false,
            ..any.clone()
        };
        match requirement.operator {
            Operator::In => Self {
                complement: false,
                values,
                ..any
            },
            Operator::NotIn => Self {
                absent: true,
                values,
                ..any
            },
            Operator::Exists => any,
            Operator::DoesNotExist => Self {
                absent: true,
                complement: false,
                ..any
            },
            // A bound that is no integer, or that leaves no integer, admits nothing.
            Operator::Gt => match bound.and_then(|b| b.checked_add(1)) {
                Some(b) => Self { gte: Some(b), ..any },
                None => nothing,
            },
            Operator::Lt => match bound.and_then(|b| b.checked_sub(1)) {
                Some(b) => Self { lte: Some(b), ..any },
                None => nothing,
            },
            Operator::Gte => bound.map_or(nothing, |b| Self { gte: Some(b), ..any }),
            Operator::Lte => bound.map_or(nothing, |b| Self { lte: Some(b), ..any }),
        }
    }

    fn within_bounds(&self, value: &str) -> bool {
        if self.gte.is_none() && self.lte.is_none() {
            return true;
        }
        value
            .parse::<i64>()
            .is_ok_and(|n| self.gte.is_none_or(|b| n >= b) && self.lte.is_none_or(|b| n <= b))
    }

    /// Whether the label may have this value.
    pub fn has(&self, value: &str) -> bool {
        self.values.contains(value) != self.complement && self.within_bounds(value)
    }

    /// Whether the label may be missing.
    pub fn allows_absent(&self) -> bool {
        self.absent
    }

    /// Nothing satisfies it, not even a missing label.
    pub fn is_impossible(&self) -> bool {
        !self.absent && self.has_no_value()
    }

    fn has_no_value(&self) -> bool {
        if !self.complement {
            return self.values.is_empty();
        }
        match (self.gte, self.lte) {
            (Some(low), Some(high)) if low > high => true,
            (Some(low), Some(high)) => {
                let excluded = self.values.iter().filter_map(|v| v.parse::<i64>().ok());
                let excluded: BTreeSet<i64> = excluded.filter(|n| (low..=high).contains(n)).collect();
                excluded.len() as i128 == i128::from(high) - i128::from(low) + 1
            }
            _ => false,
        }
    }

    /// The only value it leaves, if the label must exist and has just one.
    pub fn single(&self) -> Option<&Arc<str>> {
        (!self.complement && !self.absent && self.values.len() == 1)
            .then(|| self.values.first())
            .flatten()
    }

    /// The values it lists, when it is a plain list.
    pub fn listed(&self) -> Option<&BTreeSet<Arc<str>>> {
        (!self.complement && !self.absent).then_some(&self.values)
    }

    /// The greatest `minValues` of what was combined.
    pub fn min_values(&self) -> Option<u32> {
        self.min_values
    }

    /// What satisfies both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let larger = |a: Option<i64>, b: Option<i64>| a.max(b);
        let smaller = |a: Option<i64>, b: Option<i64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let mut both = Self {
            absent: self.absent && other.absent,
            complement: self.complement && other.complement,
            values: BTreeSet::new(),
            gte: larger(self.gte, other.gte),
            lte: smaller(self.lte, other.lte),
            min_values: self.min_values.max(other.min_values),
        };
        if both.complement {
            both.values = self.values.union(&other.values).cloned().collect();
            if both.has_no_value() {
                both.complement = false;
                both.values.clear();
            }
        } else {
            let listed = if self.complement { other } else { self };
            both.values = listed
                .values
                .iter()
                .filter(|v| self.has(v) && other.has(v))
                .cloned()
                .collect();
        }
        if !both.complement {
            both.gte = None;
            both.lte = None;
        }
        both
    }

    /// As requirements whose conjunction means exactly this, `minValues` on the first; empty when there is
    /// no constraint. Something impossible becomes `In` without values.
    pub fn requirements(&self, key: &Arc<str>) -> Vec<Requirement> {
        let values = || self.values.iter().cloned();
        let new = |operator, values: Vec<Arc<str>>| Requirement::new(key.clone(), operator, values);
        let mut out = Vec::new();
        if self.complement {
            if let Some(low) = self.gte {
                out.push(new(Operator::Gte, vec![low.to_string().into()]));
            }
            if let Some(high) = self.lte {
                out.push(new(Operator::Lte, vec![high.to_string().into()]));
            }
            if !self.absent && out.is_empty() {
                out.push(new(Operator::Exists, vec![]));
            }
            if !self.values.is_empty() {
                out.push(new(Operator::NotIn, values().collect()));
            }
        } else if self.absent {
            out.push(new(Operator::DoesNotExist, vec![]));
        } else {
            out.push(new(Operator::In, values().collect()));
        }
        if let Some(first) = out.first_mut() {
            first.min_values = self.min_values;
        }
        out
    }
}

/// A conjunction of requirements, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    by_key: BTreeMap<Arc<str>, ValueSet>,
}

impl Requirements {
    pub fn of<'a>(requirements: impl IntoIterator<Item = &'a Requirement>) -> Self {
        let mut all = Self::default();
        for requirement in requirements {
            all.add(requirement);
        }
        all
    }

    /// Narrows by one more requirement. The key is normalised.
    pub fn add(&mut self, requirement: &Requirement) {
        let set = ValueSet::of(requirement);
        self.narrow(&normalized_key(&requirement.key), &set);
    }

    fn narrow(&mut self, key: &Arc<str>, set: &ValueSet) {
        let narrowed = self
            .get(key)
            .map_or_else(|| set.clone(), |old| old.intersection(set));
        self.by_key.insert(key.clone(), narrowed);
    }

    /// None: no constraint on the key.
    pub fn get(&self, key: &str) -> Option<&ValueSet> {
        self.by_key.get(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &ValueSet)> {
        self.by_key.iter()
    }

    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = self.clone();
        for (key, set) in &other.by_key {
            both.narrow(key, set);
        }
        both
    }

    /// Whether a node described by `self` could satisfy `wanted`. Keys that `self` does not describe are
    /// undefined on the node, unless `may_be_undefined` says that something else will decide them.
    pub fn compatible(&self, wanted: &Self, may_be_undefined: impl Fn(&str) -> bool) -> bool {
        wanted.by_key.iter().all(|(key, set)| match self.by_key.get(key) {
            Some(own) => !own.intersection(set).is_impossible(),
            None => set.allows_absent() || may_be_undefined(key),
        })
    }

    /// Sorted by key, ready to be written; the conjunction means exactly `self`.
    pub fn requirements(&self) -> Vec<Requirement> {
        self.by_key
            .iter()
            .flat_map(|(key, set)| set.requirements(key))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `key In a,b` · `key NotIn a` · `key Exists` · `key Gt 3`; several joined by ` & `.
    fn parse(text: &str) -> Requirements {
        let requirements: Vec<Requirement> = text
            .split(" & ")
            .filter(|t| !t.is_empty())
            .map(|one| {
                let mut words = one.split(' ');
                let key = words.next().unwrap();
                let operator = match words.next().unwrap() {
                    "In" => Operator::In,
                    "NotIn" => Operator::NotIn,
                    "Exists" => Operator::Exists,
                    "DoesNotExist" => Operator::DoesNotExist,
                    "Gt" => Operator::Gt,
                    "Lt" => Operator::Lt,
                    "Gte" => Operator::Gte,
                    "Lte" => Operator::Lte,
                    other => panic!("{other}"),
                };
                let values = words
                    .next()
                    .unwrap_or("")
                    .split(',')
                    .filter(|v| !v.is_empty())
                    .map(Arc::from);
                let mut r = Requirement::new(key, operator, values);
                r.min_values = words.next().map(|w| w.trim_start_matches('≥').parse().unwrap());
                r
            })
            .collect();
        Requirements::of(&requirements)
    }

    fn print(requirements: &Requirements) -> String {
        let one = |r: &Requirement| {
            let values = if r.values.is_empty() {
                String::new()
            } else {
                format!(" {}", r.values.join(","))
            };
            let least = r.min_values.map(|n| format!(" ≥{n}")).unwrap_or_default();
            format!("{} {:?}{values}{least}", r.key, r.operator)
        };
        requirements
            .requirements()
            .iter()
            .map(one)
            .collect::<Vec<_>>()
            .join(" & ")
    }

    #[test]
    fn conjunctions() {
        let check = |input: &str, expected: &str| assert_eq!(print(&parse(input)), expected, "{input}");
        check("k In a,b & k In b,c", "k In b");
        check("k In a & k In b", "k In");
        check("k In a,b & k NotIn a", "k In b");
        check("k NotIn a & k NotIn b", "k NotIn a,b");
        check("k Exists & k NotIn a", "k Exists & k NotIn a");
        check("k NotIn a & k DoesNotExist", "k DoesNotExist");
        check("k Exists & k DoesNotExist", "k In");
        check("k In a & k DoesNotExist", "k In");
        check("k Gt 3 & k Lt 7", "k Gte 4 & k Lte 6");
        check("k Gte 3 & k Lte 3 & k NotIn 3", "k In");
        check("k Gt 5 & k Lt 6", "k In");
        check("k Gt 3 & k NotIn 5", "k Gte 4 & k NotIn 5");
        check("k In 1,5,x & k Gt 3", "k In 5");
        check("k Gt 9223372036854775807", "k In");
        check("k In a,b ≥2 & k In a,b,c ≥1", "k In a,b ≥2");
        check("beta.kubernetes.io/arch In arm64", "kubernetes.io/arch In arm64");
        check("a In x & b Exists", "a In x & b Exists");
    }

    #[test]
    fn writing_loses_nothing() {
        for text in [
            "k Gt 3 & k Lt 9 & k NotIn 5,7",
            "k Exists & k NotIn a,b",
            "k NotIn a",
            "k DoesNotExist",
        ] {
            let once = parse(text);
            assert_eq!(Requirements::of(&once.requirements()), once, "{text}");
        }
    }

    #[test]
    fn compatibility() {
        let check = |own: &str, wanted: &str, expected: bool| {
            assert_eq!(
                parse(own).compatible(&parse(wanted), |key| key == "zone"),
                expected,
                "{own} | {wanted}"
            );
        };
        check("k In a,b", "k In b", true);
        check("k In a", "k In b", false);
        check("", "k In b", false);
        check("", "k Exists", false);
        check("", "k NotIn b", true);
        check("", "k DoesNotExist", true);
        check("", "zone In b", true);
        check("k NotIn a", "k NotIn b", true);
        check("k NotIn a", "k DoesNotExist", true);
        check("k Exists", "k DoesNotExist", false);
        check("k In 4", "k Gt 3", true);
        check("k In 3", "k Gt 3", false);
    }

    #[test]
    fn single_labels() {
        let check = |requirement: &str, value: Option<&str>, expected: bool| {
            let set = parse(requirement);
            let (key, values) = set.iter().next().unwrap();
            assert_eq!(
                value.map_or(values.allows_absent(), |v| values.has(v)),
                expected,
                "{requirement}"
            );
            let labels: Labels = value.map(|v| (key.clone(), Arc::from(v))).into_iter().collect();
            assert_eq!(
                labels_match(&labels, &set.requirements()),
                expected,
                "{requirement} on labels"
            );
        };
        check("k In a", Some("a"), true);
        check("k In a", None, false);
        check("k NotIn a", None, true);
        check("k NotIn a", Some("a"), false);
        check("k Exists", Some("a"), true);
        check("k Gt 3", Some("4"), true);
        check("k Gt 3", Some("3"), false);
        check("k Gt 3", Some("x"), false);
        check("k Lte 3", Some("3"), true);
        check("k Lt 3", None, false);
    }
}
