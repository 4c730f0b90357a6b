//! What a cluster costs, what it could cost, and what is in the way.
//!
//! Owns everything people read: the savings report, explanations, the printing of plans, and the files a cluster can be
//! read from. It decides nothing: plans come from `core`, and it does no I/O beyond a reader or a text it is given.

pub mod advice;
pub mod approval;
pub mod arm64;
pub mod aws;
pub mod checkup;
pub mod cluster;
mod commands;
mod csv;
pub mod dump;
mod explain;
pub mod fleet;
mod html;
pub mod keeping;
pub mod kinds;
pub mod money;
mod moves;
mod object;
mod plan;
mod plans;
pub mod reasons;
pub mod redact;
mod restraints;
pub mod savings;
pub mod snapshot;
mod spending;
mod table;
mod terminal;
pub mod what_if;

pub use arm64::Arm64Images;
pub use cluster::{Cluster, Prices};
pub use commands::commands;
pub use csv::{CsvTable, csv};
pub use explain::{ExplainError, Subject, explain};
pub use html::html;
pub use object::report_status;
pub use plan::{plan_json, plan_summary, plan_text};
pub use restraints::RestraintKind;
pub use savings::{SavingsReport, report};
pub use spending::Spend;
pub use terminal::{Colour, text};
