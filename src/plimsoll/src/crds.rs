//! `plimsoll crds`.

use std::io::Write;

pub(crate) fn run() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for crd in plimsoll_api::crds() {
        writeln!(out, "---\n{}", plimsoll_api::crd_yaml(&crd)?.trim_end())?;
    }
    Ok(())
}
