# SPDX-License-Identifier: GPL-3.0-or-later
# Rolling update and a new machine in the place of a dead one, under live traffic.
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from faults import CONNECTIONS, clients
from product import NODE_NAMES, Cluster, create_cluster, secret_vars
from test_nodes import nodes, zcluster
from test_planned import declare, insist_nothing_lost, kill_run, ok, wait_for
from test_planned import zcluster as typed

pytestmark = [pytest.mark.lab, pytest.mark.matrix]

# Rebuilds the installed keepalived as a higher version into the node's local repository.
REPACK = r"""
set -eu
cd /srv/packages
old=$(ls keepalived_*.deb | head -1)
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
dpkg-deb --raw-extract "$old" "$new/root"
version=$(dpkg-query --show --showformat='${Version}' keepalived)
sed -i "s/^Version: .*/Version: $version.zcl1/" "$new/root/DEBIAN/control"
[ -z "${BROKEN:-}" ] || printf '#!/bin/sh\nexit 1\n' > "$new/root/DEBIAN/preinst"
[ -z "${BROKEN:-}" ] || chmod 755 "$new/root/DEBIAN/preinst"
rm -f keepalived_*zcl1*.deb
dpkg-deb --build "$new/root" keepalived_zcl1.deb >/dev/null
: > Packages
for deb in *.deb; do
    dpkg-deb --field "$deb" >> Packages
    printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$deb" "$(stat -c %s "$deb")" \
        "$(sha256sum "$deb" | cut -d' ' -f1)" >> Packages
done
printf 'Origin: zcluster-lab\nLabel: zcluster-lab\nArchitectures: all amd64 arm64\n' > Release
printf 'Date: Fri, 02 Jan 2026 00:00:00 UTC\nSHA256:\n %s %s Packages\n' \
    "$(sha256sum Packages | cut -d' ' -f1)" "$(stat -c %s Packages)" >> Release
"""


def offer_newer_keepalived(cluster: Cluster, node: str, *, broken: bool = False) -> None:
    """A higher version of keepalived in the package repository of a node."""
    switch = "BROKEN=1; " if broken else ""
    cluster.lab.exec(node, "sh", "-c", switch + REPACK, timeout=120)


def keepalived(cluster: Cluster, node: str) -> str:
    """The installed version."""
    query = ("dpkg-query", "--show", "--showformat=${Version}", "keepalived")
    return str(cluster.lab.exec(node, *query).stdout)


