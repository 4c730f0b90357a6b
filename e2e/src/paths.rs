//! Where the testbed keeps what it builds and what it runs: outside the checkout, so that a clean clone starts warm.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// `${XDG_CACHE_HOME:-$HOME/.cache}/plimsoll`.
pub fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    Ok(base.join("plimsoll"))
}

/// The directory of all runs; one subdirectory per testbed.
pub fn runs() -> Result<PathBuf> {
    Ok(cache()?.join("run"))
}

/// Cargo's target directory: `CARGO_TARGET_DIR`, else the shared one that `hack/env` names.
pub fn cargo_target() -> Result<PathBuf> {
    match env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => Ok(PathBuf::from(dir)),
        None => Ok(cache()?.join("target")),
    }
}

/// This package in the checkout that is being worked on. Not the one it was built in: clones share built files.
fn package() -> PathBuf {
    let run_by_cargo = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let run_by_script = || env::var_os("PLIMSOLL_CHECKOUT").map(|root| PathBuf::from(root).join("e2e"));
    run_by_cargo
        .or_else(run_by_script)
        .unwrap_or_else(|| PathBuf::from("e2e"))
}

/// The directory of Plimsoll's CRDs.
pub fn crds() -> PathBuf {
    package().join("../crds")
}

/// The Helm chart.
pub fn chart() -> PathBuf {
    package().join("../charts/plimsoll")
}

/// A file of this crate, for manifests that are read at run time.
pub fn manifest(name: &str) -> PathBuf {
    package().join("manifests").join(name)
}
