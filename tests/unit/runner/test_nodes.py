# SPDX-License-Identifier: GPL-3.0-or-later
"""The rows of the nodes table, and the exit code they add up to."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from zcluster_runner import nodes
from zcluster_runner.events import Fold
from zcluster_runner.inventory import Host, Inventory
from zcluster_runner.result import ExitCode, Failure, Health, worst

INVENTORY = Inventory(
    (
        Host("lb1", "web", "198.18.30.11", is_local=False, initial_master="lb2"),
        Host("lb2", "web", "198.18.30.12", is_local=False, initial_master="lb2"),
    )
)


def said(**more: Any) -> dict[str, Any]:
    """What a node reports when all is well."""
    well = {"cluster": "web", "hostname": "n1", "ip": "198.18.30.11", "role": "master"}
    return well | {"status": "ok", "message": "Node online and active", "sync": "in sync"} | more


def unread() -> Inventory:
    raise AssertionError("the inventory is read although the nodes said everything")


def fold(**reports: dict[str, Any]) -> Fold:
    return Fold(reports={"node": reports})


def test_local_comes_first_and_the_inventory_is_not_needed() -> None:
    rows = nodes.rows(
        fold(
            a=said(hostname="n2", role="backup", initial_master="n1"),
            b=said(initial_master="n1"),
        ),
        unread,
    )
    assert [(row.node, row.hostname, row.role) for row in rows] == [
        ("local", "n1", "master"),
        ("remote", "n2", "backup"),
    ]


def test_this_machine_is_the_local_node_if_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "n2.example.org")
    seen = fold(lb2=said(hostname="n2", initial_master="n1", peer={"hostname": "n1"}))
    seen.reports["node"]["lb1"] = said(initial_master="n1", peer={"hostname": "n2"})
    both = nodes.rows(seen, unread)
    assert [(row.node, row.host) for row in both] == [("local", "lb2"), ("remote", "lb1")]
    # The other one stays remote when it does not answer, first master or not.
    del seen.reports["node"]["lb1"]
    seen.unreachable["lb1"] = "timed out"
    first = Host("lb1", "web", "198.18.30.11", is_local=False, initial_master="lb1")
    second = Host("lb2", "web", "198.18.30.12", is_local=False, initial_master="lb1")
    both = nodes.rows(seen, lambda: Inventory((first, second)))
    assert [(row.node, row.host) for row in both] == [("local", "lb2"), ("remote", "lb1")]


def test_rows_keep_their_order_when_a_node_goes() -> None:
    there = {"z": said(cluster="db", hostname="z", initial_master="z"), "lb2": said(hostname="n2")}
    known = {**there, "lb1": said(hostname="n1", initial_master="n2")}
    known["lb2"] |= {"initial_master": "n2"}
    whole = [row.host for row in nodes.rows(fold(**known), unread)]
    seen = fold(**there)
    seen.unreachable["lb1"] = "no way"
    assert [row.host for row in nodes.rows(seen, lambda: INVENTORY)] == whole == ["z", "lb2", "lb1"]


def test_a_node_that_cannot_be_reached_is_a_grey_row() -> None:
    seen = fold(lb2=said(hostname="n2"))
    seen.unreachable["lb1"] = "it does not answer: timed out\nand more"
    local, remote = nodes.rows(seen, lambda: INVENTORY)
    assert (local.node, local.host, local.health) == ("local", "lb2", Health.OK)
    assert (remote.status, remote.ip, remote.cluster) == ("unreachable", "198.18.30.11", "web")
    assert remote.message == "Node unreachable: it does not answer: timed out"


def test_a_node_whose_probe_failed_is_not_green() -> None:
    seen = fold(lb2=said())
    seen.failures.append(Failure("lb1", "Ask the node", "python is missing"))
    _, remote = nodes.rows(seen, lambda: INVENTORY)
    assert remote.health is Health.UNKNOWN
    assert remote.message == "Status not known: python is missing"


def test_nobody_is_no_row() -> None:
    assert nodes.rows(Fold(), unread) == ()


def test_a_word_nobody_knows_is_grey() -> None:
    assert Health.of("splendid") is Health.UNKNOWN
    assert nodes.reported("lb1", said(status="splendid")).health.exit_code == ExitCode.GREY


def test_structures_show_their_state() -> None:
    assert nodes.reported("lb1", said(sync={"state": "pending", "why": "x"})).sync == "pending"
    assert nodes.reported("lb1", said(sync=None)).sync == ""


def test_the_json_has_the_columns_first_and_then_all_the_node_said() -> None:
    row = nodes.reported("lb1", said(vips_held=["198.18.10.100"], initial_master="n1")).to_dict()
    columns = ["cluster", "node", "role", "ip", "hostname", "status", "message", "sync"]
    assert list(row)[:8] == columns
    assert row["vips_held"] == ["198.18.10.100"]


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["ok", "ok"], 0),
        (["ok", "maintenance"], 1),
        (["failure", "ok"], 2),
        (["ok", "unreachable"], 3),
        (["ok", "not configured"], 3),
        (["failure", "unreachable"], 2),
        (["maintenance", "unreachable"], 3),
        ([], 3),
    ],
)
def test_the_worst_status_is_the_exit_code(statuses: list[str], code: int) -> None:
    assert worst([Health.of(status).exit_code for status in statuses]) == code
