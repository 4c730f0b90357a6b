//! The index: watch events in, snapshots out.
//!
//! Owns what is known of the cluster. `apply`, `delete` and `reset` take what the watches say;
//! [`Index::snapshot`] lowers it to [`plimsoll_core::snapshot::Snapshot`].
//!
//! Invariants: it calls nothing and reads no clock. Pods are kept in a slim form: container environment,
//! arguments, commands and annotations outside a short list are never deserialised.

mod index;
mod lower;
pub mod node;
pub mod pdb;
pub mod pod;
mod slim;
pub mod storage;
mod workload;

pub use index::{Bindings, Index, NodeView, Observe, PROMISE_MAX, PROMISE_WINDOW, Peers, Touched};
pub use lower::{
    requirement,
    snapshot::{Lowered, pool_usage},
    terms, typed_requirement,
};
pub use slim::{DaemonSet, PersistentVolume, PersistentVolumeClaim, Pod};
