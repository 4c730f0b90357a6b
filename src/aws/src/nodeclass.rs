//! EC2NodeClasses: what their selectors find on AWS, their status, and what is cleared up after them.

mod alias;
mod amis;
mod instance_profile;
mod reconcile;
mod reservations;
mod security_groups;
mod selector;
mod subnets;

pub(crate) use instance_profile::{PROFILE_ANNOTATION, collect_profiles};
pub(crate) use reconcile::{
    Classes, Failure, HASH, HASH_VERSION, KubeClient, PassError, VERSION, class_hash,
};
pub(crate) use reservations::is_supported;
