# SPDX-License-Identifier: GPL-3.0-or-later
"""Readiness: whether this node has everything to take over without a loss, and why not.

A node that is not ready carries a lower priority: it never preempts, and takes over if it is alone.
A master is ready by definition.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import activation, addresses, conntrack, durable, journal, observe, peer
from .settings import RUNTIME_DIR, STATE_DIR, Cluster
from .sync.store import Store

# keepalived adds the number in it to the priority: less than the peer's, and hardly more skew.
PRIORITY = RUNTIME_DIR / "readiness"
LOWERED = -4
# So many promotions without CALM seconds of one role between them are to-and-fro: failback waits.
FLAPS = STATE_DIR / "flaps"
TOO_MANY, CALM = 3, 600.0
# Seconds between two looks: while something is missing, and while all is there.
SOON, LATER = 1.0, 10.0
# Seconds for which connections are missing before they are asked for again: many, or any at all.
MANY_MISSING, ANY_MISSING = 5.0, 30.0
# So often that time doubles while asking does not help.
PATIENCE = 6


@dataclass(frozen=True)
class Standing:
    """What a node has, as it tells its peer. connections: entries of its conntrackd, None: dead.

    conntrackd: the id of its present run.
    """

    hostname: str
    master: bool
    generation: str | None
    sync: str
    connections: int | None
    conntrackd: str = ""


@dataclass(frozen=True)
class Look:
    """All that readiness is decided from. peer: None when it could not be asked."""

    serving: bool
    maintenance: bool
    peer: Standing | None
    peer_name: str
    generation: str | None
    synchronizes: bool
    connections: int | None
    failed: tuple[str, ...] = ()


def enough(mine: int, theirs: int) -> bool:
    """Whether one table has what the other has: what is on its way makes a small difference."""
    return theirs - mine <= max(5, theirs // 100)


def reasons(seen: Look) -> tuple[str, ...]:
    """Why the node is not ready; nothing when it is."""
    if seen.serving:
        return ()
    if seen.maintenance:
        return ("in maintenance",)
    if seen.peer is None:
        return (f"{seen.peer_name} cannot be asked",)
    if not seen.peer.master:
        return (f"{seen.peer_name} is not master: nothing to catch up with",)
    found = list(seen.failed)
    if seen.synchronizes:
        if seen.peer.sync in ("failed", "diverged"):
            found.append(f"synchronization {seen.peer.sync}")
        elif seen.generation != seen.peer.generation:
            found.append("configuration not caught up")
    if seen.connections is None:
        found.append("connection tracking does not answer")
    elif seen.peer.connections is None:
        found.append(f"connection tracking of {seen.peer_name} does not answer")
    elif not enough(seen.connections, seen.peer.connections):
        found.append(f"{seen.connections} of {seen.peer.connections} connections")
    return tuple(found)


class Mirror:
    """Whether a standby must ask for its peer's connections again: nothing else fills a hole.

    What a master opens while its conntrackd is dead, or the cluster link is dead for long, is never
    sent; and who was promoted for a moment has emptied what it had.
    """

    def __init__(self) -> None:
        self._run: str | None = None
        self._cut = False
        self._since: float | None = None
        self._fewest = 0
        self._asked = 0

    def step(self, now: float, seen: Look) -> str:
        """Why to ask now; empty: no reason. `now`: monotonic seconds."""
        if seen.serving:
            self._run, self._cut, self._since = None, False, None
            return ""
        if seen.peer is None:
            self._cut = True
            return ""
        theirs, mine = seen.peer.connections, seen.connections
        if not seen.peer.master or theirs is None or mine is None:
            return ""
        known, self._run = self._run, seen.peer.conntrackd
        cut, self._cut = self._cut and known is not None, False
        why = ""
        if known is not None and known != self._run:
            why = f"connection tracking of {seen.peer_name} was started anew"
        elif cut:
            why = f"{seen.peer_name} could not be asked for a while"
        elif self._missed_for_long(now, mine, theirs):
            why = f"{mine} of {theirs} connections"
        if why:
            self._since = None
        return why

    def _missed_for_long(self, now: float, mine: int, theirs: int) -> bool:
        missing = theirs - mine
        if missing <= 0:
            self._since, self._asked = None, 0
            return False
        if self._since is None or missing < 0.9 * self._fewest:
            # They come: to ask again would only begin anew.
            self._since, self._fewest = now, missing
        bearable = ANY_MISSING if enough(mine, theirs) else MANY_MISSING
        if now - self._since < bearable * 2**self._asked:
            return False
        self._asked = min(self._asked + 1, PATIENCE)
        return True


def hold(ready_for: float, delay: float, promotions: int, calm: float) -> str:
    """Why a node that failback prefers, and that is ready, waits all the same; empty: it does not.

    All times in seconds; calm: since the role last changed.
    """
    if promotions >= TOO_MANY and calm < CALM:
        return (
            f"failback held, master {promotions} times in short order: "
            f"{CALM - calm:.0f} s of calm to go (zcluster start ends the wait)"
        )
    if ready_for < delay:
        return f"failback in {delay - ready_for:.0f} s"
    return ""


def promotions() -> int:
    """How often this node has become master since it was last calm."""
    try:
        return int(FLAPS.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0


def forget_promotions() -> None:
    """The operator's word, or time, has ended the to-and-fro."""
    FLAPS.unlink(missing_ok=True)


