# SPDX-License-Identifier: GPL-3.0-or-later
"""The thread that keeps the peer in sync while this node is master, and looks for drift else."""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
import time
from dataclasses import replace
from typing import Any

from .. import activation, addresses, journal, peer
from ..settings import Cluster
from . import candidate, farend, inotify, operate, tree
from .disk import LocalDisk
from .replica import Replica
from .sender import Pass, Sender, diverged_words, freezer
from .store import Store, new_id

# Every byte is read again, every path looked at again, so often, and never more often than takes
# a thousandth of a core: events are only hints.
FULL_PASS = 600.0
SLOW_PASS = 30.0
SELDOM = 1000
# Paths that the kernel does not watch are looked at with a hundredth of a core.
UNHEARD_PASS = 1.0
LESS_SELDOM = 100
DEBOUNCE = 0.03
# Seconds for which a file may be written until that is said.
LONG_WRITTEN = 10.0
UNCHECKED = "; whether it has newer configuration could not be checked"
RETRY = (0.5, 1.0, 2.0, 3.0, 5.0)
MOST_NAMED = 100


class SyncWorker(threading.Thread):
    """Runs the passes, one at a time, while this node is master; drift is looked for otherwise."""

    def __init__(self, cluster: Cluster, store: Store) -> None:
        super().__init__(name="sync", daemon=True)
        self.cluster = cluster
        self.store = store
        self.watcher: inotify.Watcher | None = None
        self.scanner = tree.Scanner(cluster.sync_paths, cluster.sync_excludes, str(store.frozen))
        self._watch()
        self.replica = Replica(LocalDisk(store, self.scanner), new_id)
        self.far = farend.FarEnd(cluster, store)
        self.sender = Sender(
            self.replica,
            self.far,
            freezer(store),
            serving=lambda: bool(addresses.held(cluster)),
            validate=lambda stage: candidate.validate(cluster, store, stage),
            activate=self._activate,
            begins=self._begins,
        )
        self.sending = False
        self.result = Pass("pending", "not looked yet")
        self._told_by_peer: dict[str, Any] = {}
        self.passes = self.full_passes = 0
        self.cpu_seconds = 0.0
        self.synced_at: float | None = None
        self.behind_since: float | None = time.monotonic()
        self._full = False
        self._retire_at = 0.0
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # What was live when it last was the generation: what differs from it is drift.
        self._reference: tree.Manifest | None = None

    def _watch(self) -> None:
        """As soon as the kernel lets us; what cannot be watched is looked at."""
        if self.watcher is None:
            with contextlib.suppress(OSError):
                self.watcher = self.scanner.watch = inotify.Watcher()
                self.scanner.doubt()

    def _activate(self, changed: list[str]) -> None:
        """What was pulled into this serving node is live now: so must be the services."""
        with activation.alone():
            services = activation.depending(self.cluster.services, changed)
            activation.run(self.cluster, services, master=True)

    def _begins(self) -> None:
        """There is something to send: until the peer has it all, the nodes are not in sync."""
        if self.result.state == "in sync":
            self.result = Pass("pending", "sending")
            self.behind_since = time.monotonic()

    def peer_is_back(self) -> None:
        """What it had before is not known to be there any more."""
        self.sender.acknowledged = None
        self.wake()

    def wake(self) -> None:
        """Something may have changed: look soon."""
        os.eventfd_write(self._wake, 1)

    def look_again(self) -> None:
        """Look at everything, soon; every byte is read again."""
        self._full = True
        self.wake()

    def start_sending(self) -> None:
        """This node is master from now on."""
        self.sender.acknowledged, self.sender.checked = None, False
        self.sending = True
        self.wake()

    def stop_sending(self) -> None:
        """This node is not master any more."""
        self.sending = False
        self.wake()

    def report(self) -> dict[str, Any]:
        """What `status` and `sync status` are told; ages and lag in seconds."""
        now = time.monotonic()
        return {
            "state": self.result.state,
            "why": self.result.why,
            "passes": self.passes,
            "full_passes": self.full_passes,
            "cpu_seconds": round(self.cpu_seconds, 3),
            "last_pass_age": None if self.synced_at is None else round(now - self.synced_at, 3),
            "lag": 0.0 if self.behind_since is None else round(now - self.behind_since, 3),
            "differing": list(self.result.differing[:MOST_NAMED]),
        }

    def run(self) -> None:
        """Pass after pass, for ever."""
        failures = 0
        full_at, look_at = time.monotonic() + FULL_PASS, 0.0
        while True:
            self._watch()
            asked, self._full = self._full, False
            full = asked or time.monotonic() >= full_at
            slow = full or time.monotonic() >= look_at
            if slow:
                self.scanner.doubt()
            failures = 0 if self._once(full=full) else failures + 1
            before, self.cpu_seconds = self.cpu_seconds, time.thread_time()
            now, cost = time.monotonic(), self.cpu_seconds - before
            if full:
                self.full_passes += 1
                full_at = now + max(FULL_PASS, SELDOM * cost)
            if slow:
                look_at = now + max(SLOW_PASS, SELDOM * cost)
            if self._unheard():
                look_at = now + max(UNHEARD_PASS, LESS_SELDOM * cost)
            # A peer that does not take anything is not asked at each change.
            due = min(look_at, self._retire_at) - now
            patience = RETRY[min(failures, len(RETRY)) - 1] if failures else due
            self._sleep(patience, deaf=failures > 0)

    def _unheard(self) -> str:
        """What keeps the kernel from telling of every change; empty for nothing."""
        if self.watcher is None:
            return "changes are found late: see fs.inotify.max_user_instances"
        if self.watcher.unheard:
            return "changes are found late: see fs.inotify.max_user_watches"
        return ""

    def _written(self) -> str:
        """What no pass has as it is now; empty for nothing."""
        paths = self.scanner.written(LONG_WRITTEN)
        return f"still being written: {', '.join(paths[:5])}" if paths else ""

    def _once(self, *, full: bool) -> bool:
        before = self.result
        try:
            self.result = self._look(full=full, force=full or before.state == "failed")
            why = "; ".join(filter(None, (self.result.why, self._unheard(), self._written())))
            self.result = replace(self.result, why=why)
        except tree.UnstableError as error:
            self.result = Pass("pending", str(error))
        except peer.RefusedError as error:
            self.result = Pass("failed", str(error))
        except peer.PeerError as error:
            unknown = "" if self.sender.checked or not self.sending else UNCHECKED
            self.result = Pass("pending", f"{error}{unknown}")
        except Exception as error:  # noqa: BLE001 - the thread must outlive any pass
            self.result = Pass("failed", str(error))
        try:
            self._retire()
            if self.result.state == "in sync":
                self.store.thaw()
        except Exception as error:  # noqa: BLE001 - and what comes after it
            self.result = Pass("failed", str(error))
        if self.result.state == "in sync":
            self.synced_at, self.behind_since = time.monotonic(), None
            self.passes += bool(self.result.sent or self.result.pulled)
        elif self.behind_since is None:
            self.behind_since = time.monotonic()
        self.hear(self.result.services)
        if (self.result.state, self.result.why) != (before.state, before.why):
            journal.record("sync", state=self.result.state, why=self.result.why)
        # A backup waits for nobody: what it may say is looked at again as ever.
        return self.result.state in ("in sync", "paused") or (
            not self.sending and self.result.state != "failed"
        )

    def hear(self, services: dict[str, Any]) -> None:
        """What became of the services on the peer, learned with the pass: kept here if it is bad.

        The peer may be gone a moment later.
        """
        told = {name: outcome for name, outcome in services.items() if activation.is_bad(outcome)}
        for name, outcome in told.items():
            if self._told_by_peer.get(name) != outcome:
                journal.record(
                    "service-on-peer", name=name, node=self.cluster.peer.hostname, **outcome
                )
        self._told_by_peer = {
            name: outcome for name, outcome in self._told_by_peer.items() if name not in services
        } | told

    def _retire(self) -> None:
        """Kept versions beyond the limits go now and then: no pass waits for it."""
        if time.monotonic() >= self._retire_at:
            self._retire_at = time.monotonic() + SLOW_PASS
            with self.store.lock():
                self.store.retire()
            if self.result.state != "in sync":
                self.store.thaw(self.sender.contents())

    def _look(self, *, full: bool, force: bool) -> Pass:
        if found := operate.paused():
            self.far.channel.close()
            return Pass("paused", operate.pause_words(found))
        if self.sending:
            if not self.far.channel.keep():
                self.sender.acknowledged = None
            return self.sender.run(trust=not full, force=force)
        self.far.channel.close()
        return self._drift(full=full)

    def _drift(self, *, full: bool) -> Pass:
        if not self.cluster.sync_paths:
            return Pass("in sync")
        with self.store.lock():
            live = self.scanner.scan(trust=not full)
            mine = self.store.generation()
        if mine.id is None:
            return Pass("pending", "nothing received from the master yet")
        if differing := self.store.verdict():
            return Pass("diverged", diverged_words(differing), differing=tuple(differing))
        if tree.digest(live) == mine.digest:
            self._reference = live
            return Pass("in sync")
        known = self._reference is not None and tree.digest(self._reference) == mine.digest
        paths = tuple(tree.differing(self._reference or {}, live)) if known else ()
        named = f" ({', '.join(paths[:5])})" if paths else ""
        return Pass(
            "pending",
            f"edited here{named}; the next pass from the master replaces it, and keeps it",
            differing=paths,
        )

    def _sleep(self, seconds: float, *, deaf: bool) -> None:
        """Until something changed (not when deaf), somebody woke us, or the time is over."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            if self.watcher and not deaf:
                selector.register(self.watcher, selectors.EVENT_READ)
            session = self.far.channel.session
            if session and session.open:
                selector.register(session, selectors.EVENT_READ)
            heard = [key.fileobj for key, _ in selector.select(max(0.0, seconds))]
        if session in heard:
            # Perhaps with the whole node, which may have come back without what it had.
            self.far.channel.close()
            self.sender.acknowledged = None
        if self.watcher in heard:
            time.sleep(DEBOUNCE)
        self.scanner.listen()
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
