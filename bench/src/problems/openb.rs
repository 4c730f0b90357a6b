//! The OpenB trace: pods of a production GPU cluster, published by Alibaba in 2023.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::catalogue::{self, Purchase};

/// Every row of the trace; a share of a GPU counts as a whole one, since nothing here divides them.
pub(super) fn all(folder: &Path) -> Result<Value> {
    let path = folder.join("openb_pod_list_default.csv");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut rows = text.lines();
    let header = rows.next().unwrap_or_default();
    if !header.starts_with("name,cpu_milli,memory_mib,num_gpu,") {
        bail!(
            "{}: the columns are not those of the OpenB trace: {header}",
            path.display()
        );
    }
    let mut counts: BTreeMap<[u64; 3], u64> = BTreeMap::new();
    for (i, row) in rows.enumerate() {
        let mut fields = row.split(',').skip(1);
        let mut number = || -> Result<u64> {
            let field = fields.next().unwrap_or_default();
            field
                .parse()
                .with_context(|| format!("{} line {}: {field:?}", path.display(), i + 2))
        };
        *counts.entry([number()?, number()?, number()?]).or_default() += 1;
    }
    let pods: Vec<Value> = counts
        .into_iter()
        .enumerate()
        .map(|(i, ([cpu, mem, gpus], count))| {
            let mut pod = json!({ "name": format!("shape-{i:04}"), "count": count, "cpu": cpu, "mem": mem });
            if gpus > 0 {
                pod["resources"] = json!({ "nvidia.com/gpu": gpus });
            }
            pod
        })
        .collect();
    Ok(json!({
        "source": catalogue::source(),
        "types": catalogue::types(Purchase::OnDemand, super::catalogue::Type::is_amd64),
        "pods": pods,
    }))
}
