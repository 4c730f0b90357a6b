//! What watches say, kind by kind.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Node},
        policy::v1::PodDisruptionBudget,
        storage::v1::{CSINode, StorageClass, VolumeAttachment},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use plimsoll_api::{nodeclaim::NodeClaim, nodepool::NodePool};

use super::{INTERNED_SWEEP_EVERY, Index, is_older, machines::plan_of};
use crate::{lower::shape, node::accepts_pods, pod, slim};

/// A way for a watch to tell what it saw. `reset` is a full list: what it lacks is gone.
pub trait Observe<K> {
    fn apply(&mut self, object: K, now: Timestamp);
    fn delete(&mut self, object: &K, now: Timestamp);
    fn reset(&mut self, objects: Vec<K>, now: Timestamp);
    /// An object of that name cannot be read; it exists, or is gone now.
    fn unreadable(&mut self, _meta: &ObjectMeta, _exists: bool) {}
    /// The answer to one of our own writes, ahead of the watch.
    fn answered(&mut self, object: K, now: Timestamp) {
        self.apply(object, now);
    }
}

impl Observe<slim::Pod> for Index {
    fn apply(&mut self, object: slim::Pod, now: Timestamp) {
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        let no_labels = BTreeMap::new();
        let pod_labels = object.metadata.labels.as_ref().unwrap_or(&no_labels);
        let shape = self.intern_shape(shape::shape(namespace, pod_labels, &object.spec));
        let labels = self.intern_labels(object.metadata.labels.as_ref());
        let images = self.intern_images(pod::images(&object.spec));
        let pod = pod::from_slim(&object, shape, labels, images);
        let key = pod.key.clone();
        let before = self.pods.get(&key).cloned();
        if before.as_deref() == Some(&pod) {
            return;
        }
        if let Some(old) = before.as_ref().filter(|old| old.uid != pod.uid) {
            // The name was reused: the old pod's deletion was not seen.
            self.remove_pod(&old.key, now);
        }
        let before = before.filter(|old| old.uid == pod.uid);
        let was_on = before.as_ref().and_then(|p| p.node.clone());
        if let Some(node) = &pod.node
            && was_on.is_none()
        {
            self.pods_by_node
                .entry(node.clone())
                .or_default()
                .insert(key.clone());
            if let Some(promise) = self.promises.bound(&key, now) {
                let claim = self.nodes.get(&**node).and_then(|n| self.claim_of_node(n));
                if claim.unwrap_or(node) == &*promise.target {
                    self.bindings.as_planned += 1;
                } else {
                    self.bindings.elsewhere += 1;
                }
            }
            self.pod_event(&pod, node, now);
        }
        if let (Some(old), Some(node)) = (&before, &pod.node)
            && (old.terminal != pod.terminal || old.deletion.is_some() != pod.deletion.is_some())
        {
            self.pod_event(&pod, node, now);
        }
        if let Some(node) = &pod.node {
            self.touch_claim_of_node(node);
        } else if let Some(before) = &before
            && before.nominated_node != pod.nominated_node
        {
            self.nomination_changed(before, &pod);
        }
        let waited = before.as_ref().is_some_and(|p| p.is_provisionable());
        if pod.is_provisionable() && !waited {
            self.touched.waiting_pods += 1;
            self.arrivals += 1;
        }
        self.touched.capacity |= before
            .as_ref()
            .is_none_or(|old| old.node != pod.node || old.is_active() != pod.is_active());
        self.pods.insert(key, Arc::new(pod));
        self.revision += 1;
        if self.shapes.len() > INTERNED_SWEEP_EVERY + 2 * self.pods.len() {
            self.sweep_interned();
        }
    }

    fn delete(&mut self, object: &slim::Pod, now: Timestamp) {
        self.remove_pod(&object_key(&object.metadata).into(), now);
    }

    fn reset(&mut self, objects: Vec<slim::Pod>, now: Timestamp) {
        let listed: BTreeSet<Arc<str>> = objects.iter().map(|o| object_key(&o.metadata).into()).collect();
        let gone: Vec<_> = self
            .pods
            .keys()
            .filter(|key| !listed.contains(*key))
            .cloned()
            .collect();
        for key in gone {
            self.remove_pod(&key, now);
        }
        for object in objects {
            self.apply(object, now);
        }
        self.sweep_interned();
    }
}

