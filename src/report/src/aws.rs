//! The price catalogue that needs no network: AWS's public on-demand prices of a stated day.

use std::{collections::BTreeSet, sync::Arc};

use jiff::civil::Date;
use plimsoll_api::labels;
use plimsoll_core::{
    catalog::{Catalog, InstanceType, MicroDollars, Offering},
    requirement::{Operator, Requirement},
    resources::{CPU, MEMORY, PODS, Resources},
};

/// Written by `hack/price-catalogue`, which also documents the format.
const LIST: &str = include_str!("../data/aws.tsv");

/// Spot prices change by the minute and no public record of them can be shipped, so reports assume this share of the
/// on-demand price for every type and zone, and say so wherever a spot price is shown.
pub const SPOT_PERMILLE: i64 = 400;

const MIB: i64 = 1 << 20;
/// What AWS's hypervisor keeps of an instance's memory, in thousandths; Karpenter's VM_MEMORY_OVERHEAD_PERCENT.
const VM_OVERHEAD_PERMILLE: i64 = 75;
/// The kubelet's default hard eviction threshold for memory.
const EVICTION_MIB: i64 = 100;
/// kube-reserved of the EKS images: this much memory, and more for each pod.
const RESERVED_MIB: i64 = 255;
const RESERVED_MIB_PER_POD: i64 = 11;
/// kube-reserved of the EKS images: (cores, milli-units for each of them); the rest of the cores follow.
const RESERVED_CPU: [(i64, i64); 3] = [(1, 60), (1, 10), (2, 5)];
const RESERVED_CPU_PER_4_CORES_REST: i64 = 10;

/// Where the list comes from, in words.
pub fn source() -> &'static str {
    header("source")
}

/// The day the price list is of.
pub fn date() -> Date {
    header("date")
        .parse()
        .expect("hack/price-catalogue writes a date")
}

fn header(key: &str) -> &'static str {
    LIST.lines()
        .take_while(|line| line.starts_with('#'))
        .find_map(|line| line[1..].trim_start().strip_prefix(key)?.strip_prefix(": "))
        .unwrap_or_default()
}

/// The region of a zone's name, such as `us-east-1` of `us-east-1a`. None for anything that is not an AWS zone.
pub fn region_of(zone: &str) -> Option<&str> {
    let region = zone.strip_suffix(|c: char| c.is_ascii_lowercase())?;
    region.ends_with(|c: char| c.is_ascii_digit()).then_some(region)
}

/// Everything sold in these zones. The price of a zone that AWS's record does not name for a type is known (prices are
/// the region's), but it cannot be bought there: such an offering is not available.
pub fn catalog(zones: &BTreeSet<Arc<str>>) -> Catalog {
    let types: Vec<InstanceType> = LIST
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| read(line, zones))
        .collect();
    let percent_off = (1000 - SPOT_PERMILLE) / 10;
    Catalog {
        revision: 1,
        types,
        price_source: format!(
            "{}, list of {}; spot assumed {percent_off} % below on-demand",
            source(),
            date()
        )
        .into(),
        ..Catalog::default()
    }
}

fn read(line: &str, zones: &BTreeSet<Arc<str>>) -> Option<InstanceType> {
    let mut fields = line.split('\t');
    let mut field = || fields.next().expect("hack/price-catalogue writes six fields");
    let number = |text: &str| text.parse::<i64>().expect("hack/price-catalogue writes numbers");
    let name = field();
    let (cores, mib, pods) = (number(field()), number(field()), number(field()));
    let (arch, gpus) = (field(), number(field()));
    let sold: Vec<(&str, &str, &str)> = fields
        .map(|cell| {
            let (region, rest) = cell.split_once('=').expect("a cell is region=price:zones");
            let (price, letters) = rest.split_once(':').expect("a cell is region=price:zones");
            (region, price, letters)
        })
        .collect();
    let mut offerings = Vec::new();
    for zone in zones {
        let Some((region, price, letters)) =
            region_of(zone).and_then(|region| sold.iter().find(|s| s.0 == region))
        else {
            continue;
        };
        let on_demand =
            MicroDollars::from_dollars(price.parse().expect("hack/price-catalogue writes prices"));
        let spot = MicroDollars(on_demand.0 * SPOT_PERMILLE / 1000);
        let available = letters.contains(&zone[region.len()..]);
        for (capacity_type, price) in [
            (labels::CAPACITY_ON_DEMAND, on_demand),
            (labels::CAPACITY_SPOT, spot),
        ] {
            offerings.push(Offering {
                zone: zone.clone(),
                capacity_type: capacity_type.into(),
                price,
                available,
                labels: vec![(labels::REGION.into(), (*region).into())],
                reservation: None,
                allocatable: None,
                interruption_permille: 0,
            });
        }
    }
    if offerings.is_empty() {
        return None;
    }
    let mut capacity = Resources::from([
        (CPU.into(), cores * 1000),
        (MEMORY.into(), mib * MIB),
        (PODS.into(), pods),
    ]);
    if gpus > 0 {
        capacity.insert("nvidia.com/gpu".into(), gpus);
    }
    Some(InstanceType {
        name: name.into(),
        requirements: requirements(name, cores, mib, arch, gpus).into(),
        allocatable: allocatable(&capacity, cores, mib, pods),
        capacity,
        offerings,
    })
}

