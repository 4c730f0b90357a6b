//! Where a command that only looks gets its cluster from: a file, standard input, or the API server.

use std::{fs::File, path::Path};

use anyhow::Context;
use jiff::Timestamp;
use kube::Client;
use plimsoll_api::nodepool::NodePool;
use plimsoll_core::catalog::Catalog;
use plimsoll_report::{
    Prices,
    dump::{self, Dump},
};
use plimsoll_state::Index;

use crate::{
    args::{PriceList, Source},
    controller::runtime,
    kubeconfig::kubeconfig,
    live,
};

/// Unreadable objects named one by one; the rest is counted.
const COMPLAINTS_MAX: usize = 5;

/// Said when no cluster is found either.
pub(crate) const NO_FILE: &str = "no file is given by --from, so the cluster of KUBECONFIG is read";

pub(crate) struct Read {
    pub(crate) index: Index,
    pub(crate) taken: Timestamp,
    pub(crate) prices: Prices,
    /// What the result is less exact for.
    pub(crate) caveats: Vec<String>,
}

/// Reads the cluster and the prices that fit it.
pub(crate) fn read(source: &Source) -> anyhow::Result<Read> {
    let (dump, mut caveats) = match &source.from {
        Some(path) => {
            let dump = from_file(path)?;
            let absent = dump.absent();
            (dump, absent)
        }
        None => runtime()?.block_on(async {
            let config = kubeconfig(source.context.as_deref()).await.context(NO_FILE)?;
            let address = config.cluster_url.to_string();
            let read = live::dump(&Client::try_from(config)?).await;
            read.with_context(|| {
                format!("the cluster at {address} (whether it answers: `kubectl cluster-info`)")
            })
        })?,
    };
    caveats.extend(
        dump.unreadable
            .iter()
            .take(COMPLAINTS_MAX)
            .map(|why| format!("left out: {why}")),
    );
    if dump.unreadable.len() > COMPLAINTS_MAX {
        caveats.push(format!(
            "left out: {} more objects that cannot be read",
            dump.unreadable.len() - COMPLAINTS_MAX
        ));
    }
    let prices = prices(source.prices, &dump.index);
    Ok(Read {
        taken: dump.taken.unwrap_or_else(Timestamp::now),
        index: dump.index,
        prices,
        caveats,
    })
}

fn from_file(path: &Path) -> anyhow::Result<Dump> {
    if path == Path::new("-") {
        return dump::read(std::io::stdin().lock()).context("standard input");
    }
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    dump::read(file).with_context(|| path.display().to_string())
}

/// The price list that was asked for; else that of the cluster's NodePools, else AWS's.
pub(crate) fn prices(asked_for: Option<PriceList>, index: &Index) -> Prices {
    match asked_for {
        Some(PriceList::Kwok) => Prices::Catalog(kwok(index)),
        None if index.node_pools().any(|pool| is_kwok(pool)) => Prices::Catalog(kwok(index)),
        Some(PriceList::Aws) | None => Prices::Aws,
    }
}

/// Whether a NodePool buys kwok's made-up machines.
pub(crate) fn is_kwok(pool: &NodePool) -> bool {
    pool.spec.template.spec.node_class_ref.group == "karpenter.kwok.sh"
}

/// The kwok provider's fixed list, open to every pool.
fn kwok(index: &Index) -> Catalog {
    let mut catalog = plimsoll_kwok::catalogue();
    let all: Vec<_> = (0..catalog.types.len() as u32)
        .map(plimsoll_core::catalog::TypeId)
        .collect();
    for pool in index.node_pools() {
        if let Some(name) = &pool.metadata.name {
            catalog.by_pool.insert(name.as_str().into(), all.clone());
        }
    }
    catalog
}
