"""What every request passes on its way to moto: faults, identity, permissions, ClientToken, and the log."""

import json
import re
import time
import traceback

from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult, BaseResponse

from . import authorization, iam, instances, sessions
from .cloud import Cloud, now, say
from .requests import Entry, is_mutating

# Calls that take a ClientToken, and under which name.
IDEMPOTENT = {"ec2:CreateFleet", "ec2:RunInstances", "ec2:CreateLaunchTemplate"}
# These never change, and moto takes a second of processor time to write one out.
STATIC = {"ec2:DescribeInstanceTypes", "ec2:DescribeInstanceTypeOfferings"}
# These wait for messages and keep order among themselves.
UNLOCKED = {"sqs"}
SILENCE_POLL_SECONDS = 0.1


class Answer(ServiceException):
    """An error to be written out. moto looks for the error's shape by the module of its class, so it is one of ours."""


class Refused(Exception):
    """A request that is answered with an error before moto sees it."""

    def __init__(self, code: str, message: str, status: int = 400):
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


def install(cloud: Cloud) -> None:
    to_moto = BaseResponse.call_action

    def call_action(response):
        action = response._get_action()
        if not action or response.service_name is None:
            return to_moto(response)
        return Gate(cloud, response, action, lambda: to_moto(response)).answer()

    BaseResponse.call_action = call_action


