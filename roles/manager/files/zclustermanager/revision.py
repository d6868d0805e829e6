# SPDX-License-Identifier: GPL-3.0-or-later
"""A node that boots asks its peer first: never serve by older settings while the peer has newer.

An old list of virtual IPs would make both nodes master of what the newer one moved.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from . import durable, journal, keepalived, peer, processes
from .settings import RUNTIME_DIR, Cluster

# Why keepalived is kept down; there while it is.
STALE = RUNTIME_DIR / "stale-revision"
# A peer that is up has answered by then; without one, this is how much later a node serves.
WAIT = 4.0
UNIT = "zcluster-boot.service"
# Seconds between two looks whether it failed: each starts a process.
LOOK_EVERY = 5.0


def refusal(cluster: Cluster, theirs: int | None) -> str:
    """Why keepalived must not start; empty if it may. `theirs` is None when nobody answers."""
    if theirs is None or theirs <= cluster.revision:
        return ""
    return f"{older(cluster, theirs)}: keepalived is kept down; run zcluster create again"


def older(cluster: Cluster, theirs: int) -> str:
    """In words: that the peer has newer settings."""
    return f"settings are revision {cluster.revision}, {cluster.peer.hostname} has {theirs}"


def of_peer(cluster: Cluster, wait: float = WAIT) -> int | None:
    """The peer's revision; None when it does not answer within `wait` seconds."""
    deadline = time.monotonic() + wait
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        if peer.answers(cluster, timeout=min(left, 1.0)):
            with contextlib.suppress(peer.PeerError, KeyError, TypeError, ValueError):
                return int(peer.ask(cluster, "ping", timeout=max(left, 1.0))["revision"])
        time.sleep(min(0.2, max(deadline - time.monotonic(), 0.0)))


def gate(cluster: Cluster) -> str:
    """Ask, and note the answer; why keepalived must not start now, or empty."""
    why = refusal(cluster, of_peer(cluster))
    if why:
        durable.write(STALE, why.encode() + b"\n")
        journal.record("stale-revision", why=why)
    else:
        STALE.unlink(missing_ok=True)
    return why


def held_back(path: Path = STALE) -> str:
    """Why keepalived is kept down; empty if it is not."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def unasked() -> bool:
    """Whether keepalived is down because the question itself failed, as where a boot takes long.

    systemd gives up what depends on it. A keepalived that is not enabled is meant to be down.
    """
    return (
        processes.run(["systemctl", "is-failed", "--quiet", UNIT]).ok
        and processes.run(["systemctl", "is-enabled", "--quiet", keepalived.UNIT]).ok
    )


def release() -> None:
    """Start keepalived after all, when nobody has newer settings any more; the gate asks again."""
    STALE.unlink(missing_ok=True)
    journal.record("stale-revision-released")
    processes.run(["systemctl", "start", "--no-block", keepalived.UNIT])
