# SPDX-License-Identifier: GPL-3.0-or-later
"""How an update begins and ends on two nodes of which one is, or became, red."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from zcluster_runner.execution import RunSpec, execute

Toy = Callable[..., RunSpec]
Task = dict[str, Any]
Play = Callable[..., dict[str, Any]]

ROLE = Path(__file__).parents[3] / "roles/cluster"
GREEN = {"hostname": "n", "role": "backup", "status": "ok", "sync": "in sync", "message": "online"}
RED = GREEN | {"status": "failure", "message": "Failed services: conntrackd"}
MASTER = {"role": "master"}
MODULE = """\
#!/usr/bin/python
import json
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule(argument_spec={}, supports_check_mode=True)
"""


def tasks(file: str, first: str) -> list[Task]:
    """The tasks of a file as they are, from one on, but for roles that are included."""
    found = yaml.safe_load((ROLE / "tasks" / file).read_text(encoding="utf-8"))
    names = [task["name"] for task in found]
    return [t for t in found[names.index(first) :] if "ansible.builtin.include_role" not in t]


@pytest.fixture
def play(toy: Toy, home: Path, collection: object) -> Play:
    """Run tasks on lb1 and lb2, each with facts of its own; by host what they failed with."""
    modules = home / "collections/ansible_collections/zcluster/ha/plugins/modules"
    modules.mkdir(parents=True)

    def run(
        block: list[Task], lb1: Task, lb2: Task, *, handed_over: bool = True, **variables: object
    ) -> dict[str, Any]:
        node = "module.exit_json(node={'role': 'master'})\n"
        (modules / "node_info.py").write_text(MODULE + node, encoding="utf-8")
        end = "exit_json(changed=True)" if handed_over else "fail_json(msg='it lacks connections')"
        switch = f"open({str(home / 'switched')!r}, 'w').close()\nmodule.{end}\n"
        (modules / "node_switchover.py").write_text(MODULE + switch, encoding="utf-8")
        (home / "updating").write_text("lb1\n")
        facts = {"cluster_update_mark": {"rc": 1, "stdout": ""}, "cluster_update_self": False}
        toys = [
            {"ansible.builtin.include_vars": {"file": str(ROLE / "vars/main.yml")}},
            *(
                {
                    "ansible.builtin.set_fact": facts | own,
                    "when": f"inventory_hostname == '{host}'",
                }
                for host, own in (("lb1", lb1), ("lb2", lb2))
            ),
            {
                "block": block,
                "rescue": [
                    {
                        "name": "Report | why",
                        "ansible.builtin.debug": {"msg": "{{ ansible_failed_result.msg }}"},
                    }
                ],
            },
        ]
        text = yaml.safe_dump(toys, sort_keys=False, width=1000)
        indented = "".join(f"    {line}\n" for line in text.splitlines())
        given = {"cluster_updating": str(home / "updating"), **variables}
        done = execute(toy(indented, variables=given))
        assert not done.failures, done.failures
        return dict(done.fold.reports.get("why", {}))

    return run


LOOK = "Note whether the node serves, and whether it was left in the middle of an update"


@pytest.mark.parametrize(("one", "two"), [(RED, GREEN), (GREEN, RED)])
def test_no_node_is_updated_while_the_other_is_red(play: Play, one: Task, two: Task) -> None:
    look = tasks("update_look.yml", LOOK)
    why = play(look, {"cluster_answer": {"node": one | MASTER}}, {"cluster_answer": {"node": two}})
    assert why.keys() == {"lb1", "lb2"}
    red, green = ("lb1", "lb2") if one is RED else ("lb2", "lb1")
    assert "Failed services: conntrackd (synchronization: in sync)" in why[red]
    assert why[green] == "The other node is not fit for an update: nothing was changed here either"


def test_two_green_nodes_may_be_updated(play: Play) -> None:
    look = tasks("update_look.yml", LOOK)
    nodes = {"cluster_answer": {"node": GREEN | MASTER}}, {"cluster_answer": {"node": GREEN}}
    assert play(look, *nodes) == {}


def test_node_that_does_not_answer_is_said_not_to(play: Play) -> None:
    stop = tasks("update_look.yml", "Stop unless the node is green")[:1]
    facts = {"cluster_serves_now": False, "cluster_half_updated": False}
    silent = {"cluster_answer": {"failed": True}, **facts}
    why = play(stop, silent, {"cluster_answer": {"node": GREEN}, **facts})
    assert why.keys() == {"lb1"}
    assert "lb1 is not fit for an update, and nothing was changed: it does not answer" in why["lb1"]


BACK = "Hand the service back"
DONE = {"cluster_updated": True, "cluster_served_first": "lb1", "cluster_serves_now": False}


@pytest.mark.parametrize(
    ("updated", "wanted", "handed_over", "asked", "forgotten"),
    [
        (True, True, True, True, True),
        (True, False, True, False, True),
        # What failed is asked for again by the next run.
        (True, True, False, True, False),
        (False, True, True, False, False),
    ],
)
def test_who_served_first_is_forgotten_once_nothing_is_left_to_do(
    play: Play,
    home: Path,
    *,
    updated: bool,
    wanted: bool,
    handed_over: bool,
    asked: bool,
    forgotten: bool,
) -> None:
    first = DONE if updated else {k: v for k, v in DONE.items() if k != "cluster_updated"}
    why = play(
        tasks("update_back.yml", BACK),
        *(first, DONE),
        handed_over=handed_over,
        cluster_update_back=wanted,
    )
    assert why == ({} if handed_over else {"lb2": "it lacks connections"})
    assert (home / "switched").exists() is asked
    assert (home / "updating").exists() is not forgotten
