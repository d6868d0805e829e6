# SPDX-License-Identifier: GPL-3.0-or-later
"""The fence against a keepalived that lives but does not run: its addresses must not stay.

A stopped process (SIGSTOP) reaches none of systemd's stop hooks, and both nodes would answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from . import journal, keepalived, processes

INTERVALS = 3
# A window shorter than this could not tell a busy machine from a stopped process.
SHORTEST = 0.2
# Between two looks longer than this the whole node did not run: it counts from its resume.
ABSENCE = 1.0


class Fence:
    """Whether to end keepalived; looks again and again, all times monotonic, in seconds."""

    def __init__(self, check_interval: float) -> None:
        self.window = max(INTERVALS * check_interval, SHORTEST)
        self._since: float | None = None
        self._looked = 0.0
        self._sent = 0

    @property
    def watching(self) -> bool:
        """Both nodes say that they serve: look again soon."""
        return self._since is not None

    def step(
        self, now: float, *, serving: bool, peer_serves: bool, sent: Callable[[], int | None]
    ) -> bool:
        """True when this node serves, its peer too, and no advert of ours left for the window.

        `sent` counts the adverts that left; it is asked only while both serve. None: not known.
        """
        if not (serving and peer_serves):
            self._since = None
            return False
        count = sent()
        if count is None:
            self._since = None
            return False
        absent = now - self._looked > ABSENCE
        if self._since is None or absent or count != self._sent:
            self._since, self._sent = now, count
        self._looked = now
        if now - self._since < self.window:
            return False
        self._since = None
        return True


def counter(ruleset: dict[str, Any], name: str) -> int | None:
    """The packets of a named counter in nftables' JSON; None when it is not there."""
    for entry in ruleset.get("nftables", []):
        found = entry.get("counter")
        if found and found.get("name") == name:
            return int(found["packets"])
    return None


def adverts_sent() -> int | None:
    """How many adverts left this node, by the cluster's own firewall table."""
    outcome = processes.run(["nft", "-j", "list", "counter", "inet", "zcluster", "adverts"])
    if not outcome.ok:
        return None
    try:
        return counter(json.loads(outcome.out), "adverts")
    except json.JSONDecodeError:
        return None


def end_keepalived() -> None:
    """Kill all of it: systemd's hooks then take its addresses away and start it anew."""
    journal.record("fence", why="keepalived lives, but sends no advert while the peer serves")
    processes.run(
        ["systemctl", "kill", "--kill-whom=all", "--signal=SIGKILL", keepalived.UNIT], timeout=10.0
    )
