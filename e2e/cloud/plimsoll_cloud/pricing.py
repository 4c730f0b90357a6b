"""The Pricing API, which moto does not have."""

from moto.core.responses import ActionResult, BaseResponse
from moto.moto_server.werkzeug_app import BackendRequest

from . import instances
from .cloud import Cloud
from .prices import get_products


def application(cloud: Cloud):
    """A WSGI application that answers GetProducts."""

    class PricingResponse(BaseResponse):
        def __init__(self):
            super().__init__(service_name="pricing")
            self.automated_parameter_parsing = True

        def get_products(self) -> ActionResult:
            types = {
                name: instances.type_info(cloud, name)
                for name in cloud.prices.on_demand
            }
            metal = {name for name, info in types.items() if info.get("BareMetal")}
            arm = {
                name
                for name, info in types.items()
                if "arm64"
                in info.get("ProcessorInfo", {}).get("SupportedArchitectures", [])
            }
            return ActionResult(get_products(cloud.prices, metal, arm, self.params))

    def answer(environ, start_response):
        status, headers, body = PricingResponse.dispatch(BackendRequest(environ))
        body = body.encode() if isinstance(body, str) else body
        kept = [
            (k, str(v))
            for k, v in headers.items()
            if k.lower() not in ("status", "content-length")
        ]
        start_response(f"{status} ", [*kept, ("Content-Length", str(len(body)))])
        return [body]

    return answer
