# SPDX-License-Identifier: GPL-3.0-or-later
"""The node's status: one decision from what was just observed. Nothing here looks at anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import versions
from .conntrack import Conntrackd, Figures
from .keepalived import Keepalived, State
from .settings import Cluster

# Seconds without a report of a peer that is reachable.
REPORTS_SILENT = 5.0
# Seconds after which a peer that answers and is still not in sync is no matter of waiting.
PENDING_LONG = 60.0
# Seconds between adverts below which a busy machine is taken for a dead one without real-time
# priority (as preflight's warning has it).
REALTIME_BELOW = 0.05
ONLINE = {"master": "Node online and active", "backup": "Node online and passive"}


@dataclass(frozen=True)
class Peer:
    """What was seen of the peer just now."""

    reachable: bool
    trusted: bool | None = None
    master: bool | None = None
    why: str = ""
    services: tuple[dict[str, Any], ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sync:
    """Synchronization as the daemon reports it; age in seconds of that report."""

    state: str
    why: str = ""
    sending: bool = False
    generation: dict[str, Any] = field(default_factory=dict)
    age: float | None = None
    lag: float = 0.0


@dataclass(frozen=True)
class Links:
    """What the prober sees: each witness by network, dead networks, why this node is out."""

    witnesses: dict[str, dict[str, str]] = field(default_factory=dict)
    deaf: tuple[str, ...] = ()
    out: str = ""


@dataclass(frozen=True)
class Tables:
    """Tracked connections, and room for them, on this node and (None: not heard) on the peer."""

    here: int = 0
    room: int = 0
    peer_room: int | None = None

    @property
    def fits(self) -> bool:
        """Whether the peer has room for what is tracked here, with a tenth to spare."""
        return not self.peer_room or self.here <= 0.9 * self.peer_room

    @property
    def full(self) -> bool:
        """Whether the kernel drops what is new, and a commit leaves connections out, any moment."""
        return bool(self.room) and self.here >= 0.95 * self.room


@dataclass(frozen=True)
class Observation:
    """One look at the node. not_ready: why not (None: not known); waits: why failback waits.

    no_carrier: the tracked interfaces without one. kernel: what is set otherwise than the guard
    needs it. peer_heard: its reports arrive, over any link. master_addresses: those of
    them that are here.
    """

    maintenance: bool
    keepalived: Keepalived
    held: frozenset[str]
    conntrackd: Conntrackd
    daemon: bool
    guard: bool
    peer: Peer
    sync: Sync
    rejected: dict[str, str]
    not_ready: tuple[str, ...] | None = None
    services: tuple[dict[str, Any], ...] = ()
    path: Links = Links()
    restarts: dict[str, int] = field(default_factory=dict)
    stale: str = ""
    dropped: dict[str, int] = field(default_factory=dict)
    tables: Tables = Tables()
    figures: Figures | None = None
    peer_silent: float = 0.0
    peer_heard: bool = False
    waits: str = ""
    no_carrier: tuple[str, ...] = ()
    master_addresses: frozenset[str] = frozenset()
    kernel: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One probed fact. `service` names it in "Failed services" when it is one of ours."""

    name: str
    ok: bool
    detail: str = ""
    service: bool = False


def role(seen: Observation) -> str:
    """master, backup, maintenance or fault: what keepalived says it is, now."""
    if seen.maintenance:
        return "maintenance"
    state = seen.keepalived.state
    if state is State.MASTER:
        return "master"
    if state is State.BACKUP:
        return "backup"
    return "fault"


