//! Money and amounts, as people read them.

/// Dollars without cents from 10 on, with thousands apart: `$1,234`, `$1.30`.
pub fn dollars(amount: f64) -> String {
    let sign = if amount < 0.0 { "-" } else { "" };
    let amount = amount.abs();
    if amount < 0.005 {
        return "$0".to_owned();
    }
    if amount < 9.995 {
        return format!("{sign}${amount:.2}");
    }
    format!("{sign}${}", thousands(amount.round() as u64))
}

/// `12,345`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 pod`, `2,000 pods`.
pub(crate) fn counted(count: u32, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {what}{plural}", thousands(count.into()))
}

/// Cores, with one decimal below a hundred.
pub(crate) fn cores(milli: i64) -> String {
    short(milli as f64 / 1000.0)
}

/// GiB, with one decimal below a hundred.
pub(crate) fn gib(bytes: i64) -> String {
    short(bytes as f64 / f64::from(1 << 30))
}

fn short(amount: f64) -> String {
    if amount < 99.95 {
        format!("{amount:.1}")
    } else {
        thousands(amount.round() as u64)
    }
}

/// A share in whole percent; nothing of nothing is zero.
pub(crate) fn percent(part: i64, whole: i64) -> u64 {
    if whole <= 0 {
        return 0;
    }
    (part.max(0) as f64 / whole as f64 * 100.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_rounded_to_what_matters() {
        let cases = [
            (0.0, "$0"),
            (-0.001, "$0"),
            (1.345, "$1.34"),
            (9.99, "$9.99"),
            (9.999, "$10"),
            (12.345, "$12"),
            (1234.5, "$1,235"),
            (1_234_567.0, "$1,234,567"),
            (-7.0, "-$7.00"),
        ];
        for (amount, text) in cases {
            assert_eq!(dollars(amount), text);
        }
        assert_eq!((percent(1, 3), percent(1, 0)), (33, 0));
        assert_eq!((cores(1500), cores(35_520_600)), ("1.5".into(), "35,521".into()));
    }
}
