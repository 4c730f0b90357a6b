//! Cases of EC2NodeClass.

use serde_json::{Value, json};

use super::{Case, create, spec};

pub(super) fn base() -> Value {
    json!({
        "apiVersion": "karpenter.k8s.aws/v1",
        "kind": "EC2NodeClass",
        "metadata": {},
        "spec": {
            "role": "KarpenterNodeRole",
            "amiSelectorTerms": [{ "alias": "al2023@latest" }],
            "subnetSelectorTerms": [{ "tags": { "karpenter.sh/discovery": "cluster" } }],
            "securityGroupSelectorTerms": [{ "tags": { "karpenter.sh/discovery": "cluster" } }],
        },
    })
}

fn subnets(terms: Value) -> Value {
    spec("subnetSelectorTerms", terms)
}

fn security_groups(terms: Value) -> Value {
    spec("securityGroupSelectorTerms", terms)
}

fn reservations(terms: Value) -> Value {
    spec("capacityReservationSelectorTerms", terms)
}

/// Image terms, with a family so that they need no alias.
fn amis(terms: Value) -> Value {
    let mut change = json!({ "amiFamily": "Custom" });
    change["amiSelectorTerms"] = terms;
    spec("", change)
}

fn alias(alias: &str) -> Value {
    spec("amiSelectorTerms", json!([{ "alias": alias }]))
}

fn kubelet(value: Value) -> Value {
    spec("kubelet", value)
}

fn ebs(value: Value) -> Value {
    let mut mapping = json!({ "deviceName": "/dev/xvda" });
    mapping["ebs"] = value;
    spec("blockDeviceMappings", vec![mapping].into())
}

fn interfaces(value: Value) -> Value {
    spec("networkInterfaces", value)
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = selector_cases();
    cases.extend(ami_cases());
    cases.extend(identity_and_tag_cases());
    cases.extend(kubelet_cases());
    cases.extend(hardware_cases());
    cases
}

fn selector_cases() -> Vec<Case> {
    vec![
        create(
            "subnet terms are there",
            subnets(json!([{ "id": "subnet-1" }])),
            subnets(json!([])),
            "subnetSelectorTerms cannot be empty",
        ),
        create(
            "subnet terms select something",
            subnets(json!([{ "tags": { "Name": "*" } }])),
            subnets(json!([{}])),
            "each subnet selector term must have 'tags' or 'id'",
        ),
        create(
            // One term that keeps the rule is enough, as upstream has it.
            "a subnet id stands alone",
            subnets(json!([{ "id": "subnet-1", "tags": { "a": "b" } }, { "id": "subnet-2" }])),
            subnets(json!([{ "id": "subnet-1", "tags": { "a": "b" } }])),
            "'id' cannot be combined with other fields in a subnet selector term",
        ),
        create(
            "subnet tags are complete",
            subnets(json!([{ "tags": { "a": "*" } }])),
            subnets(json!([{ "tags": { "a": "" } }])),
            "empty tag keys or values are not supported",
        ),
        create(
            "subnet ids are subnet ids",
            subnets(json!([{ "id": "subnet-0a1b" }])),
            subnets(json!([{ "id": "sn-0a1b" }])),
            "spec.subnetSelectorTerms[0].id in body should match",
        ),
        create(
            "security group terms are there",
            security_groups(json!([{ "id": "sg-1" }])),
            security_groups(json!([])),
            "securityGroupSelectorTerms cannot be empty",
        ),
        create(
            "security group terms select something",
            security_groups(json!([{ "name": "nodes" }])),
            security_groups(json!([{}])),
            "each security group selector term must have 'tags', 'id' or 'name'",
        ),
        create(
            "a security group id stands alone",
            security_groups(json!([{ "id": "sg-1" }, { "name": "nodes" }])),
            security_groups(json!([{ "id": "sg-1", "name": "nodes" }])),
            "'id' cannot be combined with other fields in a security group selector term",
        ),
        create(
            "a security group name stands alone",
            security_groups(json!([{ "name": "nodes" }])),
            security_groups(json!([{ "name": "nodes", "tags": { "a": "b" } }])),
            "'name' cannot be combined with other fields in a security group selector term",
        ),
        create(
            "security group ids are security group ids",
            security_groups(json!([{ "id": "sg-0a1b" }])),
            security_groups(json!([{ "id": "group" }])),
            "spec.securityGroupSelectorTerms[0].id in body should match",
        ),
        create(
            "capacity reservation terms select something",
            reservations(json!([{ "instanceMatchCriteria": "open" }])),
            reservations(json!([{ "ownerID": "123456789012" }])),
            "each capacity reservation selector term must have 'tags', 'id' or 'instanceMatchCriteria'",
        ),
        create(
            "a capacity reservation id stands alone",
            reservations(json!([{ "id": "cr-1" }])),
            reservations(json!([{ "id": "cr-1", "ownerID": "123456789012" }])),
            "'id' cannot be combined with other fields in a capacity reservation selector term",
        ),
        create(
            "capacity reservation ids are capacity reservation ids",
            reservations(json!([{ "id": "cr-0a1b" }])),
            reservations(json!([{ "id": "my-cr-0a1b" }])),
            "spec.capacityReservationSelectorTerms[0].id in body should match",
        ),
        create(
            "capacity reservation owners are account ids",
            reservations(json!([{ "tags": { "a": "b" }, "ownerID": "123456789012" }])),
            reservations(json!([{ "tags": { "a": "b" }, "ownerID": "self" }])),
            "spec.capacityReservationSelectorTerms[0].ownerID in body should match",
        ),
        create(
            "a placement group is named once",
            spec("placementGroupSelector", json!({ "name": "rack" })),
            spec("placementGroupSelector", json!({ "name": "rack", "id": "pg-1" })),
            "must specify exactly one of 'name' and 'id'",
        ),
        create(
            "placement group ids are placement group ids",
            spec("placementGroupSelector", json!({ "id": "pg-0a1b" })),
            spec("placementGroupSelector", json!({ "id": "rack" })),
            "spec.placementGroupSelector.id in body should match",
        ),
    ]
}