impl Observe<Node> for Index {
    fn apply(&mut self, mut object: Node, now: Timestamp) {
        // Never read, and the larger half of a Node.
        object.metadata.managed_fields = None;
        if let Some(status) = &mut object.status {
            status.images = None;
        }
        let Some(name) = object.metadata.name.clone() else {
            return;
        };
        if self.is_gone(&object.metadata)
            || self
                .nodes
                .get(&name)
                .is_some_and(|old| is_older(&object.metadata, &old.metadata))
        {
            return;
        }
        if let Some(old) = self.nodes.get(&name).cloned()
            && old.metadata.uid != object.metadata.uid
        {
            // The name was reused: the old Node's deletion was not seen.
            self.delete(&*old, now);
        }
        if self
            .nodes
            .get(&name)
            .is_some_and(|old| is_heartbeat(old, &object))
        {
            // Only the version moves on; patches need it.
            self.nodes.insert(name, Arc::new(object));
            return;
        }
        if let Some(id) = object.spec.as_ref().and_then(|s| s.provider_id.clone()) {
            self.nodes_by_provider_id
                .entry(id)
                .or_default()
                .insert(name.clone());
        }
        let shared: Arc<str> = name.as_str().into();
        let became_ready =
            accepts_pods(&object) && self.nodes.get(&name).is_none_or(|old| !accepts_pods(old));
        self.nodes.insert(name, Arc::new(object));
        self.touch_claim_of_node(&shared);
        if became_ready {
            let claim = self.nodes.get(&*shared).and_then(|n| self.claim_of_node(n));
            let claim = claim.and_then(|name| self.claim(name)).cloned();
            if let Some(plan) = claim.as_deref().and_then(plan_of) {
                self.touch_peers(plan);
            }
        }
        self.touched.capacity = true;
        self.touched.pools = true;
        self.revision += 1;
    }

    fn delete(&mut self, object: &Node, now: Timestamp) {
        self.bury(&object.metadata, now);
        let Some(name) = object.metadata.name.as_deref() else {
            return;
        };
        self.touch_claim_of_node(name);
        let Some(old) = self.nodes.remove(name) else {
            return;
        };
        if let Some(id) = old.spec.as_ref().and_then(|s| s.provider_id.as_ref())
            && let Some(names) = self.nodes_by_provider_id.get_mut(id)
        {
            names.remove(name);
            if names.is_empty() {
                self.nodes_by_provider_id.remove(id);
            }
        }
        self.last_pod_event.remove(name);
        self.touched.capacity = true;
        self.touched.pools = true;
        self.revision += 1;
    }

    fn reset(&mut self, objects: Vec<Node>, now: Timestamp) {
        let listed: BTreeSet<_> = objects.iter().filter_map(|o| o.metadata.name.clone()).collect();
        let gone: Vec<_> = self
            .nodes
            .values()
            .filter(|n| !listed.contains(&object_key(&n.metadata)))
            .cloned()
            .collect();
        for node in gone {
            self.delete(&*node, now);
        }
        for object in objects {
            self.apply(object, now);
        }
    }
}

/// A Node update that changes nothing anyone looks at but heartbeat times.
fn is_heartbeat(old: &Node, new: &Node) -> bool {
    let conditions = |node: &Node| {
        let list = node.status.as_ref().and_then(|s| s.conditions.as_ref());
        list.map(|l| {
            l.iter()
                .map(|c| (c.type_.clone(), c.status.clone()))
                .collect::<Vec<_>>()
        })
    };
    let amounts = |node: &Node| {
        node.status
            .as_ref()
            .map(|s| (s.capacity.clone(), s.allocatable.clone()))
    };
    old.spec == new.spec
        && old.metadata.labels == new.metadata.labels
        && old.metadata.annotations == new.metadata.annotations
        && old.metadata.finalizers == new.metadata.finalizers
        && old.metadata.owner_references == new.metadata.owner_references
        && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        && old.metadata.uid == new.metadata.uid
        && conditions(old) == conditions(new)
        && amounts(old) == amounts(new)
}

impl Observe<NodeClaim> for Index {
    fn apply(&mut self, object: NodeClaim, _now: Timestamp) {
        self.unreadable_claims.remove(&object_key(&object.metadata));
        self.store_claim(object, None);
    }

    fn unreadable(&mut self, meta: &ObjectMeta, exists: bool) {
        if exists {
            self.unreadable_claims.insert(object_key(meta));
        } else {
            self.unreadable_claims.remove(&object_key(meta));
        }
    }

    /// An answer does not stand for the watch: the claim stays unconfirmed if it was, and one that the index
    /// does not have (any more) is not brought back.
    fn answered(&mut self, object: NodeClaim, _now: Timestamp) {
        let known = object
            .metadata
            .name
            .as_ref()
            .and_then(|name| self.claims.get(name));
        if let Some(entry) = known.filter(|entry| entry.object.metadata.uid == object.metadata.uid) {
            let unconfirmed_since = entry.unconfirmed_since;
            self.store_claim(object, unconfirmed_since);
        }
    }

    fn delete(&mut self, object: &NodeClaim, now: Timestamp) {
        self.unreadable_claims.remove(&object_key(&object.metadata));
        self.bury(&object.metadata, now);
        self.forget_claim(&object_key(&object.metadata));
    }

