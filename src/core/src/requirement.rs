//! The label requirement algebra of node selection.

use std::sync::Arc;

/// Operators of a node selector requirement, with Karpenter's inclusive bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
    Gte,
    Lte,
}

/// One requirement as a user writes it; `values` sorted and without repeats.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    pub key: Arc<str>,
    pub operator: Operator,
    pub values: Vec<Arc<str>>,
    /// At least this many distinct values must stay possible (instance flexibility).
    pub min_values: Option<u32>,
}
