//! The demo: a workload arrives on a cluster without machines, machines are bought for it, it leaves, and the machines
//! are given back. Everything is measured by one client on one clock.

mod observe;
mod report;
mod run;
mod trace;
mod workload;

pub use observe::{Observer, View};
pub use report::{CloudReport, Report};
pub use run::{Choice, Kept, Provider, Settings, run};
pub use trace::{Shapes, TraceError, read_trace};
pub use workload::Workload;
