"""What is there before anybody calls: the network, the cluster, roles, images, the queue."""

import json

from moto.eks.models import eks_backends
from moto.sqs.models import sqs_backends

from . import images, policies
from .cloud import Cloud

OIDC_PROVIDER = "oidc.eks.us-east-1.amazonaws.com/id/PLIMSOLL"


def seed(cloud: Cloud, endpoint: str) -> dict:
    """Seeds everything and returns the ready line."""
    settings, cluster, ec2 = cloud.settings, cloud.cluster, cloud.ec2
    cloud.seeded["oidc_provider"] = OIDC_PROVIDER
    zones = [zone.name for zone in ec2.describe_availability_zones()][:3]
    vpc, subnets, group = _network(cloud, zones, "10.0")
    other_vpc = ec2.create_vpc("10.1.0.0/16")
    other_subnet = ec2.create_subnet(
        other_vpc.id, "10.1.0.0/19", availability_zone=zones[0]
    )
    other_group = ec2.create_security_group(
        "another-cluster-node", "nodes of another cluster", vpc_id=other_vpc.id
    )
    for resource in (other_vpc, other_subnet, other_group):
        resource.add_tags({"karpenter.sh/discovery": "another-cluster"})

    roles = _roles(cloud, vpc.id)
    eks = eks_backends[cloud.account][cloud.region]
    created = eks.create_cluster(
        name=cluster,
        role_arn=roles["cluster_role_arn"],
        resources_vpc_config={
            "subnetIds": list(subnets.values()),
            "securityGroupIds": [group.id],
            "vpcId": vpc.id,
        },
        version=settings.kubernetes_version,
        kubernetes_network_config={
            "ipFamily": "ipv4",
            "serviceIpv4Cidr": "172.20.0.0/16",
        },
    )
    created.endpoint = settings.cluster_endpoint
    created.certificate_authority = {"data": settings.cluster_ca}
    created.identity = {"oidc": {"issuer": f"https://{OIDC_PROVIDER}"}}
    images.seed(cloud)
    sqs_backends[cloud.account][cloud.region].create_queue(
        cluster, {}, MessageRetentionPeriod="300"
    )

    with cloud.acting_in(cloud.guest):
        guest = _guest(cloud, zones, roles)

    cloud.kept = {
        "instance_profiles": {
            profile.arn for profile in cloud.iam.instance_profiles.values()
        },
        "volumes": set(ec2.volumes),
    }
    cloud.seeded |= {
        "account": cloud.account,
        "region": cloud.region,
        "cluster": cluster,
        "kubernetes_version": settings.kubernetes_version,
        "cluster_arn": created.arn,
        "cluster_endpoint": settings.cluster_endpoint,
        "cluster_ca": settings.cluster_ca,
        "service_cidr": "172.20.0.0/16",
        "vpc": vpc.id,
        "other_vpc": other_vpc.id,
        "subnets": subnets,
        "security_groups": [group.id],
        "other_subnet": other_subnet.id,
        "other_security_group": other_group.id,
        **roles,
        "guest": guest,
        "pod_identity": {"url": f"{endpoint}/_credentials", "token": "pod-identity"},
        "queue": cluster,
        "queue_url": f"{endpoint}/{cloud.account}/{cluster}",
        "price_date": cloud.prices.date,
    }
    return cloud.seeded


def _network(cloud: Cloud, zones: list[str], range_: str):
    """A VPC of nodes of the cluster, its subnet by zone, and its security group."""
    cluster, ec2 = cloud.cluster, cloud.ec2
    vpc = ec2.create_vpc(f"{range_}.0.0/16")
    vpc.add_tags({f"kubernetes.io/cluster/{cluster}": "owned", "Name": cluster})
    subnets = {}
    for index, zone in enumerate(zones):
        subnet = ec2.create_subnet(
            vpc.id, f"{range_}.{index * 32}.0/19", availability_zone=zone
        )
        subnet.add_tags(
            {
                "Name": f"{cluster}-{zone}",
                "karpenter.sh/discovery": cluster,
                f"kubernetes.io/cluster/{cluster}": "shared",
                "kubernetes.io/role/internal-elb": "1",
            }
        )
        subnets[zone] = subnet.id
    group = ec2.create_security_group(
        f"{cluster}-node", "nodes of the cluster", vpc_id=vpc.id
    )
    group.add_tags({"karpenter.sh/discovery": cluster, "Name": f"{cluster}-node"})
    return vpc, subnets, group


