//! Selector terms as EC2 filters.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::Filter;

pub(crate) fn filter(name: impl Into<String>, values: impl IntoIterator<Item = String>) -> Filter {
    let values: Vec<String> = values.into_iter().collect();
    Filter::builder().name(name).set_values(Some(values)).build()
}

/// One filter per tag, all of which must hold; the value `*` asks for the key alone.
pub(crate) fn tag_filters(tags: &BTreeMap<String, String>) -> Vec<Filter> {
    tags.iter()
        .map(|(key, value)| {
            if value == "*" {
                filter("tag-key", [key.clone()])
            } else {
                filter(format!("tag:{key}"), [value.clone()])
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_asks_for_the_key_alone() {
        let tags = BTreeMap::from([
            ("Name".to_owned(), "*".to_owned()),
            ("karpenter.sh/discovery".to_owned(), "prod".to_owned()),
        ]);
        let filters = tag_filters(&tags);
        let shown: Vec<_> = filters
            .iter()
            .map(|f| (f.name().unwrap_or_default(), f.values().join(",")))
            .collect();
        assert_eq!(
            shown,
            [
                ("tag-key", "Name".to_owned()),
                ("tag:karpenter.sh/discovery", "prod".to_owned())
            ]
        );
    }
}
