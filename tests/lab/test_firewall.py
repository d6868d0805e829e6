# SPDX-License-Identifier: GPL-3.0-or-later
# Our firewall table, by real packets: what nobody but the peer may say is dropped and counted.
from __future__ import annotations

import pytest
from product import NODE_NAMES, Cluster
from test_nodes import nodes

pytestmark = pytest.mark.lab

SENT = 10
STRANGER = f"""
import socket, struct, sys
here, here6, peer = sys.argv[1:]
VRRP, HEADER = 112, struct.Struct("!BBHHHBBH4s4s")
# Its source is the peer's, but on the wrong network (RFC 791 3.1; the kernel fills in the sums).
ends = socket.inet_aton(peer), socket.inet_aton(here)
forged = HEADER.pack(0x45, 0, 28, 0, 0, 64, socket.IPPROTO_UDP, 0, *ends)
forged += struct.pack("!HHHH", 3780, 3780, 8, 0)

def send(family, kind, protocol, data, address, port):
    with socket.socket(family, kind, protocol) as sock:
        sock.sendto(data, (address, port))

for _ in range({SENT}):
    for family, address in ((socket.AF_INET, here), (socket.AF_INET6, here6)):
        send(family, socket.SOCK_RAW, VRRP, bytes(12), address, 0)
        send(family, socket.SOCK_DGRAM, 0, b"x", address, 3780)
    send(socket.AF_INET, socket.SOCK_DGRAM, 0, b"x", here, 3781)
    send(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW, forged, here, 0)
"""


def dropped(cluster: Cluster, node: str) -> dict[str, int]:
    """What the node's status says it has dropped, by kind."""
    found = cluster.status(node).get("dropped")
    assert isinstance(found, dict), found
    return found


def test_vrrp_and_connection_messages_of_a_stranger_are_dropped_and_counted(
    cluster: Cluster,
) -> None:
    lab = cluster.lab
    before = {node: dropped(cluster, node) for node in NODE_NAMES}
    for node, peer in zip(NODE_NAMES, reversed(NODE_NAMES), strict=True):
        # What is forged must come as far as the table.
        for where in ("all", "eth0"):
            lab.exec(node, "sysctl", "-q", "-w", f"net.ipv4.conf.{where}.rp_filter=0")
        here, link = lab.addresses(node)["front"], lab.addresses(peer)["link"]
        lab.exec("client", "python3", "-c", STRANGER, here["ipv4"], here["ipv6"], link["ipv4"])
    for node in NODE_NAMES:
        # Not one more: what the peer says all the time, on the same networks, is not counted.
        now = dropped(cluster, node)
        grown = {kind: count - before[node][kind] for kind, count in now.items()}
        assert grown == {"vrrp": 2 * SENT, "conntrackd": 3 * SENT, "reports": SENT}, node
    assert cluster.master == "n1"
    code, found = nodes(cluster)
    assert (code, {node["status"] for node in found.values()}) == (0, {"ok"})
