//! What each mode asks of the API server. Roles of the chart and the tables of docs/security.md are made from this.

use plimsoll_api::rights::Right;
use plimsoll_controller::Mode;

use crate::args::Provider;

/// The rights of a mode, with those of the provider for who acts: one who only looks needs no provider.
pub(crate) fn rights(mode: Mode, provider: Option<Provider>) -> Vec<Right> {
    let mut rights = mode.rights();
    match (mode, provider) {
        (Mode::Automate, Some(Provider::Kwok)) => rights.extend(plimsoll_kwok::RIGHTS),
        #[cfg(feature = "aws")]
        (Mode::Automate, Some(Provider::Aws)) => rights.extend(plimsoll_aws::RIGHTS),
        (Mode::Automate, None) | (Mode::Observe | Mode::Advise, _) => {}
    }
    rights
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write as _, path::PathBuf};

    use plimsoll_api::rights::{Scope, rules, with_group};
    use plimsoll_controller::MODES;
    use plimsoll_report::approval;
    use serde_json::json;

    use super::*;

    fn root() -> PathBuf {
        PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../..")
    }

    /// `PLIMSOLL_BLESS=1` rewrites the file.
    fn check(path: &str, text: &str) {
        let file = root().join(path);
        if std::env::var_os("PLIMSOLL_BLESS").is_some() {
            std::fs::write(&file, text).unwrap();
        }
        let committed = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            committed == text,
            "{path} differs from the tables; run the tests with PLIMSOLL_BLESS=1"
        );
    }

    /// The rules as the chart's templates read them.
    fn yaml(rights: &[Right]) -> String {
        let document = json!({
            "cluster": rules(rights, Scope::Cluster),
            "namespace": rules(rights, Scope::OwnNamespace),
        });
        let text = serde_saphyr::to_string(&document).unwrap();
        format!("# Generated from the tables of what the program asks for; see docs/security.md.\n{text}")
    }

    #[test]
    fn the_charts_roles_are_those_of_the_tables() {
        for mode in MODES {
            check(
                &format!("charts/plimsoll/rights/{}.yaml", mode.name()),
                &yaml(&rights(mode, None)),
            );
        }
        check("charts/plimsoll/rights/approver.yaml", &yaml(&approval::rights()));
        check("charts/plimsoll/rights/kwok.yaml", &yaml(&plimsoll_kwok::RIGHTS));
        #[cfg(feature = "aws")]
        check("charts/plimsoll/rights/aws.yaml", &yaml(&plimsoll_aws::RIGHTS));
    }

    fn table(rights: &[Right]) -> String {
        let mut out = String::from("| what | verbs | where | why |\n|---|---|---|---|\n");
        for right in rights {
            let resource = with_group(right.resource, right.group);
            let scope = match right.scope {
                Scope::Cluster => "cluster",
                Scope::OwnNamespace => "own namespace",
            };
            let names = if right.names.is_empty() {
                String::new()
            } else {
                format!(", only `{}`", right.names.join("`, `"))
            };
            writeln!(
                out,
                "| `{resource}` | {} | {scope}{names} | {} |",
                right.verbs.join(", "),
                right.why
            )
            .unwrap();
        }
        out
    }

    #[test]
    fn the_tables_of_the_documentation_are_current() {
        let file = "docs/security.md";
        let mut text = std::fs::read_to_string(root().join(file)).unwrap();
        let observe = rights(Mode::Observe, None);
        let more = |mode| -> Vec<Right> {
            let all = rights(mode, None).into_iter();
            all.filter(|right| !observe.contains(right)).collect()
        };
        for (name, rights) in [
            ("observe", observe.as_slice()),
            ("advise", &more(Mode::Advise)),
            ("approver", &approval::rights()),
            ("automate", &more(Mode::Automate)),
            ("kwok", &plimsoll_kwok::RIGHTS),
            #[cfg(feature = "aws")]
            ("aws", &plimsoll_aws::RIGHTS),
        ] {
            let (begin, end) = (format!("<!-- {name}: generated -->\n"), "<!-- end -->");
            let from = text.find(&begin).unwrap() + begin.len();
            let to = from + text[from..].find(end).unwrap();
            text.replace_range(from..to, &table(rights));
        }
        check(file, &text);
    }
}
