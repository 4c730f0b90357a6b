"""What a request has to be allowed: for each action the resources it touches and the condition keys of each.

Follows AWS's service authorization reference for the calls a node provider makes. An action that is not listed is checked
on `*` with the keys every request has.
"""

from . import reservations
from .cloud import Cloud
from .iam import Check, Context
from .sessions import Principal

# Instance, volume and interface do not exist yet when a launch is checked.
LAUNCHED = ("instance", "volume", "network-interface")
# Calls that need the right to another action than the one they are named after.
RIGHTS = {"sqs:DeleteMessageBatch": "sqs:DeleteMessage"}


def tag_map(tags: list[dict]) -> dict[str, str]:
    return {tag["Key"]: tag.get("Value", "") for tag in tags or []}


def request_tags(parameters: dict) -> dict[str, dict[str, str]]:
    """Tags of a request by resource type; `""` for calls whose tags have no type."""
    tags: dict[str, dict[str, str]] = {}
    for specification in (
        parameters.get("TagSpecifications") or parameters.get("TagSpecification") or []
    ):
        tags.setdefault(specification.get("ResourceType", ""), {}).update(
            tag_map(specification.get("Tags", []))
        )
    if plain := tag_map(
        parameters.get("Tags", [])
        if isinstance(parameters.get("Tags", []), list)
        else []
    ):
        tags.setdefault("", {}).update(plain)
    return tags


class Checks:
    """Collects the checks of one request."""

    def __init__(self, cloud: Cloud, principal: Principal, region: str):
        self.cloud = cloud
        self.region = region
        self.list: list[Check] = []
        self.common: Context = {
            "aws:RequestedRegion": region,
            "aws:PrincipalArn": principal.names[-2],
            "aws:PrincipalAccount": cloud.account,
            "aws:SecureTransport": "true",
        }
        for key, value in ((principal.session or {}).get("tags") or {}).items():
            self.common[f"aws:PrincipalTag/{key}"] = value

    def add(self, action: str, resource: str, **context) -> None:
        keys: Context = dict(self.common)
        for key, value in context.pop("keys", {}).items():
            if value is not None:
                keys[key] = value
        if tags := context.pop("request_tags", None):
            keys |= {f"aws:RequestTag/{key}": value for key, value in tags.items()}
            keys["aws:TagKeys"] = list(tags)
        resource_tags = context.pop("resource_tags", None) or {}
        for prefix in ("aws", action.split(":")[0]):
            keys |= {
                f"{prefix}:ResourceTag/{key}": value
                for key, value in resource_tags.items()
            }
        self.list.append(Check(RIGHTS.get(action, action), resource, keys))

    def ec2(self, action: str, kind: str, id_: str, request_tags=None, **keys) -> None:
        """A check of an EC2 resource; an id of `*` is one that is about to be made."""
        exists = id_ != "*"
        vpc = keys.pop("vpc", None)
        self.add(
            action,
            self.cloud.arn("ec2", f"{kind}/{id_}", self.region),
            request_tags=request_tags,
            resource_tags=self.cloud.tags(id_) if exists else None,
            keys={
                "ec2:Region": self.region,
                "ec2:Vpc": vpc and self.cloud.arn("ec2", f"vpc/{vpc}"),
            }
            | keys,
        )

    def tag_at_creation(self, kind: str, tags: dict, by: str) -> None:
        if tags:
            self.ec2(
                "ec2:CreateTags",
                kind,
                "*",
                request_tags=tags,
                **{"ec2:CreateAction": by},
            )

    def pass_role(self, profile: dict | None) -> None:
        """An instance profile in a launch passes its role to EC2."""
        if not profile:
            return
        name = profile.get("Name") or profile.get("Arn", "").rsplit("/", 1)[-1]
        found = self.cloud.iam.instance_profiles
        for instance_profile in found.values():
            if instance_profile.name == name:
                for role in instance_profile.roles:
                    self.add(
                        "iam:PassRole",
                        role.arn,
                        keys={"iam:PassedToService": "ec2.amazonaws.com"},
                    )


KINDS = {
    "i": "instance",
    "vol": "volume",
    "eni": "network-interface",
    "lt": "launch-template",
    "subnet": "subnet",
    "sg": "security-group",
    "ami": "image",
    "fleet": "fleet",
    "sir": "spot-instances-request",
    "vpc": "vpc",
}


def kind_of(resource_id: str) -> str:
    return KINDS.get(resource_id.rsplit("-", 1)[0], "unknown")


