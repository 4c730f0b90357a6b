//! The bench of the packing engine: problems, an exact solver for tiny ones, the peer, and the table.

pub mod exact;
pub mod measure;
pub mod peer;
pub mod problems;
pub mod random;
pub mod report;
pub mod targets;
