//! Vectors: hashes that upstream computes for the same objects.

use serde_json::{Value, json};

use super::*;
use crate::cel_cases::merge;

/// A NodePool from the parts of its template; the base is one for EC2 with the default age.
fn pool(metadata: Value, spec: Value) -> NodePool {
    let mut pool = json!({
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": { "name": "default" },
        "spec": { "template": { "metadata": {}, "spec": {
            "requirements": [],
            "nodeClassRef": { "kind": "EC2NodeClass", "name": "default", "group": "karpenter.k8s.aws" },
            "expireAfter": "720h",
        } } },
    });
    merge(&mut pool["spec"]["template"]["metadata"], metadata);
    merge(&mut pool["spec"]["template"]["spec"], spec);
    serde_json::from_value(pool).unwrap()
}

#[test]
fn nodepool_hashes_are_those_of_karpenter_1_14() {
    let none = || json!({});
    let (no_schedule, no_execute) = (
        json!({ "key": "a", "value": "b", "effect": "NoSchedule" }),
        json!({ "key": "c", "effect": "NoExecute" }),
    );
    let cases = [
        ("nothing special", none(), none(), "6821555240594823858"),
        (
            "labels",
            json!({ "labels": { "env": "prod", "team": "a" } }),
            none(),
            "14252226014800573201",
        ),
        (
            "annotations",
            json!({ "annotations": { "x": "1", "y": "2" } }),
            none(),
            "729271414457366808",
        ),
        (
            "taints",
            none(),
            json!({ "taints": [no_schedule, no_execute] }),
            "10450290681353908783",
        ),
        (
            "taints the other way round",
            none(),
            json!({ "taints": [no_execute, no_schedule] }),
            "10450290681353908783",
        ),
        (
            "startup taints",
            none(),
            json!({ "startupTaints": [{ "key": "init", "effect": "NoSchedule" }] }),
            "1646104164292029158",
        ),
        (
            "never expires",
            none(),
            json!({ "expireAfter": "Never" }),
            "17369979337536258260",
        ),
        (
            "expires",
            none(),
            json!({ "expireAfter": "1h30m" }),
            "16514918240584495488",
        ),
        (
            "grace period",
            none(),
            json!({ "terminationGracePeriod": "30s" }),
            "15207872929294825797",
        ),
        (
            "requirements do not count",
            none(),
            json!({ "requirements": [{ "key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"] }] }),
            "6821555240594823858",
        ),
        (
            "class of another provider",
            none(),
            json!({ "nodeClassRef": { "kind": "KWOKNodeClass", "group": "karpenter.kwok.sh" } }),
            "12745407319442031341",
        ),
        (
            "everything",
            json!({ "labels": { "team": "a" }, "annotations": { "k": "v" } }),
            json!({
                "taints": [{ "key": "a", "effect": "NoSchedule" }],
                "startupTaints": [{ "key": "s", "value": "t", "effect": "NoExecute" }],
                "terminationGracePeriod": "1h0m0s",
                "expireAfter": "24h",
            }),
            "6342602611706724605",
        ),
    ];
    for (name, metadata, spec, expected) in cases {
        assert_eq!(nodepool_hash(&pool(metadata, spec)), expected, "{name}");
    }
}

