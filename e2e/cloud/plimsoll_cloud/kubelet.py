"""The Node that a kubelet registers: capacity and allocatable by instance type and settings, labels, taints."""

import hashlib
import math
import re

from .userdata import Kubelet, WouldNotJoin

# What the hypervisor and the kernel keep of a machine's memory; real ones lie between 2 and 7 %.
MEMORY_OVERHEAD = 0.04
# The kubelet refuses to label itself in these domains, but for the exceptions.
RESERVED_DOMAINS = ("kubernetes.io", "k8s.io")
ALLOWED_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")
ALLOWED_LABELS = {
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
}
SUFFIXES = {
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "": 1,
}
LABEL_VALUE = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
EFFECTS = {"NoSchedule", "PreferNoSchedule", "NoExecute"}


def quantity(text: str) -> float:
    """A Kubernetes quantity in base units."""
    match = re.fullmatch(r"([0-9.]+)(m|[KMGT]i|[kMGT])?", str(text))
    if not match:
        raise WouldNotJoin(f"the kubelet does not understand the quantity {text!r}")
    number, suffix = float(match[1]), match[2] or ""
    return number / 1000 if suffix == "m" else number * SUFFIXES[suffix]


def eni_limited_pods(info: dict) -> int:
    network = info["NetworkInfo"]
    card = network["NetworkCards"][network.get("DefaultNetworkCardIndex", 0)]
    return (
        card["MaximumNetworkInterfaces"] * (network["Ipv4AddressesPerInterface"] - 1)
        + 2
    )


def kube_reserved_cpu_milli(cores: int) -> int:
    milli = 0
    for core in range(cores):
        milli += 60 if core == 0 else 10 if core == 1 else 5 if core < 4 else 2.5
    return int(milli)


def _threshold(value: str, capacity: float) -> float:
    return (
        capacity * float(value.rstrip("%")) / 100
        if value.endswith("%")
        else quantity(value)
    )


def resources(info: dict, kubelet: Kubelet, disk_gib: int) -> tuple[dict, dict]:
    """Capacity and allocatable."""
    cores = info["VCpuInfo"]["DefaultVCpus"]
    memory = math.floor(info["MemoryInfo"]["SizeInMiB"] * 2**20 * (1 - MEMORY_OVERHEAD))
    told = kubelet.max_pods
    pods = eni_limited_pods(info) if told is None else int(told)
    if kubelet.pods_per_core:
        pods = min(pods, kubelet.pods_per_core * cores)
    if kubelet.raid0 and info.get("InstanceStorageInfo"):
        disk = info["InstanceStorageInfo"]["TotalSizeInGB"] * 10**9
    else:
        disk = disk_gib * 2**30
    kube_reserved = {
        "cpu": f"{kube_reserved_cpu_milli(cores)}m",
        "memory": f"{11 * eni_limited_pods(info) + 255}Mi",
        "ephemeral-storage": "1Gi",
    } | {key: str(value) for key, value in kubelet.kube_reserved.items()}
    eviction = {
        "memory.available": "100Mi",
        "nodefs.available": "10%",
    } | kubelet.eviction_hard
    reserved = [
        kube_reserved,
        {key: str(value) for key, value in kubelet.system_reserved.items()},
    ]

    def kept(resource: str) -> float:
        return sum(quantity(r[resource]) for r in reserved if resource in r)

    capacity = {
        "cpu": str(cores),
        "memory": f"{memory // 2**10}Ki",
        "ephemeral-storage": f"{math.floor(disk * 0.98) // 2**10}Ki",
        "pods": str(pods),
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
    }
    free_memory = (
        memory - kept("memory") - _threshold(eviction["memory.available"], memory)
    )
    free_disk = (
        disk * 0.98
        - kept("ephemeral-storage")
        - _threshold(eviction["nodefs.available"], disk * 0.98)
    )
    allocatable = capacity | {
        "cpu": f"{round(cores * 1000 - kept('cpu') * 1000)}m",
        "memory": f"{math.floor(free_memory) // 2**10}Ki",
        "ephemeral-storage": str(math.floor(free_disk)),
    }
    # Device plugins add these once they run; here they run at once.
    for name, count in _devices(info).items():
        capacity[name] = allocatable[name] = str(count)
    return capacity, allocatable