fn ami_cases() -> Vec<Case> {
    vec![
        create(
            "image terms are there",
            amis(json!([{ "id": "ami-1" }])),
            amis(json!([])),
            "should have at least 1 items",
        ),
        create(
            "image terms select something",
            amis(json!([{ "ssmParameter": "/my/image" }])),
            amis(json!([{ "owner": "self" }])),
            "each AMI selector term must have 'tags', 'id', 'name', 'alias' or 'ssmParameter'",
        ),
        create(
            "an image id stands alone",
            amis(json!([{ "id": "ami-1" }, { "name": "image", "owner": "self" }])),
            amis(json!([{ "id": "ami-1", "name": "image" }])),
            "'id' cannot be combined with other fields in an AMI selector term",
        ),
        create(
            "an alias stands alone in its term",
            alias("al2023@v20260801"),
            spec(
                "amiSelectorTerms",
                json!([{ "alias": "al2023@latest", "owner": "amazon" }]),
            ),
            "'alias' cannot be combined with other fields in an AMI selector term",
        ),
        create(
            "an alias is the only term",
            alias("bottlerocket@1.30.0"),
            spec(
                "amiSelectorTerms",
                json!([{ "alias": "al2023@latest" }, { "id": "ami-1" }]),
            ),
            "'alias' must be the only AMI selector term",
        ),
        create(
            "an alias has a version",
            alias("al2@latest"),
            alias("al2023"),
            "'alias' must have the form",
        ),
        create(
            "an alias has a known family",
            alias("al2023@latest"),
            alias("ubuntu@latest"),
            "alias family must be one of",
        ),
        create(
            "windows aliases are not pinned",
            alias("windows2025@latest"),
            alias("windows2022@v1"),
            "windows families may only specify version 'latest'",
        ),
        create(
            "image ids are image ids",
            amis(json!([{ "id": "ami-0a1b" }])),
            amis(json!([{ "id": "image" }])),
            "spec.amiSelectorTerms[0].id in body should match",
        ),
        create(
            "a family is there without alias",
            amis(json!([{ "tags": { "a": "b" } }])),
            spec("amiSelectorTerms", json!([{ "tags": { "a": "b" } }])),
            "must specify amiFamily if amiSelectorTerms does not contain an alias",
        ),
        family(
            "the al2 alias agrees with the family",
            "al2@latest",
            "AL2",
            "alias family 'al2'",
        ),
        family(
            "the al2023 alias agrees with the family",
            "al2023@latest",
            "AL2023",
            "alias family 'al2023'",
        ),
        family(
            "the bottlerocket alias agrees with the family",
            "bottlerocket@latest",
            "Bottlerocket",
            "alias family 'bottlerocket'",
        ),
        family(
            "the windows2019 alias agrees with the family",
            "windows2019@latest",
            "Windows2019",
            "alias family 'windows2019'",
        ),
        family(
            "the windows2022 alias agrees with the family",
            "windows2022@latest",
            "Custom",
            "alias family 'windows2022'",
        ),
        family(
            "the windows2025 alias agrees with the family",
            "windows2025@latest",
            "Windows2025",
            "alias family 'windows2025'",
        ),
    ]
}

