//! How long something took, several times: what is told of it.

use anyhow::{Result, bail};
use serde::Serialize;

/// In milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latencies {
    pub median_ms: f64,
    pub min_ms: f64,
    pub max_ms: f64,
    /// In the order of the runs.
    pub runs_ms: Vec<f64>,
}

impl Latencies {
    /// An error if there was no run.
    pub fn of(runs_ms: Vec<f64>) -> Result<Self> {
        let mut sorted = runs_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else {
            bail!("nothing was measured")
        };
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Ok(Self {
            median_ms: median,
            min_ms: *min,
            max_ms: *max,
            runs_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_two() {
        let latencies = Latencies::of(vec![4.0, 1.0, 3.0, 10.0]).unwrap();
        assert_eq!(
            (latencies.median_ms, latencies.min_ms, latencies.max_ms),
            (3.5, 1.0, 10.0)
        );
        let odd = Latencies {
            median_ms: 3.0,
            min_ms: 1.0,
            max_ms: 4.0,
            runs_ms: vec![4.0, 1.0, 3.0],
        };
        assert_eq!(Latencies::of(vec![4.0, 1.0, 3.0]).unwrap(), odd);
        assert!(Latencies::of(Vec::new()).is_err());
    }
}
