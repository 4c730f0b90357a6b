"""CreateFleet of type `instant`, with pools that run out."""

from dataclasses import dataclass

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.responses import EC2Response
from moto.ec2.utils import random_fleet_id

from . import instances, reservations
from .authorization import request_tags
from .cloud import Cloud


@dataclass
class Candidate:
    """One override of a request, made concrete."""

    specification: dict
    override: dict
    template: object
    data: dict
    instance_type: str
    subnet: object

    @property
    def zone(self) -> str:
        return self.subnet.availability_zone

    def answer(self, **fields) -> dict:
        return {
            "LaunchTemplateAndOverrides": {
                "LaunchTemplateSpecification": self.specification,
                "Overrides": self.override,
            },
            **fields,
        }


def install(cloud: Cloud) -> None:
    def create_fleet(response) -> ActionResult:
        return ActionResult(create(cloud, response.params))

    EC2Response.create_fleet = create_fleet


def create(cloud: Cloud, request: dict) -> dict:
    if request.get("Type") != "instant":
        raise EC2ClientError(
            "Unsupported", "The stand-in has fleets of type instant only"
        )
    capacity = request["TargetCapacitySpecification"]
    capacity_type = capacity.get("DefaultTargetCapacityType") or "on-demand"
    if capacity_type not in ("spot", "on-demand"):
        raise EC2ClientError(
            "Unsupported",
            f"The stand-in does not have the capacity type {capacity_type}",
        )
    candidates = _order(cloud, request, capacity_type, _candidates(cloud, request))
    fleet_id = random_fleet_id()
    tags = request_tags(request)
    cloud.ec2.create_tags([fleet_id], tags.get("fleet", {}))
    launched: dict[int, list[str]] = {}
    errors: dict[int, tuple[str, str]] = {}
    for _ in range(int(capacity["TotalTargetCapacity"])):
        for index, candidate in enumerate(candidates):
            if index in errors:
                continue
            if error := _obstacle(cloud, candidate, capacity_type):
                errors[index] = error
                continue
            template_tags = request_tags(
                {"TagSpecifications": candidate.data.get("TagSpecifications") or []}
            )
            kinds = {*template_tags, *tags} - {"launch-template", "fleet"}
            all_tags = {
                kind: {**template_tags.get(kind, {}), **tags.get(kind, {})}
                for kind in kinds
            }
            all_tags.setdefault("instance", {})["aws:ec2:fleet-id"] = fleet_id
            instance = instances.launch(
                cloud,
                candidate.data,
                candidate.override,
                all_tags,
                capacity_type,
                candidate.template,
            )
            for kind, id_ in _tagged(instance):
                cloud.ec2.create_tags([id_], all_tags.get(kind, {}))
            if reservations.target(candidate.data) is None:
                pool = (candidate.instance_type, candidate.zone, capacity_type)
                cloud.pools.take(pool)
            launched.setdefault(index, []).append(instance.id)
            break
    return {
        "FleetId": fleet_id,
        "Errors": [
            candidates[index].answer(
                Lifecycle=capacity_type, ErrorCode=code, ErrorMessage=message
            )
            for index, (code, message) in sorted(errors.items())
        ],
        "Instances": [
            candidates[index].answer(
                Lifecycle=capacity_type,
                InstanceIds=ids,
                InstanceType=candidates[index].instance_type,
            )
            for index, ids in sorted(launched.items())
        ],
    }


def _tagged(instance) -> list[tuple[str, str]]:
    found = [
        ("network-interface", interface.id) for interface in instance.nics.values()
    ]
    if hasattr(instance, "spot_instance_request_id"):
        found.append(("spot-instances-request", instance.spot_instance_request_id))
    return found


def _candidates(cloud: Cloud, request: dict) -> list[Candidate]:
    found = []
    for config in request.get("LaunchTemplateConfigs") or []:
        specification = dict(config["LaunchTemplateSpecification"])
        if "LaunchTemplateId" in specification:
            template = cloud.ec2.get_launch_template(specification["LaunchTemplateId"])
        else:
            template = cloud.ec2.get_launch_template_by_name(
                specification["LaunchTemplateName"]
            )
        version = template.get_version(specification.get("Version", "$Default"))
        specification |= {
            "LaunchTemplateId": template.id,
            "Version": str(version.number),
        }
        specification.pop("LaunchTemplateName", None)
        instances.profile_of(cloud, version.data.get("IamInstanceProfile"))
        for override in config.get("Overrides") or [{}]:
            merged = {**version.data, **override}
            if not instances.type_info(cloud, merged.get("InstanceType", "")):
                raise EC2ClientError(
                    "InvalidParameterValue",
                    f"Invalid value '{merged.get('InstanceType')}' for InstanceType.",
                )
            image = merged.get("ImageId", "")
            if image not in cloud.ec2.amis:
                raise EC2ClientError(
                    "InvalidAMIID.NotFound", f"The image id '[{image}]' does not exist"
                )
            found.append(
                Candidate(
                    specification,
                    override,
                    template,
                    version.data,
                    merged["InstanceType"],
                    cloud.ec2.get_subnet(_subnet_id(merged)),
                )
            )
    if not found:
        raise EC2ClientError(
            "InvalidFleetConfig", "The fleet configuration contains no launch template"
        )
    return found


