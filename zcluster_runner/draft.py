# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory that ``create`` writes: its values checked, its text, its place; no secret."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zcluster_runner.errors import InventoryError, UsageError

NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
"""Nothing that preflight would refuse (plugins/module_utils/_settings.py)."""
NAME_ALLOWED = "small letters, digits and -, beginning with a letter, at most 31"
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:-]*[A-Za-z0-9])?")
PROFILES = ("standard", "fast", "wan")
"""What ``zcluster_profile`` may be (plugins/module_utils/_settings.py has their values)."""
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")

TEMPLATE = """\
---
# Inventory of the cluster {{ draft.name }}, written by "zcluster create". It is yours now: edit it,
# keep it in version control. Every verb of zcluster, and plain Ansible, reads it:
#   zcluster -i DIRECTORY nodes
#   ansible-playbook -i DIRECTORY zcluster.ha.create
# No password belongs here; use ansible-vault for those.
all:
  children:
    {{ draft.group }}:
      vars:
        zcluster_name: {{ draft.name | to_json }}
        # The node that is master first; "local" in what zcluster shows.
        zcluster_initial_master: {{ draft.local.name | to_json }}
        # Virtual addresses: they follow the master.
        zcluster_vips:{{ " []" if not draft.vips }}
{%- for vip in draft.vips %}
{%- if vip.interface %}
          - address: {{ vip.address | to_json }}
            interface: {{ vip.interface | to_json }}
{%- else %}
          - {{ vip.address | to_json }}
{%- endif %}
{%- endfor %}
        # Who gets the VIPs back after a failure: disabled, or one of the two hosts.
        zcluster_failback: {{ draft.failback | to_json }}
        # How fast a dead master is noticed: standard (0.3 s), fast (0.06 s), wan (3 s).
        zcluster_profile: {{ draft.profile }}
{%- if draft.check_interval %}
        # Seconds between two signs of life of the master, instead of the profile's.
        zcluster_check_interval: {{ draft.check_interval }}
{%- endif %}
{%- if draft.vrid %}
        # Virtual router id, 1 to 255; without it a free one is picked.
        zcluster_vrid: {{ draft.vrid }}
{%- endif %}
        # Files and directories kept the same on both nodes.
        zcluster_sync_paths:{{ " []" if not draft.sync_paths }}
{%- for path in draft.sync_paths %}
          - {{ path | to_json }}
{%- endfor %}
{%- if draft.key %}
        zcluster_operator_key: {{ draft.key | to_json }}
        ansible_ssh_private_key_file: {{ draft.key | to_json }}
{%- endif %}
{%- if draft.user %}
        ansible_user: {{ draft.user | to_json }}
{%- if draft.user != "root" %}
        ansible_become: true
{%- endif %}
{%- else %}
        ansible_user: root
{%- endif %}
        ansible_python_interpreter: /usr/bin/python3
      hosts:
{%- for node in (draft.local, draft.remote) if node %}
        {{ node.name | to_json }}:{{ " {}" if not node.ip and not node.is_this_machine }}
{%- if node.is_this_machine %}
          ansible_connection: local
{%- endif %}
{%- if node.ip %}
          # Its address on the cluster link.
          zcluster_ip: {{ node.ip | to_json }}
{%- endif %}
{%- endfor %}
"""


@dataclass(frozen=True)
class Vip:
    """A virtual address with its prefix, and the interface if it was named."""

    address: str
    interface: str = ""


@dataclass(frozen=True)
class Node:
    """One of the two hosts."""

    name: str
    is_this_machine: bool
    ip: str = ""


@dataclass(frozen=True)
class Draft:
    """An inventory that is not written yet; every value is checked."""

    name: str
    local: Node
    remote: Node | None
    vips: tuple[Vip, ...] = ()
    failback: str = "disabled"
    profile: str = PROFILES[0]
    check_interval: float | None = None
    sync_paths: tuple[str, ...] = ()
    vrid: int | None = None
    user: str = ""
    key: str = ""

    @property
    def group(self) -> str:
        """The group of this cluster's hosts; a group's name has no hyphens."""
        return f"cluster_{self.name.replace('-', '_')}"

    def text(self) -> str:
        """Return the inventory as YAML."""
        import json

        import jinja2

        template = jinja2.Environment(autoescape=False, undefined=jinja2.StrictUndefined)  # noqa: S701  (YAML; values pass to_json)
        # Every printable text in JSON's quotes is the same text in YAML's.
        template.filters["to_json"] = lambda value: json.dumps(value, ensure_ascii=False)
        return template.from_string(TEMPLATE).render(draft=self)


def bad(field: str, value: object, allowed: str) -> UsageError:
    """Return the one form of error for a wrong value."""
    return UsageError(f"{field}: {value!r} is not possible; allowed: {allowed}")


def checked_host(field: str, value: str) -> str:
    """Return a host's name or address."""
    if not HOST.fullmatch(value):
        raise bad(field, value, "a host name or an IP address")
    return value


def checked_address(field: str, value: str) -> str:
    """Return an address that a node can have on the cluster link."""
    import netaddr

    try:
        address = netaddr.IPAddress(value, flags=netaddr.INET_PTON)
    except (netaddr.AddrFormatError, ValueError) as error:
        raise bad(field, value, "an IPv4 address such as 192.0.2.11") from error
    if address.version != 4:
        raise bad(field, value, "an IPv4 address: the nodes speak VRRP over IPv4")
    if (
        address.is_loopback()
        or address.is_multicast()
        or address.is_link_local()
        or not int(address)
    ):
        raise bad(field, value, "an address of its own on a network that both nodes share")
    return str(address)


