//! Plots as inline SVG. No scripts, no fonts, no images: the file shows the same everywhere.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    money::thousands,
    savings::{NewMachine, NodeRow, Part},
};

/// Colours of namespaces, told apart also by people who see red and green alike; the last is for all others.
const PALETTE: [&str; 9] = [
    "#3b7cb8", "#e08a3c", "#4ca58f", "#c65a6e", "#8b73b8", "#b89b30", "#5fa8d3", "#9c755f", "#9aa3ab",
];
/// Fill levels of machines, from empty to full.
const LEVELS: [(&str, &str, u32); 5] = [
    ("under 20 %", "#e9b8a7", 200),
    ("20–40 %", "#e0cfa0", 400),
    ("40–60 %", "#b9cfa0", 600),
    ("60–80 %", "#7fb596", 800),
    ("over 80 %", "#2f8467", u32::MAX),
];
/// From this many machines on they are small squares coloured by how full they are.
pub(super) const BOXES_MAX: usize = 120;
/// Pixels of a box's side: of one whose price is not known, and of one that costs a dollar an hour.
const SIDE: f64 = 46.0;
const SIDE_OF_DOLLAR: f64 = 76.0;
const SIDE_MIN: f64 = 22.0;
const SIDE_MAX: f64 = 120.0;
/// Squares per row, and more of them where there would be many rows.
const COLUMNS: usize = 50;
const COLUMNS_OF_MANY: usize = 100;
const MANY: usize = 1500;

/// Text that may stand anywhere in HTML.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// One row of a bar chart: name, bar and value. `share` is of the longest bar.
pub(super) fn bar(name: &str, share: f64, colour: &str, value: &str, aside: &str, out: &mut String) {
    let width = (share * 1000.0).clamp(0.0, 1000.0);
    let _ = write!(
        out,
        "<div class=row><div class=name>{}</div><div class=track><svg viewBox=\"0 0 1000 18\" preserveAspectRatio=none aria-hidden=true>\
         <rect width=\"{width:.0}\" height=18 style=\"fill:{colour}\"/></svg></div><div class=value>{}</div><div class=aside>{}</div></div>",
        escape(name),
        escape(value),
        escape(aside)
    );
}

/// One bar of several parts: (share, colour).
pub(super) fn stack(parts: &[(f64, &str)], out: &mut String) {
    let whole: f64 = parts.iter().map(|p| p.0).sum();
    out.push_str("<svg class=stack viewBox=\"0 0 1000 34\" preserveAspectRatio=none aria-hidden=true>");
    let mut at = 0.0;
    for (share, colour) in parts.iter().filter(|_| whole > 0.0) {
        let width = share / whole * 1000.0;
        let _ = write!(
            out,
            "<rect x=\"{at:.1}\" width=\"{width:.1}\" height=34 style=\"fill:{colour}\"/>"
        );
        at += width;
    }
    out.push_str("</svg>");
}

/// Gives the namespaces that fill most a colour of their own.
#[derive(Debug)]
pub(super) struct Colours(BTreeMap<String, &'static str>);

impl Colours {
    pub(super) fn new<'a>(namespaces: impl IntoIterator<Item = &'a str>) -> Self {
        let own = PALETTE.len() - 1;
        Self(
            namespaces
                .into_iter()
                .take(own)
                .zip(PALETTE)
                .map(|(name, colour)| (name.to_owned(), colour))
                .collect(),
        )
    }

    pub(super) fn of(&self, namespace: &str) -> &'static str {
        self.0
            .get(namespace)
            .copied()
            .unwrap_or(PALETTE[PALETTE.len() - 1])
    }
}

/// A machine and what it is filled with.
pub(super) struct Machine<'a> {
    pub(super) title: String,
    pub(super) parts: &'a [Part],
    /// Dollars an hour; none when unknown.
    pub(super) price: Option<f64>,
    /// Border for those that are new or go.
    pub(super) mark: Option<&'static str>,
}

impl<'a> Machine<'a> {
    pub(super) fn existing(node: &'a NodeRow, mark: Option<&'static str>) -> Self {
        Self {
            title: format!("{} {}, {} pods", node.name, node.instance_type, node.pods),
            price: node.per_hour,
            parts: &node.filled,
            mark,
        }
    }

    pub(super) fn bought(machine: &'a NewMachine, mark: &'static str) -> Self {
        Self {
            title: format!(
                "new {} in {}, {} pods",
                machine.instance_type, machine.zone, machine.pods
            ),
            price: Some(machine.per_hour),
            parts: &machine.filled,
            mark: Some(mark),
        }
    }

