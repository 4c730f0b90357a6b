//! The Kubernetes API of plimsoll: Karpenter v1 on the wire.
//!
//! Owns the custom resource types and their schemas, the names of labels, annotations, taints, finalizers and
//! conditions, the static hashes that decide drift, and the rules a NodePool must keep. It holds no client, reads no
//! clock and decides nothing about machines.

pub mod capacitybuffer;
mod cel;
pub mod cel_cases;
pub mod conditions;
mod crd;
pub mod duration;
pub mod ec2nodeclass;
pub mod hash;
pub mod kwoknodeclass;
pub mod labels;
pub mod nodeclaim;
pub mod nodeoverlay;
pub mod nodepool;
pub mod plan;
pub mod report;
pub mod rights;
mod schema;
pub mod taints;
pub mod validate;

pub use crd::{CrdError, crd_file_name, crd_yaml, crds};
