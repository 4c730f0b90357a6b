"""Capacity pools: how many more instances a (type, zone, capacity type) gives."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from .faults import BadFault


@dataclass
class Rule:
    """Every pool that matches gives `free` more instances of its own; None is no limit."""

    type: str = "*"
    zone: str = "*"
    capacity_type: str = "*"
    free: int | None = 0
    error: str = "InsufficientInstanceCapacity"

    def __post_init__(self):
        if self.free is not None and (not isinstance(self.free, int) or self.free < 0):
            raise BadFault(
                f"free must be a whole number from 0, or null, not {self.free!r}"
            )
        self.taken: dict[tuple, int] = {}

    def matches(self, pool: tuple) -> bool:
        patterns = (self.type, self.zone, self.capacity_type)
        return all(
            fnmatchcase(value, pattern)
            for value, pattern in zip(pool, patterns, strict=True)
        )


class Pools:
    def __init__(self):
        self.rules: list[Rule] = []

    def set(self, rules: list[dict]) -> None:
        try:
            self.rules = [Rule(**rule) for rule in rules]
        except TypeError as error:
            raise BadFault(f"capacity: {error}") from error

    def _rule(self, pool: tuple) -> Rule | None:
        return next((rule for rule in reversed(self.rules) if rule.matches(pool)), None)

    def free(self, pool: tuple) -> float:
        rule = self._rule(pool)
        if rule is None or rule.free is None:
            return float("inf")
        return rule.free - rule.taken.get(pool, 0)

    def error(self, pool: tuple) -> str:
        rule = self._rule(pool)
        return rule.error if rule else "InsufficientInstanceCapacity"

    def take(self, pool: tuple) -> None:
        if rule := self._rule(pool):
            rule.taken[pool] = rule.taken.get(pool, 0) + 1

    def give_back(self, pool: tuple) -> None:
        rule = self._rule(pool)
        if rule and rule.taken.get(pool, 0) > 0:
            rule.taken[pool] -= 1
