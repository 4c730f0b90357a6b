//! The table.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::measure::{Ours, Outcome};

/// One problem, both sides.
#[derive(Debug, Deserialize, Serialize)]
pub struct Row {
    pub name: String,
    pub about: String,
    pub ours: Ours,
    pub peer: Option<Peer>,
}

#[derive(Debug, Deserialize, Serialize)]
pub struct Peer {
    pub outcome: Outcome,
    pub setup_seconds: Vec<f64>,
    pub solve_seconds: Vec<f64>,
    pub timed_out: bool,
    pub peak_bytes: u64,
}

/// Small problems against the exact optimum.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Small {
    pub problems: usize,
    /// Ours over the optimum, less one, in percent: median, 90th percentile, worst.
    pub above_optimum: [f64; 3],
    pub at_optimum: usize,
    pub violations: usize,
    pub bound_above_optimum: usize,
    pub fewer_placed: usize,
    pub compared_with_peer: usize,
    pub dearer_than_peer: usize,
    /// The seeds of those.
    pub dearer_seeds: Vec<u64>,
    /// The peer over the optimum, as above.
    pub peer_above_optimum: [f64; 3],
}

/// How time grows: (size, seconds) and the slope of the logarithms.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Growth {
    pub what: String,
    pub points: Vec<(f64, f64)>,
    pub exponent: f64,
}

#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Results {
    pub command: String,
    pub versions: Vec<String>,
    pub machine: String,
    /// Load average of the last minute, before and after.
    pub load: [f64; 2],
    pub rows: Vec<Row>,
    pub small: Option<Small>,
    pub growth: Vec<Growth>,
}

/// (least, median, greatest).
pub fn spread(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.as_slice() {
        [] => [f64::NAN; 3],
        [first, .., last] => [*first, sorted[sorted.len() / 2], *last],
        [only] => [*only; 3],
    }
}

/// Least squares on the logarithms.
pub fn exponent(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let (mx, my) = (
        logs.iter().map(|l| l.0).sum::<f64>() / n,
        logs.iter().map(|l| l.1).sum::<f64>() / n,
    );
    let above: f64 = logs.iter().map(|(x, y)| (x - mx) * (y - my)).sum();
    above / logs.iter().map(|(x, _)| (x - mx).powi(2)).sum::<f64>()
}

fn seconds(values: &[f64]) -> String {
    let digits = |s: f64| {
        if s < 0.01 {
            format!("{s:.4}")
        } else {
            format!("{s:.3}")
        }
    };
    let [least, median, greatest] = spread(values);
    if values.len() == 1 {
        digits(median)
    } else {
        format!("{} / {} / {}", digits(least), digits(median), digits(greatest))
    }
}

fn rate(pods: usize, values: &[f64]) -> String {
    let per_second = pods as f64 / spread(values)[1];
    if per_second < 1_000.0 {
        format!("{per_second:.0}")
    } else {
        format!("{:.0} k", per_second / 1_000.0)
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / 1e6)
}

