import pytest
from conftest import eventually, ids

from plimsoll_cloud import kubelet
from plimsoll_cloud.userdata import Kubelet, WouldNotJoin

LABELS = "karpenter.sh/nodepool=default,karpenter.sh/capacity-type=on-demand,karpenter.sh/do-not-sync-taints=true"


def node_config(cloud, name=None, endpoint=None, ca=None, labels=LABELS) -> str:
    return f"""MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="//"

--//
Content-Type: application/node.eks.aws

apiVersion: node.eks.aws/v1alpha1
kind: NodeConfig
spec:
  cluster:
    name: {name or cloud.ready["cluster"]}
    apiServerEndpoint: {endpoint or cloud.ready["cluster_endpoint"]}
    certificateAuthority: {ca or cloud.ready["cluster_ca"]}
    cidr: 172.20.0.0/16
  kubelet:
    config:
      maxPods: 29
      registerWithTaints:
        - {{key: karpenter.sh/unregistered, effect: NoExecute}}
    flags:
      - --node-labels={labels}
--//--
"""


def bottlerocket(cloud) -> str:
    return f"""[settings.kubernetes]
cluster-name = "{cloud.ready["cluster"]}"
api-server = "{cloud.ready["cluster_endpoint"]}"
cluster-certificate = "{cloud.ready["cluster_ca"]}"
"""


def launch(cloud, user_data, **data) -> str:
    arguments = {"types": data.pop("types", ["m5.large"]), "zones": ["us-east-1b"]}
    [id_] = ids(
        cloud.fleet(template=cloud.template(user_data=user_data, **data), **arguments)
    )
    return id_


def test_a_node_joins_and_goes(cloud):
    id_ = launch(cloud, node_config(cloud))
    name = eventually(lambda: cloud.instances()[id_]["node"])
    instance, node = cloud.instances()[id_], cloud.api_server.nodes[name]
    assert instance["user_data"] == node_config(cloud)
    assert (
        name
        == instance["private_dns_name"]
        == f"ip-{instance['private_ip'].replace('.', '-')}.ec2.internal"
    )
    assert node["spec"]["providerID"] == f"aws:///us-east-1b/{id_}"
    assert node["spec"]["taints"] == [
        {"key": "karpenter.sh/unregistered", "value": "", "effect": "NoExecute"}
    ]
    assert node["metadata"]["annotations"] == {"kwok.x-k8s.io/node": "fake"}
    expected = {
        "karpenter.sh/nodepool": "default",
        "karpenter.sh/do-not-sync-taints": "true",
        "node.kubernetes.io/instance-type": "m5.large",
        "topology.kubernetes.io/zone": "us-east-1b",
        "topology.k8s.aws/zone-id": "use1-az1",
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/hostname": name,
    }
    assert expected.items() <= node["metadata"]["labels"].items()
    status = node["status"]
    assert (status["capacity"]["cpu"], status["capacity"]["pods"]) == ("2", "29")
    assert status["allocatable"]["cpu"] == "1930m"
    assert instance["joined_at"] >= instance["launched_at"]
    cloud.admin("ec2").terminate_instances(InstanceIds=[id_])
    eventually(lambda: name not in cloud.api_server.nodes)


def test_the_next_instance_with_an_address_keeps_its_node(cloud):
    first = launch(cloud, node_config(cloud))
    name = eventually(lambda: cloud.instances()[first]["node"])
    uid = cloud.api_server.nodes[name]["metadata"]["uid"]
    cloud.admin("ec2").terminate_instances(InstanceIds=[first])
    # The controller is quicker than the cloud node lifecycle controller.
    cloud.api_server.nodes.pop(name, None)
    second = launch(cloud, node_config(cloud))
    assert eventually(lambda: cloud.instances()[second]["node"]) == name
    eventually(lambda: cloud.instances()[first]["node"] is None)
    assert cloud.api_server.nodes[name]["metadata"]["uid"] != uid


def test_bottlerocket_joins(cloud):
    image = cloud.image("bottlerocket/aws-k8s-1.36/x86_64/latest")
    devices = [
        {"DeviceName": d, "Ebs": {"VolumeSize": s}}
        for d, s in (("/dev/xvda", 4), ("/dev/xvdb", 40))
    ]
    id_ = launch(cloud, bottlerocket(cloud), ImageId=image, BlockDeviceMappings=devices)
    name = eventually(lambda: cloud.instances()[id_]["node"])
    capacity = cloud.api_server.nodes[name]["status"]["capacity"]
    assert capacity["ephemeral-storage"] == f"{int(40 * 2**30 * 0.98) // 1024}Ki"
    assert capacity["pods"] == "29"