def checked_vip(value: str) -> Vip:
    """Return a virtual address; it must say its prefix."""
    import netaddr

    field = "--vip"
    text, _, interface = value.partition("@")
    allowed = "ADDRESS/PREFIX or ADDRESS/PREFIX@INTERFACE, such as 192.0.2.10/24@eth0"
    if "/" not in text:
        raise bad(field, value, f"{allowed}; the prefix is missing")
    try:
        network = netaddr.IPNetwork(text)
        # IPNetwork fills up 10.1/16; here every part must have been said
        address = netaddr.IPAddress(text.partition("/")[0], flags=netaddr.INET_PTON)
    except (netaddr.AddrFormatError, ValueError) as error:
        raise bad(field, value, allowed) from error
    if interface and not re.fullmatch(r"[A-Za-z0-9_.@-]{1,15}", interface):
        raise bad(field, value, allowed)
    if address.is_loopback() or address.is_multicast() or not int(address):
        raise bad(field, value, "an address that clients can use")
    return Vip(f"{address}/{network.prefixlen}", interface)


def checked_path(field: str, value: str) -> str:
    """Return an absolute path without detours."""
    clean = value.isprintable() and ".." not in Path(value).parts
    if not clean or not value.startswith("/") or os.path.normpath(value) == "/":
        raise bad(field, value, "an absolute path such as /etc/haproxy")
    return os.path.normpath(value)


def expanded(field: str, value: str) -> str:
    """Return the absolute path behind ``~`` or a relative one."""
    try:
        return str(Path(value).expanduser().absolute())
    except RuntimeError:
        raise bad(field, value, "a file's path; there is no such user's home") from None


def checked_user(value: str) -> str:
    """Return a user's name as Debian allows it."""
    if not re.fullmatch(r"[a-z_][a-z0-9_.-]{0,31}", value):
        raise bad("--user", value, "a user's name such as admin")
    return value


def node(field: str, host: str, address: str | None) -> Node:
    """Return a node as it was named; ``localhost`` gets this machine's name."""
    here = host in THIS_MACHINE
    name = socket.gethostname().partition(".")[0] if here else checked_host(field, host)
    ip = checked_address(f"{field}-ip", address) if address else ""
    return Node(name, here, ip)


def draft(values: dict[str, Any]) -> Draft:
    """Return the draft for create's parameters; the first wrong one is said."""
    name = str(values.get("name") or "")
    if not NAME.fullmatch(name):
        raise bad("NAME", name, NAME_ALLOWED)
    local = node("--local", str(values["local"]), values.get("local_ip"))
    remote = (
        node("--remote", str(values["remote"]), values.get("remote_ip"))
        if values.get("remote")
        else None
    )
    if remote and (remote.name == local.name or (remote.is_this_machine and local.is_this_machine)):
        raise bad("--remote", remote.name, f"another host than --local {local.name}")
    if remote and remote.ip and remote.ip == local.ip:
        raise bad("--remote-ip", remote.ip, "another address than --local-ip")
    vips = tuple(checked_vip(str(vip)) for vip in values.get("vip") or ())
    duplicates = {vip.address for vip in vips if sum(v.address == vip.address for v in vips) > 1}
    if duplicates:
        raise bad("--vip", ", ".join(sorted(duplicates)), "each address once")
    interval = values.get("check_interval")
    profile = str(values.get("profile") or PROFILES[0])
    if profile not in PROFILES:
        raise bad("--profile", profile, ", ".join(PROFILES))
    key = values.get("key")
    return Draft(
        name=name,
        local=local,
        remote=remote,
        vips=vips,
        failback=_failback(values.get("failback"), local, remote),
        profile=profile,
        check_interval=None if interval is None else float(interval),
        sync_paths=tuple(
            checked_path("--sync-path", str(p)) for p in values.get("sync_path") or ()
        ),
        vrid=values.get("vrid"),
        user=checked_user(str(values["user"])) if values.get("user") else "",
        key=checked_path("--key", expanded("--key", str(key))) if key else "",
    )


def _failback(value: object, local: Node, remote: Node | None) -> str:
    word = str(value or "disabled")
    names = {"disabled": "disabled", "local": local.name, local.name: local.name}
    if remote:
        names |= {"remote": remote.name, remote.name: remote.name}
    if word not in names:
        raise bad("--failback", word, ", ".join(dict.fromkeys(names)))
    return names[word]


def check_text(content: Draft, text: str) -> None:
    """Make sure that the text says what the draft does: no value may change the YAML around it."""
    import yaml

    group = yaml.safe_load(text)["all"]["children"][content.group]
    nodes = [node.name for node in (content.local, content.remote) if node]
    if group["vars"]["zcluster_name"] != content.name or list(group["hosts"]) != nodes:
        raise InventoryError("the inventory cannot be written: a value in it breaks its YAML")


def write(content: Draft, directory: Path) -> Path:
    """Write the inventory directory whole or not at all; return it."""
    text = content.text()
    check_text(content, text)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InventoryError(f"{directory} exists already: use it with -i, or remove it")
    return put(directory, text)


def put(directory: Path, text: str) -> Path:
    """Make the directory with this ``hosts.yml``, whole or not at all; return it."""
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        path = staged / "hosts.yml"
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        path.chmod(0o644)
        staged.chmod(0o755)
        staged.rename(directory)  # replaces an empty directory, fails on any other
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    return directory