def standing(cluster: Cluster) -> Standing:
    """What this node has now."""
    daemon = observe.ask_daemon()
    return Standing(
        hostname=cluster.local.hostname,
        master=bool(addresses.held(cluster)),
        generation=Store().generation().id,
        sync=daemon["sync"]["state"] if daemon else "unknown",
        connections=conntrack.entries("internal"),
        conntrackd=conntrack.instance(),
    )


def parse(answer: dict[str, Any]) -> Standing:
    """The peer's answer to the request `standing`; KeyError for a field that is missing."""
    return Standing(
        str(answer["hostname"]),
        bool(answer["master"]),
        answer["generation"],
        str(answer["sync"]),
        answer["connections"],
        str(answer.get("conntrackd", "")),
    )


def ask_peer(cluster: Cluster, timeout: float = 4.0) -> Standing | None:
    """The peer's standing; None when it could not be asked."""
    with contextlib.suppress(peer.PeerError, KeyError):
        return parse(peer.ask(cluster, "standing", timeout=timeout))
    return None


def failed_services(cluster: Cluster) -> tuple[str, ...]:
    """Managed services that would not serve here, or not with the configuration they should."""
    return tuple(activation.troubles(activation.report(cluster, master=False)).values())


def _own() -> tuple[str | None, int | None]:
    return Store().generation().id, conntrack.entries("external")


def while_asked(
    before: tuple[str | None, int | None],
    after: tuple[str | None, int | None],
    theirs: Standing | None,
) -> tuple[str | None, int | None]:
    """Generation and connections of this node when its peer was asked, of before and after.

    Hundreds of connections may end in one moment, and a pass may end: that is no reason to begin
    anew with a delay of the failback.
    """
    (first, mine), (generation, now) = before, after
    if theirs is not None and theirs.generation == first:
        generation = first
    return generation, max((count for count in (mine, now) if count is not None), default=None)


def look(cluster: Cluster, blind: tuple[str, ...] = ()) -> Look:
    """Look at this node and ask the peer. `blind`: networks where only the peer sees a witness."""
    serving = bool(addresses.held(cluster))
    before = _own()
    theirs = None if serving else ask_peer(cluster)
    generation, connections = while_asked(before, _own(), theirs)
    return Look(
        serving=serving,
        maintenance=observe.in_maintenance(),
        peer=theirs,
        peer_name=cluster.peer.hostname,
        generation=generation,
        synchronizes=bool(cluster.sync_paths),
        connections=connections,
        failed=(
            *failed_services(cluster),
            *(f"no witness seen on {name}, but {cluster.peer.hostname} sees one" for name in blind),
        ),
    )


