# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""Looks at a node for preflight: one probe per subject, all at once, nothing is written."""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ansible_collections.zcluster.ha.plugins.module_utils import (
    _interfaces,
    _observation,
    _ruleset,
    _sync_paths,
    _tree,
    _wire,
)

CLUSTER_FILE = "/etc/zcluster/cluster.json"
PROGRAM_FILE = "/usr/lib/zcluster/zclustermanager/__init__.py"
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
PACKAGES = ("keepalived", "conntrackd", "rsync", "nftables")
HA_UNITS = (
    "keepalived.service", "conntrackd.service", "corosync.service", "pacemaker.service",
    "heartbeat.service", "ucarp.service", "vrrpd.service",
)  # fmt: skip
HA_CONFIGS = ("/etc/keepalived/keepalived.conf", "/etc/conntrackd/conntrackd.conf")

Run = t.Callable[[t.Sequence[str]], t.Tuple[int, str, str]]
Read = t.Callable[[str], t.Optional[str]]


@dataclass(frozen=True)
class Node:
    """The way to the node: commands and files."""

    run: Run
    read: Read


@dataclass(frozen=True)
class Question:
    """What is asked of the node."""

    cluster_name: str = ""
    local_ip: str = ""
    peer_ip: str = ""
    vips: t.Tuple[t.Tuple[str, str], ...] = ()  # address, interface or ""
    vrid: t.Optional[int] = None
    listen_seconds: float = 3.5
    listen_unchanged: bool = True
    sync_paths: t.Tuple[str, ...] = ()
    sync_excludes: t.Tuple[str, ...] = ()
    units: t.Tuple[str, ...] = ()
    programs: t.Tuple[str, ...] = ()
    controller_time: t.Optional[float] = None


def observe(node: Node, question: Question) -> _observation.Observation:
    """Everything preflight wants to know of this node."""
    start = time.time()
    errors: t.Dict[str, str] = {}
    cluster = _attempt(errors, "cluster", lambda: cluster_file(node.read), None)
    interfaces = _attempt(
        errors,
        "interfaces",
        lambda: look_at_interfaces(node, cluster, tuple(vip[0] for vip in question.vips)),
        (),
    )
    context = _Context(node, question, interfaces, cluster)
    with ThreadPoolExecutor(max_workers=len(PROBES)) as pool:
        started = {name: pool.submit(probe, context) for name, probe in PROBES.items()}
        found: t.Dict[str, t.Any] = {}
        for name, future in started.items():
            try:
                found[name] = future.result()
            except (OSError, ValueError, KeyError, IndexError) as error:
                errors[name] = str(error)
    return _observation.Observation(
        interfaces=interfaces,
        cluster=cluster,
        clock=_observation.Clock(question.controller_time, start, time.time()),
        listened=context.listening,
        errors=errors,
        **found,
    )


def cluster_file(read: Read) -> t.Optional[t.Dict[str, t.Any]]:
    """The settings of the cluster this node is in."""
    text = read(CLUSTER_FILE)
    if text is None:
        return None
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{CLUSTER_FILE}: not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{CLUSTER_FILE}: not a JSON object")
    return data


def container(node: Node) -> str:
    """The kind of container this node is; empty on a machine."""
    marked = (node.read("/run/systemd/container") or "").strip()
    if marked:
        return marked
    for entry in (node.read("/proc/1/environ") or "").split("\0"):
        if entry.startswith("container="):
            return entry.partition("=")[2] or "container"
    rc, out, _err = node.run(["systemd-detect-virt", "--container"])
    return out.strip() if rc == 0 else ""


def look_at_interfaces(
    node: Node, cluster: t.Optional[t.Mapping[str, t.Any]], vips: t.Sequence[str] = ()
) -> t.Tuple[_interfaces.Interface, ...]:
    """All interfaces; the virtual IPs of the cluster that is there count as virtual."""
    rc, out, err = node.run(["ip", "-json", "-details", "address"])
    if rc != 0:
        raise ValueError(f"ip address: {err.strip() or rc}")
    known = {str(vip.get("address")) for vip in (cluster or {}).get("vips", [])}
    known |= {str(network.get("lead")) for network in (cluster or {}).get("networks", [])}
    return _interfaces.parse(json.loads(out or "[]"), bool(container(node)), known | set(vips))


