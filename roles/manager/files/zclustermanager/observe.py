# SPDX-License-Identifier: GPL-3.0-or-later
"""One look at this node: asks every part of it, all at once, and decides nothing."""

from __future__ import annotations

import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import (
    activation,
    addresses,
    asking,
    conntrack,
    fence,
    keepalived,
    peer,
    prober,
    processes,
    revision,
    versions,
)
from .settings import STATE_DIR, Cluster
from .status import Links, Observation, Peer, Sync, Tables
from .sync.store import Store

MAINTENANCE = STATE_DIR / "maintenance"


def in_maintenance(path: Path = MAINTENANCE) -> bool:
    """The flag that keepalived tracks: any number but 0 (keepalived.conf(5), track_file)."""
    try:
        return path.read_text(encoding="utf-8").strip() not in ("", "0")
    except OSError:
        return False


def ask_daemon(
    request: dict[str, Any] | None = None, timeout: float = 2.0
) -> dict[str, Any] | None:
    """What the resident daemon knows, the request done; None when it does not answer."""
    return asking.ask(request, timeout)


def look_at_peer(cluster: Cluster) -> Peer:
    """Reach the peer over the cluster link, then ask who it is through the trust of the two.

    An open connection comes first: sshd shuts out for a while who often connects without logging
    in, as a mere look at its port does (sshd_config(5), PerSourcePenalties; since OpenSSH 9.8).
    """
    if peer.connected(cluster):
        with contextlib.suppress(peer.PeerError):
            return _ask_peer(cluster, timeout=2.0)
    if not peer.answers(cluster):
        return Peer(False, why="no answer on the cluster link")
    try:
        return _ask_peer(cluster, timeout=4.0)
    except peer.PeerError as error:
        return Peer(True, trusted=False, why=str(error))


def _ask_peer(cluster: Cluster, timeout: float) -> Peer:
    answer = peer.ask(cluster, "ping", timeout=timeout)
    return Peer(
        True,
        trusted=True,
        master=bool(answer["master"]),
        services=tuple(answer.get("services", ())),
        versions=answer.get("versions", {}),
    )


def _present() -> set[str]:
    try:
        return addresses.present()
    except OSError:
        # Told as missing addresses: red, which it is.
        return set()


def carrier(interface: str) -> bool:
    """Whether the link is up (sysfs-class-net: an interface that is down or not there has none)."""
    try:
        return (
            Path(f"/sys/class/net/{interface}/carrier").read_text(encoding="ascii").strip() == "1"
        )
    except OSError:
        return False


def _guard() -> dict[str, int] | None:
    """What the cluster's firewall table has dropped, by kind; None when it is not there."""
    outcome = processes.run(["nft", "-j", "list", "table", "inet", "zcluster"])
    if not outcome.ok:
        return None
    try:
        ruleset = json.loads(outcome.out)
    except json.JSONDecodeError:
        return {}
    kinds = ("vrrp", "conntrackd", "reports")
    return {kind: fence.counter(ruleset, f"foreign_{kind}") or 0 for kind in kinds}


def _path(daemon: dict[str, Any] | None) -> Links:
    told = (daemon or {}).get("path") or {}
    return Links(told.get("witnesses", {}), tuple(told.get("deaf", ())), str(told.get("out", "")))


def _stale(cluster: Cluster, daemon: dict[str, Any] | None) -> str:
    """Why the settings here are not today's; empty when they are, as far as is known."""
    held = revision.held_back()
    heard = (daemon or {}).get("peer")
    if held or not heard or int(heard["revision"]) <= cluster.revision:
        return held
    return revision.older(cluster, int(heard["revision"])) + ": run zcluster create again"


def _tables(daemon: dict[str, Any] | None) -> Tables:
    heard = (daemon or {}).get("peer")
    return Tables(
        prober.number(prober.COUNT),
        prober.number(prober.ROOM),
        int(heard["room"]) if heard else None,
    )


def _sync(daemon: dict[str, Any] | None) -> Sync:
    generation = Store().generation()
    known = {"id": generation.id, "number": generation.number, "digest": generation.digest[:12]}
    if daemon is None:
        return Sync("unknown", "zclustermanager does not answer", generation=known)
    told = daemon["sync"]
    return Sync(
        told["state"],
        told["why"],
        bool(daemon["sending"]),
        known,
        time.time() - daemon["at"],
        float(told["lag"]),
    )


def _conntrackd(daemon: dict[str, Any] | None) -> conntrack.Conntrackd:
    answers, why = conntrack.look()
    if answers is None:
        return conntrack.Conntrackd(False, None, why)
    if daemon is None:
        return conntrack.probe()
    return conntrack.Conntrackd(True, daemon["conntrackd_linked"])


def _not_ready(daemon: dict[str, Any] | None) -> tuple[str, ...] | None:
    return tuple(daemon["readiness"]["why"]) if daemon else None


def _service_troubles(
    cluster: Cluster, services: list[dict[str, Any]], remote: Peer
) -> dict[str, str]:
    """Services that are not as they should be here; what the peer rejects, both say."""
    found = activation.troubles(services)
    rejected = [s for s in remote.services if s["state"] == activation.State.REJECTED.value]
    for name, words in activation.troubles(rejected).items():
        if found.get(name) != words:
            found[f"{name} on {cluster.peer.hostname}"] = f"{cluster.peer.hostname}: {words}"
    return found


def look(cluster: Cluster) -> Observation:
    """Observe everything, in about the time of the slowest answer."""
    with ThreadPoolExecutor(max_workers=7) as pool:
        daemon = pool.submit(ask_daemon)
        vrrp = pool.submit(keepalived.ask)
        here = pool.submit(_present)
        remote = pool.submit(look_at_peer, cluster)
        guard = pool.submit(_guard)
        counted = pool.submit(conntrack.figures)
        tracked = pool.submit(lambda: _conntrackd(daemon.result()))
        held = frozenset(addresses.held(cluster, here.result()))
        services = activation.report(cluster, master=bool(held))
        return Observation(
            maintenance=in_maintenance(),
            keepalived=vrrp.result(),
            held=held,
            master_addresses=frozenset(here.result() & set(cluster.master_addresses)),
            conntrackd=tracked.result(),
            daemon=daemon.result() is not None,
            guard=guard.result() is not None,
            peer=remote.result(),
            sync=_sync(daemon.result()),
            rejected=_service_troubles(cluster, services, remote.result()),
            services=tuple(services),
            not_ready=_not_ready(daemon.result()),
            path=_path(daemon.result()),
            restarts=(daemon.result() or {}).get("restarts", {}),
            stale=_stale(cluster, daemon.result()),
            peer_silent=float((daemon.result() or {}).get("peer_silent", 0.0)),
            peer_heard=bool((daemon.result() or {}).get("peer")),
            dropped=guard.result() or {},
            tables=_tables(daemon.result()),
            figures=counted.result(),
            waits=str((daemon.result() or {}).get("readiness", {}).get("held", "")),
            no_carrier=tuple(i for i in cluster.track_interfaces if not carrier(i)),
            kernel=conntrack.kernel_settings(),
            versions=versions.installed(),
        )
