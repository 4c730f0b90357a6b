"""One stand-in for all tests, with an API server that records what the joiner does."""

import base64
import json
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
import requests
import yaml
from botocore.config import Config
from botocore.exceptions import ClientError

# A machine that is busy with other work answers late.
CONFIG = Config(
    retries={"max_attempts": 0}, parameter_validation=False, read_timeout=600
)
PACKAGE = Path(__file__).resolve().parents[1]
CA = "-----BEGIN CERTIFICATE-----\nMAAwAAIB\n-----END CERTIFICATE-----\n"
CLUSTER_TAG = "kubernetes.io/cluster/plimsoll-test"
OWNED = [
    {"Key": CLUSTER_TAG, "Value": "owned"},
    {"Key": "karpenter.sh/nodepool", "Value": "default"},
]


class ApiServer:
    """Takes Nodes and forgets them again, by name and by UID as the real one does."""

    def __init__(self):
        self.nodes: dict[str, dict] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                node = self._body()
                if node["metadata"]["name"] in outer.nodes:
                    return self._answer(409)
                node["metadata"]["uid"] = str(uuid.uuid4())
                outer.nodes[node["metadata"]["name"]] = node
                self._answer(201, node)

            def do_DELETE(self):
                name, wanted = self.path.rsplit("/", 1)[-1], self._body()
                if name not in outer.nodes:
                    return self._answer(404)
                uid = outer.nodes[name]["metadata"]["uid"]
                if wanted.get("preconditions", {}).get("uid", uid) != uid:
                    return self._answer(409)
                del outer.nodes[name]
                self._answer(200)

            def _body(self) -> dict:
                length = int(self.headers.get("Content-Length", 0))
                return json.loads(self.rfile.read(length) or "{}")

            def _answer(self, status, body=None):
                text = json.dumps(body or {}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def kubeconfig(self) -> str:
        ca = base64.b64encode(CA.encode()).decode()
        return yaml.safe_dump(
            {
                "current-context": "test",
                "contexts": [
                    {"name": "test", "context": {"cluster": "test", "user": "test"}}
                ],
                "clusters": [
                    {
                        "name": "test",
                        "cluster": {
                            "server": self.endpoint,
                            "certificate-authority-data": ca,
                        },
                    }
                ],
                "users": [{"name": "test", "user": {"token": "test"}}],
            }
        )


class StandIn:
    """A client of the stand-in."""

    def __init__(self, ready: dict, api_server: ApiServer):
        self.ready, self.api_server = ready, api_server
        self.tokens = 0

    def client(self, service: str, credentials: dict, region: str = "us-east-1"):
        return boto3.client(
            service,
            endpoint_url=self.ready["endpoint"],
            region_name=region,
            aws_access_key_id=credentials["access_key_id"],
            aws_secret_access_key=credentials["secret_access_key"],
            aws_session_token=credentials.get("token"),
            config=CONFIG,
        )

    def admin(self, service: str):
        return self.client(service, self.ready["admin"])

    def assume(self, **arguments) -> dict:
        """Credentials of the controller role."""
        arguments = {
            "RoleArn": self.ready["controller_role_arn"],
            "RoleSessionName": "plimsoll",
            "ExternalId": self.ready["external_id"],
        } | arguments
        arguments = {
            key: value for key, value in arguments.items() if value is not None
        }
        answer = self.client("sts", self.ready["operator"]).assume_role(**arguments)[
            "Credentials"
        ]
        return {
            "access_key_id": answer["AccessKeyId"],
            "secret_access_key": answer["SecretAccessKey"],
            "token": answer["SessionToken"],
        }

    def controller(self, service: str, **arguments):
        return self.client(service, self.assume(**arguments))

    def control(self, method: str, path: str, body=None, expect: int = 200):
        answer = requests.request(
            method, f"{self.ready['control']}/{path}", json=body, timeout=600
        )
        assert answer.status_code == expect, answer.text
        return answer.json()

    def image(
        self,
        path: str = "eks/optimized-ami/1.36/amazon-linux-2023/x86_64/standard/recommended",
    ) -> str:
        name = f"/aws/service/{path}/image_id"
        return self.admin("ssm").get_parameter(Name=name)["Parameter"]["Value"]

    def template(self, ec2=None, name: str | None = None, tags=OWNED, **data) -> str:
        """Creates a launch template as a node provider would; returns its name."""
        self.tokens += 1
        name = name or f"template-{self.tokens}"
        data = {
            "ImageId": data.pop("ImageId", None) or self.image(),
            "UserData": base64.b64encode(
                data.pop("user_data", "none").encode()
            ).decode(),
            "IamInstanceProfile": {"Name": self.ready["instance_profile"]},
            "NetworkInterfaces": [
                {"DeviceIndex": 0, "Groups": self.ready["security_groups"]}
            ],
            "BlockDeviceMappings": [
                {
                    "DeviceName": "/dev/xvda",
                    "Ebs": {"VolumeSize": 20, "VolumeType": "gp3", "Encrypted": True},
                }
            ],
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
            "TagSpecifications": [
                {"ResourceType": kind, "Tags": tags}
                for kind in ("network-interface", "spot-instances-request")
            ],
        } | data
        (ec2 or self.admin("ec2")).create_launch_template(
            LaunchTemplateName=name,
            LaunchTemplateData=data,
            TagSpecifications=[{"ResourceType": "launch-template", "Tags": tags}]
            if tags
            else [],
        )
        return name

    def fleet(
        self,
        ec2=None,
        template: str | None = None,
        types=("m5.large",),
        zones=None,
        count=1,
        **arguments,
    ):
        """CreateFleet; returns its answer."""
        capacity_type = arguments.pop("capacity_type", "on-demand")
        tags = arguments.pop("tags", OWNED)
        overrides = arguments.pop("overrides", None) or [
            {"InstanceType": type_, "SubnetId": self.ready["subnets"][zone]}
            for type_ in types
            for zone in zones or self.ready["subnets"]
        ]
        strategy = arguments.pop("strategy", "lowest-price")
        options = "SpotOptions" if capacity_type == "spot" else "OnDemandOptions"
        request = {
            "Type": "instant",
            "LaunchTemplateConfigs": [
                {
                    "LaunchTemplateSpecification": {
                        "LaunchTemplateName": template or self.template(),
                        "Version": "$Latest",
                    },
                    "Overrides": overrides,
                }
            ],
            "TargetCapacitySpecification": {
                "TotalTargetCapacity": count,
                "DefaultTargetCapacityType": capacity_type,
            },
            options: {"AllocationStrategy": strategy},
            "TagSpecifications": [
                {"ResourceType": kind, "Tags": tags}
                for kind in ("instance", "volume", "fleet")
            ]
            if tags
            else [],
        } | arguments
        return (ec2 or self.admin("ec2")).create_fleet(**request)

    def instances(self) -> dict[str, dict]:
        return {
            instance["id"]: instance for instance in self.control("GET", "instances")
        }

    def messages(self) -> list[dict]:
        """Takes all messages out of the queue."""
        sqs, url, found = self.admin("sqs"), self.ready["queue_url"], []
        while batch := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get(
            "Messages"
        ):
            for message in batch:
                found.append(json.loads(message["Body"]))
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return found


def ids(answer: dict) -> list[str]:
    return [id_ for instance in answer["Instances"] for id_ in instance["InstanceIds"]]


def codes(answer: dict) -> set[str]:
    return {error["ErrorCode"] for error in answer["Errors"]}


def refusal(call, *arguments, **keywords) -> tuple[str, str]:
    """Code and message of the error that a call must end with."""
    with pytest.raises(ClientError) as error:
        call(*arguments, **keywords)
    answer = error.value.response["Error"]
    return answer["Code"], answer["Message"]


def eventually(condition, within: float = 300):
    """Waits until `condition` is true and returns it."""
    deadline = time.monotonic() + within
    while not (result := condition()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)
    return result


@pytest.fixture(scope="session")
def _stand_in(tmp_path_factory):
    api_server = ApiServer()
    directory = tmp_path_factory.mktemp("cloud")
    kubeconfig = directory / "kubeconfig"
    kubeconfig.write_text(api_server.kubeconfig())
    log = (directory / "log").open("w+")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "plimsoll_cloud",
            "--kubeconfig",
            kubeconfig,
            "--join-delay",
            "0.5",
        ],
        cwd=PACKAGE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    line = process.stdout.readline()
    if not line:
        log.seek(0)
        pytest.fail(f"the stand-in did not start:\n{log.read()}")
    stand_in = StandIn(json.loads(line), api_server)
    stand_in.log = Path(log.name)
    yield stand_in
    process.terminate()
    assert process.wait(timeout=300) == 0


@pytest.fixture
def cloud(_stand_in):
    """The stand-in without faults."""
    _stand_in.control("DELETE", "faults")
    _stand_in.control("PUT", "capacity", [])
    yield _stand_in
