"""Capacity reservations: on-demand machines that are kept free for those who name the reservation."""

from dataclasses import dataclass, field

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.responses import EC2Response

from .cloud import Cloud


@dataclass
class Reservation:
    id: str
    type: str
    zone: str
    count: int
    tags: dict[str, str] = field(default_factory=dict)
    match: str = "targeted"
    kind: str = "default"

    def used(self, cloud: Cloud) -> int:
        return sum(
            record.reservation == self.id and record.gone_at is None
            for record in cloud.launches.values()
        )


def install(cloud: Cloud) -> None:
    EC2Response.describe_capacity_reservations = lambda response: ActionResult(
        {"CapacityReservations": _describe(cloud, response.params)}
    )


def put(cloud: Cloud, body: list[dict]) -> list[dict]:
    """`[{"id": "cr-1", "type": "m5.large", "zone": "us-east-1a", "count": 2, "tags": {}, "match": "targeted",
    "kind": "default"}]`: these
    and no others."""
    found = [Reservation(**entry) for entry in body]
    cloud.reservations = {reservation.id: reservation for reservation in found}
    return body


def target(data: dict) -> str | None:
    """The reservation that a launch template names."""
    specification = data.get("CapacityReservationSpecification") or {}
    named = specification.get("CapacityReservationTarget") or {}
    return named.get("CapacityReservationId")


def obstacle(
    cloud: Cloud, id_: str, instance_type: str, zone: str
) -> tuple[str, str] | None:
    """Why a reservation gives nothing: code and message, or None if it does."""
    reservation = cloud.reservations.get(id_)
    if reservation is None:
        return (
            "InvalidCapacityReservationId.NotFound",
            f"The capacity reservation '{id_}' does not exist",
        )
    if (reservation.type, reservation.zone) != (instance_type, zone):
        return (
            "InvalidParameter",
            f"The capacity reservation {id_} is for {reservation.type} in {reservation.zone}.",
        )
    if reservation.used(cloud) >= reservation.count:
        return (
            "ReservationCapacityExceeded",
            f"The capacity reservation {id_} has no available capacity.",
        )
    return None


def _describe(cloud: Cloud, parameters: dict) -> list[dict]:
    wanted = parameters.get("CapacityReservationIds") or []
    for id_ in wanted:
        if id_ not in cloud.reservations:
            raise EC2ClientError(
                "InvalidCapacityReservationId.NotFound",
                f"The capacity reservation '{id_}' does not exist",
            )
    if wanted and parameters.get("MaxResults"):
        raise EC2ClientError(
            "InvalidParameterCombination", "MaxResults cannot be used with ids"
        )
    filters = {f["Name"]: f["Values"] for f in parameters.get("Filters") or []}
    return [
        _as_ec2(cloud, reservation)
        for reservation in cloud.reservations.values()
        if (not wanted or reservation.id in wanted)
        and all(
            set(_values(cloud, reservation, name)) & set(any_)
            for name, any_ in filters.items()
        )
    ]


def _values(cloud: Cloud, reservation: Reservation, name: str) -> list[str]:
    if name.startswith("tag:"):
        value = reservation.tags.get(name.removeprefix("tag:"))
        return [] if value is None else [value]
    return {
        "state": ["active"],
        "owner-id": [cloud.account],
        "instance-match-criteria": [reservation.match],
        "tag-key": list(reservation.tags),
    }[name]


def _as_ec2(cloud: Cloud, reservation: Reservation) -> dict:
    return {
        "CapacityReservationId": reservation.id,
        "OwnerId": cloud.account,
        "InstanceType": reservation.type,
        "AvailabilityZone": reservation.zone,
        "InstanceMatchCriteria": reservation.match,
        "ReservationType": reservation.kind,
        "State": "active",
        "EndDateType": "unlimited",
        "TotalInstanceCount": reservation.count,
        "AvailableInstanceCount": reservation.count - reservation.used(cloud),
        "Tags": [{"Key": k, "Value": v} for k, v in reservation.tags.items()],
    }
