# SPDX-License-Identifier: GPL-3.0-or-later
"""Gives mastership up for a critical service that cannot be kept alive here.

Once, and to a peer where it has a better chance.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import durable, journal, peer
from .activation import State
from .reconcile import Role
from .settings import RUNTIME_DIR, Cluster, Service

# A node that gave up mastership for a service does not do so again for this long, and is not given
# it for one: two nodes on which the same service dies must not hand the virtual IPs back and forth.
FLAP_GUARD = 300.0
FAULT_LONGEST = 10.0
# Tracked by keepalived with weight 0: not 0 means this node does not serve.
FAULT = RUNTIME_DIR / "service-fault"
GAVE_UP = RUNTIME_DIR / "gave-up"


def gives_up(service: Service, role: Role, *, exhausted: bool, gave_up: float | None) -> bool:
    """True when this node should leave mastership for a critical service it cannot keep alive.

    gave_up: seconds since it did so last; None: never.
    """
    guarded = gave_up is not None and gave_up < FLAP_GUARD
    return service.critical and role is Role.MASTER and exhausted and not guarded


def fault_ends(
    since: float, now: float, *, peer_master: bool | None, returns_at_once: bool
) -> bool:
    """Whether the fault is taken away: the peer serves, is silent, or did not take over in time.

    With failback to this node it would be master again at once: then it lasts a good while.
    """
    if peer_master is None:
        return True
    if peer_master:
        return not returns_at_once or now - since >= FLAP_GUARD
    return now - since >= FAULT_LONGEST


@dataclass
class Health:
    """What the peer says before mastership is left to it. able: it could take over at all."""

    reachable: bool = False
    able: bool = False
    master: bool | None = None
    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    gave_up: float | None = None

    def can_take(self, service: Service) -> bool:
        """True when the service has a better chance there.

        A hot one that runs there has, even where it rejects the files that killed it here.
        """
        told = self.services.get(service.name, {})
        hot = service.unit and not service.cold
        well = told.get("runs") if hot else told.get("state") == State.STANDBY.value
        guarded = self.gave_up is not None and self.gave_up < FLAP_GUARD
        willing = self.reachable and self.able and self.master is False
        return bool(willing and well and not guarded)


def gave_up_ago() -> float | None:
    """Seconds since this node gave up mastership for a service; None: not since it booted."""
    told = durable.read_json(GAVE_UP)
    return None if told is None else max(0.0, time.monotonic() - float(told["at"]))


class StepDown:
    """Puts this node in fault for a service, and takes the fault away again.

    peer_able: whether the peer reports that it could take over (not in maintenance, no fault).
    """

    def __init__(self, cluster: Cluster, peer_able: Callable[[], bool]) -> None:
        self.cluster = cluster
        self._peer_able = peer_able
        self._since: float | None = None

    def end(self) -> None:
        """Take the fault away: the daemon begins, or ends and nobody would do it any more."""
        self._set(None)

    def step(self, role: Role, exhausted: dict[str, str], still: Callable[[], bool]) -> None:
        """One look. exhausted: what cannot be kept alive here, and why; still: the role holds."""
        now = time.monotonic()
        if self._since is not None:
            returns = self.cluster.failback == self.cluster.local.hostname
            master = self._look_at_peer().master
            if fault_ends(self._since, now, peer_master=master, returns_at_once=returns):
                self._set(None)
            return
        for service in self.cluster.services:
            dead = service.name in exhausted
            if not gives_up(service, role, exhausted=dead, gave_up=gave_up_ago()):
                continue
            if self._look_at_peer().can_take(service) and still():
                journal.record("gives-up", service=service.name, why=exhausted[service.name])
                durable.write_json(GAVE_UP, {"at": time.monotonic(), "service": service.name})
                self._set(now)
                return

    def _look_at_peer(self) -> Health:
        try:
            said = peer.ask(self.cluster, "ping", timeout=3.0)
        except peer.PeerError:
            return Health()
        return Health(
            True,
            self._peer_able(),
            bool(said["master"]),
            {told["name"]: told for told in said.get("services", [])},
            said.get("gave_up"),
        )

    def _set(self, since: float | None) -> None:
        self._since = since
        # Not renamed into place: keepalived watches the file (inotify(7)).
        with contextlib.suppress(OSError):
            if since is not None or FAULT.exists():
                FAULT.write_text("0\n" if since is None else "1\n", encoding="ascii")
