# SPDX-License-Identifier: GPL-3.0-or-later
# Health beyond "the peer is silent": a dead link with its carrier up, a keepalived that is stopped,
# a node that comes back with settings of yesterday.
from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from product import Cluster

pytestmark = pytest.mark.lab

SETTINGS = "/etc/zcluster/cluster.json"


def wait_until(what: Callable[[], bool], why: str, timeout: float = 75) -> None:
    """Until it is so; the wait is generous, what is waited for is the promise."""
    end = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < end, why
        time.sleep(0.2)


def holders(cluster: Cluster) -> list[str]:
    """The running nodes that have the first virtual IP."""
    vip = cluster.lab.settings.address("front", 100)
    states = cluster.lab.states()
    return [
        node
        for node in ("n1", "n2")
        if states.get(node) == "running"
        and f" {vip}/" in cluster.lab.exec(node, "ip", "-o", "address").stdout
    ]


def has_seen(cluster: Cluster, node: str, network: str) -> bool:
    """Whether the prober of a node has seen a witness answer on a network."""
    path = cluster.status(node).get("path")
    seen = path["witnesses"].get(network, {}) if isinstance(path, dict) else {}
    return "answers" in seen.values()


@pytest.fixture
def probing(cluster: Cluster) -> Cluster:
    """A cluster whose nodes have both seen their witnesses."""
    for node in ("n1", "n2"):
        for network in ("eth0", "eth1"):
            wait_until(
                lambda node=node, network=network: has_seen(cluster, node, network),  # type: ignore[misc]
                f"{node} sees no witness on {network}: {cluster.status(node)}",
            )
    return cluster


@pytest.mark.parametrize("network", ["front", "back"])
def test_silently_dead_link_moves_the_service_and_heals(probing: Cluster, network: str) -> None:
    probing.lab.silence("n1", network)
    wait_until(lambda: holders(probing) == ["n2"], "the service did not move")
    wait_until(
        lambda: "no witness answers on" in str(probing.status("n1").get("message")),
        f"n1 does not say so: {probing.status('n1')}",
    )
    probing.lab.heal("n1", network)
    probing.wait_settled()
    assert probing.master == "n2"


def test_witness_that_dies_for_both_nodes_moves_nothing(probing: Cluster) -> None:
    probing.lab.silence("backend", "back")
    wait_until(
        lambda: all("eth1" in str(probing.status(node).get("message")) for node in ("n1", "n2")),
        "the nodes do not notice",
    )
    assert holders(probing) == ["n1"]
    probing.lab.heal("backend", "back")
    probing.wait_settled()
    assert probing.master == "n1"


def test_stopped_keepalived_keeps_no_address_once_the_peer_serves(cluster: Cluster) -> None:
    cluster.lab.exec(
        "n1", "systemctl", "kill", "--kill-whom=all", "--signal=STOP", "keepalived.service"
    )
    wait_until(lambda: holders(cluster) == ["n2"], "n1 keeps the address")
    cluster.wait_settled()
    assert cluster.master == "n2"


def test_returning_node_with_older_settings_stays_down_while_the_peer_answers(
    cluster: Cluster,
) -> None:
    def revise(node: str, by: int) -> None:
        settings = json.loads(cluster.lab.exec(node, "cat", SETTINGS).stdout)
        settings["revision"] += by
        text = json.dumps(settings)
        cluster.lab.exec(node, "sh", "-c", f"cat >{SETTINGS} <<'EOF'\n{text}\nEOF")

    cluster.lab.power_off("n1")
    wait_until(lambda: holders(cluster) == ["n2"], "n2 does not take over")
    revise("n2", 1)
    cluster.lab.exec("n2", "systemctl", "restart", "zcluster.service")
    cluster.lab.power_on("n1")
    wait_until(
        lambda: "run zcluster create again" in str(cluster.status("n1").get("message")),
        f"n1 does not say so: {cluster.status('n1')}",
    )
    assert cluster.status("n1")["status"] == "failure"
    assert holders(cluster) == ["n2"]
    revise("n1", 1)
    cluster.lab.exec("n1", "systemctl", "restart", "zcluster.service")
    cluster.wait_settled()
    assert cluster.master == "n2"


# As where a boot takes longer than it may (TimeoutStartSec), but at once.
UNASKED = "/run/systemd/system/zcluster-boot.service.d/zzz-unasked.conf"
FAIL_TO_ASK = f"""
mkdir -p {UNASKED.rpartition("/")[0]}
printf '[Service]\\nExecStart=\\nExecStart=/bin/false\\n' >{UNASKED}
systemctl daemon-reload
systemctl stop zcluster-boot.service
! systemctl start keepalived.service
"""


def test_node_that_could_not_ask_its_peer_at_boot_joins_by_itself(cluster: Cluster) -> None:
    cluster.lab.exec("n2", "sh", "-ec", FAIL_TO_ASK, timeout=60)
    assert "Failed services: keepalived" in str(cluster.status("n2").get("message"))
    cluster.lab.exec("n2", "sh", "-ec", f"rm {UNASKED}; systemctl daemon-reload")
    cluster.wait_settled()
    assert cluster.master == "n1"
