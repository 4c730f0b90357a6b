import pytest
from conftest import eventually, ids


def wait(cloud, **expected):
    """The first message whose fields are as expected; all others are dropped."""

    def found():
        for message in cloud.messages():
            if {
                "type": message["detail-type"],
                **message["detail"],
            }.items() >= expected.items():
                return message
        return None

    return eventually(found)


def test_state_changes_are_told(cloud):
    cloud.messages()
    [id_] = ids(cloud.fleet())
    assert wait(
        cloud,
        type="EC2 Instance State-change Notification",
        **{"instance-id": id_, "state": "running"},
    )
    cloud.admin("ec2").terminate_instances(InstanceIds=[id_])
    message = wait(cloud, **{"instance-id": id_, "state": "terminated"})
    assert (
        message["version"] == "0"
        and message["source"] == "aws.ec2"
        and message["region"] == "us-east-1"
    )
    assert message["resources"] == [
        f"arn:aws:ec2:us-east-1:123456789012:instance/{id_}"
    ]


def test_a_spot_interruption_warns_and_ends(cloud):
    [id_] = ids(cloud.fleet(capacity_type="spot"))
    eventually(lambda: cloud.instances()[id_]["state"] == "running")
    interruption = {"kind": "spot", "instances": [id_], "terminate_after_seconds": 1}
    cloud.control("POST", "interruptions", interruption)
    message = wait(cloud, type="EC2 Spot Instance Interruption Warning")
    assert message["detail"] == {"instance-id": id_, "instance-action": "terminate"}
    eventually(lambda: cloud.instances()[id_]["state"] == "terminated")


@pytest.mark.parametrize(
    ("kind", "detail_type"),
    [
        ("rebalance", "EC2 Instance Rebalance Recommendation"),
        ("health", "AWS Health Event"),
        ("reservation", "EC2 Capacity Reservation Instance Interruption Warning"),
    ],
)
def test_other_warnings_leave_the_instance_alone(cloud, kind, detail_type):
    [id_] = ids(cloud.fleet())
    cloud.control("POST", "interruptions", {"kind": kind, "instances": [id_]})
    message = wait(cloud, type=detail_type)
    assert message["resources"][0].endswith(id_)
    if kind == "health":
        assert message["source"] == "aws.health"
        assert (
            message["detail"]["service"] == "EC2"
            and message["detail"]["eventTypeCategory"] == "scheduledChange"
        )
    assert cloud.instances()[id_]["state"] in ("pending", "running")


def test_another_hand_stops_and_ends_instances(cloud):
    first, second = ids(cloud.fleet(count=2))
    eventually(lambda: cloud.instances()[second]["state"] == "running")
    cloud.control("POST", "interruptions", {"kind": "stop", "instances": [first]})
    cloud.control("POST", "interruptions", {"kind": "terminate", "instances": [second]})
    assert cloud.instances()[first]["state"] == "stopped"
    assert wait(cloud, **{"instance-id": second, "state": "terminated"})
    said = cloud.control(
        "POST", "interruptions", {"kind": "flood", "instances": [first]}, expect=400
    )
    assert "flood" in said["error"]
    cloud.control(
        "POST", "messages", {"version": "0", "detail-type": "noise", "detail": {}}
    )
    assert wait(cloud, type="noise")
