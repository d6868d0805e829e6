# SPDX-License-Identifier: GPL-3.0-or-later
"""The exchange of events with the peer: each node ends up with a copy of the other's history.

So the history of a node that is dead, or was replaced, is still there; and each event recorded
afterwards says what was known of the other node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import journal

# Of one exchange; what is left goes with the next.
MOST = 500
LONGEST = 16 << 10

Ask = Callable[[str, Any], Any]


def sound(events: object, most: int | None = MOST) -> list[dict[str, Any]]:
    """What may be kept of the events another node told; anything strange is left out."""
    if not isinstance(events, list):
        return []
    return [
        event
        for event in events[:most]
        if isinstance(event, dict)
        and isinstance(event.get("log"), str)
        and isinstance(event.get("seq"), int)
        and isinstance(event.get("event"), str)
        and isinstance(event.get("at"), int | float)
        and len(str(event)) <= LONGEST
    ]


def answer(log: journal.Log, document: dict[str, Any]) -> dict[str, Any]:
    """The receiving half: keep what the peer tells, tell what it lacks."""
    log.keep_copies(sound(document.get("events")))
    known, seq = document["have"]
    return {"events": log.after(str(known), int(seq), MOST), "have": log.last_copied()}


class Exchange:
    """The asking half; it remembers what the peer already has."""

    def __init__(self, ask: Ask, log: journal.Log | None = None) -> None:
        self.ask = ask
        self.log = log or journal.Log()
        self.peer_has: tuple[str, int] | None = None

    def run(self) -> None:
        """Exchange until both have everything. Raises peer.PeerError."""
        while True:
            told = self.log.after(*self.peer_has, MOST) if self.peer_has else []
            reply = self.ask("events", {"have": self.log.last_copied(), "events": told})
            heard = sound(reply.get("events"))
            self.log.keep_copies(heard)
            known, seq = reply["have"]
            before, self.peer_has = self.peer_has, (str(known), int(seq))
            if len(heard) < MOST and (self.peer_has == before or self._peer_has_all()):
                return

    def _peer_has_all(self) -> bool:
        return self.peer_has is not None and not self.log.after(*self.peer_has, 1)
