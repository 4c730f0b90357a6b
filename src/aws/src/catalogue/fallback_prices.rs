//! On-demand prices for when the Pricing API cannot be asked.
//!
//! The list is that of us-east-1 on one day; other regions are dearer or cheaper. It is better than nothing, because a
//! type without a price is never bought, and its date is shown wherever its prices are.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use plimsoll_core::catalog::MicroDollars;
use serde::Deserialize;

/// The list that the benchmarks use, too; the script that makes it is beside it.
const LIST: &str = include_str!("../../../../bench/data/aws-us-east-1.json");
/// The day of apache-libcloud's list, which `LIST` is made from.
pub(crate) const DATE: &str = "2025-03-02";

/// The beginning of that day.
pub(crate) fn made() -> Option<Timestamp> {
    format!("{DATE}T00:00:00Z").parse().ok()
}

#[derive(Deserialize)]
struct List {
    columns: Vec<String>,
    types: Vec<Vec<serde_json::Value>>,
}

/// Dollars per hour by type; types whose price the list only estimates are left out.
pub(crate) fn prices() -> BTreeMap<Arc<str>, MicroDollars> {
    let list: List = serde_json::from_str(LIST).expect("the list is part of the program and a test reads it");
    let column = |name: &str| list.columns.iter().position(|c| c == name);
    let (Some(name), Some(price), Some(estimated)) = (
        column("name"),
        column("on_demand_price"),
        column("price_is_estimated"),
    ) else {
        return BTreeMap::new();
    };
    list.types
        .iter()
        .filter(|row| row[estimated].as_i64() == Some(0))
        .filter_map(|row| {
            let dollars = row[price].as_f64().filter(|d| *d > 0.0)?;
            Some((row[name].as_str()?.into(), MicroDollars::from_dollars(dollars)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_common_types_and_leaves_estimates_out() {
        let prices = prices();
        assert_eq!(prices["m5.large"], MicroDollars(96_000));
        assert_eq!(prices["a1.large"], MicroDollars(51_000));
        assert!(prices.len() > 600, "{} prices", prices.len());
        assert!(LIST.contains(DATE));
        assert_eq!(made().unwrap().to_string(), "2025-03-02T00:00:00Z");
    }
}
