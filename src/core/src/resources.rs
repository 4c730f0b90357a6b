//! Resource quantities and amounts.
//!
//! A [`Quantity`] is what a manifest says, exactly as `k8s.io/apimachinery/pkg/api/resource` reads and writes
//! it. An amount is the whole number that planning adds and compares.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

/// Amounts by resource name: `cpu` in thousandths of a core, everything else in base units (bytes,
/// pieces), rounded up as kube-scheduler does. A name that is absent is zero.
pub type Resources = BTreeMap<Arc<str>, i64>;

pub const CPU: &str = "cpu";
pub const MEMORY: &str = "memory";
pub const PODS: &str = "pods";
pub const EPHEMERAL_STORAGE: &str = "ephemeral-storage";
/// Pseudo resource of a pool's limits: how many nodes it may have.
pub const NODES: &str = "nodes";

/// Which family of suffixes a quantity was written with; it is kept when the quantity is written again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `Ki`, `Mi`, `Gi` …
    BinarySI,
    /// `m`, none, `k`, `M` …
    #[default]
    DecimalSI,
    /// `e3`, `E-3` …
    DecimalExponent,
}

/// A Kubernetes quantity: a number of at most nine decimal places and at most 2^63-1 in magnitude.
///
/// `Display` is the canonical form: the largest suffix that leaves no fraction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is not a quantity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum QuantityError {
    #[error("quantity is empty: write a number such as 500m, 2 or 1.5Gi")]
    Empty,
    #[error("quantity {0:?} does not start with a number: write one such as 500m, 2 or 1.5Gi")]
    Number(String),
    #[error(
        "quantity {text:?} has the unknown suffix {suffix:?}: use one of n u m k M G T P E Ki Mi Gi Ti Pi Ei, or an exponent such as e3"
    )]
    Suffix { text: String, suffix: String },
}

const NANO: i128 = 1_000_000_000;
const NANOS_MAX: i128 = i64::MAX as i128 * NANO;
/// More decimal digits than any exponent that can still matter: 2^63 has 19, a nano 9.
const EXPONENT_MAX: i64 = 40;

/// Reads a quantity as the API server does. Digits finer than a nano are rounded away from zero; a
/// magnitude above 2^63-1 becomes 2^63-1.
pub fn parse_quantity(text: &str) -> Result<Quantity, QuantityError> {
    if text.is_empty() {
        return Err(QuantityError::Empty);
    }
    let not_a_number = || QuantityError::Number(text.to_owned());
    let (negative, unsigned) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(not_a_number());
    }
    let (multiplier, exponent, format) = suffix_value(suffix).ok_or_else(|| QuantityError::Suffix {
        text: text.to_owned(),
        suffix: suffix.to_owned(),
    })?;

    // value = digits × 10^(exponent - fraction length) × multiplier, in nanos.
    let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').collect();
    let leading = digits.iter().take_while(|d| **d == 0).count();
    digits.drain(..leading);
    let scale = exponent - fraction.len() as i64 + 9;
    let nanos = scaled(&digits, multiplier, scale).min(NANOS_MAX);
    Ok(Quantity {
        nanos: if negative { -nanos } else { nanos },
        format,
    })
}

/// digits × multiplier × 10^scale, rounded up, at most a little above [`NANOS_MAX`].
fn scaled(digits: &[u8], multiplier: i128, scale: i64) -> i128 {
    if digits.is_empty() {
        return 0;
    }
    if digits.len() as i64 + scale > EXPONENT_MAX {
        return NANOS_MAX;
    }
    if digits.len() as i64 + scale < -EXPONENT_MAX {
        return 1;
    }
    // Base-10 long multiplication keeps long fractions exact: numbers here have at most some dozens of digits.
    let mut product: Vec<u8> = Vec::with_capacity(digits.len() + 20);
    let mut carry: i128 = 0;
    for d in digits.iter().rev() {
        carry += i128::from(*d) * multiplier;
        product.push((carry % 10) as u8);
        carry /= 10;
    }
    while carry > 0 {
        product.push((carry % 10) as u8);
        carry /= 10;
    }
    // product is little-endian; shift by scale.
    let mut value: i128 = 0;
    let dropped = if scale < 0 { (-scale) as usize } else { 0 };
    for (place, d) in product.iter().enumerate().rev() {
        if place >= dropped {
            value = value.saturating_mul(10).saturating_add(i128::from(*d));
        }
    }
    for _ in 0..scale.max(0) {
        value = value.saturating_mul(10);
    }
    let inexact = product.iter().take(dropped).any(|d| *d != 0);
    value.saturating_add(i128::from(inexact))
}

