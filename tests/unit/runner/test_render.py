# SPDX-License-Identifier: GPL-3.0-or-later
"""What people and programs see of a result."""

from __future__ import annotations

import io
import json
from typing import Any

from rich.console import Console

from zcluster_runner import api, nodes, render
from zcluster_runner.actions import Action, find
from zcluster_runner.result import Change, ExitCode, Failure, Outcome, Result


def action(verb: str) -> Action:
    found = find(verb)
    assert found is not None
    return found


def result(verb: str, **more: Any) -> Result:
    given = {"outcome": Outcome.SUCCEEDED, "exit_code": ExitCode.GREEN} | more
    return Result(verb=verb, **given)


def shown(verb: str, *, colour: bool = False, **more: Any) -> tuple[str, str]:
    """Return what goes to standard output and to standard error."""
    streams = io.StringIO(), io.StringIO()
    out, err = (
        Console(
            file=stream,
            width=200,
            force_terminal=colour,
            highlight=False,
            color_system="256" if colour else None,
        )
        for stream in streams
    )
    render.show(action(verb), result(verb, **more), out, err)
    return streams[0].getvalue(), streams[1].getvalue()


def node(**more: Any) -> Any:
    said = {"cluster": "web", "hostname": "n1", "ip": "198.18.30.11", "role": "master"}
    said |= {"status": "ok", "message": "Node online and active", "sync": "in sync"}
    return nodes.reported("lb1", said | {"node": "local"} | more)


def test_the_nodes_table_has_its_columns() -> None:
    out, err = shown("nodes", nodes=(node(), node(node="remote", role="backup")))
    head, local, remote = out.splitlines()
    assert head.split() == ["NODE", "ROLE", "IP", "HOSTNAME", "STATUS", "SYNC", "MESSAGE"]
    assert local.split()[:5] == ["local", "master", "198.18.30.11", "n1", "ok"]
    assert remote.split()[:2] == ["remote", "backup"]
    assert err == ""


def test_several_clusters_have_a_column() -> None:
    out, _ = shown("nodes", nodes=(node(), node(cluster="db")))
    assert out.split()[0] == "CLUSTER"


def fifty() -> tuple[Any, ...]:
    """The nodes of fifty clusters; one of them has failed, another is not reached."""
    odd = {7: "failure", 33: "unreachable"}
    return tuple(
        node(cluster=f"c{n:02}", node=side, status=odd.get(n, "ok") if side == "local" else "ok")
        for n in range(50)
        for side in ("local", "remote")
    )


def test_fifty_clusters_are_named_once_each_and_counted() -> None:
    out, _ = shown("nodes", nodes=fifty())
    lines = out.splitlines()
    assert len(lines) == 1 + 100 + 2
    assert lines[1].startswith("c00")
    assert lines[2].startswith("     ")
    assert lines[-1] == "50 clusters: 48 ok, 1 failure, 1 unreachable"


def test_on_a_small_screen_what_is_not_well_comes_first() -> None:
    console = Console(file=io.StringIO(), width=120, highlight=False)
    with console.capture() as captured:
        console.print(render.screenful("12:00:00", result("nodes", nodes=fifty()), 24))
    assert [line.split()[0] for line in captured.get().splitlines()[3:9:2]] == ["c07", "c33", "c00"]
    with console.capture() as captured:
        console.print(render.screenful("12:00:00", result("nodes", nodes=fifty()), 200))
    assert captured.get().splitlines()[3].startswith("c00")


def test_statuses_have_their_colours() -> None:
    for status, escape in (
        ("ok", "32m"),
        ("failure", "31m"),
        ("unreachable", "90m"),
        ("not configured", "90m"),
        ("maintenance", "38;5;208m"),
    ):
        out, _ = shown("nodes", colour=True, nodes=(node(status=status),))
        assert f"\x1b[{escape}{status}" in out


def test_text_of_a_node_is_no_markup() -> None:
    out, _ = shown("nodes", nodes=(node(message="[red]x[/] :smile: [n1]"),))
    assert "[red]x[/] :smile: [n1]" in out


