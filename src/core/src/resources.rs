//! Resource quantities and amounts.

use std::{collections::BTreeMap, sync::Arc};

/// Amounts by resource name: `cpu` in thousandths of a core, everything else in base units (bytes,
/// pieces), rounded up as kube-scheduler does. A name that is absent is zero.
pub type Resources = BTreeMap<Arc<str>, i64>;

pub const CPU: &str = "cpu";
pub const MEMORY: &str = "memory";
pub const PODS: &str = "pods";
pub const EPHEMERAL_STORAGE: &str = "ephemeral-storage";
/// Pseudo resource of a pool's limits: how many nodes it may have.
pub const NODES: &str = "nodes";
