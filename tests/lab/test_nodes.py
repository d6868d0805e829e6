# SPDX-License-Identifier: GPL-3.0-or-later
# What `zcluster nodes` and its neighbours say: the truth, probed when they are asked.
from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from product import ROOT, Cluster, eventually, tool
from traffic import traffic

pytestmark = pytest.mark.lab


def zcluster(cluster: Cluster, *arguments: str, timeout: float = 120) -> tuple[int, str]:
    """Run the command as a user does; exit code and standard output."""
    done = subprocess.run(
        [tool("zcluster"), "-i", str(cluster.inventory), *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return done.returncode, done.stdout


def nodes(cluster: Cluster) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and the nodes by hostname."""
    code, out = zcluster(cluster, "nodes", "--output", "json")
    document = json.loads(out)
    listed = document["nodes"] if isinstance(document, dict) else document
    return code, {node["hostname"]: node for node in listed}


def test_nodes_shows_both_nodes_as_they_are(cluster: Cluster) -> None:
    code, found = nodes(cluster)
    assert code == 0
    for node, role, which in (("n1", "master", "local"), ("n2", "backup", "remote")):
        assert found[node]["node"] == which
        assert found[node]["role"] == role
        assert found[node]["status"] == "ok"
        assert found[node]["sync"] == "in sync"
        assert found[node]["cluster"] == "lab"
        assert found[node]["ip"] == cluster.lab.settings.address("link", 11 if node == "n1" else 12)
    code, out = zcluster(cluster, "show")
    assert code == 0
    for word in ("eth2", "disabled", "0.1", cluster.lab.settings.address("front", 100), "haproxy"):
        assert word in out
    code, out = zcluster(cluster, "status")
    assert code == 0
    assert "master" in out


def test_unreachable_node_is_grey_and_does_not_hide_the_other(cluster: Cluster) -> None:
    cluster.lab.power_off("n2")
    code, found = nodes(cluster)
    assert code == 3
    assert found["n2"]["status"] == "unreachable"
    assert found["n2"]["message"].startswith("Node unreachable")
    assert found["n1"]["role"] == "master"
    assert found["n1"]["status"] == "ok"
    assert "n2 is unreachable" in found["n1"]["message"]


@pytest.mark.parametrize("service", ["keepalived", "conntrackd"])
def test_dead_daemon_on_the_backup_is_red_and_named(cluster: Cluster, service: str) -> None:
    cluster.lab.exec("n2", "systemctl", "stop", f"{service}.service")
    code, found = nodes(cluster)
    assert code == 2
    assert found["n2"]["status"] == "failure"
    assert f"Failed services: {service}" in found["n2"]["message"]


def test_dead_manager_is_red_and_named(cluster: Cluster) -> None:
    cluster.lab.exec("n1", "systemctl", "stop", "zcluster.service")
    code, found = nodes(cluster)
    assert code == 2
    assert "Failed services: zclustermanager" in found["n1"]["message"]
    assert found["n1"]["role"] == "master"


def test_stopped_manager_is_red_and_named_and_a_ping_needs_no_more_than_one_of_two(
    cluster: Cluster,
) -> None:
    def peer_of_n1() -> tuple[bool, bool]:
        seen = cluster.status("n1")["peer"]
        return seen["reachable"], seen["trusted"]

    # The daemon answers the peer without the receiver, the receiver without the daemon.
    cluster.lab.exec("n2", "systemctl", "stop", "zcluster-receive.socket")
    assert peer_of_n1() == (True, True)
    cluster.lab.exec("n2", "systemctl", "start", "zcluster-receive.socket")
    # Its sockets take connections, but nobody answers: then the node is looked at without it.
    cluster.lab.exec("n2", "systemctl", "kill", "--signal=STOP", "zcluster.service")
    assert peer_of_n1() == (True, True)
    assert "Failed services: zclustermanager" in cluster.status("n2")["message"]


@pytest.mark.matrix
def test_stopped_manager_is_ended_by_its_watchdog_and_started_anew(cluster: Cluster) -> None:
    cluster.lab.exec("n1", "systemctl", "kill", "--signal=STOP", "zcluster.service")
    count = ("systemctl", "show", "--property=NRestarts", "--value", "zcluster.service")
    # WatchdogSec, and what systemd gives it to end by itself.
    eventually(
        "it is started anew",
        lambda: cluster.lab.exec("n1", *count).stdout.strip() == "1",
        timeout=90,
    )
    cluster.wait_settled()
    assert cluster.master == "n1"


def test_virtual_ip_missing_on_the_master_is_red(cluster: Cluster) -> None:
    # keepalived puts back what is taken away by hand, unless it cannot look.
    vip = cluster.lab.vips()["front_proxy"]
    cluster.lab.exec("n2", "systemctl", "stop", "keepalived.service")
    cluster.lab.exec("n1", "systemctl", "kill", "--signal=STOP", "keepalived.service")
    cluster.lab.exec("n1", "ip", "address", "delete", vip, "dev", "eth0")
    code, found = nodes(cluster)
    assert code == 2
    assert "Failed services: keepalived" in found["n1"]["message"]
    assert vip.partition("/")[0] not in found["n1"]["vips_held"]


def test_lost_firewall_table_is_red(cluster: Cluster) -> None:
    cluster.lab.exec("n1", "nft", "delete", "table", "inet", "zcluster")
    code, found = nodes(cluster)
    assert code == 2
    assert "table inet zcluster is missing" in found["n1"]["message"]


def test_flushed_ruleset_takes_the_table_away_only_until_nftables_has_loaded(
    cluster: Cluster,
) -> None:
    cluster.lab.exec("n1", "systemctl", "reload", "nftables.service")
    code, _ = nodes(cluster)
    assert code == 0


def figure(cluster: Cluster, node: str, name: str) -> int:
    """What the status of a node says of its connections; less than any where it says nothing."""
    said = cluster.status(node).get("connections")
    return int(said.get(name, -1)) if isinstance(said, dict) else -1


def test_connection_tracking_that_hears_no_peer_is_red_and_how_far_behind_it_is_is_said(
    cluster: Cluster,
) -> None:
    words = "connection tracking hears no peer"
    with traffic(cluster.lab, "--short-rate", "100", connections=50):
        eventually("n1 tracks them", lambda: figure(cluster, "n1", "tracked") >= 50)
        eventually("n2 knows them", lambda: figure(cluster, "n2", "foreign") >= 50)
        cluster.lab.exec("n2", "nft", "add rule inet zcluster input udp dport 3780 counter drop")
        # A link is looked at now and then, and silent only after a while: by its own manager first.
        eventually(words, lambda: words in str(cluster.status("n2").get("message")), timeout=60)
        # An acknowledgement window (ACKWindowSize, 300 messages) is normal.
        eventually("n2 is behind", lambda: figure(cluster, "n1", "unconfirmed") > 900, timeout=60)
    code, found = nodes(cluster)
    assert code == 2
    assert words in found["n2"]["message"]
