# SPDX-License-Identifier: GPL-3.0-or-later
"""The kept log: for its owner only, without secrets and colours, the last twenty."""

from __future__ import annotations

import stat
from pathlib import Path

from zcluster_runner.runlog import KEPT, KEPT_OF_LOOKS, RunLog, log_directory
from zcluster_runner.secret import Redactor, Secret


def environment(tmp_path: Path) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(tmp_path)}


def test_it_is_for_its_owner_only(tmp_path: Path) -> None:
    with RunLog("lab up", Redactor(), environment(tmp_path)) as log:
        log.write("a line")
    assert log.path is not None
    assert "lab-up" in log.path.name
    assert log.path.read_text() == "a line\n"
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.path.parent.stat().st_mode) == 0o700


def test_secrets_and_colours_do_not_get_in(tmp_path: Path) -> None:
    with RunLog("x", Redactor([Secret("canary-123")]), environment(tmp_path)) as log:
        log.write("\x1b[0;31mwith canary-123 in it\x1b[0m")
    assert log.path is not None
    assert log.path.read_text() == "with ******** in it\n"


def test_runs_in_the_same_second_have_a_log_each(tmp_path: Path) -> None:
    logs = [RunLog("x", Redactor(), environment(tmp_path)) for _ in range(3)]
    assert len({log.path for log in logs}) == 3
    for log in logs:
        with log:
            pass


def test_the_last_twenty_stay_and_those_being_written(tmp_path: Path) -> None:
    directory = log_directory(environment(tmp_path))
    directory.mkdir(parents=True)
    with RunLog("first", Redactor(), environment(tmp_path)) as live:
        assert live.path is not None
        oldest = directory / "20000101T000000-old-1.log"
        live.path = live.path.rename(oldest)  # the oldest of all, but alive
        for number in range(KEPT + 5):
            (directory / f"20010101T0000{number:02}-x-1.log").touch()
        with RunLog("last", Redactor(), environment(tmp_path)) as last:
            pass
        names = {path.name for path in directory.iterdir()}
        assert oldest.name in names
        assert last.path is not None
        assert last.path.name in names
        assert len(names) == KEPT + 1
        assert "20010101T000000-x-1.log" not in names


def test_looks_do_not_wipe_out_what_a_failed_create_had_to_say(tmp_path: Path) -> None:
    directory = log_directory(environment(tmp_path))
    directory.mkdir(parents=True)
    (directory / "20010101T000000-create-7.log").touch()
    for number in range(KEPT + 5):
        (directory / f"20010102T0000{number:02}-sync-status-{number}-2.log").touch()
    with RunLog("nodes", Redactor(), environment(tmp_path)):
        pass
    names = sorted(path.name for path in directory.iterdir())
    assert names[0] == "20010101T000000-create-7.log"
    assert len(names) == 1 + KEPT_OF_LOOKS


def test_a_place_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "zcluster").write_text("not a directory")
    with RunLog("x", Redactor(), environment(tmp_path)) as log:
        log.write("a line")
    assert log.path is None
