//! What reports are made from.

use super::*;

#[test]
fn json_yaml_and_several_documents_say_the_same() {
    let items = half_empty();
    let whole = report_of(&items);
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    let yaml = serde_saphyr::to_string(&list).unwrap();
    assert_eq!(whole, report_of_dump(&dump::read(yaml.as_bytes()).unwrap()));
    let one_by_one: Vec<String> = items.iter().map(ToString::to_string).collect();
    assert_eq!(
        whole,
        report_of_dump(&dump::read(one_by_one.join("\n").as_bytes()).unwrap())
    );
    let documents: Vec<String> = items
        .iter()
        .map(|i| serde_saphyr::to_string(i).unwrap())
        .collect();
    assert_eq!(
        whole,
        report_of_dump(&dump::read(documents.join("\n---\n").as_bytes()).unwrap())
    );
}

#[test]
fn kinds_that_are_not_in_a_file_are_named_with_what_that_leaves_open() {
    let mut items = half_empty();
    let absent = read(&items).absent();
    // Nodes and pods are there.
    assert_eq!(absent.len(), 10, "{absent:#?}");
    let of_budgets = "no poddisruptionbudgets.policy in the file; where the cluster has some: budgets that forbid evictions \
                      are not seen";
    assert!(absent.iter().any(|note| note == of_budgets), "{absent:#?}");
    items.push(json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "b", "namespace": "shop" } }));
    assert!(!read(&items).absent().iter().any(|note| note == of_budgets));
}

#[test]
fn what_is_not_a_dump_says_so() {
    let error = |text: &str| dump::read(text.as_bytes()).unwrap_err();
    assert!(matches!(error(""), DumpError::Empty));
    assert!(matches!(error("{\"items\": ["), DumpError::Json(_)));
    assert!(matches!(
        error("{\"kind\": \"List\", \"items\": []}"),
        DumpError::Empty
    ));
    assert!(matches!(error("key: [unclosed"), DumpError::Yaml(_)));
    // Kinds that no report looks at, and what is no object at all, are not taken for an empty cluster.
    let service = "{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {\"name\": \"s\"}}";
    assert!(matches!(error(service), DumpError::Empty));
    assert!(matches!(error("a: b"), DumpError::Kind));
    assert!(matches!(error("{\"a\": \"b\"}"), DumpError::Kind));
    let nameless = "{\"kind\": \"List\", \"items\": [{\"a\": \"b\"}]}";
    assert!(matches!(error(nameless), DumpError::Unreadable(why) if why == "an item without kind"));
    assert!(matches!(error("- a: b"), DumpError::NotObject("a bare list")));
    assert!(matches!(
        error("hello, world"),
        DumpError::NotObject("plain text")
    ));
    let gzip = dump::read([0x1f, 0x8b, 8, 0].as_slice()).unwrap_err();
    assert!(
        matches!(gzip, DumpError::Gzip) && gzip.to_string().contains("gunzip"),
        "{gzip}"
    );
    let newer = "{\"kind\": \"Snapshot\", \"version\": 99, \"items\": []}";
    assert!(matches!(error(newer), DumpError::Version(99)));
    let broken = read(&[
        json!({ "apiVersion": "v1", "kind": "Node", "spec": 3 }),
        half_empty()[0].clone(),
    ]);
    assert_eq!((broken.objects, broken.unreadable.len()), (1, 1));
}