def lower() -> None:
    """Have this node stand back, whatever it was: the daemon raises it when it is ready."""
    durable.write(PRIORITY, f"{LOWERED}\n".encode())


def is_lowered() -> bool:
    """Whether this node stands back now: `start` lowers it, too."""
    try:
        return int(PRIORITY.read_text(encoding="utf-8")) < 0
    except (OSError, ValueError):
        return False


def raise_again() -> None:
    """Give this node its whole priority."""
    durable.write(PRIORITY, b"0\n")


class Watch(threading.Thread):
    """Looks again and again, and lowers or raises the node's priority."""

    def __init__(
        self,
        cluster: Cluster,
        blind: Callable[[], tuple[str, ...]] = tuple,
        linked: Callable[[], bool | None] = lambda: None,
    ) -> None:
        super().__init__(name="readiness", daemon=True)
        self._blind = blind
        self._linked = linked
        self.cluster = cluster
        self.why: tuple[str, ...] = ("not looked yet",)
        self.held = ""
        self._lowered: bool | None = None
        self._changed_at = time.monotonic()
        self._ready_at: float | None = None
        self._mirror = Mirror()
        self._theirs: tuple[float, int] | None = None
        self._wake = threading.Event()

    def role_changed(self, *, promoted: bool) -> None:
        """Look now. promoted: from backup to master, not merely found there."""
        self._changed_at, self._ready_at = time.monotonic(), None
        if promoted and self.cluster.failback == self.cluster.local.hostname:
            durable.write(FLAPS, f"{promotions() + 1}\n".encode())
        self._wake.set()

    def complete(self, connections: int) -> bool:
        """Whether so many are all that the serving peer tracked a moment ago."""
        if self._theirs is None:
            return False
        at, theirs = self._theirs
        return time.monotonic() - at <= 2 * LATER and enough(connections, theirs)

    def run(self) -> None:
        """Look after look, for ever."""
        while True:
            try:
                self._once()
            except Exception as error:  # noqa: BLE001 - the thread must outlive any look
                self.why = (str(error),)
            self._wake.wait(SOON if self.why or self.held else LATER)
            self._wake.clear()

    def _once(self) -> None:
        seen = look(self.cluster, self._blind())
        now = time.monotonic()
        calm = now - self._changed_at
        if calm >= CALM:
            forget_promotions()
        why, held = reasons(seen), ""
        if why or self._ready_at is None:
            self._ready_at = None if why else now
        preferred = self.cluster.failback == self.cluster.local.hostname
        if preferred and self._ready_at is not None and not seen.serving:
            ready_for = now - self._ready_at
            held = hold(ready_for, self.cluster.preempt_delay, promotions(), calm)
        lowered = bool(why or held)
        if lowered and addresses.held(self.cluster):
            # It was promoted while it asked its peer: a master never stands back.
            return
        if lowered is not self._lowered or lowered is not is_lowered():
            if not lowered and not seen.serving:
                # It may take over at once: the kernel has the connections before that.
                conntrack.commit(10.0)
            (lower if lowered else raise_again)()
            journal.record("readiness", ready=not why, why=list(why), held=held)
            self._lowered = lowered
        self.why, self.held = why, held
        self._mend(now, seen)

    def _mend(self, now: float, seen: Look) -> None:
        told = seen.peer if seen.peer and seen.peer.master and not seen.serving else None
        self._theirs = None
        if told is not None and told.connections is not None:
            self._theirs = now, told.connections
        if self._linked() is False:
            # Each question would wait, and be answered with all connections, once the link is back.
            return
        if why := self._mirror.step(now, seen):
            journal.record("connections-asked", why=why)
            conntrack.ask_again()

    def report(self) -> dict[str, Any]:
        """What `status` is told."""
        return {"ready": not self.why, "why": list(self.why), "held": self.held}


def dump(told: Standing) -> dict[str, Any]:
    """As plain data for the wire."""
    return {
        "hostname": told.hostname,
        "master": told.master,
        "generation": told.generation,
        "sync": told.sync,
        "connections": told.connections,
        "conntrackd": told.conntrackd,
    }
