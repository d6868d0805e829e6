# SPDX-License-Identifier: GPL-3.0-or-later
# Which control groups get a real-time budget, by the script that keepalived's unit runs.
from __future__ import annotations

import subprocess
from pathlib import Path

import jinja2
import pytest

TEMPLATES = Path(__file__).parents[3] / "roles/keepalived/templates"
KNOB = "cpu.rt_runtime_us"
UNIT = "system.slice/keepalived.service"
EVERYTHING, ALL_BUT_SYS_RESOURCE = "000001ffffffffff", "000001fffeffffff"


def budgets(
    tmp_path: Path,
    given: dict[str, int],
    *,
    cgroup: str = f"1:name=systemd:/x\n4:cpuset:/y\n3:cpu,cpuacct:/{UNIT}\n0::/z\n",
    mount: str = "cpu,cpuacct",
    capabilities: str = EVERYTHING,
) -> dict[str, int]:
    """What the groups have afterwards; they are directories below another one here."""
    groups, proc = tmp_path / "groups" / mount, tmp_path / "proc"
    for group, budget in given.items():
        (groups / group).mkdir(parents=True, exist_ok=True)
        (groups / group / KNOB).write_text(f"{budget}\n")
    proc.mkdir()
    (proc / "cgroup").write_text(cgroup)
    (proc / "status").write_text(f"Name:\tsh\nCapEff:\t{capabilities}\n")
    text = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES)).get_template("realtime.j2")
    script = text.render(ansible_managed="").replace("/sys/fs/cgroup", str(tmp_path / "groups"))
    done = subprocess.run(
        ["/bin/sh", "-c", script.replace("/proc/self", str(proc))],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout + done.stderr == ""
    return {group: int((groups / group / KNOB).read_text()) for group in given}


NONE = {".": 950000, "system.slice": 0, UNIT: 0}
GIVEN = {".": 950000, "system.slice": 200000, UNIT: 200000}


def test_group_without_a_budget_and_those_above_it_get_one(tmp_path: Path) -> None:
    assert budgets(tmp_path, NONE) == GIVEN


def test_hierarchy_of_cpu_alone_is_found(tmp_path: Path) -> None:
    cgroup = f"3:cpu:/{UNIT}\n2:cpuacct:/x\n"
    assert budgets(tmp_path, NONE, cgroup=cgroup, mount="cpu") == GIVEN


def test_what_somebody_has_given_already_is_left_alone(tmp_path: Path) -> None:
    given = {".": 950000, "system.slice": 500000, UNIT: 300000}
    assert budgets(tmp_path, given) == given


def test_without_sys_resource_a_reload_would_end_keepalived(tmp_path: Path) -> None:
    assert budgets(tmp_path, NONE, capabilities=ALL_BUT_SYS_RESOURCE) == NONE


@pytest.mark.parametrize("cgroup", [f"0::/{UNIT}\n", "3:cpu,cpuacct:/libpod_parent/libpod-1\n", ""])
def test_where_there_is_nothing_to_give_nothing_is_said(tmp_path: Path, cgroup: str) -> None:
    assert budgets(tmp_path, NONE, cgroup=cgroup) == NONE