#[test]
fn nodepool_hash_looks_at_values_and_at_presence() {
    let base = nodepool_hash(&pool(json!({}), json!({})));
    let text = nodepool_hash(&pool(json!({}), json!({ "expireAfter": "720h0m0s" })));
    assert_eq!(base, text, "the same duration in other words");
    // Go tells an empty list or map from an absent one.
    assert_ne!(base, nodepool_hash(&pool(json!({}), json!({ "taints": [] }))));
    assert_ne!(base, nodepool_hash(&pool(json!({ "labels": {} }), json!({}))));
    let dated =
        json!({ "taints": [{ "key": "a", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z" }] });
    let undated = json!({ "taints": [{ "key": "a", "effect": "NoExecute" }] });
    assert_ne!(
        nodepool_hash(&pool(json!({}), dated)),
        nodepool_hash(&pool(json!({}), undated))
    );
}

/// The EC2NodeClass of upstream's vectors, with changes laid on it.
fn ec2_spec(changes: Value) -> EC2NodeClassSpec {
    let mut spec = json!({
        "subnetSelectorTerms": [],
        "securityGroupSelectorTerms": [],
        "amiSelectorTerms": [],
        "amiFamily": "Custom",
        "associatePublicIPAddress": false,
        "userData": "userdata-test-1",
        "role": "role-1",
        "tags": { "keyTag-1": "valueTag-1", "keyTag-2": "valueTag-2" },
        "blockDeviceMappings": [
            { "deviceName": "map-device-1", "ebs": ebs() },
            { "deviceName": "map-device-2" },
        ],
        "detailedMonitoring": false,
        "metadataOptions": {
            "httpEndpoint": "disabled",
            "httpProtocolIPv6": "disabled",
            "httpPutResponseHopLimit": 1,
            "httpTokens": "optional",
        },
        "context": "fake-context",
    });
    merge(&mut spec, changes);
    serde_json::from_value(spec).unwrap()
}

fn ebs() -> Value {
    json!({
        "deleteOnTermination": false,
        "encrypted": false,
        "iops": 0,
        "kmsKeyID": "fakeKMSKeyID",
        "snapshotID": "fakeSnapshot",
        "throughput": 0,
        "volumeSize": "2G",
        "volumeType": "standard",
    })
}

#[test]
fn ec2nodeclass_hashes_are_those_of_the_aws_provider() {
    let bigger_volume = {
        let mut ebs = ebs();
        ebs["volumeSize"] = "10G".into();
        json!({ "blockDeviceMappings": [{ "deviceName": "map-device-1", "ebs": ebs }, { "deviceName": "map-device-2" }] })
    };
    let cases = [
        ("base", json!({}), "2608468723537941485", "11148166120438674859"),
        (
            "user data",
            json!({ "userData": "userdata-test-2" }),
            "2153344579995979450",
            "11774429238106843388",
        ),
        (
            "tags",
            json!({ "tags": { "keyTag-test-3": "valueTag-test-3" } }),
            "4608386791045313156",
            "9327338697296909506",
        ),
        (
            "context",
            json!({ "context": "context-2" }),
            "11612053647989098410",
            "2279761750428738028",
        ),
        (
            "monitoring",
            json!({ "detailedMonitoring": true }),
            "11845605438531206428",
            "1936848126751988570",
        ),
        (
            "instance store",
            json!({ "instanceStorePolicy": "RAID0" }),
            "6430637013089544585",
            "16697988646989909967",
        ),
        (
            "public address",
            json!({ "associatePublicIPAddress": true }),
            "6811176403923819181",
            "16141801171825097963",
        ),
        (
            "metadata hops",
            json!({ "metadataOptions": { "httpPutResponseHopLimit": 10 } }),
            "8968306366664488826",
            "14046948658064232764",
        ),
        (
            "volume size",
            bigger_volume,
            "3564293065344858862",
            "10372902467896351912",
        ),
        (
            "instance profile",
            json!({ "role": null, "instanceProfile": "test-instance-profile" }),
            "3585768058063247698",
            "10323991363677716244",
        ),
        (
            "connection tracking",
            json!({ "connectionTracking": { "tcpEstablishedTimeout": 300 } }),
            "12177489405137904098",
            "1619669030802245540",
        ),
        (
            "nested virtualization",
            json!({ "cpuOptions": { "nestedVirtualization": "enabled" } }),
            "17001101224536964682",
            "6157846767212910604",
        ),
    ];
    for (name, changes, v5, v6) in cases {
        let spec = ec2_spec(changes);
        assert_eq!(
            ec2nodeclass_hash(&spec, "test-ca-bundle", Ec2NodeClassHashVersion::V5),
            v5,
            "{name}, v5"
        );
        assert_eq!(
            ec2nodeclass_hash(&spec, "test-ca-bundle", Ec2NodeClassHashVersion::V6),
            v6,
            "{name}, v6"
        );
    }
}

#[test]
fn ec2nodeclass_hash_ignores_what_is_looked_up_again() {
    let hash = |changes| ec2nodeclass_hash(&ec2_spec(changes), "", Ec2NodeClassHashVersion::V5);
    let base = hash(json!({}));
    assert_eq!(
        base,
        hash(json!({ "subnetSelectorTerms": [{ "id": "subnet-1" }] }))
    );
    assert_eq!(
        base,
        hash(json!({ "securityGroupSelectorTerms": [{ "id": "sg-1" }] }))
    );
    assert_eq!(base, hash(json!({ "amiSelectorTerms": [{ "id": "ami-1" }] })));
    assert_eq!(base, hash(json!({ "ipPrefixCount": 3 })));
    assert_ne!(
        base,
        hash(json!({ "amiFamily": null, "amiSelectorTerms": [{ "alias": "al2023@latest" }] }))
    );
}

#[test]
fn ec2nodeclass_hash_sees_every_field_of_a_machine() {
    let changes = [
        json!({ "kubelet": { "maxPods": 10 } }),
        json!({ "kubelet": { "clusterDNS": ["10.0.0.10"] } }),
        json!({ "kubelet": { "evictionSoftGracePeriod": { "memory.available": "1m" } } }),
        json!({ "placementGroupSelector": { "name": "rack" } }),
        json!({ "placementGroupSelector": { "id": "pg-1" } }),
        json!({ "networkInterfaces": [{ "networkCardIndex": 0, "deviceIndex": 0, "interfaceType": "interface" }] }),
        json!({ "networkInterfaces": [{ "networkCardIndex": 1, "deviceIndex": 0, "interfaceType": "efa-only" }] }),
        json!({ "connectionTracking": { "udpStreamTimeout": 60 } }),
        json!({ "connectionTracking": { "udpTimeout": 60 } }),
        json!({ "blockDeviceMappings": [{ "deviceName": "x", "rootVolume": true }] }),
        json!({ "blockDeviceMappings": [{ "deviceName": "x" }] }),
        json!({ "blockDeviceMappings": [{ "ebs": { "volumeInitializationRate": 100 } }] }),
    ];
    for version in [Ec2NodeClassHashVersion::V5, Ec2NodeClassHashVersion::V6] {
        let mut hashes: Vec<_> = changes
            .iter()
            .map(|change| ec2nodeclass_hash(&ec2_spec(change.clone()), "", version))
            .collect();
        hashes.push(ec2nodeclass_hash(&ec2_spec(json!({})), "", version));
        hashes.sort();
        hashes.dedup();
        assert_eq!(hashes.len(), changes.len() + 1, "{version:?}");
    }
}

#[test]
fn volume_sizes_hash_in_canonical_form() {
    for (size, canonical) in [
        ("2G", "2G"),
        ("1000G", "1T"),
        ("1024Gi", "1Ti"),
        ("1000Gi", "1000Gi"),
        ("20Ti", "20Ti"),
        ("1500G", "1500G"),
    ] {
        assert_eq!(canonical_volume_size(&Quantity(size.to_owned())), canonical);
    }
}

#[test]
fn kubelet_text_has_sorted_keys() {
    let kubelet: KubeletConfiguration = serde_json::from_value(
        json!({ "podsPerCore": 2, "maxPods": 10, "kubeReserved": { "memory": "1Gi", "cpu": "1" } }),
    )
    .unwrap();
    assert_eq!(
        kubelet_json(Some(&kubelet)),
        r#"{"kubeReserved":{"cpu":"1","memory":"1Gi"},"maxPods":10,"podsPerCore":2}"#
    );
    assert_eq!(kubelet_json(None), "null");
}
