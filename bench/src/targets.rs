//! What the engine is meant to reach, checked on every run.

use crate::{
    measure::Outcome,
    report::{Results, Row, spread},
};

/// Price over the bound, less one, in percent, on each problem of so many pods.
const GAP_MAX: f64 = 3.0;
const GAP_PODS: usize = 1_000;
/// The same in the median over all problems, and over the exact optimum on small ones.
const GAP_MEDIAN_MAX: f64 = 1.0;
/// Pods a second, as a multiple of the peer's.
const FASTER: [(&str, f64); 3] = [
    ("a-mixed-5000", 200.0),
    ("b-preferences-4000", 500.0),
    ("h-distinct-5000", 20.0),
];
/// Seconds to the final plan.
const SECONDS: [(&str, f64); 3] = [
    ("a-mixed-20000", 1.0),
    ("c-openb-1000-ondemand", 1.0),
    ("c-openb-1000-spot", 1.0),
];
/// Seconds to the first plan, and megabytes.
const FIRST: (&str, f64, f64) = ("e-large-100000", 1.0, 500.0);
/// Prices are compared as decimal fractions.
const SAME_PRICE: f64 = 1.0 + 1e-9;

impl Row {
    fn gap_percent(&self) -> f64 {
        (self.ours.outcome.price / self.ours.lower_bound - 1.0) * 100.0
    }

    fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let ours = &self.ours;
        if !ours.outcome.violations.is_empty() || !ours.defects.is_empty() {
            missed.push("the plan is not sound".to_owned());
        }
        if ours.certificate != "reproduced" {
            missed.push("the bound was not reproduced".to_owned());
        }
        if !ours.repeatable {
            missed.push("plans differ between runs".to_owned());
        }
        if ours.outcome.pods >= GAP_PODS && self.gap_percent() > GAP_MAX {
            missed.push(format!(
                "{:.2} % above the bound, not {GAP_MAX} %",
                self.gap_percent()
            ));
        }
        let seconds = spread(&ours.seconds)[1];
        for (_, most) in SECONDS.iter().filter(|(name, _)| *name == self.name) {
            if seconds > *most {
                missed.push(format!("{seconds:.3} s, not {most} s"));
            }
        }
        if self.name == FIRST.0 {
            let (first, megabytes) = (spread(&ours.first_seconds)[1], ours.peak_bytes as f64 / 1e6);
            if first > FIRST.1 {
                missed.push(format!("first plan after {first:.3} s, not {} s", FIRST.1));
            }
            if megabytes > FIRST.2 {
                missed.push(format!("{megabytes:.0} MB, not {} MB", FIRST.2));
            }
        }
        let Some(peer) = &self.peer else { return missed };
        for (_, least) in FASTER.iter().filter(|(name, _)| *name == self.name) {
            let faster = ours.outcome.placed as f64
                / seconds
                / (peer.outcome.placed as f64 / spread(&peer.solve_seconds)[1]);
            if faster < *least {
                missed.push(format!(
                    "{faster:.0} times as fast as the peer, not {least} times"
                ));
            }
        }
        // A plan that breaks rules is nothing to compare with.
        if peer.outcome.violations.is_empty() {
            missed.extend(worse(&ours.outcome, &peer.outcome));
        }
        missed
    }
}

/// By pods placed first, then preferences kept, then price.
fn worse(ours: &Outcome, peer: &Outcome) -> Option<String> {
    if ours.placed != peer.placed {
        return (ours.placed < peer.placed).then(|| "fewer pods placed than by the peer".to_owned());
    }
    if ours.preferences_kept != peer.preferences_kept {
        let fewer = ours.preferences_kept < peer.preferences_kept;
        return fewer.then(|| "fewer preferences kept than by the peer".to_owned());
    }
    (ours.price > peer.price * SAME_PRICE).then(|| "dearer than the peer's plan".to_owned())
}

impl Results {
    /// What was meant to be reached and was not, in words.
    pub fn missed(&self) -> Vec<String> {
        let mut missed: Vec<String> = Vec::new();
        for row in &self.rows {
            missed.extend(
                row.missed()
                    .into_iter()
                    .map(|what| format!("{}: {what}", row.name)),
            );
        }
        let gaps: Vec<f64> = self.rows.iter().map(Row::gap_percent).collect();
        let median = spread(&gaps)[1];
        if median > GAP_MEDIAN_MAX {
            missed.push(format!(
                "the median gap to the bound is {median:.2} %, not {GAP_MEDIAN_MAX} %"
            ));
        }
        if let Some(small) = &self.small {
            let counts = [
                ("plans with violations", small.violations),
                ("bounds above the optimum", small.bound_above_optimum),
                ("plans that place fewer pods than the optimum", small.fewer_placed),
                ("plans dearer than the peer's", small.dearer_than_peer),
            ];
            for (what, n) in counts.into_iter().filter(|(_, n)| *n > 0) {
                missed.push(format!("small problems: {n} {what}"));
            }
            if small.above_optimum[0] > GAP_MEDIAN_MAX {
                missed.push(format!(
                    "small problems: {:.2} % above the optimum in the median",
                    small.above_optimum[0]
                ));
            }
        }
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{measure::Ours, report::Peer};

    fn row(price: f64, peer_price: f64) -> Row {
        let outcome = |price: f64| Outcome {
            pods: 1_000,
            placed: 1_000,
            price,
            ..Outcome::default()
        };
        Row {
            name: "x".to_owned(),
            about: String::new(),
            ours: Ours {
                outcome: outcome(price),
                lower_bound: 100.0,
                seconds: vec![1.0],
                certificate: "reproduced".to_owned(),
                repeatable: true,
                ..Ours::default()
            },
            peer: Some(Peer {
                outcome: outcome(peer_price),
                setup_seconds: Vec::new(),
                solve_seconds: vec![1.0],
                timed_out: false,
                peak_bytes: 0,
            }),
        }
    }

    #[test]
    fn a_good_row_misses_nothing() {
        assert_eq!(row(100.5, 101.0).missed(), Vec::<String>::new());
    }

    #[test]
    fn a_dear_row_is_named() {
        let missed = row(104.0, 101.0).missed();
        assert_eq!(
            missed,
            ["4.00 % above the bound, not 3 %", "dearer than the peer's plan"]
        );
    }

    #[test]
    fn pods_come_before_prices() {
        let mut row = row(101.0, 100.0);
        row.peer.as_mut().expect("there is one").outcome.placed = 900;
        assert_eq!(row.missed(), Vec::<String>::new());
        row.ours.outcome.placed = 800;
        assert_eq!(row.missed(), ["fewer pods placed than by the peer"]);
    }
}
