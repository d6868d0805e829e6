# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells the services that ask for it (`on_promotion`) that this node serves now: at least once.

A thread of the daemon beside the keeper, so that no start of a service waits for it.
"""

from __future__ import annotations

import contextlib
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from . import activation, durable, journal, processes
from .reconcile import Role
from .settings import Cluster, Service

PERIOD = 1.0
# Seconds after a failure until it is told again: soon at first, then slowly and for ever.
AGAIN = (1.0, 2.0, 30.0)


@dataclass(frozen=True)
class Telling:
    """How far a service has been told; times are monotonic. why: what its command said last."""

    told: bool = False
    failures: int = 0
    failed_at: float = 0.0
    why: str = ""

    def due(self, now: float) -> bool:
        """True when the service is to be told now."""
        if self.told or not self.failures:
            return not self.told
        return now - self.failed_at >= AGAIN[min(self.failures, len(AGAIN)) - 1]

    def after(self, done: processes.Outcome, now: float) -> Telling:
        """What is known once its command has ended."""
        if done.ok:
            return Telling(told=True)
        return replace(self, failures=self.failures + 1, failed_at=now, why=done.finding)


class Teller(threading.Thread):
    """Tells each service once for each promotion, again where its command fails."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(name="teller", daemon=True)
        self.services = tuple(s for s in cluster.services if s.on_promotion)
        self.role = Role.UNKNOWN
        self.tellings: dict[str, Telling] = {}
        self._wake = threading.Event()

    def become(self, role: Role) -> None:
        """The role is this from now on; what is being told of another one is cut short."""
        self.role = role
        self._wake.set()

    def run(self) -> None:
        """For ever. A daemon that starts in the middle of a term goes on where it was ended."""
        known = durable.read_json(activation.TOLD) or {}
        self.tellings = {name: Telling(told=True) for name in known.get("told", [])}
        with contextlib.suppress(OSError):
            self._note()
        while True:
            try:
                self._once()
            except Exception as error:  # noqa: BLE001 - the thread must outlive any command
                journal.record("teller-failed", why=f"{type(error).__name__}: {error}")
            self._wake.wait(PERIOD)
            self._wake.clear()

    def _once(self) -> None:
        role = self.role
        if role is Role.BACKUP and self.tellings:
            self.tellings = {}
            self._note()
        if role is not Role.MASTER:
            return
        for service in self.services:
            if self.tellings.get(service.name, Telling()).due(time.monotonic()):
                self._tell(service, lambda: self.role is not role)

    def _tell(self, service: Service, unwanted: Callable[[], bool]) -> None:
        before = self.tellings.get(service.name, Telling())
        command = shlex.split(service.on_promotion or "")
        done = processes.bounded(command, service.change_seconds, unwanted)
        if done.code == processes.CANCELLED:
            return
        now = before.after(done, time.monotonic())
        self.tellings[service.name] = now
        if now.why and now.why != before.why:
            journal.record("on-promotion-failed", name=service.name, why=now.why)
        self._note()

    def _note(self) -> None:
        told = {
            "told": sorted(name for name, telling in self.tellings.items() if telling.told),
            "failing": {
                name: f"on promotion: {telling.why}"
                for name, telling in self.tellings.items()
                if telling.why
            },
        }
        durable.write_json(activation.TOLD, told)
