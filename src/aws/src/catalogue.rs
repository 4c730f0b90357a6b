//! What can be bought: types, their shapes as nodes, offerings and prices.

mod describe;
mod fallback_prices;
mod kubelet;
mod labels;
mod prices;
mod resolve;
mod shape;
mod types;

pub(crate) use describe::{describe_types, describe_zones};
pub(crate) use labels::{Labels, Words};
pub(crate) use prices::{Prices, fetch_on_demand, fetch_spot, pricing_region};
pub(crate) use resolve::{ResolvedType, Resolver, class_types};
pub(crate) use shape::Density;
pub(crate) use types::Region;
