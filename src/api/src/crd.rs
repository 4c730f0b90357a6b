//! The CustomResourceDefinitions, as objects and as files.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::capacitybuffer::CapacityBuffer;
use crate::ec2nodeclass::EC2NodeClass;
use crate::kwoknodeclass::KWOKNodeClass;
use crate::nodeclaim::NodeClaim;
use crate::nodeoverlay::NodeOverlay;
use crate::nodepool::NodePool;
use crate::schema;

/// Why a CRD could not be written as YAML.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// The serializer failed.
    #[error("cannot write CRD {name} as YAML")]
    Yaml {
        /// Name of the CRD.
        name: String,
        /// What the serializer says.
        #[source]
        source: serde_saphyr::ser::Error,
    },
}

/// Every CRD the controller serves, in a fixed order.
pub fn crds() -> Vec<CustomResourceDefinition> {
    [
        NodePool::crd(),
        NodeClaim::crd(),
        NodeOverlay::crd(),
        EC2NodeClass::crd(),
        KWOKNodeClass::crd(),
        CapacityBuffer::crd(),
    ]
    .into_iter()
    .map(schema::normalize)
    .collect()
}

/// The name of a CRD's file, group first, as controller-gen has it.
pub fn crd_file_name(crd: &CustomResourceDefinition) -> String {
    format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural)
}

/// A CRD as YAML.
pub fn crd_yaml(crd: &CustomResourceDefinition) -> Result<String, CrdError> {
    serde_saphyr::to_string(crd).map_err(|source| CrdError::Yaml {
        name: crd.metadata.name.clone().unwrap_or_default(),
        source,
    })
}
