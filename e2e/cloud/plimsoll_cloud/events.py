"""EventBridge events as they arrive in the interruption queue."""

import json
from datetime import timedelta
from email.utils import format_datetime

from moto.moto_api._internal import mock_random
from moto.sqs.models import sqs_backends

from .cloud import Cloud, now

# AWS Health announces a retirement days ahead.
HEALTH_NOTICE = timedelta(days=7)

# kind of the control endpoint: source, detail-type, and the detail of an instance.
KINDS = {
    "spot": (
        "aws.ec2",
        "EC2 Spot Instance Interruption Warning",
        lambda cloud, id_: {"instance-id": id_, "instance-action": "terminate"},
    ),
    "rebalance": (
        "aws.ec2",
        "EC2 Instance Rebalance Recommendation",
        lambda cloud, id_: {"instance-id": id_},
    ),
    "health": (
        "aws.health",
        "AWS Health Event",
        lambda cloud, id_: {
            "eventArn": f"arn:aws:health:{cloud.region}::event/EC2/AWS_EC2_PERSISTENT_INSTANCE_RETIREMENT_SCHEDULED/{id_}",
            "service": "EC2",
            "eventTypeCode": "AWS_EC2_PERSISTENT_INSTANCE_RETIREMENT_SCHEDULED",
            "eventTypeCategory": "scheduledChange",
            "startTime": format_datetime(now() + HEALTH_NOTICE, usegmt=True),
            "eventDescription": [
                {
                    "language": "en_US",
                    "latestDescription": "The instance is to be retired.",
                }
            ],
            "affectedEntities": [{"entityValue": id_}],
        },
    ),
    "reservation": (
        "aws.ec2",
        "EC2 Capacity Reservation Instance Interruption Warning",
        lambda cloud, id_: {"instance-id": id_, "instance-action": "terminate"},
    ),
}


def put(cloud: Cloud, body: dict | list | str) -> None:
    """Puts a message into the interruption queue, to which the other account's events are forwarded."""
    text = body if isinstance(body, str) else json.dumps(body)
    sqs_backends[cloud.home][cloud.region].send_message(cloud.cluster, text)


def event(
    cloud: Cloud, source: str, detail_type: str, resources: list[str], detail: dict
) -> dict:
    return {
        "version": "0",
        "id": str(mock_random.uuid4()),
        "detail-type": detail_type,
        "source": source,
        "account": cloud.account,
        "time": now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": cloud.region,
        "resources": resources,
        "detail": detail,
    }


def send(cloud: Cloud, kind: str, instance_id: str) -> None:
    source, detail_type, detail = KINDS[kind]
    arn = (
        instance_id if kind == "health" else cloud.arn("ec2", f"instance/{instance_id}")
    )
    put(cloud, event(cloud, source, detail_type, [arn], detail(cloud, instance_id)))


def state_change(cloud: Cloud, instance_id: str, state: str) -> None:
    # The queue is made last; nothing is launched before.
    put(
        cloud,
        event(
            cloud,
            "aws.ec2",
            "EC2 Instance State-change Notification",
            [cloud.arn("ec2", f"instance/{instance_id}")],
            {"instance-id": instance_id, "state": state},
        ),
    )
