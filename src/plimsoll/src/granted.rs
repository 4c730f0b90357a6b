//! What the account of an installation is granted, by every binding that reaches it, beyond the table of its mode.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, ObjectMeta},
};
use plimsoll_api::rights::{Right, Scope};

/// Rights of one binding that are named one by one; the rest is counted.
const NAMED_MAX: usize = 6;

/// Bindings that every cluster is made with reach everybody, by a group, and carry this label.
const OF_THE_CLUSTER: &str = "kubernetes.io/bootstrapping";

/// A service account.
pub(crate) struct Account<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

impl Account<'_> {
    fn is(&self, subject: &Subject) -> bool {
        let Self { namespace, name } = self;
        match subject.kind.as_str() {
            "ServiceAccount" => subject.name == *name && subject.namespace.as_deref() == Some(*namespace),
            "User" => subject.name == format!("system:serviceaccount:{namespace}:{name}"),
            "Group" => {
                let own = format!("system:serviceaccounts:{namespace}");
                ["system:authenticated", "system:serviceaccounts", &own].contains(&&*subject.name)
            }
            _ => false,
        }
    }

    fn is_bound(&self, metadata: &ObjectMeta, subjects: Option<&Vec<Subject>>) -> bool {
        let labels = metadata.labels.as_ref();
        let of_the_cluster = labels.is_some_and(|labels| labels.contains_key(OF_THE_CLUSTER));
        let mut reaching = subjects.into_iter().flatten().filter(|subject| self.is(subject));
        reaching.any(|subject| !of_the_cluster || subject.kind != "Group")
    }
}

/// One line for each binding that grants the account more than the table. None: they cannot be read, or none reaches it.
pub(crate) async fn beyond(client: &Client, account: &Account<'_>, table: &[Right]) -> Option<Vec<String>> {
    let all = ListParams::default();
    let everywhere = Api::<ClusterRoleBinding>::all(client.clone())
        .list(&all)
        .await
        .ok()?;
    let somewhere = Api::<RoleBinding>::all(client.clone()).list(&all).await.ok()?;
    let mut bindings: Vec<(String, Option<String>, RoleRef)> = Vec::new();
    for binding in everywhere {
        if account.is_bound(&binding.metadata, binding.subjects.as_ref()) {
            let title = format!("ClusterRoleBinding {}", binding.name_any());
            bindings.push((title, None, binding.role_ref));
        }
    }
    for binding in somewhere {
        if account.is_bound(&binding.metadata, binding.subjects.as_ref()) {
            let namespace = binding.namespace().unwrap_or_default();
            let title = format!("RoleBinding {namespace}/{}", binding.name_any());
            bindings.push((title, Some(namespace), binding.role_ref));
        }
    }
    if bindings.is_empty() {
        return None;
    }
    let of_table = |scope: Scope| -> BTreeSet<String> {
        let rights = table.iter().filter(|right| right.scope == scope);
        let lines = rights.flat_map(|right| {
            right
                .each()
                .map(|(verb, name)| format!("{verb} {}", title(right.resource, right.group, name)))
        });
        lines.collect()
    };
    let (cluster, own) = (of_table(Scope::Cluster), of_table(Scope::OwnNamespace));
    let mut found = Vec::new();
    for (title, namespace, role) in bindings {
        let rules = rules(client, &role, namespace.as_deref()).await?;
        let is_own = namespace.as_deref() == Some(account.namespace);
        let granted: BTreeSet<String> = rules.iter().flat_map(granted).collect();
        let more: Vec<&str> = granted
            .iter()
            .filter(|line| !(cluster.contains(*line) || is_own && own.contains(*line)))
            .map(String::as_str)
            .collect();
        if more.is_empty() {
            continue;
        }
        let named = more[..more.len().min(NAMED_MAX)].join(", ");
        let rest = more.len().saturating_sub(NAMED_MAX);
        let rest = if rest == 0 {
            String::new()
        } else {
            format!(" and {rest} more")
        };
        found.push(format!("{named}{rest} (by {title}, {} {})", role.kind, role.name));
    }
    Some(found)
}

/// What the role of a binding grants; nothing where there is no such role.
async fn rules(client: &Client, role: &RoleRef, namespace: Option<&str>) -> Option<Vec<PolicyRule>> {
    let rules = if let ("Role", Some(namespace)) = (role.kind.as_str(), namespace) {
        let roles = Api::<Role>::namespaced(client.clone(), namespace);
        roles.get_opt(&role.name).await.ok()?.and_then(|role| role.rules)
    } else {
        let roles = Api::<ClusterRole>::all(client.clone());
        roles.get_opt(&role.name).await.ok()?.and_then(|role| role.rules)
    };
    Some(rules.unwrap_or_default())
}

/// One line for each thing a rule grants, in the words of [`title`].
fn granted(rule: &PolicyRule) -> Vec<String> {
    let none = [String::new()];
    let (groups, names) = (rule.api_groups.as_deref(), rule.resource_names.as_deref());
    let names = names.filter(|n| !n.is_empty()).unwrap_or(&none);
    let mut lines = Vec::new();
    for group in groups.unwrap_or(&none) {
        for resource in rule.resources.iter().flatten() {
            for (verb, name) in rule.verbs.iter().flat_map(|v| names.iter().map(move |n| (v, n))) {
                lines.push(format!("{verb} {}", title(resource, group, name)));
            }
        }
    }
    let paths = rule.non_resource_urls.iter().flatten();
    lines.extend(paths.map(|path| format!("path {path}")));
    lines
}

/// A resource with its group, and the one object that is meant.
pub(crate) fn title(resource: &str, group: &str, name: &str) -> String {
    let group = if group.is_empty() {
        String::new()
    } else {
        format!(" ({group})")
    };
    let name = if name.is_empty() {
        String::new()
    } else {
        format!(" {name}")
    };
    format!("{resource}{name}{group}")
}
