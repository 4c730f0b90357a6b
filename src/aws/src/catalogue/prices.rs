//! Prices on demand and on the spot market, their source and their age.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use plimsoll_api::labels;
use plimsoll_core::catalog::MicroDollars;
use plimsoll_provider::{PriceList, ProviderError};
use serde::Deserialize;

use super::fallback_prices;
use crate::error::provider_error;

/// Records per page of the spot price history; EC2's most is 1,000 and larger numbers are cut by it.
const SPOT_PAGE: i32 = 1_000;
const PRODUCTS_PAGE: i32 = 100;

/// What machines cost, in dollars per hour. A type without a price is not bought.
#[derive(Clone, Debug)]
pub(crate) struct Prices {
    on_demand: BTreeMap<Arc<str>, MicroDollars>,
    /// By type and zone.
    spot: BTreeMap<(Arc<str>, Arc<str>), MicroDollars>,
    on_demand_at: Option<Timestamp>,
    spot_at: Option<Timestamp>,
}

impl Prices {
    /// The built-in list, and no spot prices.
    pub(crate) fn fallback() -> Self {
        Self {
            on_demand: fallback_prices::prices(),
            spot: BTreeMap::new(),
            on_demand_at: None,
            spot_at: None,
        }
    }

    pub(crate) fn on_demand(&self, type_: &str) -> Option<MicroDollars> {
        self.on_demand.get(type_).copied()
    }

    /// The spot price in a zone. None: EC2 names no price, so there is no spot capacity to buy. Until EC2 was asked
    /// for the first time there is no offer either: a guess would be shown as a price.
    pub(crate) fn spot(&self, type_: &Arc<str>, zone: &Arc<str>) -> Option<MicroDollars> {
        self.spot.get(&(type_.clone(), zone.clone())).copied()
    }

    /// New prices over old ones; what EC2 does not name any more keeps its last price.
    pub(crate) fn merge_on_demand(&mut self, new: BTreeMap<Arc<str>, MicroDollars>, now: Timestamp) {
        if !new.is_empty() {
            self.on_demand.extend(new);
            self.on_demand_at = Some(now);
        }
    }

    /// The whole spot market anew: a pool without a price is no longer for sale.
    pub(crate) fn replace_spot(&mut self, new: BTreeMap<(Arc<str>, Arc<str>), MicroDollars>, now: Timestamp) {
        if !new.is_empty() {
            self.spot = new;
            self.spot_at = Some(now);
        }
    }

    /// The lists in use, for metrics. Before the first answer of EC2 there is none of the spot market.
    pub(crate) fn lists(&self, region: &str) -> Vec<PriceList> {
        let list = |capacity_type, source, at| PriceList {
            capacity_type,
            region: region.to_owned(),
            source,
            at,
        };
        let on_demand = match self.on_demand_at {
            Some(at) => Some(("pricing_api", at)),
            None => fallback_prices::made().map(|at| ("built_in_list", at)),
        };
        let on_demand = on_demand.map(|(source, at)| list(labels::CAPACITY_ON_DEMAND, source, at));
        let spot = self
            .spot_at
            .map(|at| list(labels::CAPACITY_SPOT, "spot_price_history", at));
        on_demand.into_iter().chain(spot).collect()
    }

    /// Where the prices come from and of when, for wherever a price is shown.
    pub(crate) fn source(&self) -> String {
        let second = |at: Timestamp| {
            at.round(jiff::Unit::Second)
                .map_or_else(|_| at.to_string(), |rounded| rounded.to_string())
        };
        let on_demand = self.on_demand_at.map_or_else(
            || {
                let date = fallback_prices::DATE;
                format!("on-demand: built-in list of us-east-1 of {date}, not the prices of today")
            },
            |at| format!("on-demand: AWS Pricing API at {}", second(at)),
        );
        let spot = self.spot_at.map_or_else(
            || "spot: no prices yet".to_owned(),
            |at| format!("spot: EC2 price history at {}", second(at)),
        );
        format!("{on_demand}; {spot}")
    }
}

