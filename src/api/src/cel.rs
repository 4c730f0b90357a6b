//! CEL rules that more than one kind shares.
//!
//! Rules speak to the person whose object is refused: the message names what is wrong and what to write instead.
//!
//! One set of CRDs serves every provider, so the allow-lists of the AWS and the kwok domain are both in the rules. That
//! costs nothing: a key outside a domain's list can match no machine of the provider that owns the domain, and no other
//! provider defines keys there.

use kube::core::Rule;

use crate::labels;

/// The keys a user may set or require in a domain that otherwise only the controller writes to.
fn allowed(domain: &str) -> Vec<&'static str> {
    match domain {
        labels::AWS_DOMAIN => [
            &[labels::EC2NODECLASS],
            labels::AWS_INSTANCE_KEYS,
            labels::AWS_PLACEMENT_KEYS,
        ]
        .concat(),
        labels::KWOK_DOMAIN => [&[labels::KWOK_NODECLASS], labels::KWOK_INSTANCE_KEYS].concat(),
        _ => vec![labels::CAPACITY_TYPE, labels::NODEPOOL],
    }
}

/// CEL: `key` is allowed, or lies outside `domain` and its subdomains.
fn allowed_in_domain(key: &str, domain: &str, allowed: &[&str]) -> String {
    let allowed: Vec<_> = allowed.iter().map(|key| format!("'{key}'")).collect();
    let domain = domain.replace('.', "[.]");
    format!(
        "{key} in [{}] || !{key}.matches('^([^/]+[.])?{domain}/')",
        allowed.join(", ")
    )
}

fn domain_message(domain: &str) -> String {
    format!(
        "label domain \"{domain}\" is restricted; use one of its well-known labels or a domain of your own"
    )
}

/// A requirement key stays out of `domain`, its well-known labels excepted.
pub(crate) fn key_outside(domain: &str) -> Rule {
    Rule::new(allowed_in_domain("self", domain, &allowed(domain))).message(&*domain_message(domain))
}

/// As [`key_outside`] for a NodeOverlay, which changes what is known of an instance type: keys that belong to one
/// offering or launch select nothing there.
pub(crate) fn overlay_key_outside(domain: &str) -> Rule {
    let mut allowed = allowed(domain);
    allowed.retain(|key| !labels::AWS_PLACEMENT_KEYS.contains(key));
    Rule::new(allowed_in_domain("self", domain, &allowed)).message(&*domain_message(domain))
}

/// The keys of a label map stay out of `domain`, its well-known labels excepted.
pub(crate) fn labels_outside(domain: &str) -> Rule {
    let each = allowed_in_domain("key", domain, &allowed(domain));
    Rule::new(format!("self.all(key, {each})")).message(&*domain_message(domain))
}

/// A requirement key does not name a single machine.
pub(crate) fn key_is_not_hostname() -> Rule {
    Rule::new(format!("self != '{}'", labels::HOSTNAME))
        .message("label \"kubernetes.io/hostname\" is restricted; it names a single machine")
}

/// `In` (or `NotIn`) has something to compare with.
pub(crate) fn operator_has_values(operator: &str) -> Rule {
    Rule::new(format!(
        "self.all(x, x.operator != '{operator}' || (has(x.values) && x.values.size() != 0))"
    ))
    .message(&*format!(
        "requirements with operator '{operator}' must have at least one value"
    ))
}

/// Comparisons have exactly one bound. Eighteen digits keep it inside 64 bits.
pub(crate) fn bounds_are_integers() -> Rule {
    Rule::new(
        "self.all(x, !(x.operator in ['Gt', 'Lt', 'Gte', 'Lte']) || \
         (has(x.values) && x.values.size() == 1 && x.values[0].matches('^[0-9]{1,18}$')))",
    )
    .message("requirements with operator 'Gt', 'Lt', 'Gte' or 'Lte' must have a single integer value of at least 0")
}

/// `minValues` can be met.
pub(crate) fn min_values_are_there() -> Rule {
    Rule::new(
        "self.all(x, !(x.operator == 'In' && has(x.minValues)) || (has(x.values) && x.values.size() >= x.minValues))",
    )
    .message("requirements with operator 'In' and 'minValues' must have at least that many values")
}

/// A reference names something.
pub(crate) fn not_empty(field: &str) -> Rule {
    Rule::new("self != ''").message(&*format!("{field} may not be empty"))
}

/// The keys of a map are among the known ones.
pub(crate) fn keys_among(field: &str, known: &[&str]) -> Rule {
    let known: Vec<_> = known.iter().map(|key| format!("'{key}'")).collect();
    let known = known.join(", ");
    Rule::new(format!("self.all(key, key in [{known}])"))
        .message(&*format!("valid keys for {field} are [{known}]"))
}

/// Reservations do not add capacity.
pub(crate) fn no_negative_values(field: &str) -> Rule {
    Rule::new("self.all(key, !self[key].startsWith('-'))")
        .message(&*format!("{field} value cannot be negative"))
}

/// Tags that select cloud resources are complete; `*` stands for any value.
pub(crate) fn selector_tags() -> Rule {
    Rule::new("self.all(key, key != '' && self[key] != '')")
        .message("empty tag keys or values are not supported; write '*' to match any value")
}

/// A tag key that the controller itself owns, or that would break ownership of cloud resources, is not set by a user.
pub(crate) fn tag_is_not(key: &str) -> Rule {
    Rule::new(format!("self.all(key, key != '{key}')"))
        .message(&*format!("tag {key} is set by the controller; remove it"))
}

/// When an alias of this family selects the image, `amiFamily` agrees or is `Custom`.
pub(crate) fn ami_family_matches_alias(alias: &str, family: &str) -> Rule {
    Rule::new(format!(
        "!has(self.amiFamily) || \
         !self.amiSelectorTerms.exists(x, has(x.alias) && x.alias.startsWith('{alias}@')) || \
         self.amiFamily in ['Custom', '{family}']"
    ))
    .message(&*format!(
        "if set, amiFamily must be '{family}' or 'Custom' when using the alias family '{alias}'"
    ))
}
