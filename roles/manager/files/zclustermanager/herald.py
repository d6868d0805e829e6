# SPDX-License-Identifier: GPL-3.0-or-later
"""The thread that tells others how the node is: events to the peer, metrics, hooks.

It looks for itself, off the daemon's loop: nothing of a takeover waits for it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import cause, hooks, journal, metrics, observe, peer, status, versions
from .exchange import Exchange
from .reconcile import Role
from .settings import Cluster

PAUSE = 1.0
LOOK = 15.0
# What is wrong is wrong on two looks, so that the moment of a takeover raises nothing.
LOOK_AGAIN = 3.0
CONNTRACK = "/proc/sys/net/netfilter/nf_conntrack_"


class Scribe(threading.Thread):
    """Makes events durable within a second, whatever a hook or the peer takes."""

    def __init__(self) -> None:
        super().__init__(name="scribe", daemon=True)

    def run(self) -> None:
        """Flush and wait, for ever."""
        while True:
            # A disk that fails is told by whatever else writes to it.
            with contextlib.suppress(OSError):
                journal.Log().flush()
            time.sleep(PAUSE)


class Herald(threading.Thread):
    """Tells; started once by the daemon."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(name="herald", daemon=True)
        self.cluster = cluster
        self.exchange = Exchange(lambda request, payload: peer.ask(cluster, request, payload, 10.0))
        self.hooks = hooks.Hooks()
        self.transitions: Counter[str] = Counter({"master": 0, "backup": 0})
        self.applied = Role.UNKNOWN
        self._wrong: dict[str, str] = {}
        self._in_sync_at = time.monotonic()
        self._why = ""
        self._explain = False
        self._failed: dict[str, str] = {}
        self._wake = threading.Event()
        journal.flushed_later = True

    def turned(self, was: Role, now: Role) -> None:
        """The daemon has applied a role."""
        self.applied = now
        self.transitions[now.value] += was is not Role.UNKNOWN
        self._explain = now is Role.MASTER and was is not Role.UNKNOWN
        self._wake.set()

    def run(self) -> None:
        """Look and tell, for ever."""
        look_at = 0.0
        Scribe().start()
        with contextlib.suppress(OSError):
            hooks.DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
        while True:
            woken = self._wake.wait(PAUSE)
            self._wake.clear()
            if woken or time.monotonic() >= look_at:
                look_at = time.monotonic() + LOOK
                with self._alone("look"):
                    look_at = time.monotonic() + (LOOK if self._tell() else LOOK_AGAIN)

    @contextlib.contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        """What fails is recorded once, and keeps nobody else from being told."""
        try:
            yield
            self._failed.pop(what, None)
        except Exception as error:  # noqa: BLE001 - the thread must outlive any look
            if self._failed.get(what) != str(error):
                self._failed[what] = str(error)
                journal.record("herald-failed", why=f"{what}: {error}")

    def _tell(self) -> bool:
        """One look, and all that are told of it; False when it is to be looked again soon."""
        if self._explain:
            self._explain = False
            seen = observe.look_at_peer(self.cluster)
            self._why = cause.of_peer(self.cluster.peer.hostname, seen)
            journal.record("role-cause", cause=self._why)
        answer = status.decide(self.cluster, observe.look(self.cluster))
        with self._alone("metrics"):
            self._write_metrics(answer)
        wrong = hooks.conditions(answer)
        lasting = {name: words for name, words in wrong.items() if name in self._wrong}
        settled = wrong.keys() == self._wrong.keys()
        self._wrong = wrong
        with self._alone("hooks"):
            self.hooks.tell(answer["role"], lasting, self._environment(answer))
        if answer["peer"]["reachable"] and answer["peer"]["trusted"]:
            with self._alone("events for the peer"):
                self.exchange.run()
        return settled

    def _write_metrics(self, answer: dict[str, Any]) -> None:
        now = time.monotonic()
        if answer["sync"] == "in sync":
            self._in_sync_at = now
        checks = {check["name"]: check["ok"] for check in answer["checks"]}
        figures = metrics.Figures(
            transitions=dict(self.transitions),
            sync_lag=now - self._in_sync_at,
            conntrack_entries=metrics.number(f"{CONNTRACK}count"),
            conntrack_limit=metrics.number(f"{CONNTRACK}max"),
            conntrack_link=checks.get("conntrackd link"),
            versions=versions.installed(),
        )
        metrics.write(
            metrics.page(answer["cluster"], metrics.samples(answer, figures, time.time())),
            Path(self.cluster.metrics_dir),
        )

    def _environment(self, answer: dict[str, Any]) -> dict[str, str]:
        return {
            "ZCLUSTER_CLUSTER": answer["cluster"],
            "ZCLUSTER_NODE": answer["hostname"],
            "ZCLUSTER_PEER": answer["peer"]["hostname"],
            "ZCLUSTER_ROLE": answer["role"],
            "ZCLUSTER_STATUS": answer["status"],
            "ZCLUSTER_CAUSE": self._why if answer["role"] == "master" else "",
            "ZCLUSTER_TIME": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
