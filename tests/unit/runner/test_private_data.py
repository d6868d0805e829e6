# SPDX-License-Identifier: GPL-3.0-or-later
"""Private directories: nobody else's, never used twice, never left behind."""

from __future__ import annotations

import stat
import subprocess
import sys
import uuid
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from zcluster_runner.private_data import prepared, private_data


def private(tmp_path: Path) -> AbstractContextManager[Path]:
    return private_data(str(uuid.uuid4()), here(tmp_path))


def here(tmp_path: Path) -> dict[str, str]:
    return {"XDG_RUNTIME_DIR": str(tmp_path)}


def test_it_is_private_fresh_and_removed(tmp_path: Path) -> None:
    with (
        private_data(str(uuid.uuid4()), here(tmp_path)) as one,
        private_data(str(uuid.uuid4()), here(tmp_path)) as two,
    ):
        assert one != two
        assert stat.S_IMODE(one.stat().st_mode) == 0o700
        (one / "deep").mkdir()
        (one / "deep/file").write_text("x")
    assert not one.exists()
    assert not two.exists()


def test_it_is_removed_after_an_error(tmp_path: Path) -> None:
    try:
        with private(tmp_path) as path:
            raise RuntimeError
    except RuntimeError:
        pass
    assert not path.exists()


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    with private(tmp_path) as path:
        parent = path.parent
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    abandoned = parent / f"run-{gone.pid}-{uuid.uuid4()}"
    abandoned.mkdir()
    with private(tmp_path) as alive, private(tmp_path):
        assert not abandoned.exists()
        assert alive.exists()


def test_a_run_in_a_container_that_shares_the_place_is_not_taken_for_dead(tmp_path: Path) -> None:
    """There its process has another number, or none that can be seen."""
    with private(tmp_path) as path:
        unknown = path.rename(path.parent / f"run-{2**22 + 1}-{uuid.uuid4()}")
        with private(tmp_path):
            assert unknown.exists()
        unknown.rename(path)


def test_a_place_others_can_look_into_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / "zcluster", tmp_path / "other"]  # those of this machine may be in use
    monkeypatch.setattr("zcluster_runner.private_data.runtime_directories", lambda _: iter(places))
    (tmp_path / "zcluster").mkdir(mode=0o755)
    (tmp_path / "zcluster").chmod(0o755)
    assert not prepared(tmp_path / "zcluster")
    with private(tmp_path) as path:
        assert path.parent == tmp_path / "other"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "trap").mkdir()
    (tmp_path / "zcluster").symlink_to(tmp_path / "trap")
    assert not prepared(tmp_path / "zcluster")
