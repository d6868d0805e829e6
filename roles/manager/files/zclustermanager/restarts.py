# SPDX-License-Identifier: GPL-3.0-or-later
"""How often systemd had to start the cluster's daemons again: a crash loop is a failure."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from pathlib import Path

from . import conntrack, durable, keepalived, processes
from .settings import RUNTIME_DIR

WATCHED = (keepalived.UNIT, conntrack.UNIT, "zcluster.service")
# The daemon is one of them: what it has seen outlives it.
SAMPLES = RUNTIME_DIR / "restarts.json"
# So many restarts within so many seconds are a loop.
LOOP, PERIOD = 3, 60.0
# Seconds between two looks: each starts a process.
EVERY = 5.0


def parse(text: str) -> dict[str, int]:
    """Restarts by unit, from `systemctl show -p Id,NRestarts` (systemd.service(5), Restart=)."""
    counts: dict[str, int] = {}
    for block in text.split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if values.get("NRestarts", "").isdigit():
            counts[values.get("Id", "")] = int(values["NRestarts"])
    return counts


def look() -> dict[str, int]:
    """How often systemd has restarted each unit by itself."""
    shown = processes.run(["systemctl", "show", "--property=Id,NRestarts", "--", *WATCHED])
    return parse(shown.out)


class Restarts:
    """What the counts were during the last PERIOD seconds."""

    def __init__(self, path: Path = SAMPLES) -> None:
        self._path = path
        self._samples: deque[tuple[float, dict[str, int]]] = deque()
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            for at, counts in durable.read_json(path) or ():
                # The clock (CLOCK_MONOTONIC) is the same for all who run since the boot.
                if at <= time.monotonic():
                    self._samples.append((float(at), {u: int(n) for u, n in counts.items()}))

    def due(self, now: float) -> bool:
        """Whether it is time for a look."""
        return not self._samples or now - self._samples[-1][0] >= EVERY

    def sample(self, now: float, counts: dict[str, int]) -> None:
        """Take a look's result in."""
        self._samples.append((now, counts))
        while self._samples[0][0] < now - PERIOD:
            self._samples.popleft()
        with contextlib.suppress(OSError):  # a full /run costs the memory of one look
            durable.write_json(self._path, list(self._samples))

    def loops(self) -> dict[str, int]:
        """Unit -> restarts of those that are in a crash loop."""
        if not self._samples:
            return {}
        found: dict[str, int] = {}
        for unit, count in self._samples[-1][1].items():
            # A start by hand sets the count back to 0.
            least = min(counts.get(unit, count) for _, counts in self._samples)
            if count - least >= LOOP:
                found[unit] = count - least
        return found