/// What pods may request of a node with the EKS images' defaults.
fn allocatable(capacity: &Resources, cores: i64, mib: i64, pods: i64) -> Resources {
    let mut rest = cores;
    let mut reserved = 0;
    for (width, milli) in RESERVED_CPU {
        reserved += rest.min(width) * milli;
        rest -= rest.min(width);
    }
    reserved += rest * RESERVED_CPU_PER_4_CORES_REST / 4;
    let memory = mib
        - (mib * VM_OVERHEAD_PERMILLE).div_euclid(1000)
        - RESERVED_MIB
        - RESERVED_MIB_PER_POD * pods
        - EVICTION_MIB;
    let mut allocatable = capacity.clone();
    allocatable.insert(CPU.into(), cores * 1000 - reserved);
    allocatable.insert(MEMORY.into(), memory.max(0) * MIB);
    allocatable
}

/// The labels Karpenter's AWS provider would give a node of the type, as far as name and shape tell.
fn requirements(name: &str, cores: i64, mib: i64, arch: &str, gpus: i64) -> Vec<Requirement> {
    let (family, size) = name.split_once('.').unwrap_or((name, ""));
    let is = |key: &str, value: &str| Requirement::new(key, Operator::In, [Arc::from(value)]);
    let mut all = vec![
        is(labels::INSTANCE_TYPE, name),
        is(labels::ARCH, arch),
        is(labels::OS, "linux"),
        is("karpenter.k8s.aws/instance-family", family),
        is("karpenter.k8s.aws/instance-size", size),
        is("karpenter.k8s.aws/instance-cpu", &cores.to_string()),
        is("karpenter.k8s.aws/instance-memory", &mib.to_string()),
    ];
    if let Some((category, generation)) = series(name) {
        all.push(is("karpenter.k8s.aws/instance-category", category));
        all.push(is(
            "karpenter.k8s.aws/instance-generation",
            &generation.to_string(),
        ));
    }
    if gpus > 0 {
        all.push(is("karpenter.k8s.aws/instance-gpu-count", &gpus.to_string()));
    }
    all.sort();
    all
}

/// Category and generation by the name: `c` and 7 of `c7g.large`.
fn series(name: &str) -> Option<(&str, u32)> {
    let digits = name.find(|c: char| c.is_ascii_digit())?;
    let rest = &name[digits..];
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some((&name[..digits], rest[..end].parse().ok()?))
}

/// Oldest generation that a report proposes to buy.
const GENERATION_MIN: u32 = 5;

/// What most clusters would buy: current general, compute and memory types, no bare metal, no local disks, no GPUs.
pub fn is_ordinary(name: &str) -> bool {
    let of_category = series(name).is_some_and(|(category, generation)| {
        matches!(category, "c" | "m" | "r") && generation >= GENERATION_MIN
    });
    let attributes = name
        .split_once('.')
        .and_then(|(family, _)| family.split_once(|c: char| c.is_ascii_digit()))
        .map_or("", |(_, rest)| {
            rest.trim_start_matches(|c: char| c.is_ascii_digit())
        });
    of_category && matches!(attributes, "" | "a" | "i" | "g") && !name.contains("metal")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zones(names: &[&str]) -> BTreeSet<Arc<str>> {
        names.iter().map(|z| Arc::from(*z)).collect()
    }

    #[test]
    fn the_list_names_its_source_and_day() {
        assert!(source().contains("on-demand list prices"));
        assert_eq!(date().to_string(), "2025-03-02");
    }

    #[test]
    fn a_type_has_the_price_of_its_region_in_every_zone_that_sells_it() {
        let catalog = catalog(&zones(&["us-east-1a", "us-east-1e", "eu-west-1b", "test-zone-a"]));
        assert!(catalog.types.is_sorted_by_key(|t| t.name.clone()));
        let m5 = catalog.types.iter().find(|t| &*t.name == "m5.large").unwrap();
        let offer = |zone: &str, capacity_type: &str| {
            let found = m5
                .offerings
                .iter()
                .find(|o| &*o.zone == zone && &*o.capacity_type == capacity_type);
            found.map(|o| (o.price.0, o.available))
        };
        assert_eq!(offer("us-east-1a", "on-demand"), Some((96_000, true)));
        assert_eq!(offer("us-east-1a", "spot"), Some((38_400, true)));
        assert_eq!(
            offer("us-east-1e", "on-demand"),
            Some((96_000, false)),
            "AWS does not sell it there"
        );
        assert_eq!(offer("eu-west-1b", "on-demand"), Some((107_000, true)));
        assert_eq!(offer("test-zone-a", "on-demand"), None);
        assert_eq!(m5.allocatable[CPU], 1930);
        // 8192 - 614 - 255 - 29 × 11 - 100 MiB
        assert_eq!(m5.allocatable[MEMORY], 6904 * MIB);
    }

    #[test]
    fn ordinary_types_are_current_and_plain() {
        let ordinary = ["m5.large", "c6i.xlarge", "r7g.2xlarge", "m6a.large", "m7i.large"];
        let special = [
            "m4.large",
            "m5d.large",
            "c5.metal",
            "t3.large",
            "p3.2xlarge",
            "c6gn.large",
            "x1.32xlarge",
        ];
        for name in ordinary {
            assert!(is_ordinary(name), "{name}");
        }
        for name in special {
            assert!(!is_ordinary(name), "{name}");
        }
    }

    #[test]
    fn zones_tell_their_region() {
        assert_eq!(region_of("us-east-1a"), Some("us-east-1"));
        assert_eq!(region_of("test-zone-a"), None);
        assert_eq!(region_of("us-west-2-lax-1a"), Some("us-west-2-lax-1"));
    }
}
