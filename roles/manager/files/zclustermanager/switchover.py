# SPDX-License-Identifier: GPL-3.0-or-later
"""Switchover and hold: planned faults that end by themselves.

Switchover: the serving node's group goes to FAULT (keepalived sends priority 0), the peer takes
over. Hold: the backup's group is in FAULT while the master changes its heartbeat, and so cannot
take its pause for death. A fault ends as soon as it has served its purpose, when the peer falls
silent, or at the deadline: a peer that dies in the middle does not leave nobody serving.
"""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from . import durable, journal, keepalived, observe, peer, readiness, takeover
from .keepalived import State
from .maintenance import Done
from .settings import RUNTIME_DIR, Cluster
from .takeover import RefusedError

# keepalived tracks it: any number but 0 is a fault (keepalived.conf(5), track_file, weight 0).
FAULT = RUNTIME_DIR / "switchover"
# Seconds until a fault ends whatever is known of the peer.
DEADLINE = 5.0
HELD = 60.0
PAUSE = 0.1
# Seconds without an answer that mean a silent peer; an answer takes a program's start.
SILENT = 3.0


@dataclass(frozen=True)
class Order:
    """One fault that is set; until: on the monotonic clock. hold: of a backup, not a switchover."""

    id: str
    until: float
    hold: bool = False


def over(order: Order, now: float, peer_master: bool | None) -> str | None:
    """Why the fault ends; None while it has to stay. peer_master None: the peer is silent."""
    if peer_master is None:
        return "the peer has fallen silent"
    if peer_master is not order.hold:
        return "the peer is master" if peer_master else "the peer does not serve"
    if now >= order.until:
        return "deadline"
    return None


