"""The kubelets of all instances: a Node for each one whose user data would make one."""

import base64
import json
import ssl
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import yaml

from . import instances, kubelet, userdata
from .cloud import Cloud, now, say

# How long a Node outlives its instance, as the cloud node lifecycle controller takes to notice.
DELETE_AFTER_SECONDS = 1.0
POLL_SECONDS = 0.1


@dataclass
class Cluster:
    """An API server and an administrator's credentials for it, from a kubeconfig."""

    endpoint: str
    ca: str
    opener: urllib.request.OpenerDirector
    headers: dict[str, str]

    @classmethod
    def of(cls, kubeconfig: str) -> "Cluster":
        config = yaml.safe_load(Path(kubeconfig).read_text())
        context = _named(config["contexts"], config["current-context"])["context"]
        server = _named(config["clusters"], context["cluster"])["cluster"]
        user = _named(config["users"], context["user"])["user"]
        directory = Path(kubeconfig).resolve().parent
        ca = _content(server, "certificate-authority", directory) or b""
        certificate = _content(user, "client-certificate", directory)
        key = _content(user, "client-key", directory)
        headers = {"Content-Type": "application/json"}
        if token := user.get("token"):
            headers["Authorization"] = f"Bearer {token}"
        handlers: list = [urllib.request.ProxyHandler({})]
        if server["server"].startswith("https:"):
            tls = ssl.create_default_context(cadata=ca.decode())
            if certificate and key:
                _load(tls, certificate + b"\n" + key)
            handlers.append(urllib.request.HTTPSHandler(context=tls))
        return cls(
            endpoint=server["server"],
            ca=base64.b64encode(ca).decode(),
            opener=urllib.request.build_opener(*handlers),
            headers=headers,
        )

    def create_node(self, node: dict) -> tuple[int, str]:
        """Status and text of the API server's answer."""
        return self._call("POST", "/api/v1/nodes", json.dumps(node).encode())

    def delete_node(self, name: str, uid: str) -> tuple[int, str]:
        """Status and text of the API server's answer. A later Node of the same name stays."""
        options = json.dumps({"preconditions": {"uid": uid}}).encode()
        return self._call("DELETE", f"/api/v1/nodes/{name}", options)

    def _call(
        self, method: str, path: str, body: bytes | None = None
    ) -> tuple[int, str]:
        request = urllib.request.Request(
            self.endpoint + path, body, self.headers, method=method
        )
        try:
            with self.opener.open(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


def _load(tls: ssl.SSLContext, pem: bytes) -> None:
    # The ssl module takes keys from files only.
    with tempfile.NamedTemporaryFile(prefix="plimsoll-cloud-") as file:
        file.write(pem)
        file.flush()
        tls.load_cert_chain(file.name)


def _named(entries: list[dict], name: str) -> dict:
    return next(entry for entry in entries if entry["name"] == name)


def _content(entry: dict, name: str, directory: Path) -> bytes | None:
    if data := entry.get(f"{name}-data"):
        return base64.b64decode(data)
    if path := entry.get(name):
        return (directory / path).read_bytes()
    return None


def start(cloud: Cloud, cluster: Cluster) -> None:
    threading.Thread(
        target=_run, args=(cloud, cluster), name="joiner", daemon=True
    ).start()


def _run(cloud: Cloud, cluster: Cluster) -> None:
    while True:
        time.sleep(POLL_SECONDS)
        try:
            step(cloud, cluster)
        except OSError as error:
            say(f"joiner: the API server does not answer, will try again: {error}")
            time.sleep(1)


def step(cloud: Cloud, cluster: Cluster) -> None:
    """Joins what is due and removes what is gone."""
    at = now()
    with cloud.lock:
        due = [r for r in cloud.launches.values() if _is_due(cloud, r, at)]
        gone = [
            r
            for r in cloud.launches.values()
            if r.node
            and r.gone_at
            and r.gone_at + timedelta(seconds=DELETE_AFTER_SECONDS) <= at
        ]
        nodes = [(record, _node_or_reason(cloud, record)) for record in due]
    for record, (node, reason) in nodes:
        if node is None:
            record.join_error = reason
            say(
                f"{record.instance.id} ({record.instance.instance_type}) never joins: {reason}"
            )
            continue
        status, text = cluster.create_node(node)
        if status == 409:
            # A Node of that name outlived an earlier instance with the same address; the kubelet would try again.
            continue
        if status >= 300:
            record.join_error = f"the API server refuses the Node: {text}"
            say(f"{record.instance.id} never joins: {record.join_error}")
            continue
        record.node, record.joined_at = node["metadata"]["name"], now()
        record.node_uid = json.loads(text)["metadata"]["uid"]
    for record in gone:
        cluster.delete_node(record.node, record.node_uid)
        record.node = None


def _is_due(cloud: Cloud, record: instances.Launch, at) -> bool:
    return (
        record.instance.state == "running"
        and record.node is None
        and record.joined_at is None
        and record.join_error is None
        and record.at + timedelta(seconds=cloud.faults.join_delay_seconds) <= at
        and not cloud.faults.keeps_from_joining(
            record.instance.id, record.instance.instance_type
        )
    )


def _node_or_reason(
    cloud: Cloud, record: instances.Launch
) -> tuple[dict | None, str | None]:
    try:
        with cloud.acting_in(record.account):
            return node_of(cloud, record), None
    except userdata.WouldNotJoin as error:
        return None, str(error)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # A field of another type than nodeadm or the kubelet expects.
        return None, f"the configuration has not the right form: {error!r}"


def node_of(cloud: Cloud, record: instances.Launch) -> dict:
    """The Node that the kubelet on this instance would register, or why it would not."""
    instance, settings = record.instance, cloud.settings
    family = family_of(cloud, instance.image_id)
    found = userdata.read(family, instances.user_data(instance))
    if found.cluster != settings.cluster:
        raise userdata.WouldNotJoin(
            f"the cluster's name is {settings.cluster}, not {found.cluster}"
        )
    if found.endpoint.rstrip("/") != settings.cluster_endpoint.rstrip("/"):
        raise userdata.WouldNotJoin(
            f"{found.endpoint} is not the cluster's endpoint {settings.cluster_endpoint}"
        )
    if _certificates(found.ca) != _certificates(settings.cluster_ca):
        raise userdata.WouldNotJoin("the certificate authority is not the cluster's")
    info = instances.type_info(cloud, instance.instance_type)
    image = cloud.ec2.amis[instance.image_id]
    if image.architecture not in info["ProcessorInfo"]["SupportedArchitectures"]:
        raise userdata.WouldNotJoin(
            f"the image is for {image.architecture}, which {instance.instance_type} does not run"
        )
    if instance.iam_instance_profile is None:
        raise userdata.WouldNotJoin(
            "the instance has no instance profile, so the API server does not know it"
        )
    device = "/dev/xvdb" if family == "bottlerocket" else image.root_device_name
    return kubelet.node(
        name=instances.private_dns_name(cloud, instance),
        instance_id=instance.id,
        zone=instance.availability_zone,
        zone_id=cloud.zone_ids[instance.availability_zone],
        region=cloud.region,
        info=info,
        kubelet=found,
        address=instance.kept_private_ip,
        disk_gib=_disk(instance, device),
    )


def _disk(instance, device: str) -> int:
    mapping = instance.block_device_mapping
    chosen = mapping.get(device) or next(iter(mapping.values()))
    return int(chosen.size)


def _certificates(ca: str) -> object:
    """The certificates of base64 PEM, whatever its line breaks; the text itself, if it is none."""
    try:
        pem = base64.b64decode(ca, validate=True).decode()
        blocks = pem.split("-----END CERTIFICATE-----")[:-1]
        return {
            ssl.PEM_cert_to_DER_cert(block.strip() + "\n-----END CERTIFICATE-----\n")
            for block in blocks
        } or pem
    except ValueError:
        return ca


def family_of(cloud: Cloud, image_id: str) -> str:
    """What boots from an image, told by its name as EKS and Bottlerocket give it."""
    image = cloud.ec2.amis.get(image_id)
    name = image.name if image else ""
    if name.startswith("bottlerocket"):
        return "bottlerocket"
    if "al2023" in name:
        return "al2023"
    if name.startswith("amazon-eks"):
        return "al2"
    raise userdata.WouldNotJoin(
        f"the image {image_id} ({name or 'unknown'}) has no kubelet"
    )
