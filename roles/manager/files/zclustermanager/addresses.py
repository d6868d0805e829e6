# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel holds: which virtual IPs and lead addresses are on this node, now."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

from . import processes
from .settings import Cluster, Vip

# rtnetlink(7), netlink(7): what asks for all addresses, and what comes back.
RTM_NEWADDR, RTM_GETADDR = 20, 22
NLM_F_REQUEST, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x10, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
IFA_ADDRESS, IFA_LOCAL = 1, 2
HEADER, ADDRESS, ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBBBI"), struct.Struct("=HH")
SIZES = {socket.AF_INET: 4, socket.AF_INET6: 16}


class DumpInterruptedError(OSError):
    """The addresses changed while the kernel told them: the list may lack one."""


def parse(dump: bytes) -> tuple[set[str], bool]:
    """The addresses in one piece of a kernel's dump, and whether it was the last piece.

    OSError for the kernel's error, DumpInterruptedError for a list that is not one moment's.
    """
    found: set[str] = set()
    while len(dump) >= HEADER.size:
        length, kind, flags, _, _ = HEADER.unpack_from(dump)
        body, dump = dump[HEADER.size : length], dump[(length + 3) & ~3 :]
        if flags & NLM_F_DUMP_INTR:
            raise DumpInterruptedError
        if kind == NLMSG_DONE:
            return found, True
        if kind == NLMSG_ERROR:
            raise OSError(-struct.unpack_from("=i", body)[0], "the kernel told no addresses")
        if kind == RTM_NEWADDR and (address := _local(body)):
            found.add(address)
    return found, False


def _local(body: bytes) -> str:
    """The node's own address in an RTM_NEWADDR: the other one is its peer's on a tunnel."""
    family, *_ = ADDRESS.unpack_from(body)
    attributes, values = body[ADDRESS.size :], {}
    while len(attributes) >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(attributes)
        if length < ATTRIBUTE.size:
            break
        values[kind] = attributes[ATTRIBUTE.size : length]
        attributes = attributes[(length + 3) & ~3 :]
    value = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS) or b""
    return socket.inet_ntop(family, value) if len(value) == SIZES.get(family) else ""


def present() -> set[str]:
    """All addresses of this node; OSError when the kernel could not be asked.

    Asked over netlink: every look of the daemon begins with it, and `ip` would be a process each.
    """
    for _ in range(10):
        try:
            return _ask()
        except DumpInterruptedError:
            continue
    raise DumpInterruptedError("the addresses change faster than they can be read")


def _ask() -> set[str]:
    request = HEADER.pack(HEADER.size + 8, RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, 1, 0)
    found: set[str] = set()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as link:
        link.settimeout(2.0)
        link.send(request + bytes(8))  # all families
        last = False
        while not last:
            some, last = parse(link.recv(1 << 16))
            found |= some
    return found


def held(cluster: Cluster, addresses: set[str] | None = None) -> list[str]:
    """Virtual IPs and lead addresses of the cluster that are on this node."""
    here = present() if addresses is None else addresses
    return [a for a in (*(v.address for v in cluster.vips), *leads(cluster)) if a in here]


def leads(cluster: Cluster) -> list[str]:
    """The lead addresses: what each VRRP instance advertises, whatever the VIPs are."""
    return [network.lead for network in cluster.networks]


def on_node(vips: tuple[Vip, ...], addresses: set[str]) -> list[str]:
    """The virtual IPs among these addresses."""
    return [vip.address for vip in vips if vip.address in addresses]


def answers(address: str, timeout: float = 3.0) -> bool:
    """True when somebody answers for an address of a network this node is on.

    A connection that is accepted or refused is an answer; so is a neighbour entry (ARP, NDP),
    for the way to the port may be closed by a firewall. One from before is no answer of now.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        processes.run(["ip", "neighbour", "flush", "to", address])
        try:
            with socket.create_connection((address, 9), 0.5):  # 9: discard (RFC 863)
                return True
        except ConnectionRefusedError:
            return True
        except OSError:
            if resolved(processes.run(["ip", "-j", "neighbour", "show", "to", address]).out):
                return True
    return False


def resolved(shown: str) -> bool:
    """True when what `ip -j neighbour show` says holds an entry that was answered for."""
    neighbours: list[dict[str, Any]] = json.loads(shown or "[]")
    return any("REACHABLE" in entry.get("state", []) for entry in neighbours)
