"""Instances: launched with all that their launch template says, seen after a while, gone after a while.

Installed over moto's EC2 backend. Everything here runs with the cloud's lock held.
"""

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.models.instances import Instance, InstanceBackend, InstanceState
from moto.ec2.models.subnets import Subnet

from . import events
from .cloud import Cloud, now, timestamp

# From the answer of a launch to `running`.
PENDING_SECONDS = 0.2
# Calls that see new instances late. All others see what is there.
EVENTUALLY_CONSISTENT = {
    "ec2:DescribeInstances",
    "ec2:DescribeInstanceStatus",
    "ec2:DescribeTags",
    "ec2:CreateTags",
    "ec2:TerminateInstances",
    "ec2:StopInstances",
}
# Whether the current request is one of these.
view = threading.local()


@dataclass
class Launch:
    """What is known of an instance from its launch on."""

    instance: Instance
    at: datetime
    visible_at: datetime
    capacity_type: str
    pool: tuple[str, str, str]
    launch_template: str | None = None
    reservation: str | None = None
    gone_at: datetime | None = None
    node: str | None = None
    node_uid: str | None = None
    join_error: str | None = None
    joined_at: datetime | None = None

    @property
    def account(self) -> str:
        return self.instance.ec2_backend.account_id


def vcpus(cloud: Cloud, instance_type: str) -> int:
    return type_info(cloud, instance_type)["VCpuInfo"]["DefaultVCpus"]


def type_info(cloud: Cloud, instance_type: str) -> dict:
    """The type as DescribeInstanceTypes has it; empty if there is no such type."""
    return cloud.types.get(instance_type, {})


def launch(
    cloud: Cloud, data: dict, override: dict, tags: dict, capacity_type: str, template
) -> Instance:
    """Runs one instance from launch template data and a fleet's override."""
    merged = {**data, **{key: value for key, value in override.items() if value}}
    interfaces = data.get("NetworkInterfaces") or []
    groups = list(data.get("SecurityGroupIds") or [])
    for interface in interfaces:
        groups += [
            group for group in interface.get("Groups") or [] if group not in groups
        ]
    subnet = merged.get("SubnetId") or next(
        (i["SubnetId"] for i in interfaces if i.get("SubnetId")), None
    )
    primary = next((i for i in interfaces if int(i.get("DeviceIndex") or 0) == 0), {})
    placement = data.get("Placement") or {}
    reservation = cloud.ec2.run_instances(
        merged["ImageId"],
        1,
        data.get("UserData"),
        [],
        instance_type=merged["InstanceType"],
        is_instance_type_default=False,
        region_name=cloud.region,
        subnet_id=subnet,
        security_group_ids=groups,
        nics=[
            {
                "DeviceIndex": 0,
                "SubnetId": subnet,
                "DeleteOnTermination": True,
                "AssociatePublicIpAddress": bool(
                    primary.get("AssociatePublicIpAddress")
                ),
            }
        ],
        key_name=data.get("KeyName"),
        metadata_options=data.get("MetadataOptions") or {},
        monitoring_state="enabled"
        if (data.get("Monitoring") or {}).get("Enabled")
        else "disabled",
        block_device_mappings=_block_devices(data),
        ebs_optimized=bool(data.get("EbsOptimized")),
        lifecycle="spot" if capacity_type == "spot" else None,
        launch_template={},
        tags=tags,
    )
    instance = reservation.instances[0]
    instance.placement.tenancy = placement.get("Tenancy") or "default"
    instance.placement.group_name = placement.get("GroupName") or ""
    if capacity_type == "spot":
        instance.spot_instance_request_id = f"sir-{instance.id.removeprefix('i-')[:8]}"
    _attach_profile(cloud, instance, data.get("IamInstanceProfile"))
    cloud.ec2.create_tags(
        [instance.id],
        {
            "aws:ec2launchtemplate:id": template.id,
            "aws:ec2launchtemplate:version": str(template.latest_version_number),
        },
    )
    record = cloud.launches[instance.id]
    record.capacity_type = capacity_type
    record.pool = (instance.instance_type, instance.availability_zone, capacity_type)
    record.launch_template = template.name
    if specification := data.get("CapacityReservationSpecification"):
        instance.capacity_reservation_specification = specification
        target = specification.get("CapacityReservationTarget") or {}
        if id_ := target.get("CapacityReservationId"):
            instance.capacity_reservation_id = record.reservation = id_
    return instance


