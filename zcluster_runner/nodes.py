# SPDX-License-Identifier: GPL-3.0-or-later
"""The rows of the nodes table: what nodes reported, and grey rows for those that could not."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping
from typing import Any

from zcluster_runner.events import Fold
from zcluster_runner.inventory import Inventory
from zcluster_runner.result import Health, NodeStatus

NODE_UNREACHABLE = "Node unreachable"


def word(value: object) -> str:
    """Return a cell's text; a structure shows its state."""
    if isinstance(value, Mapping):
        value = value.get("state", "")
    return "" if value is None else str(value)


def local_of(hostnames: Collection[str], initial_master: str) -> str:
    """Return the hostname of the local node: this machine if it is one, else the first master."""
    here = socket.gethostname().partition(".")[0]
    return here if here in hostnames else initial_master


def reported(host: str, said: Mapping[str, Any]) -> NodeStatus:
    """Return the row of a node that answered."""
    health = Health.of(said.get("status"))
    side = word(said.get("node"))
    if not side and said.get("initial_master") and said.get("hostname"):
        peer = said.get("peer")
        names = {said["hostname"], peer.get("hostname") if isinstance(peer, Mapping) else None}
        local = local_of(names - {None}, str(said["initial_master"]))
        side = "local" if said["hostname"] == local else "remote"
    return NodeStatus(
        host=host,
        cluster=word(said.get("cluster")),
        node=side,
        role=word(said.get("role")),
        ip=word(said.get("ip")),
        hostname=word(said.get("hostname")) or host,
        health=health,
        status=word(said.get("status")) or health.word,
        sync=word(said.get("sync")),
        message=word(said.get("message")),
        details=dict(said),
    )


def silent(host: str, health: Health, message: str) -> NodeStatus:
    """Return the grey row of a node that did not answer."""
    return NodeStatus(
        host=host,
        cluster="",
        node="",
        role=health.word,
        ip="",
        hostname=host,
        health=health,
        status=health.word,
        sync="",
        message=message,
    )


def rows(fold: Fold, read_inventory: Callable[[], Inventory]) -> tuple[NodeStatus, ...]:
    """Return all rows, local before remote, clusters by name.

    The inventory is read (most of a second) only when a row lacks what a node would have said.
    """
    found = {
        host: reported(host, said)
        for host, said in fold.reports.get("node", {}).items()
        if isinstance(said, Mapping)
    }
    for host, why in fold.unreachable.items():
        found.setdefault(
            host, silent(host, Health.UNREACHABLE, f"{NODE_UNREACHABLE}: {first_line(why)}")
        )
    for failure in fold.unrescued():
        if failure.host and failure.host not in found:
            message = f"Status not known: {first_line(failure.message)}"
            found[failure.host] = silent(failure.host, Health.UNKNOWN, message)
    if not found:
        return ()
    complete = all(row.cluster and row.node for row in found.values())
    whole = found.values() if complete else completed(found, read_inventory())
    return tuple(sorted(whole, key=lambda row: (row.cluster, row.node)))


def first_line(text: str) -> str:
    """Return the first line of a message: a cell has room for one."""
    return text.strip().partition("\n")[0]


def completed(found: Mapping[str, NodeStatus], inventory: Inventory) -> list[NodeStatus]:
    """Return the rows with cluster, address, local/remote from the inventory."""
    from dataclasses import replace

    whole: list[NodeStatus] = []
    known = {row.cluster for row in found.values() if row.node == "local"}
    for name, row in found.items():
        host = inventory.host(name)
        cluster = row.cluster or (host.cluster if host else "")
        local = inventory.local(cluster)
        side = "local" if local and local.name == name and cluster not in known else "remote"
        whole.append(
            replace(
                row,
                cluster=cluster,
                ip=row.ip or (host.ip if host else ""),
                node=row.node or side,
            )
        )
    return whole
