# SPDX-License-Identifier: GPL-3.0-or-later
# What a cluster tells of itself: history, hooks and metrics, through a power cut and a reboot.
from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from product import Cluster
from test_nodes import zcluster

pytestmark = pytest.mark.lab

METRICS = "/var/lib/prometheus/node-exporter"
HOOK = """#!/bin/sh
echo "$ZCLUSTER_EVENT ${ZCLUSTER_CONDITION:-$ZCLUSTER_FROM $ZCLUSTER_TO}" >> /root/told
"""


def until(what: str, probe: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not probe():
        assert time.monotonic() < end, what
        time.sleep(0.5)


def history(cluster: Cluster) -> list[dict[str, Any]]:
    _, out = zcluster(cluster, "history", "--output", "json")
    found: list[dict[str, Any]] = json.loads(out)
    return found


def read(cluster: Cluster, node: str, path: str) -> str:
    return str(cluster.lab.exec(node, "cat", path, check=False).stdout)


@pytest.mark.matrix
def test_power_cut_is_in_the_history_of_both_nodes_told_by_hooks_and_counted(
    cluster: Cluster,
) -> None:
    lab = cluster.lab
    lab.exec("n2", "mkdir", "-p", METRICS)
    lab.exec("n2", "sh", "-c", f"umask 022; cat > /etc/zcluster/hooks.d/note.sh <<'E'\n{HOOK}E")
    lab.exec("n2", "chmod", "755", "/etc/zcluster/hooks.d/note.sh")
    until("no metrics", lambda: "zcluster_role" in read(cluster, "n2", f"{METRICS}/zcluster.prom"))
    # The hook starts with how things are; it is known once that is kept.
    until("hook not seen", lambda: "note.sh" in read(cluster, "n2", "/var/lib/zcluster/hooks.json"))

    lab.power_off("n1")
    until("no raise", lambda: "raise peer unreachable" in read(cluster, "n2", "/root/told"))
    assert "transition backup master" in read(cluster, "n2", "/root/told").splitlines()
    metrics = read(cluster, "n2", f"{METRICS}/zcluster.prom")
    assert 'zcluster_role{cluster="lab",role="master"} 1.0' in metrics
    assert re.search(r'zcluster_role_transitions_total\{cluster="lab",to="master"\} [1-9]', metrics)
    assert 'zcluster_peer_reachable{cluster="lab"} 0.0' in metrics

    alone = history(cluster)
    taken = [e for e in alone if e["event"] == "role"][-1]
    assert (taken["node"], taken["from"], taken["to"]) == ("n2", "backup", "master")
    assert "n1 does not answer" in taken["cause"]
    # What the dead node had told lives on with its peer, and who made the cluster is known.
    assert {e["node"] for e in alone} == {"n1", "n2"}
    made = [e for e in alone if e["event"] == "create" and e["to"] == "done"]
    assert made
    assert all("@" in e["who"] for e in made)

    lab.power_on("n1")
    cluster.wait_settled()
    until("no clear", lambda: "clear peer unreachable" in read(cluster, "n2", "/root/told"))
    both = history(cluster)
    order = [(e["node"], e["event"], e["to"]) for e in both]
    back = max(i for i, e in enumerate(order) if e == ("n1", "role", "backup"))
    assert order.index(("n2", "role", "master")) < back
    for node in ("n1", "n2"):
        mine = [(e["log"], e["seq"]) for e in both if e["node"] == node]
        assert mine == sorted(mine, key=lambda one: one[1])

    said = lab.exec("n2", "journalctl", "-o", "json", "ZCLUSTER_EVENT=role").stdout
    last = json.loads(said.splitlines()[-1])
    assert (last["ZCLUSTER_NOW"], last["PRIORITY"]) == ("master", "5")
    assert len(last["MESSAGE_ID"]) == 32


@pytest.mark.matrix
def test_hook_that_hangs_delays_no_takeover_and_is_reported(cluster: Cluster) -> None:
    lab = cluster.lab
    lab.exec(
        "n2",
        "sh",
        "-c",
        "umask 022; printf '#!/bin/sh\\nsleep 600\\n' > /etc/zcluster/hooks.d/slow",
    )
    lab.exec("n2", "chmod", "755", "/etc/zcluster/hooks.d/slow")
    until("hook not seen", lambda: "slow" in read(cluster, "n2", "/var/lib/zcluster/hooks.json"))
    lab.exec("n1", "systemctl", "stop", "keepalived.service")
    until("no takeover", lambda: cluster.status("n2").get("role") == "master", 30)
    until(
        "hook does not run",
        lambda: lab.exec("n2", "pgrep", "-f", "sleep 600", check=False).stdout != "",
    )
    lab.exec("n1", "systemctl", "start", "keepalived.service")
    lab.exec("n2", "systemctl", "stop", "keepalived.service")
    until("no takeover back", lambda: cluster.status("n1").get("role") == "master", 30)
    until(
        "not killed", lambda: "hook-failed" in read(cluster, "n2", "/var/lib/zcluster/events.jsonl")
    )
    lab.exec("n2", "systemctl", "start", "keepalived.service")
    cluster.wait_settled()
