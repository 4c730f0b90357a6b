//! The fixed catalogue of upstream's kwok provider: 144 types, four zones, spot and on-demand.

use std::sync::Arc;

use plimsoll_api::labels;
use plimsoll_core::{
    catalog::{Catalog, InstanceType, MicroDollars, Offering},
    requirement::{Operator, Requirement},
    resources::{CPU, EPHEMERAL_STORAGE, MEMORY, PODS, Resources},
};

const GIB: i64 = 1 << 30;
const MIB: i64 = 1 << 20;
/// (family, GiB of memory per core)
const FAMILIES: [(&str, i64); 3] = [("c", 2), ("s", 4), ("m", 8)];
const CORES: [i64; 12] = [1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256];
const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];
const SYSTEMS: [&str; 2] = ["linux", "windows"];
const ZONES: [&str; 4] = ["test-zone-a", "test-zone-b", "test-zone-c", "test-zone-d"];
const DISK: i64 = 20 * GIB;
const OVERHEAD_CPU_MILLI: i64 = 100;
const OVERHEAD_MEMORY: i64 = 10 * MIB;

/// All types, sorted by name.
pub fn catalogue() -> Catalog {
    let mut types = Vec::with_capacity(144);
    for (family, gib_per_core) in FAMILIES {
        for cores in CORES {
            for architecture in ARCHITECTURES {
                for system in SYSTEMS {
                    types.push(instance_type(family, gib_per_core, cores, architecture, system));
                }
            }
        }
    }
    types.sort_by(|a, b| a.name.cmp(&b.name));
    let price_source = "kwok: fixed test prices, 0.025 $/vCPU + 0.001 $/GB, spot at 70 %";
    Catalog {
        revision: 1,
        types,
        price_source: price_source.into(),
        ..Catalog::default()
    }
}

fn instance_type(
    family: &str,
    gib_per_core: i64,
    cores: i64,
    architecture: &str,
    system: &str,
) -> InstanceType {
    let name: Arc<str> = format!("{family}-{cores}x-{architecture}-{system}").into();
    let memory = cores * gib_per_core * GIB;
    let capacity = Resources::from([
        (CPU.into(), cores * 1000),
        (MEMORY.into(), memory),
        (PODS.into(), (cores * 16).min(1024)),
        (EPHEMERAL_STORAGE.into(), DISK),
    ]);
    let mut allocatable = capacity.clone();
    allocatable.insert(CPU.into(), cores * 1000 - OVERHEAD_CPU_MILLI);
    allocatable.insert(MEMORY.into(), memory - OVERHEAD_MEMORY);
    let is = |key: &str, value: &str| Requirement::new(key, Operator::In, [Arc::from(value)]);
    let requirements = vec![
        is(labels::INSTANCE_TYPE, &name),
        is(labels::ARCH, architecture),
        is(labels::OS, system),
        is(labels::KWOK_INSTANCE_FAMILY, family),
        is(labels::KWOK_INSTANCE_SIZE, &format!("{cores}x")),
        is(labels::KWOK_INSTANCE_CPU, &cores.to_string()),
        is(
            labels::KWOK_INSTANCE_MEMORY,
            &format!("{}Gi", cores * gib_per_core),
        ),
    ];
    let on_demand = 0.025 * cores as f64 + 0.001 * memory as f64 / 1e9;
    let offerings = ZONES
        .iter()
        .flat_map(|zone| {
            [(labels::CAPACITY_ON_DEMAND, 1.0), (labels::CAPACITY_SPOT, 0.7)].map(|(capacity_type, share)| {
                Offering {
                    zone: (*zone).into(),
                    capacity_type: capacity_type.into(),
                    price: MicroDollars::from_dollars(on_demand * share),
                    available: true,
                    labels: Vec::new(),
                    reservation: None,
                    allocatable: None,
                    interruption_permille: 0,
                }
            })
        })
        .collect();
    InstanceType {
        name,
        requirements: requirements.into(),
        capacity,
        allocatable,
        offerings,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_published_rules() {
        let catalog = catalogue();
        assert_eq!(catalog.types.len(), 144);
        let of = |name: &str| catalog.types.iter().find(|t| &*t.name == name).unwrap();

        let small = of("c-1x-amd64-linux");
        assert_eq!(small.capacity[PODS], 16);
        assert_eq!(small.allocatable[CPU], 900);
        assert_eq!(small.allocatable[MEMORY], 2 * GIB - 10 * MIB);

        let large = of("m-256x-arm64-windows");
        assert_eq!(large.capacity[PODS], 1024, "pods are capped");
        assert_eq!(large.offerings.len(), 8);
        let price = |capacity_type: &str| {
            large
                .offerings
                .iter()
                .find(|o| &*o.capacity_type == capacity_type)
                .unwrap()
                .price
        };
        // 256 × 0.025 + 2,199.023255552 GB × 0.001
        assert_eq!(price("on-demand"), MicroDollars(8_599_023));
        assert_eq!(price("spot"), MicroDollars(6_019_316));
    }
}
