# SPDX-License-Identifier: GPL-3.0-or-later
# What passes overwrite is kept, within limits, and what exists nowhere else goes last.
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from zclustermanager.settings import Keep
from zclustermanager.sync import store as stores
from zclustermanager.sync import tree
from zclustermanager.sync.disk import DiskError, LocalDisk
from zclustermanager.sync.store import DRIFT, LATE, REPLACED, Store, beyond
from zclustermanager.sync.tree import Scanner


@pytest.fixture
def disk(tmp_path: Path) -> LocalDisk:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").write_text("12345")
    store = Store(tmp_path / "state", tmp_path / "run", Keep(count=3, bytes=100))
    store.ensure()
    return LocalDisk(store, Scanner([str(root)], []))


def keep(disk: LocalDisk, kind: str) -> str:
    version = disk.version(kind)
    entries = {p: e for p, e in disk.scan().items() if e.kind == "file"}
    for entry in entries.values():
        disk.keep(version, entry)
    disk.record(version, entries, [])
    return version


def test_busy_writer_never_evicts_what_exists_nowhere_else(disk: LocalDisk) -> None:
    edited = keep(disk, DRIFT)
    passes = [keep(disk, REPLACED) for _ in range(10)]
    disk.store.retire()
    assert list(disk.store.records()) == [edited, *passes[-3:]]


def test_newest_is_kept_whatever_the_clock_says(
    disk: LocalDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        stores, "time", SimpleNamespace(strftime=lambda *_: "20991231T000000", gmtime=lambda: None)
    )
    ahead = [keep(disk, REPLACED) for _ in range(3)]
    monkeypatch.undo()
    newest = keep(disk, REPLACED)
    disk.store.retire()
    assert list(disk.store.records()) == [*ahead[1:], newest]


def test_limits_are_of_count_and_of_size() -> None:
    def kept(*sizes: int) -> dict[str, Any]:
        return {f"{n:08d}-x-{REPLACED}": {"bytes": size} for n, size in enumerate(sizes)}

    assert beyond(kept(1, 1, 1), Keep(3, 100)) == []
    assert beyond(kept(1, 1, 1, 1), Keep(3, 100)) == [f"00000000-x-{REPLACED}"]
    assert beyond(kept(1, 60, 60), Keep(3, 100)) == [f"0000000{n}-x-{REPLACED}" for n in (1, 0)]
    assert beyond(kept(500), Keep(3, 100)) == []


def test_version_that_was_never_finished_is_no_version(disk: LocalDisk) -> None:
    version = disk.version(REPLACED)
    for entry in disk.scan().values():
        disk.keep(version, entry)
    assert disk.store.records() == {}
    disk.tidy()
    assert list(disk.store.versions.iterdir()) == []


def test_what_was_moved_into_a_version_that_was_never_finished_is_found(disk: LocalDisk) -> None:
    (path,) = [p for p, e in disk.scan().items() if e.kind == "file"]
    disk.take_away("0" * 32, path)
    disk.keep_beside(disk.version(LATE), "0" * 32, path)
    disk.tidy()
    ((name, record),) = disk.store.records().items()
    (entry,) = record["replaced"]
    assert (name.endswith(LATE), entry["path"], entry["size"]) == (True, path, 5)
    assert (disk.store.versions / name / path.lstrip("/")).read_text() == "12345"


def test_no_room_is_said_and_only_what_the_master_replaced_is_given_up(
    disk: LocalDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = keep(disk, DRIFT)
    keep(disk, REPLACED)
    full = SimpleNamespace(f_bavail=1, f_frsize=4096, f_files=10, f_favail=10)
    monkeypatch.setattr(stores.os, "statvfs", lambda _: full)
    with pytest.raises(DiskError, match=r"4101 bytes and 1 inodes are needed, 4096 and 10 are"):
        disk.make_room({"/r/a": tree.Entry("/r/a", "file", 0o644, "root", "root", size=5)})
    assert list(disk.store.records()) == [edited]


def test_what_somebody_put_among_the_versions_is_in_nobodys_way(disk: LocalDisk) -> None:
    (disk.store.versions / "a copy of mine").write_text("copied out")
    passes = [keep(disk, REPLACED) for _ in range(5)]
    disk.store.retire()
    disk.tidy()
    assert list(disk.store.records()) == passes[-3:]
    assert (disk.store.versions / "a copy of mine").read_text() == "copied out"
