//! Decisions as data.
//!
//! This crate turns a [`snapshot::Snapshot`], a [`catalog::Catalog`] and a [`policy::Policy`] into a
//! [`plan::Plan`] and a [`report::Report`]. It owns what may run where, what a machine costs and which
//! machines should exist.
//!
//! Invariants: no I/O, no clock, no randomness, no Kubernetes or AWS crate, and the same bytes out for
//! the same bytes in. Time is an argument. Nothing here can fail for a reason outside its arguments.

pub mod catalog;
pub mod disrupt;
pub mod lint;
mod pack;
pub mod plan;
pub mod policy;
pub mod problem;
pub mod provision;
#[cfg(test)]
mod random;
pub mod repack;
pub mod report;
pub mod requirement;
pub mod resources;
pub mod snapshot;
pub mod verify;
mod wording;
