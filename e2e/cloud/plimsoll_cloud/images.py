"""The AMIs that EKS and Bottlerocket publish, and the SSM parameters that name them."""

import hashlib
from datetime import UTC, datetime, timedelta

from moto.ec2.models.amis import Ami
from moto.ssm.models import Parameter, ssm_backends

from .cloud import Cloud, now

EKS_OWNER = "602401143452"
# AL2 ended with this version.
AL2_KUBERNETES = "1.32"
FIRST_RELEASES = [
    datetime(2026, 9, 1, tzinfo=UTC),
    datetime(2026, 10, 15, tzinfo=UTC),
]
FAMILIES = ("al2023", "bottlerocket", "al2")


def publish(cloud: Cloud, family: str, released: datetime | None = None) -> list[str]:
    """Publishes one release of every variant of a family and points the parameters to it; returns the AMIs' ids."""
    cloud.releases += 1
    number = cloud.releases
    released = released or now()
    day = (
        f"{released:%Y%m%d}"
        if number <= len(FIRST_RELEASES) * len(FAMILIES)
        else f"{released:%Y%m%d}{number:02d}"
    )
    variants = {"al2023": _al2023, "bottlerocket": _bottlerocket, "al2": _al2}[family](
        cloud, day, number
    )
    ids = []
    for name, architecture, root_device, parameters in variants:
        id_ = (
            "ami-"
            + hashlib.sha256(f"{cloud.settings.seed}/{name}".encode()).hexdigest()[:17]
        )
        image = Ami(
            cloud.ec2,
            id_,
            name=name,
            description=f"{family} of the stand-in",
            owner_id=EKS_OWNER,
            owner_alias="amazon",
            public=True,
            virtualization_type="hvm",
            architecture=architecture,
            creation_date=released,
            image_location=f"amazon/{name}",
            hypervisor="xen",
            root_device_type="ebs",
            root_device_name=root_device,
            region_name=f"{cloud.region}a",
            boot_mode="uefi-preferred",
        )
        # EKS deprecates an image two years after its release.
        image.deprecation_time = (released + timedelta(days=730)).strftime(
            "%Y-%m-%dT%H:%M:%S.000Z"
        )
        # What is published is every account's.
        for account in cloud.accounts:
            with cloud.acting_in(account):
                cloud.ec2.amis[id_] = image
                for parameter in parameters:
                    _put_parameter(cloud, parameter, id_, number)
        ids.append(id_)
    return ids


def _put_parameter(cloud: Cloud, name: str, value: str, version: int) -> None:
    # Names below /aws are reserved for AWS, so the backend is filled directly.
    ssm_backends[cloud.account][cloud.region]._parameters[name].append(
        Parameter(
            account_id=cloud.account,
            name=name,
            value=value,
            parameter_type="String",
            description=None,
            allowed_pattern=None,
            keyid=None,
            last_modified_date=now(),
            version=version,
            data_type="text",
            tier="Standard",
        )
    )


def _al2023(cloud: Cloud, day: str, number: int):
    version = cloud.settings.kubernetes_version
    for architecture, variant in [
        ("x86_64", "standard"),
        ("x86_64", "nvidia"),
        ("x86_64", "neuron"),
        ("arm64", "standard"),
        ("arm64", "nvidia"),
    ]:
        name = f"amazon-eks-node-al2023-{architecture}-{variant}-{version}-v{day}"
        base = f"/aws/service/eks/optimized-ami/{version}/amazon-linux-2023/{architecture}/{variant}"
        yield (
            name,
            architecture,
            "/dev/xvda",
            [f"{base}/recommended/image_id", f"{base}/{name}/image_id"],
        )


def _bottlerocket(cloud: Cloud, day: str, number: int):
    version = cloud.settings.kubernetes_version
    release = f"1.{49 + number}.0"
    for flavour in ("", "-nvidia"):
        for architecture in ("x86_64", "arm64"):
            base = (
                f"/aws/service/bottlerocket/aws-k8s-{version}{flavour}/{architecture}"
            )
            name = f"bottlerocket-aws-k8s-{version}{flavour}-{'aarch64' if architecture == 'arm64' else architecture}-v{release}-{day}"
            yield (
                name,
                architecture,
                "/dev/xvda",
                [f"{base}/latest/image_id", f"{base}/{release}/image_id"],
            )


def _al2(cloud: Cloud, day: str, number: int):
    for infix, kind, architecture in [
        ("", "", "x86_64"),
        ("-arm64", "arm64-", "arm64"),
        ("-gpu", "gpu-", "x86_64"),
    ]:
        name = f"amazon-eks-{kind}node-{AL2_KUBERNETES}-v{day}"
        base = f"/aws/service/eks/optimized-ami/{AL2_KUBERNETES}/amazon-linux-2{infix}"
        yield (
            name,
            architecture,
            "/dev/xvda",
            [f"{base}/recommended/image_id", f"{base}/{name}/image_id"],
        )


def seed(cloud: Cloud) -> None:
    for released in FIRST_RELEASES:
        for family in FAMILIES:
            publish(cloud, family, released)
