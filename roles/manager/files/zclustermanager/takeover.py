# SPDX-License-Identifier: GPL-3.0-or-later
"""Planned changes of who serves: what must be true before, and how they are seen through."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from . import addresses, conntrack, observe, peer, readiness, status
from .settings import Cluster

# Seconds to wait until the peer has everything; and until it has taken over.
CATCH_UP = 30.0
TAKE_OVER = 10.0
PAUSE = 0.2
# What does not pass by waiting: refused at once.
FINAL = ("cannot be asked", "in maintenance", "zclustermanager here", "paused", "diverged")
WAYS = {"paused": " (zcluster sync resume)", "diverged": " (zcluster sync resolve)"}


class RefusedError(Exception):
    """A planned action that is not done; the text says why, and what to do."""


def obstacles(node: dict[str, Any], not_ready: tuple[str, ...]) -> list[str]:
    """Why a node could not take over, from its status object and its readiness."""
    if node["role"] == "maintenance":
        return [f"{node['hostname']} is in maintenance"]
    found = list(not_ready)
    if node["status"] == "failure":
        found.insert(0, str(node["message"]))
    elif node["role"] != "backup":
        found.insert(0, f"it is {node['role']}")
    return [f"{node['hostname']}: {reason}" for reason in dict.fromkeys(found)]


def prepare(cluster: Cluster) -> dict[str, Any]:
    """Answer of the node that is to take over: it commits what it heard, and says what it lacks."""
    conntrack.commit(10.0)
    node = status.decide(cluster, observe.look(cluster))
    return {"obstacles": obstacles(node, readiness.reasons(readiness.look(cluster)))}


def in_the_way(cluster: Cluster) -> list[str]:
    """Why the peer of this master could not take over now, without a loss."""
    daemon = observe.ask_daemon()
    if daemon is None:
        return ["zclustermanager here does not answer: what the peer has is not known"]
    found = []
    if (state := daemon["sync"]["state"]) != "in sync":
        way = WAYS.get(state, "")
        found.append(f"synchronization {state}: {daemon['sync']['why']}{way}")
    try:
        answer = peer.ask(cluster, "prepare", timeout=20.0)
    except peer.PeerError as error:
        return [*found, f"{cluster.peer.hostname} cannot be asked ({error})"]
    return [*found, *answer["obstacles"]]


def passes(reason: str) -> bool:
    """Whether waiting may help."""
    return not any(words in reason for words in FINAL)


def wait_until(met: Callable[[], bool], seconds: float) -> bool:
    """Wait for a condition, at most so long; whether it was met."""
    deadline = time.monotonic() + seconds
    while not met():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)
    return True


def wait_clear(cluster: Cluster, what: str, ways_out: str) -> None:
    """Wait until the peer could take over without a loss, or has; RefusedError: what it lacks."""
    deadline = time.monotonic() + CATCH_UP
    while (found := in_the_way(cluster)) and serves(cluster):
        if not all(passes(reason) for reason in found) or time.monotonic() > deadline:
            raise RefusedError(f"{what}: {'; '.join(found)}. {ways_out}")
        time.sleep(PAUSE)


def serves(cluster: Cluster) -> bool:
    """Whether this node holds an address of the cluster."""
    return bool(addresses.held(cluster))


def peer_serves(cluster: Cluster) -> bool:
    """Whether the peer says that it is master."""
    told = readiness.ask_peer(cluster)
    return told is not None and told.master
