"""The control endpoint and the credentials of pods: what the process serves beside AWS's own interfaces."""

import json
from datetime import timedelta
from urllib.parse import parse_qs

from moto.core.exceptions import ServiceException
from moto.core.utils import utcnow

from . import events, health, images, instances, pricing, reservations
from .cloud import Cloud, now
from .faults import BadFault


class Front:
    """The WSGI application in front of moto's."""

    def __init__(self, cloud: Cloud, moto):
        self.cloud, self.moto, self.pricing = cloud, moto, pricing.application(cloud)

    def __call__(self, environ, start_response):
        path = environ.get("PATH_INFO", "")
        if path.startswith("/_control/"):
            status, answer = self._control(environ, path.removeprefix("/_control/"))
        elif path == "/_credentials":
            status, answer = self._credentials(environ)
        elif "/pricing/aws4_request" in environ.get("HTTP_AUTHORIZATION", ""):
            return self.pricing(environ, start_response)
        else:
            return self.moto(environ, start_response)
        body = json.dumps(answer).encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
        ]
        start_response(status, headers)
        return [body]

    def _control(self, environ, path: str) -> tuple[str, object]:
        method = environ["REQUEST_METHOD"]
        query = {
            key: values[-1]
            for key, values in parse_qs(environ.get("QUERY_STRING", "")).items()
        }
        handler = ROUTES.get((method, path))
        if handler is None:
            known = ", ".join(f"{m} /_control/{p}" for m, p in ROUTES)
            return "404 Not Found", {
                "error": f"there is no {method} /_control/{path}; there are {known}"
            }
        try:
            size = int(environ.get("CONTENT_LENGTH") or 0)
            body = json.loads(environ["wsgi.input"].read(size)) if size else None
            with self.cloud.lock:
                instances.tick(self.cloud)
                return "200 OK", handler(self.cloud, body, query)
        except (BadFault, KeyError, TypeError, ValueError) as error:
            return "400 Bad Request", {"error": f"{type(error).__name__}: {error}"}
        except ServiceException as error:
            return "400 Bad Request", {"error": f"{error.code}: {error.message}"}

    def _credentials(self, environ) -> tuple[str, object]:
        """What the EKS Pod Identity agent answers: a session of the pod role."""
        cloud = self.cloud
        if environ.get("HTTP_AUTHORIZATION") != cloud.seeded["pod_identity"]["token"]:
            return "403 Forbidden", {
                "error": "the Authorization header is not the pod's token"
            }
        with cloud.lock:
            session = cloud.sts.assume_role(
                region_name=cloud.region,
                role_session_name="pod-identity",
                role_arn=cloud.seeded["pod_role_arn"],
                policy=None,
                duration=3600,
                external_id=None,
            )
        return "200 OK", {
            "AccessKeyId": session.access_key_id,
            "SecretAccessKey": session.secret_access_key,
            "Token": session.session_token,
            "AccountId": cloud.account,
            "Expiration": session.expiration.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


def _set_faults(cloud: Cloud, body, query):
    cloud.faults.set(body)
    return cloud.faults.as_json()


def _clear_faults(cloud: Cloud, body, query):
    cloud.faults.clear()
    return cloud.faults.as_json()


def _set_capacity(cloud: Cloud, body, query):
    cloud.pools.set(body)
    return body


def _set_subnets(cloud: Cloud, body, query):
    for subnet, free in body.items():
        cloud.ec2.get_subnet(subnet)
        if free is None:
            cloud.free_addresses.pop(subnet, None)
        else:
            cloud.free_addresses[subnet] = int(free)
    return cloud.free_addresses


def _set_prices(cloud: Cloud, body, query):
    if unknown := set(body) - {"steps", "spot"}:
        raise BadFault(f"prices: {sorted(unknown)} is neither steps nor spot")
    cloud.market.advance(int(body.get("steps", 0)))
    for entry in body.get("spot", []):
        cloud.market.fix(entry["type"], entry["zone"], float(entry["price"]))
    return {"steps": len(cloud.market.steps)}


def _list_instances(cloud: Cloud, body, query):
    described = []
    for record in cloud.launches.values():
        with cloud.acting_in(record.account):
            described.append(instances.describe(cloud, record))
    return described


def _interrupt(cloud: Cloud, body, query):
    kind, ids = body["kind"], body["instances"]
    for id_ in ids:
        if id_ not in cloud.launches:
            raise BadFault(f"there is no instance {id_}")
    if kind == "spot":
        end = now() + timedelta(seconds=float(body.get("terminate_after_seconds", 120)))
        cloud.terminations += [(end, id_) for id_ in ids]
    for id_ in ids:
        with cloud.acting_in(cloud.launches[id_].account):
            if kind == "stop":
                cloud.ec2.stop_instances([id_])
                events.state_change(cloud, id_, "stopped")
            elif kind == "terminate":
                cloud.ec2.terminate_instances([id_])
            elif kind in events.KINDS:
                events.send(cloud, kind, id_)
            else:
                raise BadFault(
                    f"kind {kind!r} is none of {', '.join([*events.KINDS, 'stop', 'terminate'])}"
                )
    return {"instances": ids}


def _put_message(cloud: Cloud, body, query):
    events.put(cloud, body)
    return {}


def _requests(cloud: Cloud, body, query):
    return cloud.log.after(
        int(query.get("after", 0)), query.get("mutating") == "true", query.get("action")
    )


def _leftovers(cloud: Cloud, body, query):
    templates, profiles, volumes = [], [], set()
    for account in cloud.accounts:
        with cloud.acting_in(account):
            templates += [t.name for t in cloud.ec2.launch_templates.values()]
            profiles += [p.arn for p in cloud.iam.instance_profiles.values()]
            volumes |= set(cloud.ec2.volumes)
    return {
        "instances": [
            i
            for i, record in cloud.launches.items()
            if record.instance.state != "terminated"
        ],
        "launch_templates": sorted(templates),
        "instance_profiles": sorted(set(profiles) - cloud.kept["instance_profiles"]),
        "volumes": sorted(volumes - cloud.kept["volumes"]),
    }


def _expire(cloud: Cloud, body, query):
    ended = 0
    for account in cloud.accounts:
        with cloud.acting_in(account):
            for session in cloud.sts.assumed_roles:
                session.expiration = min(session.expiration, utcnow())
                ended += 1
    return {"sessions": ended}


def _set_role_policy(cloud: Cloud, body, query):
    cloud.iam.put_role_policy(body["role"], "plimsoll", json.dumps(body["policy"]))
    return {}


def _publish(cloud: Cloud, body, query):
    if body["family"] not in images.FAMILIES:
        raise BadFault(f"family must be one of {', '.join(images.FAMILIES)}")
    return {"images": images.publish(cloud, body["family"])}


ROUTES = {
    ("GET", "seed"): lambda cloud, body, query: cloud.seeded,
    ("GET", "faults"): lambda cloud, body, query: cloud.faults.as_json(),
    ("PUT", "faults"): _set_faults,
    ("DELETE", "faults"): _clear_faults,
    ("PUT", "capacity"): _set_capacity,
    ("PUT", "reservations"): lambda cloud, body, query: reservations.put(cloud, body),
    ("PUT", "role-policy"): _set_role_policy,
    ("PUT", "subnets"): _set_subnets,
    ("POST", "prices"): _set_prices,
    ("GET", "instances"): _list_instances,
    ("POST", "interruptions"): _interrupt,
    ("PUT", "health"): lambda cloud, body, query: health.put(cloud, body),
    ("POST", "messages"): _put_message,
    ("GET", "requests"): _requests,
    ("GET", "leftovers"): _leftovers,
    ("POST", "amis"): _publish,
    ("POST", "expire-sessions"): _expire,
}
