//! Types and prices, kept current.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use plimsoll_provider::{PriceList, ProviderError};
use tokio::sync::OnceCell;

use crate::catalogue::{Labels, Prices, Region, describe_types, describe_zones, fetch_on_demand, fetch_spot};

/// New types appear a few times a month; upstream looks twice a day.
pub(crate) const TYPES_INTERVAL: Duration = Duration::from_hours(12);
/// On-demand prices change a few times a year.
const ON_DEMAND_INTERVAL: Duration = Duration::from_hours(12);
/// The spot market moves by the hour.
const SPOT_INTERVAL: Duration = Duration::from_mins(30);
/// Prices that were never fetched are asked for again this soon.
const RETRY: Duration = Duration::from_secs(15);

/// What is sold, at which prices. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Goods {
    pub(crate) region: Arc<Region>,
    pub(crate) prices: Arc<Prices>,
    types_at: Timestamp,
    on_demand_at: Option<Timestamp>,
    spot_at: Option<Timestamp>,
}

#[derive(Debug)]
pub(crate) struct Market {
    ec2: aws_sdk_ec2::Client,
    pricing: aws_sdk_pricing::Client,
    region_name: String,
    /// Pricing cannot be reached.
    isolated_vpc: bool,
    loaded: OnceCell<()>,
    goods: Mutex<Option<Goods>>,
}

impl Market {
    pub(crate) fn new(
        ec2: aws_sdk_ec2::Client,
        pricing: aws_sdk_pricing::Client,
        region_name: String,
        isolated_vpc: bool,
    ) -> Self {
        Self {
            ec2,
            pricing,
            region_name,
            isolated_vpc,
            loaded: OnceCell::new(),
            goods: Mutex::default(),
        }
    }

    /// What is sold, if it was ever answered.
    pub(crate) fn known(&self) -> Option<Goods> {
        self.goods.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, goods: Goods) {
        *self.goods.lock().unwrap_or_else(PoisonError::into_inner) = Some(goods);
    }

    /// What is sold; asked of AWS the first time. Without types there is nothing to plan with, so that is an error;
    /// prices have a fallback.
    pub(crate) async fn goods(&self, now: Timestamp) -> Result<Goods, ProviderError> {
        self.loaded.get_or_try_init(|| self.load(now)).await?;
        self.known()
            .ok_or_else(|| ProviderError::Transient("the catalogue is not loaded".into()))
    }

    async fn load(&self, now: Timestamp) -> Result<(), ProviderError> {
        let region = self.region().await?;
        let mut goods = Goods {
            region: Arc::new(region),
            prices: Arc::new(Prices::fallback()),
            types_at: now,
            on_demand_at: None,
            spot_at: None,
        };
        self.refresh_prices(&mut goods, now).await;
        self.keep(goods);
        Ok(())
    }

    async fn region(&self) -> Result<Region, ProviderError> {
        let (types, zones) = tokio::try_join!(describe_types(&self.ec2), describe_zones(&self.ec2))?;
        if types.is_empty() || zones.is_empty() {
            return Err(ProviderError::Transient(format!(
                "EC2 names no instance types or no offerings in {}",
                self.region_name
            )));
        }
        Ok(Region {
            types,
            zones,
            labels: Labels::default(),
        })
    }

    pub(crate) fn price_lists(&self) -> Vec<PriceList> {
        self.known()
            .map(|goods| goods.prices.lists(&self.region_name))
            .unwrap_or_default()
    }

    /// How long nothing will be due.
    pub(crate) fn rest(&self) -> Duration {
        match self.known() {
            Some(goods)
                if goods.spot_at.is_some() && (goods.on_demand_at.is_some() || !self.asks_pricing()) =>
            {
                SPOT_INTERVAL
            }
            _ => RETRY,
        }
    }

    /// The Pricing API has no endpoint in GovCloud.
    fn asks_pricing(&self) -> bool {
        !self.isolated_vpc && !self.region_name.starts_with("us-gov-")
    }

    /// Asks anew for what is due, or for everything if that has not been answered yet. True when anything changed.
    pub(crate) async fn refresh(&self, now: Timestamp) -> bool {
        let Some(mut goods) = self.known() else {
            let loaded = self.goods(now).await;
            return loaded
                .inspect_err(|error| tracing::warn!(%error, "what is sold is not known, asking again"))
                .is_ok();
        };
        let mut changed = false;
        if goods.types_at + TYPES_INTERVAL <= now {
            match self.region().await {
                Ok(region) => {
                    goods.region = Arc::new(region);
                    goods.types_at = now;
                    changed = true;
                }
                Err(error) => tracing::warn!(%error, "instance types not refreshed, keeping the last"),
            }
        }
        changed |= self.refresh_prices(&mut goods, now).await;
        self.keep(goods);
        changed
    }

    async fn refresh_prices(&self, goods: &mut Goods, now: Timestamp) -> bool {
        let due = |at: Option<Timestamp>, interval: Duration| at.is_none_or(|at| at + interval <= now);
        let mut prices = Prices::clone(&goods.prices);
        let mut changed = false;
        if self.asks_pricing() && due(goods.on_demand_at, ON_DEMAND_INTERVAL) {
            match fetch_on_demand(&self.pricing, &self.region_name).await {
                Ok(new) => {
                    prices.merge_on_demand(new, now);
                    goods.on_demand_at = Some(now);
                    changed = true;
                }
                Err(error) => tracing::warn!(%error, "on-demand prices not refreshed, keeping the last"),
            }
        }
        if due(goods.spot_at, SPOT_INTERVAL) {
            match fetch_spot(&self.ec2, &goods.region.zones, now).await {
                Ok(new) => {
                    prices.replace_spot(new, now);
                    goods.spot_at = Some(now);
                    changed = true;
                }
                Err(error) => tracing::warn!(%error, "spot prices not refreshed, keeping the last"),
            }
        }
        goods.prices = Arc::new(prices);
        changed
    }
}
