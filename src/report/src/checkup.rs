//! What `plimsoll doctor` found, judged: each point passes, fails, or cannot be seen from here; what does not pass says
//! what to do. Facts come in, findings go out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde::Serialize;

/// From this age on a price list is too old to trust a percent or two.
const PRICES_DAYS_MAX: i32 = 90;
/// AWS refuses signatures of clocks that are off by more.
const CLOCK_FAILS_S: i64 = 300;
/// Times in events and reports begin to mislead.
const CLOCK_WARNS_S: i64 = 10;
/// A variable with one of these in its name holds a secret …
const SECRET_WORDS: [&str; 8] = [
    "ACCESS_KEY",
    "API_KEY",
    "PRIVATE_KEY",
    "CREDENTIAL",
    "PASSWD",
    "PASSWORD",
    "SECRET",
    "TOKEN",
];
/// … unless its name ends like this: then it only says where one is.
const PLACES: [&str; 5] = ["_ARN", "_FILE", "_NAME", "_PATH", "_URI"];

/// How a point stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Pass,
    /// Works, but something is lost or should be looked at.
    Warn,
    Fail,
    /// Cannot be seen with these rights, or not through the API server at all.
    Unseen,
}

/// One point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The part of the checkup: `cluster`, `rights`, `security` …
    pub area: &'static str,
    pub verdict: Verdict,
    pub says: String,
    /// What to do; empty when it passes.
    pub fix: String,
}

/// A right, and whether the account has it. None: the API server did not say.
#[derive(Clone, Debug)]
pub struct RightFact {
    /// What they are for together: `mode observe`, `reports`.
    pub of: String,
    /// `list nodes`, `update leases.coordination.k8s.io in plimsoll`.
    pub what: String,
    pub why: &'static str,
    /// Nothing can be done without it; otherwise something is lost.
    pub needed: bool,
    pub fix: &'static str,
    pub allowed: Option<bool>,
}

/// A kind we write or read, and which of its versions the server has.
#[derive(Clone, Debug)]
pub struct KindFact {
    /// `nodepools.karpenter.sh`.
    pub kind: String,
    pub wanted: String,
    /// None: it could not be asked for.
    pub served: Option<Vec<String>>,
    /// Nothing can be done without it in this mode; otherwise something is lost.
    pub needed: bool,
}

/// An installation of ours, as its Deployment has it.
#[derive(Clone, Debug, Default)]
pub struct Installation {
    pub namespace: String,
    pub mode: String,
    /// Empty when it names none.
    pub provider: String,
    /// Names of variables that hold long-lived credentials.
    pub keys_in_environment: Vec<String>,
    /// Names of variables whose value stands in the Deployment itself, and so in the chart's values.
    pub literals: Vec<String>,
    /// Variables that come from Secrets.
    pub from_secrets: Vec<String>,
    pub network_policies: Option<usize>,
    pub replicas: i32,
    /// What its account is granted beyond the table of its mode, and by which binding. None: cannot be seen.
    pub rights_beyond: Option<Vec<String>>,
}

/// Pods of other autoscalers that run, by name of the program and namespace.
pub type Autoscalers = BTreeMap<(&'static str, String), usize>;

/// All that was found out.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub now: Timestamp,
    /// Version of the API server.
    pub version: String,
    pub minor: Option<u32>,
    /// Server's clock less ours, in seconds.
    pub clock_off_s: Option<i64>,
    /// Day of the price list, where one is used.
    pub prices_of: Option<Date>,
    pub rights: Vec<RightFact>,
    pub kinds: Vec<KindFact>,
    /// None: pods could not be listed.
    pub autoscalers: Option<Autoscalers>,
    /// None: Deployments could not be listed.
    pub installations: Option<Vec<Installation>>,
}

/// Judges everything, in the order in which it should be mended.
pub fn checkup(facts: &Facts) -> Vec<Finding> {
    let mut findings = cluster(facts);
    findings.extend(rights(facts));
    findings.extend(kinds(facts));
    findings.extend(neighbours(facts));
    findings.extend(security(facts));
    findings
}

