//! The documentation names every metric.

use std::collections::BTreeMap;

use super::*;

/// A page with every metric: a family without a member is not shown.
fn page() -> String {
    let metrics = Metrics::new("");
    macro_rules! touch {
        ($($family:ident),+ $(,)?) => {$(
            drop(metrics.families.$family.get_or_create(&Default::default()));
        )+};
    }
    touch!(
        created,
        claims_terminated,
        claims_disrupted,
        nodes_created,
        nodes_terminated,
        pods_drained,
        evictions,
        messages,
        unhealthy,
        queue_depth,
        unschedulable,
        leading,
        limit,
        usage,
        allowed,
        decisions,
        eligible,
        cloud_errors,
        watch_errors,
        price,
        restraint,
        price_age,
        prices_age,
        scheduling,
        cloud,
    );
    metrics.text().unwrap()
}

/// One row for each metric, by name.
fn table() -> String {
    let page = page();
    let (mut kinds, mut helps) = (BTreeMap::new(), BTreeMap::new());
    for line in page.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words.as_slice() {
            ["#", "TYPE", name, kind] => {
                kinds.insert(*name, *kind);
            }
            ["#", "HELP", name, help] => {
                helps.insert(*name, help.trim_end_matches('.'));
            }
            _ => {}
        }
    }
    let row = |(name, help): (&&str, &&str)| {
        let kind = kinds[name];
        // As Prometheus stores it: the text format names the family.
        let suffix = if kind == "counter" { "_total" } else { "" };
        format!("| `{name}{suffix}` | {kind} | {help} |\n")
    };
    let mut rows: Vec<String> = helps.iter().map(row).collect();
    rows.sort();
    rows.concat()
}

/// `PLIMSOLL_BLESS=1` rewrites it.
#[test]
fn every_metric_is_in_the_documentation() {
    let file =
        std::path::Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../../docs/metrics.md");
    let mut text = std::fs::read_to_string(&file).unwrap();
    let begin = "|---|---|---|\n";
    let from = text.find(begin).unwrap() + begin.len();
    let to = from + text[from..].find("<!-- end -->").unwrap();
    let table = table();
    // Those of the process come from a collector; all others are registered one by one.
    let own = table
        .lines()
        .filter(|row| !row.starts_with("| `process_"))
        .count();
    let source = include_str!("../metrics.rs");
    let registered = source.matches(".register(").count() + source.matches(".register_with_unit(").count();
    assert_eq!(own, registered, "{table}");
    if std::env::var_os("PLIMSOLL_BLESS").is_some() {
        let mut new = text.clone();
        new.replace_range(from..to, &table);
        std::fs::write(&file, &new).unwrap();
        text = new;
    }
    let to = from + text[from..].find("<!-- end -->").unwrap();
    assert!(
        text[from..to] == table,
        "docs/metrics.md; run the tests with PLIMSOLL_BLESS=1"
    );
}

#[test]
fn prices_have_an_age_and_a_source() {
    let metrics = Metrics::new("");
    let at = |second: i64| Timestamp::from_second(second).unwrap();
    let list = |source, second| PriceList {
        capacity_type: "on-demand",
        region: "us-east-1".into(),
        source,
        at: at(second),
    };
    metrics.price_lists(&[list("built_in_list", 0)], at(100));
    metrics.price_lists(&[list("pricing_api", 90)], at(100));
    let text = metrics.text().unwrap();
    let shown: Vec<_> = text
        .lines()
        .filter(|l| l.starts_with("plimsoll_prices_age_seconds{"))
        .collect();
    assert_eq!(
        shown,
        [
            r#"plimsoll_prices_age_seconds{capacity_type="on-demand",region="us-east-1",source="pricing_api"} 10.0"#
        ]
    );
}