def test_status_is_one_line() -> None:
    out, _ = shown("status", nodes=(node(),))
    assert out == "ok  master  n1  Node online and active\n"


SETTINGS: dict[str, Any] = {
    "name": "web",
    "revision": 3,
    "initial_master": "n1",
    "failback": "disabled",
    "profile": "standard",
    "check_interval": 0.1,
    "nodes": [
        {"hostname": "n1", "ip": "198.18.30.11", "interface": "eth2"},
        {"hostname": "n2", "ip": "198.18.30.12", "interface": "eth2"},
    ],
    "networks": [{"interface": "eth2", "vrid": 51, "kind": "link"}],
    "vips": [{"address": "198.18.10.100", "prefix": 24, "interface": "eth0"}],
    "services": [{"name": "haproxy", "unit": "haproxy.service"}],
    "sync": {"paths": ["/etc/haproxy"], "excludes": []},
}


def test_show_says_each_setting_once() -> None:
    reports = {"settings": {"lb1": SETTINGS, "lb2": SETTINGS}}
    out, _ = shown("show", reports=reports)
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines == [
        "Cluster web",
        "Interface eth2",
        "Local IP 198.18.30.11 (n1)",
        "Remote IP 198.18.30.12 (n2)",
        "Failback disabled",
        "Profile standard",
        "Check interval 0.1 s",
        "Virtual router id 51",
        "Virtual IPs 198.18.10.100/24 on eth0",
        "Witnesses none",
        "Tracked interfaces none",
        "Services haproxy (haproxy.service)",
        "Synchronized /etc/haproxy",
        "Not synchronized none",
        "Revision 3",
    ]
    shown_json: Any = render.as_json(action("show"), result("show", reports=reports))
    assert shown_json["local_ip"] == "198.18.30.11"
    assert shown_json["vips"] == SETTINGS["vips"]


def test_show_without_a_cluster() -> None:
    out, _ = shown("show", reports={"settings": {"lb1": {}}})
    assert out == "Cluster not configured\n"


FINDING = {
    "severity": "error",
    "node": "lb1",
    "field": "zcluster_vrid",
    "found": "51",
    "message": "Somebody else uses it.",
    "way_out": "Leave it away.",
}


def test_findings_come_once_errors_first() -> None:
    warning = FINDING | {"severity": "warning", "node": "lb2"}
    reports = {"findings": {"lb1": [warning, FINDING], "lb2": [FINDING]}}
    failure = Failure("lb1", "Stop at errors", "the same again")
    out, err = shown("preflight", reports=reports, failures=(failure,))
    assert out.splitlines()[0] == "ERROR  lb1, zcluster_vrid: Somebody else uses it."
    assert out.count("ERROR") == 1
    assert "way out: Leave it away." in out
    assert err == ""


def test_nothing_found_is_said() -> None:
    out, _ = shown("preflight", reports={"findings": {"lb1": []}})
    assert out == "Nothing stands in the way.\n"


def test_interfaces_are_listed() -> None:
    entry = {"interface": "eth2", "address": "198.18.30.11", "prefix": 24, "kind": "nic"}
    out, _ = shown("interfaces", reports={"interfaces": {"lb1": [entry]}})
    assert out.splitlines()[1].split() == ["lb1", "eth2", "198.18.30.11/24", "nic"]


def test_a_key_that_was_added_is_said_unless_it_was_taken_back() -> None:
    reports = {"key_added": {"lb1": "Your key is accepted on lb1 from now on"}}
    assert "accepted on lb1" in shown("create", reports=reports)[0]
    assert "accepted" not in shown("create", reports=reports, outcome=Outcome.FAILED)[0]


def test_a_failure_is_said_once_for_all_hosts_with_its_cause_first() -> None:
    _, err = shown(
        "create",
        outcome=Outcome.FAILED,
        causes=(Failure("lb1", "Start keepalived", "it does not start"),),
        failures=(Failure("lb1", "Stop", "as before"), Failure("lb2", "Stop", "as before")),
    )
    assert err.splitlines() == [
        "lb1, Start keepalived: it does not start",
        "lb1, lb2, Stop: as before",
    ]


