# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a network of this node is silently dead, and whether the peer's is not: the decision.

Witnesses are third parties on a served network. A node gives its service away only when all the
witnesses it has seen there are silent, while one of them answers the peer. Nothing here looks at
anything; all times are of this node's monotonic clock, in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Answers for this long before a network counts as healed.
CALM = 1.0
# A witness that answered the peer within so many seconds is alive.
FRESH = 2.0


@dataclass
class Witness:
    """What the probes of one witness gave. `probed` is when the latest was sent."""

    probed: float | None = None
    answered: bool = False
    success: float | None = None
    misses: int = 0
    first_miss: float | None = None
    last_miss: float | None = None

    @property
    def seen(self) -> bool:
        """Whether it has ever answered: only then its silence means something."""
        return self.success is not None


class Watch:
    """The witnesses of all served networks, and how many misses in a row are silence."""

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self.networks: dict[str, dict[str, Witness]] = {}

    def watch(self, networks: Mapping[str, tuple[str, ...]]) -> None:
        """Set who is watched; what is known of those who stay is kept."""
        self.networks = {
            interface: {
                address: self.networks.get(interface, {}).get(address, Witness())
                for address in addresses
            }
            for interface, addresses in networks.items()
        }

    def probe(self, interface: str, address: str, now: float) -> None:
        """A probe is sent now: until here the one before could be answered."""
        witness = self.networks[interface][address]
        if witness.probed is not None and not witness.answered:
            witness.misses += 1
            witness.last_miss = witness.probed
            if witness.first_miss is None:
                witness.first_miss = witness.probed
        witness.probed, witness.answered = now, False

    def answer(self, interface: str, address: str) -> None:
        """The latest probe was answered; an answer nobody asked for is none."""
        witness = self.networks.get(interface, {}).get(address)
        if witness is None or witness.probed is None:
            return
        witness.answered, witness.success = True, witness.probed
        witness.misses, witness.first_miss, witness.last_miss = 0, None, None

    def deaf(self, interface: str) -> bool:
        """All witnesses that were ever seen on this network are silent."""
        seen = [w for w in self.networks.get(interface, {}).values() if w.seen]
        return bool(seen) and all(w.misses >= self.allowed for w in seen)

    def deaf_networks(self) -> tuple[str, ...]:
        """The networks on which nothing answers any more."""
        return tuple(interface for interface in self.networks if self.deaf(interface))

    def ages(self, now: float) -> dict[str, float]:
        """How long ago the last answered probe of each witness was sent."""
        return {
            address: round(now - witness.success, 4)
            for witnesses in self.networks.values()
            for address, witness in witnesses.items()
            if witness.success is not None
        }

    def told(self) -> dict[str, dict[str, str]]:
        """For people: how each witness is."""
        return {
            interface: {
                address: "never seen" if not w.seen else "silent" if w.misses else "answers"
                for address, w in witnesses.items()
            }
            for interface, witnesses in self.networks.items()
        }


@dataclass(frozen=True)
class Report:
    """One message of a node to its peer; `sent` and `ages` are of the sender's clock.

    `echo` is the `sent` of the latest message the sender had of the receiver, `hold` how long it
    had it: so the receiver knows the earliest moment, of its own clock, at which this was written.
    """

    nonce: str
    sent: float
    echo_nonce: str
    echo: float
    hold: float
    able: bool
    master: bool
    ages: Mapping[str, float] = field(default_factory=dict)
    connections: int = 0
    room: int = 0
    revision: int = 0


def dump(report: Report) -> dict[str, Any]:
    """The report as JSON has it."""
    return dict(vars(report))


def undump(document: Any) -> Report:
    """A report from JSON; KeyError, TypeError or ValueError for anything else."""
    return Report(
        nonce=str(document["nonce"]),
        sent=float(document["sent"]),
        echo_nonce=str(document["echo_nonce"]),
        echo=float(document["echo"]),
        hold=float(document["hold"]),
        able=document["able"] is True,
        master=document["master"] is True,
        ages={str(k): float(v) for k, v in dict(document["ages"]).items()},
        connections=int(document["connections"]),
        room=int(document["room"]),
        revision=int(document["revision"]),
    )


