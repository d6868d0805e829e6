# SPDX-License-Identifier: GPL-3.0-or-later
"""Activates what nobody is there to activate, beside the keeper, so that starts never wait for it.

That is: what a crash left, what was rejected once its reason is gone, and on the master what asks
for it by `auto_apply`.
"""

from __future__ import annotations

import threading
import time

from . import activation, journal
from .activation import Result, State
from .reconcile import Role
from .settings import Cluster
from .sync import tree
from .sync.store import Store

PERIOD = 1.0
# A rejection may end by more than a new file: a name that resolves again, a module that is there.
ASK_AGAIN = 10.0


class Activator(threading.Thread):
    """Looks once a second whether something is left to activate."""

    def __init__(self, cluster: Cluster, store: Store) -> None:
        super().__init__(name="activator", daemon=True)
        self.cluster = cluster
        self.store = store
        self.role = Role.UNKNOWN
        self._changed: list[str] = []
        self._asked_at = 0.0
        self._digests: dict[str, str] = {}
        self._scanners = {
            s.name: tree.Scanner(s.paths, cluster.sync_excludes) for s in cluster.services
        }

    def changed(self, paths: list[str]) -> None:
        """These paths were changed while nobody looked: activate what depends on them."""
        self._changed += paths

    def run(self) -> None:
        """For ever."""
        while True:
            try:
                self._once()
            except Exception as error:  # noqa: BLE001 - the thread must outlive any service
                journal.record("activator-failed", why=f"{type(error).__name__}: {error}")
            time.sleep(PERIOD)

    def _once(self) -> None:
        if self.role is Role.BACKUP:
            self._catch_up()
        elif self.role is Role.MASTER:
            self._apply_by_itself()
        else:
            return
        if time.monotonic() - self._asked_at >= ASK_AGAIN:
            self._asked_at = time.monotonic()
            self._ask_again()

    def _catch_up(self) -> None:
        """A pass that was applied but not activated, here or before a reboot: activate it whole."""
        changed, self._changed = self._changed, []
        generation = self.store.generation()
        if generation.id is None or generation.term:
            return
        if generation.id == activation.activated() and not changed:
            return
        with activation.alone():
            # Whoever had the lock may have been activating just this.
            if self.store.generation().id == activation.activated() and not changed:
                return
            activation.run(self.cluster.services, master=False)
            activation.note_activated(generation.id)

    def _apply_by_itself(self) -> None:
        if self._changed:
            changed, self._changed = self._changed, []
            with activation.alone():
                activation.run(activation.depending(self.cluster.services, changed), master=True)
        for service in self.cluster.services:
            if not service.auto_apply:
                continue
            digest = tree.digest(self._scanners[service.name].scan())
            before = self._digests.get(service.name)
            self._digests[service.name] = digest
            if before is not None and before != digest:
                with activation.alone():
                    activation.run([service], master=True)

    def _ask_again(self) -> None:
        kept = activation.outcomes()
        for service in self.cluster.services:
            bad = kept.get(service.name)
            if bad is None or bad.state not in (State.REJECTED, State.FAILED):
                continue
            with activation.alone():
                if self.role is Role.BACKUP or bad.state is State.FAILED:
                    activation.run([service], master=self.role is Role.MASTER)
                elif activation.validate(service) is None:
                    # On the master a person says when it is to go live.
                    activation.keep({service.name: Result(State.ACTIVE)})
