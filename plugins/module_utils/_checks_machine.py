# Copyright: zcluster contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is PRIVATE to the collection.
"""Preflight checks of each machine by itself: the way in, the system, its software, its limits."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible_collections.zcluster.ha.plugins.module_utils._findings import Finding, error, warning
from ansible_collections.zcluster.ha.plugins.module_utils._ruleset import CONNTRACKD_PORT
from ansible_collections.zcluster.ha.plugins.module_utils._view import Obstacle, View

SUPPORTED = {"debian": ("12", "13")}
MINIMUM_PYTHON = (3, 11)
MIB = 1024 * 1024
# Path -> room that installing and running needs, beside the synchronized content.
ROOM = {"/": 64 * MIB, "/var/lib/zcluster": 32 * MIB}
MINIMUM_INODES = 1000
# Where the user lives whom create makes (role peer_trust).
PEER_HOME = "/var/lib/zcluster/peer"
SSH_PORT = 22
KEYS_FILES = (".ssh/authorized_keys", "%h/.ssh/authorized_keys")
CLOCK_SECONDS = 2.0
# Measured: with two cores and eight busy loops no false takeover at 0.05 s, some below it.
REALTIME_BELOW = 0.05
SAME_MAJOR = ("keepalived", "conntrackd")
EVERY_IPV4 = "0.0.0.0"  # noqa: S104 - as sshd writes it
# Unit -> what it is; each of them would fight over the addresses.
RIVALS = {
    "corosync.service": "Corosync",
    "pacemaker.service": "Pacemaker",
    "heartbeat.service": "Heartbeat",
    "ucarp.service": "ucarp",
    "vrrpd.service": "vrrpd",
}
CONFIG_OWNERS = {
    "/etc/keepalived/keepalived.conf": "keepalived",
    "/etc/conntrackd/conntrackd.conf": "conntrackd",
}


@dataclass(frozen=True)
class Refusal:
    """How an obstacle on the way to a node is told."""

    field: str
    message: str
    way_out: str


REFUSALS = {
    Obstacle.LEFT_OUT: Refusal(
        "ansible-playbook --limit",
        "This host was not looked at: the run was limited to other hosts. Both nodes of a cluster "
        "are judged together.",
        "Run again with both hosts of the cluster in --limit (or in zcluster_hosts).",
    ),
    Obstacle.NAME: Refusal(
        "ansible_host",
        "The name of this host cannot be resolved to an address.",
        "Set ansible_host to its address, or correct the name.",
    ),
    Obstacle.NETWORK: Refusal(
        "ansible_host",
        "The host cannot be reached over SSH.",
        "Check that it is switched on, that ansible_host and ansible_port are right, that sshd "
        "runs there, and that no firewall is in the way.",
    ),
    Obstacle.HOST_KEY: Refusal(
        "host key",
        "The host's key is not known yet, or not the known one: another machine may answer there.",
        "Compare the key with the host's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub on "
        "its console). If it is right, remove an old one with ssh-keygen -R and accept this one.",
    ),
    Obstacle.LOGIN: Refusal(
        "ansible_user",
        "sshd refused the login. With a key: it is not accepted for this user. With the root "
        "password: it is wrong, or this sshd forbids root by password (PermitRootLogin, by default "
        "prohibit-password on Debian).",
        "Use a key that is accepted there, or a user who may become root, or allow root by "
        "password for the time of create: PermitRootLogin yes in /etc/ssh/sshd_config.d/, then "
        "reload ssh.",
    ),
    Obstacle.ROOT: Refusal(
        "become",
        "The login works, but not the way to root.",
        "Log in as root, or let this user become root: give the password with --ask-become-pass, "
        "or allow it in sudoers without one.",
    ),
    Obstacle.PYTHON: Refusal(
        "ansible_python_interpreter",
        "No usable Python was found on the host.",
        "Install python3, or set ansible_python_interpreter to it (/usr/bin/python3 on Debian).",
    ),
    Obstacle.OTHER: Refusal(
        "ansible_host",
        "The host could not be looked at.",
        "Run `ansible -m ping` against this host and clear what it says; -vvv shows the details.",
    ),
}


def reachable(view: View) -> t.Iterator[Finding]:
    """SSH, a way to root, Python: every node could be looked at."""
    for host, unseen in view.unseen.items():
        refusal = REFUSALS[unseen.obstacle]
        yield error(host, refusal.field, unseen.words, refusal.message, refusal.way_out)


def root(view: View) -> t.Iterator[Finding]:
    """The node was looked at as root."""
    for host, node in view.seen.items():
        if not node.system.root:
            yield error(
                host,
                "become",
                "not root",
                "The node was looked at without root's rights.",
                REFUSALS[Obstacle.ROOT].way_out,
            )


def complete(view: View) -> t.Iterator[Finding]:
    """Every probe gave an answer."""
    for host, node in view.seen.items():
        for probe, words in node.errors.items():
            if probe != "cluster":
                yield warning(
                    host,
                    probe,
                    words,
                    f"Preflight could not look at this: {probe}. What is wrong there is unknown.",
                    "Clear what the message says and run preflight again.",
                )


def operating_system(view: View) -> t.Iterator[Finding]:
    """Debian 12 or 13 with systemd and a Python that zclustermanager runs on."""
    names = " and ".join(f"{s.capitalize()} {' and '.join(v)}" for s, v in SUPPORTED.items())
    for host, node in view.seen.items():
        system = node.system
        if system.os_version not in SUPPORTED.get(system.os_id, ()):
            yield error(
                host,
                "operating system",
                f"{system.os_id or 'unknown'} {system.os_version}".strip(),
                f"This operating system is not supported; {names} are.",
                "Install one of these on the node.",
            )
        if not system.systemd:
            yield error(
                host,
                "systemd",
                "not running",
                "The services of a node are run by systemd, which does not run here.",
                "Boot the node with systemd as its init.",
            )
        if _numbers(system.python)[:2] < MINIMUM_PYTHON:
            yield error(
                host,
                "python",
                system.python,
                "zclustermanager needs Python 3.11 or newer.",
                "Set ansible_python_interpreter to /usr/bin/python3 of a supported Debian.",
            )


def versions(view: View) -> t.Iterator[Finding]:
    """The same major versions on both nodes, installed or about to be."""
    table: t.Dict[str, t.Dict[str, str]] = {name: {} for name in (*SAME_MAJOR, "zcluster")}
    for host, node in view.seen.items():
        for name in SAME_MAJOR:
            package = node.packages.get(name)
            version = (package.installed or package.candidate) if package else None
            if version:
                table[name][host] = version
            elif "packages" not in node.errors:
                yield warning(
                    host,
                    name,
                    "no version",
                    f"{name} is not installed, and apt's present lists do not offer it.",
                    "Check the node's package sources; create refreshes the lists first.",
                )
        if node.zcluster:
            table["zcluster"][host] = node.zcluster
    for name, found in table.items():
        if len({major(version) for version in found.values()}) > 1:
            # An update that was stopped between the nodes must be able to go on.
            ours = name == "zcluster"
            yield (warning if ours else error)(
                view.settings.all_hosts,
                name,
                ", ".join(f"{host}: {version}" for host, version in found.items()),
                f"The nodes have different major versions of {name}, which may not understand each "
                "other.",
                "Bring both to the version that runs here: zcluster update --zcluster."
                if ours
                else "Bring both nodes to the same major version, best to the same Debian release.",
            )


def major(version: str) -> int:
    """The first number of a Debian version, without its epoch."""
    numbers = _numbers(version.rpartition(":")[2] if ":" in version else version)
    return numbers[0] if numbers else -1


def hostnames(view: View) -> t.Iterator[Finding]:
    """Two hostnames that tell the nodes apart."""
    found = {host: node.system.hostname for host, node in view.seen.items()}
    if len(found) == 2 and len(set(found.values())) == 1:
        yield error(
            view.settings.all_hosts,
            "hostname",
            sorted(set(found.values())),
            "Both nodes have the same hostname; nodes are told apart by it.",
            "Give one of them another name with hostnamectl set-hostname.",
        )
    for host, name in found.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}", name) or name == "localhost":
            yield error(
                host,
                "hostname",
                name,
                "This is no hostname that tells a node from others.",
                "Set one with hostnamectl set-hostname: letters, digits, hyphens.",
            )


def failback(view: View) -> t.Iterator[Finding]:
    """`disabled`, or a node of this cluster."""
    wanted = view.settings.failback
    names = [node.system.hostname for node in view.seen.values()]
    allowed = ["disabled", *names, *view.settings.hosts]
    # A node that was not seen may be the one that is meant.
    if wanted not in allowed and not view.unseen:
        yield error(
            view.settings.all_hosts,
            "zcluster_failback",
            wanted,
            "Failback is neither disabled nor one of the two nodes: "
            f"allowed are {', '.join(dict.fromkeys(allowed))}.",
            "Set zcluster_failback to one of these.",
        )


def clocks(view: View) -> t.Iterator[Finding]:
    """Clocks that agree; nothing is decided by them, but logs are read by them."""
    ahead = {
        host: node.clock.start - node.clock.controller
        for host, node in view.seen.items()
        if node.clock.controller is not None
    }
    if len(ahead) == 2:
        (first, one), (second, two) = ahead.items()
        if abs(one - two) > CLOCK_SECONDS:
            fast = first if one > two else second
            yield warning(
                view.settings.all_hosts,
                "clock",
                f"{abs(one - two):.1f} s",
                f"The clocks of the nodes differ; {fast} is ahead. Logs of a failover will be hard "
                "to compare, and certificates may be refused.",
                "Let both nodes take the time from a server: systemd-timesyncd or chrony.",
            )


def disks(view: View) -> t.Iterator[Finding]:
    """Room for the packages, the state and staged configuration."""
    largest: t.Dict[str, int] = {}
    for node in view.seen.values():
        for tree in node.trees:
            largest[tree.path] = max(largest.get(tree.path, 0), tree.bytes)
    for host, node in view.seen.items():
        for disk in node.disks:
            content = 2 * sum(largest.values()) if disk.path == "/var/lib/zcluster" else 0
            needed = ROOM.get(disk.path, 8 * MIB) + (content or largest.get(disk.path, 0))
            if disk.free_bytes < needed:
                yield error(
                    host,
                    f"disk {disk.path}",
                    f"{disk.free_bytes // MIB} MiB free",
                    f"There is too little room: {needed // MIB} MiB are needed for packages, state "
                    "and a second copy of what is synchronized.",
                    f"Free some room on the file system of {disk.path}.",
                )
            if disk.inodes and disk.free_inodes < MINIMUM_INODES:
                yield error(
                    host,
                    f"disk {disk.path}",
                    f"{disk.free_inodes} inodes free",
                    f"There are too few inodes left: {MINIMUM_INODES} are needed.",
                    f"Remove small files from the file system of {disk.path}.",
                )


def inotify(view: View) -> t.Iterator[Finding]:
    """Enough watches for every directory that is synchronized."""
    directories = max(
        (sum(tree.directories for tree in node.trees) for node in view.seen.values()), default=0
    )
    for host, node in view.seen.items():
        if node.inotify is None:
            continue
        limits = (
            ("max_user_watches", node.inotify.max_user_watches, directories + 64),
            ("max_user_instances", node.inotify.max_user_instances, 8),
            ("max_queued_events", node.inotify.max_queued_events, 1024),
        )
        for name, limit, needed in limits:
            if limit < needed:
                yield error(
                    host,
                    f"fs.inotify.{name}",
                    limit,
                    f"inotify's limit is too low for what is synchronized: {needed} are needed.",
                    f"Raise it: fs.inotify.{name} = {max(needed * 2, 128)} in /etc/sysctl.d/, then "
                    "sysctl --system.",
                )


def realtime(view: View) -> t.Iterator[Finding]:
    """The heartbeat may run before everything else, at the pace that was asked for."""
    pace = view.settings.check_interval
    risk = (
        "A busy machine can then be taken for a dead one at this pace: the virtual IPs would flap."
        if pace < REALTIME_BELOW
        else "A very busy machine can then be taken for a dead one."
    )
    for host, node in view.seen.items():
        if "realtime" in node.errors:
            continue
        able = node.realtime.capabilities
        if not node.realtime.scheduling or "sys_nice" not in able:
            yield warning(
                host,
                "real-time priority",
                "refused",
                f"keepalived cannot have a real-time priority on this node. {risk}",
                "Give the container CAP_SYS_NICE, and its control group a real-time budget "
                "(cpu.rt_runtime_us); or choose a longer check interval (zcluster_profile).",
            )
        if "ipc_lock" not in able:
            yield warning(
                host,
                "locked memory",
                "refused",
                f"keepalived cannot stay in memory when it runs short. {risk}",
                "Give the container CAP_IPC_LOCK.",
            )
        if "sys_resource" not in able and node.realtime.scheduling:
            yield warning(
                host,
                "CAP_SYS_RESOURCE",
                "missing",
                "At a reload keepalived takes its real-time limit back and cannot raise it again: "
                "its heartbeat process may be killed and started anew, and the other node takes "
                "over.",
                "Give the container CAP_SYS_RESOURCE.",
            )


def membership(view: View) -> t.Iterator[Finding]:
    """The node is in no other cluster, and its user zcluster is nobody else's."""
    names = {node.system.hostname for node in view.seen.values()}
    for host, node in view.seen.items():
        if node.peer_home not in ("", PEER_HOME):
            yield error(
                host,
                "user zcluster",
                node.peer_home,
                "There is a user zcluster that create did not make, and that unset would remove.",
                "Rename that user (usermod --login, groupmod --new-name), or choose another node.",
            )
        if "cluster" in node.errors:
            yield error(
                host,
                "/etc/zcluster/cluster.json",
                node.errors["cluster"],
                "The node has settings of a cluster that cannot be read.",
                "If the node serves nothing, move the file away and run again; it is written anew.",
            )
        if node.cluster is None:
            continue
        other = node.cluster.get("name")
        if other != view.settings.name:
            yield error(
                host,
                "zcluster_name",
                other,
                f"The node is already in another cluster, {other}.",
                f"Take it out first (zcluster unset for {other}), or choose another node.",
            )
            continue
        nodes = node.cluster.get("nodes", [])
        members = {str(n.get("hostname")): str(n.get("inventory_hostname")) for n in nodes}
        strangers = sorted(set(members) - names)
        other_host = view.other(host)
        if strangers and not view.unseen and members[strangers[0]] == other_host:
            found = view.seen[other_host].system.hostname
            yield error(
                other_host,
                "hostname",
                found,
                f"The cluster knows this node by the hostname {strangers[0]}.",
                f"Give the machine that name (hostnamectl set-hostname {strangers[0]}), then run "
                "this again.",
            )
        elif strangers and not view.unseen:
            yield error(
                host,
                "zcluster_name",
                ", ".join(sorted(members)),
                f"The node is in a cluster of this name, but with another partner: "
                f"{', '.join(strangers)}.",
                "Take it out first (zcluster unset), or name this cluster differently.",
            )


