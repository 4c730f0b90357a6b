//! Instance types, their offerings and prices, as data.

use std::{collections::BTreeMap, sync::Arc};

use crate::{requirement::Requirement, resources::Resources};

/// A price in millionths of a US dollar per hour. Integers, so that sums do not depend on their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MicroDollars(pub i64);

impl MicroDollars {
    /// From dollars per hour, rounded to the nearest millionth.
    pub fn from_dollars(dollars: f64) -> Self {
        Self((dollars * 1e6).round() as i64)
    }

    /// In dollars per hour, for output only.
    pub fn dollars(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl std::iter::Sum for MicroDollars {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        Self(iter.map(|p| p.0).sum())
    }
}

impl std::ops::Add for MicroDollars {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl std::ops::Sub for MicroDollars {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

/// Index of a type in [`Catalog::types`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(pub u32);

/// Everything that can be bought, and which pool may buy it.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// Grows by one whenever anything in it changes.
    pub revision: u64,
    /// Sorted by name.
    pub types: Vec<InstanceType>,
    /// Types each pool's node class can launch, by pool name; ascending ids. A pool that is absent here
    /// has no types (its node class is not ready, or its provider failed).
    pub by_pool: BTreeMap<Arc<str>, Vec<TypeId>>,
    /// Where the prices come from and of what day, shown wherever a price is shown.
    pub price_source: Arc<str>,
}

/// One machine shape.
#[derive(Clone, Debug)]
pub struct InstanceType {
    /// `node.kubernetes.io/instance-type`.
    pub name: Arc<str>,
    /// What a node of this type would be labelled with. A key with several values (zone, capacity type)
    /// is decided by the offering; a key that is absent is not defined on the node. Shared between catalogues: prices
    /// and availability change by the minute, what a type is hardly ever does.
    pub requirements: Arc<[Requirement]>,
    /// Before overhead.
    pub capacity: Resources,
    /// What pods (daemons included) may request. cpu in milli-units, all else in base units.
    pub allocatable: Resources,
    /// Sorted by (zone, capacity type, reservation).
    pub offerings: Vec<Offering>,
}

/// One way to buy an instance type.
#[derive(Clone, Debug)]
pub struct Offering {
    pub zone: Arc<str>,
    /// `spot`, `on-demand` or `reserved`.
    pub capacity_type: Arc<str>,
    /// Expected price of running one instance. What the bound is proven against.
    pub price: MicroDollars,
    /// False when capacity was refused lately or the offering is not for sale; it is kept so that reports
    /// can say what its absence costs.
    pub available: bool,
    /// Labels beyond zone and capacity type that come with this offering (reservation id, zone id …).
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// Set on reserved offerings: at most this many instances may still be launched into it.
    pub reservation: Option<Reservation>,
    /// Replaces [`InstanceType::allocatable`] when a node overlay changes what this offering holds.
    pub allocatable: Option<Resources>,
    /// Expected interruptions per month in thousandths; 0 for on-demand. Weighed by
    /// [`crate::policy::Policy::interruption_cost`].
    pub interruption_permille: u32,
}

/// A finite stock of instances, shared by every offering with the same id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    pub id: Arc<str>,
    pub remaining: u32,
}
