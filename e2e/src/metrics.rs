//! Reads a page in the Prometheus text format, as far as tests need it.

use std::collections::BTreeMap;

/// The samples of one metrics page.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Parses a page; comment lines and lines that are not samples are passed over.
    pub fn parse(page: &str) -> Self {
        Self {
            samples: page
                .lines()
                .filter(|line| !line.starts_with('#'))
                .filter_map(sample)
                .collect(),
        }
    }

    /// The sum over all samples called `name` that carry all of `labels`; `None` if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self
            .samples
            .iter()
            .filter(|sample| sample.name == name)
            .filter(|sample| {
                labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
            })
            .map(|sample| sample.value)
            .peekable();
        found.peek().is_some().then(|| found.sum())
    }

    /// The names of all metrics on the page, sorted and without repetition.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.samples.iter().map(|sample| sample.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (name, labels, rest) = if let Some((name, rest)) = line.split_once('{') {
        let (labels, rest) = label_pairs(rest)?;
        (name, labels, rest)
    } else {
        let (name, rest) = line.split_once(' ')?;
        (name, BTreeMap::new(), rest)
    };
    // A timestamp may follow the value.
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample {
        name: name.trim().to_owned(),
        labels,
        value,
    })
}

/// The label pairs up to the closing brace, and what follows it. Values are quoted and may hold braces and commas.
fn label_pairs(text: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (key, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (index, '"') => break index + 1,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    escaped => value.push(escaped),
                },
                (_, plain) => value.push(plain),
            }
        };
        labels.insert(key.trim().to_owned(), value);
        rest = &after[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_samples_by_label() {
        let page = Metrics::parse(
            "# TYPE nodes gauge\nnodes{pool=\"a\",note=\"x,}\\\"y\"} 2\nnodes{pool=\"b\"} 3 1700000000\nup 1\nbroken\n",
        );
        assert_eq!(page.sum("nodes", &[]), Some(5.0));
        assert_eq!(page.sum("nodes", &[("pool", "a")]), Some(2.0));
        assert_eq!(page.sum("nodes", &[("note", "x,}\"y")]), Some(2.0));
        assert_eq!(page.sum("nodes", &[("pool", "c")]), None);
        assert_eq!(page.sum("up", &[]), Some(1.0));
        assert_eq!(page.names(), ["nodes", "up"]);
    }
}
