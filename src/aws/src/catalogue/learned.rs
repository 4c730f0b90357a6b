//! How much memory machines turn out to have: what the hypervisor and the firmware keep differs by type and image.

use std::{collections::BTreeMap, sync::Arc};

use super::types::TypeInfo;

/// Images remembered for each type, the newest; machines of more live at once are rare, and then the estimate serves.
const IMAGES_MAX: usize = 16;
const MIB: i64 = 1 << 20;
/// Hypervisor and firmware keep a few percent, of the smallest types a tenth.
const LEAST_PERCENT: i64 = 75;

/// The least memory that machines of a type showed, in bytes, by type and image. What is remembered is on the Nodes too,
/// so a new process learns it anew as soon as it has read them.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    by_type: BTreeMap<Arc<str>, Vec<(String, i64)>>,
}

impl Learned {
    /// None: no machine of this type has started from this image yet.
    pub(crate) fn memory(&self, type_: &str, image_id: &str) -> Option<i64> {
        let images = self.by_type.get(type_)?;
        let (_, bytes) = images.iter().find(|(image, _)| image == image_id)?;
        Some(*bytes)
    }

    /// Takes note of a machine's memory. True when that changes what is known.
    pub(crate) fn note(&mut self, info: &TypeInfo, image_id: &str, bytes: i64) -> bool {
        // More than EC2 says the type has, or far less, is a mistake of whoever wrote it, and would make the type useless.
        let all = info.memory_mib * MIB;
        if bytes > all || bytes < all / 100 * LEAST_PERCENT {
            return false;
        }
        let images = self.by_type.entry(info.name.clone()).or_default();
        if let Some((_, known)) = images.iter_mut().find(|(image, _)| image == image_id) {
            let less = bytes < *known;
            *known = bytes.min(*known);
            return less;
        }
        if images.len() == IMAGES_MAX {
            images.remove(0);
        }
        images.push((image_id.to_owned(), bytes));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_that_was_seen_counts() {
        let info = TypeInfo {
            name: "m5.large".into(),
            memory_mib: 8192,
            ..TypeInfo::default()
        };
        let mut learned = Learned::default();
        assert_eq!(learned.memory("m5.large", "ami-1"), None);
        assert!(learned.note(&info, "ami-1", 7_900 * MIB));
        assert!(!learned.note(&info, "ami-1", 7_950 * MIB));
        assert!(learned.note(&info, "ami-1", 7_800 * MIB));
        assert_eq!(learned.memory("m5.large", "ami-1"), Some(7_800 * MIB));
        assert_eq!(
            learned.memory("m5.large", "ami-2"),
            None,
            "another image keeps more or less"
        );
        assert!(!learned.note(&info, "ami-2", 8_193 * MIB) && !learned.note(&info, "ami-2", 4_000 * MIB));
        for image in 0..IMAGES_MAX {
            assert!(learned.note(&info, &format!("ami-new-{image}"), 7_000 * MIB));
        }
        assert_eq!(learned.memory("m5.large", "ami-1"), None, "the oldest went");
    }
}