@pytest.mark.parametrize(
    ("user_data", "data", "reason"),
    [
        (lambda cloud: node_config(cloud, name="another"), {}, "cluster's name"),
        (lambda cloud: node_config(cloud, endpoint="https://10.0.0.1"), {}, "endpoint"),
        (lambda cloud: node_config(cloud, ca="Q0E="), {}, "certificate authority"),
        (
            lambda cloud: node_config(cloud, labels="node-role.kubernetes.io/x=y"),
            {},
            "reserved domain",
        ),
        (lambda cloud: "#!/bin/bash\n", {}, "no NodeConfig"),
        (bottlerocket, {}, "no NodeConfig"),
        (
            lambda cloud: node_config(cloud).replace("maxPods: 29", "maxPods: [29]"),
            {},
            "right form",
        ),
        (node_config, {"types": ["m6g.large"]}, "does not run"),
        (node_config, {"IamInstanceProfile": {}}, "no instance profile"),
    ],
)
def test_who_never_joins_and_why(cloud, user_data, data, reason):
    id_ = launch(cloud, user_data(cloud), **data)
    assert reason in eventually(lambda: cloud.instances()[id_]["join_error"])
    assert cloud.instances()[id_]["node"] is None
    assert any(
        id_ in line and reason in line for line in cloud.log.read_text().splitlines()
    )


def test_a_kubelet_can_be_kept_from_starting(cloud):
    cloud.control("PUT", "faults", {"never_join": ["m5.xlarge"]})
    never = launch(cloud, node_config(cloud), types=["m5.xlarge"])
    joins = launch(cloud, node_config(cloud))
    eventually(lambda: cloud.instances()[joins]["node"])
    assert cloud.instances()[never]["node"] is None
    cloud.control("DELETE", "faults")
    assert eventually(lambda: cloud.instances()[never]["node"])


INFO = {
    "InstanceType": "m5.xlarge",
    "VCpuInfo": {"DefaultVCpus": 4},
    "MemoryInfo": {"SizeInMiB": 16384},
    "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]},
    "NetworkInfo": {
        "DefaultNetworkCardIndex": 0,
        "Ipv4AddressesPerInterface": 15,
        "NetworkCards": [{"MaximumNetworkInterfaces": 4}],
    },
    "GpuInfo": {"Gpus": [{"Manufacturer": "NVIDIA", "Count": 2}]},
}


def test_allocatable_follows_the_kubelet_s_settings():
    capacity, allocatable = kubelet.resources(INFO, Kubelet("c", "e", "ca"), 20)
    memory = int(16384 * 2**20 * 0.96)
    assert capacity["pods"] == "58" and capacity["nvidia.com/gpu"] == "2"
    assert capacity["memory"] == f"{memory // 1024}Ki"
    assert allocatable["cpu"] == "3920m"
    assert (
        allocatable["memory"] == f"{(memory - (11 * 58 + 255 + 100) * 2**20) // 1024}Ki"
    )
    told = Kubelet("c", "e", "ca", max_pods=110, pods_per_core=10)
    told.kube_reserved = {"cpu": "1", "memory": "1Gi"}
    told.system_reserved = {"cpu": "500m"}
    told.eviction_hard = {"memory.available": "10%"}
    capacity, allocatable = kubelet.resources(INFO, told, 20)
    assert capacity["pods"] == "40" and allocatable["cpu"] == "2500m"
    assert allocatable["memory"] == f"{int(memory * 0.9 - 2**30) // 1024}Ki"


def test_a_kubelet_refuses_what_is_not_a_quantity_or_an_effect():
    with pytest.raises(WouldNotJoin, match="quantity"):
        kubelet.resources(
            INFO, Kubelet("c", "e", "ca", kube_reserved={"cpu": "much"}), 20
        )
    told = Kubelet("c", "e", "ca", taints=[("a", "b", "NoWay")])
    with pytest.raises(WouldNotJoin, match="NoWay"):
        kubelet.node(
            "n",
            "i-1",
            "us-east-1a",
            "use1-az6",
            "us-east-1",
            INFO,
            told,
            "10.0.0.1",
            20,
        )
