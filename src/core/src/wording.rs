//! How reasons read, in events and on the command line.

use std::fmt;

use crate::{report::PodReason, resources::format_amount, snapshot::Blocker};

impl fmt::Display for PodReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPools => write!(f, "there is no NodePool that is ready"),
            Self::Taint { pool, taint } => {
                write!(f, "the pod does not tolerate taint {taint} of NodePool {pool}")
            }
            Self::Requirements { pool, requirement } => {
                write!(f, "NodePool {pool} has nothing that satisfies {requirement}")
            }
            Self::Resources {
                pool,
                within,
                request,
                largest,
            } => {
                write!(f, "no instance type of NodePool {pool}")?;
                if !within.is_empty() {
                    write!(f, " with {within}")?;
                }
                write!(f, " holds {request}; the largest holds {largest}")
            }
            Self::Offering { pool, requirement } => {
                write!(
                    f,
                    "NodePool {pool} has instance types for the pod, but none is available with {requirement}"
                )
            }
            Self::Limit {
                pool,
                resource,
                limit,
                used,
            } => {
                let (limit, used) = (format_amount(resource, *limit), format_amount(resource, *used));
                write!(
                    f,
                    "NodePool {pool} limit {resource} {limit} is used up ({used} in use)"
                )
            }
            Self::Topology { pool, constraint } => {
                write!(f, "{constraint} leaves no place in NodePool {pool}")
            }
            Self::MinValues {
                pool,
                key,
                needed,
                found,
            } => {
                write!(
                    f,
                    "NodePool {pool} asks for {needed} values of {key}, and {found} could hold the pod"
                )
            }
            Self::HostPort { port } => write!(f, "host port {port} is free nowhere"),
            Self::Volume { pool, requirement } => {
                write!(
                    f,
                    "a volume can be reached only with {requirement}, which NodePool {pool} does not offer"
                )
            }
        }
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInitialized => write!(f, "Node is not initialized"),
            Self::Nominated => write!(f, "Node is nominated for a pending pod"),
            Self::NodeDoNotDisrupt => {
                write!(
                    f,
                    "Disruption is blocked through the \"karpenter.sh/do-not-disrupt\" annotation"
                )
            }
            Self::PodDoNotDisrupt { pod } => {
                write!(f, "Pod {pod} has the \"karpenter.sh/do-not-disrupt\" annotation")
            }
            Self::PodDisruptionBudget { pdb, pod } => write!(f, "Pdb {pdb} prevents evicting pod {pod}"),
        }
    }
}
