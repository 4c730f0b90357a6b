//! Whose machines share the hardware.

use plimsoll_api::labels;
use plimsoll_core::requirement::Requirement;
use serde::Serialize;

/// Tenancy of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) enum Tenancy {
    #[default]
    Default,
    /// On hardware of this account alone.
    Dedicated,
}

impl Tenancy {
    /// Value of the label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Dedicated => "dedicated",
        }
    }

    /// What requirements ask for: dedicated only where shared hardware is not allowed, for it costs more.
    pub(crate) fn of(requirements: &[Requirement]) -> Self {
        let shared = Some(Self::Default.as_str());
        let allowed = requirements
            .iter()
            .filter(|r| &*r.key == labels::INSTANCE_TENANCY)
            .all(|r| r.matches(shared));
        if allowed { Self::Default } else { Self::Dedicated }
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_core::requirement::Operator;

    use super::*;

    #[test]
    fn dedicated_only_where_shared_is_not_allowed() {
        let wanted = |operator, values: &[&str]| {
            let values = values.iter().map(|v| (*v).into());
            Tenancy::of(&[Requirement::new(labels::INSTANCE_TENANCY, operator, values)])
        };
        assert_eq!(Tenancy::of(&[]), Tenancy::Default);
        assert_eq!(wanted(Operator::In, &["default", "dedicated"]), Tenancy::Default);
        assert_eq!(wanted(Operator::In, &["dedicated"]), Tenancy::Dedicated);
        assert_eq!(wanted(Operator::NotIn, &["default"]), Tenancy::Dedicated);
        assert_eq!(wanted(Operator::Exists, &[]), Tenancy::Default);
    }
}
