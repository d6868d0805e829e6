# SPDX-License-Identifier: GPL-3.0-or-later
"""A node whose answer is a failure is never taken for green, and is said not to answer."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from zcluster_runner.execution import RunSpec, execute
from zcluster_runner.result import Outcome

Toy = Callable[..., RunSpec]
Task = dict[str, Any]
Failed = Callable[[str], dict[str, Any]]

CHECKOUT = Path(__file__).parents[3]
# Whoever waits for an answer: its file, its tasks, and what it says where there is none.
WAITING = {
    "verify": (
        "roles/cluster/tasks/verify_look.yml roles/cluster/tasks/verify.yml",
        ("Wait until the node is green", "Insist that the node is green"),
        "n2: does not answer (synchronization: not known)",
    ),
    "start": (
        "roles/cluster/tasks/start.yml",
        ("Wait until the backup has the", "Insist that the backup has the"),
        "n2 does not get the configuration (synchronization: it does not answer)",
    ),
    "update": (
        "roles/cluster/tasks/update.yml",
        ("Wait until the node is green", "Insist that the node is green"),
        "it does not become green (synchronization: not known)",
    ),
    "update_stopped": (
        "roles/cluster/tasks/update.yml",
        ("Ask how the node is", "Forget the mark where", "Stop with the reason"),
        "lb2: no disk. It does not answer now. The update stopped here.",
    ),
    "updated": ("playbooks/update.yml", ("Ask the node", "Report | node"), "it is broken"),
    "switchover": (
        "playbooks/switchover.yml",
        ("Wait until both nodes agree", "Insist that both nodes agree"),
        "lb2 should be backup, and does not answer (zcluster nodes)",
    ),
}
GREEN = {
    "hostname": "n2", "role": "backup", "status": "ok", "message": "Node online and passive",
    "sync": "in sync", "ready": True, "vips_held": [], "vips_expected": [],
}  # fmt: skip
MODULE = """\
#!/usr/bin/python
import json
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule(argument_spec={}, supports_check_mode=True)
"""


def tasks(found: object) -> Iterator[Task]:
    """Every task of a playbook or of a role's file, with those of its blocks."""
    if isinstance(found, list):
        for item in found:
            yield from tasks(item)
    elif isinstance(found, dict):
        yield found
        for part in ("pre_tasks", "tasks", "block", "rescue", "always"):
            yield from tasks(found.get(part))


def waiting(files: str, names: tuple[str, ...]) -> list[Task]:
    """These tasks as they are, but for the time they take."""
    every = [
        task
        for file in files.split()
        for task in tasks(yaml.safe_load((CHECKOUT / file).read_text(encoding="utf-8")))
    ]
    found = [next(task for task in every if task["name"].startswith(name)) for name in names]
    return [task | ({"retries": 1, "delay": 0} if "until" in task else {}) for task in found]


def play() -> str:
    """All of them, each with a report of what it failed with."""
    blocks = [
        {
            "name": case,
            "block": waiting(files, names),
            "rescue": [
                {
                    "name": f"Report | {case}",
                    "ansible.builtin.debug": {"msg": "{{ ansible_failed_result.msg }}"},
                }
            ],
        }
        for case, (files, names, _) in WAITING.items()
    ]
    return textwrap.indent(yaml.safe_dump(blocks, sort_keys=False, width=1000), " " * 4)


@pytest.fixture
def failed(toy: Toy, home: Path, collection: object) -> Failed:
    """What all of them failed with, where module node_info ends so."""
    module = home / "collections/ansible_collections/zcluster/ha/plugins/modules/node_info.py"
    module.parent.mkdir(parents=True)
    mark = home / "updating"
    mark.touch()

    def run(end: str) -> dict[str, Any]:
        module.write_text(MODULE + end, encoding="utf-8")
        variables = {
            "cluster_node": {"hostname": "n2"},
            "cluster_first": False,
            "cluster_untouched": False,
            "cluster_updating": str(mark),
            "cluster_reason": "no disk",
            "cluster_served_first": "lb1",
            "zcluster_wanted": "backup",
        }
        done = execute(toy(play(), limit="lb2", variables=variables))
        assert done.outcome is Outcome.SUCCEEDED, done.failures
        return {case: said["lb2"] for case, said in done.fold.reports.items()}

    return run


def test_node_that_does_not_answer_is_said_to_and_is_never_green(
    failed: Failed, home: Path
) -> None:
    said = failed('module.fail_json(msg="it is broken")\n')
    assert said.keys() == WAITING.keys()
    for case, (_, _, words) in WAITING.items():
        assert words in said[case], case
    # It may be in maintenance: the next update goes on from here.
    assert (home / "updating").exists()


def test_node_that_is_green_is_taken_for_it(failed: Failed, home: Path) -> None:
    said = failed(f"module.exit_json(node=json.loads('''{json.dumps(GREEN)}'''))\n")
    assert said.keys() == {"update_stopped", "node"}
    assert said["node"] == GREEN
    assert "n2: no disk. It is now backup: Node online and passive." in said["update_stopped"]
    assert not (home / "updating").exists()