def test_what_check_mode_predicts() -> None:
    change = Change("lb1", "Write keepalived.conf", "--- a\n+++ b\n-old\n+new\n")
    out, _ = shown("create", check=True, changes=(change,))
    assert "1 steps would be changed on lb1" in out
    assert "lb1: Write keepalived.conf" in out
    assert "+new" in out


def test_a_stopped_run_says_how_to_go_on() -> None:
    _, err = shown("create", outcome=Outcome.CANCELED, changes=(Change("lb1", "x"),))
    assert err.startswith("Stopped. 1 step")


def test_the_lab_says_what_is_next() -> None:
    machine = {"state": "running", "addresses": {"front": {"ipv4": "198.18.10.11"}}}
    lab = {"up": True, "nodes": {"n1": machine}, "inventory": "/x/inventories/lab"}
    out, _ = shown(
        "lab up", reports={"lab": {"localhost": lab | {"root_password": "zcluster-lab"}}}
    )
    assert out.splitlines()[1].split() == ["n1", "running", "198.18.10.11"]
    assert "Next: zcluster -i /x/inventories/lab create\n" in out


def test_unset_names_what_goes_on() -> None:
    said = {"keeps_serving": ["198.18.10.100"], "unit": "zcluster-vips.service"}
    reports = {"unset": {"lb1": said, "lb2": {"keeps_serving": [], "unit": ""}}}
    out, _ = shown("unset", reports=reports)
    assert out.splitlines()[0] == "lb1 keeps 198.18.10.100 (at boot: zcluster-vips.service)."


def test_json_for_programs() -> None:
    listed: Any = render.as_json(action("nodes"), result("nodes", nodes=(node(),)))
    assert [entry["status"] for entry in listed] == ["ok"]
    one: Any = render.as_json(action("status"), result("status", nodes=(node(),)))
    assert one["role"] == "master"
    failed: Any = render.as_json(
        action("nodes"),
        result("nodes", outcome=Outcome.FAILED, failures=(Failure("", "nodes", "no host"),)),
    )
    assert failed["result"] == "failed"
    assert failed["errors"] == [{"host": "", "step": "nodes", "message": "no host"}]
    json.dumps([listed, one, failed])


def services(*rows: tuple[str, str, str, str]) -> dict[str, Any]:
    keys = ("service", "node", "state", "why")
    by_node: dict[str, Any] = {}
    for row in rows:
        said = by_node.setdefault(row[1], {"hostname": row[1], "services": []})
        said["services"].append(dict(zip(keys, row, strict=True)))
    return {"services": by_node}


def test_services_stand_in_the_order_in_which_they_start_one_node_under_the_other() -> None:
    reports = services(
        ("nftables", "n1", "active", ""),
        ("haproxy", "n1", "active", ""),
        ("nftables", "n2", "standby", ""),
        ("haproxy", "n2", "rejected", "haproxy.cfg:28: unknown keyword"),
    )
    out, _ = shown("services", reports=reports)
    assert [line.split()[:3] for line in out.splitlines()[1:]] == [
        ["nftables", "n1", "active"],
        ["nftables", "n2", "standby"],
        ["haproxy", "n1", "active"],
        ["haproxy", "n2", "rejected"],
    ]
    assert "haproxy.cfg:28: unknown keyword" in out


def test_services_are_red_when_one_is_bad_and_grey_when_one_is_not_known() -> None:
    for state, code in (
        ("active", ExitCode.GREEN),
        ("starting", ExitCode.ORANGE),
        ("rejected", ExitCode.RED),
        ("failed", ExitCode.RED),
        ("stopped by operator", ExitCode.RED),
        ("unknown", ExitCode.GREY),
    ):
        reports = services(("haproxy", "n1", "active", ""), ("haproxy", "n2", state, ""))
        assert api.exit_code(action("services"), result("services", reports=reports)) is code