/// Everything that could give a secret away, in every kind that has a place for it.
fn with_canaries(items: &mut Vec<Value>) {
    const CANARY: &str = "CANARY-7f3a";
    let container = json!({
        "name": "CANARY-7f3a", "image": "shop/app:1", "command": [CANARY], "args": [CANARY], "workingDir": CANARY,
        "env": [{ "name": CANARY, "value": CANARY }, { "name": "X", "valueFrom": { "secretKeyRef": { "name": CANARY, "key": CANARY } } }],
        "envFrom": [{ "configMapRef": { "name": CANARY } }],
        "lifecycle": { "preStop": { "exec": { "command": [CANARY] } } },
        "livenessProbe": { "httpGet": { "path": CANARY, "port": 80, "httpHeaders": [{ "name": CANARY, "value": CANARY }] } },
        "volumeMounts": [{ "name": CANARY, "mountPath": CANARY }],
        "resources": { "requests": { "cpu": "1", "memory": "2Gi" }, "limits": { "cpu": "1" } },
        "ports": [{ "name": CANARY, "containerPort": 80 }],
    });
    let meta = json!({
        "annotations": { "kubectl.kubernetes.io/last-applied-configuration": CANARY, "note": CANARY },
        "labels": { "unlisted": CANARY }, "finalizers": [CANARY], "generateName": CANARY, "selfLink": CANARY,
        "managedFields": [{ "manager": CANARY, "fieldsV1": { "f:CANARY-7f3a": {} } }],
    });
    let spec = json!({
        "containers": [container], "initContainers": [container], "ephemeralContainers": [container],
        "serviceAccountName": CANARY, "imagePullSecrets": [{ "name": CANARY }], "hostname": CANARY, "subdomain": CANARY,
        "hostAliases": [{ "ip": "1.1.1.1", "hostnames": [CANARY] }], "securityContext": { "seLinuxOptions": { "user": CANARY } },
        "dnsConfig": { "searches": [CANARY] },
        "volumes": [
            { "name": "a", "secret": { "secretName": CANARY } }, { "name": "b", "configMap": { "name": CANARY } },
            { "name": "c", "hostPath": { "path": CANARY } }, { "name": "d", "csi": { "driver": CANARY, "volumeAttributes": { "k": CANARY } } },
            { "name": "e", "projected": { "sources": [{ "secret": { "name": CANARY } }] } },
            { "name": "f", "ephemeral": { "volumeClaimTemplate": { "metadata": { "annotations": { "k": CANARY } } } } },
        ],
    });
    let status = json!({ "message": CANARY, "reason": CANARY, "podIP": CANARY, "containerStatuses": [{ "name": CANARY, "image": CANARY }],
        "conditions": [{ "type": "Ready", "status": "True", "message": CANARY }] });
    for item in items.iter_mut() {
        let is_pod = item["kind"] == "Pod";
        merge(item, json!({ "metadata": meta }));
        if is_pod {
            merge(item, json!({ "spec": spec, "status": status }));
        } else {
            merge(
                item,
                json!({ "status": { "images": [{ "names": [CANARY] }], "addresses": [{ "type": "InternalIP", "address": CANARY }],
                "nodeInfo": { "machineID": CANARY } } }),
            );
        }
    }
    let object = |api_version: &str, kind: &str, body: Value| {
        let mut object = json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": kind.to_lowercase(), "namespace": "shop" } });
        merge(&mut object, json!({ "metadata": meta }));
        merge(&mut object, body);
        object
    };
    let template = json!({ "spec": { "template": { "metadata": meta, "spec": spec } } });
    for (api_version, kind) in [
        ("apps/v1", "Deployment"),
        ("apps/v1", "DaemonSet"),
        ("apps/v1", "StatefulSet"),
        ("batch/v1", "Job"),
        ("argoproj.io/v1alpha1", "Rollout"),
    ] {
        items.push(object(api_version, kind, template.clone()));
    }
    items.push(object(
        "batch/v1",
        "CronJob",
        json!({ "spec": { "jobTemplate": template } }),
    ));
    items.push(object("v1", "Secret", json!({ "data": { "k": CANARY } })));
    items.push(object("v1", "ConfigMap", json!({ "data": { "k": CANARY } })));
    items.push(object("v1", "Namespace", json!({})));
    items.push(object(
        "v1",
        "PersistentVolumeClaim",
        json!({ "spec": { "volumeName": "v", "dataSource": { "name": CANARY } } }),
    ));
    items.push(object("v1", "PersistentVolume", json!({ "spec": { "csi": { "driver": "d", "volumeHandle": "h",
        "volumeAttributes": { "k": CANARY }, "nodeStageSecretRef": { "name": CANARY } }, "mountOptions": [CANARY] } })));
    items.push(object(
        "storage.k8s.io/v1",
        "StorageClass",
        json!({ "provisioner": "p", "parameters": { "k": CANARY } }),
    ));
    items.push(object(
        "storage.k8s.io/v1",
        "CSINode",
        json!({ "spec": { "drivers": [{ "name": "ebs.csi.aws.com", "nodeID": "i-0", "topologyKeys": [CANARY] }] } }),
    ));
    items.push(object("storage.k8s.io/v1", "VolumeAttachment", json!({
        "spec": { "attacher": "ebs.csi.aws.com", "nodeName": "n0", "source": { "persistentVolumeName": "v",
            "inlineVolumeSpec": { "csi": { "driver": "d", "volumeHandle": CANARY, "volumeAttributes": { "k": CANARY } } } } },
        "status": { "attached": true, "attachmentMetadata": { "k": CANARY }, "attachError": { "message": CANARY } } })));
    items.push(object("karpenter.sh/v1", "NodePool", json!({ "spec": { "disruption": { "consolidateAfter": "30s" }, "template": {
        "metadata": { "annotations": { "k": CANARY } },
        "spec": { "requirements": [], "nodeClassRef": { "group": "g", "kind": "K", "name": "n" } } } },
        "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "Ready", "message": CANARY, "lastTransitionTime": "2026-01-01T00:00:00Z" }] } })));
    items.push(object("karpenter.sh/v1", "NodeClaim", json!({ "spec": { "requirements": [], "nodeClassRef": { "group": "g", "kind": "K", "name": "n" } },
        "status": { "imageID": CANARY, "conditions": [{ "type": "Ready", "status": "True", "reason": "Ready", "message": CANARY, "lastTransitionTime": "2026-01-01T00:00:00Z" }] } })));
    let list = json!({ "items": items }).to_string();
    assert!(list.matches(CANARY).count() > 300, "the canaries are in place");
}

fn written(items: &[Value]) -> String {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    let (redactor, _) = snapshot::from_file(list.to_string().as_bytes()).unwrap();
    let mut out = Vec::new();
    snapshot::write(redactor, taken(), &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_snapshot_gives_the_same_report_and_holds_no_secret() {
    let mut items = half_empty();
    items.push(json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "web", "namespace": "shop" },
        "spec": { "maxUnavailable": 1, "selector": { "matchLabels": { "app": "web" } } },
        "status": { "disruptionsAllowed": 1, "currentHealthy": 6, "desiredHealthy": 5, "expectedPods": 6 },
    }));
    with_canaries(&mut items);
    let text = written(&items);
    assert!(!text.contains("CANARY"), "{text}");
    let again = dump::read(text.as_bytes()).unwrap();
    assert!(again.unreadable.is_empty(), "{:?}", again.unreadable);
    assert_eq!(again.taken, Some(taken()));
    let direct = read(&items);
    assert_eq!(direct.unreadable, Vec::<String>::new());
    assert_eq!(again.objects, direct.objects);
    assert_eq!(report_of_dump(&again), report_of_dump(&direct));
    // A snapshot of a snapshot is the same snapshot.
    let (redactor, when) = snapshot::from_file(text.as_bytes()).unwrap();
    let mut out = Vec::new();
    snapshot::write(redactor, when.unwrap(), &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), text);
}
