"""What moto lacks or answers too simply; installed over its responses."""

from moto.core.responses import ActionResult
from moto.ec2.models import EC2Backend
from moto.ec2.responses import EC2Response
from moto.iam.responses import IamResponse

from . import fleet, health, instances, reservations
from .cloud import Cloud, now

PRODUCTS = ["Linux/UNIX", "Linux/UNIX (Amazon VPC)"]


def install(cloud: Cloud) -> None:
    describe_instance_types = EC2Response.describe_instance_types
    describe_launch_templates = EC2Response.describe_launch_templates
    do_resources_exist = EC2Backend.do_resources_exist

    def spot_price_history(response) -> ActionResult:
        return ActionResult(
            _page(
                response.params,
                "SpotPriceHistory",
                _spot_prices(cloud, response.params),
                1000,
            )
        )

    def launch_templates(response) -> ActionResult:
        # moto cuts the list at MaxResults (15 by default) and gives no token for the rest.
        size = response.params.pop("MaxResults", None)
        response.params["MaxResults"] = len(cloud.ec2.launch_templates) + 1
        templates = describe_launch_templates(response).result["LaunchTemplates"]
        response.params["MaxResults"] = size
        return ActionResult(_page(response.params, "LaunchTemplates", templates, 200))

    def instance_types(response) -> ActionResult:
        types = describe_instance_types(response).result["InstanceTypes"]
        return ActionResult(_page(response.params, "InstanceTypes", types, len(types)))

    def instance_profiles(response) -> ActionResult:
        # moto does not look at the prefix.
        prefix = response.params.get("PathPrefix") or "/"
        found = [
            p for p in cloud.iam.instance_profiles.values() if p.path.startswith(prefix)
        ]
        return ActionResult({"InstanceProfiles": found, "IsTruncated": False})

    def resources_exist(backend, ids) -> bool:
        # moto lets instances be tagged that are not there.
        for id_ in ids:
            if id_.startswith("i-"):
                backend.get_instance(id_)
        return do_resources_exist(backend, ids)

    IamResponse.list_instance_profiles = instance_profiles
    EC2Backend.do_resources_exist = resources_exist
    EC2Response.describe_instance_types = instance_types
    EC2Response.describe_spot_price_history = spot_price_history
    EC2Response.describe_launch_templates = launch_templates
    EC2Response.describe_placement_groups = lambda response: ActionResult(
        {"PlacementGroups": []}
    )
    fleet.install(cloud)
    instances.install(cloud)
    health.install(cloud)
    reservations.install(cloud)


def _page(parameters: dict, name: str, entries: list, default: int) -> dict:
    start, size = (
        int(parameters.get("NextToken") or 0),
        int(parameters.get("MaxResults") or default),
    )
    answer = {name: entries[start : start + size]}
    if start + size < len(entries):
        answer["NextToken"] = str(start + size)
    return answer


def _spot_prices(cloud: Cloud, parameters: dict) -> list[dict]:
    """The prices within the asked-for time and the one in force at its beginning, as AWS answers."""
    filters = {f["Name"]: f.get("Values", []) for f in parameters.get("Filters") or []}
    types = parameters.get("InstanceTypes") or filters.get("instance-type")
    zones = filters.get("availability-zone")
    if parameters.get("AvailabilityZone"):
        zones = [parameters["AvailabilityZone"]]
    products = (
        parameters.get("ProductDescriptions")
        or filters.get("product-description")
        or PRODUCTS
    )
    start, end = (
        parameters.get("StartTime") or now(),
        parameters.get("EndTime") or now(),
    )
    entries = []
    for name in sorted(cloud.prices.on_demand):
        usage = instances.type_info(cloud, name).get("SupportedUsageClasses", [])
        if "spot" not in usage or (types and name not in types):
            continue
        for zone in sorted(cloud.offered.get(name, set())):
            if zones and zone not in zones:
                continue
            for at, price in cloud.market.history(name, zone):
                if at <= _aware(end):
                    entries += [
                        {
                            "InstanceType": name,
                            "AvailabilityZone": zone,
                            "ProductDescription": product,
                            "SpotPrice": f"{price:.6f}",
                            "Timestamp": at,
                        }
                        for product in PRODUCTS[1:]
                        if product in products
                    ]
                if at <= _aware(start):
                    break
    return entries


def _aware(at):
    return at if at.tzinfo else at.replace(tzinfo=now().tzinfo)
