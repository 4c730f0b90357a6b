from conftest import OWNED, codes, ids, refusal


def test_an_instance_has_all_that_its_template_says(cloud):
    answer = cloud.fleet(capacity_type="spot", zones=["us-east-1b"])
    [id_] = ids(answer)
    reservation = cloud.admin("ec2").describe_instances(InstanceIds=[id_])[
        "Reservations"
    ][0]
    instance = reservation["Instances"][0]
    assert [group["GroupId"] for group in instance["SecurityGroups"]] == cloud.ready[
        "security_groups"
    ]
    assert [
        g["GroupId"] for g in instance["NetworkInterfaces"][0]["Groups"]
    ] == cloud.ready["security_groups"]
    assert instance["InstanceLifecycle"] == "spot"
    assert instance["SpotInstanceRequestId"].startswith("sir-")
    assert instance["Placement"]["AvailabilityZone"] == "us-east-1b"
    assert instance["Placement"]["AvailabilityZoneId"] == "use1-az1"
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert instance["IamInstanceProfile"]["Arn"].endswith(
        cloud.ready["instance_profile"]
    )
    tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
    assert {tag["Key"]: tag["Value"] for tag in OWNED}.items() <= tags.items()
    assert tags["aws:ec2:fleet-id"] == answer["FleetId"]
    volume = instance["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    [volume] = cloud.admin("ec2").describe_volumes(VolumeIds=[volume])["Volumes"]
    assert (volume["Size"], volume["VolumeType"], volume["Encrypted"]) == (
        20,
        "gp3",
        True,
    )
    assert OWNED[0] in volume["Tags"]
    on_demand = ids(cloud.fleet())
    [reservation] = cloud.admin("ec2").describe_instances(InstanceIds=on_demand)[
        "Reservations"
    ]
    assert "SpotInstanceRequestId" not in reservation["Instances"][0]
    assert [
        g["GroupId"] for g in reservation["Instances"][0]["SecurityGroups"]
    ] == cloud.ready["security_groups"]


def test_a_pool_that_is_empty_sends_the_launch_to_the_next(cloud):
    cloud.control(
        "PUT",
        "capacity",
        [{"type": "m5.large", "capacity_type": "on-demand", "free": 0}],
    )
    answer = cloud.fleet(types=["m5.large", "m5.2xlarge"])
    assert codes(answer) == {"InsufficientInstanceCapacity"}
    assert len(answer["Errors"]) == 3
    error = answer["Errors"][0]
    assert (
        error["LaunchTemplateAndOverrides"]["Overrides"]["InstanceType"] == "m5.large"
    )
    assert error["Lifecycle"] == "on-demand"
    assert [instance["InstanceType"] for instance in answer["Instances"]] == [
        "m5.2xlarge"
    ]
    # The other capacity type has pools of its own.
    assert ids(cloud.fleet(types=["m5.large"], capacity_type="spot"))


def test_a_fleet_can_be_partial_and_what_ends_is_free_again(cloud):
    cloud.control(
        "PUT",
        "capacity",
        [{"free": 0}, {"type": "m5.large", "zone": "us-east-1a", "free": 2}],
    )
    answer = cloud.fleet(count=5)
    first = ids(answer)
    assert len(first) == 2 and codes(answer) == {"InsufficientInstanceCapacity"}
    none = cloud.fleet()
    assert ids(none) == [] and len(none["Errors"]) == 3
    cloud.admin("ec2").terminate_instances(InstanceIds=first[:1])
    assert len(ids(cloud.fleet(count=2))) == 1


def test_other_obstacles_have_codes_of_their_own(cloud):
    subnet = cloud.ready["subnets"]["us-east-1c"]
    cloud.control("PUT", "subnets", {subnet: 1})
    answer = cloud.fleet(zones=["us-east-1c"], count=2)
    assert len(ids(answer)) == 1 and codes(answer) == {
        "InsufficientFreeAddressesInSubnet"
    }
    [described] = cloud.admin("ec2").describe_subnets(SubnetIds=[subnet])["Subnets"]
    assert described["AvailableIpAddressCount"] == 0
    cloud.control("PUT", "subnets", {subnet: None})

    cloud.control("PUT", "faults", {"quota": {"on-demand": 0, "spot": 0}})
    assert codes(cloud.fleet()) == {"VcpuLimitExceeded"}
    assert codes(cloud.fleet(capacity_type="spot")) == {"MaxSpotInstanceCountExceeded"}
    cloud.control("DELETE", "faults")

    cloud.control("PUT", "capacity", [{"free": 0, "error": "Unsupported"}])
    assert codes(cloud.fleet()) == {"Unsupported"}
    # us-east-1c has no such type.
    cloud.control("PUT", "capacity", [])
    offered = cloud.admin("ec2").describe_instance_type_offerings(
        LocationType="availability-zone",
        Filters=[{"Name": "location", "Values": ["us-east-1c"]}],
    )["InstanceTypeOfferings"]
    everywhere = cloud.admin("ec2").describe_instance_type_offerings(
        LocationType="region"
    )["InstanceTypeOfferings"]
    missing = sorted(
        {o["InstanceType"] for o in everywhere} - {o["InstanceType"] for o in offered}
    )
    assert codes(cloud.fleet(types=missing[:1], zones=["us-east-1c"])) == {
        "InvalidFleetConfiguration"
    }


def test_allocation_strategies(cloud):
    def chosen(**arguments):
        return cloud.fleet(**arguments)["Instances"][0]["InstanceType"]

    assert chosen(types=["m5.4xlarge", "m5.large", "m5.xlarge"]) == "m5.large"
    for type_, price in (("m5.large", 0.09), ("m5.xlarge", 0.01)):
        spot = [
            {"type": type_, "zone": zone, "price": price}
            for zone in cloud.ready["subnets"]
        ]
        cloud.control("POST", "prices", {"spot": spot})
    both = {"types": ["m5.large", "m5.xlarge"], "capacity_type": "spot"}
    assert chosen(**both, strategy="price-capacity-optimized") == "m5.xlarge"
    # A pool that is about to run out is avoided although it is the cheapest.
    cloud.control("PUT", "capacity", [{"type": "m5.xlarge", "free": 1}])
    assert chosen(**both, strategy="price-capacity-optimized") == "m5.large"
    assert chosen(**both, strategy="lowest-price") == "m5.xlarge"
    cloud.control("PUT", "capacity", [])
    subnet = cloud.ready["subnets"]["us-east-1a"]
    overrides = [
        {"InstanceType": "m5.large", "SubnetId": subnet, "Priority": 2.0},
        {"InstanceType": "m5.4xlarge", "SubnetId": subnet, "Priority": 1.0},
    ]
    assert chosen(overrides=overrides, strategy="prioritized") == "m5.4xlarge"
    code, _ = refusal(cloud.fleet, strategy="whatever")
    assert code == "InvalidParameterValue"


def test_a_client_token_launches_once(cloud):
    template = cloud.template()
    first = cloud.fleet(template=template, ClientToken="claim-1")
    again = cloud.fleet(template=template, ClientToken="claim-1")
    assert ids(first) == ids(again) and first["FleetId"] == again["FleetId"]
    code, _ = refusal(cloud.fleet, template=template, ClientToken="claim-1", count=2)
    assert code == "IdempotentParameterMismatch"
    assert ids(cloud.fleet(template=template, ClientToken="claim-2")) != ids(first)


def test_a_lost_answer_is_found_again_by_its_token(cloud):
    template, before = cloud.template(), set(cloud.instances())
    error = {
        "action": "ec2:CreateFleet",
        "code": "InternalError",
        "status": 500,
        "after": True,
    }
    cloud.control("PUT", "faults", {"errors": [error]})
    code, _ = refusal(cloud.fleet, template=template, ClientToken="lost")
    assert code == "InternalError"
    [launched] = set(cloud.instances()) - before
    assert ids(cloud.fleet(template=template, ClientToken="lost")) == [launched]
    assert set(cloud.instances()) - before == {launched}


def test_what_a_fleet_names_must_exist(cloud):
    assert (
        refusal(cloud.fleet, template="no-such-template")[0]
        == "InvalidLaunchTemplateName.NotFoundException"
    )
    assert (
        refusal(cloud.fleet, template=cloud.template(ImageId="ami-0123"))[0]
        == "InvalidAMIID.NotFound"
    )
    template = cloud.template(IamInstanceProfile={"Name": "no-such-profile"})
    code, message = refusal(cloud.fleet, template=template)
    assert (
        code == "InvalidParameterValue"
        and "Invalid IAM Instance Profile name" in message
    )
    assert refusal(cloud.fleet, types=["m99.huge"])[0] == "InvalidParameterValue"


def test_templates_and_types_are_listed_to_the_end(cloud):
    ec2 = cloud.admin("ec2")
    for _ in range(17):
        cloud.template()
    pages = list(
        ec2.get_paginator("describe_launch_templates").paginate(
            PaginationConfig={"PageSize": 10}
        )
    )
    names = [
        template["LaunchTemplateName"]
        for page in pages
        for template in page["LaunchTemplates"]
    ]
    assert len(pages) > 1 and len(set(names)) == len(names) >= 17
    pages = list(
        ec2.get_paginator("describe_instance_types").paginate(
            PaginationConfig={"PageSize": 1000}
        )
    )
    assert len(pages) == 2 and sum(len(page["InstanceTypes"]) for page in pages) > 1300
