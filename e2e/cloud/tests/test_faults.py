import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import eventually, ids, refusal


def test_throttling_has_a_rate(cloud):
    ec2 = cloud.admin("ec2")
    cloud.control(
        "PUT",
        "faults",
        {"throttle": {"rate": 0.001, "burst": 3, "actions": ["ec2:DescribeSubnets"]}},
    )
    for _ in range(3):
        ec2.describe_subnets()
    with pytest.raises(Exception, match="RequestLimitExceeded") as error:
        ec2.describe_subnets()
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    ec2.describe_security_groups()
    entry = cloud.control("GET", "requests?action=ec2:DescribeSubnets")[-1]
    assert entry["error"] == "RequestLimitExceeded" and entry["principal"].endswith(
        "user/admin"
    )
    cloud.control("PUT", "faults", {"throttle": {"rate": 1000}})
    time.sleep(0.01)
    ec2.describe_subnets()


def test_new_instances_are_seen_late(cloud):
    ec2 = cloud.admin("ec2")
    cloud.control("PUT", "faults", {"visibility_delay_seconds": 3600})
    [late] = ids(cloud.fleet())
    tag = {"Resources": [late], "Tags": [{"Key": "a", "Value": "b"}]}
    assert (
        refusal(ec2.describe_instances, InstanceIds=[late])[0]
        == "InvalidInstanceID.NotFound"
    )
    assert (
        refusal(ec2.terminate_instances, InstanceIds=[late])[0]
        == "InvalidInstanceID.NotFound"
    )
    assert refusal(ec2.create_tags, **tag)[0] == "InvalidInstanceID.NotFound"

    def listed():
        pages = ec2.get_paginator("describe_instances").paginate()
        return {
            i["InstanceId"]
            for page in pages
            for r in page["Reservations"]
            for i in r["Instances"]
        }

    assert late not in listed() and late in cloud.instances()
    cloud.control("PUT", "faults", {"visibility_delay_seconds": 0.5})
    [soon] = ids(cloud.fleet())
    assert soon in eventually(lambda: listed() & {soon})
    ec2.terminate_instances(InstanceIds=[soon])


def test_an_instance_ends_in_steps(cloud):
    cloud.control("PUT", "faults", {"shutdown_seconds": 3600})
    ec2 = cloud.admin("ec2")
    [id_] = ids(cloud.fleet())
    eventually(lambda: cloud.instances()[id_]["state"] == "running")
    [ended] = ec2.terminate_instances(InstanceIds=[id_])["TerminatingInstances"]
    assert (ended["PreviousState"]["Name"], ended["CurrentState"]["Name"]) == (
        "running",
        "shutting-down",
    )
    ec2.terminate_instances(InstanceIds=[id_])
    assert cloud.instances()[id_]["state"] == "shutting-down"
    cloud.control("PUT", "faults", {"shutdown_seconds": 0})
    assert cloud.instances()[id_]["state"] == "terminated"
    assert id_ not in cloud.control("GET", "leftovers")["instances"]


def test_errors_come_as_often_as_asked(cloud):
    ec2 = cloud.admin("ec2")
    cloud.control(
        "PUT",
        "faults",
        {
            "errors": [
                {
                    "action": "ec2:DescribeSub*",
                    "code": "Unavailable",
                    "status": 503,
                    "count": 2,
                }
            ]
        },
    )
    for _ in range(2):
        assert refusal(ec2.describe_subnets)[0] == "Unavailable"
    ec2.describe_subnets()


def test_a_denial_counts_for_the_principals_it_names(cloud):
    cloud.control(
        "PUT",
        "faults",
        {
            "deny": [
                {
                    "principal": "*assumed-role/plimsoll-*",
                    "action": "ec2:DescribeSubnets",
                }
            ]
        },
    )
    assert (
        refusal(cloud.controller("ec2").describe_subnets)[0] == "UnauthorizedOperation"
    )
    cloud.admin("ec2").describe_subnets()


def test_a_denial_may_name_the_role_that_is_assumed(cloud):
    role = cloud.ready["controller_role_arn"]
    deny = [{"action": "sts:AssumeRole", "resource": role}]
    cloud.control("PUT", "faults", {"deny": deny})
    assert refusal(cloud.assume)[0] == "AccessDenied"
    deny[0]["resource"] = "*:role/another"
    cloud.control("PUT", "faults", {"deny": deny})
    cloud.assume()


def test_a_silence_ends_with_its_fault(cloud):
    ec2, silent = cloud.admin("ec2"), [{"action": "ec2:DescribeSubnets"}]
    cloud.control("PUT", "faults", {"silent": silent})
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(ec2.describe_subnets)
        cloud.admin("ec2").describe_vpcs()
        with pytest.raises(TimeoutError):
            answer.result(timeout=0.5)
        cloud.control("PUT", "faults", {"silent": []})
        assert answer.result()["Subnets"]


def test_an_answer_can_be_late(cloud):
    cloud.control(
        "PUT", "faults", {"answer_delay_seconds": {"ec2:DescribeSubnets": 0.5}}
    )
    begin = time.monotonic()
    cloud.admin("ec2").describe_subnets()
    assert time.monotonic() - begin >= 0.5


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("faults", {"throtle": {}}, "throtle"),
        ("faults", {"throttle": {"rate": 0}}, "rate"),
        ("faults", {"quota": {"reserved": 1}}, "reserved"),
        ("capacity", [{"kind": "m5.large"}], "kind"),
        ("capacity", [{"free": -1}], "-1"),
    ],
)
def test_what_the_control_endpoint_does_not_know(cloud, path, body, says):
    assert says in cloud.control("PUT", path, body, expect=400)["error"]
