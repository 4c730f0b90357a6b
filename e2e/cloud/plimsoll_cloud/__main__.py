"""Starts the stand-in; see README.md."""

import argparse
import base64
import json
import os
import signal
import sys
import threading
import time

# Read by moto when it is imported: its own AMIs are not wanted, and take seconds to load.
os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")


def main() -> None:
    arguments = _arguments()

    from moto.moto_api._internal import mock_random
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    from . import gaps, gate, instances, joiner, seed
    from .cloud import Cloud, Settings, say
    from .control import Front

    class QuietHandler(MotoRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *args, **kwargs) -> None:
            """The request log has it."""

    mock_random.seed(arguments.seed)
    cluster = joiner.Cluster.of(arguments.kubeconfig) if arguments.kubeconfig else None
    cloud = Cloud(
        Settings(
            cluster=arguments.cluster,
            region=arguments.region,
            kubernetes_version=arguments.kubernetes_version,
            cluster_endpoint=cluster.endpoint
            if cluster
            else arguments.cluster_endpoint,
            cluster_ca=cluster.ca if cluster else arguments.cluster_ca,
            join_delay=arguments.join_delay,
            seed=arguments.seed,
        )
    )
    gaps.install(cloud)
    front = Front(cloud, DomainDispatcherApplication(create_backend_app))
    server = make_server(
        "127.0.0.1", arguments.port, front, threaded=True, request_handler=QuietHandler
    )
    endpoint = f"http://127.0.0.1:{server.server_port}"
    ready = seed.seed(cloud, endpoint)
    gate.install(cloud)
    ready |= {
        "endpoint": endpoint,
        "control": f"{endpoint}/_control",
        "pid": os.getpid(),
    }

    def tick() -> None:
        while True:
            time.sleep(0.05)
            with cloud.lock:
                instances.tick(cloud)

    threading.Thread(target=tick, name="tick", daemon=True).start()
    if cluster:
        joiner.start(cloud, cluster)
    # shutdown() waits for serve_forever(), which runs in this thread, so a handler must not call it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    print(json.dumps(ready), flush=True)
    say(f"{arguments.cluster} at {endpoint}; prices of {cloud.prices.date}")
    server.serve_forever()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="plimsoll_cloud", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--cluster", default="plimsoll-test")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--kubernetes-version", default="1.36")
    parser.add_argument(
        "--kubeconfig", help="names the cluster and starts the node joiner"
    )
    parser.add_argument("--cluster-endpoint", default="https://127.0.0.1:6443")
    parser.add_argument(
        "--cluster-ca",
        default=base64.b64encode(b"placeholder").decode(),
        help="base64 of PEM",
    )
    parser.add_argument(
        "--join-delay", type=float, default=1.0, help="seconds from launch to Node"
    )
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.region != "us-east-1":
        parser.error("prices are known for us-east-1 only")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