def other_software(view: View) -> t.Iterator[Finding]:
    """No other HA software, and no configuration of keepalived or conntrackd that is not ours."""
    for host, node in view.seen.items():
        for unit in node.units:
            if unit.name in RIVALS and unit.active in ("active", "activating", "reloading"):
                yield error(
                    host,
                    unit.name,
                    unit.active,
                    f"{RIVALS[unit.name]} runs on this node; two masters of one address fight.",
                    f"Stop and disable it: systemctl disable --now {unit.name}.",
                )
        for path in node.foreign_configs:
            yield error(
                host,
                path,
                "not written by zcluster",
                f"{CONFIG_OWNERS[path]} is already configured here, for something else; its "
                "configuration would be replaced.",
                f"If it is no longer needed, stop {CONFIG_OWNERS[path]} and move {path} away.",
            )
        for port in node.ports:
            if (
                port.port == CONNTRACKD_PORT
                and port.protocol == "udp"
                and port.process
                not in (
                    "",
                    "conntrackd",
                )
            ):
                yield error(
                    host,
                    f"UDP port {CONNTRACKD_PORT}",
                    port.process,
                    "The port of connection tracking is in use by another program.",
                    f"Let {port.process} use another port.",
                )


def sshd(view: View) -> t.Iterator[Finding]:
    """The peer can log in with its key at the cluster IP."""
    for host, node in view.seen.items():
        settings = node.sshd
        if "sshd" in node.errors:
            continue
        if not settings.present:
            yield error(
                host,
                "sshd",
                "not installed",
                "The nodes talk to each other over SSH, and this node has no sshd.",
                "Install openssh-server.",
            )
            continue
        if settings.error:
            yield error(
                host,
                "sshd",
                settings.error,
                "sshd does not accept its own configuration.",
                "Correct what sshd -t says.",
            )
            continue
        if settings.pubkeyauthentication == "no":
            yield error(
                host,
                "PubkeyAuthentication",
                "no",
                "sshd refuses keys, by which the nodes trust each other.",
                "Set PubkeyAuthentication yes in /etc/ssh/sshd_config.d/ and reload ssh.",
            )
        if settings.authorizedkeysfile and not set(KEYS_FILES) & set(settings.authorizedkeysfile):
            yield error(
                host,
                "AuthorizedKeysFile",
                settings.authorizedkeysfile,
                "sshd would not read the keys of user zcluster, as which the peer logs in.",
                "Let AuthorizedKeysFile name .ssh/authorized_keys, at least for that user "
                "(Match User zcluster), and reload ssh.",
            )
        if not settings.host_key:
            yield error(
                host,
                "HostKey",
                "no ed25519 key",
                "The nodes know each other by sshd's ed25519 host key, which this node lacks.",
                "Make it (ssh-keygen -A), let sshd use it (HostKey), and restart ssh.",
            )
        if settings.ports and SSH_PORT not in settings.ports:
            yield error(
                host,
                "Port",
                settings.ports,
                f"The nodes talk to each other at port {SSH_PORT}, where sshd does not listen.",
                f"Add Port {SSH_PORT} beside the other in /etc/ssh/sshd_config.d/ and restart ssh.",
            )
        ip = view.settings.ips.get(host)
        if ip and settings.listen and not any(_covers(item, ip) for item in settings.listen):
            yield error(
                host,
                "ListenAddress",
                settings.listen,
                f"sshd does not listen on the cluster IP {ip}.",
                f"Add ListenAddress {ip} in /etc/ssh/sshd_config.d/ and restart ssh.",
            )
        for field, found, refused in (
            ("AllowUsers", settings.allowusers, not _allows(settings.allowusers)),
            ("AllowGroups", settings.allowgroups, not _allows(settings.allowgroups)),
            ("DenyUsers", settings.denyusers, "zcluster" in settings.denyusers),
        ):
            if found and refused:
                yield error(
                    host,
                    field,
                    found,
                    "sshd would refuse user zcluster, as which the peer logs in.",
                    f"Let {field} admit zcluster in /etc/ssh/sshd_config and reload ssh.",
                )


