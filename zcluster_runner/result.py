# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run gives back: nodes, changes, failures, events, and the exit code they add up to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any


class ExitCode(IntEnum):
    """Monitoring's convention, and sysexits.h for a wrong command line."""

    GREEN = 0
    ORANGE = 1
    RED = 2
    GREY = 3
    USAGE = 64


class Health(Enum):
    """A node's status: its word, its colour, the exit code it stands for."""

    OK = ("ok", "green", ExitCode.GREEN)
    MAINTENANCE = ("maintenance", "dark_orange", ExitCode.ORANGE)
    FAILURE = ("failure", "red", ExitCode.RED)
    UNREACHABLE = ("unreachable", "bright_black", ExitCode.GREY)
    NOT_CONFIGURED = ("not configured", "bright_black", ExitCode.GREY)
    UNKNOWN = ("unknown", "bright_black", ExitCode.GREY)

    def __init__(self, word: str, colour: str, exit_code: ExitCode) -> None:
        self.word = word
        self.colour = colour
        self.exit_code = exit_code

    @classmethod
    def of(cls, word: object) -> Health:
        """Return the health named ``word``; a word nobody knows is grey, never green."""
        return next((health for health in cls if health.word == word), cls.UNKNOWN)


WORST_FIRST = (ExitCode.RED, ExitCode.GREY, ExitCode.ORANGE, ExitCode.GREEN)
"""A failure outweighs what is not known, which outweighs a planned maintenance."""


def worst(codes: list[ExitCode]) -> ExitCode:
    """Return the worst of ``codes``; of nothing, grey: nothing was seen."""
    return next((code for code in WORST_FIRST if code in codes), ExitCode.GREY)


class Outcome(Enum):
    """How the run itself ended, whatever it found out about the nodes."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class EventKind(Enum):
    """What an event of a run says."""

    PLAY = "play"
    STEP = "step"
    STARTED = "started"
    OK = "ok"
    CHANGED = "changed"
    SKIPPED = "skipped"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    WARNING = "warning"
    OUTPUT = "output"


@dataclass(frozen=True)
class Event:
    """One thing that happened during a run, as ``on_event`` gets it."""

    kind: EventKind
    text: str
    """The step in words, the failure's message, the warning, or Ansible's own output."""
    host: str = ""
    step: str = ""
    role: str = ""
    elapsed: float = 0.0
    """Seconds since the run began."""


@dataclass(frozen=True)
class Failure:
    """A failed step, in words for people."""

    host: str
    step: str
    message: str

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--output json`` shows."""
        return {"host": self.host, "step": self.step, "message": self.message}


@dataclass(frozen=True)
class Change:
    """A step that changed a host (or would, in check mode)."""

    host: str
    step: str
    diff: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--output json`` shows."""
        shown: dict[str, Any] = {"host": self.host, "step": self.step}
        if self.diff:
            shown["diff"] = self.diff
        return shown


@dataclass(frozen=True)
class NodeStatus:
    """A row of the nodes table."""

    host: str
    """The name in the inventory."""
    cluster: str
    node: str
    """``local`` or ``remote``."""
    role: str
    ip: str
    hostname: str
    health: Health
    status: str
    sync: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--output json`` shows: the columns first, then all the node said."""
        columns = {
            "cluster": self.cluster,
            "node": self.node,
            "role": self.role,
            "ip": self.ip,
            "hostname": self.hostname,
            "status": self.status,
            "message": self.message,
            "sync": self.sync,
            "inventory_hostname": self.host,
        }
        return {**columns, **{k: v for k, v in self.details.items() if k not in columns}}


@dataclass(frozen=True)
class Result:
    """All that is known about a run when it is over. It never holds a secret."""

    verb: str
    outcome: Outcome
    exit_code: ExitCode
    check: bool = False
    nodes: tuple[NodeStatus, ...] = ()
    reports: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What the playbook reported: key, then host, then the structure."""
    changes: tuple[Change, ...] = ()
    failures: tuple[Failure, ...] = ()
    """What failed and was not rescued by the playbook, in the order it happened."""
    causes: tuple[Failure, ...] = ()
    """Failures the playbook dealt with; why it then gave up, if it did."""
    unreachable: Mapping[str, str] = field(default_factory=dict)
    """Host and why it could not be reached."""
    warnings: tuple[str, ...] = ()
    elapsed: float = 0.0
    log: Path | None = None
    inventory: tuple[str, ...] = ()
    not_persisted: str = ""
    """Settings that the nodes have and the inventory could not be given, and what to write."""
    written: Path | None = None
    """The inventory directory that this run made."""
    stopped: bool = False
    """It was asked to stop (Ctrl-C, ``cancel``), even if that came too late to cancel it."""

    @property
    def succeeded(self) -> bool:
        """Whether the run itself went through."""
        return self.outcome is Outcome.SUCCEEDED

    @property
    def changed(self) -> bool:
        """Whether anything was changed (or would be, in check mode)."""
        return bool(self.changes)

    def report(self, key: str) -> Mapping[str, Any]:
        """Return what was reported under ``key``, by host."""
        return self.reports.get(key, {})

    def errors(self) -> list[dict[str, Any]]:
        """Return failures and unreachable hosts as one list."""
        lost = [
            {"host": host, "step": "Connect", "message": why}
            for host, why in self.unreachable.items()
        ]
        return lost + [failure.to_dict() for failure in self.failures]

    def to_dict(self) -> dict[str, Any]:
        """Return the object ``--output json`` prints."""
        return {
            "verb": self.verb,
            "result": self.outcome.value,
            "exit_code": int(self.exit_code),
            "check": self.check,
            "changes": [change.to_dict() for change in self.changes],
            "nodes": [node.to_dict() for node in self.nodes],
            "errors": self.errors(),
            "causes": [cause.to_dict() for cause in self.causes],
            "warnings": list(self.warnings),
            **({"not_persisted": self.not_persisted} if self.not_persisted else {}),
            "reports": {key: dict(by_host) for key, by_host in self.reports.items()},
            "elapsed": round(self.elapsed, 3),
            "log": str(self.log) if self.log else None,
        }
