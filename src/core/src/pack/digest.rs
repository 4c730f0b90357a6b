//! The id of a plan: a digest of what it does, in names, so that it does not depend on how a snapshot numbers things.

use crate::{plan::Plan, snapshot::Snapshot};

/// FNV-1a over 128 bits.
struct Digest(u128);

impl Digest {
    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013B);
        }
    }

    /// Length first, so that no two sequences of texts look alike.
    fn text(&mut self, text: &str) {
        self.number(text.len() as i64);
        self.bytes(text.as_bytes());
    }

    fn number(&mut self, number: i64) {
        self.bytes(&number.to_le_bytes());
    }
}

/// The id for a plan's content. The revision and the steps spent are no part of it.
pub(crate) fn plan_id(plan: &Plan, snapshot: &Snapshot) -> String {
    let mut digest = Digest(0x6C62_272E_07BB_0142_62B8_2175_6295_C58D);
    digest.number(plan.launches.len() as i64);
    for launch in &plan.launches {
        digest.text(&launch.pool);
        digest.text(&launch.offering.instance_type);
        digest.text(&launch.offering.zone);
        digest.text(&launch.offering.capacity_type);
        digest.number(launch.offering.price.0);
        digest.number(launch.types.len() as i64);
        launch.types.iter().for_each(|id| digest.number(i64::from(id.0)));
        digest.number(launch.requirements.len() as i64);
        for requirement in &launch.requirements {
            digest.text(&requirement.key);
            digest.number(requirement.operator as i64);
            digest.number(requirement.values.len() as i64);
            requirement.values.iter().for_each(|v| digest.text(v));
        }
        digest.number(launch.pods.len() as i64);
        launch
            .pods
            .iter()
            .for_each(|pod| digest.text(&snapshot.pods[pod.0 as usize].key));
    }
    digest.number(plan.assignments.len() as i64);
    for assignment in &plan.assignments {
        digest.text(&snapshot.pods[assignment.pod.0 as usize].key);
        digest.text(&snapshot.nodes[assignment.node.0 as usize].name);
    }
    digest.number(plan.removals.len() as i64);
    for removal in &plan.removals {
        digest.text(&snapshot.nodes[removal.node.0 as usize].name);
        digest.number(removal.reason as i64);
    }
    format!("{:032x}", digest.0)
}
