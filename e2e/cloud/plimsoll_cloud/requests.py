"""The request log: who asked for what, with which tags, and what came of it."""

import json
import re
import threading
from dataclasses import dataclass, field
from datetime import datetime

READS = re.compile(r":(Describe|Get|List|Receive|Simulate|Decode|BatchGet)")
# Calls that give rights or take messages are no reads, but they change no resource either.
NEUTRAL = {
    "sts:AssumeRole",
    "sts:AssumeRoleWithWebIdentity",
    "sqs:DeleteMessage",
    "sqs:DeleteMessageBatch",
}


def is_mutating(action: str) -> bool:
    return not READS.search(action) and action not in NEUTRAL


@dataclass
class Entry:
    at: datetime
    action: str
    principal: str
    access_key_id: str
    session: dict | None
    region: str
    dry_run: bool
    parameters: dict
    request_tags: dict = field(default_factory=dict)
    resources: list[str] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None
    answered: bool = True
    number: int = 0

    def as_json(self) -> dict:
        return {
            "number": self.number,
            "at": self.at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
            "seconds": round(self.seconds, 4),
            "service": self.action.split(":")[0],
            "action": self.action,
            "mutating": is_mutating(self.action),
            "dry_run": self.dry_run,
            "principal": self.principal,
            "access_key_id": self.access_key_id,
            "session": self.session,
            "region": self.region,
            "resources": self.resources,
            "request_tags": self.request_tags,
            "parameters": json.loads(json.dumps(self.parameters, default=str)),
            "error": self.error,
            "answered": self.answered,
        }


class RequestLog:
    def __init__(self):
        self._entries: list[Entry] = []
        self._lock = threading.Lock()

    def add(self, entry: Entry) -> None:
        with self._lock:
            entry.number = len(self._entries) + 1
            self._entries.append(entry)

    def after(
        self, number: int, mutating: bool = False, action: str | None = None
    ) -> list[dict]:
        with self._lock:
            entries = self._entries[max(number, 0) :]
        return [
            entry.as_json()
            for entry in entries
            if (not mutating or is_mutating(entry.action))
            and action in (None, entry.action)
        ]
