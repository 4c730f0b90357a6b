import pytest
from conftest import codes, ids, refusal

RESERVED = {"id": "cr-1", "type": "m5.large", "zone": "us-east-1a", "count": 1}


@pytest.fixture
def reserved(cloud):
    """The stand-in with one machine kept free."""
    cloud.control("PUT", "reservations", [{**RESERVED, "tags": {"team": "a"}}])
    yield cloud
    cloud.control("PUT", "reservations", [])


def only(id_: str) -> dict:
    return {
        "CapacityReservationPreference": "capacity-reservations-only",
        "CapacityReservationTarget": {"CapacityReservationId": id_},
    }


def available(cloud, **arguments) -> dict[str, int]:
    answer = cloud.controller("ec2").describe_capacity_reservations(**arguments)
    return {
        found["CapacityReservationId"]: found["AvailableInstanceCount"]
        for found in answer["CapacityReservations"]
    }


def test_a_reservation_is_found_by_id_and_by_tag(reserved):
    active = {"Name": "state", "Values": ["active"]}
    assert available(reserved, CapacityReservationIds=["cr-1"]) == {"cr-1": 1}
    by_tag = {"Name": "tag:team", "Values": ["a"]}
    assert available(reserved, Filters=[active, by_tag]) == {"cr-1": 1}
    by_tag["Values"] = ["b"]
    assert available(reserved, Filters=[active, by_tag]) == {}
    ec2 = reserved.controller("ec2")
    code, _ = refusal(
        ec2.describe_capacity_reservations, CapacityReservationIds=["cr-2"]
    )
    assert code == "InvalidCapacityReservationId.NotFound"


def test_it_gives_what_it_has_and_no_more(reserved):
    # Nothing else is left: what is reserved is there all the same.
    reserved.control("PUT", "capacity", [{"type": "m5.*", "free": 0}])
    template = reserved.template(CapacityReservationSpecification=only("cr-1"))
    first = reserved.fleet(template=template, zones=["us-east-1a"])
    [id_] = ids(first)
    assert available(reserved) == {"cr-1": 0}
    [found] = reserved.admin("ec2").describe_instances(InstanceIds=[id_])[
        "Reservations"
    ][0]["Instances"]
    assert found["CapacityReservationId"] == "cr-1"
    preference = found["CapacityReservationSpecification"]
    assert preference["CapacityReservationPreference"] == "capacity-reservations-only"
    second = reserved.fleet(template=template, zones=["us-east-1a"])
    assert codes(second) == {"ReservationCapacityExceeded"} and not ids(second)
    reserved.admin("ec2").terminate_instances(InstanceIds=[id_])
    assert available(reserved) == {"cr-1": 1}


def test_another_type_or_zone_is_refused(reserved):
    template = reserved.template(CapacityReservationSpecification=only("cr-1"))
    answer = reserved.fleet(template=template, zones=["us-east-1b"])
    assert codes(answer) == {"InvalidParameter"}