/// An alias with a family that fits, and with one that does not.
fn family(name: &'static str, alias: &str, fits: &str, error: &'static str) -> Case {
    let with = |family: &str| {
        spec(
            "",
            json!({ "amiSelectorTerms": [{ "alias": alias }], "amiFamily": family }),
        )
    };
    create(
        name,
        with(fits),
        with(if fits == "AL2" { "AL2023" } else { "AL2" }),
        error,
    )
}

fn identity_and_tag_cases() -> Vec<Case> {
    let tag = |key: &str| spec("tags", json!({ key: "x" }));
    vec![
        create(
            "there is a role or an instance profile",
            spec("", json!({ "role": null, "instanceProfile": "nodes" })),
            spec("role", Value::Null),
            "must specify exactly one of 'role' and 'instanceProfile'",
        ),
        create(
            "there are not both a role and an instance profile",
            json!({}),
            spec("instanceProfile", json!("nodes")),
            "must specify exactly one of 'role' and 'instanceProfile'",
        ),
        create(
            "role is not empty",
            json!({}),
            spec("role", json!("")),
            "role may not be empty",
        ),
        create(
            "instanceProfile is not empty",
            spec("", json!({ "role": null, "instanceProfile": "nodes" })),
            spec("", json!({ "role": null, "instanceProfile": "" })),
            "instanceProfile may not be empty",
        ),
        create(
            "tags have keys",
            tag("team"),
            tag(""),
            "empty tag keys are not supported",
        ),
        create(
            "tags do not name the EKS cluster",
            tag("eks:other"),
            tag("eks:eks-cluster-name"),
            "tag eks:eks-cluster-name is set by the controller",
        ),
        create(
            "tags do not claim a cluster",
            tag("example.com/cluster"),
            tag("kubernetes.io/cluster/other"),
            "tags with the prefix kubernetes.io/cluster are set by the controller",
        ),
        create(
            "tags do not name a pool",
            tag("nodepool"),
            tag("karpenter.sh/nodepool"),
            "tag karpenter.sh/nodepool is set by the controller",
        ),
        create(
            "tags do not name a claim",
            tag("nodeclaim"),
            tag("karpenter.sh/nodeclaim"),
            "tag karpenter.sh/nodeclaim is set by the controller",
        ),
        create(
            "tags do not name a class",
            tag("ec2nodeclass"),
            tag("karpenter.k8s.aws/ec2nodeclass"),
            "tag karpenter.k8s.aws/ec2nodeclass is set by the controller",
        ),
    ]
}

fn kubelet_cases() -> Vec<Case> {
    vec![
        create(
            "systemReserved has known resources",
            kubelet(
                json!({ "systemReserved": { "cpu": "100m", "memory": "1Gi", "ephemeral-storage": "1Gi", "pid": "100" } }),
            ),
            kubelet(json!({ "systemReserved": { "gpu": "1" } })),
            "valid keys for systemReserved are",
        ),
        create(
            "systemReserved is not negative",
            kubelet(json!({ "systemReserved": { "cpu": "0" } })),
            kubelet(json!({ "systemReserved": { "cpu": "-1" } })),
            "systemReserved value cannot be negative",
        ),
        create(
            "systemReserved is in quantities",
            kubelet(json!({ "systemReserved": { "cpu": "1.5" } })),
            kubelet(json!({ "systemReserved": { "cpu": "few" } })),
            "spec.kubelet.systemReserved.cpu in body should match",
        ),
        create(
            "kubeReserved has known resources",
            kubelet(json!({ "kubeReserved": { "cpu": "100m" } })),
            kubelet(json!({ "kubeReserved": { "pods": "1" } })),
            "valid keys for kubeReserved are",
        ),
        create(
            "kubeReserved is not negative",
            kubelet(json!({ "kubeReserved": { "memory": "1Gi" } })),
            kubelet(json!({ "kubeReserved": { "memory": "-1Gi" } })),
            "kubeReserved value cannot be negative",
        ),
        create(
            "kubeReserved is in quantities",
            kubelet(json!({ "kubeReserved": { "memory": "1e3" } })),
            kubelet(json!({ "kubeReserved": { "memory": "1GiB" } })),
            "spec.kubelet.kubeReserved.memory in body should match",
        ),
        create(
            "evictionHard has known signals",
            kubelet(json!({ "evictionHard": { "memory.available": "5%", "nodefs.inodesFree": "10%" } })),
            kubelet(json!({ "evictionHard": { "memory.free": "5%" } })),
            "valid keys for evictionHard are",
        ),
        create(
            "evictionHard has thresholds",
            kubelet(json!({ "evictionHard": { "memory.available": "100Mi" } })),
            kubelet(json!({ "evictionHard": { "memory.available": "101%" } })),
            "spec.kubelet.evictionHard.memory.available in body should match",
        ),
        create(
            "evictionSoft has known signals",
            soft("memory.available", "5%", "1m"),
            soft("memory.free", "5%", "1m"),
            "valid keys for evictionSoft are",
        ),
        create(
            "evictionSoftGracePeriod has known signals",
            soft("pid.available", "5%", "1m30s"),
            soft("pid.free", "5%", "1m30s"),
            "valid keys for evictionSoftGracePeriod are",
        ),
        create(
            "evictionSoft has thresholds",
            soft("nodefs.available", "100%", "1m"),
            soft("nodefs.available", "most", "1m"),
            "spec.kubelet.evictionSoft.nodefs.available in body should match",
        ),
        create(
            "soft thresholds have grace periods",
            soft("imagefs.available", "5%", "1m"),
            kubelet(json!({ "evictionSoft": { "imagefs.available": "5%" } })),
            "each key of evictionSoft must have a matching evictionSoftGracePeriod",
        ),
        create(
            "grace periods have soft thresholds",
            soft("imagefs.inodesFree", "5%", "1m"),
            kubelet(json!({ "evictionSoftGracePeriod": { "imagefs.inodesFree": "1m" } })),
            "each key of evictionSoftGracePeriod must have a matching evictionSoft",
        ),
        create(
            "image thresholds are in order",
            kubelet(json!({ "imageGCHighThresholdPercent": 85, "imageGCLowThresholdPercent": 80 })),
            kubelet(json!({ "imageGCHighThresholdPercent": 80, "imageGCLowThresholdPercent": 80 })),
            "imageGCHighThresholdPercent must be greater than imageGCLowThresholdPercent",
        ),
    ]
}

