"""The permissions of the seeded controller role: what a node provider needs for one cluster, and no more.

Launches only with both ownership tags and in the cluster's VPC; tags only at creation, later only an allow-list of keys
and never the ownership keys; ends only what carries both tags; passes one role to EC2.
"""

CREATED = [
    "fleet",
    "instance",
    "volume",
    "network-interface",
    "launch-template",
    "spot-instances-request",
]
# What a role needs only where the cluster is, not where some of its machines are.
HOME_ONLY = {"Cluster", "Queue"}
LATER_KEYS = ["eks:eks-cluster-name", "karpenter.sh/nodeclaim", "Name"]


def controller(
    account: str, region: str, cluster: str, vpc: str, node_role_arn: str
) -> dict:
    owned = f"kubernetes.io/cluster/{cluster}"
    pool = "karpenter.sh/nodepool"

    def ec2(kind: str, name: str = "*", owner: str = account) -> str:
        return f"arn:aws:ec2:{region}:{owner}:{kind}/{name}"

    def iam(resource: str) -> str:
        return f"arn:aws:iam::{account}:{resource}"

    launches = ["ec2:RunInstances", "ec2:CreateFleet"]
    with_tags = {
        "StringEquals": {f"aws:RequestTag/{owned}": "owned"},
        "StringLike": {f"aws:RequestTag/{pool}": "*"},
    }
    ours = {
        "StringEquals": {f"aws:ResourceTag/{owned}": "owned"},
        "StringLike": {f"aws:ResourceTag/{pool}": "*"},
    }
    in_vpc = {"ArnEquals": {"ec2:Vpc": ec2("vpc", vpc)}}
    profile_keys = {
        f"aws:ResourceTag/{owned}": "owned",
        "aws:ResourceTag/topology.kubernetes.io/region": region,
    }
    profile_requests = {
        key.replace("Resource", "Request"): value for key, value in profile_keys.items()
    }
    statements = [
        (
            "LaunchFrom",
            launches,
            [
                ec2("image"),
                ec2("snapshot"),
                ec2("image", owner=""),
                ec2("snapshot", owner=""),
            ],
            None,
        ),
        # A reservation may be another account's, shared with this one.
        ("LaunchReserved", launches, [ec2("capacity-reservation", owner="*")], None),
        ("LaunchInto", launches, [ec2("subnet"), ec2("security-group")], in_vpc),
        (
            "LaunchInterface",
            ["ec2:RunInstances"],
            [ec2("network-interface")],
            in_vpc | with_tags,
        ),
        ("LaunchTemplate", launches, [ec2("launch-template")], ours),
        (
            "LaunchTagged",
            [*launches, "ec2:CreateLaunchTemplate"],
            [ec2(kind) for kind in CREATED if kind != "network-interface"],
            with_tags,
        ),
        (
            "TagAtCreation",
            ["ec2:CreateTags"],
            [ec2(kind) for kind in CREATED],
            {
                **with_tags,
                "StringEquals": {
                    **with_tags["StringEquals"],
                    "ec2:CreateAction": [
                        "RunInstances",
                        "CreateFleet",
                        "CreateLaunchTemplate",
                    ],
                },
            },
        ),
        (
            "TagLater",
            ["ec2:CreateTags"],
            [ec2("instance")],
            {**ours, "ForAllValues:StringEquals": {"aws:TagKeys": LATER_KEYS}},
        ),
        (
            "End",
            ["ec2:TerminateInstances", "ec2:DeleteLaunchTemplate"],
            [ec2("instance"), ec2("launch-template")],
            ours,
        ),
        (
            "Look",
            [
                f"ec2:Describe{what}"
                for what in [
                    "AvailabilityZones",
                    "CapacityReservations",
                    "Images",
                    "Instances",
                    "InstanceStatus",
                    "InstanceTypeOfferings",
                    "InstanceTypes",
                    "LaunchTemplates",
                    "PlacementGroups",
                    "SecurityGroups",
                    "SpotPriceHistory",
                    "Subnets",
                ]
            ],
            ["*"],
            {"StringEquals": {"aws:RequestedRegion": region}},
        ),
        ("Prices", ["pricing:GetProducts"], ["*"], None),
        (
            "Parameters",
            ["ssm:GetParameter", "ssm:GetParameters"],
            [f"arn:aws:ssm:{region}:{account}:parameter/aws/service/*"],
            None,
        ),
        (
            "Cluster",
            ["eks:DescribeCluster"],
            [f"arn:aws:eks:{region}:{account}:cluster/{cluster}"],
            None,
        ),
        (
            "Queue",
            ["sqs:DeleteMessage", "sqs:GetQueueUrl", "sqs:ReceiveMessage"],
            [f"arn:aws:sqs:{region}:{account}:{cluster}"],
            None,
        ),
        (
            "Pass",
            ["iam:PassRole"],
            [node_role_arn],
            {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
        ),
        (
            "LookAtProfiles",
            ["iam:GetInstanceProfile", "iam:ListInstanceProfiles"],
            ["*"],
            None,
        ),
        (
            "CreateProfile",
            ["iam:CreateInstanceProfile", "iam:TagInstanceProfile"],
            [iam("instance-profile/*")],
            {"StringEquals": profile_requests},
        ),
        (
            "ManageProfile",
            [
                "iam:AddRoleToInstanceProfile",
                "iam:RemoveRoleFromInstanceProfile",
                "iam:DeleteInstanceProfile",
            ],
            [iam("instance-profile/*")],
            {"StringEquals": profile_keys},
        ),
    ]
    document = [
        {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources}
        | ({"Condition": condition} if condition else {})
        for sid, actions, resources, condition in statements
    ]
    document.append(
        {
            "Sid": "OwnershipStays",
            "Effect": "Deny",
            "Action": ["ec2:CreateTags", "ec2:DeleteTags"],
            "Resource": "*",
            "Condition": {
                "ForAnyValue:StringEquals": {"aws:TagKeys": [owned, pool]},
                "Null": {"ec2:CreateAction": "true"},
            },
        }
    )
    return {"Version": "2012-10-17", "Statement": document}


def trust(principals: list[str], external_id: str) -> dict:
    """Who may assume the controller role, and with what."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": principals},
                "Action": "sts:AssumeRole",
                "Condition": {"StringEquals": {"sts:ExternalId": external_id}},
            },
            {
                "Effect": "Allow",
                "Principal": {"AWS": principals},
                "Action": "sts:TagSession",
            },
        ],
    }


def may_assume(role_arns: list[str]) -> dict:
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["sts:AssumeRole", "sts:TagSession"],
                "Resource": role_arns,
            }
        ],
    }


def everything() -> dict:
    return {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
    }
