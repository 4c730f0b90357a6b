//! The controller on a real control plane, one file per theme. One program, so that what all share is compiled once:
//! `cargo test --release -p plimsoll-e2e --test e2e drain::`

mod adversity;
mod crash;
mod crds;
mod drain;
mod lease;
mod log_level;
mod provision;