def speed(read: Read, interface: str) -> t.Optional[int]:
    """Speed of an interface in Mbit/s; None when the kernel does not know."""
    text = (read(f"/sys/class/net/{interface}/speed") or "").strip()
    return int(text) if text.isdigit() else None


@dataclass(frozen=True)
class _Context:
    node: Node
    question: Question
    interfaces: t.Tuple[_interfaces.Interface, ...]
    cluster: t.Optional[t.Dict[str, t.Any]]

    @property
    def listening(self) -> float:
        """Seconds to listen: none when the cluster is there and keeps its VRID and VIPs."""
        if self.question.listen_unchanged or not self.cluster:
            return self.question.listen_seconds
        networks = self.cluster.get("networks") or [{}]
        same = (
            self.cluster.get("name") == self.question.cluster_name
            and self.question.vrid in (None, networks[0].get("vrid"))
            and {vip.get("address") for vip in self.cluster.get("vips", [])}
            == {vip[0] for vip in self.question.vips}
        )
        return 0.0 if same else self.question.listen_seconds


def _attempt(
    errors: t.Dict[str, str], name: str, probe: t.Callable[[], t.Any], default: t.Any
) -> t.Any:
    try:
        return probe()
    except (OSError, ValueError) as error:
        errors[name] = str(error)
        return default


def _system(context: _Context) -> _observation.System:
    node = context.node
    release = _assignments(node.read("/etc/os-release") or "")
    return _observation.System(
        hostname=socket.gethostname(),
        fqdn=socket.getfqdn(),
        os_id=release.get("ID", ""),
        os_version=release.get("VERSION_ID", ""),
        python=platform.python_version(),
        kernel=platform.release(),
        boot_id=(node.read("/proc/sys/kernel/random/boot_id") or "").strip(),
        root=os.geteuid() == 0,
        systemd=os.path.isdir("/run/systemd/system"),
        container=container(node),
    )


def _gateways(context: _Context) -> t.Tuple[str, ...]:
    found: t.List[str] = []
    for family in ("-4", "-6"):
        _rc, out, _err = context.node.run(["ip", "-json", family, "route", "show", "default"])
        found += [route["gateway"] for route in json.loads(out or "[]") if "gateway" in route]
    return tuple(found)


def _packages(context: _Context) -> t.Dict[str, _observation.Package]:
    installed: t.Dict[str, str] = {}
    form = "${Package} ${db:Status-Status} ${Version}\n"
    _rc, out, _err = context.node.run(["dpkg-query", "-W", "-f", form, *PACKAGES])
    for line in out.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] == "installed":
            installed[words[0]] = words[2]
    candidates: t.Dict[str, str] = {}
    name = ""
    _rc, out, _err = context.node.run(["apt-cache", "policy", *PACKAGES])
    for line in out.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            name = line[:-1]
        elif line.strip().startswith("Candidate:"):
            candidates[name] = line.partition(":")[2].strip()
    return {
        package: _observation.Package(
            installed.get(package),
            None if candidates.get(package) in (None, "(none)") else candidates[package],
        )
        for package in PACKAGES
    }


def _zcluster(context: _Context) -> t.Optional[str]:
    found = re.search(r'^__version__ = "([^"]+)"', context.node.read(PROGRAM_FILE) or "", re.M)
    return found.group(1) if found else None


def _sshd(context: _Context) -> _observation.Sshd:
    peer = context.question.peer_ip or "127.0.0.1"
    login = f"user=zcluster,host={peer},addr={peer}"
    # sshd wants to be called by its full path.
    rc, out, err = context.node.run(["/usr/sbin/sshd", "-T", "-C", login])
    if rc == 127:
        return _observation.Sshd()
    return parse_sshd(out, err, bool(context.node.read(HOST_KEY)))


def parse_sshd(out: str, err: str, host_key: bool) -> _observation.Sshd:
    """The settings in the output of sshd -T, and whether there is an ed25519 host key."""
    if not out:
        return _observation.Sshd(present=True, error=err.strip())
    values: t.Dict[str, t.List[str]] = {}
    for line in out.splitlines():
        key, _space, value = line.partition(" ")
        values.setdefault(key.lower(), []).append(value)

    def words(key: str) -> t.Tuple[str, ...]:
        return tuple(word for value in values.get(key, []) for word in value.split())

    return _observation.Sshd(
        present=True,
        ports=tuple(int(port) for port in words("port")),
        listen=words("listenaddress"),
        permitrootlogin=" ".join(words("permitrootlogin")),
        passwordauthentication=" ".join(words("passwordauthentication")),
        pubkeyauthentication=" ".join(words("pubkeyauthentication")),
        allowusers=words("allowusers"),
        allowgroups=words("allowgroups"),
        denyusers=words("denyusers"),
        authorizedkeysfile=words("authorizedkeysfile"),
        host_key=host_key,
    )


