//! Taints, tolerations and host ports: small rules that compare text, used while compiling only.

use crate::snapshot::{HostPort, Taint, TaintEffect, Toleration, TolerationOperator};

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    if toleration.effect.is_some_and(|e| e != taint.effect)
        || toleration.key.as_ref().is_some_and(|k| *k != taint.key)
    {
        return false;
    }
    let numbers = || {
        taint
            .value
            .parse::<i64>()
            .ok()
            .zip(toleration.value.parse::<i64>().ok())
    };
    match toleration.operator {
        TolerationOperator::Exists => true,
        // Without a key only `Exists` means something.
        TolerationOperator::Equal => toleration.key.is_some() && toleration.value == taint.value,
        TolerationOperator::Gt => numbers().is_some_and(|(taint, bound)| taint > bound),
        TolerationOperator::Lt => numbers().is_some_and(|(taint, bound)| taint < bound),
    }
}

/// The first taint of the given kind that no toleration covers. `soft` looks at `PreferNoSchedule` only, otherwise
/// at the others only.
pub(super) fn untolerated<'a>(
    tolerations: &[Toleration],
    taints: &'a [Taint],
    soft: bool,
) -> Option<&'a Taint> {
    taints
        .iter()
        .filter(|taint| (taint.effect == TaintEffect::PreferNoSchedule) == soft)
        .find(|taint| !tolerations.iter().any(|t| tolerates(t, taint)))
}

/// Whether two pods with these ports cannot share a machine.
pub(super) fn ports_conflict(a: &HostPort, b: &HostPort) -> bool {
    let any = |ip: &str| matches!(ip, "" | "0.0.0.0" | "::");
    a.port == b.port && a.protocol == b.protocol && (a.ip == b.ip || any(&a.ip) || any(&b.ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `key=value:Effect`
    fn taint(text: &str) -> Taint {
        let (pair, effect) = text.split_once(':').unwrap();
        let (key, value) = pair.split_once('=').unwrap();
        let effect = match effect {
            "NoSchedule" => TaintEffect::NoSchedule,
            "NoExecute" => TaintEffect::NoExecute,
            _ => TaintEffect::PreferNoSchedule,
        };
        Taint {
            key: key.into(),
            value: value.into(),
            effect,
        }
    }

    #[test]
    fn tolerations() {
        use TolerationOperator::{Equal, Exists, Gt, Lt};
        let check = |key: Option<&str>, operator, value: &str, effect, on: &str, expected: bool| {
            let toleration = Toleration {
                key: key.map(Into::into),
                operator,
                value: value.into(),
                effect,
            };
            let soft = on.ends_with("PreferNoSchedule");
            assert_eq!(
                untolerated(&[toleration], &[taint(on)], soft).is_none(),
                expected,
                "{on}"
            );
        };
        check(Some("a"), Equal, "1", None, "a=1:NoSchedule", true);
        check(Some("a"), Equal, "2", None, "a=1:NoSchedule", false);
        check(Some("b"), Equal, "1", None, "a=1:NoSchedule", false);
        check(Some("a"), Exists, "", None, "a=1:NoExecute", true);
        check(None, Exists, "", None, "a=1:NoExecute", true);
        check(None, Equal, "1", None, "a=1:NoSchedule", false);
        check(
            Some("a"),
            Equal,
            "1",
            Some(TaintEffect::NoExecute),
            "a=1:NoSchedule",
            false,
        );
        check(Some("a"), Gt, "900", None, "a=950:NoSchedule", true);
        check(Some("a"), Lt, "900", None, "a=950:NoSchedule", false);
        check(Some("b"), Exists, "", None, "a=1:PreferNoSchedule", false);
        // Soft taints never forbid.
        assert!(untolerated(&[], &[taint("a=1:PreferNoSchedule")], false).is_none());
    }

    #[test]
    fn host_ports() {
        let check = |a: (&str, u16, &str), b: (&str, u16, &str), expected: bool| {
            let port = |(ip, port, protocol): (&str, u16, &str)| HostPort {
                ip: ip.into(),
                port,
                protocol: protocol.into(),
            };
            assert_eq!(ports_conflict(&port(a), &port(b)), expected, "{a:?} {b:?}");
        };
        check(("0.0.0.0", 80, "TCP"), ("10.0.0.1", 80, "TCP"), true);
        check(("::", 80, "TCP"), ("10.0.0.1", 80, "TCP"), true);
        check(("10.0.0.1", 80, "TCP"), ("10.0.0.1", 80, "TCP"), true);
        check(("10.0.0.2", 80, "TCP"), ("10.0.0.1", 80, "TCP"), false);
        check(("0.0.0.0", 80, "TCP"), ("0.0.0.0", 80, "UDP"), false);
        check(("0.0.0.0", 80, "TCP"), ("0.0.0.0", 81, "TCP"), false);
    }
}
