//! Go's hashstructure v2 (FormatV2, SlicesAsSets, IgnoreZeroValue, ZeroNil) over FNV-1 of 64 bits.
//!
//! The functions hash values; a struct says by `None` which of its fields Go would leave out as zero.

use std::collections::BTreeMap;

/// FNV-1, which multiplies first; FNV-1a would differ.
pub(super) fn bytes(bytes: &[u8]) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.iter().fold(OFFSET_BASIS, |hash, byte| {
        hash.wrapping_mul(PRIME) ^ u64::from(*byte)
    })
}

pub(super) fn text(value: &str) -> u64 {
    bytes(value.as_bytes())
}

pub(super) fn boolean(value: bool) -> u64 {
    bytes(&[u8::from(value)])
}

pub(super) fn int32(value: i32) -> u64 {
    bytes(&value.to_le_bytes())
}

pub(super) fn int64(value: i64) -> u64 {
    bytes(&value.to_le_bytes())
}

/// A slice, in which order does not count.
pub(super) fn set(items: impl IntoIterator<Item = u64>) -> u64 {
    items.into_iter().fold(0, |hash, item| hash ^ item)
}

/// A map, of hashed keys and values.
pub(super) fn map(entries: impl IntoIterator<Item = (u64, u64)>) -> u64 {
    finish(set(entries.into_iter().map(|(key, value)| ordered(key, value))))
}

pub(super) fn text_set(items: &[String]) -> u64 {
    set(items.iter().map(|item| text(item)))
}

pub(super) fn text_map(entries: &BTreeMap<String, String>) -> u64 {
    map(entries.iter().map(|(key, value)| (text(key), text(value))))
}

/// A struct, field by field in declaration order.
pub(super) struct StructHash(u64);

impl StructHash {
    /// Starts a struct with the name of its Go type.
    pub(super) fn new(type_name: &str) -> Self {
        Self(text(type_name))
    }

    /// Adds a field; `None` leaves it out. The state is finished after each field, so their order counts.
    #[must_use]
    pub(super) fn field(self, name: &str, value: Option<u64>) -> Self {
        Self(value.map_or(self.0, |value| finish(self.0 ^ ordered(text(name), value))))
    }

    pub(super) fn finish(self) -> u64 {
        self.0
    }
}

fn ordered(first: u64, second: u64) -> u64 {
    let mut both = [0; 16];
    both[..8].copy_from_slice(&first.to_le_bytes());
    both[8..].copy_from_slice(&second.to_le_bytes());
    bytes(&both)
}

fn finish(hash: u64) -> u64 {
    bytes(&hash.to_le_bytes())
}