def _disks(context: _Context) -> t.Tuple[_observation.Disk, ...]:
    found: t.List[_observation.Disk] = []
    for path in ("/", "/var/lib/zcluster", *_walkable(context.question)):
        place = path
        while not os.path.exists(place):
            place = os.path.dirname(place)
        room = os.statvfs(place)
        found.append(
            _observation.Disk(
                path,
                os.stat(place).st_dev,
                room.f_bavail * room.f_frsize,
                room.f_favail,
                room.f_files,
            )
        )
    return tuple(found)


def _inotify(context: _Context) -> t.Optional[_observation.Inotify]:
    limits = {
        name: int(context.node.read(f"/proc/sys/fs/inotify/{name}") or 0)
        for name in ("max_user_watches", "max_user_instances", "max_queued_events")
    }
    return _observation.Inotify(**limits)


# Bits of /proc/PID/status (capability.h); what init may do, its daemons may.
CAPABILITIES = {"ipc_lock": 14, "sys_nice": 23, "sys_resource": 24}


def _realtime(context: _Context) -> _observation.Realtime:
    status = context.node.read("/proc/1/status") or ""
    found = re.search(r"^CapEff:\s*([0-9a-fA-F]+)", status, re.M)
    effective = int(found.group(1), 16) if found else 0
    # A control group without a real-time budget refuses it to everybody (sched(7)).
    rc, _out, _err = context.node.run(["chrt", "--rr", "1", "true"])
    return _observation.Realtime(
        rc == 0, tuple(name for name, bit in CAPABILITIES.items() if effective >> bit & 1)
    )


def _trees(context: _Context) -> t.Tuple[_observation.Tree, ...]:
    question = context.question
    paths = _walkable(question)
    if not paths:
        return ()
    shipped = _tree.conffiles(context.node.run, context.node.read)
    return tuple(_tree.look(path, question.sync_excludes, shipped) for path in paths)


def _walkable(question: Question) -> t.Tuple[str, ...]:
    return tuple(path for path in question.sync_paths if not _sync_paths.refusal(path))


def _names(file: str) -> t.Callable[[_Context], t.Tuple[str, ...]]:
    def probe(context: _Context) -> t.Tuple[str, ...]:
        lines = (context.node.read(file) or "").splitlines()
        return tuple(sorted(line.partition(":")[0] for line in lines if ":" in line))

    return probe


def _peer_home(context: _Context) -> str:
    lines = (context.node.read("/etc/passwd") or "").splitlines()
    users = (line.split(":") for line in lines)
    return next((words[5] for words in users if words[0] == "zcluster" and len(words) > 5), "")


def _firewall(context: _Context) -> _observation.Firewall:
    legacy: t.List[str] = []
    if "filter" in (context.node.read("/proc/net/ip_tables_names") or "").split():
        for chain in ("INPUT", "OUTPUT"):
            _rc, out, _err = context.node.run(["iptables-legacy", "-S", chain])
            legacy += [line for line in out.splitlines() if line] or [f"-P {chain} unknown"]
    rc, out, err = context.node.run(["nft", "-j", "list", "ruleset"])
    if rc == 127:
        return _observation.Firewall(False, (), tuple(legacy))
    if rc != 0:
        raise ValueError(f"nft list ruleset: {err.strip() or rc}")
    objects = _ruleset.relevant(json.loads(out or "{}").get("nftables", []))
    return _observation.Firewall(True, objects, tuple(legacy))


def _ports(context: _Context) -> t.Tuple[_observation.Port, ...]:
    _rc, out, _err = context.node.run(["ss", "-H", "-l", "-n", "-t", "-u", "-p"])
    return parse_ports(out)


def parse_ports(out: str) -> t.Tuple[_observation.Port, ...]:
    """The listening sockets in the output of ss."""
    found: t.List[_observation.Port] = []
    for line in out.splitlines():
        words = line.split()
        if len(words) < 5:
            continue
        address, _colon, port = words[4].rpartition(":")
        process = re.search(r'\(\("([^"]+)"', line)
        if port.isdigit():
            found.append(
                _observation.Port(
                    words[0], address.strip("[]"), int(port), process.group(1) if process else ""
                )
            )
    return tuple(found)