def checks(
    cloud: Cloud, principal: Principal, region: str, action: str, parameters: dict
) -> list[Check]:
    """All checks one request must pass, in the order AWS would name the first that fails."""
    collected = Checks(cloud, principal, region)
    special = {
        "ec2:CreateFleet": _create_fleet,
        "ec2:RunInstances": _run_instances,
        "ec2:CreateLaunchTemplate": _create_launch_template,
        "ec2:CreateTags": _tags,
        "ec2:DeleteTags": _tags,
        "iam:AddRoleToInstanceProfile": _add_role,
    }.get(action)
    if special:
        special(cloud, collected, action, parameters)
    else:
        for resource, tags in _resources(cloud, region, action, parameters):
            collected.add(
                action,
                resource,
                resource_tags=tags,
                request_tags=_plain_tags(parameters),
            )
    return collected.list


def _plain_tags(parameters: dict) -> dict | None:
    tags = parameters.get("Tags") or parameters.get("tags")
    return tag_map(tags) if isinstance(tags, list) else tags


def _resources(
    cloud: Cloud, region: str, action: str, parameters: dict
) -> list[tuple[str, dict | None]]:
    """The resources of calls that need no legs, each with its tags."""
    service, _, name = action.partition(":")
    if service == "ec2":
        ids = (
            parameters.get("InstanceIds")
            if name in ("TerminateInstances", "StopInstances")
            else None
        )
        if name == "DeleteLaunchTemplate":
            template = _template(cloud, parameters)
            ids = [template.id] if template else []
        if ids is not None:
            return [
                (cloud.arn("ec2", f"{kind_of(id_)}/{id_}", region), cloud.tags(id_))
                for id_ in ids
            ] or [("*", None)]
    elif (
        service == "iam"
        and "InstanceProfile" in name
        and parameters.get("InstanceProfileName")
    ):
        return [_instance_profile(cloud, parameters)]
    elif service == "sqs":
        queue = (
            parameters.get("QueueName")
            or (parameters.get("QueueUrl") or "").rsplit("/", 1)[-1]
        )
        return [(cloud.arn("sqs", queue, region), None)]
    elif service == "ssm":
        names = parameters.get("Names") or [
            parameters.get("Name") or parameters.get("Path") or "*"
        ]
        return [
            (cloud.arn("ssm", f"parameter/{name.lstrip('/')}", region), None)
            for name in names
        ]
    elif action == "eks:DescribeCluster":
        return [(cloud.arn("eks", f"cluster/{parameters.get('name')}", region), None)]
    return [("*", None)]


def _instance_profile(cloud: Cloud, parameters: dict) -> tuple[str, dict | None]:
    name = parameters["InstanceProfileName"]
    for profile in cloud.iam.instance_profiles.values():
        if profile.name == name:
            return profile.arn, tag_map(profile.tags) if isinstance(
                profile.tags, list
            ) else profile.tags
    path = parameters.get("Path") or "/"
    return cloud.arn("iam", f"instance-profile{path}{name}"), None


def _add_role(cloud: Cloud, collected: Checks, action: str, parameters: dict) -> None:
    arn, tags = _instance_profile(cloud, parameters)
    collected.add(action, arn, resource_tags=tags)
    role = next(
        (
            r.arn
            for r in cloud.iam.roles.values()
            if r.name == parameters.get("RoleName")
        ),
        None,
    )
    if role:
        collected.add(
            "iam:PassRole", role, keys={"iam:PassedToService": "ec2.amazonaws.com"}
        )


def _template(cloud: Cloud, specification: dict):
    """The launch template a request names, or None."""
    id_ = specification.get("LaunchTemplateId")
    if id_ is None:
        id_ = cloud.ec2.launch_template_name_to_ids.get(
            specification.get("LaunchTemplateName")
        )
    return cloud.ec2.launch_templates.get(id_)


def _tags(cloud: Cloud, collected: Checks, action: str, parameters: dict) -> None:
    for id_ in parameters.get("Resources", []):
        collected.ec2(
            action, kind_of(id_), id_, request_tags=tag_map(parameters.get("Tags", []))
        )


def _create_launch_template(
    cloud: Cloud, collected: Checks, action: str, parameters: dict
) -> None:
    tags = request_tags(parameters).get("launch-template", {})
    collected.ec2(action, "launch-template", "*", request_tags=tags)
    collected.tag_at_creation("launch-template", tags, "CreateLaunchTemplate")


