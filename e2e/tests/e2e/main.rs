//! The controller on a real control plane, one file per theme. One program, so that what all share is compiled once:
//! `cargo test --release --workspace --test e2e drain::`

// Functions of these files may panic as tests may, and clippy knows it by the attribute.
#[cfg(test)]
mod adversity;
#[cfg(test)]
mod advise;
#[cfg(test)]
mod chart;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod crds;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod lease;
#[cfg(test)]
mod log_level;
#[cfg(test)]
mod provision;
#[cfg(test)]
mod rendering;
#[cfg(test)]
mod report;