def _peer(context: _Context) -> t.Optional[_observation.Peer]:
    question = context.question
    if not (question.local_ip and question.peer_ip):
        return None
    if _interfaces.find(context.interfaces, question.local_ip) is None:
        return _observation.Peer(question.peer_ip)
    asked = _asking(context, question.peer_ip, "")
    answers = _wire.who_answers([asked]) if asked else {}
    return _observation.Peer(
        ip=question.peer_ip,
        ping=_wire.ping(question.local_ip, question.peer_ip),
        answered_by=answers.get(question.peer_ip, ()),
    )


def _asking(context: _Context, address: str, name: str) -> t.Optional[_wire.Question]:
    named = [i for i in context.interfaces if i.name == name]
    interface = named[0] if named else _interfaces.holding(context.interfaces, address)
    if interface is None or interface.unfit:
        return None
    return _wire.Question(interface.name, interface.index, interface.mac, address)


def _addresses(context: _Context) -> t.Tuple[_observation.AddressAnswer, ...]:
    asked = {
        address: question
        for address, name in context.question.vips
        if (question := _asking(context, address, name))
    }
    answers = _wire.who_answers(list(asked.values())) if asked else {}
    found: t.List[_observation.AddressAnswer] = []
    for address, _name in context.question.vips:
        here = _interfaces.find(context.interfaces, address)
        found.append(
            _observation.AddressAnswer(
                address=address,
                on_interface=here[0].name if here else "",
                asked_on=asked[address].interface if address in asked else "",
                answered_by=answers.get(address, ()),
            )
        )
    return tuple(found)


def _adverts(context: _Context) -> t.Tuple[_wire.Advert, ...]:
    if context.listening <= 0:
        return ()
    heard_on = {i.name: i.index for i in context.interfaces if not i.unfit}
    return _wire.listen(heard_on, context.listening)


def _units(context: _Context) -> t.Tuple[_observation.Unit, ...]:
    names = [*HA_UNITS, *context.question.units]
    properties = "Id,Names,LoadState,ActiveState,UnitFileState"
    _rc, out, _err = context.node.run(["systemctl", "show", "-p", properties, "--", *names])
    blocks = [_assignments(block) for block in out.split("\n\n") if block.strip()]
    # An alias answers under its own name (Id) and lists the one that was asked for (Names).
    by_name = {name: block for block in blocks for name in block.get("Names", "").split()}
    return tuple(
        _observation.Unit(
            name,
            by_name[name].get("LoadState", ""),
            by_name[name].get("ActiveState", ""),
            by_name[name].get("UnitFileState", ""),
        )
        for name in names
        if name in by_name
    )


def _missing_programs(context: _Context) -> t.Tuple[str, ...]:
    """Programs that cannot be started here (a shell's `command -v`, which also judges paths)."""
    return tuple(
        program
        for program in context.question.programs
        if context.node.run(["sh", "-c", 'command -v "$1"', "sh", program])[0] != 0
    )


def _foreign_configs(context: _Context) -> t.Tuple[str, ...]:
    shipped = _tree.conffiles(context.node.run, context.node.read)
    found: t.List[str] = []
    for path in HA_CONFIGS:
        text = context.node.read(path)
        # What our roles write says so at its head.
        if text is None or "zcluster" in text[:400]:
            continue
        if _tree.look(path, (), shipped).files:
            found.append(path)
    return tuple(found)


def _assignments(text: str) -> t.Dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip().strip('"') for key, _equals, value in pairs}


PROBES: t.Dict[str, t.Callable[[_Context], t.Any]] = {
    "system": _system,
    "gateways": _gateways,
    "packages": _packages,
    "zcluster": _zcluster,
    "sshd": _sshd,
    "disks": _disks,
    "inotify": _inotify,
    "realtime": _realtime,
    "trees": _trees,
    "users": _names("/etc/passwd"),
    "groups": _names("/etc/group"),
    "peer_home": _peer_home,
    "firewall": _firewall,
    "ports": _ports,
    "peer": _peer,
    "addresses": _addresses,
    "adverts": _adverts,
    "units": _units,
    "missing_programs": _missing_programs,
    "foreign_configs": _foreign_configs,
}
