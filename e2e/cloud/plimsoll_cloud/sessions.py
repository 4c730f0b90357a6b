"""Who calls, and AssumeRole as AWS grants it."""

import json
from dataclasses import dataclass, field
from datetime import UTC
from urllib.parse import unquote

from moto.core.exceptions import ServiceException

from . import iam
from .cloud import Cloud, now

SESSION_POLICY_LIMIT = 2048
CHAINED_SESSION_SECONDS = 3600


@dataclass
class Principal:
    """A caller. `names` are the ARNs a trust policy may know it by."""

    arn: str
    access_key_id: str
    account: str
    names: list[str]
    identity_policies: list[dict] = field(default_factory=list)
    session: dict | None = None
    session_policy: dict | None = None
    is_admin: bool = False
    expired: bool = False


def _document(text: str | dict) -> dict:
    return (
        text
        if isinstance(text, dict)
        else json.loads(unquote(text) if text.startswith("%7B") else text)
    )


def _attached(cloud: Cloud, holder) -> list[dict]:
    """Inline and managed policies of a user or a role."""
    inline = holder.policies
    texts = (
        inline.values()
        if isinstance(inline, dict)
        else [policy["policy_document"] for policy in inline]
    )
    managed = [policy.document for policy in holder.managed_policies.values()]
    return [_document(text) for text in [*texts, *managed]]


def account_of(arn: str) -> str:
    return arn.split(":")[4] if arn.count(":") >= 5 else ""


def find(cloud: Cloud, access_key_id: str) -> Principal | None:
    """The principal of an access key of the current account, or None if nobody has that key."""
    if session := cloud.sts.get_assumed_role_from_access_key(access_key_id):
        role = cloud.iam.get_role_by_arn(session.role_arn)
        expiration = session.expiration
        if expiration.tzinfo is None:
            expiration = expiration.replace(tzinfo=UTC)
        return Principal(
            arn=session.arn,
            access_key_id=access_key_id,
            account=cloud.account,
            names=[
                session.arn,
                role.arn,
                f"arn:{cloud.partition}:iam::{cloud.account}:root",
            ],
            identity_policies=_attached(cloud, role),
            session={
                "role_arn": role.arn,
                "external_id": session.external_id,
                "policy": session.policy,
                "tags": getattr(session, "tags", {}),
            },
            session_policy=_document(session.policy) if session.policy else None,
            expired=expiration <= now(),
        )
    user = cloud.iam.get_user_from_access_key_id(access_key_id)
    if user is None:
        return None
    return Principal(
        arn=user.arn,
        access_key_id=access_key_id,
        account=cloud.account,
        names=[user.arn, f"arn:{cloud.partition}:iam::{cloud.account}:root"],
        identity_policies=_attached(cloud, user),
        is_admin=user.name == "admin",
    )


def assume(cloud: Cloud, principal: Principal, parameters: dict) -> None:
    """Refuses an AssumeRole that AWS would refuse; moto makes the session of one that passes."""
    role_arn = parameters.get("RoleArn", "")
    tags = {tag["Key"]: tag["Value"] for tag in parameters.get("Tags", [])}
    validate(parameters)
    denied = ServiceException(
        "AccessDenied",
        f"User: {principal.arn} is not authorized to perform: sts:AssumeRole on resource: {role_arn}",
    )
    home = account_of(role_arn)
    if home not in cloud.accounts:
        raise denied
    with cloud.acting_in(home):
        role = next(
            (role for role in cloud.iam.roles.values() if role.arn == role_arn), None
        )
    if role is None:
        raise denied
    duration = int(parameters.get("DurationSeconds") or 3600)
    if duration > role.max_session_duration:
        raise ServiceException(
            "ValidationError",
            "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
        )
    if principal.session and duration > CHAINED_SESSION_SECONDS:
        raise ServiceException(
            "ValidationError",
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining",
        )
    context: iam.Context = {
        "aws:PrincipalArn": principal.names[-2],
        "aws:PrincipalAccount": cloud.account,
    }
    if parameters.get("ExternalId"):
        context["sts:ExternalId"] = parameters["ExternalId"]
    if parameters.get("RoleSessionName"):
        context["sts:RoleSessionName"] = parameters["RoleSessionName"]
    for key, value in tags.items():
        context[f"aws:RequestTag/{key}"] = value
    if tags:
        context["aws:TagKeys"] = list(tags)
    trust = _document(role.assume_role_policy_document)
    for action in ["sts:AssumeRole"] + (["sts:TagSession"] if tags else []):
        check = iam.Check(action, role_arn, context)
        # Within one account a trust policy that names the caller is enough; one that names the account leaves it to
        # the caller's own policies, as every one of another account does. An explicit deny in them always counts.
        named = home == principal.account and iam.trusts(
            trust, principal.names[:-1], check
        )
        refusal = iam.refusal(
            principal.identity_policies, principal.session_policy, check
        )
        own_allow = refusal is None and iam.trusts(trust, principal.names, check)
        if principal.is_admin:
            own_allow = iam.trusts(trust, principal.names, check)
        if not own_allow and (
            not named or (refusal or "").startswith("with an explicit deny")
        ):
            raise denied


def assume_with_web_identity(cloud: Cloud, parameters: dict) -> None:
    role_arn = parameters.get("RoleArn", "")
    validate(parameters)
    role = next(
        (role for role in cloud.iam.roles.values() if role.arn == role_arn), None
    )
    provider = f"arn:{cloud.partition}:iam::{cloud.account}:oidc-provider/{cloud.seeded['oidc_provider']}"
    check = iam.Check("sts:AssumeRoleWithWebIdentity", role_arn)
    if role is None or not iam.trusts(
        _document(role.assume_role_policy_document), [provider], check
    ):
        raise ServiceException(
            "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity"
        )


def validate(parameters: dict) -> None:
    policy = parameters.get("Policy")
    if policy is None:
        return
    if len(policy) > SESSION_POLICY_LIMIT:
        raise ServiceException(
            "ValidationError",
            f"1 validation error detected: Value at 'policy' failed to satisfy constraint: "
            f"Member must have length less than or equal to {SESSION_POLICY_LIMIT}",
        )
    try:
        statements = iam.as_list(json.loads(policy)["Statement"])
        well_formed = all(
            "Effect" in s and ("Action" in s or "NotAction" in s) for s in statements
        )
    except (ValueError, KeyError, TypeError):
        well_formed = False
    if not well_formed:
        raise ServiceException(
            "MalformedPolicyDocument", "The policy is not in the valid JSON format."
        )
