//! What a user calls the thing a pod belongs to.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Label a Deployment puts on its pods; the name of the ReplicaSet between ends with its value.
const POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// Digits a CronJob appends to the names of its Jobs: the scheduled minute since 1970.
const CRON_DIGITS: usize = 8;

/// `Kind/name` of the workload. The ReplicaSet of a Deployment and the Job of a CronJob are seen through by their names,
/// so that those objects need not be read.
pub(crate) fn of(owners: &[OwnerReference], meta: &ObjectMeta) -> Option<Arc<str>> {
    let owner = owners
        .iter()
        .find(|o| o.controller == Some(true))
        .or(owners.first())?;
    let hash = meta.labels.as_ref().and_then(|l| l.get(POD_TEMPLATE_HASH));
    let (kind, name) = match owner.kind.as_str() {
        "ReplicaSet" => match hash.and_then(|h| owner.name.strip_suffix(h.as_str())?.strip_suffix('-')) {
            Some(deployment) => ("Deployment", deployment),
            None => ("ReplicaSet", owner.name.as_str()),
        },
        "Job" => match owner.name.rsplit_once('-') {
            Some((cron, minute))
                if minute.len() >= CRON_DIGITS && minute.bytes().all(|b| b.is_ascii_digit()) =>
            {
                ("CronJob", cron)
            }
            _ => ("Job", owner.name.as_str()),
        },
        kind => (kind, owner.name.as_str()),
    };
    Some(format!("{kind}/{name}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(kind: &str, name: &str, hash: Option<&str>) -> Option<String> {
        let owner = OwnerReference {
            kind: kind.into(),
            name: name.into(),
            ..OwnerReference::default()
        };
        let meta = ObjectMeta {
            labels: hash.map(|h| [(POD_TEMPLATE_HASH.to_owned(), h.to_owned())].into()),
            ..ObjectMeta::default()
        };
        of(&[owner], &meta).map(|w| w.to_string())
    }

    #[test]
    fn replica_sets_and_jobs_are_seen_through() {
        let of = |kind, name, hash| workload(kind, name, hash).unwrap();
        assert_eq!(of("ReplicaSet", "web-5d4f8b", Some("5d4f8b")), "Deployment/web");
        assert_eq!(of("ReplicaSet", "web-5d4f8b", None), "ReplicaSet/web-5d4f8b");
        assert_eq!(of("Job", "backup-29384720", None), "CronJob/backup");
        assert_eq!(of("Job", "migrate-2", None), "Job/migrate-2");
        assert_eq!(of("StatefulSet", "db", None), "StatefulSet/db");
        assert_eq!(super::of(&[], &ObjectMeta::default()), None);
    }
}
