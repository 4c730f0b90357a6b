//! Discrete-event simulator with faults, seeds and invariant checkers