def _block_devices(data: dict) -> list[dict]:
    devices = [
        dict(device)
        for device in data.get("BlockDeviceMappings") or []
        if device.get("Ebs")
    ]
    for device in devices:
        # AWS deletes the volumes of an image's or template's mapping with the instance unless told otherwise.
        device["Ebs"] = {"DeleteOnTermination": True, "VolumeSize": 8, **device["Ebs"]}
    return devices or [
        {
            "DeviceName": "/dev/xvda",
            "Ebs": {"VolumeSize": 8, "DeleteOnTermination": True},
        }
    ]


def profile_of(cloud: Cloud, profile: dict | None):
    """The instance profile that is named; an error if there is none, or if it has no role."""
    if not profile:
        return None
    name = profile.get("Name") or profile.get("Arn", "").rsplit("/", 1)[-1]
    found = next(
        (p for p in cloud.iam.instance_profiles.values() if p.name == name), None
    )
    if found is None or not found.roles:
        raise EC2ClientError(
            "InvalidParameterValue",
            f"Value ({name}) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name",
        )
    return found


def _attach_profile(cloud: Cloud, instance: Instance, profile: dict | None) -> None:
    if found := profile_of(cloud, profile):
        instance.iam_instance_profile = {"Arn": found.arn, "Id": found.id}


def is_visible(cloud: Cloud, instance: Instance) -> bool:
    record = cloud.launches.get(instance.id)
    return record is None or record.visible_at <= now()


def tick(cloud: Cloud) -> None:
    """Moves what is due: pending to running, shutting-down to terminated, interrupted spot instances to their end."""
    at = now()
    for record in cloud.launches.values():
        with cloud.acting_in(record.account):
            _tick(cloud, record, at)
    due = [id_ for when, id_ in cloud.terminations if when <= at]
    cloud.terminations = [(when, id_) for when, id_ in cloud.terminations if when > at]
    for id_ in due:
        record = cloud.launches[id_]
        if record.gone_at is None:
            record.instance.ec2_backend.terminate_instances([id_])


def _tick(cloud: Cloud, record: Launch, at: datetime) -> None:
    instance = record.instance
    if (
        instance.state == "pending"
        and record.at + timedelta(seconds=PENDING_SECONDS) <= at
    ):
        _set_state(cloud, instance, "running", 16)
    elif (
        instance.state == "shutting-down"
        and record.gone_at
        and record.gone_at + timedelta(seconds=cloud.faults.shutdown_seconds) <= at
    ):
        _set_state(cloud, instance, "terminated", 48)


def _set_state(cloud: Cloud, instance: Instance, name: str, code: int) -> None:
    instance._state = InstanceState(name, code)
    events.state_change(cloud, instance.id, name)


def describe(cloud: Cloud, record: Launch) -> dict:
    """An instance as the control endpoint lists it."""
    instance = record.instance
    profile = instance.iam_instance_profile
    return {
        "id": instance.id,
        "account": record.account,
        "type": instance.instance_type,
        "zone": instance.availability_zone,
        "state": instance.state,
        "capacity_type": record.capacity_type,
        "price_per_hour": cloud.price(
            instance.instance_type, instance.availability_zone, record.capacity_type
        ),
        "spot_request_id": getattr(instance, "spot_instance_request_id", None),
        "subnet": instance.subnet_id,
        "vpc": instance.vpc_id,
        "security_groups": sorted(group.id for group in instance.security_groups),
        "image": instance.image_id,
        "tags": cloud.tags(instance.id),
        "private_ip": instance.kept_private_ip,
        "private_dns_name": private_dns_name(cloud, instance),
        "launch_template": record.launch_template,
        "reservation": record.reservation,
        "instance_profile": profile["Arn"] if profile else None,
        "launched_at": timestamp(record.at),
        "visible_at": timestamp(record.visible_at),
        "terminated_at": record.gone_at and timestamp(record.gone_at),
        "user_data": user_data(instance),
        "node": record.node,
        "joined_at": record.joined_at and timestamp(record.joined_at),
        "join_error": record.join_error,
    }