def _guest(cloud: Cloud, zones: list[str], of_home: dict) -> dict:
    """The other account: a network for nodes, their role, and one that the cluster's controller may assume."""
    cluster = cloud.cluster
    vpc, subnets, group = _network(cloud, zones, "10.2")
    node_role = f"KarpenterNodeRole-{cluster}"
    node_role_arn = _role(cloud, node_role, _service("ec2.amazonaws.com"))
    trusted = [f"arn:aws:iam::{cloud.home}:user/operator", of_home["pod_role_arn"]]
    name = f"plimsoll-{cluster}"
    role_arn = _role(cloud, name, policies.trust(trusted, of_home["external_id"]))
    document = policies.controller(
        cloud.account, cloud.region, cluster, vpc.id, node_role_arn
    )
    document["Statement"] = [
        statement
        for statement in document["Statement"]
        if statement["Sid"] not in policies.HOME_ONLY
    ]
    cloud.iam.put_role_policy(name, "plimsoll", json.dumps(document))
    return {
        "account": cloud.account,
        "vpc": vpc.id,
        "subnets": subnets,
        "security_groups": [group.id],
        "node_role": node_role,
        "role_arn": role_arn,
    }


def _role(cloud: Cloud, name: str, trust: dict) -> str:
    role = cloud.iam.create_role(name, json.dumps(trust), "/", None, "", [], 3600)
    return role.arn


def _service(name: str) -> dict:
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": name},
        "Action": "sts:AssumeRole",
    }
    return {"Version": "2012-10-17", "Statement": [statement]}


def _roles(cloud: Cloud, vpc: str) -> dict:
    cluster, iam = cloud.cluster, cloud.iam

    def role(name: str, trust: dict) -> str:
        return _role(cloud, name, trust)

    node_role = f"KarpenterNodeRole-{cluster}"
    node_role_arn = role(node_role, _service("ec2.amazonaws.com"))
    profile = f"KarpenterNodeInstanceProfile-{cluster}"
    iam.create_instance_profile(profile, "/", [node_role], [])
    cluster_role_arn = role(f"{cluster}-eks", _service("eks.amazonaws.com"))

    operator = _user(cloud, "operator")
    admin = _user(cloud, "admin")
    karpenter = _user(cloud, "karpenter")
    pod_role = f"plimsoll-pod-{cluster}"
    web_identity = {
        "Effect": "Allow",
        "Principal": {
            "Federated": f"arn:aws:iam::{cloud.account}:oidc-provider/{OIDC_PROVIDER}"
        },
        "Action": "sts:AssumeRoleWithWebIdentity",
    }
    pod_identity = {
        "Effect": "Allow",
        "Principal": {"Service": "pods.eks.amazonaws.com"},
        "Action": ["sts:AssumeRole", "sts:TagSession"],
    }
    pod_role_arn = role(
        pod_role, {"Version": "2012-10-17", "Statement": [web_identity, pod_identity]}
    )

    external_id = f"8c1d5b1e-{cluster}"
    trust = policies.trust(
        [f"arn:aws:iam::{cloud.account}:user/operator", pod_role_arn], external_id
    )
    controller_role, denied_role = f"plimsoll-{cluster}", f"plimsoll-denied-{cluster}"
    controller_arn, denied_arn = role(controller_role, trust), role(denied_role, trust)
    document = policies.controller(
        cloud.account, cloud.region, cluster, vpc, node_role_arn
    )
    iam.put_role_policy(controller_role, "plimsoll", json.dumps(document))
    guest_arn = f"arn:aws:iam::{cloud.guest}:role/{controller_role}"
    may_assume = json.dumps(
        policies.may_assume([controller_arn, denied_arn, guest_arn])
    )
    iam.put_role_policy(pod_role, "assume", may_assume)
    iam.put_user_policy("operator", "assume", may_assume)
    iam.put_user_policy("karpenter", "all", json.dumps(policies.everything()))
    return {
        "node_role": node_role,
        "node_role_arn": node_role_arn,
        "cluster_role_arn": cluster_role_arn,
        "instance_profile": profile,
        "controller_role_arn": controller_arn,
        "denied_role_arn": denied_arn,
        "external_id": external_id,
        "pod_role_arn": pod_role_arn,
        "operator": operator,
        "admin": admin,
        "karpenter": karpenter,
    }


def _user(cloud: Cloud, name: str) -> dict:
    cloud.iam.create_user(cloud.region, name, path="/")
    key = cloud.iam.create_access_key(name)
    return {
        "access_key_id": key.access_key_id,
        "secret_access_key": key.secret_access_key,
    }
