//! Durations as Go writes them, kept as the user wrote them.
//!
//! A field that held `720h` must not come back as `720h0m0s`: the object would differ from the user's manifest and from
//! what Karpenter writes. So the text travels with the value; equality and hashing look at the value only.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::schema;

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// The text is empty, or a number lacks its digits or its unit.
    #[error("{0:?} is not a duration; write numbers with units, for example 30s, 15m or 1h30m")]
    Malformed(String),
    /// A unit is not one of Go's.
    #[error("{text:?} has the unknown unit {unit:?}; use h, m, s, ms, us or ns")]
    Unit {
        /// The whole text.
        text: String,
        /// The part that is no unit.
        unit: String,
    },
    /// The value does not fit in 63 bits of nanoseconds, Go's limit of about 292 years.
    #[error("{0:?} is longer than 2562047h, the longest duration there is")]
    Overflow(String),
}

/// A non-negative duration with the text it was read from.
#[derive(Clone, Debug)]
pub struct GoDuration {
    text: Box<str>,
    value: Duration,
}

impl GoDuration {
    /// Whole seconds, written as Go prints them (`90` becomes `1m30s`).
    pub fn from_secs(secs: u64) -> Self {
        let (hours, minutes, seconds) = (secs / 3600, secs / 60 % 60, secs % 60);
        let text = match (hours, minutes) {
            (0, 0) => format!("{seconds}s"),
            (0, _) => format!("{minutes}m{seconds}s"),
            _ => format!("{hours}h{minutes}m{seconds}s"),
        };
        Self {
            text: text.into(),
            value: Duration::from_secs(secs),
        }
    }

    /// The value.
    pub fn as_duration(&self) -> Duration {
        self.value
    }

    /// The text as the user wrote it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Default for GoDuration {
    fn default() -> Self {
        Self::from_secs(0)
    }
}

impl FromStr for GoDuration {
    type Err = DurationError;

