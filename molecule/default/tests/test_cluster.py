# SPDX-License-Identifier: GPL-3.0-or-later
# What create promises of the pair: one master, one backup, and the clients are served.
from __future__ import annotations

import json

from pair import Node
from testinfra.host import Host

SYNCHRONIZED = ("/etc/nftables.conf", "/etc/haproxy/haproxy.cfg")


def test_both_nodes_are_green(node: Node) -> None:
    failed = [check for check in node.status["checks"] if not check["ok"]]
    assert node.status["status"] == "ok", (node.status["message"], failed)
    assert node.status["sync"] == "in sync"
    assert node.status["peer"]["reachable"]


def test_there_is_exactly_one_master(nodes: dict[str, Node]) -> None:
    assert sorted(node.status["role"] for node in nodes.values()) == ["backup", "master"]


def test_the_master_is_the_one_that_was_asked_for(node: Node, master: Node) -> None:
    assert master.name == node.variables["zcluster_initial_master"]
    assert master.status["hostname"] == node.status["initial_master"]


def test_virtual_addresses_are_on_the_master_and_only_there(node: Node) -> None:
    assert len(node.vips) == 5
    held = node.addresses.keys() & set(node.vips)
    assert held == (set(node.vips) if node.status["role"] == "master" else set())


def test_the_backup_has_the_configuration_of_the_master(nodes: dict[str, Node]) -> None:
    contents = [node.read(*SYNCHRONIZED) for node in nodes.values()]
    assert contents[0] == contents[1]
    assert "dnat to" in contents[0][0]


def test_clients_are_served_through_the_virtual_addresses(master: Node, client: Host) -> None:
    forwarded, proxied, *_ = master.vips
    report = json.loads(
        client.check_output(
            "python3 /usr/local/bin/zcluster_traffic.py run --seconds 2 --connections 20 "
            "--vip %s --http %s:8080 --short-rate 20",
            forwarded.partition("/")[0],
            proxied.partition("/")[0],
        )
    )
    assert report["udp_lost"] == 0
    assert (report["tcp_opened"], report["tcp_alive"]) == (20, 20)
    assert (report["short_failed"], report["http_failed"]) == (0, 0)
    assert min(report["short_opened"], report["http_ok"]) > 0
    assert len(report["http_servers"]) == 4, "every address of the backend"
