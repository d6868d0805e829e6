# SPDX-License-Identifier: GPL-3.0-or-later
# A node dies: the other takes over, and what was established stays established.
from __future__ import annotations

import time
from collections import Counter

import pytest
from faults import Field, deafen, hear_adverts
from product import Cluster, eventually
from traffic import traffic
from zcluster_lab import NODES

pytestmark = pytest.mark.lab


def holders(cluster: Cluster, address: str) -> list[str]:
    """The running nodes that have an address."""
    states = cluster.lab.states()
    return [
        node
        for node in ("n1", "n2")
        if states.get(node) == "running"
        and address in cluster.lab.exec(node, "ip", "-o", "address").stdout
    ]


def wait_for_holder(cluster: Cluster, node: str) -> None:
    """Until a node, and only that one, has the virtual IP."""
    vip = cluster.lab.settings.address("front", 100)
    eventually(f"{node} alone has {vip}", lambda: holders(cluster, vip) == [node])


def test_power_loss_of_the_master_keeps_every_established_connection(cluster: Cluster) -> None:
    vip = cluster.lab.settings.address("front", 100)
    with traffic(cluster.lab, connections=200) as noticed:
        cluster.lab.power_off("n1")
        wait_for_holder(cluster, "n2")
    assert noticed.tcp_alive == noticed.tcp_opened == 200
    assert noticed.tcp_reset == 0
    assert holders(cluster, vip) == ["n2"]
    # How long that takes is the benchmark's business.
    assert noticed.longest_gap_ms > 0
    cluster.lab.power_on("n1")
    cluster.wait_settled()
    assert cluster.master == "n2"
    assert holders(cluster, vip) == ["n2"]


def test_returning_node_does_not_take_the_addresses_back(cluster: Cluster) -> None:
    cluster.lab.power_off("n1")
    wait_for_holder(cluster, "n2")
    with traffic(cluster.lab, connections=50) as noticed:
        cluster.lab.power_on("n1")
        cluster.wait_settled()
    assert noticed.udp_lost == 0
    assert noticed.tcp_alive == 50
    assert cluster.master == "n2"


def test_second_power_loss_the_other_way_keeps_connections_too(cluster: Cluster) -> None:
    with traffic(cluster.lab, connections=100) as noticed:
        cluster.lab.power_off("n1")
        wait_for_holder(cluster, "n2")
        cluster.lab.power_on("n1")
        cluster.wait_settled()
        cluster.wait_ready("n1")
        cluster.lab.power_off("n2")
        wait_for_holder(cluster, "n1")
    assert noticed.tcp_alive == noticed.tcp_opened == 100
    assert noticed.tcp_reset == 0


def test_reload_of_the_heartbeat_keeps_the_master_and_loses_nothing(cluster: Cluster) -> None:
    with traffic(cluster.lab, connections=50) as noticed:
        for _ in range(3):
            cluster.lab.exec("n1", "systemctl", "reload", "keepalived.service")
            time.sleep(2)
    assert cluster.master == "n1"
    assert noticed.udp_lost == 0
    assert noticed.tcp_alive == 50


def test_killed_keepalived_leaves_no_address_behind(cluster: Cluster) -> None:
    cluster.lab.exec(
        "n1", "systemctl", "kill", "--kill-whom=all", "--signal=KILL", "keepalived.service"
    )
    wait_for_holder(cluster, "n2")
    cluster.wait_settled()


# As a kill leaves them; the number in them is a living process's by now.
LEFT = """
systemctl stop keepalived.service conntrackd.service
mkdir -p /run/keepalived
for file in keepalived.pid keepalived/keepalived.pid vrrp.pid keepalived_vrrp.pid; do
    echo 1 >/run/$file
done
touch /run/lock/conntrackd-zcluster.lock /run/conntrackd.ctl
systemctl start keepalived.service conntrackd.service
"""


@pytest.mark.matrix
def test_stale_pid_and_lock_files_keep_no_daemon_from_starting(cluster: Cluster) -> None:
    cluster.lab.exec("n2", "sh", "-ec", LEFT, timeout=60)
    shown = ("systemctl", "show", "--property=ActiveState,NRestarts", "--value")
    said = cluster.lab.exec("n2", *shown, "keepalived.service", "conntrackd.service").stdout
    # At the first attempt.
    assert sorted(said.split()) == ["0", "0", "active", "active"]
    cluster.wait_settled()
    assert cluster.master == "n1"


# Gratuitous ones alone: who asks for its own address (RFC 826, sender and target of the same).
GRATUITOUS = ("tcpdump", "-l", "-n", "-q", "-t", "-i", "eth0", "arp[14:4] = arp[24:4]")


@pytest.mark.matrix
def test_split_that_heals_leaves_no_client_with_the_loser_and_is_no_storm(cluster: Cluster) -> None:
    lab, at = cluster.lab, Field(cluster)
    vip = lab.settings.address("front", 100)
    assert NODES["client"].interface("front") == "eth0"
    with traffic(lab, connections=20) as noticed:
        listening, began = lab.start_process("client", *GRATUITOUS), time.monotonic()
        # The master hears the other one all the time, and speaks up at each of its adverts.
        deafen("backup")(at)
        assert holders(cluster, vip) == ["n1", "n2"]
        hear_adverts(at)
        took = time.monotonic() - began
        cluster.wait_settled()
        said = lab.stop_process(listening)
        hardware = lab.exec(cluster.master, "cat", "/sys/class/net/eth0/address").stdout.strip()
        assert hardware in lab.exec("client", "ip", "neighbour", "show", vip).stdout
    assert noticed.tcp_alive == noticed.tcp_opened == 20
    counts = Counter(line.split(" tell ")[-1].split(",")[0] for line in said.splitlines())
    # keepalived announces the addresses of the group once for each instance that hears an advert.
    rate = len(at.settings()["networks"]) / at.settings()["check_interval"]
    assert 0 < max(counts.values()) <= 10 + rate * took, counts


def test_dead_cluster_link_is_no_reason_to_stop_serving(cluster: Cluster) -> None:
    with traffic(cluster.lab, connections=50) as noticed:
        cluster.lab.cut("n1", "link")
        time.sleep(3)
        assert holders(cluster, cluster.lab.settings.address("front", 100)) == ["n1"]
        cluster.lab.heal("n1", "link")
    assert noticed.udp_lost == 0
    assert noticed.tcp_alive == 50
    cluster.wait_settled()


def test_both_nodes_cold_started_end_with_one_master(cluster: Cluster) -> None:
    for node in ("n1", "n2"):
        cluster.lab.power_off(node)
    for node in ("n1", "n2"):
        cluster.lab.power_on(node, wait=False)
    for node in ("n1", "n2"):
        cluster.lab.wait_booted(node)
    cluster.wait_settled()
    assert len(holders(cluster, cluster.lab.settings.address("front", 100))) == 1
