//! Per-object state machines.
//!
//! Each function takes an object, what is known around it and the time, and returns the [`Effect`]s that
//! bring it one step on. The controller performs them against a cluster, the simulator against a model.
//!
//! Invariants: no I/O, no clock, no waiting. A pass is short and may be repeated at any time: it starts
//! from what the objects say, never from what an earlier pass remembers.

mod claim;
pub mod disruption;
mod drain;
pub mod drift;
mod effect;
pub mod garbage;
mod interruption;
pub mod nodepool;
pub mod order;
mod termination;

pub use claim::{Pool, Settings, launched, reconcile};
pub use effect::{Effect, EventType, Pass, Subject};
pub use interruption::interrupted;
pub use termination::{drained, release_node, terminated};