/// (binary multiplier, decimal exponent, format) of a suffix.
fn suffix_value(suffix: &str) -> Option<(i128, i64, Format)> {
    let decimal = |exponent| Some((1, exponent, Format::DecimalSI));
    let binary = |power: u32| Some((1 << (10 * power), 0, Format::BinarySI));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            // An exponent too long for i64 is as good as the largest one.
            let magnitude = digits.parse::<i64>().unwrap_or(i64::MAX / 2).min(i64::MAX / 2);
            let exponent = if exponent.starts_with('-') {
                -magnitude
            } else {
                magnitude
            };
            Some((1, exponent, Format::DecimalExponent))
        }
    }
}

impl Quantity {
    /// A whole number of thousandths, in decimal notation.
    pub fn from_milli(milli: i64) -> Self {
        Self {
            nanos: i128::from(milli) * 1_000_000,
            format: Format::DecimalSI,
        }
    }

    /// A whole number of units, in the given notation.
    pub fn from_units(units: i64, format: Format) -> Self {
        Self {
            nanos: i128::from(units) * NANO,
            format,
        }
    }

    /// In thousandths, rounded away from zero; saturates.
    pub fn milli_ceil(self) -> i64 {
        divide_away_from_zero(self.nanos, 1_000_000)
    }

    /// In units, rounded away from zero.
    pub fn units_ceil(self) -> i64 {
        divide_away_from_zero(self.nanos, NANO)
    }

    /// The exact value in billionths.
    pub fn nanos(self) -> i128 {
        self.nanos
    }

    /// True for zero and below.
    pub fn is_zero_or_less(self) -> bool {
        self.nanos <= 0
    }
}

fn divide_away_from_zero(value: i128, by: i128) -> i64 {
    let rounded = (value.abs() + by - 1) / by * value.signum();
    i64::try_from(rounded).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// Equal when they are the same number, however written.
impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        parse_quantity(text)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        // Below 1024 a binary suffix has nothing to say; upstream falls back to decimal there.
        if self.format == Format::BinarySI && self.nanos.abs() >= 1024 * NANO {
            let mut units = i128::from(self.units_ceil());
            let mut power = 0;
            while units % 1024 == 0 && power < 6 {
                units /= 1024;
                power += 1;
            }
            return write!(f, "{units}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        let mut mantissa = self.nanos;
        let mut thousands = 0;
        while mantissa % 1000 == 0 && thousands < 9 {
            mantissa /= 1000;
            thousands += 1;
        }
        if self.format == Format::DecimalExponent {
            return match thousands as i32 * 3 - 9 {
                0 => write!(f, "{mantissa}"),
                exponent => write!(f, "{mantissa}e{exponent}"),
            };
        }
        write!(
            f,
            "{mantissa}{}",
            ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][thousands]
        )
    }
}

/// The amount a manifest's quantity stands for: `cpu` in thousandths, everything else in units, rounded up.
pub fn amount(resource: &str, text: &str) -> Result<i64, QuantityError> {
    let quantity = parse_quantity(text)?;
    Ok(if resource == CPU {
        quantity.milli_ceil()
    } else {
        quantity.units_ceil()
    })
}

