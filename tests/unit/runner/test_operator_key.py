# SPDX-License-Identifier: GPL-3.0-or-later
"""The operator's key on a node: who gave it takes it back, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from zcluster_runner.execution import RunSpec, execute
from zcluster_runner.result import Outcome

Toy = Callable[..., RunSpec]

ROLE = Path(__file__).parents[3] / "roles/operator_trust"

GIVE = f"""\
    - name: Know the words
      ansible.builtin.include_vars: {ROLE}/vars/main.yml
    - name: Give
      ansible.builtin.raw: "{{{{ operator_trust_give }}}}"
      register: operator_trust_given
      changed_when: "'adding the key' in operator_trust_given.stdout"
"""
UNDO = f"""\
    - name: Undo
      ansible.builtin.include_role:
        name: {ROLE}
        tasks_from: undo
      when: operator_trust_given is changed
"""
TAKE = f"""\
    - name: Know the words
      ansible.builtin.include_vars: {ROLE}/vars/main.yml
    - name: Take
      ansible.builtin.raw: "set -eu; {{{{ operator_trust_take }}}}"
"""
# As on nodes that refuse the operator's own way in, each with files of its own.
DOOR = f"""\
    - name: Be refused
      ansible.builtin.set_fact:
        operator_trust_tried: {{unreachable: true, msg: Permission denied (publickey).}}
    - name: Open the door
      ansible.builtin.include_role:
        name: {ROLE}
        tasks_from: door
"""


@dataclass
class Node:
    """The files of a node, and a way to act on them as an operator."""

    toy: Toy
    home: Path

    @property
    def keys(self) -> Path:
        return self.home / "root/.ssh/authorized_keys"

    @property
    def record(self) -> Path:
        return self.home / "var/zcluster/operator_key"

    def act(self, tasks: str, operator: str) -> None:
        key = self.home / f"{operator}_key"
        key.with_suffix(".pub").write_text(f"ssh-ed25519 AAAA {operator}'s\n", encoding="utf-8")
        paths = {
            "operator_trust_key": str(key),
            "operator_trust_keys": str(self.keys),
            "operator_trust_record": str(self.record),
        }
        run = execute(self.toy(tasks, limit="lb1", variables=paths))
        assert run.outcome is Outcome.SUCCEEDED, run.failures


@pytest.fixture
def node(toy: Toy, home: Path) -> Node:
    (home / "root").mkdir()
    (home / "var").mkdir()
    return Node(toy, home)


def test_who_came_to_nothing_takes_back_their_own_key_only(node: Node) -> None:
    node.act(GIVE, "alice")
    node.act(GIVE + UNDO, "bob")
    assert node.keys.read_text() == node.record.read_text() == "ssh-ed25519 AAAA alice's\n"
    assert node.keys.stat().st_mode & 0o777 == node.record.stat().st_mode & 0o777 == 0o600


def test_a_key_that_was_there_before_stays(node: Node) -> None:
    node.act(GIVE, "alice")
    node.act(GIVE + UNDO, "alice")
    assert node.keys.read_text() == "ssh-ed25519 AAAA alice's\n"


def test_nothing_is_left_where_there_was_nothing(node: Node) -> None:
    node.act(GIVE + UNDO, "alice")
    assert list((node.home / "root").iterdir()) == list((node.home / "var").iterdir()) == []


def test_unset_takes_all_that_were_added_and_leaves_the_others(node: Node) -> None:
    node.keys.parent.mkdir()
    node.keys.write_text("ssh-ed25519 AAAA before")  # no newline at its end
    node.act(GIVE, "alice")
    node.act(GIVE, "bob")
    node.act(TAKE, "bob")
    assert node.keys.read_text() == "ssh-ed25519 AAAA before\n"
    assert not node.record.parent.exists()


@dataclass
class Pair:
    """Two nodes that are given the key of one operator, each with a directory of its own."""

    toy: Toy
    home: Path

    def path(self, node: str, what: str) -> Path:
        place = {"keys": "root/.ssh/authorized_keys", "record": "var/zcluster/operator_key"}[what]
        return self.home / node / place

    def open_door(self) -> dict[str, str]:
        """What each node fails with."""
        key = self.home / "key"
        key.with_suffix(".pub").write_text("ssh-ed25519 AAAA mine\n", encoding="utf-8")
        variables = {
            "operator_trust_key": str(key),
            "operator_trust_keys": str(self.path("{{ inventory_hostname }}", "keys")),
            "operator_trust_record": str(self.path("{{ inventory_hostname }}", "record")),
            "zcluster_root_password": "none is needed here",
        }
        run = execute(self.toy(DOOR, variables=variables))
        return {failure.host: failure.message for failure in run.failures}

    def left(self, node: str) -> set[str]:
        """Every file below the directory of a node."""
        top = self.home / node
        return {str(p.relative_to(top)) for p in top.rglob("*") if p.is_file()}


@pytest.fixture
def pair(toy: Toy, home: Path) -> Pair:
    for node in ("lb1", "lb2"):
        (home / node / "root").mkdir(parents=True)
        (home / node / "var").mkdir()
    return Pair(toy, home)


def test_both_nodes_are_given_the_key(pair: Pair) -> None:
    assert pair.open_door() == {}
    for node in ("lb1", "lb2"):
        assert pair.path(node, "keys").read_text() == "ssh-ed25519 AAAA mine\n"


def test_key_that_one_node_cannot_be_given_is_left_on_neither(pair: Pair) -> None:
    # It fails half-way: the record is written, the key is not.
    pair.path("lb2", "keys").mkdir(parents=True)
    failed = pair.open_door()
    assert failed.keys() == {"lb2"}
    assert "lb2 could not be given your key" in failed["lb2"]
    assert "; it is taken back. (" in failed["lb2"]
    assert pair.left("lb1") == pair.left("lb2") == set()


def test_key_that_was_there_before_stays_where_it_could_not_be_given(pair: Pair) -> None:
    keys = pair.path("lb2", "keys")
    keys.parent.mkdir()
    keys.write_text("ssh-ed25519 AAAA mine\n")
    pair.path("lb2", "record").parent.write_text("no directory")
    failed = pair.open_door()
    assert "taken back" not in failed["lb2"]
    assert keys.read_text() == "ssh-ed25519 AAAA mine\n"
    assert pair.left("lb1") == set()


def test_what_is_not_there_is_taken_back_without_writing(node: Node) -> None:
    """On a full disk, which is why it is not there, no file can be written anew."""
    node.keys.parent.mkdir()
    node.keys.write_text("ssh-ed25519 AAAA before")  # no newline, which a copy would have
    node.record.parent.mkdir()
    node.record.write_text("ssh-ed25519 AAAA alice's\n")
    node.act(TAKE, "alice")
    assert node.keys.read_text() == "ssh-ed25519 AAAA before"
    assert not node.record.exists()
