//! Karpenter's feature gates, as its chart writes them: `ReservedCapacity=true,NodeRepair=false`.

/// What is said of a gate; None: nothing, or nothing that can be read.
pub(crate) fn said(gates: &str, gate: &str) -> Option<bool> {
    let mut entries = gates.rsplit(',').filter_map(|entry| entry.split_once('='));
    let (_, value) = entries.find(|(name, _)| name.trim() == gate)?;
    value.trim().to_ascii_lowercase().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_what_was_last_said_of_it() {
        let gates = "ReservedCapacity=true, NodeRepair=False,NodeRepairs=true,Odd=maybe,Odder";
        for (gate, expected) in [
            ("ReservedCapacity", Some(true)),
            ("NodeRepair", Some(false)),
            ("Odd", None),
            ("Odder", None),
            ("NodeOverlay", None),
        ] {
            assert_eq!(said(gates, gate), expected, "{gate}");
        }
        assert_eq!(said("A=true,A=false", "A"), Some(false));
    }
}
