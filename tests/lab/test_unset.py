# SPDX-License-Identifier: GPL-3.0-or-later
# Unset: both nodes are clean, and the active one never stops serving.
from __future__ import annotations

import pytest
from product import NODE_NAMES, Cluster, Play, create_cluster, eventually, node_status, trace
from test_planned import kill_run
from traffic import traffic
from zcluster_lab import Lab

pytestmark = pytest.mark.lab

KEYS = "/root/.ssh/authorized_keys"
DEAF = """\
table ip deaf {
    chain in {
        type filter hook input priority -200
        ip protocol 112 drop
    }
}
"""


def insist_clean(lab: Lab) -> None:
    """Nothing of the cluster is left, but that n1 serves on, after a reboot too."""
    vips = {vip.partition("/")[0] for vip in lab.vips().values()}
    for node in NODE_NAMES:
        left_there = trace(lab, node)
        left = set(left_there.files.splitlines())
        unit = "/etc/systemd/system/zcluster-vips.service"
        wanted = f"/etc/systemd/system/multi-user.target.wants/{unit.rpartition('/')[2]}"
        expected = {unit, wanted} if node == "n1" else set()
        named = {path for path in left if "zcluster" in path}
        assert named == expected
        assert "/etc/keepalived/keepalived.conf" not in left
        assert left_there.user == ""
        assert "zcluster" not in left_there.tables
        addresses = set(left_there.addresses.split())
        assert vips <= addresses if node == "n1" else not vips & addresses
        assert "169.254" not in left_there.addresses
        lab.exec(node, "test", "!", "-e", KEYS)
        for unit_name in ("keepalived", "conntrackd", "zcluster"):
            said = lab.exec(node, "systemctl", "is-active", f"{unit_name}.service", check=False)
            assert said.stdout.strip() in ("inactive", "unknown", "failed"), unit_name


def test_unset_leaves_clean_nodes_and_what_it_left_serving_is_adopted_without_a_gap(
    cluster: Cluster, play: Play
) -> None:
    lab = cluster.lab
    vips = {vip.partition("/")[0] for vip in lab.vips().values()}
    for node in NODE_NAMES:  # the key of a second operator, whom a later create let in
        add = f"echo 'ssh-ed25519 AAAA second' | tee -a {KEYS} >> /var/lib/zcluster/operator_key"
        lab.exec(node, "sh", "-c", add)
    heard = lab.start_process("n2", "ip", "-oneline", "monitor", "address")
    with traffic(lab) as noticed:
        run = play("zcluster.ha.unset", inventory=cluster.inventory)
    came = lab.stop_process(heard)
    assert run.returncode == 0, run.output
    assert noticed.udp_lost == 0
    assert noticed.tcp_alive == noticed.tcp_opened == 100
    # The backup takes nothing over, for no moment.
    for address in (*vips, "169.254"):
        assert address not in came
    insist_clean(lab)

    # What serves on does so after a reboot, and a later create takes it over without a gap.
    lab.reboot("n1")
    eventually("n1 holds them", lambda: vips <= set(trace(lab, "n1").addresses.split()))
    with traffic(lab) as noticed:
        run = create_cluster(lab, cluster.inventory)
    assert run.returncode == 0, run.output
    assert noticed.udp_lost == 0
    assert noticed.tcp_alive == noticed.tcp_opened == 100
    units = lab.exec("n1", "ls", "/etc/systemd/system").stdout
    assert "zcluster-vips" not in units


def test_unset_refuses_while_the_backup_cannot_be_told(cluster: Cluster, play: Play) -> None:
    lab = cluster.lab
    vip = lab.settings.address("front", 100)
    lab.power_off("n2")
    before = trace(lab, "n1")
    with traffic(lab) as noticed:
        run = play("zcluster.ha.unset", inventory=cluster.inventory)
    assert run.returncode != 0
    words = " ".join(run.output.split())
    assert "n2 cannot be reached, and would take over what the other node keeps" in words
    assert "--limit n1" in words
    assert trace(lab, "n1") == before
    lab.exec("n1", "test", "!", "-e", "/run/zcluster.lease")
    eventually("n1 serves", lambda: node_status(lab, "n1").get("role") == "master")
    assert noticed.udp_lost == 0
    # The way out for a partner that is dead for good.
    with traffic(lab) as noticed:
        run = play("zcluster.ha.unset", "--limit", "n1", inventory=cluster.inventory)
    assert run.returncode == 0, run.output
    assert vip in lab.exec("n1", "ip", "-o", "address").stdout
    assert noticed.udp_lost == 0
    assert noticed.tcp_alive == noticed.tcp_opened == 100


def test_unset_refuses_while_both_nodes_hold_virtual_ips(cluster: Cluster, play: Play) -> None:
    lab = cluster.lab
    # A split: neither hears the other's heartbeats, but the operator reaches both.
    for node in NODE_NAMES:
        lab.exec(node, "nft", "-f", "-", stdin=DEAF)
    eventually(
        "both are master",
        lambda: all(node_status(lab, node).get("role") == "master" for node in NODE_NAMES),
    )
    before = [trace(lab, node) for node in NODE_NAMES]
    run = play("zcluster.ha.unset", inventory=cluster.inventory)
    assert run.returncode != 0
    assert "both hold virtual IPs of this cluster. Nothing was changed." in " ".join(
        run.output.split()
    )
    assert [trace(lab, node) for node in NODE_NAMES] == before
    for node in NODE_NAMES:
        lab.exec(node, "nft", "delete table ip deaf")
    cluster.wait_settled()


# Each run comes further than the one before. The node that does not serve comes first: what is
# begun a second time is the other's.
POINTS = (
    ("End keepalived", 1),
    ("Remove the user the peer came in as", 1),
    ("Enable the unit that keeps them", 1),
    ("End the daemon", 2),
    ("Remove the cluster's settings", 2),
    ("Take back the operator's key that create added", 1),
)


@pytest.mark.matrix
def test_unset_killed_at_six_points_is_finished_by_the_next(cluster: Cluster, play: Play) -> None:
    lab = cluster.lab
    with traffic(lab) as noticed:
        for point, nth in POINTS:
            kill_run(cluster.inventory, "unset", at=point, nth=nth)
        run = play("zcluster.ha.unset", inventory=cluster.inventory)
    assert run.returncode == 0, run.output
    assert noticed.udp_lost == 0
    assert noticed.tcp_alive == noticed.tcp_opened == 100
    insist_clean(lab)
    # The last run found no settings any more, and says all the same who serves on.
    for vip in lab.vips().values():
        assert vip.partition("/")[0] in run.output
    for node in NODE_NAMES:
        lab.exec(node, "test", "!", "-e", "/run/zcluster.lease")
