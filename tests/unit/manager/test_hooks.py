# SPDX-License-Identifier: GPL-3.0-or-later
# Hooks: told what changed, told again when they failed, never in the way for longer than allowed.
from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from zclustermanager import hooks
from zclustermanager.hooks import Hooks, Told, calls


def put(directory: Path, name: str, script: str, mode: int = 0o755) -> Path:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(mode)
    return path


@pytest.fixture
def nest(tmp_path: Path) -> tuple[Hooks, Path, list[dict[str, Any]]]:
    """Hooks with one that writes down what it was told; and what was recorded."""
    directory = tmp_path / "hooks.d"
    directory.mkdir()
    told = tmp_path / "told"
    put(
        directory,
        "note",
        f'echo "$ZCLUSTER_EVENT $ZCLUSTER_FROM$ZCLUSTER_CONDITION $ZCLUSTER_TO" >> {told}',
    )
    recorded: list[dict[str, Any]] = []
    return Hooks(directory, tmp_path / "hooks.json"), told, recorded


def tell(
    nest: tuple[Hooks, Path, list[dict[str, Any]]], role: str, wrong: dict[str, str]
) -> list[str]:
    """Tell the hooks how things are; what was written down so far."""
    subject, told, recorded = nest
    subject.tell(
        role, wrong, {}, lambda name, **details: recorded.append({"event": name, **details})
    )
    return told.read_text(encoding="utf-8").splitlines() if told.exists() else []


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="hooks are root's own files")


@needs_root
def test_transition_raise_and_clear_are_told_once_each(nest) -> None:  # type: ignore[no-untyped-def]
    assert tell(nest, "backup", {}) == []
    told = tell(nest, "master", {"peer unreachable": "n1 is unreachable"})
    assert told == ["transition backup master", "raise peer unreachable "]
    assert tell(nest, "master", {"peer unreachable": "n1 is unreachable"}) == told
    assert tell(nest, "master", {})[2:] == ["clear peer unreachable "]


@needs_root
def test_restart_of_the_daemon_repeats_nothing_and_forgets_nothing(nest) -> None:  # type: ignore[no-untyped-def]
    tell(nest, "backup", {})
    tell(nest, "backup", {"sync": "diverged"})
    again = (Hooks(nest[0].directory, nest[0].kept), nest[1], nest[2])
    assert tell(again, "backup", {"sync": "diverged"}) == ["raise sync "]
    assert tell(again, "backup", {}) == ["raise sync ", "clear sync "]


@needs_root
def test_hook_that_failed_is_called_again_later_and_recorded_once(nest, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    subject, _, recorded = nest
    calls_file = tmp_path / "calls"
    put(subject.directory, "broken", f"echo x >> {calls_file}; echo no route; exit 3")
    tell(nest, "backup", {})
    tell(nest, "master", {})
    assert recorded == [{"event": "hook-failed", "hook": "broken", "why": "exit code 3: no route"}]
    tell(nest, "master", {})
    assert calls_file.read_text() == "x\n"
    subject._not_before.clear()
    tell(nest, "master", {})
    assert calls_file.read_text() == "x\nx\n"
    assert len(recorded) == 1
    assert subject.told["broken"].role == "backup"


def test_hook_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = put(tmp_path, "slow", f"(sleep 3; touch {mark}) & sleep 60")
    began = time.monotonic()
    assert "killed" in hooks.run(path, {}, limit=0.3)
    assert time.monotonic() - began < 30
    time.sleep(3.5)
    assert not mark.exists()


@needs_root
def test_only_roots_own_programs_are_hooks(tmp_path: Path) -> None:
    put(tmp_path, "good", "")
    put(tmp_path, "mail.sh", "")
    put(tmp_path, "not-executable", "", mode=0o644)
    put(tmp_path, "writable-by-others", "", mode=0o757)
    put(tmp_path, "old.dpkg-old", "")
    put(tmp_path, "editor~", "")
    os.chown(put(tmp_path, "users", ""), 1000, 1000)
    assert hooks.find(tmp_path) == ["good", "mail.sh"]
    assert hooks.find(tmp_path / "missing") == []


def test_condition_that_changes_its_words_is_not_raised_again() -> None:
    told = {"h": Told("master", {"sync": "failed: a"})}
    assert calls(["h"], told, "master", {"sync": "failed: b"}) == []


def test_conditions_are_the_failed_checks_and_a_peer_that_is_away() -> None:
    answer = {
        "checks": [
            {"name": "keepalived", "ok": True, "detail": ""},
            {"name": "sync", "ok": False, "detail": "synchronization failed: disk full"},
            {"name": "conntrackd", "ok": False, "detail": ""},
        ],
        "peer": {"hostname": "n2", "reachable": False},
    }
    assert hooks.conditions(answer) == {
        "sync": "synchronization failed: disk full",
        "conntrackd": "conntrackd failed",
        "peer unreachable": "n2 is unreachable",
    }
