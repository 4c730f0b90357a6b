//! The checkup says what is wrong, with a fix, and passes what is right.

#![allow(clippy::unwrap_used, reason = "the makers of test objects are tests too")]

use std::collections::BTreeMap;

use plimsoll_report::checkup::{
    Facts, Finding, Installation, KindFact, RightFact, Verdict, checkup, checkup_text,
};

fn right(allowed: Option<bool>) -> RightFact {
    RightFact {
        of: "mode observe".into(),
        what: "list nodes".into(),
        why: "what is paid for",
        needed: true,
        fix: "grant it",
        allowed,
    }
}

fn kind(served: Option<&[&str]>, needed: bool) -> KindFact {
    KindFact {
        kind: "nodepools.karpenter.sh".into(),
        wanted: "v1".into(),
        served: served.map(|versions| versions.iter().map(ToString::to_string).collect()),
        needed,
    }
}

/// A cluster with nothing to complain about.
fn well() -> Facts {
    Facts {
        now: "2026-02-01T00:00:00Z".parse().unwrap(),
        version: "v1.36.3".into(),
        minor: Some(36),
        clock_off_s: Some(1),
        prices_of: Some("2026-01-01".parse().unwrap()),
        rights: vec![right(Some(true))],
        kinds: vec![kind(Some(&["v1"]), true)],
        autoscalers: Some(BTreeMap::new()),
        installations: Some(vec![Installation {
            namespace: "plimsoll".into(),
            mode: "observe".into(),
            network_policies: Some(1),
            replicas: 2,
            rights_beyond: Some(Vec::new()),
            ..Installation::default()
        }]),
    }
}

/// Two pods of another autoscaler, beside an installation that acts.
fn beside(facts: &mut Facts, name: &'static str, namespace: &str) {
    facts.autoscalers = Some(BTreeMap::from([((name, namespace.to_owned()), 2)]));
    facts.installations.as_mut().unwrap()[0].mode = "automate".into();
}

fn not_passed(facts: &Facts) -> Vec<Finding> {
    let findings = checkup(facts);
    let mut rest: Vec<Finding> = findings
        .into_iter()
        .filter(|f| f.verdict != Verdict::Pass)
        .collect();
    // Two of the nine points are never told by an API server.
    rest.retain(|f| !(f.says.contains(": whether ") && f.verdict == Verdict::Unseen));
    rest
}

#[test]
fn a_healthy_cluster_passes() {
    assert_eq!(not_passed(&well()), []);
    let findings = checkup(&well());
    assert_eq!(findings.iter().filter(|f| f.area == "security").count(), 9);
    let text = checkup_text(&findings);
    assert!(
        text.ends_with("0 to look at, 0 failed, 2 not visible from here\n"),
        "{text}"
    );
}