fn finding(area: &'static str, verdict: Verdict, says: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding {
        area,
        verdict,
        says: says.into(),
        fix: fix.into(),
    }
}

fn cluster(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    let version = &facts.version;
    found.push(match facts.minor {
        // From there on kube-scheduler always tries the nominated node first (PreferNominatedNode).
        Some(minor) if minor >= 24 => finding("cluster", Verdict::Pass, format!("API server {version} answers"), ""),
        _ => finding(
            "cluster",
            Verdict::Warn,
            format!("API server {version} does not honour nominatedNodeName, so pods may bind elsewhere than planned"),
            "Kubernetes 1.24 or newer; until then DISABLE_NOMINATION=true, so that plans have room to spare",
        ),
    });
    found.push(match facts.clock_off_s {
        None => finding(
            "cluster",
            Verdict::Unseen,
            "the API server does not tell its time",
            "compare the clocks of this machine and the control plane",
        ),
        Some(off) if off.abs() > CLOCK_FAILS_S => finding(
            "cluster",
            Verdict::Fail,
            format!(
                "this clock and the API server's are {} s apart; AWS refuses such signatures",
                off.abs()
            ),
            "run NTP (chrony) on this machine",
        ),
        Some(off) if off.abs() > CLOCK_WARNS_S => finding(
            "cluster",
            Verdict::Warn,
            format!("this clock and the API server's are {} s apart", off.abs()),
            "run NTP (chrony) on this machine",
        ),
        Some(_) => finding(
            "cluster",
            Verdict::Pass,
            "the clock agrees with the API server's",
            "",
        ),
    });
    if let Some(date) = facts.prices_of {
        let age = (facts.now.to_zoned(TimeZone::UTC).date() - date).get_days();
        found.push(if age > PRICES_DAYS_MAX {
            finding(
                "cluster",
                Verdict::Warn,
                format!("the price list is {age} days old (of {date})"),
                "use a newer release, or make the list anew with hack/price-catalogue",
            )
        } else {
            finding(
                "cluster",
                Verdict::Pass,
                format!("the price list is of {date}, {age} days old"),
                "",
            )
        });
    }
    found
}

/// One line for rights that are there in full, and one for each right that is missing.
fn rights(facts: &Facts) -> Vec<Finding> {
    let mut groups: BTreeMap<&str, Vec<&RightFact>> = BTreeMap::new();
    for right in &facts.rights {
        groups.entry(&right.of).or_default().push(right);
    }
    let mut found = Vec::new();
    for (of, rights) in groups.iter().rev() {
        let missing: Vec<_> = rights.iter().filter(|r| r.allowed != Some(true)).collect();
        if missing.is_empty() {
            let says = format!("the account has all {} rights of {of}", rights.len());
            found.push(finding("rights", Verdict::Pass, says, ""));
        }
        for right in missing {
            let (verdict, word) = match right.allowed {
                Some(_) if right.needed => (Verdict::Fail, "may not"),
                Some(_) => (Verdict::Warn, "may not"),
                None => (Verdict::Unseen, "perhaps may not"),
            };
            found.push(finding(
                "rights",
                verdict,
                format!("{of}: {word} {}: {}", right.what, right.why),
                right.fix,
            ));
        }
    }
    found
}

fn kinds(facts: &Facts) -> Vec<Finding> {
    let judge = |kind: &KindFact| {
        let apply = "plimsoll crds | kubectl apply --server-side -f -";
        let name = &kind.kind;
        match &kind.served {
            None => finding(
                "kinds",
                Verdict::Unseen,
                format!("{name}: not told by the API server"),
                apply,
            ),
            Some(served) if served.contains(&kind.wanted) => {
                finding("kinds", Verdict::Pass, format!("{name} {}", kind.wanted), "")
            }
            Some(served) if served.is_empty() && !kind.needed => finding(
                "kinds",
                Verdict::Warn,
                format!("{name} is not installed; what needs it is left out"),
                apply,
            ),
            Some(served) if served.is_empty() => {
                finding("kinds", Verdict::Fail, format!("{name} is not installed"), apply)
            }
            Some(served) => finding(
                "kinds",
                Verdict::Fail,
                format!(
                    "{name} is served as {}, not as {}",
                    served.join(", "),
                    kind.wanted
                ),
                apply,
            ),
        }
    };
    facts.kinds.iter().map(judge).collect()
}

