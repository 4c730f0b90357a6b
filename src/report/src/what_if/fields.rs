//! Fields of what-if documents. What would otherwise be guessed, or taken for nothing, is refused by name.

use plimsoll_api::labels;
use plimsoll_core::resources::parse_quantity;
use serde_json::{Map, Value};

use super::{ANNOTATION, PriceChange, REPLICAS_MAX, WhatIfError, text};

/// No price and no factor is larger; sums of all machines stay far from where integers end.
const PRICE_MAX: f64 = 1e6;
/// Fields whose values are amounts of resources.
const AMOUNTS: [&str; 5] = ["requests", "limits", "overhead", "allocatable", "capacity"];
const CAPACITY_TYPES: [&str; 3] = [
    labels::CAPACITY_ON_DEMAND,
    labels::CAPACITY_SPOT,
    labels::CAPACITY_RESERVED,
];

/// `Pod shop/web-0`, as far as a document says.
pub(super) fn title(object: &Value) -> String {
    let metadata = &object["metadata"];
    let parts = [&metadata["namespace"], &metadata["name"]];
    let name: Vec<&str> = parts.into_iter().filter_map(Value::as_str).collect();
    format!("{} {}", text(object, "kind"), name.join("/"))
        .trim()
        .to_owned()
}

pub(super) fn wrong(object: &Value, field: &str, found: &Value, fix: impl Into<String>) -> WhatIfError {
    WhatIfError::Field {
        object: title(object),
        field: field.to_owned(),
        found: if found.is_null() {
            "missing".to_owned()
        } else {
            found.to_string()
        },
        fix: fix.into(),
    }
}

/// Whether the document says that its object is to be taken away.
pub(super) fn is_deleted(object: &Value) -> bool {
    object["metadata"]["annotations"][ANNOTATION] == "delete"
}

/// What every document but prices must say.
pub(super) fn check(object: &Value) -> Result<(), WhatIfError> {
    let metadata = &object["metadata"];
    for (field, found) in [
        ("kind", &object["kind"]),
        ("apiVersion", &object["apiVersion"]),
        ("metadata.name", &metadata["name"]),
    ] {
        if found.as_str().is_none_or(str::is_empty) {
            return Err(wrong(object, field, found, "write it as kubectl would want it"));
        }
    }
    let asked = &metadata["annotations"][ANNOTATION];
    if !asked.is_null() && !is_deleted(object) {
        let fix = "its one value is `delete`; without the annotation the object is applied";
        return Err(wrong(object, &format!("annotation {ANNOTATION}"), asked, fix));
    }
    amounts(object, object, "")
}

/// Every amount of resources is one, wherever it stands.
fn amounts(object: &Value, at: &Value, path: &str) -> Result<(), WhatIfError> {
    let inside = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        }
    };
    match at {
        Value::Object(fields) => {
            for (key, value) in fields {
                if let Value::Object(map) = value
                    && AMOUNTS.contains(&key.as_str())
                {
                    amounts_of(object, map, &inside(key))?;
                } else {
                    amounts(object, value, &inside(key))?;
                }
            }
        }
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                amounts(object, item, &format!("{path}[{number}]"))?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn amounts_of(object: &Value, map: &Map<String, Value>, path: &str) -> Result<(), WhatIfError> {
    for (resource, value) in map {
        let field = format!("{path}.{resource}");
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => {
                return Err(wrong(
                    object,
                    &field,
                    value,
                    "write an amount such as 500m, 2 or 1.5Gi",
                ));
            }
        };
        let quantity = parse_quantity(&text).map_err(|source| WhatIfError::Quantity {
            object: title(object),
            field: field.clone(),
            source,
        })?;
        if quantity.nanos() < 0 {
            return Err(wrong(
                object,
                &field,
                value,
                "write an amount that is not negative",
            ));
        }
    }
    Ok(())
}

/// How many pods a workload is to have.
pub(super) fn replicas(object: &Value, field: &str) -> Result<u64, WhatIfError> {
    let found = &object["spec"][field];
    let name = format!("spec.{field}");
    if found.is_null() {
        let spec = object["spec"].as_object();
        let fields: Vec<&str> = spec.into_iter().flatten().map(|(key, _)| key.as_str()).collect();
        let fix = format!(
            "write how many pods it is to have (its spec has {})",
            if fields.is_empty() {
                "nothing".to_owned()
            } else {
                fields.join(", ")
            }
        );
        return Err(wrong(object, &name, found, fix));
    }
    let fix = format!("write a whole number from 0 to {REPLICAS_MAX}");
    let replicas = found
        .as_u64()
        .ok_or_else(|| wrong(object, &name, found, fix.as_str()))?;
    if replicas > REPLICAS_MAX {
        return Err(wrong(object, &name, found, fix));
    }
    let containers = &object["spec"]["template"]["spec"]["containers"];
    if replicas > 0 && containers.as_array().is_none_or(Vec::is_empty) {
        let fix = "write what each pod requests, as in the workload's own manifest";
        return Err(wrong(object, "spec.template.spec.containers", containers, fix));
    }
    Ok(replicas)
}

/// Prices that can be prices, of offerings that can be meant.
pub(super) fn prices(object: &Value) -> Result<Vec<PriceChange>, WhatIfError> {
    let found = &object["prices"];
    if !found.is_array() {
        let fix = "write a list, such as `prices: [{instanceType: m5.large, factor: 1.5}]`";
        return Err(wrong(object, "prices", found, fix));
    }
    let changes: Vec<PriceChange> =
        serde_json::from_value(found.clone()).map_err(|source| WhatIfError::Object {
            object: title(object),
            source,
        })?;
    for (number, change) in changes.iter().enumerate() {
        let field = |name: &str| format!("prices[{number}].{name}");
        let of = |name: &str| &found[number][name];
        if change.factor.is_some() == change.dollars_per_hour.is_some() {
            return Err(WhatIfError::Price(number));
        }
        for (name, amount) in [
            ("factor", change.factor),
            ("dollarsPerHour", change.dollars_per_hour),
        ] {
            if amount.is_some_and(|amount| !(0.0..=PRICE_MAX).contains(&amount)) {
                let fix = format!("write a number from 0 to {PRICE_MAX}");
                return Err(wrong(object, &field(name), of(name), fix));
            }
        }
        let name = change.instance_type.as_deref().unwrap_or_default();
        if name.strip_suffix('*').unwrap_or(name).contains('*') {
            let fix = "a `*` stands at the end only, for the rest of the name";
            return Err(wrong(object, &field("instanceType"), of("instanceType"), fix));
        }
        let capacity_type = change.capacity_type.as_deref();
        if capacity_type.is_some_and(|found| !CAPACITY_TYPES.contains(&found)) {
            let fix = format!("write one of {}", CAPACITY_TYPES.join(", "));
            return Err(wrong(object, &field("capacityType"), of("capacityType"), fix));
        }
    }
    Ok(changes)
}
