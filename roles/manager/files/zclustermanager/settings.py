# SPDX-License-Identifier: GPL-3.0-or-later
"""The cluster's settings: /etc/zcluster/cluster.json, parsed once into types."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

SETTINGS_FILE = Path("/etc/zcluster/cluster.json")
STATE_DIR = Path("/var/lib/zcluster")
RUNTIME_DIR = Path("/run/zcluster")
# Where Debian's prometheus-node-exporter looks (its textfile collector).
METRICS_DIR = "/var/lib/prometheus/node-exporter"


class SettingsError(ValueError):
    """The settings file exists but cannot be used; the text names the field."""


@dataclass(frozen=True)
class Node:
    """One of the two nodes. called: its name in the inventory, which the verbs take."""

    hostname: str
    ip: str
    interface: str
    priority: int
    called: str


@dataclass(frozen=True)
class Network:
    """A network on which the nodes advertise (one VRRP instance, RFC 5798)."""

    interface: str
    vrid: int
    lead: str
    kind: str
    addresses: dict[str, str]


@dataclass(frozen=True)
class Vip:
    """A virtual IP: the address the clients know."""

    address: str
    prefix: int
    interface: str

    @property
    def family(self) -> int:
        """4 or 6."""
        return ipaddress.ip_address(self.address).version


@dataclass(frozen=True)
class Service:
    """A managed service (README, "Services"). Times are in seconds.

    standby: hot (runs on both nodes) or cold (started on promotion). on_change: reload, restart,
    command or nothing. A service without a unit is what its command does.
    """

    name: str
    unit: str = ""
    paths: tuple[str, ...] = ()
    validate: str | None = None
    standby: str = "hot"
    on_change: str = "reload"
    command: str | None = None
    on_promotion: str | None = None
    check: str | None = None
    after: tuple[str, ...] = ()
    critical: bool = False
    auto_apply: bool = False
    validate_seconds: float = 30.0
    change_seconds: float = 30.0
    start_seconds: float = 30.0
    stop_seconds: float = 30.0

    @property
    def cold(self) -> bool:
        """True for one that runs on the master only."""
        return self.standby == "cold"

    @property
    def heartbeat(self) -> bool:
        """True for keepalived itself: it is told of new files, never started or stopped here."""
        return self.unit == "keepalived.service"


@dataclass(frozen=True)
class Keep:
    """How much stays of what synchronization overwrote or removed: so many times, so many bytes."""

    count: int = 200
    bytes: int = 1 << 30


KEEP = Keep()


@dataclass(frozen=True)
class Cluster:
    """All settings of the cluster, as both nodes have them, and who is local."""

    name: str
    revision: int
    initial_master: str
    local: Node
    peer: Node
    networks: tuple[Network, ...]
    vips: tuple[Vip, ...]
    check_interval: float
    missed_adverts: int
    failback: str
    witnesses: tuple[str, ...]
    sync_paths: tuple[str, ...]
    sync_excludes: tuple[str, ...]
    services: tuple[Service, ...]
    preempt_delay: float = 0.0
    metrics_dir: str = METRICS_DIR
    track_interfaces: tuple[str, ...] = ()
    # Beside the virtual IPs, which the clients know: what else is on the master only.
    master_addresses: tuple[str, ...] = ()
    sync_keep: Keep = KEEP


def parse(data: dict[str, Any]) -> Cluster:
    """Turn the declared settings into a Cluster; SettingsError names the missing field."""
    try:
        nodes = {
            n["hostname"]: Node(
                n["hostname"],
                n["ip"],
                n["interface"],
                int(n["priority"]),
                str(n.get("inventory_hostname", n["hostname"])),
            )
            for n in data["nodes"]
        }
        local = nodes.pop(data["local"])
        (peer,) = nodes.values()
        return Cluster(
            name=data["name"],
            revision=int(data["revision"]),
            initial_master=data["initial_master"],
            local=local,
            peer=peer,
            networks=tuple(
                Network(n["interface"], int(n["vrid"]), n["lead"], n["kind"], dict(n["addresses"]))
                for n in data["networks"]
            ),
            vips=tuple(Vip(v["address"], int(v["prefix"]), v["interface"]) for v in data["vips"]),
            check_interval=float(data["check_interval"]),
            missed_adverts=int(data["missed_adverts"]),
            failback=data["failback"],
            witnesses=tuple(data["witnesses"]),
            sync_paths=tuple(data["sync"]["paths"]),
            sync_excludes=tuple(data["sync"]["excludes"]),
            services=tuple(_service(s) for s in data["services"]),
            preempt_delay=float(data.get("preempt_delay", 0)),
            metrics_dir=data.get("metrics_dir", METRICS_DIR),
            track_interfaces=tuple(data.get("track_interfaces", ())),
            master_addresses=tuple(
                str(ipaddress.ip_interface(entry["words"].split()[0]).ip)
                for entry in data.get("master_only", {}).get("addresses", ())
            ),
            sync_keep=Keep(**data["sync"].get("keep", {})),
        )
    except KeyError as error:
        raise SettingsError(f"{SETTINGS_FILE}: field {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{SETTINGS_FILE}: {error}") from error


def _service(declared: dict[str, Any]) -> Service:
    """One service; the controller has filled in all that has a default, and put them in order."""
    known = {field.name for field in fields(Service)}
    values = {key: value for key, value in declared.items() if key in known}
    for key in ("paths", "after"):
        values[key] = tuple(values.get(key, ()))
    return Service(**values)


def load(path: Path = SETTINGS_FILE) -> Cluster | None:
    """Read the settings; None when this node is in no cluster."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return parse(json.loads(text))
    except json.JSONDecodeError as error:
        raise SettingsError(f"{path}: not JSON: {error}") from error
