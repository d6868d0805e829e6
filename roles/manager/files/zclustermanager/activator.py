# SPDX-License-Identifier: GPL-3.0-or-later
"""Activates what nobody is there to activate, beside the keeper, so that starts never wait for it.

That is: what a crash left, what was rejected once its reason is gone, and on the master what asks
for it by `auto_apply`.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from . import activation, journal, units
from .activation import Result, State
from .reconcile import Role
from .settings import RUNTIME_DIR, Cluster, Service
from .sync import tree
from .sync.store import Store

PERIOD = 1.0
# A rejection may end by more than a new file: a name that resolves again, a module that is there.
# To ask a program changes nothing; to tell it what it failed at may, so that is done ever less.
ASK_AGAIN = 10.0
TELL_AGAIN = (10.0, 30.0, 60.0, 300.0)
# There once what the services' commands put into the kernel is there: a boot takes both away.
LOADED = RUNTIME_DIR / "services-loaded"


@dataclass(frozen=True)
class Trouble:
    """A bad outcome, how often it was tried again, and when last (monotonic)."""

    result: Result
    since: float
    tries: int = 0

    def due(self, now: float) -> bool:
        """True when it is to be tried again."""
        failed = self.result.state is State.FAILED
        wait = TELL_AGAIN[min(self.tries, len(TELL_AGAIN) - 1)] if failed else ASK_AGAIN
        return now - self.since >= wait


class Activator(threading.Thread):
    """Looks once a second whether something is left to activate."""

    def __init__(self, cluster: Cluster, store: Store) -> None:
        super().__init__(name="activator", daemon=True)
        self.cluster = cluster
        self.store = store
        self.role = Role.UNKNOWN
        self._changed: list[str] = []
        self.troubles: dict[str, Trouble] = {}
        self._scanners = {
            s.name: tree.Scanner(s.paths, cluster.sync_excludes)
            for s in cluster.services
            if s.auto_apply
        }

    def changed(self, paths: list[str]) -> None:
        """These paths were changed while nobody looked: activate what depends on them."""
        self._changed += paths

    def run(self) -> None:
        """For ever."""
        while True:
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - the thread must outlive any service
                journal.record("activator-failed", why=f"{type(error).__name__}: {error}")
            time.sleep(PERIOD)

    def look(self) -> None:
        """One look at all of it."""
        if self.role is Role.UNKNOWN:
            return
        self._load()
        if self.role is Role.BACKUP:
            self._catch_up()
        else:
            self._apply_by_itself()
        self._try_again()

    def _run(self, services: list[Service]) -> None:
        with activation.alone():
            activation.run(self.cluster, services, master=self.role is Role.MASTER)

    def _load(self) -> None:
        """Once after a boot: what has no unit that would load it, and lives in the kernel alone."""
        if LOADED.exists():
            return
        if activation.been_here():
            services = self.cluster.services
            self._run([s for s in services if not s.unit and s.on_change == "command"])
        activation.note_been_here()
        LOADED.touch()

    def _catch_up(self) -> None:
        """A pass that was applied but not activated, here or before a reboot: activate it whole.

        And services that were declared, or declared otherwise, since they were activated.
        """
        generation = self.store.generation()
        if generation.id is None or generation.term:
            return
        if not self._left(generation.id) or units.stopping():
            return
        with activation.alone():
            # Whoever had the lock may have been activating just this.
            left = self._left(generation.id)
            self._changed = []
            activation.run(self.cluster, left, master=False)
            activation.note_activated(generation.id)

    def _left(self, generation: str) -> list[Service]:
        if generation != activation.activated():
            return list(self.cluster.services)
        wanted = [
            *activation.depending(self.cluster.services, self._changed),
            *activation.unknown(self.cluster.services),
        ]
        return [s for s in self.cluster.services if s in wanted]

    def _apply_by_itself(self) -> None:
        if self._changed:
            changed, self._changed = self._changed, []
            self._run(activation.depending(self.cluster.services, changed))
        told = activation.contents()
        for service in self.cluster.services:
            if not service.auto_apply:
                continue
            try:
                content = tree.digest(self._scanners[service.name].scan())
            except tree.UnstableError:
                continue  # the next look sees it whole
            if service.name not in told:
                activation.note_content(service, content)
            elif told[service.name] != content:
                self._run([service])

    def _try_again(self) -> None:
        kept, now = activation.outcomes(), time.monotonic()
        for service in self.cluster.services:
            bad = kept.get(service.name)
            if bad is None or bad.state not in (State.REJECTED, State.FAILED):
                self.troubles.pop(service.name, None)
                continue
            trouble = self.troubles.get(service.name)
            if trouble is None or trouble.result != bad:
                self.troubles[service.name] = Trouble(bad, now)
            elif trouble.due(now):
                self.troubles[service.name] = Trouble(bad, now, trouble.tries + 1)
                self._try(service, bad)

    def _try(self, service: Service, bad: Result) -> None:
        if service.unit and bad == activation.overdue(service):
            unit = units.look([service.unit])[service.unit]
            if unit.active == "active":
                # What systemd was told came true in the end.
                activation.keep({service.name: Result(State.ACTIVE)})
            if unit.active != "failed":
                return
        # On the master a person says when new files go live, unless it asks for it by itself.
        if self.role is Role.BACKUP or service.auto_apply:
            self._run([service])
        elif bad.state is State.REJECTED:
            with activation.alone():
                rejected = activation.validate(service)
                activation.keep({service.name: rejected or Result(State.ACTIVE)})
        elif activation.digest(self.cluster, service) == activation.contents().get(service.name):
            self._run([service])