def _subnet_id(merged: dict) -> str:
    interfaces = merged.get("NetworkInterfaces") or []
    subnet = merged.get("SubnetId") or next(
        (i["SubnetId"] for i in interfaces if i.get("SubnetId")), None
    )
    if subnet is None:
        raise EC2ClientError(
            "MissingInput",
            "No subnet: the VPC has no default subnet, so an override must name one.",
        )
    return subnet


def _order(
    cloud: Cloud, request: dict, capacity_type: str, candidates: list[Candidate]
) -> list[Candidate]:
    """The order in which pools are tried."""
    options = (
        request.get("SpotOptions" if capacity_type == "spot" else "OnDemandOptions")
        or {}
    )
    strategy = options.get("AllocationStrategy") or "lowest-price"

    def price(candidate: Candidate) -> float:
        found = cloud.price(candidate.instance_type, candidate.zone, capacity_type)
        return float("inf") if found is None else found

    def depth(candidate: Candidate) -> float:
        return cloud.pools.free(
            (candidate.instance_type, candidate.zone, capacity_type)
        )

    def key(candidate: Candidate):
        priority = float(candidate.override.get("Priority") or 0)
        return {
            # EC2 starts with the pools that have most left, and takes the cheapest of them.
            "price-capacity-optimized": (-depth(candidate), price(candidate)),
            "capacity-optimized": (-depth(candidate), 0),
            "capacity-optimized-prioritized": (-depth(candidate), priority),
            "prioritized": (priority, 0),
            "lowest-price": (price(candidate), 0),
            "lowestPrice": (price(candidate), 0),
        }[strategy]

    try:
        # Stable, so that equal ones stay in the order of the request.
        return sorted(candidates, key=key)
    except KeyError as error:
        raise EC2ClientError(
            "InvalidParameterValue", f"The allocation strategy {strategy} is not valid"
        ) from error


def _obstacle(
    cloud: Cloud, candidate: Candidate, capacity_type: str
) -> tuple[str, str] | None:
    """Why a pool gives nothing: code and message, or None if it does."""
    type_, zone = candidate.instance_type, candidate.zone
    if zone not in cloud.offered.get(type_, set()):
        return (
            "InvalidFleetConfiguration",
            f"Your requested instance type ({type_}) is not supported in your requested Availability Zone ({zone}).",
        )
    if candidate.subnet.available_ip_address_count < 1:
        return (
            "InsufficientFreeAddressesInSubnet",
            f"There are not enough free addresses in subnet '{candidate.subnet.id}' to satisfy the requested number of instances.",
        )
    if id_ := reservations.target(candidate.data):
        return reservations.obstacle(cloud, id_, type_, zone)
    if (quota := cloud.faults.quota.get(capacity_type)) is not None:
        running = sum(
            instances.vcpus(cloud, record.pool[0])
            for record in cloud.launches.values()
            if record.gone_at is None and record.capacity_type == capacity_type
        )
        if running + instances.vcpus(cloud, type_) > quota:
            if capacity_type == "spot":
                return (
                    "MaxSpotInstanceCountExceeded",
                    "Max spot instance count exceeded",
                )
            return (
                "VcpuLimitExceeded",
                f"You have requested more vCPU capacity than your current limit of {quota} allows.",
            )
    pool = (type_, zone, capacity_type)
    if cloud.pools.free(pool) < 1:
        message = {
            "InsufficientInstanceCapacity": f"We currently do not have sufficient {type_} capacity in the Availability Zone "
            f"you requested ({zone}).",
            "UnfulfillableCapacity": "Unable to fulfill capacity due to your request configuration.",
        }
        code = cloud.pools.error(pool)
        return (code, message.get(code, f"The pool {type_} in {zone} answers {code}."))
    return None
