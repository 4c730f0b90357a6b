"""Evaluates IAM policies: identity policies, a session policy, and a role's trust policy.

Modelled: Effect, Action and NotAction, Resource and NotResource, Principal, Condition with the operators below, `IfExists`, `ForAllValues:`
and `ForAnyValue:`, and the policy variables `${aws:...}`. Not modelled: permission boundaries, SCPs, and resource policies other than
the trust policy.
"""

import re
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache

Context = dict[str, str | list[str]]


@dataclass
class Check:
    """One thing to be allowed: an action on a resource, and what the condition keys are."""

    action: str
    resource: str
    context: Context = field(default_factory=dict)


@lru_cache(maxsize=4096)
def _pattern(pattern: str, ignore_case: bool) -> re.Pattern:
    # IAM knows * and ? only; brackets are ordinary characters.
    return re.compile(
        translate(pattern.replace("[", "[[]")), re.IGNORECASE if ignore_case else 0
    )


def like(value: str, pattern: str, ignore_case: bool = False) -> bool:
    return _pattern(pattern, ignore_case).match(value) is not None


def as_list(value) -> list:
    return value if isinstance(value, list) else [value]


def _bool(value: str, expected: str) -> bool:
    return value.lower() == expected.lower()


OPERATORS = {
    "StringEquals": lambda value, expected: value == expected,
    "StringEqualsIgnoreCase": lambda value, expected: value.lower() == expected.lower(),
    "StringLike": like,
    "ArnEquals": like,
    "ArnLike": like,
    "Bool": _bool,
    "NumericLessThanEquals": lambda value, expected: float(value) <= float(expected),
    "NumericLessThan": lambda value, expected: float(value) < float(expected),
    "NumericEquals": lambda value, expected: float(value) == float(expected),
    "NumericGreaterThan": lambda value, expected: float(value) > float(expected),
    "NumericGreaterThanEquals": lambda value, expected: float(value) >= float(expected),
}
NEGATED = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
}


class UnknownOperator(ValueError):
    """A policy uses a condition operator that is not modelled; guessing would make a check worthless."""


def _lookup(context: Context, key: str) -> list[str] | None:
    # Condition keys are case-insensitive, tag keys after the slash are not.
    prefix, slash, tag = key.partition("/")
    for name, value in context.items():
        name_prefix, name_slash, name_tag = name.partition("/")
        if name_prefix.lower() == prefix.lower() and (name_slash, name_tag) == (
            slash,
            tag,
        ):
            return as_list(value)
    return None


def _substitute(text: str, context: Context) -> str:
    def value(match: re.Match) -> str:
        found = _lookup(context, match[1])
        return found[0] if found and len(found) == 1 else match[0]

    return re.sub(r"\$\{([^}]+)}", value, text)


def _condition_holds(
    operator: str, key: str, expected: list[str], context: Context
) -> bool:
    values = _lookup(context, key)
    if operator == "Null":
        return (values is None) == (str(expected[0]).lower() == "true")
    qualifier, _, name = operator.rpartition(":")
    if_exists = name.endswith("IfExists")
    name = name.removesuffix("IfExists")
    negated = name in NEGATED
    test = OPERATORS.get(NEGATED.get(name, name))
    if test is None or qualifier not in ("", "ForAllValues", "ForAnyValue"):
        raise UnknownOperator(operator)
    if values is None:
        return if_exists or negated or qualifier == "ForAllValues"
    expected = [_substitute(str(e), context) for e in expected]

    def matches(value: str) -> bool:
        return any(test(value, e) for e in expected) != negated

    return (
        all(map(matches, values))
        if qualifier == "ForAllValues" or negated
        else any(map(matches, values))
    )


def _statement_applies(statement: dict, check: Check) -> bool:
    if "Action" in statement:
        if not any(
            like(check.action, action, ignore_case=True)
            for action in as_list(statement["Action"])
        ):
            return False
    elif any(
        like(check.action, action, ignore_case=True)
        for action in as_list(statement["NotAction"])
    ):
        return False
    if "Resource" in statement:
        patterns = [
            _substitute(r, check.context) for r in as_list(statement["Resource"])
        ]
        if not any(like(check.resource, pattern) for pattern in patterns):
            return False
    elif "NotResource" in statement:
        patterns = [
            _substitute(r, check.context) for r in as_list(statement["NotResource"])
        ]
        if any(like(check.resource, pattern) for pattern in patterns):
            return False
    return all(
        _condition_holds(operator, key, as_list(expected), check.context)
        for operator, keys in statement.get("Condition", {}).items()
        for key, expected in keys.items()
    )


def verdict(documents: list[dict], check: Check) -> str:
    """`allow`, `deny` (explicitly), or `none`."""
    result = "none"
    for document in documents:
        for statement in as_list(document["Statement"]):
            if _statement_applies(statement, check):
                if statement["Effect"] == "Deny":
                    return "deny"
                result = "allow"
    return result


def refusal(identity: list[dict], session: dict | None, check: Check) -> str | None:
    """Why it is not allowed, in AWS's words; None if it is."""
    kinds = [("identity-based", identity)] + (
        [("session", [session])] if session else []
    )
    for kind, documents in kinds:
        result = verdict(documents, check)
        if result == "deny":
            return f"with an explicit deny in {'an' if kind[0] == 'i' else 'a'} {kind} policy"
        if result == "none":
            return f"because no {kind} policy allows the {check.action} action"
    return None


def trusts(trust: dict, principals: list[str], check: Check) -> bool:
    """Whether a trust policy lets one of `principals` (the ARNs one caller is known by, or a provider) do the check."""

    def names(statement: dict) -> bool:
        principal = statement.get("Principal", {})
        named = (
            ["*"]
            if principal == "*"
            else [p for values in principal.values() for p in as_list(values)]
        )
        return "*" in named or any(p in named for p in principals)

    statements = [
        {k: v for k, v in statement.items() if k != "Principal"}
        for statement in as_list(trust["Statement"])
        if names(statement)
    ]
    return verdict([{"Statement": statements}], check) == "allow"