def _template_tags(data: dict) -> dict[str, dict[str, str]]:
    tags = request_tags({"TagSpecifications": data.get("TagSpecifications") or []})
    tags.pop("launch-template", None)
    return tags


def _groups(data: dict) -> list[str]:
    groups = list(data.get("SecurityGroupIds") or [])
    for interface in data.get("NetworkInterfaces") or []:
        groups += interface.get("Groups") or []
    return groups


def _create_fleet(
    cloud: Cloud, collected: Checks, action: str, parameters: dict
) -> None:
    tags = request_tags(parameters)
    collected.ec2(action, "fleet", "*", request_tags=tags.get("fleet"))
    collected.tag_at_creation("fleet", tags.get("fleet", {}), "CreateFleet")
    capacity = parameters.get("TargetCapacitySpecification") or {}
    spot = (
        capacity.get("DefaultTargetCapacityType") == "spot"
        or int(capacity.get("SpotTargetCapacity") or 0) > 0
    )
    for config in parameters.get("LaunchTemplateConfigs") or []:
        template = _template(cloud, config.get("LaunchTemplateSpecification") or {})
        if template is None:
            continue
        data = template.get_version(
            (config["LaunchTemplateSpecification"]).get("Version", "$Default")
        ).data
        collected.ec2(action, "launch-template", template.id)
        overrides = config.get("Overrides") or [{}]
        for subnet in sorted({o["SubnetId"] for o in overrides if o.get("SubnetId")}):
            collected.ec2(action, "subnet", subnet, vpc=_vpc_of_subnet(cloud, subnet))
        _legs(cloud, collected, data, overrides, template.id, tags, spot, "CreateFleet")


def _run_instances(
    cloud: Cloud, collected: Checks, action: str, parameters: dict
) -> None:
    template = _template(cloud, parameters.get("LaunchTemplate") or {})
    data: dict = {}
    if template:
        data = dict(
            template.get_version(
                parameters["LaunchTemplate"].get("Version", "$Default")
            ).data
        )
    own = ("ImageId", "SecurityGroupIds", "NetworkInterfaces", "IamInstanceProfile")
    data |= {key: parameters[key] for key in own if parameters.get(key)}
    spot = (parameters.get("InstanceMarketOptions") or {}).get("MarketType") == "spot"
    override = {"SubnetId": parameters.get("SubnetId")}
    _legs(
        cloud,
        collected,
        data,
        [override],
        template and template.id,
        request_tags(parameters),
        spot,
        "RunInstances",
    )


def _legs(cloud, collected, data, overrides, template_id, tags, spot, by) -> None:
    """The resources of ec2:RunInstances, each with its keys: an instant fleet launches with its caller's rights."""
    run = "ec2:RunInstances"
    tags = {
        kind: {**_template_tags(data).get(kind, {}), **tags.get(kind, {})}
        for kind in {*_template_tags(data), *tags}
    }
    subnets = {o["SubnetId"] for o in overrides if o.get("SubnetId")}
    subnets |= {
        i["SubnetId"] for i in data.get("NetworkInterfaces") or [] if i.get("SubnetId")
    }
    vpcs = sorted(
        {vpc for vpc in (_vpc_of_subnet(cloud, subnet) for subnet in subnets) if vpc}
    )
    kinds = LAUNCHED + (("spot-instances-request",) if spot else ())
    for kind in kinds:
        vpc = vpcs[0] if kind == "network-interface" and len(vpcs) == 1 else None
        collected.ec2(run, kind, "*", request_tags=tags.get(kind), vpc=vpc)
    for image in sorted(
        {o.get("ImageId") or data.get("ImageId") for o in overrides} - {None}
    ):
        collected.ec2(run, "image", image)
    for subnet in sorted(subnets):
        collected.ec2(run, "subnet", subnet, vpc=_vpc_of_subnet(cloud, subnet))
    for group in _groups(data):
        found = cloud.ec2.get_security_group_from_id(group)
        collected.ec2(run, "security-group", group, vpc=found.vpc_id if found else None)
    if reservation := reservations.target(data):
        collected.ec2(run, "capacity-reservation", reservation)
    if template_id:
        collected.ec2(run, "launch-template", template_id)
    for kind in kinds:
        collected.tag_at_creation(kind, tags.get(kind, {}), by)
    collected.pass_role(data.get("IamInstanceProfile"))


def _vpc_of_subnet(cloud: Cloud, subnet_id: str) -> str | None:
    for zone in cloud.ec2.subnets.values():
        if subnet_id in zone:
            return zone[subnet_id].vpc_id
    return None
