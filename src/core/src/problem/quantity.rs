//! Amounts in a problem file: plain numbers in the unit of their field, or Kubernetes quantities as text.

use crate::resources::CPU;

use super::{ProblemError, cursor::At};

/// Binary and decimal suffixes of a Kubernetes quantity, as (numerator, denominator) of its unit.
/// <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>
const SUFFIXES: [(&str, i128, i128); 16] = [
    ("Ki", 1 << 10, 1),
    ("Mi", 1 << 20, 1),
    ("Gi", 1 << 30, 1),
    ("Ti", 1 << 40, 1),
    ("Pi", 1 << 50, 1),
    ("Ei", 1 << 60, 1),
    ("n", 1, 1_000_000_000),
    ("u", 1, 1_000_000),
    ("m", 1, 1_000),
    ("k", 1_000, 1),
    ("M", 1_000_000, 1),
    ("G", 1_000_000_000, 1),
    ("T", 1_000_000_000_000, 1),
    ("P", 1_000_000_000_000_000, 1),
    ("E", 1_000_000_000_000_000_000, 1),
    ("", 1, 1),
];

const FIX: &str = "write a number, or a Kubernetes quantity such as \"500m\", \"2\" or \"4Gi\"";

/// The amount at `at` in the unit of [`crate::resources::Resources`]: a text is a Kubernetes quantity, a
/// number counts units of `number_unit`. Rounded up, as kube-scheduler rounds requests.
pub(super) fn amount(at: &At, resource: &str, number_unit: i64) -> Result<i64, ProblemError> {
    if let Some(number) = at.value.as_i64() {
        return (number >= 0)
            .then(|| number.checked_mul(number_unit))
            .flatten()
            .ok_or_else(|| at.error("the amount is negative or too large", FIX));
    }
    if at.value.is_number() {
        let amount = (at.number()? * number_unit as f64).ceil();
        return if amount < 9e18 {
            Ok(amount as i64)
        } else {
            Err(at.error("the amount is too large", FIX))
        };
    }
    let scale = if resource == CPU { 1_000 } else { 1 };
    parse(at.text()?, scale).ok_or_else(|| at.error("this is not a quantity", FIX))
}

/// `text` times `scale`, rounded up. None when it is not a quantity, is negative, or does not fit.
fn parse(text: &str, scale: i128) -> Option<i64> {
    let (digits, numerator, denominator) = SUFFIXES.iter().find_map(|(suffix, numerator, denominator)| {
        Some((text.strip_suffix(suffix)?, *numerator, *denominator))
    })?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    // 12 fractional digits are more than the finest unit (nano) can tell apart at any real size.
    if (whole.is_empty() && fraction.is_empty())
        || !all_digits(whole)
        || !all_digits(fraction)
        || whole.len() > 18
        || fraction.len() > 12
    {
        return None;
    }
    let tenths = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    let joined: i128 = format!("{whole}{fraction}").parse().ok()?;
    let above = joined.checked_mul(numerator)?.checked_mul(scale)?;
    let below = denominator * tenths;
    i64::try_from((above + below - 1) / below).ok()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn quantities_round_up() {
        for (text, scale, expected) in [
            ("500m", 1000, Some(500)),
            ("1.5", 1000, Some(1500)),
            ("2Gi", 1, Some(2 << 30)),
            ("100M", 1, Some(100_000_000)),
            ("1.0001", 1000, Some(1001)),
            ("1n", 1, Some(1)),
            ("0", 1, Some(0)),
            (".5", 1000, Some(500)),
            ("", 1, None),
            ("-1", 1, None),
            ("1e3", 1, None),
            ("Gi", 1, None),
            ("16E", 1, None),
        ] {
            assert_eq!(parse(text, scale), expected, "{text}");
        }
    }
}