class Gate:
    """One request."""

    def __init__(self, cloud: Cloud, response, action: str, to_moto):
        self.cloud, self.response, self.to_moto = cloud, response, to_moto
        self.service = response.boto3_service_name
        self.action = f"{self.service}:{action}"
        self.parameters = _parameters(response)
        self.entry = Entry(
            at=now(),
            action=self.action,
            principal="unknown",
            access_key_id=response.access_key,
            session=None,
            region=response.region,
            dry_run=bool(self.parameters.get("DryRun")),
            parameters=self.parameters,
            request_tags=authorization.request_tags(self.parameters),
        )

    def answer(self):
        begin = time.monotonic()
        try:
            # moto takes the account from the access key, too.
            with self.cloud.acting_in(self.response.current_account):
                status, headers, body = self._admitted()
        except Refused as refused:
            status, headers, body = self._error(refused)
        # Flask would answer with a page of HTML and keep the reason to itself.
        except Exception as error:  # noqa: BLE001
            say(
                f"{self.action} broke the stand-in: {''.join(traceback.format_exception(error))}"
            )
            status, headers, body = self._error(
                Refused("InternalError", f"the stand-in broke: {error!r}", 500)
            )
        finally:
            self.entry.seconds = time.monotonic() - begin
            if not is_mutating(self.action):
                # Parameters of reads would only fill the log.
                self.entry.parameters = {}
            self.cloud.log.add(self.entry)
        if int(status) >= 400:
            self.entry.error = self.entry.error or _code(body)
        if delay := self.cloud.faults.answer_delay(self.action):
            time.sleep(delay)
        while self.cloud.faults.are_silent(
            self.entry.principal, self.action, self.entry.resources
        ):
            time.sleep(SILENCE_POLL_SECONDS)
        return status, headers, body

    def _admitted(self):
        cloud, faults = self.cloud, self.cloud.faults
        with cloud.lock:
            principal = self._identify()
            if faults.throttle and not faults.throttle.admits(self.action):
                if self.service == "ec2":
                    raise Refused(
                        "RequestLimitExceeded", "Request limit exceeded.", 503
                    )
                raise Refused(
                    "ThrottlingException" if self.service != "iam" else "Throttling",
                    "Rate exceeded",
                )
            if error := faults.error(self.action, after=False):
                raise Refused(error.code, "An error that was asked for.", error.status)
            self._authorize(principal)
            if self.service == "ec2" and self.response.region != cloud.region:
                raise Refused(
                    "Unsupported", f"The stand-in has the region {cloud.region} only"
                )
            if self.entry.dry_run and self.service == "ec2":
                raise Refused(
                    "DryRunOperation",
                    "Request would have succeeded, but DryRun flag is set.",
                    412,
                )
            if self.service not in UNLOCKED:
                answer = self._remembered()
                return self._lose(answer)
        return self._lose(self.to_moto())

    def _lose(self, answer):
        if error := self.cloud.faults.error(self.action, after=True):
            self.entry.answered = False
            raise Refused(
                error.code, "The call was made, its answer is lost.", error.status
            )
        return answer

    def _identify(self) -> sessions.Principal | None:
        principal = sessions.find(self.cloud, self.response.access_key)
        if principal:
            self.entry.principal, self.entry.session = principal.arn, principal.session
        return principal

    def _authorize(self, principal: sessions.Principal | None) -> None:
        cloud, action = self.cloud, self.action
        if action == "sts:AssumeRoleWithWebIdentity":
            self._refusing(
                lambda: sessions.assume_with_web_identity(cloud, self.parameters)
            )
            self.entry.principal = "web-identity"
            return
        if principal is None:
            code = (
                "AuthFailure"
                if self.service == "ec2"
                else _name(self.service, "InvalidClientTokenId")
            )
            raise Refused(
                code, "The security token included in the request is invalid.", 403
            )
        if principal.expired:
            code = (
                "RequestExpired"
                if self.service == "ec2"
                else _name(self.service, "ExpiredToken")
            )
            raise Refused(
                code, "The security token included in the request is expired", 403
            )
        if action == "sts:AssumeRole":
            role = self.parameters.get("RoleArn", "*")
            self._deny_by_fault(principal, [role])
            self._refusing(lambda: sessions.assume(cloud, principal, self.parameters))
            return
        checks = authorization.checks(
            cloud, principal, self.response.region, action, self.parameters
        )
        self.entry.resources = sorted({check.resource for check in checks})
        self._deny_by_fault(principal, self.entry.resources)
        # Anybody may ask who they are.
        if principal.is_admin or action == "sts:GetCallerIdentity":
            return
        for check in checks:
            if reason := iam.refusal(
                principal.identity_policies, principal.session_policy, check
            ):
                say(
                    f"denied {check.action} on {check.resource} to {principal.arn}, {reason}; keys {check.context}"
                )
                self._deny(principal, check.action, check.resource, reason)

    def _deny_by_fault(self, principal, resources: list[str]) -> None:
        if self.cloud.faults.denies(principal.arn, self.action, resources):
            resource = resources[0] if resources else "*"
            self._deny(
                principal, self.action, resource, "with an explicit deny in a fault"
            )

    def _deny(self, principal, action: str, resource: str, reason: str) -> None:
        detail = f"User: {principal.arn} is not authorized to perform: {action} on resource: {resource} {reason}"
        if self.service == "ec2":
            raise Refused(
                "UnauthorizedOperation",
                f"You are not authorized to perform this operation. {detail}",
                403,
            )
        raise Refused(_name(self.service, "AccessDenied"), detail, 403)

    @staticmethod
    def _refusing(check) -> None:
        try:
            check()
        except ServiceException as error:
            raise Refused(
                error.code, error.message, 403 if error.code == "AccessDenied" else 400
            ) from error

    def _remembered(self):
        """Answers from memory if the ClientToken is a known one or the answer never changes, else makes the call."""
        fingerprint = json.dumps(self.parameters, sort_keys=True, default=str)
        if self.action in STATIC:
            token = fingerprint
        elif self.action in IDEMPOTENT:
            token = self.parameters.get("ClientToken")
        else:
            token = None
        if not token:
            return self._made()
        account = None if self.action in STATIC else self.cloud.account
        key = (account, self.action, token)
        if key in self.cloud.tokens:
            known, answer = self.cloud.tokens[key]
            if known != fingerprint:
                raise Refused(
                    "IdempotentParameterMismatch",
                    f"The client token {token} was used before with other parameters.",
                )
            status, headers, body = answer
            return status, dict(headers), body
        answer = self._made()
        if int(answer[0]) < 400:
            self.cloud.tokens[key] = (
                fingerprint,
                (answer[0], dict(answer[1]), answer[2]),
            )
        return answer

    def _made(self):
        instances.view.is_late = self.action in instances.EVENTUALLY_CONSISTENT
        try:
            instances.tick(self.cloud)
            answer = self.to_moto()
        finally:
            instances.view.is_late = False
        if self.action.startswith("sts:AssumeRole") and int(answer[0]) < 400:
            with self.cloud.acting_in(
                sessions.account_of(self.parameters.get("RoleArn", ""))
            ):
                session = self.cloud.sts.assumed_roles[-1]
            session.tags = {
                tag["Key"]: tag["Value"] for tag in self.parameters.get("Tags", [])
            }
        return answer

    def _error(self, refused: Refused):
        self.entry.error = refused.code
        response = self.response
        _, headers, body = response.serialized(
            ActionResult(Answer(refused.code, refused.message))
        )
        headers["status"] = str(refused.status)
        return refused.status, headers, body


def _parameters(response) -> dict:
    if response.automated_parameter_parsing:
        return dict(response.params)
    try:
        body = json.loads(response.body) if response.body else {}
    except ValueError:
        body = {}
    return {**body, **(response.uri_match or {})} if isinstance(body, dict) else {}


def _name(service: str, code: str) -> str:
    """The code as the services that speak JSON spell it."""
    if service in ("sts", "iam", "autoscaling"):
        return code
    return {
        "AccessDenied": "AccessDeniedException",
        "InvalidClientTokenId": "UnrecognizedClientException",
        "ExpiredToken": "ExpiredTokenException",
    }[code]


def _code(body) -> str | None:
    text = body.decode() if isinstance(body, bytes) else str(body)
    match = re.search(r"<Code>([^<]+)</Code>", text) or re.search(
        r'"(?:__type|code)"\s*:\s*"([^"]+)"', text
    )
    return match[1].rsplit("#", 1)[-1] if match else None
