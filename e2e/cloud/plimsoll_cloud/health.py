"""DescribeInstanceStatus: all is well unless the control endpoint says otherwise."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from moto.core.responses import ActionResult
from moto.ec2.responses import EC2Response

from . import instances
from .cloud import Cloud, now

CHECKS = ("instance", "system")


@dataclass
class Health:
    """What is wrong with an instance."""

    failing_since: dict[str, datetime] = field(default_factory=dict)
    events: list[dict] = field(default_factory=list)


def install(cloud: Cloud) -> None:
    EC2Response.describe_instance_status = lambda response: ActionResult(
        {"InstanceStatuses": _statuses(cloud, response.params)}
    )


def put(cloud: Cloud, body: dict) -> dict:
    """`{"i-...": {"system": 180, "event": "instance-retirement", "description": "..."}}`; an empty object heals."""
    for id_, wrong in body.items():
        if id_ not in cloud.launches:
            raise ValueError(f"there is no instance {id_}")
        if unknown := set(wrong) - {*CHECKS, "event", "description"}:
            raise ValueError(f"health of {id_}: {sorted(unknown)} is not known")
        health = Health()
        for check in CHECKS:
            if check in wrong:
                seconds = timedelta(seconds=float(wrong[check]))
                health.failing_since[check] = now() - seconds
        if "event" in wrong:
            health.events.append(
                {
                    "Code": wrong["event"],
                    "Description": wrong.get("description", "The host is to go"),
                    "NotBefore": now() + timedelta(days=14),
                }
            )
        cloud.health[id_] = health
    return body


def _statuses(cloud: Cloud, parameters: dict) -> list[dict]:
    """Of the instances that run and match all filters."""
    filters = {f["Name"]: f["Values"] for f in parameters.get("Filters") or []}
    wanted = parameters.get("InstanceIds")
    found = []
    for id_, record in cloud.launches.items():
        if record.instance.state != "running" or (wanted and id_ not in wanted):
            continue
        if record.account != cloud.account:
            continue
        if not instances.is_visible(cloud, record.instance):
            continue
        health = cloud.health.get(id_, Health())
        checks = {check: _check(health, check) for check in CHECKS}
        values = {
            "instance-status.status": {checks["instance"]["Status"]},
            "system-status.status": {checks["system"]["Status"]},
            "event.code": {event["Code"] for event in health.events},
        }
        if all(values.get(name, set()) & set(any_) for name, any_ in filters.items()):
            found.append(
                {
                    "InstanceId": id_,
                    "AvailabilityZone": record.pool[1],
                    "InstanceState": {"Code": 16, "Name": "running"},
                    "InstanceStatus": checks["instance"],
                    "SystemStatus": checks["system"],
                    "Events": health.events,
                }
            )
    return found


def _check(health: Health, check: str) -> dict:
    since = health.failing_since.get(check)
    detail = {"Name": "reachability", "Status": "failed" if since else "passed"}
    if since:
        detail["ImpairedSince"] = since
    return {"Status": "impaired" if since else "ok", "Details": [detail]}
