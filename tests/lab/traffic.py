# SPDX-License-Identifier: GPL-3.0-or-later
# Live client traffic around a fault, and what the client noticed of it.
from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from zcluster_lab import Lab

READY = "/tmp/traffic-ready"
PROGRAM = ("python3", "/usr/local/bin/zcluster_traffic.py", "run")


@dataclass
class Noticed:
    """What the client reports, once the traffic has ended."""

    report: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        """A figure of the report."""
        try:
            return self.report[name]
        except KeyError as error:
            raise AttributeError(name) from error


@contextlib.contextmanager
def traffic(lab: Lab, *arguments: str, connections: int = 100) -> Iterator[Noticed]:
    """UDP and established TCP through the service while the block runs; the report is there after.

    The block begins when all connections are open and 200 ms old, the age from which the promise
    of a failover holds.
    """
    lab.exec("client", "rm", "-f", READY)
    process = lab.start_process(
        "client",
        *PROGRAM,
        *(
            "--vip",
            lab.settings.address("front", 100),
            "--connections",
            str(connections),
            # An end only for traffic whose test was killed.
            "--seconds",
            "1200",
            "--ready-file",
            READY,
        ),
        *arguments,
    )
    noticed = Noticed()
    try:
        while process.poll() is None:
            if not lab.exec("client", "test", "-s", READY, check=False).returncode:
                break
            time.sleep(0.05)
        time.sleep(0.5)
        yield noticed
        time.sleep(1.0)
        assert process.poll() is None, "the traffic ended before what it was to see"
    finally:
        # It waits for connections that hang, and on a busy machine for itself.
        said = lab.stop_process(process, timeout=120)
        noticed.report = json.loads(said or "{}")
    assert noticed.report, "the client reported nothing"