def private_dns_name(cloud: Cloud, instance: Instance) -> str:
    address = instance.kept_private_ip.replace(".", "-")
    return (
        f"ip-{address}.ec2.internal"
        if cloud.region == "us-east-1"
        else f"ip-{address}.{cloud.region}.compute.internal"
    )


def user_data(instance: Instance) -> str:
    return instance.user_data.decode() if instance.user_data else ""


def install(cloud: Cloud) -> None:
    run_instances, terminate, all_reservations = (
        InstanceBackend.run_instances,
        Instance.terminate,
        InstanceBackend.all_reservations,
    )

    def run_and_record(backend, *args, **kwargs):
        reservation = run_instances(backend, *args, **kwargs)
        for instance in reservation.instances:
            capacity_type = "spot" if instance.lifecycle == "spot" else "on-demand"
            instance._state = InstanceState("pending", 0)
            # A terminated instance loses its interface, but its Node is still known by the address.
            instance.kept_private_ip = instance.private_ip
            instance.placement.availability_zone_id = cloud.zone_ids.get(
                instance.availability_zone
            )
            cloud.launches[instance.id] = Launch(
                instance=instance,
                at=now(),
                visible_at=now()
                + timedelta(seconds=cloud.faults.visibility_delay_seconds),
                capacity_type=capacity_type,
                pool=(
                    instance.instance_type,
                    instance.availability_zone,
                    capacity_type,
                ),
            )
            if instance.subnet_id in cloud.free_addresses:
                cloud.free_addresses[instance.subnet_id] -= 1
            events.state_change(cloud, instance.id, "pending")
        return reservation

    def terminate_slowly(instance):
        record = cloud.launches[instance.id]
        if record.gone_at is not None:
            # AWS takes a second TerminateInstances of the same instance without a word.
            return InstanceState(instance.state, instance.state_code)
        previous = terminate(instance)
        record.gone_at = now()
        if record.reservation is None:
            cloud.pools.give_back(record.pool)
        if instance.subnet_id in cloud.free_addresses:
            cloud.free_addresses[instance.subnet_id] += 1
        _set_state(cloud, instance, "shutting-down", 32)
        return previous

    def visible_reservations(backend, filters=None):
        reservations = all_reservations(backend, filters)
        if getattr(view, "is_late", False):
            for reservation in reservations:
                reservation.instances = [
                    i for i in reservation.instances if is_visible(cloud, i)
                ]
        return [reservation for reservation in reservations if reservation.instances]

    def get_tags(resource):
        # moto looks through the tags of all resources for those of one, which is slow with hundreds of instances.
        kind = resource.ec2_backend.tags.get(resource.id, {})
        return [
            {"resource_id": resource.id, "key": key, "value": value}
            for key, value in kind.items()
        ]

    counted = Subnet.available_ip_address_count

    Subnet.available_ip_address_count = property(
        lambda subnet: (
            cloud.free_addresses[subnet.id]
            if subnet.id in cloud.free_addresses
            else counted.fget(subnet)
        )
    )
    InstanceBackend.run_instances = EC2Backend.run_instances = run_and_record
    InstanceBackend.all_reservations = EC2Backend.all_reservations = (
        visible_reservations
    )
    Instance.terminate = terminate_slowly
    TaggedEC2Resource.get_tags = get_tags
