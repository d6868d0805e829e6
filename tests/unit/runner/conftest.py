# SPDX-License-Identifier: GPL-3.0-or-later
"""A home of its own for each test, and toy playbooks that run on this machine for real."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from zcluster_runner.execution import RunSpec

INVENTORY = """\
---
all:
  children:
    some_group:
      vars:
        zcluster_name: web
        ansible_connection: local
        ansible_python_interpreter: "{{ ansible_playbook_python }}"
      hosts:
        lb1: {zcluster_ip: 198.18.30.11}
        lb2: {zcluster_ip: 198.18.30.12}
"""

PLAY = """\
---
- name: Toy
  hosts: "{{ zcluster_hosts | default('all') }}"
  gather_facts: false
  tasks:
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HOME, state, configuration, runtime directory and working directory nobody else uses."""
    place = tmp_path / "home"
    for name in ("state", "config", "runtime", "work"):
        (place / name).mkdir(parents=True, mode=0o700)
    for variable in list(os.environ):
        if variable.startswith(("ANSIBLE_", "ZCLUSTER_")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "runtime"))
    monkeypatch.chdir(place / "work")
    return place


@pytest.fixture
def inventory(home: Path) -> Path:
    """Two hosts of one cluster, both this machine."""
    path = home / "inventory.yml"
    path.write_text(INVENTORY, encoding="utf-8")
    return path


Toy = Callable[..., RunSpec]


@pytest.fixture
def toy(home: Path, inventory: Path) -> Toy:
    """Make the spec of a run with these tasks (a YAML list, indented by four)."""

    def make(tasks: str, **more: object) -> RunSpec:
        path = home / "toy.yml"
        path.write_text(PLAY + tasks, encoding="utf-8")
        given: dict[str, object] = {"verb": "toy", "playbook": str(path), "inventory": (inventory,)}
        return RunSpec(**(given | more))  # type: ignore[arg-type]

    return make


@pytest.fixture
def collection(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a toy in the place of a playbook of zcluster.ha: the API and the command then run it."""
    place = home / "collections/ansible_collections/zcluster/ha"
    (place / "playbooks").mkdir(parents=True)
    (place / "galaxy.yml").write_text("namespace: zcluster\nname: ha\nversion: 0.0.1\n")
    monkeypatch.setenv("ANSIBLE_COLLECTIONS_PATH", str(home / "collections"))

    def put(name: str, tasks: str) -> None:
        (place / "playbooks" / f"{name}.yml").write_text(PLAY + tasks, encoding="utf-8")

    return put
