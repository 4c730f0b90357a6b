//! The CustomResourceDefinitions, as objects and as files.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Number, Value};

use crate::capacitybuffer::CapacityBuffer;
use crate::ec2nodeclass::EC2NodeClass;
use crate::nodeclaim::NodeClaim;
use crate::nodeoverlay::NodeOverlay;
use crate::nodepool::NodePool;
use crate::plan::Plan;
use crate::{kwoknodeclass, report, schema};

/// Why a CRD could not be written as YAML.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// The object could not be serialized.
    #[error("cannot serialize CRD {name}")]
    Json {
        /// Name of the CRD.
        name: String,
        /// What the serializer says.
        #[source]
        source: serde_json::Error,
    },
    /// The object could not be written.
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
    let derived = [
        NodePool::crd(),
        NodeClaim::crd(),
        NodeOverlay::crd(),
        EC2NodeClass::crd(),
        kwoknodeclass::crd(),
        CapacityBuffer::crd(),
        report::crd(),
        Plan::crd(),
    ];
    derived.into_iter().map(schema::normalize).collect()
}

/// The name of a CRD's file, group first, as controller-gen has it.
pub fn crd_file_name(crd: &CustomResourceDefinition) -> String {
    format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural)
}

/// A CRD as YAML, with sorted keys.
pub fn crd_yaml(crd: &CustomResourceDefinition) -> Result<String, CrdError> {
    let name = || crd.metadata.name.clone().unwrap_or_default();
    let mut value = serde_json::to_value(crd).map_err(|source| CrdError::Json { name: name(), source })?;
    whole_numbers(&mut value);
    serde_saphyr::to_string(&value).map_err(|source| CrdError::Yaml { name: name(), source })
}

/// Bounds are floating point numbers in the schema type, but every one of ours is a whole number and should read so.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        Value::Number(number) => {
            if let Some(float) = number.as_f64().filter(|float| float.fract() == 0.0) {
                *number = Number::from(float as i64);
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn yaml_reads_back_as_the_same_object() {
        for crd in crds() {
            let read: CustomResourceDefinition = serde_saphyr::from_str(&crd_yaml(&crd).unwrap()).unwrap();
            assert_eq!(read, crd);
        }
    }

    /// The files in crds/ are what users install. `PLIMSOLL_BLESS=1` rewrites them.
    #[test]
    fn committed_files_match_the_types() {
        let dir = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("../../crds");
        let bless = std::env::var_os("PLIMSOLL_BLESS").is_some();
        let mut expected: Vec<_> = crds()
            .iter()
            .map(|crd| (crd_file_name(crd), crd_yaml(crd).unwrap()))
            .collect();
        expected.sort();
        if bless {
            for (name, text) in &expected {
                std::fs::write(dir.join(name), text).unwrap();
            }
        }
        let mut found: Vec<_> = std::fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
            .map(|path| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                (name, std::fs::read_to_string(&path).unwrap())
            })
            .collect();
        found.sort();
        let names =
            |files: &[(String, String)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected));
        for ((name, committed), (_, derived)) in found.iter().zip(&expected) {
            assert!(
                committed == derived,
                "crds/{name} differs from the types; run the tests with PLIMSOLL_BLESS=1"
            );
        }
    }
}