def update(cluster: Cluster, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run it as a user does; exit code and what it says."""
    code, out = zcluster(cluster, "update", "--output", "json", *arguments, timeout=600)
    return code, json.loads(out)


def test_rolling_update_loses_nothing_and_the_second_run_changes_nothing(
    cluster: Cluster,
) -> None:
    for node in ("n1", "n2"):
        offer_newer_keepalived(cluster, node)
    with clients(cluster.lab) as noticed:
        code, said = update(cluster)
    assert code == 0, said
    insist_nothing_lost(noticed)
    for node in ("n1", "n2"):
        assert keepalived(cluster, node).endswith(".zcl1")
    cluster.wait_settled()
    assert cluster.master == "n2"
    code, said = update(cluster)
    assert code == 0, said
    assert said["changes"] == []
    assert cluster.master == "n2"


def test_update_with_failback_ends_with_the_preferred_node(
    cluster: Cluster, tmp_path: Path
) -> None:
    mine = declare(cluster, tmp_path)
    ok(typed(mine, "configure", "--failback", "n1"))
    cluster.wait_settled()
    for node in NODE_NAMES:
        offer_newer_keepalived(cluster, node)
    with clients(cluster.lab) as noticed:
        ok(typed(mine, "update"))
        wait_for(cluster, "n1", role="master", status="ok")
        cluster.wait_settled()
    insist_nothing_lost(noticed)
    for node in NODE_NAMES:
        assert keepalived(cluster, node).endswith(".zcl1")
    assert "Nothing to do" in ok(typed(mine, "update")).output
    assert cluster.master == "n1"


def test_update_stops_at_the_first_red_says_the_way_on_and_goes_on_from_there(
    cluster: Cluster,
) -> None:
    offer_newer_keepalived(cluster, "n1")
    offer_newer_keepalived(cluster, "n2", broken=True)
    before = keepalived(cluster, "n1")
    code, said = update(cluster)
    assert code != 0
    assert "Way on: repair n2" in json.dumps(said)
    assert keepalived(cluster, "n1") == before
    assert cluster.status("n1")["role"] == "master"
    assert cluster.status("n2")["role"] == "maintenance"

    offer_newer_keepalived(cluster, "n2")
    code, said = update(cluster)
    assert code == 0, said
    cluster.wait_settled()
    assert keepalived(cluster, "n1") == keepalived(cluster, "n2") != before


def test_killed_update_leaves_an_orange_node_and_the_next_one_finishes_it(cluster: Cluster) -> None:
    for node in ("n1", "n2"):
        offer_newer_keepalived(cluster, node)
    with clients(cluster.lab) as noticed:
        kill_run(cluster.inventory, "update", at="Update the packages")
        assert cluster.status("n2")["role"] == "maintenance"
        code, said = update(cluster, "--back")
        assert code == 0, said
        assert cluster.master == "n1"
    insist_nothing_lost(noticed)
    for node in ("n1", "n2"):
        assert keepalived(cluster, node).endswith(".zcl1")
        cluster.lab.exec(node, "test", "!", "-e", "/var/lib/zcluster/updating")
    _, out = zcluster(cluster, "history", "--last", "2000", "--output", "json")
    ended = [(e["event"], e["to"], e["cause"]) for e in json.loads(out) if e["event"] == "update"]
    assert ("update", "failed", "its run ended before it was done") in ended


OLDER = "/usr/lib/zcluster/zclustermanager/__init__.py"


def versions(cluster: Cluster) -> list[str]:
    """The versions of zcluster that the nodes have."""
    return [cluster.status(node)["versions"]["zcluster"] for node in NODE_NAMES]  # type: ignore[index]


def make_older(cluster: Cluster) -> None:
    """Both nodes have an older zcluster than runs here."""
    edit = f"sed -i 's/^__version__.*/__version__ = \"0.0.1\"/' {OLDER}"
    for node in NODE_NAMES:
        cluster.lab.exec(node, "sh", "-c", f"{edit} && systemctl restart zcluster.service")
    cluster.wait_settled()
    assert versions(cluster) == ["0.0.1"] * 2


def test_zcluster_itself_is_updated_node_by_node_and_loses_nothing(cluster: Cluster) -> None:
    make_older(cluster)
    # An update of both at once is not what a change of settings is.
    words = ("configure", "--check-interval", "0.2", "--output", "json")
    code, out = zcluster(cluster, *words, timeout=300)
    assert code != 0
    assert "zcluster update --zcluster" in out
    with clients(cluster.lab) as noticed:
        code, said = update(cluster, "--zcluster", "--back")
    assert code == 0, said
    insist_nothing_lost(noticed)
    assert cluster.master == "n1"
    assert "0.0.1" not in versions(cluster)
    code, said = update(cluster, "--zcluster")
    assert (code, said["changes"]) == (0, [])


def test_versions_that_differ_are_shown_and_not_red(cluster: Cluster) -> None:
    offer_newer_keepalived(cluster, "n2")
    script = (
        "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y keepalived"
    )
    cluster.lab.exec("n2", "sh", "-c", script, timeout=120)
    cluster.wait_settled()
    code, found = nodes(cluster)
    assert code == 0
    assert "versions differ: keepalived" in found["n1"]["message"]


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_new_machine_takes_the_place_of_a_dead_one_while_the_service_runs(
    cluster: Cluster, node: str
) -> None:
    lab = cluster.lab
    other = {"n1": "n2", "n2": "n1"}[node]
    lab.power_off(node)
    wait_for(cluster, other, role="master")
    # The new machine is there before the traffic: what its arrival does is the lab's business.
    lab.restore("bare", nodes=[node])
    replace = ("-e", f"zcluster_node={node}")
    with clients(lab) as noticed:
        run = create_cluster(lab, cluster.inventory, *replace, playbook="zcluster.ha.replace")
    assert run.returncode == 0, run.output
    insist_nothing_lost(noticed)
    cluster.wait_settled()
    assert cluster.master == other
    run = create_cluster(lab, cluster.inventory, *replace, playbook="zcluster.ha.replace")
    assert (run.returncode, run.changed()) == (0, 0), run.output
    # It has everything, and serves when the other dies.
    wait_for(cluster, node, ready=True)
    with clients(lab) as noticed:
        lab.power_off(other)
        wait_for(cluster, node, role="master", timeout=30)
    assert noticed.tcp_alive == noticed.tcp_opened == CONNECTIONS, noticed.report


def test_living_node_is_not_replaced(cluster: Cluster) -> None:
    run = create_cluster(
        cluster.lab,
        cluster.inventory,
        *(
            "-e",
            "zcluster_node=n2",
            "-e",
            f"zcluster_with={cluster.lab.settings.address('front', 99)}",
        ),
        playbook="zcluster.ha.replace",
    )
    assert run.returncode != 0
    assert "n2 is alive, and reached as the inventory says: nothing was changed" in run.output
    cluster.wait_settled()
    assert cluster.master == "n1"


def test_inventory_leads_to_the_new_machine_once_it_is_a_node(
    cluster: Cluster, tmp_path: Path
) -> None:
    mine = declare(cluster, tmp_path)
    addresses = [cluster.lab.settings.address(network, 12) for network in ("front", "link")]
    true = (mine / "hosts.yml").read_text()
    # Nobody has the addresses that the old machine had.
    old = true
    for address in addresses:
        old = old.replace(address, address.removesuffix("12") + "99")
    (mine / "hosts.yml").write_text(old)
    words = ("replace", "n2", "--with", addresses[0], "--with-ip", addresses[1], "--yes")
    check = ok(typed(mine, *words, "--check"))
    assert (mine / "hosts.yml").read_text() == old
    for variable, address in zip(("ansible_host", "zcluster_ip"), addresses, strict=True):
        assert f'+      {variable}: "{address}"' in check.output
    assert "1 steps would be changed on localhost" in check.output
    assert "1 steps changed on localhost" in ok(typed(mine, *words)).output
    assert yaml.safe_load((mine / "hosts.yml").read_text()) == yaml.safe_load(true)
    assert "Nothing to do" in ok(typed(mine, *words)).output
    cluster.wait_settled()


# Each run comes further than the one before, and what all of them left is finished by the last.
REPLACE_POINTS = (
    "Put the peer's keys in place",
    "Put zclustermanager and the cluster's settings in place",
    "Wait until the backup has the configuration",
    "Start the heartbeat of the backup",
    "Mark the cluster as verified",
)


def test_replace_killed_at_five_points_is_finished_by_the_next(cluster: Cluster) -> None:
    lab = cluster.lab
    lab.power_off("n2")
    wait_for(cluster, "n1", role="master")
    lab.restore("bare", nodes=["n2"])
    with clients(lab) as noticed:
        with secret_vars(zcluster_root_password=lab.settings.root_password) as (_, secret):
            for point in REPLACE_POINTS:
                kill_run(cluster.inventory, "replace", "zcluster_node=n2", secret, at=point)
                assert cluster.master == "n1", point
        # The operator's key is there now.
        code, out = zcluster(cluster, "replace", "n2", "--yes", timeout=600)
        assert code == 0, out
        cluster.wait_settled()
    insist_nothing_lost(noticed)
    assert cluster.master == "n1"
    wait_for(cluster, "n2", ready=True)
    for node in NODE_NAMES:
        lab.exec(node, "test", "!", "-e", "/run/zcluster.lease")
        lab.exec(node, "test", "!", "-e", "/run/zcluster/checkpoint/create.json")


# The same: of the first node, of the second, and of the way back. A task that finds nothing to do
# is begun, too.
UPDATE_POINTS = (
    ("Take the node out of service", 1, "n2", "backup"),
    ("Restart zclustermanager", 1, "n2", "maintenance"),
    ("Wait until the node is green", 1, "n2", "backup"),
    ("Update the packages", 2, "n1", "maintenance"),
    ("Hand over", 1, "n1", "backup"),
)


def test_update_killed_at_five_points_still_goes_back_when_it_was_asked_to(
    cluster: Cluster,
) -> None:
    make_older(cluster)
    for node in NODE_NAMES:
        offer_newer_keepalived(cluster, node)
    both = ("zcluster_update_self=true", "zcluster_update_back=true")
    with clients(cluster.lab) as noticed:
        code, said = update(cluster, "--package", "keepalived", "--check")
        assert (code, cluster.master) == (0, "n1"), said
        predicted = [change["step"] for change in said["changes"]]
        for point, nth, node, role in UPDATE_POINTS:
            kill_run(cluster.inventory, "update", *both, at=point, nth=nth)
            assert cluster.status(node)["role"] == role, point
        assert cluster.master == "n2"
        code, said = update(cluster, "--zcluster", "--back")
        assert code == 0, said
        assert cluster.master == "n1"
    insist_nothing_lost(noticed)
    assert predicted == ["Update the packages"] * 2
    assert "0.0.1" not in versions(cluster)
    for node in NODE_NAMES:
        assert keepalived(cluster, node).endswith(".zcl1")
        for left in ("/var/lib/zcluster/updating", "/run/zcluster.lease"):
            cluster.lab.exec(node, "test", "!", "-e", left)
