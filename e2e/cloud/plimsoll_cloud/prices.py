"""The on-demand price list, and a spot market that moves when it is told to.

On-demand prices are read from the bench catalogue, which states its source and date. Spot prices follow a stated rule and
are not real: each (type, zone) starts between 25 and 65 % of the on-demand price and moves by up to 10 % a step.
"""

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

CATALOGUE = (
    Path(__file__).resolve().parents[3] / "bench" / "data" / "aws-us-east-1.json"
)


class PriceList:
    """On-demand Linux prices in dollars an hour, by instance type; one region."""

    region = "us-east-1"

    def __init__(self, catalogue: Path = CATALOGUE):
        data = json.loads(catalogue.read_text())
        name, price = (
            data["columns"].index("name"),
            data["columns"].index("on_demand_price"),
        )
        self.source = data["source"]
        self.date = re.search(r"list of (\d{4}-\d\d-\d\d)", self.source)[1]
        self.on_demand = {row[name]: row[price] for row in data["types"]}


def _share(*words: object) -> float:
    """A number from 0 to 1 that depends on nothing but the words."""
    digest = hashlib.sha256("/".join(map(str, words)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class SpotMarket:
    def __init__(self, prices: PriceList, seed: int):
        self.prices = prices
        self.seed = seed
        self.began = datetime.now(UTC) - timedelta(hours=1)
        self.steps: list[datetime] = []
        self.fixed: dict[tuple[str, str], list[tuple[datetime, float]]] = {}

    def advance(self, steps: int) -> None:
        self.steps += [datetime.now(UTC)] * steps

    def fix(self, instance_type: str, zone: str, price: float) -> None:
        """From now on the price is this one."""
        self.fixed.setdefault((instance_type, zone), []).append(
            (datetime.now(UTC), price)
        )

    def history(self, instance_type: str, zone: str) -> list[tuple[datetime, float]]:
        """All prices since the beginning, the newest first, as DescribeSpotPriceHistory lists them."""
        on_demand = self.prices.on_demand.get(instance_type)
        if on_demand is None:
            return []
        price = on_demand * (0.25 + 0.4 * _share(self.seed, instance_type, zone))
        history = [(self.began, price)]
        for number, at in enumerate(self.steps):
            price *= 0.9 + 0.2 * _share(self.seed, instance_type, zone, number)
            history.append((at, min(price, on_demand)))
        history += self.fixed.get((instance_type, zone), [])
        return sorted(history, key=lambda entry: entry[0], reverse=True)

    def price(self, instance_type: str, zone: str) -> float | None:
        history = self.history(instance_type, zone)
        return history[0][1] if history else None


def product(
    instance_type: str, price: float, bare_metal: bool, architecture: str
) -> dict:
    """One entry of GetProducts' price list, as far as a reader of on-demand prices looks."""
    sku = hashlib.sha256(instance_type.encode()).hexdigest()[:16].upper()
    return {
        "product": {
            "sku": sku,
            "productFamily": "Compute Instance (bare metal)"
            if bare_metal
            else "Compute Instance",
            "attributes": {
                "servicecode": "AmazonEC2",
                "serviceCode": "AmazonEC2",
                "regionCode": PriceList.region,
                "location": "US East (N. Virginia)",
                "instanceType": instance_type,
                "tenancy": "Dedicated" if bare_metal else "Shared",
                "operatingSystem": "Linux",
                "preInstalledSw": "NA",
                "capacitystatus": "Used",
                "marketoption": "OnDemand",
                "processorArchitecture": architecture,
            },
        },
        "serviceCode": "AmazonEC2",
        "terms": {
            "OnDemand": {
                f"{sku}.JRTCKXETXF": {
                    "sku": sku,
                    "offerTermCode": "JRTCKXETXF",
                    "priceDimensions": {
                        f"{sku}.JRTCKXETXF.6YS6EN2CT7": {
                            "unit": "Hrs",
                            "beginRange": "0",
                            "endRange": "Inf",
                            "pricePerUnit": {"USD": f"{price:.10f}"},
                        }
                    },
                }
            }
        },
        "version": "20250302000000",
    }


def get_products(
    prices: PriceList, bare_metal_types: set[str], arm_types: set[str], request: dict
) -> dict:
    """Pricing's GetProducts for TERM_MATCH filters on the attributes above."""
    wanted = {
        f["Field"]: f["Value"]
        for f in request.get("Filters", [])
        if f.get("Type") == "TERM_MATCH"
    }
    family = wanted.pop("productFamily", None)
    products = []
    for name, price in sorted(prices.on_demand.items()):
        entry = product(
            name,
            price,
            name in bare_metal_types,
            "Arm" if name in arm_types else "64-bit",
        )
        attributes = entry["product"]["attributes"]
        if family in (None, entry["product"]["productFamily"]) and all(
            attributes.get(field) == value for field, value in wanted.items()
        ):
            products.append(json.dumps(entry))
    start, size = (
        int(request.get("NextToken") or 0),
        int(request.get("MaxResults") or 100),
    )
    answer = {"FormatVersion": "aws_v1", "PriceList": products[start : start + size]}
    if start + size < len(products):
        answer["NextToken"] = str(start + size)
    return answer
