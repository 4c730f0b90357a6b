//! The controller with `--provider aws` on a real control plane and the AWS stand-in, one file per theme:
//! `cargo test --release --workspace --test aws cycle::`

// Functions of these files may panic as tests may, and clippy knows it by the attribute.
#[cfg(test)]
mod accounts;
#[cfg(test)]
mod cycle;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod fence;
#[cfg(test)]
mod localstack;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod service;
#[cfg(test)]
mod startup;