def services(view: View) -> t.Iterator[Finding]:
    """What is to be protected is installed on both nodes."""
    for host, node in view.seen.items():
        units = {unit.name: unit for unit in node.units}
        for service in view.settings.services:
            unit = units.get(service.unit)
            if unit and unit.load in ("not-found", "bad-setting", "error", "masked"):
                yield error(
                    host,
                    "zcluster_services",
                    f"{service.unit}: {unit.load}",
                    f"The unit of service {service.name} cannot be started on this node; "
                    "synchronization brings its configuration, not its programs.",
                    "Install the service's package on this node, or correct the unit's name.",
                )
            for program in service.programs:
                if program in node.missing_programs:
                    yield error(
                        host,
                        "zcluster_services",
                        program,
                        f"A command of service {service.name} starts this program, which is not "
                        "on this node.",
                        "Install it on this node, or correct the command.",
                    )


def _covers(listen: str, ip: str) -> bool:
    address = listen.rpartition(":")[0].strip("[]")
    return address in (EVERY_IPV4, "::", "*", "", ip)


def _allows(patterns: t.Sequence[str]) -> bool:
    return not patterns or any(
        re.fullmatch(p.partition("@")[0].replace("*", ".*").replace("?", "."), "zcluster")
        for p in patterns
        if not p.startswith("!")
    )


def _numbers(version: str) -> t.Tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
