"""All that this process knows beyond moto's own state."""

import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS
from moto.iam.models import iam_backends
from moto.sts.models import sts_backends

from .faults import Faults
from .pools import Pools
from .prices import PriceList, SpotMarket
from .requests import RequestLog


def now() -> datetime:
    return datetime.now(UTC)


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


# The account the current thread acts in; the home account unless a request or `acting_in` says otherwise.
_current = threading.local()


class Cloud:
    """Two accounts in one region. Whoever touches moto's state or this object's holds `lock`."""

    # The cluster's account, and one for machines only.
    home, guest = DEFAULT_ACCOUNT_ID, "210987654321"
    accounts = (home, guest)
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
        self.health: dict = {}
        self.reservations: dict = {}
        self.releases = 0
        self.seeded: dict = {}
        self.kept: dict[str, set[str]] = {}

    @property
    def account(self) -> str:
        return getattr(_current, "account", self.home)

    @contextmanager
    def acting_in(self, account: str):
        before, _current.account = self.account, account
        try:
            yield
        finally:
            _current.account = before

    @property
    def ec2(self):
        return ec2_backends[self.account][self.region]

    @property
    def iam(self):
        return iam_backends[self.account][self.partition]

    @property
    def sts(self):
        return sts_backends[self.account][self.partition]

    @cached_property
    def types(self) -> dict[str, dict]:
        """All instance types as DescribeInstanceTypes has them."""
        return {
            info["InstanceType"]: info for info in self.ec2.describe_instance_types()
        }

    @cached_property
    def offered(self) -> dict[str, set[str]]:
        """The zones that offer a type."""
        offered: dict[str, set[str]] = {}
        for offering in INSTANCE_TYPE_OFFERINGS["availability-zone"][self.region]:
            offered.setdefault(offering["InstanceType"], set()).add(
                offering["Location"]
            )
        return offered

    @cached_property
    def zone_ids(self) -> dict[str, str]:
        """Zone ids by zone."""
        return {
            zone.name: zone.zone_id for zone in self.ec2.describe_availability_zones()
        }

    def price(self, type_: str, zone: str, capacity_type: str) -> float | None:
        """Dollars per hour now; None if the price list does not have the type."""
        if capacity_type == "spot":
            return self.market.price(type_, zone)
        return self.prices.on_demand.get(type_)

    def arn(self, service: str, resource: str, region: str | None = None) -> str:
        region = "" if service in ("iam", "sts") else region or self.region
        return f"arn:{self.partition}:{service}:{region}:{self.account}:{resource}"

    def tags(self, resource_id: str) -> dict[str, str]:
        """Tags of an EC2 resource."""
        return dict(self.ec2.tags.get(resource_id, {}))
