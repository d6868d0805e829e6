# SPDX-License-Identifier: GPL-3.0-or-later
# How long a daemon that dies on each start is kept waiting, by the script that the nodes run.
from __future__ import annotations

import os
import subprocess
from pathlib import Path

import jinja2
import pytest

TEMPLATES = Path(__file__).parents[3] / "roles/keepalived/templates"


@pytest.fixture
def pace(tmp_path: Path) -> Path:
    """The script as it is shipped, below another directory; its `sleep` only says how long."""
    text = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES)).get_template("pace.j2")
    script = tmp_path / "pace"
    script.write_text(text.render(ansible_managed="").replace("/run/zcluster", str(tmp_path)))
    (tmp_path / "sleep").write_text('#!/bin/sh\necho "$1"\n')
    (tmp_path / "sleep").chmod(0o755)
    return script


def waits(pace: Path, daemon: str, result: str = "") -> int:
    """Seconds that a start of a daemon waits now."""
    environment = {"PATH": f"{pace.parent}:{os.environ['PATH']}"}
    if result:
        environment["SERVICE_RESULT"] = result
    done = subprocess.run(
        ["/bin/sh", str(pace), daemon],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return int(done.stdout or 0)


def test_restarts_back_off_to_one_in_ten_seconds(pace: Path) -> None:
    found = [waits(pace, "keepalived") for _ in range(15)]
    assert found == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10]


def test_each_daemon_has_a_pace_of_its_own(pace: Path) -> None:
    assert [waits(pace, "keepalived") for _ in range(4)][-1] == 1
    assert waits(pace, "conntrackd", "exit-code") == 0


def test_who_is_stopped_on_purpose_does_not_wait_and_does_not_count(pace: Path) -> None:
    assert [waits(pace, "conntrackd", "success") for _ in range(6)] == [0] * 6
    assert [waits(pace, "conntrackd", "signal") for _ in range(4)] == [0, 0, 0, 1]


def test_starts_of_more_than_a_minute_ago_are_forgotten(pace: Path) -> None:
    now = float(Path("/proc/uptime").read_text().split()[0])
    starts = pace.parent / "keepalived-starts"
    starts.write_text(" ".join(str(int(now) - 61) for _ in range(9)))
    assert waits(pace, "keepalived") == 0
    assert len(starts.read_text().split()) == 1