class Peer:
    """The peer's latest report, in this node's time. Late and repeated ones are discarded."""

    def __init__(self, nonce: str, patience: float) -> None:
        self._nonce = nonce
        # A report older than this says nothing about now.
        self.patience = patience
        self._written = float("-inf")
        self._latest: Report | None = None
        # (nonce, sent) of the peer's latest message, and when it came: what we echo.
        self._heard: tuple[str, float, float] | None = None
        # Witness -> (earliest, latest moment) of its first success since our own miss.
        self.confirmed: dict[str, tuple[float, float]] = {}

    def receive(self, report: Report, now: float, watch: Watch) -> bool:
        """Take a report in; False when it is late, repeated, or not an answer to us."""
        heard = self._heard
        if heard is None or heard[0] != report.nonce or report.sent > heard[1]:
            self._heard = (report.nonce, report.sent, now)
        written = report.echo + report.hold
        if report.echo_nonce != self._nonce or not now - self.patience <= written <= now + 0.001:
            return False
        if written <= self._written:
            return False
        self._written, self._latest = written, report
        for witnesses in watch.networks.values():
            for address, witness in witnesses.items():
                self._confirm(address, witness, report, written, now)
        return True

    def _confirm(
        self, address: str, witness: Witness, report: Report, written: float, now: float
    ) -> None:
        if witness.first_miss is None:
            self.confirmed.pop(address, None)
            return
        age = report.ages.get(address)
        if age is None:
            return
        known = self.confirmed.get(address)
        if known is not None and known[0] > witness.first_miss:
            return
        if written - age > witness.first_miss:
            self.confirmed[address] = (written - age, now - age)

    def echo(self, now: float) -> tuple[str, float, float]:
        """What a report to the peer repeats: nonce, time, and how long we have had it."""
        if self._heard is None:
            return "", 0.0, 0.0
        return self._heard[0], self._heard[1], now - self._heard[2]

    def latest(self, now: float) -> Report | None:
        """The report that still says something about now."""
        return self._latest if now - self._written <= self.patience else None


def better_off(watch: Watch, peer: Peer, now: float) -> str:
    """Why the peer should serve instead of this node; empty if it should not.

    The peer must have probed the witness after our first miss, and we must have missed it once more
    after that: one that was merely away comes back to both.
    """
    report = peer.latest(now)
    if report is None or not report.able:
        return ""
    for interface in watch.deaf_networks():
        for address, witness in watch.networks[interface].items():
            confirmed = peer.confirmed.get(address)
            if (
                confirmed is not None
                and witness.first_miss is not None
                and witness.last_miss is not None
                and confirmed[0] > witness.first_miss
                and witness.last_miss > confirmed[1]
            ):
                return f"{interface} is dead: {address} answers the peer, not this node"
    return ""


def blind(watch: Watch, peer: Peer, now: float) -> tuple[str, ...]:
    """Networks on which this node has never seen a witness that answers its peer.

    After a reboot with a dead link nothing was ever seen, and silence proves nothing: no reason to
    leave service, but one not to take it from a peer that serves well.
    """
    report = peer.latest(now)
    if report is None:
        return ()
    return tuple(
        interface
        for interface, known in watch.networks.items()
        if known
        and not any(witness.seen for witness in known.values())
        and any(report.ages.get(address, FRESH) < FRESH for address in known)
    )


class Verdict:
    """Whether this node stays away from service because of a dead network."""

    def __init__(self) -> None:
        self.why = ""
        self._calm_since: float | None = None

    def step(self, watch: Watch, peer: Peer, now: float) -> str:
        """Look again; why this node must not serve now, or empty."""
        found = better_off(watch, peer, now)
        if found:
            self.why, self._calm_since = found, None
        elif self.why and watch.deaf_networks():
            # The peer cannot do better any more, or is silent: better half a service than none.
            self.why, self._calm_since = "", None
        elif self.why:
            if self._calm_since is None:
                self._calm_since = now
            elif now - self._calm_since >= CALM:
                self.why, self._calm_since = "", None
        return self.why
