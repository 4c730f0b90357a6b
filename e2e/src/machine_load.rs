//! How busy the machine is: a figure measured beside a compiler means less than one measured alone.

use anyhow::{Context, Result};

/// Processes that ran or wanted to, on average over the last minute.
pub fn one_minute() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
    let first = text.split_whitespace().next().context("/proc/loadavg is empty")?;
    Ok(first.parse()?)
}
