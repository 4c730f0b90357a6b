//! Prices tried on a catalogue.

use std::collections::BTreeSet;

use plimsoll_core::catalog::{Catalog, InstanceType, MicroDollars, Offering};
use serde_json::json;

use super::{PriceChange, WhatIf, WhatIfError};

/// Names proposed where none matches.
const PROPOSED_MAX: usize = 4;

impl PriceChange {
    fn is_of_type(&self, name: &str) -> bool {
        self.instance_type.as_deref().is_none_or(|wanted| {
            wanted
                .strip_suffix('*')
                .map_or(name == wanted, |prefix| name.starts_with(prefix))
        })
    }

    fn is_of_zone(&self, offering: &Offering) -> bool {
        self.zone.as_deref().is_none_or(|zone| zone == &*offering.zone)
    }

    fn is_of_capacity_type(&self, offering: &Offering) -> bool {
        let wanted = self.capacity_type.as_deref();
        wanted.is_none_or(|wanted| wanted == &*offering.capacity_type)
    }

    fn price(&self, old: MicroDollars) -> MicroDollars {
        match (self.factor, self.dollars_per_hour) {
            (Some(factor), _) => MicroDollars((old.0 as f64 * factor).round() as i64),
            (None, dollars) => MicroDollars::from_dollars(dollars.unwrap_or_default()),
        }
    }

    /// Names the first field by which nothing is left to match.
    fn nothing(&self, number: usize, types: &[InstanceType]) -> WhatIfError {
        let of_type = || {
            types
                .iter()
                .filter(|t| self.is_of_type(&t.name))
                .flat_map(|t| &t.offerings)
        };
        let (field, found, known): (_, _, BTreeSet<&str>) = if of_type().next().is_none() {
            let names = types.iter().map(|t| &*t.name).collect();
            ("instanceType", &self.instance_type, names)
        } else if !of_type().any(|o| self.is_of_zone(o)) {
            ("zone", &self.zone, of_type().map(|o| &*o.zone).collect())
        } else {
            let there = of_type().filter(|o| self.is_of_zone(o));
            let sold = there.map(|o| &*o.capacity_type).collect();
            ("capacityType", &self.capacity_type, sold)
        };
        WhatIfError::Field {
            object: "Prices".into(),
            field: format!("prices[{number}].{field}"),
            found: json!(found).to_string(),
            fix: format!(
                "nothing of it is sold to this cluster; write what is, such as {}",
                proposed(found.as_deref().unwrap_or_default(), known).join(", ")
            ),
        }
    }
}

/// Those that are most alike, by how much of their beginning is the same.
fn proposed<'a>(wanted: &str, known: BTreeSet<&'a str>) -> Vec<&'a str> {
    let shared = |name: &str| {
        wanted
            .bytes()
            .zip(name.bytes())
            .take_while(|(a, b)| a == b)
            .count()
    };
    let mut known: Vec<&str> = known.into_iter().collect();
    // Stable, so that equals keep their order.
    known.sort_by_key(|name| std::cmp::Reverse(shared(name)));
    known.truncate(PROPOSED_MAX);
    known
}

impl WhatIf {
    /// Changes the prices. A change that nothing matches is refused: its difference would be nothing, and that would be
    /// taken for an answer.
    pub fn reprice(&self, catalog: &mut Catalog) -> Result<(), WhatIfError> {
        for (number, change) in self.prices.iter().enumerate() {
            let of_type = catalog.types.iter_mut().filter(|t| change.is_of_type(&t.name));
            let mut changed = false;
            for offering in of_type.flat_map(|t| &mut t.offerings) {
                if change.is_of_zone(offering) && change.is_of_capacity_type(offering) {
                    offering.price = change.price(offering.price);
                    changed = true;
                }
            }
            if !changed {
                return Err(change.nothing(number, &catalog.types));
            }
        }
        if !self.prices.is_empty() {
            catalog.price_source = format!("{}, changed by the what-if file", catalog.price_source).into();
        }
        Ok(())
    }
}
