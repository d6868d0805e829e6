# SPDX-License-Identifier: GPL-3.0-or-later
"""Hooks: programs of the user's, run at changes of role and when something goes wrong or is over.

Level-triggered: for each hook it is kept what it was told last, and it is called while that is not
how things are. So a hook that failed is called again, a restart repeats nothing, and whatever was
raised is cleared.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import durable, journal, processes
from .settings import STATE_DIR

DIRECTORY = Path("/etc/zcluster/hooks.d")
TOLD = STATE_DIR / "hooks.json"
# As run-parts(8) has it: editors' and dpkg's leftovers are no hooks.
NAME = re.compile(r"[A-Za-z0-9_-]+(\.(sh|py|pl))?")
TIME_LIMIT = 30.0
RETRY = (15.0, 60.0, 300.0)


@dataclass(frozen=True)
class Told:
    """What a hook knows: the role, and what is wrong (name of the condition: message)."""

    role: str
    raised: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One run of a hook: what is in its environment, and what it knows when it succeeded."""

    hook: str
    environment: Mapping[str, str]
    then: Told


def conditions(answer: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong, by the node's own status: name of the check, and its words."""
    wrong = {
        check["name"]: check["detail"] or f"{check['name']} failed"
        for check in answer["checks"]
        if not check["ok"]
    }
    peer = answer.get("peer", {})
    if peer and not peer["reachable"]:
        wrong["peer unreachable"] = f"{peer['hostname']} is unreachable"
    return wrong


def calls(
    hooks: Iterable[str], told: Mapping[str, Told], role: str, wrong: Mapping[str, str]
) -> list[Call]:
    """The next call of each hook whose knowledge is not how things are; a new hook starts here."""
    due = []
    for hook in hooks:
        known = told.get(hook, Told(role))
        raised = dict(known.raised)
        if known.role != role:
            words = {"ZCLUSTER_FROM": known.role, "ZCLUSTER_TO": role}
            due.append(Call(hook, {"ZCLUSTER_EVENT": "transition", **words}, Told(role, raised)))
        elif new := next((name for name in wrong if name not in raised), None):
            environment = {
                "ZCLUSTER_EVENT": "raise",
                "ZCLUSTER_CONDITION": new,
                "ZCLUSTER_MESSAGE": wrong[new],
            }
            due.append(Call(hook, environment, Told(role, {**raised, new: wrong[new]})))
        elif over := next((name for name in raised if name not in wrong), None):
            environment = {
                "ZCLUSTER_EVENT": "clear",
                "ZCLUSTER_CONDITION": over,
                "ZCLUSTER_MESSAGE": raised.pop(over),
            }
            due.append(Call(hook, environment, Told(role, raised)))
    return due


def find(directory: Path = DIRECTORY) -> list[str]:
    """The hooks there are: root's own executable files that nobody else can write."""
    found = []
    with contextlib.suppress(OSError):
        for path in sorted(directory.iterdir()):
            about = path.stat()
            if (
                NAME.fullmatch(path.name)
                and stat.S_ISREG(about.st_mode)
                and about.st_uid == 0
                and about.st_mode & 0o100
                and not about.st_mode & 0o022
            ):
                found.append(path.name)
    return found


def run(path: Path, environment: Mapping[str, str], limit: float = TIME_LIMIT) -> str:
    """Run one hook for at most `limit` seconds; why it failed, empty when it did not."""
    try:
        process = subprocess.Popen(
            [str(path)],
            env={**processes.ENVIRONMENT, **environment},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return os.strerror(error.errno or 0)
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        # What it started goes with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"not done within {limit:g} s: killed"
    lines = [line for line in said.splitlines() if line.strip()]
    return f"exit code {process.returncode}: {lines[-1] if lines else ''}" * bool(
        process.returncode
    )


class Hooks:
    """Keeps what each hook was told, and tells them."""

    def __init__(self, directory: Path = DIRECTORY, kept: Path = TOLD) -> None:
        self.directory, self.kept = directory, kept
        stored: dict[str, Any] = {}
        with contextlib.suppress(ValueError):
            stored = durable.read_json(kept) or {}
        self.told = {h: Told(d["role"], d["raised"]) for h, d in stored.items()}
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}

    def tell(
        self, role: str, wrong: Mapping[str, str], common: Mapping[str, str],
        record: Callable[..., None] = journal.record,
    ) -> None:  # fmt: skip
        """Call the hooks until each knows how things are, or has failed for now."""
        now = time.monotonic()
        while True:
            present = find(self.directory)
            ready = [h for h in present if now >= self._not_before.get(h, 0.0)]
            due = calls(ready, self.told, role, wrong)
            new = {h: Told(role) for h in present if h not in self.told}
            gone = [h for h in self.told if h not in present]
            if new or gone:
                self.told = {h: t for h, t in self.told.items() if h not in gone} | {
                    h: t for h, t in new.items() if h not in {c.hook for c in due}
                }
                self._keep()
            if not due:
                return
            with ThreadPoolExecutor(max_workers=4) as pool:
                outcomes = pool.map(
                    lambda c: run(self.directory / c.hook, {**common, **c.environment}), due
                )
            for call, why in zip(due, outcomes, strict=True):
                self._settle(call, why, now, record)
            self._keep()

    def _settle(self, call: Call, why: str, now: float, record: Callable[..., None]) -> None:
        if not why:
            self.told[call.hook] = call.then
            self._failures.pop(call.hook, None)
            return
        failures = self._failures[call.hook] = self._failures.get(call.hook, 0) + 1
        self._not_before[call.hook] = now + RETRY[min(failures, len(RETRY)) - 1]
        if failures == 1:
            record("hook-failed", hook=call.hook, why=why)

    def _keep(self) -> None:
        durable.write_json(
            self.kept,
            {h: {"role": t.role, "raised": dict(t.raised)} for h, t in self.told.items()},
        )