    fn reset(&mut self, objects: Vec<NodeClaim>, now: Timestamp) {
        let listed: BTreeSet<_> = objects.iter().map(|o| object_key(&o.metadata)).collect();
        let gone: Vec<_> = self
            .claims
            .iter()
            .filter(|(name, entry)| entry.unconfirmed_since.is_none() && !listed.contains(*name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            let meta = self.claims[&name].object.metadata.clone();
            self.bury(&meta, now);
            self.forget_claim(&name);
        }
        self.unreadable_claims.clear();
        for object in objects {
            self.apply(object, now);
        }
    }
}

impl Observe<slim::DaemonSet> for Index {
    fn apply(&mut self, object: slim::DaemonSet, _now: Timestamp) {
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        let no_labels = BTreeMap::new();
        let template = &object.spec.template;
        let pod_labels = template.metadata.labels.as_ref().unwrap_or(&no_labels);
        let mut shape = shape::shape(namespace, pod_labels, &template.spec);
        shape.labels = pod_labels
            .iter()
            .map(|(k, v)| (Arc::from(k.as_str()), Arc::from(v.as_str())))
            .collect();
        self.daemon_sets
            .insert(object_key(&object.metadata).into(), Arc::new(shape));
        self.revision += 1;
    }

    fn delete(&mut self, object: &slim::DaemonSet, _now: Timestamp) {
        self.daemon_sets.remove(object_key(&object.metadata).as_str());
        self.revision += 1;
    }

    fn reset(&mut self, objects: Vec<slim::DaemonSet>, now: Timestamp) {
        self.daemon_sets.clear();
        for object in objects {
            self.apply(object, now);
        }
    }
}

impl Observe<Namespace> for Index {
    fn apply(&mut self, object: Namespace, _now: Timestamp) {
        let labels = object.metadata.labels.iter().flatten();
        let labels = labels
            .map(|(k, v)| (Arc::from(k.as_str()), Arc::from(v.as_str())))
            .collect();
        self.namespaces
            .insert(object_key(&object.metadata).into(), labels);
        self.revision += 1;
    }

    fn delete(&mut self, object: &Namespace, _now: Timestamp) {
        self.namespaces.remove(object_key(&object.metadata).as_str());
    }

    fn reset(&mut self, objects: Vec<Namespace>, now: Timestamp) {
        self.namespaces.clear();
        for object in objects {
            self.apply(object, now);
        }
    }
}

/// Kinds that are stored as they are, by key.
macro_rules! observe_stored {
    ($kind:ty, $($field:ident).+, $touched:ident) => {
        impl Observe<$kind> for Index {
            fn apply(&mut self, mut object: $kind, _now: Timestamp) {
                object.metadata.managed_fields = None;
                self.$($field).+.insert(object_key(&object.metadata), Arc::new(object));
                self.touched.$touched = true;
                self.revision += 1;
            }

            fn delete(&mut self, object: &$kind, _now: Timestamp) {
                self.$($field).+.remove(&object_key(&object.metadata));
                self.touched.$touched = true;
                self.revision += 1;
            }

            fn reset(&mut self, objects: Vec<$kind>, now: Timestamp) {
                self.$($field).+.clear();
                self.touched.$touched = true;
                for object in objects {
                    self.apply(object, now);
                }
            }
        }
    };
}

observe_stored!(NodePool, node_pools, pools);
observe_stored!(PodDisruptionBudget, pdbs, capacity);
observe_stored!(slim::PersistentVolumeClaim, storage.claims, capacity);
observe_stored!(slim::PersistentVolume, storage.volumes, capacity);
observe_stored!(StorageClass, storage.classes, capacity);
observe_stored!(CSINode, storage.csi_nodes, capacity);

impl Observe<VolumeAttachment> for Index {
    fn apply(&mut self, object: VolumeAttachment, _now: Timestamp) {
        let node = object.spec.node_name.clone();
        self.storage
            .attachments
            .insert(object_key(&object.metadata), Arc::new(object));
        self.touch_claim_of_node(&node);
    }

    fn delete(&mut self, object: &VolumeAttachment, _now: Timestamp) {
        self.storage.attachments.remove(&object_key(&object.metadata));
        self.touch_claim_of_node(&object.spec.node_name);
    }

    fn reset(&mut self, objects: Vec<VolumeAttachment>, now: Timestamp) {
        let old = std::mem::take(&mut self.storage.attachments);
        for attachment in old.values() {
            self.touch_claim_of_node(&attachment.spec.node_name);
        }
        for object in objects {
            self.apply(object, now);
        }
    }
}

fn object_key(meta: &ObjectMeta) -> String {
    match (&meta.namespace, &meta.name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        (None, Some(name)) => name.clone(),
        (_, None) => String::new(),
    }
}