fn neighbours(facts: &Facts) -> Vec<Finding> {
    let acting: BTreeSet<&str> = facts
        .installations
        .iter()
        .flatten()
        .filter(|i| i.mode == "automate" && i.replicas > 0)
        .map(|i| i.namespace.as_str())
        .collect();
    let Some(autoscalers) = &facts.autoscalers else {
        let fix = "kubectl get pods -A | grep -E 'karpenter|autoscaler'";
        return vec![finding(
            "neighbours",
            Verdict::Unseen,
            "pods may not be listed",
            fix,
        )];
    };
    if autoscalers.is_empty() {
        return vec![finding(
            "neighbours",
            Verdict::Pass,
            "no other autoscaler runs",
            "",
        )];
    }
    let judge = |((name, namespace), pods): (&(&'static str, String), &usize)| {
        let says = format!("{name} runs in namespace {namespace} ({pods} pods)");
        match *name {
            _ if acting.is_empty() => finding(
                "neighbours",
                Verdict::Pass,
                format!("{says}; plimsoll only looks"),
                "",
            ),
            // The Lease is of the namespace.
            "karpenter" if acting.iter().all(|of| of == namespace) => finding(
                "neighbours",
                Verdict::Warn,
                format!("{says}; it waits for the Lease that plimsoll holds"),
                "scale Karpenter's Deployment to zero",
            ),
            "karpenter" => finding(
                "neighbours",
                Verdict::Fail,
                format!(
                    "{says} and plimsoll acts elsewhere, each with a Lease of its own: both buy and end machines"
                ),
                "scale Karpenter's Deployment to zero; who is to wait for its Lease runs in its namespace",
            ),
            _ => finding(
                "neighbours",
                Verdict::Fail,
                format!("{says} and plimsoll acts too: they undo each other's work"),
                format!("scale {name} to zero, or keep it to node groups that no NodePool covers"),
            ),
        }
    };
    autoscalers.iter().map(judge).collect()
}

/// The nine points: where keys are kept, a key for each environment, monitoring that only reads, rotation, scanning,
/// network policies, reviewed roles, no secret in values, audit logs.
fn security(facts: &Facts) -> Vec<Finding> {
    let Some(installations) = &facts.installations else {
        let fix = "let this account list Deployments";
        return vec![finding(
            "security",
            Verdict::Unseen,
            "Deployments may not be listed",
            fix,
        )];
    };
    if installations.is_empty() {
        let fix = "docs/getting-started.md: helm install plimsoll charts/plimsoll --namespace plimsoll --create-namespace --set \
                   image.repository=REGISTRY/plimsoll";
        return vec![finding(
            "security",
            Verdict::Warn,
            "plimsoll is not installed by its chart, so there is nothing to hold against the nine points",
            fix,
        )];
    }
    installations.iter().flat_map(nine_points).collect()
}

fn names_a_secret(variable: &str) -> bool {
    let name = variable.to_ascii_uppercase();
    SECRET_WORDS.iter().any(|word| name.contains(word)) && !PLACES.iter().any(|end| name.ends_with(end))
}

fn nine_points(of: &Installation) -> Vec<Finding> {
    let ns = &of.namespace;
    let keys = of.keys_in_environment.join(", ");
    let point = |number: u32, good: Option<bool>, pass: String, fail: String, fix: &str| {
        let (verdict, says) = match good {
            Some(true) => (Verdict::Pass, pass),
            Some(false) => (Verdict::Fail, fail),
            None => (Verdict::Unseen, fail),
        };
        let fix = if verdict == Verdict::Pass { "" } else { fix };
        finding("security", verdict, format!("{number}. {ns}: {says}"), fix)
    };
    let no_keys = Some(of.keys_in_environment.is_empty());
    let role = "use IRSA (serviceAccount.annotations) or EKS Pod Identity instead of keys";
    let in_values: Vec<&str> = of
        .literals
        .iter()
        .map(String::as_str)
        .filter(|name| names_a_secret(name))
        .collect();
    let elsewhere = if of.from_secrets.is_empty() {
        String::new()
    } else {
        format!("; from Secrets come {}", of.from_secrets.join(", "))
    };
    let beyond = of.rights_beyond.as_ref().map(|rights| rights.join("; "));
    vec![
        point(
            1,
            no_keys,
            "no long-lived key in the Deployment".into(),
            format!("long-lived keys in the Deployment: {keys}"),
            role,
        ),
        point(
            2,
            ["observe", "advise"].contains(&of.mode.as_str()).then_some(true),
            "needs no key in any environment".into(),
            "whether each environment has a role of its own is not told by one cluster".into(),
            "give each cluster its own role; its trust policy names one cluster and one account",
        ),
        point(
            3,
            of.rights_beyond.as_ref().map(Vec::is_empty),
            format!("mode {}, with the rights of that mode and no more", of.mode),
            match &of.rights_beyond {
                Some(_) => format!("mode {}, with rights beyond that mode: see 7", of.mode),
                None => format!("whether mode {} has only its own rights is not sure", of.mode),
            },
            "see 7",
        ),
        point(
            4,
            no_keys,
            "credentials are short-lived tokens, renewed by the platform".into(),
            format!("keys do not expire by themselves: {keys}"),
            role,
        ),
        point(
            5,
            None,
            String::new(),
            "whether images are scanned is not told by the API server".into(),
            "scan the image by its SBOM, for example with trivy or grype",
        ),
        point(
            6,
            of.network_policies.map(|n| n > 0),
            "a NetworkPolicy holds the pods".into(),
            "no NetworkPolicy in its namespace was seen".into(),
            "networkPolicy.enabled=true, and a network plugin that enforces it",
        ),
        point(
            7,
            of.rights_beyond.as_ref().map(Vec::is_empty),
            "its account is granted nothing beyond the table of its mode".into(),
            beyond.map_or_else(
                || "what its account is granted could not be compared with the table of its mode".to_owned(),
                |rights| format!("its account is granted more than the table of its mode: {rights}"),
            ),
            "helm upgrade brings the chart's own roles back; delete what else binds the account",
        ),
        point(
            8,
            Some(in_values.is_empty()),
            format!("no variable with a secret's name has its value in the Deployment{elsewhere}"),
            format!(
                "secrets stand in the Deployment, and so in the chart's values: {}",
                in_values.join(", ")
            ),
            "use IRSA or EKS Pod Identity; what must be a key belongs in a Secret that secretKeyRef names",
        ),
        point(
            9,
            None,
            String::new(),
            "whether audit logs are kept is not told by the API server".into(),
            "EKS: aws eks describe-cluster --name NAME --query cluster.logging",
        ),
    ]
}

/// As a terminal shows it: what must be mended first, then what passes.
pub fn checkup_text(findings: &[Finding]) -> String {
    let mut out = String::new();
    for finding in findings {
        let mark = match finding.verdict {
            Verdict::Pass => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
            Verdict::Unseen => "?   ",
        };
        let _ = writeln!(out, "{mark}  {:<10}  {}", finding.area, finding.says);
        if !finding.fix.is_empty() {
            let _ = writeln!(out, "      {:<10}  → {}", "", finding.fix);
        }
    }
    let count = |verdict| findings.iter().filter(|f| f.verdict == verdict).count();
    let _ = writeln!(
        out,
        "{} ok, {} to look at, {} failed, {} not visible from here",
        count(Verdict::Pass),
        count(Verdict::Warn),
        count(Verdict::Fail),
        count(Verdict::Unseen)
    );
    out
}
