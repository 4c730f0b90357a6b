//! Discrete-event simulator with faults, seeds and invariant checkers.
//!
//! The code that decides in production (`plimsoll-state`, `plimsoll-core`, `plimsoll-lifecycle`) runs here
//! against a model of everything around it: API server, watches, kube-scheduler, kubelets, workload controllers,
//! cloud. Time is virtual and chance comes from a seed, so that [`sim`] with the same arguments is the same run.
//!
//! Invariants: no real clock, no thread, no client. The checkers look at the model from outside and never ask the
//! controller.

mod agenda;
mod api;
mod check;
mod controller;
mod faults;
mod perform;
mod rng;
mod run;
mod scenario;
mod trace;
mod watch;
mod world;

pub use run::{Outcome, Stats, sim};
pub use scenario::Scenario;
