# SPDX-License-Identifier: GPL-3.0-or-later
# Rolling update and a new machine in the place of a dead one, under live traffic.
from __future__ import annotations

import json
from typing import Any

import pytest
from product import Cluster, create_cluster
from test_nodes import nodes, zcluster
from test_planned import insist_nothing_lost, kill_run, wait_for
from traffic import traffic

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
    with traffic(cluster.lab) as noticed:
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
    with traffic(cluster.lab) as noticed:
        kill_run(
            cluster.inventory,
            "update",
            when=lambda: cluster.status("n2").get("role") == "maintenance",
        )
        code, said = update(cluster, "--back")
        assert code == 0, said
        assert cluster.master == "n1"
    insist_nothing_lost(noticed)
    for node in ("n1", "n2"):
        assert keepalived(cluster, node).endswith(".zcl1")
        cluster.lab.exec(node, "test", "!", "-e", "/var/lib/zcluster/updating")
    code, out = zcluster(cluster, "history", "--output", "json")
    ended = [(e["event"], e["to"], e["cause"]) for e in json.loads(out) if e["event"] == "update"]
    assert ("update", "failed", "its run ended before it was done") in ended


OLDER = "/usr/lib/zcluster/zclustermanager/__init__.py"


def test_zcluster_itself_is_updated_node_by_node_and_loses_nothing(cluster: Cluster) -> None:
    edit = f"sed -i 's/^__version__.*/__version__ = \"0.0.1\"/' {OLDER}"
    for node in ("n1", "n2"):
        cluster.lab.exec(node, "sh", "-c", f"{edit} && systemctl restart zcluster.service")
    cluster.wait_settled()
    assert {cluster.status(node)["versions"]["zcluster"] for node in ("n1", "n2")} == {"0.0.1"}  # type: ignore[index]
    with traffic(cluster.lab) as noticed:
        code, said = update(cluster, "--zcluster", "--back")
    assert code == 0, said
    insist_nothing_lost(noticed)
    assert cluster.master == "n1"
    for node in ("n1", "n2"):
        assert cluster.status(node)["versions"]["zcluster"] != "0.0.1"  # type: ignore[index]
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


def test_new_machine_takes_the_place_of_a_dead_one_while_the_service_runs(
    cluster: Cluster,
) -> None:
    lab = cluster.lab
    lab.power_off("n2")
    replace = ("-e", "zcluster_node=n2")
    with traffic(lab) as noticed:
        lab.restore("bare", nodes=["n2"])
        run = create_cluster(lab, cluster.inventory, *replace, playbook="zcluster.ha.replace")
    assert run.returncode == 0, run.output
    insist_nothing_lost(noticed)
    cluster.wait_settled()
    assert cluster.master == "n1"
    run = create_cluster(lab, cluster.inventory, *replace, playbook="zcluster.ha.replace")
    assert (run.returncode, run.changed()) == (0, 0), run.output
    # It has everything, and serves when the other dies.
    wait_for(cluster, "n2", ready=True)
    with traffic(lab) as noticed:
        lab.power_off("n1")
        wait_for(cluster, "n2", role="master", timeout=30)
    assert noticed.tcp_alive == noticed.tcp_opened == 100


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
    assert "n2 is alive: nothing was changed" in run.output
    cluster.wait_settled()
    assert cluster.master == "n1"