def checks(cluster: Cluster, seen: Observation) -> list[Check]:
    """Everything that must be right on a node, in the order in which it is told."""
    mine = role(seen)
    keepalived = seen.keepalived
    vips = [vip.address for vip in cluster.vips]
    present = [address for address in vips if address in seen.held]
    results = [
        Check("keepalived", keepalived.running and not keepalived.why, keepalived.why, True),
        Check("conntrackd", seen.conntrackd.answers, seen.conntrackd.why, True),
        Check("zclustermanager", seen.daemon, "" if seen.daemon else "does not answer", True),
        Check("firewall", seen.guard, "" if seen.guard else "table inet zcluster is missing"),
        Check("revision", not seen.stale, seen.stale),
    ]
    for unit, count in seen.restarts.items():
        results.append(
            Check(f"restarts of {unit}", False, f"{unit} was restarted {count} times in a minute")
        )
    for interface in seen.path.deaf:
        silent = ", ".join(seen.path.witnesses.get(interface, {}))
        results.append(
            Check(f"path {interface}", False, f"no witness answers on {interface} ({silent})")
        )
    results.extend(
        Check(f"link {interface}", False, f"the tracked interface {interface} has no carrier")
        for interface in seen.no_carrier
    )
    results.extend(
        Check("kernel", False, f"connections would be reset at a takeover: {words}")
        for words in seen.kernel
    )
    if seen.tables.full:
        results.append(
            Check(
                "connection table",
                False,
                f"no room for connections: {seen.tables.here} of {seen.tables.room} are tracked",
            )
        )
    if keepalived.running and not keepalived.why and mine == "fault":
        states = ", ".join(f"{i.name} {i.state.name}" for i in keepalived.instances)
        results.append(Check("heartbeat", False, f"heartbeat in fault: {states or 'no instance'}"))
    if mine == "master":
        missing = [address for address in vips if address not in present]
        results.append(
            Check("vips", not missing, f"VIP missing: {', '.join(missing)}" if missing else "")
        )
        gone = [a for a in cluster.master_addresses if a not in seen.master_addresses]
        results.append(
            Check("addresses", not gone, f"address missing: {', '.join(gone)}" if gone else "")
        )
        results.append(
            Check(
                "sender",
                seen.sync.sending or not seen.daemon,
                "" if seen.sync.sending else "the master is not sending",
            )
        )
    else:
        left = sorted(seen.held | seen.master_addresses)
        results.append(Check("vips", not left, f"holds {', '.join(left)}" if left else ""))
    results.extend(_peer_checks(cluster, seen, mine))
    for name, words in seen.rejected.items():
        results.append(Check(f"service {name}", False, words))
    if seen.sync.state in ("failed", "diverged"):
        results.append(Check("sync", False, f"synchronization {seen.sync.state}: {seen.sync.why}"))
    elif seen.sync.state == "pending" and mine == "master" and seen.peer.reachable:
        behind = seen.sync.lag > PENDING_LONG
        detail = f"synchronization pending for {seen.sync.lag:.0f} s: {seen.sync.why}"
        results.append(Check("sync", not behind, detail if behind else ""))
    return results


def _peer_checks(cluster: Cluster, seen: Observation, mine: str) -> list[Check]:
    """What must be right between the nodes, as far as the peer can be asked."""
    results: list[Check] = []
    if seen.peer.reachable:
        trusted = seen.peer.trusted is not False
        results.append(Check("peer", trusted, "" if trusted else f"peer: {seen.peer.why}"))
        results.append(
            Check(
                "conntrackd link",
                seen.conntrackd.linked is not False,
                "" if seen.conntrackd.linked is not False else "connection tracking hears no peer",
            )
        )
        heard = seen.peer_silent <= REPORTS_SILENT
        results.append(
            Check(
                "reports",
                heard,
                ""
                if heard
                else f"no report of {cluster.peer.hostname} arrives (UDP 3781): its "
                "zclustermanager is dead, or a firewall drops them",
            )
        )
        if mine == "master":
            tables = seen.tables
            results.append(
                Check(
                    "connection table",
                    tables.fits,
                    ""
                    if tables.fits
                    else f"{tables.here} connections do not fit on {cluster.peer.hostname}, "
                    f"which has room for {tables.peer_room}",
                )
            )
        if seen.peer.master is not None:
            both = mine == "master" and seen.peer.master
            results.append(Check("split", not both, "both nodes are master" if both else ""))
    elif seen.peer_heard:
        # It lives, so nothing is mirrored although it could be: not what a dead peer is.
        results.append(
            Check(
                "cluster link",
                False,
                f"{cluster.peer.hostname} lives, but does not answer on the cluster link: "
                "neither connections nor configuration are mirrored",
            )
        )
    return results