/// A soft threshold with its grace period.
fn soft(signal: &str, threshold: &str, period: &str) -> Value {
    kubelet(json!({ "evictionSoft": { signal: threshold }, "evictionSoftGracePeriod": { signal: period } }))
}

fn hardware_cases() -> Vec<Case> {
    let interface = |card: i32, device: i32, kind: &str| json!({ "networkCardIndex": card, "deviceIndex": device, "interfaceType": kind });
    vec![
        create(
            "there is one root volume",
            spec(
                "blockDeviceMappings",
                json!([{ "deviceName": "a", "rootVolume": true }, { "deviceName": "b" }]),
            ),
            spec(
                "blockDeviceMappings",
                json!([{ "deviceName": "a", "rootVolume": true }, { "deviceName": "b", "rootVolume": true }]),
            ),
            "at most one of blockDeviceMappings may have rootVolume",
        ),
        create(
            "a volume has a size or a snapshot",
            ebs(json!({ "snapshotID": "snap-1" })),
            ebs(json!({ "encrypted": true })),
            "snapshotID or volumeSize must be set",
        ),
        create(
            "an initialization rate has a snapshot",
            ebs(json!({ "snapshotID": "snap-1", "volumeInitializationRate": 100 })),
            ebs(json!({ "volumeSize": "20Gi", "volumeInitializationRate": 100 })),
            "volumeInitializationRate needs a snapshotID",
        ),
        create(
            "volume sizes are EC2's",
            ebs(json!({ "volumeSize": "58Ti" })),
            ebs(json!({ "volumeSize": "65T" })),
            "spec.blockDeviceMappings[0].ebs.volumeSize in body should match",
        ),
        create(
            "there is a first network interface",
            interfaces(json!([interface(0, 0, "interface"), interface(1, 0, "efa-only")])),
            interfaces(json!([interface(0, 1, "interface")])),
            "networkInterfaces must contain one with networkCardIndex 0, deviceIndex 0",
        ),
        create(
            "network interfaces have their own places",
            interfaces(json!([
                interface(0, 0, "interface"),
                interface(0, 1, "interface")
            ])),
            interfaces(json!([interface(0, 0, "interface"), interface(0, 0, "efa-only")])),
            "each pair of networkCardIndex and deviceIndex may be used once",
        ),
        create(
            "a network card has one EFA interface",
            interfaces(json!([
                interface(0, 0, "interface"),
                interface(0, 1, "efa-only"),
                interface(1, 0, "efa-only")
            ])),
            interfaces(json!([
                interface(0, 0, "interface"),
                interface(0, 1, "efa-only"),
                interface(0, 2, "efa-only")
            ])),
            "each network card may have at most one interface of type 'efa-only'",
        ),
        create(
            "metadata hops have a bound",
            spec("metadataOptions", json!({ "httpPutResponseHopLimit": 64 })),
            spec("metadataOptions", json!({ "httpPutResponseHopLimit": 65 })),
            "should be less than or equal to 64",
        ),
        create(
            "connection tracking tracks something",
            spec("connectionTracking", json!({ "udpTimeout": 60 })),
            spec("connectionTracking", json!({})),
            "connectionTracking must have at least one timeout",
        ),
    ]
}