def _devices(info: dict) -> dict[str, int]:
    devices = {}
    for gpu in (info.get("GpuInfo") or {}).get("Gpus", []):
        name = {
            "NVIDIA": "nvidia.com/gpu",
            "AMD": "amd.com/gpu",
            "Habana": "habana.ai/gaudi",
        }.get(gpu["Manufacturer"])
        if name:
            devices[name] = devices.get(name, 0) + gpu["Count"]
    for device in (info.get("NeuronInfo") or {}).get("NeuronDevices", []):
        devices["aws.amazon.com/neuron"] = (
            devices.get("aws.amazon.com/neuron", 0) + device["Count"]
        )
    return devices


def _check_label(key: str, value: str) -> None:
    domain = key.rpartition("/")[0]

    def below(domains) -> bool:
        return any(domain == d or domain.endswith("." + d) for d in domains)

    if (
        below(RESERVED_DOMAINS)
        and not below(ALLOWED_DOMAINS)
        and key not in ALLOWED_LABELS
    ):
        raise WouldNotJoin(
            f"the kubelet refuses to start with the label {key} of a reserved domain in --node-labels"
        )
    if len(value) > 63 or not LABEL_VALUE.match(value):
        raise WouldNotJoin(f"the label value {value!r} of {key} is not valid")


def node(
    name: str,
    instance_id: str,
    zone: str,
    zone_id: str,
    region: str,
    info: dict,
    kubelet: Kubelet,
    address: str,
    disk_gib: int,
) -> dict:
    """The Node object, with what the kubelet and the cloud provider say of it."""
    for key, value in kubelet.labels.items():
        _check_label(key, str(value))
    for key, _, effect in kubelet.taints:
        if effect not in EFFECTS:
            raise WouldNotJoin(f"the taint {key} has the effect {effect!r}")
    architecture = (
        "arm64"
        if "arm64" in info["ProcessorInfo"]["SupportedArchitectures"]
        else "amd64"
    )
    capacity, allocatable = resources(info, kubelet, disk_gib)
    taints = [
        {"key": key, "value": value, "effect": effect}
        for key, value, effect in kubelet.taints
    ]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {key: str(value) for key, value in kubelet.labels.items()}
            | {
                "kubernetes.io/arch": architecture,
                "kubernetes.io/os": "linux",
                "kubernetes.io/hostname": name,
                "beta.kubernetes.io/arch": architecture,
                "beta.kubernetes.io/os": "linux",
                "node.kubernetes.io/instance-type": info["InstanceType"],
                "beta.kubernetes.io/instance-type": info["InstanceType"],
                "topology.kubernetes.io/zone": zone,
                "topology.kubernetes.io/region": region,
                "failure-domain.beta.kubernetes.io/zone": zone,
                "failure-domain.beta.kubernetes.io/region": region,
                "topology.k8s.aws/zone-id": zone_id,
            },
        },
        "spec": {
            "providerID": f"aws:///{zone}/{instance_id}",
            "taints": taints,
        },
        "status": {
            "capacity": capacity,
            "allocatable": allocatable,
            "addresses": [
                {"type": "InternalIP", "address": address},
                {"type": "InternalDNS", "address": name},
                {"type": "Hostname", "address": name},
            ],
            "nodeInfo": {
                "architecture": architecture,
                "operatingSystem": "linux",
                "bootID": instance_id,
                "machineID": hashlib.sha256(instance_id.encode()).hexdigest()[:32],
                "systemUUID": instance_id,
                "kernelVersion": "6.12.0",
                "osImage": "simulated",
                "containerRuntimeVersion": "containerd://2.1.0",
                "kubeletVersion": "v1.36.0",
                "kubeProxyVersion": "",
            },
            "conditions": [
                {
                    "type": "Ready",
                    "status": "False",
                    "reason": "KubeletNotReady",
                    "message": "the kubelet has just started",
                }
            ],
        },
    }