def decide(cluster: Cluster, seen: Observation) -> dict[str, Any]:
    """The status object of this node (docs: `zcluster nodes`)."""
    mine = role(seen)
    results = checks(cluster, seen)
    bad = [check for check in results if not check.ok]
    services = [check.name for check in bad if check.service]
    others = [check.detail for check in bad if not check.service]
    if bad:
        words = [f"Failed services: {', '.join(services)}"] if services else []
        status, message = "failure", "; ".join(words + others)
    elif mine == "maintenance":
        status, message = "maintenance", "Node in maintenance mode"
    elif seen.sync.state == "paused":
        status, message = "maintenance", f"{ONLINE[mine]}; synchronization {seen.sync.why}"
    else:
        status, message = "ok", ONLINE[mine]
        if not seen.peer.reachable:
            message += f"; {cluster.peer.hostname} is unreachable"
        elif seen.not_ready:
            message += f"; not ready: {', '.join(seen.not_ready)}"
        elif seen.waits:
            message += f"; {seen.waits}"
        elif mine == "backup" and seen.sync.state == "pending":
            message += f"; {seen.sync.why}"
        if seen.sync.state == "in sync" and seen.sync.why:
            message += f"; {seen.sync.why}"
    if starting := [str(told["name"]) for told in seen.services if told["state"] == "starting"]:
        message += f"; starting: {', '.join(starting)}"
    if seen.keepalived.realtime is False and cluster.check_interval < REALTIME_BELOW:
        message += "; keepalived has no real-time priority, which this check interval needs"
    # Shown, not red: that is how it is in the middle of an update.
    if differing := versions.differing(seen.versions, seen.peer.versions):
        message += f"; versions differ: {', '.join(differing)}"
    return {
        "cluster": cluster.name,
        "hostname": cluster.local.hostname,
        "ip": cluster.local.ip,
        "initial_master": cluster.initial_master,
        "role": mine,
        "status": status,
        "message": message,
        "sync": seen.sync.state,
        "sync_message": seen.sync.why,
        "vips_expected": [vip.address for vip in cluster.vips] if mine == "master" else [],
        "vips_held": [vip.address for vip in cluster.vips if vip.address in seen.held],
        "checks": [
            {"name": check.name, "ok": check.ok, "detail": check.detail} for check in results
        ],
        "peer": {
            "hostname": cluster.peer.hostname,
            "ip": cluster.peer.ip,
            "reachable": seen.peer.reachable,
            "trusted": seen.peer.trusted,
            "master": seen.peer.master,
            "services": list(seen.peer.services),
        },
        "services": list(seen.services),
        "path": {
            "witnesses": seen.path.witnesses,
            "dead": list(seen.path.deaf),
            "out": seen.path.out,
        },
        "dropped": seen.dropped,
        "realtime": seen.keepalived.realtime,
        "connections": {
            **(vars(seen.figures) if seen.figures else {}),
            "room": seen.tables.room,
            "room_on_peer": seen.tables.peer_room,
        },
        "generation": seen.sync.generation,
        "revision": cluster.revision,
        "versions": dict(seen.versions),
        "failback": cluster.failback,
        "ready": None if seen.not_ready is None else not seen.not_ready,
        "not_ready": list(seen.not_ready or ()),
    }


def not_configured(hostname: str) -> dict[str, Any]:
    """The status object of a node that is in no cluster."""
    return {
        "cluster": "",
        "hostname": hostname,
        "ip": "",
        "role": "not configured",
        "status": "not configured",
        "message": "Cluster not configured",
        "sync": "",
        "vips_expected": [],
        "vips_held": [],
        "checks": [],
    }
