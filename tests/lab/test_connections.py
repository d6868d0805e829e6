# SPDX-License-Identifier: GPL-3.0-or-later
# Connections across a failover: the same backend as before, whatever the protocol and however many.
from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen

import pytest
from product import Cluster, eventually
from traffic import traffic
from zcluster_lab import FORWARD_PORT, Lab

pytestmark = pytest.mark.lab

FLOWS = 100
FIRST = {"udp": 30000, "tcp": 31000}

# Datagrams from many ports, for ever.
DATAGRAMS = """
import socket, sys, time
flows = []
for port in range(int(sys.argv[3]), int(sys.argv[3]) + int(sys.argv[4])):
    flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    flow.setblocking(False)
    flow.bind(("", port))
    flow.connect((sys.argv[1], int(sys.argv[2])))
    flows.append(flow)
while True:
    for flow in flows:
        try:
            flow.send(b"flow")
        except OSError:
            pass
        time.sleep(0.001)
"""

# Connections that are reset and opened again from the same port at once, three times; then, at
# SIGTERM, how many of the last ones still answer.
REUSED = """
import json, signal, socket, struct, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
def connect(port):
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.settimeout(20)
    link.bind(("", port))
    link.connect((sys.argv[1], int(sys.argv[2])))
    return link
def answers(link):
    try:
        link.sendall(b"ping")
        return link.recv(4) == b"ping"
    except OSError:
        return False
ports = range(int(sys.argv[3]), int(sys.argv[3]) + int(sys.argv[4]))
links = []
for turn in range(3):
    for link in links:
        link.close()
    links = [connect(port) for port in ports]
    assert all(answers(link) for link in links)
signal.sigwait([signal.SIGTERM])
print(json.dumps(sum(answers(link) for link in links)), flush=True)
"""


@contextmanager
def on_client(lab: Lab, program: str, protocol: str) -> Iterator[Popen[str]]:
    """A program on the client that talks to the service from fixed ports."""
    words = (lab.settings.address("front", 100), FORWARD_PORT, FIRST[protocol], FLOWS)
    process = lab.start_process("client", "python3", "-c", program, *map(str, words))
    try:
        yield process
    finally:
        if process.poll() is None:
            lab.stop_process(process, timeout=60)


def targets(lab: Lab, node: str, protocol: str) -> dict[int, str]:
    """Client port -> the backend a node's kernel sends its connection to."""
    text = lab.exec(node, "conntrack", "-L", "-p", protocol).stdout
    state = "ESTABLISHED " if protocol == "tcp" else ""
    pattern = rf"{state}src=\S+ dst=\S+ sport=(\d+) dport={FORWARD_PORT} (?:\[\w+\] )?src=(\S+)"
    first = FIRST[protocol]
    found = {int(port): backend for port, backend in re.findall(pattern, text)}
    return {port: where for port, where in found.items() if first <= port < first + FLOWS}


def wait_for_all(lab: Lab, node: str, protocol: str) -> dict[int, str]:
    """The targets, once all flows are there."""
    end = time.monotonic() + 30
    while len(found := targets(lab, node, protocol)) < FLOWS:
        assert time.monotonic() < end, f"{node} has {len(found)} of {FLOWS} flows"
        time.sleep(0.1)
    return found


def wait_for_holder(lab: Lab, node: str) -> None:
    """Until a node has the virtual IP."""
    vip = lab.settings.address("front", 100)
    eventually(
        f"{node} has {vip}", lambda: f" {vip}/" in lab.exec(node, "ip", "-o", "address").stdout
    )


@pytest.mark.matrix
def test_datagram_flows_go_on_to_the_same_backend(cluster: Cluster) -> None:
    lab = cluster.lab
    with on_client(lab, DATAGRAMS, "udp"):
        before = wait_for_all(lab, "n1", "udp")
        time.sleep(0.5)
        lab.power_off("n1")
        after = wait_for_all(lab, "n2", "udp")
    assert {port: after.get(port) for port in before} == before


@pytest.mark.matrix
def test_reused_ports_lead_to_the_backend_of_the_new_connection(cluster: Cluster) -> None:
    lab = cluster.lab
    with on_client(lab, REUSED, "tcp") as client:
        before = wait_for_all(lab, "n1", "tcp")
        time.sleep(1)
        before = targets(lab, "n1", "tcp")
        lab.power_off("n1")
        after = wait_for_all(lab, "n2", "tcp")
        alive = json.loads(lab.stop_process(client, timeout=60))
    assert {port: after.get(port) for port in before} == before
    assert alive == FLOWS


@pytest.mark.matrix
def test_ten_thousand_connections_survive_a_power_loss_and_a_second_one(cluster: Cluster) -> None:
    lab = cluster.lab
    with traffic(lab, "--message-interval", "10", connections=10_000) as noticed:
        time.sleep(1)
        lab.power_off("n1")
        wait_for_holder(lab, "n2")
        lab.power_on("n1")
        cluster.wait_settled()
        cluster.wait_ready("n1")
        lab.power_off("n2")
        wait_for_holder(lab, "n1")
    assert noticed.tcp_alive == noticed.tcp_opened == 10_000, noticed.tcp_broken[:5]
    assert noticed.tcp_reset == 0


@pytest.mark.matrix
def test_what_has_ended_on_the_master_leaves_the_standby_too(cluster: Cluster) -> None:
    """Or the standby's table fills up with what was alive at one commit or another."""
    lab = cluster.lab
    with traffic(lab, "--interval-ms", "0", "--short-rate", "150", connections=0):
        time.sleep(100)
    end = time.monotonic() + 180
    while tracked(lab, "n2") > tracked(lab, "n1") + 100:
        assert time.monotonic() < end, f"n1 {tracked(lab, 'n1')}, n2 {tracked(lab, 'n2')}"
        time.sleep(1)


def tracked(lab: Lab, node: str) -> int:
    """How many connections a node's kernel tracks."""
    return int(lab.exec(node, "cat", "/proc/sys/net/netfilter/nf_conntrack_count").stdout)
