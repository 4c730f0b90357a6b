import json

import pytest
import requests
from conftest import refusal


def policy_of(length: int) -> str:
    """A session policy of exactly that many characters that allows everything."""
    statement = {"Effect": "Allow", "Action": "*", "Resource": "*", "Sid": ""}
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    statement["Sid"] = "s" * (length - len(json.dumps(policy)))
    return json.dumps(policy)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"ExternalId": None}, "AccessDenied"),
        ({"ExternalId": "another"}, "AccessDenied"),
        ({"RoleArn": "arn:aws:iam::123456789012:role/no-such-role"}, "AccessDenied"),
        (
            {
                "RoleArn": "arn:aws:iam::123456789012:role/KarpenterNodeRole-plimsoll-test"
            },
            "AccessDenied",
        ),
        ({"Policy": policy_of(2049)}, "ValidationError"),
        ({"Policy": "{}"}, "MalformedPolicyDocument"),
        ({"DurationSeconds": 7200}, "ValidationError"),
    ],
)
def test_assume_role_is_refused(cloud, arguments, code):
    assert refusal(cloud.assume, **arguments)[0] == code


def test_assume_role_with_all_that_it_needs(cloud):
    tags = [{"Key": "cluster", "Value": "plimsoll-test"}]
    session = cloud.controller("sts", Policy=policy_of(2048), Tags=tags)
    arn = session.get_caller_identity()["Arn"]
    assert (
        arn == "arn:aws:sts::123456789012:assumed-role/plimsoll-plimsoll-test/plimsoll"
    )
    entry = cloud.control("GET", "requests?action=sts:GetCallerIdentity")[-1]
    assert entry["principal"] == arn
    assert entry["session"]["external_id"] == cloud.ready["external_id"]
    assert entry["session"]["tags"] == {"cluster": "plimsoll-test"}
    assert len(entry["session"]["policy"]) == 2048


def test_pod_identity_and_irsa_lead_to_the_controller_role(cloud):
    pod = cloud.ready["pod_identity"]
    assert requests.get(pod["url"], timeout=600).status_code == 403
    answer = requests.get(
        pod["url"], headers={"Authorization": pod["token"]}, timeout=600
    ).json()
    web = cloud.client("sts", {"access_key_id": "none", "secret_access_key": "none"})
    irsa = web.assume_role_with_web_identity(
        RoleArn=cloud.ready["pod_role_arn"],
        RoleSessionName="irsa",
        WebIdentityToken="token",
    )["Credentials"]
    for key, secret, token in (
        (answer["AccessKeyId"], answer["SecretAccessKey"], answer["Token"]),
        (irsa["AccessKeyId"], irsa["SecretAccessKey"], irsa["SessionToken"]),
    ):
        sts = cloud.client(
            "sts", {"access_key_id": key, "secret_access_key": secret, "token": token}
        )
        role = {
            "RoleArn": cloud.ready["controller_role_arn"],
            "RoleSessionName": "plimsoll",
        }
        assert refusal(sts.assume_role, **role)[0] == "AccessDenied"
        assert sts.assume_role(**role, ExternalId=cloud.ready["external_id"])[
            "Credentials"
        ]


def test_unknown_keys_and_ended_sessions(cloud):
    unknown = {"access_key_id": "AKIAZZZZZZZZZZZZZZZZ", "secret_access_key": "none"}
    assert refusal(cloud.client("ec2", unknown).describe_instances)[0] == "AuthFailure"
    assert (
        refusal(cloud.client("sts", unknown).get_caller_identity)[0]
        == "InvalidClientTokenId"
    )
    credentials = cloud.assume()
    ec2 = cloud.client("ec2", credentials)
    ec2.describe_instances()
    cloud.control("POST", "expire-sessions")
    assert refusal(ec2.describe_instances)[0] == "RequestExpired"
    assert (
        refusal(cloud.client("sts", credentials).get_caller_identity)[0]
        == "ExpiredToken"
    )
    parameter = cloud.client("ssm", credentials).get_parameter
    assert refusal(parameter, Name="/aws/service/x")[0] == "ExpiredTokenException"


def test_a_role_without_rights_gets_nowhere(cloud):
    credentials = cloud.assume(RoleArn=cloud.ready["denied_role_arn"])
    code, message = refusal(cloud.client("ec2", credentials).describe_instances)
    assert code == "UnauthorizedOperation"
    assert "plimsoll-denied" in message and "ec2:DescribeInstances" in message
    code, _ = refusal(
        cloud.client("eks", credentials).describe_cluster, name="plimsoll-test"
    )
    assert code == "AccessDeniedException"
    code, _ = refusal(cloud.client("iam", credentials).list_instance_profiles)
    assert code == "AccessDenied"


def test_another_account_needs_both_sides(cloud):
    guest = cloud.ready["guest"]
    credentials = cloud.assume(RoleArn=guest["role_arn"])
    there = cloud.client("sts", credentials).get_caller_identity()
    assert there["Account"] == guest["account"] != cloud.ready["account"]
    subnets = cloud.client("ec2", credentials).describe_subnets()["Subnets"]
    seen = {subnet["SubnetId"] for subnet in subnets if not subnet["DefaultForAz"]}
    assert seen == set(guest["subnets"].values())
    # What EKS publishes is seen from everywhere, the cluster's queue is not.
    image = cloud.image()
    images = cloud.client("ec2", credentials).describe_images(ImageIds=[image])
    assert images["Images"][0]["ImageId"] == image
    queue = {"QueueName": cloud.ready["queue"]}
    sqs = cloud.client("sqs", credentials)
    assert refusal(sqs.get_queue_url, **queue)[0] == "AccessDeniedException"
    refused = {"RoleArn": guest["role_arn"], "ExternalId": "another"}
    assert refusal(cloud.assume, **refused)[0] == "AccessDenied"
    admin = cloud.admin("sts")
    # Trusted by nobody there, though it may do everything here.
    refused = {"RoleArn": guest["role_arn"], "RoleSessionName": "admin"}
    assert refusal(admin.assume_role, **refused)[0] == "AccessDenied"
