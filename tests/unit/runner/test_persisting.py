# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run changed is written into the inventory by one line, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zcluster_runner import persisting

HOSTS = """\
---
# Two clusters.
all:
  children:
    cluster_web:
      vars:
        zcluster_name: web
        # Who gets the VIPs back.
        zcluster_failback: disabled  # for now
        zcluster_vips:
          - 192.0.2.100/24
          # the old one
          - address: 203.0.113.1/24
            interface: eth1
        zcluster_check_interval: 0.1
      hosts:
        lb1: {zcluster_ip: 198.18.30.11}
        lb2: {zcluster_ip: 198.18.30.12}
    cluster_db:
      vars:
        zcluster_name: db
        zcluster_failback: disabled
      hosts:
        db1:
        db2:
"""


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    directory = tmp_path / "inventory"
    directory.mkdir()
    (directory / "hosts.yml").write_text(HOSTS)
    return directory


def test_value_is_written_where_it_stands_and_nothing_else_changes(inventory: Path) -> None:
    assert persisting.persist([inventory], "web", {"zcluster_failback": "lb1"}).lost == ""
    old, new = HOSTS.splitlines(), (inventory / "hosts.yml").read_text().splitlines()
    changes = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
    assert changes == [
        (
            "        zcluster_failback: disabled  # for now",
            '        zcluster_failback: "lb1"  # for now',
        )
    ]


def test_value_goes_to_the_cluster_that_is_meant(inventory: Path) -> None:
    assert persisting.persist([inventory], "db", {"zcluster_failback": "db2"}).lost == ""
    found = persisting.variables_of([inventory])
    assert [found[host]["zcluster_failback"] for host in ("lb1", "db1")] == ["disabled", "db2"]


def test_list_is_replaced_whole_and_its_neighbours_stay(inventory: Path) -> None:
    vips = ["192.0.2.100/24", {"address": "192.0.2.9/24", "interface": "eth0"}]
    assert persisting.persist([inventory], "web", {"zcluster_vips": vips}).lost == ""
    found = persisting.variables_of([inventory])["lb2"]
    assert (found["zcluster_vips"], found["zcluster_check_interval"]) == (vips, 0.1)


def test_setting_that_is_nowhere_yet_comes_after_the_clusters_name(inventory: Path) -> None:
    assert persisting.persist([inventory], "web", {"zcluster_preempt_delay": 30.0}).lost == ""
    lines = (inventory / "hosts.yml").read_text().splitlines()
    place = lines.index("        zcluster_name: web")
    assert lines[place + 1] == "        zcluster_preempt_delay: 30.0"


def test_inventory_that_cannot_be_written_stays_and_the_lines_are_said(tmp_path: Path) -> None:
    path = tmp_path / "hosts.ini"
    path.write_text("[web]\nlb1\nlb2\n[web:vars]\nzcluster_name=web\n")
    said = persisting.persist([path], "web", {"zcluster_failback": "lb1"}).lost
    assert 'zcluster_failback: "lb1"' in said
    assert path.read_text() == "[web]\nlb1\nlb2\n[web:vars]\nzcluster_name=web\n"


def test_value_that_is_there_already_is_left_alone(inventory: Path) -> None:
    before = (inventory / "hosts.yml").stat()
    assert persisting.persist([inventory], "web", {"zcluster_failback": "disabled"}).lost == ""
    assert (inventory / "hosts.yml").stat().st_ino == before.st_ino


