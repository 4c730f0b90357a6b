"""Another endpoint, LocalStack: seeds it through its API with what the stand-in has for a launch, looks and sends messages.

    python -m plimsoll_cloud.elsewhere --endpoint http://127.0.0.1:4566 seed
    python -m plimsoll_cloud.elsewhere --endpoint http://127.0.0.1:4566 instances
    python -m plimsoll_cloud.elsewhere --endpoint http://127.0.0.1:4566 interrupt i-0123456789abcdef0
    python -m plimsoll_cloud.elsewhere --endpoint http://127.0.0.1:4566 lose subnet-0123456789abcdef0 ami-0123456789abcdef0

Each prints one line of JSON. What LocalStack does not have is missing from the line of `seed`: the EKS cluster, EKS
parameters, prices, the control endpoint. It verifies neither access keys nor permissions.
"""

import argparse
import json

import boto3

from . import policies

REGION = "us-east-1"
KEYS = {"access_key_id": "test", "secret_access_key": "test"}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="plimsoll_cloud.elsewhere", description=__doc__
    )
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--cluster", default="plimsoll-test")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("seed")
    commands.add_parser("instances")
    commands.add_parser("interrupt").add_argument("instance")
    lose_parser = commands.add_parser("lose")
    lose_parser.add_argument("subnet")
    lose_parser.add_argument("image")
    arguments = parser.parse_args()
    endpoint, cluster = arguments.endpoint, arguments.cluster
    match arguments.command:
        case "seed":
            answer = seed(endpoint, cluster)
        case "instances":
            answer = instances(endpoint)
        case "interrupt":
            answer = interrupt(endpoint, cluster, arguments.instance)
        case "lose":
            answer = lose(endpoint, cluster, arguments.subnet, arguments.image)
    print(json.dumps(answer), flush=True)


def client(endpoint: str, service: str):
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=KEYS["access_key_id"],
        aws_secret_access_key=KEYS["secret_access_key"],
    )


def instances(endpoint: str) -> list[dict]:
    """All instances, also terminated."""
    answer = client(endpoint, "ec2").describe_instances()
    return [
        {
            "id": instance["InstanceId"],
            "state": instance["State"]["Name"],
            "vpc": instance.get("VpcId"),
            "tags": {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])},
        }
        for reservation in answer["Reservations"]
        for instance in reservation["Instances"]
    ]


def interrupt(endpoint: str, cluster: str, instance: str) -> dict:
    """Puts a spot interruption warning into the queue as EventBridge would, and says how long the queue is."""
    sqs = client(endpoint, "sqs")
    url = sqs.get_queue_url(QueueName=cluster)["QueueUrl"]
    event = {
        "version": "0",
        "source": "aws.ec2",
        "detail-type": "EC2 Spot Instance Interruption Warning",
        "time": "2026-11-22T00:00:00Z",
        "region": REGION,
        "detail": {"instance-id": instance, "instance-action": "terminate"},
    }
    sqs.send_message(QueueUrl=url, MessageBody=json.dumps(event))
    attributes = sqs.get_queue_attributes(
        QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"]
    )["Attributes"]
    return {"messages": int(attributes["ApproximateNumberOfMessages"])}


def lose(endpoint: str, cluster: str, subnet: str, image: str) -> str:
    """Launches an instance with the cluster's tags for which there is no NodeClaim; its id."""
    tags = {
        f"kubernetes.io/cluster/{cluster}": "owned",
        "eks:eks-cluster-name": cluster,
        "karpenter.sh/nodepool": "default",
        "karpenter.k8s.aws/ec2nodeclass": "default",
    }
    answer = client(endpoint, "ec2").run_instances(
        ImageId=image,
        InstanceType="m5.large",
        SubnetId=subnet,
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[
            {
                "ResourceType": "instance",
                "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
            }
        ],
    )
    return answer["Instances"][0]["InstanceId"]


def seed(endpoint: str, cluster: str) -> dict:
    ec2, iam, sqs, sts = (
        client(endpoint, service) for service in ("ec2", "iam", "sqs", "sts")
    )
    # Its first answer takes half a minute, which is longer than a client waits.
    ec2.describe_instance_types(InstanceTypes=["m5.large"])
    account = sts.get_caller_identity()["Account"]

    def tags(kind: str, values: dict) -> list[dict]:
        return [
            {
                "ResourceType": kind,
                "Tags": [{"Key": k, "Value": v} for k, v in values.items()],
            }
        ]

    discovery = {"karpenter.sh/discovery": cluster}
    vpc = ec2.create_vpc(
        CidrBlock="10.0.0.0/16",
        TagSpecifications=tags("vpc", {f"kubernetes.io/cluster/{cluster}": "owned"}),
    )["Vpc"]["VpcId"]
    zones = [
        zone["ZoneName"]
        for zone in ec2.describe_availability_zones()["AvailabilityZones"]
    ][:3]
    subnets = {
        zone: ec2.create_subnet(
            VpcId=vpc,
            CidrBlock=f"10.0.{index * 32}.0/19",
            AvailabilityZone=zone,
            TagSpecifications=tags("subnet", discovery),
        )["Subnet"]["SubnetId"]
        for index, zone in enumerate(zones)
    }
    group = ec2.create_security_group(
        GroupName=f"{cluster}-node",
        Description="nodes of the cluster",
        VpcId=vpc,
        TagSpecifications=tags("security-group", discovery),
    )["GroupId"]
    # One it comes with: those that are registered have no architecture there.
    images = ec2.describe_images(
        Filters=[{"Name": "architecture", "Values": ["x86_64"]}]
    )["Images"]
    image = min(image["ImageId"] for image in images)

    def role(name: str, trust: dict) -> str:
        return iam.create_role(
            RoleName=name, AssumeRolePolicyDocument=json.dumps(trust)
        )["Role"]["Arn"]

    ec2_trust = {
        "Effect": "Allow",
        "Principal": {"Service": "ec2.amazonaws.com"},
        "Action": "sts:AssumeRole",
    }
    node_role = f"KarpenterNodeRole-{cluster}"
    node_role_arn = role(node_role, {"Version": "2012-10-17", "Statement": [ec2_trust]})
    profile = f"KarpenterNodeInstanceProfile-{cluster}"
    iam.create_instance_profile(InstanceProfileName=profile)
    iam.add_role_to_instance_profile(InstanceProfileName=profile, RoleName=node_role)
    external_id = f"8c1d5b1e-{cluster}"
    controller = f"plimsoll-{cluster}"
    controller_arn = role(
        controller, policies.trust([f"arn:aws:iam::{account}:root"], external_id)
    )
    document = policies.controller(account, REGION, cluster, vpc, node_role_arn)
    iam.put_role_policy(
        RoleName=controller, PolicyName="plimsoll", PolicyDocument=json.dumps(document)
    )
    queue_url = sqs.create_queue(
        QueueName=cluster, Attributes={"MessageRetentionPeriod": "300"}
    )["QueueUrl"]
    return {
        "endpoint": endpoint,
        "account": account,
        "region": REGION,
        "cluster": cluster,
        "vpc": vpc,
        "subnets": subnets,
        "security_groups": [group],
        "image": image,
        "node_role": node_role,
        "node_role_arn": node_role_arn,
        "instance_profile": profile,
        "controller_role_arn": controller_arn,
        "external_id": external_id,
        "operator": KEYS,
        "queue": cluster,
        "queue_url": queue_url,
    }


if __name__ == "__main__":
    main()