/// The region whose Pricing endpoint answers for a region.
pub(crate) fn pricing_region(region: &str) -> &'static str {
    match region.split('-').next() {
        Some("ap") => "ap-south-1",
        Some("cn") => "cn-northwest-1",
        Some("eu") => "eu-central-1",
        _ => "us-east-1",
    }
}

/// On-demand prices of Linux machines of the region, shared and bare metal.
pub(crate) async fn fetch_on_demand(
    pricing: &aws_sdk_pricing::Client,
    region: &str,
) -> Result<BTreeMap<Arc<str>, MicroDollars>, ProviderError> {
    let currency = if region.starts_with("cn-") { "CNY" } else { "USD" };
    let (shared, metal) = tokio::try_join!(
        products(pricing, region, "Shared", "Compute Instance", currency),
        products(
            pricing,
            region,
            "Dedicated",
            "Compute Instance (bare metal)",
            currency
        ),
    )?;
    let mut all = metal;
    all.extend(shared);
    Ok(all)
}

async fn products(
    pricing: &aws_sdk_pricing::Client,
    region: &str,
    tenancy: &str,
    family: &str,
    currency: &str,
) -> Result<BTreeMap<Arc<str>, MicroDollars>, ProviderError> {
    use aws_sdk_pricing::types::{Filter, FilterType};
    let action = "pricing:GetProducts";
    let mut request = pricing
        .get_products()
        .service_code("AmazonEC2")
        .max_results(PRODUCTS_PAGE);
    for (field, value) in [
        ("regionCode", region),
        ("serviceCode", "AmazonEC2"),
        ("preInstalledSw", "NA"),
        ("operatingSystem", "Linux"),
        ("capacitystatus", "Used"),
        ("marketoption", "OnDemand"),
        ("tenancy", tenancy),
        ("productFamily", family),
    ] {
        let filter = Filter::builder()
            .r#type(FilterType::TermMatch)
            .field(field)
            .value(value)
            .build()
            .map_err(|error| ProviderError::Transient(format!("{action}: {error}")))?;
        request = request.filters(filter);
    }
    let mut pages = request.into_paginator().send();
    let mut all = BTreeMap::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| provider_error(action, &error))?;
        all.extend(
            page.price_list()
                .iter()
                .filter_map(|text| on_demand_price(text, currency)),
        );
    }
    Ok(all)
}

#[derive(Deserialize)]
struct Product {
    product: ProductAttributes,
    terms: Terms,
}

#[derive(Deserialize)]
struct ProductAttributes {
    attributes: Attributes,
}

#[derive(Deserialize)]
struct Attributes {
    #[serde(rename = "instanceType")]
    instance_type: String,
}

#[derive(Deserialize)]
struct Terms {
    #[serde(rename = "OnDemand", default)]
    on_demand: BTreeMap<String, Term>,
}

#[derive(Deserialize)]
struct Term {
    #[serde(rename = "priceDimensions")]
    dimensions: BTreeMap<String, Dimension>,
}

#[derive(Deserialize)]
struct Dimension {
    #[serde(rename = "pricePerUnit")]
    price: BTreeMap<String, String>,
}

/// The type and hourly price of one product of the list. A price of zero means that the list has none.
fn on_demand_price(text: &str, currency: &str) -> Option<(Arc<str>, MicroDollars)> {
    let product: Product = serde_json::from_str(text).ok()?;
    let dollars = product
        .terms
        .on_demand
        .values()
        .flat_map(|t| t.dimensions.values())
        .filter_map(|d| d.price.get(currency)?.parse::<f64>().ok())
        .find(|d| *d > 0.0)?;
    Some((
        product.product.attributes.instance_type.into(),
        MicroDollars::from_dollars(dollars),
    ))
}

