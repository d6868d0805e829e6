# SPDX-License-Identifier: GPL-3.0-or-later
"""What has ended on the master, but not in this standby's kernel: found, and deleted one by one.

A commit creates and replaces, but never deletes: what ended on the master after it was committed
stays in the standby's kernel until its timeout, for TCP five days. There it fills the table, and
takes the port towards a backend that a live connection of another client has on the master. The
kernel silently gives that one another port, and its backend would reset it at a takeover; or, where
the port is one that the master's kernel had chosen, does not take the connection at all.
"""

from __future__ import annotations

import contextlib
import errno
import re
import socket
import struct
from collections.abc import Collection, Iterable
from typing import NamedTuple

# tcp      6 431999 ESTABLISHED src=192.0.2.1 dst=198.51.100.1 sport=40000 dport=80 src=… (both
# `conntrack -L` and `conntrackd -e`; the first tuple is the client's).
LINE = re.compile(r"^\w+ +(\d+) [^=\n]*?src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+) ", re.MULTILINE)
# linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h; netlink(7).
NETLINK_NETFILTER = 12
DELETE = 1 << 8 | 2
NLM_F_REQUEST, NLM_F_ACK, NLMSG_ERROR, NESTED = 0x1, 0x4, 2, 0x8000
TUPLE_ORIG, TUPLE_IP, TUPLE_PROTO = 1, 1, 2
IP_SOURCE = {socket.AF_INET: 1, socket.AF_INET6: 3}
PROTO_NUMBER, PROTO_SOURCE_PORT, PROTO_TARGET_PORT = 1, 2, 3
HEADER = struct.Struct("=IHHII")


class Flow(NamedTuple):
    """A connection as its client sees it."""

    protocol: int
    source: str
    target: str
    source_port: int
    target_port: int


def flows(text: str, vips: Collection[str]) -> set[Flow]:
    """The connections to these virtual IPs, from what conntrack or conntrackd lists."""
    # One by one: a single search through a large table would keep the other threads waiting.
    return {
        Flow(int(found[1]), found[2], found[3], int(found[4]), int(found[5]))
        for found in LINE.finditer(text)
        if found[3] in vips
    }


def request(flow: Flow) -> bytes:
    """The message that deletes a connection."""
    family = socket.AF_INET6 if ":" in flow.target else socket.AF_INET
    source = IP_SOURCE[family]
    addresses = _attribute(source, socket.inet_pton(family, flow.source))
    addresses += _attribute(source + 1, socket.inet_pton(family, flow.target))
    ports = _attribute(PROTO_NUMBER, struct.pack("B", flow.protocol))
    ports += _attribute(PROTO_SOURCE_PORT, struct.pack("!H", flow.source_port))
    ports += _attribute(PROTO_TARGET_PORT, struct.pack("!H", flow.target_port))
    both = _attribute(TUPLE_IP | NESTED, addresses) + _attribute(TUPLE_PROTO | NESTED, ports)
    body = struct.pack("!BBH", family, 0, 0) + _attribute(TUPLE_ORIG | NESTED, both)
    length = HEADER.size + len(body)
    return HEADER.pack(length, DELETE, NLM_F_REQUEST | NLM_F_ACK, 1, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    padding = bytes(-len(value) % 4)
    return struct.pack("=HH", 4 + len(value), kind) + value + padding


def delete(found: Iterable[Flow]) -> int:
    """Delete connections from the kernel; how many were there. OSError for what it refuses."""
    count = 0
    with contextlib.closing(
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    ) as kernel:
        kernel.settimeout(2.0)
        for flow in found:
            kernel.send(request(flow))
            answer = kernel.recv(4096)
            _, kind, *_ = HEADER.unpack_from(answer)
            code = -struct.unpack_from("=i", answer, HEADER.size)[0]
            if kind == NLMSG_ERROR and code not in (0, errno.ENOENT):
                raise OSError(code, f"{flow} cannot be deleted")
            count += code == 0
    return count
