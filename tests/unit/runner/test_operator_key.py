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
      changed_when: "'key added' in operator_trust_given.stdout"
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