    /// Reads what Go's `time.ParseDuration` reads, except signs: no field of this API can be negative.
    fn from_str(text: &str) -> Result<Self, DurationError> {
        const NANOS_MAX: u128 = i64::MAX as u128;
        let malformed = || DurationError::Malformed(text.to_owned());
        if text == "0" {
            return Ok(Self {
                text: text.into(),
                value: Duration::ZERO,
            });
        }
        let (mut rest, mut nanos) = (text, 0u128);
        if rest.is_empty() {
            return Err(malformed());
        }
        while !rest.is_empty() {
            let (whole, after_whole) = split_digits(rest);
            let (fraction, after_number) = match after_whole.strip_prefix('.') {
                Some(after_point) => split_digits(after_point),
                None => ("", after_whole),
            };
            if whole.is_empty() && fraction.is_empty() {
                return Err(malformed());
            }
            let unit_end = after_number
                .find(|c: char| c == '.' || c.is_ascii_digit())
                .unwrap_or(after_number.len());
            let (unit, next) = after_number.split_at(unit_end);
            let scale: u128 = match unit {
                "ns" => 1,
                "us" | "µs" | "μs" => 1_000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                "" => return Err(malformed()),
                _ => {
                    return Err(DurationError::Unit {
                        text: text.to_owned(),
                        unit: unit.to_owned(),
                    });
                }
            };
            nanos += parse_whole(whole).ok_or_else(|| DurationError::Overflow(text.to_owned()))? * scale;
            nanos += parse_fraction(fraction, scale);
            if nanos > NANOS_MAX {
                return Err(DurationError::Overflow(text.to_owned()));
            }
            rest = next;
        }
        Ok(Self {
            text: text.into(),
            value: Duration::from_nanos(nanos as u64),
        })
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// The number before the point; `None` if it is too long for any duration.
fn parse_whole(digits: &str) -> Option<u128> {
    let significant = digits.trim_start_matches('0');
    match significant.len() {
        0 => Some(0),
        // 19 digits times the largest unit stays far below the range of u128.
        1..=19 => significant.parse().ok(),
        _ => None,
    }
}

/// `0.digits` of a unit in whole nanoseconds, by the same floating point steps as Go, so that both round alike.
fn parse_fraction(digits: &str, unit_nanos: u128) -> u128 {
    let (mut numerator, mut denominator) = (0u64, 1f64);
    for digit in digits.bytes().map(|digit| u64::from(digit - b'0')) {
        let Some(next) = numerator.checked_mul(10).and_then(|n| n.checked_add(digit)) else {
            break;
        };
        (numerator, denominator) = (next, denominator * 10.0);
    }
    (numerator as f64 * (unit_nanos as f64 / denominator)) as u128
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for GoDuration {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Eq for GoDuration {}

impl Hash for GoDuration {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.value.hash(state);
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for GoDuration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": schema::DURATION })
    }
}

/// The text that stands for "no duration at all".
const NEVER: &str = "Never";

/// A duration, or `Never`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NillableDuration(Option<GoDuration>);

impl NillableDuration {
    /// The value `Never`, which is also the default.
    pub const NEVER: Self = Self(None);

    /// Whole seconds, written as Go prints them.
    pub fn from_secs(secs: u64) -> Self {
        Self(Some(GoDuration::from_secs(secs)))
    }

    /// The value, or `None` for `Never`.
    pub fn as_duration(&self) -> Option<Duration> {
        self.0.as_ref().map(GoDuration::as_duration)
    }

    /// Whether this is `Never`.
    pub fn is_never(&self) -> bool {
        self.0.is_none()
    }

    /// The text as the user wrote it.
    pub fn as_str(&self) -> &str {
        self.0.as_ref().map_or(NEVER, GoDuration::as_str)
    }
}

impl From<GoDuration> for NillableDuration {
    fn from(duration: GoDuration) -> Self {
        Self(Some(duration))
    }
}

impl FromStr for NillableDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        if text == NEVER {
            Ok(Self::NEVER)
        } else {
            text.parse().map(|duration| Self(Some(duration)))
        }
    }
}

impl fmt::Display for NillableDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for NillableDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for NillableDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for NillableDuration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "NillableDuration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": schema::DURATION_OR_NEVER })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        let cases: &[(&str, u64)] = &[
            ("0", 0),
            ("0s", 0),
            ("5s", 5_000_000_000),
            ("30s", 30_000_000_000),
            ("720h", 2_592_000_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1h0m0s", 3_600_000_000_000),
            ("10m10m", 1_200_000_000_000),
            ("5.s", 5_000_000_000),
            (".5s", 500_000_000),
            ("1.0s", 1_000_000_000),
            ("1.004s", 1_004_000_000),
            ("100.00100s", 100_001_000_000),
            ("10ns", 10),
            ("11us", 11_000),
            ("12µs", 12_000),
            ("12μs", 12_000),
            ("13ms", 13_000_000),
            ("14.5m", 870_000_000_000),
            ("39h9m14.425s", 140_954_425_000_000),
            ("0.3333333333333333333h", 1_200_000_000_000),
            ("0.100000000000000000000h", 360_000_000_000),
            ("9007199254740993ns", 9_007_199_254_740_993),
            ("9223372036854775807ns", 9_223_372_036_854_775_807),
            ("00000000000000000000000001s", 1_000_000_000),
        ];
        for (text, nanos) in cases {
            let duration: GoDuration = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(duration.as_duration(), Duration::from_nanos(*nanos), "{text}");
            assert_eq!(duration.to_string(), *text);
        }
    }

    #[test]
    fn refuses_what_go_refuses_and_signs() {
        for text in [
            "",
            "3",
            "-",
            "s",
            ".",
            ".s",
            "-3s",
            "+3s",
            "1h30",
            "1 h",
            "1d",
            "Never",
            "h1",
            "9223372036854775808ns",
        ] {
            assert!(text.parse::<GoDuration>().is_err(), "{text:?}");
        }
        assert_eq!(
            "2d".parse::<GoDuration>().unwrap_err().to_string(),
            r#""2d" has the unknown unit "d"; use h, m, s, ms, us or ns"#
        );
        assert_eq!(
            "2562048h".parse::<GoDuration>(),
            Err(DurationError::Overflow("2562048h".into()))
        );
        let long = format!("{}s", "9".repeat(60));
        assert_eq!(long.parse::<GoDuration>(), Err(DurationError::Overflow(long)));
    }

    #[test]
    fn keeps_the_text_and_compares_the_value() {
        let (short, long): (GoDuration, GoDuration) = ("720h".parse().unwrap(), "720h0m0s".parse().unwrap());
        assert_eq!(short, long);
        assert_eq!(serde_json::to_string(&short).unwrap(), "\"720h\"");
        assert_eq!(serde_json::to_string(&long).unwrap(), "\"720h0m0s\"");
        for text in ["\"Never\"", "\"30m\"", "\"0s\""] {
            let value: NillableDuration = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&value).unwrap(), text);
        }
        assert!(serde_json::from_str::<NillableDuration>("\"never\"").is_err());
        assert!(serde_json::from_str::<NillableDuration>("5").is_err());
        assert_eq!(NillableDuration::NEVER.as_duration(), None);
    }

    #[test]
    fn prints_seconds_as_go_does() {
        for (secs, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m0s"),
            (3600, "1h0m0s"),
            (5430, "1h30m30s"),
        ] {
            assert_eq!(GoDuration::from_secs(secs).as_str(), text);
        }
    }
}