/// The spot prices of this moment, by type and zone.
pub(crate) async fn fetch_spot(
    ec2: &aws_sdk_ec2::Client,
    types: &BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    now: Timestamp,
) -> Result<BTreeMap<(Arc<str>, Arc<str>), MicroDollars>, ProviderError> {
    let mut pages = ec2
        .describe_spot_price_history()
        .product_descriptions("Linux/UNIX")
        .product_descriptions("Linux/UNIX (Amazon VPC)")
        .start_time(aws_smithy_types::DateTime::from_secs(now.as_second()))
        .max_results(SPOT_PAGE)
        .into_paginator()
        .send();
    let mut all = BTreeMap::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| provider_error("ec2:DescribeSpotPriceHistory", &error))?;
        for record in page.spot_price_history() {
            let (Some(type_), Some(zone), Some(price)) = (
                record.instance_type(),
                record.availability_zone(),
                record.spot_price(),
            ) else {
                continue;
            };
            // Held under the names the catalogue already has; what it does not sell is of no use.
            let known = types
                .get_key_value(type_.as_str())
                .and_then(|(name, zones)| Some((name, zones.get(zone)?)));
            if let (Some((name, zone)), Ok(dollars)) = (known, price.parse::<f64>()) {
                all.insert((name.clone(), zone.clone()), MicroDollars::from_dollars(dollars));
            }
        }
    }
    if all.is_empty() {
        return Err(ProviderError::Transient(
            "ec2:DescribeSpotPriceHistory: no spot price of any type of the region".into(),
        ));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRODUCT: &str = r#"{
        "product": {"attributes": {"instanceType": "m5.large", "vcpu": "2"}},
        "terms": {"OnDemand": {"X.Y": {"priceDimensions": {"X.Y.Z": {"pricePerUnit": {"USD": "0.0960000000"}}}}}}
    }"#;

    #[test]
    fn products_are_read() {
        let (name, price) = on_demand_price(PRODUCT, "USD").unwrap();
        assert_eq!((&*name, price), ("m5.large", MicroDollars(96_000)));
        assert_eq!(on_demand_price(PRODUCT, "CNY"), None);
        assert_eq!(
            on_demand_price(&PRODUCT.replace("0.0960000000", "0.0"), "USD"),
            None
        );
        assert_eq!(on_demand_price("{}", "USD"), None);
    }

    #[test]
    fn the_source_says_when_prices_are_old() {
        let mut prices = Prices::fallback();
        assert!(prices.source().contains("2025-03-02"), "{}", prices.source());
        assert_eq!(prices.on_demand("m5.large"), Some(MicroDollars(96_000)));
        let sources = |prices: &Prices| {
            let lists = prices.lists("us-east-1").into_iter();
            lists
                .map(|l| (l.capacity_type, l.source, l.at))
                .collect::<Vec<_>>()
        };
        let day = "2025-03-02T00:00:00Z".parse().unwrap();
        assert_eq!(sources(&prices), [("on-demand", "built_in_list", day)]);
        let now: Timestamp = "2026-11-22T10:00:00.5Z".parse().unwrap();
        prices.merge_on_demand(BTreeMap::from([("m5.large".into(), MicroDollars(1))]), now);
        assert_eq!(prices.on_demand("m5.large"), Some(MicroDollars(1)));
        assert!(prices.on_demand("a1.large").is_some(), "an old price is kept");
        assert_eq!(sources(&prices), [("on-demand", "pricing_api", now)]);
        assert!(prices.source().contains("Pricing API"), "{}", prices.source());
        let (name, zone): (Arc<str>, Arc<str>) = ("m5.large".into(), "a".into());
        assert_eq!(prices.spot(&name, &zone), None);
        prices.replace_spot(
            BTreeMap::from([((name.clone(), zone.clone()), MicroDollars(30_000))]),
            now,
        );
        assert_eq!(prices.spot(&name, &zone), Some(MicroDollars(30_000)));
        prices.replace_spot(BTreeMap::new(), now);
        assert!(
            prices.spot(&name, &zone).is_some(),
            "an empty answer changes nothing"
        );
    }

    #[test]
    fn pricing_is_asked_where_it_answers() {
        for (region, endpoint) in [
            ("us-west-2", "us-east-1"),
            ("eu-west-1", "eu-central-1"),
            ("ap-northeast-1", "ap-south-1"),
            ("cn-north-1", "cn-northwest-1"),
            ("sa-east-1", "us-east-1"),
        ] {
            assert_eq!(pricing_region(region), endpoint);
        }
    }
}
