//! Volumes, as far as they bind pods to places.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::storage::v1::{CSINode, StorageClass, VolumeAttachment};
use plimsoll_api::labels;
use plimsoll_core::requirement::{Operator, Requirement};

use crate::{lower::shape::node_selector_term, pod::PodState, slim};

/// A pod's volumes: for each, alternatives of requirements; and what it attaches (driver, volume id).
pub(crate) type PodVolumes = (Vec<Vec<Vec<Requirement>>>, Vec<(Arc<str>, Arc<str>)>);

/// Claims, volumes, classes and attachments by key.
#[derive(Debug, Default)]
pub struct Storage {
    pub(crate) claims: BTreeMap<String, Arc<slim::PersistentVolumeClaim>>,
    pub(crate) volumes: BTreeMap<String, Arc<slim::PersistentVolume>>,
    pub(crate) classes: BTreeMap<String, Arc<StorageClass>>,
    pub(crate) csi_nodes: BTreeMap<String, Arc<CSINode>>,
    pub(crate) attachments: BTreeMap<String, Arc<VolumeAttachment>>,
}

impl Storage {
    /// Where a pod's volumes can be reached. An error says why the pod cannot be planned yet.
    pub(crate) fn volumes_of(&self, pod: &PodState) -> Result<PodVolumes, String> {
        let mut affinity = Vec::new();
        let mut attached = Vec::new();
        for name in &pod.claims {
            let key = format!("{}/{name}", pod.namespace());
            let claim = self
                .claims
                .get(&key)
                .ok_or_else(|| format!("persistentvolumeclaim {key} does not exist"))?;
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("persistentvolumeclaim {key} is being deleted"));
            }
            if claim.spec.volume_name.is_empty() {
                affinity.extend(self.unbound_alternatives(&key, claim)?);
                attached.extend(
                    self.driver_of_class(claim)
                        .map(|driver| (driver, key.as_str().into())),
                );
            } else {
                let volume = self.volumes.get(&claim.spec.volume_name).ok_or_else(|| {
                    format!(
                        "persistentvolume {} of claim {key} does not exist",
                        claim.spec.volume_name
                    )
                })?;
                affinity.extend(bound_alternatives(volume));
                if let Some(csi) = &volume.spec.csi {
                    attached.push((csi.driver.as_str().into(), csi.volume_handle.as_str().into()));
                }
            }
        }
        attached.sort();
        attached.dedup();
        Ok((affinity, attached))
    }

    fn unbound_alternatives(
        &self,
        key: &str,
        claim: &slim::PersistentVolumeClaim,
    ) -> Result<Option<Vec<Vec<Requirement>>>, String> {
        let class_name = claim
            .spec
            .storage_class_name
            .as_deref()
            .filter(|name| !name.is_empty())
            .ok_or_else(|| format!("persistentvolumeclaim {key} is unbound and names no storage class"))?;
        let class = self
            .classes
            .get(class_name)
            .ok_or_else(|| format!("storageclass {class_name} of claim {key} does not exist"))?;
        if class.volume_binding_mode.as_deref() != Some("WaitForFirstConsumer") {
            return Err(format!(
                "persistentvolumeclaim {key} waits for its volume (storageclass {class_name} binds immediately)"
            ));
        }
        Ok(class
            .allowed_topologies
            .as_ref()
            .filter(|t| !t.is_empty())
            .map(|terms| {
                terms
                    .iter()
                    .map(|term| {
                        let expressions = term.match_label_expressions.iter().flatten();
                        expressions
                            .map(|e| {
                                let mut values: Vec<Arc<str>> =
                                    e.values.iter().map(|v| v.as_str().into()).collect();
                                values.sort();
                                let key = labels::normalize(&e.key).into();
                                Requirement {
                                    key,
                                    operator: Operator::In,
                                    values,
                                    min_values: None,
                                }
                            })
                            .collect()
                    })
                    .collect()
            }))
    }

    fn driver_of_class(&self, claim: &slim::PersistentVolumeClaim) -> Option<Arc<str>> {
        let class = self.classes.get(claim.spec.storage_class_name.as_deref()?)?;
        Some(class.provisioner.as_str().into())
    }

    /// Attach limits of a node by driver.
    pub(crate) fn limits_of(&self, node: &str) -> BTreeMap<Arc<str>, u32> {
        let drivers = self
            .csi_nodes
            .get(node)
            .map(|n| n.spec.drivers.as_slice())
            .unwrap_or_default();
        let limit = |count: i32| u32::try_from(count).ok();
        drivers
            .iter()
            .filter_map(|d| {
                Some((
                    d.name.as_str().into(),
                    d.allocatable.as_ref()?.count.and_then(limit)?,
                ))
            })
            .collect()
    }

    /// Attachments a drain must wait for: those of the node, less the ones of pods that stay to the end.
    pub(crate) fn attachments_of(&self, node: &str, pods: &[Arc<PodState>]) -> Vec<String> {
        let stays = |pod: &&Arc<PodState>| pod.tolerates_disruption() || pod.is_mirror();
        let kept: Vec<&str> = pods
            .iter()
            .filter(stays)
            .flat_map(|pod| {
                pod.claims
                    .iter()
                    .map(move |name| format!("{}/{name}", pod.namespace()))
            })
            .filter_map(|key| self.claims.get(&key).map(|c| c.spec.volume_name.as_str()))
            .collect();
        self.attachments
            .iter()
            .filter(|(_, a)| a.spec.node_name == node)
            .filter(|(_, a)| {
                a.spec
                    .source
                    .persistent_volume_name
                    .as_deref()
                    .is_none_or(|v| !kept.contains(&v))
            })
            .map(|(name, _)| name.clone())
            .collect()
    }
}

/// The volume's node affinity; a local volume's hostname names a machine no new node can be, so it is dropped.
fn bound_alternatives(volume: &slim::PersistentVolume) -> Option<Vec<Vec<Requirement>>> {
    let terms = &volume
        .spec
        .node_affinity
        .as_ref()?
        .required
        .as_ref()?
        .node_selector_terms;
    let machine_bound = volume.spec.local.is_some() || volume.spec.host_path.is_some();
    let alternatives = terms.iter().map(|term| {
        let mut requirements = node_selector_term(term);
        requirements.retain(|r| !(machine_bound && &*r.key == labels::HOSTNAME));
        requirements
    });
    Some(alternatives.collect())
}