fn judged(outcome: &Outcome) -> String {
    if outcome.violations.is_empty() {
        return "sound".to_owned();
    }
    outcome
        .violations
        .iter()
        .map(|(rule, n)| format!("{rule} ×{n}"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn gap(price: f64, bound: f64) -> String {
    if bound > 0.0 {
        format!("{:.2} %", (price / bound - 1.0) * 100.0)
    } else {
        "–".to_owned()
    }
}

impl Row {
    /// How the two compare: pods a second, and the price when both placed the same.
    fn comparison(&self) -> (String, String) {
        let Some(peer) = &self.peer else {
            return ("–".into(), "–".into());
        };
        let theirs = peer.outcome.placed as f64 / spread(&peer.solve_seconds)[1];
        let times = |seconds: &[f64]| self.ours.outcome.placed as f64 / spread(seconds)[1] / theirs;
        let (first, last) = (times(&self.ours.first_seconds), times(&self.ours.seconds));
        let faster = format!("{first:.0} ×, {last:.0} ×");
        let same = peer.outcome.placed == self.ours.outcome.placed;
        let price = if same && self.ours.outcome.price > 0.0 {
            format!(
                "{:+.2} %",
                (self.ours.outcome.price / peer.outcome.price - 1.0) * 100.0
            )
        } else {
            format!(
                "{:+} pods",
                self.ours.outcome.placed as i64 - peer.outcome.placed as i64
            )
        };
        (faster, price)
    }
}

impl Results {
    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut out = String::from("# Bench of the packing engine\n\n");
        let _ = writeln!(
            out,
            "Made by `{}` in one run on {}.\n",
            self.command, self.machine
        );
        for version in &self.versions {
            let _ = writeln!(out, "* {version}");
        }
        let _ = writeln!(
            out,
            "* {:.1} programs wanted a core when the run began and {:.1} when it ended; each of the two sides takes one: \
             with more than that the times are those of a busy machine.",
            self.load[0], self.load[1]
        );
        out += "\nBoth sides read the same problem files and both results pass through `plimsoll_core::verify`. Our clock \
                starts at plain pods, before they are grouped; the peer's is that of its `Solve` alone, without the time \
                it needs to build topology and scheduler, and its pass stops after one minute. The peer's machines are \
                priced at the cheapest offering each claim allows. Seconds are least / median / greatest of the runs. \
                The gap is to our proven bound, whose certificate an integer checker of its own reproduced.\n\n";
        out += "## Side by side\n\n| problem | pods/s (first plan, final plan) | price against the peer's | pods placed (ours, peer) | preferences kept | nodes |\n|---|---|---|---|---|---|\n";
        for row in &self.rows {
            let (faster, price) = row.comparison();
            let theirs =
                |f: &dyn Fn(&Outcome) -> String| row.peer.as_ref().map_or("–".to_owned(), |p| f(&p.outcome));
            let ours = &row.ours.outcome;
            let _ = writeln!(
                out,
                "| {} | {faster} | {price} | {}, {} of {} | {}, {} of {} | {}, {} |",
                row.name,
                ours.placed,
                theirs(&|o| o.placed.to_string()),
                ours.pods,
                ours.preferences_kept,
                theirs(&|o| o.preferences_kept.to_string()),
                ours.preferences_total,
                ours.nodes,
                theirs(&|o| o.nodes.to_string()),
            );
        }
        out += "\n## Ours\n\n| problem | classes | first plan s | final plan s | pods/s | $/h first | $/h | bound $/h | gap | MB | judged | certificate |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n";
        for Row { name, ours, .. } in &self.rows {
            let mut verdict = judged(&ours.outcome);
            if !ours.repeatable {
                verdict += ", differs between runs";
            }
            for defect in &ours.defects {
                let _ = write!(verdict, ", {defect}");
            }
            let _ = writeln!(
                out,
                "| {name} | {} | {} | {} | {} | {:.2} | {:.2} | {:.2} | {} | {} | {verdict} | {} |",
                ours.classes,
                seconds(&ours.first_seconds),
                seconds(&ours.seconds),
                rate(ours.outcome.placed, &ours.seconds),
                ours.first_price,
                ours.outcome.price,
                ours.lower_bound,
                gap(ours.outcome.price, ours.lower_bound),
                megabytes(ours.peak_bytes),
                ours.certificate,
            );
        }
        out += "\n## Peer\n\n| problem | setup s | solve s | pods/s | $/h | above our bound | MB | judged |\n|---|---|---|---|---|---|---|---|\n";
        for Row { name, ours, peer, .. } in &self.rows {
            let Some(peer) = peer else { continue };
            // A bound for all pods says nothing about a plan for some of them.
            let same = peer.outcome.placed == ours.outcome.placed;
            let above = if same {
                gap(peer.outcome.price, ours.lower_bound)
            } else {
                "–".to_owned()
            };
            let _ = writeln!(
                out,
                "| {name} | {} | {}{} | {} | {:.2} | {above} | {} | {} |",
                seconds(&peer.setup_seconds),
                seconds(&peer.solve_seconds),
                if peer.timed_out { " (stopped)" } else { "" },
                rate(peer.outcome.placed, &peer.solve_seconds),
                peer.outcome.price,
                megabytes(peer.peak_bytes),
                judged(&peer.outcome),
            );
        }
        self.rest(&mut out);
        out
    }

    fn rest(&self, out: &mut String) {
        if let Some(small) = &self.small {
            *out += "\n## Small problems against the exact optimum (g)\n\n";
            let percents =
                |[median, ninth, worst]: [f64; 3]| format!("{median:.2} % / {ninth:.2} % / {worst:.2} %");
            let _ = writeln!(
                out,
                "{} problems of up to 9 pods, solved exactly: {} of our plans cost the optimum; above it median / 90th \
                 percentile / worst: {}. Plans with violations: {}. Bounds above the optimum: {}. Plans that place fewer \
                 pods than the optimum: {}. Of {} problems that the peer can take, ours is dearer on {}; the peer is above \
                 the optimum by {}.",
                small.problems,
                small.at_optimum,
                percents(small.above_optimum),
                small.violations,
                small.bound_above_optimum,
                small.fewer_placed,
                small.compared_with_peer,
                small.dearer_than_peer,
                percents(small.peer_above_optimum),
            );
        }
        if !self.growth.is_empty() {
            *out += "\n## Growth of our time\n\n| of | points (size: seconds) | exponent |\n|---|---|---|\n";
            for growth in &self.growth {
                let points: Vec<String> = growth
                    .points
                    .iter()
                    .map(|(x, y)| format!("{x}: {y:.3}"))
                    .collect();
                let _ = writeln!(
                    out,
                    "| {} | {} | {:.2} |",
                    growth.what,
                    points.join(", "),
                    growth.exponent
                );
            }
        }
        *out += "\n## Targets missed\n\n";
        let missed = self.missed();
        for what in &missed {
            let _ = writeln!(out, "* {what}");
        }
        if missed.is_empty() {
            *out += "None.\n";
        }
        *out += "\n## Problems\n\n";
        for row in &self.rows {
            let _ = writeln!(out, "* **{}**: {}", row.name, row.about);
        }
    }
}
