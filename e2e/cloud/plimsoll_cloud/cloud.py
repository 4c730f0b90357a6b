"""All that this process knows beyond moto's own state."""

import sys
import threading
from dataclasses import dataclass
from datetime import datetime, timezone

from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends
from moto.sts.models import sts_backends

from .faults import Faults
from .pools import Pools
from .prices import PriceList, SpotMarket
from .requests import RequestLog


def now() -> datetime:
    return datetime.now(timezone.utc)


def timestamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def say(text: str) -> None:
    print(f"[cloud] {text}", file=sys.stderr, flush=True)


@dataclass
class Settings:
    cluster: str
    region: str
    kubernetes_version: str
    cluster_endpoint: str
    cluster_ca: str
    join_delay: float
    seed: int


class Cloud:
    """One account in one region. Whoever touches moto's state or this object's holds `lock`."""

    account = DEFAULT_ACCOUNT_ID
    partition = "aws"

    def __init__(self, settings: Settings):
        self.settings = settings
        self.region = settings.region
        self.cluster = settings.cluster
        self.lock = threading.RLock()
        self.faults = Faults(settings.join_delay)
        self.pools = Pools()
        self.prices = PriceList()
        self.market = SpotMarket(self.prices, settings.seed)
        self.log = RequestLog()
        # Filled by the modules of the same names.
        self.launches: dict = {}
        self.tokens: dict = {}
        self.free_addresses: dict[str, int] = {}
        self.terminations: list[tuple[datetime, str]] = []
        self.seeded: dict = {}
        self.kept: dict[str, set[str]] = {}

    @property
    def ec2(self):
        return ec2_backends[self.account][self.region]

    @property
    def iam(self):
        return iam_backends[self.account][self.partition]

    @property
    def sts(self):
        return sts_backends[self.account][self.partition]

    def arn(self, service: str, resource: str) -> str:
        region = "" if service in ("iam", "sts") else self.region
        return f"arn:{self.partition}:{service}:{region}:{self.account}:{resource}"

    def tags(self, resource_id: str) -> dict[str, str]:
        """Tags of an EC2 resource."""
        return dict(self.ec2.tags.get(resource_id, {}))
