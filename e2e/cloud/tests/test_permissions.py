import json

import pytest
from conftest import OWNED, ids, refusal

from plimsoll_cloud.iam import Check, UnknownOperator, verdict
from plimsoll_cloud.iam import refusal as evaluate


def allowed(condition: dict, context: dict) -> bool:
    statement = {
        "Effect": "Allow",
        "Action": "ec2:*",
        "Resource": "*",
        "Condition": condition,
    }
    return (
        verdict([{"Statement": statement}], Check("ec2:RunInstances", "arn:x", context))
        == "allow"
    )


@pytest.mark.parametrize(
    ("condition", "context", "expected"),
    [
        ({"StringEquals": {"aws:RequestTag/a": "1"}}, {"aws:RequestTag/a": "1"}, True),
        ({"StringEquals": {"aws:RequestTag/a": "1"}}, {"aws:RequestTag/A": "1"}, False),
        ({"StringEquals": {"AWS:requesttag/a": "1"}}, {"aws:RequestTag/a": "1"}, True),
        ({"StringEquals": {"aws:RequestTag/a": "1"}}, {}, False),
        ({"StringEqualsIfExists": {"aws:RequestTag/a": "1"}}, {}, True),
        ({"StringNotEquals": {"aws:RequestTag/a": "1"}}, {}, True),
        (
            {"StringNotEquals": {"aws:RequestTag/a": ["1", "2"]}},
            {"aws:RequestTag/a": "2"},
            False,
        ),
        ({"StringLike": {"aws:RequestTag/a": "x*"}}, {"aws:RequestTag/a": "xyz"}, True),
        (
            {"StringLike": {"aws:RequestTag/a": "x[y]"}},
            {"aws:RequestTag/a": "xy"},
            False,
        ),
        (
            {"StringEquals": {"aws:RequestTag/a": "x*"}},
            {"aws:RequestTag/a": "xyz"},
            False,
        ),
        ({"Null": {"ec2:CreateAction": "true"}}, {}, True),
        (
            {"Null": {"ec2:CreateAction": "true"}},
            {"ec2:CreateAction": "RunInstances"},
            False,
        ),
        (
            {"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}},
            {"aws:TagKeys": ["a", "b"]},
            True,
        ),
        (
            {"ForAllValues:StringEquals": {"aws:TagKeys": ["a", "b"]}},
            {"aws:TagKeys": ["a", "c"]},
            False,
        ),
        ({"ForAllValues:StringEquals": {"aws:TagKeys": ["a"]}}, {}, True),
        (
            {"ForAnyValue:StringEquals": {"aws:TagKeys": ["a"]}},
            {"aws:TagKeys": ["c", "a"]},
            True,
        ),
        ({"ForAnyValue:StringEquals": {"aws:TagKeys": ["a"]}}, {}, False),
        (
            {"StringEquals": {"aws:RequestTag/a": "${aws:PrincipalTag/c}"}},
            {"aws:RequestTag/a": "1", "aws:PrincipalTag/c": "1"},
            True,
        ),
        (
            {"StringEquals": {"a:b": "1"}, "Bool": {"a:c": "true"}},
            {"a:b": "1", "a:c": "false"},
            False,
        ),
    ],
)
def test_conditions(condition, context, expected):
    assert allowed(condition, context) is expected


def test_an_unknown_operator_is_an_error_and_not_a_guess():
    with pytest.raises(UnknownOperator):
        allowed(
            {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, {"aws:SourceIp": "10.0.0.1"}
        )


def test_deny_wins_and_a_session_policy_only_narrows():
    allow = {"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    deny = {
        "Statement": {
            "Effect": "Deny",
            "NotAction": "ec2:Describe*",
            "Resource": "arn:*:instance/*",
        }
    }
    check = Check("ec2:RunInstances", "arn:aws:ec2:us-east-1:1:instance/*")
    assert evaluate([allow], None, check) is None
    assert "explicit deny in an identity-based" in evaluate([allow, deny], None, check)
    assert "explicit deny in a session" in evaluate(
        [allow], {"Statement": [*allow["Statement"], deny["Statement"]]}, check
    )
    assert "no session policy allows" in evaluate([allow], {"Statement": []}, check)
    assert "no identity-based policy allows" in evaluate([], allow, check)


def test_the_controller_launches_tags_and_ends_what_is_its_own(cloud):
    ec2 = cloud.controller("ec2")
    template = cloud.template(ec2)
    [id_] = ids(cloud.fleet(ec2, template))
    ec2.create_tags(Resources=[id_], Tags=[{"Key": "Name", "Value": "node"}])
    ec2.terminate_instances(InstanceIds=[id_])
    ec2.delete_launch_template(LaunchTemplateName=template)
    entry = cloud.control("GET", "requests?mutating=true&action=ec2:CreateFleet")[-1]
    assert (
        entry["error"] is None
        and entry["request_tags"]["instance"]["karpenter.sh/nodepool"] == "default"
    )
    assert entry["session"]["external_id"] == cloud.ready["external_id"]
    kinds = {resource.split(":")[-1].split("/")[0] for resource in entry["resources"]}
    assert {
        "fleet",
        "instance",
        "volume",
        "network-interface",
        "subnet",
        "security-group",
        "image",
    } <= kinds
    assert "role" in kinds


@pytest.mark.parametrize("missing", [0, 1])
def test_no_launch_without_both_ownership_tags(cloud, missing):
    ec2 = cloud.controller("ec2")
    tags = [tag for index, tag in enumerate(OWNED) if index != missing]
    assert refusal(cloud.template, ec2, tags=tags)[0] == "UnauthorizedOperation"
    code, message = refusal(cloud.fleet, ec2, cloud.template(ec2), tags=tags)
    assert (
        code == "UnauthorizedOperation" and "no identity-based policy allows" in message
    )
    assert (
        refusal(cloud.fleet, ec2, cloud.template(ec2), tags=[])[0]
        == "UnauthorizedOperation"
    )


def test_no_launch_outside_the_cluster_s_vpc(cloud):
    ec2 = cloud.controller("ec2")
    override = [{"InstanceType": "m5.large", "SubnetId": cloud.ready["other_subnet"]}]
    assert (
        refusal(cloud.fleet, ec2, cloud.template(ec2), overrides=override)[0]
        == "UnauthorizedOperation"
    )
    interfaces = [{"DeviceIndex": 0, "Groups": [cloud.ready["other_security_group"]]}]
    code, message = refusal(
        cloud.fleet, ec2, cloud.template(ec2, NetworkInterfaces=interfaces)
    )
    assert code == "UnauthorizedOperation" and "security-group" in message


def test_no_call_to_another_region(cloud):
    credentials, template = cloud.assume(), cloud.template()
    ec2 = cloud.client("ec2", credentials, region="eu-central-1")
    code, message = refusal(cloud.fleet, ec2, template)
    assert code == "UnauthorizedOperation" and ":eu-central-1:" in message
    assert refusal(ec2.describe_instances)[0] == "UnauthorizedOperation"
    assert (
        refusal(
            cloud.client(
                "ec2", cloud.ready["admin"], region="eu-central-1"
            ).describe_vpcs
        )[0]
        == "Unsupported"
    )


def test_what_is_another_s_cannot_be_ended_nor_made_one_s_own(cloud):
    foreign = [{"Key": "kubernetes.io/cluster/another", "Value": "owned"}, OWNED[1]]
    [id_] = ids(cloud.fleet(tags=foreign))
    ec2 = cloud.controller("ec2")
    assert (
        refusal(ec2.terminate_instances, InstanceIds=[id_])[0]
        == "UnauthorizedOperation"
    )
    assert (
        refusal(ec2.create_tags, Resources=[id_], Tags=OWNED)[0]
        == "UnauthorizedOperation"
    )
    [own] = ids(cloud.fleet())
    assert (
        refusal(ec2.create_tags, Resources=[own], Tags=OWNED[:1])[0]
        == "UnauthorizedOperation"
    )
    assert (
        refusal(ec2.delete_tags, Resources=[own], Tags=OWNED[:1])[0]
        == "UnauthorizedOperation"
    )
    assert (
        refusal(ec2.terminate_instances, InstanceIds=[own, id_])[0]
        == "UnauthorizedOperation"
    )
    assert cloud.instances()[own]["state"] in ("pending", "running")


def test_only_the_node_role_is_passed(cloud):
    iam = cloud.admin("iam")
    iam.create_instance_profile(InstanceProfileName="strong")
    iam.add_role_to_instance_profile(
        InstanceProfileName="strong", RoleName="plimsoll-test-eks"
    )
    ec2 = cloud.controller("ec2")
    template = cloud.template(ec2, IamInstanceProfile={"Name": "strong"})
    code, message = refusal(cloud.fleet, ec2, template)
    assert code == "UnauthorizedOperation" and "iam:PassRole" in message
    assert any(
        arn.endswith("/strong")
        for arn in cloud.control("GET", "leftovers")["instance_profiles"]
    )
    iam.remove_role_from_instance_profile(
        InstanceProfileName="strong", RoleName="plimsoll-test-eks"
    )
    iam.delete_instance_profile(InstanceProfileName="strong")


def test_profiles_are_managed_by_their_tags(cloud):
    iam, name = cloud.controller("iam"), "plimsoll-test_1"
    tags = [OWNED[0], {"Key": "topology.kubernetes.io/region", "Value": "us-east-1"}]
    create = {
        "InstanceProfileName": name,
        "Path": "/karpenter/us-east-1/plimsoll-test/1/",
    }
    assert (
        refusal(iam.create_instance_profile, **create, Tags=tags[:1])[0]
        == "AccessDenied"
    )
    iam.create_instance_profile(**create, Tags=tags)
    role = {"InstanceProfileName": name, "RoleName": cloud.ready["node_role"]}
    iam.add_role_to_instance_profile(**role)
    listed = iam.list_instance_profiles(
        PathPrefix="/karpenter/us-east-1/plimsoll-test/"
    )["InstanceProfiles"]
    assert [profile["InstanceProfileName"] for profile in listed] == [name]
    iam.remove_role_from_instance_profile(**role)
    iam.delete_instance_profile(InstanceProfileName=name)
    seeded = cloud.ready["instance_profile"]
    assert (
        refusal(iam.delete_instance_profile, InstanceProfileName=seeded)[0]
        == "AccessDenied"
    )


def test_a_session_policy_is_enforced(cloud):
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    no_end = {"Effect": "Deny", "Action": "ec2:TerminateInstances", "Resource": "*"}
    ec2 = cloud.controller(
        "ec2",
        Policy=json.dumps({"Version": "2012-10-17", "Statement": [everything, no_end]}),
    )
    [id_] = ids(cloud.fleet(ec2, cloud.template(ec2)))
    code, message = refusal(ec2.terminate_instances, InstanceIds=[id_])
    assert (
        code == "UnauthorizedOperation"
        and "explicit deny in a session policy" in message
    )


def test_dry_run_tells_whether_it_would_be_allowed(cloud):
    ec2 = cloud.controller("ec2")
    template, before = cloud.template(ec2), set(cloud.instances())
    assert refusal(cloud.fleet, ec2, template, DryRun=True)[0] == "DryRunOperation"
    assert (
        refusal(cloud.fleet, ec2, template, tags=[], DryRun=True)[0]
        == "UnauthorizedOperation"
    )
    assert refusal(ec2.describe_instance_types, DryRun=True)[0] == "DryRunOperation"
    assert set(cloud.instances()) == before
    assert cloud.control("GET", "requests?action=ec2:CreateFleet")[-1]["dry_run"]


def test_messages_are_deleted_together_with_the_right_to_delete_one(cloud):
    sqs = cloud.controller("sqs")
    url = cloud.ready["queue_url"]
    cloud.control("POST", "messages", {"a": 1})
    messages = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
    entries = [
        {"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]}
        for n, message in enumerate(messages)
    ]
    answer = sqs.delete_message_batch(QueueUrl=url, Entries=entries)
    assert len(answer["Successful"]) == len(messages)


def test_karpenter_s_own_controller_may_do_everything_by_its_policy(cloud):
    ec2 = cloud.client("ec2", cloud.ready["karpenter"])
    template = cloud.template(ec2)
    assert (
        refusal(cloud.fleet, ec2, template, tags=[], DryRun=True)[0]
        == "DryRunOperation"
    )
    principals = {
        entry["principal"]
        for entry in cloud.control("GET", "requests?action=ec2:CreateFleet")
    }
    assert f"arn:aws:iam::{cloud.ready['account']}:user/karpenter" in principals
