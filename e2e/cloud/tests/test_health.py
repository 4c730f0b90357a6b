from conftest import eventually, ids


def failing(cloud, name: str, *values: str) -> dict[str, dict]:
    """Statuses by instance."""
    answer = cloud.controller("ec2").describe_instance_status(
        Filters=[{"Name": name, "Values": list(values)}]
    )
    return {status["InstanceId"]: status for status in answer["InstanceStatuses"]}


def running(cloud, count: int) -> list[str]:
    found = ids(cloud.fleet(count=count))
    eventually(lambda: all(cloud.instances()[i]["state"] == "running" for i in found))
    return found


def test_only_what_fails_matches_the_filter(cloud):
    well, ill = running(cloud, 2)
    impaired = ("instance-status.status", "impaired")
    assert not {well, ill} & set(failing(cloud, *impaired))
    cloud.control("PUT", "health", {ill: {"instance": 180}})
    status = failing(cloud, *impaired)[ill]
    assert status["InstanceStatus"]["Details"][0]["Status"] == "failed"
    assert status["SystemStatus"]["Status"] == "ok"
    assert well not in failing(cloud, *impaired)
    assert ill not in failing(cloud, "system-status.status", "impaired")
    assert well in failing(cloud, "system-status.status", "ok")
    cloud.control("PUT", "health", {ill: {}})
    assert ill not in failing(cloud, *impaired)


def test_events_are_found_by_code(cloud):
    [id_] = running(cloud, 1)
    cloud.control("PUT", "health", {id_: {"event": "instance-retirement"}})
    found = failing(cloud, "event.code", "instance-stop", "instance-retirement")
    assert found[id_]["Events"][0]["Code"] == "instance-retirement"
    assert id_ not in failing(cloud, "event.code", "system-reboot")


def test_a_typing_error_is_told(cloud):
    [id_] = running(cloud, 1)
    said = cloud.control("PUT", "health", {id_: {"sytem": 1}}, expect=400)
    assert "sytem" in said["error"]
    said = cloud.control("PUT", "health", {"i-none": {}}, expect=400)
    assert "i-none" in said["error"]