def test_trying_leaves_the_users_files_alone(
    inventory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first line that is tried is the other cluster's; a kill then must not leave it there."""
    seen: list[str] = []
    real = persisting.variables_of

    def watched(paths: Any) -> persisting.Variables:
        seen.append((inventory / "hosts.yml").read_text())
        return real(paths)

    monkeypatch.setattr(persisting, "variables_of", watched)
    assert persisting.persist([inventory], "db", {"zcluster_failback": "db2"}).lost == ""
    assert len(seen) > 2
    assert set(seen) == {HOSTS}


def test_inventory_without_write_permission_is_said_not_a_fault(
    inventory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "hosts.yml")

    monkeypatch.setattr(persisting, "replace", refused)
    said = persisting.persist([inventory], "web", {"zcluster_failback": "lb1"}).lost
    assert "Permission denied: 'hosts.yml'" in said
    assert 'zcluster_failback: "lb1"' in said


def test_file_is_tried_with_what_stands_beside_it(inventory: Path) -> None:
    (inventory / "group_vars").mkdir()
    (inventory / "group_vars/cluster_web.yml").write_text("zcluster_preempt_delay: 3.0\n")
    file = inventory / "hosts.yml"
    assert persisting.persist([file], "web", {"zcluster_failback": "lb1"}).lost == ""
    found = persisting.variables_of([file])["lb1"]
    assert (found["zcluster_failback"], found["zcluster_preempt_delay"]) == ("lb1", 3.0)
    # in a directory, files in directories of it are candidates, too
    assert persisting.persist([inventory], "web", {"zcluster_preempt_delay": 4.0}).lost == ""
    written = (inventory / "group_vars/cluster_web.yml").read_text()
    assert written == "zcluster_preempt_delay: 4.0\n"
    assert sorted(path.name for path in inventory.iterdir()) == ["group_vars", "hosts.yml"]


def test_files_are_written_all_or_none(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yml", tmp_path / "b.yml"
    first.write_text("a")
    second.write_text("b")
    with pytest.raises(TypeError):
        persisting.replace_all({first: b"new", second: "no bytes"})  # type: ignore[dict-item]
    assert (first.read_text(), second.read_text()) == ("a", "b")
    assert [path.name for path in tmp_path.iterdir() if "b.yml" in path.name] == ["b.yml"]


def test_check_says_what_would_be_written_and_writes_nothing(inventory: Path) -> None:
    wanted = {"zcluster_failback": "lb1", "zcluster_preempt_delay": 30.0}
    said = persisting.persist([inventory], "web", wanted, check=True)
    assert (inventory / "hosts.yml").read_text() == HOSTS
    assert [line for line in said.diff.splitlines() if line[0] in "+-"] == [
        f"--- before: {inventory}/hosts.yml",
        f"+++ after: {inventory}/hosts.yml",
        "+        zcluster_preempt_delay: 30.0",
        "-        zcluster_failback: disabled  # for now",
        '+        zcluster_failback: "lb1"  # for now',
    ]
    assert persisting.persist([inventory], "web", wanted) == said
    assert persisting.persist([inventory], "web", wanted, check=True) == ("", "")


NEW = {"ansible_host": "192.0.2.99", "zcluster_ip": "198.51.100.99"}


def test_variables_of_one_host_are_written_for_it_alone(inventory: Path) -> None:
    before = persisting.variables_of([inventory])
    said = persisting.persist([inventory], "web", NEW, "lb2")
    assert said.lost == ""
    assert [line for line in said.diff.splitlines()[2:] if line[0] in "+-"] == [
        "-        lb2: {zcluster_ip: 198.18.30.12}",
        '+        lb2: {"zcluster_ip": "198.51.100.99", "ansible_host": "192.0.2.99"}',
    ]
    assert persisting.variables_of([inventory]) == {**before, "lb2": {**before["lb2"], **NEW}}
    assert persisting.persist([inventory], "web", NEW, "lb2") == ("", "")


def test_who_must_write_for_a_host_is_told_what(tmp_path: Path) -> None:
    path = tmp_path / "hosts.ini"
    path.write_text("[web]\nlb1\nlb2 zcluster_ip=198.51.100.12\n")
    said = persisting.persist([path], "web", NEW, "lb2")
    assert 'please write there, for lb2\n  ansible_host: "192.0.2.99"' in said.lost
    assert said.diff == ""
