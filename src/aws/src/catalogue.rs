//! What can be bought: types, their shapes as nodes, offerings and prices.

mod describe;
mod fallback_prices;
mod kubelet;
mod labels;
mod learned;
mod prices;
mod resolve;
mod shape;
mod tenancy;
mod types;

pub(crate) use describe::{describe_types, describe_zones};
pub(crate) use labels::{Labels, Words};
pub(crate) use learned::Learned;
pub(crate) use prices::{Prices, fetch_on_demand, fetch_spot, pricing_region};
pub(crate) use resolve::{ResolvedType, Resolver, class_types, image_for};
pub(crate) use shape::Density;
pub(crate) use tenancy::Tenancy;
pub(crate) use types::Region;
#[cfg(test)]
pub(crate) use types::TypeInfo;
