//! The same cluster without some of its machines: what planning from scratch starts from.

use crate::snapshot::{Place, Snapshot};

/// The snapshot in which the machines marked in `gone` (by node index) are out of service and what ran there waits.
/// Daemons and pods that are being deleted go with their machine. Indices of pods and nodes stay what they are.
pub fn without(snapshot: &Snapshot, gone: &[bool]) -> Snapshot {
    let mut left = snapshot.clone();
    for pod in &mut left.pods {
        if let Place::Bound(node) | Place::Assigned(node) = pod.place
            && gone[node.0 as usize]
            && !pod.daemon
            && !pod.terminating
        {
            pod.place = Place::Pending;
        }
    }
    for (node, gone) in left.nodes.iter_mut().zip(gone) {
        if *gone {
            node.leaving = true;
            // A limit of its pool no longer counts it.
            node.capacity.clear();
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        resources::Resources,
        snapshot::{ClassId, Labels, Node, NodeId, NodeStage, Pod, PodClass},
    };

    #[test]
    fn what_ran_on_a_machine_that_is_gone_waits_and_the_rest_stays() {
        let node = |name: &str| Node {
            name: name.into(),
            claim: None,
            pool: None,
            stage: NodeStage::Initialized,
            leaving: false,
            not_ready: false,
            labels: Labels::new(),
            taints: Vec::new(),
            capacity: Resources::from([("cpu".into(), 1)]),
            allocatable: Resources::new(),
            price: None,
            volume_limits: Default::default(),
            created: Timestamp::UNIX_EPOCH,
            quiet_since: None,
            disruption_blocker: None,
        };
        let pod = |key: &str, node: u32, daemon, terminating| Pod {
            key: key.into(),
            uid: "".into(),
            class: ClassId(0),
            place: Place::Bound(NodeId(node)),
            daemon,
            terminating,
        };
        let snapshot = Snapshot {
            classes: vec![PodClass::default()],
            nodes: vec![node("a"), node("b")],
            pods: vec![
                pod("moves", 0, false, false),
                pod("daemon", 0, true, false),
                pod("going", 0, false, true),
                pod("stays", 1, false, false),
            ],
            ..Snapshot::default()
        };
        let left = without(&snapshot, &[true, false]);
        let places: Vec<Place> = left.pods.iter().map(|p| p.place).collect();
        let bound = |node| Place::Bound(NodeId(node));
        assert_eq!(places, [Place::Pending, bound(0), bound(0), bound(1)]);
        assert!(left.nodes[0].leaving && left.nodes[0].capacity.is_empty());
        assert!(!left.nodes[1].leaving && left.nodes[1].capacity.len() == 1);
    }
}
