# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers of the daemon that take a look at the node: given by threads, never by its loop."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from typing import Any

from . import observe, receive, status
from .settings import RUNTIME_DIR, Cluster, SettingsError, load

# Read by nobody, so that nothing can be asked of it: who connects is told that this node is here.
PING_SOCKET = RUNTIME_DIR / "ping.sock"
# Answers of one kind that are worked on at a time.
MOST = 2
# Sent at once: the daemon lives, the answer follows.
LIVES = b"\n"


class Answers:
    """Gives one kind of answer, made anew for each who asks."""

    def __init__(self, make: Callable[[Cluster], dict[str, Any]]) -> None:
        self._make = make
        self._free = threading.BoundedSemaphore(MOST)

    def give(self, link: socket.socket) -> None:
        """Answer on `link`, in a thread; close it if too many are at work: who asks looks then."""
        if not self._free.acquire(blocking=False):
            link.close()
            return
        threading.Thread(target=self._give, args=(link,), name="answers", daemon=True).start()

    def _give(self, link: socket.socket) -> None:
        try:
            with link, contextlib.suppress(OSError, SettingsError):
                link.settimeout(1.0)
                link.sendall(LIVES)
                # As they are now: the daemon may be about to be restarted for new ones.
                cluster = load()
                if cluster is not None:
                    link.sendall(json.dumps(self._make(cluster)).encode() + b"\n")
        finally:
            self._free.release()


def statuses() -> Answers:
    """Answers how this node is, probed for each who asks."""
    return Answers(lambda cluster: {"status": status.decide(cluster, observe.look(cluster))})


def pings() -> Answers:
    """Answers the peer that this node is here, and what it believes it is."""
    return Answers(lambda cluster: receive.ping(receive.Gate(cluster), "", None))
