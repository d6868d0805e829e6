# SPDX-License-Identifier: GPL-3.0-or-later
# The lease: one action at a time, and a dead one blocks nobody for ever.
from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from multiprocessing import get_context
from pathlib import Path

import pytest
from ansible_collections.zcluster.ha.plugins.module_utils import _lease, _run_identity
from ansible_collections.zcluster.ha.plugins.modules import node_lease

ALICE = _lease.Lease("web", "update", "run-a", "alice@ops", 100.0, 150.0, 450.0)
BOB = _lease.Lease("web", "unset", "run-b", "bob@ops", 200.0, 200.0, 500.0)


def test_second_action_is_told_who_holds_the_lease(tmp_path: Path) -> None:
    path = str(tmp_path / "lease")
    assert node_lease.take(path, ALICE, 150.0, "")[0] is None
    held, events = node_lease.take(path, BOB, 200.0, "")
    assert held == ALICE
    assert events == []
    assert _lease.refusal(held, 200.0) == (
        "alice@ops runs 'update' on cluster web since 100 s (last seen 50 s ago). "
        "Wait for it; if it has died, its lease ends by itself in 250 s"
    )


def test_lease_of_a_newer_version_is_not_taken_for_none(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    path.write_text(json.dumps({**dataclasses.asdict(ALICE), "colour": "blue"}))
    assert node_lease.take(str(path), BOB, 200.0, "")[0] == ALICE


ROUNDS = 200


def test_of_two_runs_that_begin_together_exactly_one_gets_both_nodes(tmp_path: Path) -> None:
    """In the fixed order: who does not get the first node does not ask the second."""
    paths = [str(tmp_path / "n1"), str(tmp_path / "n2")]
    context = get_context("fork")
    gate, won = context.Barrier(2), context.Queue()

    def one(run: str) -> None:
        mine = dataclasses.replace(ALICE, run=run)
        for number in range(ROUNDS):
            gate.wait(60)
            first = node_lease.take(paths[0], mine, 150.0, "")[0] is None
            second = first and node_lease.take(paths[1], mine, 150.0, "")[0] is None
            won.put((number, first, second))
            gate.wait(60)
            for path in paths if first else ():
                node_lease.release(path, run)

    runs = [context.Process(target=one, args=(run,)) for run in ("run-a", "run-b")]
    for run in runs:
        run.start()
    told = [won.get(timeout=60) for _ in range(2 * ROUNDS)]
    for run in runs:
        run.join(60)
    for number in range(ROUNDS):
        taken = [(first, second) for round_, first, second in told if round_ == number]
        assert sorted(taken) == [(False, False), (True, True)]


def test_own_lease_is_renewed_and_keeps_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    node_lease.take(str(path), ALICE, 150.0, "")
    later = _lease.Lease("web", "update", "run-a", "alice@ops", 300.0, 300.0, 600.0)
    assert node_lease.take(str(path), later, 300.0, "") == (None, [])
    told = json.loads(path.read_text())
    assert (told["taken"], told["renewed"], told["expires"]) == (100.0, 300.0, 600.0)


def test_expired_lease_is_taken_over() -> None:
    assert not _lease.granted(ALICE, "run-b", 449.0)
    assert _lease.granted(ALICE, "run-b", 450.0)


def test_lease_of_a_run_known_dead_is_taken_over_at_once() -> None:
    assert _lease.granted(ALICE, "run-b", 150.0, dead="run-a")
    assert not _lease.granted(ALICE, "run-b", 150.0, dead="run-c")


def test_living_run_of_the_same_controller_keeps_its_lease_however_long_it_takes() -> None:
    mine = dataclasses.replace(ALICE, run="ops/boot/pid:[1]#7#70")
    assert not _lease.granted(mine, "run-b", 9999.0, controller="ops/boot/pid:[1]")
    assert _lease.granted(mine, "run-b", 9999.0, dead=mine.run, controller="ops/boot/pid:[1]")
    # from elsewhere nobody knows whether it lives
    assert _lease.granted(mine, "run-b", 9999.0, controller="desk/boot/pid:[1]")
    assert not _lease.granted(mine, "run-b", 300.0, controller="desk/boot/pid:[1]")


def test_renewed_lease_keeps_its_verb_where_none_is_said() -> None:
    assert _lease.renewed(ALICE, dataclasses.replace(ALICE, verb="")).verb == "update"


def test_only_the_holder_gives_the_lease_back(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    node_lease.take(str(path), ALICE, 150.0, "")
    assert node_lease.release(str(path), "run-b") is None
    assert path.exists()
    assert node_lease.release(str(path), "run-a") == ALICE
    assert not path.exists()


def test_history_is_told_how_the_run_ended_whose_lease_is_taken_over() -> None:
    ended, begun = _lease.events_of_taking(ALICE, BOB)
    assert (ended.lease, ended.state) == (ALICE, "failed")
    assert ended.why == "its run ended before it was done"
    assert begun == _lease.Event(BOB, "begun")


def test_user_who_became_root_is_still_the_one_who_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "alice")
    assert _run_identity.who().startswith("alice@")


def test_giving_back_what_nobody_holds_leaves_nothing(tmp_path: Path) -> None:
    node_lease.release(str(tmp_path / "lease"), "run-a")
    assert list(tmp_path.iterdir()) == []


def test_torn_lease_blocks_nobody(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    path.write_text('{"cluster": "web"')
    assert node_lease.take(str(path), BOB, 200.0, "") == (None, [_lease.Event(BOB, "begun")])


def test_run_of_this_controller_is_dead_once_its_process_has_ended() -> None:
    process = subprocess.Popen(["sleep", "60"])
    identity = _run_identity.run(process.pid)
    assert not _run_identity.is_dead(identity)
    process.kill()
    process.wait()
    assert _run_identity.is_dead(identity)


def test_run_of_another_controller_is_not_known_to_be_dead() -> None:
    assert not _run_identity.is_dead("other/boot/pid:[1]#1#1")
    assert not _run_identity.is_dead("")
    assert not _run_identity.is_dead(_run_identity.run(os.getpid()))
