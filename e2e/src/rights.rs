//! What an account may do, what it did, and what a table says it should.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// One verb on one kind, or on one object of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// As kubectl writes it: `nodeclaims.karpenter.sh/status`.
    pub resource: String,
    /// Empty: all objects.
    pub name: String,
    pub verb: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
    verbs: Vec<String>,
}

/// The grants of one of the chart's files of rights, all scopes together.
pub fn table(file: &Path) -> Result<BTreeSet<Grant>> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let scopes: BTreeMap<String, Vec<Rule>> =
        serde_saphyr::from_str(&text).map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
    let mut grants = BTreeSet::new();
    for rule in scopes.values().flatten() {
        let mut names = rule.resource_names.clone();
        if names.is_empty() {
            names.push(String::new());
        }
        for (group, resource) in rule
            .api_groups
            .iter()
            .flat_map(|g| rule.resources.iter().map(move |r| (g, r)))
        {
            for (name, verb) in names.iter().flat_map(|n| rule.verbs.iter().map(move |v| (n, v))) {
                grants.insert(Grant {
                    resource: with_group(resource, group),
                    name: name.clone(),
                    verb: verb.clone(),
                });
            }
        }
    }
    Ok(grants)
}

/// Reads what `kubectl auth can-i --list` prints; paths that are not resources are left out.
pub fn listed(text: &str) -> BTreeSet<Grant> {
    let mut grants = BTreeSet::new();
    for line in text.lines().skip(1) {
        // Resources, then three lists in brackets: paths, names, verbs.
        let lists: Vec<Vec<&str>> = line
            .split('[')
            .skip(1)
            .map(|list| list.split(']').next().unwrap_or_default().split(' ').collect())
            .collect();
        let resource = line.split_whitespace().next().unwrap_or_default();
        let ([_, names, verbs], false) = (lists.as_slice(), resource.starts_with('[')) else {
            continue;
        };
        for (name, verb) in names.iter().flat_map(|n| verbs.iter().map(move |v| (n, v))) {
            grants.insert(Grant {
                resource: resource.to_owned(),
                name: (*name).to_owned(),
                verb: (*verb).to_owned(),
            });
        }
    }
    grants
}

/// A request of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// The name is the object's, whether or not the grant it needs is for that name only.
    pub grant: Grant,
    pub code: u16,
}

impl Request {
    /// Whether `grant` is enough for it.
    pub fn is_granted_by(&self, grant: &Grant) -> bool {
        (&grant.resource, &grant.verb) == (&self.grant.resource, &self.grant.verb)
            && (grant.name.is_empty() || grant.name == self.grant.name)
    }
}

/// Every request for a resource that `user` made, without repetition.
pub fn requests(audit_log: &Path, user: &str) -> Result<BTreeSet<Request>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Event {
        verb: String,
        user: User,
        object_ref: Option<ObjectRef>,
        response_status: Option<Status>,
    }
    #[derive(Deserialize)]
    struct User {
        #[serde(default)]
        username: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    #[derive(Default)]
    struct ObjectRef {
        api_group: String,
        resource: String,
        subresource: String,
        name: String,
    }
    #[derive(Deserialize)]
    struct Status {
        #[serde(default)]
        code: u16,
    }
    let text = fs::read_to_string(audit_log).with_context(|| audit_log.display().to_string())?;
    let mut requests = BTreeSet::new();
    for line in text.lines().filter(|line| line.contains(user)) {
        let event: Event = serde_json::from_str(line).context("a line of the audit log")?;
        let Some(object) = event.object_ref.filter(|_| event.user.username == user) else {
            continue;
        };
        let resource = if object.subresource.is_empty() {
            object.resource
        } else {
            format!("{}/{}", object.resource, object.subresource)
        };
        requests.insert(Request {
            grant: Grant {
                resource: with_group(&resource, &object.api_group),
                name: object.name,
                verb: event.verb,
            },
            code: event.response_status.map_or(0, |status| status.code),
        });
    }
    Ok(requests)
}

/// The group follows the resource, not the subresource.
fn with_group(resource: &str, group: &str) -> String {
    match (group, resource.split_once('/')) {
        ("", _) => resource.to_owned(),
        (group, None) => format!("{resource}.{group}"),
        (group, Some((resource, sub))) => format!("{resource}.{group}/{sub}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_kubectl_lists() {
        let text = "\
Resources                                  Non-Resource URLs   Resource Names   Verbs
pods.metrics.k8s.io/status                 []                  []               [get list]
leases.coordination.k8s.io                 []                  [one]            [update]
                                           [/healthz]          []               [get]
";
        let grants: Vec<String> = listed(text)
            .iter()
            .map(|g| format!("{} [{}] {}", g.resource, g.name, g.verb))
            .collect();
        assert_eq!(
            grants,
            [
                "leases.coordination.k8s.io [one] update",
                "pods.metrics.k8s.io/status [] get",
                "pods.metrics.k8s.io/status [] list"
            ]
        );
    }

    #[test]
    fn a_request_needs_the_verb_and_the_name() {
        let grant = |name: &str, verb: &str| Grant {
            resource: "pods".into(),
            name: name.into(),
            verb: verb.into(),
        };
        let request = Request {
            grant: grant("a", "get"),
            code: 200,
        };
        assert!(request.is_granted_by(&grant("", "get")) && request.is_granted_by(&grant("a", "get")));
        assert!(!request.is_granted_by(&grant("b", "get")) && !request.is_granted_by(&grant("", "list")));
    }
}
