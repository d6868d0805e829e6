# SPDX-License-Identifier: GPL-3.0-or-later
"""The order in which a heartbeat that serves gets a new network: the handlers as they are."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from zcluster_runner.execution import RunSpec, execute

Toy = Callable[..., RunSpec]
ROLE = Path(__file__).parents[3] / "roles/keepalived"
SCRIPT = """\
#!/bin/sh
echo "$(basename "$0") $*" >>{log}
case $1 in
heartbeat) echo '{{"master": {master}}}' ;;
introduce) grep ^vrrp_instance >>{log} ;;
esac
"""
NETWORKS = [
    {"interface": name, "vrid": 51, "lead": f"169.254.51.{number}", "kind": "served",
     "addresses": {"n1": f"198.18.{number}.11", "n2": f"198.18.{number}.12"}}
    for number, name in enumerate(("eth0", "eth1", "eth2"))
]  # fmt: skip
PLAN = {
    "name": "web", "failback": "disabled", "check_interval": 0.1, "missed_adverts": 3,
    "realtime_priority": 50, "networks": NETWORKS, "vips": [],
    "nodes": [{"hostname": name, "inventory_hostname": host, "priority": 254}
              for name, host in (("n1", "lb1"), ("n2", "lb2"))],
}  # fmt: skip
RELOAD = "systemctl try-reload-or-restart keepalived.service"


@pytest.fixture
def commands(toy: Toy, home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """What is run on a node that is master on these networks, in its order."""
    role, log, bin_directory = home / "roles/keepalived", home / "log", home / "bin"
    for part in ("handlers", "templates", "vars"):
        shutil.copytree(ROLE / part, role / part)
    (role / "tasks").mkdir()
    changed = {"ansible.builtin.debug": {}, "changed_when": True, "notify": "Reload keepalived"}
    (role / "tasks/main.yml").write_text(yaml.safe_dump([changed]))
    bin_directory.mkdir()
    monkeypatch.setenv("PATH", f"{bin_directory}:{os.environ['PATH']}")

    def run(*master: str, check: bool = False) -> list[str]:
        for program in ("zclustermanager", "systemctl"):
            script = bin_directory / program
            script.write_text(SCRIPT.format(log=log, master=json.dumps(master)))
            script.chmod(0o755)
        tasks = [
            {"ansible.builtin.include_role": {"name": str(role)}},
            {"ansible.builtin.meta": "flush_handlers"},
        ]
        text = "".join(f"    {line}\n" for line in yaml.safe_dump(tasks).splitlines())
        variables = {
            "keepalived_plan": PLAN,
            "keepalived_hostname": "n1",
            "keepalived_startup_delay": 1,
            "keepalived_files": {"changed_paths": ["/etc/keepalived/keepalived.conf"]},
        }
        done = execute(toy(text, limit="lb1", variables=variables, check=check))
        assert not done.failures, done.failures
        return log.read_text().splitlines() if log.exists() else []

    return run


def test_node_that_serves_is_master_on_a_new_network_before_the_group_gets_it(
    commands: Callable[..., list[str]],
) -> None:
    assert commands("eth0", "eth2") == [
        "zclustermanager hold begin",
        "zclustermanager heartbeat",
        "zclustermanager introduce",
        # The new one first, beside the group.
        *(f"vrrp_instance {name} {{" for name in ("eth1", "eth0", "eth2")),
        RELOAD,
        "zclustermanager wait --timeout 30",
        "zclustermanager hold end",
    ]


@pytest.mark.parametrize("master", [(), ("eth0", "eth1", "eth2")])
def test_heartbeat_that_does_not_serve_or_has_them_all_is_reloaded_once(
    commands: Callable[..., list[str]], master: tuple[str, ...]
) -> None:
    said = commands(*master)
    assert RELOAD in said
    assert "zclustermanager introduce" not in said


def test_check_runs_nothing(commands: Callable[..., list[str]]) -> None:
    assert commands("eth0", check=True) == []
