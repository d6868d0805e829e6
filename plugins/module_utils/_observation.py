# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""What preflight saw on one node: the records that travel from the node to the judge."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.zcluster.ha.plugins.module_utils._interfaces import Interface
from ansible_collections.zcluster.ha.plugins.module_utils._wire import Advert


@dataclass(frozen=True)
class System:
    """The machine and what runs on it."""

    hostname: str
    fqdn: str = ""
    os_id: str = ""
    os_version: str = ""
    python: str = ""
    kernel: str = ""
    boot_id: str = ""
    root: bool = False
    systemd: bool = False
    container: str = ""


@dataclass(frozen=True)
class Clock:
    """Seconds since the epoch: the controller's when it asked, the node's at start and end."""

    controller: t.Optional[float]
    start: float
    end: float


@dataclass(frozen=True)
class Package:
    """A Debian package: the version installed and the one apt would install."""

    installed: t.Optional[str] = None
    candidate: t.Optional[str] = None


@dataclass(frozen=True)
class Sshd:
    """Effective settings of sshd (sshd -T) for a login of user zcluster from the peer."""

    present: bool = False
    ports: t.Tuple[int, ...] = ()
    listen: t.Tuple[str, ...] = ()
    permitrootlogin: str = ""
    passwordauthentication: str = ""
    pubkeyauthentication: str = ""
    allowusers: t.Tuple[str, ...] = ()
    allowgroups: t.Tuple[str, ...] = ()
    denyusers: t.Tuple[str, ...] = ()
    authorizedkeysfile: t.Tuple[str, ...] = ()
    host_key: bool = True
    error: str = ""


@dataclass(frozen=True)
class Disk:
    """Room on the file system that holds a path."""

    path: str
    device: int
    free_bytes: int
    free_inodes: int
    inodes: int


@dataclass(frozen=True)
class Inotify:
    """Limits of inotify(7)."""

    max_user_watches: int
    max_user_instances: int
    max_queued_events: int


@dataclass(frozen=True)
class Realtime:
    """Whether daemons of this machine may run before all others, and stay in memory."""

    scheduling: bool = True
    capabilities: t.Tuple[str, ...] = ("sys_nice", "ipc_lock", "sys_resource")


@dataclass(frozen=True)
class TreeFile:
    """A file that no package ships as it is: its own content would be lost if it were replaced."""

    path: str
    digest: str
    origin: str  # "local": of no package; "modified": a package's, edited


@dataclass(frozen=True)
class Tree:
    """A path to synchronize."""

    path: str
    kind: str  # missing, directory, file, symlink, other
    entries: int = 0
    directories: int = 0
    bytes: int = 0
    digest: str = ""
    owners: t.Tuple[str, ...] = ()
    groups: t.Tuple[str, ...] = ()
    files: t.Tuple[TreeFile, ...] = ()
    truncated: str = ""
    target: str = ""
    mount_point: bool = False


@dataclass(frozen=True)
class AddressAnswer:
    """Who has an address: this node, or who answers for it on the wire."""

    address: str
    on_interface: str = ""
    asked_on: str = ""
    answered_by: t.Tuple[str, ...] = ()


@dataclass(frozen=True)
class Peer:
    """How the other node looked from here."""

    ip: str
    ping: bool = False
    answered_by: t.Tuple[str, ...] = ()


@dataclass(frozen=True)
class Unit:
    """A systemd unit (systemctl show)."""

    name: str
    load: str = ""
    active: str = ""
    enabled: str = ""


@dataclass(frozen=True)
class Port:
    """A listening socket (ss)."""

    protocol: str
    address: str
    port: int
    process: str = ""


@dataclass(frozen=True)
class Firewall:
    """The packet filter: nftables' JSON, cut down to what decides; and iptables-legacy."""

    nft: bool = False
    objects: t.Tuple[t.Any, ...] = ()
    legacy: t.Tuple[str, ...] = ()


@dataclass(frozen=True)
class Observation:
    """Everything that one look at a node gave."""

    system: System
    clock: Clock
    interfaces: t.Tuple[Interface, ...] = ()
    gateways: t.Tuple[str, ...] = ()
    packages: t.Dict[str, Package] = field(default_factory=dict)
    zcluster: t.Optional[str] = None
    cluster: t.Optional[t.Dict[str, t.Any]] = None
    sshd: Sshd = Sshd()
    disks: t.Tuple[Disk, ...] = ()
    inotify: t.Optional[Inotify] = None
    realtime: Realtime = Realtime()
    trees: t.Tuple[Tree, ...] = ()
    users: t.Tuple[str, ...] = ()
    groups: t.Tuple[str, ...] = ()
    peer_home: str = ""
    firewall: Firewall = Firewall()
    ports: t.Tuple[Port, ...] = ()
    peer: t.Optional[Peer] = None
    addresses: t.Tuple[AddressAnswer, ...] = ()
    adverts: t.Tuple[Advert, ...] = ()
    listened: float = 0.0
    units: t.Tuple[Unit, ...] = ()
    missing_programs: t.Tuple[str, ...] = ()
    foreign_configs: t.Tuple[str, ...] = ()
    errors: t.Dict[str, str] = field(default_factory=dict)
