import json
from datetime import UTC, datetime

from conftest import refusal


def products(cloud, **filters):
    pages = (
        cloud.controller("pricing")
        .get_paginator("get_products")
        .paginate(
            ServiceCode="AmazonEC2",
            Filters=[
                {"Type": "TERM_MATCH", "Field": field, "Value": value}
                for field, value in filters.items()
            ],
        )
    )
    return [json.loads(entry) for page in pages for entry in page["PriceList"]]


def test_on_demand_prices(cloud):
    shared = products(
        cloud,
        regionCode="us-east-1",
        tenancy="Shared",
        productFamily="Compute Instance",
    )
    metal = products(
        cloud, tenancy="Dedicated", productFamily="Compute Instance (bare metal)"
    )
    prices = {}
    for entry in shared + metal:
        [term] = entry["terms"]["OnDemand"].values()
        [dimension] = term["priceDimensions"].values()
        prices[entry["product"]["attributes"]["instanceType"]] = float(
            dimension["pricePerUnit"]["USD"]
        )
    assert (
        len(prices) > 1300
        and prices["m5.large"] == 0.096
        and all(price > 0 for price in prices.values())
    )
    assert {e["product"]["attributes"]["instanceType"] for e in metal} >= {"m5.metal"}
    assert products(cloud, regionCode="eu-central-1") == []
    pricing = cloud.client(
        "pricing", cloud.assume(RoleArn=cloud.ready["denied_role_arn"])
    )
    assert (
        refusal(pricing.get_products, ServiceCode="AmazonEC2")[0]
        == "AccessDeniedException"
    )


def spot(cloud, **arguments):
    arguments = {
        "InstanceTypes": ["c5.large"],
        "StartTime": datetime.now(UTC),
    } | arguments
    return cloud.controller("ec2").describe_spot_price_history(**arguments)[
        "SpotPriceHistory"
    ]


def test_the_spot_market_moves_when_told(cloud):
    first = {
        entry["AvailabilityZone"]: float(entry["SpotPrice"]) for entry in spot(cloud)
    }
    assert len(first) >= 3 and len(set(first.values())) > 1
    assert all(0.25 * 0.085 <= price <= 0.65 * 0.085 + 1e-6 for price in first.values())
    assert spot(cloud)[0]["ProductDescription"] == "Linux/UNIX (Amazon VPC)"
    cloud.control("POST", "prices", {"steps": 1})
    second = {
        entry["AvailabilityZone"]: float(entry["SpotPrice"]) for entry in spot(cloud)
    }
    assert second != first
    cloud.control(
        "POST",
        "prices",
        {"spot": [{"type": "c5.large", "zone": "us-east-1a", "price": 0.5}]},
    )
    [entry] = spot(cloud, AvailabilityZone="us-east-1a")
    assert float(entry["SpotPrice"]) == 0.5
    history = spot(
        cloud,
        AvailabilityZone="us-east-1a",
        StartTime=datetime(2020, 1, 1, tzinfo=UTC),
    )
    assert len(history) >= 3 and [e["Timestamp"] for e in history] == sorted(
        (e["Timestamp"] for e in history), reverse=True
    )


def test_all_pools_have_a_spot_price_and_pages_end(cloud):
    pages = list(
        cloud.controller("ec2")
        .get_paginator("describe_spot_price_history")
        .paginate(StartTime=datetime.now(UTC), PaginationConfig={"PageSize": 2000})
    )
    pools = [
        (e["InstanceType"], e["AvailabilityZone"])
        for page in pages
        for e in page["SpotPriceHistory"]
    ]
    assert len(pages) > 1 and len(pools) == len(set(pools)) > 3000


def test_images_are_named_by_parameters(cloud):
    ssm, ec2 = cloud.controller("ssm"), cloud.controller("ec2")
    base = "/aws/service/eks/optimized-ami/1.36/amazon-linux-2023"
    names = [
        f"{base}/{variant}/recommended/image_id"
        for variant in ("x86_64/standard", "arm64/standard", "x86_64/neuron")
    ]
    names.append("/aws/service/bottlerocket/aws-k8s-1.36/arm64/latest/image_id")
    ids = {p["Name"]: p["Value"] for p in ssm.get_parameters(Names=names)["Parameters"]}
    assert set(ids) == set(names)
    images = {
        image["ImageId"]: image
        for image in ec2.describe_images(ImageIds=list(ids.values()))["Images"]
    }
    assert images[ids[names[1]]]["Architecture"] == "arm64"
    assert images[ids[names[0]]]["Name"].startswith(
        "amazon-eks-node-al2023-x86_64-standard-1.36-v2026"
    )
    assert images[ids[names[0]]]["ImageOwnerAlias"] == "amazon"
    pinned = f"{base}/x86_64/standard/{images[ids[names[0]]]['Name']}/image_id"
    assert ssm.get_parameter(Name=pinned)["Parameter"]["Value"] == ids[names[0]]
    assert (
        refusal(ssm.get_parameter, Name=f"{base}/x86_64/none/recommended/image_id")[0]
        == "ParameterNotFound"
    )
    published = cloud.control("POST", "amis", {"family": "al2023"})["images"]
    assert (
        ssm.get_parameter(Name=names[0])["Parameter"]["Value"]
        == published[0]
        != ids[names[0]]
    )
    assert ec2.describe_images(
        Owners=["amazon"],
        Filters=[
            {"Name": "name", "Values": ["amazon-eks-node-al2023-x86_64-standard-*"]}
        ],
    )["Images"][2:]


def test_the_network_is_found_by_tags(cloud):
    ec2 = cloud.controller("ec2")
    discovery = [{"Name": "tag:karpenter.sh/discovery", "Values": ["plimsoll-test"]}]
    subnets = ec2.describe_subnets(Filters=discovery)["Subnets"]
    assert {s["AvailabilityZone"]: s["SubnetId"] for s in subnets} == cloud.ready[
        "subnets"
    ]
    assert all(
        s["VpcId"] == cloud.ready["vpc"] and s["AvailableIpAddressCount"] > 8000
        for s in subnets
    )
    groups = ec2.describe_security_groups(Filters=discovery)["SecurityGroups"]
    assert [g["GroupId"] for g in groups] == cloud.ready["security_groups"]
    cluster = cloud.controller("eks").describe_cluster(name="plimsoll-test")["cluster"]
    assert (
        cluster["endpoint"] == cloud.ready["cluster_endpoint"]
        and cluster["version"] == "1.36"
    )
    assert cluster["certificateAuthority"]["data"] == cloud.ready["cluster_ca"]
    assert cluster["kubernetesNetworkConfig"]["serviceIpv4Cidr"] == "172.20.0.0/16"
    assert ec2.describe_capacity_reservations()["CapacityReservations"] == []
    assert ec2.describe_placement_groups()["PlacementGroups"] == []
