//! Cases of Plan.

use serde_json::{Value, json};

use super::{Case, spec, update};

pub(super) fn base() -> Value {
    let money = json!({"perHour": "1.0000", "perMonth": "730.00"});
    json!({
        "apiVersion": "plimsoll.dev/v1alpha1",
        "kind": "Plan",
        "metadata": {"name": "plan"},
        "spec": {
            "digest": "00",
            "madeAt": "2026-01-01T00:00:00Z",
            "goodUntil": "2026-01-01T01:00:00Z",
            "prices": "a list",
            "settings": {"preferencePolicy": "Respect", "minValuesPolicy": "Strict", "steps": 1},
            "before": money,
            "after": money,
            "saves": money,
            "machinesBought": 0,
            "machinesRemoved": 0,
            "pods": 0,
            "commands": "true",
        },
    })
}

pub(super) fn cases() -> Vec<Case> {
    vec![update(
        "what was planned stays",
        json!({}),
        spec("commands", json!("false")),
        "spec is immutable",
    )]
}
