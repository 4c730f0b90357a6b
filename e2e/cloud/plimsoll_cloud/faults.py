"""What is to go wrong, as told through the control endpoint."""

import time
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


class BadFault(ValueError):
    """The control endpoint was told something it does not know; the message says what."""


@dataclass
class InjectedError:
    """The next `count` calls of `action` (a pattern) answer with `code`; with `after`, once they have been made."""

    action: str
    code: str
    status: int = 500
    count: int = 1
    after: bool = False

    def take(self, action: str, after: bool) -> bool:
        if (
            self.count < 1
            or self.after != after
            or not fnmatchcase(action, self.action)
        ):
            return False
        self.count -= 1
        return True


@dataclass
class Throttle:
    """A token bucket that all matching requests share."""

    rate: float
    burst: float = 1.0
    actions: list[str] = field(default_factory=lambda: ["ec2:*"])

    def __post_init__(self):
        if self.rate <= 0 or self.burst < 1:
            raise BadFault("throttle: rate must be above 0 and burst at least 1")
        self.tokens = float(self.burst)
        self.filled_at = time.monotonic()

    def admits(self, action: str) -> bool:
        if not any(fnmatchcase(action, pattern) for pattern in self.actions):
            return True
        now = time.monotonic()
        self.tokens = min(self.burst, self.tokens + (now - self.filled_at) * self.rate)
        self.filled_at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass
class Calls:
    """Some calls, by patterns."""

    principal: str = "*"
    action: str = "*"
    resource: str = "*"

    def match(self, principal: str, action: str, resources: list[str]) -> bool:
        return (
            fnmatchcase(principal, self.principal)
            and fnmatchcase(action, self.action)
            and any(fnmatchcase(one, self.resource) for one in resources or ["*"])
        )


class Faults:
    """All faults in force; the names are those of `PUT /_control/faults`."""

    def __init__(self, join_delay_seconds: float):
        self.default_join_delay_seconds = join_delay_seconds
        self.clear()

    def clear(self) -> None:
        self.throttle: Throttle | None = None
        self.visibility_delay_seconds = 0.0
        self.shutdown_seconds = 0.5
        self.join_delay_seconds = self.default_join_delay_seconds
        self.never_join: list[str] = []
        self.answer_delay_seconds: dict[str, float] = {}
        self.errors: list[InjectedError] = []
        self.deny: list[Calls] = []
        self.silent: list[Calls] = []
        self.quota: dict[str, int] = {}

    def set(self, values: dict) -> None:
        """Sets the named faults and leaves the others; all or none, if a value is not one."""
        parsers = {
            "throttle": lambda value: None if value is None else Throttle(**value),
            "visibility_delay_seconds": float,
            "shutdown_seconds": float,
            "join_delay_seconds": float,
            "never_join": list,
            "answer_delay_seconds": dict,
            "errors": lambda value: [InjectedError(**error) for error in value],
            "deny": lambda value: [Calls(**calls) for calls in value],
            "silent": lambda value: [Calls(**calls) for calls in value],
            "quota": dict,
        }
        parsed = {}
        for name, value in values.items():
            if name not in parsers:
                raise BadFault(
                    f"there is no fault {name!r}; there are {', '.join(parsers)}"
                )
            try:
                parsed[name] = parsers[name](value)
            except (TypeError, ValueError) as error:
                raise BadFault(f"{name}: {error}") from error
        if unknown := set(parsed.get("quota", {})) - {"on-demand", "spot"}:
            raise BadFault(f"quota: {sorted(unknown)} is neither on-demand nor spot")
        for name, value in parsed.items():
            setattr(self, name, value)

    def as_json(self) -> dict:
        return {
            "throttle": self.throttle
            and {k: getattr(self.throttle, k) for k in ("rate", "burst", "actions")},
            "visibility_delay_seconds": self.visibility_delay_seconds,
            "shutdown_seconds": self.shutdown_seconds,
            "join_delay_seconds": self.join_delay_seconds,
            "never_join": self.never_join,
            "answer_delay_seconds": self.answer_delay_seconds,
            "errors": [vars(error) for error in self.errors],
            "deny": [vars(calls) for calls in self.deny],
            "silent": [vars(calls) for calls in self.silent],
            "quota": self.quota,
        }

    def error(self, action: str, after: bool) -> InjectedError | None:
        return next((error for error in self.errors if error.take(action, after)), None)

    def answer_delay(self, action: str) -> float:
        return max(
            (
                seconds
                for pattern, seconds in self.answer_delay_seconds.items()
                if fnmatchcase(action, pattern)
            ),
            default=0.0,
        )

    def denies(self, principal: str, action: str, resources: list[str]) -> bool:
        return any(calls.match(principal, action, resources) for calls in self.deny)

    def are_silent(self, principal: str, action: str, resources: list[str]) -> bool:
        return any(calls.match(principal, action, resources) for calls in self.silent)

    def keeps_from_joining(self, instance_id: str, instance_type: str) -> bool:
        return any(
            fnmatchcase(instance_id, p) or fnmatchcase(instance_type, p)
            for p in self.never_join
        )
