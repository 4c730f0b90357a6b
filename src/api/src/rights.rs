//! Rights: what a part of plimsoll asks of the API server, as data.
//!
//! Each part that talks to the API server has one table of [`Right`]s. Roles, documentation and `plimsoll doctor` are
//! made from the tables, and the end-to-end tests hold the API server's audit log against them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One thing that is asked for, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// Empty for the core group.
    pub group: &'static str,
    /// With the subresource: `pods/eviction`.
    pub resource: &'static str,
    pub verbs: &'static [&'static str],
    /// Only these objects; empty: all of the kind.
    pub names: &'static [&'static str],
    pub scope: Scope,
    /// What it is for, or what is lost without it.
    pub why: &'static str,
}

/// Where a right holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Everywhere.
    Cluster,
    /// In the namespace the controller runs in.
    OwnNamespace,
}

/// A rule of a Role or ClusterRole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    pub verbs: Vec<String>,
}

/// The rules that grant these rights in one scope, and nothing else: one rule for each group and set of verbs, sorted.
pub fn rules(rights: &[Right], scope: Scope) -> Vec<Rule> {
    // The verbs of a resource are gathered first, so that a resource appears once for each set of names.
    let mut verbs: BTreeMap<(&str, &[&str], &str), Vec<&str>> = BTreeMap::new();
    for right in rights.iter().filter(|r| r.scope == scope) {
        let of = verbs
            .entry((right.group, right.names, right.resource))
            .or_default();
        of.extend(right.verbs);
        of.sort_unstable();
        of.dedup();
    }
    let mut resources: BTreeMap<(&str, &[&str], Vec<&str>), Vec<&str>> = BTreeMap::new();
    for ((group, names, resource), verbs) in verbs {
        resources.entry((group, names, verbs)).or_default().push(resource);
    }
    let texts = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
    let rule = |((group, names, verbs), resources): ((&str, &[&str], Vec<&str>), Vec<&str>)| Rule {
        api_groups: vec![group.to_owned()],
        resources: texts(&resources),
        resource_names: texts(names),
        verbs: texts(&verbs),
    };
    resources.into_iter().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn right(
        resource: &'static str,
        verbs: &'static [&'static str],
        names: &'static [&'static str],
        scope: Scope,
    ) -> Right {
        Right {
            group: "",
            resource,
            verbs,
            names,
            scope,
            why: "",
        }
    }

    #[test]
    fn rules_grant_what_is_asked_for_and_nothing_else() {
        let rights = [
            right("pods", &["list"], &[], Scope::Cluster),
            right("nodes", &["watch", "list"], &[], Scope::Cluster),
            right("pods", &["watch"], &[], Scope::Cluster),
            right("pods", &["delete"], &["one"], Scope::Cluster),
            right("leases", &["get"], &[], Scope::OwnNamespace),
        ];
        let of = |scope| {
            let rules = rules(&rights, scope);
            let text = |r: &Rule| {
                let names = r.resource_names.join("+");
                format!("{} [{names}] {}", r.resources.join("+"), r.verbs.join("+"))
            };
            rules.iter().map(text).collect::<Vec<_>>()
        };
        assert_eq!(
            of(Scope::Cluster),
            ["nodes+pods [] list+watch", "pods [one] delete"]
        );
        assert_eq!(of(Scope::OwnNamespace), ["leases [] get"]);
    }
}