    fn permille(&self) -> u32 {
        self.parts.iter().map(|p| p.permille).sum()
    }
}

/// Machines as boxes filled with pods; their areas are to each other as their prices, as far as that stays readable.
pub(super) fn boxes(machines: &[Machine<'_>], colours: &Colours, out: &mut String) {
    out.push_str("<div class=boxes>");
    for machine in machines {
        let side = machine.price.map_or(SIDE, |price| {
            (SIDE_OF_DOLLAR * price.sqrt()).clamp(SIDE_MIN, SIDE_MAX)
        });
        let border = machine.mark.unwrap_or("var(--line)");
        let _ = write!(
            out,
            "<svg viewBox=\"0 0 46 46\" style=\"width:{side:.0}px\" role=img><title>{}</title><rect x=1 y=1 width=44 height=44 rx=5 \
             style=\"fill:var(--card);stroke:{border};stroke-width:{}\"/>",
            escape(&machine.title),
            if machine.mark.is_some() { 2 } else { 1 }
        );
        // Pods of one namespace lie side by side in a layer as high as what they take together.
        let whole = f64::from(machine.permille().max(1000));
        let mut top = 43.0;
        for part in machine.parts {
            let height = 40.0 * f64::from(part.permille) / whole;
            if height < 0.4 {
                continue;
            }
            top -= height;
            let columns = part.pods.clamp(1, 10);
            let width = 40.0 / f64::from(columns);
            let mut path = String::new();
            for column in 0..columns {
                let _ = write!(
                    path,
                    "M{:.1} {top:.1}h{:.1}v{:.1}h-{:.1}z",
                    3.0 + f64::from(column) * width,
                    width - 0.6,
                    (height - 0.6).max(0.3),
                    width - 0.6
                );
            }
            let _ = write!(
                out,
                "<path d=\"{path}\" fill=\"{}\"/>",
                colours.of(&part.namespace)
            );
        }
        out.push_str("</svg>");
    }
    out.push_str("</div>");
}

/// Machines as small squares coloured by how full they are, and how many there are of each colour. `most` are in one
/// picture of those that are compared, which decides how small the squares are.
pub(super) fn squares(machines: &[Machine<'_>], most: usize, out: &mut String) {
    let columns = if most > MANY { COLUMNS_OF_MANY } else { COLUMNS };
    let rows = machines.len().div_ceil(columns);
    let mut paths = vec![(String::new(), 0); LEVELS.len()];
    let mut filled: Vec<u32> = machines.iter().map(Machine::permille).collect();
    // Sorted, the picture is a histogram that can be compared at a glance.
    filled.sort_unstable();
    for (at, permille) in filled.iter().enumerate() {
        let level = LEVELS.iter().position(|(_, _, below)| permille < below);
        let (x, y) = (at % columns * 10, at / columns * 10);
        let (path, count) = &mut paths[level.unwrap_or(LEVELS.len() - 1)];
        *count += 1;
        let _ = write!(path, "M{x} {y}h9v9h-9z");
    }
    let _ = write!(
        out,
        "<svg class=grid viewBox=\"0 0 {} {}\" role=img aria-label=\"{} machines by how full they are\">",
        columns * 10,
        rows * 10,
        machines.len()
    );
    for ((path, _), (_, colour, _)) in paths.iter().zip(LEVELS) {
        if !path.is_empty() {
            let _ = write!(out, "<path d=\"{path}\" fill=\"{colour}\"/>");
        }
    }
    out.push_str("</svg><ul class=legend>");
    for ((_, count), (name, colour, _)) in paths.iter().zip(LEVELS) {
        let _ = write!(
            out,
            "<li><i style=\"background:{colour}\"></i>{name} <b>{}</b></li>",
            thousands(*count)
        );
    }
    out.push_str("</ul>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_the_page() {
        assert_eq!(escape("<script>'\"&"), "&lt;script&gt;&#39;&quot;&amp;");
        let mut out = String::new();
        bar("<b>", 0.5, "red", "1", "", &mut out);
        assert!(!out.contains("<b>"));
        assert!(out.contains("width=\"500\""));
    }

    #[test]
    fn namespaces_beyond_the_palette_share_a_colour() {
        let names: Vec<String> = (0..12).map(|i| format!("ns-{i}")).collect();
        let colours = Colours::new(names.iter().map(String::as_str));
        assert_ne!(colours.of("ns-0"), colours.of("ns-1"));
        assert_eq!(colours.of("ns-8"), colours.of("ns-11"));
    }
}
