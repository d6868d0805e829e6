# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of actions is complete and true: playbooks are there, examples work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from zcluster_runner import actions, cli, reference
from zcluster_runner.actions import ACTIONS, Action, Goes, Kind
from zcluster_runner.builtin import BUILTIN
from zcluster_runner.render import SHOWS
from zcluster_runner.result import ExitCode

CHECKOUT = Path(__file__).parents[3]

every_action = pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.verb)


@every_action
def test_the_playbook_is_there_under_the_verbs_name(action: Action) -> None:
    if not action.playbook:
        assert action.verb in BUILTIN
        return
    assert action.playbook == f"zcluster.ha.{action.verb.replace(' ', '_')}"
    assert (CHECKOUT / "playbooks" / f"{action.playbook.rpartition('.')[2]}.yml").is_file()


@every_action
def test_the_examples_are_right(action: Action, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Action] = []

    def invoked(action: Action, options: dict[str, Any]) -> ExitCode:
        called.append(action)
        return ExitCode.GREEN

    monkeypatch.setattr(cli, "invoked", invoked)
    assert action.examples
    for example in action.examples:
        program, *words = shlex.split(re.sub(r"[|<].*", "", example))
        assert program == "zcluster"
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 0
    assert called == [action] * len(action.examples)


def test_the_labs_networks_are_those_of_its_role() -> None:
    role = yaml.safe_load((CHECKOUT / "roles/lab/defaults/main.yml").read_text())
    told = {
        f"lab_{name}{suffix}": default
        for name, _, *defaults in actions.LAB_NETWORKS
        for suffix, default in zip(("", "6"), defaults, strict=True)
    }
    assert told == {name: role[name] for name in told}


@every_action
def test_every_parameter_has_a_place_and_help(action: Action) -> None:
    assert action.shown in SHOWS
    for param in action.params:
        assert param.help
        assert bool(param.variable) == (param.goes in (Goes.VARIABLE, Goes.SETTING))
        if param.kind in (Kind.SECONDS, Kind.INTEGER):
            assert param.minimum is not None
            assert param.maximum is not None


@every_action
def test_the_reference_tells_all_of_a_verb(action: Action) -> None:
    """Whether docs/verbs.md is what it says now, ``make docs-check`` looks (part of make test)."""
    section = reference.section(action)
    assert f"## {action.verb}\n" in reference.text()
    for word in (action.summary, action.text, *action.examples):
        assert word in section
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) == len(action.params)
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)


def test_verbs_are_unique() -> None:
    assert len(set(actions.verbs())) == len(ACTIONS)


@pytest.mark.parametrize("verb", ["lab up", "lab_up"])
def test_a_verb_of_two_words_is_found(verb: str) -> None:
    action = actions.find(verb)
    assert action is not None
    assert action.words == ("lab", "up")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("nods", "nodes"), ("stauts", "status"), ("delete", "unset"), ("lab upp", "lab up")],
)
def test_a_wrong_verb_gets_the_right_one_suggested(typed: str, meant: str) -> None:
    assert actions.similar(typed) == meant


def test_nonsense_gets_no_suggestion() -> None:
    assert actions.similar("xyzzy") is None