#[test]
fn each_trouble_is_found_alone_and_has_a_fix() {
    type Trouble = (&'static str, Verdict, fn(&mut Facts));
    let troubles: [Trouble; 18] = [
        ("nominatedNodeName", Verdict::Warn, |f| f.minor = Some(23)),
        ("600 s apart", Verdict::Fail, |f| f.clock_off_s = Some(-600)),
        ("30 s apart", Verdict::Warn, |f| f.clock_off_s = Some(30)),
        ("does not tell its time", Verdict::Unseen, |f| {
            f.clock_off_s = None;
        }),
        ("396 days old", Verdict::Warn, |f| {
            f.prices_of = Some("2025-01-01".parse().unwrap());
        }),
        ("may not list nodes: what is paid for", Verdict::Fail, |f| {
            f.rights.push(right(Some(false)));
        }),
        ("reports: may not list budgets", Verdict::Warn, |f| {
            f.rights.push(RightFact {
                of: "reports".into(),
                what: "list budgets".into(),
                needed: false,
                ..right(Some(false))
            });
        }),
        ("perhaps may not", Verdict::Unseen, |f| f.rights.push(right(None))),
        ("is not installed", Verdict::Fail, |f| {
            f.kinds = vec![kind(Some(&[]), true)];
        }),
        ("is left out", Verdict::Warn, |f| {
            f.kinds = vec![kind(Some(&[]), false)];
        }),
        ("served as v1beta1, not as v1", Verdict::Fail, |f| {
            f.kinds = vec![kind(Some(&["v1beta1"]), true)];
        }),
        ("pods may not be listed", Verdict::Unseen, |f| {
            f.autoscalers = None;
        }),
        ("not installed by its chart", Verdict::Warn, |f| {
            f.installations = Some(Vec::new());
        }),
        ("Deployments may not be listed", Verdict::Unseen, |f| {
            f.installations = None;
        }),
        ("no NetworkPolicy", Verdict::Fail, |f| {
            f.installations.as_mut().unwrap()[0].network_policies = Some(0);
        }),
        (
            "cluster-autoscaler runs in namespace kube-system (2 pods) and plimsoll acts too",
            Verdict::Fail,
            |f| beside(f, "cluster-autoscaler", "kube-system"),
        ),
        ("it waits for the Lease that plimsoll holds", Verdict::Warn, |f| {
            beside(f, "karpenter", "plimsoll");
        }),
        ("each with a Lease of its own", Verdict::Fail, |f| {
            beside(f, "karpenter", "karpenter");
        }),
    ];
    for (says, verdict, change) in troubles {
        let mut facts = well();
        change(&mut facts);
        let found = not_passed(&facts);
        assert_eq!(found.len(), 1, "{says}: {found:#?}");
        assert!(found[0].says.contains(says), "{says}: {found:#?}");
        assert_eq!(found[0].verdict, verdict, "{says}");
        assert!(!found[0].fix.is_empty(), "{says}");
    }
}

#[test]
fn rights_beyond_the_table_fail_and_are_named() {
    let mut facts = well();
    facts.installations.as_mut().unwrap()[0].rights_beyond = Some(vec!["get secrets".into()]);
    let failed = not_passed(&facts);
    assert!(
        failed.iter().all(|f| f.verdict == Verdict::Fail) && failed.len() == 2,
        "{failed:#?}"
    );
    assert!(
        failed[1]
            .says
            .contains("more than the table of its mode: get secrets"),
        "{failed:#?}"
    );
}

#[test]
fn keys_in_a_deployment_fail_where_they_are_kept_and_where_they_should_rotate() {
    let mut facts = well();
    facts.installations.as_mut().unwrap()[0].keys_in_environment = vec!["AWS_SECRET_ACCESS_KEY".into()];
    let failed: Vec<String> = not_passed(&facts).into_iter().map(|f| f.says).collect();
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert!(
        failed[0].starts_with("1. ") && failed[1].starts_with("4. "),
        "{failed:?}"
    );
}

#[test]
fn a_secret_in_the_values_fails_and_one_in_a_secret_does_not() {
    let point = |facts: &Facts| {
        let findings = checkup(facts);
        let eighth = findings.into_iter().find(|f| f.says.starts_with("8. "));
        eighth.map(|f| (f.verdict, f.says))
    };
    let with = |literals: &[&str], from_secrets: &[&str]| {
        let names = |of: &[&str]| of.iter().map(ToString::to_string).collect();
        let mut facts = well();
        facts.installations = Some(vec![Installation {
            literals: names(literals),
            from_secrets: names(from_secrets),
            ..well().installations.unwrap().remove(0)
        }]);
        facts
    };
    let harmless = [
        "MODE",
        "CLUSTER_NAME",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "ASSUME_ROLE_ARN",
    ];
    let (verdict, _) = point(&with(&harmless, &[])).unwrap();
    assert_eq!(verdict, Verdict::Pass);
    for secret in [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "PROXY_PASSWORD",
        "apiToken",
    ] {
        let (verdict, says) = point(&with(&["MODE", secret], &[])).unwrap();
        assert_eq!(verdict, Verdict::Fail, "{secret}");
        assert!(says.ends_with(&format!("the chart's values: {secret}")), "{says}");
    }
    let (verdict, says) = point(&with(&["MODE"], &["PROXY_PASSWORD"])).unwrap();
    assert_eq!(verdict, Verdict::Pass);
    assert!(says.ends_with("from Secrets come PROXY_PASSWORD"), "{says}");
    // Nothing is said of an installation that nobody has seen.
    let mut facts = well();
    for nothing in [None, Some(Vec::new())] {
        facts.installations = nothing;
        assert_eq!(point(&facts), None);
    }
}

#[test]
fn who_only_looks_is_no_trouble_to_another_autoscaler() {
    let mut facts = well();
    let pods = |name, count| ((name, "kube-system".to_owned()), count);
    facts.autoscalers = Some(BTreeMap::from([
        pods("karpenter", 2),
        pods("cluster-autoscaler", 1),
    ]));
    assert_eq!(not_passed(&facts), []);
}