class Switch:
    """The daemon's part: it sets the fault, and takes it away."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.order: Order | None = None
        self._turn = threading.Lock()

    def clear(self) -> None:
        """A fault whose daemon has died is over: nobody would watch the peer."""
        if FAULT.exists() and FAULT.read_text(encoding="utf-8").strip() != "0":
            durable.write(FAULT, b"0\n")
            journal.record("switchover", step="end", why="the daemon has started anew")

    @property
    def hands_over(self) -> bool:
        """Whether a switchover is under way."""
        order = self.order
        return order is not None and not order.hold

    def begin(self, wanted: str, *, hold: bool = False) -> None:
        """Set the fault; asked twice, the first counts. A node that has no part in it sets none."""
        with self._turn:
            if self.order is not None or takeover.serves(self.cluster) is hold:
                return
            seconds = HELD if hold else DEADLINE + 4 * self.cluster.check_interval
            order = Order(wanted, time.monotonic() + seconds, hold)
            # First the fault: what could not be written is no order that stands in the way.
            durable.write(FAULT, b"1\n")
            self.order = order
            self._record("begin", order, f"{seconds:g} s at most")
            threading.Thread(target=self._watch, args=[self.order], daemon=True).start()

    def end(self, order: Order, why: str) -> None:
        """Take the fault away, if it is still the one of this order."""
        with self._turn:
            if self.order is order:
                durable.write(FAULT, b"0\n")
                self.order = None
                self._record("end", order, why)

    def release(self) -> None:
        """End a hold: the heartbeat is as it is to be."""
        if self.order is not None and self.order.hold:
            self.end(self.order, "the change is made")

    def _record(self, step: str, order: Order, why: str) -> None:
        event = "hold" if order.hold else "switchover"
        journal.record(event, step=step, id=order.id, why=why)

    def _watch(self, order: Order) -> None:
        while self.order is order:
            time.sleep(PAUSE)
            if why := over(order, time.monotonic(), self._peer_master()):
                self.end(order, why)

    def _peer_master(self) -> bool | None:
        try:
            return bool(peer.ask(self.cluster, "ping", timeout=SILENT)["master"])
        except (peer.PeerError, KeyError):
            return None


def away(cluster: Cluster, *, check: bool = False) -> Done:
    """Have the peer serve instead of this node; RefusedError with the reason, and the ways out."""
    mine, other = cluster.local.hostname, cluster.peer.hostname
    if not takeover.serves(cluster):
        return _already(cluster)
    if cluster.failback == mine:
        raise RefusedError(
            f"failback prefers {mine}: it would take over again at once. Two ways out: "
            f"`zcluster configure --failback disabled` (or {other}) first, or "
            f"`zcluster maintenance {cluster.local.called}` until it is to serve again"
        )
    ways_out = f"Repair {other} first; `zcluster nodes` says how it is"
    takeover.wait_clear(cluster, f"{mine} serves on, for {other} could not take over", ways_out)
    if not takeover.serves(cluster):
        return _already(cluster)  # asked twice: the other one was quicker
    if check:
        return Done(True, f"{other} would serve instead of {mine}")
    return _switch(cluster)


def _already(cluster: Cluster) -> Done:
    mine, other = cluster.local.hostname, cluster.peer.hostname
    if takeover.wait_until(lambda: takeover.peer_serves(cluster), takeover.TAKE_OVER):
        return Done(False, f"{other} serves already")
    raise RefusedError(f"{mine} does not serve, and {other} does not say that it does")


def _switch(cluster: Cluster) -> Done:
    mine, other = cluster.local.hostname, cluster.peer.hostname
    began = time.monotonic()
    answer = observe.ask_daemon({"switchover": uuid.uuid4().hex})
    if answer is None:
        raise RefusedError(f"zclustermanager on {mine} is dead: nobody would end the fault again")
    seconds = takeover.TAKE_OVER + DEADLINE
    if not takeover.wait_until(lambda: not takeover.serves(cluster), seconds):
        raise RefusedError(f"{mine} still holds virtual IPs after {seconds:g} s; it serves on")
    released = _clock()
    if not takeover.wait_until(lambda: takeover.peer_serves(cluster), seconds):
        raise RefusedError(f"{other} did not take over; {mine} serves again if {other} does not")
    serves, took = _clock(), time.monotonic() - began
    takeover.wait_until(lambda: keepalived.ask().state is State.BACKUP, takeover.TAKE_OVER)
    return Done(
        True,
        f"{mine} served until {released}, {other} serves, seen at {serves} "
        f"(by the clock of {mine}; {took:.1f} s in all)",
    )


def hold(cluster: Cluster) -> str:
    """Keep this backup from taking over while the heartbeat's settings change; what was done.

    RefusedError where it may take over, and cannot be kept from it.
    """
    mine, other = cluster.local.hostname, cluster.peer.hostname
    heartbeat = keepalived.ask()
    if not heartbeat.running:
        return "nothing to hold: keepalived is not running"
    if heartbeat.state in (State.MASTER, State.FAULT):
        return f"nothing to hold: the heartbeat here is {heartbeat.state.name}"
    # Who is busy answers the second time.
    told = readiness.ask_peer(cluster) or readiness.ask_peer(cluster)
    if told is None:
        raise RefusedError(f"{mine} is not held: {other} does not say whether it serves")
    if not told.master:
        return f"nothing to hold: {other} does not serve"
    if observe.ask_daemon({"hold": uuid.uuid4().hex}) is None:
        raise RefusedError(f"{mine} is not held: zclustermanager does not answer")
    if not takeover.wait_until(lambda: keepalived.ask().state is State.FAULT, takeover.TAKE_OVER):
        raise RefusedError(f"{mine} is not held: keepalived does not follow")
    return "held"


def release() -> str:
    """End the hold, and wait until this node stands by again."""
    observe.ask_daemon({"release": True})
    takeover.wait_until(lambda: keepalived.ask().state is not State.FAULT, takeover.TAKE_OVER)
    return "released"


def _clock() -> str:
    return datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]


def answer(switch: Switch, request: dict[str, Any]) -> None:
    """Do what a request on the daemon's socket asks of the switch, if it asks anything."""
    if wanted := request.get("switchover"):
        switch.begin(str(wanted))
    elif wanted := request.get("hold"):
        switch.begin(str(wanted), hold=True)
    elif request.get("release"):
        switch.release()