/// The canonical text of an amount: `1500m` or `2` for `cpu`, a binary suffix where it is exact for bytes,
/// and the plain number for everything else.
pub fn format_amount(resource: &str, amount: i64) -> String {
    let bytes = [MEMORY, EPHEMERAL_STORAGE].contains(&resource)
        || resource.starts_with("hugepages-")
        || resource.ends_with("-storage");
    match resource {
        CPU if amount % 1000 == 0 => (amount / 1000).to_string(),
        CPU => format!("{amount}m"),
        _ if bytes && amount % 1024 == 0 => Quantity::from_units(amount, Format::BinarySI).to_string(),
        _ => amount.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_as_apimachinery() {
        // text, canonical, milli rounded up, units rounded up
        let table = [
            ("0", "0", 0, 0),
            ("0.0", "0", 0, 0),
            ("1", "1", 1000, 1),
            ("+1", "1", 1000, 1),
            ("-1", "-1", -1000, -1),
            ("1.5", "1500m", 1500, 2),
            (".5", "500m", 500, 1),
            ("5.", "5", 5000, 5),
            ("0.5", "500m", 500, 1),
            ("100m", "100m", 100, 1),
            ("1000m", "1", 1000, 1),
            ("1500m", "1500m", 1500, 2),
            ("1u", "1u", 1, 1),
            ("100n", "100n", 1, 1),
            ("0.1n", "1n", 1, 1),
            ("-0.1n", "-1n", -1, -1),
            ("1000", "1k", 1_000_000, 1000),
            ("1k", "1k", 1_000_000, 1000),
            ("1500", "1500", 1_500_000, 1500),
            ("100000", "100k", 100_000_000, 100_000),
            ("1e3", "1e3", 1_000_000, 1000),
            ("1E3", "1e3", 1_000_000, 1000),
            ("12e4", "120e3", 120_000_000, 120_000),
            ("1e-3", "1e-3", 1, 1),
            ("1E", "1E", i64::MAX, 1_000_000_000_000_000_000),
            ("1Ki", "1Ki", 1_024_000, 1024),
            ("1.5Gi", "1536Mi", 1_610_612_736_000, 1_610_612_736),
            ("0.5Ki", "512", 512_000, 512),
            ("1023Ki", "1023Ki", 1_047_552_000, 1_047_552),
            ("1024Mi", "1Gi", 1_073_741_824_000, 1_073_741_824),
            ("0.000001Ki", "1024u", 2, 1),
            ("9223372036854775807", "9223372036854775807", i64::MAX, i64::MAX),
            ("9223372036854775808", "9223372036854775807", i64::MAX, i64::MAX),
            ("1e60", "9223372036854775807", i64::MAX, i64::MAX),
            ("1e-60", "1e-9", 1, 1),
            ("0000000000000000000000000000000000000000000001", "1", 1000, 1),
        ];
        for (text, canonical, milli, units) in table {
            let quantity = parse_quantity(text).unwrap();
            assert_eq!(quantity.to_string(), canonical, "{text}");
            assert_eq!(quantity.milli_ceil(), milli, "{text} in thousandths");
            assert_eq!(quantity.units_ceil(), units, "{text} in units");
            assert_eq!(parse_quantity(canonical).unwrap(), quantity, "{text} round trip");
        }
    }

    #[test]
    fn refuses_what_the_api_server_refuses() {
        let bad = [
            "", ".", "-", "1.1.M", "1+1.0M", "0.1mi", "0.1am", "aoeu", ".5i", "1i", "-3.01i", "-3.01e-",
            " 1", "1 ", "1K", "1ki", "1e", "1Ee3", "1e1.5",
        ];
        for text in bad {
            assert!(parse_quantity(text).is_err(), "{text:?} was accepted");
        }
        assert_eq!(parse_quantity(""), Err(QuantityError::Empty));
        assert_eq!(parse_quantity("x"), Err(QuantityError::Number("x".into())));
        assert_eq!(
            parse_quantity("1K"),
            Err(QuantityError::Suffix {
                text: "1K".into(),
                suffix: "K".into()
            })
        );
    }

    #[test]
    fn amounts_by_resource() {
        assert_eq!(amount(CPU, "1500m"), Ok(1500));
        assert_eq!(amount(CPU, "0.0001"), Ok(1));
        assert_eq!(amount(MEMORY, "1.5Gi"), Ok(1_610_612_736));
        assert_eq!(amount("nvidia.com/gpu", "2"), Ok(2));
        assert_eq!(format_amount(CPU, 1500), "1500m");
        assert_eq!(format_amount(CPU, 2000), "2");
        assert_eq!(format_amount(MEMORY, 1_610_612_736), "1536Mi");
        assert_eq!(format_amount(MEMORY, 1000), "1000");
        assert_eq!(format_amount(PODS, 1024), "1024");
    }
}
